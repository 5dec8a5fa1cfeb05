"""Cards that make no proof (memory cards): booked on the terminal's seal alone, up to a limit (R4).

Per terminal and trade day the amounts are summed in order of epoch and sequence; a purchase whose sum passes the limit
is set aside for two persons. A late record with a lower sequence pushes later ones over: they are moved to suspense
then, so that the books do not depend on the order of arrival. None ever comes back by itself: the sum only grows.
What comes of an epoch after it was closed is set aside whatever its amount: nobody can say any more whose hands that
memory has been in (R11).
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger_sync.ledger.accounts import MERCHANT_BASE, SUSPENSE_UNPROVEN
from ledger_sync.ledger.books import Books, CardState, Standing
from ledger_sync.ledger.claims import Claim, Claims
from ledger_sync.ledger.flows import book, effect
from ledger_sync.ledger.rules import RULES_1
from ledger_sync.ledger.scribe import OVER_LIMIT, UNPROVEN, Record, Scribe
from protocol.codes import PostingResult, RecordType
from protocol.record_bodies import Load, Purchase, Transaction

R = PostingResult


@dataclass(slots=True)
class _Day:
    """How far a terminal's trade day has been summed in this transaction."""

    last: tuple[int, int]
    """Epoch and sequence of the highest."""
    sum_cents: int


class UnprovenCards:
    """Of one transaction."""

    def __init__(self, books: Books, scribe: Scribe, claims: Claims, *, rules: int, limit_cents: int) -> None:
        self._books = books
        self._scribe = scribe
        self._claims = claims
        self._rules = rules
        self._limit_cents = limit_cents
        self._days: dict[tuple[int, int], _Day] = {}

    def judge(self, record: Record, body: Transaction, standing: Standing, card: CardState) -> PostingResult:
        """Book what a memory card's terminal has sealed: purchases and loads; such a card makes nothing else."""
        if isinstance(body, Load):
            return self._load(record, body, standing)
        if not isinstance(body, Purchase):
            return R.QUARANTINED_CARD_PROOF  # refunds and meals are for cards that prove them (R21, R23)
        if standing.records or standing.completions:  # where the identity forks the seal alone does not book (R10)
            posting = self._scribe.post(record, standing, R.SUSPENSE_UNPROVEN_FORK, body)
            self._scribe.set_aside(record, posting, UNPROVEN, body, card)
            return self._scribe.report_fork(record, R.SUSPENSE_UNPROVEN_FORK, body.amount_cents)
        is_over = self._rules > RULES_1 and self._is_over(record, body.amount_cents)
        is_over |= self._rules > RULES_1 and record.state.closed_ms is not None
        result = R.SUSPENSE_UNPROVEN_LIMIT if is_over else self._result(record, body, card)
        posting = self._scribe.post(record, standing, result, body)
        if is_over:
            self._scribe.set_aside(record, posting, OVER_LIMIT, body, card)
        else:
            moves = effect(RecordType.PURCHASE, body.amount_cents, body.merchant)
            book(self._books, moves, card, record.booking_day, posting)
        if self._rules > RULES_1:
            self._keep(record, posting, body, is_over=is_over)
        return result

    def _load(self, record: Record, body: Load, standing: Standing) -> PostingResult:
        """The order is the evidence; without it the load stands as an exception that finance must explain."""
        if standing.records or standing.completions:
            posting = self._scribe.post(record, standing, R.SUSPENSE_UNPROVEN_FORK, body)
            return self._scribe.report_fork(record, R.SUSPENSE_UNPROVEN_FORK, body.amount_cents)
        posting = self._scribe.next_posting()
        claim = Claim(
            posting, RecordType.LOAD, *record.identity, body.card, body.counter, body.reference, body.order,
            body.amount_cents, 0, record.trade_ms,
        )  # fmt: skip
        result = self._claims.add(claim, record.booking_day) or R.POSTED_UNPROVEN
        self._scribe.post(record, standing, result, body, posting=posting)
        return result

    def _result(self, record: Record, body: Purchase, card: CardState) -> PostingResult:
        """The gravest exception; what the counter and balance say is a hint, for nothing proves them."""
        if self._rules > RULES_1 and self._counter_was_used(record, body):
            return R.POSTED_COUNTER_REUSED
        if card.is_exception_at(record.trade_ms):
            return R.POSTED_CARD_STATE
        if card.mirror_cents < body.amount_cents or (self._rules > RULES_1 and self._differs(body)):
            return R.POSTED_BALANCE
        return R.POSTED_UNPROVEN if self._rules > RULES_1 else R.POSTED

    def _counter_was_used(self, record: Record, body: Purchase) -> bool:
        return self._books.connection.execute(
            "SELECT 1 FROM unproven WHERE card = ? AND counter = ? AND (terminal, epoch, sequence) <> (?, ?, ?)",
            (body.card, body.counter, *record.identity),
        ).fetchone() is not None  # fmt: skip

    def _differs(self, body: Purchase) -> bool:
        """Whether the balance does not follow from that of the neighbouring counters."""
        for counter, cents, balance in self._books.connection.execute(
            "SELECT counter, amount_cents, balance_cents FROM unproven WHERE card = ? AND counter IN (?, ?)",
            (body.card, body.counter - 1, body.counter + 1),
        ):
            if counter < body.counter:
                if balance - body.amount_cents != body.balance_after_cents:
                    return True
            elif body.balance_after_cents - cents != balance:
                return True
        return False

    # -- the limit

    def _is_over(self, record: Record, cents: int) -> bool:
        """Whether the sum up to and with this record passes the limit; pushes later ones over it where it must."""
        key = (record.head.terminal, record.trade_day)
        place = (record.head.epoch, record.head.sequence)
        day = self._days.get(key)
        if day is None:
            day = self._days[key] = self._summed(key)
        if place > day.last:
            day.last = place
            day.sum_cents += cents
            return day.sum_cents > self._limit_cents
        before = self._books.connection.execute(
            "SELECT coalesce(sum(amount_cents), 0) FROM unproven WHERE terminal = ? AND trade_day = ?"
            " AND (epoch, sequence) < (?, ?)",
            (*key, *place),
        ).get
        day.sum_cents += cents
        self._push_over(record, before + cents)
        return bool(before + cents > self._limit_cents)

    def _summed(self, key: tuple[int, int]) -> _Day:
        epoch, sequence = self._books.connection.execute(
            "SELECT epoch, sequence FROM unproven WHERE terminal = ? AND trade_day = ?"
            " ORDER BY epoch DESC, sequence DESC LIMIT 1",
            key,
        ).fetchone() or (0, 0)
        total = self._books.connection.execute(
            "SELECT coalesce(sum(amount_cents), 0) FROM unproven WHERE terminal = ? AND trade_day = ?", key
        ).get
        return _Day((epoch, sequence), total)

    def _push_over(self, record: Record, sum_cents: int) -> None:
        """Later purchases of that day whose sum now passes the limit: merchant → suspense."""
        rows: list[tuple[int, int, int, int, int, int, int, int, int]] = self._books.connection.execute(
            "SELECT posting, epoch, sequence, card, counter, amount_cents, merchant, trade_ms, is_over FROM unproven"
            " WHERE terminal = ? AND trade_day = ? AND (epoch, sequence) > (?, ?) ORDER BY epoch, sequence",
            (record.head.terminal, record.trade_day, record.head.epoch, record.head.sequence),
        ).fetchall()  # type: ignore[assignment]
        for posting, epoch, sequence, card, counter, cents, merchant, trade_ms, is_over in rows:
            sum_cents += cents
            if is_over or sum_cents <= self._limit_cents:
                continue
            self._books.reverse(MERCHANT_BASE + merchant, -cents, record.booking_day)
            self._books.credit(SUSPENSE_UNPROVEN, cents, record.booking_day)
            self._books.connection.execute("UPDATE unproven SET is_over = 1 WHERE posting = ?", (posting,))
            self._books.connection.execute(
                "INSERT INTO suspense VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?)",
                (posting, OVER_LIMIT, record.head.terminal, epoch, sequence, card, counter, cents, merchant, trade_ms,
                 int(RecordType.PURCHASE)),
            )  # fmt: skip

    def _keep(self, record: Record, posting: int, body: Purchase, *, is_over: bool) -> None:
        head = record.head
        self._books.connection.execute(
            "INSERT INTO unproven VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (posting, head.terminal, record.trade_day, head.epoch, head.sequence, body.card, body.counter,
             body.amount_cents, body.balance_after_cents, body.merchant, record.trade_ms, int(is_over)),
        )  # fmt: skip
