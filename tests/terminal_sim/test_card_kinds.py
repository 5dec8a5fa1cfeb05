"""Cards of every kind at a real terminal: each interruption point of a tap, then flash, card and next tap (R4, R20)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from protocol.cards.apdu import Identity
from protocol.cards.memory_image import Remainder, blank_image
from protocol.cards.memory_purse import Repair
from protocol.cards.pboc_image import PbocCardImage
from protocol.codes import CardKind
from protocol.errors import DamagedData
from protocol.list_receiver import Apply
from protocol.record_bodies import Refusal
from protocol.records import Aborted, Completion, Grey, Purchase, decode_body, read_head
from terminal_sim.card import Disturbance, Effect, FileCards, Moment
from terminal_sim.card_kinds import (
    ENCODED_BYTES,
    Debit,
    MemoryCard,
    counter_of,
    decode_card,
    encode_card,
    is_torn,
    last_debit,
)
from terminal_sim.errors import FlashMisuse, PowerCut
from terminal_sim.faults import TAP_COMMANDS, TAP_WRITES
from terminal_sim.firmware import Outcome, PosTerminal, Why
from terminal_sim.oracle import Executed, Oracle
from terminal_sim.truth import Truth
from tests.terminal_sim.kit import (
    FIRST_CARD,
    MERCHANT,
    OPENING_CENTS,
    TERMINAL,
    Bench,
    card_of,
    check_chain,
    flash_layout,
    records_of,
    signed_list,
    terminal_secrets,
)

EVERY_KIND = pytest.mark.parametrize("kind", list(CardKind), ids=lambda kind: kind.name)
CPU_KINDS = pytest.mark.parametrize("kind", [CardKind.AES, CardKind.PBOC], ids=lambda kind: kind.name)
FIRST, SECOND, THIRD = 300, 700, 50


def bodies(terminal: PosTerminal) -> list[object]:
    return [decode_body(record) for record in records_of(terminal)]


def points(kind: CardKind) -> Iterator[Disturbance]:
    """Before and after every command of a tap; of a memory card's writes, torn at every byte."""
    for index, moment, effect in product(range(TAP_COMMANDS[kind]), Moment, Effect):
        yield Disturbance(index, moment, effect)
    if kind is CardKind.MEMORY:
        gone = (Effect.PULLED, Effect.POWER_CUT)
        for index, size, effect, remainder in product(TAP_WRITES[kind], range(17), gone, Remainder):
            yield Disturbance(index, Moment.AFTER_WRITE, effect, size, remainder)


@EVERY_KIND
def test_a_sale_is_one_purchase_with_what_the_card_owes(kind: CardKind) -> None:
    bench = Bench()
    card = bench.issue(kind=kind)
    terminal = bench.boot()
    field = bench.field(card)
    result = terminal.tap(field, FIRST)
    bench.oracle.answered(TERMINAL, 1, result)
    assert (result.outcome, result.sequence, result.balance_after_cents) == (Outcome.SOLD, 1, OPENING_CENTS - FIRST)
    assert (field.commands, tuple(field.wrote)) == (TAP_COMMANDS[kind], TAP_WRITES[kind])
    [record] = check_chain(terminal)
    body = decode_body(record)
    assert isinstance(body, Purchase)
    assert (body.card_kind, body.card, body.amount_cents, body.counter) == (kind, card, FIRST, 1)
    proof = body.proof
    assert {
        CardKind.AES: any(proof[4:]),
        CardKind.MEMORY: proof == bytes(8),
        CardKind.PBOC: proof[4:] == bytes(4) and any(proof),
    }[kind]
    held = bench.cards.load(card)
    assert (counter_of(held), held.balance_cents, is_torn(held)) == (1, OPENING_CENTS - FIRST, False)
    assert last_debit(held) == Debit(Identity(TERMINAL, 1, 1), FIRST)
    assert bench.oracle.check_cards(bench.cards) == []


@EVERY_KIND
def test_a_tap_torn_anywhere_is_made_exact_or_left_to_two_persons(kind: CardKind) -> None:
    torn_greys = 0
    for disturbance in points(kind):
        bench = Bench(layout=flash_layout(ring_sectors=3))
        card = bench.issue(kind=kind)
        terminal = bench.boot()
        bench.tap(terminal, card, FIRST)
        with suppress(PowerCut):
            bench.tap(terminal, card, SECOND, disturbance)
        if disturbance.effect is Effect.POWER_CUT:
            terminal = bench.boot()
        last = bench.tap(terminal, card, THIRD)
        assert last.outcome is Outcome.SOLD, disturbance
        assert bench.oracle.faults == [], disturbance
        torn_greys += settle(bench, terminal, kind, disturbance)
        assert bench.oracle.check_cards(bench.cards) == []
        assert not is_torn(bench.cards.load(card))
    assert torn_greys == 4 if kind is not CardKind.MEMORY else torn_greys > 100


def settle(bench: Bench, terminal: PosTerminal, kind: CardKind, disturbance: Disturbance) -> int:
    """What a ledger would come to without persons; the number of greys. Memory greys stay, with a hint that is true."""
    proved, greys = {}, {}
    for record in check_chain(terminal):
        head, body = read_head(record), decode_body(record)
        identity = Identity(head.terminal, head.epoch, head.sequence)
        if isinstance(body, Purchase):
            proved[identity] = body.amount_cents
        elif isinstance(body, Completion):
            proved[Identity(body.original_terminal, body.original_epoch, body.original_sequence)] = body.amount_cents
        elif isinstance(body, Grey):
            greys[identity] = body
        else:
            assert isinstance(body, Aborted)
            assert identity not in bench.oracle.executed, disturbance
    executed = {identity: each.amount_cents for identity, each in bench.oracle.executed.items()}
    open_greys = greys.keys() - proved.keys()
    assert proved == {identity: cents for identity, cents in executed.items() if identity not in open_greys}
    if kind is not CardKind.MEMORY:
        assert not open_greys & executed.keys(), disturbance
    for identity in open_greys if kind is CardKind.MEMORY else ():
        seen = counter_of(bench.cards.load(FIRST_CARD)) - 1  # before the last tap: what that tap found
        assert seen - greys[identity].counter_before == (identity in executed), disturbance
    return len(greys)


@CPU_KINDS
def test_a_grey_is_completed_at_another_terminal_by_a_proof_that_verifies(kind: CardKind) -> None:
    here, there = Bench(), Bench(secrets=terminal_secrets(terminal=5000), seed=2)
    there.cards, there.oracle = here.cards, here.oracle
    here.clock.time_ms = 123_456_789
    card = here.issue(kind=kind)
    torn = here.tap(here.boot(), card, SECOND, Disturbance(TAP_WRITES[kind][0], Moment.AFTER_WRITE))
    assert torn.outcome is Outcome.GREY
    assert is_torn(here.cards.load(card))
    terminal = there.boot()
    result = there.tap(terminal, card, THIRD)
    assert (result.outcome, result.completed) == (Outcome.SOLD, Identity(TERMINAL, 1, 1))
    completion, purchase = (decode_body(record) for record in check_chain(terminal))
    assert isinstance(completion, Completion)
    assert isinstance(purchase, Purchase)
    assert (completion.original_terminal, completion.amount_cents, completion.card_kind) == (TERMINAL, SECOND, kind)
    debited_ms = here.clock.now_ms() // 1000 * 1000
    assert completion.reference == (debited_ms if kind is CardKind.PBOC else 0)


def test_a_card_that_states_no_moment_for_its_debit_is_refused() -> None:
    bench = Bench()
    card = bench.issue(kind=CardKind.PBOC)
    terminal = bench.boot()
    bench.tap(terminal, card, SECOND, Disturbance(TAP_WRITES[CardKind.PBOC][0], Moment.AFTER_WRITE))
    held = bench.cards.load(card)
    assert isinstance(held, PbocCardImage)
    assert held.last_purchase is not None
    entry = replace(held.last_purchase.entry, moment=b"\xff" * 7)
    bench.cards.save(replace(held, last_purchase=replace(held.last_purchase, entry=entry)))
    result = terminal.tap(bench.field(card), THIRD)
    assert (result.outcome, result.why) == (Outcome.REFUSED, Why.CARD_REFUSED)
    assert [type(body) for body in bodies(terminal)] == [Grey, Refusal]


@EVERY_KIND
def test_a_terminal_without_a_kinds_sam_refuses_its_cards_as_foreign(kind: CardKind) -> None:
    secrets = terminal_secrets()
    bench = Bench(secrets=replace(secrets, memory_sam=None, pboc_sam=None))
    result = bench.tap(bench.boot(), bench.issue(kind=kind), FIRST)
    is_aes = kind is CardKind.AES
    assert (result.outcome, result.why) == ((Outcome.SOLD, Why.NONE) if is_aes else (Outcome.REFUSED, Why.FOREIGN))


def test_a_blank_memory_card_is_no_card_of_ours() -> None:
    bench = Bench()
    card = bench.issue(kind=CardKind.MEMORY)
    uid = bench.cards.load(card).uid
    blank = MemoryCard(blank_image(uid).written(2, card_of(CardKind.MEMORY, card).image.block(2)))  # type: ignore[union-attr]
    bench.cards.save(blank)
    result = bench.boot().tap(bench.field(card), FIRST)
    assert (result.outcome, result.why, result.sequence) == (Outcome.REFUSED, Why.FOREIGN, 0)


# -- the card check


@EVERY_KIND
def test_a_check_of_a_whole_card_leaves_nothing_behind(kind: CardKind) -> None:
    bench = Bench()
    card = bench.issue(kind=kind)
    terminal = bench.boot()
    bench.tap(terminal, card, FIRST)
    before, flash = bench.cards.load(card), bench.flash.snapshot()
    result = terminal.check(bench.field(card))
    assert (result.outcome, result.why, result.completed, result.sequence) == (Outcome.CHECKED, Why.NONE, None, 0)
    assert bench.cards.load(card) == before
    assert bench.flash.snapshot() == flash, "no sequence is used"


@EVERY_KIND
@pytest.mark.parametrize("balance_cents", [0, SECOND], ids=["empty", "paid its last cent"])
def test_a_check_is_no_question_of_money(kind: CardKind, balance_cents: int) -> None:
    bench = Bench()
    card = bench.issue(kind=kind, balance_cents=balance_cents)
    terminal = bench.boot()
    if balance_cents:
        at = TAP_WRITES[kind][-2]  # DEBIT, or the TRANSFER into the backup
        assert bench.tap(terminal, card, SECOND, Disturbance(at, Moment.AFTER_WRITE)).outcome is Outcome.GREY
    result = terminal.check(bench.field(card))
    assert result.outcome is Outcome.CHECKED
    assert not is_torn(bench.cards.load(card))
    assert len(bodies(terminal)) == (0 if not balance_cents else 1 if kind is CardKind.MEMORY else 2)


@CPU_KINDS
def test_a_check_brings_a_proof_home_even_from_a_lost_card(kind: CardKind) -> None:
    bench = Bench()
    card = bench.issue(kind=kind)
    terminal = bench.boot()
    bench.tap(terminal, card, SECOND, Disturbance(TAP_WRITES[kind][0], Moment.AFTER_WRITE))
    terminal.deny_list.memory.perform(Apply(*signed_list(1, [card])))
    result = terminal.check(bench.field(card))
    assert (result.outcome, result.why) == (Outcome.CHECKED, Why.DENY_LIST)
    assert result.completed == Identity(TERMINAL, 1, 1)
    assert [type(body) for body in bodies(terminal)] == [Grey, Completion]
    check_chain(terminal)


@pytest.mark.parametrize("happened", [False, True])
def test_a_check_repairs_a_memory_purse_and_shows_whether_the_torn_debit_stands(happened: bool) -> None:
    bench = Bench()
    card = bench.issue(kind=CardKind.MEMORY)
    terminal = bench.boot()
    backup = TAP_WRITES[CardKind.MEMORY][1]
    size = None if happened else 9
    torn = bench.tap(terminal, card, SECOND, Disturbance(backup, Moment.AFTER_WRITE, Effect.PULLED, size))
    assert torn.outcome is Outcome.GREY
    assert is_torn(bench.cards.load(card))
    assert (Identity(TERMINAL, 1, 1) in bench.oracle.executed) is happened
    result = terminal.check(bench.field(card))
    assert result.found is not None
    assert (result.found.last_happened, result.found.counter) == (happened, int(happened))
    assert result.found.repair is (Repair.PURSE_FROM_BACKUP if happened else Repair.BACKUP_FROM_PURSE)
    assert not is_torn(bench.cards.load(card))
    assert [type(body) for body in bodies(terminal)] == [Grey], "a hint is no record"


@EVERY_KIND
def test_a_check_torn_anywhere_takes_nothing_and_the_next_one_ends_it(kind: CardKind) -> None:
    for index, moment, effect in product(range(TAP_COMMANDS[kind] + 2), Moment, Effect):
        bench = Bench(layout=flash_layout(ring_sectors=3))
        card = bench.issue(kind=kind)
        terminal = bench.boot()
        bench.tap(terminal, card, SECOND, Disturbance(TAP_WRITES[kind][-2], Moment.AFTER_WRITE))
        with suppress(PowerCut):
            terminal.check(bench.field(card, Disturbance(index, moment, effect)))
        if effect is Effect.POWER_CUT:
            terminal = bench.boot()
        assert terminal.check(bench.field(card)).outcome is Outcome.CHECKED
        assert not is_torn(bench.cards.load(card))
        assert {type(body) for body in map(decode_body, check_chain(terminal))} <= {Grey, Completion}
        assert bench.cards.load(card).balance_cents == OPENING_CENTS - SECOND
        assert bench.oracle.check_cards(bench.cards) == []


# -- cards as bytes


@EVERY_KIND
def test_a_card_of_any_kind_is_its_bytes(kind: CardKind) -> None:
    bench = Bench()
    card = bench.issue(kind=kind)
    bench.tap(bench.boot(), card, FIRST)
    held = bench.cards.load(card)
    encoded = encode_card(held)
    assert len(encoded) == ENCODED_BYTES[kind]
    assert encoded[0] == kind
    assert decode_card(encoded + bytes(9)) == held
    for damaged in (bytes((9,)) + encoded[1:], encoded[:-1], encoded[:5] + b"\xff" + encoded[6:], bytes(3)):
        with pytest.raises(DamagedData):
            decode_card(damaged)
    assert str(FIRST_CARD) not in repr(held).replace(f"…{FIRST_CARD}", "")


def test_cards_of_all_kinds_share_a_file_made_for_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "cards"
    cards = {kind: card_of(kind, 5 + kind) for kind in CardKind}
    size = max(ENCODED_BYTES.values())
    with FileCards(path, cards_max=3, card_bytes=size) as file:
        for card in cards.values():
            file.save(card)
    with FileCards(path, cards_max=3, card_bytes=size) as file:
        assert {kind: file.load(5 + kind) for kind in CardKind} == cards
    with FileCards(tmp_path / "small", cards_max=3) as file, pytest.raises(FlashMisuse):
        file.save(cards[CardKind.MEMORY])


def test_a_memory_card_that_pays_unseen_is_found_by_the_oracle() -> None:
    bench = Bench()
    card = bench.issue(kind=CardKind.MEMORY)
    field = bench.field(card)
    field._payee = None
    bench.boot().tap(field, FIRST)
    assert bench.oracle.faults == ["card …1000: a debit without its proof"]


# -- what a killed simulator still knows


@EVERY_KIND
def test_a_debit_that_only_the_card_remembers_is_found_again(kind: CardKind) -> None:
    bench = Bench()
    card = bench.issue(kind=kind)
    field = bench.field(card)
    field._on_write = None  # killed between the card's write and the note of it
    bench.boot().tap(field, FIRST)
    truth = Truth(bench.oracle, None)
    assert bench.oracle.executed == {}
    truth.reconcile(bench.cards)
    assert bench.oracle.executed == {Identity(TERMINAL, 1, 1): Executed(card, FIRST, MERCHANT)}
    assert bench.oracle.check_cards(bench.cards) == []


def test_torn_cards_and_what_they_showed_later_outlive_the_simulator(tmp_path: Path) -> None:
    path = tmp_path / "truth.bin"
    bench = Bench()
    memory, dark = bench.issue(kind=CardKind.MEMORY), bench.issue(FIRST_CARD + 1, kind=CardKind.PBOC)
    terminal = bench.boot()
    truth = Truth(Oracle({TERMINAL: MERCHANT}), path)
    backup = Disturbance(TAP_WRITES[CardKind.MEMORY][1], Moment.AFTER_WRITE)
    truth.answered(TERMINAL, 1, terminal.tap(bench.field(memory, backup), FIRST))
    truth.tap_interrupted(Identity(TERMINAL, 1, 2), card=dark)
    truth.close()
    torn = {memory: Identity(TERMINAL, 1, 1), dark: Identity(TERMINAL, 1, 2)}
    truth = Truth(Oracle({TERMINAL: MERCHANT}), path)
    assert (truth.torn, truth.found, truth.taps_done, truth.interrupted) == (torn, {}, 2, 1)
    for card in (memory, dark):
        truth.answered(TERMINAL, 1, terminal.check(bench.field(card)), unplanned=True)
    truth.close()
    truth = Truth(Oracle({TERMINAL: MERCHANT}), path)
    assert (truth.torn, truth.found, truth.taps_done) == ({}, {Identity(TERMINAL, 1, 1): 1}, 2)
    truth.close()
