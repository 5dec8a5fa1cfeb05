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
TAPS_WITHOUT_END: Final = 100_000  # it is told when to stop
DRAIN_SECONDS_MAX: Final = 60
ENDED_SECONDS_MAX: Final = 120
TRUTH_BYTES: Final = 36  # of one entry in the simulator's own account
IN_VAIN_SECONDS: Final = 3  # a device whose records nobody will ever take need not wait long


def sim(
    site: Path,
    dump: Path,
    *,
    taps: int = TAPS,
    rate: int = 40,
    seed: int = 1,
    drain_seconds: int = DRAIN_SECONDS_MAX,
    resume: bool = False,
) -> subprocess.Popen[str]:
    """The site's first terminal, as a device whose memory is in `dump`."""
    address = (site / "address").read_text()
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "onecard", "sim", "run", "--connect", address, "--site", str(site)),
            *("--terminals", "1", "--taps", str(taps), "--rate", str(rate), "--seed", str(seed)),
            *("--dump", str(dump), "--drain-seconds", str(drain_seconds), "--json"),
            *(("--resume",) if resume else ()),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and the last line of a device's run."""
    out, _ = process.communicate(timeout=ENDED_SECONDS_MAX)
    return process.returncode, json.loads(out.splitlines()[-1])


def alarms_of(site: Path) -> set[str]:
    shown = onecard_here("fleet", "show", TERMINAL, "--json", "--site", site).json
    return {one["finding"] for one in shown["findings"]}


def booked(site: Path) -> tuple[int, int]:
    """(records held, gaps open) by the ledger."""
    report = onecard_here("ledger", "report", "--json", "--site", site).json
    return sum(report["counts"]["postings_by_result"].values()), report["open_items"]["gap"]["sequences"]


def spooled(site: Path) -> int:
    """Records held by the front-end."""
    return int(onecard_here("spool", "totals", "--json", "--site", site).json["records"])


def counts(site: Path) -> dict[str, int]:
    found: dict[str, int] = onecard_here("status", "--json", "--site", site).json["counts"]
    return found


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
    code, again = ended(
        sim(site, site / "b", taps=5, seed=2, drain_seconds=IN_VAIN_SECONDS)
    )  # the same identity, sequences from 1 once more
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
    devices = [sim(site, site / "a", taps=TAPS_WITHOUT_END, rate=30, seed=1)]
    try:
        wait_until(lambda: spooled(site) >= TAPS)
        twin = sim(site, site / "b", taps=TAPS_WITHOUT_END, rate=30, seed=2, drain_seconds=IN_VAIN_SECONDS)
        devices.append(twin)
        wait_until(lambda: counts(site)["take_overs"] >= 1 and counts(site)["forks"] >= 1)
        wait_until(lambda: (site / "b" / "truth.bin").stat().st_size >= TRUTH_BYTES * 2 * TAPS)  # it sells all the same
        twin.terminate()
        code, cut_off = ended(twin)
        assert (code, cut_off["records_acknowledged"]) == (1, 0)
        assert cut_off["records_created"] > 0
        devices[0].kill()  # taken over, it would keep away for a minute: its power goes off and on
        devices.append(sim(site, site / "a", taps=TAPS_WITHOUT_END, rate=30, seed=1, resume=True))
        held = spooled(site)
        wait_until(lambda: spooled(site) > held)
        devices[-1].terminate()
        assert ended(devices[-1])[0] == 0
    finally:
        for device in devices:
            device.kill()
            device.communicate()
    [terminal] = json.loads((site / "a" / "terminals.json").read_text())["terminals"]
    [epoch] = terminal["epochs"]
    assert epoch["acknowledged"] == epoch["issued"] == spooled(site)
    log = [json.loads(line) for line in (site / "frontend.log").read_text().splitlines()]
    assert "fork" in {line.get("kind") for line in log if line["event"] == "alarm"}, (
        "the operator was told, whichever device came last"
    )
    wait_until(lambda: booked(site) == (epoch["issued"], 0))
    report = onecard_here("ledger", "report", "--json", "--site", site).json
    assert report["double_posted"] == 0
    assert report["conservation"]["difference_cents"] == 0
