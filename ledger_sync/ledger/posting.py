"""Posting one batch: rows taken apart, both proofs checked, money booked, a result byte per record (R2–R4, R10, R19).

Purchases above the highest sequence posted of their terminal take the short way of `purchases`: first all proofs of the
batch are checked, then what is to be asked of the file is asked with one query for all, then it is booked in order.
Everything else is judged in `judge`, between them, at its place. The caller owns the transaction.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ledger_sync.ledger.books import Books, TerminalState
from ledger_sync.ledger.checks import QUARANTINED, REASONS, Flaw, check_record
from ledger_sync.ledger.evidence import PURCHASE_BYTES, Piece, piece_at
from ledger_sync.ledger.judge import Judge, Record
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.notes import note
from ledger_sync.ledger.purchases import Frame, Good, Purchases
from ledger_sync.ledger.purchases import Place as PlaceOfBatch
from ledger_sync.ledger.quarantine import Claim, Place, quarantine, release_quarantined
from ledger_sync.ledger.rules import RULES_1
from protocol.codes import PostingResult, RowKind
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


_NOTES: Final = (RowKind.BASELINE, RowKind.TOMBSTONE)
"""Rows that are no records."""


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
        place = PlaceOfBatch(position, currency, first_open_day, self._today, rules > RULES_1)
        self._purchases = Purchases(books, self._look_ups, keys, place)
        self._outcome = Outcome()

    def post(self, rows: list[Row]) -> Outcome:
        """Post all rows; what the books keep of them is still to be flushed."""
        decoded = [_decoded(packed) for _, packed in rows]
        self._purchases.load_cards([row for row in decoded if isinstance(row, PackedRow)])
        checked = [self._checked(row) for row in decoded]
        self._look_ups.prefetch_proofs(self._purchases.late)
        for (row_id, packed), row, good in zip(rows, decoded, checked, strict=True):
            if isinstance(row, Malformed):
                self._broken_row(row_id, bytes(packed), str(row))
            elif row.kind in _NOTES:
                result = note(self._books, self._keys, row, Place(self._position, row_id, 0))
                self._result(result, row.terminal, row.epoch, row.first, row_id)
            else:
                self._records(row, row_id, good)
        self._outcome.sum_cents = self._judge.sum_cents + self._purchases.sum_cents
        return self._outcome

    # -- rows

    def _checked(self, row: PackedRow | Malformed) -> Good:
        if isinstance(row, Malformed) or row.kind in _NOTES:
            return []
        state = self._books.terminals.get((row.terminal, row.epoch))
        if state is None or row.first <= state.highest:
            return []
        return self._purchases.check(row, state)

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

    def _records(self, row: PackedRow, row_id: int, good: Good) -> None:
        """The records of a row in order: as many as possible the short way, each other one by itself."""
        state = self._books.terminals.get((row.terminal, row.epoch))
        days = trade_days(row.trade_ms, self._utc_offset_ms)
        if state is not None:
            self._books.touched_terminals[state.id] = state
            if row.first <= max(state.highest, state.completed_to):
                self._look_ups.prefetch(state, row.first, row.last)
                good = []
        index = offset = 0
        while index < len(row.trade_ms):
            if state is not None and good:
                booked = self._short(Frame(row, row_id, state, days), good, index, offset)
                index += booked
                offset += booked * PURCHASE_BYTES
                if index == len(row.trade_ms):
                    return
            piece = piece_at(row, index, offset)
            self._piece(piece, row, row_id, state, days[index])
            if piece.is_rest:
                return
            index += 1
            offset += len(piece.raw)
            good = []
            is_above = state is not None and row.first + index > max(state.highest, state.completed_to)
            if state is not None and is_above and self._rules > RULES_1:
                good = self._purchases.check(row, state, index=index, offset=offset)

    def _short(self, frame: Frame, good: Good, index: int, offset: int) -> int:
        """Book leading purchases from `index` on; those that had been quarantined are so no more."""
        results = self._outcome.results
        before = len(results)
        booked = self._purchases.book(frame, good, index=index, results=results)
        if not booked:
            return 0
        row, state = frame.row, frame.state
        first, last = row.first + index, row.first + index + booked - 1
        if any(results[before:]):
            for sequence, result in enumerate(results[before:], first):
                if result not in UNLISTED:
                    self._list_exception(result, row.terminal, row.epoch, sequence, frame.row_id)
        state.highest = max(state.highest, last)
        for sequence in range(first, min(last, state.quarantined_to) + 1):
            at = offset + (sequence - first) * PURCHASE_BYTES
            raw = row.payload[at : at + PURCHASE_BYTES]
            release_quarantined(self._books, state, sequence, raw, self._position)
        return booked

    # -- the long way

    def _piece(self, piece: Piece, row: PackedRow, row_id: int, state: TerminalState | None, day: int) -> None:
        """Check format, seal and type of one record, and have it judged."""
        raw = piece.raw
        if state is None:
            self._unbooked(piece, row, row_id, None, PostingResult.QUARANTINED_UNKNOWN_TERMINAL)
            return
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


def _decoded(packed: bytes | memoryview) -> PackedRow | Malformed:
    try:
        return decode(packed)
    except Malformed as error:
        return error


@contextmanager
def collector_paused() -> Iterator[None]:
    """A batch makes ten thousand tuples that live to its end, and no cycle: each collection within it would walk over
    all cards and keys for nothing, a tenth of the batch's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
