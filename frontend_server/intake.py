"""From connections to disk and back: what is durable is told to its connection, in order, once per commit.

    submit ─▶ SpoolWriter (group commit) ─▶ connection.stored, for each ─▶ connection.acknowledge, once a group

So one ACK answers all frames of a terminal that were committed together. The queue is bounded: half full, terminals get
credit for one frame; full, connections that go on sending are not read until it has fallen to half.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, Protocol

from frontend_server.alarms import AlarmKind, Alarms
from frontend_server.metrics import Metrics
from frontend_server.settings import FrontendSettings
from ledger_sync.spool import Outcome, SpoolError, SpoolWriter
from ledger_sync.spool.intake import Intake
from protocol.errors import Malformed
from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN, RECORD_BYTES_STEP, RECORDS_PER_FRAME_MAX
from protocol.messages import Upload
from protocol.ports import Clock, Log

CREDIT_WHEN_TIGHT: Final = 1
UPLOAD_HEAD_BYTES: Final = 4

_HEAD: Final = struct.Struct(
    "!xBBBxBxxHxxII"
)  # count, last length, flags; length, epoch, terminal, sequence of the first
_LAST: Final = struct.Struct("!xBxxHxxII")  # length, epoch, terminal, sequence of the last record
_LENGTHS: Final = frozenset(range(RECORD_BYTES_MIN, RECORD_BYTES_MAX + 1, RECORD_BYTES_STEP))


class Submitter(Protocol):
    """What a connection is to the intake."""

    is_touched: bool
    """Owned by the intake: an outcome of the present group was for this connection."""

    def stored(self, item: Intake, outcome: Outcome) -> None:
        """`item` is durable (or was judged not to be stored): see `outcome`. No ACK yet."""

    def not_stored(self, error: SpoolError) -> None:
        """Storage refused; nothing may be acknowledged."""

    def acknowledge(self) -> None:
        """The group is done: send what is due."""

    def resume(self) -> None:
        """There is room again for a connection that was told to pause."""


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
        self._half = settings.intake_frames_max // 2
        self._owners: deque[tuple[Submitter, Intake]] = deque()
        self._touched: list[Submitter] = []
        self._paused: list[Submitter] = []
        self._refusing = False
        writer.after_group = self._after_group

    def __len__(self) -> int:
        """Frames submitted and not answered yet."""
        return len(self._owners)

    @property
    def is_full(self) -> bool:
        """Whether a connection should stop reading now, and say so by `wait_for_room`."""
        return len(self._owners) >= self._frames_max

    def credit(self) -> int:
        """Frames that a terminal may have outstanding from now.

        Never 0: nothing would tell the terminal when there is room again. Credit 0 is said together with a BYE alone.
        """
        is_short = self._refusing or len(self._owners) >= self._half
        return CREDIT_WHEN_TIGHT if is_short else self._credit_usual

    def submit(self, owner: Submitter, item: Intake) -> None:
        """Hand over one item; `owner.stored` or `owner.not_stored` follows, in order.

        Raises:
            SpoolError: no room at all, or closed; nothing was taken and nothing follows.
        """
        self._owners.append((owner, item))
        try:
            self._writer.submit(item, self._done)
        except SpoolError:
            self._owners.pop()
            raise

    def wait_for_room(self, owner: Submitter) -> None:
        """`owner.resume` is called once, when the queue has fallen to half."""
        self._paused.append(owner)

    def _done(self, result: Outcome | SpoolError) -> None:
        owner, item = self._owners.popleft()
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

    def _after_group(self) -> None:
        touched, self._touched = self._touched, []
        for owner in touched:
            owner.is_touched = False
            owner.acknowledge()
        if not self._refusing:
            self._alarms.clear(AlarmKind.SPOOL_REFUSES, "spool")
        if self._paused and len(self._owners) <= self._half:
            waiting, self._paused = self._paused, []
            for owner in waiting:
                owner.resume()


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
            and flags <= 1
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
