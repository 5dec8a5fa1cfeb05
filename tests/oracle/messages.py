"""Section 6: the messages inside sealed frames; the first byte is the type.

UPLOAD keeps its records as a list of hex strings: what is in them is section 7's.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from construct import Array, Const, Struct, this

from tests.oracle.fields import (
    Fields,
    OracleError,
    build,
    count_of,
    flags,
    hexed,
    hexed_rest,
    parse,
    reserved,
    rule,
    u8,
    u16,
    u32,
    u64,
)
from tests.oracle.primitives import SUITE_A, cmac8

BASELINE_ENTRY: Final = Struct(
    "epoch" / u16,
    "oldest_held" / u32,
    "first_unacknowledged" / u32,
    "next" / u32,
    "seal_before_first_unacknowledged" / hexed(8),
    rule(lambda e: 1 <= e.oldest_held <= e.first_unacknowledged <= e.next),
)


def _type(value: int) -> Any:
    return "type" / Const(value, u8)


def _ascending(epochs: list[Any]) -> bool:
    return all(a.epoch < b.epoch for a, b in pairwise(epochs))


def _ranges_right(ack: Any) -> bool:
    last = ack.durable + 1  # a range that began there would have raised `durable`
    for one in ack.ranges:
        if one.first <= last or one.last < one.first:
            return False
        last = one.last
    return True


def _offer_right(offer: Any) -> bool:
    return offer.form == 2 or (offer.base_generation, offer.base_counter) == (0, 0)


MESSAGES: Final[dict[int, tuple[str, Any]]] = {
    0x01: (
        "BASELINE",
        Struct(
            _type(0x01),
            "n" / count_of("entries"),
            "boot" / u16,
            "terminal" / u32,
            "uptime_ds" / u32,
            "clock_ms" / u64,
            "entries" / Array(this.n, BASELINE_ENTRY),
            "seal" / hexed(8),
            rule(lambda m: 1 <= len(m.entries) <= 4 and _ascending(m.entries)),
        ),
    ),
    0x02: (
        "UPLOAD",
        Struct(
            _type(0x02),
            "count" / u8,
            "length_of_last" / u8,
            "flags" / flags(0),
            "records" / hexed_rest,
            rule(lambda m: 1 <= m.count <= 63),
        ),
    ),
    0x03: (
        "SEAL_ANSWER",
        Struct(
            _type(0x03),
            "status" / u8,
            "epoch" / u16,
            "sequence" / u32,
            "seal" / hexed(8),
            rule(lambda m: m.status == 0 or m.seal == "00" * 8),
        ),
    ),
    0x04: (
        "TOMBSTONE",
        Struct(
            _type(0x04),
            "reason" / u8,
            "epoch" / u16,
            "terminal" / u32,
            "first" / u32,
            "last" / u32,
            "seal" / hexed(8),
            rule(lambda m: m.first <= m.last),
        ),
    ),
    0x05: (
        "HEARTBEAT",
        Struct(
            _type(0x05),
            "flags" / flags(0, 1, 2, 3),
            "epoch" / u16,
            "boot" / u16,
            reserved(2),
            "uptime_ds" / u32,
            "clock_ms" / u64,
            "next" / u32,
            "first_unacknowledged" / u32,
        ),
    ),
    0x06: (
        "LIST_STATE",
        Struct(
            _type(0x06),
            "list_kind" / u8,
            "status" / u8,
            reserved(1),
            "staged_generation" / u32,
            "staged_counter" / u32,
            "staged_bytes" / u32,
            "signed_head_held" / hexed(128),
        ),
    ),
    0x07: ("BYE", Struct(_type(0x07), "code" / u8)),
    0x81: ("SEAL_QUERY", Struct(_type(0x81), reserved(1), "epoch" / u16, "sequence" / u32)),
    0x82: (
        "ACK",
        Struct(
            _type(0x82),
            "n" / count_of("ranges"),
            "epoch" / u16,
            "durable" / u32,
            "settled" / u32,
            "credit" / u8,
            "flags" / flags(0),
            reserved(2),
            "ranges" / Array(this.n, Struct("first" / u32, "last" / u32)),
            rule(lambda m: len(m.ranges) <= 4 and m.credit <= 16 and _ranges_right(m)),
        ),
    ),
    0x83: ("RECOLLECT", Struct(_type(0x83), reserved(1), "epoch" / u16, "first" / u32, "last" / u32)),
    0x84: (
        "TIME",
        Struct(_type(0x84), "flags" / flags(0), "boot" / u16, "uptime_ds" / u32, "utc_ms" / u64),
    ),
    0x85: (
        "LIST_OFFER",
        Struct(
            _type(0x85),
            "form" / u8,
            reserved(2),
            "base_generation" / u32,
            "base_counter" / u32,
            "transfer_bytes" / u32,
            "signed_head" / hexed(128),
            "certificate" / hexed(120),
            "data" / hexed_rest,
            rule(_offer_right),
        ),
    ),
    0x86: (
        "LIST_CHUNK",
        Struct(
            _type(0x86),
            "list_kind" / u8,
            reserved(2),
            "generation" / u32,
            "counter" / u32,
            "offset" / u32,
            "data" / hexed_rest,
        ),
    ),
    0x87: ("BYE", Struct(_type(0x87), "code" / u8)),
}
assert [MESSAGES[kind][1].sizeof() for kind in (3, 4, 5, 6, 0x81, 0x83, 0x84)] == [16, 24, 28, 144, 8, 12, 16]

RECORD_LENGTHS: Final = frozenset(range(64, 113, 16))


def split_records(data: bytes) -> list[bytes]:
    """Records one after the other, each stating its own length at offset 1."""
    records = []
    at = 0
    while at < len(data):
        length = data[at + 1] if at + 1 < len(data) else 0
        if length not in RECORD_LENGTHS or at + length > len(data):
            raise OracleError("malformed", "record length")
        records.append(data[at : at + length])
        at += length
    return records


def build_message(given: Mapping[str, Any]) -> bytes:
    if given["type"] == 0x02:
        given = {**given, "records": "".join(given["records"])}
    data = build(MESSAGES[given["type"]][1], given)
    parse_message(data)
    return data


def parse_message(data: bytes) -> Fields:
    if not data or data[0] not in MESSAGES:
        raise OracleError("malformed", "unknown type")
    fields = parse(MESSAGES[data[0]][1], data)
    if data[0] == 0x02:
        records = split_records(bytes.fromhex(fields["records"]))
        if len(records) != fields["count"] or len(records[-1]) != fields["length_of_last"]:
            raise OracleError("malformed", "count or last length")
        fields["records"] = [record.hex() for record in records]
    return fields


def baseline_seal(seal_key: bytes, unsealed: bytes, suite: int = SUITE_A) -> bytes:
    """`unsealed`: bytes 0 to 19 + 22n."""
    return cmac8(seal_key, b"\xff\x02" + unsealed, suite)


def tombstone_seal(seal_key: bytes, unsealed: bytes, suite: int = SUITE_A) -> bytes:
    """`unsealed`: bytes 0 to 15."""
    return cmac8(seal_key, b"\xff\x03" + unsealed, suite)


def sealed_message(given: Mapping[str, Any], seal_key: bytes, suite: int = SUITE_A) -> Fields:
    """BASELINE or TOMBSTONE with its seal filled in."""
    seal = baseline_seal if given["type"] == 0x01 else tombstone_seal
    unsealed = build_message({**given, "seal": "00" * 8})[:-8]
    return parse_message(unsealed + seal(seal_key, unsealed, suite))
