"""Many seeds, on every core: one process a core, each seed wholly in one of them; results in the order of the seeds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Final

from tests.simulation.runner import Run, SeedFailed, run_seed

TWICE_EVERY: Final = 100  # the share of seeds that are run twice, to compare trace hashes
CHUNK_SEEDS: Final = 4  # handed to a process at a time
EXPECTED_FAULTS: Final = (
    "answered_twice", "attack:foreign_receipt", "attack:forge", "attack:forged_list", "attack:invented_batch",
    "attack:invented_record", "attack:noise", "attack:old_list", "attack:receipt", "attack:reflect", "attack:replay",
    "attack:splice", "attack:stall", "bit_flip", "bytes_swallowed", "cancel", "card_torn", "close_day",
    "crash:frontend", "crash:frontend2", "crash:ledger", "crash:till", "cut_at_door", "cut_in_boot", "cut_in_tap",
    "cut_in_uplink", "disk_full", "file_error", "late_bytes", "list_change", "orderly_ledger_stop", "orderly_stop",
    "outage", "partition", "power_cut:frontend", "power_cut:ledger", "power_cut_after_debit", "publish", "replaced",
    "reset", "slow_link", "stall", "stolen_terminal", "topup", "torn_write", "twin_connection", "unsynced_write_lost",
)  # fmt: skip
"""Each of these must have fired at least once over a set of seeds that claims anything."""


@dataclass(slots=True)
class Outcome:
    """One seed: what it came to, or why it failed."""

    seed: int
    run: Run | None
    why: str = ""


@dataclass(slots=True)
class Summary:
    """Of any number of seeds."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    terminal_days: float = 0.0
    twice: int = 0

    def add(self, outcome: Outcome) -> None:
        run = outcome.run
        if run is None:
            self.failures.append(outcome.why)
            return
        self.passed += 1
        self.twice += outcome.seed % TWICE_EVERY == 0
        self.faults.update(run.faults)
        self.outcomes.update(run.outcomes)
        self.virtual_s += run.virtual_ms / 1000
        self.terminal_days += run.virtual_ms * run.plan.terminals / 86_400_000
        self.counts.update(
            taps=run.taps,
            records=run.agreement.records,
            acknowledged=run.acknowledged,
            events=run.events,
            checks=run.checks,
            decided=run.decided,
            overwritten=run.agreement.overwritten,
        )

    @property
    def not_fired(self) -> list[str]:
        """Faults that are expected and never came."""
        return [kind for kind in EXPECTED_FAULTS if not self.faults[kind]]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def run_many(seeds: Iterable[int], *, selling_ms: int | None = None, jobs: int | None = None) -> Iterator[Outcome]:
    """Every seed's outcome, in order; seeds divisible by TWICE_EVERY are run twice and must leave the same trace."""
    jobs = jobs if jobs is not None else cores()
    one = partial(_run_one, selling_ms=selling_ms)
    if jobs == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(one, seeds, chunksize=CHUNK_SEEDS)
        finally:
            pool.shutdown(cancel_futures=True)


def _run_one(seed: int, selling_ms: int | None) -> Outcome:
    try:
        run = run_seed(seed, selling_ms=selling_ms)
        if seed % TWICE_EVERY == 0 and run_seed(seed, selling_ms=selling_ms).trace_hash != run.trace_hash:
            raise SeedFailed(seed, "two runs have two trace hashes")
    except SeedFailed as error:
        return Outcome(seed, None, str(error))
    return Outcome(seed, run)
