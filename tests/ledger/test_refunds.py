"""Refunds: part of the card's own last purchase, once, by the same till; what breaks a rule is kept apart (R21)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.report import report
from protocol.codes import RecordType
from protocol.record_bodies import Refund
from tests.ledger.canteen import MERCHANT, OPENING_CENTS, Canteen, Card, Till, assert_sound, facts_of

MIRROR, GREY, MERCHANTS, EXCEPTIONS = 3, 5, 7, 11


@pytest.fixture
def card() -> Card:
    return Card(1001)


@pytest.fixture
def till() -> Till:
    return Till(51)


@pytest.fixture
def canteen(tmp_path: Path, card: Card, till: Till) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card, Card(1002)], tills=[till, Till(52, merchant=9002)])
    yield made
    assert_sound(made)
    made.close()


def money(canteen: Canteen) -> tuple[int, int, int]:
    """(mirror below its opening, merchant, refund exceptions)"""
    mirror = canteen.balance(MIRROR, 1001)
    return OPENING_CENTS - mirror, canteen.balance(MERCHANTS, MERCHANT), canteen.balance(EXCEPTIONS, MERCHANT)


def exceptions(canteen: Canteen) -> dict[str, Any]:
    found: dict[str, Any] = report(canteen.ledger.connection, now_ms=canteen.now_ms)["exceptions"]["refund_exception"]
    return found


def test_a_refund_takes_from_the_merchant_what_the_purchase_gave_it(canteen: Canteen, card: Card, till: Till) -> None:
    row = till.row(till.purchase(card, 800), till.does(Refund, card, 300, reference=1, operator_card=77))
    assert canteen.post(row) == [0x00, 0x00]
    assert money(canteen) == (500, 500, 0)
    assert exceptions(canteen)["items"] == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_refund_that_comes_before_its_purchase_ends_at_the_merchant_all_the_same(
    canteen: Canteen, card: Card, till: Till, order: tuple[int, int]
) -> None:
    rows = [till.row(till.purchase(card, 800)), till.row(till.does(Refund, card, 800, reference=1))]
    results = [canteen.post(rows[at])[0] for at in order]
    assert results == ([0x00, 0x00] if order == (0, 1) else [0x0C, 0x00])
    assert money(canteen) == (0, 0, 0)


def test_before_its_purchase_is_there_a_refund_stands_against_the_exceptions(
    canteen: Canteen, card: Card, till: Till
) -> None:
    till.purchase(card, 800)
    assert canteen.post(till.row(till.does(Refund, card, 800, reference=1))) == [0x0C]
    assert money(canteen) == (-800, 0, -800)
    assert (exceptions(canteen)["items"], exceptions(canteen)["amount_cents"]) == (1, 800)


def test_a_quarantined_purchase_allows_its_refund_once_two_persons_have_had_it_tried_again(tmp_path: Path) -> None:
    card, till = Card(1001), Till(51)
    canteen = Canteen(tmp_path, cards=[card])
    purchase, refund = till.row(till.purchase(card, 800)), till.does(Refund, card, 800, reference=1)
    canteen.post(purchase)
    canteen.operate("register", terminals=[till.registered()])
    assert canteen.post(till.row(refund)) == [0x0C]
    canteen.decide("quarantine", 1, "retry")
    assert money(canteen) == (0, 0, 0)
    assert_sound(canteen)
    canteen.close()


def test_a_second_refund_of_one_purchase_is_an_exception(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.purchase(card, 800), *(till.does(Refund, card, 300, reference=1) for _ in range(2))]
    assert canteen.post(till.row(*records)) == [0x00, 0x00, 0x0C]
    assert money(canteen) == (200, 500, -300)


def test_the_first_refund_that_the_card_made_is_the_one_that_counts(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.purchase(card, 800), *(till.does(Refund, card, cents, reference=1) for cents in (300, 200))]
    assert canteen.post(till.row(records[0]), till.row(records[2])) == [0x00, 0x00]
    assert canteen.post(till.row(records[1])) == [0x00]
    assert money(canteen) == (300, 500, -200)


def test_a_refund_above_the_purchase_is_an_exception(canteen: Canteen, card: Card, till: Till) -> None:
    assert canteen.post(till.row(till.purchase(card, 800), till.does(Refund, card, 801, reference=1))) == [0x00, 0x0C]
    assert money(canteen) == (-1, 800, -801)


def test_a_refund_of_another_cards_purchase_is_an_exception(canteen: Canteen, card: Card, till: Till) -> None:
    assert canteen.post(till.row(till.purchase(Card(1002), 800), till.does(Refund, card, 100, reference=1))) == [
        0,
        0x0C,
    ]


def test_a_refund_of_what_comes_after_it_is_an_exception(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.does(Refund, card, 100, reference=2), till.purchase(card, 800)]
    assert canteen.post(till.row(*records)) == [0x0C, 0x00]
    assert money(canteen) == (700, 800, -100)


def test_a_grey_is_not_refundable_even_when_its_proof_has_come(canteen: Canteen, card: Card, till: Till) -> None:
    other = Till(52, merchant=9002)
    grey = till.grey(card, 800)
    proof = card.debit(till, 800, sequence=1)
    refund = till.does(Refund, card, 100, reference=1)
    assert canteen.post(till.row(grey, refund), other.row(other.completion(proof))) == [0x06, 0x0C, 0x08]
    assert money(canteen) == (700, 800, -100)


def test_a_proof_carried_ahead_of_its_record_is_refundable_when_the_record_comes(
    canteen: Canteen, card: Card, till: Till
) -> None:
    other = Till(52, merchant=9002)
    body = till.purchase_body(card, 800)
    facts = facts_of(body) | {"terminal": 51, "epoch": 1, "sequence": 1}
    record = till.row(till.seal_up(body, kind=RecordType.PURCHASE, cents=800))
    refund = till.row(till.does(Refund, card, 100, reference=1))
    assert canteen.post(other.row(other.completion(facts)), refund) == [0x08, 0x0C]
    assert money(canteen) == (700, 800, -100)
    assert canteen.post(record) == [0x01]
    assert money(canteen) == (700, 700, 0)


def test_a_refund_carried_by_a_completion_finds_its_purchase(canteen: Canteen, card: Card, till: Till) -> None:
    other = Till(52, merchant=9002)
    canteen.post(till.row(till.purchase(card, 800)))
    proof = card.debit(till, 100, type_=RecordType.REFUND)
    completion = other.completion(proof, original_type=RecordType.REFUND, reference=1)
    assert canteen.post(other.row(completion)) == [0x08]
    assert money(canteen) == (700, 700, 0)


def test_a_refund_after_its_card_was_cancelled_posts_with_the_card_state(
    canteen: Canteen, card: Card, till: Till
) -> None:
    canteen.post(till.row(till.purchase(card, 800)))
    canteen.operate("cancel", card=1001)
    late = till.row(till.does(Refund, card, 100, reference=1))
    late = late[:32] + canteen.now_ms.to_bytes(8, "big") + late[40:]
    assert canteen.post(late) == [0x02]
    assert money(canteen) == (700, 700, 0)


def test_a_late_purchase_after_a_refund_of_another_one_changes_nothing_of_it(
    canteen: Canteen, card: Card, till: Till
) -> None:
    first, second = till.purchase(card, 800), till.purchase(card, 500)
    refund = till.does(Refund, card, 500, reference=2)
    assert canteen.post(till.row(second, refund)) == [0x00, 0x00]
    assert canteen.post(till.row(first)) == [0x00]
    assert money(canteen) == (800, 800, 0)


def test_a_doubtful_refund_waits_without_money_until_its_proof_comes(canteen: Canteen, card: Card, till: Till) -> None:
    other = Till(52, merchant=9002)
    row = till.row(till.purchase(card, 800), till.doubt(card, 100, RecordType.REFUND, 1))
    proof = card.debit(till, 100, sequence=2, type_=RecordType.REFUND)
    assert canteen.post(row) == [0x00, 0x0F]
    assert money(canteen) == (800, 800, 0)
    found = report(canteen.ledger.connection, now_ms=canteen.now_ms)["open_items"]["doubt"]
    assert (found["items"], found["amount_cents"], found["listed"][0]["first"]) == (1, 100, 2)
    assert canteen.post(other.row(other.completion(proof, original_type=RecordType.REFUND, reference=1))) == [0x08]
    assert money(canteen) == (700, 700, 0)
    assert report(canteen.ledger.connection, now_ms=canteen.now_ms)["open_items"]["doubt"]["items"] == 0


@pytest.mark.parametrize("outcome", ["spent", "not spent"])
def test_a_doubt_decided_by_two_persons_is_reversed_by_its_proof(
    canteen: Canteen, card: Card, till: Till, outcome: str
) -> None:
    other = Till(52, merchant=9002)
    canteen.post(till.row(till.purchase(card, 800), till.doubt(card, 100, RecordType.REFUND, 1)))
    canteen.decide("suspense", 2, outcome)
    assert money(canteen) == ((700, 700, 0) if outcome == "spent" else (800, 800, 0))
    assert report(canteen.ledger.connection, now_ms=canteen.now_ms)["open_items"]["doubt"]["items"] == 0
    proof = card.debit(till, 100, sequence=2, type_=RecordType.REFUND)
    canteen.post(other.row(other.completion(proof, original_type=RecordType.REFUND, reference=1)))
    assert money(canteen) == (700, 700, 0)
    (state,) = canteen.ledger.connection.execute("SELECT state FROM decisions").fetchall()
    assert state == ("reversed",)
