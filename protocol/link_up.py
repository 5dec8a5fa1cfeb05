"""Messages of a front-end to the ledger, their bodies (docs/protocol.md §11.2). Pure.

BATCH has a module of its own, protocol.link_batch. Proofs and envelope: protocol.link_messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.codes import LinkType, ReportKind
from protocol.errors import Malformed, OutOfRange
from protocol.limits import REPORT_TEXT_BYTES_MAX
from protocol.link_batch import SPOOL_ID_BYTES, BatchMessage, decode_batch
from protocol.link_fields import NONCE_BYTES, Encoder, check_reserved, decode_nonce, exact, unpacked
from protocol.link_requests import Request, decode_request, encode_request

_HELLO: Final = struct.Struct("!I16sQQ16sIQ")
_LIST_REQUEST: Final = struct.Struct("!B3sII")
_REPORT: Final = struct.Struct("!IB3sH")
assert (_HELLO.size, _LIST_REQUEST.size, _REPORT.size) == (64, 12, 10)


@dataclass(slots=True)
class LinkHello:
    """LINK_HELLO `01`: who speaks, from which spool, and up to where it knows the ledger."""

    frontend: int
    spool_id: bytes
    spool_birth_ms: int
    last_row: int
    """0: the spool holds none."""
    nonce: bytes
    ledger_generation: int
    ledger_position: int


@dataclass(slots=True)
class ListRequest:
    """LIST_REQUEST `03`; version (0, 0): holds none."""

    kind: int
    generation: int
    counter: int


@dataclass(slots=True)
class Report:
    """REPORT `04`: something about one terminal that the ledger's operator must know."""

    terminal: int
    kind: ReportKind
    text: str


@dataclass(slots=True)
class Ping:
    """PING `05`."""

    nonce: bytes


UpMessage = LinkHello | BatchMessage | ListRequest | Report | Ping | Request


def _encode_hello(hello: LinkHello) -> bytes:
    return _HELLO.pack(
        hello.frontend,
        exact(hello.spool_id, SPOOL_ID_BYTES),
        hello.spool_birth_ms,
        hello.last_row,
        exact(hello.nonce, NONCE_BYTES),
        hello.ledger_generation,
        hello.ledger_position,
    )


def _decode_hello(body: memoryview) -> LinkHello:
    hello = LinkHello(*unpacked(_HELLO, body, "LINK_HELLO"))
    if hello.frontend == 0:
        raise Malformed("LINK_HELLO", "front-end 0", offset=0)
    return hello


def _encode_list_request(request: ListRequest) -> bytes:
    return _LIST_REQUEST.pack(request.kind, b"", request.generation, request.counter)


def _decode_list_request(body: memoryview) -> ListRequest:
    kind, reserved, generation, counter = unpacked(_LIST_REQUEST, body, "LIST_REQUEST")
    check_reserved(reserved, "LIST_REQUEST", 1)
    return ListRequest(kind, generation, counter)


def _encode_report(report: Report) -> bytes:
    text = report.text.encode()
    if len(text) > REPORT_TEXT_BYTES_MAX:
        raise OutOfRange(f"a report text of {len(text)} bytes, at most {REPORT_TEXT_BYTES_MAX}")
    return _REPORT.pack(report.terminal, report.kind, b"", len(text)) + text


def _decode_report(body: memoryview) -> Report:
    terminal, kind, reserved, text_bytes = unpacked(_REPORT, body[: _REPORT.size], "REPORT")
    check_reserved(reserved, "REPORT", 5)
    text = bytes(body[_REPORT.size :])
    if text_bytes != len(text) or text_bytes > REPORT_TEXT_BYTES_MAX:
        raise Malformed("REPORT", "a text of another length", offset=8)
    if terminal == 0:
        raise Malformed("REPORT", "terminal 0", offset=0)
    try:
        return Report(terminal, ReportKind(kind), text.decode())
    except ValueError:  # UnicodeDecodeError is one
        raise Malformed("REPORT", "unknown kind, or text that is not UTF-8", offset=4) from None


def _decode_ping(body: memoryview) -> Ping:
    return Ping(decode_nonce(body, "PING"))


def _encode_ping(ping: Ping) -> bytes:
    return exact(ping.nonce, NONCE_BYTES)


UP_ENCODERS: Final[Mapping[type, tuple[LinkType, Encoder]]] = {
    LinkHello: (LinkType.HELLO, _encode_hello),
    ListRequest: (LinkType.LIST_REQUEST, _encode_list_request),
    Report: (LinkType.REPORT, _encode_report),
    Ping: (LinkType.PING, _encode_ping),
    Request: (LinkType.REQUEST, encode_request),
}
UP_DECODERS: Final[Mapping[LinkType, Callable[[memoryview], UpMessage]]] = {
    LinkType.HELLO: _decode_hello,
    LinkType.BATCH: decode_batch,
    LinkType.LIST_REQUEST: _decode_list_request,
    LinkType.REPORT: _decode_report,
    LinkType.PING: _decode_ping,
    LinkType.REQUEST: decode_request,
}
