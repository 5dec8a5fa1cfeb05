"""The spool: what a front-end has promised to keep, on disk before it is acknowledged (R7, R14, R15, R16).

One object, one connection, one thread at a time: `SpoolWriter` is its shell. Every method that changes something is
one transaction, durable at return; how it fails is told in `store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger_sync.errors import DiskFull
from ledger_sync.spool.batches import Batch
from ledger_sync.spool.epochs import EpochState
from ledger_sync.spool.fold import totals_of
from ledger_sync.spool.holes import EpochHeld, epoch_held, epochs_after, epochs_of
from ledger_sync.spool.intake import Intake, Outcome, OutcomeKind, RecordsIntake, TombstoneIntake
from ledger_sync.spool.places import EpochKey
from ledger_sync.spool.store import FreeBytes, Handles, SpoolSettings, Store
from protocol import rows as packed
from protocol.intervals import Intervals
from protocol.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX
from protocol.link_messages import Receipt
from protocol.ports import Clock, Files, Log, Random
from protocol.ranges import Range
from protocol.trade_time import UtcOffset

FREE_SHARE_WARN: Final = 0.20  # R14
FREE_SHARE_REFUSE: Final = 0.05  # R14
SETTLED_DAYS: Final = 7  # R15
MS_PER_DAY: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """Figures for the operator; cheap, nothing is counted by reading rows."""

    rows: int
    rows_unsettled: int
    bytes: int
    oldest_unsettled_ms: int | None
    """Age of the oldest row without a receipt."""
    last_row: int
    receipts_ignored: int
    commits: int


@dataclass(frozen=True, slots=True)
class Total:
    """Records of one terminal, epoch, trade day and type (R15)."""

    terminal: int
    epoch: int
    trade_day: int
    type: int
    count: int
    cents: int


class Spool(Store):
    """Made by `Spool.open`."""

    def __init__(self, settings: SpoolSettings) -> None:
        super().__init__(settings)
        self.receipts_ignored = 0
        self._space_warned = False
        self._clock_doubted = False
        self._observed_at_ms = settings.clock.monotonic_ms()

    @classmethod
    def open(
        cls,
        path: str,
        *,
        frontend: int,
        site: int,
        utc_offset_ms: UtcOffset,
        clock: Clock,
        random: Random,
        files: Files,
        log: Log,
        vfs: str | None = None,
        synchronous: str = "FULL",
        free_bytes: FreeBytes | None = None,
    ) -> Spool:
        """Open or create the spool; arguments as in `SpoolSettings`. A file missing beside its id is alarmed (R15).

        Raises:
            UnsafeSqlite, ForeignSpool, SpoolDamaged, SpoolFailure: it cannot serve.
        """
        settings = SpoolSettings(
            path=path,
            frontend=frontend,
            site=site,
            utc_offset_ms=utc_offset_ms,
            clock=clock,
            random=random,
            files=files,
            log=log,
            vfs=vfs,
            synchronous=synchronous,
            free_bytes=free_bytes,
        )
        spool = cls(settings)
        spool.reopen()
        return spool

    # -- intake -------------------------------------------------------------------------------------------------------

    def append(self, intakes: Sequence[Intake]) -> list[Outcome]:
        """Take up a group in one transaction; one outcome per intake, in order. Durable at return.

        Raises:
            SpoolFailure: nothing of the group was stored, and nothing may be acknowledged.
            SpoolClosed: not open.
        """
        self._open_handles()
        self._check_space()
        with self.transaction() as handles:
            accept = handles.acceptor.accept
            outcomes = [accept(intake) for intake in intakes]
        for intake, outcome in zip(intakes, outcomes, strict=True):
            if outcome.reason:
                self._log_outcome(intake, outcome)
        return outcomes

    def _log_outcome(self, intake: Intake, outcome: Outcome) -> None:
        offered = isinstance(intake, RecordsIntake | TombstoneIntake)
        self._log(
            f"spool.{outcome.kind.value}",
            alarm=offered and outcome.kind in {OutcomeKind.SUSPECT, OutcomeKind.FULL},
            terminal=intake.terminal,
            epoch=intake.epoch,
            reason=outcome.reason,
        )

    def _check_space(self) -> None:
        if self._settings.free_bytes is None:
            return
        free, total = self._settings.free_bytes()
        share = free / max(total, 1)
        if share < FREE_SHARE_REFUSE:
            raise DiskFull(free_share=share, refuse_below=FREE_SHARE_REFUSE)
        if share < FREE_SHARE_WARN and not self._space_warned:
            self._log("spool.space_low", alarm=True, path=self._settings.path, free_percent=round(100 * share, 1))
        self._space_warned = share < FREE_SHARE_WARN

    # -- what is held -------------------------------------------------------------------------------------------------

    def held(self, terminal: int, epoch: int) -> list[Range]:
        """Copies of the ranges held, ascending."""
        with self.reading() as handles:
            return handles.epochs.ranges((terminal, epoch))

    def tombstoned(self, terminal: int, epoch: int) -> list[tuple[int, int]]:
        """The parts of those ranges that are held as tombstones only."""
        with self.reading() as handles:
            return list(handles.epochs.get(terminal, epoch).ranges.tombstoned)

    def ack(self, terminal: int, epoch: int, first_unacknowledged: int) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """(durable, settled, ranges above) as an ACK states them now."""
        return self._epoch(terminal, epoch).ack(first_unacknowledged)

    def settled_watermark(self, terminal: int, epoch: int, first_unacknowledged: int) -> int:
        """Up to where the ledger's receipts have come, within what `durable` covers; 0: nowhere."""
        return self._epoch(terminal, epoch).ack(first_unacknowledged)[1]

    def _epoch(self, terminal: int, epoch: int) -> EpochState:
        with self.reading() as handles:
            return handles.epochs.get(terminal, epoch)

    def look(self, after: EpochKey, limit: int) -> list[EpochHeld]:
        """The next epochs after that key with all that is known of each; at most `EPOCHS_MAX`, for an operator."""
        with self.reading() as handles:
            keys = epochs_after(handles.connection, after, limit)
            return [self._epoch_held(handles, key) for key in keys]

    def look_at(self, terminal: int) -> list[EpochHeld]:
        """The newest epochs of one terminal, ascending, with all that is known of each."""
        with self.reading() as handles:
            return [self._epoch_held(handles, key) for key in epochs_of(handles.connection, terminal)]

    @staticmethod
    def _epoch_held(handles: Handles, key: EpochKey) -> EpochHeld:
        return epoch_held(handles.connection, handles.places, key, handles.epochs.ranges(key))

    # -- batches ------------------------------------------------------------------------------------------------------

    def claim(
        self, after_row: int = 0, rows_max: int = BATCH_ROWS_MAX, bytes_max: int = BATCH_BYTES_MAX
    ) -> Batch | None:
        """The next batch of unsettled rows above `after_row`; claiming changes nothing."""
        with self.reading() as handles:
            return handles.batches.claim(after_row, rows_max, bytes_max)

    def settle(self, receipt: Receipt) -> bool:
        """Settle the rows of a receipt whose signature the caller has verified.

        Returns:
            Whether the rows are settled now. False: name or digest is not of this file, or the ledger's generation
            is an older one; nothing changed, and `receipts_ignored` counts it.
        """
        with self.reading() as handles:
            fits = handles.batches.fits(receipt)
        if not fits:
            self.receipts_ignored += 1
            self._log("spool.receipt_ignored", first_row=receipt.name.first_row, last_row=receipt.name.last_row)
            return False
        with self.transaction() as handles:
            # A clock that starts in 1970 must not make rows look old when it is set right (R15).
            settled_ms = max(self._clock.now_ms(), handles.batches.observed().utc_ms)
            handles.batches.settle(receipt, settled_ms)
        handles.batches.settled_rows.add(receipt.name.first_row, receipt.name.last_row)
        return True

    def unsettle_above(self, generation: int, position: int) -> int:
        """A ledger of a higher generation stands at `position`: rows settled above it wait again (R17).

        Returns:
            How many rows; 0 and no change if `generation` is not above the one known.
        """
        with self.reading() as handles:
            if generation <= handles.batches.known()[0]:
                return 0
        with self.transaction() as handles:
            taken_back = handles.batches.unsettle_above(generation, position)
        for first, last in taken_back:
            handles.batches.settled_rows.remove(first, last)
        count = sum(last - first + 1 for first, last in taken_back)
        self._log("spool.unsettled", alarm=bool(count), generation=generation, position=position, rows=count)
        return count

    def known_ledger(self) -> tuple[int, int]:
        """(generation, position) that LINK_HELLO states."""
        with self.reading() as handles:
            return handles.batches.known()

    def last_row(self) -> int:
        """The highest row id ever given out; 0: none."""
        with self.reading() as handles:
            return handles.batches.last_row()

    def prune(self, now_ms: int, settled_days: int = SETTLED_DAYS) -> int:
        """Delete rows settled longer ago than that, a bounded number; 0: none are left. Nothing else changes.

        `now_ms` counts as far as the spool has seen that time pass (`observed`): one jump of a clock deletes nothing.
        """
        patience_ms = settled_days * MS_PER_DAY
        at_ms = self._clock.monotonic_ms()
        with self.transaction() as handles:
            before = handles.batches.observed()
            after = before.advanced(now_ms, ran_ms=at_ms - self._observed_at_ms, patience_ms=patience_ms)
            if after != before:
                handles.batches.keep_observed(after)
            handles.acceptor.fold()  # a row that is not entered yet could not be taken out
            deleted, _ = handles.batches.prune(min(now_ms, after.utc_ms) - patience_ms)
        self._observed_at_ms = at_ms
        self._doubt_clock(now_ms - after.utc_ms, patience_ms)
        return deleted

    def _doubt_clock(self, ahead_ms: int, patience_ms: int) -> None:
        """Say once that pruning waits because the clock is far from what the spool has seen pass."""
        is_far = abs(ahead_ms) > patience_ms
        if is_far and not self._clock_doubted:
            self._log("spool.clock_doubted", alarm=True, path=self._settings.path, ahead_days=ahead_ms // MS_PER_DAY)
        self._clock_doubted = is_far

    # -- figures ------------------------------------------------------------------------------------------------------

    def totals(self) -> list[Total]:
        """Every total, ordered by terminal, epoch, trade day, type."""
        with self.reading() as handles:
            return [Total(*columns) for columns in totals_of(handles.connection)]

    def facts(self) -> SpoolFacts:
        """Figures for the operator."""
        with self.reading() as handles:
            batches, connection = handles.batches, handles.connection
            last = batches.last_row()
            pruned = Intervals(connection.execute("SELECT first_row, last_row FROM pruned"))
            head = connection.execute(
                "SELECT substr(bytes, 1, ?) FROM rows WHERE id >= ? ORDER BY id LIMIT 1",
                (packed.HEADER.size, batches.first_unsettled(0)),
            ).get
            pages = connection.pragma("page_count")
            return SpoolFacts(
                rows=last - _members(pruned),
                rows_unsettled=last - _members(batches.settled_rows),
                bytes=pages * connection.pragma("page_size"),
                oldest_unsettled_ms=None
                if head is None
                else max(0, self._clock.now_ms() - packed.peek(head).received_ms),
                last_row=last,
                receipts_ignored=self.receipts_ignored,
                commits=self.commits,
            )


def _members(intervals: Intervals) -> int:
    return sum(last - first + 1 for first, last in intervals)
