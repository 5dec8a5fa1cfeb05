"""Messages of a front-end (docs/protocol.md §6.2). Pure; heads and certificates are carried as raw bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from protocol.codes import ByeCode, ListForm, ListKind, MessageType
from protocol.errors import OutOfRange
from protocol.layout import Buffer, code, fixed_bytes, pack, require, unpack, unpack_head
from protocol.limits import ACK_RANGES_MAX, CREDIT_MAX
from protocol.messages_up import HEAD_BYTES

CERTIFICATE_BYTES: Final = 120  # §10

_SEAL_QUERY: Final = struct.Struct("!BBHI")
_ACK: Final = struct.Struct("!BBHIIBBH")
_RANGE: Final = struct.Struct("!II")
_RECOLLECT: Final = struct.Struct("!BBHII")
_TIME: Final = struct.Struct("!BBHIQ")
_LIST_OFFER: Final = struct.Struct("!BBHIII128s120s")
_LIST_CHUNK: Final = struct.Struct("!BBHIII")
_BYE: Final = struct.Struct("!BB")
assert (_SEAL_QUERY.size, _ACK.size, _RANGE.size, _RECOLLECT.size) == (8, 16, 8, 12)
assert (_TIME.size, _LIST_OFFER.size, _LIST_CHUNK.size, _BYE.size) == (16, 264, 16, 2)

LIST_OFFER_HEAD_BYTES: Final = _LIST_OFFER.size
LIST_CHUNK_HEAD_BYTES: Final = _LIST_CHUNK.size
KEPT_AS_SUSPECT: Final = 0x01
DENY_LIST_CURRENT: Final = 0x01
_ACK_TYPE: Final = int(MessageType.ACK)  # a plain number packs at half the price


@dataclass(slots=True)
class SealQuery:
    """Which seal has your record of this sequence? (R7)"""

    epoch: int
    sequence: int

    def encode(self) -> bytes:
        return pack(_SEAL_QUERY, "SEAL_QUERY", MessageType.SEAL_QUERY, 0, self.epoch, self.sequence)

    @classmethod
    def decode(cls, body: Buffer) -> SealQuery:
        what = "SEAL_QUERY"
        _, reserved, epoch, sequence = unpack(_SEAL_QUERY, what, body)
        require(reserved == 0, what, "reserved field is not zero")
        require(epoch > 0 and sequence > 0, what, "epoch or sequence is 0")
        return cls(epoch, sequence)


@dataclass(slots=True)
class Ack:
    """Two watermarks of one epoch and what is durable above them (R8); sent after the commit."""

    epoch: int
    durable: int
    settled: int
    credit: int
    """UPLOAD frames that may be outstanding from now; 0 = wait."""
    kept_as_suspect: bool = False
    ranges: tuple[tuple[int, int], ...] = field(default=())
    """(first, last) durable above `durable`, ascending and disjoint; at most 4."""

    def encode(self) -> bytes:
        if len(self.ranges) > ACK_RANGES_MAX or not 0 <= self.credit <= CREDIT_MAX:
            raise OutOfRange(f"ACK with {len(self.ranges)} ranges and credit {self.credit}")
        head = pack(
            _ACK,
            "ACK",
            _ACK_TYPE,
            len(self.ranges),
            self.epoch,
            self.durable,
            self.settled,
            self.credit,
            KEPT_AS_SUSPECT if self.kept_as_suspect else 0,
            0,
        )
        if not self.ranges:
            return head
        return b"".join((head, *(pack(_RANGE, "ACK range", first, last) for first, last in self.ranges)))

    @classmethod
    def decode(cls, body: Buffer) -> Ack:
        what = "ACK"
        _, count, epoch, durable, settled, credit, flags, reserved = unpack_head(_ACK, what, body)
        require(count <= ACK_RANGES_MAX, what, "more ranges than may be")
        require(len(body) == _ACK.size + count * _RANGE.size, what, "length does not fit the ranges")
        require(flags & ~KEPT_AS_SUSPECT == 0 and reserved == 0, what, "a reserved field is not zero")
        require(credit <= CREDIT_MAX, what, "credit above the window")
        require(epoch > 0, what, "epoch 0")
        ranges = tuple(_RANGE.iter_unpack(body[_ACK.size :]))
        before = durable + 1
        for first, last in ranges:
            require(before < first <= last, what, "ranges are not ascending, disjoint and above durable")
            before = last
        return cls(epoch, durable, settled, credit, flags != 0, ranges)


def plain_ack(epoch: int, durable: int, settled: int, credit: int) -> bytes:
    """`Ack.encode` of one without ranges and doubts, from values that fit; nearly every ACK is one."""
    return _ACK.pack(_ACK_TYPE, 0, epoch, durable, settled, credit, 0, 0)


@dataclass(slots=True)
class Recollect:
    """Offer these records again (补采), tombstones for those you cannot read (R9)."""

    epoch: int
    first: int
    last: int

    def encode(self) -> bytes:
        return pack(_RECOLLECT, "RECOLLECT", MessageType.RECOLLECT, 0, self.epoch, self.first, self.last)

    @classmethod
    def decode(cls, body: Buffer) -> Recollect:
        what = "RECOLLECT"
        _, reserved, epoch, first, last = unpack(_RECOLLECT, what, body)
        require(reserved == 0, what, "reserved field is not zero")
        require(epoch > 0 and 0 < first <= last, what, "epoch is 0 or sequences out of order")
        return cls(epoch, first, last)


@dataclass(slots=True)
class Time:
    """UTC, with the boot and uptime of the HEARTBEAT that it answers."""

    boot: int
    uptime_ds: int
    utc_ms: int
    deny_list_current: bool = False
    """The deny list that this session has reported is the newest that the ledger has issued (R28)."""

    def encode(self) -> bytes:
        flags = DENY_LIST_CURRENT if self.deny_list_current else 0
        return pack(_TIME, "TIME", MessageType.TIME, flags, self.boot, self.uptime_ds, self.utc_ms)

    @classmethod
    def decode(cls, body: Buffer) -> Time:
        _, flags, boot, uptime_ds, utc_ms = unpack(_TIME, "TIME", body)
        require(flags & ~DENY_LIST_CURRENT == 0, "TIME", "a reserved flag is set")
        return cls(boot, uptime_ds, utc_ms, flags != 0)


@dataclass(slots=True)
class ListOffer:
    """A version to take, and the first part of its transfer (R27, R28)."""

    form: ListForm
    base_generation: int
    base_counter: int
    transfer_bytes: int
    head: bytes
    certificate: bytes
    data: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        return (
            pack(
                _LIST_OFFER,
                "LIST_OFFER",
                MessageType.LIST_OFFER,
                self.form,
                0,
                self.base_generation,
                self.base_counter,
                self.transfer_bytes,
                fixed_bytes(self.head, HEAD_BYTES, "a signed head"),
                fixed_bytes(self.certificate, CERTIFICATE_BYTES, "a certificate"),
            )
            + self.data
        )

    @classmethod
    def decode(cls, body: Buffer) -> ListOffer:
        what = "LIST_OFFER"
        _, form, reserved, generation, counter, transfer, head, certificate = unpack_head(_LIST_OFFER, what, body)
        form = code(ListForm, form, what, 1)
        require(reserved == 0, what, "reserved field is not zero")
        require(form is ListForm.DELTA or generation == counter == 0, what, "a snapshot with a base")
        data = bytes(body[_LIST_OFFER.size :])
        require(len(data) <= transfer, what, f"{len(data)} bytes of a transfer of {transfer}")
        return cls(form, generation, counter, transfer, head, certificate, data)


@dataclass(slots=True)
class ListChunk:
    """The next part of a transfer; chunks follow each other without holes."""

    kind: int
    """A `ListKind`."""
    generation: int
    counter: int
    offset: int
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        facts = (MessageType.LIST_CHUNK, self.kind, 0, self.generation, self.counter, self.offset)
        return pack(_LIST_CHUNK, "LIST_CHUNK", *facts) + self.data

    @classmethod
    def decode(cls, body: Buffer) -> ListChunk:
        what = "LIST_CHUNK"
        _, kind, reserved, generation, counter, offset = unpack_head(_LIST_CHUNK, what, body)
        require(reserved == 0, what, "reserved field is not zero")
        require(len(body) > _LIST_CHUNK.size, what, "no data")
        return cls(code(ListKind, kind, what, 1), generation, counter, offset, bytes(body[_LIST_CHUNK.size :]))


@dataclass(slots=True)
class ByeDown:
    """The front-end ends the session."""

    code: ByeCode

    def encode(self) -> bytes:
        return _BYE.pack(MessageType.BYE_DOWN, self.code)

    @classmethod
    def decode(cls, body: Buffer) -> ByeDown:
        _, bye_code = unpack(_BYE, "BYE", body)
        return cls(code(ByeCode, bye_code, "BYE", 1))


DownMessage = SealQuery | Ack | Recollect | Time | ListOffer | ListChunk | ByeDown
