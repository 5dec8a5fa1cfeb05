"""The selling time: taps at their moments, faults at theirs, and the thief (open loop).

A turn of the loop makes every tap that is due, up to a bound, so that the network gets its turn between bursts; what
is due and not made yet is late, and counted when it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from protocol.ports import Clock, Timer
from terminal_sim.faults import THIEF_AMOUNT_CENTS, Fault, FillMemory, NetworkCut, PowerCuts, Thief, TornTaps
from terminal_sim.fleet import Fleet, Note
from terminal_sim.load import PlannedTap, TapPlan

TAPS_PER_TURN_MAX: Final = 32  # some 10 ms of work
THIEF_MS_MIN: Final = 3_000  # a thief who comes at the end still has time to be caught
THIEF_TAPS_MAX: Final = 1_000_000

ThiefNote = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class ThiefTotals:
    """What the thief got, all stolen cards together."""

    taps: int = 0
    accepted: int = 0
    refused: int = 0


class Selling:
    """One selling time, from `start` to `done()`; `skip` taps were made by earlier lives of this run."""

    def __init__(
        self,
        fleet: Fleet,
        plan: TapPlan,
        faults: Sequence[Fault],
        *,
        clock: Clock,
        note: Note,
        on_thief: ThiefNote,
        done: Callable[[], None],
        skip: int = 0,
    ) -> None:
        self.thief = ThiefTotals()
        self.is_over = False
        self._fleet = fleet
        self._plan = plan
        self._faults = faults
        self._clock = clock
        self._note = note
        self._on_thief = on_thief
        self._done = done
        self._skip = skip
        self._taps: Iterator[PlannedTap] = islice(plan, skip, None)
        self._next: PlannedTap | None = None
        self._zero_ms = 0
        """The monotonic moment of the plan's 0."""
        self._timers: set[Timer] = set()
        self._thieves_at_work = 0

    def start(self) -> None:
        """The first tap's moment is now.

        Faults whose moment lies before it belonged to an earlier life; only a thief without an end is still at work.
        """
        self._next = next(self._taps, None)
        resumed_ms = 0
        if self._skip:
            resumed_ms = self._next.at_ms if self._next is not None else self._plan.duration_ms + 1
        self._zero_ms = self._clock.monotonic_ms() - resumed_ms
        for fault in self._faults:
            if isinstance(fault, TornTaps):
                self._fleet.torn_every = fault.every
                continue
            offset_ms = fault.at.offset_ms(self._plan.duration_ms)
            goes_on = isinstance(fault, Thief) and fault.ms is None
            if offset_ms >= resumed_ms or goes_on:
                self._at(self._zero_ms + offset_ms, partial(self._strike, fault))
        self._turn()

    def stop(self) -> None:
        """No more taps; `done` follows if it has not been called."""
        self._taps = iter(())
        self._next = None
        self._thieves_at_work = 0
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._finish_if_over()

    def begin_theft(self, card: int, *, rate: int, ms: int | None = None) -> None:
        """From now on the card (by number) is tapped at random tills, its owner has it no more."""
        self._fleet.stolen.add(card)
        self._fleet.count_fault("thief")
        self._thieves_at_work += 1
        started_ms = self._clock.monotonic_ms()
        self._note("thief", rate=rate)
        self._steal(card, rate, 0, started_ms, None if ms is None else started_ms + ms)

    # -- taps

    def _turn(self) -> None:
        clock, fleet = self._clock, self._fleet
        made = 0
        while self._next is not None and made < TAPS_PER_TURN_MAX:
            due_ms, now_ms = self._zero_ms + self._next.at_ms, clock.monotonic_ms()
            if due_ms > now_ms:
                break
            fleet.figures.tapped(now_ms - due_ms)
            fleet.tap(self._next)
            self._next = next(self._taps, None)
            made += 1
        if self._next is not None:
            self._at(self._zero_ms + self._next.at_ms, self._turn)
        else:
            self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._next is None and not self._thieves_at_work and not self.is_over:
            self.is_over = True
            self._done()

    def _at(self, monotonic_ms: int, callback: Callable[[], None]) -> None:
        timer: Timer | None = None

        def run() -> None:
            if timer is not None:
                self._timers.discard(timer)
            callback()

        timer = self._clock.call_at(monotonic_ms, run)
        self._timers.add(timer)

    # -- faults

    def _strike(self, fault: Fault) -> None:
        if isinstance(fault, NetworkCut):
            self._fleet.cut_network(fault)
        elif isinstance(fault, PowerCuts):
            self._fleet.cut_power(fault)
        elif isinstance(fault, FillMemory):
            self._fleet.fill_memory()
        elif isinstance(fault, Thief):
            numbers = self._fleet.card_numbers
            card = fault.card or numbers[self._fleet.chance.stolen_card(len(numbers))]
            self.begin_theft(card, rate=fault.rate, ms=fault.ms)

    def _steal(self, card: int, rate: int, count: int, started_ms: int, until_ms: int | None) -> None:
        if self.is_over or not self._thieves_at_work:
            return
        now_ms = self._clock.monotonic_ms()
        if until_ms is None:
            is_enough = self._next is None and now_ms - started_ms >= THIEF_MS_MIN
        else:
            is_enough = now_ms >= until_ms
        if is_enough or count >= THIEF_TAPS_MAX:
            self._thieves_at_work -= 1
            self._finish_if_over()
            return
        self._steal_once(card)
        due_ms = started_ms + (count + 1) * 1000 // rate
        self._at(due_ms, partial(self._steal, card, rate, count + 1, started_ms, until_ms))

    def _steal_once(self, card: int) -> None:
        fleet, totals = self._fleet, self.thief
        utc_ms = self._clock.now_ms()
        tapped = fleet.tap_stolen(card, THIEF_AMOUNT_CENTS)
        if tapped is None:
            return
        till, result = tapped
        totals.taps += 1
        is_accepted = result.outcome.value in {"sold", "grey"}
        totals.accepted += is_accepted
        totals.refused += not is_accepted
        terminal = till.terminal
        version = terminal.deny_list.memory.version if terminal is not None else (0, 0)
        self._on_thief(
            {
                "utc_ms": utc_ms,
                "card": card,
                "terminal": till.number,
                "outcome": result.outcome.value,
                "why": result.why.value,
                "amount_cents": result.amount_cents,
                "sequence": result.sequence,
                "list": list(version),
                "online_since_utc_ms": fleet.figures.online_since_utc_ms(till.number),
            }
        )
