"""The parts of the permissions document: doors, card groups, time profiles, and how each is read strictly. Pure.

`protocol.permissions` puts them together; docs/doors.md says what every field means. A bound that is missed, or a field
that nobody knows, is Malformed and names its place: `permissions: doors[3].unlock_ms is 0; 100 to 600000`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocol.canonical import Object, ascending, numbers, whole
from protocol.errors import Malformed
from protocol.local_time import DAYS_MASK_MAX, MINUTES_PER_DAY, OFFSET_MINUTES_MAX, Interval

DOORS_MAX: Final = 128  # with what a door needs, 64 KiB hold about as many
GROUPS_MAX: Final = 256  # a card's group is one byte
PROFILES_MAX: Final = 64  # more, and nobody knows any more which one to choose
INTERVALS_MAX: Final = 16  # per profile: two a day, and two of holidays
HOLIDAYS_MAX: Final = 366  # the longest year
OFFSETS_MAX: Final = 32  # two changes of the clocks in each of 16 years
RANGES_MAX: Final = 64  # of card numbers, per group
GRANTS_MAX: Final = 256  # per door
NAME_CHARACTERS_MAX: Final = 32
CODE_DIGITS: Final = (4, 8)
UNLOCK_MS: Final = (100, 600_000)  # a strike takes 100 ms to move; nobody needs 10 minutes to open a door
HELD_OPEN_MS: Final = (1_000, 86_400_000)
ALWAYS: Final = 0
"""The profile that is always in force; it needs no clock."""
AREA_MAX: Final = 255
PROFILE_ID_MAX: Final = 255
U32_MAX: Final = 0xFFFF_FFFF
UTC_S_MAX: Final = 1 << 40
_DATES: Final = (1970_01_02, 2999_12_31)


class AntiPassback(Enum):
    """What becomes of a card that wants to go where it is already (反潜回)."""

    OFF = "off"
    SOFT = "soft"
    """It passes, and the record says so."""
    HARD = "hard"
    """It does not pass."""


class DuressRule(Enum):
    """Which code means "I am being forced" (胁迫码)."""

    OFF = "off"
    PLUS_ONE = "plus_one"
    """The code as a number plus one; 9999 becomes 0000."""
    SUFFIX = "suffix"
    """The code and one 9 more."""


class Clockless(Enum):
    """Whom a door lets pass while its clock was never set."""

    CLOSED = "closed"
    UNPROFILED = "unprofiled"
    """Groups that may pass always, whatever the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One reader and what it opens, in one direction."""

    terminal: int
    """The door terminal whose reader this is."""
    door: int
    """1 … 255 at that terminal; what its records name."""
    name: str
    lock: int
    """Whose strike and contact: the door's own number, or that of the door whose other side this is."""
    area_from: int = 0
    area_to: int = 1
    anti_passback: AntiPassback = AntiPassback.OFF
    clockless: Clockless = Clockless.CLOSED
    code: str = field(default="", repr=False)
    """Digits to key in after the card; empty: none."""
    duress: DuressRule = DuressRule.OFF
    exit_button: bool = True
    first_groups: tuple[int, ...] = ()
    """Nobody else passes before a card of these has on that day; empty: no such rule."""
    grants: tuple[tuple[int, int], ...] = ()
    """(card group, profile); profile 0: always."""
    held_open_ms: int = 30_000
    unlock_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class Group:
    """Card numbers that may claim this group; none given: any card that does. (A card proves only its number.)"""

    id: int
    name: str
    cards: tuple[tuple[int, int], ...] = ()
    """(first, last), both included, ascending."""

    def takes(self, card: int) -> bool:
        return not self.cards or any(first <= card <= last for first, last in self.cards)


@dataclass(frozen=True, slots=True)
class Profile:
    id: int
    name: str
    intervals: tuple[Interval, ...]


# -- reading


def read_door(what: str, path: str, value: object) -> Door:
    given = Object(what, path, value)
    code = given.text("code", characters_max=CODE_DIGITS[1])
    if code and not (code.isascii() and code.isdigit() and len(code) >= CODE_DIGITS[0]):
        given.wrong(f"has a code that is not {CODE_DIGITS[0]} to {CODE_DIGITS[1]} digits")
    door = Door(
        terminal=given.integer("terminal", 1, U32_MAX),
        door=given.integer("door", 1, 255),
        name=given.text("name", characters_max=NAME_CHARACTERS_MAX),
        lock=given.integer("lock", 1, 255),
        area_from=given.integer("area_from", 0, AREA_MAX),
        area_to=given.integer("area_to", 0, AREA_MAX),
        anti_passback=given.choice("anti_passback", AntiPassback),
        clockless=given.choice("clockless", Clockless),
        code=code,
        duress=given.choice("duress", DuressRule),
        exit_button=given.flag("exit_button"),
        first_groups=given.items("first_groups", _read_group_id, most=GROUPS_MAX),
        grants=given.items("grants", _read_grant, most=GRANTS_MAX),
        held_open_ms=given.integer("held_open_ms", *HELD_OPEN_MS),
        unlock_ms=given.integer("unlock_ms", *UNLOCK_MS),
    )
    given.done()
    ascending(what, f"{path}.first_groups", door.first_groups)
    ascending(what, f"{path}.grants", door.grants)
    if door.anti_passback is not AntiPassback.OFF and door.area_from == door.area_to:
        given.wrong("has anti-passback and leads nowhere: area_from equals area_to")
    return door


def _read_group_id(what: str, path: str, value: object) -> int:
    return whole(what, path, value, 0, GROUPS_MAX - 1)


def _read_grant(what: str, path: str, value: object) -> tuple[int, int]:
    group, profile = numbers(what, path, value, (0, GROUPS_MAX - 1), (ALWAYS, PROFILE_ID_MAX))
    return group, profile


def read_group(what: str, path: str, value: object) -> Group:
    given = Object(what, path, value)
    group = Group(
        given.integer("id", 0, GROUPS_MAX - 1),
        given.text("name", characters_max=NAME_CHARACTERS_MAX),
        given.items("cards", _read_range, most=RANGES_MAX),
    )
    given.done()
    _check_ranges(what, f"{path}.cards", group.cards)
    return group


def _check_ranges(what: str, path: str, ranges: Sequence[tuple[int, int]]) -> None:
    before = 0
    for index, (first, last) in enumerate(ranges):
        if not before < first <= last:
            raise Malformed(what, f"{path}[{index}] ends before it begins, or overlaps the one before")
        before = last


def _read_range(what: str, path: str, value: object) -> tuple[int, int]:
    first, last = numbers(what, path, value, (1, U32_MAX), (1, U32_MAX))
    return first, last


def read_profile(what: str, path: str, value: object) -> Profile:
    given = Object(what, path, value)
    profile = Profile(
        given.integer("id", 1, PROFILE_ID_MAX),
        given.text("name", characters_max=NAME_CHARACTERS_MAX),
        given.items("intervals", _read_interval, least=1, most=INTERVALS_MAX),
    )
    given.done()
    return profile


def _read_interval(what: str, path: str, value: object) -> Interval:
    bounds = (1, DAYS_MASK_MAX), (0, MINUTES_PER_DAY - 1), (1, MINUTES_PER_DAY)
    days, from_minute, to_minute = numbers(what, path, value, *bounds)
    if from_minute >= to_minute:
        raise Malformed(what, f"{path} ends before it begins; over midnight takes two intervals")
    return Interval(days, from_minute, to_minute)


def read_date(what: str, path: str, value: object) -> int:
    return whole(what, path, value, *_DATES)


def read_offset(what: str, path: str, value: object) -> tuple[int, int]:
    since_s, minutes = numbers(what, path, value, (0, UTC_S_MAX), (-OFFSET_MINUTES_MAX, OFFSET_MINUTES_MAX))
    return since_s, minutes
