"""The site's parameters for its terminals (机具参数): limits, discounts, meals, operators (docs/parameters.md). Pure.

Content of list kind 02: canonical JSON, whole and signed like a deny list; a terminal applies it or keeps what it has.
Nothing is optional and nothing unknown is skipped: a terminal that does not understand a limit must not sell past it.
Amounts in cents; minutes are local, from midnight; local time is UTC plus a fixed offset. What they mean for a
customer is in `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from protocol.canonical import Object, ascending, dump, load, whole
from protocol.errors import OutOfRange, RemoteError
from protocol.record_body import Buffer
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
_WHAT: Final = "parameters"


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
        encoded = dump(
            {
                "format": FORMAT,
                **{name: getattr(self.limits, name) for name in Limits.__slots__},
                "groups": [{name: getattr(each, name) for name in Group.__slots__} for each in self.groups],
                "meals": [_meal_fields(each) for each in self.meals],
                "operator_cards": sorted(self.operator_cards),
                "utc_offset_min": self.utc_offset_min,
            }
        )
        try:
            decode_parameters(encoded)
        except RemoteError as error:
            raise OutOfRange(str(error)) from None
        return encoded

    def __repr__(self) -> str:
        return f"Parameters({self.limits}, {len(self.groups)} groups, {len(self.meals)} meals)"


def decode_parameters(data: Buffer) -> Parameters:
    """The content of list kind 02. Raises TooLong, and Malformed naming the field."""
    document = load(_WHAT, bytes(data[: CONTENT_BYTES_MAX + 1]), bytes_max=CONTENT_BYTES_MAX)
    document.integer("format", FORMAT, FORMAT)
    found = Parameters(
        limits=Limits(
            amount_max_cents=document.integer("amount_max_cents", 1, AMOUNT_CENTS_MAX),
            daily_max_cents=document.integer("daily_max_cents", 1, AMOUNT_CENTS_MAX),
            list_age_ms_max=document.integer("list_age_ms_max", MS_PER_MINUTE, LIST_AGE_MS_MAX),
            stale_max_cents=document.integer("stale_max_cents", 0, AMOUNT_CENTS_MAX),
        ),
        groups=document.items("groups", _group, most=GROUPS_MAX),
        meals=document.items("meals", _meal, most=MEALS_MAX),
        operator_cards=frozenset(cards := document.items("operator_cards", _card, most=OPERATOR_CARDS_MAX)),
        utc_offset_min=document.integer("utc_offset_min", -_UTC_OFFSET_MINUTES_MAX, _UTC_OFFSET_MINUTES_MAX),
    )
    ascending(_WHAT, "groups", [each.group for each in found.groups])
    ascending(_WHAT, "meals", [each.meal for each in found.meals])
    ascending(_WHAT, "operator_cards", cards)
    document.done()
    return found


def _group(what: str, path: str, value: object) -> Group:
    given = Object(what, path, value)
    found = Group(
        group=given.integer("group", 0, _U8),
        daily_max_cents=given.integer("daily_max_cents", 1, AMOUNT_CENTS_MAX),
        discount_per_mille=given.integer("discount_per_mille", 0, PER_MILLE),
    )
    given.done()
    return found


def _menu(what: str, path: str, value: object) -> Menu:
    given = Object(what, path, value)
    found = Menu(
        menu=given.integer("menu", 1, _U8),
        name=_name(given),
        price_cents=given.integer("price_cents", 0, AMOUNT_CENTS_MAX),
    )
    given.done()
    return found


def _meal(what: str, path: str, value: object) -> Meal:
    given = Object(what, path, value)
    found = Meal(
        meal=given.integer("meal", 1, _U8),
        name=_name(given),
        card_max=given.integer("card_max", 1, _U8),
        booking_days_max=given.integer("booking_days_max", 0, BOOKING_DAYS_MAX),
        cut_off_min=given.integer("cut_off_min", -BOOKING_DAYS_MAX * MINUTES_PER_DAY, MINUTES_PER_DAY),
        serving_from_min=given.integer("serving_from_min", 0, MINUTES_PER_DAY - 1),
        serving_to_min=given.integer("serving_to_min", 1, MINUTES_PER_DAY),
        walk_in_cents=given.integer("walk_in_cents", 0, AMOUNT_CENTS_MAX),
        menus=given.items("menus", _menu, most=MENUS_MAX),
    )
    given.done()
    ascending(what, f"{path}.menus", [each.menu for each in found.menus])
    if found.serving_from_min >= found.serving_to_min:
        given.wrong("has a serving_to_min that is not after serving_from_min: a meal does not cross midnight")
    return found


def _name(given: Object) -> str:
    name = given.text("name", characters_max=NAME_CHARS_MAX)
    if not name:
        given.wrong("has an empty name")
    return name


def _card(what: str, path: str, value: object) -> int:
    return whole(what, path, value, 1, _U32)


def _meal_fields(meal: Meal) -> dict[str, Any]:
    fields = {name: getattr(meal, name) for name in Meal.__slots__}
    return {**fields, "menus": [{name: getattr(each, name) for name in Menu.__slots__} for each in meal.menus]}
