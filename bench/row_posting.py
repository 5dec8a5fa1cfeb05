"""Goal 7, first half: the ledger's posting beside the same rows inserted bare."""

from __future__ import annotations

import statistics
from typing import Any, Final

from bench.children import BenchFailed, Child, cores, scratch_directory
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress

POSTING: Final = Target(7, "posting: records/s against the same rows inserted bare", 0.6, 0.75)
TERMINALS: Final = 1_000
TERMINALS_OF_A_SHORT_RUN: Final = 20
CARDS: Final = 20_000
CARDS_OF_A_SHORT_RUN: Final = 200
RECORDS_PER_FRAME: Final = 16
RECORDS_A_ROUND: Final = 64_000
SHORT_RUN_SECONDS: Final = 1.0
SEED: Final = 20_260_920


def posting_rows(plan: Plan, progress: Progress, *, held_records: int = 0, in_order: bool = False) -> Measured:
    """Recovery: frames of sixteen, batches as large as they may be; `held_records`: posted before the clock starts.

    Raises:
        BenchFailed: the anchor did not write what the ledger wrote.
    """
    is_short = plan.seconds < SHORT_RUN_SECONDS
    terminals = TERMINALS_OF_A_SHORT_RUN if is_short else TERMINALS
    records = RECORDS_PER_FRAME * terminals if is_short else RECORDS_A_ROUND
    with scratch_directory(plan.work_dir) as directory, Child(
        "bench.posting_subject", cores()[0], directory=str(directory), terminals=terminals,
        cards=CARDS_OF_A_SHORT_RUN if is_short else CARDS, seed=SEED, per_frame=RECORDS_PER_FRAME,
        records=records, warm_up_records=records, held_records=held_records, rounds=plan.rounds,
        in_order=in_order,
    ) as child:  # fmt: skip
        found = child.hear()
        while "progress" in found:
            progress(found["progress"])
            found = child.hear()
    if "error" in found:
        raise BenchFailed(found["error"])
    middle = {name: statistics.median(one[name] for one in found["rounds"]) for name in found["rounds"][0]}
    ratio = middle["ledger_per_second"] / middle["anchor_per_second"]
    notes = [
        f"goal 7: {terminals:,} terminals, frames of {RECORDS_PER_FRAME}; {held_records:,} records held before",
        f"  {middle['records'] / middle['batches']:,.0f} records a batch",
        *(f"  {each:6} {_figures(middle, each)}" for each in ("ledger", "anchor")),
        f"  by CPU time alone: {middle['anchor_us'] / middle['ledger_us']:.2f}; {found['rss_kib'] / 1024:,.0f} MiB",
    ]
    details = {"posting": {**middle, "held_records": held_records, "rss_kib": found["rss_kib"]}}
    return Measured([Goal.measured(POSTING, ratio, 0.0)], details, notes)


def _figures(middle: dict[str, Any], side: str) -> str:
    return f"{middle[f'{side}_per_second']:9,.0f} records/s, {middle[f'{side}_us']:5.1f} µs of CPU a record"
