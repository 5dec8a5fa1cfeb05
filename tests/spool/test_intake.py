"""The spool's intake on real files: ranges, duplicates, forks, tombstones, totals, trade times."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_sync.errors import DiskFull
from ledger_sync.spool import (
    AnchorIntake,
    BaselineIntake,
    Intake,
    OutcomeKind,
    RecordsIntake,
    Spool,
    TombstoneIntake,
)
from protocol import rows
from protocol.codes import RecordType, RowKind
from protocol.ranges import LoginAction
from protocol.trade_time import fixed_offset, trade_day
from tests.spool.kit import (
    CHINA,
    DAY_MS,
    NOW_MS,
    ListLog,
    Terminal,
    append_one,
    open_spool,
    prune_after,
    receipt_for,
    spans,
    stored_sequences,
)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = open_spool(tmp_path / "spool.db")
    yield opened
    opened.close()


def test_a_frame_is_accepted_and_acknowledged_up_to_its_last_record(spool: Spool) -> None:
    outcome = append_one(spool, Terminal().frame(1, 16))
    assert (outcome.kind, outcome.durable, outcome.settled, outcome.ranges) == (OutcomeKind.ACCEPTED, 16, 0, ())


def test_a_row_holds_the_very_bytes_of_the_frame(spool: Spool) -> None:
    frame = Terminal().frame(1, 16)
    append_one(spool, frame)
    batch = spool.claim()
    assert batch is not None
    ((row_id, data),) = batch.rows
    row = rows.decode(data)
    assert (row_id, row.kind, row.first, row.last, row.payload) == (1, RowKind.RECORDS, 1, 16, frame.payload)
    assert (row.received_ms, row.anchor_known) == (NOW_MS, False)


def test_many_terminals_in_one_group_cost_one_commit(spool: Spool) -> None:
    terminals = [Terminal(terminal) for terminal in range(1, 41)]
    before = spool.commits
    outcomes = spool.append([each.frame(1, 4) for each in terminals] + [each.frame(5, 9) for each in terminals])
    assert spool.commits == before + 1
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.ACCEPTED}
    assert all(spans(spool, each) == [(1, 9)] for each in terminals)


def test_the_same_frame_again_is_a_duplicate_and_stored_once(spool: Spool) -> None:
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 16))
    outcome = append_one(spool, terminal.frame(1, 16))
    assert (outcome.kind, outcome.durable) == (OutcomeKind.DUPLICATE, 16)
    assert stored_sequences(spool) == [(1, 16)]


def test_the_same_frame_twice_in_one_group_is_a_duplicate(spool: Spool) -> None:
    terminal = Terminal()
    kinds = [outcome.kind for outcome in spool.append([terminal.frame(1, 8), terminal.frame(3, 6)])]
    assert kinds == [OutcomeKind.ACCEPTED, OutcomeKind.DUPLICATE]


def test_a_frame_that_straddles_is_cut_and_only_the_rest_is_stored(spool: Spool) -> None:
    terminal = Terminal()
    append_one(spool, terminal.frame(5, 8))
    outcome = append_one(spool, terminal.frame(3, 12))
    assert (outcome.kind, outcome.durable, outcome.ranges) == (OutcomeKind.PARTLY, 0, ((3, 12),))
    assert stored_sequences(spool) == [(5, 8), (3, 4), (9, 12)]
    assert sum(total.count for total in spool.totals()) == 10


def test_a_gap_is_listed_and_closes_when_its_records_come(spool: Spool) -> None:
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 4))
    assert append_one(spool, terminal.frame(9, 12)).ranges == ((9, 12),)
    outcome = append_one(spool, terminal.frame(5, 8))
    assert (outcome.durable, outcome.ranges) == (12, ())
    assert spans(spool, terminal) == [(1, 12)]


@pytest.mark.parametrize(("first", "last"), [(7, 12), (8, 9), (11, 14), (3, 11)])
def test_a_fork_is_kept_as_suspect_alarmed_and_not_acknowledged(tmp_path: Path, first: int, last: int) -> None:
    log = ListLog()
    spool = open_spool(tmp_path / "spool.db", log=log)
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 10))
    terminal.sell(4)
    outcome = append_one(spool, terminal.forked(5).frame(first, last))
    assert (outcome.kind, outcome.durable) == (OutcomeKind.SUSPECT, 10)
    assert stored_sequences(spool, RowKind.SUSPECT) == [(first, last)]
    assert spans(spool, terminal) == [(1, 10)]
    assert sum(total.count for total in spool.totals()) == 10
    assert log.alarms() == ["spool.suspect"]
    spool.close()


def test_the_same_suspect_frame_is_stored_once(spool: Spool) -> None:
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 10))
    fork = terminal.forked(5)
    kinds = [append_one(spool, fork.frame(6, 10)).kind for _ in range(3)]
    assert kinds == [OutcomeKind.SUSPECT] * 3
    assert stored_sequences(spool, RowKind.SUSPECT) == [(6, 10)]


def test_records_of_a_closed_epoch_are_kept_as_suspect_on_demand(spool: Spool) -> None:
    frame = Terminal().frame(1, 4)
    frame.keep_as_suspect = True
    assert append_one(spool, frame).kind is OutcomeKind.SUSPECT
    assert spool.totals() == []


def test_a_tombstone_joins_the_ranges_and_its_record_is_stored_when_it_comes(spool: Spool) -> None:
    terminal = Terminal()
    terminal.sell(12)
    append_one(spool, terminal.frame(1, 4))
    outcome = append_one(spool, terminal.tombstone(3, 8))
    assert (outcome.kind, outcome.durable) == (OutcomeKind.PARTLY, 8)
    assert append_one(spool, terminal.tombstone(5, 8)).kind is OutcomeKind.DUPLICATE
    assert append_one(spool, terminal.frame(9, 12)).durable == 12
    assert spool.tombstoned(terminal.terminal, 1) == [(5, 8)]
    assert append_one(spool, terminal.frame(6, 7)).kind is OutcomeKind.ACCEPTED
    assert spool.tombstoned(terminal.terminal, 1) == [(5, 5), (8, 8)]
    assert append_one(spool, terminal.frame(6, 7)).kind is OutcomeKind.DUPLICATE
    assert stored_sequences(spool) == [(1, 4), (9, 12), (6, 7)]
    assert stored_sequences(spool, RowKind.TOMBSTONE) == [(3, 8)]


def test_a_record_that_does_not_fit_its_neighbours_does_not_lift_a_tombstone(spool: Spool) -> None:
    terminal = Terminal()
    terminal.sell(12)
    spool.append([terminal.frame(1, 5), terminal.tombstone(6, 8), terminal.frame(9, 12)])
    assert append_one(spool, terminal.forked(3).frame(6, 8)).kind is OutcomeKind.SUSPECT
    assert append_one(spool, terminal.forked(6).frame(7, 8)).kind is OutcomeKind.SUSPECT
    assert append_one(spool, terminal.frame(6, 8)).kind is OutcomeKind.ACCEPTED


def test_a_malformed_frame_harms_nobody_else_of_its_group(spool: Spool) -> None:
    good, bad = Terminal(1), Terminal(2)
    broken = bad.frame(1, 4)
    broken.payload = broken.payload[:-1]
    stranger = bad.frame(1, 4)
    stranger.terminal = 3
    outcomes = spool.append([broken, good.frame(1, 4), stranger])
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds == [OutcomeKind.MALFORMED, OutcomeKind.ACCEPTED, OutcomeKind.MALFORMED]
    assert outcomes[0].reason
    assert spans(spool, bad) == []


def test_a_baseline_is_spooled_and_answered_per_epoch(spool: Spool) -> None:
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 10))
    terminal.sell(10)
    intake = BaselineIntake(terminal.terminal, 1, terminal.baseline(11, 21).encode(), NOW_MS)
    (login,) = append_one(spool, intake).logins
    assert (login.decision.action, login.decision.durable, login.epoch) == (LoginAction.DURABLE, 10, 1)
    intake = BaselineIntake(terminal.terminal, 1, terminal.baseline(6, 21).encode(), NOW_MS)
    (login,) = append_one(spool, intake).logins
    assert (login.decision.action, login.decision.sequence) == (LoginAction.ASK, 10)
    assert login.decision.answered(0, terminal.seal(10)).durable == 10
    intake = BaselineIntake(terminal.terminal, 1, terminal.forked(5).baseline(11, 21).encode(), NOW_MS)
    (login,) = append_one(spool, intake).logins
    assert login.decision.action is LoginAction.FORK
    assert len(stored_sequences(spool, RowKind.BASELINE)) == 3


def test_messages_that_are_not_what_they_should_be_are_malformed(spool: Spool) -> None:
    terminal = Terminal()
    baseline, tombstone = terminal.baseline(1, 1).encode(), terminal.tombstone(1, 2).message
    wrong: list[Intake] = [
        BaselineIntake(terminal.terminal, 1, tombstone, NOW_MS),
        BaselineIntake(terminal.terminal, 2, baseline, NOW_MS),
        BaselineIntake(terminal.terminal, 1, b"", NOW_MS),
        TombstoneIntake(terminal.terminal, 1, baseline, NOW_MS, 1),
        TombstoneIntake(terminal.terminal + 1, 1, tombstone, NOW_MS, 1),
    ]
    assert [outcome.kind for outcome in spool.append(wrong)] == [OutcomeKind.MALFORMED] * len(wrong)
    assert spool.last_row() == 0


# -- trade times and totals ------------------------------------------------------------------------------------------


def times_of(spool: Spool) -> list[int]:
    batch = spool.claim()
    assert batch is not None
    return [time for _, data in batch.rows for time in rows.decode(data).trade_ms]


def test_trade_times_follow_the_anchor_of_the_boot_whatever_the_clock_says(spool: Spool) -> None:
    terminal = Terminal()
    terminal.clock_ms = 5
    spool.append([AnchorIntake(terminal.terminal, 1, terminal.boot, NOW_MS - 100_000), terminal.frame(1, 3)])
    assert times_of(spool) == [NOW_MS - 99_000, NOW_MS - 98_000, NOW_MS - 97_000]
    batch = spool.claim()
    assert batch is not None
    assert rows.decode(batch.rows[0][1]).anchor_known


def test_a_baseline_measures_the_anchor_of_its_boot(spool: Spool) -> None:
    terminal = Terminal()
    terminal.clock_ms = 0
    message = terminal.baseline(1, 4, uptime_ds=1000).encode()
    spool.append([BaselineIntake(terminal.terminal, 1, message, NOW_MS), terminal.frame(1, 2)])
    assert times_of(spool) == [NOW_MS - 100_000 + 1000, NOW_MS - 100_000 + 2000]


def test_trade_times_are_bounded_by_their_neighbours_in_the_ranges(spool: Spool) -> None:
    terminal = Terminal()
    early, late = NOW_MS - 500_000, NOW_MS - 400_000
    spool.append(
        [
            terminal.frame(1, 2, received_ms=early),
            AnchorIntake(terminal.terminal, 1, 1, late - 5_000),
            terminal.frame(5, 6, received_ms=late),
            AnchorIntake(terminal.terminal, 1, 1, NOW_MS),
            terminal.frame(3, 4),
        ]
    )
    first, third, filled = times_of(spool)[:2], times_of(spool)[2:4], times_of(spool)[4:]
    assert first[-1] <= filled[0] <= filled[1] <= third[0]
    assert filled == [third[0], third[0]]


def test_totals_are_counted_per_trade_day_and_type_in_the_sites_time_zone(tmp_path: Path) -> None:
    for offset in (CHINA, fixed_offset(-600), fixed_offset(0)):
        spool = open_spool(tmp_path / f"{offset(0)}.db", offset=offset)
        terminal = Terminal()
        terminal.clock_ms = NOW_MS - NOW_MS % DAY_MS - 13 * 3_600_000
        spread = 1800  # half an hour a record
        for sequence in range(1, 61):
            terminal.clock_ms += (spread - 1) * 1000
            terminal.sell(1)
            assert sequence in terminal.records
        spool.append([terminal.frame(first, first + 19, received_ms=NOW_MS + 9 * DAY_MS) for first in (1, 21, 41)])
        expected: dict[tuple[int, int], list[int]] = {}
        for sequence, when in enumerate(times_of(spool), 1):
            key = (trade_day(when, offset), terminal.kinds(sequence))
            total = expected.setdefault(key, [0, 0])
            total[0] += 1
            total[1] += terminal.cents(sequence, sequence)
        found = {(total.trade_day, total.type): [total.count, total.cents] for total in spool.totals()}
        assert found == expected
        assert len({day for day, _ in found}) >= 2
        spool.close()


def test_settling_and_pruning_never_change_totals_or_ranges(spool: Spool) -> None:
    terminal = Terminal()
    spool.append([terminal.frame(1, 20), terminal.frame(21, 40)])
    totals, held = spool.totals(), spans(spool, terminal)
    batch = spool.claim()
    assert batch is not None
    assert spool.settle(receipt_for(batch))
    assert prune_after(spool, 6) == 0
    assert prune_after(spool, 8) == 2
    assert (spool.totals(), spans(spool, terminal)) == (totals, held)
    assert sum(total.cents for total in totals if total.type != RecordType.ABORTED) == terminal.cents(1, 40)
    outcome = append_one(spool, terminal.frame(30, 45))
    assert (outcome.kind, outcome.durable) == (OutcomeKind.PARTLY, 45)
    assert append_one(spool, terminal.frame(3, 9)).kind is OutcomeKind.DUPLICATE


# -- space -----------------------------------------------------------------------------------------------------------


def test_space_is_warned_of_at_a_fifth_and_refused_at_a_twentieth(tmp_path: Path) -> None:
    log, free = ListLog(), [50]
    spool = open_spool(tmp_path / "spool.db", log=log, free_bytes=lambda: (free[0], 100))
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 4))
    assert log.alarms() == []
    free[0] = 19
    append_one(spool, terminal.frame(5, 8))
    append_one(spool, terminal.frame(9, 12))
    assert log.alarms() == ["spool.space_low"]
    free[0] = 4
    with pytest.raises(DiskFull):
        append_one(spool, terminal.frame(13, 16))
    free[0] = 6
    assert append_one(spool, terminal.frame(13, 16)).durable == 16
    spool.close()


def test_a_frame_of_one_record_and_one_of_sixty_three_both_fit(spool: Spool) -> None:
    terminal = Terminal()
    terminal.kinds = lambda _: RecordType.ABORTED
    assert append_one(spool, terminal.frame(1, 1)).durable == 1
    assert append_one(spool, terminal.frame(2, 64)).durable == 64


def test_records_intake_counts_its_bytes() -> None:
    assert RecordsIntake(1, 1, bytes(100), 0, 1).size_bytes == 100
