"""A spool's working day from a seed: every kind of intake, batches, receipts, pruning, checkpoints, closing.

Each step is at most one transaction of the spool; `Trace.states[k]` is what the spool held after k + 1 steps.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import pytest

from ledger_sync.errors import SpoolError
from ledger_sync.spool import AnchorIntake, BaselineIntake, Intake, Spool
from ledger_sync.spool.reader import SpoolReader
from tests.crash_images.disk import DIRECTORY, Disk, DiskFiles, DiskVfs, Kill, no_hook
from tests.crash_images.images import Image
from tests.crash_images.judging import WORKED_ON_EVERY, Look
from tests.spool.kit import DAY_MS, NOW_MS, ListLog, SeededRandom, StillClock, Terminal, open_spool, receipt_for

PATH: Final = DIRECTORY + "spool.db"
STEPS: Final = 60
TERMINALS: Final = 3
WAL_PAGES_SMALL: Final = 30  # so that the spool's own checkpoint happens every few groups, not every 16 MiB
LIST_MAX: Final = 200


@dataclass(slots=True)
class Trace:
    """What happened: `states[k]` after step k + 1, as the journal's marks count steps."""

    disk: Disk
    states: list[bytes]
    terminals: list[Terminal]
    identity: Any = None
    did: list[str] = field(default_factory=list)


def open_on(vfs: DiskVfs, **changed: Any) -> Spool:
    """The product's own way to open a spool, on the disk that the VFS serves."""
    return open_spool(PATH, vfs=vfs.vfs_name, files=DiskFiles(vfs.disk), **changed)  # type: ignore[arg-type]


def view(spool: Spool, vfs: DiskVfs) -> bytes:
    """A digest of everything that a spool's public face shows."""
    with SpoolReader.open(PATH, vfs=vfs.vfs_name) as reader:
        last = spool.last_row()
        rows = [(reader.row_bytes(row), reader.settlement_of(row)) for row in range(1, last + 1)]
    facts = spool.facts()
    shown = (
        spool.look((0, 0), LIST_MAX), spool.totals(), spool.known_ledger(), last, rows, facts.rows, facts.rows_unsettled
    )  # fmt: skip
    return sha256(repr(shown).encode()).digest()


class SpoolWork:
    """Draws and does the steps."""

    def __init__(self, vfs: DiskVfs, seed: int, *, synchronous: str = "FULL", is_killed: bool = True) -> None:
        self.vfs = vfs
        self.rng = random.Random(f"spool {seed}")
        self.synchronous = synchronous
        self.steps = {step: weight for step, weight in _STEPS.items() if is_killed or step is not SpoolWork._killed}
        self.clock = StillClock()
        self.log = ListLog()
        self.spool: Spool
        self.terminals = [Terminal(1001 + at) for at in range(TERMINALS)]
        for terminal in self.terminals:
            terminal.sell(400)
        self.next = dict.fromkeys(range(TERMINALS), 1)
        self.holes: list[tuple[int, int, int]] = []
        self.position = 0
        self.generation = 1

    def run(self, disk: Disk, steps: int = STEPS) -> Trace:
        self.vfs.disk = disk
        self.trace = trace = Trace(disk, [], self.terminals)
        self.spool = self._open()
        trace.identity = self.spool.identity
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ledger_sync.spool.store.WAL_PAGES_MAX", WAL_PAGES_SMALL)
            self._note(trace, "open")
            for _ in range(steps):
                step = self.rng.choices(list(self.steps), weights=list(self.steps.values()))[0]
                step(self)
                self._note(trace, step.__name__.strip("_"))
        self.spool.close()
        return trace

    def _open(self) -> Spool:
        return open_on(self.vfs, clock=self.clock, log=self.log, synchronous=self.synchronous)

    def _note(self, trace: Trace, did: str) -> None:
        trace.disk.mark()
        with trace.disk.at_rest():
            trace.states.append(view(self.spool, self.vfs))
        trace.did.append(did)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _group(self) -> None:
        self.spool.append([self._intake() for _ in range(self.rng.randint(1, 5))])

    def _settle(self) -> None:
        batch = self.spool.claim(0, self.rng.randint(1, 12))
        if batch is not None:
            self.position += 1
            self.spool.settle(receipt_for(batch, generation=self.generation, position=self.position))

    def _unsettle(self) -> None:
        self.generation += 1
        self.position = max(0, self.position - self.rng.randint(0, 3))
        self.spool.unsettle_above(self.generation, self.position)

    def _prune(self) -> None:
        self.clock.advance(self.rng.randint(1, 5) * DAY_MS)
        self.spool.prune(self.clock.utc_ms)

    def _checkpoint(self) -> None:
        self.spool.checkpoint()

    def _reopen(self) -> None:
        self.spool.close()
        self.spool = self._open()

    def _killed(self) -> None:
        """The process is killed in a group: the page cache keeps what was written and not synced, for the next one."""
        disk = self.vfs.disk
        disk.hook = Kill(self.rng.randint(0, 40))
        with contextlib.suppress(SpoolError):
            self._group()
        self.spool.close()
        disk.hook = no_hook
        self.spool = self._open()

    # -- intakes ------------------------------------------------------------------------------------------------------

    def _intake(self) -> Intake:
        kind = self.rng.choices(list(_INTAKES), weights=list(_INTAKES.values()))[0]
        return kind(self, self.rng.randrange(TERMINALS))

    def _frame(self, at: int, first: int, count: int) -> Intake:
        return self.terminals[at].frame(first, first + count - 1, received_ms=self.clock.utc_ms)

    def _new(self, at: int) -> Intake:
        count = self.rng.randint(1, 4)
        first, self.next[at] = self.next[at], self.next[at] + count
        return self._frame(at, first, count)

    def _after_a_hole(self, at: int) -> Intake:
        width = self.rng.randint(1, 3)
        self.holes.append((at, self.next[at], width))
        self.next[at] += width
        return self._new(at)

    def _filling(self, at: int) -> Intake:
        if not self.holes:
            return self._new(at)
        at, first, width = self.holes.pop(self.rng.randrange(len(self.holes)))
        return self._frame(at, first, width)

    def _tombstone(self, at: int) -> Intake:
        if not self.holes:
            return self._new(at)
        at, first, width = self.rng.choice(self.holes)  # it stays a hole: its records may come later
        return self.terminals[at].tombstone(first, first + width - 1)

    def _again(self, at: int) -> Intake:
        """A duplicate, or a frame that straddles what is held."""
        first = self.rng.randint(max(1, self.next[at] - 6), max(1, self.next[at] - 1))
        count = self.rng.randint(1, 4)
        self.next[at] = max(self.next[at], first + count)
        return self._frame(at, first, count)

    def _fork(self, at: int) -> Intake:
        """Another chain for what is held as records: a suspect."""
        terminal = self.terminals[at]
        held = self.spool.held(terminal.terminal, 1)
        if not held or held[0].last - held[0].first < 3 or self.spool.tombstoned(terminal.terminal, 1):
            return self._new(at)
        after = self.rng.randint(held[0].first, held[0].last - 1)
        twin = terminal.forked(after)
        return twin.frame(after + 1, min(after + 3, held[0].last), received_ms=self.clock.utc_ms)

    def _baseline(self, at: int) -> Intake:
        message = self.terminals[at].baseline(1, self.next[at], uptime_ds=self.rng.randint(0, 9_999))
        return BaselineIntake(self.terminals[at].terminal, 1, message.encode(), self.clock.utc_ms)

    def _anchor(self, at: int) -> Intake:
        return AnchorIntake(self.terminals[at].terminal, 1, 1, NOW_MS - self.rng.randint(0, 9_999))


_STEPS: Final[dict[Callable[[SpoolWork], None], int]] = {
    SpoolWork._group: 60, SpoolWork._settle: 16, SpoolWork._unsettle: 2, SpoolWork._prune: 4,
    SpoolWork._checkpoint: 5, SpoolWork._reopen: 3, SpoolWork._killed: 6,
}  # fmt: skip
_INTAKES: Final[dict[Callable[[SpoolWork, int], Intake], int]] = {
    SpoolWork._new: 50, SpoolWork._after_a_hole: 8, SpoolWork._filling: 8, SpoolWork._tombstone: 6,
    SpoolWork._again: 10, SpoolWork._fork: 4, SpoolWork._baseline: 4, SpoolWork._anchor: 4,
}  # fmt: skip


class SpoolJudge:
    """Opens images of one trace and says what is wrong; what depends on the recovered bytes alone is asked once."""

    def __init__(self, vfs: DiskVfs, trace: Trace) -> None:
        self.vfs = vfs
        self.trace = trace
        self._views: dict[int, tuple[bytes, str]] = {}
        self.recovered = self.worked_on = 0

    def look(self, image: Image) -> Look:
        """Open it as the product does."""
        disk = self.vfs.disk = Disk.of(image)
        log = ListLog()
        try:
            spool = open_on(self.vfs, log=log, random=SeededRandom(99))
        except Exception as error:  # noqa: BLE001 - whatever opening raises is a finding
            return Look(b"", f"does not open: {type(error).__name__}: {error}")
        recovery, image = list(disk.journal), disk.image()
        try:
            key, (told, says) = self._recovered(spool, disk)
        except Exception as error:  # noqa: BLE001 - a corrupt file may raise anything, and that is a finding
            return Look(b"", f"cannot be read: {type(error).__name__}: {error}")
        finally:
            spool.close()
        if key not in self._views:
            self.recovered += 1
            if self.recovered % WORKED_ON_EVERY == 1:
                self.worked_on += 1
                says = says or self._goes_on(image, told)
            self._views[key] = told, says
        if log.alarms():
            says = says or f"alarms {log.alarms()}"
        is_other = spool.identity != self.trace.identity
        return Look(told, says, "another spool id" if is_other else "", recovery)

    def _recovered(self, spool: Spool, disk: Disk) -> tuple[int, tuple[bytes, str]]:
        """(what names these bytes, (view, what is wrong with them by themselves)); asked once for the same bytes."""
        key = hash(bytes(disk.files["spool.db"]))
        return key, self._views.get(key) or (view(spool, self.vfs), self._unsound(spool))

    def _unsound(self, spool: Spool) -> str:
        """What contradicts itself, or the terminals' own sums."""
        with SpoolReader.open(PATH, vfs=self.vfs.vfs_name) as reader:
            findings = reader.verify()
        if findings:
            return f"verify: {findings[0]}"
        counted: dict[int, list[int]] = {terminal.terminal: [0, 0] for terminal in self.trace.terminals}
        for total in spool.totals():
            counted[total.terminal][0] += total.count
            counted[total.terminal][1] += total.cents
        for terminal in self.trace.terminals:
            held = {sequence for one in spool.held(terminal.terminal, 1) for sequence in range(one.first, one.last + 1)}
            for first, last in spool.tombstoned(terminal.terminal, 1):
                held -= set(range(first, last + 1))
            true = [len(held), sum(terminal.cents(sequence, sequence) for sequence in held)]
            if counted[terminal.terminal] != true:
                return f"totals of terminal {terminal.terminal} are {counted[terminal.terminal]}, should be {true}"
        return ""

    def _goes_on(self, image: Image, told: bytes) -> str:
        """On a copy: open again, take everything up that the terminals have, settle, close, open: sound?"""
        self.vfs.disk = Disk.of(image)
        spool = open_on(self.vfs)
        try:
            if view(spool, self.vfs) != told:
                return "opened a second time it shows something else"
            for terminal in self.trace.terminals:
                last = max((one.last for one in spool.held(terminal.terminal, 1)), default=0) + 8
                for first in range(1, last + 1, 16):
                    spool.append([terminal.frame(first, min(first + 15, last))])
                if [(one.first, one.last) for one in spool.held(terminal.terminal, 1)] != [(1, last)]:
                    return f"terminal {terminal.terminal} cannot bring the rest of its records"
            generation, position = spool.known_ledger()
            while (batch := spool.claim()) is not None:
                position += 1
                if not spool.settle(receipt_for(batch, generation=generation, position=position)):
                    return "a receipt of its own batch does not settle"
            spool.checkpoint()
            spool.close()
            spool = open_on(self.vfs)
            return self._unsound(spool)
        except Exception as error:  # noqa: BLE001 - as above
            return f"cannot go on: {type(error).__name__}: {error}"
        finally:
            spool.close()
