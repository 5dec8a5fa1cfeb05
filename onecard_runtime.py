"""The real world behind the seams of `protocol/ports.py`: clock, threads, disk, randomness, log.

With `onecard_network` the only module of the product that touches them. One `Runtime` is one process: an event loop
(uvloop where installed), callbacks on one thread, and named executor threads for work that blocks.

    runtime = Runtime(log=…)
    exit_code = runtime.run(start)      # start(runtime) composes shells; they end with runtime.stop(code)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeVar

from onecard_network import BACKLOG, RealNetwork, split_address
from protocol.ports import Log, Timer

try:
    import uvloop
except ImportError:  # the `fast` extra is optional; stock asyncio reaches about 0.8 of its rate
    uvloop = None  # type: ignore[assignment]  # a module that may be absent

__all__ = [
    "BACKLOG",
    "RealClock",
    "RealFiles",
    "RealNetwork",
    "RealRandom",
    "Runtime",
    "ThreadExecutor",
    "limit_process",
    "silent_log",
    "split_address",
    "stdout_is_terminal",
]

T = TypeVar("T")

EXIT_FAULT: Final = 70  # a bug of ours; as EX_SOFTWARE
DESCRIPTORS_WANTED: Final = 65_536  # five times the most connections, since those over a cap are open for a moment too
FILE_MODE: Final = 0o600
COLLECT_THRESHOLDS: Final = (10_000, 20, 50)
"""Of the cyclic collector while a process serves. A commit of 500 frames has thousands of objects alive at once, none
in a cycle: at the usual 700 they are walked again and again, a tenth of what a live sale costs (docs/performance.md).
Cycles still go, some ten thousand objects later."""


def limit_process() -> None:
    """What a server asks of its system before it reads keys: descriptors enough, and no core file with keys in it.

    As far as it may: the hard limit of descriptors is the administrator's (docs/cli.md).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def silent_log(event: str, /, **facts: object) -> None:
    """A `Log` that keeps nothing."""


class RealClock:
    """`Clock` on an event loop; timers never fire early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def call_at(self, monotonic_ms: int, callback: Callable[[], None]) -> Timer:
        # loop.time() is a float and uvloop's timers round to whole ms: one more ms keeps "not before" true
        return self._loop.call_at((monotonic_ms + 1) / 1000, callback)


class RealRandom:
    """`Random` from the kernel."""

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class RealFiles:
    """`Files` with fsync of file and directory."""

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, path: str, data: bytes) -> None:
        target = Path(path)
        beside = target.with_name(target.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(beside, flags, FILE_MODE)
        try:
            os.fchmod(descriptor, FILE_MODE)  # whatever a leftover of that name had
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(target)
        self._sync_directory(target)

    def append(self, path: str, data: bytes) -> None:
        target = Path(path)
        is_new = not target.exists()
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            self._sync_directory(target)

    @staticmethod
    def _sync_directory(target: Path) -> None:
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class ThreadExecutor:
    """`Executor` with one thread; results come back as callbacks of the loop.

    A plain queue and thread: a pool's futures and conditions cost more than a small commit does besides its sync.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        if self._closed:
            raise RuntimeError("work for an executor that is closed")

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - handed to `done`: the submitter decides what it means
                error = raised
            # the loop may be gone when a process is told to stop at once
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(done, result, error)

        self._work.put(run)

    def _run(self) -> None:
        while (run := self._work.get()) is not None:
            run()
            del run  # what it holds must not live on until the next work comes

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._work.put(None)
        self._thread.join()


class Runtime:
    """One process: loop, clock, network, random, files, log, executors."""

    def __init__(self, *, log: Log = silent_log, plain_asyncio: bool = False) -> None:
        use_uvloop = uvloop is not None and not plain_asyncio
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop() if use_uvloop else asyncio.new_event_loop()
        self.clock = RealClock(self.loop)
        self.network = RealNetwork(self.loop, is_buffered=not use_uvloop, failed=self._handler_failed)
        self.random = RealRandom()
        self.files = RealFiles()
        self.log = log
        self._executors: list[ThreadExecutor] = []
        self._exit_code: int | None = None
        self._failure: BaseException | None = None
        self._stopped = asyncio.Event()

    def executor(self, name: str) -> ThreadExecutor:
        """A named thread of its own; closed with the runtime."""
        made = ThreadExecutor(self.loop, name)
        self._executors.append(made)
        return made

    def on_signal(self, callback: Callable[[], None]) -> None:
        """Call back on SIGTERM and SIGINT, once each; a second signal of the same kind kills."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._signalled, number, callback)

    def _signalled(self, number: int, callback: Callable[[], None]) -> None:
        self.loop.remove_signal_handler(number)
        callback()

    def stop(self, exit_code: int = 0) -> None:
        """End `run` once the present callback has returned; the first code wins."""
        if self._exit_code is None:
            self._exit_code = exit_code
        self._stopped.set()

    def run(self, start: Callable[[Runtime], None]) -> int:
        """Call `start`, then callbacks until `stop`; closes everything and returns the exit code."""
        try:
            return self.loop.run_until_complete(self._run(start))
        finally:
            self.close()

    async def _run(self, start: Callable[[Runtime], None]) -> int:
        self.loop.set_exception_handler(self._callback_failed)
        usual = gc.get_threshold()
        try:
            start(self)
            gc.set_threshold(*COLLECT_THRESHOLDS)
            await self._stopped.wait()
        finally:
            gc.set_threshold(*usual)
            await self.network.close()
        if self._failure is not None:
            raise self._failure
        return self._exit_code or 0

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """What the loop reports. A transport's own trouble is told to its handler by `closed`; all else is a bug."""
        error = context.get("exception")
        if isinstance(error, OSError) and not context.keys().isdisjoint({"transport", "socket"}):
            return
        self._handler_failed(error if isinstance(error, BaseException) else RuntimeError(str(context.get("message"))))

    def _handler_failed(self, error: BaseException) -> None:
        """A bug in a callback must end the process loudly: half a server is worse than a restart."""
        self.log("callback_failed", error=repr(error))
        if self._failure is None:
            self._failure = error
        self.stop(EXIT_FAULT)

    def close(self) -> None:
        """Release threads and loop; idempotent."""
        for executor in self._executors:
            executor.close()
        self._executors.clear()
        if not self.loop.is_closed():
            # one more turn: transports that were closed report it, and close their sockets
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def stdout_is_terminal() -> bool:
    """Whether a person is looking."""
    return sys.stdout.isatty()
