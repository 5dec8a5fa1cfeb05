"""One transaction of an AES card at a terminal: sale, refund, load, booking, cancellation, collection (R20–R23).

As a till's tap, with the order decided after the card has told what is on it: the *plan* says what the terminal would
ask, the rule engine whether it may, and only then a sequence is allocated. The order of writes is the same: completion
before anything new, intent before the command, record before CONFIRM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from protocol.cards.apdu import CardFacts, CardOrder, Identity
from protocol.cards.dialogue import (
    Authenticated,
    CardSeen,
    Debited,
    Event,
    Finished,
    PendingCleared,
    PendingProof,
    Reason,
    Refused,
    State,
    Step,
    TransactionDialogue,
    Unknown,
)
from protocol.codes import AbortReason, CardKind, RecordType, RefusalReason
from protocol.record_bodies import Aborted
from protocol.rules import Request, decide
from terminal_sim.converse import converse
from terminal_sim.errors import MemoryLost, RingFull, SectorDead
from terminal_sim.journal import Entry, EntryKind
from terminal_sim.memory import Memory
from terminal_sim.outcome import Alarm, CardReader, Outcome, TapResult, Why
from terminal_sim.proved import proved_body
from terminal_sim.refusing import (
    ABORT_REASON_OF,
    WHY_OF,
    completion_of,
    reason_of_status,
    refusal_record,
)

if TYPE_CHECKING:
    from terminal_sim.selling_terminal import SellingTerminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a terminal would ask of the card: the facts for the rules, and what only the record needs."""

    request: Request
    reference: int = 0
    order: int = 0


Planner = Callable[[CardFacts, Authenticated], Plan]
"""Asked once, when the card has proved its balance and told its serials and tokens."""

REFUSED: Final = {
    Reason.NOT_OUR_CARD: (Why.FOREIGN, None),
    Reason.KEY_VERSION: (Why.FOREIGN, None),
    Reason.NOT_GENUINE: (Why.NOT_GENUINE, RefusalReason.NOT_GENUINE),
    Reason.CARD_REFUSED: (Why.CARD_REFUSED, RefusalReason.CARD_REFUSED),
    Reason.BALANCE_TOO_LOW: (Why.BALANCE, RefusalReason.BALANCE_TOO_LOW),
    Reason.NO_ANSWER_KEPT: (Why.CARD_REFUSED, RefusalReason.CARD_REFUSED),
    Reason.NOT_DEBITED: (Why.CARD_REMOVED, None),
}
_ASKED: Final = frozenset({State.DEBITING, State.ASKING, State.DEBITED, State.DEBITED_GONE, State.UNKNOWN})


def intent(
    terminal: SellingTerminal,
    memory: Memory,
    card: CardFacts,
    read: Authenticated,
    *,
    type_: int,
    amount_cents: int,
    reference: int = 0,
    order: int = 0,
) -> Entry:
    """The journal entry of a transaction that is about to be asked of the card."""
    return Entry(
        kind=EntryKind.INTENT,
        key_version=card.key_version,
        epoch=terminal.secrets.epoch,
        sequence=memory.next,
        boot=terminal.boot_number,
        currency=terminal.secrets.currency,
        uptime_ds=terminal.rtc.uptime_ds(),
        clock_ms=terminal.rtc.now_ms(),
        amount_cents=amount_cents,
        card=card.number,
        uid=card.uid,
        card_kind=card.kind,
        balance_before_cents=read.balance_cents,
        counter_before=read.counter,
        running_count=memory.running_count,
        running_sum_cents=memory.running_sum_cents,
        previous_seal=memory.tip,
        attempted_type=type_,
        reference=reference,
        order=order,
    )


class TransactionTap:
    """One card, from its arrival to the answer to the customer."""

    __slots__ = (
        "_allocated",
        "_amount",
        "_balance_after",
        "_card",
        "_completed",
        "_dialogue",
        "_facts",
        "_memory",
        "_plan",
        "_planner",
        "_reason",
        "_sequence",
        "_terminal",
        "_type",
    )

    def __init__(
        self, terminal: SellingTerminal, memory: Memory, card: CardReader, type_: int, planner: Planner
    ) -> None:
        self._terminal = terminal
        self._memory = memory
        self._card = card
        self._type = type_
        self._planner = planner
        self._dialogue = TransactionDialogue(terminal.secrets.sam, frozenset({type_}), reads_meals=True)
        self._facts: CardFacts | None = None
        self._plan: Plan | None = None
        self._allocated: Entry | None = None
        self._completed: Identity | None = None
        self._balance_after: int | None = None
        self._amount = 0
        self._sequence = 0
        self._reason: RefusalReason | None = None
        """Why the firmware abandons the dialogue; None: the card is not of this site."""

    def run(self) -> TapResult:
        try:
            return converse(self._dialogue, self._card, self._take)
        except RingFull:
            # Sectors have died under this very tap. An entry left open becomes a record once there is room.
            may_have_happened = self._dialogue.state in _ASKED
            return self._result(Outcome.GREY if may_have_happened else Outcome.REFUSED, Why.MEMORY_FULL)
        except MemoryLost:
            self._terminal.raise_alarm(Alarm.MEMORY_LOST)
            return self._result(Outcome.REFUSED, Why.NOT_READY)

    def _take(self, event: Event) -> Step | TapResult:
        if isinstance(event, CardSeen):
            return self._look_at(event.card)
        if isinstance(event, PendingProof):
            return self._complete(event)
        if isinstance(event, PendingCleared):
            return self._dialogue.authenticate(self._terminal.challenge())
        if isinstance(event, Authenticated):
            return self._order(event)
        if isinstance(event, Debited):
            return self._proved(event)
        if isinstance(event, Finished):
            return self._result(Outcome.SOLD if self._type == RecordType.PURCHASE else Outcome.DONE, Why.NONE)
        if isinstance(event, Unknown):
            assert self._allocated is not None
            body = self._memory.unknown_of(self._allocated)
            self._terminal.made(self._memory.close_sale(body))
            return self._result(Outcome.GREY, Why.CARD_REMOVED)
        if isinstance(event, Refused):
            return self._refused(event)
        return self._result(Outcome.ABORTED, Why.CARD_REMOVED)

    def _look_at(self, card: CardFacts) -> Step:
        """Foreign cards leave at once; others are proved first, since an earlier proof is brought home in any case."""
        self._facts = card
        if card.kind != CardKind.AES or card.currency != self._terminal.secrets.currency:
            return self._dialogue.abandon()
        return self._dialogue.authenticate(self._terminal.challenge())

    def _complete(self, pending: PendingProof) -> Step:
        body = completion_of(pending.card, pending.proof)
        if body is None:
            return self._abandon(RefusalReason.CARD_REFUSED)
        self._terminal.write_plain(body)
        self._completed = pending.proof.identity
        return self._dialogue.completion_written()

    def _order(self, read: Authenticated) -> Step:
        """The card is ours and proved: what is asked, whether it may be, the intent, the command."""
        assert self._facts is not None
        terminal, plan = self._terminal, self._planner(self._facts, read)
        request = replace(terminal.with_facts(plan.request, self._facts), balance_cents=read.balance_cents)
        decision = decide(terminal.parameters, request)
        self._plan, self._amount = plan, decision.amount_cents
        if decision.reason is not None:
            return self._abandon(decision.reason)
        if not terminal.secrets.sam.holds(self._facts.key_version, self._type):
            return self._abandon(RefusalReason.CARD_REFUSED)
        entry = intent(
            terminal,
            self._memory,
            self._facts,
            read,
            type_=self._type,
            amount_cents=self._amount,
            reference=plan.reference,
            order=plan.order,
        )
        self._memory.open_sale(entry)
        self._allocated, self._sequence = entry, entry.sequence
        try:
            self._memory.mark_debit_sent()
        except SectorDead:
            return self._abandon(RefusalReason.CARD_REFUSED)
        who = Identity(terminal.secrets.terminal, entry.epoch, entry.sequence)
        place = request.place
        if self._type == RecordType.PURCHASE:
            return self._dialogue.intent_written(CardOrder(self._amount, entry.currency, who))
        order = CardOrder(self._amount, entry.currency, who, self._type, plan.reference, place)
        return self._dialogue.intent_written(order)

    def _proved(self, made: Debited) -> Step:
        assert self._facts is not None
        assert self._plan is not None
        merchant, plan = self._terminal.secrets.merchant, self._plan
        operator_card = plan.request.operator_card
        body = proved_body(made, self._facts, merchant=merchant, operator_card=operator_card, order=plan.order)
        self._balance_after = made.balance_after_cents
        self._terminal.made(self._memory.close_sale(body))
        return self._dialogue.record_written()

    def _refused(self, refused: Refused) -> TapResult:
        if refused.reason is Reason.ABANDONED:
            reason = self._reason
            why = WHY_OF[reason] if reason is not None else Why.FOREIGN
        else:
            why, reason = REFUSED[refused.reason]
            if refused.reason is Reason.CARD_REFUSED:
                reason = reason_of_status(refused.status, self._type)
                why = WHY_OF[reason]
        card = self._facts.number if self._facts is not None else 0
        if self._allocated is not None:
            abort = AbortReason.CARD_REMOVED if why is Why.CARD_REMOVED else AbortReason.CARD_REFUSED
            if reason is not None:
                abort = ABORT_REASON_OF.get(reason, abort)
            self._terminal.made(self._memory.close_sale(Aborted(self._type, abort, card)))
        elif reason is not None:
            body = refusal_record(
                self._terminal, reason, attempted_type=self._type, card=card, amount_cents=self._amount
            )
            if body is not None:
                self._sequence = self._memory.next
                self._terminal.write_plain(body)
        return self._result(Outcome.REFUSED, why)

    def _abandon(self, reason: RefusalReason) -> Step:
        self._reason = reason
        return self._dialogue.abandon()

    def _result(self, outcome: Outcome, why: Why) -> TapResult:
        return TapResult(
            outcome,
            why,
            self._amount,
            card=self._facts.number if self._facts is not None else 0,
            sequence=self._sequence,
            balance_after_cents=self._balance_after,
            completed=self._completed,
        )
