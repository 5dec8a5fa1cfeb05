"""The eye on a ledger's file: what it has committed, read by SQL through a connection of its own.

Postings, completions and entries are only ever added, so each is looked at once; what may change (mirrors, balances,
suspense) is read anew whenever something was committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.ledger.accounts import AccountKind
from ledger_sync.ledger.schema import open_reader as open_ledger
from protocol.cards.apdu import Identity
from protocol.codes import PostingResult, RecordType
from protocol.deny_list import DenyList, apply_delta
from protocol.signed import Version

BOOKED_RESULTS: Final = frozenset({
    PostingResult.POSTED, PostingResult.POSTED_CARD_STATE, PostingResult.POSTED_BALANCE,
    PostingResult.POSTED_COUNTER_REUSED, PostingResult.POSTED_FORK, PostingResult.POSTED_UNPROVEN,
    PostingResult.SUSPENSE_UNPROVEN_LIMIT, PostingResult.POSTED_REFUND_EXCEPTION,
    PostingResult.POSTED_LOAD_WITHOUT_ORDER, PostingResult.POSTED_MEAL_TWICE,
})  # fmt: skip
"""docs/protocol.md §11.4: what a card did stands in the books."""
TAKEN_SIGN: Final = {
    RecordType.PURCHASE: 1,
    RecordType.BOOKING: 1,
    RecordType.REFUND: -1,
    RecordType.LOAD: -1,
    RecordType.CANCELLATION: -1,
    RecordType.COLLECTION: 0,
}
"""What each takes from the purse (docs/protocol.md §7.1)."""


@dataclass(slots=True)
class Booked:
    """What a ledger holds for one identity."""

    identity: Identity
    type: int
    amount_cents: int
    card: int
    merchant: int
    is_completion: bool = False


class LedgerEye:
    """The committed content of a ledger file."""

    def __init__(self, path: str) -> None:
        self.connection: apsw.Connection = open_ledger(path)
        self._versions: dict[Version, frozenset[int]] = {}
        self._version_rows = 0
        self._newest = DenyList()
        self._data_version = -1
        self._last = {"postings": 0, "completions": 0, "entries": 0}
        self._entries: dict[int, int] = {}

    def close(self) -> None:
        self.connection.close()

    def _rows(self, sql: str, bindings: tuple[object, ...] = ()) -> list[Any]:
        return self.connection.execute(sql, bindings).fetchall()

    def has_changed(self) -> bool:
        """Whether something was committed since the last question."""
        before = self._data_version
        ((self._data_version,),) = self._rows("PRAGMA data_version")
        return before != self._data_version

    # -- money

    def out_of_balance(self) -> list[str]:
        """What breaks R18's first formula, or the double entry behind it."""
        wrong = []
        balances: dict[int, int] = dict(self._rows("SELECT account >> 32, sum(balance_cents) FROM accounts GROUP BY 1"))
        for last, kind, cents in self._rows(
            "SELECT max(entry), account >> 32, sum(amount_cents) FROM entries WHERE entry > ? GROUP BY 2",
            (self._last["entries"],),
        ):
            self._last["entries"] = max(self._last["entries"], last)
            self._entries[kind] = self._entries.get(kind, 0) + cents
        mirrors = sum(self.mirrors().values())
        if sum(balances.values()) != 0:
            wrong.append(f"accounts sum to {sum(balances.values())} cents")
        if {k: v for k, v in balances.items() if v} != {k: v for k, v in self._entries.items() if v}:
            wrong.append("balances are not the sums of their entries")
        if balances.get(AccountKind.MIRROR, 0) != mirrors:
            wrong.append(f"mirrors hold {mirrors} cents, their account {balances.get(AccountKind.MIRROR, 0)}")
        return wrong

    def mirrors(self) -> dict[int, int]:
        """Card → what the ledger believes it holds."""
        return dict(self._rows("SELECT number, mirror_cents FROM cards"))

    def newly_booked(self) -> list[Booked]:
        """What was booked since the last question, by the identity that it is for."""
        found = []
        for posting, type_, terminal, epoch, sequence, cents, card, merchant, result in self._rows(
            "SELECT posting, type, terminal, epoch, sequence, amount_cents, card, merchant, result FROM postings"
            " WHERE posting > ? ORDER BY posting",
            (self._last["postings"],),
        ):
            self._last["postings"] = posting
            if type_ in TAKEN_SIGN and result in BOOKED_RESULTS:
                found.append(Booked(Identity(terminal, epoch, sequence), type_, cents, card, merchant or 0))
        for posting, type_, terminal, epoch, sequence, cents, card, merchant, outcome in self._rows(
            "SELECT posting, type, terminal, epoch, sequence, amount_cents, card, merchant, outcome FROM completions"
            " WHERE posting > ? ORDER BY posting",
            (self._last["completions"],),
        ):
            self._last["completions"] = posting
            if outcome != "nothing new":
                found.append(Booked(Identity(terminal, epoch, sequence), type_, cents, card, merchant, True))
        return found

    def open_suspense(self, *kinds: str) -> list[tuple[int, Identity, int, int, str]]:
        """(item, identity, cents, card, kind) of what neither a proof nor two persons have resolved."""
        rows = self._rows(
            "SELECT posting, terminal, epoch, sequence, amount_cents, card, kind FROM suspense"
            " WHERE resolved_position IS NULL AND posting NOT IN"
            " (SELECT item FROM decisions WHERE subject = 'suspense' AND state = 'confirmed') ORDER BY posting"
        )
        return [
            (item, Identity(terminal, epoch, sequence), cents, card, kind)
            for item, terminal, epoch, sequence, cents, card, kind in rows
            if kind in kinds
        ]

    def decided_spent(self) -> list[tuple[Identity, int, int]]:
        """(identity, cents, card) of greys that two persons have found spent."""
        rows = self._rows(
            "SELECT s.terminal, s.epoch, s.sequence, s.amount_cents, s.card FROM decisions d"
            " JOIN suspense s ON s.posting = d.item"
            " WHERE d.subject = 'suspense' AND d.state = 'confirmed' AND d.outcome = 'spent' AND s.kind = 'grey'"
        )
        return [(Identity(terminal, epoch, sequence), cents, card) for terminal, epoch, sequence, cents, card in rows]

    def open_greys(self) -> dict[Identity, int]:
        return {identity: cents for _, identity, cents, _, _ in self.open_suspense("grey")}

    def loads_in_flight(self) -> list[tuple[int, int, int, int]]:
        """(order, card, serial, cents)."""
        return self._rows(
            "SELECT load_order, card, serial, amount_cents FROM load_orders WHERE state = 'in_flight' ORDER BY 1"
        )

    def quarantined(self) -> list[tuple[int, int]]:
        """(item, terminal) of what is quarantined, and neither judged again nor rejected."""
        return self._rows(
            "SELECT item, terminal FROM quarantine WHERE resolved_position IS NULL AND item NOT IN (SELECT item"
            " FROM decisions WHERE subject = 'quarantine' AND state = 'confirmed') ORDER BY item"
        )

    def deciders(self) -> set[str]:
        """Everybody who has proposed a decision."""
        return {name for (name,) in self._rows("SELECT DISTINCT proposed_by FROM decisions")}

    def rejected(self) -> list[tuple[int, int]]:
        """(terminal, cents) of what two persons have rejected, and nothing better has come in the place of.

        Of two under one identity that whose seal held: what the terminal itself had said.
        """
        rows = self._rows(
            "SELECT q.terminal, coalesce(q.amount_cents, 0), max(q.result) FROM quarantine q"
            " JOIN decisions d ON d.item = q.item AND d.subject = 'quarantine'"
            " WHERE d.outcome = 'reject' AND d.state = 'confirmed' AND NOT EXISTS"
            " (SELECT 1 FROM postings p WHERE (p.terminal, p.epoch, p.sequence) = (q.terminal, q.epoch, q.sequence))"
            " GROUP BY q.terminal, q.epoch, q.sequence"
        )
        return [(terminal, cents) for terminal, cents, _ in rows]

    def accounts(self, kind: AccountKind) -> dict[int, int]:
        """Subject → balance, zeros left out."""
        query = (
            "SELECT account & 4294967295, balance_cents FROM accounts WHERE account >> 32 = ? AND balance_cents <> 0"
        )
        return dict(self._rows(query, (int(kind),)))

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
