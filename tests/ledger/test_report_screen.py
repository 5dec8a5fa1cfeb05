"""The report as a person reads it: yuan, dates, ages, sequences, and whether records and money meet."""

from pathlib import Path

import pytest

from ledger_sync.cli_report import show_report
from ledger_sync.ledger.report import report
from onecard_host import Host
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
