"""What a report tells beside totals and open items: exceptions by name, other moneys, events, holes in card counters.

refund_exception     a refund with valid proofs whose purchase is not there or does not allow it (R21)
load_without_order   a load with valid proofs and no order (R22)
load_contradiction   an order that a card (or two persons) says was executed, and its station that it was not
meal_twice           a booking collected or cancelled although another proof did so first (R23); moves nothing
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from ledger_sync.ledger.gaps import ITEMS_LISTED_MAX, masked
from protocol.codes import (
    AbortReason,
    AccessReason,
    AlarmKind,
    DoorEventKind,
    PowerEvent,
    RecordType,
    RefusalReason,
)

EXCEPTION_KINDS: Final = ("refund_exception", "load_without_order", "load_contradiction", "meal_twice")
_EXCEPTIONS: Final = """
SELECT CASE type WHEN 3 THEN 'refund_exception' WHEN 4 THEN 'load_without_order' ELSE 'meal_twice' END,
       terminal, epoch, sequence, card, reference, amount_cents, merchant, trade_ms
FROM claims WHERE is_met = 0
UNION ALL
SELECT 'load_contradiction', p.terminal, p.epoch, p.sequence, o.card, o.serial, o.amount_cents, 0, p.trade_ms
FROM load_orders o JOIN postings p ON p.posting = o.refused_by WHERE o.state = 'executed'
ORDER BY 9, 2, 3, 4
"""
APART: Final = """
WITH spent AS (
    SELECT s.type, s.merchant, s.amount_cents FROM decisions d JOIN suspense s ON s.posting = d.item
    WHERE d.subject = 'suspense' AND d.state = 'confirmed' AND d.outcome = 'spent'
), parts (what, merchant, cents) AS (
    SELECT 'bookings', merchant, amount_cents FROM postings WHERE type = 32 AND result IN (0, 2, 3, 4, 5)
    UNION ALL SELECT 'bookings', merchant, amount_cents FROM completions WHERE type = 32 AND outcome <> 'nothing new'
    UNION ALL SELECT 'bookings', merchant, amount_cents FROM spent WHERE type = 32
    UNION ALL SELECT CASE type WHEN 3 THEN iif(is_met, 'refunds', 'refund_exceptions') WHEN 4 THEN 'loads'
                     WHEN 33 THEN iif(is_met, 'cancellations', 'cancelled_twice')
                     ELSE iif(is_met, 'collections', 'collected_twice') END, merchant, amount_cents FROM claims
    UNION ALL SELECT iif(type = 33, 'cancellations', 'collections'), merchant, amount_cents FROM spent
    WHERE type IN (33, 34)
    UNION ALL SELECT 'doubts_proved', c.merchant, c.amount_cents * ((c.type = 34) - 1) FROM completions c
    JOIN postings p ON p.posting = c.record WHERE p.type = 8
    UNION ALL SELECT 'doubts_spent', merchant, amount_cents * ((type = 34) - 1) FROM spent WHERE type IN (3, 33, 34)
)
SELECT what, merchant, count(*), sum(cents) FROM parts GROUP BY 1, 2 ORDER BY 1, 2
"""
"""What comes between records and merchants, per merchant (docs/money.md, "Agreement")."""
APART_KINDS: Final = (
    "bookings", "collections", "collected_twice", "cancellations", "cancelled_twice", "refunds", "refund_exceptions",
    "loads", "doubts_proved", "doubts_spent",
)  # fmt: skip
HOLES: Final = """
WITH proofs AS (
    SELECT p.card, p.counter, min(p.trade_ms) AS trade_ms FROM postings p JOIN cards c ON c.number = p.card
    WHERE p.counter IS NOT NULL AND (c.kind IS NULL OR c.kind = 1) GROUP BY p.card, p.counter
), neighbours AS (
    SELECT card, counter, trade_ms, coalesce(lag(counter) OVER (PARTITION BY card ORDER BY counter), 0) AS before
    FROM proofs
)
SELECT card, before + 1, counter - 1, trade_ms FROM neighbours WHERE counter > before + 1 ORDER BY trade_ms, card
"""
"""Counters of AES cards that no proof has shown, below one that did, with the time of the proof above."""

_CODES: Final[dict[int, Any]] = {
    RecordType.ABORTED: AbortReason,
    RecordType.REFUSAL: RefusalReason,
    RecordType.ACCESS_GRANTED: AccessReason,
    RecordType.ACCESS_DENIED: AccessReason,
    RecordType.DOOR_EVENT: DoorEventKind,
    RecordType.POWER: PowerEvent,
    RecordType.ALARM: AlarmKind,
}


def exceptions(connection: apsw.Connection, *, now_ms: int, with_items: bool) -> dict[str, dict[str, Any]]:
    """Per kind: how many, cents, age of the oldest, and the items; they stay until what explains them comes."""
    found: dict[str, dict[str, Any]] = {
        kind: {"items": 0, "amount_cents": 0, "oldest_ms": None, "age_ms": 0, "listed": []} for kind in EXCEPTION_KINDS
    }
    for kind, terminal, epoch, sequence, card, reference, cents, merchant, since in connection.execute(_EXCEPTIONS):
        one = found[kind]
        one["items"] += 1
        one["amount_cents"] += cents
        if one["oldest_ms"] is None:
            one["oldest_ms"], one["age_ms"] = since, max(0, now_ms - since)
        if len(one["listed"]) < ITEMS_LISTED_MAX:
            one["listed"].append({
                "terminal": terminal, "epoch": epoch, "sequence": sequence, "card": masked(card),
                "reference": reference, "amount_cents": cents, "merchant": merchant, "since_ms": since,
            })  # fmt: skip
    if not with_items:
        for one in found.values():
            del one["listed"]
    return found


def apart(connection: apsw.Connection) -> dict[str, dict[str, Any]]:
    """Money that records count and no merchant has, or the reverse, by kind and merchant."""
    found: dict[str, dict[str, Any]] = {
        kind: {"items": 0, "amount_cents": 0, "by_merchant": {}} for kind in APART_KINDS
    }
    for kind, merchant, count, cents in connection.execute(APART):
        one = found[kind]
        one["items"] += count
        one["amount_cents"] += cents
        one["by_merchant"][str(merchant)] = cents
    return found


def events(connection: apsw.Connection) -> dict[str, Any]:
    """What moves no money, counted by type and by what it says; `events_lost`: those that found no room (R12)."""
    by_type: dict[str, dict[str, int]] = {}
    lost = 0
    for type_, code, records, count in connection.execute(
        "SELECT type, code, sum(records), sum(events) FROM event_totals GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        name = _name(RecordType, type_)
        by_type.setdefault(name, {})[_name(_CODES.get(type_), code)] = records
        if type_ == RecordType.EVENTS_LOST:
            lost += count
    return {"by_type": by_type, "records": sum(sum(one.values()) for one in by_type.values()), "events_lost": lost}


def _name(codes: Any, value: int) -> str:
    """A code by name; by number where this program has none for it."""
    try:
        return str(codes(value).name.lower())
    except (TypeError, ValueError):
        return str(value)


def card_holes(connection: apsw.Connection, *, now_ms: int, with_items: bool) -> dict[str, Any]:
    """Proofs that a card has made and nobody has brought: a record on its way, or a terminal that is gone (R2)."""
    items = counters = 0
    oldest: int | None = None
    listed: list[dict[str, Any]] = []
    for card, first, last, since in connection.execute(HOLES):
        items += 1
        counters += last - first + 1
        oldest = since if oldest is None else oldest
        if len(listed) < ITEMS_LISTED_MAX:
            listed.append({
                "card": masked(card), "first": first, "last": last, "since_ms": since, "age_ms": max(0, now_ms - since),
            })  # fmt: skip
    age_ms = 0 if oldest is None else max(0, now_ms - oldest)
    found: dict[str, Any] = {"items": items, "counters": counters, "oldest_ms": oldest, "age_ms": age_ms}
    return found | ({"listed": listed} if with_items else {})
