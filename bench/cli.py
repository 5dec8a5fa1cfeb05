"""`python -m bench`: run the rows, show the table, write the JSON. Exit 0 unless the bench itself has failed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.children import BenchFailed, cores, filesystem_of, scratch_directory
from bench.goals import GENERATOR_CPU_MAX, Goal, as_json, show
from bench.plan import Plan
from bench.rows import ROWS

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
LOAD_QUIET: Final = 0.3
"""One-minute load average before the run above which a reader should know that the machine had other work."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.terminals < 1 or arguments.rounds < 1 or arguments.seconds <= 0:
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
    plan = Plan(arguments.terminals, arguments.many, arguments.seconds, arguments.rounds, arguments.work_dir)
    machine = _machine(plan)
    started = time.monotonic()
    goals: list[Goal] = []
    notes = list(_machine_notes(machine))
    details: dict[str, Any] = {"machine": machine}
    for name in arguments.only or list(ROWS):
        measured = ROWS[name](plan, lambda text, name=name: _progress(f"{name}: {text}"))  # type: ignore[misc]
        goals += measured.goals
        notes += measured.notes
        details |= measured.details
    if any(goal.result is None for goal in goals):
        notes.append(f"generator-bound: above {GENERATOR_CPU_MAX:.0%} of its core, so nothing is claimed")
    details["seconds"] = round(time.monotonic() - started, 1)
    show(goals, notes, Console())
    if arguments.json:
        text = json.dumps(as_json(goals, details), indent=2, ensure_ascii=False)
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the goals beside their anchors. Believe the ratios, not the absolutes.",
    )
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row alone; may be given again")
    parser.add_argument("--terminals", type=int, default=1000, help="of the other goals (default 1000)")
    parser.add_argument("--many", type=int, default=10_000, help="terminals of goals 4, 5 and 10 (default 10000)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, interleaved; medians count (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write goals and details there")
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


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
