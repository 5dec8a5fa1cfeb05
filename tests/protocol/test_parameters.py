"""The site's parameters: one content, one encoding, and nothing taken that is not understood."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import dump
from protocol.errors import Malformed, OutOfRange, RemoteError
from protocol.parameters import (
    AMOUNT_CENTS_MAX,
    CONTENT_BYTES_MAX,
    Group,
    Limits,
    Meal,
    Menu,
    Parameters,
    decode_parameters,
)
from tests.hostile import HostileKit

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = (DOCS / "examples" / "parameters.json").read_bytes()
LUNCH = Meal(
    meal=2,
    name="lunch",
    card_max=2,
    booking_days_max=7,
    cut_off_min=540,
    serving_from_min=660,
    serving_to_min=810,
    walk_in_cents=1500,
    menus=(Menu(menu=1, name="A 套餐", price_cents=1200), Menu(menu=2, name="soup", price_cents=0)),
)
SITE = Parameters(
    limits=Limits(amount_max_cents=20_000, daily_max_cents=10_000, list_age_ms_max=172_800_000, stale_max_cents=3_000),
    groups=(Group(group=2, daily_max_cents=8_000, discount_per_mille=100),),
    meals=(LUNCH,),
    operator_cards=frozenset({1_000_001}),
)


def changed(path: str, value: Any) -> bytes:
    """The example with one member replaced, or (value None) left out; `path` as in amount_max_cents."""
    content = json.loads(EXAMPLE)
    *way, last = path.split(".")
    place = content
    for name in way:
        place = place[name] if not isinstance(place[name], list) else place[name][0]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return dump(content)


def test_the_example_on_the_page_is_the_example_file_and_means_what_it_says() -> None:
    block = re.search(r"```json\n(.*?)```", (DOCS / "parameters.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    assert dump(json.loads(block[1])) == EXAMPLE
    assert decode_parameters(EXAMPLE) == SITE
    assert SITE.content() == EXAMPLE


def test_a_terminal_without_parameters_is_limited_by_nothing_and_offers_nothing() -> None:
    found = decode_parameters(Parameters().content())
    assert found == Parameters()
    assert found.group(7).discount_per_mille == 0
    assert (found.limits.amount_max_cents, found.group(7).daily_max_cents) == (AMOUNT_CENTS_MAX, AMOUNT_CENTS_MAX)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("format", True),
        ("utc_offset_min", 841),
        ("amount_max_cents", 0),
        ("amount_max_cents", 1 << 31),
        ("amount_max_cents", "20000"),
        ("daily_max_cents", 0),
        ("list_age_ms_max", 59_999),
        ("stale_max_cents", -1),
        ("stale_max_cents", None),
        ("groups", {}),
        ("groups", [{}] * 257),
        ("groups.group", 256),
        ("groups.discount_per_mille", 1_001),
        ("groups.daily_max_cents", None),
        ("meals", None),
        ("meals.meal", 0),
        ("meals.name", ""),
        ("meals.name", "x" * 33),
        ("meals.name", "lunch\u202e"),
        ("meals.card_max", 0),
        ("meals.booking_days_max", 32),
        ("meals.cut_off_min", 1_441),
        ("meals.serving_from_min", 1_440),
        ("meals.serving_to_min", 660),
        ("meals.walk_in_cents", -1),
        ("meals.menus", [{"menu": 1, "name": "A", "price_cents": 1}] * 2),
        ("meals.menus", [{"menu": each, "name": "A", "price_cents": 1} for each in range(1, 10)]),
        ("meals.menus.price_cents", 1 << 31),
        ("operator_cards", [0]),
        ("operator_cards", [1 << 32]),
        ("operator_cards", [2, 1]),
        ("operator_cards", [1, 1]),
        ("operator_cards", [False]),
        ("operator_cards", ["1"]),
    ],
)
def test_what_is_missing_or_out_of_bounds_is_refused_by_name(path: str, value: Any) -> None:
    with pytest.raises(Malformed) as caught:
        decode_parameters(changed(path, value))
    assert path.rsplit(".", maxsplit=1)[-1].removesuffix("s") in str(caught.value)


@pytest.mark.parametrize("path", ["limit", "groups.colour", "meals.price", "meals.menus.tax"])
def test_what_nobody_knows_is_refused_by_name(path: str) -> None:
    with pytest.raises(Malformed, match=f"unknown field '{path.rsplit('.', maxsplit=1)[-1]}'"):
        decode_parameters(changed(path, 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b" " + EXAMPLE,
        EXAMPLE + b"\n",
        EXAMPLE.replace(b'"format":1', b'"format":1.0'),
        EXAMPLE.replace(b'"format":1', b'"format":1e0'),
        EXAMPLE.replace(b'"format":1', b'"format":NaN'),
        EXAMPLE.replace(b'"format":1', b'"format":1,"format":1'),
        EXAMPLE.replace(b'"format":1', b'"format":-0'),
        EXAMPLE.replace("套".encode(), b"\\u5957"),
        EXAMPLE.replace("套".encode(), b"\\ud800"),
        EXAMPLE.replace("套".encode(), b"\xff"),
        b'{"format":' + b"9" * 5_000 + b"}",
        b"[" * 20_000,
        b'{"a":' * 6_000,
        b" " * (CONTENT_BYTES_MAX + 1),
    ],
    ids=lambda data: f"{data[:12]!r}, {len(data)} bytes",
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteError):
        decode_parameters(data)


def test_hostile_bytes_raise_nothing_but_remote_errors() -> None:
    HostileKit(EXAMPLE, decode_parameters, bytes_max=CONTENT_BYTES_MAX, authenticated=False).run_all()


def test_values_that_no_terminal_would_take_are_never_signed() -> None:
    for wrong in (
        replace(SITE, utc_offset_min=10_000),
        replace(SITE, operator_cards=frozenset({0})),
        replace(SITE, groups=SITE.groups * 2),
        replace(SITE, meals=(replace(LUNCH, serving_to_min=1),)),
        replace(SITE, limits=replace(SITE.limits, amount_max_cents=0)),
    ):
        with pytest.raises(OutOfRange):
            wrong.content()


def test_a_whole_canteen_fits_into_the_content() -> None:
    menus = tuple(Menu(menu=each, name="红烧肉套餐" * 6, price_cents=1) for each in range(1, 9))
    meals = tuple(replace(LUNCH, meal=each, name="午" * 32, menus=menus) for each in range(1, 33))
    groups = tuple(Group(group=each, discount_per_mille=each) for each in range(33))
    content = Parameters(meals=meals[:20], groups=groups, operator_cards=frozenset(range(1, 257))).content()
    print(f"{len(content)} bytes")
    assert len(content) <= CONTENT_BYTES_MAX


GROUPS = st.lists(st.integers(0, 255), unique=True, max_size=5).flatmap(
    lambda numbers: st.tuples(
        *(
            st.builds(
                Group,
                group=st.just(each),
                daily_max_cents=st.integers(1, AMOUNT_CENTS_MAX),
                discount_per_mille=st.integers(0, 1000),
            )
            for each in sorted(numbers)
        )
    )
)
LIMITS = st.builds(
    Limits,
    amount_max_cents=st.integers(1, AMOUNT_CENTS_MAX),
    daily_max_cents=st.integers(1, AMOUNT_CENTS_MAX),
    list_age_ms_max=st.integers(60_000, 10**9),
    stale_max_cents=st.integers(0, AMOUNT_CENTS_MAX),
)
ANY = st.builds(
    Parameters,
    limits=LIMITS,
    groups=GROUPS,
    meals=st.sampled_from([(), (LUNCH,), (LUNCH, replace(LUNCH, meal=3, cut_off_min=-60))]),
    operator_cards=st.frozensets(st.integers(1, 2**32 - 1), max_size=4),
    utc_offset_min=st.integers(-840, 840),
)


@given(ANY)
def test_parameters_survive_their_encoding(parameters: Parameters) -> None:
    assert decode_parameters(parameters.content()) == parameters


def test_local_time_is_that_of_the_site() -> None:
    midnight_ms = 20_000 * 86_400_000 - 480 * 60_000
    assert (SITE.local_day(midnight_ms), SITE.local_minute(midnight_ms)) == (20_000, 0)
    assert (SITE.local_day(midnight_ms - 1), SITE.local_minute(midnight_ms - 1)) == (19_999, 1_439)
