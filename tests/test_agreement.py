"""The comparison of three artefacts finds every kind of disagreement, and names it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from onecard_agreement import compare

Artefacts = dict[str, Any]


def artefacts() -> Artefacts:
    """Two terminals of two merchants: 3 purchases and an aborted record; 1 grey, still open."""
    item = {"items": 0, "sequences": 0, "amount_cents": 0, "by_merchant": {}}
    kinds = ("gap", "tombstone", "quarantine", "epoch_tail", "grey", "suspect", "load_in_flight", "completion")
    items = {kind: copy.deepcopy(item) for kind in kinds}
    items["grey"] = {"items": 1, "sequences": 1, "amount_cents": 700, "by_merchant": {"102": 700}}
    return {
        "terminals": [
            {"terminal": 1, "epochs": [epoch(issued=3, merchant="101", count=2, cents=1500)]},
            {"terminal": 2, "epochs": [epoch(issued=2, merchant="102", count=2, cents=1200)]},
        ],
        "spool": {
            "merchants": [
                {"merchant": 101, "count": 2, "cents": 1500},
                {"merchant": 102, "count": 2, "cents": 1200},
            ],
            "totals": [
                {"type": 1, "count": 3, "cents": 2000},
                {"type": 7, "count": 1, "cents": 700},
                {"type": 0x60, "count": 1, "cents": 0},
            ],
        },
        "ledger": {
            "records": {
                "count": 4,
                "by_merchant": [
                    {"merchant": 101, "count": 2, "amount_cents": 1500},
                    {"merchant": 102, "count": 2, "amount_cents": 1200},
                ],
            },
            "counts": {
                "duplicates": 0,
                "identities": 5,
                "postings_by_result": {"posted": 3, "suspense_grey": 1, "noted": 1},
            },
            "open_items": items,
            "double_posted": 0,
            "forks": 0,
            "merchants": [{"merchant": 101, "balance_cents": 1500}, {"merchant": 102, "balance_cents": 500}],
            "conservation": {
                "difference_cents": 0,
                "mirror_cents": 10_000,
            },
        },
        "cards": [{"purse_cents": 4_000}, {"purse_cents": 6_700}],
    }


def epoch(*, issued: int, merchant: str, count: int, cents: int) -> dict[str, Any]:
    return {
        "issued": issued,
        "acknowledged": issued,
        "unreadable": [],
        "merchants": {merchant: {"count": count, "cents": cents, "grey_cents": 0}},
    }


def test_three_artefacts_that_agree_say_so_and_the_grey_is_an_open_item() -> None:
    found = compare(**artefacts())
    assert found.disagreements == []
    assert found.agrees
    assert (found.total.terminals_cents, found.total.spool_cents) == (2700, 2700)
    assert (found.total.ledger_cents, found.total.open_cents) == (2000, 700)
    assert found.open_items == {"grey": {"items": 1, "sequences": 1, "amount_cents": 700}}
    assert found.beside_ledger_cents == {"grey": 700}
    assert (found.records_created, found.records_posted, found.lost) == (5, 5, 0)


def spool_loses_a_cent(all_: Artefacts) -> None:
    all_["spool"]["merchants"][0]["cents"] -= 1


def spool_counts_another_day(all_: Artefacts) -> None:
    all_["spool"]["totals"][0]["cents"] += 1


def ledger_loses_a_record(all_: Artefacts) -> None:
    all_["ledger"]["records"]["by_merchant"][0] = {"merchant": 101, "count": 1, "amount_cents": 1000}
    all_["ledger"]["counts"]["postings_by_result"]["posted"] -= 1
    all_["ledger"]["counts"]["identities"] -= 1


def ledger_pays_another_merchant(all_: Artefacts) -> None:
    all_["ledger"]["records"]["by_merchant"][0]["merchant"] = 103


def a_fork_stands_in_for_a_lost_record(all_: Artefacts) -> None:
    ledger_loses_a_record(all_)
    all_["ledger"]["counts"]["postings_by_result"]["posted_fork"] = 1
    all_["ledger"]["forks"] = 1


def money_goes_to_another_merchant_than_its_record_says(all_: Artefacts) -> None:
    for one, cents in zip(all_["ledger"]["merchants"], (5, -5), strict=True):
        one["balance_cents"] += cents


def terminal_was_never_acknowledged(all_: Artefacts) -> None:
    all_["terminals"][0]["epochs"][0]["acknowledged"] -= 1


def terminal_cannot_read_its_flash(all_: Artefacts) -> None:
    all_["terminals"][0]["epochs"][0]["unreadable"] = [2]


def posted_twice(all_: Artefacts) -> None:
    all_["ledger"]["double_posted"] = 1


def books_out_of_balance(all_: Artefacts) -> None:
    all_["ledger"]["conservation"]["difference_cents"] = -5


def cards_hold_less_than_their_mirrors(all_: Artefacts) -> None:
    all_["cards"][0]["purse_cents"] -= 701


def cards_hold_more_than_open_greys_explain(all_: Artefacts) -> None:
    all_["cards"][0]["purse_cents"] += 1


def money_under_an_open_item_that_is_not_there(all_: Artefacts) -> None:
    all_["ledger"]["open_items"]["quarantine"]["by_merchant"] = {"101": 1}


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (spool_loses_a_cent, "merchant 101"),
        (spool_counts_another_day, "counted"),
        (ledger_loses_a_record, "1 records were made and are nowhere"),
        (ledger_pays_another_merchant, "merchant 103"),
        (a_fork_stands_in_for_a_lost_record, "1 records were made and are nowhere"),
        (money_goes_to_another_merchant_than_its_record_says, "merchant 101 is owed 1505 cents for records of 1500"),
        (terminal_was_never_acknowledged, "never acknowledged"),
        (terminal_cannot_read_its_flash, "cannot be read"),
        (posted_twice, "posted twice"),
        (books_out_of_balance, "differ by -5 cents"),
        (cards_hold_less_than_their_mirrors, "cards hold -1 cents"),
        (cards_hold_more_than_open_greys_explain, "cards hold 701 cents"),
        (money_under_an_open_item_that_is_not_there, "merchant 101"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_disagreement_is_found_and_named(plant: Callable[[Artefacts], None], says: str) -> None:
    all_ = artefacts()
    plant(all_)
    found = compare(**all_)
    assert not found.agrees
    assert any(says in sentence for sentence in found.disagreements), found.disagreements


def two_spools() -> Artefacts:
    """The same site with two front-ends: the purchase of 1000 cents is in both spools."""
    all_ = artefacts()
    one = all_["spool"]
    other = {
        "merchants": [{"merchant": 101, "count": 1, "cents": 1000}],
        "totals": [{"type": 1, "count": 1, "cents": 1000}],
    }
    twins = {"records": 1, "count": 1, "amount_cents": 1000, "merchants": other["merchants"], "differing": 0}
    all_["spool"] = {"spools": [one, other], "twins": twins}
    return all_


def test_a_record_in_two_spools_counts_once() -> None:
    found = compare(**two_spools())
    assert found.disagreements == []
    assert (found.twins, found.total.count_spool, found.total.spool_cents) == (1, 4, 2700)


def test_a_record_that_is_called_a_twin_and_is_none_is_a_disagreement() -> None:
    all_ = two_spools()
    all_["spool"]["spools"][1] = {"merchants": [], "totals": []}
    assert any("merchant 101" in sentence for sentence in compare(**all_).disagreements)


def test_twins_with_other_bytes_are_a_disagreement() -> None:
    all_ = two_spools()
    all_["spool"]["twins"]["differing"] = 1
    assert compare(**all_).disagreements == ["1 records differ between the spools of two front-ends"]


def with_meals_refunds_and_loads() -> Artefacts:
    """Merchant 101 besides: a meal of 9.00 booked and collected at 102, a refund of 2.00; a load of 20.00."""
    all_ = artefacts()
    moved = {"101": 700, "0": -2000}  # booking less refund; a load names no merchant
    first = all_["terminals"][0]["epochs"][0]
    first["merchants"]["101"]["count"] += 2
    first["merchants"]["101"]["cents"] += moved["101"]
    first["merchants"]["0"] = {"count": 1, "cents": moved["0"], "grey_cents": 0}
    first["issued"] += 4
    first["acknowledged"] += 4
    all_["spool"]["merchants"][0] = {"merchant": 101, "count": 4, "cents": 2200}
    all_["spool"]["merchants"].append({"merchant": 0, "count": 1, "cents": -2000})
    all_["spool"]["totals"] += [
        {"type": 0x20, "count": 1, "cents": 900},
        {"type": 0x22, "count": 1, "cents": 0},
        {"type": 3, "count": 1, "cents": -200},
        {"type": 4, "count": 1, "cents": -2000},
    ]
    ledger = all_["ledger"]
    ledger["records"]["count"] += 3
    ledger["records"]["by_merchant"][0] = {"merchant": 101, "count": 4, "amount_cents": 2200}
    ledger["records"]["by_merchant"].append({"merchant": 0, "count": 1, "amount_cents": -2000})
    ledger["counts"]["postings_by_result"]["posted"] += 4
    ledger["counts"]["identities"] += 4
    ledger["apart"] = {
        "bookings": {"amount_cents": 900, "by_merchant": {"101": 900}},
        "collections": {"amount_cents": 900, "by_merchant": {"102": 900}},
        "refunds": {"amount_cents": 200, "by_merchant": {"101": 200}},
        "loads": {"amount_cents": 2000, "by_merchant": {"0": 2000}},
    }
    ledger["merchants"] = [{"merchant": 101, "balance_cents": 1300}, {"merchant": 102, "balance_cents": 1400}]
    return all_


def test_meals_refunds_and_loads_lie_between_records_and_what_merchants_are_owed() -> None:
    found = compare(**with_meals_refunds_and_loads())
    assert found.disagreements == []
    assert found.total.terminals_cents == found.total.spool_cents == 1400


def test_a_collection_paid_to_the_wrong_merchant_is_named() -> None:
    all_ = with_meals_refunds_and_loads()
    all_["ledger"]["merchants"][0]["balance_cents"] += 900
    all_["ledger"]["merchants"][1]["balance_cents"] -= 900
    assert compare(**all_).disagreements == [
        "merchant 101 is owed 2200 cents for records of 1300",
        "merchant 102 is owed 500 cents for records of 1400",
    ]


def test_booked_meals_that_nobody_was_paid_for_stay_an_account_beside_merchants() -> None:
    all_ = with_meals_refunds_and_loads()
    all_["ledger"]["apart"]["collections"] = {"amount_cents": 0, "by_merchant": {}}
    all_["ledger"]["merchants"][1]["balance_cents"] -= 900
    assert compare(**all_).disagreements == [
        "merchants, booked meals and refund exceptions hold 1800 cents for records of 2700"
    ]
    all_["ledger"]["conservation"]["booked_meals_cents"] = 900
    assert compare(**all_).disagreements == []


def test_records_that_the_ring_has_overwritten_count_by_their_running_sums() -> None:
    all_ = artefacts()
    first = all_["terminals"][0] | {"merchant": 101}
    all_["terminals"][0] = first
    first["epochs"][0]["merchants"]["101"] = {"count": 1, "cents": 500, "grey_cents": 0}
    first["epochs"][0]["overwritten"] = {"count": 1, "cents": 1000}
    assert compare(**all_).disagreements == []
