"""Virtual time, network, randomness, disk and executors behind the ports of `protocol/ports.py`.

A `World` is one event queue. A `Host` is one machine of it: everything a host asked for (timers, streams, work) dies when
the host crashes, and nothing of an earlier life reaches a later one. All order and all randomness come from the seed, so
two runs with one seed give the same trace, whose running hash is `World.trace_hash()`.

The network is a reliable byte stream, as TCP is, with latency from the seed. It fails as TCP fails: a link that is cut
swallows bytes, and a stream with a hole delivers nothing after it; connections are reset or refused.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from protocol.ports import Listener, StreamHandler, Timer

T = TypeVar("T")

EPOCH_MS: Final = 1_790_000_000_000  # an ordinary day of 2026; virtual UTC starts here
CONNECT_TIMEOUT_MS: Final = 5_000
EVENTS_MAX: Final = 20_000_000  # a run that needs more is a loop, not a site


class _Event:
    __slots__ = ("callback", "host", "life", "note")

    def __init__(self, callback: Callable[[], None], host: Host | None, note: str) -> None:
        self.callback: Callable[[], None] | None = callback
        self.host = host
        self.life = host.life if host else 0
        self.note = note

    def cancel(self) -> None:
        self.callback = None


class World:
    """The event queue, the seed, and the cables between hosts."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.time_ms = 0
        self._queue: list[tuple[int, int, _Event]] = []
        self._order = 0
        self._events = 0
        self._trace = hashlib.sha256()
        self.listeners: dict[str, _VirtualListener] = {}
        self.latency_ms = (1, 12)
        self.cut_hosts: set[str] = set()
        self.faults_fired: dict[str, int] = {}

    def at(self, time_ms: int, callback: Callable[[], None], *, host: Host | None = None, note: str = "") -> _Event:
        event = _Event(callback, host, note)
        self._order += 1
        heapq.heappush(self._queue, (max(time_ms, self.time_ms), self._order, event))
        return event

    def after(self, delay_ms: int, callback: Callable[[], None], *, host: Host | None = None, note: str = "") -> _Event:
        return self.at(self.time_ms + delay_ms, callback, host=host, note=note)

    def trace(self, *facts: object) -> None:
        """Add facts to the run's fingerprint."""
        self._trace.update(repr((self.time_ms, *facts)).encode())

    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    def count_fault(self, kind: str) -> None:
        self.faults_fired[kind] = self.faults_fired.get(kind, 0) + 1
        self.trace("fault", kind)

    def step(self) -> bool:
        """Run one event; False when nothing is left."""
        while self._queue:
            time_ms, _, event = heapq.heappop(self._queue)
            if event.callback is None or (event.host is not None and event.host.life != event.life):
                continue
            self.time_ms = time_ms
            self._events += 1
            if self._events > EVENTS_MAX:
                raise AssertionError(f"seed {self.seed}: more than {EVENTS_MAX} events")
            event.callback()
            return True
        return False

    def run_until(self, time_ms: int) -> None:
        while self._queue and self._queue[0][0] <= time_ms:
            self.step()
        self.time_ms = max(self.time_ms, time_ms)

    def run_while(self, condition: Callable[[], bool], *, limit_ms: int) -> bool:
        """Run until `condition` is false; returns False if the limit came first."""
        end = self.time_ms + limit_ms
        while condition():
            if not self._queue or self._queue[0][0] > end:
                return False
            self.step()
        return True

    def reachable(self, a: str, b: str) -> bool:
        return a == b or (a not in self.cut_hosts and b not in self.cut_hosts)


class Host:
    """One machine: its clock, network, randomness, files and executor are the ports given to shells."""

    def __init__(self, world: World, name: str, *, clock_offset_ms: int = 0, clock_drift_ppm: int = 0) -> None:
        self.world = world
        self.name = name
        self.life = 1
        self.clock_offset_ms = clock_offset_ms
        self.clock_drift_ppm = clock_drift_ppm
        self.rng = random.Random(f"{world.seed}:{name}")
        self.streams: set[_VirtualStream] = set()
        self.listeners: set[_VirtualListener] = set()
        self.work_ms = 2

    # -- Clock

    def now_ms(self) -> int:
        elapsed = self.world.time_ms
        return EPOCH_MS + elapsed + self.clock_offset_ms + elapsed * self.clock_drift_ppm // 1_000_000

    def monotonic_ms(self) -> int:
        return self.world.time_ms

    def call_at(self, monotonic_ms: int, callback: Callable[[], None]) -> Timer:
        return self.world.at(monotonic_ms, callback, host=self)

    # -- Random

    def random_bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    # -- Network

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        if address in self.world.listeners:
            raise OSError(f"{address} is taken")
        listener = _VirtualListener(self, address, accept)
        self.world.listeners[address] = listener
        self.listeners.add(listener)
        return listener

    def connect(self, address: str, handler: StreamHandler) -> None:
        world = self.world
        listener = world.listeners.get(address)
        low, high = world.latency_ms
        if listener is None:
            world.after(
                world.rng.randint(low, high), lambda: handler.closed(ConnectionRefusedError(address)), host=self
            )
            return
        if not world.reachable(self.name, listener.host.name):
            world.after(CONNECT_TIMEOUT_MS, lambda: handler.closed(TimeoutError(address)), host=self)
            return
        near = _VirtualStream(self, handler, peer=address)
        far = _VirtualStream(listener.host, None, peer=f"{self.name}:1")
        near.other, far.other = far, near
        world.trace("connect", self.name, address)

        def arrive() -> None:
            if listener.closed or far.dead:
                near.reset(ConnectionRefusedError(address))
                return
            far.handler = listener.accept()
            far.handler.connected(far)
            far.deliver_waiting()

        world.after(world.rng.randint(low, high), arrive, host=listener.host)
        world.after(2 * world.rng.randint(low, high), near.open, host=self)

    # -- Executor

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Runs inline after `work_ms`, in order; `done` one virtual millisecond later."""

        def run() -> None:
            try:
                result: T | None = work()
                error: BaseException | None = None
            except Exception as raised:  # noqa: BLE001 - handed to `done`, as the real executor does
                result, error = None, raised
            self.world.after(1, lambda: done(result, error), host=self)

        self.world.after(self.work_ms, run, host=self)

    def close(self) -> None:
        """Executor port: nothing to release."""

    # -- Files

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with Path(path).open("ab") as file:
            file.write(data)

    # -- Life and death

    def crash(self) -> None:
        """Everything of this life is gone: timers, work, listeners; peers see a reset after a while."""
        self.world.count_fault("crash:" + self.name.partition("-")[0])
        self.life += 1
        for listener in list(self.listeners):
            listener.close()
        for stream in list(self.streams):
            stream.vanish()
        self.streams.clear()


class _VirtualListener:
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
            self.host.listeners.discard(self)


class _VirtualStream:
    """One side of a stream; `other` is the far side."""

    def __init__(self, host: Host, handler: StreamHandler | None, *, peer: str) -> None:
        self.host = host
        self.handler = handler
        self._peer = peer
        self.other: _VirtualStream | None = None
        self.dead = False
        self.opened = handler is None
        self._arrives_at = 0
        self._swallowed = False
        self._paused = False
        self._waiting: list[bytes] = []
        host.streams.add(self)

    def open(self) -> None:
        if not self.dead and self.handler is not None and not self.opened:
            self.opened = True
            self.handler.connected(self)
            self.deliver_waiting()

    # -- Stream

    def write(self, data: bytes) -> None:
        if self.dead or not data or self.other is None:
            return
        world = self.host.world
        world.trace("write", self.host.name, self.other.host.name, hashlib.sha256(data).digest()[:8])
        if self._swallowed or not world.reachable(self.host.name, self.other.host.name):
            if not self._swallowed:
                world.count_fault("bytes_swallowed")
            self._swallowed = True  # a stream with a hole delivers nothing after it
            return
        low, high = world.latency_ms
        self._arrives_at = max(self._arrives_at, world.time_ms + world.rng.randint(low, high))
        other = self.other
        world.at(self._arrives_at, lambda: other.arrive(bytes(data)), host=other.host)

    def write_buffer_bytes(self) -> int:
        return 0

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
            self._waiting.append(data)
            self.deliver_waiting()

    def deliver_waiting(self) -> None:
        while self._waiting and not self._paused and not self.dead and self.opened and self.handler is not None:
            self.handler.received(self._waiting.pop(0))

    def _end(self, error: Exception | None) -> None:
        if self.dead:
            return
        self.dead = True
        self.host.streams.discard(self)
        world = self.host.world
        if self.handler is not None:
            handler = self.handler
            world.after(0, lambda: handler.closed(error), host=self.host)
        other = self.other
        if (
            other is not None
            and not other.dead
            and not self._swallowed
            and world.reachable(self.host.name, other.host.name)
        ):
            arrives = max(self._arrives_at, world.time_ms + world.latency_ms[1])
            world.at(arrives, lambda: other.reset(None), host=other.host)

    def reset(self, error: Exception | None) -> None:
        """The far side has closed or gone."""
        if not self.dead:
            self.dead = True
            self.host.streams.discard(self)
            if self.handler is not None:
                self.handler.closed(error)

    def vanish(self) -> None:
        """This side's machine is gone; its kernel resets the peer when it can be reached."""
        self.dead = True
        other, world = self.other, self.host.world
        if other is not None and not other.dead and world.reachable(self.host.name, other.host.name):
            world.after(world.latency_ms[1], lambda: other.reset(ConnectionResetError()), host=other.host)
