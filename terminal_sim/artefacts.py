"""What a run leaves in its dump directory, as JSON that a stranger can read.

    terminals.json   per terminal: what its flash says, from the bytes alone (terminal_sim.dump), and whose till it is
    cards.json       per card: kind, opening purse, purse now, counter, whether a next tap finds something to do
    greys.json       per grey record in flash: what it waits for, and whether the card had really paid
    oracle.json      what cards really paid and customers were told, R18's sums, and whether flash and cards agree
    sim.json         the run: seed, faults, figures, latencies, recoveries, timeline
    thief.jsonl      a line per tap of a stolen card, written as it happens
    sessions.jsonl   a line per begin and end of an authenticated session, written as it happens

The first five are written when the run ends; terminals and cards are streamed, never held. Amounts are cents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

from protocol.cards.apdu import Identity
from protocol.codes import RecordType, TerminalKind
from protocol.ports import Clock
from protocol.record_bodies import PROVED_TYPES
from protocol.records import read_head
from terminal_sim.card_kinds import counter_of, is_torn, kind_of
from terminal_sim.dump import dump_flash
from terminal_sim.errors import SimError
from terminal_sim.flash import VirtualFlash
from terminal_sim.fleet import Fleet
from terminal_sim.greys import WAITING, judged, left_on_cards
from terminal_sim.kinds import layout_of
from terminal_sim.oracle import Oracle
from terminal_sim.population import Chips, Seat
from terminal_sim.ring import Ring

SCHEMA: Final = 1
TERMINALS_FILE: Final = "terminals.json"
CARDS_FILE: Final = "cards.json"
ORACLE_FILE: Final = "oracle.json"
GREYS_FILE: Final = "greys.json"
SIM_FILE: Final = "sim.json"
THIEF_FILE: Final = "thief.jsonl"
SESSIONS_FILE: Final = "sessions.jsonl"
LISTED_MAX: Final = 1_000  # identities and faults named in oracle.json; the rest are counted
GREYS_MAX: Final = 20_000  # kept in memory to be judged: some 30 MB; the rest are counted
MODE_PRIVATE: Final = 0o600
NO_TOTALS: Final = {"count": 0, "cents": 0, "grey_cents": 0}


@dataclass(slots=True)
class FlashTotals:
    """What all flash chips say together."""

    records: int = 0
    acknowledged: int = 0
    unreadable: int = 0
    money_count: int = 0
    money_cents: int = 0
    """Purchase and grey records, by the running sums."""
    grey_cents: int = 0
    merchants: dict[str, dict[str, int]] = field(default_factory=dict)
    greys: list[dict[str, Any]] = field(default_factory=list)
    greys_left_out: int = 0
    records_by_type: dict[str, int] = field(default_factory=dict)
    """Of those still readable."""

    def add(self, terminal: dict[str, Any]) -> None:
        for epoch in terminal["epochs"]:
            for name, count in epoch["records_by_type"].items():
                self.records_by_type[name] = self.records_by_type.get(name, 0) + count
            room = GREYS_MAX - len(self.greys)
            whose = {"terminal": terminal["terminal"], "epoch": epoch["epoch"]}
            self.greys += [whose | grey for grey in epoch["greys"][:room]]
            self.greys_left_out += max(0, len(epoch["greys"]) - room)
            self.records += epoch["issued"]
            self.acknowledged += epoch["acknowledged"]
            self.unreadable += len(epoch["unreadable"])
            self.money_count += epoch["running_count"]
            self.money_cents += epoch["running_sum_cents"]
            for merchant, totals in epoch["merchants"].items():
                held = self.merchants.setdefault(merchant, dict(NO_TOTALS))
                for name, value in totals.items():
                    held[name] += value
                self.grey_cents += totals["grey_cents"]


class LiveFiles:
    """thief.jsonl and sessions.jsonl; without a directory nothing is kept but the totals."""

    def __init__(self, directory: Path | None, clock: Clock) -> None:
        self._clock = clock
        self._files: dict[str, TextIO] = {}
        for name in (THIEF_FILE, SESSIONS_FILE) if directory is not None else ():
            assert directory is not None
            path = directory / name
            path.touch(MODE_PRIVATE)
            self._files[name] = path.open("a", encoding="utf-8", buffering=1)

    def thief(self, facts: dict[str, Any]) -> None:
        self._line(THIEF_FILE, facts)

    def session(self, terminal: int, is_online: bool) -> None:  # noqa: FBT001 - the shape of a SessionNote
        self._line(SESSIONS_FILE, {"utc_ms": self._clock.now_ms(), "terminal": terminal, "online": is_online})

    def _line(self, name: str, facts: dict[str, Any]) -> None:
        file = self._files.get(name)
        if file is not None:
            file.write(json.dumps(facts) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_artefacts(
    directory: Path | None, fleet: Fleet, chips: Chips, run: dict[str, Any], *, now_ms: int
) -> dict[str, Any]:
    """Dump a fleet that is shut down; returns what sim.json holds, with the oracle's verdict and the flash totals."""
    flash = FlashTotals()
    devices = [(till.seat, till.chip, till.boots) for till in fleet.tills]
    devices += [(seat, chip, 0) for seat, chip in fleet.retired]
    terminals = (_terminal(seat, chips.chip(chip), boots, flash) for seat, chip, boots in devices)
    if directory is None:
        for _ in terminals:
            pass
    else:
        _stream(directory / TERMINALS_FILE, {"schema": SCHEMA}, "terminals", terminals)
        _stream(directory / CARDS_FILE, {"schema": SCHEMA}, "cards", _cards(fleet))
    verdict = oracle_report(fleet, chips, flash)
    greys = judged(flash.greys, fleet.truth, fleet.cards, now_ms=now_ms)
    waiting = [grey for grey in greys if grey["decided_by"] in WAITING]
    left = list(left_on_cards(fleet.truth, fleet.cards))
    sim = {
        "schema": SCHEMA,
        **run,
        "agrees": verdict["agrees"],
        "flash": {
            "records": flash.records,
            "acknowledged": flash.acknowledged,
            "unreadable": flash.unreadable,
            "money_count": flash.money_count,
            "money_cents": flash.money_cents,
            "grey_cents": flash.grey_cents,
            "records_by_type": dict(sorted(flash.records_by_type.items())),
        },
        "greys": {
            "records": len(greys) + flash.greys_left_out,
            "left_out": flash.greys_left_out,
            "waiting": len(waiting),
            "for_two_persons": sum(grey["decided_by"] == "two_persons" for grey in waiting),
            "listed": waiting[:LISTED_MAX],
        },
        "torn_cards": {"count": len(left), "listed": left[:LISTED_MAX]},
        "merchants": {
            name: {
                **flash.merchants.get(name, NO_TOTALS),
                "executed_cents": verdict["executed_by_merchant"].get(name, 0),
            }
            for name in sorted(flash.merchants.keys() | verdict["executed_by_merchant"].keys(), key=int)
        },
    }
    if directory is not None:
        _stream(directory / GREYS_FILE, {"schema": SCHEMA, "left_out": flash.greys_left_out}, "greys", iter(greys))
        _whole(directory / ORACLE_FILE, verdict)
        _whole(directory / SIM_FILE, sim)
    return sim | {"oracle": verdict}


def _terminal(seat: Seat, chip: VirtualFlash, boots: int, flash: FlashTotals) -> dict[str, Any]:
    secrets = seat.secrets
    dumped = dump_flash(chip, secrets.terminal, layout=layout_of(chip.size_bytes, secrets.terminal_kind))
    flash.add(dumped)
    # whose the records are that the ring has overwritten: loads are no merchant's
    merchant = 0 if secrets.terminal_kind == TerminalKind.LOAD_STATION else secrets.merchant
    return {"name": seat.name, "merchant": merchant, "epoch": secrets.epoch, "boots": boots} | dumped


def _cards(fleet: Fleet) -> Iterator[dict[str, Any]]:
    opening = fleet.truth.oracle.opening_cents
    for number in fleet.cards.numbers():
        card = fleet.cards.load(number)
        yield {
            "number": number,
            "kind": kind_of(card).name.lower(),
            "opening_cents": opening[number],
            "purse_cents": card.balance_cents,
            "counter": counter_of(card),
            "torn": is_torn(card),
        }


def oracle_report(fleet: Fleet, chips: Chips, flash: FlashTotals) -> dict[str, Any]:
    """R18's sums, and whether what flash says is what cards did.

    Agreement: what flash counts = what cards did, credits taken off, − what is grey, in doubt or missing there, and
    none is missing.
    """
    oracle = fleet.truth.oracle
    doubtful = [each for each in oracle.executed if each not in oracle.sold and each not in oracle.done]
    recorded_as = _types_in_flash(fleet, chips, doubtful)
    greys = [each for each in doubtful if recorded_as.get(each) == RecordType.GREY]
    greys += [each for each in doubtful if recorded_as.get(each) == RecordType.DOUBT]
    grey_cents = sum(oracle.executed[each].taken_cents for each in greys)
    recorded = {*PROVED_TYPES, RecordType.GREY, RecordType.DOUBT}
    unrecorded = [each for each in doubtful if recorded_as.get(each) not in recorded]
    unrecorded_cents = sum(oracle.executed[each].taken_cents for each in unrecorded)
    executed_cents = oracle.executed_cents()
    purchases_cents = flash.money_cents - flash.grey_cents
    faults = oracle.check_cards(fleet.cards)
    opening_cents, purses_cents = sum(oracle.opening_cents.values()), oracle.purses_cents(fleet.cards)
    agrees = (
        not faults
        and not unrecorded
        and purses_cents == opening_cents - executed_cents
        and purchases_cents == executed_cents - grey_cents
    )
    return {
        "schema": SCHEMA,
        "agrees": agrees,
        "opening_cents": opening_cents,
        "purses_cents": purses_cents,
        "executed_count": len(oracle.executed),
        "executed_cents": executed_cents,
        "executed_by_merchant": {str(name): cents for name, cents in sorted(oracle.executed_by_merchant().items())},
        "sold_count": len(oracle.sold),
        "sold_cents": sum(oracle.sold.values()),
        "done_by_type": _done_by_type(oracle),
        "interrupted_taps": fleet.truth.interrupted,
        "refused": dict(sorted(oracle.refused.items())),
        "flash_purchases_cents": purchases_cents,
        "flash_grey_cents": flash.grey_cents,
        "executed_recorded_grey_cents": grey_cents,
        "executed_unrecorded_cents": unrecorded_cents,
        "executed_unrecorded": [_named(each) for each in unrecorded[:LISTED_MAX]],
        "grey_told": [
            _named(each) | {"amount_cents": cents, "executed": each in oracle.executed}
            for each, cents in list(oracle.grey.items())[:LISTED_MAX]
        ],
        "faults_count": len(faults),
        "faults": faults[:LISTED_MAX],
        "formulas": [
            "opening - executed = purses",
            "flash purchases = executed - executed recorded grey",
            "purses = ledger mirrors - executed and not posted + grey posted whose debit did not happen (R18)",
        ],
    }


def _done_by_type(oracle: Oracle) -> dict[str, dict[str, int]]:
    """What customers were told besides sales: record type → count and cents."""
    found: dict[str, dict[str, int]] = {}
    for identity, cents in oracle.done.items():
        name = RecordType(oracle.executed[identity].type).name.lower() if identity in oracle.executed else "unknown"
        totals = found.setdefault(name, {"count": 0, "cents": 0})
        totals["count"] += 1
        totals["cents"] += cents
    return dict(sorted(found.items()))


def _named(identity: Identity) -> dict[str, Any]:
    return {"terminal": identity.terminal, "epoch": identity.epoch, "sequence": identity.sequence}


def _types_in_flash(fleet: Fleet, chips: Chips, identities: Iterable[Identity]) -> dict[Identity, int]:
    """The record type under each identity; a few, so their rings are scanned once more."""
    by_terminal: dict[int, list[Identity]] = {}
    for identity in identities:
        by_terminal.setdefault(identity.terminal, []).append(identity)
    found: dict[Identity, int] = {}
    devices = [(till.seat, till.chip) for till in fleet.tills] + fleet.retired
    for seat, index in devices:
        wanted = by_terminal.get(seat.secrets.terminal)
        if not wanted:
            continue
        chip = chips.chip(index)
        ring = Ring(chip, layout_of(chip.size_bytes, seat.secrets.terminal_kind).ring)
        for identity in wanted:
            if identity.epoch != seat.secrets.epoch:
                continue
            try:
                found[identity] = read_head(ring.read(identity.epoch, identity.sequence)).type
            except SimError:
                continue
    return found


def _stream(path: Path, head: dict[str, Any], name: str, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object with a long list, a row a line."""
    path.touch(MODE_PRIVATE)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + f', "{name}": [')
        separator = "\n"
        for row in rows:
            file.write(separator + json.dumps(row, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]}\n")


def _whole(path: Path, value: dict[str, Any]) -> None:
    path.touch(MODE_PRIVATE)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
