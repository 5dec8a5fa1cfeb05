"""The rows of the table: what is started beside what, and which ratio comes of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.children import BenchFailed, Child, cores, scratch_directory
from bench.goals import Goal, Target
from bench.site import BenchSite

Progress = Callable[[str], None]

LIVE_RATE: Final = Target(1, "live sales: records/s against frames/s of a bare echo", 0.45, 0.60)
LIVE_P99: Final = Target(1, "live sales: p99 against the echo's", 2.5, 2.0)
ONE_P50: Final = Target(6, "one terminal: p50 to the ACK against echo p50 + one bare commit", 1.5, 1.0)
ONE_SECONDS_MAX: Final = 2.0
SATURATED_CPU: Final = 0.90
"""A server that uses less of its core was not the limit: something else was."""
COMMITS: Final = 1000
COMMITS_OF_A_SHORT_RUN: Final = 50
SHORT_RUN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    terminals: int
    seconds: float
    rounds: int
    work_dir: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    goals: list[Goal]
    details: dict[str, Any]
    notes: list[str]


def live(plan: Plan, progress: Progress) -> Measured:
    """Goal 1: every terminal has one record outstanding, all the time."""
    found = side_by_side(plan, plan.terminals, plan.seconds, progress)
    echo, intake = found["echo"], found["intake"]
    cpu = max(echo["generator_cpu"], intake["generator_cpu"])
    goals = [
        Goal.measured(LIVE_RATE, intake["per_second"] / echo["per_second"], cpu),
        Goal.measured(LIVE_P99, intake["p99_ms"] / echo["p99_ms"], cpu),
    ]
    notes = [
        f"goal 1: {plan.terminals:,} terminals; {found['commits']:,} commits held {found['records']:,} records",
        *(f"  {name:6} {_figures(each)}" for name, each in (("echo", echo), ("intake", intake))),
        f"  by CPU time alone: {echo['server_us'] / intake['server_us']:.2f} (less disturbed than the rates)",
    ]
    if min(echo["server_cpu"], intake["server_cpu"]) < SATURATED_CPU:
        notes.append("  a server had less than its whole core: other work was in the way, or too few terminals")
    return Measured(goals, {"live": found}, notes)


def one(plan: Plan, progress: Progress) -> Measured:
    """Goal 6: one terminal alone."""
    commits_ms: list[float] = []
    with scratch_directory(plan.work_dir) as directory:
        commits = COMMITS if plan.seconds > SHORT_RUN_SECONDS else COMMITS_OF_A_SHORT_RUN
        with Child("bench.commits", cores()[0], directory=str(directory), commits=commits) as child:
            commits_ms = child.hear()["took_ms"]
    found = side_by_side(plan, 1, min(plan.seconds, ONE_SECONDS_MAX), progress)
    commit_ms = statistics.median(commits_ms)
    echo, intake = found["echo"], found["intake"]
    ratio = intake["p50_ms"] / (echo["p50_ms"] + commit_ms)
    cpu = max(echo["generator_cpu"], intake["generator_cpu"])
    note = (
        f"goal 6: tap to ACK p50 {intake['p50_ms']:.3f} ms, echo p50 {echo['p50_ms']:.3f} ms, "
        f"one bare commit p50 {commit_ms:.3f} ms"
    )
    return Measured([Goal.measured(ONE_P50, ratio, cpu)], {"one": {**found, "commit_p50_ms": commit_ms}}, [note])


ROWS: Final[dict[str, Callable[[Plan, Progress], Measured]]] = {"live": live, "one": one}


def side_by_side(plan: Plan, terminals: int, seconds: float, progress: Progress) -> dict[str, Any]:
    """Interleaved rounds of echo and intake; both servers are pinned to one core, the generator to the other.

    Raises:
        BenchFailed: something did not start, or what was acknowledged is not what the spool holds.
    """
    server_core, generator_core = cores()
    site = BenchSite(terminals)
    with ExitStack() as stack:
        directory: Path = stack.enter_context(scratch_directory(plan.work_dir))
        echo = stack.enter_context(Child("bench.echo_server", server_core))
        echo_at = echo.hear()
        intake = stack.enter_context(
            Child("bench.intake_server", server_core, site=site.as_json(), directory=str(directory))
        )
        intake_at = intake.hear()
        generator = stack.enter_context(
            Child(
                "bench.generator",
                generator_core,
                site=site.as_json(),
                seconds=seconds,
                rounds=plan.rounds,
                echo_address=echo_at["address"],
                echo_pid=echo.pid,
                intake_address=intake_at["address"],
                intake_pid=intake.pid,
            )
        )
        found = generator.hear()
        while "progress" in found:
            progress(found["progress"])
            found = generator.hear()
        intake.end()
        held = intake.hear()
    for facts in (found, held):
        if "error" in facts:
            raise BenchFailed(facts["error"])
    if held["records"] != found["acknowledged"]:
        raise BenchFailed(f"{found['acknowledged']} records acknowledged, the spool holds {held['records']}")
    return {**found, **held, "terminals": terminals, "loop": intake_at["loop"], "echo_loop": echo_at["loop"]}


def _figures(each: dict[str, Any]) -> str:
    rounds = " ".join(f"{rate:,}" for rate in each["rounds_per_second"])
    return (
        f"{each['per_second']:9,.0f}/s  p50 {each['p50_ms']:6.2f} ms  p99 {each['p99_ms']:6.2f} ms  "
        f"server {each['server_us']:5.1f} µs a frame, {100 * each['server_cpu']:3.0f} % of its core  "
        f"generator {each['generator_us']:4.1f} µs, {100 * each['generator_cpu']:3.0f} %  rounds {rounds}"
        + ("  (ran out of frames)" if each["ran_out"] else "")
    )
