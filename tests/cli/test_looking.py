"""`fleet show|gaps` and `spool stuck|inspect` at a site that runs: without its ledger first, then with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.cli.commands import onecard_here, onecard_process, serving, wait_until
from tests.cli.conftest import FIRST_CARD, TERMINALS

TAPS = 60


def test_an_operator_finds_out_what_waits_and_sees_one_record_in_full(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        run = onecard_process(
            *("sim", "run", "--connect", server.ready["address"], "--site", site, "--terminals", TERMINALS),
            *("--taps", TAPS, "--rate", 100, "--dump", site / "run", "--json"),
        )
        assert run.code == 0, run.err
        _without_ledger(site)
        _fleet(site)
        _record(site)
        with serving("ledger", "serve", "--site", site) as books:
            wait_until(lambda: onecard_here("spool", "stuck", "--json", "--site", site).json["waiting"]["rows"] == 0)
            settled = onecard_here("spool", "stuck", "--site", site)
            assert settled.code == 0
            assert "everything is settled" in settled.out
            [row] = onecard_here("spool", "inspect", 1, "--json", "--site", site).json["rows"]
            assert row["settled"]["generation"] == 1
            assert books.stop() == 0
        assert server.stop() == 0
    stopped = onecard_here("spool", "stuck", "--json", "--site", site)
    assert (stopped.code, stopped.json["link"]) == (0, None)


def _without_ledger(site: Path) -> None:
    """Rows wait and nobody takes them: exit code 1, with the reason and what to do."""
    wait_until(lambda: onecard_here("spool", "stuck", "--patience", 1, "--json", "--site", site).code == 1)
    found = onecard_here("spool", "stuck", "--patience", 1, "--json", "--site", site).json
    assert found["stuck"]
    assert [one["name"] for one in found["reasons"] if one["is_stuck"]] == ["link"]
    assert found["link"]["state"] != "up"
    records = sum(age["records"] for age in found["waiting"]["ages"])
    assert records == onecard_here("spool", "totals", "--json", "--site", site).json["records"]
    text = onecard_here("spool", "stuck", "--patience", 1, "--site", site)
    assert text.code == 1
    assert "STUCK link" in text.out
    assert "onecard ledger serve" in text.out
    assert onecard_here("spool", "stuck", "--patience", 3600, "--site", site).code == 0


def _fleet(site: Path) -> None:
    listed = onecard_here("fleet", "list", "--json", "--site", site).json["terminals"]
    assert [one["findings"] for one in listed] == [["offline"]] * TERMINALS  # the simulator has ended
    assert onecard_here("fleet", "list", "--behind", "--json", "--site", site).json["terminals"] == []
    head = onecard_here("fleet", "list", "--site", site).out
    assert f"0 of {TERMINALS} online; 99 of 100 acknowledged within ms: live " in " ".join(head.split())
    figures = onecard_here("fleet", "metrics", "--json", "--site", site).json
    counts = {one["samples"][0]["name"]: one["samples"][0]["value"] for one in figures["metrics"] if one["samples"]}
    assert counts["onecard_frontend_records_received_total"] >= TAPS
    assert figures["waits"]["live"]["count"] + figures["waits"]["backlog"]["count"] > 0
    text = onecard_here("fleet", "metrics", "--prometheus", "--site", site).out
    assert "\nonecard_frontend_terminals_online 0\n" in text
    table = onecard_here("fleet", "metrics", "--site", site).out
    assert "onecard_frontend_records_received_total" in table
    first = onecard_here("fleet", "list", "--limit", 1, "--json", "--site", site).json
    assert ([one["terminal"] for one in first["terminals"]], first["truncated"]) == ([1001], True)
    assert "look at its power" in onecard_here("fleet", "list", "--site", site).out
    shown = onecard_here("fleet", "show", 1001, "--json", "--site", site).json
    assert (shown["terminal"], shown["session"]["online"], shown["kind"]) == (1001, False, "pos")
    assert shown["epochs"][0]["ranges"] == [[1, shown["session"]["durable"]]]
    text = onecard_here("fleet", "show", 1001, "--site", site).out
    for part in ("terminal 1001", "deny list (黑名单)", "its clock less ours", "unsettled: sequences 1 to"):
        assert part in text
    assert onecard_here("fleet", "gaps", "--json", "--site", site).json == {
        "gaps": [], "records": {}, "truncated": False,
    }  # fmt: skip
    assert onecard_here("fleet", "gaps", "--terminal", 1001, "--site", site).code == 0


def _record(site: Path) -> None:
    found: dict[str, Any] = onecard_here("spool", "show", "--json", "--limit", 50, "--site", site).json
    row = next(one for one in found["rows"] if one["records"])
    sequence = row["records"][0]["sequence"]
    identity = ("--terminal", row["terminal"], "--sequence", sequence)
    by_number = onecard_here("spool", "inspect", row["row"], "--json", "--site", site)
    by_identity = onecard_here("spool", "inspect", *identity, "--json", "--site", site)
    assert (by_number.code, by_identity.code) == (0, 0)
    [record] = by_identity.json["rows"][0]["records"]
    assert record in by_number.json["rows"][0]["records"]
    fields = {one["name"]: one["value"] for one in record["fields"]}
    assert (fields["terminal"], fields["sequence"]) == (str(row["terminal"]), str(sequence))
    assert by_identity.json["seals"].startswith("not verified")
    text = onecard_here("spool", "inspect", *identity, "--site", site).out
    assert "predecessor's seal" in text
    assert "waits for a receipt" in text
    cards = [json.loads(line) for line in (site / "cards" / "register.jsonl").read_text().splitlines()]
    for card in cards:
        assert not re.search(rf"\b{card['number']}\b", text + by_number.out)
        for secret in (card["number"].to_bytes(4, "big").hex(), card["uid"]):
            assert secret not in text + by_number.out
    assert FIRST_CARD in [card["number"] for card in cards]


def test_a_row_or_record_that_is_not_there_is_told_why(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        assert server.stop() == 0
    missing = onecard_here("spool", "inspect", 99, "--site", site)
    assert (missing.code, "row 99 is not stored" in missing.err) == (1, True)
    unknown = onecard_here("spool", "inspect", "--terminal", 1001, "--sequence", 5, "--site", site)
    assert (unknown.code, "onecard fleet gaps" in unknown.err) == (1, True)
    for arguments in ((), (1, "--terminal", 1001, "--sequence", 1), ("--terminal", 1001)):
        assert onecard_here("spool", "inspect", *arguments, "--site", site).code == 2, arguments


def test_fleet_verbs_without_a_server_are_exit_code_3(site: Path) -> None:
    for verb in (("show", 1001), ("gaps",), ("list",)):
        assert onecard_here("fleet", *verb, "--site", site).code == 3, verb
