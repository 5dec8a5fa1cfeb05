"""REQUEST and ANSWER of the link, their bodies (docs/protocol.md §11.5). Pure.

A question of the front-end that somebody waits for. Both carry the same correlation and the same moment after which
nobody wants the answer any more; whoever reads one later drops it. Which kinds there are: protocol.codes.RequestKind;
a ledger that does not know a kind says so, so a newer front-end finds out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from protocol.codes import AnswerStatus
from protocol.errors import Malformed, OutOfRange
from protocol.limits import REQUEST_BODY_BYTES_MAX
from protocol.link_fields import exact, unpacked

CORRELATION_BYTES: Final = 16
_REQUEST: Final = struct.Struct("!16sQBBH")
assert _REQUEST.size == 28


@dataclass(slots=True)
class Request:
    """REQUEST `06`; `kind` may be one that this version does not know."""

    correlation: bytes
    expires_ms: int
    kind: int
    body: bytes


@dataclass(slots=True)
class Answer:
    """ANSWER `87`: correlation, expiry and kind of the REQUEST."""

    correlation: bytes
    expires_ms: int
    kind: int
    status: AnswerStatus
    body: bytes


def encode_request(request: Request) -> bytes:
    return _encoded(request, 0)


def decode_request(body: memoryview) -> Request:
    correlation, expires_ms, kind, reserved, content = _decoded(body, "REQUEST")
    if reserved:
        raise Malformed("REQUEST", "reserved byte is not zero", offset=25)
    return Request(correlation, expires_ms, kind, content)


def encode_answer(answer: Answer) -> bytes:
    return _encoded(answer, answer.status)


def decode_answer(body: memoryview) -> Answer:
    correlation, expires_ms, kind, status, content = _decoded(body, "ANSWER")
    try:
        return Answer(correlation, expires_ms, kind, AnswerStatus(status), content)
    except ValueError:
        raise Malformed("ANSWER", f"status {status}", offset=25) from None


def _encoded(message: Request | Answer, second: int) -> bytes:
    size = len(message.body)
    if size > REQUEST_BODY_BYTES_MAX:
        raise OutOfRange(f"{size} bytes in a request or answer, at most {REQUEST_BODY_BYTES_MAX}")
    correlation = exact(message.correlation, CORRELATION_BYTES)
    return _REQUEST.pack(correlation, message.expires_ms, message.kind, second, size) + message.body


def _decoded(body: memoryview, what: str) -> tuple[bytes, int, int, int, bytes]:
    correlation, expires_ms, kind, second, size = unpacked(_REQUEST, body[: _REQUEST.size], what)
    content = bytes(body[_REQUEST.size :])
    if size != len(content) or size > REQUEST_BODY_BYTES_MAX:
        raise Malformed(what, f"{len(content)} bytes of body, {size} stated", offset=26)
    return correlation, expires_ms, kind, second, content
