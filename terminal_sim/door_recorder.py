"""How a door terminal records: one event, one record, or one bit where the memory is full (R12).

A full memory keeps nobody out. What has no room is counted in flash (`door_tally`); as long as anything is counted the
next record is `events_lost`, so that order stays what it was. The last slot of a filling memory says that it is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.codes import AlarmKind
from protocol.record_bodies import Alarm, Body, EventsLost
from terminal_sim.door_tally import DoorLayout, LossTally
from terminal_sim.errors import MemoryLost, RingFull
from terminal_sim.outcome import Alarm as TerminalAlarm

if TYPE_CHECKING:
    from terminal_sim.door_terminal import DoorTerminal

ROOM_AGAIN_RECORDS: Final = 2  # `events_lost`, and the event that follows it


class DoorRecorder:
    """Part of a `DoorTerminal`; made at its boot, after its memory."""

    __slots__ = ("_losses", "_terminal", "_warned")

    def __init__(self, terminal: DoorTerminal, layout: DoorLayout) -> None:
        self._terminal = terminal
        self._warned = False
        self._losses: LossTally | None = None
        memory = terminal.memory
        if memory is not None:
            epoch = terminal.secrets.epoch
            self._losses = LossTally(terminal.flash, layout.tally, epoch=epoch, next_sequence=memory.next)

    @property
    def events_lost(self) -> int:
        """Counted, and told by no record yet."""
        return self._losses.count if self._losses is not None else 0

    @property
    def is_shut(self) -> bool:
        """Whether nothing can be recorded or counted any more: the memory is lost, or its epoch has ended (R11)."""
        return self._terminal.memory is None or self._terminal.is_retired

    def note(self, body: Body) -> None:
        """Record something that has happened already: there is nobody to refuse."""
        if self.is_shut:
            return
        try:
            self.record(body)
        except MemoryLost:
            return  # its alarm is raised

    def record(self, body: Body) -> int:
        """The sequence of the committed record; 0: counted as lost. Raises MemoryLost, after the alarm."""
        assert self._losses is not None
        try:
            self._tell_losses()
            if self._has_room():
                return self._write(body)
        except RingFull:
            pass  # sectors have died under this very record
        except MemoryLost:
            self._terminal.raise_alarm(TerminalAlarm.MEMORY_LOST)
            raise
        assert self._terminal.memory is not None
        self._losses.add(self._terminal.memory.next)
        return 0

    def tell_losses(self) -> None:
        """One `events_lost` with all that were counted, if there is room again."""
        if self.is_shut:
            return
        try:
            self._tell_losses()
        except RingFull:
            return  # a sector has died: there was less room than it seemed
        except MemoryLost:
            self._terminal.raise_alarm(TerminalAlarm.MEMORY_LOST)

    # -- inside

    def _tell_losses(self) -> None:
        memory, losses = self._terminal.memory, self._losses
        if memory is None or losses is None or not losses.count:
            return
        if memory.ring.room_records() >= ROOM_AGAIN_RECORDS:
            self._write(EventsLost(losses.count))
            losses.recorded()

    def _has_room(self) -> bool:
        """Whether the next event may be written; gives the memory's alarms when their time comes."""
        terminal, losses = self._terminal, self._losses
        assert terminal.memory is not None
        assert losses is not None
        room = terminal.memory.ring.room_records()
        if losses.count or not room:
            return False
        if room == 1:
            self._write(Alarm(AlarmKind.MEMORY_FULL))
            return False
        if not terminal.memory_warning:
            self._warned = False
        elif not self._warned:
            self._warned = True
            self._write(Alarm(AlarmKind.MEMORY_WARNING))
            return self._has_room()
        return True

    def _write(self, body: Body) -> int:
        terminal, rtc = self._terminal, self._terminal.rtc
        memory = terminal.memory
        assert memory is not None
        sequence = memory.next
        boot = terminal.boot_number
        terminal.made(memory.write_plain(body, boot=boot, uptime_ds=rtc.uptime_ds(), clock_ms=rtc.now_ms()))
        return sequence
