"""What the spool keeps in memory of each (terminal, epoch), as the file has it; loaded on demand, bounded.

Inside a transaction an `EpochState` runs ahead of the file. Whatever makes the transaction fail makes the owner give
all of it up with the connection, so that memory is read again from the file.

A range that grows at its end is not written with every frame: the rows tell as much, since they are in the same
transaction. `fold` writes it; after a crash `fold.replay` does what the rows above `folded_to` say. Everything else
(`change`) is written in its own transaction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import apsw

from ledger_sync.spool.places import ROW, EpochKey, Recent, write_runs
from protocol.intervals import Intervals
from protocol.ranges import EpochRanges, Range

EPOCHS_CACHED_MAX: Final = 32_768  # about 1.5 KB each; more than the terminals of any one front-end
RECENT_ROWS_MAX: Final = 256  # of one epoch: a look-up goes through them, and a hostile terminal can ask for many
ANCHORS_MAX: Final = 256  # boots of one epoch that may still have records to offer


class EpochState:
    """Ranges, settled sequences and boot anchors of one (terminal, epoch)."""

    __slots__ = (
        "anchors_ms",
        "key",
        "new_anchors",
        "ranges",
        "recent",
        "settled",
        "settled_changed",
        "tombstones_changed",
    )

    def __init__(self, key: EpochKey, ranges: EpochRanges, settled: Intervals, anchors_ms: dict[int, int]) -> None:
        self.key = key
        self.recent: list[Recent] = []
        """Rows that are not folded yet."""
        self.ranges = ranges
        self.settled = settled
        self.anchors_ms = anchors_ms
        self.new_anchors: dict[int, int] = {}
        self.settled_changed = False
        self.tombstones_changed = False

    def settled_up_to(self, durable: int) -> int:
        """The settled watermark under `durable`: no sequence of its range up to there still waits for a receipt.

        0 where nothing is settled. What lies below the range is not ours to know: another front-end took it.
        """
        if not self.settled:  # as in an outage, when the work is most
            return 0
        held = self.ranges.covering(durable)
        if held is None:
            return 0
        settled = self.settled.covering(held.first)
        return 0 if settled is None else min(settled[1], durable)

    def ack(self, first_unacknowledged: int) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """(durable, settled, ranges above) of the ACK (docs/protocol.md §8)."""
        durable, ranges = self.ranges.ack_view(first_unacknowledged)
        return durable, self.settled_up_to(durable), ranges

    def note_anchor(self, boot: int, anchor_ms: int) -> None:
        """The last measurement of a boot counts; of too many boots the oldest is dropped."""
        if self.anchors_ms.get(boot) != anchor_ms:
            self.anchors_ms[boot] = self.new_anchors[boot] = anchor_ms


class Epochs:
    """The cache, and the statements that read and write it."""

    def __init__(self, connection: apsw.Connection, *, cached_max: int = EPOCHS_CACHED_MAX) -> None:
        self._connection = connection
        self._cached_max = cached_max
        self._states: dict[EpochKey, EpochState] = {}
        self._dirty: dict[EpochKey, EpochState] = {}
        self._recent: OrderedDict[EpochKey, EpochState] = OrderedDict()
        """Those with recent rows, in the order of their oldest one."""
        self._full: list[EpochState] = []

    def __len__(self) -> int:
        return len(self._states)

    def get(self, terminal: int, epoch: int) -> EpochState:
        """The state, for reading; the one and only object of this (terminal, epoch) while a transaction lasts."""
        state = self._states.get((terminal, epoch))
        return state if state is not None else self._load(terminal, epoch)

    def change(self, terminal: int, epoch: int) -> EpochState:
        """The state, for changing; `write` will store it."""
        state = self.get(terminal, epoch)
        self._dirty[terminal, epoch] = state
        return state

    def note_row(self, state: EpochState, kind: int, first: int, last: int, row: int) -> None:
        """A row of this state is in the transaction; what it adds to the end of a range may wait for `fold`."""
        recent = state.recent
        if not recent:
            self._recent[state.key] = state
        recent.append((kind, first, last, row))
        if len(recent) == RECENT_ROWS_MAX:
            self._full.append(state)

    def recent(self, key: EpochKey) -> list[Recent]:
        """The rows of one (terminal, epoch) that are not folded yet."""
        state = self._states.get(key)
        return [] if state is None else state.recent

    def ranges(self, key: EpochKey) -> list[Range]:
        """Copies of the ranges held, ascending; nothing is kept in memory for it."""
        state = self._states.get(key)
        return load_ranges(self._connection, key) if state is None else [replace(held) for held in state.ranges]

    def trim(self) -> None:
        """Hold the bound; call only when nothing is unwritten. The oldest loaded go first, none with recent rows."""
        assert not self._dirty
        excess = len(self._states) - self._cached_max
        if excess > 0:
            folded = (key for key, state in self._states.items() if not state.recent)
            for key in list(islice(folded, excess)):
                del self._states[key]

    def fold(self, up_to_row: int) -> None:
        """Write what rows up to there have added to ranges, and where they are; inside the caller's transaction.

        Later rows of the same epochs go with them, so that an epoch is written as seldom as may be.
        """
        due = {state.key: state for state in self._full}
        for key, state in self._recent.items():
            if state.recent[0][ROW] > up_to_row:
                break
            due[key] = state
        self._dirty.update(due)
        self.write()
        write_runs(self._connection, [(key, state.recent) for key, state in due.items()])
        for key, state in due.items():
            state.recent = []
            del self._recent[key]
        self._full.clear()

    @property
    def is_due(self) -> bool:
        """Whether an epoch has so many recent rows that it must be folded, however young they are."""
        return bool(self._full)

    def oldest_recent_row(self) -> int | None:
        """The lowest row that is not folded yet."""
        return next((state.recent[0][ROW] for state in self._recent.values()), None)

    def recent_count(self) -> int:
        """Rows that are not folded yet."""
        return sum(len(state.recent) for state in self._recent.values())

    def write(self) -> None:
        """Store every change, inside the caller's transaction; once per (terminal, epoch), however many frames."""
        gone: list[tuple[int, int, int]] = []
        changed: list[tuple[object, ...]] = []
        for (terminal, epoch), state in self._dirty.items():
            for first, held in state.ranges.take_changes().items():
                if held is None:
                    gone.append((terminal, epoch, first))
                else:
                    changed.append((terminal, epoch, *_columns(held)))
            self._write_rest(terminal, epoch, state)
        if gone:
            self._connection.executemany("DELETE FROM ranges WHERE terminal = ? AND epoch = ? AND first = ?", gone)
        if changed:
            self._connection.executemany(_UPSERT_RANGE, changed)
        self._dirty.clear()

    def _write_rest(self, terminal: int, epoch: int, state: EpochState) -> None:
        if state.tombstones_changed:
            self._write_intervals("tombstones", terminal, epoch, state.ranges.tombstoned)
            state.tombstones_changed = False
        if state.settled_changed:
            self._write_intervals("settled", terminal, epoch, state.settled)
            state.settled_changed = False
        if state.new_anchors:
            self._connection.executemany(
                "INSERT OR REPLACE INTO anchors (terminal, epoch, boot, anchor_ms) VALUES (?, ?, ?, ?)",
                [(terminal, epoch, boot, anchor) for boot, anchor in state.new_anchors.items()],
            )
            state.new_anchors = {}
            for boot in sorted(state.anchors_ms)[:-ANCHORS_MAX]:
                del state.anchors_ms[boot]
                self._connection.execute(
                    "DELETE FROM anchors WHERE terminal = ? AND epoch = ? AND boot = ?", (terminal, epoch, boot)
                )

    def _write_intervals(self, table: str, terminal: int, epoch: int, intervals: Intervals) -> None:
        # The table's name is one of two literals above; the set is small, so it is written anew.
        self._connection.execute(f"DELETE FROM {table} WHERE terminal = ? AND epoch = ?", (terminal, epoch))  # noqa: S608
        self._connection.executemany(
            f"INSERT INTO {table} (terminal, epoch, first, last) VALUES (?, ?, ?, ?)",  # noqa: S608
            [(terminal, epoch, first, last) for first, last in intervals],
        )

    def _load(self, terminal: int, epoch: int) -> EpochState:
        key = (terminal, epoch)
        anchors: Iterable[Any] = self._connection.execute(
            "SELECT boot, anchor_ms FROM anchors WHERE terminal = ? AND epoch = ?", key
        )
        state = EpochState(
            key,
            EpochRanges(load_ranges(self._connection, key), load_intervals(self._connection, "tombstones", key)),
            Intervals(load_intervals(self._connection, "settled", key)),
            dict(anchors),
        )
        self._states[key] = state
        return state


_UPSERT_RANGE: Final = (
    "INSERT INTO ranges (terminal, epoch, first, last, seal_before_first, seal_last, trade_ms_first, trade_ms_last)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last,"
    " seal_before_first = excluded.seal_before_first, seal_last = excluded.seal_last,"
    " trade_ms_first = excluded.trade_ms_first, trade_ms_last = excluded.trade_ms_last"
)


def _columns(held: Range) -> tuple[object, ...]:
    return (
        held.first,
        held.last,
        held.seal_before_first,
        held.seal_last,
        held.trade_ms_first,
        held.trade_ms_last,
    )


def load_ranges(connection: apsw.Connection, key: EpochKey) -> list[Range]:
    """The ranges of one (terminal, epoch), ascending."""
    found = connection.execute(
        "SELECT first, last, seal_before_first, seal_last, trade_ms_first, trade_ms_last FROM ranges"
        " WHERE terminal = ? AND epoch = ? ORDER BY first",
        key,
    )
    return [Range(*columns) for columns in found]


def load_intervals(connection: apsw.Connection, table: str, key: EpochKey) -> Iterator[tuple[int, int]]:
    """The intervals of one (terminal, epoch) in `tombstones` or `settled`, ascending."""
    assert table in {"tombstones", "settled"}
    yield from connection.execute(
        f"SELECT first, last FROM {table} WHERE terminal = ? AND epoch = ? ORDER BY first",  # noqa: S608
        key,
    )
