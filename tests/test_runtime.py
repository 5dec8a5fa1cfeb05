"""The real runtime keeps what the ports promise: on uvloop and on plain asyncio alike."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from onecard_runtime import Runtime, split_address
from protocol.ports import Stream

BOTH_LOOPS = pytest.mark.parametrize("plain_asyncio", [False, True], ids=["uvloop", "asyncio"])


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
    Path(path).touch()

    def start_again(runtime: Runtime) -> None:
        runtime.network.listen(path, lambda: Recorder(lambda *_: None))
        runtime.stop()

    Runtime().run(start_again)
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


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
