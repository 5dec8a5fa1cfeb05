"""Goals 1 and 6: one record outstanding, a thousand terminals and one alone, beside an echo of the same frames."""

from __future__ import annotations

import statistics
from typing import Final

from bench.children import Child, cores, scratch_directory
from bench.contest import Contest, Found, generator_cpu, notes_of
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress

LIVE_RATE: Final = Target(1, "live sales: records/s against frames/s of a bare echo", 0.45, 0.60)
LIVE_P99: Final = Target(1, "live sales: p99 against the echo's", 2.5, 2.0)
ONE_P50: Final = Target(6, "one terminal: p50 to the ACK against echo p50 + one bare commit", 1.5, 1.0)
ONE_SECONDS_MAX: Final = 2.0
ROW_BYTES: Final = 136  # a packed row with one purchase
COMMITS: Final = 1000
COMMITS_OF_A_SHORT_RUN: Final = 50
SHORT_RUN_SECONDS: Final = 1.0
COMMIT_SECONDS_MAX: Final = 20.0
WARM_UP_SHARE: Final = 0.1


def live(plan: Plan, progress: Progress) -> Measured:
    """Goal 1: every terminal has one record outstanding, all the time."""
    found, held, rounds = _beside_an_echo(plan, plan.terminals, plan.seconds, progress)
    echo, intake = found["echo"], found["intake"]
    cpu = generator_cpu(found, "echo", "intake")
    # The generator slows down before it is the limit. What the echo would do if it never had to wait for frames: as
    # many more, and with as many outstanding each in so much less time. The intake gets no allowance.
    shares = [min(one["server_busy"], 1.0) for one, _ in rounds]
    rate = statistics.median(
        other["per_second"] * share / one["per_second"] for (one, other), share in zip(rounds, shares, strict=True)
    )
    p99 = statistics.median(
        other["p99_ms"] / (one["p99_ms"] * share) for (one, other), share in zip(rounds, shares, strict=True)
    )
    goals = [Goal.measured(LIVE_RATE, rate, cpu), Goal.measured(LIVE_P99, p99, cpu)]
    notes = [
        f"goal 1: {plan.terminals:,} terminals; {held['commits']:,} commits held {held['records']:,} records",
        *notes_of(found),
        f"  the echo had something to do for {statistics.median(shares):.0%} of the time, and is reckoned at the whole",
        f"  by CPU time alone: {echo['server_us'] / intake['server_us']:.2f} (less disturbed than the rates)",
    ]
    return Measured(goals, {"live": {**found, **held, "terminals": plan.terminals}}, notes)


def one(plan: Plan, progress: Progress) -> Measured:
    """Goal 6: one terminal alone."""
    commit_ms = bare_commit_ms(plan)
    found, held, rounds = _beside_an_echo(plan, 1, min(plan.seconds, ONE_SECONDS_MAX), progress)
    echo, intake = found["echo"], found["intake"]
    ratio = statistics.median(other["p50_ms"] / (one["p50_ms"] + commit_ms) for one, other in rounds)
    note = (
        f"goal 6: tap to ACK p50 {intake['p50_ms']:.3f} ms, echo p50 {echo['p50_ms']:.3f} ms, "
        f"one bare commit p50 {commit_ms:.3f} ms"
    )
    goal = Goal.measured(ONE_P50, ratio, generator_cpu(found, "echo", "intake"))
    return Measured([goal], {"one": {**found, **held, "commit_p50_ms": commit_ms}}, [note])


def bare_commit_ms(plan: Plan) -> float:
    """The median of a commit that holds one row of one record."""
    commits = COMMITS if plan.seconds > SHORT_RUN_SECONDS else COMMITS_OF_A_SHORT_RUN
    request = {"rows": 1, "row_bytes": ROW_BYTES, "seconds": COMMIT_SECONDS_MAX, "commits_max": commits}
    with (
        scratch_directory(plan.work_dir) as directory,
        Child("bench.commits", cores()[0], directory=str(directory)) as child,
    ):
        took_ms: list[float] = child.ask(**request)["commit_ms"]
    return statistics.median(took_ms[int(len(took_ms) * WARM_UP_SHARE) :])


def _beside_an_echo(
    plan: Plan, terminals: int, seconds: float, progress: Progress
) -> tuple[dict[str, Found], Found, list[tuple[Found, Found]]]:
    """Medians of both sides, what the spool holds, and (echo, intake) of every round."""
    with Contest(plan, progress) as contest:
        contest.intake("intake", terminals)
        contest.echo("echo", of="intake")
        found = contest.run(seconds)
        return found, contest.held()["intake"], list(zip(contest.runs["echo"], contest.runs["intake"], strict=True))
