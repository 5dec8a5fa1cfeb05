"""The real `Bus` of `protocol/ports.py`: sessions on an MQTT broker, by aiomqtt, on uvloop or asyncio.

Loaded only where a link goes over a broker. MQTT 3.1.1, QoS 1, clean sessions: nothing is kept at the broker for us but
births and wills, since whatever it loses is sent again. aiomqtt acknowledges what comes when it comes, and reports the
broker's own acknowledgements; neither settles anything (R16).

- TCP_NODELAY is set: with Nagle a small message after a small message waits for the peer's delayed acknowledgement.
- What waits in either direction is bounded: outgoing by whoever publishes and looks at `unacknowledged_bytes`,
  incoming by a queue whose overflow is dropped, which the counter of a conversation shows as a hole.
- Secrets are read from their paths at each attempt, so that they can be changed without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiomqtt

from protocol.ports import BusAccess, BusHandler, BusOpening

KEEPALIVE_S: Final = 15  # a broker publishes the will of a client that is silent for half as long again
ANSWER_SECONDS_MAX: Final = 5.0  # CONNACK, SUBACK, the end of a session
GOODBYE_SECONDS_MAX: Final = 1.0  # for what is queued when a session is closed
INCOMING_MAX: Final = 1_024  # not yet handed over: four batches of each of 64 front-ends, and as much again
IN_FLIGHT_MAX: Final = 200  # published and not acknowledged; Mosquitto's own limit is configured to the same
PENDING_CALLS_MAX: Final = 100_000  # aiomqtt warns above it; the bound is `unacknowledged_bytes`
MESSAGE_OVERHEAD_BYTES: Final = 256  # what a queued message costs beside its payload: many small ones are bounded too
PORT_PLAIN: Final = 1883
PORT_TLS: Final = 8883
QOS: Final = 1
DENIED: Final = 0x80
PASSWORD_BYTES_MAX: Final = 4_096

Failed = Callable[[BaseException], None]


class BusError(ConnectionError):
    """The broker refuses, or cannot be used as configured."""


class _Nobody:
    def opened(self) -> None: ...
    def message(self, topic: str, payload: bytes, is_retained: bool) -> None: ...
    def closed(self, error: Exception | None) -> None: ...


_NOBODY: Final = _Nobody()


def broker_of(address: str) -> tuple[str, int, bool]:
    """(host, port, whether TLS) of `mqtt://host:port` or `mqtts://host:port`; raises ValueError in words."""
    parts = urlsplit(address)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path or parts.query or parts.fragment:
        raise ValueError(f"{address!r} is not mqtt://HOST:PORT or mqtts://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a broker's address carries no user or password: name the user and the path to the password")
    is_tls = parts.scheme == "mqtts"
    return parts.hostname, parts.port or (PORT_TLS if is_tls else PORT_PLAIN), is_tls


def client_of(
    address: str,
    access: BusAccess,
    opening: BusOpening,
    *,
    is_persistent: bool = False,
    incoming_max: int = INCOMING_MAX,
) -> aiomqtt.Client:
    """A client, not yet connected; a persistent one is kept by the broker while it is away.

    Raises:
        ValueError: the address is none.
        OSError: the password cannot be read.
    """
    host, port, is_tls = broker_of(address)
    password = _secret(access.password_path) if access.password_path else None
    tls = aiomqtt.TLSParameters(
        ca_certs=access.ca_path or None,
        certfile=access.certificate_path or None,
        keyfile=access.key_path or None,
    )
    client = aiomqtt.Client(
        host,
        port,
        identifier=opening.client_id,
        username=access.user or None,
        password=password,
        protocol=aiomqtt.ProtocolVersion.V311,
        clean_session=not is_persistent,
        will=aiomqtt.Will(opening.will_topic, opening.will, QOS, True) if opening.will_topic else None,
        keepalive=KEEPALIVE_S,
        timeout=ANSWER_SECONDS_MAX,
        max_queued_incoming_messages=incoming_max,
        max_inflight_messages=IN_FLIGHT_MAX,
        tls_params=tls if is_tls else None,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        logger=_logger(),
    )
    client.pending_calls_threshold = PENDING_CALLS_MAX
    return client


@contextlib.asynccontextmanager
async def connected(client: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """`async with client`, and nothing of it left behind however it ends: aiomqtt leaves the socket of an attempt that
    was not answered open and watched, and the error of an end that nobody waited for to be reported by the loop.
    """
    try:
        async with client:
            yield client
    finally:
        client._client._sock_close()  # noqa: SLF001
        ended = client._disconnected  # noqa: SLF001
        if ended.done() and not ended.cancelled():
            ended.exception()


def _secret(path: str) -> str:
    data = Path(path).read_bytes()
    if len(data) > PASSWORD_BYTES_MAX:
        raise OSError(f"{path}: no password of {len(data)} bytes")
    return data.decode().rstrip("\r\n")


def _logger() -> logging.Logger:
    """What aiomqtt has to say goes nowhere: the ends of sessions are told as errors."""
    made = logging.getLogger("onecard.bus")
    if not made.handlers:
        made.addHandler(logging.NullHandler())
        made.propagate = False
    return made


class _RealSession:
    """One client's session; a task of its own from attempt to end."""

    def __init__(self, bus: RealBus, address: str, opening: BusOpening, handler: BusHandler) -> None:
        self._bus = bus
        self._address = address
        self._opening = opening
        self._handler = handler
        self._client: aiomqtt.Client | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._unacknowledged_bytes = 0
        self._closing = asyncio.Event()
        self._is_aborted = False
        self._is_over = False

    # -- BusSession

    def publish(self, topic: str, payload: bytes, *, retain: bool, done: Callable[[], None]) -> None:
        client = self._client
        if client is None or self._is_over or self._is_aborted:
            return
        self._unacknowledged_bytes += len(payload) + MESSAGE_OVERHEAD_BYTES
        work = self._publish(client, topic, payload, retain=retain, done=done)
        task = asyncio.get_running_loop().create_task(work, name="bus publish")
        self._publishing.add(task)
        task.add_done_callback(self._published)

    def unacknowledged_bytes(self) -> int:
        return self._unacknowledged_bytes

    def close(self) -> None:
        self._closing.set()

    def abort(self) -> None:
        self._is_aborted = True
        self._closing.set()

    def let_go(self) -> None:
        """The process ends, and the shell with it: tell it nothing more."""
        self._handler = _NOBODY
        self.close()

    # -- inside

    async def _publish(
        self, client: aiomqtt.Client, topic: str, payload: bytes, *, retain: bool, done: Callable[[], None]
    ) -> None:
        try:
            await client.publish(topic, payload, QOS, retain, timeout=math.inf)
        except aiomqtt.MqttError:
            return  # the session is ending, and says so itself
        self._unacknowledged_bytes -= len(payload) + MESSAGE_OVERHEAD_BYTES
        if not self._is_over:
            self._guarded(done)

    def _published(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._bus.failed(error)

    async def run(self) -> None:
        """From attempt to end; the handler hears of everything."""
        error: Exception | None = None
        try:
            client = client_of(self._address, self._bus.access, self._opening)
            async with connected(client):
                await self._subscribe(client)
                self._client = client
                self._guarded(self._handler.opened)
                await self._serve(client)
        except (aiomqtt.MqttError, OSError, ValueError) as raised:
            error = raised if isinstance(raised, OSError) else BusError(str(raised))
        finally:
            self._is_over = True
            self._client = None
            for task in list(self._publishing):
                task.cancel()
        handler, self._handler = self._handler, _NOBODY
        self._guarded(lambda: handler.closed(error))

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        granted = await client.subscribe([(topic, QOS) for topic in self._opening.subscriptions])
        for topic, code in zip(self._opening.subscriptions, granted, strict=True):
            if (code if isinstance(code, int) else int(getattr(code, "value", DENIED))) >= DENIED:
                raise BusError(f"the broker does not let us read {topic}")

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Until the session breaks (raises) or is to be closed."""
        loop = asyncio.get_running_loop()
        listening = loop.create_task(self._listen(client), name="bus listen")
        closing = loop.create_task(self._closing.wait(), name="bus close")
        try:
            await asyncio.wait({listening, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.done() and not listening.done():
                if self._is_aborted:
                    _break(client)
                elif self._publishing:
                    await asyncio.wait(set(self._publishing), timeout=GOODBYE_SECONDS_MAX)
        finally:
            closing.cancel()
            if not listening.done():
                listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            self._message(str(message.topic), payload, is_retained=message.retain)

    def _message(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        if not self._is_over and not self._is_aborted:
            self._guarded(lambda: self._handler.message(topic, payload, is_retained))

    def _guarded(self, call: Callable[[], None]) -> None:
        """A bug in a callback ends the process; no client library may take it for the network's trouble."""
        try:
            call()
        except Exception as error:  # noqa: BLE001
            self._bus.failed(error)


class RealBus:
    """`Bus` with one way to show itself."""

    def __init__(self, access: BusAccess, *, failed: Failed) -> None:
        self.access = access
        self.failed = failed
        self._tasks: dict[asyncio.Task[None], _RealSession] = {}

    def connect(self, address: str, opening: BusOpening, handler: BusHandler) -> _RealSession:
        session = _RealSession(self, address, opening, handler)
        task = asyncio.get_running_loop().create_task(session.run(), name=f"bus {opening.client_id}")
        self._tasks[task] = session
        task.add_done_callback(self._ended)
        return session

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failed(error)

    async def close(self) -> None:
        """End every session, with a goodbye where it was said; waits for attempts under way."""
        for session in self._tasks.values():
            session.let_go()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2 * ANSWER_SECONDS_MAX)


def _break(client: aiomqtt.Client) -> None:
    """End the connection without a word, so that the broker publishes the will."""
    stream = client._client.socket()  # noqa: SLF001 - aiomqtt has no way to end a session but politely
    if isinstance(stream, socket.socket):
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)
