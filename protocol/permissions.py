"""Permissions: which card group passes which door, when (门禁权限): the content of list kind 03. Pure.

Canonical JSON (`protocol.canonical`), read strictly, at most 64 KiB: that is the true limit, those of
`protocol.permission_parts` keep each part sane. One document holds the doors of a whole site; a door terminal looks for
those that bear its number. docs/doors.md has every field and an example.

    doors × card groups × time profiles × holidays        evaluated by `protocol.door`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from operator import attrgetter
from typing import Any, Final

from protocol.canonical import ascending, dump, load
from protocol.errors import Malformed, OutOfRange
from protocol.local_time import LocalTime, day_of_date, is_within, local_time
from protocol.permission_parts import (
    ALWAYS,
    DOORS_MAX,
    GROUPS_MAX,
    HOLIDAYS_MAX,
    OFFSETS_MAX,
    PROFILES_MAX,
    AntiPassback,
    Clockless,
    Door,
    DuressRule,
    Group,
    Profile,
    read_date,
    read_door,
    read_group,
    read_offset,
    read_profile,
)

__all__ = ["ALWAYS", "AntiPassback", "Clockless", "Door", "DuressRule", "Group", "Permissions", "Profile"]

FORMAT: Final = 1
PERMISSIONS_BYTES_MAX: Final = 65_536  # what is distributed, and kept in a terminal's flash, in one piece
_WHAT: Final = "permissions"


class Permissions:
    """One version of the document; immutable."""

    __slots__ = ("_by_door", "_groups", "_holidays", "_profiles", "doors", "groups", "holidays", "offsets", "profiles")

    def __init__(
        self,
        *,
        doors: Sequence[Door] = (),
        groups: Sequence[Group] = (),
        profiles: Sequence[Profile] = (),
        holidays: Sequence[int] = (),
        offsets: Sequence[tuple[int, int]] = ((0, 0),),
    ) -> None:
        """Raises Malformed for parts that do not fit together; `decode` has checked each by itself."""
        self.doors = tuple(doors)
        self.groups = tuple(groups)
        self.profiles = tuple(profiles)
        self.holidays = tuple(holidays)
        """Dates as 20261001."""
        self.offsets = tuple(offsets)
        """(UTC seconds from which, minutes ahead of UTC); the first from 0."""
        for name, keys in (
            ("doors", [(each.terminal, each.door) for each in self.doors]),
            ("groups", [each.id for each in self.groups]),
            ("profiles", [each.id for each in self.profiles]),
            ("holidays", self.holidays),
            ("utc_offsets", self.offsets),
        ):
            ascending(_WHAT, name, keys)
        if not self.offsets or self.offsets[0][0] != 0:
            raise Malformed(_WHAT, "utc_offsets[0] does not begin at 0")
        self._by_door = {(each.terminal, each.door): each for each in self.doors}
        self._groups = {each.id: each for each in self.groups}
        self._profiles = {each.id: each for each in self.profiles}
        self._holidays = frozenset(_day(index, written) for index, written in enumerate(self.holidays))
        for index, door in enumerate(self.doors):
            self._check_door(f"doors[{index}]", door)

    def __repr__(self) -> str:
        return f"Permissions({len(self.doors)} doors, {len(self.groups)} groups, {len(self.profiles)} profiles)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permissions) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())

    def door(self, terminal: int, door: int) -> Door | None:
        return self._by_door.get((terminal, door))

    def doors_of(self, terminal: int) -> tuple[Door, ...]:
        """The doors of one terminal, by number."""
        return tuple(each for each in self.doors if each.terminal == terminal)

    def local_time(self, utc_ms: int) -> LocalTime:
        """The site's wall clock."""
        offset = next((minutes for since_s, minutes in reversed(self.offsets) if since_s * 1000 <= utc_ms), 0)
        return local_time(utc_ms, offset)

    def is_member(self, group: int, card: int) -> bool:
        """Whether a proved card number may claim that group."""
        known = self._groups.get(group)
        return known is not None and known.takes(card)

    def is_open(self, profile: int, now: LocalTime | None) -> bool:
        """Whether a profile is in force; without a clock only ALWAYS is."""
        if profile == ALWAYS:
            return True
        return now is not None and is_within(self._profiles[profile].intervals, now, self._holidays)

    def encode(self) -> bytes:
        """The canonical bytes. Raises OutOfRange above PERMISSIONS_BYTES_MAX."""
        content = dump(
            {
                "doors": [_plain_door(door) for door in self.doors],
                "format": FORMAT,
                "groups": [{"cards": each.cards, "id": each.id, "name": each.name} for each in self.groups],
                "holidays": self.holidays,
                "profiles": [
                    {"id": each.id, "intervals": [_interval(one) for one in each.intervals], "name": each.name}
                    for each in self.profiles
                ],
                "utc_offsets": self.offsets,
            }
        )
        if len(content) > PERMISSIONS_BYTES_MAX:
            raise OutOfRange(f"permissions of {len(content)} bytes, at most {PERMISSIONS_BYTES_MAX}")
        return content

    @classmethod
    def decode(cls, content: bytes) -> Permissions:
        """Raises RemoteError, whatever the bytes; it names what is wrong and where."""
        document = load(_WHAT, content, bytes_max=PERMISSIONS_BYTES_MAX)
        document.integer("format", FORMAT, FORMAT)
        made = cls(
            doors=document.items("doors", read_door, most=DOORS_MAX),
            groups=document.items("groups", read_group, most=GROUPS_MAX),
            profiles=document.items("profiles", read_profile, most=PROFILES_MAX),
            holidays=document.items("holidays", read_date, most=HOLIDAYS_MAX),
            offsets=document.items("utc_offsets", read_offset, least=1, most=OFFSETS_MAX),
        )
        document.done()
        return made

    def _check_door(self, at: str, door: Door) -> None:
        for index, (group, profile) in enumerate(door.grants):
            if group not in self._groups:
                raise Malformed(_WHAT, f"{at}.grants[{index}]: there is no group {group}")
            if profile != ALWAYS and profile not in self._profiles:
                raise Malformed(_WHAT, f"{at}.grants[{index}]: there is no profile {profile}")
        granted = {group for group, _ in door.grants}
        for group in door.first_groups:
            if group not in granted:
                raise Malformed(_WHAT, f"{at}.first_groups: group {group} has no grant here")
        lock = self._by_door.get((door.terminal, door.lock))
        if lock is None or lock.lock != lock.door:
            raise Malformed(_WHAT, f"{at}.lock: terminal {door.terminal} has no lock {door.lock}")
        if door.duress is not DuressRule.OFF and not door.code:
            raise Malformed(_WHAT, f"{at}.duress needs a code")


def _day(index: int, written: int) -> int:
    try:
        return day_of_date(written)
    except OutOfRange as error:
        raise Malformed(_WHAT, f"holidays[{index}]: {error}") from None


def _plain_door(door: Door) -> dict[str, Any]:
    values = ((each.name, getattr(door, each.name)) for each in fields(door))
    return {name: value.value if isinstance(value, Enum) else value for name, value in values}


_interval: Final = attrgetter("days", "from_minute", "to_minute")
