"""A load station's side of a load (圈存) of a PBOC purse, behind `port.PurseDialogue` (docs/cards.md, R22). Pure.

    SELECT → the caller looks at the card → INTERNAL AUTHENTICATE → READ BINARY: the highest load serial
      → the caller chooses → INITIALIZE FOR LOAD → the caller writes the intent
      → GET CHALLENGE, UPDATE BINARY: order announced → CREDIT FOR LOAD → the caller writes the record
    a load whose end nobody saw: the choice asks for its proof → READ RECORD, GET TRANSACTION PROVE → completion

The card proves who asks by MAC1 and the load by its TAC, which only the ledger can check. CREDIT takes the announced
serial over in the same write, so a card that has the money has the serial. An earlier *purchase* whose proof waits is
for a card check, before this.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from protocol.cards import pboc_apdu as apdu
from protocol.cards.apdu import SELECT_COMMAND, CardFacts, CardOrder, parse_select, split_answer
from protocol.cards.dialogue import Input
from protocol.cards.events import (
    Authenticated,
    CardGone,
    CardSeen,
    Debited,
    Event,
    Finished,
    Reason,
    Recalled,
    Refused,
    Step,
    Unknown,
)
from protocol.cards.pboc_apdu import Initialized, LogEntry, PbocStatus
from protocol.cards.pboc_macs import TransactionType, as_proof, pboc_moment, terminal6
from protocol.cards.pboc_sam import PbocLoadSam, PbocSam
from protocol.cards.port import Choose, DebitTerms
from protocol.cards.turns import Turns
from protocol.codes import CardKind
from protocol.errors import RemoteError


class State(Enum):
    IDLE = "nothing sent"
    SELECTING = "SELECT sent"
    SEEN = "card known, not yet proved; the caller checks it"
    READING = "proving, reading the serial, INITIALIZE FOR LOAD or the proof of an earlier load"
    READY = "the caller writes the intent"
    RECALLED = "the caller writes the completion of an earlier load"
    ANNOUNCING = "the order is announced: certainly no load yet"
    LOADING = "CREDIT FOR LOAD sent"
    ASKING = "answer to CREDIT missing; GET TRANSACTION PROVE sent"
    LOADED = "the caller writes the record"
    DONE = "record written"
    UNKNOWN = "the caller writes a doubt"
    REFUSED = "no load; the caller writes `aborted` if it holds a sequence"
    GONE = "card left before the intent; as REFUSED"


ENDED: Final = frozenset({State.DONE, State.UNKNOWN, State.REFUSED, State.GONE})
_BEFORE_INTENT: Final = (State.IDLE, State.SELECTING, State.SEEN, State.READING, State.READY)
_CREDIT_SENT: Final = frozenset({State.LOADING, State.ASKING, State.LOADED, State.UNKNOWN})

TRANSITIONS: Final[Mapping[tuple[State, Input], frozenset[State]]] = MappingProxyType(
    {
        (State.IDLE, Input.START): frozenset({State.SELECTING}),
        (State.SELECTING, Input.ANSWER): frozenset({State.SEEN, State.REFUSED, State.GONE}),
        (State.SEEN, Input.AUTHENTICATE): frozenset({State.READING, State.REFUSED}),
        (State.READING, Input.ANSWER): frozenset(
            {State.READING, State.READY, State.RECALLED, State.REFUSED, State.GONE}
        ),
        (State.RECALLED, Input.COMPLETION_WRITTEN): frozenset({State.DONE}),
        (State.RECALLED, Input.CARD_GONE): frozenset({State.RECALLED}),
        (State.READY, Input.INTENT_WRITTEN): frozenset({State.ANNOUNCING}),
        (State.ANNOUNCING, Input.ANSWER): frozenset({State.ANNOUNCING, State.LOADING, State.REFUSED}),
        (State.ANNOUNCING, Input.CARD_GONE): frozenset({State.REFUSED}),
        (State.LOADING, Input.ANSWER): frozenset({State.LOADED, State.REFUSED, State.ASKING}),
        (State.LOADING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.ASKING, Input.ANSWER): frozenset({State.LOADED, State.REFUSED, State.UNKNOWN}),
        (State.ASKING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.LOADED, Input.RECORD_WRITTEN): frozenset({State.DONE}),
        (State.LOADED, Input.CARD_GONE): frozenset({State.LOADED}),
        **{(state, Input.CARD_GONE): frozenset({State.GONE}) for state in _BEFORE_INTENT},
        **{(state, Input.ABANDON): frozenset({State.REFUSED}) for state in (*_BEFORE_INTENT, State.RECALLED)},
        **{(state, Input.CARD_GONE): frozenset({state}) for state in ENDED},
    }
)
"""(state, input) → possible next states; a pair that is missing is the caller's mistake, StateMisuse."""

_REFUSALS: Final = frozenset(PbocStatus) - {PbocStatus.DONE, PbocStatus.UNKNOWN_COMMAND}
"""Answers to CREDIT by which a card says that it had no effect."""

_Commands = Generator[bytes, bytes, Event | bytes]
"""Commands one after another, each answered with its data; ends with what to tell the caller, or with the CREDIT."""


class _NotDone(Exception):  # inside this module only; no error of the protocol
    def __init__(self, reason: Reason) -> None:
        self.refused = Refused(reason)


class PbocLoadDialogue:
    """One PBOC card at a load station; a `port.PurseDialogue` whose order is a load."""

    __slots__ = ("_card", "_choose", "_commands", "_load_sams", "_order", "_ready", "_sam", "_terms", "_turns")

    def __init__(self, sam: PbocSam, load_sams: Mapping[int, PbocLoadSam], terms: DebitTerms, choose: Choose) -> None:
        """`load_sams` by key version; of `terms` terminal, epoch and currency count, the amount is the choice's."""
        self._turns = Turns(TRANSITIONS, State.IDLE)
        self._sam = sam
        self._load_sams = load_sams
        self._terms = terms
        self._choose = choose
        self._card: CardFacts | None = None
        self._commands: _Commands | None = None
        self._ready: Initialized | None = None
        self._order: CardOrder | None = None

    @property
    def state(self) -> State:
        return self._turns.state

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def may_have_debited(self) -> bool:
        return self.state in _CREDIT_SENT

    def start(self) -> Step:
        self._turns.take(Input.START)
        return self._turns.go(Input.START, State.SELECTING, SELECT_COMMAND)

    def authenticate(self, challenge: bytes) -> Step:
        self._turns.take(Input.AUTHENTICATE)
        version = self._facts().key_version
        if not self._sam.holds(version) or version not in self._load_sams:
            return self._turns.go(Input.AUTHENTICATE, State.REFUSED, event=Refused(Reason.KEY_VERSION))
        self._commands = self._read(challenge[: apdu.AUTHENTICATION_BYTES])
        return self._turns.go(Input.AUTHENTICATE, State.READING, next(self._commands))

    def completion_written(self) -> Step:
        self._turns.take(Input.COMPLETION_WRITTEN)
        return self._turns.go(Input.COMPLETION_WRITTEN, State.DONE, event=Finished(confirmed=True))

    def intent_written(self, order: CardOrder, *, clock_ms: int) -> Step:
        self._turns.take(Input.INTENT_WRITTEN)
        self._terms.check(order)
        self._order = order
        self._commands = self._announce(order, pboc_moment(clock_ms))
        return self._turns.go(Input.INTENT_WRITTEN, State.ANNOUNCING, next(self._commands))

    def record_written(self) -> Step:
        self._turns.take(Input.RECORD_WRITTEN)
        return self._turns.go(Input.RECORD_WRITTEN, State.DONE, event=Finished(confirmed=True))

    def abandon(self) -> Step:
        self._turns.take(Input.ABANDON)
        return self._turns.go(Input.ABANDON, State.REFUSED, event=Refused(Reason.ABANDONED))

    def card_gone(self) -> Step:
        self._turns.take(Input.CARD_GONE)
        state = self.state
        if state in ENDED or state in {State.LOADED, State.RECALLED}:
            return Step()
        if state in {State.LOADING, State.ASKING}:
            return self._unknown(Input.CARD_GONE)
        if state is State.ANNOUNCING:
            return self._turns.go(Input.CARD_GONE, State.REFUSED, event=Refused(Reason.NOT_DEBITED))
        return self._turns.go(Input.CARD_GONE, State.GONE, event=CardGone())

    def answered(self, answer: bytes | None) -> Step:
        self._turns.take(Input.ANSWER)
        if self.state is State.LOADING:
            return self._credited(answer)
        if self.state is State.ASKING:
            return self._asked(answer)
        if answer is None and self.state is State.ANNOUNCING:
            return self._refuse(Reason.NOT_DEBITED)
        if answer is None:
            return self._turns.go(Input.ANSWER, State.GONE, event=CardGone())
        selecting = self.state is State.SELECTING
        try:
            data, status = split_answer(answer)
            if status != PbocStatus.DONE:
                return self._refuse(Reason.NOT_OUR_CARD if selecting else Reason.CARD_REFUSED, status)
            return self._selected(data) if selecting else self._go_on(data)
        except _NotDone as not_done:
            return self._turns.go(Input.ANSWER, State.REFUSED, event=not_done.refused)
        except RemoteError:
            return self._refuse(Reason.NOT_OUR_CARD if selecting else Reason.NOT_GENUINE)

    # -- before the CREDIT

    def _selected(self, data: bytes) -> Step:
        card = self._card = parse_select(data)
        if card.kind != CardKind.PBOC:
            return self._refuse(Reason.NOT_OUR_CARD)
        return self._turns.go(Input.ANSWER, State.SEEN, event=CardSeen(card))

    def _go_on(self, data: bytes) -> Step:
        """The next command of the series, or its end."""
        assert self._commands is not None
        try:
            return self._turns.go(Input.ANSWER, self.state, self._commands.send(data))
        except StopIteration as end:
            told = end.value
        if isinstance(told, bytes):
            return self._turns.go(Input.ANSWER, State.LOADING, told)
        state = State.RECALLED if isinstance(told, Recalled) else State.READY
        return self._turns.go(Input.ANSWER, state, event=told)

    def _read(self, challenge: bytes) -> _Commands:
        card = self._facts()
        version = card.key_version
        answer = yield apdu.internal_authenticate_command(version, challenge)
        if not self._sam.is_genuine(version, card.uid, challenge, answer):
            raise _NotDone(Reason.NOT_GENUINE)
        serial = apdu.parse_load_serial((yield apdu.READ_LOAD_SERIAL_COMMAND))
        choice = self._choose(serial)
        if choice is None:
            raise _NotDone(Reason.ABANDONED)
        terms = self._terms = DebitTerms(
            choice.amount_cents, self._terms.currency, self._terms.terminal, self._terms.epoch
        )
        if choice.recalls is not None:
            return (yield from self._recall(*choice.recalls))
        named = {"amount_cents": terms.amount_cents, "terminal": terms.terminal, "epoch": terms.epoch}
        ready = self._ready = apdu.parse_load_ready((yield apdu.initialize_load_command(version, **named)))
        if not self._load_sams[version].verify_mac1(card.uid, ready, **named):
            raise _NotDone(Reason.NOT_GENUINE)
        return Authenticated(ready.balance_cents, ready.counter)

    def _recall(self, counter: int, sequence: int) -> _Commands:
        """The proof of an earlier load. What the card says of it must fit, for its TAC does not cover the sequence."""
        entry = LogEntry.decode((yield apdu.READ_LAST_LOAD_COMMAND))
        terms = self._terms
        stated = (counter, sequence, TransactionType.LOAD, terminal6(terms.terminal, terms.epoch), terms.amount_cents)
        if (entry.counter, entry.sequence, entry.type, entry.terminal, entry.amount_cents) != stated:
            raise _NotDone(Reason.NO_ANSWER_KEPT)
        _, tac = apdu.parse_proof((yield apdu.get_proof_command(TransactionType.LOAD, counter)))
        return Recalled(entry.amount_cents, entry.balance_after_cents, counter + 1, as_proof(tac), entry.moment)

    def _announce(self, order: CardOrder, moment: bytes) -> _Commands:
        card, terms, ready = self._facts(), self._terms, self._ready
        assert ready is not None
        challenge = apdu.parse_exact((yield apdu.GET_CHALLENGE_COMMAND), 4, "challenge")
        serial, sequence = order.reference, order.identity.sequence
        mac = self._sam.order_mac(card.key_version, card.uid, challenge, serial=serial, sequence=sequence)
        yield apdu.announce_command(serial, sequence, mac)
        mac2 = self._load_sams[card.key_version].mac2(
            card.uid,
            ready,
            amount_cents=terms.amount_cents,
            terminal=terms.terminal,
            epoch=terms.epoch,
            moment=moment,
        )
        return apdu.credit_command(moment, mac2)

    # -- around the CREDIT

    def _credited(self, answer: bytes | None) -> Step:
        """An answer of another form counts as missing: the card is asked for its proof."""
        try:
            data, status = split_answer(answer or b"")
            if status == PbocStatus.DONE:
                return self._loaded(apdu.parse_exact(data, apdu.MAC_BYTES, "TAC"))
            if not data and status in _REFUSALS:
                return self._refuse(Reason.CARD_REFUSED, status)
        except RemoteError:
            pass
        assert self._ready is not None
        command = apdu.get_proof_command(TransactionType.LOAD, self._ready.counter)
        return self._turns.go(Input.ANSWER, State.ASKING, command)

    def _asked(self, answer: bytes | None) -> Step:
        try:
            data, status = split_answer(answer or b"")
            if status == PbocStatus.NO_PROOF and not data:
                return self._refuse(Reason.NOT_DEBITED, status)
            if status == PbocStatus.DONE:
                return self._loaded(apdu.parse_proof(data)[1])
        except RemoteError:
            pass
        return self._unknown(Input.ANSWER)

    def _loaded(self, tac: bytes) -> Step:
        assert self._ready is not None
        assert self._order is not None
        balance_after = self._ready.balance_cents + self._order.amount_cents
        event = Debited(self._order, balance_after, self._ready.counter + 1, as_proof(tac))
        return self._turns.go(Input.ANSWER, State.LOADED, event=event)

    def _unknown(self, given: Input) -> Step:
        assert self._ready is not None
        assert self._order is not None
        event = Unknown(self._order, self._ready.balance_cents, self._ready.counter)
        return self._turns.go(given, State.UNKNOWN, event=event)

    def _facts(self) -> CardFacts:
        assert self._card is not None
        return self._card

    def _refuse(self, reason: Reason, status: int | None = None) -> Step:
        return self._turns.go(Input.ANSWER, State.REFUSED, event=Refused(reason, status))
