"""The plan of taps: from the seed alone, at its rate, in its shape."""

from __future__ import annotations

from itertools import pairwise

import pytest

from terminal_sim.draws import Draws
from terminal_sim.load import CARD_STAY_MS, PlannedTap, Profile, TapPlan


def taps_of(**changes: object) -> list[PlannedTap]:
    options = {"seed": 7, "taps": 4000, "rate": 100.0, "terminals": 20, "cards": 1000} | changes
    return list(TapPlan(**options))  # type: ignore[arg-type]  # each test names what it changes


def test_the_first_draws_of_a_seed_never_change() -> None:
    draws = Draws(1, "taps")
    assert [f"{draws.next64():016x}" for _ in range(2)] == ["c95cc4f72ebe3151", "e5b99bc01e30e974"]


def test_each_label_and_each_seed_has_a_stream_of_its_own() -> None:
    assert len({Draws(seed, label).next64() for seed in (7, 8) for label in ("taps", "torn")}) == 4


def test_draws_stay_in_their_range() -> None:
    draws = Draws(3, "x")
    assert {draws.below(5) for _ in range(500)} == set(range(5))
    assert {draws.between(-2, 2) for _ in range(500)} == set(range(-2, 3))
    assert all(0 <= draws.unit() < 1 for _ in range(500))


@pytest.mark.parametrize("profile", Profile)
def test_a_plan_is_the_same_for_the_same_seed_and_another_for_another(profile: Profile) -> None:
    assert taps_of(profile=profile) == taps_of(profile=profile)
    assert taps_of(profile=profile) != taps_of(profile=profile, seed=8)


@pytest.mark.parametrize("profile", Profile)
def test_taps_come_in_order_at_their_rate(profile: Profile) -> None:
    taps = taps_of(profile=profile)
    moments = [tap.at_ms for tap in taps]
    assert moments == sorted(moments)
    assert 38_000 <= moments[-1] <= 42_000  # 4,000 taps at 100 a second
    assert {tap.terminal for tap in taps} == set(range(20))
    assert min(tap.amount_cents for tap in taps) == 200
    assert max(tap.amount_cents for tap in taps) == 1500


def test_even_taps_have_even_gaps() -> None:
    moments = [tap.at_ms for tap in taps_of(profile=Profile.EVEN, taps=50)]
    assert {after - before for before, after in pairwise(moments)} <= {10, 11, 9}


def test_lunch_has_its_peak_in_the_middle() -> None:
    moments = [tap.at_ms for tap in taps_of(profile=Profile.LUNCH, taps=20_000)]
    tenths = [sum(index * 20_000 <= at < (index + 1) * 20_000 for at in moments) for index in range(10)]
    assert tenths[4] + tenths[5] > 2.5 * (tenths[0] + tenths[9])


def test_a_card_is_in_one_place_at_a_time() -> None:
    last: dict[int, int] = {}
    for tap in taps_of():
        assert tap.at_ms - last.get(tap.card, -CARD_STAY_MS) >= CARD_STAY_MS
        last[tap.card] = tap.at_ms


def test_a_site_with_too_few_cards_still_gets_its_taps() -> None:
    assert len(taps_of(cards=2)) == 4000
