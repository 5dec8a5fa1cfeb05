"""People at a simulated door: what they do, drawn from the seed, and the permissions they meet.

Every simulated door terminal has an entrance with a reader on each side, and an office behind a code:

    door 1   outside → inside, everybody, soft anti-passback      lock 1
    door 2   inside → outside, everybody                          lock 1
    door 3   the office, working hours only, code and duress code  lock 3
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from protocol.local_time import Interval
from protocol.permissions import ALWAYS, AntiPassback, Clockless, Door, DuressRule, Group, Permissions, Profile
from terminal_sim.draws import Draws

ENTRANCE: Final = 1
WAY_OUT: Final = 2
OFFICE: Final = 3
OFFICE_CODE: Final = "2580"
DURESS_CODE: Final = "2581"
HELD_OPEN_MS: Final = 2_000  # short, so that a run of a minute sees doors held open
UNLOCK_MS: Final = 1_000
GROUPS: Final = 8
OFFICE_HOURS: Final = Profile(1, "office hours", (Interval(0b0001_1111, 480, 1080),))
PAUSE_MS: Final = 1_500  # between two people at one terminal, on average


class Act(Enum):
    """What one person does."""

    ENTER = "enters by card"
    LEAVE = "leaves by card"
    PRESS_EXIT = "leaves by the exit button"
    OFFICE = "goes to the office"
    WRONG_CODE = "mistypes the code of the office"
    DURESS = "is forced to open the office"
    LOST_CARD = "tries a card that was lost"
    STRANGER = "tries a card of another system"
    HOLD = "enters and holds the door open"
    FORCE = "breaks the entrance open"


SHARES: Final = {
    Act.ENTER: 34,
    Act.LEAVE: 22,
    Act.PRESS_EXIT: 14,
    Act.OFFICE: 10,
    Act.WRONG_CODE: 4,
    Act.DURESS: 2,
    Act.LOST_CARD: 4,
    Act.STRANGER: 3,
    Act.HOLD: 3,
    Act.FORCE: 4,
}
_ACTS: Final = tuple(act for act, share in SHARES.items() for _ in range(share))
assert len(_ACTS) == 100
assert SHARES.keys() == set(Act)


@dataclass(frozen=True, slots=True)
class Person:
    act: Act
    card: int
    """Index of the card."""
    pause_ms: int
    """After this person has gone."""
    slow_ms: int
    """How long the door stands open behind him."""


def next_person(draws: Draws, cards: int) -> Person:
    """The next to come; `cards` ≥ 1 is how many there are."""
    act = _ACTS[draws.below(len(_ACTS))]
    pause_ms = draws.between(PAUSE_MS // 3, PAUSE_MS * 5 // 3)
    slow_ms = HELD_OPEN_MS + 500 if act is Act.HOLD else draws.between(200, HELD_OPEN_MS // 2)
    return Person(act, draws.below(cards), pause_ms, slow_ms)


def simulated_permissions(terminal: int) -> Permissions:
    """The document for one simulated door terminal."""
    everybody = tuple((group, ALWAYS) for group in range(GROUPS))
    office_hours = tuple((group, OFFICE_HOURS.id) for group in range(GROUPS))
    entrance = Door(
        terminal=terminal,
        door=ENTRANCE,
        name="entrance",
        lock=ENTRANCE,
        anti_passback=AntiPassback.SOFT,
        clockless=Clockless.UNPROFILED,
        grants=everybody,
        held_open_ms=HELD_OPEN_MS,
        unlock_ms=UNLOCK_MS,
    )
    way_out = replace(entrance, door=WAY_OUT, name="entrance, inside", area_from=1, area_to=0)
    office = replace(
        entrance,
        door=OFFICE,
        name="office",
        lock=OFFICE,
        area_from=1,
        area_to=2,
        anti_passback=AntiPassback.OFF,
        clockless=Clockless.CLOSED,
        code=OFFICE_CODE,
        duress=DuressRule.PLUS_ONE,
        grants=office_hours,
    )
    groups = [Group(number, f"group {number}") for number in range(GROUPS)]
    doors = (entrance, way_out, office)
    return Permissions(doors=doors, groups=groups, profiles=(OFFICE_HOURS,), offsets=((0, 480),))
