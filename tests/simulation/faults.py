"""What happens to a site, drawn from its seed: sales, torn cards, and every kind of fault, at rates of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.flash import CutAfter
from tests.simulation.keys import FIRST_CARD
from tests.simulation.site import FRONTEND_HOST, LEDGER_HOST, Site
from tests.simulation.till import Till

COMMANDS_MAX: Final = 8  # of a tap that first clears an earlier proof
CUT_STEPS: Final = 700  # flash bytes and erase pieces that two taps program at most
RETRY_MS: Final = 500


@dataclass(slots=True)
class Plan:
    """One seed's site and its luck; rates are per tap, gaps are mean virtual milliseconds between two faults."""

    terminals: int
    cards: int
    ring_sectors: int
    selling_ms: int
    tap_gap_ms: int
    disturbed: float
    cut_in_flash: float
    outage_gap_ms: int
    crash_gap_ms: int
    ledger_crash_gap_ms: int
    power_gap_ms: int
    weather_gap_ms: int
    list_gap_ms: int
    commit_ms: int
    callback_ms: int

    @classmethod
    def drawn(cls, seed: int, *, selling_ms: int = 40_000) -> Plan:
        """Swarm: each seed has its own mix, so that rare faults meet often in some."""
        rng = random.Random(f"{seed}:plan")

        def gap(low_ms: int, high_ms: int) -> int:
            return rng.randint(low_ms, high_ms)

        return cls(
            terminals=rng.choice((3, 3, 4, 6, 9, 12)),
            cards=rng.randint(10, 60),
            ring_sectors=rng.choice((3, 4, 6, 9)),
            selling_ms=selling_ms,
            tap_gap_ms=rng.choice((40, 80, 150, 300)),
            disturbed=rng.choice((0.0, 0.05, 0.15)),
            cut_in_flash=rng.choice((0.0, 0.02, 0.06)),
            outage_gap_ms=gap(6_000, 40_000),
            crash_gap_ms=gap(6_000, 40_000),
            ledger_crash_gap_ms=gap(8_000, 50_000),
            power_gap_ms=gap(2_000, 20_000),
            weather_gap_ms=gap(2_000, 15_000),
            list_gap_ms=gap(3_000, 15_000),
            commit_ms=rng.choice((1, 4, 25, 120)),
            callback_ms=rng.choice((1, 3, 30)),
        )


class Drama:
    """Plays a plan on a site: every event schedules the next of its kind, until selling ends."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site = site
        self.plan = plan
        self.rng = random.Random(f"{site.seed}:drama")
        self.ends_ms = 0
        self.taps = 0
        self.outcomes: dict[str, int] = {}
        self._lost: list[int] = []

    def begin(self) -> None:
        site, plan = self.site, self.plan
        self.ends_ms = site.world.time_ms + plan.selling_ms
        host = site.frontend.host
        host.work_ms, host.done_ms = plan.commit_ms, plan.callback_ms
        site.ledger.host.work_ms = self.rng.choice((1, 5, 60))
        for till in site.tills:
            till.on_cut = self._power_gone
        self._every(plan.tap_gap_ms, self.tap)
        self._every(plan.outage_gap_ms, self.outage)
        self._every(plan.crash_gap_ms, self.frontend_down)
        self._every(plan.ledger_crash_gap_ms, self.ledger_down)
        self._every(plan.power_gap_ms, self.power_cut)
        self._every(plan.weather_gap_ms, self.weather)
        self._every(plan.list_gap_ms, self.change_list)

    def _every(self, mean_ms: int, what: Callable[[], None]) -> None:
        def due() -> None:
            if self.site.world.time_ms < self.ends_ms:
                what()
                self._every(mean_ms, what)

        self.site.after(self.rng.randint(mean_ms // 3, mean_ms * 5 // 3), due)

    # -- sales

    def tap(self) -> None:
        rng, site = self.rng, self.site
        till = rng.choice(site.tills)
        card = FIRST_CARD + rng.randrange(self.plan.cards)
        disturbance = None
        if rng.random() < self.plan.disturbed:
            disturbance = Disturbance(rng.randrange(COMMANDS_MAX), rng.choice(list(Moment)), rng.choice(list(Effect)))
        if till.is_on and rng.random() < self.plan.cut_in_flash:
            till.flash.cut_plan = CutAfter(rng.randrange(CUT_STEPS), bits_done=rng.randrange(256))
        writes = site.oracle.executed
        before = len(writes)
        result = site.tap(till, card, rng.choice((1, 350, 850, 1_250, 2_000)), disturbance)
        self.taps += 1
        outcome = "no power" if result is None else f"{result.outcome.value} {result.why.value}".strip()
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if disturbance is not None and result is not None and result.outcome.value != "sold":
            site.world.count_fault("card_torn")
        if result is None and len(writes) > before:
            site.world.count_fault("power_cut_after_debit")

    # -- faults

    def _power_gone(self, till: Till) -> None:
        rng = self.rng
        cuts = [rng.randrange(CUT_STEPS) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
        self.site.after(rng.randint(200, 8_000), lambda: self.site.reboot(till, cuts))

    def power_cut(self) -> None:
        till = self.rng.choice(self.site.tills)
        if till.is_on:
            self.site.power_cut(till)

    def outage(self) -> None:
        """A cable: of the front-end, of the ledger, or of some tills."""
        rng, site = self.rng, self.site
        kind = rng.randrange(4)
        if kind == 0:
            hosts = [FRONTEND_HOST]
        elif kind == 1:
            hosts = [LEDGER_HOST]
        else:
            hosts = [till.host.name for till in site.tills if rng.random() < 0.5]
        if hosts:
            site.cut_network(*hosts)
            site.after(rng.randint(300, 15_000), lambda: site.heal(*hosts))

    def frontend_down(self) -> None:
        """Killed, or stopped in order; it comes back."""
        rng, site = self.rng, self.site
        if not site.frontend.is_up:
            return
        if rng.random() < 0.25:
            site.stop_frontend()
        else:
            site.crash_frontend()
        site.after(rng.randint(200, 6_000), self._frontend_back)

    def _frontend_back(self) -> None:
        if self.site.frontend.is_stopped:
            self.site.start_frontend()
        else:
            self.site.after(RETRY_MS, self._frontend_back)

    def ledger_down(self) -> None:
        site = self.site
        if not site.ledger.is_up:
            return
        if self.rng.random() < 0.25:
            site.stop_ledger()
        else:
            site.crash_ledger()
        site.after(self.rng.randint(200, 9_000), self._ledger_back)

    def _ledger_back(self) -> None:
        if self.site.ledger.is_stopped:
            self.site.start_ledger()
        else:
            self.site.after(RETRY_MS, self._ledger_back)

    def weather(self) -> None:
        """What networks and disks do on an ordinary day."""
        rng, site = self.rng, self.site
        world = site.world
        names = [FRONTEND_HOST, LEDGER_HOST, *(till.host.name for till in site.tills)]
        host = rng.choice(names)
        kind = rng.randrange(6)
        if kind != 1:
            world.slow_hosts.clear()
        if kind == 0:
            world.stall(host, rng.randint(100, 25_000))
        elif kind == 1:
            world.slow_hosts[host] = (20, rng.randint(30, 900))
            world.count_fault("slow_link")
        elif kind == 2:
            self._fill_disk()
        elif kind == 3:
            world.corrupt_next[host] = rng.randrange(6)
        elif kind == 4:
            rng.choice((site.frontend, site.ledger)).host.file_failures = rng.randint(1, 3)
        else:
            hosts = [site.frontend.host, site.ledger.host, *(till.host for till in site.tills)]
            rng.choice(hosts).reset_streams()

    def _fill_disk(self) -> None:
        """The spool's volume is full for a while: nothing may be acknowledged (R14)."""
        site = self.site
        site.frontend.free_percent = 2
        site.world.count_fault("disk_full")
        site.after(self.rng.randint(200, 6_000), site.frontend.free_disk)

    def change_list(self) -> None:
        """A card is reported lost, or found again."""
        rng, site = self.rng, self.site
        site.world.count_fault("list_change")
        if self._lost and rng.random() < 0.4:
            site.release(self._lost.pop(rng.randrange(len(self._lost))))
            return
        card = FIRST_CARD + rng.randrange(self.plan.cards)
        if card not in self._lost:
            self._lost.append(card)
            site.report_lost(card)

    # -- afterwards

    def heal(self) -> None:
        """Everything whole again: power, processes, cables, disks; no fault is pending after it."""
        site = self.site
        site.heal()
        site.frontend.free_disk()
        site.frontend.host.file_failures = site.ledger.host.file_failures = 0
        site.frontend.host.work_ms, site.frontend.host.done_ms = 2, 1
        for till in site.tills:
            till.on_cut = lambda _: None
            till.flash.cut_plan = None
        if site.ledger.is_stopped:
            site.start_ledger()
        if not site.frontend.is_up and site.frontend.is_stopped:
            site.start_frontend()
        for till in site.tills:
            site.reboot(till)

    def see_every_card(self) -> None:
        """Each card, lost ones too, meets a terminal once more, for a sale that no purse can pay, and tells all."""
        for at, card in enumerate(self.site.cards.numbers()):
            till = self.site.tills[at % len(self.site.tills)]
            self.site.tap(till, card, 99_999_999)
