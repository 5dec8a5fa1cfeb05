"""What the oracle builds it parses again to the same, and what it parses is nothing but what it would build."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import frames, handshake, link, lists, messages, ranges, records, rows, sealed
from tests.oracle.fields import OracleError, build, parse
from tests.oracle.primitives import SUITE_A, SUITE_B
from tests.oracle.trade_time import trade_ms

U8: Final = st.integers(0, 0xFF)
U16: Final = st.integers(0, 0xFFFF)
U32: Final = st.integers(0, 0xFFFFFFFF)
U64: Final = st.integers(0, (1 << 64) - 1)
I32: Final = st.integers(-(1 << 31), (1 << 31) - 1)
I64: Final = st.integers(-(1 << 63), (1 << 63) - 1)


def hexes(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).map(bytes.hex)


def numbers(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(kinds)


HELLO: Final = numbers(
    suite=U8,
    role=U8,
    medium=U8,
    link_key_version=U8,
    terminal=U32,
    epoch=U16,
    body_limit=U16,
    terminal_kind=U8,
    nonce=hexes(16),
    **{"class": U8},
)


def _epoch_of(entry: dict[str, Any]) -> int:
    epoch: int = entry["epoch"]
    return epoch


ENTRY: Final = st.tuples(U16, st.lists(st.integers(1, 0xFFFFFFFF), min_size=3, max_size=3).map(sorted), hexes(8)).map(
    lambda drawn: {
        "epoch": drawn[0],
        "oldest_held": drawn[1][0],
        "first_unacknowledged": drawn[1][1],
        "next": drawn[1][2],
        "seal_before_first_unacknowledged": drawn[2],
    }
)
ENTRIES: Final = st.lists(ENTRY, min_size=1, max_size=4, unique_by=_epoch_of).map(
    lambda entries: sorted(entries, key=_epoch_of)
)
BASELINE: Final = numbers(
    type=st.just(1), boot=U16, terminal=U32, uptime_ds=U32, clock_ms=U64, entries=ENTRIES, seal=hexes(8)
)
STRETCH: Final = st.tuples(U32, U32).map(sorted)
TOMBSTONE: Final = st.tuples(numbers(type=st.just(4), reason=U8, epoch=U16, terminal=U32, seal=hexes(8)), STRETCH).map(
    lambda drawn: {**drawn[0], "first": drawn[1][0], "last": drawn[1][1]}
)
HEARTBEAT: Final = numbers(
    type=st.just(5),
    flags=st.integers(0, 15),
    epoch=U16,
    boot=U16,
    uptime_ds=U32,
    clock_ms=U64,
    next=U32,
    first_unacknowledged=U32,
)
TIME: Final = numbers(type=st.just(0x84), flags=st.integers(0, 1), boot=U16, uptime_ds=U32, utc_ms=U64)
HEAD: Final = {
    "proof_suite": U8,
    "epoch": U16,
    "boot": U16,
    "terminal": U32,
    "sequence": U32,
    "uptime_ds": U32,
    "clock_ms": U64,
    "running_count": U32,
    "running_sum": I64,
    "predecessor_seal": hexes(8),
    "seal": hexes(8),
}
NOT_ZERO: Final = st.integers(1, 0xFFFFFFFF)
PURCHASE: Final[dict[str, Any]] = {
    "merchant": U32,
    "card_number": NOT_ZERO,
    "card_uid": hexes(7),
    "card_key_version": U8,
    "amount": NOT_ZERO,
    "balance_after": I32,
    "card_counter": U32,
    "currency": U16,
    "card_kind": U8,
    "card_proof": hexes(8),
}
MEAL: Final = {**PURCHASE, "amount": U32, "reference": NOT_ZERO, "meal_day": U16, "meal": U8, "menu": U8}
KNOWN: Final = st.one_of(
    numbers(type=st.just(records.PURCHASE), body_version=st.just(0), body=numbers(**PURCHASE), **HEAD),
    numbers(type=st.sampled_from(records.MEALS), body_version=st.just(0), body=numbers(**MEAL), **HEAD),
)
UNKNOWN: Final = numbers(
    type=st.integers(0x80, 0xEF),
    body_version=U8,
    body=st.sampled_from([8, 24, 40, 56]).flatmap(hexes),
    **HEAD,
)
RECEIPT: Final = numbers(
    batch_name=hexes(68),
    ledger_generation=U32,
    chain_position=U64,
    chain_hash=hexes(32),
    records_posted=U32,
    duplicates=U32,
    quarantined=U32,
    sum_of_posted_amounts=I64,
    exceptions_not_listed=U16,
    exceptions=st.lists(numbers(terminal=U32, epoch=U16, result=U8, sequence=U32, row_offset=U32), max_size=5),
)
ROW: Final = numbers(
    row_kind=U8,
    flags=st.integers(0, 1),
    epoch=U16,
    terminal=U32,
    first_sequence=U32,
    last_sequence=U32,
    received_ms=U64,
    trade_ms=st.lists(U64, max_size=5),
    payload=st.binary(max_size=200).map(bytes.hex),
)
NUMBERS: Final = st.sets(U32, max_size=20)


@given(HELLO)
def test_a_hello_survives_the_round_trip(fields: dict[str, Any]) -> None:
    data = build(handshake.HELLO, fields)
    assert len(data) == 32
    assert parse(handshake.HELLO, data) == fields


@given(st.one_of(BASELINE, TOMBSTONE, HEARTBEAT, TIME))
def test_a_message_survives_the_round_trip(fields: dict[str, Any]) -> None:
    found = messages.parse_message(messages.build_message(fields))
    found.pop("n", None)
    assert found == fields


@given(st.one_of(KNOWN, UNKNOWN))
def test_a_record_survives_the_round_trip(fields: dict[str, Any]) -> None:
    data = records.build_record(fields)
    assert records.parse_record(data) == {**fields, "length": len(data)}


@given(st.lists(st.one_of(KNOWN, UNKNOWN).map(records.build_record), min_size=1, max_size=8))
def test_an_upload_is_cut_into_the_records_it_was_made_of(batch: list[bytes]) -> None:
    fields = {
        "type": 2,
        "count": len(batch),
        "length_of_last": len(batch[-1]),
        "flags": 0,
        "records": [record.hex() for record in batch],
    }
    assert messages.parse_message(messages.build_message(fields)) == fields


@given(RECEIPT)
def test_a_receipt_survives_the_round_trip(fields: dict[str, Any]) -> None:
    assert parse(link.RECEIPT, build(link.RECEIPT, fields)) == {**fields, "m": len(fields["exceptions"])}


@given(ROW, st.binary(max_size=40))
def test_a_row_states_its_own_size(fields: dict[str, Any], behind: bytes) -> None:
    row = rows.build_row(fields)
    assert rows.split_row(row + behind) == (row, behind)
    assert parse(rows.ROW, row).items() >= fields.items()


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_a_delta_leads_from_any_content_to_any_other(
    cards: set[int], lots: set[int], other_cards: set[int], other_lots: set[int]
) -> None:
    base, content = lists.build_content(cards, lots), lists.build_content(other_cards, other_lots)
    assert lists.apply_delta(base, lists.make_delta(base, content)) == content


@given(
    st.binary(min_size=1, max_size=200),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=5, max_size=5),
    st.integers(0, 1 << 40),
    st.sampled_from([(SUITE_A, False), (SUITE_A, True), (SUITE_B, False)]),
)
def test_a_sealed_frame_opens_with_its_key_and_counter_only(
    message: bytes, key: bytes, salt: bytes, counter: int, way: tuple[int, bool]
) -> None:
    suite, line = way
    frame = sealed.seal_frame(message, key=key, salt=salt, counter=counter, down=True, line=line, suite=suite)
    assert sealed.open_frame(frame, key=key, salt=salt, counter=counter, line=line, suite=suite) == message
    with pytest.raises(OracleError):
        sealed.open_frame(frame, key=key, salt=salt, counter=counter + (1 << 32), line=line, suite=suite)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_are_exactly_what_they_parse_to(data: bytes) -> None:
    try:
        found = messages.parse_message(data)
    except OracleError:
        return
    assert messages.build_message(found) == data


@given(st.binary(max_size=100), st.booleans())
def test_arbitrary_bytes_make_no_frame_and_no_other_error(data: bytes, line: bool) -> None:
    with pytest.raises(OracleError):
        frames.parse_frame(b"\xc3" + data, line=line)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8)), max_size=12))
def test_frames_of_one_chain_in_any_order_leave_just_the_ranges_they_cover(drawn: list[tuple[int, int]]) -> None:
    held = ranges.Held([])
    covered: set[int] = set()
    rows_of: list[int] = []
    for first, size in drawn:
        frame = ranges.Frame(first, [f"{sequence:016x}" for sequence in range(first - 1, first + size)])
        case, stored, held = ranges.accept_frame(held, frame)
        assert case != "suspect"
        covered |= set(range(first, first + size))
        rows_of += [sequence for low, high in stored for sequence in range(low, high + 1)]
    assert sorted(rows_of) == sorted(covered)  # nothing twice, nothing lost
    assert {n for one in held.ranges for n in range(one.first, one.last + 1)} == covered
    assert all(a.last + 1 < b.first for a, b in zip(held.ranges, held.ranges[1:], strict=False))


@given(st.one_of(st.none(), U32), U32, U64, U64, st.one_of(st.none(), U64), st.one_of(st.none(), U64))
def test_no_trade_is_later_than_its_receipt(
    anchor: int | None, uptime_ds: int, clock: int, received: int, before: int | None, after: int | None
) -> None:
    found = trade_ms(
        anchor=anchor,
        uptime_ds=uptime_ds,
        clock_ms=clock,
        received_ms=received,
        predecessor_trade_ms=before,
        successor_trade_ms=after,
    )
    assert found <= received
    assert after is None or found <= after
    assert before is None or found >= min(before, received, received if after is None else after)
