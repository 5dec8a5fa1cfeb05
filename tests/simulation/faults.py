"""What goes wrong on a site, drawn from its seed: every kind of fault at its own rate, while people sell and buy."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from protocol.codes import AbortReason, RecordType, TerminalKind
from protocol.record_bodies import Aborted
from terminal_sim.selling_terminal import SellingTerminal
from tests.simulation.attacker import Attacker
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.frontend_host import FrontendHost
from tests.simulation.hijacker import Hijacker
from tests.simulation.operators import Operators
from tests.simulation.people import CUT_STEPS, People
from tests.simulation.plan import Plan
from tests.simulation.site import Site
from tests.simulation.thief import Thief
from tests.simulation.till import Till
from tests.simulation.world import Host

RETRY_MS: Final = 500
WRITES_MAX: Final = 24  # of a commit or two; the cut falls before one of them
CUT_PATIENCE_MS: Final = 150
INVENTION_GAP_MS: Final = 700  # of who holds a stolen terminal, or a front-end


class Drama:
    """Plays a plan on a site: every event schedules the next of its kind, until selling ends."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site = site
        self.plan = plan
        self.rng = random.Random(f"{site.seed}:drama")
        self.people = People(site, plan)
        self.operators = Operators(site)
        self.attacker = Attacker(site) if "attack" in plan.gaps else None
        self.thief: Thief | None = None
        self.ends_ms = 0

    def begin(self) -> None:
        site, plan = self.site, self.plan
        self.ends_ms = site.world.time_ms + plan.selling_ms
        for one in site.frontends:
            one.host.work_ms, one.host.done_ms = plan.commit_ms, plan.callback_ms
        site.ledger.host.work_ms = self.rng.choice((1, 5, 60))
        for till in site.tills:
            till.on_cut = self._power_gone
        self._fill_memories()
        self._every(plan.tap_gap_ms, self.people.arrive)
        happenings: dict[str, Callable[[], None]] = {
            "outage": self.outage,
            "frontend": self.frontend_down,
            "ledger": self.ledger_down,
            "power": self.power_cut,
            "weather": self.weather,
            "list": self.operators.change_list,
            "topup": self.operators.top_up,
            "publish": self.operators.publish,
            "replace": self.operators.replace,
            "close_day": self.operators.close_day,
        }
        if self.attacker is not None:
            happenings["attack"] = self.attacker.strike
        for kind, what in happenings.items():
            if kind in plan.gaps:
                self._every(plan.gaps[kind], what)
        tills = [till for till in site.tills if till.kind == TerminalKind.POS]
        if plan.stolen and len(tills) > 1:
            self.thief = Thief(site, self.rng.choice(tills))
            self._every(INVENTION_GAP_MS, self.thief.act)
        if plan.hijacked:
            self._every(INVENTION_GAP_MS, Hijacker(site, self.rng.choice(site.frontends)).act)

    def _fill_memories(self) -> None:
        """Technical records, as after a morning of cards that were taken away too early."""
        for till in self.site.tills:
            terminal = till.terminal
            if isinstance(terminal, SellingTerminal):
                for _ in range(self.plan.records_before):
                    if not terminal.memory_full:
                        terminal.write_plain(Aborted(int(RecordType.PURCHASE), AbortReason.CARD_REMOVED, 0))

    def _every(self, mean_ms: int, what: Callable[[], None]) -> None:
        def due() -> None:
            if self.site.world.time_ms < self.ends_ms:
                what()
                self._every(mean_ms, what)

        self.site.after(self.rng.randint(mean_ms // 3, mean_ms * 5 // 3), due)

    # -- terminals and cables

    def _power_gone(self, till: Till) -> None:
        rng = self.rng
        cuts = [rng.randrange(CUT_STEPS) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
        self.site.after(rng.randint(200, 5_000), lambda: self.site.reboot(till, cuts))

    def power_cut(self) -> None:
        till = self.rng.choice(self.site.tills)
        if till.is_on:
            self.site.power_cut(till)

    def outage(self) -> None:
        """A cable: of a front-end, of the ledger, of some terminals, or between two machines."""
        rng, site = self.rng, self.site
        kind = rng.randrange(5)
        frontend = rng.choice(site.frontends).host.name
        back_ms = rng.randint(300, 8_000)
        if kind == 4:
            other = rng.choice([LEDGER_HOST, *(till.host.name for till in site.tills)])
            site.part(frontend, other)
            site.after(back_ms, lambda: site.join(frontend, other))
            return
        some = [till.host.name for till in site.tills if rng.random() < 0.5]
        hosts = {0: [frontend], 1: [LEDGER_HOST]}.get(kind, some)
        if hosts:
            site.cut_network(*hosts)
            site.after(back_ms, lambda: site.heal(*hosts))

    # -- the back room

    def frontend_down(self) -> None:
        """Killed, stopped in order, or its power cut; it comes back."""
        rng, site = self.rng, self.site
        frontend = rng.choice(site.frontends)
        if not frontend.is_up:
            return
        how = rng.random()
        if how < 0.25:
            site.world.count_fault("orderly_stop")
            frontend.stop()
        elif how < 0.7 and frontend.host.disk is not None:
            self._cut_power(frontend.host)
        else:
            frontend.crash()
        site.after(rng.randint(2 * CUT_PATIENCE_MS, 4_000), lambda: self._frontend_back(frontend))

    def _frontend_back(self, frontend: FrontendHost) -> None:
        if frontend.is_up:
            return
        if frontend.is_stopped:
            frontend.start()
        else:
            self.site.after(RETRY_MS, lambda: self._frontend_back(frontend))

    def ledger_down(self) -> None:
        site = self.site
        if not site.ledger.is_up:
            return
        how = self.rng.random()
        if how < 0.25:
            site.stop_ledger()
        elif how < 0.7 and site.ledger.host.disk is not None:
            self._cut_power(site.ledger.host)
        else:
            site.crash_ledger()
        site.after(self.rng.randint(2 * CUT_PATIENCE_MS, 5_000), self._ledger_back)

    def _ledger_back(self) -> None:
        if self.site.ledger.is_stopped:
            self.site.start_ledger()
        elif not self.site.ledger.is_up:
            self.site.after(RETRY_MS, self._ledger_back)

    def _cut_power(self, host: Host) -> None:
        """Before one of the next writes or syncs of its disk, or soon."""
        disk, life = host.disk, host.life
        assert disk is not None
        disk.cut_after = self.rng.randrange(WRITES_MAX)

        def at_last() -> None:
            if host.life == life:
                disk.is_dead = True
                host.disk_died()

        self.site.after(CUT_PATIENCE_MS, at_last)

    # -- an ordinary day

    def weather(self) -> None:
        """What networks and disks do."""
        rng, site = self.rng, self.site
        world = site.world
        frontend = rng.choice(site.frontends)
        hosts = [frontend.host, site.ledger.host, *(till.host for till in site.tills)]
        host = rng.choice(hosts[:2] if rng.random() < 0.3 else hosts)
        kind = rng.randrange(7)
        if kind != 1:
            world.slow_hosts.clear()
        if kind == 0:
            world.stall(host.name, rng.randint(100, 9_000))
        elif kind == 1:
            world.slow_hosts[host.name] = (20, rng.randint(30, 900))
            world.count_fault("slow_link")
        elif kind == 2:
            self._fill_disk(frontend)
        elif kind == 3:
            world.corrupt_next[host.name] = rng.randrange(6)
        elif kind == 4:
            rng.choice((frontend, site.ledger)).host.file_failures = rng.randint(1, 3)
        elif kind == 5:
            world.repeat_next[LEDGER_HOST] = rng.randrange(3)
        else:
            host.reset_streams()

    def _fill_disk(self, frontend: FrontendHost) -> None:
        """The spool's volume is full for a while: nothing may be acknowledged (R14)."""
        frontend.free_percent = 2
        self.site.world.count_fault("disk_full")
        self.site.after(self.rng.randint(200, 4_000), frontend.free_disk)

    # -- afterwards

    def heal(self) -> None:
        """Everything whole again: power, processes, cables, disks; what was under way ends, and no fault follows."""
        site = self.site
        site.heal()
        if self.attacker is not None:
            self.attacker.stop()
        for till in site.tills:
            till.on_cut = lambda gone: site.after(RETRY_MS, lambda: site.reboot(gone))
            till.flash.cut_plan = None
        for host in (site.ledger.host, *(one.host for one in site.frontends)):
            if host.disk is not None:
                host.disk.cut_after = None
        site.ledger.host.file_failures = 0
        for one in site.frontends:
            one.free_disk()
            one.host.file_failures = 0
            one.host.work_ms, one.host.done_ms = 2, 1
            self._frontend_back(one)
        self._ledger_back()
        for till in site.tills:
            site.reboot(till)
