"""Run seeds on every core, show progress, say what was fired; exit code 1 if one failed.

python -m tests.simulation --seeds 100 --first 0
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.big import run_big
from tests.simulation.many import EXPECTED_FAULTS, Outcome, Summary, cores, run_many
from tests.simulation.runner import commit


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes; as many as there are cores")
    parser.add_argument("--selling-seconds", type=int, help="virtual seconds of sales under faults; else by the seed")
    parser.add_argument("--site", type=int, metavar="N", help="one large site of N terminals instead of seeds")
    parser.add_argument("--minutes", type=float, default=1.0, help="virtual minutes of its sales")
    parser.add_argument("--keep-going", action="store_true", help="run the other seeds after a failure")
    arguments = parser.parse_args(argv)
    if arguments.site is not None:
        return _big(arguments.site, arguments.minutes, arguments.first)
    selling_ms = None if arguments.selling_seconds is None else arguments.selling_seconds * 1000
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    print(f"commit {commit()}, seeds {seeds.start} to {seeds.stop - 1}, {arguments.jobs} processes")
    began, summary = time.monotonic(), Summary()
    for outcome in run_many(seeds, selling_ms=selling_ms, jobs=arguments.jobs):
        summary.add(outcome)
        _progress(outcome, summary, time.monotonic() - began)
        if summary.failures and not arguments.keep_going:
            break
    print()
    _tell(summary, time.monotonic() - began)
    return 1 if summary.failures else 0


def _big(terminals: int, minutes: float, seed: int) -> int:
    run = run_big(terminals, minutes=minutes, seed=seed)
    print(
        f"{run.terminals} terminals, {run.virtual_s:.0f} s of sales in {run.real_s:.1f} s:"
        f" {run.times_real_time:.1f} times real time ({run.cpu_s:.1f} s of one core)"
    )
    print(
        f"{run.taps} taps, {run.events} events, booted in {run.boot_real_s:.1f} s;"
        f" {run.agreement.records} records of money agree"
    )
    return 0


def _progress(outcome: Outcome, summary: Summary, seconds: float) -> None:
    if outcome.run is None:
        print(f"\nFAILED {outcome.why}", flush=True)
        return
    run = outcome.run
    line = (
        f"seed {run.seed}: {run.plan.terminals} terminals, {run.taps} taps, {run.agreement.records} records of money,"
        f" drained in {run.drain_ms / 1000:.0f} s · {summary.passed / seconds:.1f} seeds/s"
    )
    print(f"\r{line:<110}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def _tell(summary: Summary, seconds: float) -> None:
    counts = summary.counts
    print(
        f"{summary.passed} seeds passed, {len(summary.failures)} failed, {seconds:.1f} s:"
        f" {summary.passed / seconds:.2f} seeds/s; {summary.twice} run twice with equal traces"
    )
    print(
        f"virtual time {summary.virtual_s:.0f} s, {summary.virtual_s / seconds:.0f} times real time;"
        f" {summary.terminal_days:.2f} terminal-days"
    )
    print(
        f"{counts['taps']} taps, {counts['records']} records of money, {counts['acknowledged']} records acknowledged,"
        f" {counts['overwritten']} overwritten, {counts['decided']} items decided by two persons,"
        f" {counts['events']} events"
    )
    print("at terminals: " + ", ".join(f"{what} {count}" for what, count in sorted(summary.outcomes.items())))
    kinds = sorted({*summary.faults, *EXPECTED_FAULTS})
    print("faults fired: " + ", ".join(f"{kind} {summary.faults[kind]}" for kind in kinds))


if __name__ == "__main__":
    sys.exit(main())
