"""What a terminal may do for a card, and for how much: one rule engine for every kind of terminal (docs/parameters.md).

Pure: the facts are arguments, the clock among them. A request is refused for the first reason of `REASONS` that holds;
their order is part of the contract, so that terminals of two makers give a customer the same answer. Who the card is
(genuine, of our currency) has been settled before, and what the card itself refuses comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from protocol.cards.meals import NO_MEAL, MealPlace
from protocol.codes import RecordType, RefusalReason
from protocol.parameters import MINUTES_PER_DAY, PER_MILLE, Meal, Menu, Parameters
from protocol.trade_time import MS_PER_DAY

SPENDING: Final = frozenset({RecordType.PURCHASE, RecordType.BOOKING})
"""What limits and discounts are about."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Request:
    """What is asked for, and what the terminal knows. Defaults: nothing speaks against it."""

    type: int
    """Of the record that would be made: purchase, refund, load, booking, cancellation, collection."""
    price_cents: int = 0
    """Asked by the till; of an order, a refund or a token its amount. The price of a menu or walk-in is the site's."""
    card: int
    card_group: int = 0
    valid_until_day: int = 0
    """Days since 1970, UTC; 0: no end."""
    now_ms: int = 0
    """0: the terminal's clock was never set."""
    balance_cents: int | None = None
    """None: not read yet; then it is not judged."""
    is_denied: bool = False
    list_age_ms: int | None = 0
    """None: there is no deny list."""
    spent_cents: int = 0
    """By this card at this terminal on this local day, what may have been spent included."""
    place: MealPlace = NO_MEAL
    """Which meal; of a purchase: a walk-in (menu 0), or none."""
    portions: int = 0
    """Of that meal and day, booked or bought, as far as this terminal knows."""
    operator_card: int = 0
    """Present at the terminal, and proved; 0: none."""
    refundable_cents: int = 0
    """Of the purchase that is to be refunded; 0: there is none."""
    is_ordered: bool = False
    """A load order for this card and station is at hand."""
    is_booked: bool = False
    """The card has a token for it."""


@dataclass(slots=True, frozen=True)
class Decision:
    """`reason` None: go ahead, for `amount_cents`; else refused, and that is what it would have cost."""

    amount_cents: int
    discount_cents: int
    reason: RefusalReason | None

    @property
    def is_allowed(self) -> bool:
        return self.reason is None


def decide(parameters: Parameters, request: Request) -> Decision:
    """The one answer to a request."""
    price = _price_cents(parameters, request)
    amount = price
    if request.type in SPENDING:
        amount = discounted_cents(price, parameters.group(request.card_group).discount_per_mille)
        if request.type == RecordType.PURCHASE:
            amount = max(amount, min(price, 1))  # a card debits no 0
    for reason, holds in REASONS.items():
        if holds(parameters, request, amount):
            return Decision(amount, price - amount, reason)
    return Decision(amount, price - amount, None)


def discounted_cents(price_cents: int, per_mille: int) -> int:
    """The price less the discount, rounded down to whole cents: the customer never pays more than the exact amount."""
    return price_cents * (PER_MILLE - per_mille) // PER_MILLE


def serving_now(parameters: Parameters, now_ms: int) -> tuple[Meal, ...]:
    """Meals that are served at this moment; none where the clock was never set."""
    if now_ms == 0:
        return ()
    minute = parameters.local_minute(now_ms)
    return tuple(each for each in parameters.meals if each.serving_from_min <= minute < each.serving_to_min)


def _price_cents(parameters: Parameters, request: Request) -> int:
    if request.type == RecordType.BOOKING:
        menu = _menu(parameters, request)
        return menu.price_cents if menu is not None else 0
    if request.type == RecordType.PURCHASE and request.place.meal:
        meal = parameters.meal(request.place.meal)
        return meal.walk_in_cents if meal is not None else 0
    return request.price_cents


def _menu(parameters: Parameters, request: Request) -> Menu | None:
    meal = parameters.meal(request.place.meal)
    return meal.menu(request.place.menu) if meal is not None else None


_Holds = Callable[[Parameters, Request, int], bool]
"""(parameters, request, amount after discount) → whether the reason holds."""


def _denied(_: Parameters, request: Request, __: int) -> bool:
    return request.is_denied


def _expired(_: Parameters, request: Request, __: int) -> bool:
    """By the terminal's own clock; one that was never set refuses nobody."""
    return request.valid_until_day != 0 and request.now_ms // MS_PER_DAY > request.valid_until_day


def _no_operator(parameters: Parameters, request: Request, _: int) -> bool:
    return request.type == RecordType.REFUND and request.operator_card not in parameters.operator_cards


def _not_refundable(_: Parameters, request: Request, amount: int) -> bool:
    return request.type == RecordType.REFUND and not 1 <= amount <= request.refundable_cents


def _no_order(_: Parameters, request: Request, amount: int) -> bool:
    return request.type == RecordType.LOAD and not (request.is_ordered and amount >= 1)


def _not_booked(_: Parameters, request: Request, __: int) -> bool:
    return request.type in {RecordType.CANCELLATION, RecordType.COLLECTION} and not request.is_booked


def _cut_off_passed(parameters: Parameters, request: Request, _: int) -> bool:
    """Booking and cancelling end at the cut-off of the meal's day; an operator may cancel after it.

    A meal or menu that is not offered, a day too far ahead and a clock that was never set count as passed.
    """
    if request.type == RecordType.CANCELLATION and request.operator_card in parameters.operator_cards:
        return False
    if request.type not in {RecordType.BOOKING, RecordType.CANCELLATION}:
        return False
    meal, place = parameters.meal(request.place.meal), request.place
    if meal is None or request.now_ms == 0:
        return True
    today = parameters.local_day(request.now_ms)
    minutes_left = (place.day - today) * MINUTES_PER_DAY + meal.cut_off_min - parameters.local_minute(request.now_ms)
    if request.type == RecordType.CANCELLATION:
        return minutes_left <= 0
    return minutes_left <= 0 or place.day > today + meal.booking_days_max or meal.menu(place.menu) is None


def _outside_serving_time(parameters: Parameters, request: Request, _: int) -> bool:
    """Collected, and sold to walk-ins, today and within the meal's window; sold only where it has a walk-in price."""
    is_walk_in = request.type == RecordType.PURCHASE and request.place.meal != 0
    if not is_walk_in and request.type != RecordType.COLLECTION:
        return False
    meal = parameters.meal(request.place.meal)
    if meal is None or meal not in serving_now(parameters, request.now_ms):
        return True
    if is_walk_in and meal.walk_in_cents == 0:
        return True
    return request.place.day != parameters.local_day(request.now_ms)


def _meal_limit(parameters: Parameters, request: Request, _: int) -> bool:
    meal = parameters.meal(request.place.meal)
    return request.type in SPENDING and meal is not None and request.portions >= meal.card_max


def _amount_limit(parameters: Parameters, request: Request, amount: int) -> bool:
    if request.type == RecordType.PURCHASE and amount < 1:
        return True
    return request.type in SPENDING and amount > parameters.limits.amount_max_cents


def _list_too_old(parameters: Parameters, request: Request, amount: int) -> bool:
    limits, age_ms = parameters.limits, request.list_age_ms
    is_old = age_ms is None or age_ms > limits.list_age_ms_max
    return request.type in SPENDING and is_old and amount > limits.stale_max_cents


def _daily_limit(parameters: Parameters, request: Request, amount: int) -> bool:
    daily_max = parameters.group(request.card_group).daily_max_cents
    return request.type in SPENDING and amount > 0 and request.spent_cents + amount > daily_max


def _balance_too_low(_: Parameters, request: Request, amount: int) -> bool:
    return request.type in SPENDING and request.balance_cents is not None and request.balance_cents < amount


REASONS: Final[Mapping[RefusalReason, _Holds]] = MappingProxyType(
    {
        RefusalReason.DENY_LIST: _denied,
        RefusalReason.EXPIRED: _expired,
        RefusalReason.OPERATOR: _no_operator,
        RefusalReason.NOT_REFUNDABLE: _not_refundable,
        RefusalReason.NO_ORDER: _no_order,
        RefusalReason.NOT_BOOKED: _not_booked,
        RefusalReason.CUT_OFF_PASSED: _cut_off_passed,
        RefusalReason.OUTSIDE_SERVING_TIME: _outside_serving_time,
        RefusalReason.MEAL_LIMIT: _meal_limit,
        RefusalReason.AMOUNT_LIMIT: _amount_limit,
        RefusalReason.LIST_TOO_OLD: _list_too_old,
        RefusalReason.DAILY_LIMIT: _daily_limit,
        RefusalReason.BALANCE_TOO_LOW: _balance_too_low,
    }
)
"""In the order in which they are told: what is wrong with the card, then with the wish, then with the money."""
