"""One tap: a card's dialogue from its arrival to the answer to the customer (docs/protocol.md §12, R20).

The order in which things reach the flash is the point: a completion for an earlier terminal's proof before any new
debit, the journal entry before DEBIT, the record before CONFIRM. A record is committed before the card goes on. Which
kind of card it is matters to nobody here but `protocol.cards.port`. A card check is a tap that ends before the intent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.cards.apdu import CardFacts, DebitOrder, Identity
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
from protocol.cards.memory_dialogue import MemoryDialogue
from protocol.cards.pboc_macs import clock_of_moment
from protocol.cards.port import CardDialogue, DebitTerms
from protocol.codes import AbortReason, RecordType
from protocol.errors import RemoteError
from protocol.record_bodies import Refusal
from protocol.records import Aborted, Completion, Purchase
from terminal_sim.converse import converse
from terminal_sim.errors import MemoryLost, RingFull, SectorDead
from terminal_sim.journal import Entry, EntryKind
from terminal_sim.memory import Memory
from terminal_sim.outcome import Alarm, CardReader, Outcome, TapResult, Why
from terminal_sim.refusing import ABORT_REASON_OF, REASON_OF, completion_of, refusal_record

if TYPE_CHECKING:
    from terminal_sim.firmware import PosTerminal

_WHY: Final = {
    Reason.NOT_OUR_CARD: Why.FOREIGN,
    Reason.KEY_VERSION: Why.FOREIGN,
    Reason.NOT_GENUINE: Why.NOT_GENUINE,
    Reason.CARD_REFUSED: Why.CARD_REFUSED,
    Reason.BALANCE_TOO_LOW: Why.BALANCE,
    Reason.NO_ANSWER_KEPT: Why.CARD_REFUSED,
    Reason.NOT_DEBITED: Why.CARD_REMOVED,
}

CHECK_CENTS: Final = 1
"""What a card check states where a card wants an amount before it says anything; no debit follows."""


class Tap:
    """One card, from its arrival to the answer to the customer; for 0 cents it is only checked."""

    __slots__ = (
        "_allocated",
        "_amount",
        "_balance_after",
        "_card",
        "_completed",
        "_dialogue",
        "_facts",
        "_is_check",
        "_memory",
        "_sequence",
        "_terminal",
        "_turned_away",
        "_why",
    )

    def __init__(self, terminal: PosTerminal, memory: Memory, card: CardReader, amount_cents: int) -> None:
        self._terminal = terminal
        self._memory = memory
        self._card = card
        self._amount = amount_cents
        self._is_check = amount_cents == 0
        secrets = terminal.secrets
        terms = DebitTerms(amount_cents or CHECK_CENTS, secrets.currency, secrets.terminal, secrets.epoch)
        self._dialogue = CardDialogue(terminal.kinds, terms)
        self._facts: CardFacts | None = None
        self._allocated: Entry | None = None
        self._completed: Identity | None = None
        self._balance_after: int | None = None
        self._sequence = 0
        self._why = Why.NONE
        """The firmware's own reason when it abandons a dialogue."""
        self._turned_away = Why.NONE
        """Why this card gets no sale although it is asked for its pending proof first."""

    def run(self) -> TapResult:
        try:
            return converse(self._dialogue, self._card, self._take)
        except RingFull:
            # Sectors have died under this very tap. An entry left open becomes a record once there is room.
            may_have_paid = self._dialogue.may_have_debited
            return self._result(Outcome.GREY if may_have_paid else Outcome.REFUSED, Why.MEMORY_FULL)
        except MemoryLost:
            self._terminal.raise_alarm(Alarm.MEMORY_LOST)
            return self._result(Outcome.REFUSED, Why.NOT_READY)

    def _take(self, event: Event) -> Step | TapResult:
        if isinstance(event, Authenticated):
            return self._order(event)
        if isinstance(event, Debited):
            return self._sold(event)
        if isinstance(event, Finished):
            return self._result(Outcome.SOLD, Why.NONE)
        if isinstance(event, CardSeen):
            return self._look_at(event.card)
        if isinstance(event, PendingProof):
            return self._complete(event)
        if isinstance(event, PendingCleared):
            return self._dialogue.authenticate(self._terminal.challenge())
        if isinstance(event, Unknown):
            assert self._allocated is not None
            self._terminal.made(self._memory.close_sale(self._memory.grey_of(self._allocated)))
            return self._result(Outcome.GREY, Why.CARD_REMOVED)
        if isinstance(event, Refused):
            return self._refused(event)
        return self._result(Outcome.ABORTED, Why.CARD_REMOVED)

    def _look_at(self, card: CardFacts) -> Step:
        self._facts = card
        terminal = self._terminal
        try:
            is_denied = terminal.deny_list.memory.refuses(card.number)
        except SectorDead:
            is_denied = False  # the damaged list is reported; until it is replaced nobody can be looked up
            terminal.deny_list.memory.damaged = True
        if is_denied:
            self._turned_away = Why.DENY_LIST
        elif terminal.is_expired(card):
            self._turned_away = Why.EXPIRED
        elif not self._is_check:
            self._turned_away = terminal.refuses_sale(card, self._amount)
        is_ours = card.currency == terminal.secrets.currency
        # A debit that this card has paid is some merchant's money: its proof is brought home, lost card or not (R20).
        goes_on = is_ours and (card.proof_pending or self._is_check)
        if self._turned_away is not Why.NONE and not goes_on:
            return self._abandon(self._turned_away)
        if not is_ours:
            return self._abandon(Why.FOREIGN)
        return self._dialogue.authenticate(terminal.challenge())

    def _complete(self, pending: PendingProof) -> Step:
        try:
            reference = clock_of_moment(pending.moment) if pending.moment else None
        except RemoteError:
            return self._abandon(Why.CARD_REFUSED)
        body = completion_of(pending.card, pending.proof, reference=reference)
        if body is None:
            return self._abandon(Why.CARD_REFUSED)
        self._write(body)
        self._completed = pending.proof.identity
        return self._dialogue.completion_written()

    def _order(self, read: Authenticated) -> Step:
        """The card is ours and has stated balance and counter: intent, then the debit."""
        if self._is_check or self._turned_away is not Why.NONE:
            return self._abandon(self._turned_away)
        if read.balance_cents < self._amount:
            return self._abandon(Why.BALANCE)
        secrets, memory, card = self._terminal.secrets, self._memory, self._facts
        assert card is not None
        entry = Entry(
            kind=EntryKind.PURCHASE,
            key_version=card.key_version,
            epoch=secrets.epoch,
            sequence=memory.next,
            boot=self._terminal.boot_number,
            currency=secrets.currency,
            uptime_ds=self._terminal.rtc.uptime_ds(),
            clock_ms=self._terminal.rtc.now_ms(),
            amount_cents=self._amount,
            card=card.number,
            uid=card.uid,
            card_kind=card.kind,
            balance_before_cents=read.balance_cents,
            counter_before=read.counter,
            running_count=memory.running_count,
            running_sum_cents=memory.running_sum_cents,
            previous_seal=memory.tip,
        )
        memory.open_sale(entry)
        self._allocated, self._sequence = entry, entry.sequence
        try:
            memory.mark_debit_sent()
        except SectorDead:
            return self._abandon(Why.CARD_REFUSED)
        identity = Identity(secrets.terminal, secrets.epoch, entry.sequence)
        order = DebitOrder(self._amount, secrets.currency, identity)
        return self._dialogue.intent_written(order, clock_ms=entry.clock_ms)

    def _sold(self, debited: Debited) -> Step:
        card = self._facts
        assert card is not None
        body = Purchase(
            merchant=self._terminal.secrets.merchant,
            card=card.number,
            uid=card.uid,
            key_version=card.key_version,
            amount_cents=debited.order.amount_cents,
            balance_after_cents=debited.balance_after_cents,
            counter=debited.counter,
            currency=debited.order.currency,
            card_kind=card.kind,
            proof=debited.proof,
        )
        self._balance_after = debited.balance_after_cents
        self._terminal.made(self._memory.close_sale(body))
        return self._dialogue.record_written()

    def _refused(self, refused: Refused) -> TapResult:
        if self._is_check:
            return self._checked(refused)
        why = self._why if refused.reason is Reason.ABANDONED else _WHY[refused.reason]
        reason = REASON_OF.get(why)
        card = self._facts.number if self._facts is not None else 0
        if self._allocated is not None:
            abort = AbortReason.CARD_REMOVED if why is Why.CARD_REMOVED else AbortReason.CARD_REFUSED
            if reason is not None:
                abort = ABORT_REASON_OF.get(reason, abort)
            self._terminal.made(self._memory.close_sale(Aborted(RecordType.PURCHASE, abort, card)))
        elif reason is not None:
            body = refusal_record(
                self._terminal, reason, attempted_type=RecordType.PURCHASE, card=card, amount_cents=self._amount
            )
            if body is not None:
                self._sequence = self._memory.next
                self._write(body)
        return self._result(Outcome.REFUSED, why)

    def _checked(self, refused: Refused) -> TapResult:
        """Refusals are for customers; what a check could not look at it says, without a record."""
        if refused.reason is Reason.ABANDONED:
            return self._result(Outcome.CHECKED, self._why)
        why = _WHY[refused.reason]
        return self._result(Outcome.CHECKED if why is Why.BALANCE else Outcome.REFUSED, why)

    def _abandon(self, why: Why) -> Step:
        self._why = why
        return self._dialogue.abandon()

    def _write(self, body: Refusal | Completion) -> None:
        terminal = self._terminal
        uptime_ds, clock_ms = terminal.rtc.uptime_ds(), terminal.rtc.now_ms()
        boot = terminal.boot_number
        terminal.made(self._memory.write_plain(body, boot=boot, uptime_ds=uptime_ds, clock_ms=clock_ms))

    def _result(self, outcome: Outcome, why: Why) -> TapResult:
        inner = self._dialogue.inner
        return TapResult(
            outcome,
            why,
            self._amount,
            card=self._facts.number if self._facts is not None else 0,
            sequence=self._sequence,
            balance_after_cents=self._balance_after,
            completed=self._completed,
            found=inner.found if isinstance(inner, MemoryDialogue) else None,
        )
