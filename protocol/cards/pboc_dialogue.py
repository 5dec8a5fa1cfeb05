"""The terminal's side of a debit dialogue with a PBOC purse, behind `port.PurseDialogue` (docs/cards.md, R20). Pure.

    SELECT → the caller looks at the card → INTERNAL AUTHENTICATE
      → proof pending? READ RECORD, GET TRANSACTION PROVE → completion → GET CHALLENGE, UPDATE BINARY → again
      → INITIALIZE FOR PURCHASE → the caller writes the intent → DEBIT FOR PURCHASE → the caller writes the record
      → GET CHALLENGE, UPDATE BINARY

The card proves a debit by MAC2; balance and counter at INITIALIZE are claims, as are those of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from protocol.cards import pboc_apdu as apdu
from protocol.cards.apdu import SELECT_COMMAND, CardFacts, DebitOrder, parse_select, split_answer
from protocol.cards.dialogue import Input
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
from protocol.cards.pboc_apdu import Initialized, LogEntry, PbocStatus
from protocol.cards.pboc_macs import TransactionType, as_proof, pboc_moment
from protocol.cards.pboc_sam import PbocSam
from protocol.cards.port import DebitTerms
from protocol.cards.turns import Turns
from protocol.codes import CardKind
from protocol.errors import RemoteError


class State(Enum):
    IDLE = "nothing sent"
    SELECTING = "SELECT sent"
    SEEN = "card known, not yet proved; the caller checks it"
    AUTHENTICATING = "INTERNAL AUTHENTICATE sent"
    READING_LOG = "READ RECORD sent for a debit of an earlier dialogue"
    READING_PROOF = "GET TRANSACTION PROVE sent for it"
    PENDING = "the caller writes the completion"
    PREPARING_PENDING = "GET CHALLENGE sent, to confirm the earlier debit"
    CONFIRMING_PENDING = "UPDATE BINARY sent for the earlier debit"
    CLEARED = "earlier debit settled; authenticate again"
    INITIALIZING = "INITIALIZE FOR PURCHASE sent"
    READY = "the caller writes the intent"
    DEBITING = "DEBIT FOR PURCHASE sent"
    ASKING = "answer to DEBIT missing; GET TRANSACTION PROVE sent"
    DEBITED = "the caller writes the record, the card is there"
    DEBITED_GONE = "the caller writes the record, the card has left"
    PREPARING = "GET CHALLENGE sent, to confirm"
    CONFIRMING = "UPDATE BINARY sent"
    DONE = "record written"
    UNKNOWN = "the caller writes a grey record"
    REFUSED = "no debit; the caller writes `aborted` if it holds a sequence"
    GONE = "card left before any DEBIT; as REFUSED"


_BEFORE_DEBIT: Final = tuple(State)[: tuple(State).index(State.DEBITING)]
_CONFIRMS: Final = (State.PREPARING, State.CONFIRMING)
ENDED: Final = frozenset({State.DONE, State.UNKNOWN, State.REFUSED, State.GONE})
_DEBIT_SENT: Final = frozenset({State.DEBITING, State.ASKING, State.DEBITED, State.DEBITED_GONE, State.UNKNOWN})


def _or_end(*states: State) -> frozenset[State]:
    return frozenset({*states, State.REFUSED, State.GONE})


TRANSITIONS: Final[Mapping[tuple[State, Input], frozenset[State]]] = MappingProxyType(
    {
        (State.IDLE, Input.START): frozenset({State.SELECTING}),
        (State.SELECTING, Input.ANSWER): _or_end(State.SEEN),
        (State.SEEN, Input.AUTHENTICATE): frozenset({State.AUTHENTICATING, State.REFUSED}),
        (State.CLEARED, Input.AUTHENTICATE): frozenset({State.AUTHENTICATING}),
        (State.AUTHENTICATING, Input.ANSWER): _or_end(State.INITIALIZING, State.READING_LOG),
        (State.READING_LOG, Input.ANSWER): _or_end(State.READING_PROOF),
        (State.READING_PROOF, Input.ANSWER): _or_end(State.PENDING),
        (State.PENDING, Input.COMPLETION_WRITTEN): frozenset({State.PREPARING_PENDING}),
        (State.PREPARING_PENDING, Input.ANSWER): _or_end(State.CONFIRMING_PENDING),
        (State.CONFIRMING_PENDING, Input.ANSWER): _or_end(State.CLEARED),
        (State.INITIALIZING, Input.ANSWER): _or_end(State.READY),
        (State.READY, Input.INTENT_WRITTEN): frozenset({State.DEBITING}),
        (State.DEBITING, Input.ANSWER): frozenset({State.DEBITED, State.REFUSED, State.ASKING}),
        (State.DEBITING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.ASKING, Input.ANSWER): frozenset({State.DEBITED, State.REFUSED, State.UNKNOWN}),
        (State.ASKING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.DEBITED, Input.RECORD_WRITTEN): frozenset({State.PREPARING}),
        (State.DEBITED, Input.CARD_GONE): frozenset({State.DEBITED_GONE}),
        (State.DEBITED_GONE, Input.RECORD_WRITTEN): frozenset({State.DONE}),
        (State.DEBITED_GONE, Input.CARD_GONE): frozenset({State.DEBITED_GONE}),
        (State.PREPARING, Input.ANSWER): frozenset({State.CONFIRMING, State.DONE}),
        (State.CONFIRMING, Input.ANSWER): frozenset({State.DONE}),
        **{(state, Input.CARD_GONE): frozenset({State.DONE}) for state in _CONFIRMS},
        **{(state, Input.CARD_GONE): frozenset({State.GONE}) for state in _BEFORE_DEBIT},
        **{(state, Input.ABANDON): frozenset({State.REFUSED}) for state in _BEFORE_DEBIT},
        **{(state, Input.CARD_GONE): frozenset({state}) for state in ENDED},
    }
)
"""(state, input) → possible next states; a pair that is missing is the caller's mistake, StateMisuse."""

_REFUSALS: Final = frozenset(PbocStatus) - {PbocStatus.DONE, PbocStatus.UNKNOWN_COMMAND}
"""Answers to DEBIT by which a card says that it had no effect."""


class PbocDialogue:
    """One PBOC card, from its arrival until it leaves; a `port.PurseDialogue`."""

    __slots__ = ("_card", "_challenge", "_log", "_order", "_pending", "_ready", "_sam", "_terms", "_turns")

    def __init__(self, sam: PbocSam, terms: DebitTerms) -> None:
        self._turns = Turns(TRANSITIONS, State.IDLE)
        self._sam = sam
        self._terms = terms
        self._card: CardFacts | None = None
        self._challenge = b""
        self._pending = False
        self._log: LogEntry | None = None
        self._ready: Initialized | None = None
        self._order: DebitOrder | None = None

    @property
    def state(self) -> State:
        return self._turns.state

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def may_have_debited(self) -> bool:
        return self.state in _DEBIT_SENT

    def start(self) -> Step:
        self._turns.take(Input.START)
        return self._turns.go(Input.START, State.SELECTING, SELECT_COMMAND)

    def authenticate(self, challenge: bytes) -> Step:
        self._turns.take(Input.AUTHENTICATE)
        card = self._facts()
        if not self._sam.holds(card.key_version):
            return self._refuse(Input.AUTHENTICATE, Reason.KEY_VERSION)
        self._challenge = challenge[: apdu.AUTHENTICATION_BYTES]
        command = apdu.internal_authenticate_command(card.key_version, self._challenge)
        return self._turns.go(Input.AUTHENTICATE, State.AUTHENTICATING, command)

    def completion_written(self) -> Step:
        self._turns.take(Input.COMPLETION_WRITTEN)
        return self._turns.go(Input.COMPLETION_WRITTEN, State.PREPARING_PENDING, apdu.GET_CHALLENGE_COMMAND)

    def intent_written(self, order: DebitOrder, *, clock_ms: int) -> Step:
        self._turns.take(Input.INTENT_WRITTEN)
        self._terms.check(order)
        assert self._ready is not None
        card, moment = self._facts(), pboc_moment(clock_ms)
        mac1 = self._sam.mac1(card.key_version, card.uid, self._ready, order, moment)
        self._order = order
        return self._turns.go(Input.INTENT_WRITTEN, State.DEBITING, apdu.debit_command(order, moment, mac1))

    def record_written(self) -> Step:
        self._turns.take(Input.RECORD_WRITTEN)
        if self.state is State.DEBITED_GONE:
            return self._turns.go(Input.RECORD_WRITTEN, State.DONE, event=Finished(confirmed=False))
        return self._turns.go(Input.RECORD_WRITTEN, State.PREPARING, apdu.GET_CHALLENGE_COMMAND)

    def abandon(self) -> Step:
        self._turns.take(Input.ABANDON)
        return self._refuse(Input.ABANDON, Reason.ABANDONED)

    def card_gone(self) -> Step:
        self._turns.take(Input.CARD_GONE)
        if self.state in ENDED or self.state is State.DEBITED_GONE:
            return Step()
        if self.state in {State.DEBITING, State.ASKING}:
            return self._unknown(Input.CARD_GONE)
        if self.state is State.DEBITED:
            return self._turns.go(Input.CARD_GONE, State.DEBITED_GONE)
        if self.state in _CONFIRMS:
            return self._turns.go(Input.CARD_GONE, State.DONE, event=Finished(confirmed=False))
        return self._turns.go(Input.CARD_GONE, State.GONE, event=CardGone())

    def answered(self, answer: bytes | None) -> Step:
        self._turns.take(Input.ANSWER)
        if self.state is State.DEBITING:
            return self._debit_answered(answer)
        if self.state is State.ASKING:
            return self._asked(answer)
        if self.state in _CONFIRMS:
            return self._confirm_answered(answer)
        if answer is None:
            return self._turns.go(Input.ANSWER, State.GONE, event=CardGone())
        try:
            data, status = split_answer(answer)
            if status != PbocStatus.DONE:
                return self._refuse(Input.ANSWER, self._refusal_reason(status), status)
            return self._succeeded(data)
        except RemoteError:
            selecting = self.state is State.SELECTING
            return self._refuse(Input.ANSWER, Reason.NOT_OUR_CARD if selecting else Reason.NOT_GENUINE)

    def _succeeded(self, data: bytes) -> Step:
        """A step before the DEBIT was done by the card. Raises RemoteError for an answer that is none."""
        state = self.state
        if state is State.SELECTING:
            self._card = parse_select(data)
            if self._card.kind != CardKind.PBOC:
                return self._refuse(Input.ANSWER, Reason.NOT_OUR_CARD)
            self._pending = self._card.proof_pending
            return self._went(State.SEEN, event=CardSeen(self._card))
        if state is State.AUTHENTICATING:
            return self._authenticated(data)
        if state is State.READING_LOG:
            self._log = LogEntry.decode(data)
            command = apdu.get_proof_command(TransactionType.PURCHASE, self._log.counter)
            return self._went(State.READING_PROOF, command)
        if state is State.READING_PROOF:
            assert self._log is not None
            proof = self._log.proof(self._facts().currency, apdu.parse_proof(data)[1])
            return self._went(State.PENDING, event=PendingProof(self._facts(), proof, self._log.moment))
        if state is State.PREPARING_PENDING:
            assert self._log is not None
            return self._went(State.CONFIRMING_PENDING, self._confirm(data, self._log.counter + 1))
        if state is State.CONFIRMING_PENDING:
            self._pending = False
            return self._went(State.CLEARED, event=PendingCleared())
        self._ready = apdu.parse_purchase_ready(data)
        return self._went(State.READY, event=Authenticated(self._ready.balance_cents, self._ready.counter))

    def _authenticated(self, data: bytes) -> Step:
        card = self._facts()
        answer = apdu.parse_exact(data, apdu.AUTHENTICATION_BYTES, "INTERNAL AUTHENTICATE answer")
        if not self._sam.is_genuine(card.key_version, card.uid, self._challenge, answer):
            return self._refuse(Input.ANSWER, Reason.NOT_GENUINE)
        if self._pending:
            return self._went(State.READING_LOG, apdu.READ_LAST_PURCHASE_COMMAND)
        terms = self._terms
        command = apdu.initialize_purchase_command(card.key_version, terms.amount_cents, terms.terminal, terms.epoch)
        return self._went(State.INITIALIZING, command)

    def _debit_answered(self, answer: bytes | None) -> Step:
        """What cannot be believed counts as missing: only MAC2 says that this card did it."""
        try:
            data, status = split_answer(answer or b"")
            if status == PbocStatus.DONE:
                tac, mac2 = apdu.parse_debit(data)
                if self._is_proved(mac2):
                    return self._debited(tac)
            elif not data and status in _REFUSALS:
                return self._refuse(Input.ANSWER, self._refusal_reason(status), status)
        except RemoteError:
            pass
        assert self._ready is not None
        command = apdu.get_proof_command(TransactionType.PURCHASE, self._ready.counter)
        return self._went(State.ASKING, command)

    def _asked(self, answer: bytes | None) -> Step:
        try:
            data, status = split_answer(answer or b"")
            if status == PbocStatus.NO_PROOF and not data:
                return self._refuse(Input.ANSWER, Reason.NOT_DEBITED, status)
            if status == PbocStatus.DONE:
                mac2, tac = apdu.parse_proof(data)
                if self._is_proved(mac2):
                    return self._debited(tac)
        except RemoteError:
            pass
        return self._unknown(Input.ANSWER)

    def _confirm_answered(self, answer: bytes | None) -> Step:
        """The record is written: whatever the card says, the sale has ended."""
        try:
            data, status = split_answer(answer or b"")
            if status == PbocStatus.DONE and self.state is State.PREPARING:
                assert self._ready is not None
                return self._went(State.CONFIRMING, self._confirm(data, self._ready.counter + 1))
            is_confirmed = status == PbocStatus.DONE
        except RemoteError:
            is_confirmed = False
        return self._went(State.DONE, event=Finished(is_confirmed))

    def _confirm(self, data: bytes, counter: int) -> bytes:
        card, challenge = self._facts(), apdu.parse_exact(data, 4, "challenge")
        return apdu.confirm_command(counter, self._sam.confirm_mac(card.key_version, card.uid, challenge, counter))

    def _is_proved(self, mac2: bytes) -> bool:
        assert self._ready is not None
        assert self._order is not None
        card = self._facts()
        return self._sam.verify_mac2(card.key_version, card.uid, self._ready, self._order, mac2)

    def _debited(self, tac: bytes) -> Step:
        assert self._ready is not None
        assert self._order is not None
        balance_after = self._ready.balance_cents - self._order.amount_cents
        event = Debited(self._order, balance_after, self._ready.counter + 1, as_proof(tac))
        return self._went(State.DEBITED, event=event)

    def _refusal_reason(self, status: int) -> Reason:
        if self.state is State.SELECTING:
            return Reason.NOT_OUR_CARD
        if self.state in {State.READING_LOG, State.READING_PROOF}:
            return Reason.NO_ANSWER_KEPT
        return Reason.BALANCE_TOO_LOW if status == PbocStatus.BALANCE_TOO_LOW else Reason.CARD_REFUSED

    def _facts(self) -> CardFacts:
        assert self._card is not None
        return self._card

    def _unknown(self, given: Input) -> Step:
        assert self._ready is not None
        assert self._order is not None
        event = Unknown(self._order, self._ready.balance_cents, self._ready.counter)
        return self._turns.go(given, State.UNKNOWN, event=event)

    def _refuse(self, given: Input, reason: Reason, status: int | None = None) -> Step:
        return self._turns.go(given, State.REFUSED, event=Refused(reason, status))

    def _went(self, state: State, command: bytes | None = None, *, event: Event | None = None) -> Step:
        return self._turns.go(Input.ANSWER, state, command, event=event)
