"""The terminal's side of a debit: order of writes, every interruption, every answer a card might invent."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cards.aes import AesCardCore, AesCardImage
from protocol.cards.apdu import DebitOrder, Identity, StatusWord
from protocol.cards.dialogue import (
    ENDED,
    TRANSITIONS,
    Authenticated,
    CardGone,
    CardSeen,
    DebitDialogue,
    Debited,
    Event,
    Finished,
    Input,
    PendingCleared,
    PendingProof,
    Reason,
    Refused,
    State,
    Step,
    TransactionDialogue,
    Unknown,
)
from protocol.codes import AbortReason, RecordType
from protocol.errors import StateMisuse
from protocol.mac import MacKey
from protocol.proofs import verify_tac
from protocol.sam import SoftwareSam, TerminalMasters
from tests.hostile import garbage
from tests.protocol.samples import CARD, CNY, EPOCH, MASTERS, ORDER, TERMINAL, TERMINAL_CHALLENGE, card, card_image, sam

START_CENTS = 10_000


@dataclass
class Till:
    """A terminal reduced to what it has in flash, and a card that keeps what it was told to keep."""

    stored: AesCardImage
    cut_at: int | None = None
    """Occurrence at which the card is cut: two per command, before and after it runs."""
    silent: bool = False
    """The cut loses one answer only; the card stays powered."""
    flash: list[tuple[str, Identity, int]] = field(default_factory=list)
    sequences: count[int] = field(default_factory=lambda: count(1))
    random: random.Random = field(default_factory=lambda: random.Random(7))
    events: list[Event] = field(default_factory=list)
    cuts_seen: int = 0

    def __post_init__(self) -> None:
        self.core = AesCardCore(self.stored)

    def tap(self, amount_cents: int) -> DebitDialogue:
        """One card presented until the dialogue has ended."""
        self.core.reset()
        dialogue, order = DebitDialogue(sam()), None
        step = dialogue.start()
        while dialogue.state not in ENDED:
            if step.event is not None:
                self.events.append(step.event)
            if step.command is not None:
                step = self._exchange(dialogue, step.command)
                continue
            event = step.event
            if isinstance(event, CardSeen | PendingCleared):
                step = dialogue.authenticate(self.random.randbytes(16))
            elif isinstance(event, PendingProof):
                self.flash.append(("completion", event.proof.identity, event.proof.amount_cents))
                step = dialogue.completion_written()
            elif isinstance(event, Authenticated):
                order = DebitOrder(amount_cents, CNY, Identity(TERMINAL, EPOCH, next(self.sequences)))
                step = dialogue.intent_written(order)
            elif isinstance(event, Debited):
                self.flash.append(("purchase", event.order.identity, amount_cents))
                step = dialogue.record_written()
            else:
                assert dialogue.state is State.DEBITED_GONE, dialogue.state
        if step.event is not None:
            self.events.append(step.event)
        self._end(step.event, order)
        return dialogue

    def _exchange(self, dialogue: DebitDialogue, command: bytes) -> Step:
        if self._cut():
            return dialogue.answered(None) if self.silent else dialogue.card_gone()
        answer, written = self.core.command(command, self.random.randbytes(16))
        if written is not None:
            self.stored = AesCardImage.decode(written.encode())
        if self._cut():
            return dialogue.answered(None) if self.silent else dialogue.card_gone()
        return dialogue.answered(answer)

    def _cut(self) -> bool:
        self.cuts_seen += 1
        return self.cut_at is not None and self.cuts_seen - 1 == self.cut_at

    def _end(self, event: Event | None, order: DebitOrder | None) -> None:
        if order is not None and isinstance(event, Unknown | Refused | CardGone):
            self.flash.append(("grey" if isinstance(event, Unknown) else "aborted", order.identity, order.amount_cents))

    def spent_by_proof(self) -> int:
        """What a ledger would book: every identity once, by purchase or completion."""
        proved = {identity: cents for kind, identity, cents in self.flash if kind in {"purchase", "completion"}}
        return sum(proved.values())


def till(cut_at: int | None = None, *, silent: bool = False) -> Till:
    return Till(card_image(balance_cents=START_CENTS), cut_at=cut_at, silent=silent)


def dialogue_until(state: State) -> tuple[TransactionDialogue, AesCardCore]:
    """A dialogue with an honest card, stopped when it first reaches `state`."""
    dialogue: TransactionDialogue = DebitDialogue(sam())
    if state is State.READING_MEALS:
        dialogue = TransactionDialogue(sam(), frozenset({int(RecordType.PURCHASE)}), reads_meals=True)
    core = card()
    if state in {State.PENDING, State.CONFIRMING_PENDING, State.CLEARED, State.READING_PENDING}:
        earlier = till(cut_at=5)
        earlier.tap(100)
        core = AesCardCore(earlier.stored)
    verbs = {
        State.IDLE: dialogue.start,
        State.SEEN: lambda: dialogue.authenticate(TERMINAL_CHALLENGE),
        State.CLEARED: lambda: dialogue.authenticate(TERMINAL_CHALLENGE),
        State.PENDING: dialogue.completion_written,
        State.READY: lambda: dialogue.intent_written(ORDER),
        State.DEBITED: dialogue.record_written,
    }
    step = Step()
    while dialogue.state is not state:
        step = dialogue.answered(core.command(step.command, bytes(16))[0]) if step.command else verbs[dialogue.state]()
    return dialogue, core


def test_undisturbed_tap_writes_one_purchase_and_confirms_it() -> None:
    one = till()
    assert one.tap(1250).state is State.DONE
    assert [type(event) for event in one.events] == [CardSeen, Authenticated, Debited, Finished]
    assert one.events[-1] == Finished(confirmed=True)
    assert one.flash == [("purchase", Identity(TERMINAL, EPOCH, 1), 1250)]
    assert (one.stored.balance_cents, one.stored.counter, one.stored.proof_pending) == (8750, 101, False)


def test_debited_event_carries_the_facts_that_the_proof_covers() -> None:
    one = till()
    one.tap(1250)
    (event,) = (event for event in one.events if isinstance(event, Debited))
    assert verify_tac(
        MacKey(one.stored.keys.tac),
        event.proof,
        type_=1,
        amount=1250,
        currency=CNY,
        card=CARD,
        terminal=TERMINAL,
        epoch=EPOCH,
        sequence=1,
        counter=event.counter,
        balance_after=event.balance_after_cents,
    )


CUTS = 2 * 4  # SELECT, AUTHENTICATE, DEBIT, CONFIRM: before and after each


@pytest.mark.parametrize("silent", [False, True], ids=["card pulled", "answer lost"])
@pytest.mark.parametrize("cut_at", range(CUTS + 1))
def test_money_is_conserved_wherever_a_tap_is_cut(cut_at: int, silent: bool) -> None:
    one = till(cut_at, silent=silent)
    one.tap(1250)
    first = list(one.flash)
    one.cut_at = None
    assert one.tap(300).state is State.DONE, "the next tap always goes through"
    assert START_CENTS - one.stored.balance_cents == one.spent_by_proof()
    identities = [identity for kind, identity, _ in one.flash if kind != "completion"]
    assert sorted({each.sequence for each in identities}) == list(range(1, len(identities) + 1)), "R1: none is unused"
    for kind, identity, _ in first:
        if kind == "aborted":
            assert ("completion", identity, 1250) not in one.flash, "what was called aborted was not spent"


def test_grey_of_a_pulled_card_is_resolved_by_the_next_tap() -> None:
    one = till(cut_at=5)
    one.tap(1250)
    identity = Identity(TERMINAL, EPOCH, 1)
    assert one.flash == [("grey", identity, 1250)]
    assert one.events[-1] == Unknown(DebitOrder(1250, CNY, identity), START_CENTS, 100)
    one.cut_at = None
    one.tap(300)
    assert one.flash[1:] == [("completion", identity, 1250), ("purchase", Identity(TERMINAL, EPOCH, 2), 300)]


@pytest.mark.parametrize("cut_at", range(2 * 8))
def test_cut_while_an_earlier_proof_is_collected_loses_nothing(cut_at: int) -> None:
    one = till(cut_at=5)
    one.tap(1250)
    one.cut_at = one.cuts_seen + cut_at
    one.tap(300)
    one.cut_at = None
    assert one.tap(20).state is State.DONE
    assert START_CENTS - one.stored.balance_cents == one.spent_by_proof()


@given(st.lists(st.tuples(st.integers(0, 18), st.booleans(), st.integers(1, 4000)), min_size=1, max_size=12))
def test_any_run_of_interrupted_taps_conserves_money_after_one_whole_tap(taps: list[tuple[int, bool, int]]) -> None:
    one = till()
    for cut_after, silent, amount_cents in taps:
        one.cut_at, one.silent = one.cuts_seen + cut_after, silent
        one.tap(amount_cents)
    one.cut_at = None
    one.tap(1)
    assert START_CENTS - one.stored.balance_cents == one.spent_by_proof()
    assert len({identity for _, identity, _ in one.flash}) == len(
        [kind for kind, *_ in one.flash if kind != "completion"]
    )


def test_missing_answer_to_a_debit_is_found_by_asking_for_the_proof() -> None:
    one = till(cut_at=5, silent=True)
    assert one.tap(1250).state is State.DONE
    assert one.flash == [("purchase", Identity(TERMINAL, EPOCH, 1), 1250)]


def test_debit_that_never_reached_the_card_is_aborted_not_grey() -> None:
    one = till(cut_at=4, silent=True)
    one.tap(1250)
    assert one.events[-1] == Refused(Reason.NOT_DEBITED, StatusWord.NO_PROOF_KEPT)
    assert one.flash == [("aborted", Identity(TERMINAL, EPOCH, 1), 1250)]
    again = till()
    again.tap(5)
    again.cut_at, again.silent = again.cuts_seen + 4, True
    again.tap(1250)
    assert again.events[-1] == Refused(Reason.NOT_DEBITED)


def test_card_that_leaves_before_the_record_is_written_still_gets_its_record() -> None:
    dialogue, _ = dialogue_until(State.DEBITED)
    assert dialogue.card_gone() == Step()
    assert dialogue.card_gone() == Step()
    assert dialogue.record_written() == Step(None, Finished(confirmed=False))


def test_refusals_say_why() -> None:
    one = till()
    one.tap(START_CENTS + 1)
    assert one.events[-1] == Refused(Reason.BALANCE_TOO_LOW, 0x9401)
    dialogue, _ = dialogue_until(State.SEEN)
    dialogue._sam = SoftwareSam({9: TerminalMasters(MASTERS["debit"], MASTERS["debit"])})
    assert dialogue.authenticate(bytes(16)).event == Refused(Reason.KEY_VERSION)
    dialogue, core = dialogue_until(State.SEEN)
    dialogue._sam = SoftwareSam({1: TerminalMasters(MASTERS["debit"], MASTERS["debit"])})
    command = dialogue.authenticate(bytes(16)).command
    assert command is not None
    step = dialogue.answered(core.command(command, bytes(16))[0])
    assert step.event == Refused(Reason.NOT_GENUINE)
    dialogue, _ = dialogue_until(State.SEEN)
    event = dialogue.abandon().event
    assert event == Refused(Reason.ABANDONED)
    assert isinstance(event, Refused)
    assert event.abort_reason is AbortReason.OPERATOR
    assert {Refused(reason).abort_reason for reason in Reason} <= set(AbortReason)


def test_stranger_at_select_is_not_our_card() -> None:
    for answer in (b"", b"\x6a", b"\x6a\x82", b"\x90\x00", bytes(22) + b"\x90\x00", bytes(23) + b"\x90\x00"):
        dialogue, _ = dialogue_until(State.SELECTING)
        event = dialogue.answered(answer).event
        assert isinstance(event, Refused)
        assert event.reason is Reason.NOT_OUR_CARD


def test_answer_to_a_debit_that_does_not_follow_from_it_is_not_believed() -> None:
    for data in (
        bytes.fromhex("00002710 00000065") + bytes(8),  # balance did not fall
        bytes.fromhex("0000222e 00000064") + bytes(8),  # counter did not rise
        b"",
    ):
        dialogue, _ = dialogue_until(State.DEBITING)
        assert dialogue.answered(data + b"\x90\x00").command == bytes.fromhex("805a000000")
        assert dialogue.state is State.ASKING


@pytest.mark.parametrize(
    "proof",
    [
        "01 00 0003 00010203 00000001 000004e3 009c 0000 00000065 0000222e",  # other amount
        "01 00 0003 00010203 00000001 000004e2 0348 0000 00000065 0000222e",  # other currency
        "01 00 0003 00010203 00000001 000004e2 009c 0000 00000066 0000222e",  # a counter too far
        "02 00 0003 00010203 00000001 000004e2 009c 0000 00000065 0000222e",  # other type
        "01 00 0003 00010203 00000002 000004e2 009c 0000 00000065 0000222e",  # other identity, our counter
        "20 00 0003 00010203 00000001 000004e2 009c 0000 00000065 0000222e",  # a booking of our identity
    ],
)
def test_contradictory_proof_leaves_the_outcome_unknown(proof: str) -> None:
    dialogue, _ = dialogue_until(State.DEBITING)
    dialogue.answered(None)
    event = dialogue.answered(bytes.fromhex(proof) + bytes(12) + b"\x90\x00").event
    assert event == Unknown(ORDER, START_CENTS, 100)


@pytest.mark.parametrize("state", [state for state, given_ in TRANSITIONS if given_ is Input.ANSWER])
def test_nothing_a_card_answers_raises_or_skips_a_write(state: State) -> None:
    after_success = TRANSITIONS[state, Input.ANSWER]
    words = [word.to_bytes(2, "big") for word in StatusWord]
    answers = [
        *garbage(20, 100, 48),
        *(data + word for word in words for data in (b"", bytes(16), bytes(32), bytes(40), bytes(56))),
    ]
    reach = State.DEBITING if state is State.ASKING else state
    for answer in answers:
        dialogue, _ = dialogue_until(reach)
        if state is State.ASKING:
            dialogue.answered(None)
        step = dialogue.answered(answer)
        assert dialogue.state in after_success
        if state is not State.READING_MEALS:  # its answer is the card's word, and no more is made of it
            assert dialogue.state not in {State.DEBITED, State.READY}, "no forged answer counts as a proof"
        assert step.command is None or step.command[1] == 0x5A
        assert (step.event is None) != (step.command is None)


CALLS = {
    Input.START: lambda dialogue: dialogue.start(),
    Input.AUTHENTICATE: lambda dialogue: dialogue.authenticate(TERMINAL_CHALLENGE),
    Input.ANSWER: lambda dialogue: dialogue.answered(None),
    Input.COMPLETION_WRITTEN: lambda dialogue: dialogue.completion_written(),
    Input.INTENT_WRITTEN: lambda dialogue: dialogue.intent_written(ORDER),
    Input.RECORD_WRITTEN: lambda dialogue: dialogue.record_written(),
    Input.ABANDON: lambda dialogue: dialogue.abandon(),
    Input.CARD_GONE: lambda dialogue: dialogue.card_gone(),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", Input)
def test_a_verb_out_of_turn_is_misuse_and_changes_nothing(state: State, verb: Input) -> None:
    if (state, verb) in TRANSITIONS:
        return
    dialogue = DebitDialogue(sam())
    dialogue.state = state
    with pytest.raises(StateMisuse):
        CALLS[verb](dialogue)
    assert dialogue.state is state


def test_only_a_written_intent_leads_to_a_debit_and_only_a_written_record_to_a_confirmation() -> None:
    into_debit = {pair for pair, states in TRANSITIONS.items() if State.DEBITING in states}
    assert into_debit == {(State.READY, Input.INTENT_WRITTEN)}
    into_confirm = {
        pair for pair, states in TRANSITIONS.items() if states & {State.CONFIRMING, State.CONFIRMING_PENDING}
    }
    assert into_confirm == {(State.DEBITED, Input.RECORD_WRITTEN), (State.PENDING, Input.COMPLETION_WRITTEN)}


def test_reprs_show_neither_card_number_nor_proof() -> None:
    one = till(cut_at=5)
    one.tap(1250)
    one.cut_at = None
    one.tap(300)
    shown = "".join(repr(event) for event in one.events) + repr(Step(bytes.fromhex("8054010018")))
    assert "123456" not in shown
    assert "\\x" not in shown
