"""Reports and open items: every sequence is posted or named, with its amount where neighbours tell it (R5, R9, R19)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.gaps import missing_ranges
from ledger_sync.ledger.report import report
from protocol.records import Unknown
from tests.ledger.canteen import MERCHANT, NOW_MS, Canteen, Card, Till


@pytest.fixture
def canteen(tmp_path: Path) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[Card(1), Card(2)], tills=[Till(5), Till(6, merchant=9002)])
    yield made
    made.close()


def reported(canteen: Canteen) -> dict[str, Any]:
    found = report(canteen.ledger.connection, now_ms=NOW_MS + 100_000)
    assert found["double_posted"] == 0
    assert found["conservation"]["difference_cents"] == 0
    json.dumps(found)
    return found


def item(found: dict[str, Any], kind: str, at: int = 0) -> tuple[int, int, int | None]:
    one = found["open_items"][kind]["listed"][at]
    return one["first"], one["last"], one["amount_cents"]


def test_a_gap_has_the_amount_that_the_running_sums_of_its_neighbours_tell(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    for cents in (100, 20, 3, 400):
        till.purchase(card, cents)
    till.aborted()
    till.grey(card, 7)
    canteen.post(till.row(till.records[4]), till.row(till.records[6]))
    found = reported(canteen)
    gaps = found["open_items"]["gap"]
    assert (gaps["items"], gaps["sequences"], gaps["amount_cents"], gaps["amount_unknown"]) == (2, 4, 123, 0)
    assert [item(found, "gap", 0), item(found, "gap", 1)] == [(1, 3, 123), (5, 5, 0)]
    assert gaps["by_merchant"] == {str(MERCHANT): 123}
    assert found["records"]["amount_cents"] + gaps["amount_cents"] == till.sum_cents
    assert list(missing_ranges(canteen.ledger.connection)) == [(5, 1, 1, 3), (5, 1, 5, 5)]
    assert gaps["age_ms"] == 100_000 - 4


def test_what_lies_beyond_the_last_record_is_a_gap_of_unknown_amount(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    for _ in range(3):
        till.purchase(card, 10)
    canteen.post(till.baseline(), till.row(till.records[1]))
    found = reported(canteen)
    assert item(found, "gap") == (2, 3, None)
    assert found["open_items"]["gap"]["amount_unknown"] == 1
    canteen.post(till.row(till.records[2], till.records[3]))
    assert reported(canteen)["open_items"]["gap"]["items"] == 0


def test_a_tombstone_is_named_and_lapses_when_the_record_arrives(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    for cents in (1, 20, 300, 4000):
        till.purchase(card, cents)
    canteen.post(till.row(till.records[1]), till.tombstone(2, 3), till.row(till.records[4]))
    found = reported(canteen)
    assert item(found, "tombstone") == (2, 3, 320)
    assert found["open_items"]["gap"]["items"] == 0
    canteen.post(till.row(till.records[2]))
    assert item(reported(canteen), "tombstone") == (3, 3, 300)
    canteen.post(till.row(till.records[3]))
    assert reported(canteen)["open_items"]["tombstone"]["items"] == 0


def test_a_quarantined_record_is_no_gap_and_brings_its_amount(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    rows = [
        till.row(till.purchase(card, 5)),
        till.row(till.purchase(card, 30, proof=bytes(8))),
        till.row(till.seal_up(Unknown(0x90, 0, bytes(8)), kind=0x90)),
        till.row(till.purchase(card, 200)),
    ]
    canteen.post(*rows)
    found = reported(canteen)
    quarantine = found["open_items"]["quarantine"]
    assert (quarantine["items"], quarantine["amount_cents"], quarantine["amount_unknown"]) == (2, 30, 0)
    assert found["open_items"]["gap"]["items"] == 0
    assert found["records"]["amount_cents"] + 30 == till.sum_cents
    assert quarantine["listed"][1]["detail"] == "result 13, type 90: a type or body version not known here"


def test_a_forged_copy_of_a_posted_record_adds_nothing_to_the_open_amount(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    record = till.purchase(card, 5)
    canteen.post(till.row(record), till.row(record[:-1] + bytes([record[-1] ^ 1])))
    quarantine = reported(canteen)["open_items"]["quarantine"]
    assert (quarantine["items"], quarantine["amount_cents"]) == (1, 0)
    assert "states 5 cents" in quarantine["listed"][0]["detail"]


def test_gap_tombstone_and_quarantine_in_one_hole_share_its_amount(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    for cents in (1, 20, 300, 4000, 50_000):
        till.purchase(card, cents, **({"proof": bytes(8)} if cents == 300 else {}))
    canteen.post(till.row(till.records[1]), till.row(till.records[3]), till.tombstone(4, 4), till.row(till.records[5]))
    found = reported(canteen)
    assert item(found, "gap") == (2, 2, 4020)
    assert item(found, "quarantine") == (3, 3, 300)
    assert item(found, "tombstone") == (4, 4, 0)
    assert "covers it too" in found["open_items"]["tombstone"]["listed"][0]["detail"]
    missing = sum(found["open_items"][kind]["amount_cents"] for kind in ("gap", "quarantine", "tombstone"))
    assert found["records"]["amount_cents"] + missing == till.sum_cents


def test_greys_loads_tails_and_completions_are_open_items(canteen: Canteen) -> None:
    card, till, other = Card(1), Till(5), Till(6, merchant=9002)
    other_card = Card(2)
    rows = [till.row(till.grey(card, 40))]
    proof = other_card.debit(till, 77)
    rows.append(other.row(other.purchase(card, 9), other.completion(proof)))
    canteen.post(*rows)
    canteen.operate("topup", card=1, amount_cents=500)
    canteen.operate("register", terminals=[till.registered(closed=True), Till(5, epoch=2).registered()])
    found = reported(canteen)
    assert item(found, "grey") == (1, 1, 40)
    assert "probably not spent" in found["open_items"]["grey"]["listed"][0]["detail"]
    assert item(found, "load_in_flight") == (1, 1, 500)
    assert item(found, "completion") == (2, 2, 77)
    assert found["open_items"]["epoch_tail"]["listed"][0]["detail"] == "tail unknown after 1"
    assert found["merchants"] == [
        {"merchant": 9001, "balance_cents": 77},
        {"merchant": 9002, "balance_cents": 9},
    ]


def test_totals_are_told_per_terminal_day_and_merchant(canteen: Canteen) -> None:
    card, till, other = Card(1), Till(5), Till(6, merchant=9002)
    canteen.post(till.row(till.purchase(card, 100), till.grey(card, 10)), other.row(other.purchase(Card(2), 7)))
    found = reported(canteen)
    day = found["first_open_day"]
    assert found["records"] == {
        "count": 3,
        "amount_cents": 117,
        "by_merchant": [
            {"merchant": 9001, "count": 2, "amount_cents": 110},
            {"merchant": 9002, "count": 1, "amount_cents": 7},
        ],
        "by_terminal_day": [
            {"terminal": 5, "epoch": 1, "trade_day": day, "count": 2, "amount_cents": 110},
            {"terminal": 6, "epoch": 1, "trade_day": day, "count": 1, "amount_cents": 7},
        ],
    }
    money = sum(one["balance_cents"] for one in found["merchants"]) + found["conservation"]["suspense_grey_cents"]
    assert money == found["records"]["amount_cents"]
    counts = found["counts"]
    assert (counts["batches"], counts["posted"], counts["duplicates"], counts["quarantined"]) == (1, 3, 0, 0)
    assert counts["postings_by_result"] == {"posted": 2, "suspense_grey": 1}


def test_a_double_booking_planted_in_the_file_is_counted(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    canteen.post(till.row(till.purchase(card, 100)))
    connection = canteen.ledger.connection
    connection.execute("INSERT INTO postings SELECT 99, terminal, epoch, sequence, X'00', type, result, card, counter,"
                       " amount_cents, balance_cents, merchant, running_count, running_sum_cents, trade_ms, trade_day,"
                       " booking_day, position, row_id, record_index FROM postings WHERE posting = 1")  # fmt: skip
    assert report(connection, now_ms=NOW_MS)["double_posted"] == 1


def test_a_quarantined_record_that_is_the_last_one_brings_its_amount_too(canteen: Canteen) -> None:
    card, till = Card(1), Till(5)
    canteen.post(till.row(till.purchase(card, 5)), till.row(till.purchase(card, 30, proof=bytes(8))))
    found = reported(canteen)
    assert item(found, "quarantine") == (2, 2, 30)
    assert found["open_items"]["quarantine"]["by_merchant"] == {str(MERCHANT): 30}
    canteen.post(till.row(till.purchase(card, 200)), till.baseline())
    assert item(reported(canteen), "quarantine") == (2, 2, 30)


def test_the_money_of_an_unknown_terminal_is_open_under_its_merchant(canteen: Canteen) -> None:
    card, till = Card(1), Till(99, merchant=77)
    canteen.post(till.baseline(), till.row(till.purchase(card, 5), till.grey(card, 30)), till.tombstone(3, 3))
    quarantine = reported(canteen)["open_items"]["quarantine"]
    assert (quarantine["items"], quarantine["sequences"], quarantine["amount_cents"]) == (4, 2, 35)
    assert quarantine["by_merchant"] == {"0": 0, "77": 35}
    assert quarantine["listed"][0]["detail"] == "result 14, no type: baseline 1–1: no such terminal and epoch"


@pytest.mark.parametrize("kind", ["baseline", "tombstone"])
def test_a_forged_baseline_or_tombstone_hides_no_gap(canteen: Canteen, kind: str) -> None:
    card, till = Card(1), Till(5)
    for cents in (1, 20, 300):
        till.purchase(card, cents)
    forged = bytearray(till.baseline() if kind == "baseline" else till.tombstone(2, 2))
    forged[-1] ^= 1
    canteen.post(till.row(till.records[1]), bytes(forged), till.row(till.records[3]))
    found = reported(canteen)
    assert (item(found, "gap"), found["open_items"]["gap"]["items"]) == ((2, 2, 20), 1)
    assert found["open_items"]["quarantine"]["amount_cents"] == 0
    assert list(missing_ranges(canteen.ledger.connection)) == [(5, 1, 2, 2)]


@pytest.mark.parametrize(
    ("start_cents", "count", "sum_cents"),
    [(2**63 - 100, 2, -(2**63)), (2**33, 2, 0), (0, 2, 7 + 2**32), (0, 4, 50), (0, 1, 50), (0, 2, 7)],
    ids=["overflow", "fall", "more than one record holds", "more records than fit", "cents of none", "no cents"],
)
def test_neighbours_whose_running_sums_contradict_each_other_name_no_amount(
    canteen: Canteen, start_cents: int, count: int, sum_cents: int
) -> None:
    """Records 1 and 4; what 2 and 3 came to follows from the sums that 1 and 4 state, if those can be true at all."""
    card, till = Card(1), Till(5)
    till.sum_cents = start_cents
    first = till.purchase(card, 7)
    lost = till.row(till.purchase(card, 10, proof=bytes(8)))
    till.next, till.count, till.sum_cents = 4, count, sum_cents
    canteen.post(till.row(first), till.row(till.purchase(card, 3)))
    found = reported(canteen)
    assert item(found, "gap") == (2, 3, None)
    assert found["open_items"]["gap"]["amount_unknown"] == 1
    assert "contradict" in found["open_items"]["gap"]["listed"][0]["detail"]
    canteen.post(lost)
    found = reported(canteen)
    assert (item(found, "gap"), item(found, "quarantine")) == ((3, 3, None), (2, 2, 10))


@pytest.mark.parametrize("is_grey_first", [True, False])
def test_a_grey_and_another_cards_proof_of_its_identity_are_two_open_items_and_no_double_booking(
    canteen: Canteen, is_grey_first: bool
) -> None:
    till, other = Till(5), Till(6, merchant=9002)
    grey = till.row(till.grey(Card(1), 40))
    completion = other.row(other.completion(Card(2).debit(till, 33, sequence=1)))
    canteen.post(*((grey, completion) if is_grey_first else (completion, grey)))
    found = reported(canteen)
    assert (item(found, "grey"), item(found, "completion")) == ((1, 1, 40), (1, 1, 33))
    assert found["open_items"]["completion"]["listed"][0]["detail"] == "another record stands under its identity"


PLANTED = {
    "a fork with the proof of its other seal": (
        "INSERT INTO postings SELECT 99, terminal, epoch, sequence, X'00', type, 5, card, counter, amount_cents,"
        " balance_cents, merchant, running_count, running_sum_cents, trade_ms, trade_day, booking_day, position,"
        " row_id, record_index FROM postings WHERE posting = 1"
    ),
    "a grey beside the booking of its card": (
        "INSERT INTO suspense SELECT 1, 'grey', terminal, epoch, sequence, card, 0, amount_cents, merchant, trade_ms,"
        " NULL, NULL, 1 FROM postings WHERE posting = 1"
    ),
    "a second entry": "INSERT INTO entries SELECT 99, 1, NULL, 1, account, booking_day, 1 FROM entries LIMIT 1",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_every_way_to_book_twice_is_counted(canteen: Canteen, planted: str) -> None:
    card, till = Card(1), Till(5)
    canteen.post(till.row(till.purchase(card, 100)))
    canteen.ledger.connection.execute(PLANTED[planted])
    assert report(canteen.ledger.connection, now_ms=NOW_MS)["double_posted"] == 1
