"""Virtual TCP: listeners and streams between the hosts of a `World`.

A reliable byte stream: bytes arrive in order, cut into other pieces than they were written in, with latency from the
seed. It fails as TCP fails: a link that is cut swallows bytes, and a stream with a hole delivers nothing after it in
that direction; a link that stalls delivers late; connections are reset or refused; a machine that has lost a
connection resets whoever writes into it; and once in a while a bit flips under a right checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from protocol.ports import StreamHandler

if TYPE_CHECKING:
    from tests.simulation.world import Host

KERNEL_BUFFER_BYTES: Final = 32 * 1024  # what the two kernels hold of a stream before its writer sees a queue
CHUNK_BYTES_MAX: Final = 1_448  # a segment; a read may also give a few bytes of one


class VirtualListener:
    def __init__(self, host: Host, address: str, accept: Callable[[], StreamHandler]) -> None:
        self.host = host
        self._address = address
        self.accept = accept
        self.closed = False

    def address(self) -> str:
        return self._address

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            del self.host.world.listeners[self._address]
            self.host.listeners.pop(self, None)


class VirtualStream:
    """One side of a stream; `other` is the far side."""

    def __init__(self, host: Host, handler: StreamHandler | None, *, peer: str) -> None:
        self.host = host
        self.handler = handler
        self._peer = peer
        self.other: VirtualStream | None = None
        self.dead = False
        self.opened = handler is None
        self._arrives_at = 0
        self._swallowed = False
        self._under_way_bytes = 0
        self._was_full = False
        self._paused = False
        self._waiting: list[bytes] = []
        host.streams[self] = None

    def arrives_not_before(self, time_ms: int) -> int:
        """What this side writes comes after that moment."""
        self._arrives_at = max(self._arrives_at, time_ms)
        return self._arrives_at

    def open(self) -> None:
        if not self.dead and self.handler is not None and not self.opened:
            self.opened = True
            self.handler.connected(self)
            self.deliver_waiting()

    # -- Stream

    def write(self, data: bytes) -> None:
        other = self.other
        if self.dead or not data or other is None:
            return
        world = self.host.world
        world.trace("write", self.host.name, other.host.name, hashlib.sha256(data).digest()[:8])
        reachable = world.reachable(self.host.name, other.host.name)
        if reachable and other.dead:  # its machine knows of no such connection (any more)
            delay_ms = 2 * world.delay_ms(self.host.name, other.host.name)
            world.after(delay_ms, lambda: self.reset(ConnectionResetError()), host=self.host)
            return
        if world.wiretap is not None:
            world.wiretap(self, bytes(data))
        if self._swallowed or not reachable:
            if not self._swallowed:
                world.count_fault("bytes_swallowed")
            self._swallowed = True  # a stream with a hole delivers nothing after it
            return
        arrives_at = world.time_ms + world.delay_ms(self.host.name, other.host.name)
        self._arrives_at = max(self._arrives_at, arrives_at)
        self._under_way_bytes += len(data)
        self._was_full |= self.write_buffer_bytes() > 0
        data = self._corrupted(bytes(data))
        world.at(self._arrives_at, lambda: other.arrive(data), host=other.host)
        if self._is_repeated():
            self._under_way_bytes += len(data)
            world.at(self._arrives_at, lambda: other.arrive(data), host=other.host)

    def _is_repeated(self) -> bool:
        world = self.host.world
        left = world.repeat_next.get(self.host.name)
        if left is None:
            return False
        if left > 0:
            world.repeat_next[self.host.name] = left - 1
            return False
        del world.repeat_next[self.host.name]
        world.count_fault("answered_twice")
        return True

    def _corrupted(self, data: bytes) -> bytes:
        world = self.host.world
        left = world.corrupt_next.get(self.host.name)
        if left is None:
            return data
        if left > 0:
            world.corrupt_next[self.host.name] = left - 1
            return data
        del world.corrupt_next[self.host.name]
        world.count_fault("bit_flip")
        at, bit = world.rng.randrange(len(data)), 1 << world.rng.randrange(8)
        return data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]

    def write_buffer_bytes(self) -> int:
        return max(0, self._under_way_bytes - KERNEL_BUFFER_BYTES)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self.host.world.after(0, self.deliver_waiting, host=self.host)

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def peer(self) -> str:
        return self._peer

    # -- inside

    def arrive(self, data: bytes) -> None:
        if not self.dead:
            if self.other is not None and self.other.dead:
                self.host.world.count_fault("late_bytes")
            self._waiting.append(data)
            self.deliver_waiting()

    def deliver_waiting(self) -> None:
        world = self.host.world
        while self._waiting and not self._paused and not self.dead and self.opened and self.handler is not None:
            data = self._waiting.pop(0)
            if world.chunked and len(data) > 1 and (len(data) > CHUNK_BYTES_MAX or not world.rng.randrange(8)):
                size = world.rng.randint(1, min(len(data) - 1, CHUNK_BYTES_MAX))
                self._waiting.insert(0, data[size:])
                data = data[:size]
            if self.other is not None:
                self.other.delivered(len(data))
            self.handler.received(data)

    def delivered(self, count: int) -> None:
        """The far side has read so much."""
        self._under_way_bytes -= count
        if self._was_full and self._under_way_bytes <= KERNEL_BUFFER_BYTES and not self.dead:
            self._was_full = False
            if self.handler is not None:
                self.host.world.after(0, self.handler.drained, host=self.host)

    def _end(self, error: Exception | None) -> None:
        if self.dead:
            return
        self.break_off(error)
        world, other = self.host.world, self.other
        if (
            other is not None
            and not other.dead
            and not self._swallowed
            and world.reachable(self.host.name, other.host.name)
        ):
            arrives = max(self._arrives_at, world.time_ms + world.latency_ms[1])
            world.at(arrives, lambda: other.reset(None), host=other.host)

    def break_off(self, error: Exception | None) -> None:
        """End this side; the handler is told soon."""
        self.dead = True
        self.host.streams.pop(self, None)
        if self.handler is not None:
            handler = self.handler
            self.host.world.after(0, lambda: handler.closed(error), host=self.host)

    def reset(self, error: Exception | None) -> None:
        """The far side has closed or gone."""
        if not self.dead:
            self.dead = True
            self.host.streams.pop(self, None)
            if self.handler is not None:
                self.handler.closed(error)

    def vanish(self) -> None:
        """This side's machine is gone; its kernel resets the peer when it can be reached."""
        self.dead = True
        other, world = self.other, self.host.world
        if other is not None and not other.dead and world.reachable(self.host.name, other.host.name):
            world.after(world.latency_ms[1], lambda: other.reset(ConnectionResetError()), host=other.host)
