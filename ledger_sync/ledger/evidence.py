"""Taking a row of records apart so that one bad record never blocks those behind it (R9, R19). Pure.

    for piece in pieces(row): …

A piece is one record's bytes, or, last, everything from the first length that cannot be followed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN, RECORD_BYTES_STEP
from protocol.records import LENGTH_OFFSET
from protocol.rows import PackedRow

PURCHASE_RECORD: Final = struct.Struct("!BBBBHHIIIQIq" + "II7sBIiIHBx8s" + "8s8s")
"""A whole purchase record (docs/protocol.md §7, §7.2): head, body, predecessor's seal, seal."""
PURCHASE_BYTES: Final = 96
assert PURCHASE_RECORD.size == PURCHASE_BYTES
SEALED_BYTES: Final = PURCHASE_BYTES - 8


@dataclass(slots=True)
class Piece:
    """A record of a row, or its unreadable rest (`is_rest`); `sequence` is the claimed one."""

    index: int
    sequence: int
    raw: bytes
    is_rest: bool = False


def pieces(row: PackedRow, *, offset: int = 0, index: int = 0) -> Iterator[Piece]:
    """The records of a row from the one numbered `index` at `offset`; at most as many as it has trade times.

    Bytes behind the last record are nobody's; the evidence keeps them, and no front-end of ours sends any.
    """
    payload = row.payload
    size = len(payload)
    count = len(row.trade_ms)
    while index < count:
        length = payload[offset + LENGTH_OFFSET] if size - offset >= RECORD_BYTES_MIN else 0
        is_readable = RECORD_BYTES_MIN <= length <= min(RECORD_BYTES_MAX, size - offset)
        if not is_readable or length % RECORD_BYTES_STEP:
            yield Piece(index, row.first + index, payload[offset:], is_rest=True)
            return
        yield Piece(index, row.first + index, payload[offset : offset + length])
        offset += length
        index += 1
