"""Every transaction of the AES card, cut at every point: what card and terminal hold, and what the next tap brings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from protocol.cards.aes import AesCardCore, AesCardImage
from protocol.cards.apdu import CardOrder, Identity
from protocol.cards.dialogue import ENDED, DebitDialogue, State, TransactionDialogue
from protocol.cards.events import (
    Authenticated,
    CardSeen,
    Debited,
    Event,
    Finished,
    PendingCleared,
    PendingProof,
    Reason,
    Refused,
    Step,
    Unknown,
)
from protocol.cards.image import LastDebit
from protocol.cards.meals import CardMeals, MealPlace, Token
from protocol.cards.orders import VERBS
from protocol.codes import RecordType
from protocol.errors import StateMisuse
from protocol.sam import SoftwareSam, TerminalMasters
from tests.protocol.samples import CNY, EPOCH, MASTERS, TERMINAL, TERMINAL_CHALLENGE, card_image, sam

LUNCH = MealPlace(20_360, 2, 3)
PAID = Identity(TERMINAL, EPOCH, 77)
ALL = frozenset(VERBS)


def station() -> SoftwareSam:
    names = ("authenticate", "debit", "refund", "load")
    return SoftwareSam({1: TerminalMasters(*(MASTERS[name] for name in names))})


def prepared() -> AesCardImage:
    """A card with a debit to refund, a booked lunch, and serials behind it."""
    return replace(
        card_image(),
        last_debit=LastDebit(PAID, 1250),
        load_serial=8,
        booking_serial=11,
        tokens=(Token(11, LUNCH, 900),),
    )


def order(type_: int, sequence: int) -> CardOrder:
    amount, reference, meal = {
        RecordType.PURCHASE: (1250, 0, MealPlace(0, 0, 0)),
        RecordType.REFUND: (500, PAID.sequence, MealPlace(0, 0, 0)),
        RecordType.LOAD: (2000, 9, MealPlace(0, 0, 0)),
        RecordType.BOOKING: (900, 12, LUNCH),
        RecordType.CANCELLATION: (900, 11, LUNCH),
        RecordType.COLLECTION: (900, 11, LUNCH),
    }[RecordType(type_)]
    return CardOrder(amount, CNY, Identity(TERMINAL, EPOCH, sequence), type_, reference, meal)


@dataclass
class Desk:
    """A terminal that remembers only what it wrote, and one card."""

    image: AesCardImage = field(default_factory=prepared)
    records: list[tuple[str, CardOrder]] = field(default_factory=list)
    completed: list[tuple[int, Identity, int, int]] = field(default_factory=list)
    """(type, identity, amount, reference)"""
    sequences: Iterator[int] = field(default_factory=lambda: count(1))
    random: random.Random = field(default_factory=lambda: random.Random(5))
    cuts_seen: int = 0
    cut_at: int | None = None
    silent: bool = False
    meals: CardMeals | None = None

    def tap(self, type_: int) -> Event:
        dialogue = TransactionDialogue(station(), ALL, reads_meals=True)
        core = AesCardCore(self.image)
        asked: CardOrder | None = None
        step = dialogue.start()
        while True:
            if step.command is not None:
                step = self._exchange(dialogue, core, step.command)
                continue
            event = step.event
            if event is None:
                assert dialogue.state is State.DEBITED_GONE
                step = dialogue.record_written()
            elif isinstance(event, CardSeen | PendingCleared):
                step = dialogue.authenticate(self.random.randbytes(16))
            elif isinstance(event, PendingProof):
                kept = event.proof
                self.completed.append((kept.type, kept.identity, kept.amount_cents, kept.reference))
                step = dialogue.completion_written()
            elif isinstance(event, Authenticated):
                self.meals = event.meals
                asked = order(type_, next(self.sequences))
                step = dialogue.intent_written(asked)
            elif isinstance(event, Debited):
                assert asked == event.order
                self.records.append(("proved", event.order))
                step = dialogue.record_written()
            else:
                if asked is not None and not isinstance(event, Finished):
                    self.records.append(("doubt" if isinstance(event, Unknown) else "aborted", asked))
                assert dialogue.state in ENDED
                return event

    def _exchange(self, dialogue: TransactionDialogue, core: AesCardCore, command: bytes) -> Step:
        if self._cut():
            return dialogue.answered(None) if self.silent else dialogue.card_gone()
        answer, written = core.command(command, self.random.randbytes(16))
        if written is not None:
            self.image = AesCardImage.decode(written.encode())
        if self._cut():
            return dialogue.answered(None) if self.silent else dialogue.card_gone()
        return dialogue.answered(answer)

    def _cut(self) -> bool:
        self.cuts_seen += 1
        return self.cuts_seen - 1 == self.cut_at

    def proved_cents(self) -> int:
        """What a ledger would book, every identity once: what the purse gained."""
        moved = {
            each.identity: VERBS[each.type].sign * each.amount_cents for kind, each in self.records if kind == "proved"
        }
        moved |= {identity: VERBS[type_].sign * cents for type_, identity, cents, _ in self.completed}
        return sum(moved.values())


@pytest.mark.parametrize("type_", sorted(VERBS))
def test_a_transaction_that_nobody_disturbs_is_proved_and_confirmed(type_: int) -> None:
    desk = Desk()
    assert desk.tap(type_) == Finished(confirmed=True)
    asked = order(type_, 1)
    assert desk.records == [("proved", asked)]
    assert desk.meals == CardMeals(8, 11, (Token(11, LUNCH, 900),))
    assert desk.image.balance_cents == 10_000 + desk.proved_cents()
    assert (desk.image.counter, desk.image.proof_pending) == (101, False)
    kept = desk.image.last_proof
    assert kept is not None
    assert (kept.type, kept.identity, kept.reference) == (type_, asked.identity, asked.reference)
    serials = (desk.image.load_serial, desk.image.booking_serial)
    assert serials == (9 if type_ == RecordType.LOAD else 8, 12 if type_ == RecordType.BOOKING else 11)
    assert len(desk.image.tokens) == {RecordType.BOOKING: 2, RecordType.CANCELLATION: 0, RecordType.COLLECTION: 0}.get(
        RecordType(type_), 1
    )
    assert desk.image.last_debit is not None
    assert desk.image.last_debit.refunded == (type_ == RecordType.REFUND)


CUTS = 2 * 5  # SELECT, AUTHENTICATE, READ MEALS, the transaction, CONFIRM: before and after each


@pytest.mark.parametrize("silent", [False, True], ids=["card pulled", "answer lost"])
@pytest.mark.parametrize("cut_at", range(CUTS))
@pytest.mark.parametrize("type_", sorted(VERBS))
def test_a_transaction_cut_anywhere_is_made_once_or_not_and_the_next_tap_knows(
    type_: int, cut_at: int, silent: bool
) -> None:
    desk = Desk(cut_at=cut_at, silent=silent)
    desk.tap(type_)
    happened = desk.image.counter == 101
    assert desk.image.proof_pending <= happened
    first = [kind for kind, _ in desk.records]
    assert first in ([], ["proved"], ["doubt"], ["aborted"])
    assert "aborted" not in first or not happened
    assert "proved" not in first or happened
    was_pending = desk.image.proof_pending
    desk.cut_at = None
    assert desk.tap(RecordType.PURCHASE) == Finished(confirmed=True)
    assert desk.image.balance_cents == 10_000 + desk.proved_cents()
    made = order(type_, 1)
    expected = [(type_, made.identity, made.amount_cents, made.reference)] if was_pending else []
    assert desk.completed == expected, "what was not confirmed comes home with its type and reference"


@pytest.mark.parametrize(
    ("type_", "changes", "status"),
    [
        (RecordType.REFUND, {"reference": 78}, 0x9407),
        (RecordType.REFUND, {"amount_cents": 1251}, 0x9407),
        (RecordType.LOAD, {"reference": 8}, 0x9408),
        (RecordType.BOOKING, {"reference": 11}, 0x9408),
        (RecordType.CANCELLATION, {"amount_cents": 901}, 0x6A83),
        (RecordType.COLLECTION, {"meal": MealPlace(20_361, 2, 3)}, 0x6A83),
        (RecordType.BOOKING, {"amount_cents": 10_001}, 0x9401),
    ],
)
def test_the_cards_own_no_is_told_with_its_status_word(type_: int, changes: dict[str, Any], status: int) -> None:
    dialogue, core = TransactionDialogue(station(), ALL), AesCardCore(prepared())
    step, image = dialogue.start(), core.image
    while not isinstance(step.event, Refused):
        if step.command is not None:
            step = dialogue.answered(core.command(step.command, bytes(16))[0])
        elif isinstance(step.event, CardSeen):
            step = dialogue.authenticate(TERMINAL_CHALLENGE)
        else:
            step = dialogue.intent_written(replace(order(type_, 1), **changes))
    expected = Reason.BALANCE_TOO_LOW if status == 0x9401 else Reason.CARD_REFUSED
    assert step.event == Refused(expected, status)
    assert core.image is image


def test_a_card_is_refused_where_the_sam_lacks_a_key_that_may_be_needed() -> None:
    for own, types, is_served in (
        (sam(), {RecordType.PURCHASE, RecordType.BOOKING}, True),
        (sam(), {RecordType.PURCHASE, RecordType.REFUND}, False),
        (sam(), {RecordType.LOAD}, False),
        (station(), ALL, True),
    ):
        dialogue, core = TransactionDialogue(own, frozenset(int(each) for each in types)), AesCardCore(prepared())
        step = dialogue.start()
        assert step.command is not None
        dialogue.answered(core.command(step.command, bytes(16))[0])
        step = dialogue.authenticate(TERMINAL_CHALLENGE)
        assert (step.event != Refused(Reason.KEY_VERSION)) == is_served


def test_a_dialogue_makes_no_order_of_another_type_than_it_was_opened_for() -> None:
    dialogue, core = DebitDialogue(station()), AesCardCore(prepared())
    step = dialogue.start()
    while not isinstance(step.event, Authenticated):
        if step.command is not None:
            step = dialogue.answered(core.command(step.command, bytes(16))[0])
        else:
            step = dialogue.authenticate(TERMINAL_CHALLENGE)
    with pytest.raises(StateMisuse):
        dialogue.intent_written(order(RecordType.LOAD, 1))
    assert dialogue.state is State.READY


def test_a_booking_is_collected_or_cancelled_once() -> None:
    for first, second in (
        (RecordType.COLLECTION, RecordType.COLLECTION),
        (RecordType.COLLECTION, RecordType.CANCELLATION),
        (RecordType.CANCELLATION, RecordType.COLLECTION),
    ):
        desk = Desk()
        assert desk.tap(first) == Finished(confirmed=True)
        assert desk.tap(second) == Refused(Reason.CARD_REFUSED, 0x6A83)
        assert [kind for kind, _ in desk.records] == ["proved", "aborted"]


def test_a_refund_is_given_once_and_other_transactions_do_not_hide_its_debit() -> None:
    desk = Desk()
    for type_ in (RecordType.LOAD, RecordType.COLLECTION, RecordType.REFUND):
        assert desk.tap(type_) == Finished(confirmed=True)
    assert desk.tap(RecordType.REFUND) == Refused(Reason.CARD_REFUSED, 0x9407)
    assert desk.tap(RecordType.PURCHASE) == Finished(confirmed=True)
    assert desk.tap(RecordType.REFUND) == Refused(Reason.CARD_REFUSED, 0x9407), "it names an earlier debit"
