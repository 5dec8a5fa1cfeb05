"""Reports: what the ledger holds, in one JSON-able object, from a connection that may be read-only.

Two views must meet (docs/money.md, "Agreement"): records (what terminals recorded and the ledger holds, by terminal
and day, credits negative) and money (what accounts say). `records + open items + rejected = terminals`, and
`merchants + booked meals + refund exceptions + suspense + what two persons gave back or took = records + completions
booked ahead of their records + loads + cancellations that moved nothing`, forks apart.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from ledger_sync.ledger.accounts import SOURCES, SUBJECT_MASK, AccountKind
from ledger_sync.ledger.decisions import NOT_SPENT, SPENT
from ledger_sync.ledger.exceptions import apart, card_holes, events, exceptions
from ledger_sync.ledger.gaps import COUNTED_CENTS, open_items, rejected_items, summary
from protocol.codes import PostingResult

RECORDS: Final = f"""
SELECT terminal, epoch, trade_day, merchant, count(*), sum(cents) FROM (
    SELECT terminal, epoch, sequence, min(posting), trade_day, coalesce(merchant, 0) AS merchant,
           {COUNTED_CENTS} AS cents
    FROM postings GROUP BY terminal, epoch, sequence
) WHERE cents <> 0 GROUP BY terminal, epoch, trade_day, merchant ORDER BY terminal, epoch, trade_day, merchant
"""  # noqa: S608 - both parts are constants
"""Records held that count money, one per identity (the first that came), credits negative: what terminals and spools
count too. A load names no merchant: 0."""

DOUBLE_POSTED: Final = """
WITH booked AS (
    SELECT terminal, epoch, sequence, card, counter, result, type FROM postings
    WHERE type IN (1, 3, 4, 32, 33, 34) AND result IN (0, 2, 3, 4, 5, 10, 12, 13, 14)
    UNION ALL
    SELECT c.terminal, c.epoch, c.sequence, c.card, c.counter, p.result, c.type
    FROM completions c JOIN postings p ON p.posting = c.posting WHERE c.outcome <> 'nothing new'
), greys AS (
    SELECT terminal, epoch, sequence, card FROM suspense WHERE kind = 'grey' AND resolved_position IS NULL
)
SELECT count(*) FROM (
    SELECT terminal, epoch, sequence FROM booked WHERE result <> 5
    GROUP BY terminal, epoch, sequence HAVING count(*) > 1
    UNION
    SELECT terminal, epoch, sequence FROM booked WHERE counter IS NOT NULL
    GROUP BY terminal, epoch, sequence, card, counter HAVING count(*) > 1
    UNION
    SELECT terminal, epoch, sequence FROM greys GROUP BY terminal, epoch, sequence HAVING count(*) > 1
    UNION
    SELECT terminal, epoch, sequence FROM (SELECT terminal, epoch, sequence, card FROM booked
    WHERE type IN (1, 32) INTERSECT SELECT terminal, epoch, sequence, card FROM greys)
    UNION
    SELECT posting, 0, 0 FROM entries WHERE posting IS NOT NULL GROUP BY posting HAVING count(*) > 1
)
"""
"""Identities whose money was booked more than once (forks apart), card proofs that moved it more than once (forks too),
greys still set aside beside a booking of their card, and records with more than one entry."""


def report(connection: apsw.Connection, *, now_ms: int, with_items: bool = True) -> dict[str, Any]:
    """Totals, open items, counts, conservation and chain; amounts in cents. One read transaction."""
    connection.execute("BEGIN")
    try:
        return _report(connection, now_ms=now_ms, with_items=with_items)
    finally:
        connection.execute("ROLLBACK")


def _report(connection: apsw.Connection, *, now_ms: int, with_items: bool) -> dict[str, Any]:
    items = summary(open_items(connection), now_ms=now_ms)
    if not with_items:
        for one in items.values():
            del one["listed"]
    return {
        **_chain(connection),
        "at_ms": now_ms,
        "counts": _counts(connection),
        "records": _records(connection),
        "merchants": _merchants(connection),
        "merchant_days": _merchant_days(connection),
        "conservation": conservation(connection),
        "open_items": items,
        "exceptions": exceptions(connection, now_ms=now_ms, with_items=with_items),
        "apart": apart(connection),
        "events": events(connection),
        "card_holes": card_holes(connection, now_ms=now_ms, with_items=with_items),
        "decided": _decided(connection),
        "forks": connection.execute("SELECT count(*) FROM forks").get,
        "double_posted": connection.execute(DOUBLE_POSTED).get,
    }


def _chain(connection: apsw.Connection) -> dict[str, Any]:
    site, generation, day = connection.execute("SELECT site, generation, first_open_day FROM meta").fetchone()  # type: ignore[misc]
    last: tuple[Any, ...] | None = connection.execute(
        "SELECT position, hex(chain) FROM batches ORDER BY position DESC LIMIT 1"
    ).fetchone()
    position, chain = (0, "00" * 32) if last is None else last
    operation = connection.execute("SELECT coalesce(max(operation), 0) FROM operations").get
    return {
        "site": site, "generation": generation, "first_open_day": day, "position": position,
        "chain": chain.lower(), "operation": operation,
    }  # fmt: skip


def _counts(connection: apsw.Connection) -> dict[str, Any]:
    row: tuple[Any, ...] = connection.execute(
        "SELECT count(*), coalesce(sum(posted), 0), coalesce(sum(duplicates), 0), coalesce(sum(quarantined), 0),"
        " coalesce(sum(sum_cents), 0), coalesce(sum(length(results)), 0) FROM batches"
    ).fetchone()  # type: ignore[assignment]
    batches, posted, duplicates, quarantined, cents, results = row
    by_result = {
        PostingResult(result).name.lower(): count
        for result, count in connection.execute("SELECT result, count(*) FROM postings GROUP BY result ORDER BY 1")
    }
    return {
        "batches": batches, "results": results, "posted": posted, "duplicates": duplicates,
        "quarantined": quarantined, "posted_cents": cents, "postings_by_result": by_result,
        "identities": connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM postings GROUP BY terminal, epoch, sequence)"
        ).get,
        "cards": connection.execute("SELECT count(*) FROM cards WHERE status <> 'unknown'").get,
        "cards_unknown": connection.execute("SELECT count(*) FROM cards WHERE status = 'unknown'").get,
        "terminals": connection.execute("SELECT count(*) FROM terminals").get,
        "by_type": {
            str(type_): count
            for type_, count in connection.execute(
                "SELECT type, count(*) FROM (SELECT type, min(posting) FROM postings"
                " GROUP BY terminal, epoch, sequence) GROUP BY type ORDER BY type"
            )
        },
    }  # fmt: skip


def _records(connection: apsw.Connection) -> dict[str, Any]:
    by_day: dict[tuple[int, int, int], list[int]] = {}
    by_merchant: dict[int, list[int]] = {}
    count = cents = 0
    for terminal, epoch, day, merchant, number, amount in connection.execute(RECORDS):
        for totals in (by_day.setdefault((terminal, epoch, day), [0, 0]), by_merchant.setdefault(merchant, [0, 0])):
            totals[0] += number
            totals[1] += amount
        count += number
        cents += amount
    return {
        "count": count,
        "amount_cents": cents,
        "by_merchant": [
            {"merchant": merchant, "count": number, "amount_cents": amount}
            for merchant, (number, amount) in sorted(by_merchant.items())
        ],
        "by_terminal_day": [
            {"terminal": terminal, "epoch": epoch, "trade_day": day, "count": number, "amount_cents": amount}
            for (terminal, epoch, day), (number, amount) in sorted(by_day.items())
        ],
    }


def _decided(connection: apsw.Connection) -> dict[str, Any]:
    """What two persons have decided and no proof has reversed, and what waits for the second person."""
    found: dict[str, dict[str, Any]] = {
        name: {"items": 0, "amount_cents": 0, "grey_cents": 0, "by_merchant": {}} for name in (SPENT, NOT_SPENT)
    }
    for outcome, merchant, count, cents, grey_cents in connection.execute(
        "SELECT d.outcome, s.merchant, count(*), sum(s.amount_cents),"
        " sum(iif(s.kind IN ('grey', 'over_limit'), s.amount_cents, 0))"
        " FROM decisions d JOIN suspense s ON s.posting = d.item"
        " WHERE d.subject = 'suspense' AND d.state = 'confirmed' AND s.kind <> 'doubt' GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        one = found[outcome]
        one["items"] += count
        one["amount_cents"] += cents
        one["grey_cents"] += grey_cents
        one["by_merchant"][str(merchant)] = grey_cents
    rejected: dict[str, Any] = {"items": 0, "sequences": 0, "amount_cents": 0, "amount_unknown": 0, "by_merchant": {}}
    for item in rejected_items(connection):
        rejected["items"] += 1
        rejected["sequences"] += item.count
        rejected["amount_cents"] += item.amount_cents or 0
        rejected["amount_unknown"] += item.amount_cents is None
        merchant = str(item.merchant or 0)
        rejected["by_merchant"][merchant] = rejected["by_merchant"].get(merchant, 0) + (item.amount_cents or 0)
    return {
        "spent": found[SPENT],
        "not_spent": found[NOT_SPENT],
        "rejected": rejected,
        "proposed": connection.execute("SELECT count(*) FROM decisions WHERE state = 'proposed'").get,
        "doubts": connection.execute(
            "SELECT count(*) FROM decisions d JOIN suspense s ON s.posting = d.item"
            " WHERE d.subject = 'suspense' AND d.state = 'confirmed' AND s.kind = 'doubt'"
        ).get,
        "loads": connection.execute(
            "SELECT count(*) FROM decisions WHERE subject = 'load' AND state = 'confirmed'"
        ).get,
        "reversed": connection.execute("SELECT count(*) FROM decisions WHERE state = 'reversed'").get,
    }


def _merchants(connection: apsw.Connection) -> list[dict[str, int]]:
    rows = connection.execute(
        "SELECT account, balance_cents FROM accounts WHERE account >> 32 = ? ORDER BY account",
        (int(AccountKind.MERCHANT),),
    )
    return [{"merchant": account & SUBJECT_MASK, "balance_cents": cents} for account, cents in rows]


def _merchant_days(connection: apsw.Connection) -> list[dict[str, int]]:
    """What was cleared to each merchant per booking day (清分)."""
    rows = connection.execute(
        "SELECT account, booking_day, sum(amount_cents) FROM entries WHERE account >> 32 = ?"
        " GROUP BY 2, 1 ORDER BY 2, 1",
        (int(AccountKind.MERCHANT),),
    )
    return [
        {"merchant": account & SUBJECT_MASK, "booking_day": day, "amount_cents": cents} for account, day, cents in rows
    ]


def conservation(connection: apsw.Connection) -> dict[str, int]:
    """Both sides of R18 by kind of account, from balances; `difference_cents` must be 0."""
    sums = dict.fromkeys(AccountKind, 0)
    for kind, cents in connection.execute("SELECT account >> 32, sum(balance_cents) FROM accounts GROUP BY 1"):
        sums[AccountKind(kind)] = cents
    sums[AccountKind.MIRROR] = connection.execute("SELECT coalesce(sum(mirror_cents), 0) FROM cards").get
    left = -sum(sums[kind] for kind in SOURCES)
    right = sum(cents for kind, cents in sums.items() if kind not in SOURCES)
    found = {f"{kind.name.lower()}_cents": -cents if kind in SOURCES else cents for kind, cents in sums.items()}
    return found | {"difference_cents": left - right}


def balances(connection: apsw.Connection) -> dict[str, Any]:
    """Accounts by name and card mirrors in sum; for the `balances` verb."""
    return {"conservation": conservation(connection), "merchants": _merchants(connection)}
