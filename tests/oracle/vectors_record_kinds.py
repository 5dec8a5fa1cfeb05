"""Vectors of section 7: one chain with every record type that the first chain lacks, with its card proofs.

The card is that of the first chain, at balance 100.00 and counter 200 when this one begins.
"""

from typing import Any, Final

from tests.oracle import reference
from tests.oracle.fields import Fields, build
from tests.oracle.records import (
    ACCESS_DENIED,
    ACCESS_GRANTED,
    ALARM,
    BOOKING,
    CANCELLATION,
    COLLECTION,
    COMPLETION,
    DOOR_EVENT,
    DOUBT,
    END_OF_EPOCH,
    EVENTS_LOST,
    GREY,
    LOAD,
    LOAD_NOT_EXECUTED,
    POWER,
    PROVEN,
    REFUND,
    REFUSAL,
    TAMPER,
    card_proof,
    counted,
    parse_record,
    seal_record,
)
from tests.oracle.reference import EPOCH, SEAL_KEY, TERMINAL, Case, case, section
from tests.oracle.vectors_records import CARD, TAC_KEY, genesis, head, proven

LUNCH: Final = {"meal_day": 20_360, "meal": 2, "menu": 3}
MERCHANT: Final = {"merchant": reference.MERCHANT}


def _facts(kind: int, sequence: int, amount: int, counter: int, balance_after: int) -> Fields:
    return {**proven(sequence, amount, counter, balance_after), "type": kind}


def _proved(kind: int, sequence: int, amount: int, counter: int, balance_after: int) -> Fields:
    proof = card_proof(TAC_KEY, _facts(kind, sequence, amount, counter, balance_after))
    stated = {"amount": amount, "balance_after": balance_after, "card_counter": counter, "card_proof": proof.hex()}
    return {**CARD, **stated}


def _meal(kind: int, sequence: int, amount: int, counter: int, balance_after: int, serial: int) -> Fields:
    return {**MERCHANT, **_proved(kind, sequence, amount, counter, balance_after), "reference": serial, **LUNCH}


def _unproved(amount: int, attempted: int, counter_before: int, balance_before: int) -> Fields:
    before = {"amount": amount, "balance_after": balance_before, "card_counter": counter_before}
    return {**MERCHANT, **CARD, **before, "attempted_type": attempted}


def _completion(kind: int, sequence: int, amount: int, counter: int, balance_after: int, serial: int) -> Fields:
    original = {"original_terminal": TERMINAL, "original_epoch": EPOCH, "original_sequence": sequence}
    proved = _proved(kind, sequence, amount, counter, balance_after)
    return {**original, "original_type": kind, **proved, "reference": serial}


REFUSED: Final = {
    "card_number": reference.CARD_NUMBER,
    "attempted_type": 1,
    "reason": 1,
    "list_generation": 2,
    "list_counter": 9,
    "amount": 1250,
}
NOT_EXECUTED: Final = {
    "card_number": reference.CARD_NUMBER,
    "amount": 5000,
    "reference": 8,
    "order": 78,
    "reason": 0x0E,
}
ACCESS: Final = {
    "card_number": reference.CARD_NUMBER,
    "door": 3,
    "reason": 0,
    "identity": 1,
    "flags": 2,
    "list_generation": 2,
    "list_counter": 4,
    "number": 0,
}
STRANGER: Final = {**ACCESS, "card_number": 0, "reason": 2, "identity": 2, "flags": 0, "number": 0x0102030405060708}

STEPS: Final[list[tuple[str, int, Any]]] = [
    ("booking", BOOKING, _meal(BOOKING, 1, 900, 201, 9100, 11)),
    ("cancellation", CANCELLATION, _meal(CANCELLATION, 2, 900, 202, 10_000, 11)),
    ("booking of a free meal counts no money", BOOKING, _meal(BOOKING, 3, 0, 203, 10_000, 12)),
    ("collection leaves the purse", COLLECTION, _meal(COLLECTION, 4, 0, 204, 10_000, 12)),
    (
        "load",
        LOAD,
        {**_proved(LOAD, 5, 5000, 205, 15_000), "reference": 7, "order": 77},
    ),
    ("load not executed", LOAD_NOT_EXECUTED, NOT_EXECUTED),
    (
        "refund",
        REFUND,
        {**MERCHANT, **_proved(REFUND, 7, 300, 206, 15_300), "reference": 1, "operator_card": 9001},
    ),
    ("refusal, card on deny list", REFUSAL, REFUSED),
    ("grey of a booking", GREY, {**_unproved(900, BOOKING, 206, 15_300), "card_proof": "00" * 8}),
    ("grey of a free booking counts no money", GREY, {**_unproved(0, BOOKING, 206, 15_300), "card_proof": "00" * 8}),
    ("completion of that booking", COMPLETION, _completion(BOOKING, 9, 900, 207, 14_400, 13)),
    ("doubt of a load", DOUBT, {**_unproved(2000, LOAD, 207, 14_400), "reference": 9, "order": 79}),
    ("doubt of a collection", DOUBT, {**_unproved(0, COLLECTION, 207, 14_400), "reference": 13, "order": 0}),
    ("access granted", ACCESS_GRANTED, ACCESS),
    ("access denied to a number that is no card of ours", ACCESS_DENIED, STRANGER),
    ("door held open for a minute", DOOR_EVENT, {"event": 2, "door": 3, "detail": 600}),
    ("events lost", EVENTS_LOST, {"count": 17}),
    ("tamper", TAMPER, {"state": 1, "source": 2}),
    ("power", POWER, {"event": 4, "millivolts": 3300}),
    ("alarm", ALARM, {"alarm": 1, "detail": 80}),
    ("end of epoch", END_OF_EPOCH, {"reason": 1}),
]


def chain() -> list[bytes]:
    records: list[bytes] = []
    seal = genesis()
    count = total = 0
    for sequence, (_, kind, body) in enumerate(STEPS, 1):
        cents = counted(kind, body)
        count, total = count + (cents != 0), total + cents
        given = head(kind, 0, sequence, count, total, clock_set=True)
        records.append(seal_record({**given, "body": body, "predecessor_seal": seal.hex()}, SEAL_KEY))
        seal = records[-1][-8:]
    return records


def _wrong(title: str, kind: int, body: Fields, **changes: Any) -> Case:
    given = head(kind, 0, 1, 0, 0, clock_set=True)
    data = seal_record({**given, "body": {**body, **changes}, "predecessor_seal": "00" * 8}, SEAL_KEY)
    return case(f"refused: {title}", {}, data, error="malformed")


def section_7_kinds() -> Fields:
    bodies = {name: body for name, _, body in STEPS}
    cases: list[Case] = []
    for (name, *_), record in zip(STEPS, chain(), strict=True):
        expected = {"seal_key": SEAL_KEY.hex(), "sealed_over": record[:-8].hex()}
        cases.append(case(name, parse_record(record), record, expected=expected))
    for name, fields in (
        ("card proof of the booking", _facts(BOOKING, 1, 900, 201, 9100)),
        ("card proof of the free collection", _facts(COLLECTION, 4, 0, 204, 10_000)),
        ("card proof in the completion of the booking", _facts(BOOKING, 9, 900, 207, 14_400)),
    ):
        expected = {"proven": build(PROVEN, fields).hex()}
        cases.append(case(name, {**fields, "tac_key": TAC_KEY.hex()}, card_proof(TAC_KEY, fields), expected=expected))
    completion = bodies["completion of that booking"]
    cases += [
        _wrong("grey of a purchase of 0", GREY, bodies["grey of a booking"], attempted_type=1, amount=0),
        _wrong("grey of a load", GREY, bodies["grey of a booking"], attempted_type=LOAD),
        _wrong("grey with a card proof", GREY, bodies["grey of a booking"], card_proof="01" * 8),
        _wrong("doubt of a booking", DOUBT, bodies["doubt of a load"], attempted_type=BOOKING),
        _wrong("completion of a grey", COMPLETION, completion, original_type=GREY),
        _wrong("completion of a load of 0", COMPLETION, completion, original_type=LOAD, amount=0),
        _wrong("booking with serial 0", BOOKING, bodies["booking"], reference=0),
        _wrong("refund of sequence 0", REFUND, bodies["refund"], reference=0),
        _wrong("refund of 0", REFUND, bodies["refund"], amount=0),
        _wrong("load with order 0", LOAD, bodies["load"], order=0),
        _wrong("load not executed with load serial 0", LOAD_NOT_EXECUTED, NOT_EXECUTED, reference=0),
        _wrong("no events lost", EVENTS_LOST, {"count": 0}),
    ]
    return section("7. Records, the other types", cases)
