"""Proof suite 02 (docs/protocol.md §1, §7.3): every use of a terminal's seal key with SM4-CMAC, by the vectors."""

import json
from typing import Any

import pytest

from protocol import proofs
from protocol.codes import MessageType, ProofSuite
from protocol.keys import card_key, seal_key
from protocol.mac import MacKey
from protocol.messages import Baseline, Tombstone
from protocol.records import Completion, Purchase, decode_body, encode_record, previous_seal, read_head, seal_of
from tests.protocol.samples import ENROLMENT_ID, EPOCH, MASTERS, TERMINAL, UID
from tests.protocol.samples import SEAL_KEY as AES_KEY
from tests.protocol.vectors import DIRECTORY

CASES: list[dict[str, Any]] = json.loads((DIRECTORY / "07b_records_sm4.json").read_text("utf-8"))["cases"]
RECORDS = [bytes.fromhex(case["bytes"]) for case in CASES if "predecessor_seal" in case["given"]]
BY_NAME = {case["name"]: bytes.fromhex(case["bytes"]) for case in CASES}
MASTER = bytes(range(0x10, 0x20))
KEY_BYTES = seal_key(MASTER, terminal=TERMINAL, epoch=EPOCH, proof_suite=ProofSuite.SM4_CMAC)
KEY = MacKey(KEY_BYTES, ProofSuite.SM4_CMAC)
TAC_KEY = MacKey(card_key(MASTERS["tac"], UID))


def test_seal_key_and_genesis_seal_are_those_of_the_second_implementation() -> None:
    assert KEY_BYTES.hex() == CASES[0]["given"]["seal_key"]
    assert proofs.genesis_seal(KEY, TERMINAL, EPOCH, ENROLMENT_ID) == BY_NAME["genesis seal"]
    assert proofs.genesis_seal(AES_KEY, TERMINAL, EPOCH, ENROLMENT_ID) != BY_NAME["genesis seal"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"type {record[0]:02x}")
def test_records_are_sealed_and_verified_as_by_the_second_implementation(record: bytes) -> None:
    head = read_head(record)
    assert head.proof_suite == ProofSuite.SM4_CMAC
    assert encode_record(head, decode_body(record), previous_seal(record), KEY) == record
    assert proofs.verify_record(KEY, record)
    assert not proofs.verify_record(MacKey(KEY_BYTES), record), "the same key bytes with AES"
    assert not proofs.verify_record(AES_KEY, record)


def test_the_chain_verifies_from_its_genesis_seal() -> None:
    found = proofs.verify_chain(KEY, b"".join(RECORDS), BY_NAME["genesis seal"])
    assert (found.good, found.fault, found.last_seal) == (len(RECORDS), None, seal_of(RECORDS[-1]))


def test_a_card_proves_with_its_own_algorithm_whatever_seals_the_record() -> None:
    proved = 0
    for record in RECORDS:
        body = decode_body(record)
        if isinstance(body, Purchase | Completion):
            assert proofs.verify_card_proof(TAC_KEY, read_head(record), body)
            proved += 1
    assert proved == 3


def test_baseline_and_tombstone_are_sealed_as_by_the_second_implementation() -> None:
    baseline, tombstone = Baseline.decode(BY_NAME["baseline"]), Tombstone.decode(BY_NAME["tombstone"])
    assert baseline.seal == proofs.seal_baseline(KEY, baseline.sealed_part())
    assert tombstone.seal == proofs.seal_tombstone(KEY, tombstone.sealed_part())
    assert proofs.verify_baseline(KEY, baseline.seal, baseline.sealed_part())
    assert proofs.verify_tombstone(KEY, tombstone.seal, tombstone.sealed_part())
    assert not proofs.verify_baseline(AES_KEY, baseline.seal, baseline.sealed_part())
    assert not proofs.verify_tombstone(MacKey(KEY_BYTES), tombstone.seal, tombstone.sealed_part())
    assert (baseline.encode()[0], tombstone.encode()[0]) == (MessageType.BASELINE, MessageType.TOMBSTONE)
