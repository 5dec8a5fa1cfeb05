"""Verbs on the ledger itself: a day is closed, the posting rules rise, what was unknown is judged again (R5, R25).

close_day       {"day": 20717}              an operator's
upgrade         {"rules": 2}                by `bring_up_to_date`, when the ledger is served
retry_unknown   {"items": [3, 4, 9]}        the same
unproven_limit  {"cents": 20000}            the same, when the site file says another limit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import apsw

from ledger_sync.ledger.cards import U32_MAX, number_of
from ledger_sync.ledger.checks import Flaw
from ledger_sync.ledger.decide import judge_again
from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.quarantine import stated_money
from ledger_sync.ledger.rules import RULES, is_known
from protocol.codes import PostingResult
from protocol.errors import Malformed
from protocol.records import decode_body

if TYPE_CHECKING:
    from ledger_sync.ledger.core import Ledger
    from ledger_sync.ledger.work import Work

LIMIT_CENTS_MAX: Final = 10**9
ITEMS_PER_OPERATION_MAX: Final = 2_000  # one transaction stays well below a second
SERVER: Final = "onecard ledger serve"
"""Who stands in the operations log for what the program does by itself."""

_UNKNOWN: Final = """
SELECT item, raw FROM quarantine WHERE result = ? AND resolved_position IS NULL AND item > ? AND item NOT IN (
    SELECT item FROM decisions WHERE subject = 'quarantine' AND outcome = 'reject' AND state = 'confirmed')
ORDER BY item
"""


def close_day(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing books on that day or before it any more; what comes late books on the first open day (R25)."""
    day = number_of(arguments, "day", 0, U32_MAX - 1)
    if day < work.first_open_day:
        raise VerbRefused(f"day {day} is closed already; the first open day is {work.first_open_day}")
    if day >= work.day:
        raise VerbRefused("today cannot be closed, nor a day to come: records of it still arrive")
    work.connection.execute("UPDATE meta SET first_open_day = ?", (day + 1,))
    return {"closed_day": day, "first_open_day": day + 1}


def upgrade(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """From here on records are judged by these rules; what was posted before stays as it is."""
    rules = number_of(arguments, "rules", work.rules + 1, RULES)
    work.connection.execute("UPDATE meta SET rules = ?", (rules,))
    return {"rules": rules}


def unproven_limit(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The limit of R4 from here on; what has been booked or set aside stays so, until its day's sum is counted anew."""
    cents = number_of(arguments, "cents", 0, LIMIT_CENTS_MAX)
    work.connection.execute("UPDATE meta SET unproven_limit_cents = ?", (cents,))
    return {"unproven_limit_cents": cents}


def retry_unknown(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Judge quarantined records of types that have become known; what does not pass stays, under its new reason."""
    items = arguments.get("items")
    if not isinstance(items, list) or not 0 < len(items) <= ITEMS_PER_OPERATION_MAX:
        raise VerbRefused(f"items must be a list of 1 to {ITEMS_PER_OPERATION_MAX}")
    posted = 0
    for item in items:
        open_item = work.connection.execute(
            "SELECT 1 FROM quarantine WHERE item = ? AND result = ? AND resolved_position IS NULL",
            (item, int(PostingResult.QUARANTINED_UNKNOWN_TYPE)),
        ).fetchone()
        if open_item is None:
            raise VerbRefused(f"quarantine item {item} is no open record of an unknown type")
        found = judge_again(work, item)
        if isinstance(
            found, Flaw
        ):  # said once: it is not of an unknown type any more, so no later start tries it again
            (raw,) = work.connection.execute("SELECT raw FROM quarantine WHERE item = ?", (item,)).fetchone()  # type: ignore[misc]
            work.connection.execute(
                "UPDATE quarantine SET result = ?, reason = ?, amount_cents = ?, merchant = ? WHERE item = ?",
                (int(found.result), found.reason, *stated_money(raw, work.rules), item),
            )
        else:
            posted += 1
    return {"posted": posted, "kept": len(items) - posted}


def bring_up_to_date(ledger: Ledger, *, unproven_limit_cents: int, now_ms: int) -> dict[str, int]:
    """At the start of a server: the rules of this program, the limit of the site file, and records unknown until now.

    Each step is an operation of its own in the log, so `verify` does it again at its place.
    """
    if ledger.rules < RULES:
        ledger.operate("upgrade", {"rules": RULES}, operator=SERVER, now_ms=now_ms)
    if ledger.unproven_limit_cents != unproven_limit_cents:
        ledger.operate("unproven_limit", {"cents": unproven_limit_cents}, operator=SERVER, now_ms=now_ms)
    told = {"posted": 0, "kept": 0}
    after = 0
    while items := _now_known(ledger.connection, ledger.rules, after):
        done = ledger.operate("retry_unknown", {"items": items}, operator=SERVER, now_ms=now_ms)
        after = items[-1]
        for name in told:
            told[name] += done[name]
    return told


def _now_known(connection: apsw.Connection, rules: int, after: int) -> list[int]:
    """The next quarantined records whose type these rules know by now."""
    found: list[int] = []
    for item, raw in connection.execute(_UNKNOWN, (int(PostingResult.QUARANTINED_UNKNOWN_TYPE), after)):
        try:
            if is_known(rules, decode_body(raw)):
                found.append(item)
        except Malformed:
            found.append(item)  # known, and wrong: the retry says so
        if len(found) == ITEMS_PER_OPERATION_MAX:
            break
    return found
