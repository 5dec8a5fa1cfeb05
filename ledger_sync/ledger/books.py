"""What posting and operations change: terminals, cards, accounts, entries, within one transaction.

The ledger's process is the only writer, so states of terminals and cards are kept between transactions; `forget`
drops them after a rollback. Entries of cards are written per record, all others once per account and booking day.
"""

from __future__ import annotations

from array import array
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import apsw

from ledger_sync.ledger.accounts import MIRROR_BASE
from ledger_sync.ledger.errors import LedgerDamaged
from protocol.codes import CardKind, TerminalClass
from protocol.keys import CARD_UID_BYTES

CARDS_CACHED_MAX: Final = 65_536  # about 16 MB; above it the cache is dropped between two transactions

ACTIVE: Final = "active"
LOST: Final = "lost"
CANCELLED: Final = "cancelled"
UNKNOWN: Final = "unknown"

PostingRow = tuple[
    int, int, int, int, bytes, int, int, int | None, int | None, int, int | None, int | None, int, int, int, int, int,
    int, int, int,
]  # fmt: skip
"""One row of `postings`, in the order of its columns."""


INSERT_POSTING: Final = f"INSERT INTO postings VALUES ({', '.join('?' * 20)})"  # noqa: S608 - nothing but marks
_CARD: Final = (
    "SELECT number, status, status_ms, uid, coalesce(kind, 0), opening_cents, mirror_cents, top_counter,"
    " top_balance_cents FROM cards WHERE number"
)
_ENTRIES_OF_PURCHASES: Final = (
    "INSERT INTO entries SELECT posting + ?, position, NULL, posting, ? + card, booking_day, -amount_cents"
    " FROM postings WHERE posting BETWEEN ? AND ? ORDER BY posting"
)
_NO_UID: Final = bytes(CARD_UID_BYTES + 2)
"""Longer than UID and key version of any record, so none starts with it."""


@dataclass(slots=True)
class Held:
    """A posting that stands for an identity."""

    posting: int
    seal: bytes
    type: int
    card: int | None
    counter: int | None
    amount_cents: int
    merchant: int | None
    counter_hint: int | None = None
    open_type: int = 0
    """Type of what was attempted, while a proof of its identity and card would resolve it; 0: nothing waits."""


@dataclass(slots=True)
class Booked:
    """A card proof that a completion brought for an identity, and that moved money."""

    posting: int
    card: int
    counter: int
    amount_cents: int
    merchant: int
    record: int | None
    type: int


@dataclass(slots=True)
class Standing:
    """Everything that stands for one identity (terminal, epoch, sequence)."""

    records: list[Held] = field(default_factory=list)
    completions: list[Booked] = field(default_factory=list)


@dataclass(slots=True)
class TerminalState:
    """One terminal and epoch of the register, with what its records have shown so far."""

    id: int
    terminal: int
    epoch: int
    terminal_class: int
    kind: int
    merchant: int
    suite: int
    highest: int
    """Highest sequence posted: a frame above it can meet neither duplicate nor fork."""
    next_known: int
    completed_to: int
    """Highest sequence for which a completion brought a proof."""
    quarantined_to: int
    """Highest sequence that was ever quarantined."""
    closed_ms: int | None = None
    """When its epoch was closed: a raised epoch, or a terminal that is gone (R11)."""
    fresh: dict[int, PostingRow] = field(default_factory=dict)
    """Postings of the present transaction by sequence, those that needed no second look."""
    standing: dict[int, Standing] = field(default_factory=dict)
    """What the present transaction has looked up, kept up to date within it."""

    @property
    def takes_money(self) -> bool:
        return self.terminal_class == TerminalClass.TERMINAL  # R41: a proxy never


@dataclass(slots=True, repr=False)
class CardState:
    """One card: its register entry, its mirror, and the highest proof seen."""

    number: int
    status: str
    status_ms: int
    uid: bytes | None
    kind: int
    opening_cents: int
    mirror_cents: int
    top_counter: int
    top_balance_cents: int | None
    seen_counter: int = 0
    """Highest counter that a record of this card has come with, taken or not; never below `top_counter` by itself."""
    aes_uid: bytes = _NO_UID
    """The UID of an AES card of the register; of any other card what no record can state."""

    def __post_init__(self) -> None:
        self.seen_counter = self.top_counter
        if self.kind == CardKind.AES and self.uid is not None:
            self.aes_uid = self.uid

    def is_exception_at(self, trade_ms: int) -> bool:
        """Whether a debit at that time deserves result 02: the card was unknown, or lost or cancelled by then."""
        return self.status != ACTIVE and (self.status == UNKNOWN or trade_ms >= self.status_ms)


@dataclass(slots=True)
class PurchaseRun:
    """Postings in a row of which each took its amount from its card's mirror."""

    first: int
    last: int
    cents: int


class Books:
    """The changes of one transaction, and the states behind them."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.terminals: dict[tuple[int, int], TerminalState] = {}
        self.cards: dict[int, CardState] = {}
        self.postings: list[PostingRow] = []
        """Rows not written yet, in order; see `write_postings`."""
        self.entries: list[tuple[int | None, int, int, int] | PurchaseRun] = []
        """(posting, account, booking day, cents), one per record; of plain purchases one for many."""
        self.totals: dict[tuple[int, int], int] = {}
        """(account, booking day) → cents of all accounts but mirrors."""
        self.reversals: list[tuple[int, int, int]] = []
        """(account, booking day, cents) of entries that stand by themselves, never netted with what follows them."""
        self.changed_cards: dict[int, CardState] = {}
        self.touched_terminals: dict[int, TerminalState] = {}
        """Those whose state this transaction looked up or changed."""
        self.next_ids: dict[str, int] = {}
        """Table → the next integer key."""
        self.events: dict[tuple[int, int, int], list[int]] = {}
        """(trade day, type, code) → [records, events] of what moves no money."""
        self.load_terminals()

    # -- states

    def load_terminals(self) -> None:
        """Read the register anew; bounded by protocol.registry.TERMINALS_MAX times the epochs it names."""
        rows = self.connection.execute(
            "SELECT id, terminal, epoch, class, kind, merchant, proof_suite, highest, next_known, completed_to,"
            " quarantined_to, closed_ms FROM terminals"
        )
        self.terminals = {(row[1], row[2]): TerminalState(*row) for row in rows}

    def card(self, number: int) -> CardState | None:
        """The card's state, None for a number that the ledger has never met."""
        found = self.cards.get(number)
        if found is None:
            row = self.connection.execute(f"{_CARD} = ?", (number,)).fetchone()
            if row is None:
                return None
            found = self.cards[number] = CardState(*row)
        return found

    def load_cards(self, numbers: AbstractSet[int]) -> None:
        """Have the states of those that are registered at hand, by one query for all."""
        missing = array("q", numbers - self.cards.keys())
        if missing:
            for row in self.connection.execute(f"{_CARD} IN carray(?)", (apsw.carray(missing),)):
                self.cards[row[0]] = CardState(*row)

    def card_or_unknown(self, number: int, now_ms: int) -> CardState:
        """The card's state; a number never met before gets a mirror of its own, status `unknown` (R19)."""
        found = self.card(number)
        if found is None:
            self.connection.execute(
                "INSERT INTO cards VALUES (?, ?, ?, NULL, NULL, NULL, NULL, 0, 0, 0, NULL)", (number, UNKNOWN, now_ms)
            )
            found = CardState(number, UNKNOWN, now_ms, None, CardKind.AES, 0, 0, 0, None)
            self.cards[number] = found
        return found

    def next_id(self, table: str, key: str) -> int:
        """The next integer key of a table; keys are never used twice."""
        value = self.next_ids.get(table)
        if value is None:
            value = self.connection.execute(f"SELECT coalesce(max({key}), 0) + 1 FROM {table}").get  # noqa: S608
        self.next_ids[table] = value + 1
        return int(value)

    def release_id(self, table: str, key: int) -> None:
        """Give back the key that `next_id` gave last: the row was not inserted."""
        self.next_ids[table] = key

    def forget(self) -> None:
        """After a rollback: nothing that is in memory counts any more."""
        self.cards.clear()
        self.next_ids.clear()
        self._clear()
        self.load_terminals()

    # -- bookings

    def debit_mirror(self, card: CardState, cents: int, booking_day: int, posting: int | None) -> None:
        """Take from a card's mirror (give, if negative); the other side must follow in the same transaction."""
        card.mirror_cents -= cents
        self.changed_cards[card.number] = card
        self.entries.append((posting, MIRROR_BASE + card.number, booking_day, -cents))

    def book_purchases(self, first: int, last: int, cents: int) -> None:
        """Entries of the mirrors for a run of plain purchases, whose postings are in `postings`; see `flush`."""
        latest = self.entries[-1] if self.entries else None
        if isinstance(latest, PurchaseRun) and latest.last + 1 == first:
            latest.last = last
            latest.cents += cents
        else:
            self.entries.append(PurchaseRun(first, last, cents))

    def write_postings(self) -> None:
        """All at once: whoever asks the table of this transaction calls it before."""
        if self.postings:
            self.connection.executemany(INSERT_POSTING, self.postings)
            self.postings.clear()

    def credit(self, account: int, cents: int, booking_day: int) -> None:
        """Add to an account that is not a mirror (take, if negative)."""
        key = (account, booking_day)
        self.totals[key] = self.totals.get(key, 0) + cents

    def reverse(self, account: int, cents: int, booking_day: int) -> None:
        """As `credit`, by an entry of its own: whoever reads the books must see the reversal (R20, R26)."""
        self.reversals.append((account, booking_day, cents))

    def note_event(self, trade_day: int, type_: int, code: int, events: int) -> None:
        """Count a record that moves no money; `events`: how many it stands for (of lost ones, many)."""
        counts = self.events.setdefault((trade_day, type_, code), [0, 0])
        counts[0] += 1
        counts[1] += events

    def flush(self, *, position: int | None = None, operation: int | None = None) -> None:
        """Write what was booked. Raises LedgerDamaged unless debits equal credits, here and in all (R18)."""
        self.write_postings()
        changes: dict[int, int] = {}
        mirrors = sum(-each.cents if isinstance(each, PurchaseRun) else each[3] for each in self.entries)
        for (account, _), cents in self.totals.items():
            changes[account] = changes.get(account, 0) + cents
        for account, _, cents in self.reversals:
            changes[account] = changes.get(account, 0) + cents
        if mirrors + sum(changes.values()) != 0:
            raise LedgerDamaged("debits and credits of this transaction differ")
        if mirrors:
            changes[MIRROR_BASE] = mirrors
        self._write_entries(position, operation)
        self.connection.executemany(
            "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (account) DO UPDATE"
            " SET balance_cents = balance_cents + excluded.balance_cents",
            changes.items(),
        )
        self._flush_states()
        self._flush_events()
        # few rows: one per merchant, and one for all mirrors together
        if self.connection.execute("SELECT coalesce(sum(balance_cents), 0) FROM accounts").get != 0:
            raise LedgerDamaged("the accounts do not sum to zero")
        self._clear()

    def _write_entries(self, position: int | None, operation: int | None) -> None:
        """Mirrors in the order in which they were booked, then totals, then what was reversed.

        Runs of purchases are made by SQLite out of their postings: a third of the price of rows from here.
        """
        rows: list[tuple[int | None, int, int, int]] = []
        for each in self.entries:
            if isinstance(each, PurchaseRun):
                self._insert_entries(rows, position, operation)
                rows.clear()
                first = self.next_id("entries", "entry")
                self.connection.execute(_ENTRIES_OF_PURCHASES, (first - each.first, MIRROR_BASE, each.first, each.last))
                self.next_ids["entries"] = first + each.last - each.first + 1
            else:
                rows.append(each)
        rows += [(None, account, day, cents) for (account, day), cents in sorted(self.totals.items())]
        rows += [(None, account, day, cents) for account, day, cents in self.reversals]
        self._insert_entries(rows, position, operation)

    def _insert_entries(
        self, rows: list[tuple[int | None, int, int, int]], position: int | None, operation: int | None
    ) -> None:
        first = self.next_id("entries", "entry")
        self.next_ids["entries"] = first + len(rows)
        self.connection.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (first + at, position, operation, posting, account, day, cents)
                for at, (posting, account, day, cents) in enumerate(rows)
            ],
        )

    def _flush_states(self) -> None:
        self.connection.executemany(
            "UPDATE cards SET mirror_cents = ?, top_counter = ?, top_balance_cents = ? WHERE number = ?",
            [
                (card.mirror_cents, card.top_counter, card.top_balance_cents, card.number)
                for card in self.changed_cards.values()
            ],
        )
        self.connection.executemany(
            "UPDATE terminals SET highest = ?, next_known = ?, completed_to = ?, quarantined_to = ? WHERE id = ?",
            [
                (state.highest, state.next_known, state.completed_to, state.quarantined_to, state.id)
                for state in self.touched_terminals.values()
            ],
        )

    def _flush_events(self) -> None:
        for (day, type_, code), (records, events) in self.events.items():
            self.connection.execute(
                "UPDATE event_totals SET records = records + ?, events = events + ?"
                " WHERE trade_day = ? AND type = ? AND code = ?",
                (records, events, day, type_, code),
            )
            if not self.connection.changes():
                self.connection.execute(
                    "INSERT INTO event_totals VALUES (?, ?, ?, ?, ?, ?)",
                    (self.next_id("event_totals", "total"), day, type_, code, records, events),
                )

    def _clear(self) -> None:
        self.events.clear()
        self.postings.clear()
        self.entries.clear()
        self.totals.clear()
        self.reversals.clear()
        self.changed_cards.clear()
        for state in self.touched_terminals.values():
            state.fresh.clear()
            state.standing.clear()
        self.touched_terminals.clear()
        if len(self.cards) > CARDS_CACHED_MAX:
            self.cards.clear()
