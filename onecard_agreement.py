"""Do three independent artefacts agree to the cent? (R19: terminals = spool = ledger + open items by name.)

    terminals   what the simulator's dump read out of each terminal's flash
    spool       `onecard spool totals --json`: what the front-end counted at intake
    ledger      `onecard ledger report --json`: what was posted, and what is open

No figure is carried from one artefact to another: each is summed from its own file, and they meet only in the
comparison here. A grey record counts as open, not as posted, until a card's proof has resolved it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MONEY_TYPES: Final = frozenset({1, 7})
"""Purchase and grey: what terminals, spool and ledger count."""
GREY: Final = "grey"
OPEN_KINDS_NOT_HELD: Final = ("gap", "quarantine")
"""Open items whose money terminals and spool count and the ledger's records do not hold."""
REJECTED: Final = "rejected"
GIVEN_BACK: Final = "not_spent"


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
    quarantined: int = 0
    gaps_open: int = 0
    open_items: dict[str, dict[str, int]] = field(default_factory=dict)
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
    spool_sums = _by_merchant(spool["merchants"], "cents")
    ledger_sums = _by_merchant(ledger["records"]["by_merchant"], "amount_cents")
    # held as a record, and not the merchant's: greys still open, and those that two persons gave back to their cards
    items = {**ledger["open_items"], **_decided(ledger)}
    grey = _open(items, (GREY, GIVEN_BACK))
    open_sums = _open(items, (*OPEN_KINDS_NOT_HELD, REJECTED, GREY, GIVEN_BACK))
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
    return found


def _terminals(dumps: Iterable[Mapping[str, Any]], found: Agreement) -> dict[int, tuple[int, int]]:
    sums: dict[int, tuple[int, int]] = {}
    for terminal in dumps:
        for epoch in terminal["epochs"]:
            found.records_created += epoch["issued"]
            found.records_acknowledged += epoch["acknowledged"]
            for name, total in epoch["merchants"].items():
                count, cents = sums.get(int(name), (0, 0))
                sums[int(name)] = (count + total["count"], cents + total["cents"])
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
        for merchant, cents in items[kind]["by_merchant"].items():
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
    counted = [0, 0]
    for row in spool["totals"]:
        if row["type"] in MONEY_TYPES:
            counted[0] += row["count"]
            counted[1] += row["cents"]
    if counted != [found.total.count_spool, found.total.spool_cents]:
        say(f"the spool counted {counted} records and cents at intake, and holds others")
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
    """What a merchant is owed comes from its records held, but open greys, and from proofs ahead of their records."""
    if ledger["forks"]:
        return  # a fork with a proof is money beside the records that terminals and spools count
    items = ledger["open_items"]
    expected: dict[int | None, int] = {line.merchant: line.ledger_cents for line in found.lines}
    for merchant, cents in _open(items, ("completion",)).items():
        expected[merchant] = expected.get(merchant, 0) + cents
    owed: dict[int | None, int] = {one["merchant"]: one["balance_cents"] for one in ledger["merchants"]}
    for who in sorted(expected.keys() | owed.keys(), key=str):
        if expected.get(who, 0) != owed.get(who, 0):
            found.disagreements.append(
                f"merchant {who} is owed {owed.get(who, 0)} cents for records of {expected.get(who, 0)}"
            )


def _judge_purses(found: Agreement, cards: Iterable[Mapping[str, int]], ledger: Mapping[str, Any]) -> None:
    """R18, the oracle's formula: purses = mirrors + grey posted whose debit did not happen.

    A decision by hand may be wrong either way: no proof has said so yet.
    """
    purses = [card["purse_cents"] for card in cards]
    if not purses:
        return
    difference = sum(purses) - ledger["conservation"]["mirror_cents"]
    grey_cents = ledger["open_items"][GREY]["amount_cents"]
    decided = ledger.get("decided", {})
    least = -int(decided.get("not_spent", {}).get("grey_cents", 0))
    most = grey_cents + int(decided.get("spent", {}).get("grey_cents", 0))
    if not least <= difference <= most:
        found.disagreements.append(
            f"cards hold {difference} cents more than their mirrors in the ledger; open greys and decisions by hand"
            f" explain {least} to {most}"
        )
