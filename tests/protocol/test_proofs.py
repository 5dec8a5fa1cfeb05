"""Seals, chains and card proofs: vectors, and what must not verify."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import proofs
from protocol.codes import ProofSuite
from protocol.errors import Malformed, OutOfRange
from protocol.mac import MacKey
from protocol.proofs import ChainFault
from protocol.records import Completion, Purchase, decode_body, encode_record, read_head, seal_of, walk
from tests.hostile import flipped
from tests.protocol.samples import (
    ENROLMENT_ID,
    EPOCH,
    MASTERS,
    SEAL_KEY,
    TERMINAL,
    UID,
    aborted,
    chain,
    grey,
    head,
    purchase,
    vector_cases,
)

CASES = vector_cases("07")
RECORDS = [case for case in CASES if "predecessor_seal" in case["given"]]
PROOFS = [case for case in CASES if case["name"].startswith("card proof")]
GENESIS = proofs.genesis_seal(SEAL_KEY, TERMINAL, EPOCH, ENROLMENT_ID)
TAC_KEY = MacKey(bytes.fromhex("8ffa9d8dc282ea65a13eb12ed1cc5205"))


def key_of(case: dict[str, Any]) -> MacKey:
    facts = case["given"] if "seal_key" in case["given"] else case["expected"]
    return MacKey(bytes.fromhex(facts["seal_key"]))


def tac_facts(case: dict[str, Any]) -> dict[str, int]:
    facts = case["given"]
    return {
        "type_": facts["type"],
        "card": facts["card_number"],
        "counter": facts["card_counter"],
        **{name: facts[name] for name in ("amount", "currency", "terminal", "epoch", "sequence", "balance_after")},
    }


def test_genesis_seal_is_that_of_the_vectors() -> None:
    assert GENESIS.hex() == CASES[0]["bytes"] == "e9a2c9810ac4c93d"
    with pytest.raises(OutOfRange):
        proofs.genesis_seal(SEAL_KEY, TERMINAL, EPOCH, bytes(7))
    with pytest.raises(OutOfRange):
        proofs.genesis_seal(SEAL_KEY, TERMINAL, 1 << 16, bytes(8))


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["name"])
def test_record_seals_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["bytes"])
    assert case["expected"]["sealed_over"] == data[:-8].hex()
    assert proofs.seal_record(key_of(case), data[:-8]) == seal_of(data)
    assert proofs.verify_record(key_of(case), memoryview(data))


@pytest.mark.parametrize("purpose", ["baseline", "tombstone"])
def test_message_seals_are_those_of_the_vectors(purpose: str) -> None:
    (case,) = (case for case in CASES if case["name"] == f"{purpose} seal")
    covered, seal, key = bytes.fromhex(case["given"]["sealed_over"]), bytes.fromhex(case["bytes"]), key_of(case)
    sealing, verifying = {
        "baseline": (proofs.seal_baseline, proofs.verify_baseline),
        "tombstone": (proofs.seal_tombstone, proofs.verify_tombstone),
    }[purpose]
    assert sealing(key, covered[2:]) == seal
    with pytest.raises(OutOfRange):
        sealing(key, covered)  # purpose bytes twice would be a seal that nobody else computes
    assert verifying(key, memoryview(seal), covered[2:])
    assert not verifying(key, seal, covered[3:])
    assert not verifying(key, key.mac(covered), covered[2:]), "a seal has 8 bytes, no more"
    other = proofs.verify_tombstone if purpose == "baseline" else proofs.verify_baseline
    assert not other(key, seal, covered[2:]), "seals of one purpose serve no other"


@pytest.mark.parametrize("case", PROOFS, ids=lambda case: case["name"])
def test_card_proofs_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    facts, proof = tac_facts(case), bytes.fromhex(case["bytes"])
    key = MacKey(bytes.fromhex(case["given"].get("tac_key", "8ffa9d8dc282ea65a13eb12ed1cc5205")))
    assert proofs.tac(key, **facts) == proof
    assert proofs.verify_tac(key, proof, **facts)
    for name in facts:
        assert not proofs.verify_tac(key, proof, **{**facts, name: facts[name] + 1}), name
    assert not proofs.verify_tac(key, proof[:7], **facts)


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["name"])
def test_card_proof_inside_a_record_is_checked_against_the_identity_it_belongs_to(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["bytes"])
    body = decode_body(data)
    if isinstance(body, Purchase | Completion):
        stated = read_head(data)
        assert proofs.verify_card_proof(TAC_KEY, stated, body)
        stated.sequence += 1
        assert proofs.verify_card_proof(TAC_KEY, stated, body) is isinstance(body, Completion)
        body.amount_cents += 1
        assert not proofs.verify_card_proof(TAC_KEY, read_head(data), body)


def test_one_flipped_bit_anywhere_breaks_the_seal() -> None:
    record = chain(purchase())
    assert proofs.verify_record(SEAL_KEY, record)
    for offset, bit, changed in flipped(record):
        assert not proofs.verify_record(SEAL_KEY, changed), (offset, bit)
    for length in range(len(record)):
        assert not proofs.verify_record(SEAL_KEY, record[:length])
    assert not proofs.verify_record(SEAL_KEY, record + bytes(16))


def test_nothing_that_starts_like_erased_or_programmed_flash_is_sealed_or_verified() -> None:
    for first in (0x00, 0xFF):
        unsealed = bytes([first, 64]) + bytes(54)
        with pytest.raises(OutOfRange):
            proofs.seal_record(SEAL_KEY, unsealed)
        assert not proofs.verify_record(SEAL_KEY, unsealed + SEAL_KEY.mac8(unsealed))


def test_record_of_the_other_suite_verifies_with_the_key_of_that_suite() -> None:
    sm4 = MacKey(MASTERS["tac"], ProofSuite.SM4_CMAC)
    stated = head(1, 1)
    stated.proof_suite = ProofSuite.SM4_CMAC
    record = encode_record(stated, purchase(), GENESIS, sm4)
    assert proofs.verify_record(sm4, record)
    assert not proofs.verify_record(MacKey(MASTERS["tac"]), record)


def test_whole_chain_of_the_vectors_verifies_from_the_genesis_seal() -> None:
    payload = b"".join(bytes.fromhex(case["bytes"]) for case in RECORDS)
    found = proofs.verify_chain(SEAL_KEY, payload, GENESIS)
    assert (found.good, found.fault, found.last_seal) == (len(RECORDS), None, seal_of(payload))


@given(st.integers(0, 4), st.integers(0, 95))
def test_chain_check_stops_at_the_record_that_was_changed(which: int, offset: int) -> None:
    payload = bytearray(chain(*[purchase()] * 5))
    payload[96 * which + offset] ^= 0x10
    try:
        found = proofs.verify_chain(SEAL_KEY, payload, GENESIS)
    except Malformed:
        assert offset in (0, 1)
    else:
        assert (found.good, found.fault) == (which, ChainFault.SEAL)


def test_a_record_left_out_or_replaced_shows_as_a_broken_link() -> None:
    first, second, third = (bytes(record) for record in walk(chain(purchase(), grey(), aborted())))
    left_out = proofs.verify_chain(SEAL_KEY, first + third, GENESIS)
    assert (left_out.good, left_out.fault, left_out.last_seal) == (1, ChainFault.LINK, seal_of(first))
    assert proofs.verify_chain(SEAL_KEY, second, GENESIS).fault is ChainFault.LINK
    assert proofs.verify_chain(SEAL_KEY, second + third, seal_of(first)).fault is None
    assert proofs.verify_chain(SEAL_KEY, second + third, None).good == 2, "after a tombstone the seal is not known"


def test_reprs_show_no_seal_and_no_key() -> None:
    found = proofs.verify_chain(SEAL_KEY, chain(purchase()), GENESIS)
    assert repr(found) == "ChainCheck(good=1, fault=None)"
    assert UID.hex() not in repr(SEAL_KEY)
