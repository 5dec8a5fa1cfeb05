"""After healing: three artefacts that must agree to the cent, and every sequence accounted for.

    terminals   the dump of their flash bytes
    spool       its totals, counted at intake
    ledger      its report, and the open items by name

No figure is carried from one to another. The oracle, which watched only cards and tills, is asked last.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from ledger_sync.ledger.accounts import AccountKind
from ledger_sync.ledger.report import report
from ledger_sync.ledger.verify import verify
from ledger_sync.spool.reader import SpoolReader
from ledger_sync.spool.twins import find_twins
from protocol.codes import RecordType
from protocol.trade_time import fixed_offset
from terminal_sim.dump import dump_flash
from tests.simulation.frontend_host import ZONE_MINUTES
from tests.simulation.invariants import Violation
from tests.simulation.ledger_eye import LedgerEye
from tests.simulation.site import Site

Totals = dict[int, tuple[int, int]]
"""Terminal → (count, cents)."""
MONEY_TYPES: Final = frozenset({0x01, 0x03, 0x04, 0x07, 0x20, 0x21})
"""What terminals, spools and ledger count: debits, and credits as negative amounts (docs/protocol.md §7.1)."""


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
    for terminal, flash, layout in site.replaced:
        flash.power_on()
        dumps.append(dump_flash(flash, terminal, layout=layout))
    terminals = _terminals(dumps)
    spool = _spools(site)
    ledger = site.invariants.ledger
    assert ledger is not None
    told = report(ledger.connection, now_ms=site.ledger.host.now_ms())
    _audit(site)
    site.invariants.check_cards()
    booked = _booked(told)
    items = {kind: one for kind, one in told["open_items"].items() if one["items"]}
    if told["conservation"]["difference_cents"] or told["double_posted"]:
        raise Violation(f"ledger: {told['conservation']}, double posted {told['double_posted']}")
    exceptions = {kind: one["listed"][:3] for kind, one in told["exceptions"].items() if one["items"]}
    if exceptions:
        raise Violation(f"an honest site has exceptions: {exceptions}")
    lost = _tombstoned(items)
    unknown = sorted(set(items) - allowed)
    if unknown:
        raise Violation(f"a healed site has open items {unknown}: {[items[kind]['listed'][:3] for kind in unknown]}")
    rejected = _rejected(ledger)
    for name, held in (("spool", spool), ("ledger", booked)):
        beside = (lost,) if name == "spool" else (lost, rejected)
        totals = held
        for more in beside:
            totals = {each: _plus(totals.get(each), more.get(each)) for each in {*totals, *more}}
        totals = _without_idle(totals)
        if totals != terminals:
            differing = [each for each in {**terminals, **totals} if totals.get(each) != terminals.get(each)]
            raise Violation(
                f"terminals and {name} differ at {differing}: "
                + ", ".join(f"{terminals.get(each)} against {totals.get(each)}" for each in differing)
            )
    greys = sum(ledger.open_greys().values())
    _accounts(site, ledger, lost)
    return Agreement(
        terminals_cents=_sum(terminals),
        spool_cents=_sum(spool),
        ledger_cents=_sum(booked) - greys,
        open_cents=greys + sum(cents for each in (lost, rejected) for _, cents in each.values()),
        records=sum(count for count, _ in terminals.values()),
        sequences=_sequences(site, dumps),
        greys_open=len(ledger.open_greys()),
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
    """What every spool counted at intake, less what two of them hold: each record that moves money once."""
    totals: Totals = {}
    with ExitStack() as stack:
        readers = [stack.enter_context(SpoolReader.open(one.spool_path)) for one in site.frontends]
        for reader, eye in zip(readers, site.invariants.spools(), strict=True):
            findings = reader.verify()
            if findings:
                raise Violation(f"spool: {findings[0]} ({len(findings)} findings)")
            for one in reader.totals():
                if one["type"] in MONEY_TYPES:
                    totals[one["terminal"]] = _plus(totals.get(one["terminal"]), (one["count"], one["cents"]))
            for terminal, _, _ in eye.free_records(MONEY_TYPES):  # a terminal's own count leaves them out, as twins do
                totals[terminal] = _plus(totals.get(terminal), (-1, 0))
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


def _rejected(ledger: LedgerEye) -> Totals:
    """What two persons have rejected of what a stolen terminal sealed."""
    totals: Totals = {}
    for terminal, cents in ledger.rejected():
        totals[terminal] = _plus(totals.get(terminal), (cents != 0, cents))
    return totals


def _accounts(site: Site, ledger: LedgerEye, lost: Totals) -> None:
    """What every account must hold follows from what cards have done: here the books meet the oracle (R18).

    Greys whose cards have not told yet, and what tombstones stand for, are not there.
    """
    oracle, greys = site.oracle, ledger.open_greys()
    merchants: dict[int, int] = {}
    meals_cents = loaded_cents = 0
    for identity, one in oracle.executed.items():
        cents = one.amount_cents
        if identity in greys:
            continue
        if one.type in (RecordType.PURCHASE, RecordType.COLLECTION):
            merchants[one.merchant] = merchants.get(one.merchant, 0) + cents
        if one.type == RecordType.REFUND:
            merchants[one.merchant] = merchants.get(one.merchant, 0) - cents
        if one.type == RecordType.BOOKING:
            meals_cents += cents
        if one.type in (RecordType.CANCELLATION, RecordType.COLLECTION):
            meals_cents -= cents
        if one.type == RecordType.LOAD:
            loaded_cents += cents
    for terminal, (_, cents) in lost.items():
        merchant = oracle.merchant_of[terminal]
        merchants[merchant] = merchants.get(merchant, 0) - cents
    wanted = {merchant: cents for merchant, cents in merchants.items() if cents}
    if ledger.accounts(AccountKind.MERCHANT) != wanted:
        raise Violation(f"merchants have {ledger.accounts(AccountKind.MERCHANT)}, cards have paid {wanted}")
    if sum(ledger.accounts(AccountKind.BOOKED_MEALS).values()) != meals_cents:
        raise Violation(f"booked meals are {ledger.accounts(AccountKind.BOOKED_MEALS)}, cards say {meals_cents}")
    spent_cents = -sum(ledger.accounts(AccountKind.CASH_IN).values())
    left_cents = sum(
        sum(ledger.accounts(kind).values()) for kind in (AccountKind.LOADS_IN_FLIGHT, AccountKind.PAID_OUT)
    )
    if spent_cents - left_cents != loaded_cents:
        raise Violation(f"cards were loaded with {loaded_cents} cents, {spent_cents} came in and {left_cents} are left")


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
