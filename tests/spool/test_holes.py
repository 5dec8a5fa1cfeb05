"""What a spool does not hold although it exists, and why: missing, elsewhere, waiting, tombstone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger_sync.spool import BaselineIntake, HoleKind, Spool, Stated
from ledger_sync.spool.holes import _NEXT_KEY, EPOCHS_OF_TERMINAL_MAX
from tests.spool.kit import NOW_MS, Terminal, append_one, open_spool, prune_after, receipt_for


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return open_spool(tmp_path / "spool.db")


def log_in(spool: Spool, terminal: Terminal, first_unacknowledged: int, following: int, *, at_ms: int = NOW_MS) -> None:
    terminal.sell(max(0, following - 1 - len(terminal.records)))
    message = terminal.baseline(first_unacknowledged, following).encode()
    append_one(spool, BaselineIntake(terminal.terminal, terminal.epoch, message, at_ms))


def holes(spool: Spool, terminal: int = 1, heard: Stated | None = None) -> list[tuple[str, int, int]]:
    return [(hole.kind.value, hole.first, hole.last) for one in spool.look_at(terminal) for hole in one.holes(heard)]


def test_a_terminal_whose_records_are_all_here_has_no_hole(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 1, 17)
    append_one(spool, terminal.frame(1, 16))
    assert holes(spool) == []
    spool.close()


def test_what_is_in_the_terminal_and_was_not_offered_waits(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 1, 21, at_ms=NOW_MS + 5)
    assert holes(spool) == [("waiting", 1, 20)]
    append_one(spool, terminal.frame(1, 16))
    assert holes(spool) == [("waiting", 17, 20)]
    [held] = spool.look_at(1)
    assert [hole.since_ms for hole in held.holes()] == [NOW_MS + 5]
    spool.close()


def test_what_another_front_end_acknowledged_is_elsewhere_and_no_gap(spool: Spool) -> None:
    terminal = Terminal(1)
    append_one(spool, terminal.frame(1, 10))
    log_in(spool, terminal, 31, 41)  # 11 to 30 were acknowledged to the terminal, not by this spool
    append_one(spool, terminal.frame(31, 40, unacknowledged=31))
    assert holes(spool) == [("elsewhere", 11, 30)]
    spool.close()


def test_a_terminal_that_comes_from_another_front_end_leaves_everything_below_elsewhere(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 101, 111)
    assert holes(spool) == [("elsewhere", 1, 100), ("waiting", 101, 110)]
    append_one(spool, terminal.frame(101, 110, unacknowledged=101))
    assert holes(spool) == [("elsewhere", 1, 100)]
    spool.close()


def test_what_the_terminal_skipped_is_missing_since_the_record_before_it(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 1, 31)
    append_one(spool, terminal.frame(1, 10))
    append_one(spool, terminal.frame(21, 30))
    assert holes(spool) == [("missing", 11, 20)]
    [held] = spool.look_at(1)
    [hole] = held.holes()
    assert (hole.count, hole.since_ms) == (10, held.ranges[0].trade_ms_last)
    spool.close()


def test_a_tombstone_is_named_until_its_records_arrive(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 1, 11)
    append_one(spool, terminal.frame(1, 4))
    append_one(spool, terminal.tombstone(5, 8))
    append_one(spool, terminal.frame(9, 10))
    [hole] = next(iter(spool.look_at(1))).holes()
    assert (hole.kind, hole.first, hole.last, hole.since_ms) == (HoleKind.TOMBSTONE, 5, 8, NOW_MS)
    append_one(spool, terminal.frame(5, 8))
    assert holes(spool) == []
    spool.close()


def test_what_a_session_has_heard_is_newer_than_the_baseline(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 1, 11)
    append_one(spool, terminal.frame(1, 10))
    assert holes(spool, heard=Stated(11, 15, NOW_MS)) == [("waiting", 11, 14)]
    spool.close()


def test_a_spool_without_the_baseline_any_more_still_knows_its_own_ranges(spool: Spool) -> None:
    terminal = Terminal(1)
    log_in(spool, terminal, 1, 31)
    append_one(spool, terminal.frame(1, 10))
    append_one(spool, terminal.frame(21, 30))
    batch = spool.claim()
    assert batch is not None
    spool.settle(receipt_for(batch))
    assert prune_after(spool, 8) == 3
    [held] = spool.look_at(1)
    assert held.baseline is None
    assert holes(spool) == [("missing", 11, 20)]
    spool.close()


def test_epochs_are_looked_at_page_by_page_in_order_without_reading_a_table_whole(spool: Spool) -> None:
    for number in (7, 3, 5):
        append_one(spool, Terminal(number, 2).frame(1, 1))
    log_in(spool, Terminal(5, 1), 1, 1)
    pages = []
    after = (0, 0)
    while page := spool.look(after, 2):
        pages.append([(one.terminal, one.epoch) for one in page])
        after = pages[-1][-1]
    assert pages == [[(3, 2), (5, 1)], [(5, 2), (7, 2)]]
    with spool.reading() as handles:
        plan = [str(step[-1]) for step in handles.connection.execute(f"EXPLAIN QUERY PLAN {_NEXT_KEY}", (0, 0))]
    scans = [text for text in plan if text.startswith("SCAN") and "subquery" not in text]
    assert scans == []
    spool.close()


def test_a_terminal_with_very_many_epochs_shows_the_newest(spool: Spool) -> None:
    for epoch in range(1, EPOCHS_OF_TERMINAL_MAX + 3):
        append_one(spool, Terminal(1, epoch).frame(1, 1))
    assert [one.epoch for one in spool.look_at(1)] == list(range(3, EPOCHS_OF_TERMINAL_MAX + 3))
    spool.close()
