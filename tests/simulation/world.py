"""Virtual time, network, randomness, disk and executors behind the ports of `protocol/ports.py`.

A `World` is one event queue. A `Host` is one machine of it: everything a host asked for (timers, streams, work) dies
when the host crashes, and nothing of an earlier life reaches a later one. All order and all randomness come from the
seed, so two runs with one seed give the same trace, whose running hash is `World.trace_hash()`.

How streams behave, and how they fail, is told in `streams`. A disk is fast or slow (`Host.work_ms`), and a crash may
fall between commit and callback (`Host.done_ms`).
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from protocol.ports import Listener, StreamHandler, Timer
from tests.simulation.fragile import FragileDisk
from tests.simulation.streams import VirtualListener, VirtualStream

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
        self.listeners: dict[str, VirtualListener] = {}
        self.latency_ms = (1, 12)
        self.slow_hosts: dict[str, tuple[int, int]] = {}
        """Hosts with a latency of their own."""
        self.stalled_until_ms: dict[str, int] = {}
        """Hosts to and from which nothing is delivered before that moment."""
        self.cut_hosts: set[str] = set()
        self.cut_pairs: set[frozenset[str]] = set()
        """Two hosts each: no byte between them, though others reach both."""
        self.corrupt_next: dict[str, int] = {}
        """Host → writes of it after which one bit of one write flips."""
        self.repeat_next: dict[str, int] = {}
        """Host → writes of it after which one write is said twice, as by a program that repeats an answer."""
        self.wiretap: Callable[[VirtualStream, bytes], None] | None = None
        """Told of everything that is written; for an attacker on the network."""
        self.chunked = True
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
        return self.step_before(None)

    def step_before(self, time_ms: int | None) -> bool:
        """Run one event that is due by then; False if there is none."""
        queue = self._queue
        while queue and (time_ms is None or queue[0][0] <= time_ms):
            due_ms, _, event = heapq.heappop(queue)
            callback = event.callback
            if callback is None or (event.host is not None and event.host.life != event.life):
                continue
            self.time_ms = due_ms
            self._events += 1
            if self._events > EVENTS_MAX:
                raise AssertionError(f"seed {self.seed}: more than {EVENTS_MAX} events")
            callback()
            return True
        return False

    def run_until(self, time_ms: int) -> None:
        while self.step_before(time_ms):
            pass
        self.time_ms = max(self.time_ms, time_ms)

    def run_while(self, condition: Callable[[], bool], *, limit_ms: int) -> bool:
        """Run until `condition` is false; returns False if the limit came first."""
        end = self.time_ms + limit_ms
        while condition():
            if not self.step_before(end):
                return False
        return True

    @property
    def events(self) -> int:
        """Events run so far."""
        return self._events

    def reachable(self, a: str, b: str) -> bool:
        if a == b:
            return True
        return a not in self.cut_hosts and b not in self.cut_hosts and frozenset((a, b)) not in self.cut_pairs

    def delay_ms(self, a: str, b: str) -> int:
        """How long the next bytes from `a` to `b` take."""
        low, high = self.slow_hosts.get(a) or self.slow_hosts.get(b) or self.latency_ms
        stalled_ms = max(self.stalled_until_ms.get(a, 0), self.stalled_until_ms.get(b, 0)) - self.time_ms
        return max(stalled_ms, 0) + self.rng.randint(low, high)

    def stall(self, host: str, duration_ms: int) -> None:
        """Deliver nothing to or from `host` for so long; nothing is lost."""
        self.stalled_until_ms[host] = max(self.stalled_until_ms.get(host, 0), self.time_ms + duration_ms)
        self.count_fault("stall")


class Host:
    """One machine: its clock, network, randomness, files and executor are the ports given to shells."""

    def __init__(self, world: World, name: str, *, clock_offset_ms: int = 0, clock_drift_ppm: int = 0) -> None:
        self.world = world
        self.name = name
        self.life = 1
        self.clock_offset_ms = clock_offset_ms
        self.clock_drift_ppm = clock_drift_ppm
        self.rng = random.Random(f"{world.seed}:{name}")
        self.streams: dict[VirtualStream, None] = {}  # in order of their making: a set's order is not the seed's
        self.listeners: dict[VirtualListener, None] = {}
        self.work_ms = 2
        self.done_ms = 1
        """From the end of work (a commit) to its callback: a crash in between has the one and not the other."""
        self.file_failures = 0
        """How many of the next writes to small files (heads, list caches) fail."""
        self.after_work: Callable[[], None] = lambda: None
        """Told after each piece of work of the executor; for observers."""
        self.disk: FragileDisk | None = None
        """Under SQLite; None: a kill loses nothing that was written."""
        self.disk_died: Callable[[], None] = lambda: None
        """Called when the power has gone inside a piece of work; nobody is told what came of that."""
        self._work_free_ms = 0

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
        listener = VirtualListener(self, address, accept)
        self.world.listeners[address] = listener
        self.listeners[listener] = None
        return listener

    def connect(self, address: str, handler: StreamHandler) -> None:
        world = self.world
        listener = world.listeners.get(address)
        if listener is None:
            delay_ms = world.delay_ms(self.name, self.name)
            world.after(delay_ms, lambda: handler.closed(ConnectionRefusedError(address)), host=self)
            return
        if not world.reachable(self.name, listener.host.name):
            world.after(CONNECT_TIMEOUT_MS, lambda: handler.closed(TimeoutError(address)), host=self)
            return
        near = VirtualStream(self, handler, peer=address)
        far = VirtualStream(listener.host, None, peer=f"{self.name}:1")
        near.other, far.other = far, near
        world.trace("connect", self.name, address)
        if self.name.startswith("till") and any(
            each.peer() == far.peer() and each is not far for each in listener.host.streams
        ):
            world.count_fault("twin_connection")  # the far side does not know yet that the earlier one is over

        def give_up() -> None:
            if not near.opened:
                near.reset(TimeoutError(address))

        world.after(CONNECT_TIMEOUT_MS, give_up, host=self)

        def arrive() -> None:
            if listener.closed or far.dead:
                near.reset(ConnectionRefusedError(address))
                return
            # As in TCP, the near side is open before anything that the far side says can reach it.
            opens_at = far.arrives_not_before(world.time_ms + world.delay_ms(listener.host.name, self.name))
            world.at(opens_at, near.open, host=self)
            far.handler = listener.accept()
            far.handler.connected(far)
            far.deliver_waiting()

        world.after(world.delay_ms(self.name, listener.host.name), arrive, host=listener.host)

    # -- Executor

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Runs inline, one after the other, `work_ms` each; `done` follows `done_ms` later."""

        def run() -> None:
            try:
                result: T | None = work()
                error: BaseException | None = None
            except Exception as raised:  # noqa: BLE001 - handed to `done`, as the real executor does
                result, error = None, raised
            if self.disk is not None and self.disk.is_dead:
                self.disk_died()
                return
            self.after_work()
            self.world.after(self.done_ms, lambda: done(result, error), host=self)

        self._work_free_ms = max(self._work_free_ms, self.world.time_ms) + self.work_ms
        self.world.at(self._work_free_ms, run, host=self)

    def close(self) -> None:
        """Executor port: nothing to release."""

    # -- Files

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def _file_failure(self, path: str) -> None:
        if self.file_failures > 0:
            self.file_failures -= 1
            self.world.count_fault("file_error")
            raise OSError(errno.EIO, "the disk has failed", Path(path).name)

    def replace(self, path: str, data: bytes) -> None:
        self._file_failure(path)
        Path(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        self._file_failure(path)
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
        self._work_free_ms = 0

    def reset_streams(self) -> None:
        """Every connection of this host breaks, both ends told; what was under way is lost."""
        self.world.count_fault("reset")
        for stream in list(self.streams):
            stream.vanish()
            stream.break_off(ConnectionResetError())
