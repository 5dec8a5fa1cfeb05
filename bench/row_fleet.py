"""Goals 5 and 8: live sales of ten thousand terminals against a thousand, and on stock asyncio against uvloop."""

from __future__ import annotations

from typing import Final

from bench.contest import Contest, generator_cpu, notes_of
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress

MANY: Final = Target(5, "live sales: records/s at ten times the terminals against goal 1's number", 0.80, 0.90)
LOOPS: Final = Target(8, "live sales: records/s on plain asyncio against uvloop", 0.75, 0.85)


def many(plan: Plan, progress: Progress) -> Measured:
    """Goal 5: two front-ends of different size."""
    with Contest(plan, progress) as contest:
        contest.intake("few", plan.terminals)
        contest.intake("many", plan.many)
        found = contest.run(plan.seconds)
        contest.held()
    ratio = contest.ratio("many", "few")
    goal = Goal.measured(MANY, ratio, generator_cpu(found, "few", "many"))
    note = f"goal 5: {plan.many:,} terminals against {plan.terminals:,}"
    return Measured([goal], {"many": found}, [note, *notes_of(found)])


def loops(plan: Plan, progress: Progress) -> Measured:
    """Goal 8: two front-ends on different loops."""
    with Contest(plan, progress) as contest:
        usual = contest.intake("uvloop", plan.terminals)
        contest.intake("asyncio", plan.terminals, plain_asyncio=True)
        found = contest.run(plan.seconds)
        contest.held()
    if not usual["loop"].startswith("uvloop"):
        goal = Goal.unmeasured(LOOPS, "no uvloop")
        return Measured([goal], {}, ["goal 8: uvloop is not installed here; it is in the extra `fast`"])
    ratio = contest.ratio("asyncio", "uvloop")
    goal = Goal.measured(LOOPS, ratio, generator_cpu(found, "asyncio", "uvloop"))
    return Measured([goal], {"loops": found}, [f"goal 8: {plan.terminals:,} terminals each", *notes_of(found)])
