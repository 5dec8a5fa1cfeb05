"""A canteen whose terminals are of both suites, as real processes: all that they sell is posted (R3, R32)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.commands import onecard_here, onecard_process, serving, wait_until

TAPS = 160
COMBINATIONS: tuple[list[str], ...] = (
    [],
    ["--suite", "B"],
    ["--suite", "B", "--proof-suite", "A"],
    ["--proof-suite", "B"],
)


def test_terminals_of_both_suites_sell_side_by_side_and_every_record_is_posted(tmp_path: Path) -> None:
    site = tmp_path / "s"
    for arguments in (
        ("keys", "init", "--site-id", 42),
        *(("keys", "enrol", "-n", 2, "--merchants", 2, *options) for options in COMBINATIONS),
        ("keys", "cards", "-n", 6, "--opening", "500.00"),
        ("ledger", "init", "--operator", "tests"),
    ):
        done = onecard_here(*arguments, "--site", site)
        assert done.code == 0, done.err
    terminals = 2 * len(COMBINATIONS)
    with serving("ledger", "serve", "--site", site) as books, serving("serve", "--site", site) as server:
        run = onecard_process(
            *("sim", "run", "--connect", server.ready["address"], "--site", site, "--terminals", terminals),
            *("--taps", TAPS, "--rate", 200, "--dump", site / "run", "--json"),
        )
        assert run.code == 0, run.err

        def status() -> dict[str, Any]:
            found: dict[str, Any] = onecard_here("status", "--json", "--site", site).json
            return found

        wait_until(lambda: status()["spool"]["rows"] and not status()["spool"]["rows_unsettled"])
        assert len(onecard_here("fleet", "list", "--json", "--site", site).json["terminals"]) == terminals
        assert onecard_here("fleet", "refused", "--json", "--site", site).json["refused"] == []
        report = onecard_here("ledger", "report", "--json", "--site", site).json
        epochs = [
            epoch
            for one in json.loads((site / "run" / "terminals.json").read_text())["terminals"]
            for epoch in one["epochs"]
        ]
        assert all(epoch["running_sum_cents"] for epoch in epochs), "every terminal has sold something"
        assert report["records"]["amount_cents"] == sum(epoch["running_sum_cents"] for epoch in epochs)
        assert (report["counts"]["quarantined"], report["double_posted"]) == (0, 0)
        assert {name: one["items"] for name, one in report["open_items"].items() if one["items"]} == {}
        assert onecard_here("ledger", "verify", "--site", site).code == 0
        assert (server.stop(), books.stop()) == (0, 0)
