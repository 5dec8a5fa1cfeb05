"""Devices that say they are one terminal, as processes (R9–R13): a memory that was reset, and two at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.commands import environment, onecard_here, serving, wait_until

TERMINAL: Final = 1001
TAPS: Final = 20


def sim(site: Path, dump: Path, *, taps: int = TAPS, rate: int = 40, seed: int = 1) -> subprocess.Popen[str]:
    """The site's first terminal, as a device whose memory is in `dump`."""
    address = (site / "address").read_text()
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "onecard", "sim", "run", "--connect", address, "--site", str(site)),
            *("--terminals", "1", "--taps", str(taps), "--rate", str(rate), "--seed", str(seed)),
            *("--dump", str(dump), "--drain-seconds", "3", "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and the last line of a device's run."""
    out, _ = process.communicate(timeout=60)
    return process.returncode, json.loads(out.splitlines()[-1])


def alarms_of(site: Path) -> set[str]:
    shown = onecard_here("fleet", "show", TERMINAL, "--json", "--site", site).json
    return {one["finding"] for one in shown["findings"]}


def held(site: Path) -> int:
    """Records that the front-end has on disk."""
    return int(onecard_here("spool", "totals", "--json", "--site", site).json["records"])


def booked(site: Path) -> tuple[int, int]:
    """(records held, gaps open) by the ledger."""
    report = onecard_here("ledger", "report", "--json", "--site", site).json
    return sum(report["counts"]["postings_by_result"].values()), report["open_items"]["gap"]["sequences"]


@pytest.fixture
def served(site: Path) -> Any:
    log = site / "frontend.log"
    with serving("ledger", "serve", "--site", site) as ledger, serving("serve", "--site", site, "--log", log) as server:
        (site / "address").write_text(server.ready["address"])
        yield site
        assert server.stop() == 0
        assert ledger.stop() == 0


def test_a_device_whose_memory_was_reset_is_told_that_it_has_forked_until_it_is_enrolled_anew(served: Path) -> None:
    site = served
    code, first = ended(sim(site, site / "a"))
    assert (code, first["records_acknowledged"]) == (0, TAPS)
    code, again = ended(sim(site, site / "b", taps=5, seed=2))  # the same identity, sequences from 1 once more
    assert code == 1
    assert again["records_acknowledged"] == 0
    assert "fork" in " ".join(alarms_of(site))
    assert onecard_here("keys", "replace", TERMINAL, "--site", site).code == 0
    assert onecard_here("ledger", "register", "--operator", "tests", "--site", site).code == 0
    wait_until(lambda: "registry.taken" in (site / "frontend.log").read_text())
    code, replaced = ended(sim(site, site / "c", taps=6, seed=3))
    assert (code, replaced["records_acknowledged"]) == (0, 6)
    wait_until(lambda: booked(site) == (TAPS + 6, 0))
    assert "fork" not in " ".join(alarms_of(site))


def test_two_devices_with_one_identity_take_over_from_each_other_and_only_one_chain_is_booked(served: Path) -> None:
    site = served
    one = sim(site, site / "a", taps=120, rate=30, seed=1)
    # Only then is it certain that there is a session to take over, and a chain that the other's contradicts.
    wait_until(lambda: held(site) > 0)
    other = sim(site, site / "b", taps=60, rate=30, seed=2)
    results = [ended(process) for process in (one, other)]
    print(results)
    acknowledged = sorted(result["records_acknowledged"] for _, result in results)
    assert 1 in {code for code, _ in results}, "one of the two is cut off with its records"
    assert alarms_of(site) & {"fork", "take-overs", "suspect records"}, alarms_of(site)
    status = onecard_here("status", "--json", "--site", site).json
    assert status["counts"]["take_overs"] >= 1
    assert held(site) <= acknowledged[-1] + TAPS
    wait_until(lambda: booked(site)[0] >= 1)
    report = onecard_here("ledger", "report", "--json", "--site", site).json
    assert report["double_posted"] == 0
    assert report["conservation"]["difference_cents"] == 0
