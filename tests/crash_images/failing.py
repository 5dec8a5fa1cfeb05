"""Operations that fail, once or from some moment on; and one day of a spool or a ledger through such a failure.

What must hold: the step under way is refused with the package's own error (or was not touched by the failure), nothing
of it is promised; while everything goes on failing nothing opens, or what opens is whole; once it is mended, the file
is of the last step that returned or of the one that failed; it goes on; and a power cut after that loses none of it,
even if the system has dropped what a failed sync could not write.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import apsw

from ledger_sync.errors import SpoolClosed, SpoolFailure
from ledger_sync.ledger.errors import LedgerError, LedgerFailure
from ledger_sync.spool import SpoolState
from tests.crash_images import ledger_work, spool_work
from tests.crash_images.disk import Disk, DiskVfs, no_hook
from tests.crash_images.images import Platter
from tests.crash_images.judging import compared

KINDS: Final = ("open", "create", "access", "size", "read", "write", "truncate", "sync", "rename", "delete", "lock")
ERRORS: Final[dict[str, type[apsw.Error]]] = {"open": apsw.CantOpenError, "create": apsw.CantOpenError}
STEPS: Final = 12
CUTS_AFTER: Final = 2  # at each operation after the failure
SEED: Final = 11


@dataclass(slots=True)
class Fault:
    """A `Hook` that fails the k-th operation of a kind, or all of that kind from it on; counts every kind."""

    kind: str = ""
    at: int = 0
    is_persistent: bool = False
    seen: Counter[str] = field(default_factory=Counter)
    fired: int = 0

    def __call__(self, kind: str, name: str) -> None:
        self.seen[kind] += 1
        if kind != self.kind:
            return
        count = self.seen[kind]
        if count == self.at or (self.is_persistent and count > self.at):
            self.fired += 1
            raise ERRORS.get(kind, apsw.IOError)(f"planted: {kind} of {name}")


class FailingSpool:
    """Days of one spool; `states` and `counts` are of the day on which nothing fails."""

    refusals: Final = (SpoolFailure, SpoolClosed)

    def __init__(self, vfs: DiskVfs) -> None:
        self.vfs = vfs
        clean = Fault()
        work = self._work()
        self.states = work.run(Disk(hook=clean), STEPS).states
        self.counts = clean.seen

    def _work(self) -> spool_work.SpoolWork:
        return spool_work.SpoolWork(self.vfs, SEED, is_killed=False)

    def live(self, fault: Fault) -> tuple[Any, BaseException | None]:
        """(the work, what ended it early)."""
        work = self._work()
        try:
            work.run(Disk(hook=fault, drops_failed_pages=True), STEPS)
        except (SpoolFailure, SpoolClosed) as error:  # closed: its checkpoint failed after a commit that stands
            return work, error
        return work, None

    def refused(self, work: Any) -> str:
        """What is wrong right after the refusal, while it may go on failing."""
        spool = getattr(work, "spool", None)
        if spool is None or spool.state is SpoolState.CLOSED:
            return ""  # it was opening: its owner has the error
        if spool.state is SpoolState.OPEN:
            return "a failure left the spool open"
        if "spool.failed" not in work.log.alarms():
            return "no alarm"
        with contextlib.suppress(SpoolFailure):
            spool.reopen()
        return ""

    def again(self, work: Any) -> bytes:
        """Reopen on the mended disk and say what is there; then one more step, noted."""
        spool = getattr(work, "spool", None)
        if spool is not None and spool.state is SpoolState.FAILED:
            spool.reopen()
        elif spool is None or spool.state is SpoolState.CLOSED:
            spool = spool_work.open_on(self.vfs, clock=work.clock)
        work.spool = spool
        work.trace.identity = spool.identity
        return spool_work.view(spool, self.vfs)

    def more(self, work: Any) -> None:
        work._group()

    def view(self, work: Any) -> bytes:
        return spool_work.view(work.spool, self.vfs)

    def close(self, work: Any) -> None:
        if getattr(work, "spool", None) is not None:
            work.spool.close()

    def judge(self, work: Any) -> Any:
        return spool_work.SpoolJudge(self.vfs, work.trace)


class SpoolOfTwoProcesses(FailingSpool):
    """Whoever comes after the failure knows nothing of it, and finds a file that reads as if all were well."""

    def refused(self, work: Any) -> str:
        says = super().refused(work)
        self.close(work)
        return says


class FailingLedger:
    """As `FailingSpool`, of a ledger and its heads."""

    refusals: Final = (LedgerFailure, apsw.Error)  # a forced close tells what a VFS in Python raised; one in C cannot

    def __init__(self, vfs: DiskVfs) -> None:
        self.vfs = vfs
        clean = Fault()
        work = self._work()
        self.states = work.run(Disk(hook=clean), STEPS).states
        self.counts = clean.seen

    def _work(self) -> ledger_work.LedgerWork:
        return ledger_work.LedgerWork(self.vfs, SEED, is_killed=False)

    def live(self, fault: Fault) -> tuple[Any, BaseException | None]:
        work = self._work()
        try:
            work.run(Disk(hook=fault, drops_failed_pages=True), STEPS)
        except (LedgerFailure, apsw.Error) as error:
            return work, error
        return work, None

    def refused(self, work: Any) -> str:
        self.close(work)
        with contextlib.suppress(LedgerError, apsw.Error):
            ledger_work.open_on(self.vfs).close()
        return ""

    def again(self, work: Any) -> bytes:
        work.ledger = ledger_work.open_on(self.vfs)
        return ledger_work.view(work.ledger.connection)

    def more(self, work: Any) -> None:
        work._post()

    def view(self, work: Any) -> bytes:
        return ledger_work.view(work.ledger.connection)

    def close(self, work: Any) -> None:
        ledger = getattr(work, "ledger", None)
        if ledger is not None:
            with contextlib.suppress(apsw.Error):
                ledger.close()

    def judge(self, work: Any) -> Any:
        return ledger_work.LedgerJudge(self.vfs, work.trace)


Failing = FailingSpool | FailingLedger
Draw = Callable[[Platter], tuple[str, dict[str, bytes]]]


def shake(subject: Failing, fault: Fault, draw: Draw) -> tuple[str, bool]:
    """(what is wrong, whether the failure was told) of one day with that fault."""
    work, error = subject.live(fault)
    disk: Disk = subject.vfs.disk
    failed_at = len(disk.journal)
    done = sum(each.kind == "mark" for each in disk.journal)
    try:
        if error is None:
            says = "" if work.trace.states == subject.states else "it said nothing, and holds something else"
            return says, False
        if not isinstance(error, subject.refusals):
            return f"{type(error).__name__} instead of a refusal: {error}", True
        if work.trace.states != subject.states[: len(work.trace.states)]:
            return "steps before the failure are not what they should be", True
        says = subject.refused(work)
        disk.hook = no_hook
        if says or (isinstance(subject, FailingLedger) and not done):
            return says, True  # a ledger that could not be made
        told = subject.again(work)
        if told not in subject.states[max(done - 1, 0) : done + 1]:
            return f"step {done} had returned, the file is of another", True
        work.trace.states = [*subject.states[:done], told]
        return _goes_on(subject, work, disk, draw, subject.states[done : done + 1], failed_at), True
    finally:
        disk.hook = no_hook
        subject.close(work)


def _goes_on(subject: Failing, work: Any, disk: Disk, draw: Draw, refused: list[bytes], failed_at: int) -> str:
    """Two more steps; then every cut since the failure, in every opening too.

    Until the next step has returned, the step that was refused may still turn out to be done, whole: its WAL was
    removed, and a removal lasts only once the directory is synced.
    """
    states = work.trace.states
    reopened_at = len(disk.journal)
    for _ in range(2):
        subject.more(work)
        disk.mark()
        states.append(subject.view(work))
    subject.close(work)
    judge, platter, acknowledged = subject.judge(work), Platter(), len(states) - 2
    for at, each in enumerate(list(disk.journal)):
        platter.step(each)
        if at >= failed_at:
            acknowledged += at >= reopened_at and each.kind == "mark"
            for _ in range(CUTS_AFTER):
                manner, image = draw(platter)
                look = judge.look(image)
                says = compared(look, states, acknowledged - (at < reopened_at))  # until then nothing rests on `told`
                if says and not (look.view in refused and acknowledged == len(states) - 2):
                    return f"cut at operation {at} ({manner}): {says}"
    return ""
