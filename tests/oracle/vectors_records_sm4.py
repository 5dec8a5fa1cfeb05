"""Vectors of section 7 once more, for a terminal of proof suite 02: every use of its seal key is SM4-CMAC.

The chain has the bodies of the other one, so the same card proofs: the card's own algorithm is AES whatever the
terminal seals with.
"""

from typing import Final

from tests.oracle import keys, reference
from tests.oracle.fields import Fields
from tests.oracle.messages import build_message, sealed_message
from tests.oracle.primitives import SUITE_B
from tests.oracle.records import genesis_seal, parse_record, seal_record
from tests.oracle.reference import BOOT, EPOCH, NOW_MS, TERMINAL, UPTIME_DS, Case, case, section
from tests.oracle.vectors_records import STEPS, head

SEAL_KEY: Final = keys.seal_key(reference.SEAL_MASTER, TERMINAL, EPOCH, SUITE_B)


def genesis() -> bytes:
    return genesis_seal(SEAL_KEY, TERMINAL, EPOCH, reference.ENROLMENT_ID, SUITE_B)


def chain() -> list[bytes]:
    records: list[bytes] = []
    seal = genesis()
    for sequence, (_, kind, version, body, count, total, clock_set) in enumerate(STEPS, 1):
        given = head(kind, version, sequence, count, total, clock_set=clock_set)
        records.append(seal_record({**given, "body": body, "predecessor_seal": seal.hex()}, SEAL_KEY, SUITE_B))
        seal = records[-1][-8:]
    return records


def section_7_sm4() -> Fields:
    given = {"terminal": TERMINAL, "epoch": EPOCH, "enrolment_id": reference.ENROLMENT_ID.hex()}
    cases: list[Case] = [case("genesis seal", {**given, "seal_key": SEAL_KEY.hex()}, genesis())]
    for (name, *_), record in zip(STEPS, chain(), strict=True):
        expected = {"seal_key": SEAL_KEY.hex(), "sealed_over": record[:-8].hex()}
        cases.append(case(name, parse_record(record), record, expected=expected))
    entry: Fields = {"epoch": EPOCH, "oldest_held": 1, "first_unacknowledged": 1, "next": 8}
    entry["seal_before_first_unacknowledged"] = genesis().hex()
    clocks = {"boot": BOOT, "uptime_ds": UPTIME_DS, "clock_ms": NOW_MS}
    for name, message in (
        ("baseline", {"type": 1, "terminal": TERMINAL, **clocks, "entries": [entry]}),
        ("tombstone", {"type": 4, "reason": 1, "epoch": EPOCH, "terminal": TERMINAL, "first": 8, "last": 9}),
    ):
        data = build_message(sealed_message(message, SEAL_KEY, SUITE_B))
        cases.append(case(name, {"seal_key": SEAL_KEY.hex()}, data))
    return section("7. Records, proof suite 02", cases)
