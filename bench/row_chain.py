"""Goal 7, second half: the chain drained, from a front-end's spool to the ledger's receipts, beside the intake."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from bench.children import BenchFailed, Child, cores, scratch_directory, socket_directory
from bench.contest import Contest, Found, generator_cpu, notes_of
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress
from ledger_sync.ledger.accounts import SUBJECT_BITS, AccountKind
from ledger_sync.ledger.core import LedgerPaths
from ledger_sync.ledger.schema import open_reader
from ledger_sync.spool.reader import SpoolReader

RECOVERED: Final = "drained, 16 a frame"
SINGLE: Final = "drained, 1 a frame"
RECOVERED_RATE: Final = Target(7, "the chain drained, frames of 16: records/s against live intake", 0.6, 1.0)
SINGLE_RATE: Final = Target(7, "the chain drained, one record a frame: records/s against live intake", 0.6, 1.0)
PER_FRAME: Final = 16
RECORDS_PER_TERMINAL: Final = 64
SINGLE_RECORDS_PER_TERMINAL: Final = 24  # of one record a frame; a drain of about as long
CARDS_PER_TERMINAL: Final = 20
SEED: Final = 20_260_921
SALES_BEGAN_MS_AGO: Final = 6 * 3_600_000
"""Sales are made 3 ms apart, so that all of a long run lie in the past of the ledger's clock."""

Sums = list[tuple[Any, ...]]


def chain(plan: Plan, progress: Progress) -> Measured:
    """The front-end drains on the servers' core, the ledger posts on the generator's, which is idle meanwhile.

    Raises:
        BenchFailed: the ledger has not posted exactly what the spool holds.
    """
    with scratch_directory(plan.work_dir) as directory:
        contest, found = _drained(plan, progress, directory)
        records, cents = _agreed(directory)
    goals = [
        Goal.measured(target, contest.ratio(name, "intake"), generator_cpu(found, "intake"))
        for target, name in ((RECOVERED_RATE, RECOVERED), (SINGLE_RATE, SINGLE))
    ]
    notes = [
        f"goal 7, the chain: {plan.terminals:,} terminals; {records:,} records posted, sums as in the spool",
        *notes_of(found),
        *(_costs(name, found[name]) for name in (RECOVERED, SINGLE)),
    ]
    return Measured(goals, {"chain": {**found, "records": records, "cents": cents}}, notes)


def _drained(plan: Plan, progress: Progress, directory: Path) -> tuple[Contest, dict[str, Found]]:
    town = {
        "terminals": plan.terminals,
        "cards": CARDS_PER_TERMINAL * plan.terminals,
        "seed": SEED,
        "now_ms": time.time_ns() // 1_000_000 - SALES_BEGAN_MS_AGO,
    }
    here = {"directory": str(directory), "town": town}
    with socket_directory() as sockets, Child("bench.chain_ledger", cores()[1], sockets=sockets, **here) as ledger:
        link = ledger.hear()["address"]
        with (
            Child("bench.chain_frontend", cores()[0], link=link, ledger_pid=ledger.pid, **here) as frontend,
            Contest(plan, progress) as contest,
        ):
            frontend.hear()
            contest.intake("intake", plan.terminals)
            for name, per_frame, each in (
                (RECOVERED, PER_FRAME, RECORDS_PER_TERMINAL),
                (SINGLE, 1, SINGLE_RECORDS_PER_TERMINAL),
            ):
                contest.alone(name, frontend, 1, records=each * plan.terminals, per_frame=per_frame)
            found = contest.run(plan.seconds)
            contest.held()
    return contest, found


def _agreed(directory: Path) -> tuple[int, int]:
    """(records, cents) in spool and ledger, which must be the same terminal by terminal and day by day (R15, R19)."""
    with SpoolReader.open(str(directory / "spool.db")) as spool:
        names = ("terminal", "epoch", "trade_day", "type", "count", "cents")
        held: Sums = sorted(tuple(total[name] for name in names) for total in spool.totals())
    ledger = open_reader(LedgerPaths.in_directory(str(directory)).database)
    try:
        posted: Sums = ledger.execute(
            "SELECT terminal, epoch, trade_day, type, count(*), sum(amount_cents) FROM postings"
            " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        ).fetchall()
        earned = ledger.execute(
            f"SELECT sum(balance_cents) FROM accounts WHERE account >> {SUBJECT_BITS} = {int(AccountKind.MERCHANT)}"
        ).get
    finally:
        ledger.close()
    records, cents = _sum(held, 4), _sum(held, 5)
    if held != posted or earned != cents:
        raise BenchFailed(
            f"the spool holds {records} records of {cents} cents, the ledger {_sum(posted, 4)} of {_sum(posted, 5)},"
            f" merchants have {earned}"
        )
    return records, cents


def _sum(sums: Sums, column: int) -> int:
    return sum(int(each[column]) for each in sums)


def _costs(name: str, found: dict[str, Any]) -> str:
    return (
        f"  {name:22} front-end {found['frontend_us']:.1f} µs, ledger {found['ledger_us']:.1f} µs of CPU a record, "
        f"{found['ledger_cpu']:.0%} of the ledger's core; {found['batches']:,.0f} batches"
    )
