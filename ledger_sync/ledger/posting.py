"""Posting one batch: rows taken apart, both proofs checked, money booked, a result byte per record (R2–R4, R10, R19).

Purchases that can meet nothing (a sequence above the highest posted of their terminal, a card counter above the
highest seen of their card) take the short way in `_records`; everything else is judged in `judge`. The caller owns
the transaction.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from ledger_sync.ledger.accounts import MERCHANT_BASE, MIRROR_BASE
from ledger_sync.ledger.books import ACTIVE, Books, CardState, PostingRow, TerminalState
from ledger_sync.ledger.checks import QUARANTINED, REASONS, Flaw, check_record
from ledger_sync.ledger.evidence import PURCHASE_BYTES, PURCHASE_RECORD, SEALED_BYTES, Piece, pieces
from ledger_sync.ledger.judge import Judge, Record
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.notes import note
from ledger_sync.ledger.quarantine import Claim, Place, quarantine, release_quarantined
from ledger_sync.ledger.scribe import INSERT_POSTING
from protocol.codes import CardKind, PostingResult, RecordType, RowKind
from protocol.errors import Malformed
from protocol.link_messages import ReceiptException, Row
from protocol.records import RecordHead, seal_of
from protocol.rows import HEADER, PackedRow, decode, peek
from protocol.trade_time import UtcOffset, booking_day, trade_day, trade_days

NOT_BOOKED: Final = frozenset({int(PostingResult.DUPLICATE), int(PostingResult.COMPLETION_NOTHING_NEW)})
UNLISTED: Final = NOT_BOOKED | {
    int(PostingResult.POSTED),
    int(PostingResult.COMPLETED),
    int(PostingResult.POSTED_UNPROVEN),
    int(PostingResult.NOTED),
}
"""Results that a receipt does not list as exceptions (docs/protocol.md §11.4)."""

_TAC: Final = struct.Struct("!BIHIIHIIi")  # docs/protocol.md §7.3
assert _TAC.size == 29


@dataclass(slots=True)
class Outcome:
    """What one batch came to; `results` has a byte per record in order."""

    results: bytearray = field(default_factory=bytearray)
    exceptions: list[ReceiptException] = field(default_factory=list)
    sum_cents: int = 0

    @property
    def duplicates(self) -> int:
        return sum(map(self.results.count, NOT_BOOKED))

    @property
    def quarantined(self) -> int:
        return sum(map(self.results.count, QUARANTINED))

    @property
    def posted(self) -> int:
        return len(self.results) - self.duplicates - self.quarantined


class BatchPoster:
    """Posts the rows of one batch within the caller's transaction."""

    def __init__(
        self,
        books: Books,
        keys: LedgerKeys,
        *,
        position: int,
        first_row: int,
        now_ms: int,
        currency: int,
        first_open_day: int,
        utc_offset_ms: UtcOffset,
        rules: int,
        unproven_limit_cents: int,
    ) -> None:
        self._books = books
        self._keys = keys
        self._position = position
        self._first_row = first_row
        self._currency = currency
        self._first_open_day = first_open_day
        self._today = trade_day(now_ms, utc_offset_ms)
        self._utc_offset_ms = utc_offset_ms
        self._look_ups = LookUps(books)
        self._rules = rules
        self._judge = Judge(
            books, self._look_ups, keys, now_ms=now_ms, rules=rules, unproven_limit_cents=unproven_limit_cents
        )
        self._postings: list[PostingRow] = []
        self._outcome = Outcome()

    def post(self, rows: list[Row]) -> Outcome:
        """Post all rows, then write what the short way collected; entries are still to be flushed."""
        self._books.release_id("postings", self._books.next_id("postings", "posting"))  # now it is known
        for row_id, packed in rows:
            self._row(row_id, packed)
        self._books.connection.executemany(INSERT_POSTING, self._postings)
        self._outcome.sum_cents += self._judge.sum_cents
        return self._outcome

    # -- rows

    def _row(self, row_id: int, packed: bytes | memoryview) -> None:
        try:
            row = decode(packed)
        except Malformed as error:
            self._broken_row(row_id, bytes(packed), str(error))
            return
        if row.kind in (RowKind.BASELINE, RowKind.TOMBSTONE):
            result = note(self._books, self._keys, row, Place(self._position, row_id, 0))
            self._result(result, row.terminal, row.epoch, row.first, row_id)
        else:
            self._records(row, row_id)

    def _broken_row(self, row_id: int, packed: bytes, why: str) -> None:
        """A row whose own layout is wrong, which no front-end of ours makes: the claimed range is quarantined."""
        head = peek(packed)  # the link's decoder has seen to it that a row has its 32 bytes
        state = self._books.terminals.get((head.terminal, head.epoch))
        last = max(head.first, head.last)
        claim = Claim(head.terminal, head.epoch, head.first, last, packed[HEADER.size :], head.received_ms)
        place = Place(self._position, row_id, 0)
        result = quarantine(self._books, state, claim, place, PostingResult.QUARANTINED_FORMAT, why, rules=self._rules)
        claimed: int = head[7]  # the field is called count, as a method of tuples is
        for sequence in range(head.first, head.first + max(1, claimed)):
            self._result(result, head.terminal, head.epoch, sequence & 0xFFFF_FFFF, row_id)

    def _records(self, row: PackedRow, row_id: int) -> None:
        state = self._books.terminals.get((row.terminal, row.epoch))
        days = trade_days(row.trade_ms, self._utc_offset_ms)
        if state is None:
            for piece in pieces(row):
                self._unbooked(piece, row, row_id, None, PostingResult.QUARANTINED_UNKNOWN_TERMINAL)
            return
        self._books.touched_terminals[state.id] = state
        if row.first <= max(state.highest, state.completed_to):
            self._look_ups.prefetch(state, row.first, row.last)
            index, offset = 0, 0
        else:
            index, offset = self._purchases(row, row_id, state, days)
        for piece in pieces(row, offset=offset, index=index):
            self._piece(piece, row, row_id, state, days[piece.index])

    # -- the short way

    def _purchases(self, row: PackedRow, row_id: int, state: TerminalState, days: list[int]) -> tuple[int, int]:
        """Post leading purchases that can meet nothing; (index, offset) of the first record left over.

        Seals are checked before anything in a record is believed, card proofs before anything is booked.
        """
        books, payload = self._books, row.payload
        terminal, epoch, sequence = row.terminal, row.epoch, row.first
        count = min(len(payload) // PURCHASE_BYTES, len(days)) if state.takes_money else 0
        seal_holds = self._keys.seal_key(terminal, epoch, state.suite).verifies
        tac_key = self._keys.card_keys.get
        cards, next_ids, entries, totals = books.cards, books.next_ids, books.entries, books.totals
        results, fresh, proofs = self._outcome.results, state.fresh, self._look_ups.fresh_proofs
        view = memoryview(payload)
        offset = total = 0
        for index in range(count):
            (
                kind, length, suite, version, of_epoch, _, of_terminal, of_sequence, _, _, running_count, running_sum,
                merchant, number, uid, key_version, amount, balance, counter, currency, _, proof, _, seal,
            ) = PURCHASE_RECORD.unpack_from(payload, offset)  # fmt: skip
            card = cards.get(number) or books.card(number)
            if (
                kind != RecordType.PURCHASE
                or length != PURCHASE_BYTES
                or version
                or (of_terminal, of_epoch, of_sequence, suite, currency)
                != (terminal, epoch, sequence, state.suite, self._currency)
                or not amount
                or card is None
                or card.uid != uid
                or card.kind != CardKind.AES
                or counter <= card.top_counter
                or not seal_holds(seal, view[offset : offset + SEALED_BYTES])
            ):
                break
            key = tac_key((key_version, uid))
            if key is None or not key.verifies(
                proof, _TAC.pack(kind, amount, currency, number, terminal, epoch, sequence, counter, balance)
            ):
                break
            trade_ms, day = row.trade_ms[index], days[index]
            result = _exception(card, counter, amount, balance, trade_ms)
            booked_on = booking_day(day, self._first_open_day, self._today)
            posting = next_ids["postings"]
            next_ids["postings"] = posting + 1
            posted = (
                posting, terminal, epoch, sequence, seal, kind, result, number, counter, amount, balance, merchant,
                running_count, running_sum, trade_ms, day, booked_on, self._position, row_id, index,
            )  # fmt: skip
            self._postings.append(posted)
            fresh[sequence] = proofs[number, counter] = posted
            entries.append((posting, MIRROR_BASE + number, booked_on, -amount))
            account = (MERCHANT_BASE + merchant, booked_on)
            totals[account] = totals.get(account, 0) + amount
            card.mirror_cents -= amount
            card.top_counter, card.top_balance_cents = counter, balance
            books.changed_cards[number] = card
            total += amount
            results.append(result)
            if result:
                self._list_exception(result, terminal, epoch, sequence, row_id)
            offset += PURCHASE_BYTES
            sequence += 1
        self._outcome.sum_cents += total
        self._posted_up_to(sequence - 1, row, state)
        return sequence - row.first, offset

    def _posted_up_to(self, last: int, row: PackedRow, state: TerminalState) -> None:
        """A row's purchases up to `last` are posted; those that had been quarantined are so no more."""
        state.highest = max(state.highest, last)
        for sequence in range(row.first, min(last, state.quarantined_to) + 1):
            at = (sequence - row.first) * PURCHASE_BYTES
            raw = row.payload[at : at + PURCHASE_BYTES]
            release_quarantined(self._books, state, sequence, raw, self._position)

    # -- the long way

    def _piece(self, piece: Piece, row: PackedRow, row_id: int, state: TerminalState, day: int) -> None:
        """Check format, seal and type of one record, and have it judged."""
        raw = piece.raw
        if piece.is_rest:
            self._unbooked(piece, row, row_id, state, PostingResult.QUARANTINED_FORMAT, "record cannot be followed")
            return
        checked = check_record(raw, state, piece.sequence, self._keys, self._currency, rules=self._rules)
        if isinstance(checked, Flaw):
            self._unbooked(piece, row, row_id, state, checked.result, checked.reason)
            return
        head = checked.head
        record = self._record(piece, row, row_id, state, day, head)
        result = self._judge.judge(record, checked.body)
        if result in QUARANTINED:
            self._unbooked(piece, row, row_id, state, result)
            return
        state.highest = max(state.highest, head.sequence)
        if head.sequence <= state.quarantined_to:
            release_quarantined(self._books, state, head.sequence, raw, self._position)
        self._result(result, row.terminal, row.epoch, head.sequence, row_id)

    def _record(
        self, piece: Piece, row: PackedRow, row_id: int, state: TerminalState, day: int, head: RecordHead
    ) -> Record:
        place = Place(self._position, row_id, piece.index)
        booked_on = booking_day(day, self._first_open_day, self._today)
        return Record(state, head, seal_of(piece.raw), place, row.trade_ms[piece.index], day, booked_on)

    def _unbooked(
        self,
        piece: Piece,
        row: PackedRow,
        row_id: int,
        state: TerminalState | None,
        result: PostingResult,
        reason: str | None = None,
    ) -> None:
        """Quarantine one record, or the rest of a row under its claimed range, with a result per claimed record."""
        last = row.last if piece.is_rest else piece.sequence
        trade_ms = row.trade_ms[piece.index]
        claim = Claim(row.terminal, row.epoch, piece.sequence, last, piece.raw, trade_ms)
        place = Place(self._position, row_id, piece.index)
        result = quarantine(self._books, state, claim, place, result, reason or REASONS[result], rules=self._rules)
        for sequence in range(piece.sequence, last + 1):
            self._result(result, row.terminal, row.epoch, sequence, row_id)

    # -- results

    def _result(self, result: int, terminal: int, epoch: int, sequence: int, row_id: int) -> None:
        self._outcome.results.append(result)
        if result not in UNLISTED:
            self._list_exception(result, terminal, epoch, sequence, row_id)

    def _list_exception(self, result: int, terminal: int, epoch: int, sequence: int, row_id: int) -> None:
        exception = ReceiptException(terminal, epoch, int(result), sequence, row_id - self._first_row)
        self._outcome.exceptions.append(exception)


def _exception(card: CardState, counter: int, amount: int, balance: int, trade_ms: int) -> int:
    """Result of a proved debit whose counter is above all seen of its card: posted, card state, or balance."""
    if card.status != ACTIVE and card.is_exception_at(trade_ms):
        return PostingResult.POSTED_CARD_STATE
    if card.mirror_cents < amount:
        return PostingResult.POSTED_BALANCE
    if counter == card.top_counter + 1 and card.top_balance_cents not in (None, balance + amount):
        return PostingResult.POSTED_BALANCE
    return PostingResult.POSTED
