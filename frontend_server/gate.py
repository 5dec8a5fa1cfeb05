"""Caps on connections and on handshakes in progress, each in all and per address. Who is above is told to come back.

When to come back is an *appointment*: of those that all want in at once, after a power failure, each is sent to the
next place free in a row of `log_ins_per_second`, so that they return spread over what the front-end can take, in the
order in which they came, and not as one wave after the other. Nothing is reserved: whoever comes is let in if there is
room. An address above its own caps waits the least and moves nobody else's appointment.
"""

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
        self._next_appointment_ms = 0.0
        """Monotonic: the first place in the row that nobody was sent to."""

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

    def retry_after_s(self, host: str, now_ms: int) -> int:
        """What one that `enter` has turned away is told."""
        settings, metrics = self._settings, self._metrics
        soonest_ms = now_ms + settings.busy_retry_after_s * 1000
        if metrics.connections_now < settings.connections_max and metrics.handshakes_now < settings.handshakes_max:
            return settings.busy_retry_after_s  # its own address is above a cap
        latest_ms = now_ms + settings.busy_retry_after_s_max * 1000
        at_ms = max(self._next_appointment_ms, float(soonest_ms))
        if at_ms >= latest_ms:
            return settings.busy_retry_after_s_max
        self._next_appointment_ms = at_ms + 1000 / settings.log_ins_per_second
        return min(-(-int(at_ms - now_ms) // 1000), settings.busy_retry_after_s_max)

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
