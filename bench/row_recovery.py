"""Goals 2 and 3: recovery after an outage, beside Mosquitto in three settings and bare commits of the same rows."""

from __future__ import annotations

from typing import Final

from bench.broker import DURABLE, HOW_TO_INSTALL, find_broker
from bench.contest import Contest, generator_cpu, notes_of
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress
from bench.sides import RECORD_BYTES
from ledger_sync.spool.writer import GROUP_INTAKES_MAX
from protocol.rows import HEADER

RECORDS_PER_FRAME: Final = 16
OUTSTANDING: Final = 4
OUTSTANDING_SINGLE: Final = 16
"""Of messages with one record: as many records would be 64, which is no faster and takes the broker more memory."""
TRADE_TIME_BYTES: Final = 8  # a record, in a packed row
ROW_BYTES: Final = HEADER.size + RECORDS_PER_FRAME * (TRADE_TIME_BYTES + RECORD_BYTES)
SECONDS_MAX: Final = 2.0  # of a round: half a gigabyte of records in all
COMMITS_MAX: Final = 1_000_000  # more than any disk does; the clock ends the round

SINGLE: Final = Target(2, "recovery (a): records/s against Mosquitto QoS 1, one record a message", 10, 15)
PACKED: Final = Target(2, "recovery (b): against Mosquitto QoS 1, the same 16 records a message", 0.8, 1.2)
DURABLY: Final = Target(2, "recovery (c): against Mosquitto made durable, one record a message", 10, 50)
BARE: Final = Target(3, "recovery: records/s against bare packed commits without a network", 0.5, 0.8)


def recovery(plan: Plan, progress: Progress) -> Measured:
    """16 records a frame, 4 frames outstanding, all durable before they are acknowledged."""
    program = find_broker()
    with Contest(plan, progress) as contest:
        contest.intake("recovery", plan.terminals, records_per_frame=RECORDS_PER_FRAME, outstanding=OUTSTANDING)
        # Every commit as large as the spool's writer makes it at most: whoever measures less is compared with more.
        contest.commits(
            "bare commits",
            rows=GROUP_INTAKES_MAX,
            row_bytes=ROW_BYTES,
            records=RECORDS_PER_FRAME,
            commits_max=COMMITS_MAX,
        )
        if program is not None:
            brokers: list[tuple[str, int, int, tuple[str, ...]]] = [
                ("mqtt single", 1, OUTSTANDING_SINGLE, ()),
                ("mqtt packed", RECORDS_PER_FRAME, OUTSTANDING, ()),
                ("mqtt single, durable", 1, OUTSTANDING_SINGLE, DURABLE),
                ("mqtt packed, durable", RECORDS_PER_FRAME, OUTSTANDING, DURABLE),
            ]
            for name, records, outstanding, settings in brokers:
                contest.mqtt(name, program, plan.terminals, records=records, outstanding=outstanding, settings=settings)
        found = contest.run(min(plan.seconds, SECONDS_MAX))
        held = contest.held()["recovery"]
    goals, notes = [], [f"goals 2, 3: {plan.terminals:,} terminals; {held['records']:,} records stored"]
    frames = held["records"] / RECORDS_PER_FRAME / max(held["groups"], 1)
    notes += [*notes_of(found), f"  a commit held {frames:.0f} frames; one of the bare ones {GROUP_INTAKES_MAX}"]
    if program is None:
        goals += [Goal.unmeasured(target, "no Mosquitto") for target in (SINGLE, PACKED, DURABLY)]
        notes.append(f"goal 2: Mosquitto is not installed here, so nothing is claimed; {HOW_TO_INSTALL}")
    else:
        pairs = ((SINGLE, "mqtt single"), (PACKED, "mqtt packed"), (DURABLY, "mqtt single, durable"))
        for target, name in pairs:
            cpu = generator_cpu(found, "recovery", name)
            goals.append(Goal.measured(target, contest.ratio("recovery", name), cpu))
        against = contest.ratio("recovery", "mqtt packed, durable")
        notes.append(f"  against Mosquitto made durable with 16 records a message: {against:.1f}")
    goals.append(Goal.measured(BARE, contest.ratio("recovery", "bare commits"), generator_cpu(found, "recovery")))
    return Measured(goals, {"recovery": {**found, **held, "terminals": plan.terminals}}, notes)


SLOW: Final = Target(9, "recovery with 5 ms more in each fsync against none", 0.6, 0.8)
DELAY_MS: Final = 5.0


def slow_disk(plan: Plan, progress: Progress) -> Measured:
    """Goal 9: two front-ends, one of them on a disk that is slow to sync."""
    settings = {"records_per_frame": RECORDS_PER_FRAME, "outstanding": OUTSTANDING}
    with Contest(plan, progress) as contest:
        contest.intake("usual disk", plan.terminals, **settings)
        contest.intake("slow disk", plan.terminals, fsync_delay_ms=DELAY_MS, **settings)
        found = contest.run(min(plan.seconds, SECONDS_MAX))
        contest.held()
    ratio = contest.ratio("slow disk", "usual disk")
    goal = Goal.measured(SLOW, ratio, generator_cpu(found, "usual disk", "slow disk"))
    return Measured([goal], {"slow": found}, [f"goal 9: {plan.terminals:,} terminals each", *notes_of(found)])
