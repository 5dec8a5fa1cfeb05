"""CMAC and KDF against published vectors, an independent library and the second implementation."""

import pytest
from Crypto.Cipher import AES as PEER_AES
from Crypto.Hash import CMAC as PEER_CMAC
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import Suite
from protocol.errors import OutOfRange
from protocol.mac import MacKey, derive, each_holds
from tests.protocol.vectors import Vector, good

# RFC 4493 section 4.
RFC_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
RFC_MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
RFC_MACS = {
    0: "bb1d6929e95937287fa37d129b756746",
    16: "070a16b46b4d4144f79bdd9dd04a287c",
    40: "dfa66747de9ae63030ca32611497c827",
    64: "51f0bebf7e3b9d92fc49741779363cfe",
}


@pytest.mark.parametrize("length", RFC_MACS)
def test_cmac_gives_the_values_of_rfc_4493(length: int) -> None:
    assert MacKey(RFC_KEY).mac(RFC_MESSAGE[:length]).hex() == RFC_MACS[length]


@given(st.binary(min_size=16, max_size=16), st.lists(st.binary(max_size=70), max_size=4))
def test_cmac_over_parts_is_what_another_library_makes_of_their_concatenation(key: bytes, parts: list[bytes]) -> None:
    peer = PEER_CMAC.new(key, ciphermod=PEER_AES)
    peer.update(b"".join(parts))
    assert MacKey(key).mac(*parts) == peer.digest()


def test_a_key_serves_many_messages_and_every_kind_of_buffer() -> None:
    key = MacKey(RFC_KEY)
    first = key.mac(RFC_MESSAGE)
    assert key.mac(bytearray(RFC_MESSAGE[:20]), memoryview(RFC_MESSAGE)[20:]) == first == key.mac(RFC_MESSAGE)


def test_mac8_is_the_left_half() -> None:
    assert MacKey(RFC_KEY).mac8(RFC_MESSAGE[:16]).hex() == "070a16b46b4d4144"


def test_a_mac_of_8_or_16_bytes_verifies_and_no_other_length_does() -> None:
    key = MacKey(RFC_KEY)
    tag = bytes.fromhex(RFC_MACS[16])
    for length in range(18):
        assert key.verifies((tag + b"\0")[:length], RFC_MESSAGE[:16]) == (length in {8, 16})


def test_a_mac_with_any_bit_flipped_does_not_verify() -> None:
    key = MacKey(RFC_KEY)
    tag = int.from_bytes(bytes.fromhex(RFC_MACS[16]), "big")
    assert not any(key.verifies((tag ^ 1 << bit).to_bytes(16, "big"), RFC_MESSAGE[:16]) for bit in range(128))


def test_many_hold_when_each_does_and_none_may_be_wrong_anywhere() -> None:
    keys = [MacKey(RFC_KEY), MacKey(bytes(16)), MacKey(RFC_KEY[::-1])]
    messages = [RFC_MESSAGE[:length] for length in (16, 29, 64)]
    own = [(message, keys[0].mac8(message)) for message in messages]
    each = [(key, message, key.mac8(message)) for key, message in zip(keys, messages, strict=True)]
    assert keys[0].all_hold(own)
    assert keys[0].all_hold([])
    assert each_holds(each)
    for at in range(3):
        for bit in range(64):
            tag = (int.from_bytes(own[at][1], "big") ^ 1 << bit).to_bytes(8, "big")
            assert not keys[0].all_hold([*own[:at], (messages[at], tag), *own[at + 1 :]])
            tag = (int.from_bytes(each[at][2], "big") ^ 1 << bit).to_bytes(8, "big")
            assert not each_holds([*each[:at], (keys[at], messages[at], tag), *each[at + 1 :]])
    assert not keys[0].all_hold([(messages[0], own[1][1]), (messages[1], own[0][1])])
    assert not each_holds([(keys[1], messages[0], each[0][2])])
    assert not keys[0].all_hold([(messages[0], own[0][1] + bytes(8))])


def test_a_key_never_shows_its_bytes() -> None:
    assert repr(MacKey(RFC_KEY)) == "MacKey(…)"


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_of_another_length_is_refused_without_being_shown(length: int) -> None:
    with pytest.raises(OutOfRange, match=f"not {length}$"):
        MacKey(bytes(length))


@pytest.mark.parametrize("length_bits", [0, -8, 7, 1032])
def test_a_derived_length_must_be_whole_bytes_and_bounded(length_bits: int) -> None:
    with pytest.raises(OutOfRange):
        derive(RFC_KEY, "label", b"", length_bits)


@pytest.mark.parametrize("vector", [v for v in good("02_keys") if "label" in v.given], ids=str)
def test_the_kdf_gives_the_second_implementations_bytes(vector: Vector) -> None:
    given_ = vector.given
    derived = derive(
        vector.bytes_of("key"),
        given_["label"],
        bytes.fromhex(given_["context"]),
        given_["length_bits"],
        suite=given_["suite"],
    )
    assert derived == vector.data


def test_label_and_context_are_kept_apart_and_the_length_counts() -> None:
    assert derive(RFC_KEY, "ab", b"c") != derive(RFC_KEY, "a", b"bc")
    assert derive(RFC_KEY, "a", b"", 40) != derive(RFC_KEY, "a", b"", 128)[:5]
    assert derive(RFC_KEY, "a", b"", suite=Suite.B) != derive(RFC_KEY, "a", b"", suite=Suite.A)
