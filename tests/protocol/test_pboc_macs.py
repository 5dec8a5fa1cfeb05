"""DES and the PBOC purse's MACs: the published values, and a second computation that shares only single DES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cards import pboc_macs as macs
from protocol.cards.des import des3_block, des3_mac, des_mac, diversified, folded
from protocol.errors import Malformed, OutOfRange
from tests.oracle import pboc as oracle
from tests.source_tree import modules_of

KEY = bytes.fromhex("11223344556677888877665544332211")
RANDOM = bytes.fromhex("11223344")
TERMINAL = bytes.fromhex("001122334455")
AMOUNT = 0x1000
PURCHASED = bytes.fromhex("20120229135100")
LOADED = bytes.fromhex("20111221214822")

keys = st.binary(min_size=16, max_size=16).filter(lambda key: key[:8] != key[8:] and not _is_degenerate(key))
u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)
moments = st.binary(min_size=7, max_size=7)


def _is_degenerate(key: bytes) -> bool:
    """Halves that differ in parity bits alone."""
    return all((a ^ b) & 0xFE == 0 for a, b in zip(key[:8], key[8:], strict=True))


def test_the_six_published_values() -> None:
    purchase = macs.purchase_session(KEY, RANDOM, 0, 1)
    assert purchase.hex() == "003238abc57659dd"
    assert macs.purchase_mac1(purchase, AMOUNT, TERMINAL, PURCHASED).hex() == "f15cab75"
    assert macs.purchase_mac2(purchase, AMOUNT).hex() == "56988a13"
    load = macs.load_session(KEY, RANDOM, 0)
    assert load.hex() == "9b1d924e05595603"
    type_ = macs.TransactionType.PASSBOOK_LOAD
    assert macs.load_mac1(load, 0, AMOUNT, type_, TERMINAL).hex() == "2988ae5a"
    assert macs.load_mac2(load, AMOUNT, type_, TERMINAL, LOADED).hex() == "3a845bf0"


@given(st.integers(0, 253_402_300_799_999))
def test_the_clock_under_a_tac_comes_back_in_whole_seconds(clock_ms: int) -> None:
    moment = macs.pboc_moment(clock_ms)
    assert macs.clock_of_moment(moment) == clock_ms // 1000 * 1000
    assert macs.pboc_moment(macs.clock_of_moment(moment)) == moment


def test_moments_of_a_card_that_are_none_are_malformed() -> None:
    assert macs.clock_of_moment(PURCHASED) == 1_330_523_460_000
    wrong_length = ("", "201202291351", "2012022913510001")
    no_moments = ("20120230135100", "20120229245100", "2012022913510a", "19691231235959", "ff" * 7)
    for bad in (*wrong_length, *no_moments):
        with pytest.raises(Malformed):
            macs.clock_of_moment(bytes.fromhex(bad))


@given(moments)
def test_no_seven_bytes_of_a_card_raise_anything_else(moment: bytes) -> None:
    try:
        clock_ms = macs.clock_of_moment(moment)
    except Malformed:
        return
    assert macs.pboc_moment(clock_ms) == moment


def test_the_published_values_by_the_second_computation() -> None:
    purchase = oracle.purchase_session(KEY, RANDOM, 0, 1)
    assert purchase.hex() == "003238abc57659dd"
    stated = oracle.stated(AMOUNT, 6, 0x00112233, 0x4455)
    assert oracle.mac(purchase, stated + PURCHASED).hex() == "f15cab75"
    assert oracle.mac(purchase, AMOUNT.to_bytes(4, "big")).hex() == "56988a13"


@given(keys, st.binary(min_size=4, max_size=4), u16, u32, u32, u32, u16, moments)
def test_both_computations_agree(
    key: bytes, random: bytes, counter: int, sequence: int, amount: int, terminal: int, epoch: int, moment: bytes
) -> None:
    named = macs.terminal6(terminal, epoch)
    session = macs.purchase_session(key, random, counter, sequence)
    assert session == oracle.purchase_session(key, random, counter, sequence)
    stated = oracle.stated(amount, 6, terminal, epoch)
    assert macs.purchase_mac1(session, amount, named, moment) == oracle.mac(session, stated + moment)
    load = macs.load_session(key, random, counter)
    assert load == oracle.load_session(key, random, counter)
    stated = oracle.stated(amount, 2, terminal, epoch)
    assert macs.load_mac1(load, sequence, amount, 2, named) == oracle.mac(load, sequence.to_bytes(4, "big") + stated)
    assert macs.load_mac2(load, amount, 2, named, moment) == oracle.mac(load, stated + moment)
    facts: dict[str, Any] = {"terminal": terminal, "epoch": epoch, "moment": moment}
    proof = macs.pboc_tac(key, amount_cents=amount, sequence=sequence, **facts)
    assert proof == oracle.purchase_tac(key, amount, terminal, epoch, sequence, moment) + bytes(4)
    assert macs.verify_pboc_tac(key, proof, amount_cents=amount, sequence=sequence, **facts)
    expected = oracle.load_tac(key, balance_after=sequence, counter=counter, amount=amount, **facts)
    loaded = {"balance_after_cents": sequence, "counter": counter, "amount_cents": amount}
    assert macs.load_tac(key, **loaded, terminal=named, moment=moment) == expected


@given(keys, st.binary(max_size=40), st.binary(min_size=8, max_size=8))
def test_macs_of_any_length_agree(key: bytes, data: bytes, first: bytes) -> None:
    assert des_mac(key[:8], data) == oracle.mac(key[:8], data)
    assert des3_mac(key, data, first) == oracle.retail_mac(key, first, data)
    assert des3_block(key, first) == oracle.triple(key, first)
    assert folded(key) == oracle.xor(key[:8], key[8:])
    assert macs.pboc_key(key, first[:7]) == oracle.card_key(key, first[:7])


def test_tac_stands_left_in_the_proof_field_and_only_exactly_so() -> None:
    facts: dict[str, Any] = {"amount_cents": 1250, "terminal": 66051, "epoch": 3, "sequence": 1, "moment": PURCHASED}
    proof = macs.pboc_tac(KEY, **facts)
    assert proof.hex() == "27f2b51e00000000"
    assert macs.verify_pboc_tac(KEY, proof, **facts)
    for offset in range(8):
        for bit in range(8):
            changed = bytearray(proof)
            changed[offset] ^= 1 << bit
            assert not macs.verify_pboc_tac(KEY, bytes(changed), **facts)
    for wrong in (proof[:4], proof + b"\0", b"", bytes(8)):
        assert not macs.verify_pboc_tac(KEY, wrong, **facts)


def test_facts_that_fit_no_field_verify_nothing() -> None:
    facts: dict[str, Any] = {"amount_cents": 1250, "terminal": 66051, "epoch": 3, "sequence": 1, "moment": PURCHASED}
    for name, value in (("amount_cents", 1 << 32), ("epoch", -1), ("sequence", 1 << 32), ("moment", b"")):
        assert not macs.verify_pboc_tac(KEY, bytes(8), **{**facts, name: value})
        with pytest.raises(OutOfRange):
            macs.pboc_tac(KEY, **{**facts, name: value})


def test_moment_is_the_records_clock_in_bcd() -> None:
    assert macs.pboc_moment(0).hex() == "19700101000000"
    assert macs.pboc_moment(1_330_523_460_999).hex() == "20120229135100"
    assert macs.pboc_moment(253_402_300_799_999).hex() == "99991231235959"
    for clock_ms in (-1, 253_402_300_800_000, (1 << 64) - 1):
        with pytest.raises(OutOfRange):
            macs.pboc_moment(clock_ms)


def test_keys_and_values_of_a_wrong_size_are_refused_without_showing_them() -> None:
    calls: list[Callable[[], bytes]] = [
        lambda: des3_block(b"A" * 16, bytes(8)),
        lambda: des3_block(KEY[:8], bytes(8)),
        lambda: des3_block(KEY, bytes(7)),
        lambda: des_mac(KEY, b""),
        lambda: des3_mac(KEY, b"", b""),
        lambda: folded(b""),
        lambda: diversified(KEY, b""),
        lambda: macs.pboc_key(KEY, bytes(8)),
        lambda: macs.purchase_session(KEY, b"", 0, 0),
        lambda: macs.purchase_mac1(KEY[:8], 1, b"", PURCHASED),
    ]
    for call in calls:
        with pytest.raises(OutOfRange) as caught:
            call()
        assert "A" * 4 not in str(caught.value).replace("a DES", "")


def test_only_one_module_of_the_protocol_uses_pycryptodome() -> None:
    users = {
        module.name for module in modules_of("protocol") if any(name.startswith("Crypto") for name in module.imports)
    }
    assert users == {"protocol.cards.des"}
