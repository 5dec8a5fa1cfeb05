"""What one card proof moves, by its type (R18, R21–R23; docs/money.md "Proofs"). Pure but for the bookings themselves.

    type           from                    to                      unmet: from            to
    purchase       mirror                  merchant
    booking        mirror                  booked meals
    refund         merchant                mirror                  refund exceptions      mirror
    load           loads in flight         mirror                  loads without order    mirror
    cancellation   booked meals            mirror                  –                      –
    collection     booked meals            merchant                –                      –

*Unmet*: what the proof refers to (purchase, order, booking) is not there, or has been used by another proof (`claims`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger_sync.ledger.accounts import (
    BOOKED_MEALS,
    LOADS_IN_FLIGHT,
    LOADS_WITHOUT_ORDER,
    MERCHANT_BASE,
    REFUND_EXCEPTIONS_BASE,
)
from ledger_sync.ledger.books import Books, CardState
from protocol.codes import RecordType

DEBITS: Final = frozenset({RecordType.PURCHASE, RecordType.BOOKING})
"""Types whose proof lowers the purse: what a grey may have attempted."""
CREDITS: Final = frozenset({RecordType.REFUND, RecordType.LOAD, RecordType.CANCELLATION})
CLAIMING: Final = CREDITS | {RecordType.COLLECTION}
"""Types whose proof refers to something else: what a doubt may have attempted."""


@dataclass(slots=True)
class Effect:
    """What changes: cents of the card's mirror, and (account, cents) of others. Sums to zero."""

    mirror_cents: int
    others: tuple[tuple[int, int], ...]


_NOTHING: Final = Effect(0, ())


def effect(type_: int, cents: int, merchant: int, *, is_met: bool = True) -> Effect:
    """The bookings of one proof."""
    if type_ == RecordType.PURCHASE:
        return Effect(-cents, ((MERCHANT_BASE + merchant, cents),))
    if type_ == RecordType.BOOKING:
        return Effect(-cents, ((BOOKED_MEALS, cents),))
    if type_ == RecordType.REFUND:
        base = MERCHANT_BASE if is_met else REFUND_EXCEPTIONS_BASE
        return Effect(cents, ((base + merchant, -cents),))
    if type_ == RecordType.LOAD:
        return Effect(cents, ((LOADS_IN_FLIGHT if is_met else LOADS_WITHOUT_ORDER, -cents),))
    if not is_met:
        return _NOTHING
    if type_ == RecordType.CANCELLATION:
        return Effect(cents, ((BOOKED_MEALS, -cents),))
    assert type_ == RecordType.COLLECTION
    return Effect(0, ((BOOKED_MEALS, -cents), (MERCHANT_BASE + merchant, cents)))


def book(books: Books, moves: Effect, card: CardState, booking_day: int, posting: int | None) -> None:
    """Book it: the mirror under `posting`, all others summed per day."""
    if moves.mirror_cents:
        books.debit_mirror(card, -moves.mirror_cents, booking_day, posting)
    for account, cents in moves.others:
        if cents:
            books.credit(account, cents, booking_day)


def take_back(books: Books, moves: Effect, card: CardState, booking_day: int) -> None:
    """Reverse it by entries of its own (R26)."""
    if moves.mirror_cents:
        books.debit_mirror(card, moves.mirror_cents, booking_day, None)
    for account, cents in moves.others:
        if cents:
            books.reverse(account, -cents, booking_day)


def signed(type_: int, cents: int) -> int:
    """The amount with the sign of docs/protocol.md §7.1: what the card paid, negative what it was given."""
    if type_ in DEBITS:
        return cents
    return -cents if type_ in CREDITS else 0
