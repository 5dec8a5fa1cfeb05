"""Section 7: records, their seals and the card's proof.

head(40), body by type, predecessor's seal(8), seal(8); reserved bytes of a body are ignored, so they are padding.
"""

from collections.abc import Mapping
from typing import Any, Final

from construct import Padding, Struct

from tests.oracle.fields import Fields, OracleError, build, hexed, i32, i64, parse, plain, u8, u16, u32, u64
from tests.oracle.primitives import SUITE_A, cmac8

PURCHASE: Final = 0x01
COMPLETION: Final = 0x02
GREY: Final = 0x07
ABORTED: Final = 0x60
HEAD_BYTES: Final = 40

HEAD: Final = Struct(
    "type" / u8,
    "length" / u8,
    "proof_suite" / u8,
    "body_version" / u8,
    "epoch" / u16,
    "boot" / u16,
    "terminal" / u32,
    "sequence" / u32,
    "uptime_ds" / u32,
    "clock_ms" / u64,
    "running_count" / u32,
    "running_sum" / i64,
)
PURCHASE_BODY: Final = Struct(
    "merchant" / u32,
    "card_number" / u32,
    "card_uid" / hexed(7),
    "card_key_version" / u8,
    "amount" / u32,
    "balance_after" / i32,
    "card_counter" / u32,
    "currency" / u16,
    "card_kind" / u8,
    Padding(1),
    "card_proof" / hexed(8),
)
COMPLETION_BODY: Final = Struct(
    "original_terminal" / u32,
    "original_sequence" / u32,
    "original_epoch" / u16,
    "original_type" / u8,
    "card_key_version" / u8,
    "card_number" / u32,
    "card_uid" / hexed(7),
    "card_kind" / u8,
    "amount" / u32,
    "balance_after" / i32,
    "card_counter" / u32,
    "currency" / u16,
    Padding(2),
    "card_proof" / hexed(8),
    Padding(8),
)
ABORTED_BODY: Final = Struct("attempted_type" / u8, "reason" / u8, Padding(2), "card_number" / u32)
BODIES: Final[dict[int, Any]] = {
    PURCHASE: PURCHASE_BODY,
    GREY: PURCHASE_BODY,
    COMPLETION: COMPLETION_BODY,
    ABORTED: ABORTED_BODY,
}
assert HEAD.sizeof() == HEAD_BYTES
assert [BODIES[kind].sizeof() + 56 for kind in (PURCHASE, COMPLETION, ABORTED)] == [96, 112, 64]

PROVEN: Final = Struct(
    "type" / u8,
    "amount" / u32,
    "currency" / u16,
    "card_number" / u32,
    "terminal" / u32,
    "epoch" / u16,
    "sequence" / u32,
    "card_counter" / u32,
    "balance_after" / i32,
)
assert PROVEN.sizeof() == 29


def _is_known(head: Mapping[str, Any]) -> bool:
    return head["type"] in BODIES and head["body_version"] == 0


def build_record(given: Mapping[str, Any]) -> bytes:
    """Of an unknown type or body version the body is hex."""
    body = build(BODIES[given["type"]], given["body"]) if _is_known(given) else bytes.fromhex(given["body"])
    length = HEAD_BYTES + len(body) + 16
    assert length == given.get("length", length)
    assert length % 16 == 0
    assert 64 <= length <= 112
    head = build(HEAD, {**given, "length": length})
    return head + body + bytes.fromhex(given["predecessor_seal"]) + bytes.fromhex(given["seal"])


def parse_record(data: bytes) -> Fields:
    if len(data) < 64 or data[1] != len(data) or len(data) % 16 or len(data) > 112 or data[0] in {0x00, 0xFF}:
        raise OracleError("malformed", "record length or type")
    head = parse(HEAD, data[:HEAD_BYTES])
    raw = data[HEAD_BYTES:-16]
    body: Any = raw.hex()
    if _is_known(head):
        description = BODIES[head["type"]]
        if description.sizeof() != len(raw):
            raise OracleError("malformed", "length against type")
        body = plain(description.parse(raw))
    return {**head, "body": body, "predecessor_seal": data[-16:-8].hex(), "seal": data[-8:].hex()}


def seal_of(seal_key: bytes, record: bytes, suite: int = SUITE_A) -> bytes:
    """Over everything but the seal itself, so over the predecessor's seal too."""
    return cmac8(seal_key, record[:-8], suite)


def seal_record(given: Mapping[str, Any], seal_key: bytes, suite: int = SUITE_A) -> bytes:
    unsealed = build_record({**given, "proof_suite": suite, "seal": "00" * 8})
    return unsealed[:-8] + seal_of(seal_key, unsealed, suite)


def genesis_seal(seal_key: bytes, terminal: int, epoch: int, enrolment_id: bytes, suite: int = SUITE_A) -> bytes:
    message = b"\xff\x01" + terminal.to_bytes(4, "big") + epoch.to_bytes(2, "big") + enrolment_id
    return cmac8(seal_key, message, suite)


def card_proof(tac_key: bytes, given: Mapping[str, Any], suite: int = SUITE_A) -> bytes:
    """`given`: the 29 bytes' fields, type being `01`; those of the original identity in a completion."""
    return cmac8(tac_key, build(PROVEN, given), suite)
