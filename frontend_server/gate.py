"""Caps on connections: in all, per address, and of handshakes in progress. Who is above is told to come back."""

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

    def enter(self, host: str) -> bool:
        """Whether there is room for one more connection, which is then in its handshake."""
        settings, metrics = self._settings, self._metrics
        of_host = self._by_host.get(host, 0)
        if (
            metrics.connections_now >= settings.connections_max
            or metrics.handshakes_now >= settings.handshakes_max
            or of_host >= settings.connections_per_address_max
        ):
            metrics.connections_refused_busy += 1
            return False
        self._by_host[host] = of_host + 1
        metrics.connections_accepted += 1
        metrics.connections_now += 1
        metrics.handshakes_now += 1
        return True

    def established(self) -> None:
        """One of those inside has logged in."""
        self._metrics.handshakes_now -= 1

    def leave(self, host: str, *, in_handshake: bool) -> None:
        """One of those inside has gone."""
        self._metrics.connections_now -= 1
        if in_handshake:
            self._metrics.handshakes_now -= 1
        left = self._by_host[host] - 1
        if left:
            self._by_host[host] = left
        else:
            del self._by_host[host]
