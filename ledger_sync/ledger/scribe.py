"""Writes what the judge decides: postings, items set aside, completions, forks (docs/ledger.md, "Tables")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger_sync.ledger.accounts import SUSPENSE_GREY, SUSPENSE_UNPROVEN
from ledger_sync.ledger.books import Books, CardState, Held, Standing, TerminalState
from ledger_sync.ledger.decisions import end_by_proof
from ledger_sync.ledger.flows import Effect
from ledger_sync.ledger.quarantine import Place
from protocol.codes import PostingResult, RecordType
from protocol.record_bodies import Body, Completion, Doubt, Grey
from protocol.records import RecordHead

R = PostingResult
GREY: Final = "grey"
UNPROVEN: Final = "unproven"
OVER_LIMIT: Final = "over_limit"
DOUBT: Final = "doubt"


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


class Scribe:
    """Of one transaction."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def next_posting(self) -> int:
        """A key for `post`, where what is booked must name it before its result is known."""
        return self._books.next_id("postings", "posting")

    def post(
        self, record: Record, standing: Standing, result: PostingResult, body: Body, *, proof: int | None = None,
        posting: int | None = None,
    ) -> int:  # fmt: skip
        """Write the posting itself; `proof` tells one card proof from another, None: the record bears none."""
        card: int | None = getattr(body, "card", 0) or None
        amount: int = getattr(body, "amount_cents", 0)
        balance: int | None = getattr(body, "balance_after_cents", None)
        merchant: int | None = getattr(body, "merchant", None)
        hint: int | None = getattr(body, "counter_before", None)
        head, place = record.head, record.place
        if posting is None:
            posting = self.next_posting()
        self._books.postings.append(
            (posting, head.terminal, head.epoch, head.sequence, record.seal, head.type, int(result), card, proof,
             amount, balance, merchant, head.running_count, head.running_sum_cents, record.trade_ms,
             record.trade_day, record.booking_day, place.position, place.row_id, place.index),
        )  # fmt: skip
        open_type = 0
        if result in (R.SUSPENSE_GREY, R.DOUBTFUL) and isinstance(body, Grey | Doubt):
            open_type = body.attempted_type or RecordType.PURCHASE
        held = Held(posting, record.seal, head.type, card, proof, amount, merchant, hint, open_type)
        standing.records.append(held)
        return posting

    def set_aside(self, record: Record, posting: int, kind: str, body: Body, card: CardState) -> None:
        """Mirror → suspense: a debit that may have happened and that nothing proves. A doubt moves nothing."""
        cents: int = getattr(body, "amount_cents", 0)
        if kind != DOUBT:
            account = SUSPENSE_GREY if kind == GREY else SUSPENSE_UNPROVEN
            self._books.debit_mirror(card, cents, record.booking_day, posting)
            self._books.credit(account, cents, record.booking_day)
        hint: int = getattr(body, "counter_before" if hasattr(body, "counter_before") else "counter")
        type_ = int(getattr(body, "attempted_type", 0) or RecordType.PURCHASE)
        merchant: int = getattr(body, "merchant", 0)
        self._books.connection.execute(
            "INSERT INTO suspense VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?)",
            (posting, kind, *record.identity, card.number, hint, cents, merchant, record.trade_ms, type_),
        )

    def resolve(self, item: Held, posting: int, moves: Effect | None, card: CardState, record: Record) -> None:
        """The proof of what was set aside has come: it moves what it proves, from suspense (R20).

        What the proof says differently from the grey is the mirror's. `moves` None: a doubt, for which nothing was
        set aside. What two persons decided before is reversed first, by entries of its own.
        """
        item.open_type = 0
        kind = self._books.connection.execute(
            "UPDATE suspense SET resolved_position = ?, resolved_by = ? WHERE posting = ? RETURNING kind",
            (record.place.position, posting, item.posting),
        ).get
        end_by_proof(self._books, item.posting, posting, record.booking_day)
        if moves is None:
            return
        account = SUSPENSE_GREY if kind == GREY else SUSPENSE_UNPROVEN
        self._books.credit(account, -item.amount_cents, record.booking_day)
        for credited, cents in moves.others:
            self._books.credit(credited, cents, record.booking_day)
        differs_cents = -moves.mirror_cents - item.amount_cents
        if differs_cents:
            self._books.debit_mirror(card, differs_cents, record.booking_day, posting)

    def note_completion(
        self, posting: int, body: Completion, proof: int, merchant: int, outcome: str, record: int | None
    ) -> None:
        """What a completion brought, under the original identity."""
        self._books.connection.execute(
            "INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (posting, body.original_terminal, body.original_epoch, body.original_sequence, body.card, proof,
             body.amount_cents, merchant, outcome, record, body.original_type, body.reference),
        )  # fmt: skip

    def report_fork(self, record: Record, result: PostingResult, cents: int) -> PostingResult:
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
