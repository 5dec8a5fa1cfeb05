"""The terminal's side of a transaction with an AES card (docs/protocol.md §12, R20). Pure: sans-IO firmware logic.

    SELECT → the caller looks at the card → AUTHENTICATE
      → proof pending? GET PROOF → the caller writes a completion → CONFIRM → AUTHENTICATE again
      → READ MEALS, if asked for → the caller decides and writes the intent
      → DEBIT, or another transaction → the caller writes the record → CONFIRM

`TransactionDialogue` makes any transaction of the card; `DebitDialogue` is the one of a till that only sells. Names of
states and events say debit where any transaction is meant: each is interrupted, asked for and proved alike.

Every verb returns a Step: the command to send now, if any, and the event for the caller, if any. After a command
the caller says `answered(bytes)`, `answered(None)` when the card is there but silent, or `card_gone()`. Deny list,
expiry, currency and card kind are the caller's checks, at CardSeen. The order in which things reach the terminal's
flash is this module's: a transaction exists only as the answer to `intent_written`, a CONFIRM only as the answer to
`completion_written` or `record_written`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.cards.apdu import (
    GET_PROOF_COMMAND,
    READ_MEALS_COMMAND,
    SELECT_COMMAND,
    CardFacts,
    CardOrder,
    CardProof,
    DebitAnswer,
    Identity,
    StatusWord,
    authenticate_command,
    confirm_command,
    parse_authenticate,
    parse_debit,
    parse_select,
    split_answer,
)
from protocol.cards.dialogue_table import ENDED, TRANSITIONS, Input, State
from protocol.cards.events import (
    Authenticated,
    CardGone,
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
from protocol.cards.meals import CardMeals
from protocol.cards.orders import VERBS, order_command
from protocol.codes import RecordType
from protocol.errors import RemoteError, StateMisuse
from protocol.sam import Sam

__all__ = [
    "ENDED",
    "TRANSITIONS",
    "Authenticated",
    "CardGone",
    "CardSeen",
    "DebitDialogue",
    "Debited",
    "Event",
    "Finished",
    "Input",
    "PendingCleared",
    "PendingProof",
    "Reason",
    "Refused",
    "State",
    "Step",
    "TransactionDialogue",
    "Unknown",
]


_REFUSALS: Final = frozenset(StatusWord) - {StatusWord.DONE}
"""Answers by which a card says that the command had no effect."""


class TransactionDialogue:
    """One card, from its arrival at the reader until it leaves; make a new one for the next.

    Every verb raises StateMisuse when its turn has not come. The card's bytes raise nothing: they end in an event.
    """

    __slots__ = (
        "_before",
        "_card",
        "_card_challenge",
        "_challenge",
        "_order",
        "_pending",
        "_proof",
        "_reads_meals",
        "_sam",
        "_types",
        "state",
    )

    def __init__(self, sam: Sam, types: frozenset[int], *, reads_meals: bool = False) -> None:
        """`types`: record types that the order may have; a card for whose keys the SAM lacks one is refused.

        With `reads_meals` the event Authenticated brings what the card says of its serials and tokens.
        """
        self.state = State.IDLE
        self._sam = sam
        self._types = types
        self._reads_meals = reads_meals
        self._card: CardFacts | None = None
        self._challenge = b""
        self._card_challenge = b""
        self._pending = False
        self._proof: CardProof | None = None
        self._before: Authenticated | None = None
        self._order: CardOrder | None = None

    def start(self) -> Step:
        """A card is in the field."""
        self._turn(Input.START)
        return self._go(Input.START, State.SELECTING, SELECT_COMMAND)

    def authenticate(self, challenge: bytes) -> Step:
        """The caller accepts the card; `challenge` is 16 random bytes, never used before."""
        self._turn(Input.AUTHENTICATE)
        card = self._facts()
        if not all(self._sam.holds(card.key_version, each) for each in self._types):
            return self._refuse(Input.AUTHENTICATE, Reason.KEY_VERSION)
        command = authenticate_command(card.key_version, challenge)
        self._challenge = challenge
        return self._go(Input.AUTHENTICATE, State.AUTHENTICATING, command)

    def completion_written(self) -> Step:
        """The completion record of the PendingProof is in flash, sealed."""
        self._turn(Input.COMPLETION_WRITTEN)
        assert self._proof is not None
        return self._go(Input.COMPLETION_WRITTEN, State.CONFIRMING_PENDING, self._confirm(self._proof.identity))

    def intent_written(self, order: CardOrder) -> Step:
        """The intent for exactly this order is in flash: from here on its sequence ends in a record, whatever comes."""
        self._turn(Input.INTENT_WRITTEN)
        if order.type not in self._types:
            raise StateMisuse(f"an order of type {order.type:02X} in a dialogue of {sorted(self._types)}")
        card = self._facts()
        mac = self._sam.order_mac(
            card.key_version,
            card.uid,
            terminal_challenge=self._challenge,
            card_challenge=self._card_challenge,
            order=order,
        )
        command = order_command(card.key_version, order, mac)
        self._order = order
        return self._go(Input.INTENT_WRITTEN, State.DEBITING, command)

    def record_written(self) -> Step:
        """The record of Debited is in flash, sealed."""
        self._turn(Input.RECORD_WRITTEN)
        assert self._order is not None
        if self.state is State.DEBITED_GONE:
            return self._go(Input.RECORD_WRITTEN, State.DONE, event=Finished(confirmed=False))
        return self._go(Input.RECORD_WRITTEN, State.CONFIRMING, self._confirm(self._order.identity))

    def abandon(self) -> Step:
        """The caller gives up: deny list, expiry, operator; possible until the intent is written."""
        self._turn(Input.ABANDON)
        return self._refuse(Input.ABANDON, Reason.ABANDONED)

    def card_gone(self) -> Step:
        """The card left the field, or lost power; harmless after the end."""
        self._turn(Input.CARD_GONE)
        if self.state in ENDED or self.state is State.DEBITED_GONE:
            return Step()
        if self.state in {State.DEBITING, State.ASKING}:
            return self._unknown(Input.CARD_GONE)
        if self.state is State.DEBITED:
            return self._go(Input.CARD_GONE, State.DEBITED_GONE)
        if self.state is State.CONFIRMING:
            return self._go(Input.CARD_GONE, State.DONE, event=Finished(confirmed=False))
        return self._go(Input.CARD_GONE, State.GONE, event=CardGone())

    def answered(self, answer: bytes | None) -> Step:
        """The card's answer to the last command; None when the card is there and the answer did not come."""
        self._turn(Input.ANSWER)
        if self.state is State.DEBITING:
            return self._debit_answered(answer)
        if self.state is State.ASKING:
            return self._asked(answer)
        if self.state is State.CONFIRMING:
            confirmed = answer == StatusWord.DONE.to_bytes(2, "big")
            return self._go(Input.ANSWER, State.DONE, event=Finished(confirmed))
        if answer is None:
            return self._go(Input.ANSWER, State.GONE, event=CardGone())
        try:
            data, status = split_answer(answer)
            if status != StatusWord.DONE:
                return self._refuse(Input.ANSWER, self._refusal_reason(status), status)
            return self._succeeded(data)
        except RemoteError:
            selecting = self.state is State.SELECTING
            return self._refuse(Input.ANSWER, Reason.NOT_OUR_CARD if selecting else Reason.NOT_GENUINE)

    def _succeeded(self, data: bytes) -> Step:
        """A step before the transaction was done by the card. Raises RemoteError for an answer that is none."""
        if self.state is State.SELECTING:
            self._card = parse_select(data)
            self._pending = self._card.proof_pending
            return self._go(Input.ANSWER, State.SEEN, event=CardSeen(self._card))
        if self.state is State.AUTHENTICATING:
            return self._authenticated(data)
        if self.state is State.READING_PENDING:
            self._proof = CardProof.decode(data)
            return self._go(Input.ANSWER, State.PENDING, event=PendingProof(self._facts(), self._proof))
        if self.state is State.READING_MEALS:
            assert self._before is not None
            self._before = replace(self._before, meals=CardMeals.decode(data))
            return self._go(Input.ANSWER, State.READY, event=self._before)
        self._pending = False
        return self._go(Input.ANSWER, State.CLEARED, event=PendingCleared())

    def _authenticated(self, data: bytes) -> Step:
        card, given = self._facts(), parse_authenticate(data)
        genuine = self._sam.verify_authenticate(
            card.key_version,
            card.uid,
            given.mac,
            terminal_challenge=self._challenge,
            card_challenge=given.challenge,
            number=card.number,
            balance_cents=given.balance_cents,
            counter=given.counter,
        )
        if not genuine:
            return self._refuse(Input.ANSWER, Reason.NOT_GENUINE)
        self._card_challenge = given.challenge
        self._before = Authenticated(given.balance_cents, given.counter)
        if self._pending:
            return self._go(Input.ANSWER, State.READING_PENDING, GET_PROOF_COMMAND)
        if self._reads_meals:
            return self._go(Input.ANSWER, State.READING_MEALS, READ_MEALS_COMMAND)
        return self._go(Input.ANSWER, State.READY, event=self._before)

    def _debit_answered(self, answer: bytes | None) -> Step:
        """What cannot be believed counts as missing: only the card's own proof says what happened."""
        try:
            data, status = split_answer(answer or b"")
            if status == StatusWord.DONE:
                given = parse_debit(data)
                if self._follows(given.balance_after_cents, given.counter):
                    return self._debited(given)
            elif not data and status in _REFUSALS:
                return self._refuse(Input.ANSWER, self._refusal_reason(status), status)
        except RemoteError:
            pass
        return self._go(Input.ANSWER, State.ASKING, GET_PROOF_COMMAND)

    def _asked(self, answer: bytes | None) -> Step:
        """The proof asked for after a missing answer: of this debit, of an earlier one, or nothing to go by."""
        assert self._order is not None
        assert self._before is not None
        try:
            data, status = split_answer(answer or b"")
            if status == StatusWord.NO_PROOF_KEPT and not data:
                return self._refuse(Input.ANSWER, Reason.NOT_DEBITED, status)
            if status == StatusWord.DONE:
                kept = CardProof.decode(data)
                if self._is_ours(kept):
                    return self._debited(DebitAnswer(kept.balance_after_cents, kept.counter, kept.proof))
                if kept.identity != self._order.identity and kept.counter == self._before.counter:
                    return self._refuse(Input.ANSWER, Reason.NOT_DEBITED)
        except RemoteError:
            pass
        return self._unknown(Input.ANSWER)

    def _is_ours(self, kept: CardProof) -> bool:
        order = self._order
        return (
            order is not None
            and (kept.type, kept.identity, kept.amount_cents, kept.currency, kept.reference)
            == (order.type, order.identity, order.amount_cents, order.currency, order.reference)
            and self._follows(kept.balance_after_cents, kept.counter)
        )

    def _follows(self, balance_after_cents: int, counter: int) -> bool:
        """Whether these can come of our order, given what the card proved at AUTHENTICATE."""
        assert self._order is not None
        assert self._before is not None
        moved_cents = VERBS[self._order.type].sign * self._order.amount_cents
        return (balance_after_cents, counter) == (self._before.balance_cents + moved_cents, self._before.counter + 1)

    def _debited(self, given: DebitAnswer) -> Step:
        assert self._order is not None
        event = Debited(self._order, given.balance_after_cents, given.counter, given.proof)
        return self._go(Input.ANSWER, State.DEBITED, event=event)

    def _refusal_reason(self, status: int) -> Reason:
        if self.state is State.SELECTING:
            return Reason.NOT_OUR_CARD
        if self.state is State.READING_PENDING and status == StatusWord.NO_PROOF_KEPT:
            return Reason.NO_ANSWER_KEPT
        return Reason.BALANCE_TOO_LOW if status == StatusWord.BALANCE_TOO_LOW else Reason.CARD_REFUSED

    def _confirm(self, identity: Identity) -> bytes:
        card = self._facts()
        mac = self._sam.confirm_mac(
            card.key_version,
            card.uid,
            terminal_challenge=self._challenge,
            card_challenge=self._card_challenge,
            identity=identity,
        )
        return confirm_command(card.key_version, identity, mac)

    def _facts(self) -> CardFacts:
        assert self._card is not None
        return self._card

    def _refuse(self, given: Input, reason: Reason, status: int | None = None) -> Step:
        return self._go(given, State.REFUSED, event=Refused(reason, status))

    def _unknown(self, given: Input) -> Step:
        assert self._order is not None
        assert self._before is not None
        event = Unknown(self._order, self._before.balance_cents, self._before.counter)
        return self._go(given, State.UNKNOWN, event=event)

    def _turn(self, given: Input) -> None:
        if (self.state, given) not in TRANSITIONS:
            raise StateMisuse(f"{given.value} while {self.state.name}: {self.state.value}")

    def _go(self, given: Input, state: State, command: bytes | None = None, *, event: Event | None = None) -> Step:
        assert state in TRANSITIONS[self.state, given]
        self.state = state
        return Step(command, event)


class DebitDialogue(TransactionDialogue):
    """The dialogue of a till that only sells."""

    __slots__ = ()

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam, _DEBIT_ONLY)


_DEBIT_ONLY: Final = frozenset({int(RecordType.PURCHASE)})
