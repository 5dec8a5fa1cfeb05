"""`onecard keys`: what it makes, what it refuses, and that it never shows a key."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from onecard_host import Host
from onecard_keys import KeyFile
from protocol.cards.pboc_image import PbocCardImage
from protocol.cards.pboc_macs import pboc_key
from protocol.codes import ProofSuite, Suite
from protocol.keys import link_key, seal_key
from terminal_sim.card_kinds import kind_of
from terminal_sim.population import load_cards
from tests.cli.commands import onecard_here
from tests.cli.conftest import CARDS, FIRST_CARD, TERMINALS


def test_a_site_is_made_once(site: Path) -> None:
    before = (site / "secrets" / "ledger.keystore").read_bytes()
    done = onecard_here("keys", "init", "--site", site)
    assert done.code == 1
    assert "already" in done.err
    assert (site / "secrets" / "ledger.keystore").read_bytes() == before


def test_files_of_a_new_site_are_this_users_alone(site: Path) -> None:
    for path in [*(site / "secrets").iterdir(), *(site / "offline").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_an_unknown_time_zone_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = onecard_here("keys", "init", "--time-zone", "Mars/Olympus", "--site", tmp_path / "new")
    assert done.code == 2
    assert not (tmp_path / "new").exists()


def test_enrolment_goes_on_where_it_ended(site: Path) -> None:
    done = onecard_here("keys", "enrol", "-n", 2, "--kind", "meal", "--merchants", 2, "--json", "--site", site)
    assert done.json == {
        "terminals": [1001 + TERMINALS, 1002 + TERMINALS],
        "kind": "meal",
        "suite": "A",
        "proof_suite": "A",
    }
    lines = [json.loads(line) for line in (site / "registry.json").read_text().splitlines()]
    assert [one["kind"] for one in lines[1:]] == ["pos"] * TERMINALS + ["meal"] * 2


@pytest.mark.parametrize(
    ("options", "suite", "proof_suite"),
    [
        (["--suite", "B"], "B", "sm4_cmac"),
        (["--suite", "B", "--proof-suite", "A"], "B", None),
        (["--proof-suite", "B"], "A", "sm4_cmac"),
    ],
)
def test_enrolment_fixes_both_suites_and_the_keys_are_of_them(
    site: Path, options: list[str], suite: str, proof_suite: str | None
) -> None:
    assert onecard_here("keys", "enrol", *options, "--site", site).code == 0
    row = json.loads((site / "registry.json").read_text().splitlines()[-1])
    assert (row["suite"], row.get("proof_suite")) == (suite, proof_suite)
    masters = KeyFile.named(site / "offline", "enrolment").open()
    held = KeyFile.named(site / "secrets", "terminals").open()
    facts = {"terminal": row["terminal"], "epoch": 1}
    link = link_key(masters.key("link_master.1"), **facts, key_version=1, suite=Suite[suite])
    proofs = ProofSuite.AES_CMAC if proof_suite is None else ProofSuite.SM4_CMAC
    assert held.key(f"link.{row['terminal']}.1") == link
    assert held.key(f"seal.{row['terminal']}.1") == seal_key(masters.key("seal_master.1"), **facts, proof_suite=proofs)


def test_a_reserved_suite_cannot_be_enrolled(site: Path) -> None:
    assert onecard_here("keys", "enrol", "--suite", "B_SM2", "--site", site).code == 2


def test_cards_are_counted_and_carry_their_opening_balance(site: Path) -> None:
    done = onecard_here("keys", "cards", "-n", 2, "--opening", "12.30", "--json", "--site", site)
    first = FIRST_CARD + CARDS
    assert done.json == {
        "first": first,
        "last": first + 1,
        "count": 2,
        "aes": 2,
        "memory": 0,
        "pboc": 0,
        "opening_cents": 1230,
    }
    assert onecard_here("ledger", "card", "issue", "--json", "--site", site).json["issued"] == 2
    shown = onecard_here("ledger", "card", "show", first, "--json", "--site", site).json
    assert shown["mirror_cents"] == 1230


def test_cards_of_three_kinds_are_made_and_issued_by_kind(site: Path) -> None:
    made = ("keys", "cards", "-n", 6, "--memory", 2, "--pboc", 3, "--opening", "5.00")
    done = onecard_here(*made, "--json", "--site", site)
    first = FIRST_CARD + CARDS
    assert (done.json["first"], done.json["aes"], done.json["memory"], done.json["pboc"]) == (first, 1, 2, 3)
    lines = [json.loads(line) for line in (site / "cards" / "register.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines[-6:]] == [1, 2, 2, 3, 3, 3]
    assert {name for line in lines for name in line} == {
        *("number", "uid", "kind", "key_version", "group", "opening_cents")
    }, "no key leaves with the register"
    cards = {card.number: card for card in load_cards(Host({}).simulator(site))}
    assert [kind_of(cards[first + offset]) for offset in range(6)] == [line["kind"] for line in lines[-6:]]
    assert {card.balance_cents for number, card in cards.items() if number >= first} == {500}
    assert [cards[line["number"]].uid.hex() for line in lines] == [line["uid"] for line in lines]
    assert onecard_here("ledger", "card", "issue", "--json", "--site", site).json["issued"] == 6
    shown = onecard_here("ledger", "card", "show", first + 1, "--json", "--site", site).json
    assert (shown["kind"], shown["mirror_cents"]) == (2, 500)


def test_the_ledger_can_derive_a_purses_tac_key_and_no_sam_can(site: Path) -> None:
    assert onecard_here("keys", "cards", "--pboc", 1, "--site", site).code == 0
    [*_, card] = load_cards(Host({}).simulator(site))
    assert isinstance(card, PbocCardImage)
    held = {name: KeyFile.named(site / "secrets", name).open().keys for name in ("ledger", "sam", "load", "frontend")}
    assert pboc_key(held["ledger"]["pboc_tac_master.1"], card.uid) == card.keys.tac
    assert pboc_key(held["load"]["pboc_load_master.1"], card.uid) == card.keys.load
    tac, load = held["ledger"]["pboc_tac_master.1"], held["load"]["pboc_load_master.1"]
    assert not {tac, held["ledger"]["tac_master.1"]} & {*held["sam"].values(), *held["load"].values()}
    assert load not in held["sam"].values()
    assert held["load"]["memory_purse_b_master.1"] not in held["sam"].values()
    assert not {*held["sam"].values(), *held["load"].values(), tac} & set(held["frontend"].values())


def test_more_of_a_kind_than_cards_is_a_usage_error(site: Path) -> None:
    before = (site / "cards" / "register.jsonl").read_bytes()
    done = onecard_here("keys", "cards", "-n", 3, "--memory", 2, "--pboc", 2, "--site", site)
    assert done.code == 2
    assert "do not fit into --count 3" in done.err
    assert (site / "cards" / "register.jsonl").read_bytes() == before


def test_a_site_from_before_a_kind_says_that_it_has_no_masters(site: Path) -> None:
    file = KeyFile.named(site / "offline", "cards")
    contents = file.open()
    del contents.keys["pboc_tac_master.1"]
    file.write(contents)
    done = onecard_here("keys", "cards", "--pboc", 1, "--site", site)
    assert done.code == 4
    assert "no PBOC cards here" in done.err
    assert "pboc_tac_master.1" in done.err


@pytest.mark.parametrize("text", ["1.5", "-1", "1,50", "1.234", "", "ten"])
def test_an_amount_that_is_none_is_a_usage_error(site: Path, text: str) -> None:
    assert onecard_here("keys", "cards", "--opening", text, "--site", site).code == 2


def test_no_key_is_ever_shown(site: Path) -> None:
    shown = (
        onecard_here("keys", "show", "--site", site).out + onecard_here("keys", "show", "--json", "--site", site).out
    )
    looked_at = 0
    for place in ("secrets", "offline"):
        for path in (site / place).glob("*.keystore"):
            for key in KeyFile.named(path.parent, path.stem).open().keys.values():
                looked_at += 1
                assert key.hex() not in shown.lower()
                assert key.hex()[:8] not in shown.lower()
    assert looked_at > 20
    assert "check value" in shown


def test_a_replaced_terminal_gets_the_next_epoch_new_keys_and_a_closed_old_epoch(site: Path) -> None:
    before = json.loads((site / "registry.json").read_text().splitlines()[1])
    done = onecard_here("keys", "replace", before["terminal"], "--json", "--site", site)
    assert done.json == {"terminal": before["terminal"], "epoch": 2}
    after = json.loads((site / "registry.json").read_text().splitlines()[1])
    assert after["epoch"] == 2
    assert after["closed"] == [{"epoch": 1, "enrolment_id": before["enrolment_id"]}]
    assert after["enrolment_id"] != before["enrolment_id"]
    keys = KeyFile.named(site / "secrets", "terminals").open().keys
    for branch in ("link", "seal"):
        assert keys[f"{branch}.{before['terminal']}.1"] != keys[f"{branch}.{before['terminal']}.2"]


def test_a_terminal_never_enrolled_cannot_be_replaced(site: Path) -> None:
    done = onecard_here("keys", "replace", 9_999, "--site", site)
    assert done.code != 0
    assert "9999" in done.err
