"""Load orders made, listed and sent to their station (充值, R22; docs/ledger.md, "Load orders")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import apsw

from ledger_sync.ledger.accounts import CASH_IN, LOADS_IN_FLIGHT
from ledger_sync.ledger.books import ACTIVE, Books
from ledger_sync.ledger.cards import U32_MAX, number_of, registered_card
from ledger_sync.ledger.claims import Claims
from ledger_sync.ledger.decisions import DecisionState
from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.gaps import masked
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.orders import DONE, NOT_DONE
from protocol.codes import TerminalKind

if TYPE_CHECKING:
    from ledger_sync.ledger.work import Work

TOP_UP_CENTS_MAX: Final = 10**8
ORDERS_LISTED_MAX: Final = 10_000
"""More than a station can execute in a day."""


def topup(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The cash is in, the card gets it at a load station; until then it is in flight."""
    card = registered_card(work.books, number_of(arguments, "card", 1, U32_MAX))
    cents = number_of(arguments, "amount_cents", 1, TOP_UP_CENTS_MAX)
    if card.status != ACTIVE:
        raise VerbRefused(f"card …{card.number % 10_000:04d} is {card.status}")
    station = _station(work.books, number_of(arguments, "station", 0, U32_MAX, default=0))
    (serial,) = work.connection.execute(
        "SELECT coalesce(max(serial), 0) + 1 FROM load_orders WHERE card = ?", (card.number,)
    ).fetchone()  # type: ignore[misc]
    order = work.books.next_id("load_orders", "load_order")
    work.connection.execute(
        "INSERT INTO load_orders VALUES (?, ?, ?, ?, ?, ?, 'in_flight', ?, NULL, NULL)",
        (order, card.number, serial, cents, work.now_ms, work.operation, station),
    )
    work.books.credit(CASH_IN, -cents, work.day)
    work.books.credit(LOADS_IN_FLIGHT, cents, work.day)
    Claims(work.books, LookUps(work.books)).order_made(card.number, serial, work.day)
    return {"card": card.number, "load_order": order, "serial": serial, "amount_cents": cents, "station": station}


def _station(books: Books, named: int) -> int:
    """The load station that an order is for: the one that is named, or the only one there is; 0 where there is none."""
    stations = {state.terminal for state in books.terminals.values() if state.kind == TerminalKind.LOAD_STATION}
    if named and named not in stations:
        raise VerbRefused(f"terminal {named} is no load station of the register")
    if not named and len(stations) > 1:
        raise VerbRefused(f"there are {len(stations)} load stations: say which one the card will go to")
    return named or next(iter(stations), 0)


_LIST: Final = """
SELECT o.load_order, o.card, o.serial, o.amount_cents, o.ordered_ms, o.station, o.state, o.executed_by, o.refused_by,
       d.outcome, d.state, d.reason, d.proposed_by, d.closed_by
FROM load_orders o LEFT JOIN decisions d ON d.decision = (
    SELECT max(i.decision) FROM decisions i
    WHERE i.subject = 'load' AND i.item = o.load_order AND i.state <> 'withdrawn')
WHERE ?1 OR o.state = 'in_flight' ORDER BY o.load_order LIMIT ?2
"""


def load_items(connection: apsw.Connection, *, now_ms: int, everything: bool = False) -> list[dict[str, Any]]:
    """Oldest first; `everything`: those that have ended too. Cards are masked."""
    found = []
    for row in connection.execute(_LIST, (everything, ORDERS_LISTED_MAX)):
        number, card, serial, cents, ordered_ms, station, state, executed_by, refused_by = row[:9]
        by = {DONE: "its card" if executed_by else "two persons", NOT_DONE: "its station"}
        if row[10] == DecisionState.CONFIRMED:
            by[NOT_DONE] = "two persons"
        names = ("outcome", "state", "reason", "proposed_by", "closed_by")
        found.append({
            "load_order": number, "card": masked(card), "serial": serial, "amount_cents": cents, "station": station,
            "since_ms": ordered_ms, "age_ms": max(0, now_ms - ordered_ms),
            "state": state, "ended_by": by.get(state, ""),
            "hint": "its card has loaded it, and its station says it has not" if executed_by and refused_by else "",
            "decision": None if row[9] is None else dict(zip(names, row[9:], strict=True)),
        })  # fmt: skip
    return found


def orders_of_station(connection: apsw.Connection, station: int) -> list[dict[str, int]]:
    """What that load station may execute now: one JSON line each (docs/ledger.md, "Load orders")."""
    rows = connection.execute(
        "SELECT load_order, card, amount_cents, serial, station FROM load_orders"
        " WHERE station = ? AND state = 'in_flight' ORDER BY load_order LIMIT ?",
        (station, ORDERS_LISTED_MAX),
    )
    return [dict(zip(("order", "card", "amount_cents", "serial", "station"), row, strict=True)) for row in rows]
