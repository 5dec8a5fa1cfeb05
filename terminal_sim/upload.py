"""What a terminal offers next: records in order, tombstones for what it cannot read, re-collection first (R7–R9).

One `UploadPlan` per session. It holds watermarks, never records: each frame is read from flash when it is sent, so
memory does not grow with the backlog. An epoch is silent until its first ACK of the session has come (§8).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from protocol.codes import TombstoneReason
from protocol.limits import RECORDS_PER_FRAME_MAX
from protocol.messages import Ack, Recollect, Tombstone, Upload
from protocol.proofs import seal_tombstone
from protocol.records import BOOT_OFFSET, UPTIME_OFFSET
from terminal_sim.errors import RecordGone, SectorDead
from terminal_sim.firmware import PosTerminal
from terminal_sim.memory import Memory

UPLOAD_HEAD_BYTES: Final = 4
LIVE_DS_MAX: Final = 20  # docs/protocol.md §6.1: made less than 2 s ago
RECOLLECTS_MAX: Final = 16  # further requests are dropped; the ledger asks again


@dataclass(slots=True)
class Item:
    """One message to send, and what it offers."""

    message: bytes
    epoch: int
    first: int
    last: int
    live: bool = False
    is_tombstone: bool = False


@dataclass(slots=True)
class _EpochPlan:
    next_offer: int
    ranges: tuple[tuple[int, int], ...] = ()
    """Durable above the watermark: not offered again in this session."""


class UploadPlan:
    """Credit, what is outstanding, and where each epoch stands."""

    __slots__ = ("_epochs", "_memory", "_outstanding", "_recollects", "_seal_key", "_terminal", "credit")

    def __init__(self, terminal: PosTerminal, memory: Memory) -> None:
        self._terminal = terminal
        self._memory = memory
        self._seal_key = terminal.secrets.sealing()
        self._epochs: dict[int, _EpochPlan] = {}
        self._outstanding: deque[tuple[int, int]] = deque()
        self._recollects: deque[tuple[int, int, int]] = deque()
        self.credit = 0

    @property
    def outstanding(self) -> int:
        """Frames offered and not answered yet; never more than the credit given."""
        return len(self._outstanding)

    def acknowledged(self, ack: Ack) -> tuple[int, int] | None:
        """Put an ACK into flash, then count it; returns the sequences newly acknowledged."""
        ring = self._memory.ring
        marks = ring.epochs.get(ack.epoch)
        if marks is None:
            self.credit = ack.credit
            return None
        before = marks.acknowledged
        durable = marks.next - 1 if ack.kept_as_suspect else ack.durable
        after = ring.mark_acknowledged(ack.epoch, durable)
        ring.mark_settled(ack.epoch, ack.settled)
        plan = self._epochs.get(ack.epoch)
        if plan is None:  # from here: a log-in may have stated less than what is acknowledged (see _baseline)
            plan = self._epochs[ack.epoch] = _EpochPlan(min(durable, after) + 1)
        plan.next_offer = max(plan.next_offer, min(durable, after) + 1)
        plan.ranges = ack.ranges
        self.credit = ack.credit
        self._outstanding = deque(
            each for each in self._outstanding if each[0] != ack.epoch or not _covered(each[1], ack)
        )
        return (before + 1, after) if after > before else None

    def recollect(self, request: Recollect) -> None:
        """Offer these again, before anything new; what was never issued is left out."""
        marks = self._memory.ring.epochs.get(request.epoch)
        if marks is None or len(self._recollects) >= RECOLLECTS_MAX:
            return
        last = min(request.last, marks.next - 1)
        if request.first <= last:
            self._recollects.append((request.epoch, request.first, last))

    def next_item(self, body_bytes_max: int) -> Item | None:
        """The next message within the credit, which it then counts as outstanding; None: nothing to send now."""
        if len(self._outstanding) >= self.credit:
            return None
        while self._recollects:
            epoch, first, last = self._recollects.popleft()
            item = self._item(epoch, first, last, body_bytes_max)
            if item is None:
                continue
            if item.last < last:
                self._recollects.appendleft((epoch, item.last + 1, last))
            self._outstanding.append((epoch, item.last))
            return item
        for epoch in sorted(self._epochs):
            item = self._next_of(epoch, body_bytes_max)
            if item is not None:
                self._outstanding.append((epoch, item.last))
                return item
        return None

    def _next_of(self, epoch: int, body_bytes_max: int) -> Item | None:
        plan = self._epochs[epoch]
        marks = self._memory.ring.epochs.get(epoch)
        if marks is None:
            return None
        is_older = epoch != self._terminal.secrets.epoch
        last = marks.next - 1
        for first_durable, last_durable in plan.ranges:
            if first_durable <= plan.next_offer <= last_durable:
                plan.next_offer = last_durable + 1
            elif plan.next_offer < first_durable:
                last = min(last, first_durable - 1)
                break
        while is_older and plan.next_offer <= last and self._lost(epoch, plan.next_offer) is not None:
            plan.next_offer += 1  # its seal key is gone: no tombstone; the ledger sees the gap
        if plan.next_offer > last:
            return None
        item = self._item(epoch, plan.next_offer, last, body_bytes_max)
        if item is not None:
            plan.next_offer = item.last + 1
        return item

    def _item(self, epoch: int, first: int, last: int, body_bytes_max: int) -> Item | None:
        """As much of first…last as one message takes: records up to the first unreadable, or a tombstone."""
        ring = self._memory.ring
        records: list[bytes] = []
        room_bytes = body_bytes_max - UPLOAD_HEAD_BYTES
        sequence = first
        while sequence <= last and len(records) < RECORDS_PER_FRAME_MAX:
            try:
                record = ring.read(epoch, sequence)
            except (SectorDead, RecordGone):
                break
            room_bytes -= len(record)
            if room_bytes < 0:
                break
            records.append(record)
            sequence += 1
        if not records:
            return self._tombstone(epoch, first, last)
        live = self._is_live(records[0])
        message = Upload.of(records, live=live).encode()
        return Item(message, epoch, first, sequence - 1, live)

    def _tombstone(self, epoch: int, first: int, last: int) -> Item | None:
        """For the run of sequences from `first` that fail alike; none for an older epoch, whose seal key is gone."""
        secrets = self._terminal.secrets
        if epoch != secrets.epoch:
            return None
        reason = self._lost(epoch, first)
        assert reason is not None
        end = first
        if reason is TombstoneReason.OVERWRITTEN:
            end = min(last, max(first, self._memory.ring.epochs[epoch].oldest - 1))
        while end < last and self._lost(epoch, end + 1) is reason:
            end += 1
        tombstone = Tombstone(reason, epoch, secrets.terminal, first, end)
        tombstone.seal = seal_tombstone(self._seal_key, tombstone.sealed_part())
        return Item(tombstone.encode(), epoch, first, end, is_tombstone=True)

    def _lost(self, epoch: int, sequence: int) -> TombstoneReason | None:
        try:
            self._memory.ring.read(epoch, sequence)
        except RecordGone:
            return TombstoneReason.OVERWRITTEN
        except SectorDead:
            return TombstoneReason.UNREADABLE
        return None

    def _is_live(self, oldest_record: bytes) -> bool:
        boot = int.from_bytes(oldest_record[BOOT_OFFSET : BOOT_OFFSET + 2], "big")
        uptime_ds = int.from_bytes(oldest_record[UPTIME_OFFSET : UPTIME_OFFSET + 4], "big")
        terminal = self._terminal
        return boot == terminal.boot_number and terminal.rtc.uptime_ds() - uptime_ds < LIVE_DS_MAX


def _covered(last: int, ack: Ack) -> bool:
    return last <= ack.durable or any(first <= last <= end for first, end in ack.ranges)
