"""A whole site from a seed: a ledger, a front-end, POS terminals and cards, all of it the product's own code.

    with Site(seed, directory) as site:
        site.start()
        site.tap(site.tills[0], card, 850)
        site.run(10_000)                    virtual milliseconds; invariants are checked on the way
        site.cut_network("frontend") … site.heal()
        site.crash_frontend() … site.start_frontend()

Everything random is drawn from `site.world.rng` or from generators named by the seed; nothing reads a clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ledger_sync.ledger.admin import registrations
from protocol.signed import NO_VERSION, Version
from terminal_sim.card import Disturbance, MemoryCards
from terminal_sim.firmware import TapResult
from terminal_sim.flash import CutAfter
from terminal_sim.oracle import Oracle
from tests.simulation.eyes import LedgerEye, SpoolEye
from tests.simulation.frontend_host import ADDRESS, FrontendHost
from tests.simulation.invariants import Invariants
from tests.simulation.keys import FIRST_CARD, FRONTEND, SiteKeys, register_entry
from tests.simulation.ledger_host import LedgerHost
from tests.simulation.till import BOOTS_MAX, Till
from tests.simulation.world import Host, World

CHECK_EVERY_EVENTS: Final = 1_000
FRONTEND_HOST: Final = "frontend"
LEDGER_HOST: Final = "ledger"
OPENING_CENTS: Final = (2_000, 50_000)


class Site:
    """Close it, or use it as a context: it has files open."""

    def __init__(
        self,
        seed: int,
        directory: Path,
        *,
        terminals: int = 4,
        cards: int = 20,
        ring_sectors: int = 5,
        frontends: int = 1,
        check_every_events: int = CHECK_EVERY_EVENTS,
    ) -> None:
        self.seed = seed
        self.world = World(seed)
        self.rng = random.Random(f"{seed}:site")
        self.check_every_events = check_every_events
        self.logged: dict[str, int] = {}
        self._next_check = check_every_events
        keys = self.keys = SiteKeys.from_seed(seed, terminals=terminals)
        self.cards = MemoryCards()
        self.oracle = Oracle({one.terminal: one.merchant for one in keys.registry})
        self.invariants = Invariants(self.oracle, self.cards)
        for number in range(FIRST_CARD, FIRST_CARD + cards):
            image = keys.card(number, self.rng.randint(*OPENING_CENTS))
            self.cards.save(image)
            self.oracle.issued(image)
        self.directory = directory
        self.frontends = [self._frontend(at) for at in range(frontends)]
        self.frontend = self.frontends[0]
        (directory / LEDGER_HOST).mkdir()
        self.ledger = LedgerHost(Host(self.world, LEDGER_HOST), directory / LEDGER_HOST, keys, self._log)
        self.tills = [self._till(one.terminal, ring_sectors) for one in keys.registry]
        self.invariants.tills = {till.number: till for till in self.tills}
        self._closed = False

    def _frontend(self, at: int) -> FrontendHost:
        """The first is named as ever, so that a seed of one front-end stays what it was."""
        name = FRONTEND_HOST if at == 0 else f"{FRONTEND_HOST}{at + 1}"
        directory = self.directory / name
        directory.mkdir(parents=True)
        address = ADDRESS if at == 0 else f"10.0.0.{at + 1}:4700"
        made = FrontendHost(
            Host(self.world, name), directory, self.keys, self._log, number=FRONTEND + at, address=address
        )
        made.host.after_work = self.invariants.spool_worked
        return made

    def _till(self, number: int, ring_sectors: int) -> Till:
        host = Host(self.world, f"till-{number}", clock_offset_ms=0)
        enrolled = self.keys.registry.get(number)
        assert enrolled is not None
        addresses = [one.address for one in self.frontends]
        first = number % len(addresses)  # each its own first, in turn
        till = Till(
            host,
            self.keys.secrets(enrolled),
            addresses=[*addresses[first:], *addresses[:first]],
            ring_sectors=ring_sectors,
            drift_ppm=self.rng.randint(-200, 200),
            cards=self.cards,
            oracle=self.oracle,
            observer=self.invariants,
            log=self._log,
        )
        till.on_boot = self.invariants.booted
        return till

    def start(self, *, tills: bool = True) -> None:
        """Ledger with its registers, front-end, terminals."""
        entries = [register_entry(self.cards.load(number)) for number in self.cards.numbers()]
        self.ledger.create(
            ("register", {"terminals": registrations(self.keys.registry)}), ("card_issue", {"cards": entries})
        )
        self.ledger.start()
        for one in self.frontends:
            one.start()
        self.invariants.spool = SpoolEye(self.frontend.spool_path)
        self.invariants.other_spools = [SpoolEye(one.spool_path) for one in self.frontends[1:]]
        self.invariants.ledger = LedgerEye(self.ledger.paths.database)
        if tills:
            for till in self.tills:
                till.boot()

    # -- life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._close_eyes()
        for one in self.frontends:
            one.close()
        self.ledger.close()

    def _close_eyes(self) -> None:
        for eye in (*self.invariants.spools(), self.invariants.ledger):
            if eye is not None:
                eye.close()
        self.invariants.spool = self.invariants.ledger = None
        self.invariants.other_spools = []

    def _log(self, event: str, /, **facts: object) -> None:
        self.logged[event] = self.logged.get(event, 0) + 1
        self.world.trace("log", event, facts.get("terminal"))

    # -- time

    def run(self, duration_ms: int) -> None:
        """Let so much virtual time pass."""
        self.run_while(lambda: True, limit_ms=duration_ms)
        self.check()

    def run_while(self, condition: Callable[[], bool], *, limit_ms: int) -> bool:
        """Run until `condition` is false (True) or the limit has come (False)."""
        end = self.world.time_ms + limit_ms
        while condition():
            if not self.world.step_before(end):
                self.world.run_until(end)
                return not condition()
            if self.world.events >= self._next_check:
                self.check()
        return True

    def check(self) -> None:
        """Judge everything now."""
        self._next_check = self.world.events + self.check_every_events
        if self.invariants.ledger is not None:
            self.invariants.check(*self.frontends)

    def after(self, delay_ms: int, what: Callable[[], None]) -> None:
        """Do something later, whatever crashes until then."""
        self.world.after(delay_ms, what)

    # -- what people do

    def tap(self, till: Till, card: int, amount_cents: int, disturbance: Disturbance | None = None) -> TapResult | None:
        """One card at one terminal; None: no power, or it went."""
        held: Version = NO_VERSION
        if till.terminal is not None:
            held = till.terminal.deny_list.memory.version
        result = till.tap(card, amount_cents, disturbance)
        if result is not None:
            self.invariants.tapped(till, card, held, result)
        return result

    def report_lost(self, card: int, answered: Callable[[dict[str, Any] | None], None] | None = None) -> None:
        """挂失, through the ledger's admin socket; the operator tries again when nobody answers."""
        self._admin({"verb": "lost", "card": card}, answered)

    def release(self, card: int, answered: Callable[[dict[str, Any] | None], None] | None = None) -> None:
        """解挂."""
        self._admin({"verb": "release", "card": card}, answered)

    def _admin(self, request: dict[str, Any], answered: Callable[[dict[str, Any] | None], None] | None) -> None:
        def told(answer: dict[str, Any] | None) -> None:
            self.world.trace("admin", request["verb"], answer is not None and answer.get("ok"))
            if answered is not None:
                answered(answer)

        if self.ledger.is_up:
            self.ledger.ask(request, told)

    # -- what goes wrong

    def crash_frontend(self) -> None:
        if self.frontend.server is not None:
            self.frontend.crash()

    def start_frontend(self) -> None:
        if self.frontend.server is None:
            self.frontend.start()

    def stop_frontend(self) -> None:
        """An orderly restart's first half."""
        if self.frontend.is_up:
            self.world.count_fault("orderly_stop")
            self.frontend.stop()

    def crash_ledger(self) -> None:
        if self.ledger.is_up:
            self.ledger.crash()

    def stop_ledger(self) -> None:
        """An orderly restart's first half."""
        if self.ledger.is_up:
            self.world.count_fault("orderly_ledger_stop")
            self.ledger.stop()

    def start_ledger(self) -> None:
        if not self.ledger.is_up:
            self.ledger.start()

    def restore_ledger(self, backup: Path) -> dict[str, Any]:
        """Yesterday's file under a higher generation; start the service afterwards."""
        eye = self.invariants.ledger
        if eye is not None:
            eye.close()
        told = self.ledger.restore(backup)
        self.world.count_fault("ledger_restored")
        self.invariants.ledger = LedgerEye(self.ledger.paths.database)
        return told

    def power_cut(self, till: Till) -> None:
        till.power_cut()

    def reboot(self, till: Till, cuts: list[int] | None = None) -> None:
        """Power comes back; `cuts` are flash steps after which it goes again, one per attempt."""
        if till.is_on:
            return
        for steps in (cuts or [])[:BOOTS_MAX]:
            if till.boot(CutAfter(steps, bits_done=self.rng.randrange(256))):
                return
        if not till.is_on:
            till.boot()

    def cut_network(self, *hosts: str) -> None:
        """No byte to or from these hosts; what is under way in their streams is lost for ever."""
        self.world.count_fault("outage")
        self.world.cut_hosts.update(hosts)

    def part(self, one: str, other: str) -> None:
        """No byte between these two hosts; everybody else reaches both."""
        self.world.count_fault("partition")
        self.world.cut_pairs.add(frozenset((one, other)))

    def heal(self, *hosts: str) -> None:
        """Cables back; without arguments all of them, and every link fast again."""
        if hosts:
            self.world.cut_hosts.difference_update(hosts)
        else:
            self.world.cut_hosts.clear()
            self.world.cut_pairs.clear()
            self.world.slow_hosts.clear()
            self.world.stalled_until_ms.clear()
            self.world.corrupt_next.clear()

    # -- how it stands

    def is_drained(self) -> bool:
        """Every terminal online and acknowledged, every row settled, every list current."""
        ledger = self.invariants.ledger
        if self.invariants.spool is None or ledger is None or not self.ledger.is_up:
            return False
        if any(one.server is None for one in self.frontends):
            return False
        newest = max(ledger.denied())
        newest_parameters = max(one.parameters_version for one in self.frontends)
        for till in self.tills:
            terminal = till.terminal
            if terminal is None or terminal.memory is None or not till.is_online:
                return False
            if terminal.memory.ring.unacknowledged or terminal.deny_list.memory.version != newest:
                return False
            if till.parameters_version != newest_parameters:
                return False
        return all(spool.unsettled_rows() == 0 for spool in self.invariants.spools())
