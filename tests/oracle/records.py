"""Section 7: records, their seals and the card's proof.

head(40), body by type, predecessor's seal(8), seal(8); reserved bytes of a body are ignored, so they are padding.
"""

from collections.abc import Mapping
from typing import Any, Final

from construct import Padding, Struct

from tests.oracle.fields import Fields, OracleError, build, hexed, i32, i64, parse, plain, u8, u16, u32, u64
from tests.oracle.primitives import SUITE_A, cmac8

PURCHASE, COMPLETION, REFUND, LOAD, LOAD_NOT_EXECUTED, REFUSAL, GREY, DOUBT = range(1, 9)
BOOKING, CANCELLATION, COLLECTION = 0x20, 0x21, 0x22
ACCESS_GRANTED, ACCESS_DENIED, DOOR_EVENT = 0x40, 0x41, 0x42
ABORTED, EVENTS_LOST, TAMPER, POWER, ALARM, END_OF_EPOCH = range(0x60, 0x66)
DEBITS: Final = (PURCHASE, GREY, BOOKING)
CREDITS: Final = (REFUND, LOAD, CANCELLATION)
MEALS: Final = (BOOKING, CANCELLATION, COLLECTION)
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
_CARD: Final = (
    "card_number" / u32,
    "card_uid" / hexed(7),
    "card_key_version" / u8,
    "amount" / u32,
    "balance_after" / i32,
    "card_counter" / u32,
    "currency" / u16,
    "card_kind" / u8,
)
PURCHASE_BODY: Final = Struct("merchant" / u32, *_CARD, Padding(1), "card_proof" / hexed(8))
GREY_BODY: Final = Struct("merchant" / u32, *_CARD, "attempted_type" / u8, "card_proof" / hexed(8))
DOUBT_BODY: Final = Struct("merchant" / u32, *_CARD, "attempted_type" / u8, "reference" / u32, "order" / u32)
REFUND_BODY: Final = Struct(*PURCHASE_BODY.subcons, "reference" / u32, "operator_card" / u32, Padding(8))
LOAD_BODY: Final = Struct(
    Padding(4), *_CARD, Padding(1), "card_proof" / hexed(8), "reference" / u32, "order" / u32, Padding(8)
)
MEAL_BODY: Final = Struct(
    *PURCHASE_BODY.subcons, "reference" / u32, "meal_day" / u16, "meal" / u8, "menu" / u8, Padding(8)
)
LOAD_NOT_EXECUTED_BODY: Final = Struct(
    "card_number" / u32, "amount" / u32, "reference" / u32, "order" / u32, "reason" / u8, Padding(7)
)
REFUSAL_BODY: Final = Struct(
    "card_number" / u32,
    "attempted_type" / u8,
    "reason" / u8,
    Padding(2),
    "list_generation" / u32,
    "list_counter" / u32,
    "amount" / u32,
    Padding(4),
)
ACCESS_BODY: Final = Struct(
    "card_number" / u32,
    "door" / u8,
    "reason" / u8,
    "identity" / u8,
    "flags" / u8,
    "list_generation" / u32,
    "list_counter" / u32,
    "number" / u64,
)
DOOR_EVENT_BODY: Final = Struct("event" / u8, "door" / u8, Padding(2), "detail" / u32)
EVENTS_LOST_BODY: Final = Struct("count" / u32, Padding(4))
TAMPER_BODY: Final = Struct("state" / u8, "source" / u8, Padding(6))
POWER_BODY: Final = Struct("event" / u8, Padding(3), "millivolts" / u32)
ALARM_BODY: Final = Struct("alarm" / u8, Padding(3), "detail" / u32)
END_OF_EPOCH_BODY: Final = Struct("reason" / u8, Padding(7))
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
    "reference" / u64,
)
ABORTED_BODY: Final = Struct("attempted_type" / u8, "reason" / u8, Padding(2), "card_number" / u32)
BODIES: Final[dict[int, Any]] = {
    PURCHASE: PURCHASE_BODY,
    COMPLETION: COMPLETION_BODY,
    REFUND: REFUND_BODY,
    LOAD: LOAD_BODY,
    LOAD_NOT_EXECUTED: LOAD_NOT_EXECUTED_BODY,
    REFUSAL: REFUSAL_BODY,
    GREY: GREY_BODY,
    DOUBT: DOUBT_BODY,
    **dict.fromkeys(MEALS, MEAL_BODY),
    ACCESS_GRANTED: ACCESS_BODY,
    ACCESS_DENIED: ACCESS_BODY,
    DOOR_EVENT: DOOR_EVENT_BODY,
    ABORTED: ABORTED_BODY,
    EVENTS_LOST: EVENTS_LOST_BODY,
    TAMPER: TAMPER_BODY,
    POWER: POWER_BODY,
    ALARM: ALARM_BODY,
    END_OF_EPOCH: END_OF_EPOCH_BODY,
}
assert HEAD.sizeof() == HEAD_BYTES
_LENGTHS: Final = {
    96: (PURCHASE, GREY, DOUBT),
    112: (COMPLETION, REFUND, LOAD, *MEALS),
    80: (LOAD_NOT_EXECUTED, REFUSAL, ACCESS_GRANTED, ACCESS_DENIED),
    64: (DOOR_EVENT, ABORTED, EVENTS_LOST, TAMPER, POWER, ALARM, END_OF_EPOCH),
}
assert all(BODIES[kind].sizeof() + 56 == length for length, kinds in _LENGTHS.items() for kind in kinds)
_ATTEMPTED: Final = {GREY: (0, PURCHASE, BOOKING), DOUBT: (REFUND, LOAD, CANCELLATION, COLLECTION)}
_PROVED: Final = (PURCHASE, REFUND, LOAD, *MEALS)
_NEVER_ZERO: Final = {
    PURCHASE: ("card_number", "amount"),
    **dict.fromkeys((GREY, DOUBT), ("card_number",)),
    COMPLETION: ("original_terminal", "original_sequence", "original_epoch", "card_number"),
    REFUND: ("card_number", "amount", "reference"),
    LOAD: ("card_number", "amount", "reference", "order"),
    LOAD_NOT_EXECUTED: ("card_number", "amount", "reference", "order"),
    **dict.fromkeys(MEALS, ("card_number", "reference")),
    EVENTS_LOST: ("count",),
}

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
        _judge(head["type"], body)
    return {**head, "body": body, "predecessor_seal": data[-16:-8].hex(), "seal": data[-8:].hex()}


def _judge(kind: int, body: Fields) -> None:
    """What the page calls never 0, and which types can have been attempted or completed."""
    if any(body[name] == 0 for name in _NEVER_ZERO.get(kind, ())):
        raise OracleError("malformed", "0 where 0 is never valid")
    if kind in _ATTEMPTED and body["attempted_type"] not in _ATTEMPTED[kind]:
        raise OracleError("malformed", "attempted type")
    if kind == GREY and (body["card_proof"] != "00" * 8 or (body["amount"] == 0 and body["attempted_type"] != BOOKING)):
        raise OracleError("malformed", "a proof in a grey, or an amount of 0")
    if kind == COMPLETION:
        original = body["original_type"]
        if original not in _PROVED or (body["amount"] == 0 and original not in MEALS):
            raise OracleError("malformed", "original type or amount")


def counted(kind: int, body: Fields) -> int:
    """What a record adds to the running sum: debits, less credits."""
    if kind in DEBITS:
        return int(body["amount"])
    return -int(body["amount"]) if kind in CREDITS else 0


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
    """`given`: the 29 bytes' fields; those of the original identity in a completion."""
    return cmac8(tac_key, build(PROVEN, given), suite)
