"""A network that can be cut: it wraps the real one, and the terminals cannot tell (the `Network` port).

    cut()       open connections are reset, new ones refused at once
    swallow()   open connections go on existing and nothing passes, new ones time out
    restore()   new connections pass again

A swallowed connection has a hole: it stays silent after the network is back, until one side gives it up.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from protocol.ports import Clock, Listener, Network, Stream, StreamHandler

CONNECT_TIMEOUT_MS: Final = 5_000  # a SYN that nobody answers


class NetworkState(Enum):
    UP = "up"
    CUT = "cut"
    SWALLOWING = "swallowing"


class FaultyNetwork:
    """A `Network` for one fleet; `state` is for people, `cut`, `swallow` and `restore` for the fault schedule."""

    def __init__(self, inner: Network, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self.state = NetworkState.UP
        self._cables: dict[_Cable, None] = {}  # in the order they came about: a run must replay

    def cut(self) -> None:
        self.state = NetworkState.CUT
        for cable in list(self._cables):
            cable.abort()

    def swallow(self) -> None:
        self.state = NetworkState.SWALLOWING
        for cable in self._cables:
            cable.swallows = True

    def restore(self) -> None:
        self.state = NetworkState.UP

    # -- Network

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        return self._inner.listen(address, accept)

    def connect(self, address: str, handler: StreamHandler) -> None:
        if self.state is NetworkState.UP:
            self._inner.connect(address, _Cable(self, handler))
            return
        is_cut = self.state is NetworkState.CUT
        error = ConnectionRefusedError("the network is cut") if is_cut else TimeoutError("nobody answers")
        delay_ms = 1 if is_cut else CONNECT_TIMEOUT_MS
        self._clock.call_at(self._clock.monotonic_ms() + delay_ms, lambda: handler.closed(error))

    # -- for the cables

    def plugged(self, cable: _Cable) -> None:
        """A connection came about; the network may have gone since it was asked for."""
        self._cables[cable] = None
        if self.state is NetworkState.CUT:
            cable.abort()
        elif self.state is NetworkState.SWALLOWING:
            cable.swallows = True

    def unplugged(self, cable: _Cable) -> None:
        self._cables.pop(cable, None)


class _Cable:
    """One connection: `StreamHandler` to the real network, `Stream` to the terminal."""

    __slots__ = ("_handler", "_network", "_stream", "swallows")

    def __init__(self, network: FaultyNetwork, handler: StreamHandler) -> None:
        self._network = network
        self._handler = handler
        self._stream: Stream | None = None
        self.swallows = False

    # -- StreamHandler

    def connected(self, stream: Stream) -> None:
        self._stream = stream
        self._network.plugged(self)
        self._handler.connected(self)

    def received(self, data: bytes) -> None:
        if not self.swallows:
            self._handler.received(data)

    def drained(self) -> None:
        self._handler.drained()

    def closed(self, error: Exception | None) -> None:
        self._network.unplugged(self)
        self._handler.closed(error)

    # -- Stream

    def write(self, data: bytes) -> None:
        if not self.swallows and self._stream is not None:
            self._stream.write(data)

    def write_buffer_bytes(self) -> int:
        return 0 if self._stream is None else self._stream.write_buffer_bytes()

    def pause_reading(self) -> None:
        if self._stream is not None:
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        if self._stream is not None:
            self._stream.resume_reading()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def abort(self) -> None:
        if self._stream is not None:
            self._stream.abort()

    def peer(self) -> str:
        return "" if self._stream is None else self._stream.peer()
