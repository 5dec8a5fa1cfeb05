"""Rows first, tables later: what rows add to ranges, totals and runs is written for many rows at once (docs/spool.md).

A row is durable in the transaction that stores it, and tells what it adds to the ranges; what it adds to the totals is
counted in that transaction too, as an entry (R15: the site's time zone of that moment). So the tables may lag behind
the rows: whoever reads them adds what stands above them.

    append ─▶ rows, counted ── FOLD_ROWS_MAX rows later, or a look at the file, or close ──▶ ranges, runs, folded_to
                            ── COUNTED_MAX transactions later ──▶ totals
    open   ─▶ replay: what the rows above `folded_to` say

An epoch is folded when its oldest recent row is old enough, so every transaction folds a few and none has to wait for
all. Rows above `folded_to` may have been folded already: doing it again changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import apsw

from ledger_sync.errors import SpoolDamaged
from ledger_sync.spool.epochs import Epochs, EpochState
from ledger_sync.spool.places import EpochKey, entered_to
from protocol import rows
from protocol.codes import RowKind
from protocol.errors import Malformed

FOLD_ROWS_MAX: Final = 16_384  # what an opening replays at most
COUNTED_MAX: Final = 16  # transactions; some milliseconds of work for 512 frames each
_KEY: Final = struct.Struct("!IHiB")
COUNTED: Final = struct.Struct("!IHiBIq")
"""terminal, epoch, trade day, type, count, cents: what one frame adds to the totals."""
_KEYED: Final = struct.Struct("!11sIq")
assert _KEYED.size == COUNTED.size

_ADD_TOTAL: Final = (
    "INSERT INTO totals (terminal, epoch, trade_day, type, count, cents) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET count = count + excluded.count, cents = cents + excluded.cents"
)
_TOTALS: Final = "SELECT terminal, epoch, trade_day, type, count, cents FROM totals"
_ABOVE: Final = "SELECT id, terminal, epoch, kind, first, last, bytes FROM rows WHERE id > ? ORDER BY id"


def folded_to(connection: apsw.Connection) -> int:
    """The highest row that ranges, totals and runs have taken in."""
    found: int | None = connection.execute("SELECT value FROM meta WHERE name = 'folded_to'").get
    if found is None:
        raise SpoolDamaged("the spool does not say which rows its totals include")
    return found


def counted_times(connection: apsw.Connection) -> int:
    """Transactions whose records the totals have not taken in."""
    found: int = connection.execute("SELECT count(*) FROM counted").get
    return found


def fold_rows(connection: apsw.Connection, epochs: Epochs, up_to_row: int, last_row: int) -> None:
    """Take rows up to `up_to_row` into ranges and runs; `last_row` is the highest there is. In a transaction."""
    epochs.fold(up_to_row)
    oldest = epochs.oldest_recent_row()
    folded = last_row if oldest is None else oldest - 1
    connection.execute("UPDATE meta SET value = ? WHERE name = 'folded_to'", (folded,))


def fold_totals(connection: apsw.Connection) -> None:
    """Take what is counted into the totals; inside the caller's transaction."""
    connection.executemany(_ADD_TOTAL, _counted(connection))
    connection.execute("DELETE FROM counted")


def totals_of(connection: apsw.Connection) -> list[tuple[int, ...]]:
    """(terminal, epoch, trade day, type, count, cents), ascending: the table, and what is counted above it."""
    sums: dict[tuple[int, ...], tuple[int, int]] = {}
    stored: Iterable[Any] = connection.execute(_TOTALS)
    for *key, count, cents in (*stored, *_counted(connection)):
        before = sums.get(tuple(key), (0, 0))
        sums[tuple(key)] = (before[0] + count, before[1] + cents)
    return [(*key, *sums[key]) for key in sorted(sums)]


def _counted(connection: apsw.Connection) -> list[tuple[int, ...]]:
    sums: dict[bytes, tuple[int, int]] = {}
    for (entries,) in connection.execute("SELECT entries FROM counted"):
        for key, count, cents in _KEYED.iter_unpack(entries):
            before = sums.get(key)
            sums[key] = (count, cents) if before is None else (before[0] + count, before[1] + cents)
    return [(*_KEY.unpack(key), *sums[key]) for key in sorted(sums)]


def replay(connection: apsw.Connection, epochs: Epochs) -> None:
    """Bring `epochs` to where the rows above `folded_to` have brought them.

    Raises:
        SpoolDamaged: such a row neither lies within the ranges nor continues one.
    """
    above: Iterable[Any] = connection.execute(_ABOVE, (folded_to(connection),))
    entered: dict[EpochKey, int] = {}
    for row, terminal, epoch, kind, first, last, data in above:
        state = epochs.get(terminal, epoch)
        if kind == RowKind.RECORDS:
            _extend(state, first, last, row, data)
        if state.key not in entered:
            entered[state.key] = entered_to(connection, state.key)
        if row > entered[state.key]:
            epochs.note_row(state, kind, first, last, row)


def _extend(state: EpochState, first: int, last: int, row: int, data: bytes) -> None:
    """What is not within the ranges was a range's continuation; all else was written with its row."""
    held = state.ranges.covering(last)
    if held is not None and held.first <= first:
        return
    tail = state.ranges.covering(first - 1)
    if tail is None or tail.last != first - 1:
        raise SpoolDamaged(f"row {row} of terminal {state.key[0]} lies beside the ranges")
    try:
        decoded = rows.decode(data)
    except Malformed as error:
        raise SpoolDamaged(f"row {row}: {error}") from error
    state.ranges.extend(tail, last, decoded.payload[-8:], decoded.trade_ms[-1])
