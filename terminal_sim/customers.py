"""What people do at a terminal, drawn from the seed: buy and give back, book, cancel, collect, walk in, load.

A planned tap says when, where and with which card; what its owner wants there is decided here, from what the terminal
is and what the card has on it: the owner knows what is booked. Each tap has draws of its own, so that a continued run
goes on with the same people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from protocol.cards.image import AesCardImage
from protocol.cards.meals import MealPlace, Token
from protocol.parameters import Meal, Menu, Parameters
from terminal_sim.card import CardField, CardStore
from terminal_sim.draws import Draws
from terminal_sim.load_station import LoadStation
from terminal_sim.meal_terminal import MealTerminal
from terminal_sim.outcome import CardReader, Outcome, TapResult
from terminal_sim.selling_terminal import SellingTerminal

REFUND_ONE_IN: Final = 40
BOOKING_DAYS: Final = 3
ALL_DAY: Final = 1

Act = Callable[[Any, CardReader], TapResult]
"""What is done at a terminal (of the kind that has the verb) with the card in its field."""


def usual_parameters(operator_card: int) -> Parameters:
    """What a simulated site has unless it is given a file: no limits, and one meal that is served all day.

    So that a run at any hour sees bookings, collections, cancellations and walk-ins.
    """
    menus = tuple(
        Menu(menu=number, name=name, price_cents=cents)
        for number, name, cents in ((1, "A 套餐", 1200), (2, "B 套餐", 900), (3, "soup", 0))
    )
    meal = Meal(
        meal=ALL_DAY,
        name="all day",
        card_max=3,
        booking_days_max=7,
        cut_off_min=1440,
        serving_from_min=0,
        serving_to_min=1440,
        walk_in_cents=1500,
        menus=menus,
    )
    return Parameters(meals=(meal,), operator_cards=frozenset({operator_card}))


@dataclass(frozen=True, slots=True)
class Visit:
    """One customer: the card, by number, and what happens with it."""

    card: int
    act: Act


class Customers:
    """One run's people. `operator_field` makes the field of the operator's card."""

    __slots__ = ("_cards", "_last_sale", "_operator_field", "_seed")

    def __init__(self, seed: int, cards: CardStore, operator_field: Callable[[int], CardField]) -> None:
        self._seed = seed
        self._cards = cards
        self._operator_field = operator_field
        self._last_sale: dict[int, int] = {}
        """Terminal → card of its last sale: whose owner may change their mind."""

    def visit(self, terminal: SellingTerminal, tap: int, card: int, amount_cents: int) -> Visit:
        """What the owner of `card` does here at planned tap number `tap`."""
        draws = Draws(self._seed, f"customer {tap}")
        if isinstance(terminal, MealTerminal):
            return Visit(card, self._at_meals(terminal, draws, card))
        if isinstance(terminal, LoadStation):
            waiting = terminal.cards_waiting()
            return Visit(waiting[draws.below(len(waiting))] if waiting else card, _tap(0))
        number, operators = terminal.secrets.terminal, terminal.parameters.operator_cards
        sold = self._last_sale.pop(number, 0)
        if sold and operators and draws.below(REFUND_ONE_IN) == 0:
            return Visit(sold, self._give_back(min(operators)))
        return Visit(card, _tap(amount_cents))

    def left(self, terminal: SellingTerminal, result: TapResult) -> None:
        """What came of the visit."""
        if result.outcome is Outcome.SOLD:
            self._last_sale[terminal.secrets.terminal] = result.card

    def _give_back(self, operator_card: int) -> Act:
        def act(terminal: SellingTerminal, card: CardReader) -> TapResult:
            terminal.present_operator(self._operator_field(operator_card))
            return terminal.refund(card)

        return act

    def _at_meals(self, terminal: MealTerminal, draws: Draws, card: int) -> Act:
        image = self._cards.load(card)
        tokens: tuple[Token, ...] = image.tokens if isinstance(image, AesCardImage) else ()
        today = terminal.parameters.local_day(terminal.rtc.now_ms())
        share = draws.below(100)
        if tokens and share < 20:
            place = tokens[draws.below(len(tokens))].place
            return lambda here, field: _meal_terminal(here).cancel(field, place)
        if any(each.place.day == today for each in tokens) and share < 80:
            return lambda here, field: _meal_terminal(here).collect(field)
        meals = terminal.parameters.meals
        if not meals or share >= 60 or len(tokens) > 2:
            return lambda here, field: _meal_terminal(here).walk_in(field)
        meal = meals[draws.below(len(meals))]
        menu = meal.menus[draws.below(len(meal.menus))].menu if meal.menus else 0
        wanted = MealPlace(today + draws.below(BOOKING_DAYS), meal.meal, menu)
        return lambda here, field: _meal_terminal(here).book(field, wanted)


def _tap(amount_cents: int) -> Act:
    return lambda terminal, card: terminal.tap(card, amount_cents)


def _meal_terminal(terminal: SellingTerminal) -> MealTerminal:
    assert isinstance(terminal, MealTerminal)
    return terminal
