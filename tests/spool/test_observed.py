"""No jump of a machine's clock prunes what was settled less than `settled_days` ago (R15, R17)."""

from pathlib import Path

from ledger_sync.spool import Spool
from ledger_sync.spool.observed import ObservedTime
from tests.spool.kit import DAY_MS, NOW_MS, ListLog, StillClock, Terminal, open_spool, receipt_for

HOUR_MS = 3_600_000
IN_2099_MS = 4_085_000_000_000


def settled(path: Path, clock: StillClock, log: ListLog) -> Spool:
    """A spool of four rows, all settled now."""
    spool = open_spool(path / "spool.db", clock=clock, log=log)
    terminal = Terminal()
    spool.append([terminal.frame(4 * at + 1, 4 * at + 4) for at in range(4)])
    settle_all(spool)
    return spool


def settle_all(spool: Spool) -> None:
    batch = spool.claim()
    assert batch is not None
    assert spool.settle(receipt_for(batch))


def run(spool: Spool, clock: StillClock, hours: int) -> int:
    """Prune every hour; how many rows went."""
    gone = 0
    for _ in range(hours):
        clock.advance(HOUR_MS)
        gone += spool.prune(clock.utc_ms)
    return gone


def test_a_clock_set_to_2099_deletes_nothing_that_was_settled_this_week(tmp_path: Path) -> None:
    clock, log = StillClock(), ListLog()
    spool = settled(tmp_path, clock, log)
    clock.utc_ms = IN_2099_MS
    assert sum(spool.prune(clock.utc_ms) for _ in range(100)) == 0
    assert run(spool, clock, 6 * 24) == 0
    assert log.alarms() == ["spool.clock_doubted"]
    clock.utc_ms = NOW_MS + 6 * DAY_MS  # somebody has set it right
    assert run(spool, clock, 24) == 0
    assert run(spool, clock, 2) == 4
    spool.close()


def test_a_jump_of_the_clock_is_not_forgotten_by_starting_again_and_again(tmp_path: Path) -> None:
    clock, log = StillClock(), ListLog()
    settled(tmp_path, clock, log).close()
    clock.utc_ms = IN_2099_MS
    for _ in range(300):
        spool = open_spool(tmp_path / "spool.db", clock=clock, log=log)
        clock.mono_ms += 10_000
        assert spool.prune(clock.utc_ms) == 0
        spool.close()


def test_after_an_outage_of_a_month_pruning_waits_and_then_believes_the_clock(tmp_path: Path) -> None:
    clock, log = StillClock(), ListLog()
    settled(tmp_path, clock, log).close()
    clock.utc_ms += 30 * DAY_MS
    spool = open_spool(tmp_path / "spool.db", clock=clock, log=log)
    assert run(spool, clock, 6 * 24) == 0
    assert run(spool, clock, 25) == 4
    spool.append([Terminal(terminal=1002).frame(1, 4)])
    settle_all(spool)
    assert run(spool, clock, 7 * 24) == 0
    assert run(spool, clock, 1) == 1
    spool.close()


def test_rows_settled_under_a_clock_of_1970_do_not_look_old_when_it_is_set_right(tmp_path: Path) -> None:
    clock, log = StillClock(), ListLog()
    settled(tmp_path, clock, log).close()
    clock.utc_ms = 60_000
    spool = open_spool(tmp_path / "spool.db", clock=clock, log=log)
    spool.prune(clock.utc_ms)
    spool.append([Terminal(terminal=1002).frame(1, 4)])
    settle_all(spool)
    clock.utc_ms = NOW_MS + HOUR_MS
    assert run(spool, clock, 6 * 24) == 0
    assert run(spool, clock, 26) == 5
    spool.close()


def test_observed_time_follows_a_clock_that_is_a_little_fast_and_never_goes_back_for_a_little() -> None:
    patience_ms = 7 * DAY_MS
    time = ObservedTime(NOW_MS)
    time = time.advanced(NOW_MS + HOUR_MS + 9_000, ran_ms=HOUR_MS, patience_ms=patience_ms)
    assert time == ObservedTime(NOW_MS + HOUR_MS + 9_000)
    back = time.advanced(NOW_MS, ran_ms=HOUR_MS, patience_ms=patience_ms)
    assert back == ObservedTime(time.utc_ms, HOUR_MS)
    assert back.advanced(time.utc_ms + 5, ran_ms=10, patience_ms=patience_ms) == ObservedTime(time.utc_ms + 5)
    stuck = ObservedTime(NOW_MS, patience_ms - 10).advanced(0, ran_ms=10, patience_ms=patience_ms)
    assert stuck == ObservedTime(0)  # it was the spool that was born in the future
