"""protocol.registry: the file of enrolled terminals (R1, R11, R40)."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import ProofSuite, Suite, TerminalClass, TerminalKind
from protocol.errors import DamagedData, Malformed, OutOfRange, TooLong
from protocol.registry import REGISTRY_BYTES_MAX, ClosedEpoch, EnrolledTerminal, Registry
from tests.hostile import HostileKit

TILL = EnrolledTerminal(
    terminal=66051,
    terminal_class=TerminalClass.TERMINAL,
    kind=TerminalKind.POS,
    epoch=2,
    suite=Suite.A,
    key_version=1,
    enrolment_id=bytes.fromhex("0011223344556677"),
    merchant=9001,
    name="食堂 2, till 4",
    closed=(ClosedEpoch(1, bytes.fromhex("8899aabbccddeeff")),),
)
LINE = (
    '{"terminal": 66051, "class": "terminal", "kind": "pos", "epoch": 2, "suite": "A", "key_version": 1, '
    '"enrolment_id": "0011223344556677", "merchant": 9001, "name": "食堂 2, till 4", '
    '"closed": [{"epoch": 1, "enrolment_id": "8899aabbccddeeff"}]}'
)
FILE = f'{{"registry": "onecard", "schema": 1, "site": 42, "terminals": 1}}\n{LINE}\n'.encode()


def registry_of(*entries: EnrolledTerminal) -> Registry:
    made = Registry(42)
    for entry in entries:
        made.put(entry)
    return made


def file_with(**changes: Any) -> bytes:
    """The file above with fields of its terminal changed; None removes one."""
    row = {name: value for name, value in {**json.loads(LINE), **changes}.items() if value is not None}
    return FILE.splitlines()[0] + b"\n" + json.dumps(row).encode() + b"\n"


def test_file_is_written_and_read_byte_for_byte() -> None:
    assert registry_of(TILL).dump() == FILE
    assert Registry.parse(FILE) == registry_of(TILL)


def test_a_file_without_proof_suites_means_aes_and_is_written_again_as_it_was() -> None:
    till = Registry.parse(FILE).terminals[66051]
    assert (till.proof_suite, till.closed[0].proof_suite) == (ProofSuite.AES_CMAC, ProofSuite.AES_CMAC)
    assert Registry.parse(FILE).dump() == FILE


def test_the_proof_suite_of_each_epoch_is_kept_over_a_re_enrolment_to_sm4_and_back() -> None:
    sm4 = TILL.re_enrolled(bytes(8), suite=Suite.B, proof_suite=ProofSuite.SM4_CMAC)
    again = sm4.re_enrolled(bytes(8))
    back = again.re_enrolled(bytes(8), suite=Suite.A, proof_suite=ProofSuite.AES_CMAC)
    assert (sm4.suite, again.suite, back.suite) == (Suite.B, Suite.B, Suite.A)
    assert [one.proof_suite for one in back.closed] == [1, 1, 2, 2]
    registry = registry_of(back)
    assert Registry.parse(registry.dump()) == registry
    row = json.loads(registry_of(sm4).dump().splitlines()[1])
    assert (row["suite"], row["proof_suite"]) == ("B", "sm4_cmac")
    assert "proof_suite" not in row["closed"][1]


@pytest.mark.parametrize("changes", [{"suite": Suite.B}, {"proof_suite": ProofSuite.SM4_CMAC}])
def test_no_suite_changes_within_an_epoch(changes: dict[str, Any]) -> None:
    registry = registry_of(TILL)
    with pytest.raises(OutOfRange, match="fixed in epoch 2"):
        registry.put(replace(TILL, **changes))
    registry.put(replace(TILL, epoch=3, **changes))


def test_terminals_are_found_by_number_and_enrolment_ids_by_epoch() -> None:
    registry = Registry.parse(FILE)
    assert registry.site == 42
    assert len(registry) == 1
    assert registry.get(66051) == TILL
    assert registry.get(1) is None
    assert registry.enrolment_id(66051, 2) == bytes.fromhex("0011223344556677")
    assert registry.enrolment_id(66051, 1) == bytes.fromhex("8899aabbccddeeff")
    assert registry.enrolment_id(66051, 3) is None
    assert registry.enrolment_id(1, 1) is None


def test_re_enrolment_raises_the_epoch_and_keeps_the_old_enrolment_id() -> None:
    registry = registry_of(TILL)
    again = TILL.re_enrolled(b"\x05" * 8, key_version=2)
    registry.put(again)
    assert (again.epoch, again.key_version) == (3, 2)
    assert [one.epoch for one in again.closed] == [1, 2]
    assert registry.enrolment_id(66051, 2) == TILL.enrolment_id
    assert Registry.parse(registry.dump()) == registry
    with pytest.raises(OutOfRange, match="epoch 2 after 3"):
        registry.put(TILL)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"terminal": 0}, "terminal"),
        ({"terminal": 1 << 32}, "terminal"),
        ({"terminal": True}, "terminal"),
        ({"terminal": 1.0}, "terminal"),
        ({"terminal": "1"}, "terminal"),
        ({"class": "robot"}, "class"),
        ({"class": ["terminal"]}, "class"),
        ({"kind": "kiosk"}, "kind"),
        ({"kind": 0}, "kind"),
        ({"kind": 128}, "kind"),
        ({"kind": {}}, "kind"),
        ({"epoch": 0}, "epoch"),
        ({"epoch": 65536}, "epoch"),
        ({"suite": "A_X25519"}, "suite"),
        ({"key_version": 256}, "key_version"),
        ({"enrolment_id": "00"}, "enrolment_id"),
        ({"enrolment_id": "00112233445566zz"}, "enrolment_id"),
        ({"enrolment_id": "00 11 22 33 44 5"}, "enrolment_id"),
        ({"enrolment_id": list("0011223344556677")}, "enrolment_id"),
        ({"merchant": -1}, "merchant"),
        ({"name": "x" * 129}, "name"),
        ({"name": "bell\x07"}, "name"),
        ({"name": 5}, "name"),
        ({"closed": {}}, "closed"),
        ({"closed": [1]}, "closed"),
        ({"closed": [{"epoch": 2, "enrolment_id": "8899aabbccddeeff"}]}, "epoch"),
        ({"closed": [{"epoch": 1, "enrolment_id": "8899aabbccddeeff"}] * 2}, "epoch"),
        ({"closed": [{"epoch": 1}]}, "closed"),
        ({"merchant": None}, "merchant"),
        ({"proof_suite": "A"}, "proof_suite"),
        ({"proof_suite": 2}, "proof_suite"),
        ({"closed": [{"epoch": 1, "enrolment_id": "8899aabbccddeeff", "proof_suite": ""}]}, "proof_suite"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_field_is_named_with_its_line(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed, match=rf"registry line 2.*field {field} ") as caught:
        Registry.parse(file_with(**changes))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_kind_later_than_this_program_is_kept_as_a_number() -> None:
    registry = Registry.parse(file_with(kind=0x7F))
    assert registry.terminals[66051].kind == 0x7F
    assert json.loads(registry.dump().splitlines()[1])["kind"] == 0x7F


def test_terminal_that_is_there_twice_is_refused_with_its_line() -> None:
    head = FILE.splitlines()[0].replace(b'"terminals": 1', b'"terminals": 2')
    with pytest.raises(Malformed, match=r"line 3.*66051 is there twice"):
        Registry.parse(b"\n".join((head, LINE.encode(), LINE.encode())))


@pytest.mark.parametrize(
    "head",
    [
        b"{}",
        b"[]",
        b"not json",
        b'{"registry": "twocard", "schema": 1, "site": 42, "terminals": 0}',
        b'{"registry": "onecard", "schema": 2, "site": 42, "terminals": 0}',
        b'{"registry": "onecard", "schema": 1, "site": 0, "terminals": 0}',
        b'{"registry": "onecard", "schema": 1, "site": 42, "terminals": 100001}',
        b'{"registry": "onecard", "schema": 1, "site": 42, "terminals": 0, "x": 0}',
    ],
)
def test_head_that_is_not_of_a_registry_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed, match="line 1"):
        Registry.parse(head + b"\n")


def test_file_cut_short_is_damaged_and_not_a_smaller_site() -> None:
    with pytest.raises(DamagedData, match="0 terminals, its head counts 1"):
        Registry.parse(FILE.splitlines()[0])
    with pytest.raises(Malformed, match="line 2: is not JSON"):
        Registry.parse(FILE[:-20])
    with pytest.raises(DamagedData, match="empty"):
        Registry.parse(b"")
    with pytest.raises(DamagedData, match="not UTF-8 at byte 3"):
        Registry.parse(b"abc\xff")
    with pytest.raises(TooLong):
        Registry.parse(bytes(REGISTRY_BYTES_MAX + 1))


def test_entry_that_could_not_be_read_back_is_refused_before_it_is_written() -> None:
    registry = Registry(42)
    for changes in ({"terminal": 0}, {"enrolment_id": b"short"}, {"name": "a\nb"}, {"suite": Suite.A_X25519}):
        facts: dict[str, Any] = {
            "terminal": 5,
            "terminal_class": TerminalClass.PROXY,
            "kind": 3,
            "epoch": 1,
            "suite": Suite.B,
            "key_version": 1,
            "enrolment_id": bytes(8),
            **changes,
        }
        with pytest.raises(OutOfRange):
            registry.put(EnrolledTerminal(**facts))
    assert len(registry) == 0


entries = st.builds(
    EnrolledTerminal,
    terminal=st.integers(1, 0xFFFF_FFFF),
    terminal_class=st.sampled_from(TerminalClass),
    kind=st.integers(1, 0x7F),
    epoch=st.integers(1, 0xFFFF),
    suite=st.sampled_from([Suite.A, Suite.B]),
    proof_suite=st.sampled_from(ProofSuite),
    key_version=st.integers(1, 255),
    enrolment_id=st.binary(min_size=8, max_size=8),
    merchant=st.integers(0, 0xFFFF_FFFF),
    name=st.text(max_size=128).filter(lambda text: text.isprintable()),
)


@given(st.lists(entries, max_size=5, unique_by=lambda entry: entry.terminal))
def test_whatever_is_put_is_read_back_in_order(several: list[EnrolledTerminal]) -> None:
    registry = registry_of(*several)
    again = Registry.parse(registry.dump())
    assert again == registry
    assert list(again) == sorted(several, key=lambda entry: entry.terminal)


def test_ten_thousand_terminals_are_written_and_read_back() -> None:
    registry = Registry(42)
    for number in range(1, 10_001):
        registry.terminals[number] = EnrolledTerminal(
            number, TerminalClass.TERMINAL, 1, 1, Suite.A, 1, number.to_bytes(8, "big"), 1, f"till {number}"
        )
    assert Registry.parse(registry.dump()) == registry


def test_hostile_bytes_in_a_registry_file() -> None:
    kit = HostileKit(FILE, Registry.parse, garbage_rounds=100)
    kit.survives_garbage()
    for length in range(len(FILE) - 1):  # the last byte is the line end
        with pytest.raises((Malformed, DamagedData)):
            Registry.parse(FILE[:length])
