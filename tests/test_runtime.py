"""The real runtime keeps what the ports promise: on uvloop and on plain asyncio alike."""

import contextlib
import gc
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import weakref
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Final

import pytest

from onecard_runtime import Runtime, split_address
from protocol.ports import Stream
from tests.source_tree import ROOT

BOTH_LOOPS = pytest.mark.parametrize("plain_asyncio", [False, True], ids=["uvloop", "asyncio"])


GIVE_UP_MS: Final = 60_000
"""An end for a run whose event does not come; what the test then says of it is wrong, however slow the machine."""
LOOK_MS: Final = 10


def give_up_later(runtime: Runtime) -> None:
    runtime.clock.call_at(runtime.clock.monotonic_ms() + GIVE_UP_MS, runtime.stop)


def when(runtime: Runtime, condition: Callable[[], bool], then: Callable[[], None]) -> None:
    """Call `then` once the condition holds; it is looked at now and then."""

    def look() -> None:
        if condition():
            then()
        else:
            runtime.clock.call_at(runtime.clock.monotonic_ms() + LOOK_MS, look)

    look()


class Recorder:
    """A stream handler that keeps what it is told and passes it on."""

    def __init__(self, on_event: Callable[[str, "Recorder"], None]) -> None:
        self.stream: Stream | None = None
        self.bytes = b""
        self.error: Exception | None = None
        self._on_event = on_event

    def connected(self, stream: Stream) -> None:
        self.stream = stream
        self._on_event("connected", self)

    def received(self, data: bytes) -> None:
        self.bytes += data
        self._on_event("received", self)

    def drained(self) -> None:
        self._on_event("drained", self)

    def closed(self, error: Exception | None) -> None:
        self.error = error
        self._on_event("closed", self)


@BOTH_LOOPS
@pytest.mark.parametrize("local", [False, True], ids=["tcp", "local socket"])
def test_bytes_cross_a_stream_both_ways_and_close_is_told_once(
    tmp_path: Path, plain_asyncio: bool, local: bool
) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    told: list[str] = []

    def server_event(event: str, handler: Recorder) -> None:
        told.append(f"server {event}")
        if event == "received":
            assert handler.stream is not None
            handler.stream.write(handler.bytes.upper())
        if event == "closed":
            runtime.stop(3)

    def client_event(event: str, handler: Recorder) -> None:
        told.append(f"client {event}")
        assert handler.stream is not None
        if event == "connected":
            handler.stream.write(b"tap")
        if event == "received":
            assert handler.bytes == b"TAP"
            handler.stream.close()
            handler.stream.write(b"after close: ignored")

    def start(runtime: Runtime) -> None:
        address = str(tmp_path / "s.sock") if local else "127.0.0.1:0"
        listener = runtime.network.listen(address, lambda: Recorder(server_event))
        if local:
            assert stat.S_IMODE(Path(listener.address()).stat().st_mode) == 0o600
        runtime.network.connect(listener.address(), Recorder(client_event))

    assert runtime.run(start) == 3
    assert sorted(told) == sorted(
        ["client connected", "server connected", "server received", "client received", "client closed", "server closed"]
    )
    assert not (tmp_path / "s.sock").exists()


@BOTH_LOOPS
def test_a_stream_that_has_ended_is_freed_without_the_cyclic_collector(plain_asyncio: bool) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    handlers: list[weakref.ref[Recorder]] = []

    def server_event(event: str, handler: Recorder) -> None:
        if event == "connected":
            handlers.append(weakref.ref(handler))
        if event == "closed":
            gc.disable()
            runtime.clock.call_at(runtime.clock.monotonic_ms() + 20, runtime.stop)

    def client_event(event: str, handler: Recorder) -> None:
        if event == "connected" and handler.stream is not None:
            handler.stream.abort()

    def start(runtime: Runtime) -> None:
        listener = runtime.network.listen("127.0.0.1:0", lambda: Recorder(server_event))
        runtime.network.connect(listener.address(), Recorder(client_event))

    try:
        runtime.run(start)
        assert [each() for each in handlers] == [None]
    finally:
        gc.enable()


@BOTH_LOOPS
def test_a_refused_connection_is_told_by_closed_alone(plain_asyncio: bool) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    told: list[str] = []

    def event(name: str, handler: Recorder) -> None:
        told.append(name)
        assert isinstance(handler.error, OSError)
        runtime.stop()

    runtime.run(lambda runtime: runtime.network.connect("127.0.0.1:1", Recorder(event)))
    assert told == ["closed"]


@BOTH_LOOPS
def test_timers_never_fire_early_and_a_cancelled_one_never(plain_asyncio: bool) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    late_by: list[int] = []

    def start(runtime: Runtime) -> None:
        clock = runtime.clock
        for delay in (0, 1, 3, 7, 20):
            due = clock.monotonic_ms() + delay
            clock.call_at(due, lambda due=due: late_by.append(clock.monotonic_ms() - due))  # type: ignore[misc]
        clock.call_at(clock.monotonic_ms() + 5, lambda: late_by.append(-99)).cancel()
        clock.call_at(clock.monotonic_ms() + 30, runtime.stop)

    runtime.run(start)
    assert len(late_by) == 5
    assert min(late_by) >= 0


def test_work_runs_in_order_and_its_error_comes_back() -> None:
    runtime = Runtime()
    told: list[object] = []

    def fail() -> int:
        raise OSError("disk")

    def last(result: int | None, error: BaseException | None) -> None:
        told.append((result, error))
        runtime.stop()

    def start(runtime: Runtime) -> None:
        executor = runtime.executor("disk")
        executor.submit(lambda: 1, lambda result, error: told.append((result, error)))
        executor.submit(fail, lambda result, error: told.append((result, type(error))))
        executor.submit(lambda: 2, last)

    runtime.run(start)
    assert told == [(1, None), (None, OSError), (2, None)]


def test_a_bug_in_a_callback_ends_the_process_loudly() -> None:
    runtime = Runtime()

    def bug() -> None:
        raise ZeroDivisionError("planted")

    def start(runtime: Runtime) -> None:
        runtime.clock.call_at(0, bug)

    with pytest.raises(ZeroDivisionError, match="planted"):
        runtime.run(start)


def test_a_replaced_file_is_whole_and_private_and_appends_add(tmp_path: Path) -> None:
    runtime = Runtime()
    path = str(tmp_path / "head")
    assert runtime.files.read(path) is None
    runtime.files.replace(path, b"one")
    runtime.files.replace(path, b"two")
    runtime.files.append(path, b"+three")
    assert runtime.files.read(path) == b"two+three"
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["head"]
    runtime.close()


def test_a_stale_socket_file_is_replaced_and_a_live_one_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "s.sock")
    runtime = Runtime()
    refused: list[OSError] = []

    def start(runtime: Runtime) -> None:
        runtime.network.listen(path, lambda: Recorder(lambda *_: None))
        try:
            runtime.network.listen(path, lambda: Recorder(lambda *_: None))
        except OSError as error:
            refused.append(error)
        runtime.clock.call_at(runtime.clock.monotonic_ms() + 20, runtime.stop)

    runtime.run(start)
    assert len(refused) == 1
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)

    def start_again(runtime: Runtime) -> None:
        runtime.network.listen(path, lambda: Recorder(lambda *_: None))
        runtime.stop()

    Runtime().run(start_again)
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"money")
    runtime = Runtime()
    with pytest.raises(FileExistsError, match="no socket"):
        runtime.network.listen(str(path), lambda: Recorder(lambda *_: None))
    assert path.read_bytes() == b"money"
    runtime.close()


def test_a_socket_whose_process_hangs_is_not_taken_from_it(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with contextlib.ExitStack() as stack:
        hanging = stack.enter_context(socket.socket(socket.AF_UNIX))
        hanging.bind(path)
        hanging.listen(0)
        for _ in range(2):  # its queue is full; one more would wait for ever
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(path)
        runtime = Runtime()
        with pytest.raises(OSError, match="another process is listening"):
            runtime.network.listen(path, lambda: Recorder(lambda *_: None))
        assert Path(path).is_socket()
        runtime.close()


def test_a_listener_leaves_the_socket_of_its_successor_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    runtime = Runtime()

    def start(runtime: Runtime) -> None:
        listener = runtime.network.listen(str(path), lambda: Recorder(lambda *_: None))
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            listener.close()
        runtime.stop()

    runtime.run(start)
    assert path.is_socket()


class Faulty(Recorder):
    """Raises an OSError, as a handler whose own file cannot be written, where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__(self._raise)
        self._where = where
        if where == "accept":
            self._raise("accept", self)

    def _raise(self, event: str, _: Recorder) -> None:
        if event == self._where:
            raise OSError(f"planted in {event}")


@BOTH_LOOPS
@pytest.mark.parametrize("where", ["accept", "connected", "received", "closed"])
def test_an_os_error_of_a_handler_is_a_bug_and_not_the_sockets_trouble(plain_asyncio: bool, where: str) -> None:
    logged: list[str] = []
    runtime = Runtime(plain_asyncio=plain_asyncio, log=lambda event, /, **facts: logged.append(event))

    def client_event(event: str, handler: Recorder) -> None:
        if event == "connected":
            assert handler.stream is not None
            handler.stream.write(b"tap")
            runtime.clock.call_at(runtime.clock.monotonic_ms() + 30, handler.stream.close)

    def start(runtime: Runtime) -> None:
        listener = runtime.network.listen("127.0.0.1:0", lambda: Faulty(where))
        runtime.network.connect(listener.address(), Recorder(client_event))
        give_up_later(runtime)

    with pytest.raises(OSError, match=f"planted in {where}"):
        runtime.run(start)
    assert "callback_failed" in logged


@BOTH_LOOPS
def test_an_os_error_of_a_timer_ends_the_process_too(plain_asyncio: bool) -> None:
    def bug() -> None:
        raise OSError("disk")

    def start(runtime: Runtime) -> None:
        runtime.clock.call_at(0, bug)
        give_up_later(runtime)

    with pytest.raises(OSError, match="disk"):
        Runtime(plain_asyncio=plain_asyncio).run(start)


DESCRIPTORS_LEFT: Final = 8  # fewer than connect


def out_of_descriptors() -> bool:
    try:
        os.close(os.dup(0))
    except OSError:
        return True
    return False


def says(stream: socket.socket, data: bytes) -> bool:
    with contextlib.suppress(OSError):  # not connected yet
        return stream.send(data) == len(data)
    return False


def hears(stream: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(stream.recv(1, socket.MSG_PEEK))
    return False


@BOTH_LOOPS
def test_out_of_descriptors_the_listener_goes_on_when_there_are_some_again(plain_asyncio: bool) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    handlers: list[Recorder] = []
    was_full: list[bool] = []
    clients = [socket.socket() for _ in range(40)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = socket.socket()
    last.setblocking(False)

    def echo(event: str, handler: Recorder) -> None:
        if event == "received":
            assert handler.stream is not None
            handler.stream.write(handler.bytes)

    def accept() -> Recorder:
        handlers.append(Recorder(echo))
        return handlers[-1]

    def start(runtime: Runtime) -> None:
        listener = runtime.network.listen("127.0.0.1:0", accept)
        host, _, port = listener.address().rpartition(":")
        address = (host, int(port))

        def storm() -> None:
            used = {int(name) for name in os.listdir("/proc/self/fd")}
            free = (number for number in count() if number not in used)
            resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, DESCRIPTORS_LEFT, None)), limits[1]))
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address)
            when(runtime, out_of_descriptors, relief)

        def relief() -> None:
            was_full.append(True)
            for client in clients:
                client.close()
            last.connect_ex(address)
            when(runtime, lambda: says(last, b"tap"), lambda: when(runtime, lambda: hears(last), runtime.stop))

        runtime.clock.call_at(0, storm)
        give_up_later(runtime)

    try:
        assert runtime.run(start) == 0
        assert was_full
        assert last.recv(3) == b"tap"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for client in (*clients, last):
            client.close()
    assert len(handlers) > 1


@BOTH_LOOPS
def test_a_peer_that_never_reads_fills_our_buffer_and_is_seen_there(plain_asyncio: bool) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    seen: list[int] = []
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def on_event(event: str, handler: Recorder) -> None:
        stream = handler.stream
        assert stream is not None

        def look() -> None:
            seen.append(stream.write_buffer_bytes())
            stream.abort()

        if event == "connected":
            stream.write(bytes(16 << 20))
            runtime.clock.call_at(runtime.clock.monotonic_ms() + 100, look)
        if event == "closed":
            runtime.stop()

    def start(runtime: Runtime) -> None:
        listener = runtime.network.listen("127.0.0.1:0", lambda: Recorder(on_event))
        host, _, port = listener.address().rpartition(":")
        lazy.setblocking(False)
        lazy.connect_ex((host, int(port)))

    runtime.run(start)
    lazy.close()
    assert seen[0] > 1 << 20


@BOTH_LOOPS
def test_a_paused_stream_is_read_no_more_until_it_is_resumed(plain_asyncio: bool) -> None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    sizes: list[int] = []
    eager = socket.socket()

    def on_event(event: str, handler: Recorder) -> None:
        stream = handler.stream
        assert stream is not None

        def resume() -> None:
            sizes.append(len(handler.bytes))
            stream.resume_reading()

        if event == "received" and len(handler.bytes) == 1:
            stream.pause_reading()
            stream.pause_reading()
            eager.sendall(bytes(99_999))
            runtime.clock.call_at(runtime.clock.monotonic_ms() + 100, resume)
        if event == "received" and len(handler.bytes) == 100_000:
            sizes.append(len(handler.bytes))
            runtime.stop()

    def start(runtime: Runtime) -> None:
        listener = runtime.network.listen("127.0.0.1:0", lambda: Recorder(on_event))
        host, _, port = listener.address().rpartition(":")
        eager.connect((host, int(port)))
        eager.sendall(b"!")
        give_up_later(runtime)

    runtime.run(start)
    eager.close()
    assert sizes == [1, 100_000]


def test_a_server_process_has_descriptors_enough_and_leaves_no_core() -> None:
    code = (
        "import resource, onecard_runtime\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "onecard_runtime.limit_process()\n"
        "wanted = onecard_runtime.DESCRIPTORS_WANTED\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted if hard < 0 else min(hard, wanted), hard)\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == 0


def test_a_signal_becomes_one_callback() -> None:
    runtime = Runtime()
    told: list[int] = []

    def signalled() -> None:
        told.append(1)
        runtime.stop()

    def start(runtime: Runtime) -> None:
        runtime.on_signal(signalled)
        runtime.clock.call_at(0, lambda: os.kill(os.getpid(), signal.SIGTERM))

    runtime.run(start)
    assert told == [1]


@pytest.mark.parametrize(
    ("text", "parts"), [("127.0.0.1:4700", ("127.0.0.1", 4700)), ("[::1]:1", ("::1", 1)), (":5", ("0.0.0.0", 5))]
)
def test_addresses_are_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "host", "host:", "host:70000", "host:x"])
def test_an_address_without_a_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        split_address(text)
