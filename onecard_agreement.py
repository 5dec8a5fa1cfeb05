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

GREY_TYPE: Final = 7
GREY: Final = "grey"
OPEN_KINDS_NOT_HELD: Final = ("gap", "quarantine")
"""Open items whose money terminals and spool count and the ledger's records do not hold."""


@dataclass(slots=True)
class Line:
    """One merchant, or all: records that moved money, and their cents."""

    merchant: int | None
    terminals: tuple[int, int] = (0, 0)
    spool: tuple[int, int] = (0, 0)
    ledger: tuple[int, int] = (0, 0)
    open_items: tuple[int, int] = (0, 0)

    @property
    def agrees(self) -> bool:
        ledger_and_open = (self.ledger[0] + self.open_items[0], self.ledger[1] + self.open_items[1])
        return self.terminals == self.spool == ledger_and_open


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


def compare(terminals: Iterable[Mapping[str, Any]], spool: Mapping[str, Any], ledger: Mapping[str, Any]) -> Agreement:
    """Compare the three artefacts, each as it was read from its file."""
    found = Agreement()
    sides = {
        "terminals": _terminals(terminals, found),
        "spool": _by_merchant(spool["merchants"], "cents"),
        "ledger": _by_merchant(ledger["records"]["by_merchant"], "amount_cents"),
        "open_items": _open(ledger["open_items"], (*OPEN_KINDS_NOT_HELD, GREY)),
    }
    for merchant, (count, cents) in _open(ledger["open_items"], (GREY,)).items():
        held_count, held_cents = sides["ledger"].get(merchant, (0, 0))
        sides["ledger"][merchant] = (held_count - count, held_cents - cents)
    for merchant in sorted({merchant for side in sides.values() for merchant in side}):
        values = {name: side.get(merchant, (0, 0)) for name, side in sides.items()}
        found.lines.append(Line(merchant, **values))
    totals = {name: _sum(side.values()) for name, side in sides.items()}
    found.total = Line(None, **totals)
    found.open_items = {
        kind: {"count": int(item["count"]), "amount_cents": int(item["amount_cents"] or 0)}
        for kind, item in ledger["open_items"].items()
        if item["count"]
    }
    counts = ledger["counts"]
    found.gaps_open = found.open_items.get("gap", {}).get("count", 0)
    found.duplicates = int(counts["duplicates"])
    found.quarantined = found.open_items.get("quarantine", {}).get("count", 0)
    found.double_posted = int(ledger["double_posted"])
    found.records_posted = sum(counts["postings_by_result"].values())
    found.lost = max(0, found.records_created - found.records_posted - found.quarantined)
    _judge(found, spool, ledger)
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


def _open(items: Mapping[str, Mapping[str, Any]], kinds: Iterable[str]) -> dict[int, tuple[int, int]]:
    sums: dict[int, tuple[int, int]] = {}
    for kind in kinds:
        for item in items.get(kind, {}).get("listed", ()):
            if item["amount_cents"]:
                merchant = item["merchant"] or 0
                count, cents = sums.get(merchant, (0, 0))
                sums[merchant] = (count + item["last"] - item["first"] + 1, cents + item["amount_cents"])
    return sums


def _sum(values: Iterable[tuple[int, int]]) -> tuple[int, int]:
    count = cents = 0
    for one_count, one_cents in values:
        count += one_count
        cents += one_cents
    return count, cents


def _judge(found: Agreement, spool: Mapping[str, Any], ledger: Mapping[str, Any]) -> None:
    say = found.disagreements.append
    for line in found.lines:
        if not line.agrees:
            say(
                f"merchant {line.merchant}: terminals {line.terminals}, spool {line.spool}, "
                f"ledger {line.ledger} + open {line.open_items} (records, cents)"
            )
    if not found.total.agrees:
        say("the totals differ")
    counted = _sum((row["count"], row["cents"]) for row in spool["totals"] if row["type"] in {1, GREY_TYPE})
    if counted != found.total.spool:
        say(f"the spool counted {counted} at intake and holds {found.total.spool}")
    if found.lost:
        say(f"{found.lost} records were made and are nowhere in the ledger")
    if found.records_acknowledged != found.records_created:
        say(f"{found.records_created - found.records_acknowledged} records were never acknowledged")
    if found.double_posted:
        say(f"{found.double_posted} identities were posted twice")
    if ledger["conservation"]["difference_cents"]:
        say(f"the ledger's books differ by {ledger['conservation']['difference_cents']} cents")
