"""A whole site from a seed: a ledger, front-ends, terminals and cards, all of it the product's own code.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import apsw

from ledger_sync.ledger.admin import registrations
from ledger_sync.ledger.loading import orders_of_station
from protocol.codes import ListKind, TerminalKind
from protocol.list_kinds import DOCUMENT_KINDS, kinds_held_by
from protocol.registry import Registry
from protocol.signed import NO_VERSION, Version
from terminal_sim.card import Disturbance, MemoryCards
from terminal_sim.firmware import TapResult
from terminal_sim.flash import VirtualFlash
from terminal_sim.layout import FlashLayout
from terminal_sim.load_station import LoadOrder
from terminal_sim.oracle import Oracle
from tests.simulation.breakage import LEDGER_HOST, Breakage
from tests.simulation.cast import Cast
from tests.simulation.eyes import SpoolEye
from tests.simulation.fragile import FragileDisk
from tests.simulation.frontend_host import ADDRESS, FrontendHost
from tests.simulation.invariants import Invariants
from tests.simulation.keys import FIRST_CARD, FRONTEND, SITE, SiteKeys, register_entry
from tests.simulation.ledger_eye import LedgerEye
from tests.simulation.ledger_host import LedgerHost
from tests.simulation.till import Act, Till
from tests.simulation.world import Host, World

CHECK_EVERY_EVENTS: Final = 1_000
FRONTEND_HOST: Final = "frontend"
ENTRIES_PER_OPERATION: Final = 2_000
OPENING_CENTS: Final = (2_000, 50_000)


def _parts(entries: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As operators send them: so many in one operation."""
    for first in range(0, len(entries), ENTRIES_PER_OPERATION):
        yield entries[first : first + ENTRIES_PER_OPERATION]


class Site(Breakage):
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
        cast: Cast | None = None,
        has_fragile_disks: bool = False,
    ) -> None:
        """Without a `cast`, tills and AES cards: so many `terminals` and `cards`.

        `has_fragile_disks`: a power cut of front-end or ledger loses what SQLite has not synced.
        """
        self.seed = seed
        self.world = World(seed)
        self.rng = random.Random(f"{seed}:site")
        self.check_every_events = check_every_events
        self.logged: dict[str, int] = {}
        self._next_check = check_every_events
        self.cast = cast if cast is not None else Cast.tills(terminals, cards)
        keys = self.keys = SiteKeys.from_seed(seed, self.cast)
        self.cards = MemoryCards()
        self.oracle = Oracle({one.terminal: one.merchant for one in keys.registry})
        self.invariants = Invariants(self.oracle, self.cards)
        for number, kind in enumerate(self.cast.cards, FIRST_CARD):
            image = keys.issue(number, kind, self.rng.randint(*OPENING_CENTS))
            self.cards.save(image)
            self.oracle.issued(image)
        self.directory = directory
        self._has_fragile_disks = has_fragile_disks
        self.frontends = [self._frontend(at) for at in range(frontends)]
        self.frontend = self.frontends[0]
        (directory / LEDGER_HOST).mkdir()
        self.ledger = LedgerHost(self._machine(LEDGER_HOST), directory / LEDGER_HOST, keys, self._log)
        self.ledger.host.disk_died = self.power_cut_ledger
        self.tills = [self._till(one.terminal, ring_sectors) for one in keys.registry]
        self.ledger.host.after_work = self.invariants.ledger_worked
        self.replaced: list[tuple[int, VirtualFlash, FlashLayout]] = []
        """(terminal, chip, its layout) of devices that others have taken the place of."""
        self.invariants.tills = {till.number: till for till in self.tills}
        self._recoveries: list[apsw.Connection] = []
        self._closed = False

    def _frontend(self, at: int) -> FrontendHost:
        """The first is named as ever, so that a seed of one front-end stays what it was."""
        name = FRONTEND_HOST if at == 0 else f"{FRONTEND_HOST}{at + 1}"
        directory = self.directory / name
        directory.mkdir(parents=True)
        address = ADDRESS if at == 0 else f"10.0.0.{at + 1}:4700"
        made = FrontendHost(self._machine(name), directory, self.keys, self._log, number=FRONTEND + at, address=address)
        made.host.after_work = self.invariants.spool_worked
        made.host.disk_died = lambda: self.power_cut_frontend(made)
        return made

    def _machine(self, name: str) -> Host:
        host = Host(self.world, name)
        if self._has_fragile_disks:
            host.disk = FragileDisk(f"{self.seed}:disk of {name}")
        return host

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
        till.orders = lambda: self._orders_of(number)
        return till

    def _orders_of(self, station: int) -> list[LoadOrder]:
        ledger = self.invariants.ledger
        rows = orders_of_station(ledger.connection, station) if ledger is not None else []
        return [LoadOrder(each["card"], each["serial"], each["order"], each["amount_cents"], station) for each in rows]

    def start(self, *, tills: bool = True) -> None:
        """Ledger with its registers, front-end, terminals."""
        entries = [register_entry(self.cards.load(number)) for number in self.cards.numbers()]
        terminals = registrations(self.keys.registry)
        self.ledger.create(
            *(("register", {"terminals": part}) for part in _parts(terminals)),
            *(("card_issue", {"cards": part}) for part in _parts(entries)),
        )
        self.ledger.start()
        for one in self.frontends:
            one.start()
        self.invariants.spool_eyes = [SpoolEye(one.spool_path) for one in self.frontends]
        self.invariants.ledger = LedgerEye(self.ledger.paths.database)
        if not self.cast.is_plain:
            self.publish(ListKind.PARAMETERS)
            if self.doors:
                self.publish(ListKind.PERMISSIONS)
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
        for recovery in self._recoveries:
            recovery.close(True)
        for one in self.frontends:
            one.close()
        self.ledger.close()

    def _close_eyes(self) -> None:
        for eye in (*self.invariants.spools(), self.invariants.ledger):
            if eye is not None:
                eye.close()
        self.invariants.spool_eyes = []
        self.invariants.ledger = None

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

    @property
    def sellers(self) -> list[Till]:
        """Terminals to which people come with money."""
        return [till for till in self.tills if till.kind != TerminalKind.DOOR]

    @property
    def doors(self) -> list[Till]:
        return [till for till in self.tills if till.kind == TerminalKind.DOOR]

    def tap(self, till: Till, card: int, amount_cents: int, disturbance: Disturbance | None = None) -> TapResult | None:
        """One card at one terminal; None: no power, or it went."""
        return self.serve(till, card, lambda terminal, field: terminal.tap(field, amount_cents), disturbance)

    def serve(self, till: Till, card: int, act: Act, disturbance: Disturbance | None = None) -> TapResult | None:
        """As `tap`, with whatever a customer does."""
        held: Version = NO_VERSION
        if till.terminal is not None:
            held = till.terminal.deny_list.memory.version
        result = till.serve(card, act, disturbance)
        self.invariants.tapped(till, card, held, result)
        return result

    def report_lost(self, card: int, answered: Callable[[dict[str, Any] | None], None] | None = None) -> None:
        """挂失, through the ledger's admin socket; the operator tries again when nobody answers."""
        self.ask({"verb": "lost", "card": card}, answered)

    def release(self, card: int, answered: Callable[[dict[str, Any] | None], None] | None = None) -> None:
        """解挂."""
        self.ask({"verb": "release", "card": card}, answered)

    def publish(self, kind: ListKind) -> None:
        """The next version of a document, at every front-end."""
        for one in self.frontends:
            one.publish(kind)

    def enrol_again(self, till: Till) -> None:
        """The desk's part of a replacement (R11): a new epoch in the registry, which every front-end takes over."""
        entry = self.keys.registry.get(till.number)
        assert entry is not None
        registry = Registry(SITE)
        for one in self.keys.registry:
            registry.put(one.re_enrolled(self.rng.randbytes(8)) if one.terminal == till.number else one)
        self.keys.registry = registry
        for frontend in self.frontends:
            if frontend.server is not None:
                frontend.server.replace_registry(registry)

    def register(self, till: Till, told: Callable[[dict[str, Any] | None], None]) -> bool:
        """Tell the ledger what the registry says of one terminal; False: nobody is there to be told."""
        if not self.ledger.is_up:
            return False
        entries = [one for one in registrations(self.keys.registry) if one["terminal"] == till.number]
        self.ask({"verb": "register", "terminals": entries}, told)
        return True

    def install(self, till: Till) -> None:
        """A new device with what the registry says now boots in the place of one that is off."""
        entry = self.keys.registry.get(till.number)
        assert entry is not None
        layout = till.layout
        self.replaced.append((till.number, till.replace(self.keys.secrets(entry)), layout))
        self.world.count_fault("replaced")
        self.invariants.replaced(till)
        till.boot()

    def ask(self, request: dict[str, Any], answered: Callable[[dict[str, Any] | None], None] | None = None) -> None:
        """One request to the ledger's admin socket; a ledger that is down is asked nothing."""

        def told(answer: dict[str, Any] | None) -> None:
            self.world.trace("admin", request["verb"], answer is not None and answer.get("ok"))
            if answered is not None:
                answered(answer)

        if self.ledger.is_up:
            self.ledger.ask(request, told)

    # -- how it stands

    def is_drained(self) -> bool:
        """Every terminal online and acknowledged, every row settled, every list current."""
        ledger = self.invariants.ledger
        if not self.invariants.spool_eyes or ledger is None or not self.ledger.is_up:
            return False
        if any(one.server is None for one in self.frontends):
            return False
        newest = {ListKind.DENY: max(ledger.denied())}
        for kind in DOCUMENT_KINDS:
            newest[kind] = max(one.wanted_version(kind) for one in self.frontends)
        for till in self.tills:
            terminal = till.terminal
            if terminal is None or terminal.memory is None or not till.is_online:
                return False
            if terminal.memory.ring.unacknowledged:
                return False
            if any(till.version_of(kind) != newest[kind] for kind in kinds_held_by(till.kind)):
                return False
        return all(spool.unsettled_rows() == 0 for spool in self.invariants.spools())
