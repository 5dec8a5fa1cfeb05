"""Load orders from the counter to the card, or back to the payer (充值, R22)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.loading import load_items, orders_of_station
from ledger_sync.ledger.report import report
from protocol.codes import RecordType
from protocol.record_bodies import Load
from tests.ledger.canteen import OPENING_CENTS, Canteen, Card, Till, assert_sound

CASH_IN, MIRROR, IN_FLIGHT, PAID_OUT, WITHOUT_ORDER = 1, 3, 4, 9, 12
STATION = 60


@pytest.fixture
def card() -> Card:
    return Card(1001)


@pytest.fixture
def station() -> Till:
    return Till(STATION)


@pytest.fixture
def canteen(tmp_path: Path, card: Card, station: Till) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card, Card(1002)], tills=[Till(51)])
    made.operate("register", terminals=[station.registered(kind=4)])
    yield made
    assert_sound(made)
    made.close()


def money(canteen: Canteen) -> tuple[int, ...]:
    """(cash in, loads in flight, loaded on the card, paid out, loads without order)"""
    loaded = canteen.balance(MIRROR, 1001) - OPENING_CENTS
    in_flight, paid_out = canteen.balance(IN_FLIGHT), canteen.balance(PAID_OUT)
    return -canteen.balance(CASH_IN), in_flight, loaded, paid_out, -canteen.balance(WITHOUT_ORDER)


def states(canteen: Canteen) -> list[Any]:
    return [row for (row,) in canteen.ledger.connection.execute("SELECT state FROM load_orders ORDER BY load_order")]


def told(canteen: Canteen) -> dict[str, Any]:
    return report(canteen.ledger.connection, now_ms=canteen.now_ms)


def test_a_load_takes_its_order_out_of_flight(canteen: Canteen, card: Card, station: Till) -> None:
    made = canteen.operate("topup", card=1001, amount_cents=5_000)
    assert made == {"card": 1001, "load_order": 1, "serial": 1, "amount_cents": 5_000, "station": STATION}
    assert money(canteen) == (5_000, 5_000, 0, 0, 0)
    assert canteen.post(station.row(station.does(Load, card, 5_000, reference=1, order=1))) == [0x00]
    assert money(canteen) == (5_000, 0, 5_000, 0, 0)
    assert states(canteen) == ["executed"]
    assert canteen.balance(MIRROR, 1001) == card.balance_cents
    assert told(canteen)["records"]["amount_cents"] == -5_000


@pytest.mark.parametrize("wrong", [{"order": 2}, {"reference": 2}, {"cents": 5_001}], ids=["order", "serial", "amount"])
def test_a_load_that_no_order_explains_is_kept_apart(
    canteen: Canteen, card: Card, station: Till, wrong: dict[str, int]
) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    facts = {"cents": 5_000, "reference": 1, "order": 1} | wrong
    cents = facts.pop("cents")
    assert canteen.post(station.row(station.does(Load, card, cents, **facts))) == [0x0D]
    assert money(canteen) == (5_000, 5_000, cents, 0, cents)
    found = told(canteen)["exceptions"]["load_without_order"]
    assert (found["items"], found["amount_cents"]) == (1, cents)
    assert states(canteen) == ["in_flight"]


def test_the_stations_word_gives_the_order_back_to_its_payer(canteen: Canteen, card: Card, station: Till) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    assert canteen.post(station.row(station.not_executed(card, 5_000, 1, 1))) == [0x00]
    assert money(canteen) == (5_000, 0, 0, 5_000, 0)
    assert states(canteen) == ["not_executed"]
    assert told(canteen)["open_items"]["load_in_flight"]["items"] == 0


@pytest.mark.parametrize("who", ["another terminal", "another amount", "another order", "said before"])
def test_other_words_end_no_order(canteen: Canteen, card: Card, station: Till, who: str) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    till = Till(51) if who == "another terminal" else station
    cents, order = 5_000 + (who == "another amount"), 1 + (who == "another order")
    if who == "said before":
        canteen.post(till.row(till.not_executed(card, cents, 1, order)))
    assert canteen.post(till.row(till.not_executed(card, cents, 1, order))) == [0x0D]
    assert money(canteen) == ((5_000, 0, 0, 5_000, 0) if who == "said before" else (5_000, 5_000, 0, 0, 0))


@pytest.mark.parametrize("is_load_first", [True, False])
def test_a_card_that_was_loaded_wins_over_a_station_that_says_it_was_not(
    canteen: Canteen, card: Card, station: Till, is_load_first: bool
) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    rows = [
        station.row(station.does(Load, card, 5_000, reference=1, order=1)),
        station.row(station.not_executed(card, 5_000, 1, 1)),
    ]
    if not is_load_first:
        rows.reverse()
    assert [canteen.post(row)[0] for row in rows] == [0x00, 0x0D]
    assert money(canteen) == (5_000, 0, 5_000, 0, 0)
    found = told(canteen)["exceptions"]["load_contradiction"]
    assert (found["items"], found["amount_cents"]) == (1, 5_000)


def test_a_cloned_card_loads_once_by_its_order_and_the_lowest_counter_has_it(
    canteen: Canteen, card: Card, station: Till
) -> None:
    clone = Card(1001)
    clone.debit(station, 1, sequence=900)  # its counter is one ahead
    canteen.operate("topup", card=1001, amount_cents=5_000)
    later = station.does(Load, clone, 5_000, reference=1, order=1)
    earlier = station.does(Load, card, 5_000, reference=1, order=1)
    assert canteen.post(station.row(later)) == [0x00]
    assert canteen.post(station.row(earlier)) == [0x0D]
    assert money(canteen) == (5_000, 0, 10_000, 0, 5_000)
    met = canteen.ledger.connection.execute("SELECT sequence, is_met FROM claims ORDER BY 1").fetchall()
    assert met == [(1, 0), (2, 1)]


@pytest.mark.parametrize("outcome", ["executed", "not executed"])
def test_two_persons_end_an_order_and_the_cards_proof_reverses_them(
    canteen: Canteen, card: Card, station: Till, outcome: str
) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    canteen.decide("load", 1, outcome)
    ended = {"executed": (5_000, 0, 5_000, 0, 0), "not executed": (5_000, 0, 0, 5_000, 0)}
    assert money(canteen) == ended[outcome]
    (item,) = load_items(canteen.ledger.connection, now_ms=canteen.now_ms, everything=True)
    assert (item["ended_by"], item["decision"]["closed_by"]) == ("two persons", "Wang")
    with pytest.raises(VerbRefused, match="decided already"):
        canteen.decide("load", 1, outcome)
    assert canteen.post(station.row(station.does(Load, card, 5_000, reference=1, order=1))) == [0x0D]
    assert money(canteen) == (5_000, 0, 5_000, 0, 0)
    assert canteen.ledger.connection.execute("SELECT state FROM decisions").fetchall() == [("reversed",)]


def test_an_order_that_its_card_has_executed_cannot_be_decided(canteen: Canteen, card: Card, station: Till) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    canteen.operate("propose", subject="load", item=1, outcome="not executed", reason="the payer wants it back")
    canteen.post(station.row(station.does(Load, card, 5_000, reference=1, order=1)))
    assert canteen.ledger.connection.execute("SELECT state FROM decisions").fetchall() == [("lapsed",)]
    with pytest.raises(VerbRefused, match="settled by its record or proof"):
        canteen.operate("propose", subject="load", item=1, outcome="executed", reason="again")
    with pytest.raises(VerbRefused, match="no load item 2"):
        canteen.operate("propose", subject="load", item=2, outcome="executed", reason="never made")


def test_a_completion_of_a_load_finds_its_order_by_the_serial(canteen: Canteen, card: Card, station: Till) -> None:
    other = Till(51)
    canteen.operate("topup", card=1001, amount_cents=5_000)
    doubt = station.doubt(card, 5_000, RecordType.LOAD, 1, order=1)
    proof = card.debit(station, 5_000, sequence=1, type_=RecordType.LOAD)
    assert canteen.post(station.row(doubt)) == [0x0F]
    assert money(canteen) == (5_000, 5_000, 0, 0, 0)
    assert canteen.post(other.row(other.completion(proof, original_type=RecordType.LOAD, reference=1))) == [0x08]
    assert money(canteen) == (5_000, 0, 5_000, 0, 0)


def test_the_doubt_of_a_load_is_decided_by_its_order(canteen: Canteen, card: Card, station: Till) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    canteen.post(station.row(station.doubt(card, 5_000, RecordType.LOAD, 1, order=1)))
    with pytest.raises(VerbRefused, match="decide its order"):
        canteen.operate("propose", subject="suspense", item=1, outcome="spent", reason="seen")
    canteen.decide("suspense", 1, "not spent")
    assert money(canteen) == (5_000, 5_000, 0, 0, 0)


def test_a_load_that_came_before_its_order_finds_it_when_it_is_made(
    canteen: Canteen, card: Card, station: Till
) -> None:
    """After a restore an operator enters the orders of the lost day again (R17)."""
    canteen.post(station.row(station.does(Load, card, 5_000, reference=1, order=1)))
    assert money(canteen) == (0, 0, 5_000, 0, 5_000)
    canteen.operate("topup", card=1001, amount_cents=5_000)
    assert money(canteen) == (5_000, 0, 5_000, 0, 0)
    assert states(canteen) == ["executed"]


def test_orders_are_listed_with_age_and_sent_to_the_station_that_they_name(canteen: Canteen, station: Till) -> None:
    canteen.operate("topup", card=1001, amount_cents=5_000)
    canteen.operate("register", terminals=[Till(61).registered(kind=4)])
    with pytest.raises(VerbRefused, match="2 load stations"):
        canteen.operate("topup", card=1002, amount_cents=100)
    with pytest.raises(VerbRefused, match="no load station"):
        canteen.operate("topup", card=1002, amount_cents=100, station=51)
    canteen.operate("topup", card=1002, amount_cents=100, station=61)
    canteen.operate("topup", card=1001, amount_cents=200, station=STATION)
    connection = canteen.ledger.connection
    listed = load_items(connection, now_ms=canteen.now_ms + 60_000)
    assert [(one["load_order"], one["card"], one["station"]) for one in listed] == [
        (1, "…1001", 60), (2, "…1002", 61), (3, "…1001", 60),
    ]  # fmt: skip
    assert listed[0]["age_ms"] > 60_000
    assert [json.dumps(one) for one in orders_of_station(connection, STATION)] == [
        '{"order": 1, "card": 1001, "amount_cents": 5000, "serial": 1, "station": 60}',
        '{"order": 3, "card": 1001, "amount_cents": 200, "serial": 2, "station": 60}',
    ]
