"""Whole sites under virtual time: sold under faults and attacks, healed, drained, and three totals that agree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.__main__ import main
from tests.simulation.agreement import Agreement
from tests.simulation.invariants import Violation
from tests.simulation.many import EXPECTED_FAULTS, TWICE_EVERY, Summary, run_many
from tests.simulation.runner import SeedFailed, run_seed
from tests.simulation.site import Site
from tests.simulation.world import Host, World

KEPT: Final[dict[int, str]] = {}
"""Seeds beyond the first thousand that have found something, and what."""
SEEDS: Final = (*range(1_000), *KEPT)


@pytest.fixture
def no_tracker() -> Iterator[None]:
    """Pools of spawned processes leave a helper that lives as long as the program; it ends with the test here."""
    yield
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # it has no public end


@pytest.mark.timeout(900)  # three minutes on two idle cores
@pytest.mark.usefixtures("no_tracker")
def test_a_thousand_sites_drain_and_agree_to_the_cent_and_every_kind_of_fault_was_fired() -> None:
    summary = Summary()
    for outcome in run_many(SEEDS):
        summary.add(outcome)
        if outcome.run is not None:
            totals = outcome.run.agreement
            assert totals.terminals_cents == totals.spool_cents, f"seed {outcome.seed}"
            assert totals.spool_cents == totals.ledger_cents + totals.open_cents, f"seed {outcome.seed}"
            assert outcome.run.acknowledged == totals.sequences, f"seed {outcome.seed}"
    print(f"{summary.passed} seeds, {dict(summary.counts)}, {dict(sorted(summary.faults.items()))}")
    assert summary.failures == []
    assert summary.passed == len(SEEDS)
    assert summary.twice == sum(seed % TWICE_EVERY == 0 for seed in SEEDS)
    assert summary.not_fired == []


def test_the_trace_does_not_depend_on_the_order_of_hashed_strings() -> None:
    program = "from tests.simulation.runner import run_seed; print(run_seed(5, selling_ms=3_000).trace_hash)"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(said) == 1
    assert said != {""}


def test_a_failing_seed_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def disagrees(_: Site) -> Agreement:
        raise Violation("a cent is missing")

    monkeypatch.setattr("tests.simulation.runner.agree", disagrees)
    with pytest.raises(SeedFailed) as failed:
        run_seed(1, selling_ms=1_000)
    assert str(failed.value).startswith("seed 1, commit ")
    assert "a cent is missing" in str(failed.value)
    assert "python -m tests.simulation --first 1 --seeds 1" in str(failed.value)


def test_the_command_reports_what_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--first", "7", "--seeds", "1", "--jobs", "1", "--selling-seconds", "3"]) == 0
    said = capsys.readouterr().out
    assert "1 seeds passed, 0 failed" in said
    assert "times real time" in said
    assert "terminal-days" in said
    for kind in EXPECTED_FAULTS:
        assert kind in said


def test_work_that_stumbles_ends_the_seed_and_work_that_its_disk_refuses_is_told() -> None:
    def stumbles() -> None:
        try:
            raise AttributeError("no such thing")
        except AttributeError as error:
            raise OSError("nothing was stored") from error

    def refuses() -> None:
        error = OSError("nothing was stored")
        raise error from error  # as who hands on what he was handed

    world = World(1)
    host = Host(world, "one")
    told: list[BaseException | None] = []
    host.submit(refuses, lambda _, error: told.append(error))
    world.run_until(1_000)
    assert [str(error) for error in told] == ["nothing was stored"]
    host.submit(stumbles, lambda _, error: told.append(error))
    with pytest.raises(OSError, match="nothing was stored"):
        world.run_until(2_000)
    assert len(told) == 1
