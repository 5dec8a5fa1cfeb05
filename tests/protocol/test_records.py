"""Records: bytes against vectors, hostile bytes, and the columns that intake works with."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import record_bodies
from protocol.errors import Malformed, OutOfRange
from protocol.mac import MacKey
from protocol.record_bodies import Body, Completion, Doubt
from protocol.records import (
    Aborted,
    Grey,
    Purchase,
    RecordHead,
    Unknown,
    decode_body,
    encode_record,
    iter_money,
    previous_seal,
    read_head,
    seal_of,
    summarise,
    walk,
)
from tests.hostile import HostileKit
from tests.protocol.samples import SEAL_KEY, TERMINAL, UID, aborted, chain, grey, head, purchase, vector_cases

RECORDS = [case for case in vector_cases("07") if "predecessor_seal" in case["given"]]
OTHERS = [case for case in vector_cases("07c") if "predecessor_seal" in case["given"]]
REFUSED = [case for case in (*vector_cases("07"), *vector_cases("07c")) if "error" in case]
NAMES = {
    "card_number": "card",
    "card_uid": "uid",
    "card_key_version": "key_version",
    "amount": "amount_cents",
    "balance_after": "balance_after_cents",
    "card_counter": "counter",
    "card_proof": "proof",
    "original_card_proof": "proof",
}
GREY_NAMES = {**NAMES, "balance_after": "balance_before_cents", "card_counter": "counter_before"}


def head_of(facts: dict[str, Any]) -> RecordHead:
    named = {key: value for key, value in facts.items() if key not in {"body", "predecessor_seal", "seal"}}
    named["running_sum_cents"] = named.pop("running_sum")
    return RecordHead(**named)


def body_of(facts: dict[str, Any]) -> Body:
    body = facts["body"]
    if isinstance(body, str):
        return Unknown(facts["type"], facts["body_version"], bytes.fromhex(body))
    kind = record_bodies.BODIES[facts["type"]]
    names = GREY_NAMES if kind in {Grey, Doubt} else NAMES
    values = {names.get(key, key): value for key, value in body.items()}
    for name in {"uid", "proof"} & values.keys():
        values[name] = bytes.fromhex(values[name])
    if kind is Grey:
        del values["proof"]
    return cast(Body, kind(**values))


@pytest.mark.parametrize("case", [*RECORDS, *OTHERS], ids=lambda case: case["name"])
def test_record_of_the_vectors_is_read_and_written_byte_for_byte(case: dict[str, Any]) -> None:
    facts, data = case["given"], bytes.fromhex(case["bytes"])
    assert read_head(data) == head_of(facts)
    assert decode_body(data) == body_of(facts)
    assert previous_seal(data).hex() == facts["predecessor_seal"]
    assert seal_of(data).hex() == facts["seal"]
    key = MacKey(bytes.fromhex(case["expected"]["seal_key"]))
    assert encode_record(head_of(facts), body_of(facts), previous_seal(data), key) == data


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_records_that_the_vectors_refuse_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        decode_body(bytes.fromhex(case["bytes"]))


def test_the_vectors_as_one_payload_are_walked_and_summed() -> None:
    payload = b"".join(bytes.fromhex(case["bytes"]) for case in RECORDS)
    assert [bytes(record).hex() for record in walk(payload)] == [case["bytes"] for case in RECORDS]
    found = summarise(payload)
    assert (found.terminal, found.epoch, found.first, found.last) == (TERMINAL, 3, 1, len(RECORDS))
    assert (found.count, found.money_count, found.sum_cents) == (len(RECORDS), 3, 1250 + 800 + 450)
    assert list(found.amounts_cents) == [1250, 800, 0, 450, 0, 0, 0]
    assert list(found.clocks_ms) == [case["given"]["clock_ms"] for case in RECORDS]


def test_debits_are_counted_and_credits_taken_off_in_a_chain_of_every_other_type() -> None:
    payload = b"".join(bytes.fromhex(case["bytes"]) for case in OTHERS)
    found = summarise(payload)
    assert list(found.amounts_cents) == [900, -900, 0, 0, -5000, 0, -300, 0, 900, *[0] * 12]
    last = OTHERS[-1]["given"]
    assert (found.money_count, found.sum_cents) == (last["running_count"], last["running_sum"]) == (5, -4400)


def test_head_offsets_are_those_of_the_page() -> None:
    data = bytes.fromhex(
        "01600100 00030005 00010203 00000001 000d2f64 0000019cad8ffa20 00000001 fffffffffffffffe"
    ) + bytes(56)
    assert read_head(data) == RecordHead(
        type=1,
        length=96,
        proof_suite=1,
        body_version=0,
        epoch=3,
        boot=5,
        terminal=0x00010203,
        sequence=1,
        uptime_ds=0x000D2F64,
        clock_ms=0x19CAD8FFA20,
        running_count=1,
        running_sum_cents=-2,
    )


PURCHASE_IGNORED = (*range(2, 3), *range(4, 40), 71, *range(80, 96))  # head fields and seals are not the body's


@pytest.mark.parametrize(
    ("body", "ignored"),
    [
        (purchase(), PURCHASE_IGNORED),
        (grey(), PURCHASE_IGNORED),
        (aborted(), (2, *range(4, 40), 42, 43, *range(48, 64))),
    ],
    ids=["purchase", "grey", "aborted"],
)
def test_hostile_bytes_of_a_record_raise_nothing_but_remote_errors(body: Purchase, ignored: tuple[int, ...]) -> None:
    HostileKit(chain(body), decode_body, bytes_max=112, ignored=ignored, length_fields=[(1, 1)]).run_all()


def test_a_completions_reference_is_its_last_eight_bytes() -> None:
    (data,) = (bytes.fromhex(case["bytes"]) for case in RECORDS if case["name"].startswith("completion"))
    completion = decode_body(data)
    assert isinstance(completion, Completion)
    assert completion.reference == 0
    referring = replace(completion, reference=1_772_438_400_000).encode()
    assert referring[:-8] == completion.encode()[:-8]
    assert referring[-8:].hex() == "0000019cad8fac00"
    assert Completion.decode(referring).reference == 1_772_438_400_000


def test_hostile_bytes_of_a_completion_raise_nothing_but_remote_errors() -> None:
    (data,) = (bytes.fromhex(case["bytes"]) for case in RECORDS if case["name"].startswith("completion"))
    ignored = (2, *range(4, 40), 78, 79, *range(88, 112))
    HostileKit(data, decode_body, bytes_max=112, ignored=ignored, length_fields=[(1, 1)]).run_all()


def test_hostile_payloads_raise_nothing_but_remote_errors() -> None:
    def decode(data: bytes) -> tuple[object, list[bytes]]:
        return summarise(data), [bytes(record) for record in walk(data)]

    for payload in (chain(purchase(), purchase()), chain(purchase(), aborted())):
        HostileKit(payload, decode, valid_lengths=(96,), length_fields=[(1, 1), (97, 1)]).run_all()


@pytest.mark.parametrize(
    ("offset", "replaced", "why"),
    [
        (0, b"\x00", "type 00"),
        (0, b"\xff", "type FF"),
        (1, b"\x30", "length 48"),
        (1, b"\x61", "length 97"),
        (1, b"\x80", "length 128"),
        (4, b"\x00\x00", "is 0"),
        (8, b"\x00\x00\x00\x00", "is 0"),
        (12, b"\x00\x00\x00\x00", "is 0"),
    ],
)
def test_walk_names_the_offset_of_the_record_that_is_wrong(offset: int, replaced: bytes, why: str) -> None:
    data = bytearray(chain(purchase(), purchase(), purchase()))
    data[96 + offset : 96 + offset + len(replaced)] = replaced
    with pytest.raises(Malformed, match=why) as caught:
        list(walk(data))
    assert caught.value.offset in (96, 97)


@pytest.mark.parametrize(("offset", "size", "why"), [(44, 4, "card is 0"), (56, 4, "amount_cents is 0")])
def test_purchase_without_a_card_or_an_amount_is_malformed(offset: int, size: int, why: str) -> None:
    data = bytearray(chain(purchase()))
    data[offset : offset + size] = bytes(size)
    with pytest.raises(Malformed, match=why):
        decode_body(data)


def test_grey_with_a_card_proof_is_malformed() -> None:
    data = bytearray(chain(grey()))
    data[79] = 1
    with pytest.raises(Malformed, match="card proof"):
        decode_body(data)


def test_known_type_of_another_body_length_is_malformed_and_of_another_version_unknown() -> None:
    longer = bytearray(chain(purchase()) + bytes(16))
    longer[1] = 112
    with pytest.raises(Malformed, match="56 bytes"):
        decode_body(longer)
    longer[3] = 1
    assert decode_body(longer) == Unknown(1, 1, bytes(longer[40:96]))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        chain(purchase()) + chain(purchase()),
        chain(purchase())
        + chain(purchase(), purchase(), first=1)[96:].replace(struct.pack("!I", TERMINAL), b"\0\0\0\7"),
        chain(purchase()) + chain(aborted(), first=3),
    ],
    ids=["empty", "twice the same", "another terminal", "a hole"],
)
def test_summary_refuses_what_is_not_one_terminals_consecutive_records(payload: bytes) -> None:
    with pytest.raises(Malformed):
        summarise(payload)


def test_frame_across_a_reboot_keeps_each_records_boot() -> None:
    payload = bytearray(chain(purchase(), purchase(), purchase()))
    payload[96 + 6 : 96 + 8] = payload[192 + 6 : 192 + 8] = b"\xff\xfe"
    assert list(summarise(payload).boots) == [5, 0xFFFE, 0xFFFE]
    for offset in (96 + 4, 96 + 5, 96 + 8, 96 + 11):
        changed = bytearray(payload)
        changed[offset] ^= 0x80
        with pytest.raises(Malformed, match="more than one"):
            summarise(changed)


def test_amounts_of_other_types_and_body_versions_never_count() -> None:
    reserved_refund = Unknown(type=0x03, body_version=0, body=purchase().encode())
    later_purchase = Unknown(type=0x01, body_version=1, body=purchase().encode())
    payload = chain(purchase(1), reserved_refund, later_purchase, grey(20))
    assert [row[:3] for row in iter_money(payload)] == [(1, 1, 1), (2, 3, 0), (3, 1, 0), (4, 7, 20)]
    assert (summarise(payload).money_count, summarise(payload).sum_cents) == (2, 21)


BODIES = st.lists(
    st.one_of(
        st.builds(purchase, st.integers(1, 2**32 - 1)),
        st.builds(grey, st.integers(1, 2**32 - 1)),
        st.just(aborted()),
        st.builds(Unknown, st.just(0x2A), st.just(0), st.sampled_from([bytes(8), bytes(24), bytes(40), bytes(56)])),
    ),
    min_size=1,
    max_size=40,
)


@given(BODIES)
def test_summary_equals_what_reading_record_by_record_gives(bodies: list[Purchase | Grey | Aborted | Unknown]) -> None:
    payload = chain(*bodies)
    found, heads = summarise(payload), [read_head(record) for record in walk(payload)]
    amounts = [body.amount_cents if isinstance(body, Purchase | Grey) else 0 for body in bodies]
    assert list(found.amounts_cents) == amounts
    assert list(found.types) == [each.type for each in heads]
    assert list(found.boots) == [each.boot for each in heads]
    assert list(found.uptimes_ds) == [each.uptime_ds for each in heads]
    assert found.sum_cents == sum(amounts)
    assert [decode_body(record) for record in walk(payload)] == bodies


@given(BODIES, st.data())
def test_totals_by_day_add_up_to_the_frame(
    bodies: list[Purchase | Grey | Aborted | Unknown], data: st.DataObject
) -> None:
    found = summarise(chain(*bodies))
    days = data.draw(st.lists(st.integers(20000, 20002), min_size=len(bodies), max_size=len(bodies)))
    totals = found.totals_by_day(days)
    expected: dict[int, tuple[int, int]] = {}
    for day, cents in zip(days, found.amounts_cents, strict=True):
        if cents:
            expected[day] = (expected.get(day, (0, 0))[0] + 1, expected.get(day, (0, 0))[1] + cents)
    assert totals == expected


def test_values_that_do_not_fit_are_our_own_mistake() -> None:
    wrong_uid, too_much = purchase(), purchase()
    wrong_uid.uid = UID[:6]
    too_much.amount_cents = 1 << 32
    for body in (wrong_uid, too_much):
        with pytest.raises(OutOfRange):
            encode_record(head(1, 1), body, bytes(8), SEAL_KEY)
    with pytest.raises(OutOfRange):
        encode_record(head(1, 1), aborted(), bytes(8), SEAL_KEY)
    with pytest.raises(OutOfRange):
        encode_record(head(1, 1 << 32), purchase(), bytes(8), SEAL_KEY)
    with pytest.raises(OutOfRange):
        encode_record(head(1, 1), purchase(), bytes(7), SEAL_KEY)
    with pytest.raises(OutOfRange):
        encode_record(head(0x2A, 1), Unknown(0x2A, 0, bytes(9)), bytes(8), SEAL_KEY)


def test_repr_shows_no_more_of_a_card_than_its_last_digits() -> None:
    for body in (purchase(), grey(), aborted()):
        assert "123456" not in repr(body)
        assert "…3456" in repr(body)
        assert "\\x" not in repr(body)
        assert UID.hex() not in repr(body)
    assert repr(Unknown(0x2A, 0, b"secret")) == "Unknown(type=2A, body_version=0, 6 bytes)"
