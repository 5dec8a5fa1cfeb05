"""What a connection has read and may not take yet: beyond one turn, or where the intake has no room (docs/overload.md).

    read ─▶ at most one turn ─▶ handled             the rest is held, nothing is read meanwhile, and then
            FOR_TURN     a peer that has sent more than any credit allows gets one turn each 100 ms; after ten
                         seconds of that it is parted with
            FOR_ROOM     the intake is full: in line, until it calls
            FOR_CREDIT   handled all, but too much of it waits for the disk: until that is answered

So one terminal that floods takes its turns like everybody else, whatever it has sent, and a full intake takes nothing
more than what it has said. What is held is bounded by one read: the socket's buffer (`onecard_network`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from frontend_server.alarms import AlarmKind
from frontend_server.connection import Connection
from frontend_server.parts import Parts
from frontend_server.timers import Deadline
from protocol.codes import ByeCode
from protocol.limits import CREDIT_MAX
from protocol.session import Established, Event

TURN_FRAMES_MAX: Final = 2 * CREDIT_MAX  # a full window and as much of everything else: no sound terminal sends more
TURN_MS: Final = 100  # a tick of the wheel: 320 frames a second, some 1 % of a core, for who floods
FLOOD_MS_MAX: Final = 10_000
"""Of turns without a pause. What a sound terminal can have sent (tombstones need no credit) is through by then; of one
that floods the kernels would hold minutes more, its connection ended or not. What was stored is not sent again."""
FLOOD_PAUSE_MS: Final = 10 * TURN_MS  # so long without a turn: what comes after is another flood


class Paused(Enum):
    """Why a connection is not read at the moment."""

    NO = "no"
    FOR_CREDIT = "more frames outstanding than any credit allows"
    FOR_ROOM = "the intake is full"
    FOR_TURN = "more frames at once than one turn takes"


class TurnTakingConnection(Connection):
    """Holds back what is beyond its turn; subclasses know the intake's answers."""

    __slots__ = ("_flood_since_ms", "_held", "_is_live", "_outstanding", "_paused", "_turn", "_turn_ms")

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._held: Sequence[Event] = ()
        self._outstanding = 0
        """Items handed to the intake and not answered yet; counted by the subclass."""
        self._paused = Paused.NO
        self._turn: Deadline | None = None
        self._turn_ms = -FLOOD_PAUSE_MS
        self._flood_since_ms = 0
        self._is_live = True
        """Nothing of a backlog of this terminal is outstanding."""

    def _in_turn(self, events: list[Event]) -> list[Event]:
        if len(events) <= TURN_FRAMES_MAX and not self._parts.intake.is_tight and not self._held:
            return events
        if self._held or not events:
            self._held = [*self._held, *events]
            return []
        if not self._parts.intake.has_room(is_live=self._is_live):
            now = 1 if isinstance(events[0], Established) else 0  # nothing of a log-in itself needs room
            reason = Paused.FOR_ROOM
        else:
            now, reason = TURN_FRAMES_MAX, Paused.FOR_TURN
        if len(events) > now:
            self._held = events[now:]
            self._parts.metrics.frames_held += len(self._held)
            self._pause(reason)
        return events[:now]

    def _pause(self, reason: Paused) -> None:
        """Read no more for that reason; the first of several counts."""
        stream = self._stream
        if self._paused is not Paused.NO or stream is None:
            return
        self._paused = reason
        self._parts.metrics.reading_paused += 1
        stream.pause_reading()
        if reason is Paused.FOR_ROOM:
            self._parts.intake.wait_for_room(self)
        elif reason is Paused.FOR_TURN:
            self._turn = self._parts.wheel.after(TURN_MS, self._turn_comes)
            now_ms = self._parts.clock.monotonic_ms()
            if now_ms >= self._turn_ms + FLOOD_PAUSE_MS:
                self._flood_since_ms = now_ms
            self._turn_ms = now_ms

    def resume(self) -> None:
        if self._paused is Paused.FOR_ROOM:
            self._go_on()

    def _turn_comes(self) -> None:
        self._turn = None
        if self._paused is not Paused.FOR_TURN:
            return
        if self._turn_ms >= self._flood_since_ms + FLOOD_MS_MAX:
            self._part_with_flooder()
        elif self._outstanding >= CREDIT_MAX:
            self._paused = Paused.FOR_CREDIT  # and another turn after that
        elif self._parts.intake.has_room(is_live=self._is_live):
            self._go_on()
        else:
            self._paused = Paused.NO
            self._pause(Paused.FOR_ROOM)

    def _part_with_flooder(self) -> None:
        parts, status = self._parts, self.status
        parts.metrics.floods += 1
        if status is not None:
            text = f"sends more than any credit allows, from {status.address}"
            parts.alarm(AlarmKind.FLOOD, str(status.terminal), text)
        self.say_bye(ByeCode.PROTOCOL_ERROR)

    def _credit_is_back(self) -> None:
        """What was outstanding is answered; what is held still waits for its turn."""
        self._paused = Paused.NO
        if self._held:
            self._pause(Paused.FOR_TURN)
        elif self._stream is not None:
            self._stream.resume_reading()

    def _go_on(self) -> None:
        """One turn of what is held; read on when that was all."""
        self._paused = Paused.NO
        session, stream = self._session, self._stream
        if session is None or stream is None:
            return
        now, self._held = self._held[:TURN_FRAMES_MAX], self._held[TURN_FRAMES_MAX:]
        self._handle(session, now)
        self._settle()
        if self._session is not session or self._paused is not Paused.NO:
            return
        if self._held:
            self._pause(Paused.FOR_TURN)
        else:
            stream.resume_reading()

    def _end_session(self) -> None:
        super()._end_session()
        self._held = ()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
