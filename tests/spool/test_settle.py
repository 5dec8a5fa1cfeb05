"""Batches and receipts: claim, settle, ignore, un-settle, prune, the watermark."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_sync.spool import AnchorIntake, Batch, OutcomeKind, Spool
from protocol.codes import RowKind
from protocol.link_batch import batch_digest
from protocol.link_messages import Receipt
from protocol.rows import decode
from tests.spool.kit import (
    FRONTEND,
    NOW_MS,
    ListLog,
    Terminal,
    append_one,
    open_spool,
    prune_after,
    receipt_for,
)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = open_spool(tmp_path / "spool.db")
    yield opened
    opened.close()


def filled(spool: Spool, frames: int = 6) -> Terminal:
    terminal = Terminal()
    spool.append([terminal.frame(4 * i + 1, 4 * i + 4) for i in range(frames)])
    return terminal


def claimed(spool: Spool, after_row: int = 0, rows_max: int = 1024) -> Batch:
    batch = spool.claim(after_row, rows_max)
    assert batch is not None
    return batch


def test_a_batch_is_named_by_its_content(spool: Spool) -> None:
    filled(spool)
    batch = claimed(spool, rows_max=4)
    assert (batch.name.frontend, batch.name.spool_id) == (FRONTEND, spool.identity.spool_id)
    assert (batch.name.first_row, batch.name.last_row) == (1, 4)
    assert batch.name.digest == batch_digest(batch.rows)
    assert claimed(spool, rows_max=4) == batch


def test_claims_go_on_behind_the_last_batch_and_end(spool: Spool) -> None:
    filled(spool)
    assert [row for row, _ in claimed(spool, 4).rows] == [5, 6]
    assert spool.claim(6) is None


def test_a_batch_holds_no_more_bytes_than_asked_but_always_one_row(spool: Spool) -> None:
    filled(spool)
    size = len(claimed(spool, rows_max=1).rows[0][1])
    batch = spool.claim(0, 1024, 2 * size + size // 2)
    assert batch is not None
    assert len(batch.rows) == 2
    batch = spool.claim(0, 1024, 1)
    assert batch is not None
    assert len(batch.rows) == 1


def test_a_receipt_settles_exactly_its_rows(spool: Spool) -> None:
    terminal = filled(spool)
    first, second = claimed(spool, rows_max=2), claimed(spool, 2, rows_max=2)
    assert spool.settle(receipt_for(second, position=2))
    assert spool.settled_watermark(terminal.terminal, 1, 1) == 0
    assert [row for row, _ in claimed(spool).rows] == [1, 2]
    assert [row for row, _ in claimed(spool, 2).rows] == [5, 6]
    assert spool.settle(receipt_for(first, position=1))
    assert spool.settled_watermark(terminal.terminal, 1, 1) == 16
    assert spool.facts().rows_unsettled == 2
    assert spool.known_ledger() == (0, 2)


def test_the_watermark_stays_below_durable_and_survives_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    terminal = filled(spool)
    spool.settle(receipt_for(claimed(spool)))
    outcome = append_one(spool, terminal.frame(25, 30))
    assert (outcome.durable, outcome.settled) == (30, 24)
    spool.close()
    spool = open_spool(tmp_path / "spool.db")
    assert spool.ack(terminal.terminal, 1, 1) == (30, 24, ())
    assert [row for row, _ in claimed(spool).rows] == [7]
    spool.close()


def test_the_watermark_never_passes_a_hole(spool: Spool) -> None:
    terminal = Terminal()
    spool.append([terminal.frame(1, 4), terminal.frame(9, 12)])
    spool.settle(receipt_for(claimed(spool)))
    assert append_one(spool, terminal.frame(5, 6)).settled == 4


@pytest.mark.parametrize("last", [5, 6, 8, 10])
def test_a_fork_of_pruned_records_is_acknowledged_but_never_dropped(spool: Spool, last: int) -> None:
    """R10: nothing is left to compare 3…6 with, so the ledger must see them; each frame is kept once."""
    terminal = filled(spool, frames=2)
    spool.settle(receipt_for(claimed(spool)))
    assert prune_after(spool, 100) == 2
    totals = spool.totals()
    frame = (terminal if last == 5 else terminal.forked(2)).frame(3, last)
    if last <= 6:
        for _ in range(2):
            assert append_one(spool, frame).kind is OutcomeKind.DUPLICATE
    else:
        assert append_one(spool, frame).kind is OutcomeKind.SUSPECT  # the seal at the end of the range is never pruned
    assert [decode(row).payload for _, row in claimed(spool).rows] == [frame.payload]
    assert decode(claimed(spool).rows[0][1]).kind == RowKind.SUSPECT
    assert spool.totals() == totals


def test_a_record_that_lifts_a_tombstone_is_not_settled_by_the_tombstones_receipt(spool: Spool) -> None:
    terminal = Terminal()
    terminal.sell(12)
    spool.append([terminal.frame(1, 4), terminal.tombstone(5, 8), terminal.frame(9, 12)])
    spool.settle(receipt_for(claimed(spool)))
    assert spool.settled_watermark(terminal.terminal, 1, 1) == 12
    assert append_one(spool, terminal.frame(6, 7)).settled == 5
    spool.settle(receipt_for(claimed(spool), position=2))
    assert spool.settled_watermark(terminal.terminal, 1, 1) == 12


def wrong_receipts(good: Receipt) -> dict[str, Receipt]:
    name = good.name
    return {
        "another front-end": replace(good, name=replace(name, frontend=FRONTEND + 1)),
        "another spool": replace(good, name=replace(name, spool_id=bytes(16))),
        "another digest": replace(good, name=replace(name, digest=bytes(32))),
        "fewer rows": replace(good, name=replace(name, last_row=name.last_row - 1)),
        "rows that never were": replace(good, name=replace(name, last_row=99)),
        "all rows there can be": replace(good, name=replace(name, first_row=0, last_row=(1 << 63) - 1)),
        "rows from nothing": replace(good, name=replace(name, first_row=0)),
    }


def test_any_other_receipt_is_ignored_and_counted(spool: Spool) -> None:
    filled(spool)
    batch = claimed(spool)
    for ignored, (why, receipt) in enumerate(wrong_receipts(receipt_for(batch)).items(), 1):
        assert not spool.settle(receipt), why
        assert spool.receipts_ignored == ignored
    assert claimed(spool) == batch


def test_a_receipt_from_before_the_restored_ledger_is_ignored(spool: Spool) -> None:
    filled(spool)
    assert spool.unsettle_above(5, 0) == 0
    assert not spool.settle(receipt_for(claimed(spool), generation=4))
    assert spool.settle(receipt_for(claimed(spool), generation=5))


def test_the_same_receipt_again_changes_nothing(spool: Spool) -> None:
    filled(spool)
    batch = claimed(spool)
    assert spool.settle(receipt_for(batch, position=3))
    assert spool.settle(receipt_for(batch, position=3))
    assert spool.unsettle_above(2, 2) == 6
    assert claimed(spool) == batch


def test_receipts_of_overlapping_batches_settle_the_union(spool: Spool) -> None:
    filled(spool)
    small, large = claimed(spool, rows_max=2), claimed(spool)
    assert spool.settle(receipt_for(large, position=2))
    assert spool.settle(receipt_for(small, position=1))
    assert spool.claim() is None


def test_a_restored_ledger_gets_again_what_was_settled_above_its_position(tmp_path: Path) -> None:
    log = ListLog()
    spool = open_spool(tmp_path / "spool.db", log=log)
    terminal = filled(spool)
    for position in (1, 2, 3):
        spool.settle(receipt_for(claimed(spool, rows_max=2), position=position))
    assert spool.claim() is None
    assert spool.unsettle_above(2, 1) == 4
    assert spool.known_ledger() == (2, 1)
    assert [row for row, _ in claimed(spool).rows] == [3, 4, 5, 6]
    assert spool.settled_watermark(terminal.terminal, 1, 1) == 8
    assert log.alarms() == ["spool.unsettled"]
    assert spool.unsettle_above(2, 0) == 0
    spool.close()
    spool = open_spool(tmp_path / "spool.db")
    assert [row for row, _ in claimed(spool).rows] == [3, 4, 5, 6]
    spool.close()


def test_pruning_deletes_only_what_was_settled_long_enough_ago(spool: Spool) -> None:
    filled(spool)
    spool.settle(receipt_for(claimed(spool, rows_max=2)))
    assert prune_after(spool, 30) == 2
    assert prune_after(spool, 30) == 0
    assert [row for row, _ in claimed(spool).rows] == [3, 4, 5, 6]
    facts = spool.facts()
    assert (facts.rows, facts.rows_unsettled, facts.last_row) == (4, 4, 6)


def test_row_ids_are_never_used_twice_even_when_everything_was_pruned(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    terminal = filled(spool)
    spool.settle(receipt_for(claimed(spool)))
    prune_after(spool, 30)
    spool.close()
    spool = open_spool(tmp_path / "spool.db")
    append_one(spool, terminal.frame(25, 28))
    assert [row for row, _ in claimed(spool).rows] == [7]
    assert spool.facts().rows == 1
    spool.close()


def test_facts_tell_how_old_the_oldest_waiting_row_is(spool: Spool) -> None:
    assert spool.facts().oldest_unsettled_ms is None
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 2, received_ms=NOW_MS - 60_000))
    assert spool.facts().oldest_unsettled_ms == 60_000


def test_anchors_are_bounded_and_the_oldest_boot_goes_first(spool: Spool) -> None:
    spool.append([AnchorIntake(5, 1, boot, boot) for boot in range(1, 300)])
    outcome = append_one(spool, AnchorIntake(5, 1, 300, 300))
    assert outcome.kind is OutcomeKind.ACCEPTED
    state = spool._epoch(5, 1)
    assert len(state.anchors_ms) == 256
    assert min(state.anchors_ms) == 45
