"""What must be true of a site after any number of kills, each sentence of `findings` being one thing that is not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard_agreement import Agreement, compare
from onecard_host import Host
from protocol.cards.apdu import Identity
from terminal_sim.artefacts import ORACLE_FILE, SIM_FILE, TERMINALS_FILE
from terminal_sim.oracle import Oracle
from terminal_sim.population import CardShelf, load_cards
from terminal_sim.truth import TRUTH_FILE, Truth
from tests.cli.commands import onecard_here


@dataclass(slots=True)
class Verdict:
    agreement: Agreement
    taps: int
    sold: int
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = self.agreement
        open_items = ", ".join(f"{name} {item}" for name, item in found.open_items.items()) or "none"
        return (
            f"{self.taps} taps, {self.sold} sold; {found.records_created} records made, {found.records_acknowledged}"
            f" acknowledged, {found.records_posted} posted, {found.duplicates} offered again; lost {found.lost},"
            f" posted twice {found.double_posted}; open items: {open_items}"
        )


def judge(site: Path, dump: Path) -> Verdict:
    """Read the artefacts of a drained site whose processes have ended."""
    terminals = _file(dump / TERMINALS_FILE)
    sim, oracle = _file(dump / SIM_FILE), _file(dump / ORACLE_FILE)
    spool = _asked(site, "spool", "totals")
    ledger = _asked(site, "ledger", "report")
    agreement = compare(terminals["terminals"], spool, ledger)
    findings = list(agreement.disagreements)
    if agreement.lost or agreement.double_posted:
        findings.append(f"lost {agreement.lost}, posted twice {agreement.double_posted}")
    findings += [f"oracle: {fault}" for fault in oracle["faults"]]
    if not oracle["agrees"] or oracle["executed_unrecorded_cents"]:
        findings.append(f"flash and cards disagree: {oracle}")
    for verb in ("spool", "ledger"):
        verified = _asked(site, verb, "verify", may_fail=True)
        findings += [f"{verb} verify: {finding}" for finding in verified["findings"]]
    findings += _mirrors(site, dump, ledger)
    return Verdict(agreement, taps=int(sim["taps_made"]), sold=int(sim["sold"]), findings=findings)


def _mirrors(site: Path, dump: Path, ledger: dict[str, Any]) -> list[str]:
    """R18's formula of the oracle: what the cards really hold, against what the books say that they hold."""
    opening = load_cards(Host({}).simulator(site))
    oracle = Oracle({})
    for image in opening:
        oracle.issued(image)
    truth, cards = Truth(oracle, dump / TRUTH_FILE), CardShelf(dump, opening)
    try:
        greys = {
            Identity(item["terminal"], item["epoch"], item["first"]): int(item["amount_cents"])
            for item in ledger["open_items"]["grey"]["listed"]
        }
        expected = oracle.expected_mirrors_cents(cards, posted=oracle.executed, grey_posted=greys)
    finally:
        cards.close()
        truth.close()
    booked = ledger["conservation"]["mirror_cents"]
    if booked == expected:
        return []
    return [f"the books say that cards hold {booked} cents; by the cards and the open greys it is {expected}"]


def _asked(site: Path, *verb: str, may_fail: bool = False) -> dict[str, Any]:
    done = onecard_here(*verb, "--json", "--site", site)
    assert may_fail or done.code == 0, f"onecard {' '.join(verb)} ended with {done.code}: {done.err}"
    found: dict[str, Any] = done.json
    return found


def _file(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
