"""Bodies of records that move no money: refusals, access, what happened to the device (docs/protocol.md §7.2). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from protocol.codes import RecordType
from protocol.record_body import RecordBody


@dataclass(slots=True, repr=False)
class Aborted(RecordBody):
    """A sequence whose dialogue came to nothing (R1); no money. `card` 0: not known."""

    TYPE: ClassVar[int] = RecordType.ABORTED
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!BB2xI")

    attempted_type: int
    reason: int
    card: int = 0


@dataclass(slots=True, repr=False)
class Refusal(RecordBody):
    """A card turned away, with the deny list that was used (R28); no money. `card` 0: not known."""

    TYPE: ClassVar[int] = RecordType.REFUSAL
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!IBB2xIII4x")

    card: int
    attempted_type: int
    reason: int
    list_generation: int
    list_counter: int
    amount_cents: int


@dataclass(slots=True, repr=False)
class _Access(RecordBody):
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!IBBBBIIQ")

    card: int
    """0: not known."""
    door: int
    reason: int
    identity: int
    flags: int
    list_generation: int
    """Of the permissions that decided, as `list_counter`."""
    list_counter: int
    number: int
    """What a reader read where no card of ours was proved; else 0."""


class AccessGranted(_Access):
    """A door let somebody pass."""

    __slots__ = ()
    TYPE: ClassVar[int] = RecordType.ACCESS_GRANTED


class AccessDenied(_Access):
    """A door stayed shut, and why."""

    __slots__ = ()
    TYPE: ClassVar[int] = RecordType.ACCESS_DENIED


@dataclass(slots=True, repr=False)
class DoorEvent(RecordBody):
    """A door forced, held open, closed again, opened from afar."""

    TYPE: ClassVar[int] = RecordType.DOOR_EVENT
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!BB2xI")

    event: int
    door: int
    detail: int = 0
    """Held open and closed: tenths of a second open; remote open: the command's id."""


@dataclass(slots=True, repr=False)
class EventsLost(RecordBody):
    """Access or technical events for which a full memory had no room (R12)."""

    TYPE: ClassVar[int] = RecordType.EVENTS_LOST
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!I4x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("count",)

    count: int


@dataclass(slots=True, repr=False)
class Tamper(RecordBody):
    """The housing opened (state 1) or closed again (0)."""

    TYPE: ClassVar[int] = RecordType.TAMPER
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!BB6x")

    state: int
    source: int = 0


@dataclass(slots=True, repr=False)
class Power(RecordBody):
    """Power of the terminal."""

    TYPE: ClassVar[int] = RecordType.POWER
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!B3xI")

    event: int
    millivolts: int = 0


@dataclass(slots=True, repr=False)
class Alarm(RecordBody):
    """Something that a person should look at."""

    TYPE: ClassVar[int] = RecordType.ALARM
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!B3xI")

    alarm: int
    detail: int = 0


@dataclass(slots=True, repr=False)
class EndOfEpoch(RecordBody):
    """The last record that its epoch will ever have: nothing is missing behind it (R11)."""

    TYPE: ClassVar[int] = RecordType.END_OF_EPOCH
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!B7x")

    reason: int
    """An EndReason."""
