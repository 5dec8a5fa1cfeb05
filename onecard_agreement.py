"""Do three independent artefacts agree to the cent? (R19: terminals = spool = ledger + open items by name.)

    terminals   what the simulator's dump read out of each terminal's flash
    spool       `onecard spool totals --json`: what the front-end counted at intake; with several front-ends
                `onecard spool totals --all --json`: each spool, and the records that two of them hold, counted once
    ledger      `onecard ledger report --json`: what was posted, and what is open

No figure is carried from one artefact to another: each is summed from its own file, and they meet only in the
comparison here. A grey record counts as open, not as posted, until a card's proof has resolved it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from onecard_agreement_events import EventCounts, judge_events

MONEY_TYPES: Final = frozenset({0x01, 0x03, 0x04, 0x07, 0x20, 0x21})
"""What terminals, spool and ledger count: debits, and credits as negative amounts (docs/protocol.md §7.1)."""
GREY: Final = "grey"
OVER_LIMIT: Final = "over_limit"
DOUBT: Final = "doubt"
OPEN_KINDS_NOT_HELD: Final = ("gap", "quarantine")
"""Open items whose money terminals and spool count and the ledger's records do not hold."""
APART: Final[Mapping[str, int]] = {
    "bookings": -1,
    "collections": 1,
    "cancellations": 1,
    "cancelled_twice": 1,
    "refund_exceptions": 1,
    "loads": 1,
    "doubts_proved": 1,
    "doubts_spent": 1,
}
"""What lies between a merchant's records and what it is owed, by the ledger's report, and its sign there."""
RECORDS_BESIDE: Final = ("loads", "cancelled_twice", "doubts_proved", "doubts_spent")
"""What the records' column has besides records: docs/money.md, "Agreement"."""
ACCOUNTS_BESIDE: Final = ("booked_meals_cents", "refund_exceptions_cents")
"""What the accounts' column has besides merchants; suspense is with the open items here."""
REJECTED: Final = "rejected"
GIVEN_BACK: Final = "not_spent"
BESIDE_LEDGER: Final = (*OPEN_KINDS_NOT_HELD, REJECTED, GREY, OVER_LIMIT, GIVEN_BACK)
NOTHING: Final[Mapping[str, Any]] = {"by_merchant": {}}
NO_TOTAL: Final[Mapping[str, int]] = {"count": 0, "cents": 0}


@dataclass(slots=True)
class Line:
    """One merchant, or all (None): records that moved money, and cents."""

    merchant: int | None
    count_terminals: int = 0
    count_spool: int = 0
    terminals_cents: int = 0
    spool_cents: int = 0
    ledger_cents: int = 0
    open_cents: int = 0

    @property
    def agrees(self) -> bool:
        return (
            self.count_terminals == self.count_spool
            and self.terminals_cents == self.spool_cents == self.ledger_cents + self.open_cents
        )


@dataclass(slots=True)
class Agreement:
    """The verdict: `disagreements` is empty, or says in sentences what differs."""

    lines: list[Line] = field(default_factory=list)
    total: Line = field(default_factory=lambda: Line(None))
    records_created: int = 0
    records_acknowledged: int = 0
    records_posted: int = 0
    lost: int = 0
    double_posted: int = 0
    duplicates: int = 0
    twins: int = 0
    """Records that the spools of two front-ends hold."""
    quarantined: int = 0
    events: EventCounts = field(default_factory=EventCounts)
    """Records that move no money, by type, as terminals have them."""
    gaps_open: int = 0
    open_items: dict[str, dict[str, int]] = field(default_factory=dict)
    beside_ledger_cents: dict[str, int] = field(default_factory=dict)
    """By name, what stands between the spool's total and the ledger's: open items, and what two persons gave back."""
    disagreements: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return not self.disagreements


def compare(
    terminals: Iterable[Mapping[str, Any]],
    spool: Mapping[str, Any],
    ledger: Mapping[str, Any],
    cards: Iterable[Mapping[str, int]] = (),
) -> Agreement:
    """Compare the artefacts, each as it was read from its file; `cards` are the true purses, where they are known."""
    found = Agreement()
    terminal_sums = _terminals(terminals, found)
    spool = _one_spool(spool, found)
    spool_sums = _by_merchant(spool["merchants"], "cents")
    ledger_sums = _by_merchant(ledger["records"]["by_merchant"], "amount_cents")
    # held as a record, and not the merchant's: greys still open, and those that two persons gave back to their cards
    items = {**ledger["open_items"], **_decided(ledger)}
    grey = _open(items, (GREY, OVER_LIMIT, GIVEN_BACK))
    open_sums = _open(items, BESIDE_LEDGER)
    beside = {kind: sum(_open(items, (kind,)).values()) for kind in BESIDE_LEDGER}
    found.beside_ledger_cents = {kind: cents for kind, cents in beside.items() if cents}
    nothing = (0, 0)
    for merchant in sorted(terminal_sums.keys() | spool_sums.keys() | ledger_sums.keys() | open_sums.keys()):
        found.lines.append(
            Line(
                merchant,
                count_terminals=terminal_sums.get(merchant, nothing)[0],
                count_spool=spool_sums.get(merchant, nothing)[0],
                terminals_cents=terminal_sums.get(merchant, nothing)[1],
                spool_cents=spool_sums.get(merchant, nothing)[1],
                ledger_cents=ledger_sums.get(merchant, nothing)[1] - grey.get(merchant, 0),
                open_cents=open_sums.get(merchant, 0),
            )
        )
    found.total = _total(found.lines)
    found.open_items = {
        kind: {"items": item["items"], "sequences": item["sequences"], "amount_cents": item["amount_cents"]}
        for kind, item in ledger["open_items"].items()
        if item["items"]
    }
    counts = ledger["counts"]
    found.gaps_open = found.open_items.get("gap", {}).get("sequences", 0)
    found.duplicates = int(counts["duplicates"])
    found.quarantined = found.open_items.get("quarantine", {}).get("sequences", 0)
    found.quarantined += items[REJECTED].get("sequences", 0)
    found.double_posted = int(ledger["double_posted"])
    found.records_posted = sum(counts["postings_by_result"].values())
    # by identity: a fork is one record more in the ledger, and must not stand in for one that is lost
    found.lost = max(0, found.records_created - int(counts["identities"]) - found.quarantined)
    _judge(found, spool, ledger)
    _judge_purses(found, cards, ledger)
    if not (found.gaps_open or found.quarantined):
        found.disagreements += judge_events(found.events, spool, ledger)
    return found


def _one_spool(spool: Mapping[str, Any], found: Agreement) -> Mapping[str, Any]:
    """Several spools as if they were one, each record in it once, wherever it is held."""
    if "spools" not in spool:
        return spool
    twins = spool["twins"]
    found.twins = twins["records"]
    if twins["differing"]:
        found.disagreements.append(f"{twins['differing']} records differ between the spools of two front-ends")
    merchants = [one for each in spool["spools"] for one in each["merchants"]]
    totals = [one for each in spool["spools"] for one in each["totals"]]
    merchants += [one | {"count": -one["count"], "cents": -one["cents"]} for one in twins["merchants"]]
    totals.append({"type": min(MONEY_TYPES), "count": -twins["count"], "cents": -twins["amount_cents"]})
    return {"merchants": merchants, "totals": totals}


def _terminals(dumps: Iterable[Mapping[str, Any]], found: Agreement) -> dict[int, tuple[int, int]]:
    sums: dict[int, tuple[int, int]] = {}
    for terminal in dumps:
        for epoch in terminal["epochs"]:
            found.events.add(epoch)
            found.records_created += epoch["issued"]
            found.records_acknowledged += epoch["acknowledged"]
            held = {int(name): total for name, total in epoch["merchants"].items()}
            gone = epoch.get("overwritten", NO_TOTAL)  # the running sums outlive the records (R5)
            for merchant, total in [*held.items(), (terminal.get("merchant", 0), gone)]:
                count, cents = sums.get(merchant, (0, 0))
                sums[merchant] = (count + total["count"], cents + total["cents"])
            if epoch["unreadable"]:
                found.disagreements.append(
                    f"terminal {terminal['terminal']}: {len(epoch['unreadable'])} records cannot be read any more"
                )
    return sums


def _by_merchant(rows: Iterable[Mapping[str, int]], cents: str) -> dict[int, tuple[int, int]]:
    sums: dict[int, tuple[int, int]] = {}
    for row in rows:
        count, total = sums.get(row["merchant"], (0, 0))
        sums[row["merchant"]] = (count + row["count"], total + row[cents])
    return sums


def _decided(ledger: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What two persons decided by hand; a report of a ledger in which nobody ever did may lack it."""
    decided = ledger.get("decided", {})
    nothing: dict[str, Any] = {"by_merchant": {}}
    return {REJECTED: decided.get("rejected", nothing), GIVEN_BACK: decided.get("not_spent", nothing)}


def _open(items: Mapping[str, Mapping[str, Any]], kinds: Iterable[str]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for kind in kinds:
        for merchant, cents in items.get(kind, NOTHING)["by_merchant"].items():
            sums[int(merchant)] = sums.get(int(merchant), 0) + cents
    return sums


def _total(lines: Iterable[Line]) -> Line:
    total = Line(None)
    for line in lines:
        total.count_terminals += line.count_terminals
        total.count_spool += line.count_spool
        total.terminals_cents += line.terminals_cents
        total.spool_cents += line.spool_cents
        total.ledger_cents += line.ledger_cents
        total.open_cents += line.open_cents
    return total


def _judge(found: Agreement, spool: Mapping[str, Any], ledger: Mapping[str, Any]) -> None:
    say = found.disagreements.append
    for line in found.lines:
        if not line.agrees:
            say(
                f"merchant {line.merchant}: terminals {line.count_terminals} records, {line.terminals_cents} cents; "
                f"spool {line.count_spool}, {line.spool_cents}; ledger {line.ledger_cents} + open {line.open_cents}"
            )
    counted = sum(row["cents"] for row in spool["totals"] if row["type"] in MONEY_TYPES)
    if counted != found.total.spool_cents:
        say(f"the spool counted {counted} cents at intake, and holds {found.total.spool_cents}")
    if ledger["records"]["count"] != found.total.count_terminals and not (found.gaps_open or found.quarantined):
        say(f"the ledger holds {ledger['records']['count']} of {found.total.count_terminals} records")
    if found.lost:
        say(f"{found.lost} records were made and are nowhere in the ledger")
    if found.records_acknowledged != found.records_created:
        say(f"{found.records_created - found.records_acknowledged} records were never acknowledged")
    if found.double_posted:
        say(f"{found.double_posted} identities were posted twice")
    _judge_money(found, ledger)
    if ledger["conservation"]["difference_cents"]:
        say(f"the ledger's books differ by {ledger['conservation']['difference_cents']} cents")


def _judge_money(found: Agreement, ledger: Mapping[str, Any]) -> None:
    """What each merchant is owed follows from its records, and all accounts from all records (docs/money.md)."""
    if ledger["forks"]:
        return  # a fork with a proof is money beside the records that terminals and spools count
    items, apart = ledger["open_items"], ledger.get("apart", {})
    ahead = _open(items, ("completion",))
    expected: dict[int | None, int] = {line.merchant: line.ledger_cents for line in found.lines}
    for cents_of, sign in ((ahead, 1), *((_open(apart, (kind,)), sign) for kind, sign in APART.items())):
        for merchant, cents in cents_of.items():
            expected[merchant] = expected.get(merchant, 0) + sign * cents
    owed: dict[int | None, int] = {one["merchant"]: one["balance_cents"] for one in ledger["merchants"]}
    for who in sorted(expected.keys() | owed.keys(), key=str):
        if expected.get(who, 0) != owed.get(who, 0):
            found.disagreements.append(
                f"merchant {who} is owed {owed.get(who, 0)} cents for records of {expected.get(who, 0)}"
            )
    records = sum(line.ledger_cents for line in found.lines) + sum(ahead.values())
    records += sum(apart.get(kind, {}).get("amount_cents", 0) for kind in RECORDS_BESIDE)
    accounts = sum(owed.values()) + sum(ledger["conservation"].get(name, 0) for name in ACCOUNTS_BESIDE)
    if records != accounts:
        says = f"merchants, booked meals and refund exceptions hold {accounts} cents for records of {records}"
        found.disagreements.append(says)


def _judge_purses(found: Agreement, cards: Iterable[Mapping[str, int]], ledger: Mapping[str, Any]) -> None:
    """R18, the oracle's formula: purses = mirrors + grey posted whose debit did not happen.

    A decision by hand may be wrong either way: no proof has said so yet.
    """
    purses = [card["purse_cents"] for card in cards]
    if not purses:
        return
    difference = sum(purses) - ledger["conservation"]["mirror_cents"]
    items = ledger["open_items"]
    doubt_cents = items.get(DOUBT, {}).get("amount_cents", 0)
    grey_cents = items[GREY]["amount_cents"] + doubt_cents
    decided = ledger.get("decided", {})
    least = -int(decided.get("not_spent", {}).get("grey_cents", 0))
    most = grey_cents + int(decided.get("spent", {}).get("grey_cents", 0))
    if not least <= difference <= most:
        found.disagreements.append(
            f"cards hold {difference} cents more than their mirrors in the ledger; open greys and decisions by hand"
            f" explain {least} to {most}"
        )
