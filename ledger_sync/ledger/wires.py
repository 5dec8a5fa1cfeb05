"""The two kinds of connection that the ledger's server takes: front-ends on the link, operators on the admin socket.

    front-end: GREETING ──LINK_HELLO──▶ WELCOMING ──ledger asked──▶ UP ──▶ CLOSED         (any error: CLOSED)

A connection knows its state and its bounds, the service does the work: see `service`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol

from ledger_sync.ledger.admin import REQUEST_BYTES_MAX, parse_request, refusal
from protocol.codes import LinkType, RefusalCode
from protocol.errors import ProofError, RemoteError, UnexpectedMessage
from protocol.limits import BATCHES_OUTSTANDING_MAX
from protocol.link_messages import (
    LinkDecoder,
    LinkHello,
    ListRequest,
    Ping,
    Refusal,
    Report,
    Request,
    decode_up,
    verify_up,
)
from protocol.mac import MacKey
from protocol.ports import Stream

GREETING_MS_MAX: Final = 10_000  # from connection to LINK_HELLO
WRITE_BUFFER_BYTES_MAX: Final = 16 << 20  # a front-end that does not read: some lists and receipts, then it is cut off
REQUESTS_WAITING_MAX: Final = 16  # lines of one operator's connection
TYPE_OFFSET: Final = 1


class WireState(Enum):
    GREETING = "greeting"
    WELCOMING = "welcoming"
    UP = "up"
    CLOSED = "closed"


TRANSITIONS: Final[Mapping[WireState, frozenset[WireState]]] = {
    WireState.GREETING: frozenset({WireState.WELCOMING, WireState.CLOSED}),
    WireState.WELCOMING: frozenset({WireState.UP, WireState.CLOSED}),
    WireState.UP: frozenset({WireState.CLOSED}),
    WireState.CLOSED: frozenset(),
}


class LinkWork(Protocol):
    """What the service does for a front-end's connection."""

    def batch_key(self, frontend: int) -> MacKey | None: ...
    def opened(self, wire: FrontEndWire) -> bool: ...
    def greeted(self, wire: FrontEndWire, hello: LinkHello) -> None: ...
    def batch(self, wire: FrontEndWire, payload: bytes) -> None: ...
    def list_wanted(self, wire: FrontEndWire, request: ListRequest) -> None: ...
    def reported(self, wire: FrontEndWire, report: Report) -> None: ...
    def pinged(self, wire: FrontEndWire, ping: Ping) -> None: ...
    def asked(self, wire: FrontEndWire, request: Request) -> None: ...
    def faulty(self, wire: FrontEndWire, error: RemoteError) -> None: ...
    def gone(self, wire: FrontEndWire) -> None: ...
    def encoded(self, refusal: Refusal) -> bytes: ...


class FrontEndWire:
    """A `StreamHandler` for one front-end's connection."""

    def __init__(self, work: LinkWork) -> None:
        self._work = work
        self._decoder = LinkDecoder()
        self._stream: Stream | None = None
        self._key: MacKey | None = None
        self.state = WireState.GREETING
        self.frontend = 0
        self.since_ms = 0  # UTC of its greeting
        self.batches_outstanding = 0
        self.requests_outstanding = 0

    # -- StreamHandler

    def connected(self, stream: Stream) -> None:
        self._stream = stream
        if not self._work.opened(self):
            self.refuse(RefusalCode.TRY_LATER)

    def received(self, data: bytes) -> None:
        if self.state is WireState.CLOSED:
            return
        try:
            self._decoder.receive_data(data)
            for payload in self._decoder.payloads():
                self._take(payload)
                if self.state is WireState.CLOSED:  # type: ignore[comparison-overlap]  # `_take` may have ended it
                    return
        except RemoteError as error:
            self._work.faulty(self, error)
            self.refuse(refusal_code(error))

    def drained(self) -> None:
        """Nothing waits for it: what is sent is bounded by what is asked."""

    def closed(self, error: Exception | None) -> None:
        self._go(WireState.CLOSED)
        self._work.gone(self)

    # -- for the service

    def send(self, message: bytes) -> None:
        """Send a whole message; a peer that has stopped reading is cut off."""
        if self._stream is None or self.state is WireState.CLOSED:
            return
        self._stream.write(message)
        if self._stream.write_buffer_bytes() > WRITE_BUFFER_BYTES_MAX:
            self.end()

    def up(self) -> None:
        """LINK_WELCOME has been sent."""
        if self.state is WireState.WELCOMING:
            self._go(WireState.UP)

    def refuse(self, code: RefusalCode, first_row: int = 0) -> None:
        """Say REFUSAL and end the connection; idempotent."""
        if self.state is not WireState.CLOSED and self._stream is not None:
            self._stream.write(self._work.encoded(Refusal(code, first_row)))
        self.end()

    def end(self) -> None:
        """Close; idempotent."""
        if self.state is not WireState.CLOSED:
            self._go(WireState.CLOSED)
            if self._stream is not None:
                self._stream.close()

    # -- inside

    def _take(self, payload: bytes) -> None:
        if payload[TYPE_OFFSET] == LinkType.BATCH and self.state is WireState.UP:
            if self.batches_outstanding >= BATCHES_OUTSTANDING_MAX:
                raise UnexpectedMessage(f"more than {BATCHES_OUTSTANDING_MAX} batches outstanding")
            self.batches_outstanding += 1
            self._work.batch(self, payload)  # MAC and digest are checked beside the database: a megabyte of hashing
            return
        message = decode_up(payload)
        if self.state is WireState.GREETING and isinstance(message, LinkHello):
            key = self._work.batch_key(message.frontend)
            if key is None:
                raise ProofError(f"front-end {message.frontend} is not known")
            verify_up(payload, key)
            self._key, self.frontend = key, message.frontend
            self._go(WireState.WELCOMING)
            self._work.greeted(self, message)
            return
        if self.state is not WireState.UP or self._key is None:
            raise UnexpectedMessage(f"link message {payload[TYPE_OFFSET]:#04x} while {self.state.value}")
        verify_up(payload, self._key)
        if isinstance(message, ListRequest):
            self._work.list_wanted(self, message)
        elif isinstance(message, Report):
            self._work.reported(self, message)
        elif isinstance(message, Ping):
            self._work.pinged(self, message)
        elif isinstance(message, Request):
            self._work.asked(self, message)
        else:
            raise UnexpectedMessage("a second LINK_HELLO")

    def _go(self, state: WireState) -> None:
        if state is not self.state:
            assert state in TRANSITIONS[self.state]
            self.state = state


def refusal_code(error: RemoteError) -> RefusalCode:
    """What a front-end is told of its own error."""
    return RefusalCode.UNKNOWN_FRONTEND if isinstance(error, ProofError) else RefusalCode.MALFORMED


class AdminWork(Protocol):
    """What the service does for an operator's connection."""

    def admin_opened(self, wire: AdminWire) -> bool: ...
    def requested(self, wire: AdminWire, request: object) -> None: ...
    def admin_gone(self, wire: AdminWire) -> None: ...


class AdminWire:
    """A `StreamHandler` for JSON lines: requests are answered one at a time, in order."""

    def __init__(self, work: AdminWork) -> None:
        self._work = work
        self._stream: Stream | None = None
        self._buffer = bytearray()
        self._waiting: deque[bytes] = deque()
        self._is_busy = False
        self._is_closed = False

    def connected(self, stream: Stream) -> None:
        self._stream = stream
        if not self._work.admin_opened(self):
            self.answer(refusal("busy", "too many connections"))
            self.end()

    def received(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._buffer += data
        *lines, rest = bytes(self._buffer).split(b"\n") if b"\n" in data else (self._buffer,)
        self._buffer = bytearray(rest)
        self._waiting.extend(line for line in lines if line.strip())
        if len(self._buffer) > REQUEST_BYTES_MAX or len(self._waiting) > REQUESTS_WAITING_MAX:
            self.answer(refusal("usage", "a request too long, or too many at once"))
            self.end()
            return
        self._next()

    def drained(self) -> None:
        """Nothing waits for it."""

    def closed(self, error: Exception | None) -> None:
        self._is_closed = True
        self._work.admin_gone(self)

    def answer(self, answer: dict[str, Any]) -> None:
        """Answer the present request and go on to the next."""
        self._is_busy = False
        if self._stream is not None and not self._is_closed:
            self._stream.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        self._next()

    def end(self) -> None:
        """Close; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            if self._stream is not None:
                self._stream.close()

    def _next(self) -> None:
        if self._waiting and not self._is_busy and not self._is_closed:
            self._is_busy = True
            self._work.requested(self, parse_request(self._waiting.popleft()))
