"""People walking through the doors of a fleet while its tills sell: one after the other at each door terminal.

    start → (pause → act → door opens → door closes)* per terminal → stop

Same small interface as `selling`: `start`, `stop`, `is_over`. Nothing here is planned like a tap: who comes when
follows from the seed and from the doors themselves, and a terminal without power lets nobody pass. No money hangs on
it, so the oracle of purses hears nothing of it; `totals` are for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from protocol.ports import Clock, Random, Timer
from terminal_sim.card import CardField
from terminal_sim.door_access import Access
from terminal_sim.door_people import DURESS_CODE, ENTRANCE, OFFICE, OFFICE_CODE, WAY_OUT, Act, Person, next_person
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.draws import Draws
from terminal_sim.errors import PowerCut
from terminal_sim.outcome import CardReader
from terminal_sim.population import CardShelf
from terminal_sim.till import Till

REACH_MS: Final = 200  # from the click of the strike to the open door
IDLE_TICK_MS: Final = 1_000  # a door terminal looks at its memory as often, for losses that can now be told


@dataclass(slots=True)
class WalkTotals:
    """What people came to, by what they were told."""

    people: int = 0
    opened: int = 0
    refused: int = 0
    exits: int = 0
    forced: int = 0
    lost_events: int = 0
    """Passages and refusals that a full memory could only count."""
    unserved: int = 0
    """People before a terminal without power."""


class _Stranger:
    """A card of another system."""

    def exchange(self, command: bytes) -> bytes:
        return b"\x6a\x82"


class _Post:
    """One door terminal and the people before it."""

    __slots__ = ("draws", "till", "timer")

    def __init__(self, till: Till, seed: int) -> None:
        self.till = till
        self.draws = Draws(seed, f"people at {till.number}")
        self.timer: Timer | None = None

    @property
    def terminal(self) -> DoorTerminal | None:
        terminal = self.till.terminal
        return terminal if isinstance(terminal, DoorTerminal) else None


class DoorWalks:
    """Owns no terminal: a door that loses its power inside a callback is switched off, its fleet switches it on."""

    def __init__(
        self,
        doors: Sequence[Till],
        cards: CardShelf,
        *,
        card_numbers: Sequence[int],
        stolen: set[int],
        seed: int,
        clock: Clock,
        random: Random,
    ) -> None:
        """`stolen` are numbers of lost cards, now and later."""
        self.totals = WalkTotals()
        self.is_over = False
        self._posts = [_Post(till, seed) for till in doors]
        self._cards = cards
        self._card_numbers = card_numbers
        self._stolen = stolen
        self._clock = clock
        self._random = random

    def start(self) -> None:
        """The first people are on their way."""
        for post in self._posts:
            self._next(post)

    def stop(self) -> None:
        """Nobody comes any more; doors stay as they are. Idempotent."""
        self.is_over = True
        for post in self._posts:
            if post.timer is not None:
                post.timer.cancel()

    def as_dict(self) -> dict[str, Any]:
        return {"terminals": len(self._posts)} | asdict(self.totals)

    # -- one person after the other

    def _next(self, post: _Post) -> None:
        person = next_person(post.draws, len(self._card_numbers))
        self._after(post, person.pause_ms, partial(self._arrive, post, person))

    def _arrive(self, post: _Post, person: Person) -> None:
        terminal = post.terminal
        self.totals.people += 1
        if terminal is None:
            self.totals.unserved += 1
            self._next(post)
            return
        lock = OFFICE if person.act in {Act.OFFICE, Act.WRONG_CODE, Act.DURESS} else ENTRANCE
        passes = self._guarded(post, lambda: self._act(terminal, person))
        if passes:
            delay_ms = 0 if person.act is Act.FORCE else REACH_MS
            self._after(post, delay_ms, partial(self._contact, post, lock, person.slow_ms))
        else:
            self._next(post)

    def _act(self, terminal: DoorTerminal, person: Person) -> bool:
        """Returns whether the person goes through the door."""
        if person.act is Act.FORCE:
            self.totals.forced += 1
            return True
        if person.act is Act.PRESS_EXIT:
            self.totals.exits += 1
            terminal.exit_pressed(ENTRANCE)
            return True
        card: CardReader = _Stranger()
        if person.act is not Act.STRANGER:
            number = self._card_numbers[person.card]
            if person.act is Act.LOST_CARD and self._stolen:
                number = min(self._stolen)
            card = CardField(self._cards, number, self._random)
        door, code = ENTRANCE, ""
        if person.act is Act.LEAVE:
            door = WAY_OUT
        elif person.act in {Act.OFFICE, Act.DURESS, Act.WRONG_CODE}:
            door, code = OFFICE, {Act.OFFICE: OFFICE_CODE, Act.DURESS: DURESS_CODE}.get(person.act, "0000")
        return self._told(terminal.present(door, card, code))

    def _told(self, access: Access) -> bool:
        if access.decision is not None:
            self.totals.opened += access.granted
            self.totals.refused += not access.granted
            self.totals.lost_events += access.sequence == 0
        return access.granted

    def _contact(self, post: _Post, lock: int, slow_ms: int) -> None:
        terminal = post.terminal
        if terminal is not None:
            self._guarded(post, lambda: terminal.contact(lock, is_open=True))
        self._after(post, slow_ms, partial(self._shut, post, lock))

    def _shut(self, post: _Post, lock: int) -> None:
        terminal = post.terminal
        if terminal is not None:
            self._guarded(post, lambda: terminal.contact(lock, is_open=False))
        self._next(post)

    # -- time and power

    def _after(self, post: _Post, delay_ms: int, callback: Callable[[], None]) -> None:
        """`callback` after `delay_ms`; until then the terminal ticks whenever it has something to do."""
        self._until(post, self._clock.monotonic_ms() + delay_ms, callback)

    def _until(self, post: _Post, due_ms: int, callback: Callable[[], None]) -> None:
        if self.is_over:
            return
        now_ms = self._clock.monotonic_ms()
        terminal = post.terminal
        if terminal is not None:
            self._guarded(post, terminal.tick)
        if now_ms >= due_ms:
            callback()
            return
        wake_ms = min(due_ms, now_ms + IDLE_TICK_MS)
        deadline_ms = terminal.deadline_ms() if terminal is not None else None
        if deadline_ms is not None:
            wake_ms = min(wake_ms, max(deadline_ms, now_ms + 1))
        post.timer = self._clock.call_at(wake_ms, partial(self._until, post, due_ms, callback))

    def _guarded(self, post: _Post, work: Callable[[], bool | None]) -> bool:
        """Run what may touch the flash; False where the power went in it."""
        try:
            return work() is True
        except PowerCut:
            post.till.pull_plug()
            return False
