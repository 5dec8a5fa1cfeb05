"""The rule engine: a table of cases, and what holds for every request."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cards.meals import MealPlace
from protocol.codes import RecordType, RefusalReason
from protocol.parameters import Parameters
from protocol.rules import REASONS, SPENDING, Decision, Request, decide, discounted_cents, serving_now
from tests.protocol.test_parameters import ANY, LUNCH, SITE

MIDNIGHT_MS: Final = 20_000 * 86_400_000 - 480 * 60_000
"""Local midnight of day 20,000."""
PURCHASE, REFUND, LOAD = RecordType.PURCHASE, RecordType.REFUND, RecordType.LOAD
BOOKING, CANCELLATION, COLLECTION = RecordType.BOOKING, RecordType.CANCELLATION, RecordType.COLLECTION
TODAY: Final = MealPlace(20_000, 2, 1)
TOMORROW: Final = MealPlace(20_001, 2, 1)
WALK_IN: Final = MealPlace(20_000, 2, 0)
OPERATOR: Final = 1_000_001


def at(hour: int, minute: int = 0) -> int:
    return MIDNIGHT_MS + (60 * hour + minute) * 60_000


def request(type_: int, **facts: Any) -> Request:
    return Request(**{"type": type_, "card": 5, "now_ms": at(8), **facts})


@pytest.mark.parametrize(
    ("asked", "amount_cents", "reason"),
    [
        (request(PURCHASE, price_cents=850), 850, None),
        (request(PURCHASE, price_cents=850, card_group=2), 765, None),
        (request(PURCHASE, price_cents=855, card_group=2), 769, None),
        (request(PURCHASE, price_cents=1, card_group=2), 1, None),
        (request(PURCHASE, price_cents=0), 0, RefusalReason.AMOUNT_LIMIT),
        (request(PURCHASE, price_cents=10_000), 10_000, None),
        (request(PURCHASE, price_cents=10_000, spent_cents=1), 10_000, RefusalReason.DAILY_LIMIT),
        (request(PURCHASE, price_cents=8_889, card_group=2), 8_000, None),
        (request(PURCHASE, price_cents=8_890, card_group=2), 8_001, RefusalReason.DAILY_LIMIT),
        (request(PURCHASE, price_cents=20_001), 20_001, RefusalReason.AMOUNT_LIMIT),
        (request(PURCHASE, price_cents=3_000, list_age_ms=None), 3_000, None),
        (request(PURCHASE, price_cents=3_001, list_age_ms=None), 3_001, RefusalReason.LIST_TOO_OLD),
        (request(PURCHASE, price_cents=3_001, list_age_ms=172_800_000), 3_001, None),
        (request(PURCHASE, price_cents=3_001, list_age_ms=172_800_001), 3_001, RefusalReason.LIST_TOO_OLD),
        (request(PURCHASE, price_cents=850, balance_cents=850), 850, None),
        (request(PURCHASE, price_cents=850, balance_cents=849), 850, RefusalReason.BALANCE_TOO_LOW),
        (request(PURCHASE, price_cents=850, is_denied=True), 850, RefusalReason.DENY_LIST),
        (request(PURCHASE, price_cents=850, valid_until_day=20_000), 850, None),
        (request(PURCHASE, price_cents=850, valid_until_day=19_999), 850, RefusalReason.EXPIRED),
        (request(PURCHASE, price_cents=850, valid_until_day=1, now_ms=0), 850, None),
        (request(PURCHASE, place=WALK_IN, now_ms=at(11)), 1_500, None),
        (request(PURCHASE, place=WALK_IN, now_ms=at(11), card_group=2), 1_350, None),
        (request(PURCHASE, place=WALK_IN, now_ms=at(10, 59)), 1_500, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(PURCHASE, place=WALK_IN, now_ms=at(13, 30)), 1_500, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(PURCHASE, place=MealPlace(20_001, 2, 0), now_ms=at(12)), 1_500, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(PURCHASE, place=MealPlace(20_000, 9, 0), now_ms=at(12)), 0, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(PURCHASE, place=WALK_IN, now_ms=at(12), portions=2), 1_500, RefusalReason.MEAL_LIMIT),
        (request(BOOKING, place=TODAY), 1_200, None),
        (request(BOOKING, place=TODAY, price_cents=1), 1_200, None),
        (request(BOOKING, place=TODAY, card_group=2), 1_080, None),
        (request(BOOKING, place=TODAY, now_ms=at(8, 59)), 1_200, None),
        (request(BOOKING, place=TODAY, now_ms=at(9)), 1_200, RefusalReason.CUT_OFF_PASSED),
        (request(BOOKING, place=TOMORROW, now_ms=at(23)), 1_200, None),
        (request(BOOKING, place=MealPlace(20_007, 2, 1)), 1_200, None),
        (request(BOOKING, place=MealPlace(20_008, 2, 1)), 1_200, RefusalReason.CUT_OFF_PASSED),
        (request(BOOKING, place=MealPlace(19_999, 2, 1)), 1_200, RefusalReason.CUT_OFF_PASSED),
        (request(BOOKING, place=MealPlace(20_000, 2, 9)), 0, RefusalReason.CUT_OFF_PASSED),
        (request(BOOKING, place=MealPlace(20_000, 1, 1)), 0, RefusalReason.CUT_OFF_PASSED),
        (request(BOOKING, place=TODAY, now_ms=0), 1_200, RefusalReason.CUT_OFF_PASSED),
        (request(BOOKING, place=MealPlace(20_000, 2, 2), balance_cents=0, spent_cents=99_999), 0, None),
        (request(BOOKING, place=TODAY, portions=1), 1_200, None),
        (request(BOOKING, place=TODAY, portions=2), 1_200, RefusalReason.MEAL_LIMIT),
        (request(CANCELLATION, place=TODAY, price_cents=1_200), 1_200, RefusalReason.NOT_BOOKED),
        (request(CANCELLATION, place=TODAY, price_cents=1_200, is_booked=True, card_group=2), 1_200, None),
        (request(CANCELLATION, place=TODAY, is_booked=True, now_ms=at(9)), 0, RefusalReason.CUT_OFF_PASSED),
        (request(CANCELLATION, place=TODAY, is_booked=True, now_ms=at(9), operator_card=OPERATOR), 0, None),
        (request(COLLECTION, place=TODAY, is_booked=True, now_ms=at(12), balance_cents=0, portions=9), 0, None),
        (request(COLLECTION, place=TODAY, now_ms=at(12)), 0, RefusalReason.NOT_BOOKED),
        (request(COLLECTION, place=TODAY, is_booked=True, now_ms=at(10)), 0, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(COLLECTION, place=TOMORROW, is_booked=True, now_ms=at(12)), 0, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(COLLECTION, place=TODAY, is_booked=True, now_ms=0), 0, RefusalReason.OUTSIDE_SERVING_TIME),
        (request(REFUND, price_cents=500, refundable_cents=500, operator_card=OPERATOR), 500, None),
        (request(REFUND, price_cents=500, refundable_cents=500), 500, RefusalReason.OPERATOR),
        (request(REFUND, price_cents=500, refundable_cents=500, operator_card=7), 500, RefusalReason.OPERATOR),
        (
            request(REFUND, price_cents=501, refundable_cents=500, operator_card=OPERATOR),
            501,
            RefusalReason.NOT_REFUNDABLE,
        ),
        (request(REFUND, price_cents=0, operator_card=OPERATOR), 0, RefusalReason.NOT_REFUNDABLE),
        (request(LOAD, price_cents=5_000_000, is_ordered=True, list_age_ms=None, balance_cents=0), 5_000_000, None),
        (request(LOAD, price_cents=5_000), 5_000, RefusalReason.NO_ORDER),
        (request(LOAD, price_cents=0, is_ordered=True), 0, RefusalReason.NO_ORDER),
    ],
    ids=str,
)
def test_each_rule_holds_just_where_the_page_says(
    asked: Request, amount_cents: int, reason: RefusalReason | None
) -> None:
    found = decide(SITE, asked)
    assert (found.amount_cents, found.reason) == (amount_cents, reason)


def test_a_meal_without_a_walk_in_price_is_for_those_who_booked() -> None:
    booked_only = replace(SITE, meals=(replace(LUNCH, walk_in_cents=0),))
    asked = request(PURCHASE, place=WALK_IN, now_ms=at(12))
    assert decide(booked_only, asked) == Decision(0, 0, RefusalReason.OUTSIDE_SERVING_TIME)


def test_meals_served_now_are_those_whose_window_is_open() -> None:
    assert [serving_now(SITE, moment) for moment in (at(10, 59), at(11), at(13, 29), at(13, 30), 0)] == [
        (),
        (LUNCH,),
        (LUNCH,),
        (),
        (),
    ]


REQUESTS = st.builds(
    Request,
    type=st.sampled_from([PURCHASE, REFUND, LOAD, BOOKING, CANCELLATION, COLLECTION]),
    price_cents=st.integers(0, 30_000) | st.integers(0, 2**31 - 1),
    card=st.just(5),
    card_group=st.integers(0, 255),
    valid_until_day=st.sampled_from([0, 19_999, 20_000]),
    now_ms=st.just(0) | st.integers(at(0), at(48)),
    balance_cents=st.none() | st.integers(-(2**31), 2**31 - 1),
    is_denied=st.sampled_from([False, False, False, True]),
    list_age_ms=st.none() | st.integers(0, 10**9),
    spent_cents=st.integers(0, 2**31 - 1),
    place=st.builds(MealPlace, st.integers(19_999, 20_009), st.integers(0, 3), st.integers(0, 3)),
    portions=st.integers(0, 4),
    operator_card=st.sampled_from([0, OPERATOR]),
    refundable_cents=st.integers(0, 30_000),
    is_ordered=st.booleans(),
    is_booked=st.booleans(),
)


@given(ANY | st.just(SITE), REQUESTS)
def test_what_is_allowed_breaks_no_limit_and_costs_no_more_than_the_price(
    parameters: Parameters, asked: Request
) -> None:
    found = decide(parameters, asked)
    limits = parameters.limits
    assert found.amount_cents >= 0
    assert found.discount_cents >= 0
    if found.discount_cents:
        assert asked.type in SPENDING
    if not found.is_allowed or asked.type not in SPENDING:
        return
    assert not asked.is_denied
    assert found.amount_cents <= limits.amount_max_cents
    if found.amount_cents:
        assert asked.spent_cents + found.amount_cents <= parameters.group(asked.card_group).daily_max_cents
    if asked.list_age_ms is None or asked.list_age_ms > limits.list_age_ms_max:
        assert found.amount_cents <= limits.stale_max_cents
    assert asked.balance_cents is None or found.amount_cents <= asked.balance_cents
    assert found.amount_cents >= (asked.type == PURCHASE)


@given(ANY | st.just(SITE), REQUESTS)
def test_the_reason_told_is_the_first_of_those_that_hold(parameters: Parameters, asked: Request) -> None:
    found = decide(parameters, asked)
    holding = [reason for reason, holds in REASONS.items() if holds(parameters, asked, found.amount_cents)]
    assert found.reason == (holding[0] if holding else None)


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_a_discount_is_rounded_in_the_customers_favour_by_less_than_a_cent(price: int, per_mille: int) -> None:
    exact = Fraction(price * (1000 - per_mille), 1000)
    assert exact - 1 < discounted_cents(price, per_mille) <= exact <= price


@given(ANY, REQUESTS, st.integers(0, 1000))
def test_knowing_more_against_a_card_never_turns_a_refusal_into_a_sale(
    parameters: Parameters, asked: Request, more: int
) -> None:
    if decide(parameters, asked).is_allowed:
        return
    worse = replace(asked, spent_cents=asked.spent_cents + more, portions=asked.portions + more, is_denied=True)
    assert not decide(parameters, worse).is_allowed


def test_the_page_states_the_reasons_in_their_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "parameters.md").read_text("utf-8")
    table = page.split("<!-- reasons: checked by tests/protocol/test_rules.py -->")[1]
    codes = [int(code, 16) for code in re.findall(r"^\| `([0-9A-F]{2})` \|", table, re.MULTILINE)]
    assert codes == list(REASONS)
    assert set(RefusalReason) - set(REASONS) == {RefusalReason.NOT_GENUINE, RefusalReason.CARD_REFUSED}
