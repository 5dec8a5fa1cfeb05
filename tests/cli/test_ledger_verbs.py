"""`onecard ledger`: verbs in place and through the admin socket, their JSON, refusals, and exit codes."""

from __future__ import annotations

import io
import json
import sqlite3
from datetime import date, timedelta
from pathlib import Path

import pytest

from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.keys import LedgerKeys
from onecard_host import Host
from protocol.codes import ProofSuite
from protocol.link_messages import BatchMessage, Row, name_batch
from tests.cli.commands import onecard_here, serving
from tests.cli.conftest import CARDS, FIRST_CARD, TERMINALS
from tests.ledger.canteen import NOW_MS, Card, PlainFiles, Till


def ledger(site: Path, *arguments: object) -> object:
    done = onecard_here("ledger", *arguments, "--json", "--site", site)
    assert done.code == 0, done.err
    return done.json


def test_books_are_opened_once(site: Path) -> None:
    done = onecard_here("ledger", "init", "--site", site)
    assert done.code in {1, 4}
    assert done.err.count("\n") == 1


def test_without_books_every_verb_says_how_to_open_them(site: Path) -> None:
    for path in (site / "data" / "ledger").iterdir():
        path.unlink()
    for verb in (("report",), ("balances",), ("verify",), ("lost", 1), ("card", "show", 1)):
        done = onecard_here("ledger", *verb, "--site", site)
        assert done.code == 1, verb
        assert "onecard ledger init" in done.err


def test_the_report_has_what_a_clearing_needs(site: Path) -> None:
    found = ledger(site, "report")
    assert isinstance(found, dict)
    assert found["site"] == 42
    assert found["counts"]["cards"] == CARDS
    assert found["counts"]["terminals"] == TERMINALS
    assert found["records"]["count"] == found["double_posted"] == 0
    assert found["conservation"]["opening_cents"] == CARDS * 5_000
    assert found["conservation"]["difference_cents"] == 0
    assert set(found["open_items"]) >= {"gap", "grey", "quarantine", "load_in_flight", "tombstone"}
    assert "records held" in onecard_here("ledger", "report", "--site", site).out


def test_a_lot_is_lost_and_released(site: Path) -> None:
    told = ledger(site, "lost", "--lot", 976, "--operator", "Li")
    assert isinstance(told, dict)
    assert (told["first_card"], told["last_card"], told["list_version"]) == (999_424, 1_000_447, [1, 2])
    assert "999424 to 1000447" in onecard_here("ledger", "release", "--lot", 976, "--site", site).out
    for arguments in ((), (FIRST_CARD, "--lot", 976)):
        done = onecard_here("ledger", "lost", *arguments, "--site", site)
        assert (done.code, "--lot" in done.err) == (2, True)


@pytest.mark.parametrize("is_served", [False, True], ids=["in place", "through the socket"])
def test_a_card_is_lost_released_and_cancelled(site: Path, is_served: bool) -> None:
    def story() -> None:
        version = 1
        for verb, status in (("lost", "lost"), ("release", "active"), ("lost", "lost")):
            version += 1
            told = ledger(site, verb, FIRST_CARD, "--operator", "Li")
            assert isinstance(told, dict)
            assert told["at_ms"] > 0
            assert (told["card"], told["status"], told["list_version"]) == (FIRST_CARD, status, [1, version])
        refused = onecard_here("ledger", "lost", FIRST_CARD, "--site", site)
        assert refused.code == 1
        assert str(FIRST_CARD) not in refused.err
        told = ledger(site, "cancel", FIRST_CARD, "--yes")
        assert isinstance(told, dict)
        assert told["status"] == "cancelled"
        shown = ledger(site, "card", "show", FIRST_CARD)
        assert isinstance(shown, dict)
        assert shown["status"] == "cancelled"

    if not is_served:
        story()
        return
    with serving("ledger", "serve", "--site", site) as server:
        story()
        assert server.stop() == 0


@pytest.mark.parametrize("is_served", [False, True], ids=["in place", "through the socket"])
def test_a_top_up_is_cash_in_and_a_load_in_flight(site: Path, is_served: bool) -> None:
    def story() -> None:
        told = ledger(site, "topup", FIRST_CARD, "20.50")
        assert isinstance(told, dict)
        assert (told["amount_cents"], told["serial"]) == (2_050, 1)
        found = ledger(site, "balances")
        assert isinstance(found, dict)
        assert found["conservation"]["cash_in_cents"] == found["conservation"]["loads_in_flight_cents"] == 2_050

    if not is_served:
        story()
        return
    with serving("ledger", "serve", "--site", site) as server:
        story()
        assert server.stop() == 0


def test_cancelling_asks_first(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = onecard_here("ledger", "cancel", FIRST_CARD, "--site", site)
    assert done.code == 1
    shown = ledger(site, "card", "show", FIRST_CARD)
    assert isinstance(shown, dict)
    assert shown["status"] == "active"


def test_imports_can_be_repeated(site: Path) -> None:
    assert ledger(site, "card", "issue") == {"issued": 0, "already_issued": CARDS}
    assert ledger(site, "register") == {"added": 0, "updated": TERMINALS}
    assert onecard_here("keys", "enrol", "-n", 1, "--site", site).code == 0
    assert ledger(site, "register") == {"added": 1, "updated": TERMINALS}


def test_the_operator_stands_in_the_books(site: Path) -> None:
    ledger(site, "lost", FIRST_CARD, "--operator", "王芳")
    with_names = sqlite3.connect(f"file:{site / 'data' / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
    names = [name for (name,) in with_names.execute("SELECT operator FROM operations ORDER BY operation")]
    with_names.close()
    assert names[0] == "tests"
    assert names[-1] == "王芳"


@pytest.mark.parametrize("verb", ["lost", "release", "cancel", "topup"])
def test_a_card_that_was_never_issued_is_refused(site: Path, verb: str) -> None:
    more = {"cancel": ["--yes"], "topup": ["1.00"]}.get(verb, [])
    done = onecard_here("ledger", verb, 7, *more, "--site", site)
    assert done.code == 1
    assert "never issued" in done.err


def test_sound_books_verify_and_a_touched_row_is_named(site: Path) -> None:
    ledger(site, "topup", FIRST_CARD, "20.50")
    found = ledger(site, "verify")
    assert isinstance(found, dict)
    assert (found["sound"], found["findings"]) == (True, [])
    changed = sqlite3.connect(site / "data" / "ledger" / "ledger.db")
    changed.execute("UPDATE load_orders SET amount_cents = amount_cents + 1")
    changed.commit()
    changed.close()
    done = onecard_here("ledger", "verify", "--json", "--site", site)
    assert done.code == 4
    assert done.json["sound"] is False
    assert done.json["findings"][0]["table"] == "load_orders"
    assert "load_orders row 1, amount_cents" in onecard_here("ledger", "verify", "--site", site).out


def test_books_that_disagree_are_exit_code_1(site: Path) -> None:
    changed = sqlite3.connect(site / "data" / "ledger" / "ledger.db")
    changed.execute("UPDATE cards SET mirror_cents = mirror_cents + 1")
    changed.commit()
    changed.close()
    assert onecard_here("ledger", "report", "--site", site).code == 1
    assert onecard_here("ledger", "balances", "--site", site).code == 1


def test_a_truncated_ledger_is_exit_code_4(site: Path) -> None:
    """The heads file outside the database knows of an operation that the database has lost."""
    changed = sqlite3.connect(site / "data" / "ledger" / "ledger.db")
    changed.execute("DELETE FROM operations WHERE operation = (SELECT max(operation) FROM operations)")
    changed.commit()
    changed.close()
    done = onecard_here("ledger", "lost", FIRST_CARD, "--site", site)
    assert done.code == 4


def test_a_backup_that_was_put_back_is_declared_by_restore(site: Path) -> None:
    """R17: until an operator says so the books stay shut; afterwards they verify under a higher generation."""
    database = site / "data" / "ledger" / "ledger.db"
    backup = database.read_bytes()
    ledger(site, "lost", FIRST_CARD)
    database.write_bytes(backup)
    assert onecard_here("ledger", "topup", FIRST_CARD, "1.00", "--site", site).code == 4
    assert "--yes" in onecard_here("ledger", "restore", "--site", site).err
    told = ledger(site, "restore", "--yes", "--operator", "Li")
    assert isinstance(told, dict)
    assert (told["generation"], told["position"]) == (2, 0)
    ledger(site, "topup", FIRST_CARD, "1.00")
    found = ledger(site, "verify")
    assert isinstance(found, dict)
    assert found["sound"] is True


def test_a_served_ledger_is_not_restored(site: Path) -> None:
    with serving("ledger", "serve", "--site", site):
        done = onecard_here("ledger", "restore", "--yes", "--site", site)
    assert done.code == 1
    assert "stop it" in done.err


@pytest.mark.parametrize("is_served", [False, True], ids=["in place", "through the socket"])
def test_two_persons_decide_on_the_command_line(site: Path, is_served: bool) -> None:
    def refused(*arguments: object) -> str:
        done = onecard_here("ledger", *arguments, "--site", site)
        assert done.code in {1, 2}, done
        assert done.err.strip()
        return done.err

    def story() -> None:
        for subject in ("suspense", "quarantine"):
            assert ledger(site, subject, "list") == {"items": []}
            assert onecard_here("ledger", subject, "list", "--all", "--site", site).out == "Nothing is open.\n"
        assert "no suspense item 17" in refused(
            "suspense", "resolve", 17, "--spent", "--reason", "seen", "--operator", "Li"
        )
        assert "no suspense item 17" in refused("suspense", "resolve", 17, "--spent", "--confirm", "--operator", "Li")
        assert "nothing is proposed" in refused("suspense", "resolve", 17, "--withdraw", "--operator", "Li")
        assert "--not-spent" in refused("suspense", "resolve", 17, "--operator", "Li")
        assert "no quarantine item 3" in refused("quarantine", "retry", 3, "--operator", "Li")
        assert "reason" in refused("quarantine", "reject", 3, "--operator", "Li")
        assert "operator's name" in refused("quarantine", "reject", 3, "--operator", "unknown")
        assert "exclude" in refused("quarantine", "reject", 3, "--confirm", "--withdraw", "--operator", "Li")

    if not is_served:
        story()
        return
    with serving("ledger", "serve", "--site", site) as server:
        story()
        assert server.stop() == 0


def set_aside(site: Path) -> None:
    """Book a grey of the first terminal, and a record of a terminal that nobody knows."""
    place = Host({}).ledger(site)
    keys = LedgerKeys.from_keystore(place.keystore())
    till, stranger, card = Till(1001), Till(99), Card(FIRST_CARD)
    till.key = keys.seal_key(1001, 1, ProofSuite.AES_CMAC)
    rows: list[Row] = [(1, till.row(till.grey(card, 700))), (2, stranger.row(stranger.purchase(card, 5)))]
    books = Ledger.open(place.paths(), keys, files=PlainFiles(), utc_offset_ms=place.utc_offset_ms)
    try:
        outcome = books.post(BatchMessage(name_batch(1, bytes(16), rows), rows), NOW_MS).outcome
    finally:
        books.close()
    assert outcome is not None
    assert list(outcome.results) == [0x06, 0x14]


@pytest.mark.parametrize("is_served", [False, True], ids=["in place", "through the socket"])
def test_what_is_set_aside_is_listed_proposed_and_confirmed(site: Path, is_served: bool) -> None:
    def story() -> None:
        found = ledger(site, "suspense", "list")
        assert isinstance(found, dict)
        (grey,) = found["items"]
        assert (grey["card"], grey["amount_cents"], grey["terminal"]) == (f"…{FIRST_CARD % 10_000:04d}", 700, 1001)
        resolve = ("suspense", "resolve", grey["item"], "--not-spent")
        ledger(site, *resolve, "--reason", "the card was pulled", "--operator", "Li")
        assert "Li" in onecard_here("ledger", "suspense", "list", "--site", site).out
        assert onecard_here("ledger", *resolve, "--confirm", "--operator", "li", "--site", site).code == 1
        told = ledger(site, *resolve, "--confirm", "--operator", "Wang")
        assert isinstance(told, dict)
        assert (told["proposed_by"], told["confirmed_by"], told["amount_cents"]) == ("Li", "Wang", 700)
        reject = ("quarantine", "reject", 1)
        ledger(site, *reject, "--reason", "no terminal of ours", "--operator", "Li")
        ledger(site, *reject, "--confirm", "--operator", "Wang")
        assert ledger(site, "quarantine", "list") == {"items": []}
        report = onecard_here("ledger", "report", "--site", site)
        assert report.code == 0, report.err
        assert "decided by two persons" in report.out
        assert onecard_here("ledger", "verify", "--site", site).code == 0

    set_aside(site)
    if not is_served:
        story()
        return
    with serving("ledger", "serve", "--site", site) as server:
        story()
        assert server.stop() == 0


def test_load_orders_are_listed_exported_and_decided_by_two_persons(site: Path) -> None:
    assert onecard_here("keys", "enrol", "-n", 1, "--kind", "load_station", "--site", site).code == 0
    ledger(site, "register")
    ledger(site, "topup", FIRST_CARD, "20.50")
    told = ledger(site, "topup", FIRST_CARD, "3.00")
    assert isinstance(told, dict)
    station = told["station"]
    assert station > 0
    listed = ledger(site, "loads", "list")
    assert isinstance(listed, dict)
    assert [(one["load_order"], one["amount_cents"], one["state"]) for one in listed["items"]] == [
        (1, 2_050, "in_flight"), (2, 300, "in_flight"),
    ]  # fmt: skip
    out = site / "orders.jsonl"
    done = onecard_here("ledger", "loads", "export", "--station", station, "--out", out, "--site", site)
    assert (done.code, "2 orders" in done.out) == (0, True)
    names = ["order", "card", "amount_cents", "serial", "station"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(one) for one in lines] == [names, names]
    assert [one["serial"] for one in lines] == [1, 2]
    resolve = ("loads", "resolve", 2, "--not-executed")
    ledger(site, *resolve, "--reason", "the payer wants it back", "--operator", "Li")
    ledger(site, *resolve, "--confirm", "--operator", "Wang")
    found = ledger(site, "balances")
    assert isinstance(found, dict)
    assert (found["conservation"]["loads_in_flight_cents"], found["conservation"]["paid_out_cents"]) == (2_050, 300)
    shown = onecard_here("ledger", "loads", "list", "--all", "--site", site).out
    assert "two persons" in shown
    assert onecard_here("ledger", "loads", "resolve", 1, "--site", site).code == 2


def test_a_past_day_is_closed_and_today_is_not(site: Path) -> None:
    day = ledger(site, "report")["first_open_day"]  # type: ignore[index]
    today = date(1970, 1, 1) + timedelta(days=day)
    done = onecard_here("ledger", "close-day", today.isoformat(), "--site", site)
    assert (done.code, "today cannot be closed" in done.err) == (1, True)
    done = onecard_here("ledger", "close-day", (today - timedelta(days=1)).isoformat(), "--site", site)
    assert (done.code, "closed already" in done.err) == (1, True)
    assert onecard_here("ledger", "close-day", "tomorrow", "--site", site).code == 2


def test_a_new_limit_in_the_site_file_is_in_the_log_when_the_ledger_is_served(site: Path) -> None:
    file = site / "site.toml"
    text = file.read_text()
    file.write_text(text.replace("[ledger]", "[ledger]\nunproven_limit_cents = 700") if "[ledger]" in text
                    else text + "\n[ledger]\nunproven_limit_cents = 700\n")  # fmt: skip
    with serving("ledger", "serve", "--site", site) as server:
        assert server.stop() == 0
    books = sqlite3.connect(f"file:{site / 'data' / 'ledger' / 'ledger.db'}?mode=ro", uri=True)
    last = books.execute("SELECT operator, verb, arguments FROM operations ORDER BY operation DESC").fetchone()
    books.close()
    assert last == ("onecard ledger serve", "unproven_limit", '{"cents":700}')
    assert ledger(site, "verify")["sound"]  # type: ignore[index]
