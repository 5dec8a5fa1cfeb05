"""One large site in one process, on an ordinary day: `python -m tests.simulation --site 10000 --minutes 2`.

No swarm of faults and no attacker: terminals boot over half a minute, people come at a usual rate, some cards are lost,
some terminals lose power, a cable is pulled now and then. It asks how fast virtual time passes, and then as every seed:
drained, and agreed to the cent.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from protocol.codes import CardKind, ProofSuite, Suite, TerminalKind
from tests.simulation.agreement import Agreement, agree
from tests.simulation.cast import Cast, Role
from tests.simulation.faults import Drama
from tests.simulation.plan import Plan
from tests.simulation.runner import drain, scratch
from tests.simulation.site import Site

BOOT_MS: Final = 30_000  # all switches are not thrown in one millisecond
TAP_GAP_OF_A_TERMINAL_MS: Final = 30_000
CARDS_PER_TERMINAL: Final = 2
CARDS_MAX: Final = 5_000
DOORS_MAX: Final = 6  # a permissions document has room for so many with three doors each
CHECK_EVERY_EVENTS: Final = 50_000
BOOKS_EVERY_COMMITS: Final = 50
RING_SECTORS: Final = 9
COMMIT_MS: Final = 20  # of a disk that really syncs: what comes meanwhile is committed together


@dataclass(slots=True)
class BigRun:
    """What it came to; `times_real_time` is of the selling alone."""

    terminals: int
    virtual_s: float
    real_s: float
    cpu_s: float
    boot_real_s: float
    taps: int
    events: int
    agreement: Agreement

    @property
    def times_real_time(self) -> float:
        return self.virtual_s / self.real_s


def big_cast(terminals: int) -> Cast:
    """Mostly tills, every fifth in suite B; a few of each other kind."""
    few = max(1, terminals // 50)
    roles = [Role(TerminalKind.MEAL)] * few + [Role(TerminalKind.LOAD_STATION)] * few
    roles += [Role(TerminalKind.DOOR)] * min(few, DOORS_MAX)
    suite_b = Role(TerminalKind.POS, Suite.B, ProofSuite.SM4_CMAC)
    roles += [suite_b if at % 5 == 0 else Role() for at in range(terminals - len(roles))]
    cards = min(CARDS_MAX, CARDS_PER_TERMINAL * terminals)
    kinds = [
        CardKind.MEMORY if at % 10 == 8 else CardKind.PBOC if at % 10 == 9 else CardKind.AES for at in range(cards)
    ]
    return Cast(tuple(roles), tuple(kinds))


def run_big(terminals: int, *, minutes: float, seed: int = 0) -> BigRun:
    """Raises Violation."""
    cast = big_cast(terminals)
    selling_ms = int(minutes * 60_000)
    plan = Plan(
        terminals=terminals,
        cards=len(cast.cards),
        frontends=1,
        ring_sectors=RING_SECTORS,
        selling_ms=selling_ms,
        tap_gap_ms=max(1, TAP_GAP_OF_A_TERMINAL_MS // terminals),
        disturbed=0.002,
        cut_in_flash=0.0,
        commit_ms=COMMIT_MS,
        gaps={"power": max(2_000, 600_000 // terminals), "list": 20_000, "topup": 5_000, "outage": 45_000},
    )
    with (
        tempfile.TemporaryDirectory(prefix="onecard-sim-", dir=scratch()) as directory,
        Site(
            seed, Path(directory), ring_sectors=RING_SECTORS, cast=cast, check_every_events=CHECK_EVERY_EVENTS
        ) as site,
    ):
        site.invariants.books_every_commits = BOOKS_EVERY_COMMITS
        began = time.monotonic()
        site.start(tills=False)
        for at, till in enumerate(site.tills):
            site.after(at * BOOT_MS // terminals, partial(site.reboot, till))
        site.run(BOOT_MS)
        booted, cpu_s = time.monotonic(), time.process_time()
        drama = Drama(site, plan)
        drama.begin()
        site.ledger.host.work_ms = COMMIT_MS
        site.run(selling_ms)
        sold, cpu_s = time.monotonic(), time.process_time() - cpu_s
        drama.heal()
        drain(site)
        drama.people.see_every_card()
        drain(site)
        while drama.operators.decide():
            drain(site, also=lambda: not drama.operators.is_deciding)
        return BigRun(
            terminals=terminals,
            virtual_s=selling_ms / 1000,
            real_s=sold - booted,
            cpu_s=cpu_s,
            boot_real_s=booted - began,
            taps=drama.people.taps,
            events=site.world.events,
            agreement=agree(site),
        )
