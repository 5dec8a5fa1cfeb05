"""The SAM: card keys by AN10922, MACs against the vectors, nothing to be had out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protocol.cards.apdu import CardOrder, Identity
from protocol.errors import OutOfRange, ProofError
from protocol.keys import card_key
from protocol.mac import MacKey
from protocol.sam import Sam, SoftwareSam, TerminalMasters
from tests.protocol.samples import (
    CARD,
    CARD_CHALLENGE,
    MASTERS,
    ORDER,
    TERMINAL_CHALLENGE,
    UID,
    sam,
    vector_cases,
)

CARD_KEYS = [case for case in vector_cases("02") if case["name"].startswith("card key")]
CHALLENGES: dict[str, Any] = {"terminal_challenge": TERMINAL_CHALLENGE, "card_challenge": CARD_CHALLENGE}
STATED: dict[str, Any] = {"number": CARD, "balance_cents": 10_000, "counter": 100}


@pytest.mark.parametrize("case", CARD_KEYS, ids=lambda case: case["name"])
def test_card_keys_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    facts = case["given"]
    found = card_key(bytes.fromhex(facts["master"]), bytes.fromhex(facts["card_uid"]))
    assert found.hex() == case["bytes"]


def test_diversification_is_that_of_the_published_example() -> None:
    # NXP AN10922, AES-128 example: master 00112233…, UID 04782E21801D80, AID 3042F5, system "NXP Abu".
    master, uid = bytes.fromhex("00112233445566778899aabbccddeeff"), bytes.fromhex("04782e21801d80")
    found = MacKey(master).mac(b"\x01", uid, bytes.fromhex("3042f5"), b"NXP Abu")
    assert found.hex() == "a8dd63a3b89d54b37ca802473fda9175"


def test_macs_are_those_of_the_vectors() -> None:
    own: Sam = sam()
    assert own.authenticate_mac(1, UID, **CHALLENGES, **STATED).hex() == "c4fd5a9ecfdcb8b8"
    assert own.order_mac(1, UID, **CHALLENGES, order=ORDER).hex() == "0c37a8392b6807bd"
    assert own.confirm_mac(1, UID, **CHALLENGES, identity=ORDER.identity).hex() == "186cf55d76818510"


def test_only_the_exact_card_balance_counter_and_challenge_verify() -> None:
    own, mac = sam(), bytes.fromhex("c4fd5a9ecfdcb8b8")
    assert own.verify_authenticate(1, UID, mac, **CHALLENGES, **STATED)
    for name, value in STATED.items():
        assert not own.verify_authenticate(1, UID, mac, **CHALLENGES, **{**STATED, name: value + 1}), name
    for name in CHALLENGES:
        assert not own.verify_authenticate(1, UID, mac, **{**CHALLENGES, name: bytes(16)}, **STATED), name
    assert not own.verify_authenticate(1, UID[:6] + b"\0", mac, **CHALLENGES, **STATED)
    for forged in (b"", mac[:7], mac + b"\0", bytes(8)):
        assert not own.verify_authenticate(1, UID, forged, **CHALLENGES, **STATED)


def test_key_version_of_another_system_is_the_cards_fault() -> None:
    own = sam()
    assert own.holds(1)
    assert not own.holds(2)
    with pytest.raises(ProofError):
        own.order_mac(2, UID, **CHALLENGES, order=ORDER)


def test_what_a_sam_holds_decides_what_its_terminal_can_ask_of_a_card() -> None:
    keys = MASTERS["authenticate"], MASTERS["debit"], MASTERS["refund"]
    purchase, refund, load, booking, collection = 1, 3, 4, 0x20, 0x22
    only_sells, till, station = (
        SoftwareSam({1: masters})
        for masters in (TerminalMasters(*keys[:2]), TerminalMasters(*keys), TerminalMasters(*keys, MASTERS["load"]))
    )
    for own, types in (
        (only_sells, {purchase, booking, collection}),
        (till, {purchase, booking, collection, refund, 0x21}),
        (station, {purchase, booking, collection, refund, 0x21, load}),
    ):
        assert {type_ for type_ in range(256) if own.holds(1, type_)} == types
    with pytest.raises(ProofError):
        till.order_mac(1, UID, **CHALLENGES, order=replace(ORDER, type=load, reference=7))
    for name, purpose, type_ in (("load 20.00", station, load), ("refund 5.00 of the debit", till, refund)):
        (case,) = [each for each in vector_cases("12") if each["name"] == name]
        given = case["given"]
        who = Identity(given["terminal"], given["epoch"], given["sequence"])
        order = CardOrder(given["amount"], given["currency"], who, type_, given["reference"])
        assert purpose.order_mac(1, UID, **CHALLENGES, order=order).hex() == given["mac"]


def test_two_versions_serve_side_by_side() -> None:
    both = SoftwareSam(
        {
            1: TerminalMasters(MASTERS["authenticate"], MASTERS["debit"]),
            2: TerminalMasters(MASTERS["debit"], MASTERS["authenticate"]),
        }
    )
    first, second = (both.order_mac(version, UID, **CHALLENGES, order=ORDER) for version in (1, 2))
    assert first.hex() == "0c37a8392b6807bd"
    assert second != first


def test_keys_at_hand_are_bounded_and_a_forgotten_card_is_derived_again() -> None:
    small = SoftwareSam({1: TerminalMasters(MASTERS["authenticate"], MASTERS["debit"])}, contexts_max=3)
    before = small.order_mac(1, UID, **CHALLENGES, order=ORDER)
    for number in range(10):
        small.order_mac(1, number.to_bytes(7, "big"), **CHALLENGES, order=ORDER)
        assert len(small._contexts) <= 3
    assert small.order_mac(1, UID, **CHALLENGES, order=ORDER) == before


def test_masters_are_checked_when_they_are_loaded() -> None:
    good = MASTERS["debit"]
    for version, keys, contexts_max in (
        (0, TerminalMasters(good, good), 1),
        (256, TerminalMasters(good, good), 1),
        (1, TerminalMasters(good[:15], good), 1),
        (1, TerminalMasters(good, good, good[:15]), 1),
        (1, TerminalMasters(good, good, b"", good[:1]), 1),
        (1, TerminalMasters(good, good), 0),
    ):
        with pytest.raises(OutOfRange):
            SoftwareSam({version: keys}, contexts_max=contexts_max)


def test_nothing_in_a_repr_or_attribute_name_gives_a_key_away() -> None:
    own = sam()
    assert repr(own) == "SoftwareSam(versions=[1])"
    assert repr(TerminalMasters(MASTERS["authenticate"], MASTERS["debit"])) == "TerminalMasters(…)"
    public = {name for name in dir(own) if not name.startswith("_")}
    assert public == {"authenticate_mac", "confirm_mac", "holds", "order_mac", "verify_authenticate"}
