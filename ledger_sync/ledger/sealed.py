"""Records that bear a terminal's seal and no card proof: greys, doubts, orders not executed, events (R10, R20, R22).

What the card itself has proved stands above each of them; the table is in `judge`.
"""

from __future__ import annotations

from collections.abc import Callable

from ledger_sync.ledger import orders
from ledger_sync.ledger.books import Booked, Books, Standing
from ledger_sync.ledger.flows import CLAIMING, DEBITS
from ledger_sync.ledger.rules import RULES_1
from ledger_sync.ledger.scribe import DOUBT, GREY, UNPROVEN, Record, Scribe
from protocol.codes import PostingResult
from protocol.record_bodies import Body, Doubt, EventsLost, Grey, LoadNotExecuted

R = PostingResult
Link = Callable[[Record, Grey | Doubt, Standing, Booked], PostingResult]
"""Puts a record beside the completion that has booked its proof."""
CODE_FIELDS = ("reason", "event", "alarm", "state")
"""What an event says, whatever its body calls it."""


class SealedRecords:
    """Of one transaction."""

    def __init__(self, books: Books, scribe: Scribe, link: Link, *, now_ms: int, rules: int) -> None:
        self._books = books
        self._scribe = scribe
        self._link = link
        self._now_ms = now_ms
        self._rules = rules

    def attempt(self, record: Record, body: Grey | Doubt, standing: Standing) -> PostingResult:
        """A grey sets its debit aside, a doubt names a credit or collection; either waits for the card's proof."""
        is_grey = isinstance(body, Grey)
        answering = DEBITS if is_grey else CLAIMING
        for booked in standing.completions:
            if booked.card == body.card and booked.type in answering:
                if standing.records:
                    return self._scribe.report_fork(record, R.DUPLICATE, body.amount_cents)
                return self._link(record, body, standing, booked)
        if any(held.card == body.card and held.type in answering for held in standing.records):
            return self._scribe.report_fork(record, R.DUPLICATE, body.amount_cents)
        card = self._books.card_or_unknown(body.card, self._now_ms)
        if not standing.records:
            result = R.SUSPENSE_GREY if is_grey else R.DOUBTFUL
            posting = self._scribe.post(record, standing, result, body)
            self._scribe.set_aside(record, posting, GREY if is_grey else DOUBT, body, card)
            return result
        posting = self._scribe.post(record, standing, R.SUSPENSE_UNPROVEN_FORK, body)
        if is_grey:
            self._scribe.set_aside(record, posting, UNPROVEN, body, card)
        return self._scribe.report_fork(record, R.SUSPENSE_UNPROVEN_FORK, body.amount_cents)

    def not_executed(self, record: Record, body: LoadNotExecuted, standing: Standing) -> PostingResult:
        """The station's sealed word ends an order that names that station; nothing else does (R22)."""
        if standing.records:
            self._scribe.post(record, standing, R.SUSPENSE_UNPROVEN_FORK, body)
            return self._scribe.report_fork(record, R.SUSPENSE_UNPROVEN_FORK, 0)
        posting = self._scribe.next_posting()
        order = orders.find(self._books, body.card, body.reference)
        result = R.POSTED_LOAD_WITHOUT_ORDER
        if (
            order is not None
            and order.station == record.head.terminal
            and order.is_of(amount_cents=body.amount_cents, number=body.order)
            and orders.refuse(self._books, order, posting, record.booking_day)
        ):
            result = R.POSTED
        self._scribe.post(record, standing, result, body, posting=posting)
        return result

    def event(self, record: Record, body: Body, standing: Standing) -> PostingResult:
        """What moves no money: kept, and counted by what it says."""
        result = R.SUSPENSE_UNPROVEN_FORK if standing.records else R.NOTED
        self._scribe.post(record, standing, result, body)
        if result is not R.NOTED:
            return self._scribe.report_fork(record, result, 0)
        if self._rules == RULES_1:
            return result
        code: int = next(
            (getattr(body, name) for name in ("reason", "event", "alarm", "state") if hasattr(body, name)), 0
        )
        events = body.count if isinstance(body, EventsLost) else 1
        self._books.note_event(record.trade_day, record.head.type, code, events)
        return result
