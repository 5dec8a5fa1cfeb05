"""The AES card: answers against the vectors, atomic writes, images and hostile commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cards import apdu
from protocol.cards.aes import CARD_IMAGE_BYTES, COUNTER_MAX, AesCardCore, AesCardImage, CardState
from protocol.cards.apdu import CardFacts, CardOrder, CardProof, DebitOrder, Identity, StatusWord
from protocol.cards.image import LastDebit
from protocol.cards.meals import CardMeals, MealPlace, Token, encode_tokens
from protocol.cards.orders import order_command, order_fields
from protocol.errors import DamagedData, Malformed, OutOfRange
from protocol.mac import MacKey
from protocol.proofs import verify_tac
from protocol.sam import SoftwareSam, TerminalMasters
from tests.hostile import HostileKit, garbage, garbage_with_head
from tests.protocol.samples import (
    CARD,
    CARD_CHALLENGE,
    CNY,
    EPOCH,
    MASTERS,
    ORDER,
    TERMINAL,
    TERMINAL_CHALLENGE,
    UID,
    card,
    card_image,
    sam,
    vector_cases,
)

CASES = [case for case in vector_cases("12") if "command" in case["given"]]
DEBITED_PROOF = CardProof(1, ORDER.identity, 1250, CNY, 101, 8750, bytes.fromhex("73d1e5f062b3be0f"))
AUTHENTICATE = apdu.authenticate_command(1, TERMINAL_CHALLENGE)


def debit_command(order: DebitOrder = ORDER, challenge: bytes = TERMINAL_CHALLENGE) -> bytes:
    mac = sam().order_mac(1, UID, terminal_challenge=challenge, card_challenge=CARD_CHALLENGE, order=order)
    return order_command(1, order, mac)


def confirm_command(identity: Identity = ORDER.identity) -> bytes:
    challenges = {"terminal_challenge": TERMINAL_CHALLENGE, "card_challenge": CARD_CHALLENGE}
    return apdu.confirm_command(1, identity, sam().confirm_mac(1, UID, **challenges, identity=identity))


def run(core: AesCardCore, *commands: bytes) -> list[tuple[str, bool]]:
    """(status word, whether the card wrote) of each command."""
    results = []
    for command in commands:
        answer, written = core.command(command, CARD_CHALLENGE)
        results.append((answer[-2:].hex(), written is not None))
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_card_answers_as_the_vectors_say(case: dict[str, Any]) -> None:
    before = case["given"]["card_before"]
    image = card_image(balance_cents=before["balance"], counter=before["counter"])
    image = replace(image, proof_pending=before["last_proof_not_confirmed"])
    if "last_proof" in before:
        image = replace(image, last_proof=CardProof.decode(bytes.fromhex(before["last_proof"])))
    if "meals" in before:
        meals = CardMeals.decode(bytes.fromhex(before["meals"]))
        image = replace(image, load_serial=meals.load_serial, booking_serial=meals.booking_serial, tokens=meals.tokens)
    if "last_debit" in before:
        paid = before["last_debit"]
        who = Identity(paid["terminal"], paid["epoch"], paid["sequence"])
        image = replace(image, last_debit=LastDebit(who, paid["amount"], paid["refunded"]))
    core = AesCardCore(image)
    if before["authenticated"]:
        run(core, apdu.SELECT_COMMAND, AUTHENTICATE)
        if before["transaction_made"]:
            core.state = CardState.DEBITED
    elif before["selected"]:
        run(core, apdu.SELECT_COMMAND)
    answer, _ = core.command(bytes.fromhex(case["bytes"]), CARD_CHALLENGE)
    assert answer.hex() == case["expected"]["answer"]


def test_command_bytes_are_those_of_the_vectors() -> None:
    by_name = {case["name"]: case["bytes"] for case in CASES}
    assert apdu.SELECT_COMMAND.hex() == by_name["select"]
    assert by_name["authenticate"] == AUTHENTICATE.hex()
    assert debit_command().hex() == by_name["debit 12.50"]
    assert apdu.GET_PROOF_COMMAND.hex() == by_name["get proof"]
    assert confirm_command().hex() == by_name["confirm"]


def test_answers_of_the_vectors_are_parsed() -> None:
    answers = {case["name"]: bytes.fromhex(case["expected"]["answer"]) for case in CASES}
    data, status = apdu.split_answer(answers["select"])
    assert status == StatusWord.DONE
    assert apdu.parse_select(data) == CardFacts(1, 1, UID, CARD, CNY, False, 21915, 4)
    assert apdu.parse_authenticate(answers["authenticate"][:-2]).balance_cents == 10_000
    assert apdu.parse_debit(answers["debit 12.50"][:-2]).proof == DEBITED_PROOF.proof
    assert CardProof.decode(answers["get proof"][:-2]) == DEBITED_PROOF
    assert DEBITED_PROOF.encode() == answers["get proof"][:-2]


def test_debit_is_one_write_that_moves_balance_counter_proof_and_flag_together() -> None:
    core = card()
    before = core.image
    run(core, apdu.SELECT_COMMAND, AUTHENTICATE)
    assert core.image is before
    answer, written = core.command(debit_command(), CARD_CHALLENGE)
    assert answer[-2:] == b"\x90\x00"
    debited = replace(before, balance_cents=8750, counter=101, last_proof=DEBITED_PROOF, proof_pending=True)
    assert written == replace(debited, last_debit=LastDebit(ORDER.identity, 1250))
    assert core.image is written
    facts = {"type_": 1, "amount": 1250, "currency": CNY, "card": CARD, "terminal": TERMINAL, "epoch": EPOCH}
    assert verify_tac(
        MacKey(before.keys.tac), DEBITED_PROOF.proof, **facts, sequence=1, counter=101, balance_after=8750
    )


def test_one_debit_per_authentication_and_none_before_the_last_is_confirmed() -> None:
    second = debit_command(DebitOrder(1, CNY, Identity(TERMINAL, EPOCH, 2)))
    core = card()
    assert run(core, apdu.SELECT_COMMAND, AUTHENTICATE, debit_command(), second) == [
        ("9000", False),
        ("9000", False),
        ("9000", True),
        ("6985", False),
    ]
    assert run(core, AUTHENTICATE, second) == [("9000", False), ("6985", False)]
    assert run(core, confirm_command(), second) == [("9000", True), ("9000", True)]


def test_confirmation_of_another_identity_clears_nothing() -> None:
    core = card()
    other = confirm_command(Identity(TERMINAL, EPOCH, 2))
    assert run(core, apdu.SELECT_COMMAND, AUTHENTICATE, confirm_command())[-1] == ("6a88", False)
    assert run(core, debit_command(), other, confirm_command(), confirm_command()) == [
        ("9000", True),
        ("9000", False),
        ("9000", True),
        ("9000", False),
    ]
    assert core.image.last_proof == DEBITED_PROOF, "the proof stays readable after its confirmation"
    assert not core.image.proof_pending


def test_power_loss_forgets_the_dialogue_and_keeps_the_image() -> None:
    core = card()
    run(core, apdu.SELECT_COMMAND, AUTHENTICATE, debit_command())
    core.reset()
    assert run(core, AUTHENTICATE, confirm_command(), apdu.GET_PROOF_COMMAND) == [("6985", False)] * 3
    assert run(core, apdu.SELECT_COMMAND, confirm_command()) == [("9000", False), ("6985", False)]
    assert core.command(apdu.GET_PROOF_COMMAND, CARD_CHALLENGE)[0][:-2] == DEBITED_PROOF.encode()


def test_macs_of_an_earlier_challenge_are_worth_nothing() -> None:
    core = card()
    run(core, apdu.SELECT_COMMAND, AUTHENTICATE)
    core.command(AUTHENTICATE, bytes(16))
    assert run(core, debit_command()) == [("6982", False)]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (b"", "6700"),
        (b"\x80", "6700"),
        (bytes.fromhex("00a4040003f04302"), "6d00"),
        (bytes.fromhex("00a4040003f043"), "6700"),
        (bytes.fromhex("00a4040003f0430100"), "6700"),
        (bytes.fromhex("00b0000000"), "6d00"),
        (bytes.fromhex("808201ff10") + bytes(16), "6d00"),
        (bytes.fromhex("805a000001"), "6700"),
        (bytes.fromhex("805a01000000"), "6d00"),
        (bytes.fromhex("80540100"), "6700"),
        (bytes.fromhex("8066000001"), "6700"),
        (bytes.fromhex("8066010000"), "6d00"),
        (bytes.fromhex("8066000000"), "6985"),
        (bytes.fromhex("8056010018") + bytes(24), "6700"),
        (bytes.fromhex("8052020020") + bytes(32), "9403"),
    ],
)
def test_ill_formed_commands_have_definite_answers(command: bytes, status: str) -> None:
    core = card()
    run(core, apdu.SELECT_COMMAND)
    assert run(core, command) == [(status, False)]


def test_hostile_commands_never_raise_and_never_write() -> None:
    core = card()
    run(core, apdu.SELECT_COMMAND, AUTHENTICATE)
    before, state = core.image, core.state
    book = bytes.fromhex("8056010020")
    for command in (
        *garbage(20, 500, 64),
        *garbage_with_head(debit_command(), 21, 500, 40),
        *garbage_with_head(book, 22, 500, 40),
    ):
        answer, written = core.command(command, CARD_CHALLENGE)
        assert written is None
        if command != apdu.SELECT_COMMAND and command[1:2] != b"\x82":
            assert len(answer) == 2
    assert (core.image, core.state) == (before, state)


def test_a_refused_command_changes_nothing() -> None:
    core = card()
    wrong = debit_command()[:-1] + b"\0"
    refused = run(core, apdu.SELECT_COMMAND, AUTHENTICATE, wrong, debit_command(replace(ORDER, amount_cents=10_001)))
    assert [status for status, _ in refused[2:]] == ["6982", "9401"]
    assert run(core, debit_command()) == [("9000", True)]


def test_a_days_orders_make_the_commands_and_proofs_of_the_vectors() -> None:
    """The oracle's card and terminal, step by step, against ours."""
    types = {"BOOK": 0x20, "CANCEL": 0x21, "COLLECT": 0x22, "LOAD": 4, "REFUND": 3, "DEBIT": 1}
    station = SoftwareSam(
        {1: TerminalMasters(*(MASTERS[name] for name in ("authenticate", "debit", "refund", "load")))}
    )
    day = [case for case in CASES if case["given"]["command"] in types and case["expected"]["sw"] == "9000"]
    assert len(day) >= 8
    for case in day:
        facts = case["given"]
        who = Identity(facts["terminal"], facts["epoch"], facts["sequence"])
        meal = MealPlace.decode(bytes.fromhex(facts.get("detail", "00000000")))
        type_ = types[facts["command"]]
        order = CardOrder(facts["amount"], facts["currency"], who, type_, facts.get("reference", 0), meal)
        challenges = {"terminal_challenge": TERMINAL_CHALLENGE, "card_challenge": CARD_CHALLENGE}
        assert order_command(1, order, station.order_mac(1, UID, **challenges, order=order)).hex() == case["bytes"]
        made = apdu.parse_debit(bytes.fromhex(case["expected"]["answer"])[:-2])
        assert verify_tac(
            MacKey(card_image().keys.tac),
            made.proof,
            type_=type_,
            amount=order.amount_cents,
            currency=order.currency,
            card=CARD,
            terminal=who.terminal,
            epoch=who.epoch,
            sequence=who.sequence,
            counter=made.counter,
            balance_after=made.balance_after_cents,
        )


def test_purse_can_be_emptied_and_not_overdrawn() -> None:
    for balance, amount, status in ((1, 1, "9000"), (0, 1, "9401"), (-5, 1, "9401"), (2**31 - 1, 2**32 - 1, "9401")):
        core = card(balance_cents=balance)
        order = replace(ORDER, amount_cents=amount)
        assert run(core, apdu.SELECT_COMMAND, AUTHENTICATE, debit_command(order))[-1][0] == status
    assert run(card(counter=COUNTER_MAX), apdu.SELECT_COMMAND, AUTHENTICATE, debit_command())[-1][0] == "9406"


LUNCH = MealPlace(20_360, 2, 3)
TOKENS = st.builds(
    Token,
    st.integers(1, 2**32 - 1),
    st.builds(MealPlace, st.integers(0, 2**16 - 1), st.integers(0, 255), st.integers(0, 255)),
    st.integers(0, 2**32 - 1),
)
IMAGES = st.builds(
    replace,
    st.just(card_image()),
    balance_cents=st.integers(-(2**31), 2**31 - 1),
    counter=st.integers(0, COUNTER_MAX),
    valid_until_day=st.integers(0, 2**32 - 1),
    last_proof=st.none() | st.just(DEBITED_PROOF),
    proof_pending=st.booleans(),
    load_serial=st.integers(0, 2**32 - 1),
    booking_serial=st.integers(0, 2**32 - 1),
    tokens=st.lists(TOKENS, max_size=4).map(tuple),
    last_debit=st.none() | st.builds(LastDebit, st.just(ORDER.identity), st.integers(1, 2**32 - 1), st.booleans()),
)


@given(IMAGES)
def test_image_survives_its_file(image: AesCardImage) -> None:
    data = image.encode()
    assert len(data) == CARD_IMAGE_BYTES
    assert AesCardImage.decode(data) == image


def test_damaged_image_files_are_refused_bit_by_bit() -> None:
    data = replace(card_image(), last_proof=DEBITED_PROOF).encode()
    HostileKit(data, AesCardImage.decode, bytes_max=CARD_IMAGE_BYTES, authenticated=True).run_all()
    with pytest.raises(DamagedData):
        AesCardImage.decode(b"")
    with pytest.raises(DamagedData, match="version 1, not 2"):
        AesCardImage.decode(b"\x01" + bytes(151))  # as they were before cards had tokens
    with pytest.raises(OutOfRange):
        replace(card_image(), uid=bytes(6)).encode()
    with pytest.raises(OutOfRange):
        replace(card_image(), counter=1 << 32).encode()


@pytest.mark.parametrize(
    ("vector", "parse"),
    [
        (bytes.fromhex("010104782e21801d800001e240009c000000559b0400"), apdu.parse_select),
        (bytes(range(32)), apdu.parse_authenticate),
        (bytes(range(16)), apdu.parse_debit),
        (DEBITED_PROOF.encode(), CardProof.decode),
        (CardMeals(9, 12, (Token(11, LUNCH, 900), Token(12, LUNCH, 0))).encode(), CardMeals.decode),
    ],
    ids=["SELECT", "AUTHENTICATE", "DEBIT", "GET PROOF", "READ MEALS"],
)
def test_hostile_answers_raise_nothing_but_remote_errors(vector: bytes, parse: Any) -> None:
    HostileKit(vector, parse, bytes_max=64).run_all()


def test_builders_refuse_what_does_not_fit() -> None:
    with pytest.raises(OutOfRange):
        apdu.authenticate_command(256, TERMINAL_CHALLENGE)
    with pytest.raises(OutOfRange):
        apdu.authenticate_command(1, bytes(15))
    with pytest.raises(OutOfRange):
        order_fields(replace(ORDER, amount_cents=-1))
    with pytest.raises(OutOfRange):
        order_command(1, ORDER, bytes(16))
    for wrong in (replace(ORDER, reference=1), replace(ORDER, meal=LUNCH), replace(ORDER, type=7)):
        with pytest.raises(OutOfRange):
            order_fields(wrong)
    with pytest.raises(OutOfRange):
        order_fields(replace(ORDER, type=0x20, reference=1, meal=MealPlace(1 << 16, 0, 0)))
    with pytest.raises(OutOfRange):
        encode_tokens([Token(1, LUNCH, 0)] * 5)
    with pytest.raises(OutOfRange):
        CardMeals(load_serial=1 << 32).encode()
    with pytest.raises(OutOfRange):
        card().command(apdu.SELECT_COMMAND, b"")
    with pytest.raises(Malformed):
        apdu.split_answer(b"\x90")


def test_reprs_show_neither_keys_nor_card_numbers() -> None:
    image = replace(card_image(), last_proof=DEBITED_PROOF)
    shown = repr(image) + repr(image.keys) + repr(DEBITED_PROOF) + repr(apdu.parse_authenticate(bytes(32)))
    shown += repr(apdu.parse_debit(bytes(16))) + repr(CardFacts(1, 1, UID, CARD, CNY, False, 0, 4))
    assert "123456" not in shown
    assert "\\x" not in shown
    assert image.keys.debit.hex() not in shown
