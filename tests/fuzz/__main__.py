"""`python -m tests.fuzz`: see README.md; `make fuzz FRAMES=… SEED=…` calls it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.fuzz.run import Found, Summary, Unit, run, run_unit, shares, units

FRAMES_USUAL: Final = 1_000_000


def main() -> int:
    """Exit code 1 if anything escaped."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES_USUAL, help="inputs in all, spread over the targets")
    parser.add_argument("--seed", type=int, default=None, help="first seed; drawn and printed if none is given")
    parser.add_argument("--target", choices=sorted(shares()), default="", help="one target alone")
    parser.add_argument("--rounds", type=int, default=0, help="replay: exactly this unit, in this process")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else int(time.time())
    console = Console(stderr=asked.json)
    if asked.rounds:
        if not asked.target:
            parser.error("--rounds needs --target")
        found = run_unit(Unit(asked.target, seed, asked.rounds))
        console.print(found.failure or f"{found.frames} inputs: {found.accepted} taken, {found.refused} refused")
        return 1 if found.failure else 0
    console.print(f"fuzz: seed {seed}, {asked.frames:,} inputs, {asked.jobs} processes")
    work = list(units(asked.frames, seed, asked.target))
    with Progress(
        TextColumn("{task.fields[rate]}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=len(work), rate="")

        def told(summary: Summary, done: int) -> None:
            rate = f"{summary.total:,} inputs, {summary.total / max(summary.seconds, 0.001):,.0f}/s"
            bar.update(task, completed=done, rate=rate)

        summary = run(work, jobs=asked.jobs, progress=told)
    if asked.json:
        print(json.dumps(facts(summary, seed)))
    else:
        console.print(table(summary))
    for each in summary.failures:
        console.print(f"[red]{each.unit.target}[/], replay with: {replay(each)}", each.failure, sep="\n", markup=True)
    return 1 if summary.failures else 0


def facts(summary: Summary, seed: int) -> dict[str, object]:
    """The figures for machines."""
    targets = {
        name: {"inputs": summary.frames[name], "taken": summary.accepted[name], "refused": summary.refused[name]}
        for name in sorted(summary.frames)
    }
    return {
        "seed": seed,
        "inputs": summary.total,
        "seconds": round(summary.seconds, 1),
        "failures": len(summary.failures),
        "targets": targets,
    }


def table(summary: Summary) -> Table:
    """A line per target."""
    made = Table(title=f"{summary.total:,} inputs in {summary.seconds:.0f} s")
    for column in ("target", "inputs", "taken", "refused"):
        made.add_column(column, justify="left" if column == "target" else "right")
    for name in sorted(summary.frames):
        made.add_row(name, *(f"{each[name]:,}" for each in (summary.frames, summary.accepted, summary.refused)))
    return made


def replay(found: Found) -> str:
    """The command that shows the same failure again, at the same commit."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    unit = found.unit
    command = f'python -m tests.fuzz --target "{unit.target}" --seed {unit.seed} --rounds {unit.rounds}'
    return f"{command}   (commit {done.stdout.strip() or 'unknown'})"


if __name__ == "__main__":
    sys.exit(main())
