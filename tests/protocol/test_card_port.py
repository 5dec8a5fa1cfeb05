"""Cards of every kind behind one port: every interruption of a tap, then the next tap; what a card might invent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.cards.apdu import DebitOrder, Identity
from protocol.cards.events import CardGone, CardSeen, Debited, Finished, PendingProof, Reason, Refused, Step, Unknown
from protocol.cards.memory import MemoryCardCore
from protocol.cards.memory_image import MemoryCardImage, Remainder, blank_image
from protocol.cards.pboc import PbocCardCore
from protocol.cards.pboc_macs import pboc_key, verify_pboc_tac
from protocol.cards.port import CardDialogue, DebitTerms
from protocol.codes import CardKind
from protocol.errors import StateMisuse
from tests.hostile import garbage
from tests.oracle import pboc as oracle
from tests.protocol.card_till import CORES, KINDS, PBOC_MASTERS, START_CENTS, Cut, Effect, Till, balance, pboc_image
from tests.protocol.samples import CNY, EPOCH, TERMINAL, UID

EVERY_KIND = list(CardKind)
OTHER_TERMINAL = TERMINAL + 1
AMOUNT = 1250


def commands_of_a_tap(kind: CardKind, till: Till | None = None) -> tuple[int, list[int]]:
    """How many commands an undisturbed tap has, and which of them write."""
    one = till or Till(CORES[kind]())
    assert one.tap(AMOUNT) == Finished(confirmed=True)
    return one.commands, one.wrote


def cuts(kind: CardKind) -> Iterator[Cut]:
    """Every interruption point of a tap: before and after each command, and within each write of a memory card."""
    commands, wrote = commands_of_a_tap(kind)
    for command, after, effect in product(range(commands), (False, True), Effect):
        yield Cut(command, after, effect)
    if kind is CardKind.MEMORY:
        gone = (Effect.PULLED, Effect.POWER_CUT)
        for command, size, effect, remainder in product(wrote, range(17), gone, Remainder):
            yield Cut(command, after=True, effect=effect, bytes_written=size, remainder=remainder)


def next_tap(first: Till, *, amount_cents: int = 300) -> Till:
    """The same card at another terminal, undisturbed; its flash holds both terminals' records."""
    other = Till(first.core, terminal=OTHER_TERMINAL, flash=list(first.flash))
    assert other.tap(amount_cents) == Finished(confirmed=True), other.events
    return other


def check_books(till: Till, kind: CardKind) -> None:
    """Money gone from the card = proved records + greys that happened; of a CPU card no grey stays open."""
    unexplained = START_CENTS - balance(till.core) - till.proved_cents()
    greys = till.open_greys()
    if kind is not CardKind.MEMORY:
        assert unexplained == 0, till.flash
        return
    assert unexplained in {sum(chosen) for chosen in product(*((0, grey) for grey in greys))}, till.flash
    assert till.core.image.block(4) == till.core.image.block(5)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_undisturbed_tap_is_one_purchase(kind: CardKind) -> None:
    one = Till(CORES[kind]())
    assert one.tap(AMOUNT) == Finished(confirmed=True)
    assert [each[:3] for each in one.flash] == [("purchase", Identity(TERMINAL, EPOCH, 1), AMOUNT)]
    seen, debited = one.events[0], one.events[-2]
    assert isinstance(seen, CardSeen)
    assert isinstance(debited, Debited)
    assert (seen.card.kind, seen.card.number, seen.card.uid, seen.card.group) == (kind, 123456, UID, 4)
    assert (debited.balance_after_cents, debited.counter) == (START_CENTS - AMOUNT, 101)
    assert balance(one.core) == START_CENTS - AMOUNT


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_no_money_is_made_or_lost_wherever_a_tap_is_cut(kind: CardKind) -> None:
    points = 0
    for cut in cuts(kind):
        one = Till(CORES[kind]())
        one.tap(AMOUNT, cut)
        other = next_tap(one)
        check_books(other, kind)
        identities = [each[1].sequence for each in one.flash if each[0] != "completion"]
        assert identities == list(range(1, len(identities) + 1)), "R1: no sequence is used twice or not at all"
        if ("aborted", AMOUNT) in [(each[0], each[2]) for each in one.flash]:
            assert START_CENTS - balance(other.core) == 300, f"{cut}: what was called aborted was spent"
        points += 1
    assert points >= 24


def test_only_the_transfer_into_the_backup_of_a_memory_card_leaves_a_question() -> None:
    _, wrote = commands_of_a_tap(CardKind.MEMORY)
    marker, backup, purse = wrote
    for cut in cuts(CardKind.MEMORY):
        if cut.effect is Effect.POWER_CUT:
            continue
        one = Till(CORES[CardKind.MEMORY]())
        last = one.tap(AMOUNT, cut)
        if cut.command == backup and cut.effect is Effect.PULLED:
            assert isinstance(last, Unknown), cut
            assert [each[0] for each in one.flash] == ["grey"]
        elif cut.command < backup or (cut.command == backup and not cut.after and cut.effect is Effect.SILENT):
            assert isinstance(last, Refused | CardGone), cut
            assert [each[0] for each in one.flash] in ([], ["aborted"])
        else:
            assert [each[0] for each in one.flash] == ["purchase"], cut
    assert marker < backup < purse


def test_a_torn_memory_card_is_whole_again_after_any_second_interruption() -> None:
    reached: dict[bytes, tuple[Till, Cut]] = {}
    for cut in cuts(CardKind.MEMORY):
        one = Till(CORES[CardKind.MEMORY]())
        one.tap(AMOUNT, cut)
        reached.setdefault(one.core.image.data + bytes(str([each[0] for each in one.flash]), "ascii"), (one, cut))
    assert 20 < len(reached) < 200
    seconds = 0
    for one, first_cut in reached.values():
        probe = Till(MemoryCardCore(one.core.image), terminal=OTHER_TERMINAL)
        probe.tap(70)
        whole = [Cut(command, after, Effect.PULLED) for command, after in product(range(probe.commands), (False, True))]
        tears = [
            Cut(command, after=True, effect=Effect.PULLED, bytes_written=size, remainder=remainder)
            for command, size, remainder in product(probe.wrote, (3, 4, 8, 13), Remainder)
        ]
        for cut in (*whole, *tears):
            again = Till(MemoryCardCore(one.core.image), terminal=OTHER_TERMINAL, flash=list(one.flash))
            again.tap(70, cut)
            third = Till(again.core, terminal=OTHER_TERMINAL + 1, flash=again.flash)
            assert third.tap(5) == Finished(confirmed=True), (first_cut, cut)
            check_books(third, CardKind.MEMORY)
            seconds += 1
    assert seconds > 500


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(EVERY_KIND),
    st.lists(
        st.tuples(st.integers(0, 30), st.booleans(), st.sampled_from(Effect), st.integers(0, 16), st.integers(1, 3000)),
        min_size=1,
        max_size=8,
    ),
)
def test_any_run_of_interrupted_taps_conserves_money(
    kind: CardKind, taps: list[tuple[int, bool, Effect, int, int]]
) -> None:
    one = Till(CORES[kind]())
    for command, after, effect, size, amount_cents in taps:
        tear = size if after and effect is not Effect.SILENT and kind is CardKind.MEMORY else None
        one.tap(amount_cents, Cut(command, after, effect, tear))
    one.tap(1)
    check_books(one, kind)


def test_every_proof_of_a_pboc_card_verifies_and_no_other_does() -> None:
    key = pboc_key(PBOC_MASTERS["tac"], UID)
    assert key == oracle.card_key(PBOC_MASTERS["tac"], UID)
    for cut in cuts(CardKind.PBOC):
        one = Till(CORES[CardKind.PBOC]())
        one.tap(AMOUNT, cut)
        for record, who, amount, proof, moment in next_tap(one).flash:
            if record not in {"purchase", "completion"}:
                continue
            facts: dict[str, Any] = {
                "terminal": who.terminal,
                "epoch": who.epoch,
                "sequence": who.sequence,
                "moment": moment,
            }
            assert verify_pboc_tac(key, proof, amount_cents=amount, **facts)
            assert not verify_pboc_tac(key, proof, amount_cents=amount + 1, **facts)
            assert proof == oracle.purchase_tac(key, amount, who.terminal, who.epoch, who.sequence, moment) + bytes(4)


def test_grey_of_a_pboc_card_is_completed_at_any_next_terminal() -> None:
    _, wrote = commands_of_a_tap(CardKind.PBOC)
    one = Till(CORES[CardKind.PBOC]())
    assert isinstance(one.tap(AMOUNT, Cut(wrote[0], after=True, effect=Effect.PULLED)), Unknown)
    other = next_tap(one)
    assert [each[:3] for each in other.flash] == [
        ("grey", Identity(TERMINAL, EPOCH, 1), AMOUNT),
        ("completion", Identity(TERMINAL, EPOCH, 1), AMOUNT),
        ("purchase", Identity(OTHER_TERMINAL, EPOCH, 1), 300),
    ]
    pending = other.events[1]
    assert isinstance(pending, PendingProof)
    assert (pending.proof.counter, pending.proof.balance_after_cents) == (101, START_CENTS - AMOUNT)
    assert pending.moment.hex() == "20260302080000"


def test_missing_answer_to_a_pboc_debit_is_found_by_asking() -> None:
    _, wrote = commands_of_a_tap(CardKind.PBOC)
    after, before = (Cut(wrote[0], after, Effect.SILENT) for after in (True, False))
    assert Till(CORES[CardKind.PBOC]()).tap(AMOUNT, after) == Finished(confirmed=True)
    assert Till(CORES[CardKind.PBOC]()).tap(AMOUNT, before) == Refused(Reason.NOT_DEBITED, 0x9406)
    again = Till(CORES[CardKind.PBOC]())
    again.tap(5)
    assert again.tap(AMOUNT, before) == Refused(Reason.NOT_DEBITED, 0x9406), "the proof before it is not taken for it"


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_balance_too_low_takes_nothing(kind: CardKind) -> None:
    one = Till(CORES[kind]())
    last = one.tap(START_CENTS + 1)
    assert isinstance(last, Refused)
    assert last.reason in {Reason.ABANDONED, Reason.BALANCE_TOO_LOW}
    assert balance(one.core) == START_CENTS


def test_blank_and_foreign_cards_are_refused() -> None:
    foreign = blank_image(UID).written(3, bytes(16))
    for image in (blank_image(UID), foreign, MemoryCardImage(bytes(1024))):
        assert Till(MemoryCardCore(image)).tap(1) == Refused(Reason.NOT_OUR_CARD)
    keys = replace(pboc_image().keys, internal=pboc_key(PBOC_MASTERS["load"], UID))
    stranger = PbocCardCore(replace(pboc_image(), keys=keys))
    assert Till(stranger).tap(1) == Refused(Reason.NOT_GENUINE)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_a_kind_that_is_not_served_is_not_our_card(kind: CardKind) -> None:
    kinds = {each: made for each, made in KINDS.items() if each is not kind}
    dialogue = CardDialogue(kinds, DebitTerms(1, CNY, TERMINAL, EPOCH))
    command = dialogue.start().command
    assert command is not None
    assert dialogue.answered(CORES[kind]().command(command, bytes(16))[0]).event == Refused(Reason.NOT_OUR_CARD)
    assert dialogue.ended


def test_order_on_other_terms_is_misuse() -> None:
    for kind in EVERY_KIND:
        core, dialogue = CORES[kind](), CardDialogue(KINDS, DebitTerms(5, CNY, TERMINAL, EPOCH))
        step = dialogue.start()
        while step.command is not None or isinstance(step.event, CardSeen):
            if step.command is None:
                step = dialogue.authenticate(bytes(16))
            else:
                step = dialogue.answered(core.command(step.command, bytes(16))[0])
        for order in (
            DebitOrder(6, CNY, Identity(TERMINAL, EPOCH, 1)),
            DebitOrder(5, CNY, Identity(TERMINAL, EPOCH + 1, 1)),
        ):
            with pytest.raises(StateMisuse):
                dialogue.intent_written(order, clock_ms=0)
        with pytest.raises(StateMisuse):
            dialogue.record_written()
        assert not dialogue.may_have_debited


def test_verbs_before_a_card_is_known_are_misuse() -> None:
    dialogue = CardDialogue(KINDS, DebitTerms(5, CNY, TERMINAL, EPOCH))
    order = DebitOrder(5, CNY, Identity(TERMINAL, EPOCH, 1))
    verbs: list[Callable[[], Step]] = [
        lambda: dialogue.authenticate(bytes(16)),
        dialogue.completion_written,
        lambda: dialogue.intent_written(order, clock_ms=0),
        dialogue.record_written,
        lambda: dialogue.answered(b""),
    ]
    for verb in verbs:
        with pytest.raises(StateMisuse):
            verb()
    assert dialogue.abandon().event == Refused(Reason.ABANDONED)
    assert dialogue.card_gone().event is None
    with pytest.raises(StateMisuse):
        dialogue.start()


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_nothing_a_card_answers_raises_or_counts_as_money(kind: CardKind) -> None:
    commands, wrote = commands_of_a_tap(kind)
    words = ("9000", "6982", "6985", "9302", "9401", "9406", "6a88", "6d00")
    shapes = [bytes(size) + bytes.fromhex(word) for size in (0, 4, 8, 15, 16, 31, 36) for word in words]
    for index in range(commands):
        for answer in (*shapes, *garbage(index, 20, 40)):
            core, dialogue = CORES[kind](), CardDialogue(KINDS, DebitTerms(AMOUNT, CNY, TERMINAL, EPOCH))
            step, sent = dialogue.start(), 0
            while not dialogue.ended:
                if step.command is not None:
                    real = core.command(step.command, bytes(16))[0]
                    step = dialogue.answered(answer if sent >= index else real)
                    sent += 1
                elif isinstance(step.event, CardSeen):
                    step = dialogue.authenticate(bytes(16))
                elif isinstance(step.event, Debited):
                    # A memory card has no proof to give: an answer "done" to its TRANSFER is all there is (R4).
                    assert index > wrote[0] or kind is CardKind.MEMORY, answer.hex()
                    step = dialogue.record_written()
                else:
                    order = DebitOrder(AMOUNT, CNY, Identity(TERMINAL, EPOCH, 1))
                    step = dialogue.intent_written(order, clock_ms=0)
