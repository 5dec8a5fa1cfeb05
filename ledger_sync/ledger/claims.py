"""Proofs that refer to something else, and whether it allows them (R21–R23; docs/money.md, "Claims").

    refund                     a proved purchase record of that terminal, epoch and sequence, by that card, not lower
    load                       the order of that card and serial, with its amount and number
    cancellation, collection   the booking serial of that card

Of several claims to one thing the one with the lowest card counter is *met*: the card made it first, whatever came
first here. So the books depend on what has come and not on its order; when a better claim, or the purchase itself,
comes later, what was booked is reversed and booked as it would have been.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ledger_sync.ledger import orders
from ledger_sync.ledger.books import Books, Held
from ledger_sync.ledger.flows import book, effect, take_back
from ledger_sync.ledger.look_ups import LookUps
from protocol.codes import PostingResult, RecordType

_MEALS = (int(RecordType.CANCELLATION), int(RecordType.COLLECTION))
UNMET_RESULT = {
    RecordType.REFUND: PostingResult.POSTED_REFUND_EXCEPTION,
    RecordType.LOAD: PostingResult.POSTED_LOAD_WITHOUT_ORDER,
    RecordType.CANCELLATION: PostingResult.POSTED_MEAL_TWICE,
    RecordType.COLLECTION: PostingResult.POSTED_MEAL_TWICE,
}
"""What a claim that is not met is answered with."""


@dataclass(slots=True, repr=False)
class Claim:
    """One row of `claims`: a proof under the identity that it bears, whoever brought it."""

    posting: int
    type: int
    terminal: int
    epoch: int
    sequence: int
    card: int
    counter: int
    reference: int
    load_order: int
    """0: not known; a completion does not say it."""
    amount_cents: int
    merchant: int
    trade_ms: int
    is_met: bool | None = None
    """None: not booked yet."""

    @property
    def rank(self) -> tuple[int, int, int, int]:
        return self.counter, self.terminal, self.epoch, self.sequence


_FIND = """
SELECT posting, type, terminal, epoch, sequence, card, counter, reference, load_order, amount_cents, merchant, trade_ms,
       is_met
FROM claims WHERE card = ? AND reference = ?
"""


class Claims:
    """Of one transaction."""

    def __init__(self, books: Books, look_ups: LookUps) -> None:
        self._books = books
        self._look_ups = look_ups

    def add(self, claim: Claim, booking_day: int) -> PostingResult | None:
        """Book a new claim; the exception that its record deserves, None: it is met as it should be."""
        rows = [*self._rivals(claim), claim]
        was_in_flight = self._settle(rows, booking_day)
        self._books.connection.execute(
            "INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (claim.posting, claim.type, claim.terminal, claim.epoch, claim.sequence, claim.card, claim.counter,
             claim.reference, claim.load_order, claim.amount_cents, claim.merchant, claim.trade_ms,
             int(bool(claim.is_met))),
        )  # fmt: skip
        self._look_ups.note_claim(claim.card, claim.reference)
        if claim.is_met and was_in_flight:
            return None
        return UNMET_RESULT[RecordType(claim.type)]

    def purchase_came(self, identity: tuple[int, int, int], card: int, booking_day: int) -> None:
        """The record of a proved purchase stands now: refunds of it that came before are judged again (R21)."""
        terminal, epoch, sequence = identity
        waiting = [
            each
            for each in self._all(card, sequence)
            if (each.type, each.terminal, each.epoch) == (RecordType.REFUND, terminal, epoch)
        ]
        self._settle(waiting, booking_day)

    def order_made(self, card: int, serial: int, booking_day: int) -> None:
        """A load that came before its order (which a restored ledger had forgotten) finds it now."""
        self._settle([each for each in self._all(card, serial) if each.type == RecordType.LOAD], booking_day)

    def record_came(self, posting: int, merchant: int, load_order: int, booking_day: int) -> None:
        """The record of a claim that a completion had brought: it knows the merchant, and the order of a load."""
        row = self._books.connection.execute(
            "SELECT card, reference FROM claims WHERE posting = ?", (posting,)
        ).fetchone()
        if row is None:
            return
        claim = next(each for each in self._all(*row) if each.posting == posting)
        if claim.merchant != merchant:
            self._undo(claim, booking_day)
            claim.merchant = merchant
            self._do(claim, booking_day, None)
        claim.load_order = load_order
        self._books.connection.execute(
            "UPDATE claims SET merchant = ?, load_order = ? WHERE posting = ?", (merchant, load_order, posting)
        )
        self._settle([*self._rivals(claim), claim], booking_day)

    # -- which one is met

    def _all(self, card: int, reference: int) -> list[Claim]:
        found = []
        for row in self._books.connection.execute(_FIND, (card, reference)):
            claim = Claim(*row)
            claim.is_met = bool(claim.is_met)
            found.append(claim)
        return found

    def _rivals(self, claim: Claim) -> list[Claim]:
        """The other claims to the same thing."""
        found = [each for each in self._all(claim.card, claim.reference) if each.posting != claim.posting]
        if claim.type in _MEALS:
            return [each for each in found if each.type in _MEALS]
        if claim.type == RecordType.LOAD:
            return [each for each in found if each.type == RecordType.LOAD]
        place = (claim.type, claim.terminal, claim.epoch)
        return [each for each in found if (each.type, each.terminal, each.epoch) == place]

    def _settle(self, claims: list[Claim], booking_day: int) -> bool:
        """Book every claim as it should stand; False where an order was no longer in flight for it."""
        if not claims:
            return True
        claims.sort(key=lambda each: each.rank)
        first = claims[0]
        order = orders.find(self._books, first.card, first.reference) if first.type == RecordType.LOAD else None
        winner = next((each for each in claims if self._may_be_met(each, order)), None)
        changed = [each for each in claims if each.is_met is not (each is winner)]
        for each in changed:
            self._undo(each, booking_day)
        was_in_flight = True
        if order is not None and changed:
            if winner is not None and winner in changed:
                was_in_flight = orders.execute(self._books, order, winner.posting, booking_day)
            elif winner is None and order.executed_by is not None:
                orders.lose_proof(self._books, order, booking_day)
        for each in changed:
            posting = each.posting if each.is_met is None else None
            each.is_met = each is winner
            self._do(each, booking_day, posting)
        self._store(changed)
        return was_in_flight

    def _may_be_met(self, claim: Claim, order: orders.Order | None) -> bool:
        if claim.type == RecordType.LOAD:
            return order is not None and order.is_of(amount_cents=claim.amount_cents, number=claim.load_order)
        if claim.type in _MEALS:
            return True
        return claim.reference < claim.sequence and any(
            held.amount_cents >= claim.amount_cents for held in self._purchases(claim)
        )

    def _purchases(self, claim: Claim) -> Iterable[Held]:
        """Records of proved purchases that a refund may be of; a grey is none, whatever proves it later (R21)."""
        state = self._books.terminals[claim.terminal, claim.epoch]
        self._look_ups.prefetch(state, claim.reference, claim.reference)
        for held in self._look_ups.standing(state, claim.reference).records:
            if held.type == RecordType.PURCHASE and held.counter is not None and held.card == claim.card:
                yield held

    # -- bookings

    def _do(self, claim: Claim, booking_day: int, posting: int | None) -> None:
        card = self._books.card(claim.card)
        assert card is not None  # it was met with its proof
        moves = effect(claim.type, claim.amount_cents, claim.merchant, is_met=bool(claim.is_met))
        book(self._books, moves, card, booking_day, posting)

    def _undo(self, claim: Claim, booking_day: int) -> None:
        if claim.is_met is None:
            return
        card = self._books.card(claim.card)
        assert card is not None
        moves = effect(claim.type, claim.amount_cents, claim.merchant, is_met=claim.is_met)
        take_back(self._books, moves, card, booking_day)

    def _store(self, changed: list[Claim]) -> None:
        self._books.connection.executemany(
            "UPDATE claims SET is_met = ? WHERE posting = ?",
            [(int(bool(each.is_met)), each.posting) for each in changed],
        )
