"""What the ledger does with one sealed record that needs a second look (R10, R18–R20; docs/ledger.md, "Decisions").

One card proof (identity, card, counter) moves money once, whoever brings it: the record itself, a record that forks
from it, or completions. A grey is money set aside until a proof of its own identity and card arrives. So the books do
not depend on the order of arrival; only which of two carriers is called the duplicate does.

    record       meets                                        result                         money
    purchase     nothing                                      00, or 02 03 04                mirror → merchant
                 its proof, brought by a completion           01, linked                     –
                 its proof under another seal                 01, fork reported              –
                 an open grey of its identity and card        05                             suspense → merchant
                 any other record or proof of its identity    05                             mirror → merchant
    grey         nothing                                      06                             mirror → suspense:grey
                 a proof of its identity and card             01, linked or fork reported    –
                 any other record of its identity             07                             mirror → suspense:unproven
    aborted      nothing / another record                     20 / 07                        –
    completion   nothing                                      08                             mirror → merchant
                 an open grey of that identity and card       08                             suspense → merchant
                 its proof                                    09                             –
                 another proof of that identity               05                             mirror → merchant
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger_sync.ledger.accounts import MERCHANT_BASE, SUSPENSE_GREY, SUSPENSE_UNPROVEN
from ledger_sync.ledger.books import UNKNOWN, Booked, Books, CardState, Held, Standing, TerminalState
from ledger_sync.ledger.decisions import end_by_proof
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps, Proof
from ledger_sync.ledger.quarantine import Place
from protocol.codes import CardKind, PostingResult, RecordType
from protocol.proofs import verify_card_proof
from protocol.records import Aborted, Completion, Grey, Purchase, RecordHead

R = PostingResult


@dataclass(slots=True, repr=False)
class Record:
    """One record whose seal holds, with its place and days."""

    state: TerminalState
    head: RecordHead
    seal: bytes
    place: Place
    trade_ms: int
    trade_day: int
    booking_day: int

    @property
    def identity(self) -> tuple[int, int, int]:
        return self.head.terminal, self.head.epoch, self.head.sequence


class Judge:
    """Of one transaction; books what it decides."""

    def __init__(self, books: Books, look_ups: LookUps, keys: LedgerKeys, *, now_ms: int) -> None:
        self._books = books
        self._look_ups = look_ups
        self._keys = keys
        self._now_ms = now_ms
        self.sum_cents = 0

    def judge(self, record: Record, body: Purchase | Grey | Completion | Aborted) -> PostingResult:
        """Decide and book. QUARANTINED_* results are for the caller to carry out; nothing was booked then."""
        standing = self._look_ups.standing(record.state, record.head.sequence)
        if any(held.seal == record.seal for held in standing.records):
            return R.DUPLICATE
        if isinstance(body, Purchase):
            return self._purchase(record, body, standing)
        if isinstance(body, Grey):
            return self._grey(record, body, standing)
        if isinstance(body, Completion):
            return self._completion(record, body, standing)
        return self._aborted(record, body, standing)

    # -- by type

    def _purchase(self, record: Record, body: Purchase, standing: Standing) -> PostingResult:
        card = self._books.card(body.card)
        if card is not None and card.kind == CardKind.MEMORY and card.status != UNKNOWN:
            return self._unproven_purchase(record, body, standing, card)
        if not self._is_proved(record, body, card):
            return R.QUARANTINED_CARD_PROOF
        for held in standing.records:
            if held.type == RecordType.PURCHASE and (held.card, held.counter) == (body.card, body.counter):
                return self._report_fork(record, R.DUPLICATE, body.amount_cents)
        for booked in standing.completions:
            if (booked.card, booked.counter) == (body.card, body.counter):
                if standing.records:
                    return self._report_fork(record, R.DUPLICATE, body.amount_cents)
                return self._link(record, body, standing, booked)
        card = self._books.card_or_unknown(body.card, self._now_ms)
        grey = _open_grey_of(standing, body.card)
        exception = self._exception(record.identity, body, card, record.trade_ms)
        result = R.POSTED_FORK if standing.records or standing.completions else exception or R.POSTED
        posting = self._post(record, standing, result, body)
        if grey is not None:
            self._resolve(grey, posting, body.amount_cents, body.merchant, card, record)
        else:
            self._debit(card, body.amount_cents, MERCHANT_BASE + body.merchant, record.booking_day, posting)
        self._see_proof(card, record.identity, body)
        if result is R.POSTED_FORK:
            self._report_fork(record, result, body.amount_cents)
        self.sum_cents += body.amount_cents
        return result

    def _unproven_purchase(self, record: Record, body: Purchase, standing: Standing, card: CardState) -> PostingResult:
        """A memory card proves nothing: the seal alone books, and where the identity forks it does not (R4, R10)."""
        if standing.records or standing.completions:
            return self._set_aside(record, body, standing, card, R.SUSPENSE_UNPROVEN_FORK)
        result = R.POSTED
        if card.is_exception_at(record.trade_ms):
            result = R.POSTED_CARD_STATE
        elif card.mirror_cents < body.amount_cents:
            result = R.POSTED_BALANCE
        posting = self._post(record, standing, result, body, counter=None)
        self._debit(card, body.amount_cents, MERCHANT_BASE + body.merchant, record.booking_day, posting)
        self.sum_cents += body.amount_cents
        return result

    def _grey(self, record: Record, body: Grey, standing: Standing) -> PostingResult:
        for booked in standing.completions:
            if booked.card == body.card:
                if standing.records:
                    return self._report_fork(record, R.DUPLICATE, body.amount_cents)
                return self._link(record, body, standing, booked)
        purchases = [held for held in standing.records if held.type == RecordType.PURCHASE]
        if any(held.card == body.card for held in purchases):
            return self._report_fork(record, R.DUPLICATE, body.amount_cents)
        result = R.SUSPENSE_UNPROVEN_FORK if standing.records else R.SUSPENSE_GREY
        card = self._books.card_or_unknown(body.card, self._now_ms)
        return self._set_aside(record, body, standing, card, result)

    def _aborted(self, record: Record, body: Aborted, standing: Standing) -> PostingResult:
        result = R.SUSPENSE_UNPROVEN_FORK if standing.records else R.NOTED
        self._post(record, standing, result, body)
        return self._report_fork(record, result, 0) if result is not R.NOTED else result

    def _completion(self, record: Record, body: Completion, own: Standing) -> PostingResult:
        """The money is that of the original identity; this record's own identity only carries it."""
        origin = self._books.terminals.get((body.original_terminal, body.original_epoch))
        if origin is None or not origin.takes_money:
            return R.QUARANTINED_UNKNOWN_TERMINAL
        if not self._is_proved(record, body, self._books.card(body.card)):
            return R.QUARANTINED_CARD_PROOF
        self._look_ups.prefetch(origin, body.original_sequence, body.original_sequence)
        standing = self._look_ups.standing(origin, body.original_sequence)
        is_fork = bool(own.records)
        proof = (body.card, body.counter)
        same = [held for held in standing.records if held.type == RecordType.PURCHASE]
        if proof in [(held.card, held.counter) for held in same] or proof in [
            (booked.card, booked.counter) for booked in standing.completions
        ]:
            result = R.DUPLICATE if is_fork else R.COMPLETION_NOTHING_NEW
            if is_fork:
                return self._report_fork(record, result, 0)
            posting = self._post(record, own, result, body)
            self._note_completion(posting, body, origin.merchant, "nothing new", None)
            return result
        card = self._books.card_or_unknown(body.card, self._now_ms)
        identity = (body.original_terminal, body.original_epoch, body.original_sequence)
        grey = _open_grey_of(standing, body.card)
        has_other_proof = bool(standing.completions or same)
        exception = self._exception(identity, body, card, record.trade_ms)
        result = R.COMPLETED if exception is not R.POSTED_COUNTER_REUSED else R.POSTED_COUNTER_REUSED
        if is_fork or has_other_proof:
            result = R.POSTED_FORK
        posting = self._post(record, own, result, body)
        merchant = origin.merchant if grey is None or grey.merchant is None else grey.merchant
        if grey is not None:
            self._resolve(grey, posting, body.amount_cents, merchant, card, record)
        else:
            self._debit(card, body.amount_cents, MERCHANT_BASE + merchant, record.booking_day, posting)
        linked = None if grey is None else grey.posting
        self._note_completion(posting, body, merchant, "posted" if grey is None else "resolved", linked)
        standing.completions.append(Booked(posting, body.card, body.counter, body.amount_cents, merchant, linked))
        origin.completed_to = max(origin.completed_to, body.original_sequence)
        self._see_proof(card, identity, body)
        if result is R.POSTED_FORK:
            self._report_fork(record, result, body.amount_cents)
        self.sum_cents += body.amount_cents
        return result

    # -- proofs

    def _is_proved(self, record: Record, body: Purchase | Completion, card: CardState | None) -> bool:
        """Whether the proof that the register says the card owes is there and holds (R2, R4)."""
        if card is not None and card.uid is not None and (card.uid != body.uid or card.kind != CardKind.AES):
            return False  # a PBOC purse's own TAC is for a later version; nothing else proves it
        key = self._keys.card_keys.get((body.key_version, body.uid))
        return key is not None and verify_card_proof(key, record.head, body)

    def _exception(
        self, identity: tuple[int, int, int], body: Purchase | Completion, card: CardState, trade_ms: int
    ) -> PostingResult | None:
        """The gravest exception that a proved debit deserves: counter reused, card state, balance."""
        differs = card.mirror_cents < body.amount_cents
        if body.counter == 1 and card.uid is not None:
            differs |= card.opening_cents - body.amount_cents != body.balance_after_cents
        for proof in self._look_ups.proofs_near(body.card, body.counter):
            if proof.counter == body.counter:
                if proof.identity != identity:
                    return R.POSTED_COUNTER_REUSED
            elif proof.counter < body.counter:
                differs |= proof.balance_cents - body.amount_cents != body.balance_after_cents
            else:
                differs |= body.balance_after_cents - proof.amount_cents != proof.balance_cents
        if card.is_exception_at(trade_ms):
            return R.POSTED_CARD_STATE
        return R.POSTED_BALANCE if differs else None

    def _see_proof(self, card: CardState, identity: tuple[int, int, int], body: Purchase | Completion) -> None:
        proof = Proof(body.counter, identity, body.amount_cents, body.balance_after_cents)
        self._look_ups.note_proof(card.number, proof)
        if body.counter > card.top_counter:
            card.top_counter, card.top_balance_cents = body.counter, body.balance_after_cents
            # Resolving a grey moves nothing on the mirror: without this the counter would be forgotten at a restart.
            self._books.changed_cards[card.number] = card

    # -- bookings

    def _post(
        self,
        record: Record,
        standing: Standing,
        result: PostingResult,
        body: Purchase | Grey | Completion | Aborted,
        *,
        counter: int | None = -1,
    ) -> int:
        """Write the posting itself; `counter` None: a purchase without proof."""
        card: int | None = body.card or None
        amount, balance, merchant, hint = 0, None, None, None
        proved: int | None = None
        if isinstance(body, Purchase | Completion):
            amount, balance = body.amount_cents, body.balance_after_cents
            proved = body.counter if counter is not None else None
        if isinstance(body, Purchase | Grey):
            amount, merchant = body.amount_cents, body.merchant
        if isinstance(body, Grey):
            hint = body.counter_before
        head, place = record.head, record.place
        posting = self._books.next_id("postings", "posting")
        self._books.connection.execute(
            INSERT_POSTING,
            (posting, head.terminal, head.epoch, head.sequence, record.seal, head.type, int(result), card, proved,
             amount, balance, merchant, head.running_count, head.running_sum_cents, record.trade_ms,
             record.trade_day, record.booking_day, place.position, place.row_id, place.index),
        )  # fmt: skip
        is_grey = result is R.SUSPENSE_GREY
        standing.records.append(Held(posting, record.seal, head.type, card, proved, amount, merchant, hint, is_grey))
        return posting

    def _debit(self, card: CardState, cents: int, account: int, booking_day: int, posting: int) -> None:
        self._books.debit_mirror(card, cents, booking_day, posting)
        self._books.credit(account, cents, booking_day)

    def _set_aside(
        self, record: Record, body: Purchase | Grey, standing: Standing, card: CardState, result: PostingResult
    ) -> PostingResult:
        """Mirror → suspense: a debit that may have happened and that nothing proves."""
        is_grey = result is R.SUSPENSE_GREY
        posting = self._post(record, standing, result, body, counter=None)
        account = SUSPENSE_GREY if is_grey else SUSPENSE_UNPROVEN
        self._debit(card, body.amount_cents, account, record.booking_day, posting)
        hint = body.counter_before if isinstance(body, Grey) else body.counter
        self._books.connection.execute(
            "INSERT INTO suspense VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (posting, "grey" if is_grey else "unproven", *record.identity, card.number, hint, body.amount_cents,
             body.merchant, record.trade_ms),
        )  # fmt: skip
        return result if is_grey else self._report_fork(record, result, body.amount_cents)

    def _resolve(self, grey: Held, posting: int, cents: int, merchant: int, card: CardState, record: Record) -> None:
        """Suspense → merchant; what the proof says differently from the grey is the mirror's (R20).

        What two persons decided before is reversed first, by entries of its own.
        """
        grey.is_open_grey = False
        kind = self._books.connection.execute(
            "UPDATE suspense SET resolved_position = ?, resolved_by = ? WHERE posting = ? RETURNING kind",
            (record.place.position, posting, grey.posting),
        ).get
        end_by_proof(self._books, grey.posting, posting, record.booking_day)
        self._books.credit(
            SUSPENSE_GREY if kind == "grey" else SUSPENSE_UNPROVEN, -grey.amount_cents, record.booking_day
        )
        self._books.credit(MERCHANT_BASE + merchant, cents, record.booking_day)
        if cents != grey.amount_cents:
            self._books.debit_mirror(card, cents - grey.amount_cents, record.booking_day, posting)

    def _link(self, record: Record, body: Purchase | Grey, standing: Standing, booked: Booked) -> PostingResult:
        """The record whose money a completion has booked: it stands, and moves nothing but a wrong merchant."""
        posting = self._post(record, standing, R.DUPLICATE, body)
        if booked.merchant != body.merchant:
            self._books.credit(MERCHANT_BASE + booked.merchant, -booked.amount_cents, record.booking_day)
            self._books.credit(MERCHANT_BASE + body.merchant, booked.amount_cents, record.booking_day)
        booked.record, booked.merchant = posting, body.merchant
        self._books.connection.execute(
            "UPDATE completions SET record = ?, merchant = ? WHERE posting = ?",
            (posting, body.merchant, booked.posting),
        )
        return R.DUPLICATE

    def _note_completion(self, posting: int, body: Completion, merchant: int, outcome: str, record: int | None) -> None:
        self._books.connection.execute(
            "INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (posting, body.original_terminal, body.original_epoch, body.original_sequence, body.card, body.counter,
             body.amount_cents, merchant, outcome, record),
        )  # fmt: skip

    def _report_fork(self, record: Record, result: PostingResult, cents: int) -> PostingResult:
        """Two seals for one identity: kept for ever, whatever became of the money (R10)."""
        key = self._books.next_id("forks", "fork")
        place = record.place
        self._books.connection.execute(
            "INSERT OR IGNORE INTO forks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, *record.identity, record.seal, int(result), cents, place.position, place.row_id, place.index),
        )
        if not self._books.connection.changes():
            self._books.release_id("forks", key)
        return result


INSERT_POSTING = "INSERT INTO postings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def _open_grey_of(standing: Standing, card: int) -> Held | None:
    return next((held for held in standing.records if held.is_open_grey and held.card == card), None)
