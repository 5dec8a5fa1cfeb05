"""What two persons can decide, listed: items of suspense and quarantine with their decisions; read-only."""

from __future__ import annotations

from typing import Any, Final

import apsw

from ledger_sync.ledger.gaps import masked

ITEMS_LISTED_MAX: Final = 10_000
"""More than people can decide by hand."""

_SUSPENSE: Final = """
SELECT i.posting, i.kind, i.terminal, i.epoch, i.sequence, i.card, i.amount_cents, i.merchant, i.trade_ms,
       i.resolved_position IS NULL,
       EXISTS (SELECT 1 FROM postings p WHERE p.card = i.card AND p.counter = i.counter_hint + 1),
       d.outcome, d.state, d.reason, d.proposed_by, d.closed_by
FROM suspense i LEFT JOIN decisions d ON d.decision = (
    SELECT max(o.decision) FROM decisions o
    WHERE o.subject = 'suspense' AND o.item = i.posting AND o.state <> 'withdrawn')
WHERE ?1 OR (i.resolved_position IS NULL AND coalesce(d.state, '') <> 'confirmed')
ORDER BY i.trade_ms, i.posting LIMIT ?2
"""
_QUARANTINE: Final = """
SELECT i.item, i.terminal, i.epoch, i.sequence, i.last_sequence, i.type, i.result, i.reason, i.amount_cents,
       i.merchant, i.trade_ms, i.resolved_position IS NULL, d.outcome, d.state, d.reason, d.proposed_by, d.closed_by
FROM quarantine i LEFT JOIN decisions d ON d.decision = (
    SELECT max(o.decision) FROM decisions o
    WHERE o.subject = 'quarantine' AND o.item = i.item AND o.state <> 'withdrawn')
WHERE ?1 OR (i.resolved_position IS NULL AND coalesce(d.state, '') <> 'confirmed')
ORDER BY i.trade_ms, i.item LIMIT ?2
"""


def suspense_items(connection: apsw.Connection, *, now_ms: int, everything: bool = False) -> list[dict[str, Any]]:
    """Oldest first; `everything`: also what was decided or proved. Cards are masked."""
    found = []
    for row in connection.execute(_SUSPENSE, (everything, ITEMS_LISTED_MAX)):
        item, kind, terminal, epoch, sequence, card, cents, merchant, since, is_unproved, is_used = row[:11]
        found.append({
            "item": item, "kind": kind, "terminal": terminal, "epoch": epoch, "sequence": sequence,
            "card": masked(card), "amount_cents": cents, "merchant": merchant, "since_ms": since,
            "age_ms": max(0, now_ms - since), "is_proved": not is_unproved,
            "hint": "its counter was used by another debit: probably not spent" if is_used and is_unproved else "",
            "decision": _decision(row[11:]),
        })  # fmt: skip
    return found


def quarantine_items(connection: apsw.Connection, *, now_ms: int, everything: bool = False) -> list[dict[str, Any]]:
    """Oldest first; `everything`: also what was rejected or posted after all."""
    found = []
    for row in connection.execute(_QUARANTINE, (everything, ITEMS_LISTED_MAX)):
        item, terminal, epoch, first, last, kind, result, reason, cents, merchant, since, is_unposted = row[:12]
        found.append({
            "item": item, "terminal": terminal, "epoch": epoch, "sequence": first, "last_sequence": last,
            "type": kind, "result": result, "reason": reason, "amount_cents": cents, "merchant": merchant,
            "since_ms": since, "age_ms": max(0, now_ms - since), "is_posted": not is_unposted,
            "decision": _decision(row[12:]),
        })  # fmt: skip
    return found


def _decision(row: tuple[Any, ...]) -> dict[str, Any] | None:
    if row[0] is None:
        return None
    return dict(zip(("outcome", "state", "reason", "proposed_by", "closed_by"), row, strict=True))
