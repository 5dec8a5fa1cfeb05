"""Whether a second core pays: live sales of one front-end, and of two that share the same number of terminals.

No goal has this number; it is printed. The second front-end runs on the generator's core, since there are but two, so
the ratio is what is left when the generator has taken its share of that core.
"""

from __future__ import annotations

from typing import Final

from bench.children import cores
from bench.contest import Contest, notes_of
from bench.plan import Measured, Plan, Progress

SHARDS: Final = 2


def workers(plan: Plan, progress: Progress) -> Measured:
    each = max(1, plan.terminals // SHARDS)
    with Contest(plan, progress) as contest:
        contest.intake("one front-end", SHARDS * each)
        shards = [f"shard {number}" for number in range(1, SHARDS + 1)]
        for shard, core in zip(shards, cores(), strict=True):
            contest.intake(shard, each, core=core)
        contest.together("two front-ends", shards)
        found = contest.run(plan.seconds)
        contest.held()
    ratio = contest.ratio("two front-ends", "one front-end")
    cpu = found["two front-ends"]["generator_cpu"]
    note = (
        f"two front-ends on two cores: {ratio:.2f} of the live sales of one, {SHARDS * each:,} terminals in all; the"
        f" second shares its core with the generator, which takes {cpu:.0%} of it"
    )
    return Measured([], {"workers": {**found, "ratio": ratio}}, [note, *notes_of(found)])
