"""After healing: three artefacts that must agree to the cent, and every sequence accounted for.

    terminals   the dump of their flash bytes
    spool       its totals, counted at intake
    ledger      its report, and the open items by name

No figure is carried from one to another. The oracle, which watched only cards and tills, is asked last.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ledger_sync.ledger.report import report
from ledger_sync.ledger.verify import verify
from ledger_sync.spool.reader import SpoolReader
from ledger_sync.spool.twins import find_twins
from protocol.cards.apdu import Identity
from protocol.trade_time import fixed_offset
from terminal_sim.dump import dump_flash
from tests.simulation.frontend_host import ZONE_MINUTES
from tests.simulation.invariants import Violation
from tests.simulation.site import Site

Totals = dict[int, tuple[int, int]]
"""Terminal → (count, cents)."""


@dataclass(slots=True)
class Agreement:
    """What the three said; amounts in cents."""

    terminals_cents: int
    spool_cents: int
    ledger_cents: int
    open_cents: int
    records: int
    sequences: int
    greys_open: int
    overwritten: int
    """Records that the terminals no longer hold."""


def agree(site: Site, *, allowed: frozenset[str] = frozenset({"grey"})) -> Agreement:
    """Raises Violation where two of them differ; for a drained site. Items of the `allowed` kinds may be open."""
    dumps = [dump_flash(till.flash, till.number, layout=till.layout) for till in site.tills]
    terminals = _terminals(dumps)
    spool = _spools(site)
    ledger = site.invariants.ledger
    assert ledger is not None
    told = report(ledger.connection, now_ms=site.ledger.host.now_ms())
    _audit(site)
    booked = _booked(told)
    items = {kind: one for kind, one in told["open_items"].items() if one["items"]}
    if told["conservation"]["difference_cents"] or told["double_posted"]:
        raise Violation(f"ledger: {told['conservation']}, double posted {told['double_posted']}")
    lost = _tombstoned(items)
    unknown = sorted(set(items) - allowed)
    if unknown:
        raise Violation(f"a healed site has open items {unknown}: {[items[kind]['listed'][:3] for kind in unknown]}")
    for name, held in (("spool", spool), ("ledger", booked)):
        totals = _without_idle({each: _plus(held.get(each), lost.get(each)) for each in {*held, *lost}})
        if totals != terminals:
            differing = [each for each in terminals if totals.get(each) != terminals[each]]
            raise Violation(
                f"terminals and {name} differ at {differing}: "
                + ", ".join(f"{terminals[each]} against {totals.get(each)}" for each in differing)
            )
    greys = _greys(site)
    _merchants(site, told, greys, lost)
    return Agreement(
        terminals_cents=_sum(terminals),
        spool_cents=_sum(spool),
        ledger_cents=_sum(booked) - sum(greys.values()),
        open_cents=sum(greys.values()) + sum(cents for _, cents in lost.values()),
        records=sum(count for count, _ in terminals.values()),
        sequences=_sequences(site, dumps),
        greys_open=len(greys),
        overwritten=sum(one["oldest"] - 1 for each in dumps for one in each["epochs"]),
    )


def _audit(site: Site) -> None:
    """The auditor rebuilds every table of the ledger from its evidence, and compares the heads file (R26)."""
    host, ledger = site.ledger, site.invariants.ledger
    assert ledger is not None
    found = verify(
        ledger.connection,
        host.host.read(host.paths.heads),
        site.keys.ledger_keys(),
        utc_offset_ms=fixed_offset(ZONE_MINUTES),
    )
    if not found.is_sound:
        raise Violation(f"ledger verify: {found.findings[0]} ({len(found.findings)} findings)")


def _terminals(dumps: list[dict[str, Any]]) -> Totals:
    """Running totals of the last record of each terminal; they survive overwriting (R5)."""
    totals: Totals = {}
    for each in dumps:
        for epoch in each["epochs"]:
            if epoch["owed"] is not None or epoch["unreadable"]:
                raise Violation(f"terminal {each['terminal']}: {epoch['owed'] or epoch['unreadable']} after healing")
            count, cents = totals.get(each["terminal"], (0, 0))
            totals[each["terminal"]] = (count + epoch["running_count"], cents + epoch["running_sum_cents"])
    return _without_idle(totals)


def _spools(site: Site) -> Totals:
    """What every spool counted at intake, less what two of them hold: each record once, wherever it is."""
    totals: Totals = {}
    with ExitStack() as stack:
        readers = [stack.enter_context(SpoolReader.open(one.spool_path)) for one in site.frontends]
        for reader in readers:
            findings = reader.verify()
            if findings:
                raise Violation(f"spool: {findings[0]} ({len(findings)} findings)")
            for one in reader.totals():
                if one["type"] in {0x01, 0x07}:
                    totals[one["terminal"]] = _plus(totals.get(one["terminal"]), (one["count"], one["cents"]))
        twins = find_twins(readers)
    if twins.differing:
        raise Violation(f"{twins.differing} records differ between two spools")
    for terminal, (count, cents) in twins.terminals.items():
        totals[terminal] = _plus(totals.get(terminal), (-count, -cents))
    return _without_idle(totals)


def _booked(told: dict[str, Any]) -> Totals:
    totals: Totals = {}
    for one in told["records"]["by_terminal_day"]:
        count, cents = totals.get(one["terminal"], (0, 0))
        totals[one["terminal"]] = (count + one["count"], cents + one["amount_cents"])
    return _without_idle(totals)


def _tombstoned(items: dict[str, Any]) -> Totals:
    """What terminals can no longer show, as the ledger has it from the running sums of the neighbours (R5)."""
    totals: Totals = {}
    for one in items.get("tombstone", {"listed": []})["listed"]:
        counted = one["last"] - one["first"] + 1
        totals[one["terminal"]] = _plus(totals.get(one["terminal"]), (counted, one["amount_cents"]))
    return totals


def _plus(a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int]:
    (count, cents), (more_count, more_cents) = a or (0, 0), b or (0, 0)
    return count + more_count, cents + more_cents


def _without_idle(totals: Totals) -> Totals:
    return {terminal: one for terminal, one in sorted(totals.items()) if one != (0, 0)}


def _sum(totals: Totals) -> int:
    return sum(cents for _, cents in totals.values())


def _greys(site: Site) -> dict[Identity, int]:
    """Debits in suspense."""
    ledger = site.invariants.ledger
    assert ledger is not None
    return ledger.open_greys()


def _merchants(site: Site, told: dict[str, Any], greys: dict[Identity, int], lost: Totals) -> None:
    """Merchants have what cards have paid them, but for greys whose proof is still on the card, and tombstones."""
    oracle = site.oracle
    waiting = [one for identity, one in oracle.executed.items() if identity in greys]
    paid = oracle.executed_by_merchant()
    for one in waiting:
        paid[one.merchant] -= one.amount_cents
    for terminal, (_, cents) in lost.items():
        paid[oracle.merchant_of[terminal]] -= cents
    credited = {one["merchant"]: one["balance_cents"] for one in told["merchants"] if one["balance_cents"]}
    if credited != {merchant: cents for merchant, cents in sorted(paid.items()) if cents}:
        raise Violation(f"merchants have {credited}, cards have paid {paid}")


def _sequences(site: Site, dumps: list[dict[str, Any]]) -> int:
    """Every sequence that a terminal has issued is known to the ledger (promise 4); returns how many."""
    ledger = site.invariants.ledger
    assert ledger is not None
    total = 0
    for each in dumps:
        for epoch in each["epochs"]:
            issued = set(range(1, epoch["issued"] + 1))
            known = ledger.known_sequences(each["terminal"], epoch["epoch"])
            if known != issued:
                what = f"unknown to the ledger {sorted(issued - known)[:5]}, never issued {sorted(known - issued)[:5]}"
                raise Violation(f"terminal {each['terminal']}: {what}")
            total += len(issued)
    return total
