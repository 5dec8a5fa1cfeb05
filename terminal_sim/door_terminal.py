"""A door terminal (门禁控制器): boots from its flash, proves cards, decides offline, opens doors, and records it all.

    card: SELECT, AUTHENTICATE → decision → record `40` or `41` committed → strike
    exit button: strike → record

The order is the point. For a card the record comes first: whoever passes is in the memory, and a cut in between costs
a second tap. For the way out the strike comes first: nobody is kept inside by a flash chip. A full memory keeps
nobody out either (R12): what has no room is counted (`door_tally`), and told by one `events_lost` when there is room.
Where cards are, whose day has begun and what is locked is read back out of the records at boot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from protocol.codes import (
    AccessReason,
    AlarmKind,
    DoorEventKind,
    EndReason,
    ListKind,
    PowerEvent,
)
from protocol.door import AccessState, Decision, Mode, evaluate
from protocol.door_lock import Actuation, DoorLock, Event, Happened
from protocol.permissions import Door, Permissions
from protocol.ports import Log, Random
from protocol.record_bodies import (
    Alarm,
    DoorEvent,
    Power,
    Tamper,
)
from protocol.signed import NO_VERSION, Version
from terminal_sim.door_access import Access, access_body, facts_of
from terminal_sim.door_reader import Proof, read_card
from terminal_sim.door_recorder import DoorRecorder
from terminal_sim.door_replay import replay
from terminal_sim.door_tally import DoorLayout
from terminal_sim.errors import MemoryLost
from terminal_sim.firmware import PosTerminal
from terminal_sim.flash import VirtualFlash
from terminal_sim.lists import Check
from terminal_sim.outcome import CardReader, Outcome, TapResult, Why
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import NEVER_SET, DriftingRtc

COMMANDS_KEPT_MAX: Final = 256  # ids of commands carried out; each has expired long before so many have followed
ONLY_LOCK: Final = 1
"""The lock that a terminal has even where its permissions name none, so that people get out."""
RELEASE_MS_USUAL: Final = 5_000
HELD_OPEN_MS_USUAL: Final = 30_000


CHECKS: Final[Mapping[ListKind, Check]] = {ListKind.PERMISSIONS: Permissions.decode}
"""What makes a document useless here although its signature holds."""


class DoorTerminal(PosTerminal):
    """The firmware between two power cuts, on the flash, ring and journal of a `PosTerminal`; it sells nothing."""

    def __init__(
        self,
        flash: VirtualFlash,
        secrets: TerminalSecrets,
        *,
        rtc: DriftingRtc,
        random: Random,
        log: Log,
        layout: DoorLayout | None = None,
        permissions: Permissions | None = None,
        version: Version = NO_VERSION,
        on_actuation: Callable[[int, Actuation], None] | None = None,
        contact_open: Callable[[int], bool] | None = None,
    ) -> None:
        """`permissions` serve until the front-end has sent some, which are in flash from then on (R27).

        `on_actuation(lock, actuation)` drives strikes and sounders; `contact_open(lock)` reads a contact at boot.
        """
        layout = layout if layout is not None else DoorLayout.of_kind(flash.size_bytes, secrets.terminal_kind)
        super().__init__(flash, secrets, rtc=rtc, random=random, log=log, layout=layout, list_checks=CHECKS)
        self.on_actuation = on_actuation
        self.permissions = permissions
        self.version = version
        held = self.lists.held(ListKind.PERMISSIONS)
        if held is not None and self.permissions_content is not None:
            self.permissions, self.version = Permissions.decode(self.permissions_content), held.memory.version
        self.lists.on_document = self._on_document
        self.doors: dict[int, Door] = {}
        self.locks: dict[int, DoorLock] = {}
        self.state = AccessState()
        self._contact_open = contact_open
        self._commands_done: deque[int] = deque(maxlen=COMMANDS_KEPT_MAX)
        self._recorder = DoorRecorder(self, layout)
        self._install(self._replay())
        self._booted()

    @property
    def events_lost(self) -> int:
        """Events for which there was no room, and which no record has told yet."""
        return self._recorder.events_lost

    # -- cards

    def present(self, door: int, card: CardReader, code: str = "") -> Access:
        """A card at a door's reader; when this returns its record is committed, and the strike moves."""
        at = self.doors.get(door)
        if self._recorder.is_shut:
            return Access(None)  # nobody passes unrecorded; the way out works
        seen = read_card(card, self.secrets.sam, self.challenge)
        if seen.proof is Proof.GONE:
            return Access(None)
        facts = facts_of(self, seen, code)
        if at is None or self.permissions is None:
            decision = Decision(granted=False, reason=AccessReason.NO_PERMISSION)
        else:
            decision = evaluate(self.permissions, at, facts, self.state, self.locks[at.lock].mode)
        try:
            sequence = self._recorder.record(access_body(door, seen, facts, decision, self.version))
            if decision.is_duress:
                self._recorder.record(Alarm(AlarmKind.DURESS, door))
        except MemoryLost:
            return Access(None)
        if at is not None and decision.granted:
            self._open(at, decision)
        return Access(decision, facts.card, sequence)

    def tap(self, card: CardReader, amount_cents: int) -> TapResult:
        """Refused, whatever the card: a door sells nothing. Readers call `present`."""
        return TapResult(Outcome.REFUSED, Why.NOT_READY, amount_cents)

    def check(self, card: CardReader) -> TapResult:
        """As `tap`: bringing the proof of a torn debit home is for tills."""
        return self.tap(card, 0)

    def retire(self, reason: EndReason) -> bool:
        """As every terminal; what was lost is told before the last record, or it cannot be written now (R12)."""
        self._recorder.tell_losses()
        return not self.events_lost and super().retire(reason)

    # -- the door

    def exit_pressed(self, lock: int = ONLY_LOCK) -> None:
        """Somebody wants out. Ignored where the permissions say that this lock has no button."""
        door = self.doors.get(lock)
        if lock not in self.locks or (door is not None and not door.exit_button):
            return
        release_ms = door.unlock_ms if door is not None else RELEASE_MS_USUAL
        happened = self.locks[lock].release(release_ms, self.rtc.monotonic_ms())
        self._actuate(lock, happened)  # before the record: nobody is kept inside by a flash chip
        self._happened(lock, Happened((), (*happened.events, Event(DoorEventKind.EXIT_BUTTON))))

    def open_remotely(self, lock: int, command_id: int) -> bool:
        """A command from afar, once: the same id again opens nothing (R30). Returns whether it opened."""
        if lock not in self.locks or command_id in self._commands_done:
            return False
        door = self.doors.get(lock)
        self._recorder.note(DoorEvent(DoorEventKind.REMOTE_OPEN, lock, command_id))
        self._commands_done.append(command_id)
        release_ms = door.unlock_ms if door is not None else RELEASE_MS_USUAL
        self._happened(lock, self.locks[lock].release(release_ms, self.rtc.monotonic_ms()))
        return True

    def set_mode(self, lock: int, mode: Mode) -> None:
        """A keeper's order; it holds through power cuts, since it is in the records."""
        self._happened(lock, self.locks[lock].set_mode(mode, self.rtc.monotonic_ms()))

    def contact(self, lock: int, *, is_open: bool) -> None:
        """What the door's contact says now."""
        self._happened(lock, self.locks[lock].contact(self.rtc.monotonic_ms(), is_open=is_open))

    def tick(self) -> None:
        """Let time pass: timers of all locks, and what was lost is told when there is room."""
        for number, lock in self.locks.items():
            self._happened(number, lock.tick(self.rtc.monotonic_ms()))
        self._recorder.tell_losses()

    def deadline_ms(self) -> int | None:
        """The monotonic moment at which `tick` has something to do; None: none is known."""
        return min((each for lock in self.locks.values() if (each := lock.deadline_ms()) is not None), default=None)

    # -- the housing

    def tamper(self, *, is_open: bool, source: int = 0) -> None:
        self._recorder.note(Tamper(int(is_open), source))

    def power(self, event: PowerEvent, millivolts: int = 0) -> None:
        self._recorder.note(Power(event, millivolts))

    # -- permissions

    def take_permissions(self, permissions: Permissions, version: Version) -> None:
        """A newer document is in force; doors keep their state, cards stay where they are known to be."""
        was_blind = self.permissions is None
        self.permissions, self.version = permissions, version
        self._install(self._replay() if was_blind else {})

    # -- inside

    def _on_document(self, kind: ListKind, content: bytes) -> None:
        held = self.lists.held(kind)
        if kind is ListKind.PERMISSIONS and held is not None:
            self.take_permissions(Permissions.decode(content), held.memory.version)

    def _booted(self) -> None:
        """Drive the outputs, and record that the power is on and what is wrong."""
        for number, lock in self.locks.items():
            self._actuate(number, Happened(lock.outputs))
        self._recorder.note(Power(PowerEvent.ON))
        if self.rtc.now_ms() == NEVER_SET:
            self._recorder.note(Alarm(AlarmKind.CLOCK_DOUBTFUL))
        if self.deny_list.memory.damaged:
            self._recorder.note(Alarm(AlarmKind.LIST_DAMAGED))

    def _replay(self) -> dict[int, Mode]:
        """Take up what the records say of earlier boots; returns the modes of locks."""
        if self.memory is None:
            return {}
        found = replay(self.memory.ring, self.secrets, self.permissions, self.state)
        self._commands_done.extend(found.commands)
        return found.modes

    def _install(self, modes: dict[int, Mode]) -> None:
        """Doors and locks of the permissions in force; a lock that goes on existing keeps its state."""
        permissions = self.permissions
        doors = permissions.doors_of(self.secrets.terminal) if permissions is not None else ()
        self.doors = {each.door: each for each in doors}
        kept, self.locks = self.locks, {}
        for number in sorted({each.lock for each in doors} | {ONLY_LOCK}):
            held_open_ms = self._held_open_ms(number)
            lock = kept.get(number)
            if lock is None:
                lock = DoorLock(
                    held_open_ms=held_open_ms,
                    now_ms=self.rtc.monotonic_ms(),
                    is_open=self._contact_open is not None and self._contact_open(number),
                    mode=modes.get(number, Mode.NORMAL),
                )
            lock.held_open_ms = held_open_ms
            self.locks[number] = lock
        for number in kept.keys() - self.locks.keys():  # nobody drives that strike any more: it must not stay released
            self._actuate(number, Happened((Actuation.STRIKE_OFF, Actuation.SOUNDER_OFF)))

    def _held_open_ms(self, lock: int) -> int:
        door = self.doors.get(lock)
        return door.held_open_ms if door is not None else HELD_OPEN_MS_USUAL

    def _open(self, door: Door, decision: Decision) -> None:
        """The record is committed: keep what it means, then move the strike."""
        assert decision.passage is not None
        forgotten = self.state.forgotten
        self.state.remember(decision.passage)
        if self.state.forgotten != forgotten:
            self._log("door_passback_forgotten", terminal=self.secrets.terminal, cards=self.state.forgotten)
        lock = self.locks[door.lock]
        self._happened(door.lock, lock.release(decision.release_ms, self.rtc.monotonic_ms()))

    def _happened(self, lock: int, happened: Happened) -> None:
        """Records first, so that an order of the keeper that was carried out is known after a power cut."""
        for event in happened.events:
            self._recorder.note(DoorEvent(event.kind, lock, event.detail))
        self._actuate(lock, happened)

    def _actuate(self, lock: int, happened: Happened) -> None:
        if self.on_actuation is None:
            return
        for each in happened.actuations:
            self.on_actuation(lock, each)
