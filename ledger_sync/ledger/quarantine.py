"""Quarantine: records whose proof, format, type or terminal does not hold; kept raw, under their identity (R5, R19)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from ledger_sync.ledger.books import Books, TerminalState
from ledger_sync.ledger.decisions import end_by_posting
from ledger_sync.ledger.rules import judges
from protocol.codes import PostingResult
from protocol.errors import Malformed
from protocol.record_bodies import Unknown
from protocol.records import MONEY_TYPES, counted_cents, decode_body


@dataclass(slots=True)
class Place:
    """Where a record stands in the evidence."""

    position: int
    row_id: int
    index: int


@dataclass(slots=True)
class Claim:
    """What a record that cannot be booked says it is; nothing in it is proved.

    A baseline or tombstone is no record: its claim is empty (`last` = `first` - 1), so it covers no sequence and
    hides no gap.
    """

    terminal: int
    epoch: int
    first: int
    last: int
    raw: bytes
    trade_ms: int

    @property
    def is_record(self) -> bool:
        return self.last >= self.first

    @property
    def type(self) -> int | None:
        return self.raw[0] if self.raw and self.is_record else None


def quarantine(
    books: Books, state: TerminalState | None, claim: Claim, place: Place, result: PostingResult, reason: str, *,
    rules: int,
) -> PostingResult:  # fmt: skip
    """Keep the raw record; returns `result`, or DUPLICATE when these very bytes are kept already."""
    amount, merchant = stated_money(claim.raw, rules) if claim.is_record else (0, None)
    key = books.next_id("quarantine", "item")
    books.connection.execute(
        "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            key,
            claim.terminal,
            claim.epoch,
            claim.first,
            claim.last,
            claim.type,
            int(result),
            reason,
            amount,
            merchant,
            claim.trade_ms,
            sha256(claim.raw).digest(),
            claim.raw,
            place.position,
            place.row_id,
            place.index,
        ),
    )
    if not books.connection.changes():
        books.release_id("quarantine", key)
        return PostingResult.DUPLICATE
    if state is not None:
        state.quarantined_to = max(state.quarantined_to, claim.last)
        books.touched_terminals[state.id] = state
    return result


def release_quarantined(books: Books, state: TerminalState, sequence: int, raw: bytes, position: int) -> None:
    """The record that was quarantined has been posted after all: its open item ends."""
    item = books.connection.execute(
        "UPDATE quarantine SET resolved_position = ? WHERE terminal = ? AND epoch = ? AND sequence = ? AND digest = ?"
        " AND resolved_position IS NULL RETURNING item",
        (position, state.terminal, state.epoch, sequence, sha256(raw).digest()),
    ).get
    if item is not None:
        end_by_posting(books, item)


def stated_money(raw: bytes, rules: int) -> tuple[int | None, int | None]:
    """(cents, merchant) that an unproved record states, credits negative; None where it cannot be read."""
    if raw and not judges(rules, raw[0]):
        return 0, None
    try:
        body = decode_body(raw)
    except Malformed:
        return None, None
    if isinstance(body, Unknown):
        return (None, None) if raw[0] in MONEY_TYPES else (0, None)
    cents = counted_cents(body)
    return cents, getattr(body, "merchant", 0) if cents else None
