"""What a door terminal knows of the time before this boot: read back out of its own records, and nothing else.

So the state of its doors costs no flash of its own, and is never newer or older than what was recorded: a passage
whose record was not committed never happened. What was lost to a full memory is forgotten with the power.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.codes import DoorEventKind
from protocol.door import FLAG_FIRST_CARD, AccessState, Mode, Passage
from protocol.door_lock import DETAIL_BEGINS
from protocol.errors import ProtocolError
from protocol.permissions import AntiPassback, Permissions
from protocol.record_bodies import AccessGranted, DoorEvent
from protocol.records import RecordHead, decode_body, read_head
from terminal_sim.errors import RecordGone, SectorDead
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.ring import Ring
from terminal_sim.rtc import NEVER_SET

REPLAYED_MAX: Final = 4_096  # records, twice the cards that are remembered; some 100 ms of a boot
_MODES: Final = {DoorEventKind.LOCKED: Mode.LOCKED, DoorEventKind.UNLOCKED: Mode.UNLOCKED}


@dataclass(slots=True)
class Replayed:
    """Per lock the mode in force, and the commands that were carried out."""

    modes: dict[int, Mode] = field(default_factory=dict)
    commands: list[int] = field(default_factory=list)


def replay(ring: Ring, secrets: TerminalSecrets, permissions: Permissions | None, state: AccessState) -> Replayed:
    """Tell `state` of the passages among the newest records of this epoch, in their order."""
    found = Replayed()
    marks = ring.epochs[secrets.epoch]
    for sequence in range(max(marks.oldest, marks.next - REPLAYED_MAX), marks.next):
        try:
            record = ring.read(secrets.epoch, sequence)
            head, body = read_head(record), decode_body(record)
        except (SectorDead, RecordGone, ProtocolError):
            continue
        if isinstance(body, AccessGranted) and permissions is not None:
            passage = _passage(head, body, permissions, secrets.terminal)
            if passage is not None:
                state.remember(passage)
        elif isinstance(body, DoorEvent):
            _door_event(body, found)
    return found


def _passage(head: RecordHead, body: AccessGranted, permissions: Permissions, terminal: int) -> Passage | None:
    door = permissions.door(terminal, body.door)
    if door is None:
        return None
    first_day: int | None = None
    if body.flags & FLAG_FIRST_CARD and head.clock_ms != NEVER_SET:
        first_day = permissions.local_time(head.clock_ms).day
    is_tracked = door.anti_passback is not AntiPassback.OFF
    return Passage(body.card if is_tracked else 0, door.area_to, door.lock, first_day)


def _door_event(body: DoorEvent, found: Replayed) -> None:
    if body.event == DoorEventKind.REMOTE_OPEN:
        found.commands.append(body.detail)
    elif body.event in _MODES:
        mode = _MODES[DoorEventKind(body.event)]
        found.modes[body.door] = mode if body.detail == DETAIL_BEGINS else Mode.NORMAL
