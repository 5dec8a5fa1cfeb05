"""Trade time, trade day and booking day against docs/protocol.md §9 and R25."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.trade_time import (
    UtcOffset,
    booking_day,
    fixed_offset,
    measured_anchor_ms,
    trade_day,
    trade_days,
    trade_times,
)
from tests.protocol.samples import vector_cases

CASES = vector_cases("09")
NOW = 1_772_438_400_000  # 2026-03-02T08:00:00Z
CHINA = fixed_offset(480)


def times(
    *records: tuple[int, int, int],
    anchors: dict[int, int] | None = None,
    received: int = NOW,
    predecessor: int | None = None,
    successor: int | None = None,
) -> list[int]:
    boots, uptimes, clocks = zip(*records, strict=True)
    return trade_times(
        boots,
        uptimes,
        clocks,
        anchors_ms=anchors or {},
        received_ms=received,
        predecessor_ms=predecessor,
        successor_ms=successor,
    )


def zone_offset(zone: str) -> UtcOffset:
    rules = ZoneInfo(zone)

    def offset(utc_ms: int) -> int:
        found = datetime.fromtimestamp(utc_ms / 1000, UTC).astimezone(rules).utcoffset()
        assert found is not None
        return round(found.total_seconds() * 1000)

    return offset


@pytest.mark.parametrize("case", [case for case in CASES if "measured" in case["given"]], ids=lambda case: case["name"])
def test_trade_times_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    facts, measured = case["given"], case["given"]["measured"]
    anchors = {5: measured_anchor_ms(measured["utc_ms"], measured["uptime_ds"])} if measured else {}
    uptimes = facts["uptimes_ds"] if "uptimes_ds" in facts else [facts["uptime_ds"]]
    found = times(
        *[(5, uptime, facts["clock_ms"]) for uptime in uptimes],
        anchors=anchors,
        received=facts["received_ms"],
        predecessor=facts["predecessor_trade_ms"],
        successor=facts["successor_trade_ms"],
    )
    expected = case["expected"]["trade_ms"]
    assert found == (expected if isinstance(expected, list) else [expected])


@pytest.mark.parametrize(
    "case", [case for case in CASES if "time_zone" in case["given"]], ids=lambda case: case["name"]
)
def test_trade_days_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    found = trade_day(case["given"]["trade_ms"], zone_offset(case["given"]["time_zone"]))
    assert found == case["expected"]["trade_day"]


def test_measured_boot_beats_the_terminals_own_clock() -> None:
    anchor = measured_anchor_ms(NOW, 6_000)
    assert anchor == NOW - 600_000
    assert times((5, 5_990, NOW - 86_400_000), anchors={5: anchor}) == [NOW - 1_000]


def test_terminals_clock_serves_when_its_boot_was_never_measured() -> None:
    assert times((4, 10, NOW - 7_000), (5, 10, NOW), anchors={5: NOW - 2_000}) == [NOW - 7_000, NOW - 1_000]


@pytest.mark.parametrize(
    ("uptimes", "bounds", "expected"),
    [
        ([10, 20, 30], {}, [-2_000, -1_000, 0]),
        ([10, 30, 20], {}, [-2_000, 0, 0]),
        ([10, 20, 31], {}, [-2_000, -1_000, 0]),
        ([10, 20, 30], {"predecessor": NOW - 1_500}, [-1_500, -1_000, 0]),
        ([10, 20, 30], {"successor": NOW - 500}, [-2_000, -1_000, -500]),
    ],
    ids=["in order", "out of order", "too late", "predecessor", "successor"],
)
def test_frame_of_one_measured_boot_is_bounded_like_any_other(
    uptimes: list[int], bounds: dict[str, Any], expected: list[int]
) -> None:
    found = times(*[(5, uptime, 0) for uptime in uptimes], anchors={5: NOW - 3_000}, **bounds)
    assert found == [NOW + each for each in expected]


def test_receipt_serves_when_neither_boot_nor_clock_is_known() -> None:
    assert times((4, 10, 0)) == [NOW]


def test_no_record_is_later_than_its_receipt() -> None:
    assert times((4, 10, NOW + 1), (4, 11, (1 << 64) - 1)) == [NOW, NOW]


def test_neighbours_in_sequence_bound_a_record() -> None:
    assert times((4, 10, 1_000), predecessor=NOW - 50, successor=NOW - 20) == [NOW - 50]
    assert times((4, 10, NOW - 1), predecessor=NOW - 50, successor=NOW - 20) == [NOW - 20]
    assert times((4, 10, NOW - 30), predecessor=NOW - 50, successor=NOW - 20) == [NOW - 30]


def test_clock_that_jumps_back_inside_a_frame_is_held_at_the_predecessor() -> None:
    assert times((4, 1, NOW - 100), (4, 2, NOW - 500), (4, 3, NOW - 90)) == [NOW - 100, NOW - 100, NOW - 90]


def test_held_successor_bounds_every_record_before_it() -> None:
    assert times((4, 1, NOW - 10), (4, 2, NOW - 5), successor=NOW - 40) == [NOW - 40, NOW - 40]


def test_receipt_wins_over_a_predecessor_of_the_future() -> None:
    assert times((4, 1, NOW), received=NOW - 10, predecessor=NOW) == [NOW - 10]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=63
    ),
    st.dictionaries(st.integers(0, 3), st.integers(-(2**40), 2**42)),
    st.integers(0, 2**42),
    st.none() | st.integers(0, 2**42),
    st.none() | st.integers(0, 2**42),
)
def test_times_never_fall_never_pass_the_receipt_and_fit_a_row(
    records: list[tuple[int, int, int]],
    anchors: dict[int, int],
    received: int,
    predecessor: int | None,
    successor: int | None,
) -> None:
    found = times(*records, anchors=anchors, received=received, predecessor=predecessor, successor=successor)
    assert found == sorted(found)
    assert all(0 <= each <= received for each in found)
    if successor is not None:
        assert found[-1] <= successor
    if predecessor is not None and predecessor <= min(received, received if successor is None else successor):
        assert found[0] >= predecessor


@given(st.lists(st.tuples(st.just(4), st.just(0), st.integers(1, 2**42)), min_size=2, max_size=20), st.integers(1, 19))
def test_where_a_frame_is_cut_changes_no_trade_time(records: list[tuple[int, int, int]], cut: int) -> None:
    cut = min(cut, len(records) - 1)
    whole = times(*records)
    front = times(*records[:cut])
    assert front + times(*records[cut:], predecessor=front[-1]) == whole


def test_trade_day_changes_at_local_midnight() -> None:
    midnight = 20_514 * 86_400_000 - 480 * 60_000  # 2026-03-02T00:00 in China
    assert (trade_day(midnight - 1, CHINA), trade_day(midnight, CHINA)) == (20_513, 20_514)
    assert trade_days([midnight - 1, midnight], CHINA) == [20_513, 20_514]
    assert trade_day(midnight, fixed_offset(0)) == 20_513
    assert trade_day(0, fixed_offset(-1)) == -1


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"])
def test_trade_day_follows_the_rules_of_a_zone_through_daylight_saving(zone: str) -> None:
    rules, offset = ZoneInfo(zone), zone_offset(zone)
    instants = range(1_735_689_600_000, 1_767_225_600_000, 3_599_000)  # the year 2025, every hour less a second
    days = trade_days(instants, offset)
    epoch_day = datetime(1970, 1, 1, tzinfo=UTC).date().toordinal()
    local = [datetime.fromtimestamp(each / 1000, UTC).astimezone(rules).date() for each in instants]
    assert days == [each.toordinal() - epoch_day for each in local]
    assert days[:50] == [trade_day(each, offset) for each in instants[:50]]


@given(
    st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/St_Johns"]),
    st.integers(1_735_689_600_000, 1_767_225_600_000),
    st.lists(st.integers(0, 20_000_000), min_size=1, max_size=63),
)
def test_days_of_a_frame_are_the_days_of_its_records(zone: str, start: int, gaps: list[int]) -> None:
    offset = zone_offset(zone)
    frame = [start + sum(gaps[: index + 1]) for index in range(len(gaps))]
    assert trade_days(frame, offset) == [trade_day(each, offset) for each in frame]


@pytest.mark.parametrize(
    ("day", "first_open", "today", "booked"),
    [(100, 90, 110, 100), (80, 90, 110, 90), (120, 90, 110, 110), (120, 121, 110, 121)],
    ids=["open", "closed long ago", "from the future", "today itself is closed"],
)
def test_booking_day_is_clamped_to_open_days(day: int, first_open: int, today: int, booked: int) -> None:
    assert booking_day(day, first_open, today) == booked
