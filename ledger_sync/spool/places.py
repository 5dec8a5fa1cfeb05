"""Where rows are found by terminal and sequence (docs/spool.md).

An index kept with every row would touch one page for each terminal of a group; so rows are entered later, many at once
and sorted: a run is the rows of one (terminal, epoch, kind) that follow on each other without a hole and were folded
together. Rows that are not folded yet stand in memory, at their `EpochState`.

Rows of one (terminal, epoch) are entered in the order of their ids.

    runs: (terminal, epoch, kind, last, row) of the run's last row → entries, each last sequence u32 ‖ row id u64
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from operator import itemgetter
from typing import Any, Final

import apsw

from protocol.codes import RowKind

ENTRY: Final = struct.Struct("!IQ")
RUN_ROWS_MAX: Final = 256  # 3 KB: what one look-up reads at most, and pruning writes again
_RECORDS: Final = int(RowKind.RECORDS)
SEQUENCE_MAX: Final = 0xFFFF_FFFF

EpochKey = tuple[int, int]
"""(terminal, epoch)"""
Place = tuple[int, int]
"""(last sequence, row id)"""
Recent = tuple[int, int, int, int]
"""(row kind, first sequence, last sequence, row id) of a row that is not folded yet."""
ROW: Final = 3  # in `Recent`
RecentOf = Callable[[EpochKey], Iterable[Recent]]

_INSERT: Final = "INSERT INTO runs (terminal, epoch, kind, last, row, entries) VALUES (?, ?, ?, ?, ?, ?)"
_UPWARDS: Final = (
    "SELECT entries FROM runs WHERE terminal = ? AND epoch = ? AND kind = ? AND last >= ? ORDER BY last, row"
)
_DOWNWARDS: Final = (
    "SELECT entries FROM runs WHERE terminal = ? AND epoch = ? AND kind = ? AND last <= ?"
    " ORDER BY last DESC, row DESC LIMIT 1"
)


class Places:
    """Look-ups, in the file and among the recent rows."""

    def __init__(self, connection: apsw.Connection, recent: RecentOf) -> None:
        self._connection = connection
        self._recent = recent

    def upwards(self, key: EpochKey, kind: int, sequence: int) -> Iterator[Place]:
        """The rows of a kind that end at or above `sequence`, ascending."""
        fresh = sorted((last, row) for each, _, last, row in self._recent(key) if each == kind and last >= sequence)
        stored: Iterable[Any] = self._connection.execute(_UPWARDS, (*key, kind, sequence))
        entries = (place for (run,) in stored for place in ENTRY.iter_unpack(run) if place[0] >= sequence)
        yield from merge(entries, fresh)

    def highest(self, key: EpochKey, kind: int, sequence: int = SEQUENCE_MAX) -> Place | None:
        """The highest row of a kind that ends at or below `sequence`; of those that end alike the newest."""
        found = [(last, row) for each, _, last, row in self._recent(key) if each == kind]
        # The run that reaches above may begin below; no other can, for runs of records never overlap.
        for query in (_UPWARDS + " LIMIT 1", _DOWNWARDS):
            stored: Iterable[Any] = self._connection.execute(query, (*key, kind, sequence))
            found += [place for (run,) in stored for place in ENTRY.iter_unpack(run)]
        return max((place for place in found if place[0] <= sequence), default=None)

    def forget(self, first_row: int, last_row: int) -> None:
        """These rows are about to be deleted: inside the transaction, before that, with nothing recent among them."""
        pruned: Iterable[Any] = self._connection.execute(
            "SELECT terminal, epoch, kind, min(last), max(last) FROM rows WHERE id BETWEEN ? AND ? GROUP BY 1, 2, 3",
            (first_row, last_row),
        ).fetchall()
        for terminal, epoch, kind, lowest, highest in pruned:
            for run in list(self._runs_between((terminal, epoch), kind, lowest, highest)):
                left = [place for place in run if not first_row <= place[1] <= last_row]
                if len(left) < len(run):
                    self._connection.execute(
                        "DELETE FROM runs WHERE terminal = ? AND epoch = ? AND kind = ? AND last = ? AND row = ?",
                        (terminal, epoch, kind, *run[-1]),
                    )
                    if left:
                        self._connection.execute(_INSERT, (terminal, epoch, kind, *left[-1], _packed(left)))

    def _runs_between(self, key: EpochKey, kind: int, lowest: int, highest: int) -> Iterator[list[Place]]:
        stored: Iterable[Any] = self._connection.execute(_UPWARDS, (*key, kind, lowest))
        for (entries,) in stored:
            run: list[Any] = list(ENTRY.iter_unpack(entries))
            if run[0][0] > highest:
                break
            yield run


def entered_to(connection: apsw.Connection, key: EpochKey) -> int:
    """The highest row of one (terminal, epoch) that is entered; 0: none is."""
    found: int | None = connection.execute("SELECT max(row) FROM runs WHERE terminal = ? AND epoch = ?", key).get
    return found or 0


def write_runs(connection: apsw.Connection, rows: Iterable[tuple[EpochKey, Iterable[Recent]]]) -> None:
    """Enter rows, given by (terminal, epoch), inside the caller's transaction."""
    connection.executemany(
        _INSERT, [(*key, kind, *run[-1], _packed(run)) for key, recent in rows for kind, run in runs_of(recent)]
    )


def runs_of(recent: Iterable[Recent]) -> Iterator[tuple[int, list[Place]]]:
    """(kind, places) of every run; only rows of records make runs of more than one, for others may overlap."""
    run: list[Place] = []
    next_first = 0  # no sequence
    for kind, first, last, row in sorted(recent, key=_by_sequence):
        if kind != _RECORDS:
            yield kind, [(last, row)]
            continue
        if (first != next_first or len(run) >= RUN_ROWS_MAX) and run:
            yield _RECORDS, run
            run = []
        run.append((last, row))
        next_first = last + 1
    if run:
        yield _RECORDS, run


_by_sequence: Final = itemgetter(2, 3)


def _packed(run: list[Place]) -> bytes:
    return b"".join([ENTRY.pack(last, row) for last, row in run])
