"""A second front-end beside the first (docs/frontends.md): made by one verb, served, lost, found again, to the cent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from onecard_agreement import compare
from onecard_keys import KeyFile
from onecard_site import load_site
from tests.cli.commands import environment, onecard_here, serving, wait_until
from tests.cli.conftest import TERMINALS

TAPS = 100_000  # more than any run needs: it is told when to stop
RATE = 260


@pytest.fixture
def two(site: Path) -> Path:
    """The site with a second front-end."""
    assert onecard_here("keys", "frontend", "add", "--site", site).code == 0
    return site


def asked(site: Path, *verb: object, frontend: int = 1) -> Any:
    return onecard_here(*verb, "--frontend", frontend, "--json", "--site", site).json


def test_a_second_front_end_gets_keys_that_the_ledger_knows_and_a_section_of_its_own(two: Path) -> None:
    section = tomllib.loads((two / "site.toml").read_text(encoding="utf-8"))["frontends"]["2"]
    assert section["data_dir"] == "data/frontend-2"
    first, second = (KeyFile.named(two / "secrets", name).open() for name in ("frontend", "frontend-2"))
    ledger = KeyFile.named(two / "secrets", "ledger").open()
    assert second.facts["frontend"] == 2
    assert second.key("link_master.1") == first.key("link_master.1")
    assert second.key("batch_key") == ledger.key("batch_key.2") != first.key("batch_key")
    assert onecard_here("keys", "frontend", "add", "--id", 2, "--site", two).code == 1
    assert onecard_here("keys", "frontend", "add", "--json", "--site", two).json["frontend"] == 3


def test_a_site_made_with_two_front_ends_has_both_sections(tmp_path: Path) -> None:
    assert onecard_here("keys", "init", "--frontends", 2, "--site", tmp_path / "s").code == 0
    assert load_site(tmp_path / "s", {}).numbers() == [1, 2]
    assert KeyFile.named(tmp_path / "s" / "secrets", "frontend-2").open().facts["frontend"] == 2


def test_a_front_end_whose_making_was_cut_short_is_finished_with_the_same_key(site: Path) -> None:
    before = (site / "site.toml").read_bytes()
    assert onecard_here("keys", "frontend", "add", "--site", site).code == 0
    made = KeyFile.named(site / "secrets", "frontend-2").open().key("batch_key")
    (site / "site.toml").write_bytes(before)
    (site / "secrets" / "frontend-2.keystore").unlink()
    assert onecard_here("keys", "frontend", "add", "--site", site).code == 0
    assert KeyFile.named(site / "secrets", "frontend-2").open().key("batch_key") == made


def test_a_front_end_that_is_not_in_the_site_file_is_refused_in_words(two: Path) -> None:
    for verb in (("serve",), ("status",), ("fleet", "list"), ("spool", "totals"), ("doctor",)):
        done = onecard_here(*verb, "--frontend", 9, "--site", two)
        assert done.code == (1 if verb == ("doctor",) else 2), verb
        assert "only 1, 2" in done.err + done.out


def test_the_doctor_looks_at_every_front_end_or_at_one(two: Path) -> None:
    (two / "secrets" / "frontend-2.keystore").unlink()
    both = [one["says"] for one in onecard_here("doctor", "--json", "--site", two).json["findings"]]
    assert any(says.startswith("front-end 2: ") and "frontend-2.keystore" in says for says in both)
    one = [one["says"] for one in asked(two, "doctor")["findings"]]
    assert not any("frontend-2.keystore is not here" in says for says in one)


def test_a_ledger_that_was_not_started_again_is_named_as_what_keeps_a_new_front_end_waiting(site: Path) -> None:
    with serving("ledger", "serve", "--site", site) as books:
        assert onecard_here("keys", "frontend", "add", "--site", site).code == 0
        with serving("serve", "--frontend", 2, "--site", site) as second:
            wait_until(lambda: asked(site, "status", frontend=2)["link"]["last_refusal"])
            [reason] = asked(site, "spool", "stuck", frontend=2)["reasons"]
            assert (reason["name"], reason["is_stuck"]) == ("link", False)  # nothing waits yet
            assert "start it again after `onecard keys frontend add`" in reason["what_to_do"]
            assert second.stop() == 0
        assert books.stop() == 0


def test_terminals_move_when_their_front_end_is_killed_and_everything_arrives_once(two: Path) -> None:
    with (
        serving("ledger", "serve", "--site", two) as books,
        serving("serve", "--site", two) as first,
        serving("serve", "--frontend", 2, "--site", two) as second,
    ):
        assert (first.ready["frontend"], second.ready["frontend"]) == (1, 2)
        command = ["sim", "run", "--site", two, "--terminals", TERMINALS, "--taps", TAPS, "--rate", RATE, "--seed", 7]
        command += ["--connect", first.ready["address"], "--connect", second.ready["address"], "--dump", two / "run"]
        run = subprocess.Popen(
            [sys.executable, "-m", "onecard", *map(str, command), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        try:
            wait_until(lambda: held(two, 1) > 100 and held(two, 2) > 50)
            assert first.stop(signal.SIGKILL) == -signal.SIGKILL
            wait_until(lambda: asked(two, "status", frontend=2)["terminals"]["online"] == TERMINALS)
            at_second = held(two, 2)
            wait_until(lambda: held(two, 2) > at_second + 100)
            with serving("serve", "--site", two) as again:
                assert again.ready["address"] == first.ready["address"]
                assert second.stop(signal.SIGKILL) == -signal.SIGKILL
                wait_until(lambda: asked(two, "status")["terminals"]["online"] == TERMINALS)
                with serving("serve", "--frontend", 2, "--site", two) as back:
                    run.send_signal(signal.SIGTERM)  # sell no more, drain, account for every cent
                    _, errors = run.communicate(timeout=120)
                    assert run.returncode == 0, errors
                    for number in (1, 2):
                        wait_until(
                            lambda number=number: not asked(two, "status", frontend=number)["spool"]["rows_unsettled"]
                        )
                    judge(two)
                    assert back.stop() == 0
                assert again.stop() == 0
        finally:
            if run.poll() is None:
                run.kill()
            run.communicate()
        assert books.stop() == 0


def held(site: Path, frontend: int) -> int:
    return int(asked(site, "spool", "totals", frontend=frontend)["records"])


def unsettled(site: Path, frontend: int) -> int:
    return int(asked(site, "status", frontend=frontend)["spool"]["rows_unsettled"])


def judge(site: Path) -> None:
    """Terminals = both spools together = ledger; nothing missing, nothing twice."""
    spools = onecard_here("spool", "totals", "--all", "--json", "--site", site).json
    dump = json.loads((site / "run" / "terminals.json").read_text())["terminals"]
    ledger = onecard_here("ledger", "report", "--json", "--site", site).json
    found = compare(dump, spools, ledger)
    print(found.records_created, found.duplicates, found.twins, [one["records"] for one in spools["spools"]])
    assert found.disagreements == []
    assert all(one["records"] > 100 for one in spools["spools"])
    assert sum(one["records"] for one in spools["spools"]) - found.twins == found.records_created
    assert (found.gaps_open, found.lost, found.double_posted) == (0, 0, 0)
    assert found.records_created == found.records_posted
