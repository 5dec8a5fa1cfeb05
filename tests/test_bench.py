"""The bench runs, cleans up behind itself, and writes what docs/performance.md says. No figure is asserted here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.children import BenchFailed, filesystem_of
from bench.plan import Plan
from bench.row_chain import chain
from bench.row_recovery import recovery
from ledger_sync.spool.reader import SpoolReader

ROOT = Path(__file__).resolve().parent.parent
KEYS = ["goal", "what", "floor", "aim", "result", "met", "generator_cpu"]
GOALS = [1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7, 7, 8, 9, 10, 10]
TINY = ["--terminals", "4", "--many", "8", "--seconds", "0.2", "--rounds", "1"]
NOT_DURABLE = "the bench refuses to measure durability in memory"


def bench(*arguments: str, directory: Path) -> list[str]:
    return [sys.executable, "-m", "bench", *TINY, "--work-dir", str(directory), *arguments]


def ran(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = bench(*arguments, directory=directory)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)


def test_every_row_runs_and_the_bench_writes_the_documented_json_and_a_picture(tmp_path: Path) -> None:
    found, drawn, work = tmp_path / "found.json", tmp_path / "goals.svg", tmp_path / "work"
    work.mkdir()
    if filesystem_of(str(work)) == "tmpfs":
        pytest.skip(NOT_DURABLE)
    done = ran("--json", str(found), "--picture", str(drawn), directory=work)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(found.read_text("utf-8"))
    assert [goal["goal"] for goal in document["goals"]] == GOALS
    for goal in document["goals"]:
        assert list(goal) == KEYS
        assert goal["result"] is None or goal["result"] > 0
        assert isinstance(goal["met"], bool)
        assert goal["met"] is False or goal["result"] is not None
        assert 0 <= goal["generator_cpu"] <= 1.1
    for row in ("live", "one", "recovery"):
        held = document["details"][row]
        assert held["records"] == held["acknowledged"] > 0
    assert document["details"]["recovery"]["recovery"]["per_second"] > 0
    assert len(document["details"]["start"]["accepted_s"]) == 1
    assert document["details"]["chain"]["records"] == 4 * 2 * (64 + 24)  # warm-up and one round of both sides
    assert document["details"]["workers"]["ratio"] > 0
    assert "generator" in done.stdout
    assert "pinned" in done.stdout
    assert len(ET.fromstring(drawn.read_text("utf-8")).findall(".//{*}text")) > len(GOALS)
    assert list(work.iterdir()) == []


def test_a_slice_claims_nothing_and_the_table_can_be_had_as_markdown(tmp_path: Path) -> None:
    if filesystem_of(str(tmp_path)) == "tmpfs":
        pytest.skip(NOT_DURABLE)
    done = ran("--quick", "--only", "one", "--markdown", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    head, _, row = done.stdout.splitlines()
    assert head == "| goal | what | floor | aim | result | met |"
    assert row.endswith("| ≤ 1.5 | ≤ 1 | – | a slice |")


def test_without_a_broker_goal_2_claims_nothing_and_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if filesystem_of(str(tmp_path)) == "tmpfs":
        pytest.skip(NOT_DURABLE)
    monkeypatch.setattr("bench.row_recovery.find_broker", lambda: None)
    measured = recovery(Plan(2, 4, 0.2, 1, str(tmp_path)), lambda _: None)
    assert [goal.goal for goal in measured.goals] == [2, 2, 2, 3]
    for goal in measured.goals[:3]:
        assert (goal.result, goal.met, goal.verdict) == (None, False, "no Mosquitto")
    assert any("apt-get install mosquitto" in note for note in measured.notes)
    assert measured.goals[3].result is not None


def test_a_chain_whose_ledger_has_not_posted_what_the_spool_holds_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if filesystem_of(str(tmp_path)) == "tmpfs":
        pytest.skip(NOT_DURABLE)
    true_totals = SpoolReader.totals
    monkeypatch.setattr(SpoolReader, "totals", lambda spool: true_totals(spool)[1:])
    with pytest.raises(BenchFailed, match=r"the spool holds 176 records of .* the ledger 352 of"):
        chain(Plan(2, 4, 0.2, 1, str(tmp_path)), lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_bench_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    if filesystem_of(str(tmp_path)) == "tmpfs":
        pytest.skip(NOT_DURABLE)
    command = bench("--only", "live", "--seconds", "60", directory=tmp_path)
    # Whoever runs the tests in the background of a shell has SIGINT ignored, and every child of theirs with it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        assert "logged in" in process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
        assert len(children) in {2, 3}  # generator and intake, and the echo if it has come so far
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(120) == 130
    assert list(tmp_path.iterdir()) == []
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_arguments_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    command = [*bench(directory=tmp_path), "--rounds", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
