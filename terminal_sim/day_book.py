"""What each card spent and ate here today, as far as this terminal's records tell (docs/parameters.md).

Found again from the ring at boot, newest record first, back to the day's beginning; from then on told of every record.
Both are bounded: a terminal that has forgotten allows too much rather than too little, and the ledger sees all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ProtocolError
from protocol.parameters import Parameters
from protocol.record_bodies import Booking, Cancellation, Collection, Grey, Purchase, Refund, Transaction
from protocol.records import decode_body, read_head
from protocol.rules import serving_now
from terminal_sim.errors import RecordGone, SectorDead
from terminal_sim.ring import Ring

RECORDS_READ_MAX: Final = 4_096
"""More than a till sells in a day; a quarter of a second of reading at boot."""
CARDS_MAX: Final = 8_192
"""More cards than come to one terminal in a day; under 2 MB."""


@dataclass(slots=True)
class _Card:
    spent_cents: int = 0
    portions: dict[int, int] = field(default_factory=dict)
    """Meal → handed out today."""


class DayBook:
    """One local day of one terminal; a record of a later day begins a new one."""

    __slots__ = ("_cards", "_day", "_parameters", "_sells_meals")

    def __init__(self, parameters: Parameters, *, sells_meals: bool = False) -> None:
        """`sells_meals`: each purchase is a portion of the meal that was served then, as at a meal terminal."""
        self._parameters = parameters
        self._sells_meals = sells_meals
        self._day = 0
        self._cards: OrderedDict[int, _Card] = OrderedDict()

    @classmethod
    def read(cls, ring: Ring, epoch: int, parameters: Parameters, *, now_ms: int, sells_meals: bool = False) -> DayBook:
        """From the records of this epoch and day; with a clock that was never set there is no day."""
        book = cls(parameters, sells_meals=sells_meals)
        if now_ms == 0:
            return book
        today = parameters.local_day(now_ms)
        marks = ring.epochs[epoch]
        found: list[tuple[int, Transaction | Grey]] = []
        for sequence in range(marks.next - 1, max(marks.oldest, marks.next - RECORDS_READ_MAX) - 1, -1):
            try:
                record = ring.read(epoch, sequence)
                clock_ms, body = read_head(record).clock_ms, decode_body(record)
            except (SectorDead, RecordGone, ProtocolError):
                continue
            if clock_ms and parameters.local_day(clock_ms) < today:
                break
            if isinstance(body, Transaction | Grey):
                found.append((clock_ms, body))
        for clock_ms, body in reversed(found):
            book.note(clock_ms, body)
        return book

    def note(self, clock_ms: int, body: Transaction | Grey) -> None:
        """A record that was just written; a debit whose outcome is not known may have been spent."""
        card = self._of(clock_ms, body.card, adds=True)
        if card is None:
            return
        if isinstance(body, Purchase | Booking | Grey):
            card.spent_cents += body.amount_cents
        elif isinstance(body, Refund | Cancellation):
            card.spent_cents = max(0, card.spent_cents - body.amount_cents)
        meal = body.meal if isinstance(body, Collection) else 0
        if isinstance(body, Purchase) and self._sells_meals:
            meal = next((each.meal for each in serving_now(self._parameters, clock_ms)), 0)
        if meal:
            card.portions[meal] = card.portions.get(meal, 0) + 1

    def spent_cents(self, now_ms: int, card: int) -> int:
        """Today, here."""
        found = self._of(now_ms, card)
        return found.spent_cents if found is not None else 0

    def portions(self, now_ms: int, card: int, meal: int) -> int:
        """Of that meal handed out today, here."""
        found = self._of(now_ms, card)
        return found.portions.get(meal, 0) if found is not None else 0

    def _of(self, clock_ms: int, card: int, *, adds: bool = False) -> _Card | None:
        if clock_ms == 0:
            return None
        day = self._parameters.local_day(clock_ms)
        if day != self._day:
            if not adds:
                return None
            self._cards.clear()
            self._day = day
        found = self._cards.get(card)
        if found is None and adds:
            found = self._cards[card] = _Card()
            if len(self._cards) > CARDS_MAX:
                self._cards.popitem(last=False)
        return found
