"""Taking a row of records apart so that one bad record never blocks those behind it (R9, R19). Pure.

A piece is one record's bytes, or, last, everything from the first length that cannot be followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN, RECORD_BYTES_STEP
from protocol.record_bodies import Purchase
from protocol.records import LENGTH_OFFSET, RECORD_BYTES_WITHOUT_BODY
from protocol.rows import PackedRow

PURCHASE_BYTES: Final = RECORD_BYTES_WITHOUT_BODY + Purchase.LAYOUT.size
assert PURCHASE_BYTES == 96


@dataclass(slots=True)
class Piece:
    """A record of a row, or its unreadable rest (`is_rest`); `sequence` is the claimed one."""

    index: int
    sequence: int
    raw: bytes
    is_rest: bool = False


def piece_at(row: PackedRow, index: int, offset: int) -> Piece:
    """Record `index` of a row, at `offset`; a row has as many as it has trade times.

    Bytes behind the last record are nobody's; the evidence keeps them, and no front-end of ours sends any.
    """
    payload = row.payload
    left = len(payload) - offset
    length = payload[offset + LENGTH_OFFSET] if left >= RECORD_BYTES_MIN else 0
    if not RECORD_BYTES_MIN <= length <= min(RECORD_BYTES_MAX, left) or length % RECORD_BYTES_STEP:
        return Piece(index, row.first + index, payload[offset:], is_rest=True)
    return Piece(index, row.first + index, payload[offset : offset + length])
