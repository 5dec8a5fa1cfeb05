"""`python -m bench`: run the rows, show the table, write the JSON. Exit 0 unless the bench itself has failed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.children import BenchFailed, cores, filesystem_of, scratch_directory
from bench.goals import GENERATOR_BOUND, GENERATOR_CPU_MAX, Goal, as_json, as_markdown, show
from bench.picture import picture
from bench.plan import Plan, Progress
from bench.rows import ROWS
from onecard_runtime import limit_process

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
QUICK: Final = (20, 60, 0.3, 1)
"""Terminals of both kinds, seconds, rounds."""
DESCRIPTORS_BESIDE: Final = 100
"""What a process has open beside its terminals."""
WIDTH_WITHOUT_TERMINAL: Final = 140
LOAD_QUIET: Final = 0.3
"""One-minute load average before the run above which a reader should know that the machine had other work."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.quick:
        arguments.terminals, arguments.many, arguments.seconds, arguments.rounds = QUICK
    if min(arguments.terminals, arguments.many, arguments.rounds) < 1 or arguments.seconds <= 0:
        print("bench: terminals, rounds and seconds must be above 0", file=sys.stderr)
        return EXIT_USAGE
    try:
        return _run(arguments)
    except BenchFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("bench: interrupted; everything it had started is ended", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    limit_process()
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - arguments.terminals - DESCRIPTORS_BESIDE
    many = max(min(arguments.many, room), 1)
    plan = Plan(arguments.terminals, many, arguments.seconds, arguments.rounds, arguments.work_dir)
    machine = _machine(plan)
    started = time.monotonic()
    goals: list[Goal] = []
    notes = list(_machine_notes(machine))
    if many < arguments.many:
        notes.append(f"only {many:,} instead of {arguments.many:,} terminals: no more descriptors here (ulimit -Hn)")
    details: dict[str, Any] = {"machine": machine}
    for name in arguments.only or list(ROWS):
        measured = ROWS[name](plan, _teller(name, started))
        goals += measured.goals
        notes += measured.notes
        details |= measured.details
    goals.sort(key=lambda goal: goal.goal)
    if arguments.quick:
        goals = [goal.withdrawn("a slice") for goal in goals]
    if any(goal.why_not == GENERATOR_BOUND for goal in goals if goal.result is None):
        notes.append(f"{GENERATOR_BOUND}: above {GENERATOR_CPU_MAX:.0%} of its core, so nothing is claimed")
    details["seconds"] = round(time.monotonic() - started, 1)
    notes.append(f"all in {details['seconds']:.0f} s")
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    if arguments.markdown:
        print(as_markdown(goals))
    else:
        show(goals, notes, console)
    if arguments.json:
        text = json.dumps(as_json(goals, details), indent=2, ensure_ascii=False)
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")
    if arguments.picture:
        title = f"goals, {plan.terminals:,} and {plan.many:,} terminals, Python {machine['python']}"
        Path(arguments.picture).write_text(picture(goals, title), encoding="utf-8")
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the goals beside their anchors. Believe the ratios, not the absolutes.",
    )
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row alone; may be given again")
    parser.add_argument("--terminals", type=int, default=1000, help="of most goals (default 1000)")
    parser.add_argument("--many", type=int, default=10_000, help="of goals 4, 5 and 10 (default 10000)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, interleaved; medians count (default 3)")
    parser.add_argument("--quick", action="store_true", help="a slice of every row, to see that all works; no figures")
    parser.add_argument("--json", metavar="FILE", help="write goals and details there")
    parser.add_argument("--picture", metavar="FILE", help="write the goals there as SVG")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/performance.md has it")
    parser.add_argument("--work-dir", metavar="DIR", help="on the disk to be measured; emptied again")
    return parser


def _machine(plan: Plan) -> dict[str, Any]:
    server_core, generator_core = cores()
    with scratch_directory(plan.work_dir) as directory:
        disk = filesystem_of(str(directory))
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "server_core": server_core,
        "generator_core": generator_core,
        "load_before": round(os.getloadavg()[0], 2),
        "file_system": disk,
    }


def _machine_notes(machine: dict[str, Any]) -> list[str]:
    pinning = (
        f"servers pinned to core {machine['server_core']}, generator to core {machine['generator_core']} "
        f"of {machine['cores']}; spool on {machine['file_system']}, synchronous FULL; Python {machine['python']}"
    )
    notes = [pinning]
    if machine["server_core"] == machine["generator_core"]:
        notes.append("only one core: server and generator share it, and no figure here means anything")
    if machine["load_before"] > LOAD_QUIET:
        notes.append(f"the machine was not quiet before (load {machine['load_before']}): measure again")
    return notes


def _teller(row: str, started: float) -> Progress:
    """Progress of a row, to whoever waits for it."""

    def tell(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {row}: {text}", file=sys.stderr, flush=True)

    return tell
