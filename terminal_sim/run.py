"""One run from the first boot to the exit code: phases, progress, drain.

    connecting → selling → checking → draining → over      connecting → over: nobody answers (exit 3)

Checking: every card that a tap has left torn is tapped once more, at some till, with nothing for sale (R20). `stop`
(signal or control socket) cuts selling short; checking, draining and dump follow all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Final

from protocol.cards.memory_purse import Repair
from protocol.ports import Clock
from terminal_sim.door_walks import DoorWalks
from terminal_sim.faults import THIEF_RATE_USUAL, Fault, NetworkCut, When
from terminal_sim.fleet import Fleet
from terminal_sim.incidents import Replacements, Reseat
from terminal_sim.load import TapPlan
from terminal_sim.outcome import Outcome, TapResult
from terminal_sim.selling import Selling, ThiefNote

PROGRESS_MS: Final = 250
LOOK_MS: Final = 20
TILLS_PER_LOOK_MS: Final = 50  # asking 50 tills takes some 0.1 ms: looking must not cost what it looks for
CHECKS_PER_TURN: Final = 16  # some 10 ms of work
CHECK_TRIES_MAX: Final = 3  # a till may refuse (memory full); three in a row mean the card
CHECK_AGAIN_MS: Final = 100
CHECK_MS_MAX: Final = 10_000  # tills without power come back within a second or two
MISSING_SHOWN_MAX: Final = 20  # terminals named when a drain fails; the dump has them all

EXIT_DONE: Final = 0
EXIT_DISAGREEMENT: Final = 1
EXIT_UNREACHABLE: Final = 3

Emit = Callable[[dict[str, Any]], None]


class Phase(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    SELLING = "selling"
    CHECKING = "checking"
    DRAINING = "draining"
    OVER = "over"


TRANSITIONS: Final = {
    Phase.IDLE: {Phase.CONNECTING},
    Phase.CONNECTING: {Phase.SELLING, Phase.OVER},
    Phase.SELLING: {Phase.CHECKING},
    Phase.CHECKING: {Phase.DRAINING},
    Phase.DRAINING: {Phase.OVER},
    Phase.OVER: set[Phase](),
}


@dataclass(slots=True, kw_only=True)
class Patience:
    connect_ms: int = 10_000
    drain_ms: int = 60_000


@dataclass(slots=True, kw_only=True)
class CheckTotals:
    """What the card check at the end came to."""

    asked: bool
    torn: int = 0
    """Cards that needed one."""
    checked: int = 0
    completed: int = 0
    """Proofs brought home."""
    repaired: int = 0
    """Memory purses put right."""

    def add(self, result: TapResult) -> None:
        self.checked += 1
        self.completed += result.completed is not None
        self.repaired += result.found is not None and result.found.repair is not Repair.NONE


class Run:
    """`start` once; `finished(exit_code)` once, with the fleet shut down and every chip at rest."""

    def __init__(
        self,
        fleet: Fleet,
        plan: TapPlan,
        faults: Sequence[Fault],
        *,
        clock: Clock,
        patience: Patience,
        emit: Emit,
        on_thief: ThiefNote,
        finished: Callable[[int], None],
        walks: DoorWalks,
        checks_cards: bool = True,
        reseat: Reseat | None = None,
    ) -> None:
        self.replacements = Replacements(fleet, clock, reseat)
        self.checks = CheckTotals(asked=checks_cards)
        self._unchecked: deque[tuple[int, int]] = deque()
        """Cards, and how often a till has refused each."""
        self.phase = Phase.IDLE
        self.fleet = fleet
        self.missing: list[dict[str, Any]] = []
        """Terminals that still owe records at the end."""
        self.selling_ms = 0
        self.drain_ms: int | None = None
        self.walks = walks
        self._plan = plan
        self._clock = clock
        self._patience = patience
        self._emit = emit
        self._finished = finished
        self._deadline_ms = 0
        self._phase_ms = clock.monotonic_ms()
        self._stop_asked = False
        self._started_ms = clock.monotonic_ms()
        self.selling = Selling(
            fleet,
            plan,
            faults,
            clock=clock,
            note=self.note,
            on_thief=on_thief,
            done=self._sold_out,
            skip=min(fleet.truth.taps_done, plan.taps),
        )

    def start(self) -> None:
        self._enter(Phase.CONNECTING)
        self._deadline_ms = self._clock.monotonic_ms() + self._patience.connect_ms
        self.fleet.boot(self._look_connecting)
        self._tick()

    def stop(self) -> None:
        """Sell no more; drain and finish. Idempotent."""
        self._stop_asked = True
        if self.phase is Phase.SELLING:
            self.selling.stop()
        elif self.phase is Phase.DRAINING:
            self._deadline_ms = 0  # asked twice: do not wait for records either

    def note(self, event: str, **facts: object) -> None:
        """Pass an event on, with its moment."""
        self._emit({"event": event, "ms": self._clock.monotonic_ms() - self._started_ms} | facts)

    def figures(self) -> dict[str, Any]:
        """What `progress` says, and what the control socket's `status` does."""
        fleet, figures, oracle = self.fleet, self.fleet.figures, self.fleet.truth.oracle
        return {
            "phase": self.phase.value,
            "taps": fleet.truth.taps_done,
            "sold": len(oracle.sold),
            "refused": sum(oracle.refused.values()),
            "records": figures.created,
            "acknowledged": figures.acknowledged_total,
            "backlog": figures.backlog,
            "online": figures.online_terminals,
            "terminals": len(fleet.tills),
            "late": figures.late,
        }

    # -- for the control socket

    def steal(self, card: int, rate: int = THIEF_RATE_USUAL) -> str | None:
        """Begin a theft; a sentence says why not."""
        if self.phase is not Phase.SELLING:
            return f"nobody is selling: {self.phase.value}"
        if card not in self.fleet.card_numbers:
            return "no such card plays here"
        self.selling.begin_theft(card, rate=rate)
        return None

    def replace(self, terminal: int) -> str | None:
        """Take a device out of service; a sentence says why not."""
        return self.replacements.retire(terminal)

    def install(self, terminal: int) -> str | None:
        """Put the new device in its place; a sentence says why not."""
        return self.replacements.install(terminal)

    def cut(self, ms: int, *, swallow: bool) -> None:
        self.fleet.cut_network(NetworkCut(When(), ms, swallow))

    # -- phases

    def _enter(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase]
        self.phase = phase
        self._phase_ms = self._clock.monotonic_ms()

    def _look_connecting(self) -> None:
        online, now_ms = self.fleet.figures.online_terminals, self._clock.monotonic_ms()
        if online < len(self.fleet.tills) and now_ms < self._deadline_ms and not self._stop_asked:
            self._clock.call_at(now_ms + LOOK_MS, self._look_connecting)
            return
        if online == 0:
            self._emit({"event": "unreachable", "seconds": self._patience.connect_ms / 1000})
            self._over(EXIT_UNREACHABLE)
            return
        self._enter(Phase.SELLING)
        self.note("selling_started", online=online, terminals=len(self.fleet.tills))
        self.walks.start()
        self.selling.start()
        if self._stop_asked:
            self.selling.stop()

    def _sold_out(self) -> None:
        now_ms = self._clock.monotonic_ms()
        self.walks.stop()
        self.selling_ms = now_ms - self._phase_ms
        self.fleet.stop_filling()
        self._enter(Phase.CHECKING)
        self.note("selling_finished", **self.figures())
        if self.checks.asked:
            self._unchecked.extend((card, 0) for card in self.fleet.torn_cards())
            self.checks.torn = len(self._unchecked)
        self._deadline_ms = now_ms + CHECK_MS_MAX
        self._check_some()

    def _check_some(self) -> None:
        """Tap torn cards, a few per turn of the loop; without a till that has power, again a little later."""
        wait_ms = 0
        for _ in range(min(CHECKS_PER_TURN, len(self._unchecked))):
            card, refused = self._unchecked.popleft()
            result = self.fleet.check(card)
            if result is not None and result.outcome is Outcome.CHECKED:
                self.checks.add(result)
            elif result is None or refused + 1 < CHECK_TRIES_MAX:
                self._unchecked.append((card, refused + (result is not None)))
                wait_ms = CHECK_AGAIN_MS
        now_ms = self._clock.monotonic_ms()
        if self._unchecked and now_ms < self._deadline_ms:
            self._clock.call_at(now_ms + wait_ms, self._check_some)
            return
        if self.checks.torn:
            self.note("cards_checked", **asdict(self.checks))
        self._enter(Phase.DRAINING)
        self._deadline_ms = now_ms + self._patience.drain_ms
        self._look_draining()

    def _look_draining(self) -> None:
        now_ms = self._clock.monotonic_ms()
        owing = [till for till in self.fleet.tills if not till.is_retired and (not till.is_on or till.unacknowledged())]
        hopeless = bool(owing) and all(till.is_stuck for till in owing)
        if (owing or self.replacements.is_waiting) and not hopeless and now_ms < self._deadline_ms:
            look_ms = max(LOOK_MS, len(self.fleet.tills) // TILLS_PER_LOOK_MS)
            self._clock.call_at(now_ms + look_ms, self._look_draining)
            return
        self.drain_ms = now_ms - self._phase_ms
        if not owing:
            self.note("drained", **self.figures())
            self._over(EXIT_DONE)
            return
        self.missing = [
            {
                "terminal": till.number,
                "unacknowledged": till.unacknowledged(),
                "state": till.uplink.state.value if till.uplink is not None else "no power",
            }
            for till in owing
        ]
        self.note("not_drained", terminals_owing=len(owing), missing=self.missing[:MISSING_SHOWN_MAX])
        self._over(EXIT_DISAGREEMENT)

    def _over(self, exit_code: int) -> None:
        self._enter(Phase.OVER)
        self._progress()
        self.fleet.shut_down()
        self._finished(exit_code)

    # -- progress

    def _tick(self) -> None:
        if self.phase is Phase.OVER:
            return
        self._progress()
        self._clock.call_at(self._clock.monotonic_ms() + PROGRESS_MS, self._tick)

    def _progress(self) -> None:
        shown = self.figures()
        self.fleet.figures.sample(shown["taps"], shown["sold"])
        self.note("progress", **shown)
