"""Vectors of section 7: one small chain of the records that every till writes, and the proofs in it.

genesis, purchase, purchase, aborted, grey, completion of the grey, an unknown type, a type of another body version
"""

from typing import Any, Final

from tests.oracle import reference
from tests.oracle.fields import Fields, build
from tests.oracle.messages import build_message, sealed_message
from tests.oracle.records import (
    ABORTED,
    COMPLETION,
    GREY,
    PROVEN,
    PURCHASE,
    card_proof,
    genesis_seal,
    parse_record,
    seal_of,
    seal_record,
)
from tests.oracle.reference import BOOT, EPOCH, NOW_MS, SEAL_KEY, TERMINAL, UPTIME_DS, Case, case, section

TAC_KEY: Final = reference.CARD_KEYS["tac"]
CARD: Final = {
    "card_number": reference.CARD_NUMBER,
    "card_uid": reference.CARD_UID.hex(),
    "card_key_version": reference.CARD_KEY_VERSION,
    "currency": reference.CURRENCY,
    "card_kind": 1,
}
UNKNOWN_TYPE: Final = 0x2A


def genesis() -> bytes:
    return genesis_seal(SEAL_KEY, TERMINAL, EPOCH, reference.ENROLMENT_ID)


def proven(sequence: int, amount: int, counter: int, balance_after: int) -> Fields:
    """What the card's proof covers."""
    return {
        "type": 1,
        "amount": amount,
        "currency": reference.CURRENCY,
        "card_number": reference.CARD_NUMBER,
        "terminal": TERMINAL,
        "epoch": EPOCH,
        "sequence": sequence,
        "card_counter": counter,
        "balance_after": balance_after,
    }


def purchase_body(sequence: int, amount: int, counter: int, balance_after: int) -> Fields:
    proof = card_proof(TAC_KEY, proven(sequence, amount, counter, balance_after))
    return {
        "merchant": reference.MERCHANT,
        **CARD,
        "amount": amount,
        "balance_after": balance_after,
        "card_counter": counter,
        "card_proof": proof.hex(),
    }


def grey_body(amount: int, counter_before: int, balance_before: int) -> Fields:
    return {
        "merchant": reference.MERCHANT,
        **CARD,
        "amount": amount,
        "balance_after": balance_before,
        "card_counter": counter_before,
        "attempted_type": 0,
        "card_proof": "00" * 8,
    }


def completion_body(original_sequence: int, amount: int, counter: int, balance_after: int) -> Fields:
    proof = card_proof(TAC_KEY, proven(original_sequence, amount, counter, balance_after))
    return {
        "original_terminal": TERMINAL,
        "original_sequence": original_sequence,
        "original_epoch": EPOCH,
        "original_type": 1,
        **CARD,
        "amount": amount,
        "balance_after": balance_after,
        "card_counter": counter,
        "card_proof": proof.hex(),
        "reference": 0,
    }


# name, type, body version, body, running count, running sum, clock ever set
STEPS: Final[list[tuple[str, int, int, Any, int, int, bool]]] = [
    ("purchase", PURCHASE, 0, purchase_body(1, 1250, 101, 8750), 1, 1250, False),
    ("second purchase", PURCHASE, 0, purchase_body(2, 800, 102, 7950), 2, 2050, True),
    (
        "aborted, card on deny list",
        ABORTED,
        0,
        {"attempted_type": 1, "reason": 3, "card_number": reference.CARD_NUMBER},
        2,
        2050,
        True,
    ),
    ("grey", GREY, 0, grey_body(450, 102, 7950), 3, 2500, True),
    ("completion of the grey", COMPLETION, 0, completion_body(4, 450, 103, 7500), 3, 2500, True),
    ("unknown type 2A", UNKNOWN_TYPE, 0, reference.counting(0x30, 24).hex(), 3, 2500, True),
    ("purchase of body version 1", PURCHASE, 1, reference.counting(0x50, 56).hex(), 3, 2500, True),
]


def head(kind: int, body_version: int, sequence: int, count: int, total: int, *, clock_set: bool) -> Fields:
    return {
        "type": kind,
        "body_version": body_version,
        "epoch": EPOCH,
        "boot": BOOT,
        "terminal": TERMINAL,
        "sequence": sequence,
        "uptime_ds": UPTIME_DS + 100 * sequence,
        "clock_ms": NOW_MS + 10_000 * sequence if clock_set else 0,
        "running_count": count,
        "running_sum": total,
    }


def chain() -> list[bytes]:
    records: list[bytes] = []
    seal = genesis()
    for sequence, (_, kind, version, body, count, total, clock_set) in enumerate(STEPS, 1):
        given = head(kind, version, sequence, count, total, clock_set=clock_set)
        records.append(seal_record({**given, "body": body, "predecessor_seal": seal.hex()}, SEAL_KEY))
        seal = records[-1][-8:]
    return records


def aborted_chain(length: int, *, fork_at: int | None = None) -> list[bytes]:
    """Many records whose content does not matter (section 8); from `fork_at` on they have another content."""
    records: list[bytes] = []
    seal = genesis()
    for sequence in range(1, length + 1):
        reason = 2 if fork_at is not None and sequence >= fork_at else 1
        body = {"attempted_type": 1, "reason": reason, "card_number": 0}
        given = head(ABORTED, 0, sequence, 0, 0, clock_set=True)
        records.append(seal_record({**given, "body": body, "predecessor_seal": seal.hex()}, SEAL_KEY))
        seal = records[-1][-8:]
    return records


def section_7() -> Fields:
    given = {"terminal": TERMINAL, "epoch": EPOCH, "enrolment_id": reference.ENROLMENT_ID.hex()}
    cases: list[Case] = [case("genesis seal", {**given, "seal_key": SEAL_KEY.hex()}, genesis())]
    for (name, *_), record in zip(STEPS, chain(), strict=True):
        shown = parse_record(record)
        expected = {"seal_key": SEAL_KEY.hex(), "sealed_over": record[:-8].hex()}
        cases.append(case(name, shown, record, expected=expected))
    for name, fields in (
        ("card proof of the purchase", proven(1, 1250, 101, 8750)),
        ("card proof of the second purchase", proven(2, 800, 102, 7950)),
        ("card proof in the completion: the fields of the grey's identity", proven(4, 450, 103, 7500)),
        ("card proof with a negative balance", proven(5, 100, 104, -50)),
    ):
        expected = {"proven": build(PROVEN, fields).hex()}
        cases.append(case(name, {**fields, "tac_key": TAC_KEY.hex()}, card_proof(TAC_KEY, fields), expected=expected))
    ignored = bytearray(chain()[0])
    ignored[71] = 0x5A
    cases.append(
        case(
            "purchase whose reserved body byte is not zero: read all the same, its seal covers the byte",
            {"seal_key": SEAL_KEY.hex()},
            bytes(ignored[:-8]) + _reseal(bytes(ignored)),
        )
    )
    first = chain()[0]
    cases += [
        case("refused: length 60", {}, b"\x01\x60" + first[2:-4], error="malformed"),
        case("refused: type 00", {}, b"\x00" + first[1:], error="malformed"),
        case("refused: type FF", {}, b"\xff" + first[1:], error="malformed"),
    ]
    for name, message in (
        ("baseline seal", _baseline()),
        ("tombstone seal", _tombstone()),
    ):
        data = build_message(message)
        purpose = "ff02" if data[0] == 1 else "ff03"
        shown = {"seal_key": SEAL_KEY.hex(), "sealed_over": purpose + data[:-8].hex()}
        cases.append(case(name, shown, data[-8:]))
    return section("7. Records", cases)


def _reseal(record: bytes) -> bytes:
    return seal_of(SEAL_KEY, record)


def _baseline() -> Fields:
    entry: Fields = {"epoch": EPOCH, "oldest_held": 1, "first_unacknowledged": 1, "next": 8}
    entry["seal_before_first_unacknowledged"] = genesis().hex()
    head_fields = {"boot": BOOT, "terminal": TERMINAL, "uptime_ds": UPTIME_DS, "clock_ms": NOW_MS}
    return sealed_message({"type": 1, **head_fields, "entries": [entry]}, SEAL_KEY)


def _tombstone() -> Fields:
    given = {"type": 4, "reason": 1, "epoch": EPOCH, "terminal": TERMINAL, "first": 8, "last": 9}
    return sealed_message(given, SEAL_KEY)
