"""One seed: record a working day, draw images at every point of it, open each, compare; many seeds over the cores."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.crash_images.disk import Disk, DiskVfs, Operation
from tests.crash_images.images import Image, Platter
from tests.crash_images.judging import Look, compared
from tests.crash_images.ledger_work import LedgerJudge, LedgerWork
from tests.crash_images.spool_work import SpoolJudge, SpoolWork

IMAGES_PER_DAY: Final = 4_000  # drawn, of one recorded day: some two to four for each of its operations
PASSES_MAX: Final = 12  # over one day: later passes draw mostly what was drawn before
DRAWS_PER_POINT: Final = 2  # of one pass
RECOVERY_SHARE: Final = 0.04  # of images whose opening is cut too
RECOVERY_CUTS: Final = 4  # of such an opening
FINDINGS_KEPT: Final = 8  # of one day, no two that begin alike: a broken one has thousands
KIND_CHARACTERS: Final = 36
LEDGER_DAYS_OF_TEN: Final = 3  # a ledger takes twice as long to open


class Judge(Protocol):
    recovered: int
    worked_on: int

    def look(self, image: Image) -> Look:
        """Open it as the product does, and say what it holds."""


@dataclass(slots=True)
class Tally:
    """What was done; sums up over days."""

    days: int = 0
    steps: int = 0
    operations: int = 0
    """Points at which the power was cut."""
    drawn: int = 0
    opened: int = 0
    """Different ones of those: the same files are opened once, and compared at every point."""
    cut_again: int = 0
    """Of those, cut while an image was being opened."""
    recovered: int = 0
    """Different files after opening; each was verified in full."""
    worked_on: int = 0
    """A share of those."""
    manners: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    """Of those, with less in the file than was acknowledged, or with a mixture."""
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.days += other.days
        self.steps += other.steps
        self.operations += other.operations
        self.drawn += other.drawn
        self.opened += other.opened
        self.cut_again += other.cut_again
        self.recovered += other.recovered
        self.worked_on += other.worked_on
        self.manners += other.manners
        self.wrong += other.wrong
        self.lost += other.lost
        self.findings += other.findings


@dataclass(frozen=True, slots=True)
class Day:
    """One task: whose day, which seed, how many images to draw."""

    subject: str
    seed: int
    images: int = IMAGES_PER_DAY
    synchronous: str = "FULL"

    def __str__(self) -> str:
        return f"{self.subject} day {self.seed}"


class Cutter:
    """Draws the images of one day."""

    def __init__(self, day: Day, judge: Judge, states: list[bytes], journal: list[Operation]) -> None:
        self.day = day
        self.judge = judge
        self.states = states
        self.journal = journal
        self.rng = random.Random(f"cuts {day}")
        self.seen: dict[int, Look] = {}
        self.kinds: set[str] = set()
        marks = sum(each.kind == "mark" for each in journal)
        self.tally = Tally(days=1, steps=marks, operations=len(journal) - marks)

    def run(self) -> Tally:
        for _ in range(PASSES_MAX):
            if self.tally.drawn >= self.day.images:
                break
            self._pass()
        self.tally.recovered, self.tally.worked_on = self.judge.recovered, self.judge.worked_on
        return self.tally

    def _pass(self) -> None:
        platter, acknowledged = Platter(), 0
        for at, done in enumerate(self.journal):
            platter.step(done)
            acknowledged += done.kind == "mark"
            for _ in range(1 if platter.is_settled else DRAWS_PER_POINT):
                self._cut(platter, acknowledged, f"operation {at}")
            if self.tally.drawn >= self.day.images:
                return

    def _cut(self, platter: Platter, acknowledged: int, where: str) -> None:
        manner, image = platter.draw(self.rng)
        look = self._look(image, manner)
        self._compare(look, acknowledged, f"{where}, {manner}")
        if look.recovery and self.rng.random() < RECOVERY_SHARE:
            self._cut_recovery(image, look.recovery, acknowledged, f"{where}, {manner}")

    def _cut_recovery(self, start: Image, recovery: Sequence[Operation], acknowledged: int, where: str) -> None:
        for _ in range(RECOVERY_CUTS):
            platter, until = Platter(start), self.rng.randint(1, len(recovery))
            for done in recovery[:until]:
                platter.step(done)
            manner, image = platter.draw(self.rng)
            before = self.tally.opened
            look = self._look(image, manner)
            self.tally.cut_again += self.tally.opened - before
            self._compare(look, acknowledged, f"{where}, cut again at operation {until} of opening, {manner}")

    def _look(self, image: Image, manner: str) -> Look:
        self.tally.drawn += 1
        key = hash(tuple(sorted(image.items())))
        look = self.seen.get(key)
        if look is None:
            self.tally.opened += 1
            self.tally.manners[manner] += 1
            look = self.seen[key] = self.judge.look(image)
        return look

    def _compare(self, look: Look, acknowledged: int, where: str) -> None:
        says = compared(look, self.states, acknowledged)
        if says:
            self.tally.wrong += 1
            self.tally.lost += says.startswith("step ")
            kind = says[:KIND_CHARACTERS]
            if kind not in self.kinds and len(self.kinds) < FINDINGS_KEPT:
                self.kinds.add(kind)
                self.tally.findings.append(f"{self.day}, {where}: {says}")


def live(day: Day, lock_path: Path) -> Tally:
    """Record that day on a disk in memory and cut its power everywhere."""
    vfs = DiskVfs(f"crash-{os.getpid()}", lock_path)
    try:
        judge: Judge
        if day.subject == "spool":
            spool = SpoolWork(vfs, day.seed, synchronous=day.synchronous).run(Disk())
            judge, states, journal = SpoolJudge(vfs, spool), spool.states, spool.disk.journal
        else:
            ledger = LedgerWork(vfs, day.seed, synchronous=day.synchronous).run(Disk())
            judge, states, journal = LedgerJudge(vfs, ledger), ledger.states, ledger.disk.journal
        return Cutter(day, judge, states, list(journal)).run()
    finally:
        vfs.unregister()


def days_of(seed: int, images: int) -> Iterator[Day]:
    """So many images, spread over days of spools and ledgers; the seed decides all of it."""
    count = -(-images // IMAGES_PER_DAY)
    for at in range(count):
        subject = "ledger" if at % 10 in range(0, 10, -(-10 // LEDGER_DAYS_OF_TEN)) else "spool"
        yield Day(subject, seed * 1_000_000 + at, min(IMAGES_PER_DAY, images - at * IMAGES_PER_DAY))


def _live_in_worker(work: tuple[Day, str]) -> tuple[Day, Tally]:
    day, directory = work
    return day, live(day, Path(directory) / f"lock-{os.getpid()}")


def live_all(days: list[Day], directory: Path, workers: int) -> Iterator[tuple[Day, Tally, float]]:
    """All of them over so many processes, in the order in which they end; with the seconds since the start."""
    started = time.monotonic()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        work = [(day, str(directory)) for day in days]
        for day, tally in pool.imap_unordered(_live_in_worker, work):
            yield day, tally, time.monotonic() - started
        pool.close()
        pool.join()
