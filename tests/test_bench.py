"""The bench runs, cleans up behind itself, and writes what docs/performance.md says. No figure is asserted here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.children import cpu_seconds, filesystem_of
from bench.goals import Goal, Target
from bench.pump import Run

ROOT = Path(__file__).resolve().parent.parent
KEYS = ["goal", "what", "floor", "aim", "result", "met", "generator_cpu"]
TINY = ["--terminals", "4", "--seconds", "0.2", "--rounds", "1"]


def bench(*arguments: str, directory: Path) -> list[str]:
    return [sys.executable, "-m", "bench", *TINY, "--work-dir", str(directory), *arguments]


def test_the_bench_runs_and_writes_the_documented_json(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    work = tmp_path / "work"
    work.mkdir()
    if filesystem_of(str(work)) == "tmpfs":
        pytest.skip("the bench refuses to measure durability in memory")
    done = subprocess.run(
        bench("--json", str(found), directory=work), cwd=ROOT, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(found.read_text("utf-8"))
    assert [goal["goal"] for goal in document["goals"]] == [1, 1, 6]
    for goal in document["goals"]:
        assert list(goal) == KEYS
        assert goal["result"] is None or goal["result"] > 0
        assert isinstance(goal["met"], bool)
        assert goal["met"] is False or goal["result"] is not None
        assert 0 <= goal["generator_cpu"] <= 1.1
    held = document["details"]["live"]
    assert held["records"] == held["acknowledged"] > 0
    assert "generator" in done.stdout
    assert "pinned" in done.stdout
    assert list(work.iterdir()) == []


def test_an_interrupted_bench_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    if filesystem_of(str(tmp_path)) == "tmpfs":
        pytest.skip("the bench refuses to measure durability in memory")
    command = bench("--only", "live", "--seconds", "60", directory=tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "logged in" in process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
        assert len(children) == 3
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(120) == 130
    assert list(tmp_path.iterdir()) == []
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_arguments_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    command = [*bench(directory=tmp_path), "--rounds", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2


def test_a_generator_bound_row_claims_nothing() -> None:
    target = Target(1, "what", 0.45, 0.60)
    bound = Goal.measured(target, 0.9, 0.81)
    assert (bound.result, bound.met, bound.verdict) == (None, False, "generator-bound")


@pytest.mark.parametrize(
    ("floor", "aim", "result", "verdict", "met"),
    [
        (0.45, 0.60, 0.60, "aim", True),
        (0.45, 0.60, 0.59, "floor", True),
        (0.45, 0.60, 0.44, "no", False),
        (2.5, 2.0, 2.0, "aim", True),
        (2.5, 2.0, 2.4, "floor", True),
        (2.5, 2.0, 2.6, "no", False),
    ],
)
def test_the_verdict_follows_the_direction_of_the_goal(
    floor: float, aim: float, result: float, verdict: str, met: bool
) -> None:
    goal = Goal.measured(Target(1, "what", floor, aim), result, 0.5)
    assert (goal.verdict, goal.met) == (verdict, met)


def test_percentiles_are_taken_from_the_sorted_latencies() -> None:
    run = Run(4, 1.0, [1.0, 2.0, 3.0, 4.0], 0.5, 0.5, ran_out=False)
    assert (run.percentile_ms(0.5), run.percentile_ms(0.99), run.percentile_ms(1.0)) == (3.0, 4.0, 4.0)


def test_the_cpu_time_of_another_process_is_read_as_it_grows() -> None:
    before = cpu_seconds(os.getpid())
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.02
