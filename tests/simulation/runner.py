"""One seed from beginning to end: start, sell under faults, heal, drain, agree. A failure names its seed and replay."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.codes import CardKind
from terminal_sim.card_kinds import kind_of
from tests.simulation.agreement import Agreement, agree
from tests.simulation.faults import Drama
from tests.simulation.invariants import Violation
from tests.simulation.operators import PERSONS
from tests.simulation.plan import Plan
from tests.simulation.site import Site

START_MS: Final = 2_000
DRAIN_MS_MAX: Final = 240_000  # taken-over 60 s, ledger's receipt patience 60 s, back-off 45 s, and work
DRAIN_LOOK_MS: Final = 500
DECIDE_ROUNDS_MAX: Final = 6  # of two persons; a decision may open what a proof then closes
MEMORY_DISK: Final = "/dev/shm"
REPLAY: Final = "python -m tests.simulation --first {seed} --seeds 1"


@dataclass(slots=True)
class Run:
    """What one seed came to."""

    seed: int
    plan: Plan
    agreement: Agreement
    trace_hash: str
    faults: dict[str, int]
    outcomes: dict[str, int]
    virtual_ms: int
    events: int
    taps: int
    checks: int
    acknowledged: int
    drain_ms: int
    decided: int


class SeedFailed(AssertionError):
    """Says how to see it again."""

    def __init__(self, seed: int, why: str) -> None:
        super().__init__(f"seed {seed}, commit {commit()}: {why}\n  replay: {REPLAY.format(seed=seed)}")
        self.seed = seed


def commit() -> str:
    """The commit under test, with + for changes on top of it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def scratch() -> str | None:
    """Where files live for the seconds of a run: memory if there is such a place, for a virtual crash loses nothing."""
    return MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK | os.X_OK) else None


def run_seed(seed: int, *, selling_ms: int | None = None, plan: Plan | None = None) -> Run:
    """Raises SeedFailed."""
    plan = plan if plan is not None else Plan.drawn(seed, selling_ms=selling_ms)
    with tempfile.TemporaryDirectory(prefix="onecard-sim-", dir=scratch()) as directory:
        try:
            return _run(seed, plan, Path(directory))
        except SeedFailed:
            raise
        except Exception as error:
            raise SeedFailed(seed, f"{type(error).__name__}: {error}") from error


def _run(seed: int, plan: Plan, directory: Path) -> Run:
    with Site(
        seed,
        directory,
        ring_sectors=plan.ring_sectors,
        frontends=plan.frontends,
        cast=plan.cast(seed),
        has_fragile_disks=plan.has_fragile_disks,
    ) as site:
        site.start()
        site.run(START_MS)
        drama = Drama(site, plan)
        drama.begin()
        site.run(plan.selling_ms)
        drama.heal()
        healed_ms = site.world.time_ms
        drain(site, also=lambda: not drama.operators.is_replacing)
        drain_ms = site.world.time_ms - healed_ms
        drama.people.see_every_card()
        drain(site)
        _proofs_are_home(site)
        decided = _decide(site, drama)
        _only_people_decide(site)
        site.check()
        agreement = agree(site)
        return Run(
            seed=seed,
            plan=plan,
            agreement=agreement,
            trace_hash=site.world.trace_hash(),
            faults=dict(sorted(site.world.faults_fired.items())),
            outcomes=dict(sorted(drama.people.outcomes.items())),
            virtual_ms=site.world.time_ms,
            events=site.world.events,
            taps=drama.people.taps,
            checks=site.invariants.checks,
            acknowledged=site.invariants.records_acknowledged,
            drain_ms=drain_ms,
            decided=decided,
        )


def _proofs_are_home(site: Site) -> None:
    """Every card that makes proofs was seen again: none of its transactions may be in doubt any more (R20)."""
    ledger = site.invariants.ledger
    assert ledger is not None
    for _, identity, _, card, kind in ledger.open_suspense("grey", "doubt"):
        if identity in site.oracle.executed and kind_of(site.cards.load(card)) is not CardKind.MEMORY:
            raise Violation(f"{identity} was paid, its card was seen again, and it is still {kind}")


def _only_people_decide(site: Site) -> None:
    """What no proof settles is settled by two persons, and by nothing else (R20)."""
    ledger = site.invariants.ledger
    assert ledger is not None
    others = sorted(ledger.deciders() - set(PERSONS))
    if others:
        raise Violation(f"{others[0]} has decided what is for two persons")


def _decide(site: Site, drama: Drama) -> int:
    decided = 0
    for _ in range(DECIDE_ROUNDS_MAX):
        count = drama.operators.decide()
        if not count:
            break
        decided += count
        drain(site, also=lambda: not drama.operators.is_deciding)
    return decided


def drain(site: Site, limit_ms: int = DRAIN_MS_MAX, *, also: Callable[[], bool] = lambda: True) -> None:
    """Require everything to arrive within a virtual bound, and `also`."""
    end = site.world.time_ms + limit_ms
    while not (site.is_drained() and also()):
        if site.world.time_ms >= end:
            raise Violation(f"not drained {limit_ms / 1000:.0f} s after healing: {standing(site)}")
        site.run(DRAIN_LOOK_MS)
    site.run(DRAIN_LOOK_MS)


def standing(site: Site) -> str:
    """Where a site hangs, in a line."""
    parts = []
    for till in site.tills:
        terminal, uplink = till.terminal, till.uplink
        if terminal is None or terminal.memory is None or uplink is None:
            parts.append(f"{till.number} has no power or memory")
            continue
        waiting = terminal.memory.ring.unacknowledged
        version = terminal.deny_list.memory.version
        parts.append(f"{till.number} {uplink.state.value}, {waiting} waiting, list {version[0]}.{version[1]}")
    for one, spool in zip(site.frontends, site.invariants.spools(), strict=True):
        if one.forwarder is not None:
            parts.append(f"forwarder {dict(one.forwarder.state())}")
        parts.append(f"{spool.unsettled_rows()} rows unsettled")
    return "; ".join(parts)
