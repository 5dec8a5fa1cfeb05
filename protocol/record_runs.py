"""The short way of a backlog: a frame of records alike, read without columns of what they have in common. Pure.

Nearly every frame of a backlog holds sales of one boot, so all that differs between its records is what one glance at
five numbers each tells. What is taken so is what `records.summarise` makes of it; None: that must be asked.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol.codes import RECORD_TYPES_FORBIDDEN
from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN, RECORD_BYTES_STEP, RECORDS_PER_FRAME_MAX
from protocol.records import AMOUNT_OFFSET, BODY_VERSION, LENGTH_OFFSET, SIGNS, UPTIME_OFFSET

Run = tuple[int, int, int, int, tuple[int, ...], int]
"""Type, boot, first and last sequence, uptimes, and what the amounts add to a total."""

_COLUMNS: Final = 4
_AFTER_AMOUNT: Final = AMOUNT_OFFSET + 4
_LAYOUTS: Final = {
    length: tuple(
        # type to boot as one number, terminal ‖ sequence as another, uptime, amount (noise where there is none)
        struct.Struct("!" + f"QQI{AMOUNT_OFFSET - UPTIME_OFFSET - 4}xI{length - _AFTER_AMOUNT}x" * count)
        for count in range(RECORDS_PER_FRAME_MAX + 1)
    )
    for length in range(RECORD_BYTES_MIN, RECORD_BYTES_MAX + 1, RECORD_BYTES_STEP)
}
_TYPE_SHIFT: Final = 56
_VERSION_SHIFT: Final = 32
_EPOCH_SHIFT: Final = 16
_TERMINAL_SHIFT: Final = 32


def read_run(payload: bytes, terminal: int, epoch: int) -> Run | None:
    """What a frame of at least two records says, where all are of that terminal and epoch, one type, length, proof
    suite, boot and the known body version, with consecutive sequences. None: it is not so.
    """
    length = payload[LENGTH_OFFSET]
    layouts = _LAYOUTS.get(length)
    if layouts is None:
        return None
    count, rest = divmod(len(payload), length)
    if rest or not 1 < count <= RECORDS_PER_FRAME_MAX:
        return None
    values = layouts[count].unpack(payload)
    alike, origin = values[0], values[1]
    last = origin + count - 1
    if (
        values[::_COLUMNS].count(alike) != count
        or values[1::_COLUMNS] != tuple(range(origin, last + 1))
        or origin >> _TERMINAL_SHIFT != terminal
        or last >> _TERMINAL_SHIFT != terminal  # sequences do not go on behind their highest
        or not origin & 0xFFFF_FFFF
        or alike >> _EPOCH_SHIFT & 0xFFFF != epoch
        or alike >> _VERSION_SHIFT & 0xFF != BODY_VERSION
    ):
        return None
    kind = alike >> _TYPE_SHIFT
    if kind in RECORD_TYPES_FORBIDDEN:
        return None
    cents = SIGNS[length][kind] * sum(values[3::_COLUMNS])
    return kind, alike & 0xFFFF, origin & 0xFFFF_FFFF, last & 0xFFFF_FFFF, values[2::_COLUMNS], cents
