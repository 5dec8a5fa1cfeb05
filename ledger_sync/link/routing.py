"""A `Network` that sends addresses of brokers one way and all others the usual way."""

from __future__ import annotations

from collections.abc import Callable

from ledger_sync.link.mqtt_topics import is_bus_address
from protocol.ports import Listener, Network, StreamHandler


class RoutedNetwork:
    """`Network` of a process whose link may go over a broker."""

    def __init__(self, usual: Network, broker: Network) -> None:
        self._usual = usual
        self._broker = broker

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        return self._of(address).listen(address, accept)

    def connect(self, address: str, handler: StreamHandler) -> None:
        self._of(address).connect(address, handler)

    def _of(self, address: str) -> Network:
        return self._broker if is_bus_address(address) else self._usual
