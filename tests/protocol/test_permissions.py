"""protocol.permissions, canonical, local_time: the document of doors, its strict reading, and the wall clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import dump
from protocol.errors import Malformed, OutOfRange, RemoteError, TooLong
from protocol.local_time import Interval, LocalTime, day_of_date, is_within, local_time
from protocol.permission_parts import DOORS_MAX, GRANTS_MAX
from protocol.permissions import (
    PERMISSIONS_BYTES_MAX,
    AntiPassback,
    Clockless,
    Door,
    DuressRule,
    Group,
    Permissions,
    Profile,
)
from tests.hostile import HostileKit
from tests.protocol.door_kit import DOOR, GROUPS, MONDAY, PROFILES, site

CONTENT = (
    b'{"doors":[{"anti_passback":"off","area_from":0,"area_to":1,"clockless":"closed","code":"","door":1,'
    b'"duress":"off","exit_button":true,"first_groups":[],"grants":[[4,0],[9,1]],"held_open_ms":30000,"lock":1,'
    b'"name":"main","terminal":4001,"unlock_ms":5000}],"format":1,'
    b'"groups":[{"cards":[],"id":4,"name":"staff"},{"cards":[],"id":9,"name":"guests"}],"holidays":[20261001],'
    b'"profiles":[{"id":1,"intervals":[[31,480,1080]],"name":"office"}],"utc_offsets":[[0,480]]}'
)


def test_the_document_is_byte_for_byte_canonical() -> None:
    assert site().encode() == CONTENT
    assert Permissions.decode(CONTENT) == site()
    assert Permissions.decode(CONTENT).doors == (DOOR,)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(CONTENT)
    change(document)
    return dump(document)


def set_door(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["doors"][0].update(values)


REFUSED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (set_door(unlock_ms=0), "doors[0].unlock_ms is 0; 100 to 600000"),
    (set_door(unlock_ms=True), "doors[0].unlock_ms is no whole number; 100 to 600000"),
    (set_door(held_open_ms=999), "doors[0].held_open_ms is 999; 1000 to 86400000"),
    (set_door(colour=1), "doors[0] has an unknown field 'colour'"),
    (lambda d: d["doors"][0].pop("lock"), "doors[0] has no field 'lock'"),
    (set_door(anti_passback="perhaps"), "doors[0].anti_passback is none of off, soft, hard"),
    (set_door(exit_button=1), "doors[0].exit_button is neither true nor false"),
    (set_door(code="12a4"), "doors[0] has a code that is not 4 to 8 digits"),
    (set_door(code="123"), "doors[0] has a code that is not 4 to 8 digits"),
    (set_door(code="٣٣٣٣"), "doors[0] has a code that is not 4 to 8 digits"),
    (set_door(duress="suffix"), "doors[0].duress needs a code"),
    (set_door(grants=[[9, 1], [4, 0]]), "doors[0].grants[1] is not above the one before"),
    (set_door(grants=[[4, 0], [4, 0]]), "doors[0].grants[1] is not above the one before"),
    (set_door(grants=[[5, 0]]), "doors[0].grants[0]: there is no group 5"),
    (set_door(grants=[[4, 2]]), "doors[0].grants[0]: there is no profile 2"),
    (set_door(grants=[[4]]), "doors[0].grants[0] is no list of 2 numbers"),
    (set_door(grants=[[256, 0]]), "doors[0].grants[0][0] is 256; 0 to 255"),
    (set_door(first_groups=[7]), "doors[0].first_groups: group 7 has no grant here"),
    (set_door(lock=2), "doors[0].lock: terminal 4001 has no lock 2"),
    (set_door(anti_passback="hard", area_to=0), "doors[0] has anti-passback and leads nowhere"),
    (set_door(name="a\nb"), "doors[0].name is no plain text of at most 32 characters"),
    (set_door(name="x" * 33), "doors[0].name is no plain text of at most 32 characters"),
    (lambda d: d.update(format=2), "format is 2; 1 to 1"),
    (lambda d: d.update(doors={}), "doors is no list of 0 to 128 items"),
    (lambda d: d["groups"].reverse(), "groups[1] is not above the one before"),
    (lambda d: d["groups"][0].update(cards=[[9, 8]]), "groups[0].cards[0] ends before it begins"),
    (lambda d: d["groups"][0].update(cards=[[1, 8], [8, 9]]), "groups[0].cards[1] ends before it begins, or overlaps"),
    (lambda d: d.update(holidays=[20260230]), "holidays[0]: 20260230 is no date"),
    (lambda d: d.update(holidays=[20261001, 20261001]), "holidays[1] is not above the one before"),
    (lambda d: d["profiles"][0].update(intervals=[[31, 600, 600]]), "profiles[0].intervals[0] ends before it begins"),
    (lambda d: d["profiles"][0].update(intervals=[[256, 1, 2]]), "profiles[0].intervals[0][0] is 256; 1 to 255"),
    (lambda d: d["profiles"][0].update(intervals=[]), "profiles[0].intervals is no list of 1 to 16 items"),
    (lambda d: d.update(utc_offsets=[[5, 480]]), "utc_offsets[0] does not begin at 0"),
    (lambda d: d.update(utc_offsets=[]), "utc_offsets is no list of 1 to 32 items"),
    (lambda d: d.update(more=[]), "the document has an unknown field 'more'"),
]


@pytest.mark.parametrize(("change", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_is_wrong_is_named_with_its_place(change: Callable[[dict[str, Any]], object], why: str) -> None:
    with pytest.raises(Malformed) as caught:
        Permissions.decode(changed(change))
    assert str(caught.value).startswith(f"permissions: {why}")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (CONTENT.replace(b":", b": ", 1), "not canonical"),
        (CONTENT + b"\n", "not canonical"),
        (CONTENT.replace(b'"format":1', b'"format":1,"format":1'), "not canonical"),
        (CONTENT.replace(b"main", b"\\u006dain"), "not canonical"),
        (CONTENT.replace(b"5000", b"5000.0"), "numbers are whole"),
        (CONTENT.replace(b"5000", b"5e3"), "numbers are whole"),
        (CONTENT.replace(b"5000", b"NaN"), "numbers are whole"),
        (CONTENT.replace(b"5000", b"9" * 5000), "numbers are whole"),
        (b"[" * 50_000, "numbers are whole and short, and nothing is nested deeply"),
        (CONTENT.replace(b"main", b"\xff\xff"), "not UTF-8 at offset"),
        (CONTENT.replace(b"main", b"\\ud800"), "no canonical spelling"),
        (b"", "not JSON"),
        (b"[]", "the whole is no object"),
    ],
)
def test_another_spelling_of_the_same_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        Permissions.decode(content)


def test_a_document_above_its_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLong):
        Permissions.decode(b"x" * (PERMISSIONS_BYTES_MAX + 1))
    crowd = [Group(each, "é" * 32, tuple((10 * n, 10 * n + 5) for n in range(1, 65))) for each in range(256)]
    with pytest.raises(OutOfRange):
        Permissions(groups=crowd).encode()


def test_the_largest_number_of_doors_fits() -> None:
    doors = [
        Door(terminal=1 + n // 4, door=1 + n % 4, name=f"door {n}", lock=1 + n % 4, grants=((4, 0), (9, 1)))
        for n in range(DOORS_MAX)
    ]
    content = site(*doors).encode()
    assert len(content) < PERMISSIONS_BYTES_MAX
    assert len(Permissions.decode(content).doors) == DOORS_MAX
    one_more = site(*doors, Door(terminal=999, door=1, name="one more", lock=1)).encode()
    with pytest.raises(Malformed, match="doors is no list of 0 to 128 items"):
        Permissions.decode(one_more)


def test_hostile_bytes_in_the_document() -> None:
    kit = HostileKit(CONTENT, Permissions.decode, bytes_max=PERMISSIONS_BYTES_MAX)
    kit.refuses_truncation_at_every_offset()
    kit.survives_every_flipped_bit()
    kit.survives_garbage()
    assert kit.decode(kit.vector).encode() == CONTENT


names = st.text(max_size=32).filter(str.isprintable)
doors = st.builds(
    Door,
    terminal=st.integers(1, 3),
    door=st.just(1),
    name=names,
    lock=st.just(1),
    area_from=st.just(0),
    area_to=st.integers(1, 255),
    anti_passback=st.sampled_from(AntiPassback),
    clockless=st.sampled_from(Clockless),
    code=st.from_regex(r"[0-9]{4,8}", fullmatch=True),
    duress=st.sampled_from(DuressRule),
    exit_button=st.booleans(),
    first_groups=st.sampled_from([(), (4,), (4, 9)]),
    grants=st.just(((4, 0), (9, 1))),
    held_open_ms=st.integers(1_000, 86_400_000),
    unlock_ms=st.integers(100, 600_000),
)


@given(st.lists(doors, max_size=3, unique_by=lambda each: each.terminal))
def test_whatever_is_encoded_is_read_back(several: list[Door]) -> None:
    made = Permissions(doors=sorted(several, key=lambda each: each.terminal), groups=GROUPS, profiles=PROFILES)
    assert Permissions.decode(made.encode()) == made


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(
    st.sampled_from(["doors", "format", "groups", "holidays", "profiles", "utc_offsets", "x"]), of)))  # fmt: skip
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        content = dump(value)
    except ValueError:
        return
    with pytest.raises(RemoteError):
        Permissions.decode(content)


# -- time


@pytest.mark.parametrize(
    ("utc_ms", "offset", "day", "minute", "weekday"),
    [
        (0, 0, 0, 0, 3),  # 1970-01-01 was a Thursday
        (0, 480, 0, 480, 3),
        (0, -1, -1, 1439, 2),
        (1_773_590_400_000 - 1, 480, 20_527, 1439, 6),  # 2026-03-15T23:59 in Shanghai, a Sunday
        (1_773_590_400_000, 480, 20_528, 0, 0),
    ],
)
def test_the_wall_clock(utc_ms: int, offset: int, day: int, minute: int, weekday: int) -> None:
    now = local_time(utc_ms, offset)
    assert (now.day, now.minute, now.weekday) == (day, minute, weekday)


def test_dates_are_days_of_the_calendar() -> None:
    assert day_of_date(19700101) == 0
    assert day_of_date(20260316) == 20_528 == MONDAY
    for wrong in (20260230, 20261301, 20260100, 0, 99999999_99):
        with pytest.raises(OutOfRange):
            day_of_date(wrong)


def test_an_interval_takes_its_first_minute_and_not_its_last() -> None:
    office = (Interval(0b0001_1111, 480, 1080),)
    shown = [is_within(office, LocalTime(MONDAY, minute), ()) for minute in (479, 480, 1079, 1080)]
    assert shown == [False, True, True, False]
    assert [is_within(office, LocalTime(MONDAY + day, 600), ()) for day in range(7)] == [True] * 5 + [False] * 2


def test_on_a_holiday_only_the_holiday_bit_counts() -> None:
    office, sunday_and_holiday = (Interval(0b0001_1111, 480, 1080),), (Interval(0b1100_0000, 600, 720),)
    noon = LocalTime(MONDAY, 650)
    assert not is_within(office, noon, {MONDAY})
    assert is_within(sunday_and_holiday, noon, {MONDAY})
    assert not is_within(sunday_and_holiday, noon, ())
    assert is_within(sunday_and_holiday, LocalTime(MONDAY + 6, 650), ())


def test_the_offset_in_force_is_the_last_that_has_begun() -> None:
    berlin = site(offsets=((0, 60), (1_774_746_000, 120), (1_792_890_000, 60)))  # 2026-03-29 and 2026-10-25, 01:00 UTC
    minutes = [berlin.local_time(at_s * 1000).minute for at_s in (1_774_745_940, 1_774_746_000, 1_792_890_000)]
    assert minutes == [119, 180, 120]


def test_the_holiday_of_the_document_is_a_local_day() -> None:
    guests_on_holidays = site(profiles=(Profile(1, "office", (Interval(0x80, 0, 1440),)),))
    first_of_october_ms = 1_790_784_000_000  # 2026-10-01T00:00+08:00
    for ms, is_open in ((first_of_october_ms - 1, False), (first_of_october_ms, True)):
        assert guests_on_holidays.is_open(1, guests_on_holidays.local_time(ms)) is is_open


def test_no_repr_shows_a_code() -> None:
    secret = Door(terminal=1, door=1, name="vault", lock=1, code="4711")
    assert "4711" not in repr(secret) + repr(site(secret))


def test_a_door_takes_no_more_grants_than_its_limit() -> None:
    groups = [Group(each, "") for each in range(GRANTS_MAX)]
    profiles = [Profile(1, "", (Interval(1, 0, 1),))]
    full = Door(terminal=1, door=1, name="", lock=1, grants=tuple((each.id, 0) for each in groups))
    made = Permissions(doors=(full,), groups=groups, profiles=profiles)
    assert Permissions.decode(made.encode()) == made
    over = Door(terminal=1, door=1, name="", lock=1, grants=((0, 0), (0, 1), *full.grants[1:]))
    content = Permissions(doors=(over,), groups=groups, profiles=profiles).encode()
    with pytest.raises(Malformed, match="grants is no list of 0 to 256 items"):
        Permissions.decode(content)
