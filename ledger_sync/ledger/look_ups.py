"""What already stands for an identity or a card proof, in the file and in the present transaction.

Both questions are asked only where the answer can be "something": a frame above the highest sequence posted, with a
card counter above the highest seen, needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

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

    def standing(self, state: TerminalState, sequence: int) -> Standing:
        """What stands for one identity, after `prefetch` of it; changes to it are seen by later records."""
        standing = state.standing.get(sequence)
        if standing is None:
            standing = state.standing[sequence] = Standing()
        row = state.fresh.pop(sequence, None)
        if row is not None:
            standing.records.append(Held(row[0], row[4], row[5], row[7], row[8], row[9], row[11]))
        return standing

    def note_proof(self, card: int, proof: Proof) -> None:
        """Remember a proof accepted in this transaction."""
        self._fresh(card, proof.counter).append(proof)

    def proofs_near(self, card: int, counter: int) -> list[Proof]:
        """Accepted proofs of that card with this counter, the one before and the one after."""
        query = (card, counter - 1, counter + 1)
        found = [
            Proof(number, (terminal, epoch, sequence), signed(type_, amount), balance or 0)
            for number, terminal, epoch, sequence, amount, balance, type_ in self._books.connection.execute(
                _PROOFS, query
            )
        ]
        for each in range(counter - 1, counter + 2):
            if (card, each) in self.fresh_proofs:
                found += self._fresh(card, each)
        return found

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
            assert held[5] == RecordType.PURCHASE
            proofs.append(Proof(counter, (held[1], held[2], held[3]), held[9], held[10] or 0))
        self.fresh_proofs[card, counter] = proofs
        return proofs
