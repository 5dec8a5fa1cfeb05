"""One seed from beginning to end: start, sell under faults, heal, drain, agree. A failure names its seed and replay."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.simulation.agreement import Agreement, agree
from tests.simulation.faults import Drama, Plan
from tests.simulation.invariants import Violation
from tests.simulation.site import Site

START_MS: Final = 3_000
SETTLE_MS: Final = 30_000  # what was scheduled before the end (reboots, cables) comes to pass
DRAIN_MS_MAX: Final = 240_000  # taken-over 60 s, ledger's receipt patience 60 s, back-off 45 s, and work
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


def run_seed(seed: int, *, selling_ms: int = 40_000, plan: Plan | None = None) -> Run:
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
    with Site(seed, directory, terminals=plan.terminals, cards=plan.cards, ring_sectors=plan.ring_sectors) as site:
        site.start()
        site.run(START_MS)
        drama = Drama(site, plan)
        drama.begin()
        site.run(plan.selling_ms + SETTLE_MS)
        drama.heal()
        healed_ms = site.world.time_ms
        drain(site)
        drain_ms = site.world.time_ms - healed_ms
        drama.see_every_card()
        drain(site)
        site.check()
        agreement = agree(site)
        left = [identity for identity in site.invariants.ledger.open_greys() if identity in site.oracle.executed]  # type: ignore[union-attr]
        if left:
            raise Violation(f"{left[0]} was paid, its card was seen again, and it is still grey")
        return Run(
            seed=seed,
            plan=plan,
            agreement=agreement,
            trace_hash=site.world.trace_hash(),
            faults=dict(sorted(site.world.faults_fired.items())),
            outcomes=dict(sorted(drama.outcomes.items())),
            virtual_ms=site.world.time_ms,
            events=site.world.events,
            taps=drama.taps,
            checks=site.invariants.checks,
            acknowledged=site.invariants.records_acknowledged,
            drain_ms=drain_ms,
        )


def drain(site: Site, limit_ms: int = DRAIN_MS_MAX) -> None:
    """Require everything to arrive within a virtual bound."""
    end = site.world.time_ms + limit_ms
    while not site.is_drained():
        if site.world.time_ms >= end:
            raise Violation(f"not drained {limit_ms / 1000:.0f} s after healing: {standing(site)}")
        site.run(500)
    site.run(500)


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
    forwarder = site.frontend.forwarder
    spool = site.invariants.spool
    if forwarder is not None:
        parts.append(f"forwarder {dict(forwarder.state())}")
    if spool is not None:
        parts.append(f"{spool.unsettled_rows()} rows unsettled")
    return "; ".join(parts)
