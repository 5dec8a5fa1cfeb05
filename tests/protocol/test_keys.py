"""Derived keys of terminals and cards (docs/protocol.md §2, R36)."""

import pytest

from protocol.codes import ProofSuite, Suite
from protocol.errors import OutOfRange
from protocol.keys import card_key, link_key, seal_key
from protocol.mac import MacKey
from tests.protocol.vectors import Vector, good, vectors

MASTER = bytes(range(16))
UID = bytes.fromhex("04782e21801d80")


def test_a_link_key_is_derived_from_terminal_epoch_and_key_version() -> None:
    # Written out once by hand: u32 1 ‖ label ‖ 00 ‖ terminal u32 ‖ epoch u16 ‖ key version u8 ‖ u32 128.
    by_hand = MacKey(MASTER).mac(b"\0\0\0\x01link.terminal\0" + bytes.fromhex("00010203 0003 02 00000080"))
    derived = link_key(MASTER, terminal=0x010203, epoch=3, key_version=2)
    assert derived == by_hand
    assert derived.hex() == "0e3b1c638ed7dd12193ebf54bee9dc02"


@pytest.mark.parametrize("suite", ["A", "B"])
def test_link_and_seal_keys_are_those_of_the_second_implementation(suite: str) -> None:
    by_name = {v.name: v for v in vectors("02_keys")}
    v = by_name[f"link key by its names, suite {suite}"]
    facts = {name: v.given[name] for name in ("terminal", "epoch", "key_version", "suite")}
    assert link_key(v.bytes_of("master"), **facts) == v.data
    v = by_name[f"seal.terminal, suite {suite}"]
    assert v.given["context"] == "000102030003"
    assert seal_key(v.bytes_of("key"), terminal=0x010203, epoch=3, proof_suite=v.given["suite"]) == v.data


def test_each_suite_has_keys_of_its_own_under_one_master() -> None:
    facts = {"terminal": 1, "epoch": 1}
    assert link_key(MASTER, **facts, key_version=1) == link_key(MASTER, **facts, key_version=1, suite=Suite.A)
    assert link_key(MASTER, **facts, key_version=1) != link_key(MASTER, **facts, key_version=1, suite=Suite.B)
    assert seal_key(MASTER, **facts) != seal_key(MASTER, **facts, proof_suite=ProofSuite.SM4_CMAC)


@pytest.mark.parametrize("vector", good("02_keys", "card key"), ids=str)
def test_card_keys_are_those_of_the_second_implementation(vector: Vector) -> None:
    assert card_key(vector.bytes_of("master"), vector.bytes_of("card_uid")) == vector.data


def test_card_keys_are_diversified_as_the_published_example_of_an10922() -> None:
    # NXP AN10922, AES-128 example: UID 04782E21801D80, application 3042F5, system identifier "NXP Abu".
    published = MacKey(bytes.fromhex("00112233445566778899aabbccddeeff"))
    message = bytes.fromhex("01 04782e21801d80 3042f5 4e585020416275")
    assert published.mac(message).hex() == "a8dd63a3b89d54b37ca802473fda9175"
    assert card_key(MASTER, UID) == MacKey(MASTER).mac(b"\x01" + UID + b"\xf0\x43\x01" + b"ONECARD")


@pytest.mark.parametrize("length", [0, 4, 6, 8, 10])
def test_a_card_uid_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(OutOfRange):
        card_key(MASTER, bytes(length))


def test_every_terminal_epoch_version_and_card_has_its_own_key() -> None:
    keys = {
        link_key(MASTER, terminal=terminal, epoch=epoch, key_version=version)
        for terminal in (1, 2)
        for epoch in (1, 2)
        for version in (1, 2)
    }
    keys |= {seal_key(MASTER, terminal=terminal, epoch=epoch) for terminal in (1, 2) for epoch in (1, 2)}
    keys |= {card_key(MASTER, UID), card_key(MASTER, UID[::-1])}
    assert len(keys) == 8 + 4 + 2
