"""`python -m tests.simulation --seeds 100 --first 0`: run seeds, show progress, say what was fired; 1 if one failed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Final

from tests.simulation.runner import Run, SeedFailed, commit, run_seed

TWICE_EVERY: Final = 100  # the share of seeds that are run twice, to compare trace hashes
EXPECTED_FAULTS: Final = (
    "bit_flip", "bytes_swallowed", "card_torn", "crash:frontend", "crash:ledger", "crash:till", "cut_in_boot",
    "cut_in_tap", "cut_in_uplink", "disk_full", "file_error", "list_change", "orderly_ledger_stop", "orderly_stop",
    "outage", "power_cut_after_debit", "reset", "slow_link", "stall",
)  # fmt: skip
"""Each of these must have fired at least once over a set of seeds that claims anything."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--selling-seconds", type=int, default=40, help="virtual seconds of sales under faults")
    parser.add_argument("--keep-going", action="store_true", help="run the other seeds after a failure")
    arguments = parser.parse_args(argv)
    began, done, failed = time.monotonic(), [], 0
    print(f"commit {commit()}, seeds {arguments.first} to {arguments.first + arguments.seeds - 1}")
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            run = run_seed(seed, selling_ms=arguments.selling_seconds * 1000)
            if seed % TWICE_EVERY == 0:
                again = run_seed(seed, selling_ms=arguments.selling_seconds * 1000)
                if again.trace_hash != run.trace_hash:
                    raise SeedFailed(seed, "two runs have two trace hashes")
        except SeedFailed as error:
            failed += 1
            print(f"\nFAILED {error}")
            if not arguments.keep_going:
                break
            continue
        done.append(run)
        _progress(run, done, time.monotonic() - began)
    print()
    _summary(done, failed, time.monotonic() - began)
    return 1 if failed else 0


def _progress(run: Run, done: list[Run], seconds: float) -> None:
    line = (
        f"seed {run.seed}: {run.taps} taps, {run.agreement.records} sales, drained in {run.drain_ms / 1000:.0f} s"
        f" · {len(done) / seconds:.1f} seeds/s"
    )
    print(f"\r{line:<100}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def _summary(done: list[Run], failed: int, seconds: float) -> None:
    if not done:
        return
    faults: Counter[str] = Counter()
    for run in done:
        faults.update(run.faults)
    virtual_s = sum(run.virtual_ms for run in done) / 1000
    terminal_days = sum(run.virtual_ms * run.plan.terminals for run in done) / 86_400_000
    print(f"{len(done)} seeds passed, {failed} failed, {seconds:.1f} s: {len(done) / seconds:.2f} seeds/s")
    print(
        f"virtual time {virtual_s:.0f} s, {virtual_s / seconds:.0f} times real time; {terminal_days:.2f} terminal-days"
    )
    print(
        f"{sum(run.taps for run in done)} taps, {sum(run.agreement.records for run in done)} sales,"
        f" {sum(run.acknowledged for run in done)} records acknowledged, {sum(run.checks for run in done)} checks,"
        f" {sum(run.agreement.greys_open for run in done)} greys named at the end,"
        f" {sum(run.agreement.overwritten for run in done)} records overwritten"
    )
    print("faults fired: " + ", ".join(f"{kind} {faults.get(kind, 0)}" for kind in sorted({*faults, *EXPECTED_FAULTS})))


if __name__ == "__main__":
    sys.exit(main())
