"""The real `Network` of `protocol/ports.py`: TCP and AF_UNIX on an event loop, uvloop's or asyncio's.

Only this module and `onecard_runtime` touch sockets and loops. Three things that loops do are not left to them:

- An exception of a handler is told to `failed`, whatever it is. Both loops take an OSError out of a callback for the
  socket's own trouble and say nothing, and asyncio says nothing of a handler that cannot be made at all.
- A listener that cannot begin to serve is told to `failed` too: a server that nobody can reach must not stay up.
- Out of descriptors, uvloop closes what it cannot take, asyncio lets it wait a second; both go on when there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, cast

from protocol.ports import Listener, Stream, StreamHandler

CONNECT_SECONDS_MAX: Final = 5.0  # a SYN that nobody answers
PROBE_SECONDS_MAX: Final = 1.0  # a local socket answers at once, unless its process hangs: then it is not ours to take
BACKLOG: Final = 4096  # a reconnect storm of a whole site must not overflow the accept queue
WRITE_BUFFER_HIGH_BYTES: Final = 256 * 1024  # above this `drained` follows when the buffer is empty again
KERNEL_BUFFER_BYTES: Final = 64 * 1024
"""Asked of the kernel for each direction of an accepted TCP connection, which would else let one peer that floods, or
never reads, have megabytes. It holds the largest window of a terminal (16 frames of 4 KiB); Linux gives twice as much,
for its own use too."""
READ_CHUNK_BYTES: Final = 64 * 1024  # one shared buffer a loop; stock asyncio would allocate 256 KiB a read
SOCKET_DIRECTORY_MODE: Final = 0o700
SOCKET_MODE: Final = 0o600
SOCKET_MODE_MASK: Final = 0o177  # sockets end up 0600

Failed = Callable[[BaseException], None]
"""Told of a bug in a callback; ends the process."""


class _Nobody:
    """The handler of a stream whose shell has gone."""

    def connected(self, stream: Stream) -> None: ...
    def received(self, data: bytes) -> None: ...
    def drained(self) -> None: ...
    def closed(self, error: Exception | None) -> None: ...


_NOBODY: Final = _Nobody()


class _StreamProtocol(asyncio.Protocol):
    """Joins an asyncio transport to a `StreamHandler`; it is the `Stream` too, so a connection is one object."""

    __slots__ = ("_closed", "_failed", "_handler", "_network", "_peer", "_transport")

    def __init__(self, network: RealNetwork, handler: StreamHandler, peer: str) -> None:
        self._network = network
        self._handler = handler
        self._peer = peer
        self._failed = network.failed
        self._transport: asyncio.Transport | None = None
        self._closed = False

    @property
    def was_connected(self) -> bool:
        """Whether the handler has been told of a connection, and so will be told of its end."""
        return self._transport is not None or self._closed

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._network.streams.add(self)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH_BYTES, low=0)
        if not self._peer:
            name = transport.get_extra_info("peername")
            self._peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "local"
        try:
            self._handler.connected(self)
        except Exception as error:  # noqa: BLE001 - see the module's first point; here and below
            self._failed(error)

    def data_received(self, data: bytes) -> None:
        if not self._closed:
            try:
                self._handler.received(data)
            except Exception as error:  # noqa: BLE001
                self._failed(error)

    def resume_writing(self) -> None:
        try:
            self._handler.drained()
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._network.streams.discard(self)
        try:
            self._handler.closed(exc)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        # The transport knows this object: without these two lines a storm of short connections would wait for the
        # cyclic collector, which a serving process seldom runs.
        self._handler = _NOBODY
        self._transport = None

    def let_go(self) -> None:
        """The process ends, and the shell with it: close, and tell it nothing more."""
        self._handler = _NOBODY
        self.abort()

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

    def __init__(self, network: RealNetwork, handler: StreamHandler, peer: str, shared: bytearray) -> None:
        super().__init__(network, handler, peer)
        self._shared = memoryview(shared)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._shared[:nbytes]))


class _RealListener:
    def __init__(self, bound: socket.socket, address: str) -> None:
        self._socket = bound
        self._address = address
        self._file = _file_of(address) if address.startswith("/") else None
        self._server: asyncio.Server | None = None
        self._closed = False

    async def serve(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            return
        if self._file is not None:
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
        if self._file is not None and _file_of(self._address) == self._file:  # not one that took our place meanwhile
            Path(self._address).unlink(missing_ok=True)


class RealNetwork:
    """`Network` over TCP and AF_UNIX.

    Args:
        is_buffered: read through `BufferedProtocol`; right for stock asyncio, slower on uvloop.
        failed: told of an exception that a handler let out, or a listener that does not serve.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_buffered: bool, failed: Failed) -> None:
        self._loop = loop
        self.failed = failed
        self.streams: set[_StreamProtocol] = set()
        """Those that are open; kept by themselves."""
        self._shared = bytearray(READ_CHUNK_BYTES)
        self._is_buffered = is_buffered
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[_RealListener] = []

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        local = address.startswith("/")
        bound = _bind_local(address) if local else _bind_tcp(address)
        if not local:
            host, port = bound.getsockname()[:2]
            address = f"{host}:{port}"
        listener = _RealListener(bound, address)
        self._listeners.append(listener)

        def make() -> asyncio.BaseProtocol:
            try:
                handler = accept()
            except Exception as error:  # noqa: BLE001 - the process ends; asyncio would swallow it
                self.failed(error)
                handler = _NOBODY
            return self._protocol(handler, "local" if local else "")

        self._spawn(listener.serve(make), f"listen {address}")
        return listener

    def connect(self, address: str, handler: StreamHandler) -> None:
        self._spawn(self._connect(address, handler), f"connect {address}")

    async def _connect(self, address: str, handler: StreamHandler) -> None:
        protocol = self._protocol(handler, address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if address.startswith("/"):
                    await self._loop.create_unix_connection(lambda: protocol, address)
                else:
                    host, port = split_address(address)
                    await self._loop.create_connection(lambda: protocol, host, port)
        except (OSError, TimeoutError) as error:
            if not protocol.was_connected:  # else `closed` comes from the transport
                handler.closed(error)

    def _protocol(self, handler: StreamHandler, peer: str) -> _StreamProtocol:
        if self._is_buffered:
            return _BufferedStreamProtocol(self, handler, peer, self._shared)
        return _StreamProtocol(self, handler, peer)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failed(error)

    async def close(self) -> None:
        """Close listeners, connection attempts, and the streams that shells have left open: after a fault, all."""
        for listener in self._listeners:
            listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in list(self.streams):
            stream.let_go()


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
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # what is accepted inherits them
            bound.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
        bound.setblocking(False)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_local(path: str) -> socket.socket:
    """Bind a socket file of mode 0600.

    Raises:
        OSError: somebody listens there, or may (he does not answer); or the file there is no socket. Only a socket
            whose process is gone is removed.
    """
    Path(path).parent.mkdir(mode=SOCKET_DIRECTORY_MODE, parents=True, exist_ok=True)
    _remove_stale(path)
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


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):  # a wrong path in the site file must not cost a database
        raise OSError(errno.EEXIST, "a file that is no socket is in the way", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS_MAX)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except OSError:  # its queue is full: it lives
            pass
    raise OSError(errno.EADDRINUSE, "another process is listening", path)


def _file_of(path: str) -> tuple[int, int] | None:
    """What a path names at this moment."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
