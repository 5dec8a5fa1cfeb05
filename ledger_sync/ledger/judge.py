"""What the ledger does with one sealed record that needs a second look (R10, R18–R23; docs/money.md).

One card proof (identity, card, counter) moves money once, whoever brings it: the record itself, a record that forks
from it, or completions. A grey is money set aside until a proof of its own identity and card arrives. So the books do
not depend on the order of arrival; only which of two carriers is called the duplicate does.

    record        meets                                        result                         money
    proved        nothing                                      00, or 02 03 04, 0C 0D 0E      as `flows` says
                  its proof, brought by a completion           01, linked                     – (a wrong merchant)
                  its proof under another seal                 01, fork reported              –
                  what its attempt set aside                   05                             suspense → as `flows` says
                  any other record or proof of its identity    05                             as `flows` says
    grey          nothing                                      06                             mirror → suspense:grey
                  a debit's proof of its identity and card     01, linked or fork reported    –
                  any other record of its identity             07                             mirror → suspense:unproven
    doubt         nothing                                      0F                             –
                  another proof of its identity and card       01, linked or fork reported    –
                  any other record of its identity             07                             –
    completion    nothing                                      08                             as its original
                  what was set aside for its original          08                             suspense → as its original
                  its proof                                    09                             –
                  another proof of that identity               05                             as its original
    not executed  nothing / another record                     00, 0D / 07                    in flight → paid out / –
    event         nothing / another record                     20 / 07                        –

Greys, doubts, orders not executed and events are judged in `sealed`, cards that make no proof in `unproven`; what a
refund, load, cancellation or collection refers to in `claims`.
"""

from __future__ import annotations

from typing import Final

from ledger_sync.ledger.accounts import MERCHANT_BASE
from ledger_sync.ledger.books import Booked, Books, CardState, Held, Standing
from ledger_sync.ledger.claims import Claim, Claims
from ledger_sync.ledger.flows import CLAIMING, DEBITS, book, effect, signed
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.proving import (
    claimed_reference,
    is_proved,
    owes_no_proof,
    proof_exception,
    proof_number,
    proof_of,
)
from ledger_sync.ledger.rules import RULES_1
from ledger_sync.ledger.scribe import Record, Scribe
from ledger_sync.ledger.sealed import SealedRecords
from ledger_sync.ledger.unproven import UnprovenCards
from protocol.codes import CardKind, PostingResult, RecordType
from protocol.record_bodies import PROVED_TYPES, Body, Completion, Doubt, Grey, LoadNotExecuted, Transaction

__all__ = ["Judge", "Record"]

R = PostingResult
SUMMED: Final = frozenset(
    {R.POSTED, R.POSTED_CARD_STATE, R.POSTED_BALANCE, R.POSTED_COUNTER_REUSED, R.POSTED_FORK, R.COMPLETED,
     R.POSTED_UNPROVEN, R.POSTED_REFUND_EXCEPTION, R.POSTED_LOAD_WITHOUT_ORDER, R.POSTED_MEAL_TWICE}
)  # fmt: skip
"""Results whose amounts a receipt sums (docs/protocol.md §11.4)."""


class Judge:
    """Of one transaction; books what it decides."""

    def __init__(
        self, books: Books, look_ups: LookUps, keys: LedgerKeys, *, now_ms: int, rules: int, unproven_limit_cents: int
    ) -> None:
        self._books = books
        self._look_ups = look_ups
        self._keys = keys
        self._now_ms = now_ms
        self._rules = rules
        self._scribe = Scribe(books)
        self._claims = Claims(books, look_ups)
        self._unproven = UnprovenCards(books, self._scribe, self._claims, rules=rules, limit_cents=unproven_limit_cents)
        self._sealed = SealedRecords(books, self._scribe, self._link, now_ms=now_ms, rules=rules)
        self.sum_cents = 0

    def judge(self, record: Record, body: Body) -> PostingResult:
        """Decide and book. QUARANTINED_* results are for the caller to carry out; nothing was booked then."""
        standing = self._look_ups.standing(record.state, record.head.sequence)
        if any(held.seal == record.seal for held in standing.records):
            return R.DUPLICATE
        result = self._judge(record, body, standing)
        if result in SUMMED:
            type_ = body.original_type if isinstance(body, Completion) else record.head.type
            self.sum_cents += signed(type_, getattr(body, "amount_cents", 0))
        return result

    def _judge(self, record: Record, body: Body, standing: Standing) -> PostingResult:
        if isinstance(body, Transaction):
            return self._transaction(record, body, standing)
        if isinstance(body, Completion):
            return self._completion(record, body, standing)
        if isinstance(body, Grey | Doubt):
            return self._sealed.attempt(record, body, standing)
        if isinstance(body, LoadNotExecuted):
            return self._sealed.not_executed(record, body, standing)
        return self._sealed.event(record, body, standing)

    # -- by type

    def _transaction(self, record: Record, body: Transaction, standing: Standing) -> PostingResult:
        """A record that should bear its card's proof."""
        known = self._books.card(body.card)
        if known is not None and owes_no_proof(known):
            return self._unproven.judge(record, body, standing, known)
        if not is_proved(self._keys, self._rules, known, record.head, body):
            return R.QUARANTINED_CARD_PROOF
        card = self._books.card_or_unknown(body.card, self._now_ms)
        proof = proof_number(card, body)
        if (body.card, proof) in _proofs_of(standing):
            return self._report_fork(record, R.DUPLICATE, body)
        for booked in standing.completions:
            if (booked.card, booked.counter) == (body.card, proof):
                if standing.records:
                    return self._report_fork(record, R.DUPLICATE, body)
                return self._link(record, body, standing, booked, proof)
        is_fork = bool(standing.records or standing.completions)
        result = self._book(record, body, standing, card, proof, is_fork=is_fork)
        return self._report_fork(record, result, body) if result is R.POSTED_FORK else result

    def _book(
        self, record: Record, body: Transaction, standing: Standing, card: CardState, proof: int, *, is_fork: bool
    ) -> PostingResult:
        """A proof that moves money by its own record."""
        type_ = record.head.type
        exception = proof_exception(
            self._look_ups, card, type_, proof_of(record.identity, type_, body), record.trade_ms
        )
        waiting = _waiting(standing, body.card, type_)
        posting = self._scribe.next_posting()
        claim = Claim(
            posting, type_, *record.identity, body.card, proof, getattr(body, "reference", 0),
            getattr(body, "order", 0), body.amount_cents, getattr(body, "merchant", 0), record.trade_ms,
        )  # fmt: skip
        claimed = self._move(claim, record, waiting, card)
        result = _gravest(R.POSTED_FORK if is_fork else None, exception, claimed) or R.POSTED
        self._scribe.post(record, standing, result, body, proof=proof, posting=posting)
        if type_ == RecordType.PURCHASE:
            self._claims.purchase_came(record.identity, body.card, record.booking_day)
        self._see_proof(card, record.identity, type_, body)
        return result

    def _move(self, claim: Claim, record: Record, waiting: Held | None, card: CardState) -> PostingResult | None:
        """Book what a proof moves, from suspense where its attempt waits there; the exception of a claim."""
        moves = None
        if claim.type not in CLAIMING:
            moves = effect(claim.type, claim.amount_cents, claim.merchant)
        if waiting is not None:
            self._scribe.resolve(waiting, claim.posting, moves, card, record)
        elif moves is not None:
            book(self._books, moves, card, record.booking_day, claim.posting)
        return self._claims.add(claim, record.booking_day) if moves is None else None

    def _completion(self, record: Record, body: Completion, own: Standing) -> PostingResult:
        """The money is that of the original identity; this record's own identity only carries it."""
        origin = self._books.terminals.get((body.original_terminal, body.original_epoch))
        if origin is None or not origin.takes_money:
            return R.QUARANTINED_UNKNOWN_TERMINAL
        if not is_proved(self._keys, self._rules, self._books.card(body.card), record.head, body):
            return R.QUARANTINED_CARD_PROOF
        type_ = body.original_type
        if self._rules == RULES_1 and type_ != RecordType.PURCHASE:
            return R.QUARANTINED_CARD_PROOF
        reference = claimed_reference(self._books.card(body.card), body)
        if type_ in CLAIMING and not reference:
            return R.QUARANTINED_FORMAT
        self._look_ups.prefetch(origin, body.original_sequence, body.original_sequence)
        standing = self._look_ups.standing(origin, body.original_sequence)
        card = self._books.card_or_unknown(body.card, self._now_ms)
        proof = proof_number(card, body)
        proofs = _proofs_of(standing)
        brought = [(booked.card, booked.counter) for booked in standing.completions]
        is_fork = bool(own.records)
        if (body.card, proof) in (*proofs, *brought):
            if is_fork:
                return self._report_fork(record, R.DUPLICATE, None)
            posting = self._scribe.post(record, own, R.COMPLETION_NOTHING_NEW, body, proof=proof)
            self._scribe.note_completion(posting, body, proof, origin.merchant, "nothing new", None)
            return R.COMPLETION_NOTHING_NEW
        identity = (body.original_terminal, body.original_epoch, body.original_sequence)
        exception = proof_exception(self._look_ups, card, type_, proof_of(identity, type_, body), record.trade_ms)
        waiting = _waiting(standing, body.card, type_)
        merchant = origin.merchant if waiting is None or waiting.merchant is None else waiting.merchant
        if type_ == RecordType.LOAD:
            merchant = 0  # a load is no merchant's
        posting = self._scribe.next_posting()
        claim = Claim(
            posting, type_, *identity, body.card, proof, reference, 0, body.amount_cents, merchant, record.trade_ms
        )
        claimed = self._move(claim, record, waiting, card)
        reused = exception if exception is R.POSTED_COUNTER_REUSED else None
        result = _gravest(R.POSTED_FORK if is_fork or proofs or brought else None, reused, claimed) or R.COMPLETED
        self._scribe.post(record, own, result, body, proof=proof, posting=posting)
        linked = None if waiting is None else waiting.posting
        outcome = "posted" if waiting is None else "resolved"
        self._scribe.note_completion(posting, body, proof, merchant, outcome, linked)
        standing.completions.append(Booked(posting, body.card, proof, body.amount_cents, merchant, linked, type_))
        origin.completed_to = max(origin.completed_to, body.original_sequence)
        self._see_proof(card, identity, type_, body)
        return self._report_fork(record, result, body) if result is R.POSTED_FORK else result

    # -- what they share

    def _see_proof(
        self, card: CardState, identity: tuple[int, int, int], type_: int, body: Transaction | Completion
    ) -> None:
        if card.kind == CardKind.PBOC and card.uid is not None:
            if type_ == RecordType.LOAD:
                return  # its loads have a counter of their own
        else:
            self._look_ups.note_proof(card.number, proof_of(identity, type_, body))
        if body.counter > card.top_counter:
            card.top_counter, card.top_balance_cents = body.counter, body.balance_after_cents
            # Resolving a grey moves nothing on the mirror: without this the counter would be forgotten at a restart.
            self._books.changed_cards[card.number] = card
        elif body.counter == card.top_counter and card.aes_uid == card.uid and self._rules > RULES_1:
            card.top_balance_cents = None  # used twice: the next one is compared with both
            self._books.changed_cards[card.number] = card

    def _link(
        self,
        record: Record,
        body: Transaction | Grey | Doubt,
        standing: Standing,
        booked: Booked,
        proof: int | None = None,
    ) -> PostingResult:
        """The record whose money a completion has booked: it stands, and moves nothing but a wrong merchant."""
        posting = self._scribe.post(record, standing, R.DUPLICATE, body, proof=proof)
        day = record.booking_day
        merchant: int = getattr(body, "merchant", 0) if booked.type != RecordType.LOAD else 0
        if booked.type in CLAIMING:
            order: int = 0 if isinstance(body, Doubt) else getattr(body, "order", 0)  # a doubt proves no order
            self._claims.record_came(booked.posting, merchant, order, day)
        elif booked.type == RecordType.PURCHASE and booked.merchant != merchant:
            self._books.credit(MERCHANT_BASE + booked.merchant, -booked.amount_cents, day)
            self._books.credit(MERCHANT_BASE + merchant, booked.amount_cents, day)
        booked.record, booked.merchant = posting, merchant
        self._books.connection.execute(
            "UPDATE completions SET record = ?, merchant = ? WHERE posting = ?", (posting, merchant, booked.posting)
        )
        if record.head.type == RecordType.PURCHASE:
            self._claims.purchase_came(record.identity, body.card, day)
        return R.DUPLICATE

    def _report_fork(self, record: Record, result: PostingResult, body: Body | None) -> PostingResult:
        return self._scribe.report_fork(record, result, getattr(body, "amount_cents", 0))


def _proofs_of(standing: Standing) -> list[tuple[int | None, int | None]]:
    """(card, proof number) of every record of an identity that bears one."""
    return [
        (held.card, held.counter) for held in standing.records if held.type in PROVED_TYPES and held.counter is not None
    ]


def _waiting(standing: Standing, card: int, type_: int) -> Held | None:
    """What an attempt of that kind has left open under the identity: a grey, or a doubt."""
    kinds = DEBITS if type_ in DEBITS else CLAIMING
    return next((held for held in standing.records if held.open_type in kinds and held.card == card), None)


_GRAVITY: Final = (
    R.POSTED_FORK, R.POSTED_COUNTER_REUSED, R.POSTED_REFUND_EXCEPTION, R.POSTED_LOAD_WITHOUT_ORDER, R.POSTED_MEAL_TWICE,
    R.POSTED_CARD_STATE, R.POSTED_BALANCE,
)  # fmt: skip


def _gravest(*found: PostingResult | None) -> PostingResult | None:
    """The one result that a record with several exceptions is given (docs/money.md, "Results")."""
    return next((each for each in _GRAVITY if each in found), None)
