"""Named alarms for the operator on duty: since when, how often, and what to do.

An alarm is named by what is wrong and whom it concerns. Raised again it only counts on; cleared it is gone from the
list. The list is bounded: when it is full, alarms of new names are counted and not listed, so that a hostile peer
cannot push the true ones out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.ports import Clock, Log

ALARMS_MAX: Final = 500  # more than a person can act on


class AlarmKind(Enum):
    """Every alarm of the front-end; the value is its name, `WHAT_TO_DO` its remedy."""

    FORK = "fork"
    SUSPECT_RECORDS = "suspect records"
    TAKE_OVERS = "take-overs"
    FLOOD = "flood"
    TOO_MANY_HOLES = "too many holes"
    SPOOL_REFUSES = "spool refuses"
    SLOW_DISK = "slow disk"
    LIST_REFUSED = "list refused"
    LIST_CACHE = "list cache"
    PUBLISHED_REFUSED = "published list refused"
    UNSIGNED_HEAD = "unsigned head"
    HIGHER_HEAD = "higher head"
    LIST_NOT_TAKEN = "list not taken"
    STORAGE = "storage"


WHAT_TO_DO: Final = {
    AlarmKind.FORK: "stop using the terminal, read its memory out, enrol it again",
    AlarmKind.SUSPECT_RECORDS: "records were kept that contradict held ones: stop the terminal, enrol it again",
    AlarmKind.TAKE_OVERS: "two devices use one identity, or the line is bad: look at both addresses",
    AlarmKind.FLOOD: "the terminal is broken, or its key is in other hands: take it off the line, enrol it again",
    AlarmKind.TOO_MANY_HOLES: "the terminal offers records with more holes than are kept apart: read its memory out",
    AlarmKind.SPOOL_REFUSES: "look at free space and the disk; terminals keep their records meanwhile",
    AlarmKind.SLOW_DISK: "commits take long, so sales wait: look at the disk, and at what else writes to it",
    AlarmKind.LIST_REFUSED: "the ledger sent an older, unsigned or foreign list: look at its keys and its backup",
    AlarmKind.PUBLISHED_REFUSED: "a file of parameters or permissions is older, unsigned, of another site or damaged; "
    "the version before it is served: publish it anew with `onecard keys publish`",
    AlarmKind.LIST_CACHE: "a list could not be kept on disk, or was damaged: look at the disk; it is sent again",
    AlarmKind.UNSIGNED_HEAD: "the terminal holds a list that nobody here signed: inspect it",
    AlarmKind.HIGHER_HEAD: "the terminal holds a newer list than the centre issued: restore the centre's list "
    "versions; parameters, permissions: publish them with a higher --generation",
    AlarmKind.LIST_NOT_TAKEN: "the terminal refuses or cannot finish the list: look at its memory and its status",
    AlarmKind.STORAGE: "the spool says what is wrong: look at the disk and its log; docs/spool.md",
}


@dataclass(slots=True)
class Alarm:
    """One standing alarm; times are UTC milliseconds."""

    kind: AlarmKind
    subject: str
    text: str
    since_ms: int
    last_ms: int
    count: int = 1


class Alarms:
    """The standing alarms, by (kind, subject)."""

    def __init__(self, *, alarms_max: int = ALARMS_MAX) -> None:
        self._alarms_max = alarms_max
        self._standing: dict[tuple[AlarmKind, str], Alarm] = {}
        self.not_listed = 0

    def __len__(self) -> int:
        return len(self._standing)

    def raise_alarm(self, kind: AlarmKind, subject: str, text: str, now_ms: int) -> bool:
        """Note it; True when it was not standing before."""
        alarm = self._standing.get((kind, subject))
        if alarm is not None:
            alarm.count += 1
            alarm.last_ms = now_ms
            alarm.text = text
            return False
        if len(self._standing) >= self._alarms_max:
            self.not_listed += 1
            return True
        self._standing[kind, subject] = Alarm(kind, subject, text, now_ms, now_ms)
        return True

    def clear(self, kind: AlarmKind, subject: str) -> None:
        """What it told of is over; nothing happens if it does not stand."""
        self._standing.pop((kind, subject), None)

    def standing(self) -> list[Alarm]:
        """Oldest first."""
        return sorted(self._standing.values(), key=lambda alarm: alarm.since_ms)


class AlarmingLog:
    """A `Log` that also raises an alarm for every event with `alarm=True`, as the spool has; for whoever opens it."""

    def __init__(self, log: Log, alarms: Alarms, clock: Clock) -> None:
        self._log = log
        self._alarms = alarms
        self._clock = clock

    def __call__(self, event: str, /, **facts: object) -> None:
        if facts.get("alarm"):
            text = ", ".join(f"{name} {value}" for name, value in facts.items() if name not in {"alarm", "path"})
            # The spool runs on a thread of its own; one assignment into a dictionary is all that happens here.
            self._alarms.raise_alarm(AlarmKind.STORAGE, event, text, self._clock.now_ms())
        self._log(event, **facts)
