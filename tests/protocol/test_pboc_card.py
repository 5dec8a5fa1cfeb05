"""The PBOC purse card: answers, atomic writes, loads and their interruption, images, hostile commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protocol.cards import pboc_apdu as apdu
from protocol.cards.apdu import SELECT_COMMAND, DebitOrder, Identity
from protocol.cards.pboc import TRANSITIONS, PbocCardCore, PbocState
from protocol.cards.pboc_apdu import LogEntry, PbocStatus, parse_load_ready, parse_purchase_ready
from protocol.cards.pboc_image import PBOC_IMAGE_BYTES, PbocCardImage
from protocol.cards.pboc_macs import TransactionType, pboc_key, pboc_moment
from protocol.cards.pboc_sam import PbocLoadSam, PbocTerminalMasters, SoftwarePbocSam
from protocol.errors import DamagedData, Malformed, OutOfRange, ProofError
from tests.hostile import HostileKit, garbage
from tests.oracle import pboc as oracle
from tests.protocol.card_till import CLOCK_MS, PBOC_MASTERS, START_CENTS, pboc_image, pboc_sam
from tests.protocol.samples import CNY, EPOCH, TERMINAL, UID

RANDOM = bytes.fromhex("11223344") + bytes(12)
MOMENT = pboc_moment(CLOCK_MS)
ORDER = DebitOrder(1250, CNY, Identity(TERMINAL, EPOCH, 70_001))
TERMS = {"amount_cents": 500, "terminal": TERMINAL, "epoch": EPOCH}


def card(**changes: Any) -> PbocCardCore:
    core = PbocCardCore(replace(pboc_image(), **changes))
    assert core.command(SELECT_COMMAND, RANDOM)[0][-2:] == b"\x90\x00"
    return core


def sent(core: PbocCardCore, command: bytes) -> bytes:
    """The data of an answer that must be "done"."""
    answer, _ = core.command(command, RANDOM)
    assert answer[-2:] == b"\x90\x00", answer.hex()
    return answer[:-2]


def initialized(core: PbocCardCore, amount_cents: int = 1250) -> apdu.Initialized:
    return parse_purchase_ready(sent(core, apdu.initialize_purchase_command(1, amount_cents, TERMINAL, EPOCH)))


def debit(core: PbocCardCore, order: DebitOrder = ORDER) -> bytes:
    ready = initialized(core, order.amount_cents)
    return apdu.debit_command(order, MOMENT, pboc_sam().mac1(1, UID, ready, order, MOMENT))


def announce(core: PbocCardCore, serial: int = 3, sequence: int = 70_001) -> bytes:
    challenge = sent(core, apdu.GET_CHALLENGE_COMMAND)
    return apdu.announce_command(
        serial, sequence, pboc_sam().order_mac(1, UID, challenge, serial=serial, sequence=sequence)
    )


def credit(core: PbocCardCore, amount_cents: int = 500) -> bytes:
    terms = {**TERMS, "amount_cents": amount_cents}
    ready = parse_load_ready(sent(core, apdu.initialize_load_command(1, **terms)))
    station = PbocLoadSam(PBOC_MASTERS["load"])
    assert station.verify_mac1(UID, ready, **terms)
    assert not station.verify_mac1(UID, replace(ready, balance_cents=ready.balance_cents + 1), **terms)
    sent(core, announce(core))
    return apdu.credit_command(MOMENT, station.mac2(UID, ready, **terms, moment=MOMENT))


def test_purchase_byte_by_byte() -> None:
    core = card()
    command = apdu.initialize_purchase_command(1, 1250, TERMINAL, EPOCH)
    assert command.hex() == "805001020b" + "01" + "000004e2" + "00010203" + "0003"
    assert sent(core, command).hex() == "00002710" + "0064" + "000000" + "01" + "00" + "11223344"
    key = oracle.card_key(PBOC_MASTERS["purchase"], UID)
    session = oracle.purchase_session(key, RANDOM[:4], 100, 70_001)
    stated = oracle.stated(1250, 6, TERMINAL, EPOCH)
    mac1 = oracle.mac(session, stated + MOMENT)
    command = bytes.fromhex("805401000f") + (70_001).to_bytes(4, "big") + MOMENT + mac1
    before = core.image
    answer, written = core.command(command, RANDOM)
    tac = oracle.purchase_tac(oracle.card_key(PBOC_MASTERS["tac"], UID), 1250, TERMINAL, EPOCH, 70_001, MOMENT)
    assert answer == tac + oracle.mac(session, (1250).to_bytes(4, "big")) + b"\x90\x00"
    assert written is core.image
    assert (written.balance_cents, written.offline_counter) == (8750, 101)
    assert replace(written, balance_cents=10_000, offline_counter=100, last_purchase=None) == before
    assert sent(core, bytes.fromhex("805c000204")).hex() == "0000222e"
    assert sent(core, bytes.fromhex("805a0006020064")) == answer[4:8] + tac


def test_load_byte_by_byte() -> None:
    core = card()
    command = credit(core)
    answer, written = core.command(command, RANDOM)
    key = oracle.card_key(PBOC_MASTERS["tac"], UID)
    facts = {"balance_after": 10_500, "counter": 7, "amount": 500, "terminal": TERMINAL, "epoch": EPOCH}
    assert answer == oracle.load_tac(key, **facts, moment=MOMENT) + b"\x90\x00"
    assert written is not None
    assert (written.balance_cents, written.online_counter, written.offline_counter) == (10_500, 8, 100)
    assert not written.proof_pending, "a load is no purchase to be completed"
    entry = LogEntry.decode(sent(core, apdu.READ_LAST_LOAD_COMMAND))
    assert (entry.amount_cents, entry.sequence, sent(core, bytes.fromhex("00b09a0204"))) == (500, 70_001, b"\0\0\0\3")
    assert core.command(command, RANDOM) == (b"\x69\x85", None), "an answered load cannot be said again"


def test_load_message_is_good_for_one_session_of_one_card() -> None:
    core = card()
    command = credit(core)
    core.reset()
    sent(core, SELECT_COMMAND)
    core.command(apdu.initialize_load_command(1, **TERMS), bytes(16))
    sent(core, announce(core))
    assert core.command(command, RANDOM) == (b"\x93\x02", None)
    assert core.image.balance_cents == START_CENTS


@pytest.mark.parametrize("cut_at", range(6))
def test_interrupted_load_is_told_by_counter_and_proof_at_the_next_tap(cut_at: int) -> None:
    """Three steps, cut before and after each: SELECT, INITIALIZE with the order announced, CREDIT."""
    core, command = PbocCardCore(pboc_image()), b""
    order_counter = 7
    for index in range(cut_at // 2 + cut_at % 2):
        if index == 0:
            sent(core, SELECT_COMMAND)
        elif index == 1:
            command = credit(core)
        else:
            sent(core, command)
    has_loaded = core.image.balance_cents != START_CENTS
    assert has_loaded == (cut_at == 5)
    core.reset()
    sent(core, SELECT_COMMAND)
    answer, _ = core.command(apdu.get_proof_command(TransactionType.LOAD, order_counter), RANDOM)
    ready = parse_load_ready(sent(core, apdu.initialize_load_command(1, **TERMS)))
    if has_loaded:
        assert answer[-2:] == b"\x90\x00"
        assert ready.counter == order_counter + 1
        facts = {"balance_after": 10_500, "counter": 7, "amount": 500, "terminal": TERMINAL, "epoch": EPOCH}
        key = oracle.card_key(PBOC_MASTERS["tac"], UID)
        assert answer[4:8] == oracle.load_tac(key, **facts, moment=MOMENT)
    else:
        assert answer == b"\x94\x06"
        assert ready.counter == order_counter


def test_an_order_is_announced_in_known_bytes_and_a_serial_at_or_below_the_highest_is_refused() -> None:
    core = card(load_serial=3)
    sent(core, apdu.initialize_load_command(1, **TERMS))
    sent(core, apdu.GET_CHALLENGE_COMMAND)
    header = bytes.fromhex("04d69a020c" + "00000004" + "00011171")
    key = oracle.card_key(PBOC_MASTERS["maintenance"], UID)
    command = header + oracle.retail_mac(key, RANDOM[:4] + bytes(4), header)
    assert apdu.announce_command(4, 70_001, command[-4:]) == command
    assert core.command(command[:-1] + bytes((command[-1] ^ 1,)), RANDOM)[0] == b"\x69\x88"
    assert core.command(command, RANDOM)[0] == b"\x69\x85", "the challenge was used up"
    for serial in (0, 2, 3):
        assert core.command(announce(core, serial), RANDOM) == (b"\x6a\x80", None)
    assert core.command(apdu.credit_command(MOMENT, bytes(4)), RANDOM)[0] == b"\x69\x85", "no order, no load"
    sent(core, announce(core, 4))
    assert core.image.load_serial == 3, "announcing alone writes nothing"
    assert core.command(announce(card(), 9), RANDOM)[0] == b"\x69\x85", "one order an INITIALIZE"


def test_refusals_change_nothing() -> None:
    refused = {
        "wrong MAC1": (debit(core := card())[:-1] + b"\0", core, PbocStatus.MAC_WRONG),
        "no INITIALIZE": (debit(card()), card(), PbocStatus.NOT_IN_THIS_STATE),
        "amount 0": (apdu.initialize_purchase_command(1, 0, TERMINAL, EPOCH), card(), PbocStatus.BAD_DATA),
        "too much": (apdu.initialize_purchase_command(1, 10_001, TERMINAL, EPOCH), card(), PbocStatus.BALANCE_TOO_LOW),
        "key 2": (apdu.initialize_purchase_command(2, 1, TERMINAL, EPOCH), card(), PbocStatus.KEY_UNKNOWN),
        "counter": (
            apdu.initialize_purchase_command(1, 1, TERMINAL, EPOCH),
            card(offline_counter=0xFFFF),
            PbocStatus.COUNTER_EXHAUSTED,
        ),
        "load counter": (
            apdu.initialize_load_command(1, **TERMS),
            card(online_counter=0xFFFF),
            PbocStatus.COUNTER_EXHAUSTED,
        ),
        "overflow": (
            apdu.initialize_load_command(1, 0x7FFF_FFFF, TERMINAL, EPOCH),
            card(),
            PbocStatus.BAD_DATA,
        ),
        "no proof": (apdu.get_proof_command(6, 100), card(), PbocStatus.NO_PROOF),
        "no such type": (apdu.get_proof_command(9, 100), card(), PbocStatus.NO_PROOF),
        "no record": (apdu.READ_LAST_PURCHASE_COMMAND, card(), PbocStatus.NO_RECORD),
        "no challenge": (apdu.confirm_command(100, bytes(4)), card(), PbocStatus.NOT_IN_THIS_STATE),
        "other file": (bytes.fromhex("04d69b0006") + bytes(6), card(), PbocStatus.UNKNOWN_COMMAND),
        "not selected": (apdu.GET_BALANCE_COMMAND, PbocCardCore(pboc_image()), PbocStatus.NOT_IN_THIS_STATE),
        "short": (b"\x80\x50", card(), PbocStatus.WRONG_LENGTH),
        "unknown": (bytes(5), card(), PbocStatus.UNKNOWN_COMMAND),
    }
    for name, (command, core, status) in refused.items():
        before = core.image
        assert core.command(command, RANDOM) == (status.to_bytes(2, "big"), None), name
        assert core.image is before, name


def test_one_initialize_is_good_for_one_debit() -> None:
    core = card()
    command = debit(core)
    sent(core, command)
    assert core.command(command, RANDOM) == (b"\x69\x85", None)
    core = card()
    right = debit(core)
    assert core.command(right[:-1] + bytes((right[-1] ^ 1,)), RANDOM)[0] == b"\x93\x02"
    assert core.command(right, RANDOM)[0] == b"\x69\x85", "a wrong MAC1 uses the INITIALIZE up"


def test_confirmation_needs_a_fresh_challenge_and_the_last_counter() -> None:
    core = card()
    sent(core, debit(core))
    assert core.image.proof_pending

    def confirmed(counter: int, challenge: bytes = RANDOM[:4]) -> bytes:
        return apdu.confirm_command(counter, pboc_sam().confirm_mac(1, UID, challenge, counter))

    sent(core, apdu.GET_CHALLENGE_COMMAND)
    assert core.command(confirmed(101, bytes(4)), RANDOM)[0] == b"\x69\x88"
    assert core.command(confirmed(101), RANDOM)[0] == b"\x69\x85", "the challenge was used up"
    sent(core, apdu.GET_CHALLENGE_COMMAND)
    sent(core, confirmed(100))
    sent(core, apdu.GET_CHALLENGE_COMMAND)
    sent(core, confirmed(102))
    assert core.image.collected_counter == 100
    assert core.image.proof_pending
    sent(core, apdu.GET_CHALLENGE_COMMAND)
    sent(core, confirmed(101))
    assert not core.image.proof_pending
    assert sent(core, apdu.get_proof_command(6, 100)), "the proof stays readable after its confirmation"
    for other in (99, 101):
        assert core.command(apdu.get_proof_command(6, other), RANDOM)[0] == b"\x94\x06", "and no other is told"


def test_log_that_names_no_purchase_of_ours_is_no_proof() -> None:
    good = LogEntry(1, 5, 6, bytes.fromhex("000102030003"), MOMENT, 1, 0)
    assert good.proof(CNY, b"abcd").identity == Identity(66051, 3, 1)
    for change in ({"type": 2}, {"terminal": bytes(6)}, {"sequence": 0}, {"amount_cents": 0}):
        with pytest.raises(Malformed):
            replace(good, **change).proof(CNY, b"abcd")
    HostileKit(good.encode(), LogEntry.decode, ignored=(2, 3, 4)).run_all()  # the overdraft limit


def test_image_survives_its_file_and_tells_damage() -> None:
    core = card()
    sent(core, debit(core))
    sent(core, credit(core))
    encoded = core.image.encode()
    assert len(encoded) == PBOC_IMAGE_BYTES
    assert PbocCardImage.decode(encoded) == core.image
    for damaged in (encoded[:-1], encoded + b"\0", bytes(len(encoded)), b"\1" + encoded[1:]):
        with pytest.raises(DamagedData):
            PbocCardImage.decode(damaged)
    for change in ({"uid": b""}, {"balance_cents": -1}):
        with pytest.raises(OutOfRange):
            replace(core.image, **change).encode()
    HostileKit(encoded, PbocCardImage.decode).run_all()


def test_hostile_commands_neither_raise_nor_write() -> None:
    for state, ins in TRANSITIONS:
        core = card()
        if state is PbocState.PURCHASE_READY:
            initialized(core)
        elif state is PbocState.LOAD_READY:
            sent(core, apdu.initialize_load_command(1, **TERMS))
        elif state is PbocState.ORDERED:
            credit(core)
        before = core.image
        for tail in garbage(ins, 40, 24):
            for cla in (0x00, 0x04, 0x80):
                answer, written = core.command(bytes((cla, ins)) + tail, RANDOM)
                assert len(answer) >= 2
                assert written is None
        assert core.image is before
    for command in garbage(3, 500, 40):
        assert card().command(command, RANDOM)[1] is None
    with pytest.raises(OutOfRange):
        card().command(SELECT_COMMAND, b"")


def test_sams_hold_what_they_were_given_and_show_nothing() -> None:
    assert pboc_sam().holds(1)
    assert not pboc_sam().holds(2)
    with pytest.raises(ProofError):
        pboc_sam().confirm_mac(2, UID, bytes(4), 1)
    masters = PbocTerminalMasters(*(PBOC_MASTERS[name] for name in ("internal", "purchase", "maintenance")))
    for version, keys in ((0, masters), (1, replace(masters, purchase=b"A" * 16)), (1, replace(masters, internal=b""))):
        with pytest.raises(OutOfRange):
            SoftwarePbocSam({version: keys})
    shown = f"{pboc_sam()!r} {masters!r} {PbocLoadSam(PBOC_MASTERS['load'])!r} {card().image!r} {card().image.keys!r}"
    assert pboc_key(PBOC_MASTERS["tac"], UID).hex() not in shown
    assert "123456" not in shown
    assert "\\x" not in shown
