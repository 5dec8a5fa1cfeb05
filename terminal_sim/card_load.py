"""One load of a card whose own program does not follow our orders: memory card or PBOC purse (R21, R22).

A card check goes first: an earlier purchase's proof is brought home, a memory card's purse is repaired. Then the card
tells its highest load serial, and the station chooses: the oldest open order, or, of a PBOC purse that has taken a load
whose end nobody saw, its proof. Refunds of these cards are orders like any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from protocol.cards.apdu import CardFacts, CardOrder, Identity
from protocol.cards.events import (
    Authenticated,
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
from protocol.cards.pboc_macs import clock_of_moment, load_reference
from protocol.cards.port import CardDialogue, DebitTerms, LoadChoice
from protocol.codes import AbortReason, CardKind, RecordType, RefusalReason
from protocol.errors import RemoteError
from protocol.record_bodies import Aborted, Completion
from protocol.rules import Request, decide
from terminal_sim.converse import converse
from terminal_sim.errors import MemoryLost, RingFull, SectorDead
from terminal_sim.journal import Entry
from terminal_sim.memory import Memory
from terminal_sim.outcome import Alarm, CardReader, Outcome, TapResult, Why
from terminal_sim.proved import proved_body
from terminal_sim.refusing import ABORT_REASON_OF, WHY_OF, refusal_record
from terminal_sim.tap import CHECK_CENTS
from terminal_sim.transaction import REFUSED, intent

if TYPE_CHECKING:
    from terminal_sim.load_station import AskedLoad, LoadOrder, LoadStation

TYPE: Final = RecordType.LOAD


class CardLoad:
    """One card at a load station, from its arrival to the answer to the customer."""

    __slots__ = (
        "_allocated",
        "_card",
        "_checked",
        "_completed",
        "_dialogue",
        "_facts",
        "_memory",
        "_order",
        "_reason",
        "_recalled",
        "_station",
    )

    def __init__(self, station: LoadStation, memory: Memory, card: CardReader) -> None:
        self._station = station
        self._memory = memory
        self._card = card
        secrets = station.secrets
        terms = DebitTerms(CHECK_CENTS, secrets.currency, secrets.terminal, secrets.epoch)
        self._dialogue = CardDialogue(secrets.load_kinds(self._choose), terms)
        self._checked = TapResult(Outcome.CHECKED, Why.NONE, 0)
        self._facts: CardFacts | None = None
        self._order: LoadOrder | None = None
        self._recalled: AskedLoad | None = None
        self._allocated: Entry | None = None
        self._completed: Identity | None = None
        self._reason: RefusalReason | None = None

    def run(self) -> TapResult:
        self._checked = self._station.check(self._card)
        if self._checked.outcome is not Outcome.CHECKED:
            return self._checked
        self._completed = self._checked.completed
        if self._station.memory_full:
            return self._result(Outcome.REFUSED, Why.MEMORY_FULL)
        try:
            return converse(self._dialogue, self._card, self._take)
        except RingFull:
            may_have_happened = self._dialogue.may_have_debited
            return self._result(Outcome.GREY if may_have_happened else Outcome.REFUSED, Why.MEMORY_FULL)
        except MemoryLost:
            self._station.raise_alarm(Alarm.MEMORY_LOST)
            return self._result(Outcome.REFUSED, Why.NOT_READY)

    def _take(self, event: Event) -> Step | TapResult:
        if isinstance(event, CardSeen):
            self._facts = event.card
            if event.card.currency != self._station.secrets.currency:
                return self._dialogue.abandon()
            return self._dialogue.authenticate(self._station.challenge())
        if isinstance(event, Authenticated):
            return self._load(event)
        if isinstance(event, Debited):
            return self._proved(event)
        if isinstance(event, Recalled):
            return self._complete(event)
        if isinstance(event, Finished):
            return self._result(Outcome.DONE if self._allocated is not None else Outcome.CHECKED, Why.NONE)
        if isinstance(event, Unknown):
            assert self._allocated is not None
            self._station.made(self._memory.close_sale(self._memory.unknown_of(self._allocated)))
            return self._result(Outcome.GREY, Why.CARD_REMOVED)
        if isinstance(event, Refused):
            return self._refused(event)
        return self._result(Outcome.ABORTED, Why.CARD_REMOVED)

    # -- what is wanted

    def _choose(self, serial: int) -> LoadChoice | None:
        """The card has told its highest load serial."""
        assert self._facts is not None
        card = self._facts.number
        asked = self._station.asked_of(card)
        if self._facts.kind == CardKind.PBOC:
            for each in asked:
                if each.serial <= serial and not each.is_settled:
                    self._recalled = each
                    return LoadChoice(each.amount_cents, recalls=(each.counter_before, each.sequence))
            asked = []  # not taken: the card says so itself, and its serial would tell a second time
        doubtful = {each.order for each in asked}
        self._order = self._station.next_order(card, serial, without=doubtful)
        request = Request(
            type=TYPE,
            card=card,
            price_cents=self._order.amount_cents if self._order is not None else 0,
            is_ordered=self._order is not None,
        )
        request = replace(self._station.with_facts(request, self._facts), card_group=0)  # which nothing there proves
        self._reason = decide(self._station.parameters, request).reason
        if self._order is None or self._reason is not None:
            return None
        return LoadChoice(self._order.amount_cents)

    def _load(self, read: Authenticated) -> Step:
        """The intent, and then the card is asked."""
        station, order = self._station, self._order
        assert self._facts is not None
        assert order is not None
        entry = intent(
            station,
            self._memory,
            self._facts,
            read,
            type_=TYPE,
            amount_cents=order.amount_cents,
            reference=order.serial,
            order=order.order,
        )
        self._memory.open_sale(entry)
        self._allocated = entry
        try:
            self._memory.mark_debit_sent()
        except SectorDead:
            self._reason = RefusalReason.CARD_REFUSED
            return self._dialogue.abandon()
        who = Identity(station.secrets.terminal, entry.epoch, entry.sequence)
        wanted = CardOrder(order.amount_cents, entry.currency, who, TYPE, order.serial)
        return self._dialogue.intent_written(wanted, clock_ms=entry.clock_ms)

    # -- what became of it

    def _proved(self, made: Debited) -> Step:
        assert self._facts is not None
        assert self._order is not None
        body = proved_body(made, self._facts, merchant=0, order=self._order.order)
        self._station.made(self._memory.close_sale(body))
        return self._dialogue.record_written()

    def _complete(self, found: Recalled) -> Step:
        """The card has taken a load of which this station wrote a doubt: its proof goes home (R20)."""
        card, asked = self._facts, self._recalled
        assert card is not None
        assert asked is not None
        try:
            reference = load_reference(asked.serial, clock_of_moment(found.moment))
        except RemoteError:
            self._reason = RefusalReason.CARD_REFUSED
            return self._dialogue.abandon()
        secrets = self._station.secrets
        body = Completion(
            original_terminal=secrets.terminal,
            original_sequence=asked.sequence,
            original_epoch=secrets.epoch,
            original_type=TYPE,
            key_version=card.key_version,
            card=card.number,
            uid=card.uid,
            card_kind=card.kind,
            amount_cents=found.amount_cents,
            balance_after_cents=found.balance_after_cents,
            counter=found.counter,
            currency=secrets.currency,
            proof=found.proof,
            reference=reference,
        )
        self._station.write_plain(body)
        self._station.settled(asked)
        self._completed = Identity(secrets.terminal, secrets.epoch, asked.sequence)
        return self._dialogue.completion_written()

    def _refused(self, refused: Refused) -> TapResult:
        if refused.reason is Reason.ABANDONED:
            reason = self._reason
            why = WHY_OF[reason] if reason is not None else Why.FOREIGN
        else:
            why, reason = REFUSED[refused.reason]
        if self._recalled is not None and self._completed is None:
            self._station.give_up(self._recalled)
        card = self._facts.number if self._facts is not None else 0
        sequence = 0
        if self._allocated is not None:
            abort = AbortReason.CARD_REMOVED if why is Why.CARD_REMOVED else AbortReason.CARD_REFUSED
            if reason is not None:
                abort = ABORT_REASON_OF.get(reason, abort)
            self._station.made(self._memory.close_sale(Aborted(TYPE, abort, card)))
        elif reason is not None:
            amount = self._order.amount_cents if self._order is not None else 0
            body = refusal_record(self._station, reason, attempted_type=TYPE, card=card, amount_cents=amount)
            if body is not None:
                sequence = self._memory.next
                self._station.write_plain(body)
        return self._result(Outcome.REFUSED, why, sequence)

    def _result(self, outcome: Outcome, why: Why, sequence: int = 0) -> TapResult:
        return TapResult(
            outcome,
            why,
            self._order.amount_cents if self._order is not None else 0,
            card=self._facts.number if self._facts is not None else self._checked.card,
            sequence=self._allocated.sequence if self._allocated is not None else sequence,
            completed=self._completed,
            found=self._checked.found,
        )
