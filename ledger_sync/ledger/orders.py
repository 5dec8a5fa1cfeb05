"""Load orders (充值): what becomes of the cash between the counter and the card (R22; docs/money.md, "Load orders").

    in_flight ──a card's proof of the load, or two persons──────────────▶ executed        (money: on the mirror)
        │
        └──the station's sealed word, or two persons────────────────────▶ not_executed    (money: paid out)

A card's proof wins over everything else: an order that a station or people had ended is brought back by entries of its
own and executed. The station's word wins over nothing: after a proof it only marks the contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger_sync.ledger.accounts import LOADS_IN_FLIGHT, PAID_OUT
from ledger_sync.ledger.books import Books
from ledger_sync.ledger.decisions import LOAD, DecisionState, in_force, move

IN_FLIGHT: Final = "in_flight"
DONE: Final = "executed"
NOT_DONE: Final = "not_executed"

_COLUMNS: Final = "load_order, card, serial, amount_cents, station, state, executed_by, refused_by"


@dataclass(slots=True, repr=False)
class Order:
    """One row of `load_orders`."""

    number: int
    card: int
    serial: int
    amount_cents: int
    station: int
    """The terminal that may execute it; 0: none named."""
    state: str
    executed_by: int | None
    """Posting whose card proof executed it; None although executed: two persons said so."""
    refused_by: int | None
    """Posting of the station's word that it will not execute it."""

    def is_of(self, *, amount_cents: int, number: int) -> bool:
        """Whether a record speaks of this order; `number` 0: it does not say (a completion)."""
        return self.amount_cents == amount_cents and number in (0, self.number)


def find(books: Books, card: int, serial: int) -> Order | None:
    """The order with that serial of a card."""
    row = books.connection.execute(
        f"SELECT {_COLUMNS} FROM load_orders WHERE card = ? AND serial = ?",  # noqa: S608 - names of our own
        (card, serial),
    ).fetchone()
    return None if row is None else Order(*row)


def by_number(books: Books, number: int) -> Order | None:
    """The order of that number."""
    row = books.connection.execute(
        f"SELECT {_COLUMNS} FROM load_orders WHERE load_order = ?",  # noqa: S608 - as above
        (number,),
    ).fetchone()
    return None if row is None else Order(*row)


def execute(books: Books, order: Order, posting: int, booking_day: int) -> bool:
    """A card proves the load: the money is in flight again, for the caller to book. Whether it had been all along."""
    was_in_flight = order.state == IN_FLIGHT
    if not was_in_flight and order.executed_by is None:
        _bring_back(books, order, booking_day)
    _end_decision(books, order, posting)
    order.executed_by = posting
    _store(books, order, DONE)
    return was_in_flight


def lose_proof(books: Books, order: Order, booking_day: int) -> None:
    """What had been taken for its proof is of another order: it stands as if that had never come."""
    order.executed_by = None
    if order.refused_by is None:
        _store(books, order, IN_FLIGHT)
        return
    books.credit(LOADS_IN_FLIGHT, -order.amount_cents, booking_day)
    books.credit(PAID_OUT, order.amount_cents, booking_day)
    _store(books, order, NOT_DONE)


def refuse(books: Books, order: Order, posting: int, booking_day: int) -> bool:
    """The station will not execute it: back to the payer. False if it had been ended before: nothing moves then."""
    if order.refused_by is not None:
        return False
    order.refused_by = posting
    if order.state != IN_FLIGHT:
        _store(books, order, order.state)
        return False
    _end_decision(books, order, posting)
    end_by_hand(books, order, is_executed=False, booking_day=booking_day)
    return True


def end_by_hand(books: Books, order: Order, *, is_executed: bool, booking_day: int) -> None:
    """From flight to where two persons, or the station, say it belongs."""
    books.credit(LOADS_IN_FLIGHT, -order.amount_cents, booking_day)
    if is_executed:
        card = books.card(order.card)
        assert card is not None  # an order names a card of the register
        books.debit_mirror(card, -order.amount_cents, booking_day, None)
    else:
        books.credit(PAID_OUT, order.amount_cents, booking_day)
    _store(books, order, DONE if is_executed else NOT_DONE)


def _bring_back(books: Books, order: Order, booking_day: int) -> None:
    """Reverse what a station or two persons had ended, by entries of its own (R20, R26)."""
    if order.state == NOT_DONE:
        books.reverse(PAID_OUT, -order.amount_cents, booking_day)
    else:
        card = books.card(order.card)
        assert card is not None
        books.debit_mirror(card, order.amount_cents, booking_day, None)
    books.reverse(LOADS_IN_FLIGHT, order.amount_cents, booking_day)


def _end_decision(books: Books, order: Order, posting: int) -> None:
    found = in_force(books, LOAD, order.number)
    if found is not None:
        decision, _, state, _ = found
        after = DecisionState.LAPSED if state == DecisionState.PROPOSED else DecisionState.REVERSED
        move(books, decision, state, after, posting)


def _store(books: Books, order: Order, state: str) -> None:
    order.state = state
    books.connection.execute(
        "UPDATE load_orders SET state = ?, executed_by = ?, refused_by = ? WHERE load_order = ?",
        (state, order.executed_by, order.refused_by, order.number),
    )
