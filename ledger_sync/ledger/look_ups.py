"""What already stands for an identity or a card proof, in the file and in the present transaction.

Both questions are asked only where the answer can be "something": a frame above the highest sequence posted, with a
card counter above the highest seen, needs neither. What a backlog brings below that counter is asked once per batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.ledger.books import Booked, Books, Held, PostingRow, Standing, TerminalState
from ledger_sync.ledger.flows import signed
from protocol.codes import RecordType

_RECORDS: Final = """
SELECT p.sequence, p.posting, p.seal, p.type, p.card, p.counter, p.amount_cents, p.merchant,
       s.counter_hint, iif(s.resolved_position IS NULL AND (s.kind IN ('grey', 'doubt') OR coalesce(s.posting, 0) IN (
           SELECT item FROM decisions WHERE subject = 'suspense' AND state = 'confirmed')), coalesce(s.type, 0), 0)
FROM postings p LEFT JOIN suspense s ON s.posting = p.posting
WHERE p.terminal = ? AND p.epoch = ? AND p.sequence BETWEEN ? AND ? ORDER BY p.posting
"""
_COMPLETIONS: Final = """
SELECT sequence, posting, card, counter, amount_cents, merchant, record, type FROM completions
WHERE terminal = ? AND epoch = ? AND sequence BETWEEN ? AND ? AND outcome <> 'nothing new' ORDER BY posting
"""
_PROOFS: Final = """
SELECT p.counter, coalesce(c.terminal, p.terminal), coalesce(c.epoch, p.epoch), coalesce(c.sequence, p.sequence),
       p.amount_cents, p.balance_cents, coalesce(c.type, p.type)
FROM postings p LEFT JOIN completions c ON c.posting = p.posting
WHERE p.card = ? AND p.counter BETWEEN ? AND ? ORDER BY p.posting
"""
_BIAS: Final = 1 << 31
"""A card number less this, with a counter below it, is one signed number of 64 bits."""
_PROOFS_OF_MANY: Final = """
SELECT k.value, p.counter, coalesce(c.terminal, p.terminal), coalesce(c.epoch, p.epoch),
       coalesce(c.sequence, p.sequence), p.amount_cents, p.balance_cents, coalesce(c.type, p.type)
FROM carray(?) k CROSS JOIN postings p LEFT JOIN completions c ON c.posting = p.posting
WHERE p.card = (k.value >> 32) + 0x80000000
AND p.counter BETWEEN (k.value & 0xFFFFFFFF) - 1 AND (k.value & 0xFFFFFFFF) + 1
"""
_CLAIMED: Final = "SELECT card, reference FROM claims WHERE card IN carray(?)"


@dataclass(slots=True)
class Proof:
    """A card proof that was accepted: counter, the identity it bears, what it took from the purse, balance after."""

    counter: int
    identity: tuple[int, int, int]
    taken_cents: int
    """Negative: given."""
    balance_cents: int


class LookUps:
    """Of one transaction."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.fresh_proofs: dict[tuple[int, int], list[Proof] | PostingRow] = {}
        """(card, counter) → proofs of this transaction; a bare posting row where there is one purchase only."""
        self.late_cards: set[int] = set()
        """Cards whose neighbours by counter this batch will ask for: their purchases are noted as they are posted."""
        self._near: dict[int, list[Proof]] = {}
        """Card and counter → what the file holds near it, from `prefetch_proofs`."""
        self._claimed: set[tuple[int, int]] = set()
        """(card, reference) of every claim of `late_cards`."""
        self._unnoted: list[PostingRow] = []
        """Purchases posted the short way that nobody has asked about yet."""

    def prefetch(self, state: TerminalState, first: int, last: int) -> None:
        """Load what stands for a stretch of sequences, with two queries for all of it."""
        books = self._books
        books.touched_terminals[state.id] = state
        stretch = (state.terminal, state.epoch, first, last)
        loaded: dict[int, Standing] = {}
        row: tuple[Any, ...]
        for row in books.connection.execute(_RECORDS, stretch):
            loaded.setdefault(row[0], Standing()).records.append(Held(*row[1:10]))
        if state.completed_to >= first:
            for row in books.connection.execute(_COMPLETIONS, stretch):
                loaded.setdefault(row[0], Standing()).completions.append(Booked(*row[1:]))
        for sequence, standing in loaded.items():
            state.standing.setdefault(sequence, standing)  # what this transaction changed is newer than the file

    def prefetch_proofs(self, late: Collection[tuple[int, int]]) -> None:
        """Load what is near these cards and counters, and what claims those cards have made, with a query for each."""
        if not late:
            return
        keys = array("q", {(card - _BIAS) << 32 | counter for card, counter in late})
        near: dict[int, list[Proof]] = {key: [] for key in keys}
        for key, number, terminal, epoch, sequence, amount, balance, type_ in self._books.connection.execute(
            _PROOFS_OF_MANY, (apsw.carray(keys),)
        ):
            near[key].append(Proof(number, (terminal, epoch, sequence), signed(type_, amount), balance or 0))
        self._near = near
        self.late_cards = {card for card, _ in late}
        cards = array("q", self.late_cards)
        self._claimed.update(self._books.connection.execute(_CLAIMED, (apsw.carray(cards),)))

    def is_claimed(self, card: int, reference: int) -> bool:
        """Whether something of that card refers to it, as far as `prefetch_proofs` and this transaction know."""
        return card not in self.late_cards or (card, reference) in self._claimed

    def note_claim(self, card: int, reference: int) -> None:
        """Remember a claim made in this transaction."""
        self._claimed.add((card, reference))

    def note_purchases(self, rows: list[PostingRow]) -> None:
        """Remember what was posted the short way, all above what stood for its terminal; the rest at the next question.

        Those of `late_cards` the caller has noted by `note_late`.
        """
        self._unnoted += rows

    def note_late(self, row: PostingRow) -> None:
        """Remember a purchase of a card of `late_cards`."""
        key = row[7], row[8]
        if self.fresh_proofs.setdefault(key, row) is not row:  # type: ignore[arg-type]
            self._fresh(*key).append(_proof_of(row))  # type: ignore[arg-type]

    def _catch_up(self) -> None:
        terminals, late_cards = self._books.terminals, self.late_cards
        for row in self._unnoted:
            terminals[row[1], row[2]].fresh[row[3]] = row
            if row[7] not in late_cards:
                self.note_late(row)
        self._unnoted.clear()

    def standing(self, state: TerminalState, sequence: int) -> Standing:
        """What stands for one identity, after `prefetch` of it; changes to it are seen by later records."""
        self._catch_up()
        standing = state.standing.get(sequence)
        if standing is None:
            standing = state.standing[sequence] = Standing()
        row = state.fresh.pop(sequence, None)
        if row is not None:
            standing.records.append(Held(row[0], row[4], row[5], row[7], row[8], row[9], row[11]))
        return standing

    def note_proof(self, card: int, proof: Proof) -> None:
        """Remember a proof accepted in this transaction."""
        self._catch_up()
        self._fresh(card, proof.counter).append(proof)

    def proofs_near(self, card: int, counter: int) -> list[Proof]:
        """Accepted proofs of that card with this counter, the one before and the one after."""
        if card not in self.late_cards:
            self._catch_up()
        held = self._near.get((card - _BIAS) << 32 | counter)
        found = self._ask(card, counter) if held is None else held
        fresh = self.fresh_proofs
        for each in (counter - 1, counter, counter + 1):
            if (card, each) in fresh:
                found = found + self._fresh(card, each)
        return found

    def _ask(self, card: int, counter: int) -> list[Proof]:
        rows = self._books.connection.execute(_PROOFS, (card, counter - 1, counter + 1))
        return [
            Proof(number, (terminal, epoch, sequence), signed(type_, amount), balance or 0)
            for number, terminal, epoch, sequence, amount, balance, type_ in rows
        ]

    def was_topped_up(self, card: int) -> bool:
        """Whether a load was ever ordered for that card."""
        found = self._books.connection.execute("SELECT 1 FROM load_orders WHERE card = ? LIMIT 1", (card,))
        return found.fetchone() is not None

    def _fresh(self, card: int, counter: int) -> list[Proof]:
        held = self.fresh_proofs.get((card, counter))
        if isinstance(held, list):
            return held
        proofs: list[Proof] = []
        if held is not None:
            proofs.append(_proof_of(held))
        self.fresh_proofs[card, counter] = proofs
        return proofs


def _proof_of(row: PostingRow) -> Proof:
    """Of a purchase posted the short way."""
    assert row[5] == RecordType.PURCHASE
    assert row[8] is not None
    return Proof(row[8], (row[1], row[2], row[3]), row[9], row[10] or 0)
