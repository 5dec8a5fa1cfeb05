"""Twenty kills of three real processes; the seed is pytest's own, so `--hypothesis-seed` replays this too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills.__main__ import kill_and_judge
from tests.kills.schedule import KILLS_USUAL, KINDS, Role, plan
from tests.kills.traps import Moment, Order, Trap

SECONDS_MAX = 600  # usually 25 to 60; a loaded machine is no failure


@pytest.mark.timeout(SECONDS_MAX)
def test_totals_agree_after_twenty_kills_at_drawn_moments(
    tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(pytestconfig.option.hypothesis_seed)
    with capsys.disabled():  # what was hit, and how often, stands in the log of every run
        print(f"\nreplay: make kills SEED={seed}")
        findings = kill_and_judge(tmp_path / "s", seed=seed, kills=KILLS_USUAL)
    assert findings == []


def test_a_seed_gives_the_same_orders_again_and_another_seed_others() -> None:
    assert plan(7, 50) == plan(7, 50)
    assert plan(7, 50) != plan(8, 50)


def test_twenty_orders_hold_every_class_of_every_process_and_three_blind_ones() -> None:
    planned = plan(7, KILLS_USUAL)
    assert {(each.role, each.order.moment) for each in planned} == set(KINDS)
    blind = [each.role for each in planned if each.order.moment is Moment.BLIND]
    assert sorted(role.value for role in blind) == sorted(role.value for role in Role)


@pytest.mark.parametrize("order", [Order(Moment.CHECKPOINT, 12, from_ready=True), Order(Moment.CARD, 1)])
def test_an_order_survives_the_command_line(order: Order) -> None:
    assert Order.parse(str(order)) == order


def test_a_trap_counts_its_own_moment_from_readiness_if_so_ordered(tmp_path: Path) -> None:
    trap = Trap(Order(Moment.CHECKPOINT, 2, from_ready=True), tmp_path / "notes")
    assert not any(trap.is_due(Moment.CHECKPOINT) for _ in range(5))
    trap.ready()
    passed = [Moment.CHECKPOINT, Moment.HANDSHAKE, Moment.CHECKPOINT, Moment.CHECKPOINT]
    assert [trap.is_due(moment) for moment in passed] == [False, False, True, False]


def test_a_process_that_reaches_its_moment_notes_what_it_did_and_is_killed(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    script = (
        "import sys; from pathlib import Path; from tests.kills.traps import *\n"
        "trap = Trap(Order(Moment.CARD, 3), Path(sys.argv[1]))\n"
        "while True: trap.passes(Moment.CARD, 'counting')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, notes],
        check=False,
        timeout=30,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert done.returncode == -signal.SIGKILL
    note = json.loads(notes.read_text())
    assert (note["order"], note["doing"]) == ("CARD:3", "counting")
