"""Eyes that see only files: what a spool and a ledger have committed, read by SQL through connections of their own.

Nothing here asks the running product what it believes; it judges by what a power cut would leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.ledger.accounts import AccountKind
from ledger_sync.ledger.schema import open_reader as open_ledger
from ledger_sync.spool.fold import totals_of
from ledger_sync.spool.schema import open_reader as open_spool
from protocol import rows
from protocol.cards.apdu import Identity
from protocol.codes import RecordType, RowKind
from protocol.deny_list import DenyList, apply_delta
from protocol.errors import RemoteError
from protocol.messages import Tombstone
from protocol.records import read_head, walk
from protocol.signed import Version

POSTED_RESULTS: Final = "(0, 2, 3, 4, 5)"  # docs/protocol.md §11.4: money taken from a mirror for a merchant

_BOOKED: Final = f"""
SELECT terminal, epoch, sequence, amount_cents, card, merchant FROM postings
WHERE type = 1 AND result IN {POSTED_RESULTS}
"""
_GREYS: Final = """
SELECT p.terminal, p.epoch, p.sequence, p.amount_cents, p.card, s.resolved_by IS NULL
FROM postings p JOIN suspense s ON s.posting = p.posting WHERE p.type = 7
"""
_COMPLETED: Final = """
SELECT terminal, epoch, sequence, amount_cents, card, merchant, outcome FROM completions WHERE outcome <> 'nothing new'
"""


@dataclass(slots=True)
class Booked:
    """Money that a ledger holds for one identity."""

    identity: Identity
    amount_cents: int
    card: int
    merchant: int
    is_completion: bool = False


class SpoolEye:
    """The committed content of a spool file."""

    def __init__(self, path: str) -> None:
        self._connection = open_spool(path)
        self._data_version = -1

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

    def settlements(self) -> list[tuple[int, int, int, int]]:
        """(first row, last row, generation, position) of everything settled."""
        return self._rows("SELECT first_row, last_row, generation, position FROM settlements ORDER BY first_row")

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
        ((value,),) = self._rows("SELECT value FROM meta WHERE name = 'spool_id'")
        return bytes(value)

    def suspects(self) -> int:
        ((count,),) = self._rows("SELECT count(*) FROM rows WHERE kind = ?", (int(RowKind.SUSPECT),))
        return int(count)


class LedgerEye:
    """The committed content of a ledger file."""

    def __init__(self, path: str) -> None:
        self.connection: apsw.Connection = open_ledger(path)
        self._versions: dict[Version, frozenset[int]] = {}
        self._version_rows = 0
        self._newest = DenyList()

    def close(self) -> None:
        self.connection.close()

    def _rows(self, sql: str, bindings: tuple[object, ...] = ()) -> list[Any]:
        return self.connection.execute(sql, bindings).fetchall()

    # -- money

    def out_of_balance(self) -> list[str]:
        """What breaks R18's first formula, or the double entry behind it."""
        wrong = []
        balances: dict[int, int] = dict(self._rows("SELECT account >> 32, sum(balance_cents) FROM accounts GROUP BY 1"))
        entries: dict[int, int] = dict(self._rows("SELECT account >> 32, sum(amount_cents) FROM entries GROUP BY 1"))
        ((mirrors,),) = self._rows("SELECT coalesce(sum(mirror_cents), 0) FROM cards")
        if sum(balances.values()) != 0:
            wrong.append(f"accounts sum to {sum(balances.values())} cents")
        if {k: v for k, v in balances.items() if v} != {k: v for k, v in entries.items() if v}:
            wrong.append("balances are not the sums of their entries")
        if balances.get(AccountKind.MIRROR, 0) != mirrors:
            wrong.append(f"mirrors hold {mirrors} cents, their account {balances.get(AccountKind.MIRROR, 0)}")
        return wrong

    def mirrors_cents(self) -> int:
        ((cents,),) = self._rows("SELECT coalesce(sum(mirror_cents), 0) FROM cards")
        return int(cents)

    def merchants_cents(self) -> dict[int, int]:
        query = "SELECT account & 4294967295, balance_cents FROM accounts WHERE account >> 32 = ?"
        return dict(self._rows(query, (int(AccountKind.MERCHANT),)))

    def booked(self) -> list[Booked]:
        """Every proven debit booked, by the identity that it pays for."""
        found = [
            Booked(Identity(terminal, epoch, sequence), cents, card, merchant)
            for terminal, epoch, sequence, cents, card, merchant in self._rows(_BOOKED)
        ]
        for terminal, epoch, sequence, cents, card, merchant, _ in self._rows(_COMPLETED):
            found.append(Booked(Identity(terminal, epoch, sequence), cents, card, merchant, is_completion=True))
        return found

    def open_greys(self) -> dict[Identity, int]:
        return {
            Identity(terminal, epoch, sequence): cents
            for terminal, epoch, sequence, cents, _, is_open in self._rows(_GREYS)
            if is_open
        }

    # -- knowledge

    def known_sequences(self, terminal: int, epoch: int) -> set[int]:
        """Sequences that are posted, noted, or quarantined under their identity."""
        found = {
            sequence
            for (sequence,) in self._rows(
                "SELECT sequence FROM postings WHERE terminal = ? AND epoch = ?", (terminal, epoch)
            )
        }
        for table, first, last in (("quarantine", "sequence", "last_sequence"), ("tombstones", "first", "last")):
            query = f"SELECT {first}, {last} FROM {table} WHERE terminal = ? AND epoch = ?"
            for begin, end in self._rows(query, (terminal, epoch)):
                found |= set(range(begin, end + 1))
        return found

    def position(self) -> int:
        ((position,),) = self._rows("SELECT coalesce(max(position), 0) FROM batches")
        return int(position)

    def generations(self) -> list[tuple[int, int]]:
        """(generation, position at its start), ascending."""
        return self._rows("SELECT generation, position FROM generations ORDER BY generation")

    def has_rows(self, spool_id: bytes, position: int, first: int, last: int) -> set[int]:
        """Row ids of that spool that the batch at `position` brought."""
        query = (
            "SELECT e.row_id FROM evidence e JOIN batches b ON b.position = e.position"
            " WHERE b.spool = ? AND b.position = ? AND e.row_id BETWEEN ? AND ?"
        )
        return {row for (row,) in self._rows(query, (spool_id, position, first, last))}

    # -- deny list

    def denied(self) -> dict[Version, frozenset[int]]:
        """Every version ever issued, replayed from its deltas."""
        listed = self._rows("SELECT generation, counter, delta FROM list_versions ORDER BY version")
        for generation, counter, delta in listed[self._version_rows :]:
            self._newest = apply_delta(self._newest, delta)
            self._versions[generation, counter] = frozenset(self._newest.cards)
        self._version_rows = len(listed)
        return self._versions
