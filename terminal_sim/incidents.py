"""What happens to single tills in a run: a memory that fills up, a device that is replaced (R12, R11).

    full        cable pulled, every customer comes here → the till refuses to sell → cable back → it uploads, and sells
    replaced    the old device seals its end of epoch → drains → off; the desk enrols the new one → it boots, and sells

An incident acts through what a till offers (power, cable, customers); firmware and chips are as in every other run.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from protocol.codes import EndReason
from protocol.ports import Clock
from terminal_sim.outcome import TapResult, Why
from terminal_sim.population import Seat

if TYPE_CHECKING:
    from terminal_sim.fleet import Fleet
    from terminal_sim.till import Till

REFUSALS_TO_BELIEVE: Final = 3  # one could be anything; three in a row are a full memory
FILL_TAPS_MAX: Final = 4_000  # a chip that does not fill by then has no small memory
LOOK_MS: Final = 50

Reseat = Callable[[int], Seat]
"""Provisions a terminal as the registry names it now."""


class _Step(Enum):
    RETIRING = "retiring"
    RETIRED = "retired"


class FullMemory:
    """One till whose memory fills up; `wants` names it while every customer shall come to it."""

    def __init__(self, till: Till, fleet: Fleet) -> None:
        self._till = till
        self._fleet = fleet
        self._taps = 0
        self._refused = 0
        self.is_over = False
        till.unplug()
        fleet.count_fault("full")
        fleet.note("cable_pulled", terminal=till.number)

    @property
    def wants(self) -> int:
        """Index of the till."""
        return self._till.index

    def tapped(self, result: TapResult | None) -> None:
        """A customer has been there."""
        self._taps += 1
        is_full = result is not None and result.why is Why.MEMORY_FULL
        self._refused = self._refused + 1 if is_full else 0
        if self._refused >= REFUSALS_TO_BELIEVE:
            self._end("memory_full")
        elif self._taps >= FILL_TAPS_MAX:
            self._end("memory_not_filled")

    def give_up(self) -> None:
        """Selling is over."""
        if not self.is_over:
            self._end("memory_not_filled")

    def _end(self, event: str) -> None:
        self.is_over = True
        self._fleet.note(event, terminal=self._till.number, unacknowledged=self._till.unacknowledged())
        self._till.plug()


class Replacements:
    """Devices on their way out and in; bounded by the tills there are."""

    def __init__(self, fleet: Fleet, clock: Clock, reseat: Reseat | None) -> None:
        self._fleet = fleet
        self._clock = clock
        self._reseat = reseat
        self._steps: dict[int, _Step] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a device was taken out of service and the new one has not come yet."""
        return bool(self._steps)

    def retire(self, terminal: int) -> str | None:
        """Let the device seal its last record, drain and go dark; a sentence says why not."""
        till = self._till(terminal)
        if till is None or not till.is_on:
            return "no such terminal plays here, or it has no power"
        if terminal in self._steps:
            return f"it is {self._steps[terminal].value} already"
        if not self._fleet.has_spare_chip:
            return "no spare device is left"
        if not till.retire(EndReason.REPLACED):
            return "it cannot write its last record now; ask again"
        self._steps[terminal] = _Step.RETIRING
        self._fleet.note("terminal_retiring", terminal=terminal)
        self._look(till)
        return None

    def install(self, terminal: int) -> str | None:
        """Boot a new device with what the registry and the key file now say; a sentence says why not."""
        till = self._till(terminal)
        if till is None or self._steps.get(terminal) is not _Step.RETIRED or self._reseat is None:
            return "that terminal has not been retired"
        seat = self._reseat(terminal)
        if seat.secrets.epoch <= till.seat.secrets.epoch:
            return "enrol it first: onecard keys replace"
        del self._steps[terminal]
        self._fleet.install(till, seat)
        self._fleet.count_fault("replaced")
        self._fleet.note("terminal_replaced", terminal=terminal, epoch=seat.secrets.epoch)
        return None

    def _till(self, terminal: int) -> Till | None:
        return next((till for till in self._fleet.tills if till.number == terminal), None)

    def _look(self, till: Till) -> None:
        if self._fleet.is_over:
            return
        if till.is_on and not till.unacknowledged():
            till.switch_off()
            till.is_retired = True
            self._steps[till.number] = _Step.RETIRED
            self._fleet.note("terminal_retired", terminal=till.number)
            return
        self._clock.call_at(self._clock.monotonic_ms() + LOOK_MS, lambda: self._look(till))
