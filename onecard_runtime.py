"""The real world behind the seams of `protocol/ports.py`: clock, sockets, threads, disk, randomness, log.

This is the only module of the product that touches them. One `Runtime` is one process: an event loop
(uvloop where installed), callbacks on one thread, and named executor threads for work that blocks.

    runtime = Runtime(log=…)
    exit_code = runtime.run(start)      # start(runtime) composes shells; they end with runtime.stop(code)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, cast

from protocol.ports import Listener, Log, StreamHandler, Timer

try:
    import uvloop
except ImportError:  # the `fast` extra is optional; stock asyncio reaches about 0.8 of its rate
    uvloop = None  # type: ignore[assignment]  # a module that may be absent

T = TypeVar("T")

CONNECT_SECONDS_MAX: Final = 5.0  # a SYN that nobody answers
BACKLOG: Final = 4096  # a reconnect storm of a whole site must not overflow the accept queue
WRITE_BUFFER_HIGH_BYTES: Final = 256 * 1024  # above this `drained` follows when the buffer is empty again
READ_CHUNK_BYTES: Final = 64 * 1024  # one shared buffer a loop; stock asyncio would allocate 256 KiB a read
SOCKET_DIRECTORY_MODE: Final = 0o700
SOCKET_MODE_MASK: Final = 0o177  # sockets end up 0600


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
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(target)
        self._sync_directory(target)

    def append(self, path: str, data: bytes) -> None:
        target = Path(path)
        is_new = not target.exists()
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
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
    """`Executor` with one thread; results come back as callbacks of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
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

        self._pool.submit(run)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class _StreamProtocol(asyncio.Protocol):
    """Joins an asyncio transport to a `StreamHandler`; it is the `Stream` too, so a connection is one object."""

    __slots__ = ("_closed", "_handler", "_peer", "_transport")

    def __init__(self, handler: StreamHandler, peer: str) -> None:
        self._handler = handler
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._closed = False

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH_BYTES, low=0)
        if not self._peer:
            name = transport.get_extra_info("peername")
            self._peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "local"
        self._handler.connected(self)

    def data_received(self, data: bytes) -> None:
        if not self._closed:
            self._handler.received(data)

    def resume_writing(self) -> None:
        self._handler.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._handler.closed(exc)

    # -- the shell's side

    def write(self, data: bytes) -> None:
        if not self._closed and self._transport is not None and data:
            self._transport.write(data)

    def write_buffer_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    def peer(self) -> str:
        return self._peer


class _BufferedStreamProtocol(_StreamProtocol, asyncio.BufferedProtocol):
    """The same for stock asyncio: reads into one buffer shared by the loop, since it is read at once."""

    __slots__ = ("_shared",)

    def __init__(self, handler: StreamHandler, peer: str, shared: bytearray) -> None:
        super().__init__(handler, peer)
        self._shared = memoryview(shared)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._shared[:nbytes]))


class _RealListener:
    def __init__(self, bound: socket.socket, address: str, runtime_tasks: set[asyncio.Task[None]]) -> None:
        self._socket = bound
        self._address = address
        self._tasks = runtime_tasks
        self._server: asyncio.Server | None = None
        self._closed = False

    async def serve(self, make: Callable[[], asyncio.BaseProtocol], local: bool) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            return
        if local:
            self._server = await loop.create_unix_server(make, sock=self._socket, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(make, sock=self._socket, backlog=BACKLOG)
        if self._closed:
            self._server.close()

    def address(self) -> str:
        return self._address

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        else:
            self._socket.close()
        if self._address.startswith("/"):
            Path(self._address).unlink(missing_ok=True)


class RealNetwork:
    """`Network` over TCP and AF_UNIX."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._shared = bytearray(READ_CHUNK_BYTES)
        self._buffered = uvloop is None or not isinstance(loop, uvloop.Loop)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[_RealListener] = []

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        local = address.startswith("/")
        bound = _bind_local(address) if local else _bind_tcp(address)
        if not local:
            host, port = bound.getsockname()[:2]
            address = f"{host}:{port}"
        listener = _RealListener(bound, address, self._tasks)
        self._listeners.append(listener)
        self._spawn(
            listener.serve(lambda: self._protocol(accept(), "local" if local else ""), local), f"listen {address}"
        )
        return listener

    def connect(self, address: str, handler: StreamHandler) -> None:
        self._spawn(self._connect(address, handler), f"connect {address}")

    async def _connect(self, address: str, handler: StreamHandler) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if address.startswith("/"):
                    await self._loop.create_unix_connection(lambda: self._protocol(handler, address), address)
                else:
                    host, port = split_address(address)
                    await self._loop.create_connection(lambda: self._protocol(handler, address), host, port)
        except (OSError, TimeoutError) as error:
            handler.closed(error)

    def _protocol(self, handler: StreamHandler, peer: str) -> asyncio.BaseProtocol:
        if self._buffered:
            return _BufferedStreamProtocol(handler, peer, self._shared)
        return _StreamProtocol(handler, peer)

    def _spawn(self, work: object, name: str) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work, name=name)  # type: ignore[arg-type]  # a coroutine of ours
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close listeners and connection attempts; open streams belong to their shells."""
        for listener in self._listeners:
            listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` to its parts; raises ValueError naming what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - a server without a host listens on all


def _bind_tcp(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_local(path: str) -> socket.socket:
    """Bind a socket file of mode 0600; a stale file of a dead process is removed, a live one refused."""
    Path(path).parent.mkdir(mode=SOCKET_DIRECTORY_MODE, parents=True, exist_ok=True)
    if Path(path).exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except OSError:
                Path(path).unlink(missing_ok=True)
            else:
                raise OSError(errno.EADDRINUSE, "another process is listening", path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(SOCKET_MODE_MASK)
    try:
        bound.setblocking(False)
        bound.bind(path)
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


class Runtime:
    """One process: loop, clock, network, random, files, log, executors."""

    def __init__(self, *, log: Log = silent_log, plain_asyncio: bool = False) -> None:
        use_uvloop = uvloop is not None and not plain_asyncio
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop() if use_uvloop else asyncio.new_event_loop()
        self.clock = RealClock(self.loop)
        self.network = RealNetwork(self.loop)
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
        start(self)
        await self._stopped.wait()
        await self.network.close()
        if self._failure is not None:
            raise self._failure
        return self._exit_code or 0

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A bug in a callback must end the process loudly: half a server is worse than a restart."""
        error = context.get("exception")
        if isinstance(error, OSError):  # a socket's own trouble; its handler hears of it by `closed`
            return
        self.log("callback_failed", message=str(context.get("message")), error=repr(error))
        if self._failure is None and isinstance(error, BaseException):
            self._failure = error
        self.stop(70)

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
