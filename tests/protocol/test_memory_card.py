"""The sector memory card: layout, rights, owners, three passes, torn writes, repair, formatting."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cards import memory_apdu as apdu
from protocol.cards.memory import MemoryCardCore, MemoryState
from protocol.cards.memory_apdu import ValueOperation
from protocol.cards.memory_format import FormatDialogue, Formatting, formatted_image, site_keys
from protocol.cards.memory_image import MEMORY_IMAGE_BYTES, MemoryCardImage, Remainder, blank_image, torn
from protocol.cards.memory_layout import (
    ACCESS_TABLE,
    OWNER_OF_SECTOR,
    SECTORS,
    SITE_CONDITIONS,
    TRANSPORT_KEY,
    Application,
    Condition,
    KeyLetter,
    Marker,
    MarkerKind,
    MemoryFacts,
    Right,
    decode_access,
    decode_directory,
    decode_value,
    encode_access,
    encode_directory,
    encode_value,
    sector_key,
)
from protocol.cards.memory_purse import Repair, judge
from protocol.cards.memory_sam import SoftwareMemorySam
from protocol.errors import DamagedData, OutOfRange, ProofError, StateMisuse
from tests.hostile import HostileKit, garbage
from tests.oracle.primitives import cmac
from tests.protocol.card_till import FACTS, SECTOR_MASTERS, START_CENTS, memory_image, memory_sam
from tests.protocol.samples import UID

RANDOM = bytes(range(16))
A, B = KeyLetter.A, KeyLetter.B


def opened(core: MemoryCardCore, sector: int, letter: KeyLetter, key: bytes) -> bool:
    answer, _ = core.command(apdu.auth_command(sector, letter, bytes(8)), RANDOM)
    card, proof = apdu.parse_auth(answer[:-2])
    if proof != apdu.card_proof(key, sector, letter, UID, bytes(8), card):
        return False
    proof = apdu.terminal_proof(key, sector, letter, UID, bytes(8), card)
    return core.command(apdu.prove_command(proof), RANDOM)[0] == b"\x90\x00"


def site_card(sector: int, letter: KeyLetter) -> MemoryCardCore:
    """A formatted card with one sector open."""
    core = MemoryCardCore(memory_image())
    assert opened(core, sector, letter, site_keys(UID, sector, SECTOR_MASTERS)[letter is B])
    return core


def test_value_block_bytes() -> None:
    assert encode_value(10_000, 4).hex() == "00002710" + "ffffd8ef" + "00002710" + "04fb04fb"
    assert encode_value(-1, 4).hex() == "ffffffff" + "00000000" + "ffffffff" + "04fb04fb"
    assert decode_value(encode_value(10_000, 4)) == (10_000, 4)
    assert decode_value(bytes(16)) is None
    with pytest.raises(OutOfRange):
        encode_value(1 << 31, 4)


@given(st.integers(0, 0x7FFF_FFFF), st.integers(0, 0x7FFF_FFFF), st.integers(0, 16), st.sampled_from(Remainder))
def test_torn_value_is_the_old_one_the_new_one_or_none(old: int, new: int, size: int, remainder: Remainder) -> None:
    before, after = encode_value(old, 4), encode_value(new, 4)
    rest = before if remainder is Remainder.OLD else bytes(16)
    held = decode_value(after[:size] + rest[size:])
    assert held in {None, (old, 4), (new, 4)}
    if remainder is Remainder.ERASED and size < 16:
        assert held is None


def test_marker_and_facts_bytes() -> None:
    marker = Marker(MarkerKind.DEBIT, 101, 10_000, 1250)
    assert marker.encode().hex() == "0200000065" + "00002710" + "000004e2" + "29fdd3"
    assert Marker.decode(marker.encode()) == marker
    assert (marker.after_cents, marker.block) == (8750, 9)
    assert Marker(MarkerKind.LOAD, 102, 0, 5).after_cents == 5
    for size in range(13):
        old = Marker(MarkerKind.DEBIT, 99, 12_000, 2000).encode()
        assert Marker.decode(marker.encode()[:size] + old[size:]) in {None, Marker.decode(old)}
    for bad in (replace(marker, amount_cents=0), replace(marker, kind=MarkerKind.FORMAT)):
        assert Marker.decode(bad.encode()) is None
    for bad in (replace(marker, counter=-1), replace(marker, amount_cents=1 << 31)):
        with pytest.raises(OutOfRange):
            bad.encode()
    assert MemoryFacts.decode(FACTS.encode()) == FACTS
    assert FACTS.encode()[:12].hex() == "0001e240" + "01" + "009c" + "0000559b" + "04"
    assert decode_directory(encode_directory()) == (2, 2, 3, 4, *(0,) * 11)
    with pytest.raises(OutOfRange):
        replace(FACTS, number=1 << 32).encode()
    with pytest.raises(DamagedData):
        MemoryFacts.decode(replace(FACTS, number=0).encode())
    HostileKit(FACTS.encode(), MemoryFacts.decode).run_all()


def test_access_bytes_carry_their_complement_and_damage_closes_the_sector() -> None:
    assert encode_access(SITE_CONDITIONS[1]).hex() == "d2d2e1e1"
    for conditions in product(Condition, Condition, Condition, Condition):
        assert decode_access(encode_access(conditions)) == conditions
    for offset, bit in product(range(4), range(8)):
        changed = bytearray(encode_access(SITE_CONDITIONS[1]))
        changed[offset] ^= 1 << bit
        assert decode_access(bytes(changed)) is None
    image = memory_image().written(7, bytes(6) + bytes(4) + bytes(6))
    core = MemoryCardCore(image)
    assert opened(core, 1, A, bytes(6))
    assert core.command(apdu.read_command(4), RANDOM)[0] == b"\x69\x82"


def attempt(core: MemoryCardCore, right: Right, block: int) -> bool:
    """Whether the card grants this right on this block; only access is looked at, not what comes of it."""
    commands = {
        Right.READ: apdu.read_command(block),
        Right.WRITE: apdu.write_command(block, encode_value(1, block)),
        Right.INCREMENT: apdu.value_command(ValueOperation.INCREMENT, block, 1),
        Right.DECREMENT: apdu.value_command(ValueOperation.DECREMENT, block, 1),
        Right.TRANSFER: apdu.transfer_command(block),
    }
    return core.command(commands[right], RANDOM)[0][-2:] != b"\x69\x82"


@pytest.mark.parametrize(("condition", "letter", "right"), list(product(Condition, KeyLetter, Right)))
def test_each_key_may_do_what_the_access_table_says_and_nothing_else(
    condition: Condition, letter: KeyLetter, right: Right
) -> None:
    trailer = bytes(6) + encode_access((condition,) * 4) + bytes(6)
    core = MemoryCardCore(memory_image().written(7, trailer))
    assert opened(core, 1, letter, bytes(6))
    assert attempt(core, right, 4) == (letter in ACCESS_TABLE[condition][right])


def test_terminal_key_can_take_from_the_purse_and_never_add_to_it() -> None:
    granted = {right for right in Right if attempt(site_card(1, A), right, 4)}
    assert granted == {Right.READ, Right.DECREMENT, Right.TRANSFER}
    core = site_card(1, A)
    assert core.command(apdu.value_command(ValueOperation.DECREMENT, 4, 10_001), RANDOM)[0] == b"\x94\x01"
    assert core.command(apdu.transfer_command(4), RANDOM)[0] == b"\x69\x85"
    core = site_card(1, B)
    assert core.command(apdu.value_command(ValueOperation.INCREMENT, 4, 50), RANDOM)[0] == b"\x90\x00"
    assert core.command(apdu.value_command(ValueOperation.INCREMENT, 4, 0x7FFF_FFFF), RANDOM)[0] == b"\x94\x01"
    _, written = core.command(apdu.transfer_command(4), RANDOM)
    assert written is not None
    assert decode_value(written.block(4)) == (10_050, 4)


@pytest.mark.parametrize("sector", range(SECTORS))
@pytest.mark.parametrize("application", Application)
def test_an_application_opens_its_own_sectors_and_no_others(application: Application, sector: int) -> None:
    masters = {1: {application: SECTOR_MASTERS[application].a}}
    terminal = SoftwareMemorySam(masters)
    core = MemoryCardCore(memory_image())
    answer, _ = core.command(apdu.auth_command(sector, A, bytes(8)), RANDOM)
    card, proof = apdu.parse_auth(answer[:-2])
    challenges = {"terminal": bytes(8), "card": card}
    owner = OWNER_OF_SECTOR[sector]
    if owner not in {application, Application.DIRECTORY}:
        with pytest.raises(ProofError):
            terminal.card_is_genuine(1, UID, sector, **challenges, proof=proof)
        with pytest.raises(ProofError):
            terminal.terminal_proof(1, UID, sector, **challenges)
        # Not even with the master of another application in the owner's place does the card open.
        forged = SoftwareMemorySam({1: {owner: SECTOR_MASTERS[application].a}})
        assert not forged.card_is_genuine(1, UID, sector, **challenges, proof=proof)
        return
    assert terminal.card_is_genuine(1, UID, sector, **challenges, proof=proof)
    core.command(apdu.prove_command(terminal.terminal_proof(1, UID, sector, **challenges)), RANDOM)
    assert core.state is MemoryState.OPEN
    elsewhere = (sector * 4 + 4) % 64
    assert core.command(apdu.read_command(elsewhere), RANDOM)[0] == b"\x69\x85", "one sector at a time"


def test_one_card_one_key_per_sector() -> None:
    keys = [key for sector in range(1, SECTORS) for key in site_keys(UID, sector, SECTOR_MASTERS)]
    keys += [key for sector in range(1, SECTORS) for key in site_keys(bytes(7), sector, SECTOR_MASTERS)]
    assert len(set(keys)) == 60
    named = b"\x01" + UID + bytes.fromhex("f04302") + b"\x01" + b"\x60" + b"ONECARD"
    master = SECTOR_MASTERS[Application.PURSE].a
    assert sector_key(master, uid=UID, application=2, sector=1, letter=A) == cmac(master, named)[:6]


def test_three_passes_prove_both_sides_and_cannot_be_replayed_or_reflected() -> None:
    key = site_keys(UID, 1, SECTOR_MASTERS)[0]
    core = MemoryCardCore(memory_image())
    answer, _ = core.command(apdu.auth_command(1, A, bytes(8)), RANDOM)
    card, card_proof = apdu.parse_auth(answer[:-2])
    mac_key = key + bytes(10)
    assert card_proof == cmac(mac_key, b"\x01\x01\x60" + UID + bytes(8) + card)[:8]
    right = cmac(mac_key, b"\x02\x01\x60" + UID + card + bytes(8))[:8]
    assert core.command(apdu.prove_command(card_proof), RANDOM)[0] == b"\x69\x82", "its own proof is not ours"
    assert core.command(apdu.prove_command(right), RANDOM)[0] == b"\x69\x85", "a wrong proof ends it"
    core.command(apdu.auth_command(1, A, bytes(8)), bytes(16))
    assert core.command(apdu.prove_command(right), RANDOM)[0] == b"\x69\x82", "another challenge, another proof"
    assert core.command(apdu.read_command(4), RANDOM)[0] == b"\x69\x85"


def test_keys_cannot_be_read_and_the_chip_block_not_written() -> None:
    core = site_card(1, B)
    assert core.command(apdu.read_command(7), RANDOM)[0][:-2].hex() == "00" * 6 + "d2d2e1e1" + "00" * 6
    assert site_card(0, B).command(apdu.write_command(0, bytes(16)), RANDOM) == (b"\x69\x85", None)


def test_a_write_changes_one_block_and_a_torn_one_any_prefix_of_it() -> None:
    core = site_card(2, A)
    before = core.image
    _, after = core.command(apdu.write_command(9, bytes(range(16))), RANDOM)
    assert after is not None
    assert [index for index in range(64) if before.block(index) != after.block(index)] == [9]
    assert torn(before, after, 0) == before
    assert torn(before, after, 16) == after
    assert torn(before, after, 5).block(9) == bytes(range(5)) + before.block(9)[5:]
    assert torn(before, after, 5, remainder=Remainder.ERASED).block(9) == bytes(range(5)) + bytes(11)
    assert torn(after, after, 5) is after
    with pytest.raises(OutOfRange):
        torn(before, after, 17)


STATES = {"before": 10_000, "after": 8750, "torn": None, "other": 77}
EXPECTED = {
    ("before", "before"): (10_000, 100, Repair.NONE),
    ("before", "torn"): (10_000, 100, Repair.BACKUP_FROM_PURSE),
    ("before", "after"): (8750, 101, Repair.PURSE_FROM_BACKUP),
    ("torn", "after"): (8750, 101, Repair.PURSE_FROM_BACKUP),
    ("after", "after"): (8750, 101, Repair.NONE),
    ("torn", "before"): (10_000, 100, Repair.PURSE_FROM_BACKUP),
    ("after", "torn"): (8750, 101, Repair.BACKUP_FROM_PURSE),
}


@pytest.mark.parametrize("states", list(product(STATES, repeat=2)))
def test_purse_is_judged_as_the_table_says(states: tuple[str, str]) -> None:
    purse, backup = (bytes(16) if STATES[each] is None else encode_value(STATES[each] or 0, 4) for each in states)
    markers = (Marker(MarkerKind.FORMAT, 100, 10_000, 0).encode(), Marker(MarkerKind.DEBIT, 101, 10_000, 1250).encode())
    if states not in EXPECTED:
        with pytest.raises(DamagedData):
            judge(purse, backup, markers)
        return
    found = judge(purse, backup, markers)
    assert (found.balance_cents, found.counter, found.repair) == EXPECTED[states]
    assert found.last_happened == (found.counter == 101)
    assert found.next_marker(MarkerKind.DEBIT, 1).counter == found.counter + 1


def test_markers_that_cannot_be_neighbours_or_are_both_torn_are_damage() -> None:
    value = encode_value(10_000, 4)
    far = (Marker(MarkerKind.FORMAT, 100, 10_000, 0).encode(), Marker(MarkerKind.DEBIT, 103, 10_000, 1).encode())
    for markers in (far, (bytes(16), bytes(16))):
        with pytest.raises(DamagedData):
            judge(value, value, markers)
    elsewhere = encode_value(10_000, 5)
    with pytest.raises(DamagedData):
        judge(elsewhere, elsewhere, (Marker(MarkerKind.FORMAT, 100, 10_000, 0).encode(), bytes(16)))


def formatter(**more: int) -> FormatDialogue:
    return FormatDialogue(FACTS, SECTOR_MASTERS, bytes(8), **more)


def run(core: MemoryCardCore, formatting: FormatDialogue, stop_after: int | None = None) -> int:
    """Commands sent; with `stop_after` the card leaves then."""
    core.reset()
    sent = 0
    while formatting.state is Formatting.WORKING:
        if sent == stop_after:
            formatting.answered(None)
            break
        formatting.answered(core.command(formatting.command, RANDOM)[0])
        sent += 1
    return sent


def test_formatting_turns_transport_keys_into_site_keys() -> None:
    core = MemoryCardCore(blank_image(UID))
    formatting = formatter(balance_cents=START_CENTS, counter=100)
    run(core, formatting)
    assert formatting.state is Formatting.FORMATTED
    assert core.image == memory_image()
    for sector, letter in product(range(SECTORS), KeyLetter):
        assert not opened(MemoryCardCore(core.image), sector, letter, TRANSPORT_KEY), "R: no default key stays"
    with pytest.raises(StateMisuse):
        formatting.answered(b"")


def test_formatting_cut_anywhere_between_commands_is_resumed() -> None:
    commands = run(MemoryCardCore(blank_image(UID)), formatter())
    for stop in range(commands):
        core = MemoryCardCore(blank_image(UID))
        cut = formatter()
        run(core, cut, stop)
        assert cut.state is Formatting.CUT
        again = formatter()
        run(core, again)
        assert again.state is Formatting.FORMATTED, stop
        assert core.image == formatted_image(UID, FACTS, SECTOR_MASTERS)


def test_an_issued_card_a_foreign_card_and_scrap_are_not_formatted() -> None:
    foreign = formatted_image(UID, FACTS, dict.fromkeys(Application, SECTOR_MASTERS[Application.MEALS]))
    scrap = blank_image(UID).written(7, bytes(16))
    for image in (memory_image(), foreign, scrap):
        core = MemoryCardCore(image)
        formatting = formatter()
        run(core, formatting)
        assert formatting.state is Formatting.REFUSED
        assert core.image == image or image is scrap
    assert "SectorMasters(…)" in repr(SECTOR_MASTERS[Application.PURSE])


def test_image_survives_its_file_and_shows_nothing() -> None:
    encoded = memory_image().encode()
    assert len(encoded) == MEMORY_IMAGE_BYTES
    assert MemoryCardImage.decode(encoded) == memory_image()
    for damaged in (encoded[:-1], b"\2" + encoded[1:], encoded[:-1] + bytes((encoded[-1] ^ 1,))):
        with pytest.raises(DamagedData):
            MemoryCardImage.decode(damaged)
    for call in (lambda: MemoryCardImage(b""), lambda: blank_image(b""), lambda: memory_sam()._key(1, UID, 16)):
        with pytest.raises(OutOfRange):
            call()
    wrong: list[dict[int, dict[Application, bytes]]] = [{0: {}}, {1: {Application.PURSE: b""}}]
    for masters in wrong:
        with pytest.raises(OutOfRange):
            SoftwareMemorySam(masters)
    assert repr(memory_image()) == "MemoryCardImage(…)"
    assert "123456" not in repr(FACTS)
    assert "\\x" not in repr(memory_sam())


def test_hostile_commands_neither_raise_nor_write() -> None:
    core = site_card(1, A)
    before = core.image
    for ins in (0x88, 0x89, 0xB0, 0xCA, 0xD6, 0xD7, 0xD8, 0xFF):
        for tail in garbage(ins, 100, 24):
            assert core.command(bytes((0xFF, ins)) + tail, RANDOM)[1] is None
    for command in garbage(1, 300, 30):
        assert core.command(command, RANDOM)[1] is None
    assert core.image is before
    with pytest.raises(OutOfRange):
        core.command(b"", b"")
