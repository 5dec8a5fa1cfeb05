"""Group commit: many intakes, one transaction (R14). The shell of a Spool, on the Executor port.

While one group is being committed, the next one gathers; so the group is as large as the disk is slow, and no timer
decides. It is the only user of the spool's connection: whoever needs something else of the spool hands it in by `run`.

    submit ─▶ two lanes (bounded) ─▶ group ─▶ Spool.append on the executor ─▶ done(outcome | failure), in order
                                                │ failure: the whole group is refused, then reopen every second

A group takes what is urgent first. Where both lanes wait, an eighth of it is kept for the other one: a backlog goes on
being stored however many live sales come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from ledger_sync.errors import SpoolBusy, SpoolClosed, SpoolError, SpoolFailure
from ledger_sync.spool.intake import Intake, Outcome
from ledger_sync.spool.spool import Spool
from ledger_sync.spool.store import SpoolState
from protocol.ports import Clock, Executor, Log, Timer

INTAKES_QUEUED_MAX: Final = 16_384
BYTES_QUEUED_MAX: Final = 32 << 20
GROUP_INTAKES_MAX: Final = 512  # 8,000 records of the usual frames; some 10 ms of one core
GROUP_BYTES_MAX: Final = 2 << 20
ORDINARY_SHARE: Final = 8  # one part in eight of a group stays with the ordinary lane
REOPEN_MS: Final = 1_000

T = TypeVar("T")
Done = Callable[[Outcome | SpoolError], None]
"""Called once per intake, after the commit or after it has failed; on the callbacks' thread, never inside `submit`
of a threaded executor."""


class SpoolWriter:
    """Call everything from the callbacks' thread. `close` once, after the last `submit`."""

    def __init__(
        self,
        spool: Spool,
        *,
        executor: Executor,
        clock: Clock,
        log: Log,
        intakes_queued_max: int = INTAKES_QUEUED_MAX,
        bytes_queued_max: int = BYTES_QUEUED_MAX,
        group_intakes_max: int = GROUP_INTAKES_MAX,
        group_bytes_max: int = GROUP_BYTES_MAX,
    ) -> None:
        self._spool = spool
        self._executor = executor
        self._clock = clock
        self._log = log
        self._intakes_queued_max = intakes_queued_max
        self._bytes_queued_max = bytes_queued_max
        self._group_intakes_max = group_intakes_max
        self._group_bytes_max = group_bytes_max
        self._queue: deque[tuple[Intake, Done]] = deque()
        self._urgent: deque[tuple[Intake, Done]] = deque()
        self._queued_bytes = 0
        self._in_flight: list[tuple[Intake, Done]] = []
        self._flushes: list[Callable[[], None]] = []
        self._reopen_timer: Timer | None = None
        self._closing = False
        self.groups = 0
        self.refused = 0
        self.after_group: Callable[[int, int], None] | None = None
        """Called with (intakes of the group, ms from its hand-over to its answer) when every `done` of it has been:
        what is due once a group goes out here, not once an intake."""
        self._handed_over_ms = 0

    # -- intake -------------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether `submit` takes one more; where it does not, stop reading from peers."""
        queued = len(self._queue) + len(self._urgent)
        return queued < self._intakes_queued_max and self._queued_bytes < self._bytes_queued_max

    def submit(self, intake: Intake, done: Done, *, is_urgent: bool = False) -> None:
        """Queue one intake; `done` follows with its outcome, durable, or with why it was refused.

        Outcomes come in the order of submission within each lane; what is urgent may overtake what is not.

        Raises:
            SpoolBusy: no room; nothing was taken and `done` will not be called.
            SpoolClosed: after `close`.
        """
        if self._closing:
            raise SpoolClosed("the spool is closing")
        queued = len(self._queue) + len(self._urgent)
        if queued >= self._intakes_queued_max or self._queued_bytes >= self._bytes_queued_max:  # `has_room`, uncalled
            raise SpoolBusy(intakes=queued, queued_bytes=self._queued_bytes)
        (self._urgent if is_urgent else self._queue).append((intake, done))
        self._queued_bytes += intake.size_bytes
        if not self._in_flight:
            self._pump()

    def _pump(self) -> None:
        """Commit the next group, unless one is under way."""
        queue, urgent = self._queue, self._urgent
        if self._in_flight or not (queue or urgent):
            return
        size = 0
        if urgent and queue:
            intakes_max, bytes_max = self._group_intakes_max, self._group_bytes_max
            size = self._gather(
                urgent, 0, intakes_max - intakes_max // ORDINARY_SHARE, bytes_max - bytes_max // ORDINARY_SHARE
            )
        elif urgent:
            queue = urgent
        size = self._gather(queue, size, self._group_intakes_max, self._group_bytes_max)
        self._queued_bytes -= size
        group = [intake for intake, _ in self._in_flight]
        self.groups += 1
        self._handed_over_ms = self._clock.monotonic_ms()
        self._executor.submit(lambda: self._spool.append(group), self._appended)

    def _gather(self, lane: deque[tuple[Intake, Done]], size: int, intakes_max: int, bytes_max: int) -> int:
        """Move the front of a lane into the group that is being made; its size in bytes afterwards."""
        group = self._in_flight
        is_all = not (self._urgent and self._queue)
        if is_all and len(lane) <= intakes_max and self._queued_bytes <= bytes_max:  # the rule: one group takes it
            group.extend(lane)
            lane.clear()
            return self._queued_bytes
        while lane and len(group) < intakes_max and size < bytes_max:
            pair = lane.popleft()
            size += pair[0].size_bytes
            group.append(pair)
        return size

    def _appended(self, outcomes: list[Outcome] | None, error: BaseException | None) -> None:
        group, self._in_flight = self._in_flight, []
        took_ms = self._clock.monotonic_ms() - self._handed_over_ms
        # The next group goes to the disk before the callbacks of this one take their time.
        if error is None:
            self._pump()
        if outcomes is not None and error is None:
            for (_, done), outcome in zip(group, outcomes, strict=True):
                done(outcome)
        else:
            failure = error if isinstance(error, SpoolError) else SpoolFailure(f"{type(error).__name__}: {error}")
            self.refused += len(group)
            # Until it is reopened every group is refused: alarm for the first, count the others.
            self._log(
                "spool.group_refused",
                alarm=not isinstance(failure, SpoolClosed),
                intakes=len(group),
                error=str(failure),
            )
            for _, done in group:
                done(failure)
            self._pump()
        if self.after_group is not None:
            self.after_group(len(group), took_ms)
        self._reopen_if_failed()
        self._settle_flushes()

    # -- everything else ----------------------------------------------------------------------------------------------

    def run(self, work: Callable[[Spool], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Let `work` use the spool, between two groups; `done(result, error)` follows as with `Executor.submit`."""

        def finished(result: T | None, error: BaseException | None) -> None:
            done(result, error)
            self._reopen_if_failed()

        self._executor.submit(lambda: work(self._spool), finished)

    def flush(self, done: Callable[[], None]) -> None:
        """Call `done` once everything submitted before has been answered."""
        self._flushes.append(done)
        self._settle_flushes()

    def _settle_flushes(self) -> None:
        if not self._queue and not self._urgent and not self._in_flight:
            waiting, self._flushes = self._flushes, []
            for done in waiting:
                done()

    def close(self, done: Callable[[], None] | None = None) -> None:
        """Take nothing more, commit what is queued, close the spool, then call `done`; idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._reopen_timer is not None:
            self._reopen_timer.cancel()
            self._reopen_timer = None

        def closed(_: None, error: BaseException | None) -> None:
            if error is not None:
                self._log("spool.close_failed", alarm=True, error=str(error))
            if done is not None:
                done()

        self.flush(lambda: self._executor.submit(self._spool.close, closed))

    # -- failures -----------------------------------------------------------------------------------------------------

    def _reopen_if_failed(self) -> None:
        if self._spool.state is SpoolState.FAILED and self._reopen_timer is None and not self._closing:
            self._reopen_timer = self._clock.call_at(self._clock.monotonic_ms() + REOPEN_MS, self._reopen)

    def _reopen(self) -> None:
        self._executor.submit(self._spool.reopen, self._reopened)

    def _reopened(self, _: None, error: BaseException | None) -> None:
        self._reopen_timer = None
        if error is None:
            self._log("spool.reopened")
        else:
            self._log("spool.reopen_failed", alarm=True, error=str(error))
        self._reopen_if_failed()
