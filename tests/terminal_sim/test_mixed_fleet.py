"""Whole runs with cards of three kinds, under virtual time: torn cards, the card check, and the truth of every grey."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.cards.apdu import Identity
from protocol.codes import CardKind, RecordType
from protocol.records import Completion, Grey, Purchase, RecordHead, decode_body, read_head
from terminal_sim.population import MEMORY_IMAGES_FILE, load_cards
from terminal_sim.report import render
from terminal_sim.seats import load_seats
from tests.terminal_sim.fleet_kit import FIRST_CARD, Canteen, asked
from tests.terminal_sim.kit import proof_verifies

MakeCanteen = Callable[..., Canteen]
MIXED = {"cards": 12, "memory": 4, "pboc": 4}
TORN = "torn:every=5"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeCanteen]:
    made: list[Canteen] = []

    def build(**options: Any) -> Canteen:
        made.append(Canteen(tmp_path / str(len(made)), **(MIXED | options)))
        return made[-1]

    yield build
    for canteen in made:
        canteen.close()


def held(canteen: Canteen) -> Iterator[tuple[RecordHead, Any]]:
    """What the front-end got, decoded."""
    for records in canteen.frontend.stored.values():
        for record in records.values():
            yield read_head(record), decode_body(record)


def check_books(canteen: Canteen) -> dict[Identity, dict[str, Any]]:
    """Money that left cards = proved records + greys that were spent; returns greys.json by identity."""
    oracle, sim = canteen.read("oracle.json"), canteen.read("sim.json")
    assert oracle["agrees"], oracle
    assert oracle["faults"] == []
    assert sim["records_created"] == sim["records_acknowledged"] == canteen.frontend.records()
    greys = {
        Identity(row["terminal"], row["epoch"], row["sequence"]): row for row in canteen.read("greys.json")["greys"]
    }
    proved: dict[Identity, int] = {}
    seen = set()
    for head, body in held(canteen):
        identity = Identity(head.terminal, head.epoch, head.sequence)
        if isinstance(body, Purchase):
            assert proof_verifies(head, body)
            proved[identity] = body.amount_cents
        elif isinstance(body, Completion):
            assert proof_verifies(head, body)
            proved[Identity(body.original_terminal, body.original_epoch, body.original_sequence)] = body.amount_cents
        elif isinstance(body, Grey):
            seen.add(identity)
    assert seen == set(greys), "every grey record in flash is named, and no other"
    for identity, row in greys.items():
        assert row["executed"] or identity not in proved
        is_open = row["decided_by"] in {"two_persons", "pending_proof"}
        assert is_open == (identity not in proved and row["decided_by"] != "later_proof"), row
        if is_open and row["executed"]:
            proved[identity] = row["amount_cents"]
            is_memory = row["card_kind"] == "memory"
            assert is_memory == (row["decided_by"] == "two_persons"), "a CPU card's debit that happened is proved"
        if row["purse_says_spent"] is not None:
            assert row["purse_says_spent"] == row["executed"]
    assert sum(proved.values()) == oracle["opening_cents"] - oracle["purses_cents"]
    return greys


def test_a_quiet_run_sells_to_cards_of_every_kind(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked()) == 0
    assert check_books(canteen) == {}
    kinds = [body.card_kind for _, body in held(canteen)]
    assert set(kinds) == set(CardKind)
    assert len(kinds) == canteen.read("oracle.json")["sold_count"] == 200
    assert canteen.told("cards_checked") == []
    cards = canteen.read("cards.json")["cards"]
    assert [card["kind"] for card in cards] == ["aes"] * 4 + ["memory"] * 4 + ["pboc"] * 4
    assert sum(card["counter"] for card in cards) == 200
    assert not any(card["torn"] for card in cards)


def test_torn_cards_of_every_kind_come_home_or_are_named_for_two_persons(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked(taps=600, faults=TORN)) == 0
    greys = check_books(canteen)
    sim = canteen.read("sim.json")
    assert sim["faults_fired"]["torn"] == sum(sim["torn_by_kind"].values()) == 120
    assert set(sim["torn_by_kind"]) == {"aes", "memory", "pboc"}
    assert sim["card_check"]["asked"]
    assert sim["card_check"]["checked"] == sim["card_check"]["torn"] > 0
    assert sim["torn_cards"] == {"count": 0, "listed": []}
    assert not any(card["torn"] for card in canteen.read("cards.json")["cards"])
    assert {row["decided_by"] for row in greys.values()} == {"completion", "later_proof", "two_persons"}
    memory = [row for row in greys.values() if row["card_kind"] == "memory"]
    assert {row["executed"] for row in memory} == {True, False}
    assert all(row["purse_says_spent"] is not None for row in memory), "each was tapped again"
    assert len(canteen.told("cards_checked")) == 1


def test_without_the_card_check_the_report_names_item_age_and_card(make: MakeCanteen) -> None:
    canteen = make(cards=60, memory=20, pboc=20)
    assert canteen.play(asked(taps=200, seed=9, faults=TORN), card_check=False) == 0
    greys = check_books(canteen)
    sim = canteen.read("sim.json")
    assert not sim["card_check"]["asked"]
    assert sim["card_check"]["checked"] == 0
    waiting = [row for row in greys.values() if row["decided_by"] == "pending_proof"]
    assert waiting
    assert sim["greys"]["waiting"] >= len(waiting)
    torn = sim["torn_cards"]
    assert {row["card"] for row in waiting} <= {each["card"] for each in torn["listed"]}
    assert torn["count"] == sum(card["torn"] for card in canteen.read("cards.json")["cards"])
    page = render(sim | {"oracle": canteen.read("oracle.json")})
    for row in waiting:
        assert f"{row['terminal']}/{row['epoch']}/{row['sequence']}" in page
        assert f"{row['card']} {row['card_kind']}" in page
        assert 0 <= row["age_s"] < 200
    assert "not asked for" in page


def test_power_cuts_under_cards_of_every_kind_lose_nothing(make: MakeCanteen) -> None:
    spec = ";".join(f"power:at={percent}%,terminals=3" for percent in range(5, 95, 10)) + ";torn:every=11"
    canteen = make()
    assert canteen.play(asked(taps=600, faults=spec)) == 0
    check_books(canteen)
    oracle = canteen.read("oracle.json")
    assert oracle["interrupted_taps"] > 0
    assert len(canteen.told("till_dark")) >= 20


def test_a_card_check_under_a_power_cut_waits_for_tills_and_still_brings_every_card_home(make: MakeCanteen) -> None:
    canteen = make(cards=60, memory=20, pboc=20)
    assert canteen.play(asked(taps=200, seed=9, faults=f"{TORN};power:at=99%,terminals=4,seconds=2")) == 0
    check_books(canteen)
    over, checked = canteen.told("selling_finished")[0], canteen.told("cards_checked")[0]
    assert checked["checked"] == checked["torn"] > 5
    assert checked["ms"] - over["ms"] > 500, "some till went dark under a card, and came back"
    assert any(over["ms"] <= each["ms"] <= checked["ms"] for each in canteen.told("till_dark"))
    assert canteen.read("sim.json")["torn_cards"]["count"] == 0


def test_a_killed_run_with_mixed_cards_goes_on_and_still_knows_what_memory_cards_paid(make: MakeCanteen) -> None:
    for kill_ms in (900, 2100):
        canteen = make()
        wanted = asked(taps=300, faults=f"{TORN};power:at=25%,terminals=2")
        for _ in range(3):
            play, _ports = canteen.begin(wanted, resume=True)
            canteen.kill(play, kill_ms)
        assert canteen.play(wanted, resume=True) == 0
        assert canteen.told("started")[-1]["resumed_taps"] > 0
        check_books(canteen)
        assert canteen.read("sim.json")["torn_cards"]["count"] == 0


def test_the_same_seed_tears_the_same_mixed_cards(make: MakeCanteen) -> None:
    runs = []
    for _ in range(2):
        canteen = make()
        assert canteen.play(asked(faults=TORN)) == 0
        runs.append((canteen.world.trace_hash(), canteen.read("greys.json"), canteen.read("cards.json")))
    assert runs[0] == runs[1]


def test_a_site_without_aes_cards_plays_too(make: MakeCanteen) -> None:
    canteen = make(cards=8, memory=4, pboc=4)
    assert not canteen.place.card_images.exists()
    assert [card.number for card in load_cards(canteen.place)] == list(range(FIRST_CARD, FIRST_CARD + 8))
    assert canteen.play(asked(taps=80)) == 0
    check_books(canteen)
    canteen.place.card_images.with_name(MEMORY_IMAGES_FILE).unlink()
    assert [card.number for card in load_cards(canteen.place)] == list(range(FIRST_CARD + 4, FIRST_CARD + 8))


def test_terminals_serve_the_kinds_whose_masters_their_sam_has(make: MakeCanteen) -> None:
    canteen = make()
    sam = canteen.place.keystore("sam")
    assert set(load_seats(canteen.place, 1)[0].secrets.card_kinds()) == set(CardKind)
    del sam.keys["memory_purse_a_master.1"], sam.keys["pboc_maintenance_master.1"]
    assert set(load_seats(canteen.place, 1)[0].secrets.card_kinds()) == {CardKind.AES}
    assert canteen.play(asked(taps=60)) == 0
    oracle = canteen.read("oracle.json")
    assert oracle["agrees"]
    assert oracle["refused"]["foreign"] + oracle["sold_count"] == 60
    assert RecordType.PURCHASE in {head.type for head, _ in held(canteen)}
