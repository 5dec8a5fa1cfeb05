"""From connections to disk and back: what is durable is told to its connection, in order, once per commit.

    submit ─▶ SpoolWriter (group commit) ─▶ connection.stored, for each ─▶ connection.acknowledge, once a group

So one ACK answers all frames of a terminal that were committed together. Live sales go before backlogs: they have a
lane of their own in the writer, keep their credit longer, and are read on when backlogs are not any more. The queue is
bounded; how it answers as it fills is the table of docs/overload.md.
"""

from __future__ import annotations

import struct
from collections import deque
from functools import partial
from typing import Final, Protocol

from frontend_server.alarms import AlarmKind, Alarms
from frontend_server.histograms import Histogram
from frontend_server.metrics import Metrics
from frontend_server.settings import FrontendSettings
from ledger_sync.spool import Outcome, SpoolError, SpoolWriter
from ledger_sync.spool.intake import Intake, RecordsIntake
from protocol.codes import RECORD_TYPES_FORBIDDEN
from protocol.errors import Malformed
from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN, RECORD_BYTES_STEP, RECORDS_PER_FRAME_MAX
from protocol.messages import Upload
from protocol.messages_up import LIVE
from protocol.ports import Clock, Log
from protocol.records import SINGLE, Single

CREDIT_WHEN_TIGHT: Final = 1
LIVE_RECORDS_MAX: Final = 8
"""In one frame that is called live. A terminal makes a few records in two seconds; who calls more than these live sends
a backlog, whatever his flag says."""
SLOW_COMMIT_MS: Final = 40  # a disk with a cache takes 1 to 10, one that turns 20
SLOW_COMMITS: Final = 8  # more than quick ones: one stall is no slow disk
UPLOAD_HEAD_BYTES: Final = 4

_HEAD: Final = struct.Struct(
    "!xBBBxBxxHxxII"
)  # count, last length, flags; length, epoch, terminal, sequence of the first
_LAST: Final = struct.Struct("!xBxxHxxII")  # length, epoch, terminal, sequence of the last record
_LENGTHS: Final = frozenset(range(RECORD_BYTES_MIN, RECORD_BYTES_MAX + 1, RECORD_BYTES_STEP))


class Waiting(Protocol):
    """Who waits for room."""

    def resume(self) -> None:
        """There is room again: a turn of what it holds may come in."""


class Submitter(Waiting, Protocol):
    """What a connection is to the intake."""

    is_touched: bool
    """Owned by the intake: an outcome of the present group was for this connection."""

    def stored(self, item: Intake, outcome: Outcome) -> None:
        """`item` is durable (or was judged not to be stored): see `outcome`. No ACK yet."""

    def not_stored(self, error: SpoolError) -> None:
        """Storage refused; nothing may be acknowledged."""

    def acknowledge(self) -> None:
        """The group is done: send what is due."""


Lane = deque[tuple[Submitter, Intake]]
"""What is submitted and not answered, in order."""


class IntakeQueue:
    """The only way from connections into the spool.

    Args:
        writer: answers in the order of submission; its `after_group` is taken over.
    """

    def __init__(
        self,
        *,
        settings: FrontendSettings,
        writer: SpoolWriter,
        alarms: Alarms,
        metrics: Metrics,
        clock: Clock,
        log: Log,
    ) -> None:
        self._writer = writer
        self._alarms = alarms
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._credit_usual = settings.credit_usual
        self._frames_max = settings.intake_frames_max
        self._backlog_max = settings.intake_frames_max * 3 // 4
        self._half = settings.intake_frames_max // 2
        self._quarter = settings.intake_frames_max // 4
        self._owners: Lane = deque()
        self._live_owners: Lane = deque()
        # Made once: the writer is given one of them with every frame, and calls it without another call between.
        self._done = partial(self._answered, self._owners, metrics.backlog_ack_ms)
        self._live_done = partial(self._answered, self._live_owners, metrics.live_ack_ms)
        self._touched: list[Submitter] = []
        self._waiting: deque[Waiting] = deque()  # first come, first called
        self._staggered = 0
        self._answered_ms = 0  # when the group came back whose answers are given now; 0: not looked yet
        self._refusing = False
        self._slow_commits = 0  # slow ones less quick ones, from 0 to twice as many as raise the alarm
        self.is_tight = False
        """Connections must ask `has_room` before they take what they have read. A plain attribute: it is looked at with
        every read."""
        writer.after_group = self._after_group

    def __len__(self) -> int:
        """Frames submitted and not answered yet."""
        return len(self._owners) + len(self._live_owners)

    @property
    def waiting(self) -> int:
        """Connections that wait for room."""
        return len(self._waiting)

    def has_room(self, *, is_live: bool) -> bool:
        """Whether a connection may take what it has read; else it holds that, reads no more and waits by
        `wait_for_room`. Backlogs stop first, and while others wait they queue behind them.
        """
        if not self.is_tight:
            return True
        frames = len(self)
        return frames < self._frames_max if is_live else frames < self._backlog_max and not self._waiting

    def credit(self, *, is_live: bool) -> int:
        """Frames that a terminal may have outstanding from now.

        Never 0: nothing would tell the terminal when there is room again. Credit 0 is said together with a BYE alone.
        Between a quarter and a half full backlogs get one frame to the usual number in turn, so that a fleet that came
        back at one moment does not go on in step.
        """
        frames = len(self._owners) + len(self._live_owners)  # without a call: every ACK asks
        if self._refusing or frames >= self._half:
            return CREDIT_WHEN_TIGHT
        if is_live or frames < self._quarter:
            return self._credit_usual
        self._staggered = (self._staggered + 1) % self._credit_usual
        return CREDIT_WHEN_TIGHT + self._staggered

    def submit(self, owner: Submitter, item: Intake, *, is_live: bool = False) -> None:
        """Hand over one item; `owner.stored` or `owner.not_stored` follows. What is live may overtake what is not.

        Raises:
            SpoolError: no room at all, or closed; nothing was taken and nothing follows.
        """
        owners, done = (self._live_owners, self._live_done) if is_live else (self._owners, self._done)
        owners.append((owner, item))
        try:
            self._writer.submit(item, done, is_urgent=is_live)
        except SpoolError:
            owners.pop()
            raise
        if len(self._owners) + len(self._live_owners) >= self._backlog_max:
            self.is_tight = True

    def wait_for_room(self, owner: Waiting) -> None:
        """`owner.resume` is called once, in turn, when the queue has fallen below half."""
        self._waiting.append(owner)
        self.is_tight = True

    def _answered(
        self, owners: deque[tuple[Submitter, Intake]], waits: Histogram, result: Outcome | SpoolError
    ) -> None:
        """The oldest item of a lane has its answer."""
        owner, item = owners.popleft()
        if item.__class__ is RecordsIntake:
            answered_ms = self._answered_ms
            if not answered_ms:  # one look at the clock for a group
                answered_ms = self._answered_ms = self._clock.now_ms()
            waited_ms = answered_ms - item.received_ms
            waits.counts[waited_ms.bit_length()] += 1
            waits.total += waited_ms
        if isinstance(result, Outcome):
            owner.stored(item, result)
            self._refusing = False
        else:
            self._refused(result)
            owner.not_stored(result)
        if not owner.is_touched:
            owner.is_touched = True
            self._touched.append(owner)

    def _refused(self, error: SpoolError) -> None:
        self._metrics.storage_refusals += 1
        if not self._refusing:
            self._refusing = True
            if self._alarms.raise_alarm(AlarmKind.SPOOL_REFUSES, "spool", str(error), self._clock.now_ms()):
                self._log("alarm", kind=AlarmKind.SPOOL_REFUSES.value, subject="spool", text=str(error))

    def _judge_disk(self, took_ms: int) -> None:
        if took_ms < SLOW_COMMIT_MS:
            self._slow_commits -= 1
            if not self._slow_commits:
                self._alarms.clear(AlarmKind.SLOW_DISK, "spool")
            return
        self._slow_commits = min(self._slow_commits + 1, 2 * SLOW_COMMITS)
        if self._slow_commits >= SLOW_COMMITS:
            text = f"the last commit took {took_ms} ms"
            if self._alarms.raise_alarm(AlarmKind.SLOW_DISK, "spool", text, self._clock.now_ms()):
                self._log("alarm", kind=AlarmKind.SLOW_DISK.value, subject="spool", text=text)

    def _after_group(self, intakes: int, took_ms: int) -> None:
        self._answered_ms = 0
        self._metrics.group_frames.add(intakes)
        self._metrics.commit_ms.add(took_ms)
        if self._slow_commits or took_ms >= SLOW_COMMIT_MS:
            self._judge_disk(took_ms)
        touched, self._touched = self._touched, []
        for owner in touched:
            owner.is_touched = False
            owner.acknowledge()
        if not self._refusing:
            self._alarms.clear(AlarmKind.SPOOL_REFUSES, "spool")
        if self.is_tight:
            # Each brings in one turn of what it holds, so the queue stops the calling. Above half a group is under way,
            # after which it goes on.
            while self._waiting and len(self) < self._half:
                self._waiting.popleft().resume()
            self.is_tight = bool(self._waiting) or len(self) >= self._backlog_max


def single_upload(body: bytes, terminal: int) -> Single | None:
    """The head of the record in an UPLOAD of one, as a live sale is; None: `check_upload` must judge.

    Says no more than that one takes it; the record's type is one that may be.
    """
    size = len(body) - UPLOAD_HEAD_BYTES
    if size not in _LENGTHS or body[1] != 1 or body[2] != size or body[3] > LIVE:
        return None
    single: Single = SINGLE.unpack_from(body, UPLOAD_HEAD_BYTES)
    kind, length, _, epoch, _, of_terminal, sequence, _, _, _ = single
    if length != size or of_terminal != terminal or not epoch or not sequence or kind in RECORD_TYPES_FORBIDDEN:
        return None
    return single


def check_upload(body: bytes, terminal: int) -> tuple[int, int, int]:
    """(epoch, first, last) of an UPLOAD of `terminal`, from its first and last record: O(1), whatever its length (R8).

    The records between are judged when the frame is stored.

    Raises:
        Malformed: count, lengths or heads contradict each other, or it is another terminal's.
    """
    size = len(body)
    if size >= UPLOAD_HEAD_BYTES + RECORD_BYTES_MIN:
        count, last_bytes, flags, first_bytes, epoch, of_terminal, first = _HEAD.unpack_from(body)
        inner = size - UPLOAD_HEAD_BYTES - first_bytes - last_bytes
        if (
            first_bytes in _LENGTHS
            and last_bytes in _LENGTHS
            and flags <= LIVE
            and 0 < count <= RECORDS_PER_FRAME_MAX
            and epoch
            and first
            and of_terminal == terminal
            and (
                (count - 2) * RECORD_BYTES_MIN <= inner <= (count - 2) * RECORD_BYTES_MAX
                if count > 1
                else inner == -last_bytes == -first_bytes
            )
            and _LAST.unpack_from(body, size - last_bytes) == (last_bytes, epoch, terminal, first + count - 1)
        ):
            return epoch, first, first + count - 1
    Upload.decode(body)  # says what is wrong
    raise Malformed("UPLOAD", "records of another terminal")
