"""A door as a thing: strike, contact, exit button, timers (docs/doors.md). Pure: sans-IO, time is an argument.

What happens goes in (`release`, `exit_pressed`, `contact`, `set_mode`, `tick`), what is to be done and recorded comes
out as `Happened`. `deadline_ms` says when `tick` has something to do. Nothing here knows who stands before the door.
Times are monotonic milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from protocol.codes import DoorEventKind
from protocol.door import Mode
from protocol.errors import StateMisuse

U32_MAX: Final = 0xFFFF_FFFF
DETAIL_BEGINS: Final = 0
DETAIL_ENDS: Final = 1
"""Details of the events `locked` and `unlocked`."""


class LockState(Enum):
    SECURE = "shut, strike at rest"
    RELEASED = "shut, strike released for somebody"
    OPEN = "open after a release"
    HELD = "open for too long; said once"
    FORCED = "open, and nobody had released it"
    FREE = "shut, strike released for everybody"
    FREE_OPEN = "open, and free to be"


class LockInput(Enum):
    RELEASE = "a grant, the exit button, a command"
    OPENED = "the contact opens"
    CLOSED = "the contact closes"
    TIMEOUT = "the timer of this state has run out"
    FREE = "mode becomes unlocked"
    BOUND = "mode is no longer unlocked"


class Actuation(Enum):
    """What the controller's outputs do."""

    STRIKE_ON = "strike on"
    STRIKE_OFF = "strike off"
    SOUNDER_ON = "sounder on"
    SOUNDER_OFF = "sounder off"


TRANSITIONS: Final[Mapping[tuple[LockState, LockInput], LockState]] = MappingProxyType(
    {
        (LockState.SECURE, LockInput.RELEASE): LockState.RELEASED,
        (LockState.SECURE, LockInput.OPENED): LockState.FORCED,
        (LockState.SECURE, LockInput.FREE): LockState.FREE,
        (LockState.RELEASED, LockInput.RELEASE): LockState.RELEASED,
        (LockState.RELEASED, LockInput.OPENED): LockState.OPEN,
        (LockState.RELEASED, LockInput.TIMEOUT): LockState.SECURE,
        (LockState.RELEASED, LockInput.FREE): LockState.FREE,
        (LockState.OPEN, LockInput.RELEASE): LockState.OPEN,
        (LockState.OPEN, LockInput.CLOSED): LockState.SECURE,
        (LockState.OPEN, LockInput.TIMEOUT): LockState.HELD,
        (LockState.OPEN, LockInput.FREE): LockState.FREE_OPEN,
        (LockState.HELD, LockInput.RELEASE): LockState.HELD,
        (LockState.HELD, LockInput.CLOSED): LockState.SECURE,
        (LockState.HELD, LockInput.FREE): LockState.FREE_OPEN,
        (LockState.FORCED, LockInput.RELEASE): LockState.FORCED,
        (LockState.FORCED, LockInput.CLOSED): LockState.SECURE,
        (LockState.FORCED, LockInput.FREE): LockState.FREE_OPEN,
        (LockState.FREE, LockInput.RELEASE): LockState.FREE,
        (LockState.FREE, LockInput.OPENED): LockState.FREE_OPEN,
        (LockState.FREE, LockInput.BOUND): LockState.SECURE,
        (LockState.FREE_OPEN, LockInput.RELEASE): LockState.FREE_OPEN,
        (LockState.FREE_OPEN, LockInput.CLOSED): LockState.FREE,
        (LockState.FREE_OPEN, LockInput.BOUND): LockState.OPEN,
    }
)
"""(state, input) → next state; a pair that is missing cannot come."""

OPEN_STATES: Final = frozenset({LockState.OPEN, LockState.HELD, LockState.FORCED, LockState.FREE_OPEN})
_STRIKE_ON: Final = frozenset({LockState.RELEASED, LockState.FREE, LockState.FREE_OPEN})
_SOUNDING: Final = frozenset({LockState.HELD, LockState.FORCED})
_EVENT_ON_ENTRY: Final = {LockState.FORCED: DoorEventKind.FORCED, LockState.HELD: DoorEventKind.HELD_OPEN}


@dataclass(frozen=True, slots=True)
class Event:
    """For a record `42`."""

    kind: DoorEventKind
    detail: int = 0


@dataclass(frozen=True, slots=True)
class Happened:
    """In this order: what the outputs do, and what is recorded."""

    actuations: tuple[Actuation, ...] = ()
    events: tuple[Event, ...] = ()

    def __add__(self, later: Happened) -> Happened:
        return Happened(self.actuations + later.actuations, self.events + later.events)


NOTHING: Final = Happened()


class DoorLock:
    """One strike and one contact."""

    __slots__ = ("_deadline_ms", "_opened_ms", "held_open_ms", "mode", "state")

    def __init__(self, *, held_open_ms: int, now_ms: int, is_open: bool = False, mode: Mode = Mode.NORMAL) -> None:
        """The door as it is found at boot. One found open is open, not forced: nobody knows who opened it."""
        self.mode = mode
        self.held_open_ms = held_open_ms
        self._opened_ms = now_ms
        self._deadline_ms: int | None = None
        if mode is Mode.UNLOCKED:
            self.state = LockState.FREE_OPEN if is_open else LockState.FREE
        else:
            self.state = LockState.OPEN if is_open else LockState.SECURE
        if self.state is LockState.OPEN:
            self._deadline_ms = now_ms + held_open_ms

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def outputs(self) -> tuple[Actuation, ...]:
        """What strike and sounder are to be now; for the boot."""
        strike = Actuation.STRIKE_ON if self.state in _STRIKE_ON else Actuation.STRIKE_OFF
        return strike, Actuation.SOUNDER_ON if self.state in _SOUNDING else Actuation.SOUNDER_OFF

    def deadline_ms(self) -> int | None:
        """When `tick` has something to do; None: never, as things are."""
        return self._deadline_ms

    def release(self, release_ms: int, now_ms: int) -> Happened:
        """Somebody may pass within `release_ms`. An open door stays open for him, and its timer begins again."""
        late = self.tick(now_ms)
        happened = self._turn(LockInput.RELEASE, now_ms)
        if self.state is LockState.RELEASED:
            self._deadline_ms = now_ms + release_ms
        return late + happened

    def contact(self, now_ms: int, *, is_open: bool) -> Happened:
        """What the contact says; the same again is nothing."""
        late = self.tick(now_ms)  # an expired release must not count for a door opened before anybody ticked
        if is_open == self.is_open:
            return late
        return late + self._turn(LockInput.OPENED if is_open else LockInput.CLOSED, now_ms)

    def set_mode(self, mode: Mode, now_ms: int) -> Happened:
        """A keeper's order. An open door is not shut by it, and a strike released for one person still is."""
        late = self.tick(now_ms)
        before, self.mode = self.mode, mode
        if mode is before:
            return late
        events = tuple(
            Event(_MODE_EVENTS[each], detail)
            for each, detail in ((before, DETAIL_ENDS), (mode, DETAIL_BEGINS))
            if each in _MODE_EVENTS
        )
        happened = NOTHING
        if mode is Mode.UNLOCKED:
            happened = self._turn(LockInput.FREE, now_ms)
        elif before is Mode.UNLOCKED:
            happened = self._turn(LockInput.BOUND, now_ms)
        return late + Happened((), events) + happened

    def tick(self, now_ms: int) -> Happened:
        """Let time pass."""
        if self._deadline_ms is None or now_ms < self._deadline_ms:
            return NOTHING
        return self._turn(LockInput.TIMEOUT, now_ms)

    # -- inside

    def _turn(self, given: LockInput, now_ms: int) -> Happened:
        before = self.state
        after = TRANSITIONS.get((before, given))
        if after is None:
            raise StateMisuse(f"{given.name} while {before.name}: {before.value}")
        self.state = after
        if after in OPEN_STATES and before not in OPEN_STATES:
            self._opened_ms = now_ms
        events: tuple[Event, ...] = ()
        if after is not before and after in _EVENT_ON_ENTRY:
            events = (Event(_EVENT_ON_ENTRY[after], self._open_ds(now_ms)),)
        elif given is LockInput.CLOSED and before in _SOUNDING:
            events = (Event(DoorEventKind.CLOSED, self._open_ds(now_ms)),)
        self._arm(before, given, now_ms)
        return Happened(_difference(before, after), events)

    def _arm(self, before: LockState, given: LockInput, now_ms: int) -> None:
        if self.state is LockState.OPEN and (before is not LockState.OPEN or given is LockInput.RELEASE):
            self._deadline_ms = now_ms + self.held_open_ms
        elif self.state not in {LockState.OPEN, LockState.RELEASED}:
            self._deadline_ms = None

    def _open_ds(self, now_ms: int) -> int:
        """Tenths of a second open."""
        return min((now_ms - self._opened_ms) // 100, U32_MAX)


_MODE_EVENTS: Final = {Mode.LOCKED: DoorEventKind.LOCKED, Mode.UNLOCKED: DoorEventKind.UNLOCKED}


def _difference(before: LockState, after: LockState) -> tuple[Actuation, ...]:
    """Outputs that change between two states."""
    changed: list[Actuation] = []
    if (before in _STRIKE_ON) != (after in _STRIKE_ON):
        changed.append(Actuation.STRIKE_ON if after in _STRIKE_ON else Actuation.STRIKE_OFF)
    if (before in _SOUNDING) != (after in _SOUNDING):
        changed.append(Actuation.SOUNDER_ON if after in _SOUNDING else Actuation.SOUNDER_OFF)
    return tuple(changed)
