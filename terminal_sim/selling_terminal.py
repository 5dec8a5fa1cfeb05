"""What terminals that move money have in common beside the till's tap: parameters, rules, operators, refunds (R21).

`PosTerminal` boots, sells and keeps the records; this adds what a site's parameters allow and forbid. Meal terminals
and load stations are built on it: one firmware, three sets of verbs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from protocol.cards.apdu import CardFacts
from protocol.cards.dialogue import Authenticated, CardSeen, TransactionDialogue
from protocol.cards.events import Step
from protocol.codes import CardKind, ListKind, PowerEvent, RecordType
from protocol.errors import ProtocolError
from protocol.parameters import Limits, Parameters, decode_parameters
from protocol.ports import Log, Random
from protocol.record_bodies import (
    Body,
    Completion,
    Doubt,
    Grey,
    Power,
    Purchase,
    Refund,
    Tamper,
    Transaction,
)
from protocol.records import decode_body, read_head
from protocol.rules import Request, decide
from terminal_sim.day_book import DayBook
from terminal_sim.errors import CardGone, RecordGone, RingFull, SectorDead
from terminal_sim.firmware import PosTerminal
from terminal_sim.flash import VirtualFlash
from terminal_sim.layout import FlashLayout
from terminal_sim.lists import Check
from terminal_sim.memory import Memory
from terminal_sim.outcome import CardReader, Outcome, TapResult, Why
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.refusing import WHY_OF
from terminal_sim.rtc import DriftingRtc
from terminal_sim.transaction import Plan, Planner, TransactionTap

OPERATOR_DS_MAX: Final = 600  # an operator who has walked away allows nothing: a minute, one transaction
REFUND_SEARCH_RECORDS_MAX: Final = 2_000
"""How far back a purchase is looked for; only a card's last debit can be refunded, and that was not long ago."""


CHECKS: Final[Mapping[ListKind, Check]] = {ListKind.PARAMETERS: decode_parameters}
"""What makes a document useless here although its signature holds."""


class SellingTerminal(PosTerminal):
    """A till with the site's parameters, and the base of the other terminals that move money."""

    SELLS_MEALS = False
    """Whether each sale is a portion of the meal that is being served."""

    def __init__(
        self,
        flash: VirtualFlash,
        secrets: TerminalSecrets,
        *,
        rtc: DriftingRtc,
        random: Random,
        log: Log,
        layout: FlashLayout | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        """`parameters` serve until the front-end has sent some (R27); None: those that limit nothing."""
        self.parameters = parameters if parameters is not None else Parameters()
        self._day_book: DayBook | None = None
        self._operator_card = 0
        self._operator_until_ds = 0
        super().__init__(flash, secrets, rtc=rtc, random=random, log=log, layout=layout, list_checks=CHECKS)
        held = self.parameters_content
        self.use(self.parameters if held is None else decode_parameters(held))
        self.lists.on_document = self._on_document

    def use(self, parameters: Parameters) -> None:
        """Apply new parameters, from the next tap on; the caller has verified where they come from (R27)."""
        self.parameters = parameters
        self.list_age_ms_max = parameters.limits.list_age_ms_max
        self._day_book = None

    # -- verbs

    def tap(self, card: CardReader, amount_cents: int) -> TapResult:
        """Sell for the price of `amount_cents`, less the card group's discount.

        Where the parameters limit no sale there is nothing to ask the rules, and every kind of card is sold to.
        """
        if not self._has_limits():
            return super().tap(card, amount_cents)
        result = self.transact(card, RecordType.PURCHASE, lambda _, __: _purchase(amount_cents))
        if result.why is not Why.FOREIGN:
            return result
        return super().tap(card, amount_cents)  # a memory card or PBOC purse, judged in `refuses_sale`

    def refuses_sale(self, card: CardFacts, amount_cents: int) -> Why:
        """Limits for cards of other kinds. They get no discount: nothing on them proves their group."""
        if not self._has_limits():
            return Why.NONE
        # the card itself refuses what its balance does not cover
        request = replace(_purchase(amount_cents).request, balance_cents=amount_cents)
        reason = decide(self.parameters, replace(self.with_facts(request, card), card_group=0)).reason
        return Why.NONE if reason is None else WHY_OF[reason]

    def refund(self, card: CardReader, amount_cents: int = 0) -> TapResult:
        """Give back `amount_cents` (0: all) of this card's last purchase here; an operator's card comes first (R21)."""
        operator_card = self.take_operator()

        def plan(facts: CardFacts, _: Authenticated) -> Plan:
            found = self._refundable(facts.number)
            sequence, paid_cents = found if found is not None else (0, 0)
            request = Request(
                type=RecordType.REFUND,
                card=facts.number,
                price_cents=amount_cents or paid_cents,
                refundable_cents=paid_cents,
                operator_card=operator_card,
            )
            return Plan(request=request, reference=sequence)

        return self.transact(card, RecordType.REFUND, plan)

    def present_operator(self, card: CardReader) -> bool:
        """An operator's card, proved, allows one transaction within a minute. False: it is none, or not genuine."""
        self._operator_card = 0
        number = self._proved_number(card)
        if number not in self.parameters.operator_cards:
            return False
        self._operator_card, self._operator_until_ds = number, self.rtc.uptime_ds() + OPERATOR_DS_MAX
        return True

    def transact(self, card: CardReader, type_: int, planner: Planner) -> TapResult:
        """One transaction of the card in the field; every record made is committed on return."""
        memory = self.memory
        if memory is None or self.is_retired:
            return TapResult(Outcome.REFUSED, Why.NOT_READY, 0)
        self._recover()
        if memory.open_entry is not None or self.memory_full:
            return TapResult(Outcome.REFUSED, Why.MEMORY_FULL, 0)
        return TransactionTap(self, memory, card, type_, planner).run()

    def tamper(self, *, is_open: bool, source: int = 0) -> bool:
        """Somebody has opened the case, or shut it again; False: the record was not written."""
        return self._note(Tamper(int(is_open), source))

    def power(self, event: PowerEvent, millivolts: int = 0) -> bool:
        """Mains and battery, as the supply reports them; False: the record was not written."""
        return self._note(Power(event, millivolts))

    # -- for a transaction

    def with_facts(self, request: Request, card: CardFacts) -> Request:
        """The request with all that this terminal knows of the card, its list and its clock."""
        now_ms = self.rtc.now_ms()
        return replace(
            request,
            card=card.number,
            card_group=card.group,
            valid_until_day=card.valid_until_day,
            now_ms=now_ms,
            is_denied=self._is_denied(card.number),
            list_age_ms=self.list_age_ms(),
            spent_cents=self.day_book().spent_cents(now_ms, card.number) if self._has_limits() else 0,
        )

    def day_book(self) -> DayBook:
        """What this terminal's records say of today; read from flash when it is first asked."""
        if self._day_book is None:
            assert self.memory is not None
            self._day_book = DayBook.read(
                self.memory.ring,
                self.secrets.epoch,
                self.parameters,
                now_ms=self.rtc.now_ms(),
                sells_meals=self.SELLS_MEALS,
            )
        return self._day_book

    def made(self, record: bytes | None) -> None:
        if record is not None and self._day_book is not None:
            body = decode_body(record)
            if isinstance(body, Transaction | Grey):
                self._day_book.note(read_head(record).clock_ms, body)
        super().made(record)

    def write_plain(self, body: Body) -> None:
        """A record without a transaction of its own. Raises RingFull."""
        assert self.memory is not None
        uptime_ds, clock_ms = self.rtc.uptime_ds(), self.rtc.now_ms()
        self.made(self.memory.write_plain(body, boot=self.boot_number, uptime_ds=uptime_ds, clock_ms=clock_ms))

    def take_operator(self) -> int:
        """The operator present, whose card is used up by this; 0: nobody."""
        number = self._operator_card if self.rtc.uptime_ds() <= self._operator_until_ds else 0
        self._operator_card = 0
        return number

    # -- inside

    def _note(self, body: Tamper | Power) -> bool:
        """Events, like refusals, must not fill the memory that sales need (R12)."""
        if self.memory is None or self.is_retired or self.memory_warning:
            return False
        self._recover()
        if self.memory.open_entry is not None:
            return False
        try:
            self.write_plain(body)
        except RingFull:
            return False
        return True

    def _on_document(self, kind: ListKind, content: bytes) -> None:
        if kind is ListKind.PARAMETERS:
            self.use(decode_parameters(content))

    def _has_limits(self) -> bool:
        return self.parameters.limits != Limits() or bool(self.parameters.groups)

    def _is_denied(self, card: int) -> bool:
        try:
            return self.deny_list.memory.refuses(card)
        except SectorDead:
            self.deny_list.memory.damaged = True  # reported; until it is replaced nobody can be looked up
            return False

    def _refundable(self, card: int) -> tuple[int, int] | None:
        """(sequence, amount) of the card's last debit here, if it is a proven purchase that nothing was given back of.

        A refund whose outcome is not known, or a debit after it that is grey, leaves nothing to refund.
        """
        memory, epoch = self.memory, self.secrets.epoch
        assert memory is not None
        oldest = memory.ring.epochs[epoch].oldest
        taken: set[int] = set()
        for sequence in range(memory.next - 1, max(oldest, memory.next - REFUND_SEARCH_RECORDS_MAX) - 1, -1):
            body = _readable(memory, epoch, sequence)
            if isinstance(body, Refund) or (isinstance(body, Doubt) and body.attempted_type == RecordType.REFUND):
                taken.add(body.reference)
            elif isinstance(body, Completion) and body.card == card:
                continue  # of this terminal it is a grey's or doubt's, which is met further back
            elif isinstance(body, Grey) and body.card == card:
                return None
            elif isinstance(body, Purchase) and body.card == card:
                return None if sequence in taken or body.card_kind != CardKind.AES else (sequence, body.amount_cents)
        return None

    def _proved_number(self, card: CardReader) -> int:
        """The number of the card in the field, proved by its authenticate key; 0: none of ours, denied or expired."""
        dialogue = TransactionDialogue(self.secrets.sam, frozenset({int(RecordType.PURCHASE)}))
        facts: CardFacts | None = None
        step: Step = dialogue.start()
        while True:
            if step.command is not None:
                try:
                    step = dialogue.answered(card.exchange(step.command))
                except CardGone:
                    return 0
            elif isinstance(step.event, CardSeen):
                facts = step.event.card
                if facts.proof_pending:
                    return 0  # it has something of its own to bring home first
                step = dialogue.authenticate(self.challenge())
            else:
                break
        if not isinstance(step.event, Authenticated) or facts is None:
            return 0
        dialogue.abandon()
        return 0 if self._is_denied(facts.number) or self.is_expired(facts) else facts.number


def _purchase(price_cents: int) -> Plan:
    return Plan(request=Request(type=RecordType.PURCHASE, card=0, price_cents=price_cents))


def _readable(memory: Memory, epoch: int, sequence: int) -> Body | None:
    try:
        return decode_body(memory.ring.read(epoch, sequence))
    except (SectorDead, RecordGone, ProtocolError):
        return None
