"""The real bus where no broker is, where one says nothing, and where a handler has a bug; and what loads it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from onecard_bus import BusError, broker_of, client_of
from onecard_runtime import Runtime
from protocol.ports import BusAccess, BusOpening, BusSession
from tests.cli.commands import environment

OPENING = BusOpening("test", "will", b"gone", ("topic",))
NO_BROKER = "mqtt://127.0.0.1:1"


class Handler:
    """Ends the runtime when its session has ended."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.ended: list[Exception | None] = []

    def opened(self) -> None:
        raise AssertionError("there is nobody")

    def message(self, topic: str, payload: bytes, is_retained: bool) -> None:
        raise AssertionError("there is nobody")

    def closed(self, error: Exception | None) -> None:
        self.ended.append(error)
        self.runtime.stop()


def attempt(address: str, access: BusAccess, *, plain_asyncio: bool) -> Exception | None:
    runtime = Runtime(plain_asyncio=plain_asyncio)
    handler = Handler(runtime)
    sessions: list[BusSession] = []

    def start(_: Runtime) -> None:
        sessions.append(runtime.bus(access).connect(address, OPENING, handler))

    runtime.run(start)
    (error,) = handler.ended
    sessions[0].publish("topic", b"too late", retain=False, done=lambda: None)
    assert sessions[0].unacknowledged_bytes() == 0
    return error


@pytest.mark.parametrize("plain_asyncio", [False, True], ids=["uvloop", "asyncio"])
def test_where_nobody_listens_the_handler_is_told_and_nothing_else_happens(plain_asyncio: bool) -> None:
    error = attempt(NO_BROKER, BusAccess(), plain_asyncio=plain_asyncio)
    assert isinstance(error, BusError)
    assert "refused" in str(error)


def test_a_password_that_cannot_be_read_is_told_by_its_path(tmp_path: Path) -> None:
    error = attempt(NO_BROKER, BusAccess("1", str(tmp_path / "none")), plain_asyncio=True)
    assert isinstance(error, FileNotFoundError)
    assert "none" in str(error)


def test_what_listens_and_is_no_broker_ends_the_attempt() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)

        def answer() -> None:
            stream, _ = listening.accept()
            with stream:
                stream.recv(1_024)
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = listening.getsockname()[1]
        error = attempt(f"mqtt://127.0.0.1:{port}", BusAccess(), plain_asyncio=True)
        thread.join()
    assert isinstance(error, BusError)


def test_a_bug_in_a_handler_ends_the_process_and_is_no_trouble_of_the_network() -> None:
    runtime = Runtime(plain_asyncio=True)

    class Broken(Handler):
        def closed(self, error: Exception | None) -> None:
            raise OSError("a bug of ours that looks like a socket's")

    def start(_: Runtime) -> None:
        runtime.bus(BusAccess()).connect(NO_BROKER, OPENING, Broken(runtime))

    with pytest.raises(OSError, match="a bug of ours"):
        runtime.run(start)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("mqtt://broker", ("broker", 1883, False)),
        ("mqtts://broker", ("broker", 8883, True)),
        ("mqtts://[::1]:9", ("::1", 9, True)),
    ],
)
def test_an_address_names_host_port_and_whether_tls(address: str, found: tuple[str, int, bool]) -> None:
    assert broker_of(address) == found


@pytest.mark.parametrize(
    "address", ["http://broker", "mqtt://", "mqtt://broker/path", "mqtt://1:secret@broker", "/run/link.sock"]
)
def test_an_address_that_is_none_is_refused_without_repeating_a_password(address: str) -> None:
    with pytest.raises(ValueError, match=r"mqtt|password") as refused:
        broker_of(address)
    assert "secret" not in str(refused.value)


def test_a_client_speaks_the_version_that_every_broker_has_and_holds_small_messages_back_nowhere(
    tmp_path: Path,
) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    runtime = Runtime(plain_asyncio=True)
    made: list[object] = []

    def start(_: Runtime) -> None:
        client = client_of(NO_BROKER, BusAccess("7", str(tmp_path / "password")), OPENING)
        made.extend((client._client._protocol, client._client._clean_session, client._client._password))
        made.extend((client._socket_options, client._queue.maxsize))
        runtime.stop()

    runtime.run(start)
    nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert made == [4, True, b"open sesame", (nodelay,), 1_024]


def test_neither_process_loads_the_library_of_brokers_before_a_link_names_one() -> None:
    program = (
        "import sys, onecard, onecard_runtime, onecard_doctor, frontend_server.serving, ledger_sync.serving\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('aiomqtt', 'paho', 'onecard_bus')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout.strip() == "[]"
