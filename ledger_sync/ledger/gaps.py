"""Open items (R9, R11, R19): every sequence that a terminal issued and that is not posted, by name, age and amount.

    gap              a sequence below the highest known one that nothing was ever heard of (断号)
    sums_differ      a record whose running sums do not follow from its neighbour's, though nothing is between them
    tombstone        a sequence that the terminal says it cannot read any more
    quarantine       a record whose proof, format, type or terminal does not hold
    epoch_tail       a closed epoch: what came after its last record is not known (R11)
    grey             a debit set aside until its card proves it (灰记录)
    doubt            a refund, load, cancellation or collection of which nobody knows whether it happened; moves nothing
    over_limit       a purchase by a card that makes no proof, above its terminal's limit of the day, set aside (R4)
    suspect          a record that forks and that nothing proves, set aside
    load_in_flight   a load order not yet executed
    completion       a proof booked for an identity whose own record has not come

The amount of a missing stretch is known from the running sums of its neighbours (R5), unless they contradict each
other: so many records must be able to make so much money. Beyond the last record it is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import apsw

KINDS: Final = (
    "gap", "tombstone", "quarantine", "epoch_tail", "grey", "doubt", "over_limit", "suspect", "load_in_flight",
    "completion", "sums_differ",
)  # fmt: skip
END_OF_EPOCH: Final = 0x65
"""Record type: the terminal's sealed word that no record of its epoch follows (R11)."""
REJECTED: Final = "rejected"
"""Kind of what two persons have rejected: it takes part in the amounts of holes, and is no open item."""
ITEMS_LISTED_MAX: Final = 1_000  # of each kind in a report; counts and sums are of all
COUNTED_CENTS: Final = "amount_cents * ((type IN (1, 7, 32)) - (type IN (3, 4, 33)))"
"""What a record adds to its terminal's running sum (docs/protocol.md §7.1); 0: it does not count either."""

_NEIGHBOURS: Final = f"""
WITH firsts AS (
    SELECT terminal, epoch, sequence, min(posting), {COUNTED_CENTS} AS cents, running_count, running_sum_cents,
           trade_ms, merchant
    FROM postings GROUP BY terminal, epoch, sequence
), neighbours AS (
    SELECT terminal, epoch, sequence, trade_ms, merchant,
           coalesce(lag(sequence) OVER w, 0) AS before,
           running_count - (cents <> 0) - coalesce(lag(running_count) OVER w, 0) AS missing_count,
           running_sum_cents - cents - coalesce(lag(running_sum_cents) OVER w, 0) AS missing_cents
    FROM firsts WINDOW w AS (PARTITION BY terminal, epoch ORDER BY sequence)
)
"""  # noqa: S608 - both parts are constants
_HOLES: Final = (
    _NEIGHBOURS  # noqa: S608 - both parts are constants
    + """
SELECT n.terminal, n.epoch, n.before + 1, n.sequence - 1,
       iif(typeof(n.missing_cents) = 'integer' AND n.missing_count BETWEEN 0 AND n.sequence - n.before - 1
           AND n.missing_cents BETWEEN n.missing_count * -4294967295 AND n.missing_count * 4294967295
           AND (n.missing_count <> 1 OR n.missing_cents <> 0), n.missing_cents, NULL),
       n.trade_ms, t.merchant, 0
FROM neighbours n JOIN terminals t ON t.terminal = n.terminal AND t.epoch = n.epoch
WHERE n.sequence > n.before + 1
UNION ALL
SELECT terminal, epoch, highest + 1, next_known - 1, NULL,
       coalesce((SELECT min(b.received_ms) FROM baselines b
                 WHERE b.terminal = t.terminal AND b.epoch = t.epoch AND b.next > t.highest + 1),
                (SELECT min(s.received_ms) FROM tombstones s
                 WHERE s.terminal = t.terminal AND s.epoch = t.epoch AND s.last > t.highest), 0), merchant, 1
FROM terminals t WHERE next_known > highest + 1 OR EXISTS (
    SELECT 1 FROM quarantine q WHERE q.terminal = t.terminal AND q.epoch = t.epoch AND q.last_sequence > t.highest)
UNION ALL
SELECT DISTINCT terminal, epoch, 1, 0, NULL, 0, NULL, 1 FROM quarantine q WHERE NOT EXISTS (
    SELECT 1 FROM terminals t WHERE t.terminal = q.terminal AND t.epoch = q.epoch)
ORDER BY 1, 2, 3
"""
)
"""Stretches without a record. The last of an epoch (is_tail 1) may be empty; what is quarantined may lie beyond it."""
_SUMS_DIFFER: Final = (
    _NEIGHBOURS
    + """
SELECT terminal, epoch, sequence, missing_count, iif(typeof(missing_cents) = 'integer', missing_cents, NULL), merchant,
       trade_ms
FROM neighbours WHERE sequence = before + 1 AND (missing_count <> 0 OR missing_cents <> 0) ORDER BY 1, 2, 3
"""
)
_QUARANTINED: Final = """
SELECT terminal, epoch, sequence, last_sequence, type, result, amount_cents, merchant, trade_ms, reason,
       item IN (SELECT item FROM decisions WHERE subject = 'quarantine' AND outcome = 'reject' AND state = 'confirmed')
FROM quarantine WHERE resolved_position IS NULL ORDER BY terminal, epoch, sequence, item
"""
_SUSPENSE: Final = """
SELECT s.kind, s.terminal, s.epoch, s.sequence, s.amount_cents, s.merchant, s.trade_ms, s.card,
       EXISTS (SELECT 1 FROM postings p WHERE p.card = s.card AND p.counter = s.counter_hint + 1)
FROM suspense s WHERE s.resolved_position IS NULL AND s.posting NOT IN (
    SELECT item FROM decisions WHERE subject = 'suspense' AND state = 'confirmed')
ORDER BY s.trade_ms, s.posting
"""


@dataclass(slots=True)
class OpenItem:
    """One thing that finance must know of; `amount_cents` None: not known."""

    kind: str
    terminal: int
    epoch: int
    first: int
    last: int
    amount_cents: int | None
    merchant: int | None
    since_ms: int
    detail: str = ""

    @property
    def count(self) -> int:
        """Sequences that it covers; a tail covers none that is known."""
        return self.last - self.first + 1


def open_items(connection: apsw.Connection) -> Iterator[OpenItem]:
    """All open items of a ledger, kind by kind."""
    return (item for item in _all_items(connection) if item.kind != REJECTED)


def rejected_items(connection: apsw.Connection) -> Iterator[OpenItem]:
    """Quarantined records that two persons have rejected: no longer open, and still no record of their sequence."""
    return (item for item in _all_items(connection) if item.kind == REJECTED)


def _all_items(connection: apsw.Connection) -> Iterator[OpenItem]:
    quarantined = [_quarantine_item(row) for row in connection.execute(_QUARANTINED)]
    yield from _missing(connection, quarantined)
    yield from quarantined
    yield from _tails(connection)
    for kind, terminal, epoch, sequence, cents, merchant, since, card, is_used in connection.execute(_SUSPENSE):
        name = "suspect" if kind == "unproven" else kind
        hint = "another identity has the counter that this debit would have had: probably not spent" if is_used else ""
        detail = f"card {masked(card)}{'; ' * is_used}{hint}"
        yield OpenItem(name, terminal, epoch, sequence, sequence, cents, merchant, since, detail)
    yield from _rest(connection)
    yield from _sums_differ(connection)


def summary(items: Iterable[OpenItem], *, now_ms: int) -> dict[str, dict[str, Any]]:
    """Per kind: how many items and sequences, cents known and how many items of unknown amount, age, and the items."""
    found: dict[str, dict[str, Any]] = {
        kind: {
            "items": 0, "sequences": 0, "amount_cents": 0, "amount_unknown": 0, "oldest_ms": None, "age_ms": 0,
            "by_merchant": {}, "listed": [],
        }
        for kind in KINDS
    }  # fmt: skip
    for item in items:
        one = found[item.kind]
        one["items"] += 1
        one["sequences"] += item.count
        if item.amount_cents is None:
            one["amount_unknown"] += 1
        else:
            one["amount_cents"] += item.amount_cents
            merchant = str(item.merchant or 0)
            one["by_merchant"][merchant] = one["by_merchant"].get(merchant, 0) + item.amount_cents
        if item.since_ms and (one["oldest_ms"] is None or item.since_ms < one["oldest_ms"]):
            one["oldest_ms"], one["age_ms"] = item.since_ms, max(0, now_ms - item.since_ms)
        if len(one["listed"]) < ITEMS_LISTED_MAX:
            one["listed"].append(asdict(item))
    return found


def masked(card: int) -> str:
    """A card number as reports show it: its last four digits."""
    return f"…{card % 10_000:04d}"


def missing_ranges(connection: apsw.Connection) -> Iterator[tuple[int, int, int, int]]:
    """(terminal, epoch, first, last) of the gaps; `recollection` finds the same a slice at a time (R9)."""
    for item in open_items(connection):
        if item.kind == "gap":
            yield item.terminal, item.epoch, item.first, item.last


def _quarantine_item(row: tuple[Any, ...]) -> OpenItem:
    terminal, epoch, first, last, kind, result, cents, merchant, since, reason, is_rejected = row
    detail = f"result {result:02x}, {'no type' if kind is None else f'type {kind:02x}'}: {reason}"
    name = REJECTED if is_rejected else "quarantine"
    return OpenItem(name, terminal, epoch, first, last, cents, merchant, since, detail)


def _missing(connection: apsw.Connection, quarantined: list[OpenItem]) -> Iterator[OpenItem]:
    """Gaps and tombstones; quarantine items inside a hole take part in its amount, all others move nothing."""
    tombs: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for terminal, epoch, first, last, since in connection.execute(
        "SELECT terminal, epoch, first, last, received_ms FROM tombstones ORDER BY tombstone"
    ):
        tombs.setdefault((terminal, epoch), []).append((first, last, since))
    kept: dict[tuple[int, int], list[OpenItem]] = {}
    for item in quarantined:
        if item.count:  # a baseline or tombstone covers no sequence
            kept.setdefault((item.terminal, item.epoch), []).append(item)
    placed: set[int] = set()
    for terminal, epoch, first, last, cents, since, merchant, is_tail in connection.execute(_HOLES):
        key = (terminal, epoch)
        inside = [
            item
            for item in kept.get(key, ())
            if first <= item.first and (is_tail or item.last <= last) and id(item) not in placed
        ]
        inside = _without_overlaps(inside)
        placed.update(map(id, inside))
        parts = _split(OpenItem("gap", terminal, epoch, first, last, None, merchant, since), inside, tombs.get(key, []))
        _share(cents, inside, parts)
        if cents is None and not is_tail:
            for part in parts + inside:
                part.detail += "; " * bool(part.detail) + "the running sums of its neighbours contradict each other"
        yield from parts
    for item in quarantined:
        if item.count and id(item) not in placed:
            stated = "unknown" if item.amount_cents is None else f"{item.amount_cents} cents"
            item.detail += f"; it states {stated} for a sequence that stands otherwise"
            item.amount_cents = 0


def _without_overlaps(items: list[OpenItem]) -> list[OpenItem]:
    """Items in order of sequence, of those that claim the same sequences only the first."""
    chosen: list[OpenItem] = []
    for item in items:
        if not chosen or item.first > chosen[-1].last:
            chosen.append(item)
    return chosen


def _split(hole: OpenItem, inside: list[OpenItem], tombs: list[tuple[int, int, int]]) -> list[OpenItem]:
    """What is left of a hole beside quarantined records, in stretches of gap and tombstone."""
    cuts = {hole.first, hole.last + 1}
    for item in inside:
        cuts |= {item.first, item.last + 1}
    for first, last, _ in tombs:
        cuts |= {first, last + 1}
    marks = sorted(cut for cut in cuts if hole.first <= cut <= hole.last + 1)
    parts: list[OpenItem] = []
    for first, after in pairwise(marks):
        if any(item.first <= first <= item.last for item in inside):
            continue
        tomb = next((one for one in tombs if one[0] <= first <= one[1]), None)
        kind, since = ("gap", hole.since_ms) if tomb is None else ("tombstone", tomb[2])
        if parts and parts[-1].kind == kind and parts[-1].last == first - 1:
            parts[-1].last = after - 1
        else:
            parts.append(OpenItem(kind, hole.terminal, hole.epoch, first, after - 1, None, hole.merchant, since))
    return parts


def _share(cents: int | None, inside: list[OpenItem], parts: list[OpenItem]) -> None:
    """Give the amount of a hole to what lies in it: stated amounts first, the rest to gaps before tombstones."""
    if cents is None:
        return
    rest = cents - sum(item.amount_cents or 0 for item in inside)
    takers = sorted(parts, key=lambda part: part.kind) + [item for item in inside if item.amount_cents is None]
    if not takers and rest and inside:
        inside[0].detail += f"; its neighbours say {rest:+d} cents besides what it states"
        inside[0].amount_cents = (inside[0].amount_cents or 0) + rest
    for at, taker in enumerate(takers):
        taker.amount_cents = rest if at == 0 else 0
        if at and rest:
            taker.detail += f"; the amount of {takers[0].first}–{takers[0].last} covers it too"


def _tails(connection: apsw.Connection) -> Iterator[OpenItem]:
    for terminal, epoch, next_known, highest, closed_ms, merchant in connection.execute(
        "SELECT terminal, epoch, next_known, highest, closed_ms, merchant FROM terminals t WHERE closed_ms IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM postings p WHERE p.terminal = t.terminal AND p.epoch = t.epoch AND p.type = ?)"
        " ORDER BY terminal, epoch",
        (END_OF_EPOCH,),
    ):
        after = max(next_known - 1, highest)
        detail = f"tail unknown after {after}"
        yield OpenItem("epoch_tail", terminal, epoch, after + 1, after, None, merchant, closed_ms, detail)


def _rest(connection: apsw.Connection) -> Iterator[OpenItem]:
    for order, cents, since in connection.execute(
        "SELECT load_order, amount_cents, ordered_ms FROM load_orders WHERE state = 'in_flight' ORDER BY load_order"
    ):
        yield OpenItem("load_in_flight", 0, 0, 1, 1, cents, None, since, f"load order {order}")
    for row in connection.execute(
        "SELECT p.terminal, p.epoch, p.sequence, p.amount_cents, NULL, p.trade_ms FROM postings p JOIN forks f"
        " ON (f.terminal, f.epoch, f.sequence, f.seal) = (p.terminal, p.epoch, p.sequence, p.seal)"
        " WHERE p.result = 7 AND p.posting NOT IN (SELECT posting FROM suspense) ORDER BY p.posting"
    ):
        yield OpenItem("suspect", row[0], row[1], row[2], row[2], row[3], row[4], row[5], "moves no money")
    for row in connection.execute(
        "SELECT c.terminal, c.epoch, c.sequence, c.amount_cents * ((c.type IN (1, 32)) - (c.type IN (3, 4, 33))),"
        " c.merchant, p.trade_ms,"
        " EXISTS (SELECT 1 FROM postings o WHERE o.terminal = c.terminal AND o.epoch = c.epoch"
        " AND o.sequence = c.sequence) FROM completions c"
        " JOIN postings p ON p.posting = c.posting WHERE c.outcome = 'posted' AND c.record IS NULL"
        " AND p.result <> 5 ORDER BY c.posting"
    ):
        detail = "another record stands under its identity" if row[6] else "booked before its own record came"
        yield OpenItem("completion", row[0], row[1], row[2], row[2], row[3], row[4], row[5], detail)


def _sums_differ(connection: apsw.Connection) -> Iterator[OpenItem]:
    """What the terminal has counted more (less, if negative) than its records say, where no sequence is missing."""
    for terminal, epoch, sequence, count, cents, merchant, since in connection.execute(_SUMS_DIFFER):
        detail = f"running sums differ: {count:+d} records besides those that are there"
        yield OpenItem("sums_differ", terminal, epoch, sequence, sequence, cents, merchant, since, detail)
