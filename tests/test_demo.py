"""The demo, small: real processes, an outage, a lost card, a killed front-end, and agreement to the cent."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
SECONDS_MAX: Final = 280  # usually 15 to 30; a loaded machine is no failure
PROMISED: Final = """
    terminals taps records_created records_acknowledged records_posted duplicates quarantined gaps_open open_items
    amount_terminals_cents amount_spool_cents amount_ledger_cents lost double_posted denied_after_loss
    accepted_after_loss ack_ms_p50 ack_ms_p99 records_per_second recovery_records_per_second seconds data_dir
""".split()


def demo(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onecard", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=SECONDS_MAX,
    )


@pytest.fixture
def environment(child_environment: dict[str, str]) -> dict[str, str]:
    child_environment["PYTHONPATH"] = str(ROOT)
    return child_environment


def test_a_canteen_sells_through_an_outage_and_every_cent_arrives(tmp_path: Path, environment: dict[str, str]) -> None:
    done = demo(
        *("--terminals", "20", "--taps", "2000", "--outage-seconds", "2", "--seed", "8"),  # fills the memory of a till
        *("--data-dir", str(tmp_path / "d"), "--json"),
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(PROMISED) <= result.keys()
    assert result["disagreements"] == []
    assert result["amount_terminals_cents"] == result["amount_spool_cents"]
    assert result["amount_spool_cents"] == result["amount_ledger_cents"] + result["amount_open_items_cents"]
    assert sum(result["beside_ledger_cents"].values()) == result["amount_open_items_cents"]
    assert result["lost"] == result["double_posted"] == result["accepted_after_loss"] == 0
    assert result["records_created"] == result["records_acknowledged"] == result["records_posted"]
    assert result["records_created"] >= 2000
    assert result["terminal_kinds"] == {"pos": 16, "meal": 2, "load_station": 1, "door": 1}
    assert (result["terminals_of_suite_b"], result["frontends"], result["replaced_terminals"]) == (3, 2, 1)
    assert result["cards"] == {"aes": 80, "memory": 10, "pboc": 10}
    assert result["torn_taps"] >= 10
    assert result["memory_full_at_records"] > 0
    assert (result["open_items"], result["gaps_open"]) == ({}, 0)
    # purchase, load, booking, access, end of epoch: each kind has worked
    assert {"01", "04", "20", "40", "65"} <= result["records_by_type"].keys()
    assert result["denied_after_loss"] > 0
    assert "killed" not in done.stdout  # --json is one object and nothing else
    assert (tmp_path / "d" / "report" / "report.html").exists()


def test_without_the_card_check_what_torn_cards_left_is_listed_and_the_totals_agree(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = demo(
        *("--terminals", "8", "--taps", "600", "--outage-seconds", "1", "--seed", "3", "--no-card-check"),
        *("--data-dir", str(tmp_path / "d"), "--json"),
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["disagreements"] == []
    assert result["decided_by_two_persons"] == 0
    waiting = [one for one in result["open_listed"] if one["kind"] in {"grey", "doubt"}]
    assert len(waiting) == sum(result["open_items"].get(kind, {"items": 0})["items"] for kind in ("grey", "doubt"))
    assert all(one["detail"].startswith("card …") and one["age_s"] >= 0 for one in waiting)
    assert waiting, "seed 3 leaves greys"


def test_the_demo_says_what_is_wrong_with_a_directory_that_is_in_use(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "something").touch()
    done = demo("--data-dir", str(tmp_path), environment=environment)
    assert done.returncode == 1
    assert "is not empty" in done.stderr


def test_the_demo_shows_a_moving_picture_on_a_terminal_and_ends_in_the_table(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    arguments = ["--terminals", "5", "--taps", "300", "--outage-seconds", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "onecard", "demo", *arguments],
        cwd=ROOT,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 1 << 16):
                seen += chunk
        except OSError:  # a terminal whose other side has gone says so by an error
            pass
        finally:
            os.close(ours)
        assert process.wait(SECONDS_MAX) == 0, seen.decode(errors="replace")[-3000:]
    text = seen.decode()
    assert "█" in text
    assert "三方相符" in text
    assert "kill" in text
