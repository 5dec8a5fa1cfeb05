"""A small site with doors, for the tests of permissions, evaluator and door terminal. No test lives here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from protocol.local_time import Interval, LocalTime, day_of_date
from protocol.permissions import Door, Group, Permissions, Profile

TERMINAL: Final = 4001
STAFF: Final = 4
GUESTS: Final = 9
OFFICE_HOURS: Final = 1
MONDAY: Final = day_of_date(20260316)
NOON: Final = LocalTime(MONDAY, 720)
NIGHT: Final = LocalTime(MONDAY, 1_380)

DOOR: Final = Door(terminal=TERMINAL, door=1, name="main", lock=1, grants=((STAFF, 0), (GUESTS, OFFICE_HOURS)))
GROUPS: Final = (Group(STAFF, "staff"), Group(GUESTS, "guests"))
PROFILES: Final = (Profile(OFFICE_HOURS, "office", (Interval(0b0001_1111, 480, 1080),)),)


def site(*doors: Door, **changes: Any) -> Permissions:
    """Staff always, guests in office hours; a holiday on 2026-10-01; UTC+8."""
    parts: dict[str, Any] = {
        "doors": doors or (DOOR,),
        "groups": GROUPS,
        "profiles": PROFILES,
        "holidays": (20261001,),
        "offsets": ((0, 480),),
    }
    return Permissions(**(parts | changes))


def door(**changes: Any) -> Door:
    return replace(DOOR, **changes)
