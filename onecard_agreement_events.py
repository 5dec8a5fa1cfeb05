"""Do the three artefacts hold as many events of each type? (Access, doors, tamper, power, alarms: no money.)

Counted like money: terminals by their flash, the spool at intake, the ledger by what it has noted. Where a ring has
been overwritten, or records are known to be missing or in quarantine, counts of types say nothing and are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

EVENT_TYPES: Final = {
    0x40: "access_granted",
    0x41: "access_denied",
    0x42: "door_event",
    0x61: "events_lost",
    0x62: "tamper",
    0x63: "power",
    0x64: "alarm",
}


@dataclass(slots=True)
class EventCounts:
    """What the terminals' flash says."""

    by_type: Counter[int] = field(default_factory=Counter)
    is_whole: bool = True
    """Nothing was overwritten: every record ever made is counted."""

    def add(self, epoch: Mapping[str, Any]) -> None:
        """One epoch of a terminal's dump."""
        self.is_whole = self.is_whole and epoch.get("oldest", 1) == 1
        for name, count in epoch.get("records_by_type", {}).items():
            if int(name, 16) in EVENT_TYPES:
                self.by_type[int(name, 16)] += count


def judge_events(terminals: EventCounts, spool: Mapping[str, Any], ledger: Mapping[str, Any]) -> Iterable[str]:
    """Sentences on what differs; `ledger` without a table of events is not asked."""
    if not terminals.is_whole or "spools" in spool:
        return
    at_spool: Counter[int] = Counter()
    for row in spool["totals"]:
        at_spool[row["type"]] += row["count"]
    noted = ledger.get("events", {}).get("by_type")
    for type_, name in EVENT_TYPES.items():
        counts = {"terminals": terminals.by_type[type_], "spool": at_spool[type_]}
        if noted is not None:
            counts["ledger"] = sum(noted.get(name, {}).values())
        if len(set(counts.values())) > 1:
            yield f"{name}: " + ", ".join(f"{where} {count}" for where, count in counts.items())
