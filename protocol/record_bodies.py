"""Bodies of records by type (docs/protocol.md §7.2): every one of this version, and the table of them. Pure."""

from __future__ import annotations

from typing import Final

from protocol.event_bodies import (
    Aborted,
    AccessDenied,
    AccessGranted,
    Alarm,
    DoorEvent,
    EndOfEpoch,
    EventsLost,
    Power,
    Refusal,
    Tamper,
)
from protocol.money_bodies import (
    DOUBT_TYPES,
    GREY_TYPES,
    MEAL_TYPES,
    PROVED_TYPES,
    Booking,
    Cancellation,
    Collection,
    Completion,
    Doubt,
    Grey,
    Load,
    LoadNotExecuted,
    Purchase,
    Refund,
)
from protocol.record_body import Buffer, RecordBody, Unknown, card_masked

__all__ = [
    "BODIES",
    "DOUBT_TYPES",
    "GREY_TYPES",
    "MEAL_TYPES",
    "PROVED_TYPES",
    "Aborted",
    "AccessDenied",
    "AccessGranted",
    "Alarm",
    "Body",
    "Booking",
    "Buffer",
    "Cancellation",
    "Collection",
    "Completion",
    "DoorEvent",
    "Doubt",
    "EndOfEpoch",
    "EventsLost",
    "Grey",
    "Load",
    "LoadNotExecuted",
    "Power",
    "Purchase",
    "RecordBody",
    "Refund",
    "Refusal",
    "Tamper",
    "Transaction",
    "Unknown",
    "card_masked",
]

Transaction = Purchase | Refund | Load | Booking | Cancellation | Collection
"""Whatever a card proves; a completion carries the proof of one."""

Body = (
    Transaction
    | Grey
    | Doubt
    | Completion
    | LoadNotExecuted
    | Refusal
    | AccessGranted
    | AccessDenied
    | DoorEvent
    | Aborted
    | EventsLost
    | Tamper
    | Power
    | Alarm
    | EndOfEpoch
    | Unknown
)

BODIES: Final[dict[int, type[RecordBody]]] = {
    each.TYPE: each
    for each in (
        *(Purchase, Refund, Load, Booking, Cancellation, Collection, Grey, Doubt, Completion, LoadNotExecuted),
        *(Refusal, AccessGranted, AccessDenied, DoorEvent, Aborted, EventsLost, Tamper, Power, Alarm, EndOfEpoch),
    )
}
"""Every type of this version and its body."""
assert {each.LAYOUT.size for each in BODIES.values()} == {8, 24, 40, 56}
