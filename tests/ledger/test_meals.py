"""Bookings, cancellations, collections: a meal is paid once, served once, given back once (R20, R22, R23)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.report import report
from protocol.codes import RecordType, RowKind
from protocol.record_bodies import Booking, Cancellation, Collection
from tests.ledger.canteen import MERCHANT, OPENING_CENTS, Canteen, Card, Till, assert_sound, facts_of

MIRROR, GREY, MERCHANTS, BOOKED = 3, 5, 7, 10


@pytest.fixture
def card() -> Card:
    return Card(1001)


@pytest.fixture
def till() -> Till:
    return Till(51)


@pytest.fixture
def hatch() -> Till:
    """Where meals are handed out, by another caterer."""
    return Till(52, merchant=9002)


@pytest.fixture
def canteen(tmp_path: Path, card: Card, till: Till, hatch: Till) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card, Card(1002)], tills=[till, hatch])
    yield made
    assert_sound(made)
    made.close()


def money(canteen: Canteen) -> tuple[int, int, int, int]:
    """(mirror below its opening, booked meals, first caterer, second)"""
    mirror = canteen.balance(MIRROR, 1001)
    return OPENING_CENTS - mirror, canteen.balance(BOOKED), canteen.balance(MERCHANTS, MERCHANT), canteen.balance(
        MERCHANTS, 9002
    )  # fmt: skip


def told(canteen: Canteen) -> dict[str, Any]:
    return report(canteen.ledger.connection, now_ms=canteen.now_ms)


def test_a_booking_waits_in_booked_meals_until_it_is_collected(
    canteen: Canteen, card: Card, till: Till, hatch: Till
) -> None:
    assert canteen.post(till.row(till.does(Booking, card, 1_200, reference=1, meal_day=20717, meal=2))) == [0x00]
    assert money(canteen) == (1_200, 1_200, 0, 0)
    assert canteen.post(hatch.row(hatch.does(Collection, card, 1_200, reference=1, meal_day=20717, meal=2))) == [0x00]
    assert money(canteen) == (1_200, 0, 0, 1_200)
    assert told(canteen)["records"]["amount_cents"] == 1_200


def test_a_cancellation_gives_the_price_back_to_the_card(canteen: Canteen, card: Card, till: Till) -> None:
    book = till.does(Booking, card, 1_200, reference=1)
    assert canteen.post(till.row(book, till.does(Cancellation, card, 1_200, reference=1))) == [0x00, 0x00]
    assert money(canteen) == (0, 0, 0, 0)
    assert canteen.balance(MIRROR, 1001) == card.balance_cents
    assert told(canteen)["records"] | {"by_merchant": 0, "by_terminal_day": 0} == {
        "count": 2, "amount_cents": 0, "by_merchant": 0, "by_terminal_day": 0,
    }  # fmt: skip


def test_a_collection_may_come_before_its_booking(canteen: Canteen, card: Card, till: Till, hatch: Till) -> None:
    booking = till.does(Booking, card, 1_200, reference=1)
    assert canteen.post(hatch.row(hatch.does(Collection, card, 1_200, reference=1))) == [0x00]
    assert money(canteen) == (0, -1_200, 0, 1_200)
    assert canteen.post(till.row(booking)) == [0x00]
    assert money(canteen) == (1_200, 0, 0, 1_200)


@pytest.mark.parametrize("second", [Collection, Cancellation])
def test_a_booking_serial_serves_once_and_the_second_proof_moves_nothing(
    canteen: Canteen, card: Card, till: Till, hatch: Till, second: Any
) -> None:
    canteen.post(till.row(till.does(Booking, card, 1_200, reference=1)))
    first = till.does(Collection, card, 1_200, reference=1)
    assert canteen.post(till.row(first)) == [0x00]
    assert canteen.post(hatch.row(hatch.does(second, card, 1_200, reference=1))) == [0x0E]
    assert money(canteen) == (1_200, 0, 1_200, 0)
    twice = told(canteen)["exceptions"]["meal_twice"]
    assert (twice["items"], twice["amount_cents"], twice["listed"][0]["card"]) == (1, 1_200, "…1001")


def test_what_the_card_did_first_counts_whatever_came_first_here(
    canteen: Canteen, card: Card, till: Till, hatch: Till
) -> None:
    canteen.post(till.row(till.does(Booking, card, 1_200, reference=1)))
    earlier = till.does(Cancellation, card, 1_200, reference=1)
    later = hatch.does(Collection, card, 1_200, reference=1)
    assert canteen.post(hatch.row(later)) == [0x00]
    assert money(canteen) == (1_200, 0, 0, 1_200)
    assert canteen.post(till.row(earlier)) == [0x00]
    assert money(canteen) == (0, 0, 0, 0)
    assert told(canteen)["exceptions"]["meal_twice"]["items"] == 1


def test_serials_of_two_cards_have_nothing_to_do_with_each_other(canteen: Canteen, card: Card, till: Till) -> None:
    other = Card(1002)
    records = [till.does(Booking, each, 100, reference=1) for each in (card, other)]
    records += [till.does(Collection, each, 100, reference=1) for each in (card, other)]
    assert canteen.post(till.row(*records)) == [0x00] * 4


def test_a_free_meal_is_booked_and_collected_and_served_once(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.does(kind, card, 0, reference=1) for kind in (Booking, Collection, Collection)]
    assert canteen.post(till.row(*records)) == [0x00, 0x00, 0x0E]
    assert money(canteen) == (0, 0, 0, 0)
    assert told(canteen)["records"]["count"] == 0


def test_a_grey_booking_is_resolved_to_booked_meals_and_not_to_a_merchant(
    canteen: Canteen, card: Card, till: Till, hatch: Till
) -> None:
    grey = till.grey(card, 1_200, attempted_type=RecordType.BOOKING)
    proof = card.debit(till, 1_200, sequence=1, type_=RecordType.BOOKING)
    assert canteen.post(till.row(grey)) == [0x06]
    assert canteen.balance(GREY) == 1_200
    completion = hatch.completion(proof, original_type=RecordType.BOOKING, reference=1)
    assert canteen.post(hatch.row(completion)) == [0x08]
    assert (money(canteen), canteen.balance(GREY)) == ((1_200, 1_200, 0, 0), 0)


@pytest.mark.parametrize("outcome", ["spent", "not spent"])
def test_a_grey_booking_decided_by_two_persons_is_reversed_by_its_proof(
    canteen: Canteen, card: Card, till: Till, hatch: Till, outcome: str
) -> None:
    canteen.post(till.row(till.grey(card, 1_200, attempted_type=RecordType.BOOKING)))
    canteen.decide("suspense", 1, outcome)
    spent = outcome == "spent"
    assert money(canteen) == (1_200 * spent, 1_200 * spent, 0, 0)
    proof = card.debit(till, 1_200, sequence=1, type_=RecordType.BOOKING)
    canteen.post(hatch.row(hatch.completion(proof, original_type=RecordType.BOOKING, reference=1)))
    assert money(canteen) == (1_200, 1_200, 0, 0)


def test_the_proof_of_a_credit_resolves_no_grey(canteen: Canteen, card: Card, till: Till, hatch: Till) -> None:
    """One dialogue makes one transaction: a debit's grey and a cancellation's proof of one identity contradict."""
    canteen.post(till.row(till.grey(card, 300)))
    proof = card.debit(till, 300, sequence=1, type_=RecordType.CANCELLATION)
    canteen.post(hatch.row(hatch.completion(proof, original_type=RecordType.CANCELLATION, reference=5)))
    assert canteen.balance(GREY) == 300
    assert told(canteen)["open_items"]["grey"]["items"] == 1


@pytest.mark.parametrize("kind", [Booking, Cancellation, Collection])
@pytest.mark.parametrize("is_record_first", [True, False])
def test_a_completion_moves_what_its_own_record_would_move(
    canteen: Canteen, card: Card, till: Till, hatch: Till, kind: Any, is_record_first: bool
) -> None:
    expected = {Booking: (500, 500, 0, 0), Cancellation: (-500, -500, 0, 0), Collection: (0, -500, 500, 0)}[kind]
    body = till.proved(kind, card, 500, reference=3)
    facts = facts_of(body) | {"terminal": till.number, "epoch": 1, "sequence": till.next}
    record = till.row(till.seal_up(body, kind=kind.TYPE, cents=0 if kind is Collection else 500))
    carried = hatch.row(hatch.completion(facts, original_type=kind.TYPE, reference=3))
    rows = (record, carried) if is_record_first else (carried, record)
    assert [canteen.post(row)[0] for row in rows] == ([0x00, 0x09] if is_record_first else [0x08, 0x01])
    assert money(canteen) == expected


def test_a_completion_that_does_not_say_which_booking_is_quarantined(
    canteen: Canteen, card: Card, till: Till, hatch: Till
) -> None:
    proof = card.debit(till, 500, type_=RecordType.COLLECTION)
    assert canteen.post(hatch.row(hatch.completion(proof, original_type=RecordType.COLLECTION, reference=0))) == [0x12]
    (item,) = canteen.ledger.connection.execute("SELECT reason FROM quarantine").fetchall()
    assert "does not say" in str(item[0])


def test_a_fork_that_proves_a_collection_is_posted_as_one(canteen: Canteen, card: Card, till: Till) -> None:
    canteen.post(till.row(till.aborted()))
    till.next = 1
    fork = till.forge(1, till.proved(Collection, card, 500, reference=3), kind=RecordType.COLLECTION)
    assert canteen.post(till.row(fork, kind=RowKind.SUSPECT)) == [0x05]
    assert money(canteen) == (0, -500, 500, 0)


def test_a_cancelled_cards_late_meal_posts_with_the_card_state(canteen: Canteen, card: Card, till: Till) -> None:
    canteen.operate("cancel", card=1001)
    late = till.row(till.does(Booking, card, 500, reference=1))
    late = late[:32] + canteen.now_ms.to_bytes(8, "big") + late[40:]  # traded after the cancellation
    assert canteen.post(late) == [0x02]
    assert money(canteen) == (500, 500, 0, 0)
