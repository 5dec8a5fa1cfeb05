"""The site's parameters for its terminals (机具参数): limits, discounts, meals, operators (docs/parameters.md). Pure.

Content of list kind 02: canonical JSON, whole and signed like a deny list; a terminal applies it or keeps what it has.
Nothing is optional and nothing unknown is skipped: a terminal that does not understand a limit must not sell past it.
Amounts in cents; minutes are local, from midnight; local time is UTC plus a fixed offset. What they mean for a
customer is in `rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from protocol.errors import Malformed, OutOfRange
from protocol.record_body import Buffer
from protocol.strict_json import Members, decode_canonical, encode_canonical
from protocol.trade_time import MS_PER_DAY, MS_PER_MINUTE

FORMAT: Final = 1
CONTENT_BYTES_MAX: Final = 32_768
"""Eight flash sectors, half a minute of a 9600 baud bus; 32 meals of 8 menus need 25 KB."""
AMOUNT_CENTS_MAX: Final = 0x7FFF_FFFF
"""A card's balance is an i32."""
GROUPS_MAX: Final = 256
MEALS_MAX: Final = 32
MENUS_MAX: Final = 8
OPERATOR_CARDS_MAX: Final = 256
NAME_CHARS_MAX: Final = 32
MINUTES_PER_DAY: Final = 1_440
BOOKING_DAYS_MAX: Final = 31
PER_MILLE: Final = 1_000
LIST_AGE_MS_MAX: Final = 366 * MS_PER_DAY
_UTC_OFFSET_MINUTES_MAX: Final = 14 * 60
_U8: Final = 0xFF
_U32: Final = 0xFFFF_FFFF

_T = TypeVar("_T")


@dataclass(slots=True, frozen=True, kw_only=True)
class Limits:
    """What a card may spend at one terminal by its own; loads and refunds are not spending."""

    amount_max_cents: int = AMOUNT_CENTS_MAX
    """Of one purchase or booking."""
    daily_max_cents: int = AMOUNT_CENTS_MAX
    """Per card, local day and terminal; a group may have its own."""
    list_age_ms_max: int = LIST_AGE_MS_MAX
    """With a deny list older than this, or none, `stale_max_cents` holds too (R28)."""
    stale_max_cents: int = AMOUNT_CENTS_MAX


@dataclass(slots=True, frozen=True, kw_only=True)
class Group:
    """A card group's own terms; a group that is not listed pays the price and has the site's daily limit."""

    group: int
    daily_max_cents: int = AMOUNT_CENTS_MAX
    discount_per_mille: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class Menu:
    menu: int
    name: str
    price_cents: int
    """0: free."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Meal:
    """One meal of every day."""

    meal: int
    name: str
    card_max: int
    """Portions per card, day and meal, booked or bought, as far as this terminal knows."""
    booking_days_max: int
    """Days ahead; 0: for today only."""
    cut_off_min: int
    """Booked and cancelled before this minute of the meal's day; negative: on a day before."""
    serving_from_min: int
    serving_to_min: int
    """Served from the first minute on, and before this one."""
    walk_in_cents: int
    """Price without a booking; 0: no walk-in."""
    menus: tuple[Menu, ...]

    def menu(self, number: int) -> Menu | None:
        return next((each for each in self.menus if each.menu == number), None)


@dataclass(slots=True, frozen=True, kw_only=True)
class Parameters:
    """All of it. The defaults limit nothing, sell no meals and know no operator."""

    limits: Limits = Limits()
    groups: tuple[Group, ...] = ()
    meals: tuple[Meal, ...] = ()
    operator_cards: frozenset[int] = frozenset()
    utc_offset_min: int = 480
    """China has one."""

    def meal(self, number: int) -> Meal | None:
        return next((each for each in self.meals if each.meal == number), None)

    def group(self, number: int) -> Group:
        """Its own terms, or those of a group without any."""
        found = next((each for each in self.groups if each.group == number), None)
        return found or Group(group=number, daily_max_cents=self.limits.daily_max_cents)

    def local_day(self, utc_ms: int) -> int:
        """Days since 1970-01-01, local."""
        return (utc_ms + self.utc_offset_min * MS_PER_MINUTE) // MS_PER_DAY

    def local_minute(self, utc_ms: int) -> int:
        """Minutes since local midnight."""
        return (utc_ms + self.utc_offset_min * MS_PER_MINUTE) % MS_PER_DAY // MS_PER_MINUTE

    def content(self) -> bytes:
        """The bytes that are signed. Raises OutOfRange for values that no terminal would take."""
        encoded = encode_canonical(
            {
                "format": FORMAT,
                "limits": {name: getattr(self.limits, name) for name in Limits.__slots__},
                "groups": [{name: getattr(each, name) for name in Group.__slots__} for each in self.groups],
                "meals": [_meal_fields(each) for each in self.meals],
                "operator_cards": sorted(self.operator_cards),
                "utc_offset_min": self.utc_offset_min,
            }
        )
        try:
            decode_parameters(encoded)
        except Malformed as error:
            raise OutOfRange(str(error)) from None
        return encoded

    def __repr__(self) -> str:
        return f"Parameters({self.limits}, {len(self.groups)} groups, {len(self.meals)} meals)"


def decode_parameters(data: Buffer) -> Parameters:
    """The content of list kind 02. Raises Malformed, naming the member."""
    members = Members(decode_canonical(data, what="parameters", bytes_max=CONTENT_BYTES_MAX), "parameters")
    members.integer("format", FORMAT, FORMAT)
    found = Parameters(
        limits=_limits(Members(members.take("limits"), "limits")),
        groups=_each(members.array("groups", GROUPS_MAX), "groups", _group, lambda each: each.group),
        meals=_each(members.array("meals", MEALS_MAX), "meals", _meal, lambda each: each.meal),
        operator_cards=_cards(members.array("operator_cards", OPERATOR_CARDS_MAX)),
        utc_offset_min=members.integer("utc_offset_min", -_UTC_OFFSET_MINUTES_MAX, _UTC_OFFSET_MINUTES_MAX),
    )
    members.end()
    return found


def _limits(members: Members) -> Limits:
    found = Limits(
        amount_max_cents=members.integer("amount_max_cents", 1, AMOUNT_CENTS_MAX),
        daily_max_cents=members.integer("daily_max_cents", 1, AMOUNT_CENTS_MAX),
        list_age_ms_max=members.integer("list_age_ms_max", MS_PER_MINUTE, LIST_AGE_MS_MAX),
        stale_max_cents=members.integer("stale_max_cents", 0, AMOUNT_CENTS_MAX),
    )
    members.end()
    return found


def _group(members: Members) -> Group:
    return Group(
        group=members.integer("group", 0, _U8),
        daily_max_cents=members.integer("daily_max_cents", 1, AMOUNT_CENTS_MAX),
        discount_per_mille=members.integer("discount_per_mille", 0, PER_MILLE),
    )


def _menu(members: Members) -> Menu:
    return Menu(
        menu=members.integer("menu", 1, _U8),
        name=members.text("name", NAME_CHARS_MAX),
        price_cents=members.integer("price_cents", 0, AMOUNT_CENTS_MAX),
    )


def _meal(members: Members) -> Meal:
    found = Meal(
        meal=members.integer("meal", 1, _U8),
        name=members.text("name", NAME_CHARS_MAX),
        card_max=members.integer("card_max", 1, _U8),
        booking_days_max=members.integer("booking_days_max", 0, BOOKING_DAYS_MAX),
        cut_off_min=members.integer("cut_off_min", -BOOKING_DAYS_MAX * MINUTES_PER_DAY, MINUTES_PER_DAY),
        serving_from_min=members.integer("serving_from_min", 0, MINUTES_PER_DAY - 1),
        serving_to_min=members.integer("serving_to_min", 1, MINUTES_PER_DAY),
        walk_in_cents=members.integer("walk_in_cents", 0, AMOUNT_CENTS_MAX),
        menus=_each(members.array("menus", MENUS_MAX), "menus", _menu, lambda each: each.menu),
    )
    if found.serving_from_min >= found.serving_to_min:
        raise Malformed("meals.serving_to_min", "not after serving_from_min: a meal does not cross midnight")
    return found


def _each(values: list[Any], where: str, read: Callable[[Members], _T], number: Callable[[_T], int]) -> tuple[_T, ...]:
    """Objects in ascending order of their numbers, none twice."""
    found = []
    for value in values:
        members = Members(value, where)
        found.append(read(members))
        members.end()
    _rising((number(each) for each in found), where)
    return tuple(found)


def _cards(values: list[Any]) -> frozenset[int]:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _U32:
            raise Malformed("operator_cards", "no card number")
    _rising(values, "operator_cards")
    return frozenset(values)


def _rising(numbers: Iterable[int], where: str) -> None:
    before = -1
    for number in numbers:
        if number <= before:
            raise Malformed(where, f"{number} after {before}: numbers rise, none occurs twice")
        before = number


def _meal_fields(meal: Meal) -> dict[str, Any]:
    fields = {name: getattr(meal, name) for name in Meal.__slots__}
    return {**fields, "menus": [{name: getattr(each, name) for name in Menu.__slots__} for each in meal.menus]}
