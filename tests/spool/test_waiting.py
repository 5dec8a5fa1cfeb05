"""Why money is not settled: what waits by age, and the reasons with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger_sync.spool.reader import SpoolReader
from ledger_sync.spool.waiting import Place, Waiting, reasons, waiting_in
from protocol.codes import RefusalCode
from tests.spool.kit import NOW_MS, Terminal, append_one, open_spool, receipt_for

MINUTE_MS = 60_000


def waiting_of(path: Path, now_ms: int) -> Waiting:
    with SpoolReader.open(str(path)) as reader:
        return waiting_in(reader, now_ms)


def link(state: str = "up", **more: Any) -> dict[str, Any]:
    usual = {"state": state, "last_fault": "", "last_refusal": None, "since_ms": NOW_MS, "batches_outstanding": 0}
    return {"link": {**usual, "receipts_ignored": 0, **more}}


def late(waiting: Waiting, place: Place) -> list[tuple[str, bool, str]]:
    found = reasons(waiting, place, NOW_MS + 10 * MINUTE_MS)
    return [(one.name, one.is_stuck, one.what_to_do) for one in found]


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """Row 1 is settled; 2 (16 records), 3 (a tombstone) and 4 (one record, older than the others) wait."""
    path = tmp_path / "spool.db"
    spool = open_spool(path)
    one, two = Terminal(1), Terminal(2)
    append_one(spool, one.frame(1, 8))
    batch = spool.claim()
    assert batch is not None
    spool.settle(receipt_for(batch))
    append_one(spool, one.frame(9, 24))
    append_one(spool, one.tombstone(25, 26))
    append_one(spool, two.frame(1, 1, received_ms=NOW_MS - 90 * MINUTE_MS))
    spool.close()
    return path


def test_rows_without_a_receipt_are_counted_by_age_with_their_money(queue: Path) -> None:
    found = waiting_of(queue, NOW_MS + 5_000)
    assert (found.rows, found.first_row, found.oldest_ms, found.suspects) == (3, 2, NOW_MS - 90 * MINUTE_MS, 0)
    ages = {one.name: (one.rows, one.records, one.count, one.cents) for one in found.ages if one.rows}
    terminal = Terminal(1)
    assert ages == {"under a minute": (2, 16, 14, terminal.cents(9, 24)), "under a day": (1, 1, 1, 101)}
    assert found.is_summed
    assert found.last_settled_ms == NOW_MS


def test_nothing_waiting_and_a_link_that_is_up_is_no_reason(tmp_path: Path) -> None:
    open_spool(tmp_path / "spool.db").close()
    found = waiting_of(tmp_path / "spool.db", NOW_MS)
    assert (found.rows, found.first_row, found.oldest_ms) == (0, None, None)
    assert late(found, Place(link())) == []
    assert late(found, Place(None)) == []


def test_rows_that_nobody_forwards_are_stuck(queue: Path) -> None:
    [(name, is_stuck, what)] = late(waiting_of(queue, NOW_MS), Place(None))
    assert (name, is_stuck, what) == ("no front-end", True, "start it: onecard serve")


def test_a_link_that_is_down_is_named_with_its_fault_and_is_stuck_only_when_rows_are_late(queue: Path) -> None:
    down = Place(link("waiting", last_fault="connection closed: refused"))
    [(name, is_stuck, what)] = late(waiting_of(queue, NOW_MS), down)
    assert (name, is_stuck) == ("link", True)
    assert "onecard ledger serve" in what
    young = Waiting([], rows=2, oldest_ms=NOW_MS)
    assert [one.is_stuck for one in reasons(young, down, NOW_MS + 1_000)] == [False]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (RefusalCode.UNKNOWN_FRONTEND, "keys frontend add"),
        (RefusalCode.MALFORMED, "different versions"),
        (RefusalCode.TRY_LATER, "its disk"),
        (RefusalCode.SUPERSEDED, "two run with one number"),
    ],
)
def test_every_refusal_of_the_ledger_has_a_remedy_of_its_own(queue: Path, code: RefusalCode, remedy: str) -> None:
    refused = link("waiting", last_fault=f"the ledger refuses: {code.name}", last_refusal=code.name)
    [(name, is_stuck, what)] = late(waiting_of(queue, NOW_MS), Place(refused))
    assert (name, is_stuck) == ("link", True)
    assert remedy in what


def test_a_ledger_that_is_up_and_does_not_answer_is_stuck(queue: Path) -> None:
    [(name, is_stuck, _)] = late(waiting_of(queue, NOW_MS), Place(link(batches_outstanding=4)))
    assert (name, is_stuck) == ("ledger", True)


def test_a_full_disk_and_a_failing_spool_are_stuck_and_a_fuller_one_is_only_said(queue: Path) -> None:
    found = waiting_of(queue, NOW_MS)
    storage = {"alarm": "storage", "subject": "spool.failed", "text": "IOError", "what_to_do": "look at the disk"}
    refuses = {"alarm": "spool refuses", "subject": "spool", "text": "", "what_to_do": "look at the disk"}
    others = [{**storage, "subject": "link.refused"}, {**storage, "alarm": "fork", "subject": "1"}]
    place = Place(link(batches_outstanding=1), [storage, refuses, *others], free_bytes=4, total_bytes=100)
    assert [one[:2] for one in late(found, place)] == [
        ("disk", True),
        ("storage", False),  # it has happened, and stands until the next start
        ("spool refuses", True),
        ("ledger", True),
    ]
    place = Place(link(), free_bytes=15, total_bytes=100)
    assert [one[:2] for one in late(Waiting([]), place)] == [("disk", False)]


def test_suspects_and_receipts_that_did_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = open_spool(path)
    terminal = Terminal(1)
    append_one(spool, terminal.frame(1, 16))
    append_one(spool, terminal.forked(14).frame(15, 16))
    spool.close()
    found = waiting_of(path, NOW_MS)
    assert found.suspects == 1
    names = [one[0] for one in late(found, Place(link(receipts_ignored=2)))]
    assert names == ["ledger", "receipts", "suspects"]
