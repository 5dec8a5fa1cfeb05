"""The report as a person reads it: yuan, dates, ages, sequences, and whether records and money meet."""

from pathlib import Path

import pytest

from ledger_sync.cli_report import show_report
from ledger_sync.ledger.report import report
from onecard_host import Host
from protocol.record_bodies import Booking, EventsLost, Load, Refund, Refusal
from tests.ledger.canteen import NOW_MS, Canteen, Card, Till


def shown(canteen: Canteen, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The cells of every line, with single blanks between them."""
    found = report(canteen.ledger.connection, now_ms=NOW_MS + 26 * 3_600_000)
    show_report(Host({}), found, with_items=True)
    out = capsys.readouterr().out
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in out.splitlines()]


def test_a_person_reads_what_is_owed_for_which_day_and_what_is_still_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card, till, stranger = Card(1), Till(5), Till(99, merchant=77)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    rows = [till.row(till.purchase(card, 1_250), till.grey(card, 300))]
    till.purchase(card, 45)
    rows.append(till.row(till.purchase(card, 100)))
    till.purchase(card, 9)
    canteen.post(*rows, till.baseline(), stranger.baseline(), stranger.row(stranger.purchase(card, 5)))
    lines = shown(canteen, capsys)
    canteen.close()
    assert "9001 3 16.50" in lines  # records held
    assert "2026-09-21 9001 13.50" in lines  # cleared by day
    assert "difference; 0 forks may explain it 0.00" in lines
    assert any(line.startswith("gap 2 2 0.45 1 1 d never came") for line in lines)
    assert any(line.startswith("gap 5 1 3 9001 0.45 1 d") for line in lines)
    assert any(line.startswith("gap 5 1 5 9001 unknown 1 d") for line in lines)
    assert any(line.startswith("grey 5 1 2 9001 3.00 1 d") for line in lines)
    assert any(line.startswith("quarantine 99 1 1 77 0.05 1 d result 14, type 01") for line in lines)
    assert any(line.startswith("quarantine 99 1 0.00 1 d result 14, no type: baseline") for line in lines)


def test_a_person_reads_exceptions_events_holes_and_why_records_and_money_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card, till, station = Card(1), Till(5), Till(60)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    canteen.operate("register", terminals=[station.registered(kind=4)])
    canteen.operate("topup", card=1, amount_cents=2_000)
    lost = station.does(Load, card, 2_000, reference=1, order=1)
    records = [till.does(Booking, card, 1_200, reference=1), till.does(Refund, card, 300, reference=1)]
    records += [till.event(Refusal(1, 1, 3, 0, 0, 5)), till.event(EventsLost(40))]
    canteen.post(till.row(*records), station.row(station.does(Load, card, 700, reference=9, order=9)))
    lines = shown(canteen, capsys)
    assert "+ meals booked and not served 12.00" in lines
    assert "+ refund exceptions -3.00" in lines
    assert "+ loads, which no merchant pays 7.00" in lines
    assert "difference; 0 forks may explain it 0.00" in lines
    assert any(line.startswith("refund exception 1 3.00 1 d a refund that its purchase") for line in lines)
    assert "load without order 60 1 2 …0001 9 7.00 1 d" in lines
    assert "refusal 1 balance too low 1" in lines
    assert "40 events were lost where a memory was full." in lines
    assert "1 card counters (卡计数) between proofs were never seen, 1 holes; the oldest is 1 d old." in lines
    assert "…0001 1–1 1 d" in lines
    canteen.post(station.row(lost))
    assert not any("never seen" in line for line in shown(canteen, capsys))
    canteen.close()
