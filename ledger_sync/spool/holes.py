"""What a spool does not hold of a (terminal, epoch) although it exists, and why (docs/spool.md, R7, R9).

    1 ─────────── first unacknowledged ─────────── highest held ─────────── next
      ELSEWHERE: the terminal has had an acknowledgement, not from this spool
                                        MISSING: offered later records, not these
                                                                  WAITING: in the terminal, not offered yet
      TOMBSTONE: anywhere: the terminal cannot read them any more

First unacknowledged and next are what the terminal has stated last: its newest BASELINE, or what a session has heard
since. Every question costs some look-ups by key, whatever the spool's size; one epoch has at most 1,024 ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import apsw

from ledger_sync.spool.epochs import load_intervals
from ledger_sync.spool.places import EpochKey, Place, Places
from protocol import rows
from protocol.codes import RowKind
from protocol.intervals import Intervals
from protocol.ranges import Range

EPOCHS_MAX: Final = 200  # of one answer: some 10 ms of the spool's thread, between two groups
EPOCHS_OF_TERMINAL_MAX: Final = 16  # it announces 4; older ones are read in the ledger

_EPOCHS_OF: Final = (
    "SELECT epoch FROM ranges WHERE terminal = ? UNION SELECT epoch FROM anchors WHERE terminal = ?"
    " ORDER BY epoch DESC LIMIT ?"
)
_NEXT_KEY: Final = """
SELECT min(terminal), epoch FROM (
    SELECT * FROM (SELECT terminal, epoch FROM ranges WHERE (terminal, epoch) > (?1, ?2) ORDER BY 1, 2 LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT terminal, epoch FROM anchors WHERE (terminal, epoch) > (?1, ?2) ORDER BY 1, 2 LIMIT 1)
    ORDER BY 1, 2 LIMIT 1)
"""
_HEAD: Final = "SELECT substr(bytes, 1, ?) FROM rows WHERE id = ?"


class HoleKind(Enum):
    """Why sequences are not here."""

    MISSING = "missing"
    ELSEWHERE = "elsewhere"
    WAITING = "waiting"
    TOMBSTONE = "tombstone"


@dataclass(slots=True)
class Hole:
    """Consecutive sequences that are not held as records; `since_ms` is the time of what is known before them."""

    kind: HoleKind
    first: int
    last: int
    since_ms: int | None

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(slots=True)
class Stated:
    """What a terminal has said of itself: first sequence not acknowledged, next to be issued, and when."""

    first_unacknowledged: int
    next: int
    at_ms: int


@dataclass(slots=True)
class EpochHeld:
    """Everything that the spool knows of one (terminal, epoch)."""

    terminal: int
    epoch: int
    ranges: list[Range]
    tombstones: list[tuple[int, int, int | None]]
    """(first, last, received_ms; None: pruned)."""
    settled: list[tuple[int, int]]
    baseline: Stated | None
    """None: it was pruned, or never came."""

    def holes(self, heard: Stated | None = None) -> Iterator[Hole]:
        """What is not held as a record, ascending; `heard` is newer than the baseline."""
        stated = heard or self.baseline
        held = Intervals((one.first, one.last) for one in self.ranges)
        highest = self.ranges[-1].last if self.ranges else 0
        acknowledged = stated.first_unacknowledged - 1 if stated is not None else 0
        known = max(highest, stated.next - 1 if stated is not None else 0)
        found = [Hole(HoleKind.TOMBSTONE, *one) for one in self.tombstones]
        for first, last in held.missing(1, known) if known else ():
            for kind, begin, end in (
                (HoleKind.ELSEWHERE, 1, acknowledged),
                (HoleKind.MISSING, acknowledged + 1, highest),
                (HoleKind.WAITING, max(acknowledged, highest) + 1, known),
            ):
                if max(first, begin) <= min(last, end):
                    hole = Hole(kind, max(first, begin), min(last, end), stated.at_ms if stated is not None else None)
                    if kind is not HoleKind.WAITING:
                        hole.since_ms = self._trade_ms_before(first)
                    found.append(hole)
        return iter(sorted(found, key=lambda hole: hole.first))

    def _trade_ms_before(self, sequence: int) -> int | None:
        return next((one.trade_ms_last for one in self.ranges if one.last == sequence - 1), None)


def epochs_after(connection: apsw.Connection, after: EpochKey, limit: int = EPOCHS_MAX) -> list[EpochKey]:
    """The next (terminal, epoch) that the spool knows of, ascending; at most `EPOCHS_MAX`. No table is read whole."""
    found: list[EpochKey] = []
    while len(found) < min(limit, EPOCHS_MAX):
        terminal, epoch = connection.execute(_NEXT_KEY, after).get
        if terminal is None:
            break
        after = (terminal, epoch)
        found.append(after)
    return found


def epochs_of(connection: apsw.Connection, terminal: int) -> list[EpochKey]:
    """The newest epochs of one terminal, ascending; at most `EPOCHS_OF_TERMINAL_MAX`."""
    found: Iterable[Any] = connection.execute(_EPOCHS_OF, (terminal, terminal, EPOCHS_OF_TERMINAL_MAX))
    return [(terminal, epoch) for (epoch,) in found][::-1]


def epoch_held(connection: apsw.Connection, places: Places, key: EpochKey, ranges: list[Range]) -> EpochHeld:
    """What is known of one (terminal, epoch), by key; `ranges` are those it holds."""
    tombstones: list[tuple[int, int, int | None]] = []
    for first, last in load_intervals(connection, "tombstones", key):
        head = _head(connection, next(places.upwards(key, RowKind.TOMBSTONE, first), None))
        tombstones.append((first, last, None if head is None else head.received_ms))
    said = _head(connection, places.highest(key, RowKind.BASELINE))
    return EpochHeld(
        terminal=key[0],
        epoch=key[1],
        ranges=ranges,
        tombstones=tombstones,
        settled=list(load_intervals(connection, "settled", key)),
        baseline=None if said is None else Stated(said.first, said.last, said.received_ms),
    )


def _head(connection: apsw.Connection, place: Place | None) -> rows.RowHead | None:
    if place is None:
        return None
    found: tuple[bytes] | None = connection.execute(_HEAD, (rows.HEADER.size, place[1])).fetchone()
    return None if found is None else rows.peek(found[0])
