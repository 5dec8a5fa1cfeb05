"""Packed row: one accepted upload frame, as the spool stores it and the link carries it (docs/protocol.md §11.1). Pure.

offset size field
0      1    row kind
1      1    flags: bit 0 anchor known
2      2    epoch
4      4    terminal
8      4    first sequence
12     4    last sequence
16     8    received_ms
24     2    n, count of trade times
26     2    reserved
28     4    payload bytes
32     8n   trade_ms of each record
32+8n  …    payload
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from protocol.codes import RowKind
from protocol.errors import Malformed, OutOfRange
from protocol.limits import BODY_BYTES_MAX_TCP, RECORDS_PER_FRAME_MAX

HEADER: Final = struct.Struct("!BBHIIIQHHI")
assert HEADER.size == 32
_OWNER: Final = struct.Struct("!2xHI")
FLAG_ANCHOR_KNOWN: Final = 0x01
ROW_BYTES_MAX: Final = HEADER.size + 8 * RECORDS_PER_FRAME_MAX + BODY_BYTES_MAX_TCP

_TRADE_TIMES: Final = tuple(struct.Struct(f"!{count}Q") for count in range(RECORDS_PER_FRAME_MAX + 1))
_SINGLE: Final = struct.Struct(HEADER.format + "Q")
_RECORDS: Final = int(RowKind.RECORDS)
_KINDS: Final = frozenset(int(kind) for kind in RowKind)
_KINDS_OF_RECORDS: Final = frozenset({int(RowKind.RECORDS), int(RowKind.SUSPECT)})


class RowHead(NamedTuple):
    """The first 32 bytes."""

    kind: int
    flags: int
    epoch: int
    terminal: int
    first: int
    last: int
    received_ms: int
    records: int
    reserved: int
    payload_bytes: int


@dataclass(slots=True)
class PackedRow:
    """One row; for baselines `first` is first unacknowledged and `last` is next, and there are no trade times."""

    kind: int
    terminal: int
    epoch: int
    first: int
    last: int
    received_ms: int
    payload: bytes
    trade_ms: Sequence[int] = ()
    anchor_known: bool = False

    def encode(self) -> bytes:
        """The bytes of the row.

        Raises:
            OutOfRange: a value does not fit its field.
        """
        count = len(self.trade_ms)
        try:
            head = HEADER.pack(
                self.kind,
                FLAG_ANCHOR_KNOWN if self.anchor_known else 0,
                self.epoch,
                self.terminal,
                self.first,
                self.last,
                self.received_ms,
                count,
                0,
                len(self.payload),
            )
            return head + _TRADE_TIMES[count].pack(*self.trade_ms) + self.payload
        except (struct.error, IndexError) as error:
            raise OutOfRange(f"packed row: {error}") from error


def encode_single(epoch: int, terminal: int, sequence: int, received_ms: int, trade_ms: int, record: bytes) -> bytes:
    """`PackedRow.encode` of one record whose anchor is known, from values that fit: every live sale is packed here."""
    return (
        _SINGLE.pack(
            _RECORDS, FLAG_ANCHOR_KNOWN, epoch, terminal, sequence, sequence, received_ms, 1, 0, len(record), trade_ms
        )
        + record
    )


def peek(data: bytes | memoryview) -> RowHead:
    """The head of a row, unchecked but for its length.

    Raises:
        Malformed: shorter than a head.
    """
    if len(data) < HEADER.size:
        raise Malformed("packed row", "shorter than its head")
    return RowHead(*HEADER.unpack_from(data))


def owner(data: bytes | memoryview) -> tuple[int, int]:
    """(terminal, epoch) of a row that is known to have a head; an eighth of the price of `peek`."""
    epoch, terminal = _OWNER.unpack_from(data)
    return terminal, epoch


def decode(data: bytes | memoryview) -> PackedRow:
    """A row from exactly its bytes; records inside are not looked at.

    Raises:
        Malformed: any field breaks the layout.
    """
    head = peek(data)
    if head.kind not in _KINDS:
        raise Malformed("packed row", f"kind {head.kind:02X}", offset=0)
    if head.flags & ~FLAG_ANCHOR_KNOWN:
        raise Malformed("packed row", "reserved flags", offset=1)
    if not head.epoch or not head.terminal or not head.first:
        raise Malformed("packed row", "epoch, terminal or first sequence 0")
    if head.reserved:
        raise Malformed("packed row", "reserved field", offset=26)
    if head.first > head.last:
        raise Malformed("packed row", "first above last", offset=8)
    if head.records != (head.last - head.first + 1 if head.kind in _KINDS_OF_RECORDS else 0):
        raise Malformed("packed row", "count of trade times", offset=24)
    if head.records > RECORDS_PER_FRAME_MAX:
        raise Malformed("packed row", "too many records", offset=24)
    begin = HEADER.size + 8 * head.records
    if not 0 < head.payload_bytes <= BODY_BYTES_MAX_TCP or len(data) != begin + head.payload_bytes:
        raise Malformed("packed row", "payload length", offset=28)
    return PackedRow(
        kind=head.kind,
        terminal=head.terminal,
        epoch=head.epoch,
        first=head.first,
        last=head.last,
        received_ms=head.received_ms,
        payload=bytes(data[begin:]),
        trade_ms=_TRADE_TIMES[head.records].unpack_from(data, HEADER.size),
        anchor_known=bool(head.flags & FLAG_ANCHOR_KNOWN),
    )
