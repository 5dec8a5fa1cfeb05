"""Caps on connections and on handshakes in progress, each in all and per address. Who is above is told to come back."""

from __future__ import annotations

from frontend_server.metrics import Metrics
from frontend_server.settings import FrontendSettings


def host_of(address: str) -> str:
    """The host of `host:port`."""
    return address.rpartition(":")[0] or address


class Gate:
    """Counts who is inside; every `enter` that succeeded is followed by one `leave`."""

    def __init__(self, settings: FrontendSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._by_host: dict[str, int] = {}
        self._handshakes_by_host: dict[str, int] = {}

    @property
    def addresses(self) -> int:
        """Hosts that have a connection."""
        return len(self._by_host)

    @property
    def addresses_in_handshake(self) -> int:
        """Hosts that have one not logged in yet."""
        return len(self._handshakes_by_host)

    def enter(self, host: str) -> bool:
        """Whether there is room for one more connection, which is then in its handshake."""
        settings, metrics = self._settings, self._metrics
        of_host, shaking = self._by_host.get(host, 0), self._handshakes_by_host.get(host, 0)
        if (
            metrics.connections_now >= settings.connections_max
            or metrics.handshakes_now >= settings.handshakes_max
            or of_host >= settings.connections_per_address_max
            or shaking >= settings.handshakes_per_address_max
        ):
            metrics.connections_refused_busy += 1
            return False
        self._by_host[host] = of_host + 1
        self._handshakes_by_host[host] = shaking + 1
        metrics.connections_accepted += 1
        metrics.connections_now += 1
        metrics.handshakes_now += 1
        return True

    def established(self, host: str) -> None:
        """One of those inside has logged in."""
        self._metrics.handshakes_now -= 1
        _one_less(self._handshakes_by_host, host)

    def leave(self, host: str, *, in_handshake: bool) -> None:
        """One of those inside has gone."""
        self._metrics.connections_now -= 1
        if in_handshake:
            self.established(host)
        _one_less(self._by_host, host)


def _one_less(counts: dict[str, int], host: str) -> None:
    left = counts[host] - 1
    if left:
        counts[host] = left
    else:
        del counts[host]
