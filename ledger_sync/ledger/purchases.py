"""The short way of a batch: plain purchases of AES cards above everything that stands for their terminal (R2–R4, R19).

Two steps. `check` looks at every record of a frame at once: format, identity, seal and card proof, nothing is booked.
`book` then books in order what was found good, as `judge` would, with less to ask: above the highest sequence posted
nothing can stand for the identity; above the highest counter seen of the card nothing can have come of what follows
it. A counter below that one, as backlogs of several terminals bring, is compared with its neighbours (`look_ups`).

Whatever does not fit is left to `judge`, which gives the same results. Under RULES_1 a frame did not come back to the
short way, and a late counter never took it: old batches are done again as they were done.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ledger_sync.ledger.accounts import MERCHANT_BASE
from ledger_sync.ledger.books import ACTIVE, Books, CardState, PostingRow, TerminalState
from ledger_sync.ledger.evidence import PURCHASE_BYTES
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps, Proof
from ledger_sync.ledger.proving import proof_exception
from protocol.codes import PostingResult, RecordType
from protocol.mac import MacKey, each_holds
from protocol.proofs import TAC_INPUT
from protocol.rows import PackedRow
from protocol.trade_time import booking_day

_RECORD: Final = struct.Struct("!6s2xQ12xIq" + "II8sIiIH2x8s" + "8x8s")
"""A purchase (docs/protocol.md §7, §7.2): kind ‖ length ‖ suite ‖ version ‖ epoch, terminal ‖ sequence, counts;
merchant, card, UID ‖ key version, amount, balance, counter, currency, proof; seal."""
_START: Final = struct.Struct("!BBBBH")
_SEALED: Final = struct.Struct(f"!{PURCHASE_BYTES - 8}s8s")
_CARD_NUMBER: Final = struct.Struct(f"!44xI{PURCHASE_BYTES - 48}x")
assert _RECORD.size == _SEALED.size == _CARD_NUMBER.size == PURCHASE_BYTES
SEQUENCE_BITS: Final = 32

POSTED: Final = int(PostingResult.POSTED)
CARD_STATE: Final = int(PostingResult.POSTED_CARD_STATE)
BALANCE: Final = int(PostingResult.POSTED_BALANCE)


@dataclass(slots=True)
class Place:
    """What all records of a batch share."""

    position: int
    currency: int
    first_open_day: int
    today: int
    is_set_based: bool
    """Whether a frame goes on the short way behind what had to be judged; under RULES_1 it did not (`rules`)."""


Good = list[tuple[tuple[Any, ...], CardState]]
"""Records in order of sequence whose proofs hold, taken apart by `_RECORD`, each with its card."""


@dataclass(slots=True)
class Frame:
    """A row of records, with its place, its terminal and the trade day of each."""

    row: PackedRow
    row_id: int
    state: TerminalState
    days: list[int]


class Purchases:
    """Of one transaction."""

    def __init__(self, books: Books, look_ups: LookUps, keys: LedgerKeys, place: Place) -> None:
        self._books = books
        self._look_ups = look_ups
        self._keys = keys
        self._place = place
        self._booking_days: dict[int, int] = {}
        self.late: list[tuple[int, int]] = []
        """(card, counter) of what `check` found below the highest counter seen of its card."""
        self.sum_cents = 0

    def load_cards(self, rows: list[PackedRow]) -> None:
        """Have all cards at hand that the frames of a batch may name."""
        payload = b"".join([row.payload for row in rows if not len(row.payload) % PURCHASE_BYTES])
        self._books.load_cards({number for (number,) in _CARD_NUMBER.iter_unpack(payload)})

    def check(self, row: PackedRow, state: TerminalState, *, index: int = 0, offset: int = 0) -> Good:
        """The leading purchases of a row, from record `index` at `offset`, whose seals and card proofs hold."""
        count = min((len(row.payload) - offset) // PURCHASE_BYTES, len(row.trade_ms) - index)
        if count < 1 or not state.takes_money:
            return []
        payload = row.payload[offset : offset + count * PURCHASE_BYTES]
        start = _START.pack(RecordType.PURCHASE, PURCHASE_BYTES, state.suite, 0, row.epoch)
        terminal, epoch, sequence = row.terminal, row.epoch, row.first + index
        identity = terminal << SEQUENCE_BITS | sequence
        currency_here, cards = self._place.currency, self._books.cards
        found: Good = []
        proofs: list[tuple[MacKey, bytes, bytes]] = []
        pack, keys, kind = TAC_INPUT.pack, self._keys.card_keys, int(RecordType.PURCHASE)
        for record in _RECORD.iter_unpack(payload):
            starts, named, _, _, _, number, uid, amount, balance, counter, currency, proof, _ = record
            card = cards.get(number)
            if (
                starts != start
                or named != identity
                or currency != currency_here
                or not amount
                or card is None
                or not uid.startswith(card.aes_uid)
            ):
                break
            key = keys.recent.get(uid) or keys.get(uid)
            if key is None:
                break
            if counter > card.seen_counter:
                card.seen_counter = counter
            else:
                self.late.append((number, counter))
            facts = pack(kind, amount, currency, number, terminal, epoch, sequence, counter, balance)
            proofs.append((key, facts, proof))
            found.append((record, card))
            sequence += 1
            identity += 1
        return found[: self._good(payload, state, proofs)]

    def _good(self, payload: bytes, state: TerminalState, proofs: list[tuple[MacKey, bytes, bytes]]) -> int:
        """How many leading records have both proofs; usually all, which costs one comparison of each kind."""
        key = self._keys.seal_key(state.terminal, state.epoch, state.suite)
        if key.all_hold(islice(_SEALED.iter_unpack(payload), len(proofs))) and each_holds(proofs):
            return len(proofs)
        good = 0
        for sealed, proof in zip(_SEALED.iter_unpack(payload), proofs, strict=False):
            if not (key.all_hold([sealed]) and each_holds([proof])):
                break
            good += 1
        return good

    def book(self, frame: Frame, good: Good, *, index: int, results: bytearray) -> int:
        """Book records of `check` from record `index` of the row; how many. The next one, if any, is for `judge`."""
        books, look_ups, position = self._books, self._look_ups, self._place.position
        row, row_id = frame.row, frame.row_id
        late_cards, changed, totals = look_ups.late_cards, books.changed_cards, books.totals
        terminal, epoch, sequence = row.terminal, row.epoch, row.first + index
        posting = first = books.next_id("postings", "posting")
        posted: list[PostingRow] = []
        total = 0
        for (record, card), trade_ms, day in zip(good, row.trade_ms[index:], frame.days[index:], strict=False):
            _, _, count, running_sum, merchant, number, _, amount, balance, counter, _, _, seal = record
            top = card.top_counter
            if counter <= top or (counter == top + 1 and card.top_balance_cents is None):
                if not self._place.is_set_based:
                    break
                late = self._late(card, Proof(counter, (terminal, epoch, sequence), amount, balance), trade_ms)
                if late is None:
                    break
                result = late
            elif card.status != ACTIVE and card.is_exception_at(trade_ms):
                result = CARD_STATE
            elif card.mirror_cents < amount or (counter == top + 1 and card.top_balance_cents != balance + amount):
                result = BALANCE
            else:
                result = POSTED
            if counter >= top:
                card.top_balance_cents = None if counter == top else balance  # used twice: nobody knows which is true
                card.top_counter = counter
            booked_on = self._booking_days.get(day) or self._booking_day(day)
            one = (
                posting, terminal, epoch, sequence, seal, 1, result, number, counter, amount, balance, merchant,
                count, running_sum, trade_ms, day, booked_on, position, row_id, index,
            )  # fmt: skip
            posted.append(one)
            if number in late_cards:
                look_ups.note_late(one)
            account = (MERCHANT_BASE + merchant, booked_on)
            totals[account] = totals.get(account, 0) + amount
            card.mirror_cents -= amount
            changed[number] = card
            results.append(result)
            total += amount
            posting += 1
            sequence += 1
            index += 1
        books.next_ids["postings"] = posting
        if posted:
            books.postings += posted
            books.book_purchases(first, posting - 1, total)
            look_ups.note_purchases(posted)
            self.sum_cents += total
        return len(posted)

    def _late(self, card: CardState, proof: Proof, trade_ms: int) -> int | None:
        """Result of a proof below the highest counter seen of its card; None: for `judge`, a refund may wait for it."""
        if self._look_ups.is_claimed(card.number, proof.identity[2]):
            return None
        return proof_exception(self._look_ups, card, RecordType.PURCHASE, proof, trade_ms) or POSTED

    def _booking_day(self, day: int) -> int:
        found = self._booking_days[day] = booking_day(day, self._place.first_open_day, self._place.today)
        return found
