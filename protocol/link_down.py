"""Messages of the ledger to a front-end, their bodies (docs/protocol.md §11.2, §11.4). Pure.

Proofs and envelope: protocol.link_messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.codes import LinkType, ListForm, RefusalCode
from protocol.errors import Malformed, OutOfRange
from protocol.limits import RECEIPT_EXCEPTIONS_MAX
from protocol.link_batch import BatchName
from protocol.link_fields import NONCE_BYTES, Encoder, check_reserved, decode_nonce, exact, unpacked
from protocol.link_requests import Answer, decode_answer, encode_answer
from protocol.signed import CERTIFICATE_BYTES, DIGEST_BYTES, HEAD_BYTES, NO_VERSION

_WELCOME: Final = struct.Struct("!IIQ16sQ120s")
_RECEIPT: Final = struct.Struct("!68sIQ32sIIIqHH")
_EXCEPTION: Final = struct.Struct("!IHBBII")
_LIST: Final = struct.Struct("!B3sIII128s120s")
_RECOLLECT: Final = struct.Struct("!IHHII")
_REFUSAL: Final = struct.Struct("!B3sQ")
assert (_WELCOME.size, _RECEIPT.size, _EXCEPTION.size, _LIST.size) == (160, 136, 16, 264)
assert (_RECOLLECT.size, _REFUSAL.size) == (16, 12)


@dataclass(slots=True)
class LinkWelcome:
    """LINK_WELCOME `81`: the ledger's answer, signed by the key that `certificate` (120 bytes) certifies."""

    site: int
    generation: int
    position: int
    nonce: bytes
    utc_ms: int
    certificate: bytes


@dataclass(slots=True)
class ReceiptException:
    """One record that was not simply posted; `row_offset` = row id − first row of the batch."""

    terminal: int
    epoch: int
    result: int
    sequence: int
    row_offset: int


@dataclass(slots=True)
class Receipt:
    """RECEIPT `82`: what the ledger did with one batch; settles its rows if name and digest agree (R16)."""

    name: BatchName
    generation: int
    position: int
    chain_hash: bytes
    posted: int
    duplicates: int
    quarantined: int
    posted_cents: int
    exceptions: list[ReceiptException] = field(default_factory=list)
    exceptions_unlisted: int = 0


@dataclass(slots=True)
class ListMessage:
    """LIST `83`: a version of a list; head 128 bytes, certificate 120, both to be verified by the receiver."""

    form: ListForm
    base_generation: int
    base_counter: int
    head: bytes
    certificate: bytes
    data: bytes | memoryview


@dataclass(slots=True)
class RecollectRequest:
    """RECOLLECT_REQUEST `84`: the ledger misses these records (R9)."""

    terminal: int
    epoch: int
    first: int
    last: int


@dataclass(slots=True)
class Refusal:
    """REFUSAL `85`; `first_row` is the first row of the batch refused, 0 if it is about none."""

    code: RefusalCode
    first_row: int


@dataclass(slots=True)
class Pong:
    """PONG `86`."""

    nonce: bytes


DownMessage = LinkWelcome | Receipt | ListMessage | RecollectRequest | Refusal | Pong | Answer


def _encode_welcome(welcome: LinkWelcome) -> bytes:
    return _WELCOME.pack(
        welcome.site,
        welcome.generation,
        welcome.position,
        exact(welcome.nonce, NONCE_BYTES),
        welcome.utc_ms,
        exact(welcome.certificate, CERTIFICATE_BYTES),
    )


def _decode_welcome(body: memoryview) -> LinkWelcome:
    welcome = LinkWelcome(*unpacked(_WELCOME, body, "LINK_WELCOME"))
    if welcome.site == 0:
        raise Malformed("LINK_WELCOME", "site 0", offset=0)
    return welcome


def _encode_receipt(receipt: Receipt) -> bytes:
    exceptions = receipt.exceptions
    if len(exceptions) > RECEIPT_EXCEPTIONS_MAX:
        raise OutOfRange(f"{len(exceptions)} exceptions, at most {RECEIPT_EXCEPTIONS_MAX} in a receipt")
    head = _RECEIPT.pack(
        receipt.name.encode(),
        receipt.generation,
        receipt.position,
        exact(receipt.chain_hash, DIGEST_BYTES),
        receipt.posted,
        receipt.duplicates,
        receipt.quarantined,
        receipt.posted_cents,
        len(exceptions),
        receipt.exceptions_unlisted,
    )
    return head + b"".join(
        _EXCEPTION.pack(one.terminal, one.epoch, one.result, 0, one.sequence, one.row_offset) for one in exceptions
    )


def _decode_receipt(body: memoryview) -> Receipt:
    fixed = unpacked(_RECEIPT, body[: _RECEIPT.size], "RECEIPT")
    name, generation, position, chain, posted, duplicates, quarantined, cents, count, unlisted = fixed
    listed = body[_RECEIPT.size :]
    if count > RECEIPT_EXCEPTIONS_MAX or len(listed) != _EXCEPTION.size * count:
        raise Malformed("RECEIPT", f"{count} exceptions in {len(listed)} bytes", offset=132)
    exceptions = []
    for terminal, epoch, result, reserved, sequence, row_offset in _EXCEPTION.iter_unpack(listed):
        if reserved:
            raise Malformed("RECEIPT", "reserved byte of an exception is not zero")
        exceptions.append(ReceiptException(terminal, epoch, result, sequence, row_offset))
    return Receipt(
        BatchName.decode(name),
        generation,
        position,
        chain,
        posted,
        duplicates,
        quarantined,
        cents,
        exceptions,
        unlisted,
    )


def _encode_list(message: ListMessage) -> bytes:
    fixed = _LIST.pack(
        message.form,
        b"",
        message.base_generation,
        message.base_counter,
        len(message.data),
        exact(message.head, HEAD_BYTES),
        exact(message.certificate, CERTIFICATE_BYTES),
    )
    return b"".join((fixed, message.data))


def _decode_list(body: memoryview) -> ListMessage:
    fields = unpacked(_LIST, body[: _LIST.size], "LIST")
    form, reserved, generation, counter, transfer_bytes, head, certificate = fields
    check_reserved(reserved, "LIST", 1)
    if form not in (ListForm.SNAPSHOT, ListForm.DELTA):
        raise Malformed("LIST", f"form {form}", offset=0)
    if form == ListForm.SNAPSHOT and (generation, counter) != NO_VERSION:
        raise Malformed("LIST", "a snapshot with a base", offset=4)
    data = body[_LIST.size :]
    if transfer_bytes != len(data):
        raise Malformed("LIST", f"{len(data)} bytes of data, {transfer_bytes} stated", offset=12)
    return ListMessage(ListForm(form), generation, counter, head, certificate, bytes(data))


def _encode_recollect(request: RecollectRequest) -> bytes:
    return _RECOLLECT.pack(request.terminal, request.epoch, 0, request.first, request.last)


def _decode_recollect(body: memoryview) -> RecollectRequest:
    terminal, epoch, reserved, first, last = unpacked(_RECOLLECT, body, "RECOLLECT_REQUEST")
    if reserved:
        raise Malformed("RECOLLECT_REQUEST", "reserved field is not zero", offset=6)
    if terminal == 0 or epoch == 0 or not 1 <= first <= last:
        raise Malformed("RECOLLECT_REQUEST", "not a range of records")
    return RecollectRequest(terminal, epoch, first, last)


def _encode_refusal(refusal: Refusal) -> bytes:
    return _REFUSAL.pack(refusal.code, b"", refusal.first_row)


def _decode_refusal(body: memoryview) -> Refusal:
    code, reserved, first_row = unpacked(_REFUSAL, body, "REFUSAL")
    check_reserved(reserved, "REFUSAL", 1)
    try:
        return Refusal(RefusalCode(code), first_row)
    except ValueError:
        raise Malformed("REFUSAL", f"code {code}", offset=0) from None


def _decode_pong(body: memoryview) -> Pong:
    return Pong(decode_nonce(body, "PONG"))


def _encode_pong(pong: Pong) -> bytes:
    return exact(pong.nonce, NONCE_BYTES)


DOWN_ENCODERS: Final[Mapping[type, tuple[LinkType, Encoder]]] = {
    LinkWelcome: (LinkType.WELCOME, _encode_welcome),
    Receipt: (LinkType.RECEIPT, _encode_receipt),
    ListMessage: (LinkType.LIST, _encode_list),
    RecollectRequest: (LinkType.RECOLLECT_REQUEST, _encode_recollect),
    Refusal: (LinkType.REFUSAL, _encode_refusal),
    Pong: (LinkType.PONG, _encode_pong),
    Answer: (LinkType.ANSWER, encode_answer),
}
DOWN_DECODERS: Final[Mapping[LinkType, Callable[[memoryview], DownMessage]]] = {
    LinkType.WELCOME: _decode_welcome,
    LinkType.RECEIPT: _decode_receipt,
    LinkType.LIST: _decode_list,
    LinkType.RECOLLECT_REQUEST: _decode_recollect,
    LinkType.REFUSAL: _decode_refusal,
    LinkType.PONG: _decode_pong,
    LinkType.ANSWER: decode_answer,
}
