"""A meal terminal (订餐机): books, cancels, hands out what is booked, and sells to walk-ins (R23).

A booking is a token on the card, so it is known wherever the card is; collecting clears it on the card, so two
terminals that cannot talk to each other never hand it out twice. What is offered, when and for how much is in the
parameters.
"""

from __future__ import annotations

from typing import Final

from protocol.cards.apdu import CardFacts
from protocol.cards.dialogue import Authenticated
from protocol.cards.meals import NO_MEAL, CardMeals, MealPlace, Token
from protocol.codes import RecordType
from protocol.rules import Request, serving_now
from terminal_sim.outcome import CardReader, TapResult
from terminal_sim.rtc import NEVER_SET
from terminal_sim.selling_terminal import SellingTerminal
from terminal_sim.transaction import Plan

NO_SUCH_MEAL: Final = 0xFF
"""Asked for where a site has no meals; the rules refuse it."""


class MealTerminal(SellingTerminal):
    """The firmware between two power cuts."""

    SELLS_MEALS = True

    def book(self, card: CardReader, place: MealPlace) -> TapResult:
        """Write the card's next booking serial as a token for that meal, and take its price."""

        def plan(facts: CardFacts, read: Authenticated) -> Plan:
            meals = read.meals or CardMeals()
            request = Request(
                type=RecordType.BOOKING,
                card=facts.number,
                place=place,
                portions=self._portions(facts.number, meals, place),
            )
            return Plan(request=request, reference=meals.booking_serial + 1)

        return self.transact(card, RecordType.BOOKING, plan)

    def cancel(self, card: CardReader, place: MealPlace) -> TapResult:
        """Clear a token for that meal and give its price back; after the cut-off only with an operator's card."""
        operator_card = self.take_operator()

        def plan(facts: CardFacts, read: Authenticated) -> Plan:
            found = _token(read.meals, place)
            request = Request(
                type=RecordType.CANCELLATION,
                card=facts.number,
                place=place,
                price_cents=found.price_cents if found is not None else 0,
                is_booked=found is not None,
                operator_card=operator_card,
            )
            return Plan(request=request, reference=found.serial if found is not None else 0)

        return self.transact(card, RecordType.CANCELLATION, plan)

    def collect(self, card: CardReader) -> TapResult:
        """Hand out what the card has booked of a meal that is served now: intent, token cleared, record."""

        def plan(facts: CardFacts, read: Authenticated) -> Plan:
            found = self._due(read.meals)
            request = Request(
                type=RecordType.COLLECTION,
                card=facts.number,
                place=found.place if found is not None else NO_MEAL,
                price_cents=found.price_cents if found is not None else 0,
                is_booked=found is not None,
            )
            return Plan(request=request, reference=found.serial if found is not None else 0)

        return self.transact(card, RecordType.COLLECTION, plan)

    def walk_in(self, card: CardReader) -> TapResult:
        """Sell the meal that is served now to somebody who has not booked."""
        place = self._served_place()

        def plan(facts: CardFacts, read: Authenticated) -> Plan:
            portions = self._portions(facts.number, read.meals or CardMeals(), place)
            return Plan(request=Request(type=RecordType.PURCHASE, card=facts.number, place=place, portions=portions))

        return self.transact(card, RecordType.PURCHASE, plan)

    def tap(self, card: CardReader, amount_cents: int) -> TapResult:
        """A card held to the terminal with nothing chosen is here for what it has booked; nothing is paid."""
        return self.collect(card)

    # -- inside

    def _served_place(self) -> MealPlace:
        """What a walk-in would buy: the first meal that is served now; of day 0 where there is none."""
        now_ms = self.rtc.now_ms()
        served = serving_now(self.parameters, now_ms)
        if served:
            return MealPlace(self.parameters.local_day(now_ms), served[0].meal, 0)
        return MealPlace(0, self.parameters.meals[0].meal if self.parameters.meals else NO_SUCH_MEAL, 0)

    def _due(self, meals: CardMeals | None) -> Token | None:
        """The card's first token of today for a meal that is served now; else any of today, for the rules to refuse."""
        now_ms = self.rtc.now_ms()
        today = self.parameters.local_day(now_ms) if now_ms != NEVER_SET else -1
        of_today = [each for each in (meals.tokens if meals is not None else ()) if each.place.day == today]
        served = {each.meal for each in serving_now(self.parameters, now_ms)}
        return next((each for each in of_today if each.place.meal in served), of_today[0] if of_today else None)

    def _portions(self, card: int, meals: CardMeals, place: MealPlace) -> int:
        """Booked on the card, and handed out here today."""
        booked = sum((each.place.day, each.place.meal) == (place.day, place.meal) for each in meals.tokens)
        now_ms = self.rtc.now_ms()
        if now_ms == NEVER_SET or place.day != self.parameters.local_day(now_ms):
            return booked
        return booked + self.day_book().portions(now_ms, card, place.meal)


def _token(meals: CardMeals | None, place: MealPlace) -> Token | None:
    """The oldest token for just that meal."""
    return next((each for each in (meals.tokens if meals is not None else ()) if each.place == place), None)
