"""The eye on a spool's file: what it has committed, read by SQL through a connection of its own.

Nothing here asks the running product what it believes; it judges by what a power cut would leave.
"""

from __future__ import annotations

from typing import Any

from ledger_sync.spool.fold import totals_of
from ledger_sync.spool.schema import open_reader as open_spool
from protocol import rows
from protocol.codes import RecordType, RowKind
from protocol.errors import RemoteError
from protocol.messages import Tombstone
from protocol.records import counted_cents, decode_body, read_head, walk


class SpoolEye:
    """The committed content of a spool file."""

    def __init__(self, path: str) -> None:
        self._connection = open_spool(path)
        self._data_version = -1
        self._settled_ms = 0

    def close(self) -> None:
        self._connection.close()

    def _rows(self, sql: str, bindings: tuple[object, ...] = ()) -> list[Any]:
        return self._connection.execute(sql, bindings).fetchall()

    def has_changed(self) -> bool:
        """Whether something was committed since the last question."""
        before = self._data_version
        ((self._data_version,),) = self._rows("PRAGMA data_version")
        return before != self._data_version

    def stored(self, terminal: int, epoch: int, first: int, last: int) -> dict[int, bytes | None]:
        """Sequence → its record as stored, None where a tombstone stands for it; suspects do not count."""
        found: dict[int, bytes | None] = {}
        for kind in (RowKind.TOMBSTONE, RowKind.RECORDS):
            for (data,) in self._rows(
                "SELECT bytes FROM rows WHERE terminal = ? AND epoch = ? AND kind = ? AND last >= ? AND first <= ?",
                (terminal, epoch, int(kind), first, last),
            ):
                try:
                    row = rows.decode(data)
                    if kind is RowKind.TOMBSTONE:
                        lost = Tombstone.decode(row.payload)
                        found.update(dict.fromkeys(range(lost.first, lost.last + 1)))
                        continue
                    for record in walk(row.payload):
                        found[read_head(record).sequence] = bytes(record)
                except RemoteError:
                    continue  # what cannot be read is not stored
        return {sequence: record for sequence, record in found.items() if first <= sequence <= last}

    def free_records(self, types: frozenset[int]) -> set[tuple[int, int, int]]:
        """Identities of records of these types that move no cent: free meals."""
        found = set()
        for terminal, epoch, data in self._rows(
            "SELECT terminal, epoch, bytes FROM rows WHERE kind = ?", (int(RowKind.RECORDS),)
        ):
            for record in walk(rows.decode(data).payload):
                if record[0] in types and counted_cents(decode_body(record)) == 0:
                    found.add((terminal, epoch, read_head(record).sequence))
        return found

    def records_rows(self, limit: int) -> list[bytes]:
        """The newest packed rows of records."""
        query = "SELECT bytes FROM rows WHERE kind = ? ORDER BY id DESC LIMIT ?"
        return [bytes(data) for (data,) in self._rows(query, (int(RowKind.RECORDS), limit))][::-1]

    def has_pruned(self) -> bool:
        return bool(self._rows("SELECT 1 FROM pruned LIMIT 1"))

    def totals(self) -> dict[int, tuple[int, int]]:
        """Terminal → (count, cents) of purchases and greys, as counted at intake (R15)."""
        sums: dict[int, tuple[int, int]] = {}
        for terminal, _, _, kind, count, cents in totals_of(self._connection):
            if kind in {RecordType.PURCHASE, RecordType.GREY}:
                before = sums.get(terminal, (0, 0))
                sums[terminal] = (before[0] + count, before[1] + cents)
        return sums

    def forget_settled(self) -> None:
        """The next question is about everything that is settled."""
        self._settled_ms = 0

    def new_settlements(self) -> list[tuple[int, int, int, int]]:
        """(first row, last row, generation, position) of what was settled since the last question, or just before."""
        rows = self._rows(
            "SELECT first_row, last_row, generation, position, settled_ms FROM settlements WHERE settled_ms >= ?"
            " ORDER BY first_row",
            (self._settled_ms,),
        )
        self._settled_ms = max((row[4] for row in rows), default=self._settled_ms)
        return [row[:4] for row in rows]

    def row_ids(self, first: int, last: int) -> list[int]:
        return [each for (each,) in self._rows("SELECT id FROM rows WHERE id BETWEEN ? AND ?", (first, last))]

    def unsettled_rows(self) -> int:
        """Rows without a receipt."""
        ((count,),) = self._rows(
            "SELECT count(*) FROM rows r WHERE NOT EXISTS"
            " (SELECT 1 FROM settlements s WHERE r.id BETWEEN s.first_row AND s.last_row)"
        )
        return int(count)

    def spool_id(self) -> bytes:
        rows_ = self._rows("SELECT value FROM meta WHERE name = 'spool_id'")
        return bytes(rows_[0][0]) if rows_ else b""  # a disk may have lost even that

    def last_row(self) -> int:
        ((last,),) = self._rows("SELECT coalesce(max(id), 0) FROM rows")
        return int(last)

    def suspects(self) -> int:
        ((count,),) = self._rows("SELECT count(*) FROM rows WHERE kind = ?", (int(RowKind.SUSPECT),))
        return int(count)
