"""Batches and receipts over the spool's rows: claim, settle, un-settle, prune (R15, R16, R17).

Which rows are settled is kept as intervals of row ids, in the file with the ledger's generation and position, in
memory without. Settling never touches the rows themselves; only `prune` deletes, and only what is settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.spool.epochs import Epochs
from ledger_sync.spool.observed import ObservedTime
from ledger_sync.spool.places import Places
from protocol.codes import RowKind
from protocol.intervals import Intervals
from protocol.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX
from protocol.link_batch import BatchName, batch_digest, name_batch
from protocol.link_messages import Receipt

PRUNE_SETTLEMENTS_MAX: Final = 64  # per transaction: at most 64 batches of rows, so that intake waits little
_ROWS_FROM: Final = "SELECT id, bytes FROM rows WHERE id BETWEEN ? AND ? ORDER BY id"
_SEQUENCES: Final = "SELECT terminal, epoch, kind, first, last FROM rows WHERE id BETWEEN ? AND ?"
_ROW_ID_MAX: Final = (1 << 63) - 1


@dataclass(slots=True)
class Batch:
    """Consecutive unsettled rows, named by their content (docs/protocol.md §11.3)."""

    name: BatchName
    rows: list[tuple[int, bytes]]


class Batches:
    """Reading and changing what is settled; the caller owns transactions and reports failures."""

    def __init__(
        self, connection: apsw.Connection, epochs: Epochs, places: Places, *, frontend: int, spool_id: bytes
    ) -> None:
        self._connection = connection
        self._epochs = epochs
        self._places = places
        self._frontend = frontend
        self._spool_id = spool_id
        self.settled_rows = Intervals()
        """Ids of rows that are settled or, after that, pruned."""
        self.reload()

    def reload(self) -> None:
        """Read the settled rows from the file."""
        self.settled_rows = Intervals(
            self._connection.execute(
                "SELECT first_row, last_row FROM settlements"
                " UNION ALL SELECT first_row, last_row FROM pruned ORDER BY 1"
            )
        )

    def observed(self) -> ObservedTime:
        """The spool's own time as last kept; of a young file, its birth."""
        utc_ms, doubted_ms = self._connection.execute(
            "SELECT coalesce((SELECT value FROM meta WHERE name = 'observed_ms'),"
            " (SELECT value FROM meta WHERE name = 'birth_ms'), 0),"
            " coalesce((SELECT value FROM meta WHERE name = 'doubted_ms'), 0)"
        ).get
        return ObservedTime(utc_ms, doubted_ms)

    def keep_observed(self, observed: ObservedTime) -> None:
        """Inside the caller's transaction."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
            [("observed_ms", observed.utc_ms), ("doubted_ms", observed.doubted_ms)],
        )

    def last_row(self) -> int:
        """The highest row id ever given out; 0: none."""
        found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rows'").get
        return int(found or 0)

    def known(self) -> tuple[int, int]:
        """(ledger generation, position) that LINK_HELLO states."""
        generation, position = self._connection.execute(
            "SELECT (SELECT value FROM meta WHERE name = 'known_generation'),"
            " (SELECT value FROM meta WHERE name = 'known_position')"
        ).get
        return generation, position

    def first_unsettled(self, after_row: int) -> int:
        """The lowest row id above `after_row` that is not settled; it may not exist yet."""
        held = self.settled_rows.covering(after_row + 1)
        return after_row + 1 if held is None else held[1] + 1

    def claim(self, after_row: int, rows_max: int, bytes_max: int) -> Batch | None:
        """The next unsettled rows above `after_row`, without a settled one among them; None: there are none.

        The first row is taken whatever its size, so that `bytes_max` can never block the queue.
        """
        first = self.first_unsettled(after_row)
        holes = self.settled_rows.missing(first, _ROW_ID_MAX)
        last = holes[0][1] if holes else _ROW_ID_MAX
        rows: list[tuple[int, bytes]] = []
        size = 0
        for row_id, data in self._connection.execute(
            _ROWS_FROM + " LIMIT ?", (first, last, min(rows_max, BATCH_ROWS_MAX))
        ):
            size += len(data)
            if rows and size > min(bytes_max, BATCH_BYTES_MAX):
                break
            rows.append((row_id, data))
        if not rows:
            return None
        return Batch(name_batch(self._frontend, self._spool_id, rows), rows)

    # -- receipts -----------------------------------------------------------------------------------------------------

    def fits(self, receipt: Receipt) -> bool:
        """Whether the receipt names rows of this file by their true digest, from the ledger generation in force."""
        name = receipt.name
        if name.frontend != self._frontend or name.spool_id != self._spool_id:
            return False
        if receipt.generation < self.known()[0] or name.last_row > self.last_row():
            return False
        return self._digest(name.first_row, name.last_row) == name.digest

    def _digest(self, first_row: int, last_row: int) -> bytes | None:
        """Digest of these rows as they stand in the file; None: no batch can have them."""
        found: Iterable[Any] = self._connection.execute(
            _ROWS_FROM + " LIMIT ?", (first_row, last_row, BATCH_ROWS_MAX + 1)
        )
        rows: list[tuple[int, bytes]] = list(found)
        if not rows or len(rows) > BATCH_ROWS_MAX or (rows[0][0], rows[-1][0]) != (first_row, last_row):
            return None
        return batch_digest(rows)

    def settle(self, receipt: Receipt, now_ms: int) -> None:
        """Settle what of the batch is not settled yet; inside the caller's transaction, after `fits`."""
        for first, last in self.settled_rows.missing(receipt.name.first_row, receipt.name.last_row):
            self._connection.execute(
                "INSERT INTO settlements (first_row, last_row, generation, position, settled_ms)"
                " VALUES (?, ?, ?, ?, ?)",
                (first, last, receipt.generation, receipt.position, now_ms),
            )
            self._mark(first, last, settled=True)
        self._connection.execute(
            "UPDATE meta SET value = max(value, ?) WHERE name = 'known_position'", (receipt.position,)
        )

    def unsettle_above(self, generation: int, position: int) -> list[tuple[int, int]]:
        """Un-settle what an older generation settled above `position`; returns the row ids, inside a transaction."""
        found: Iterable[Any] = self._connection.execute(
            "DELETE FROM settlements WHERE generation < ? AND position > ? RETURNING first_row, last_row",
            (generation, position),
        )
        taken_back: list[tuple[int, int]] = list(found)
        for first, last in taken_back:
            self._mark(first, last, settled=False)
        self._connection.execute("UPDATE meta SET value = ? WHERE name = 'known_generation'", (generation,))
        self._connection.execute("UPDATE meta SET value = ? WHERE name = 'known_position'", (position,))
        return taken_back

    def _mark(self, first_row: int, last_row: int, *, settled: bool) -> None:
        """Move the settled sequences of every (terminal, epoch) that has rows here."""
        found: Iterable[Any] = self._connection.execute(_SEQUENCES, (first_row, last_row)).fetchall()
        for terminal, epoch, kind, first, last in found:
            for begin, end in self._sequences(terminal, epoch, kind, first, last):
                state = self._epochs.change(terminal, epoch)
                if settled:
                    state.settled.add(begin, end)
                else:
                    state.settled.remove(begin, end)
                state.settled_changed = True

    def _sequences(self, terminal: int, epoch: int, kind: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        if kind == RowKind.RECORDS:
            yield first, last
        elif kind == RowKind.TOMBSTONE:
            # Only what is held as a tombstone still: records inside have rows, and receipts, of their own.
            yield from self._epochs.get(terminal, epoch).ranges.tombstoned.within(first, last)

    # -- pruning ------------------------------------------------------------------------------------------------------

    def prune(self, settled_before_ms: int) -> tuple[int, bool]:
        """Delete rows settled before then, a bounded number; (rows deleted, whether more wait), in a transaction.

        Nothing may wait to be folded.
        """
        found: Iterable[Any] = self._connection.execute(
            "SELECT first_row, last_row FROM settlements WHERE settled_ms < ? ORDER BY first_row LIMIT ?",
            (settled_before_ms, PRUNE_SETTLEMENTS_MAX),
        )
        old: list[tuple[int, int]] = list(found)
        if not old:
            return 0, False
        gone = Intervals(self._connection.execute("SELECT first_row, last_row FROM pruned"))
        deleted = 0
        for first, last in old:
            self._places.forget(first, last)
            self._connection.execute("DELETE FROM rows WHERE id BETWEEN ? AND ?", (first, last))
            deleted += self._connection.changes()
            self._connection.execute("DELETE FROM settlements WHERE first_row = ?", (first,))
            gone.add(first, last)
        self._connection.execute("DELETE FROM pruned")
        self._connection.executemany("INSERT INTO pruned (first_row, last_row) VALUES (?, ?)", list(gone))
        return deleted, len(old) == PRUNE_SETTLEMENTS_MAX
