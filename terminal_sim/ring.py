"""The record ring: committed records in flash, found again at boot from the bytes alone (R1, R9, R12).

Sector: header(16), then 34 slots of 120 bytes.

    header   magic u16, epoch u16, first sequence u32, acknowledged when opened u32, crc32 of those
    slot     0 … 111  the record, FF behind a shorter one
             112      crc32 of the record, programmed after it: the commit; without it the slot is torn and skipped
             116      not FF: this record and all before it are acknowledged
             117      not FF: this record and all before it are settled
             118, 119 spare

So a watermark costs one byte and no erase, and a torn mark is as good as a whole one: it was begun after the
acknowledgement came. Sectors are re-used settled first, then acknowledged, never unacknowledged; the header of the new
one carries the watermark that a re-used sector may have held.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final
from zlib import crc32

from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN
from protocol.records import EPOCH_OFFSET, LENGTH_OFFSET, SEQUENCE_OFFSET
from terminal_sim.errors import RecordGone, RingFull, SectorDead
from terminal_sim.flash import SECTOR_BYTES, VirtualFlash

HEADER: Final = struct.Struct("!HHIII")
HEADER_BYTES: Final = 16
assert HEADER.size == HEADER_BYTES
MAGIC: Final = 0x5252
SLOT_BYTES: Final = 120
SLOTS_PER_SECTOR: Final = (SECTOR_BYTES - HEADER_BYTES) // SLOT_BYTES
assert SLOTS_PER_SECTOR == 34
COMMIT_OFFSET: Final = 112
ACKNOWLEDGED_OFFSET: Final = 116
SETTLED_OFFSET: Final = 117
assert COMMIT_OFFSET >= RECORD_BYTES_MAX

WARN_PERCENT: Final = 80  # R12
_COMMIT: Final = struct.Struct("!I")
_IDENTITY: Final = struct.Struct("!H6xI")  # from EPOCH_OFFSET: epoch, sequence
assert EPOCH_OFFSET + 8 == SEQUENCE_OFFSET
_MARK: Final = b"\x00"
_ERASED_SLOT: Final = b"\xff" * SLOT_BYTES
_LOST: Final = 255


@dataclass(slots=True)
class Segment:
    """One sector in use."""

    sector: int
    epoch: int
    first: int
    count: int = 0
    """Sequences from `first` on that were placed here."""
    slots_used: int = 0
    slot_of: bytearray | None = None
    """Per sequence its slot, 255 where it is damaged; None: slot = sequence − first."""

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    def slot(self, sequence: int) -> int | None:
        offset = sequence - self.first
        if not 0 <= offset < self.count:
            return None
        if self.slot_of is None:
            return offset
        return None if self.slot_of[offset] == _LOST else self.slot_of[offset]

    def place(self, sequence: int, slot: int) -> None:
        """Note that `sequence` lies in `slot`; sequences skipped over are damaged."""
        offset = sequence - self.first
        if self.slot_of is None and not offset == slot == self.count:
            self.slot_of = bytearray(range(self.count))
        if self.slot_of is not None:
            self.slot_of.extend(bytes((_LOST,)) * (offset - len(self.slot_of)))
            self.slot_of.append(slot)
        self.count = offset + 1
        self.slots_used = slot + 1


_first: Final = attrgetter("first")


@dataclass(slots=True)
class EpochMarks:
    """What the ring knows of one epoch; watermarks are sequences, 0 when nothing is."""

    epoch: int
    segments: list[Segment] = field(default_factory=list)
    acknowledged: int = 0
    settled: int = 0
    next: int = 1

    @property
    def oldest(self) -> int:
        """Oldest held; never above the first unacknowledged, since what is unreadable there is still owed (R9)."""
        oldest = self.segments[0].first if self.segments else self.next
        return min(oldest, self.first_unacknowledged)

    @property
    def first_unacknowledged(self) -> int:
        return self.acknowledged + 1

    def find(self, sequence: int) -> Segment | None:
        index = bisect_right(self.segments, sequence, key=_first) - 1
        return self.segments[index] if index >= 0 else None

    def reclaimable(self, watermark: int) -> int:
        """How many leading segments hold nothing above `watermark`."""
        index = bisect_right(self.segments, watermark + 1, key=_first) - 1
        if index >= 0 and self.segments[index].last <= watermark:
            index += 1
        return max(0, index)


class Ring:
    """Append, read, acknowledge. Everything in RAM is rebuilt by the constructor from `flash`."""

    __slots__ = ("_current", "_flash", "_free", "_sectors_dead", "_sectors_total", "epochs")

    def __init__(self, flash: VirtualFlash, sectors: range) -> None:
        self._flash = flash
        self.epochs: dict[int, EpochMarks] = {}
        self._free = array("H")  # 2 bytes a sector: a fleet has thousands of empty rings
        self._sectors_total = len(sectors)
        self._sectors_dead = 0
        self._current: Segment | None = None
        newest = -1
        for sector in sectors:
            try:
                segment = self._scan(sector)
            except SectorDead:
                self._sectors_dead += 1
                continue
            if segment is None:
                self._free.append(sector)
            else:
                newest = sector if self._adopt(segment) else newest
        self._after_scan(newest)

    # -- writing

    def append(self, record: bytes) -> None:
        """Write and commit; after return the record survives a power cut. Raises RingFull.

        The record's sequence must be the epoch's `next`, or above it where sequences in between were lost.
        """
        epoch, sequence = _IDENTITY.unpack_from(record, EPOCH_OFFSET)
        commit = _COMMIT.pack(crc32(record))
        while True:
            segment = self._current
            if segment is None or segment.epoch != epoch or segment.slots_used >= SLOTS_PER_SECTOR:
                segment = self._current = self._open_sector(epoch, sequence)
            slot = segment.slots_used
            offset = _slot_offset(segment.sector, slot)
            try:
                self._flash.program(offset, record)
                self._flash.program(offset + COMMIT_OFFSET, commit)
            except SectorDead:
                self._current = None  # what it held is unreadable from now on; go on elsewhere
                self._sectors_dead += 1
                continue
            segment.place(sequence, slot)
            self.epochs[epoch].next = sequence + 1
            return

    def mark_acknowledged(self, epoch: int, sequence: int) -> int:
        """Persist that everything up to `sequence` is durable elsewhere; returns the watermark now in force."""
        marks = self.epochs.get(epoch)
        if marks is None:
            return 0
        sequence = min(sequence, marks.next - 1)
        if sequence > marks.acknowledged:
            self._program_mark(marks, sequence, ACKNOWLEDGED_OFFSET)
            marks.acknowledged = sequence
        return marks.acknowledged

    def mark_settled(self, epoch: int, sequence: int) -> int:
        """As `mark_acknowledged`, for the ledger's receipt; never above the acknowledged watermark."""
        marks = self.epochs.get(epoch)
        if marks is None:
            return 0
        sequence = min(sequence, marks.acknowledged)
        if sequence > marks.settled:
            self._program_mark(marks, sequence, SETTLED_OFFSET)
            marks.settled = sequence
        return marks.settled

    def enter_epoch(self, epoch: int) -> EpochMarks:
        """The marks of the epoch that is written from now on, new or held."""
        if self._current is not None and self._current.epoch != epoch:
            self._current = None  # a sector holds one epoch
        return self.epochs.setdefault(epoch, EpochMarks(epoch))

    # -- reading

    def read(self, epoch: int, sequence: int) -> bytes:
        """The committed record. Raises RecordGone (overwritten or never issued) or SectorDead (unreadable)."""
        marks = self.epochs.get(epoch)
        if marks is None or not marks.oldest <= sequence < marks.next:
            raise RecordGone(epoch, sequence)
        segment = marks.find(sequence)
        slot = segment.slot(sequence) if segment is not None else None
        if segment is None or slot is None:
            raise SectorDead(segment.sector if segment is not None else -1)
        slot_bytes = self._flash.read(_slot_offset(segment.sector, slot), SLOT_BYTES)
        record = slot_bytes[: slot_bytes[LENGTH_OFFSET]]
        if crc32(record) != _COMMIT.unpack_from(slot_bytes, COMMIT_OFFSET)[0]:
            raise SectorDead(segment.sector)  # a bit has rotted since the boot
        return record

    @property
    def capacity_records(self) -> int:
        return (self._sectors_total - self._sectors_dead) * SLOTS_PER_SECTOR

    @property
    def unacknowledged(self) -> int:
        return sum(marks.next - marks.first_unacknowledged for marks in self.epochs.values())

    @property
    def fill_percent(self) -> int:
        """Share of the ring that may not be overwritten."""
        return 100 * self.unacknowledged // max(1, self.capacity_records)

    def room_records(self) -> int:
        """Records that can be appended before RingFull, if nothing more is acknowledged."""
        sectors = len(self._free) + sum(self._reclaimable(marks) for marks in self.epochs.values())
        current = self._current
        if current is None:
            return sectors * SLOTS_PER_SECTOR
        marks = self.epochs[current.epoch]
        if self._reclaimable(marks) == len(marks.segments):
            sectors -= 1  # the sector being written is no room for itself
        return sectors * SLOTS_PER_SECTOR + SLOTS_PER_SECTOR - current.slots_used

    # -- inside

    def _reclaimable(self, marks: EpochMarks) -> int:
        """Leading segments that may be overwritten.

        The sector whose last record bears the watermark stays while later ones are in use: a cut between its erase and
        the header of the new sector would set the watermark back.
        """
        count = marks.reclaimable(marks.acknowledged)
        if 0 < count < len(marks.segments) and marks.segments[count - 1].last == marks.acknowledged:
            count -= 1
        return count

    def _open_sector(self, epoch: int, sequence: int) -> Segment:
        marks = self.enter_epoch(epoch)
        while True:
            sector = self._take_sector()
            header = HEADER.pack(MAGIC, epoch, sequence, marks.acknowledged, 0)[:-4]
            try:
                if not self._flash.is_erased(sector):
                    self._flash.erase(sector)
                self._flash.program(sector * SECTOR_BYTES, header + _COMMIT.pack(crc32(header)))
            except SectorDead:
                self._sectors_dead += 1
                continue
            segment = Segment(sector, epoch, sequence)
            marks.segments.append(segment)
            return segment

    def _take_sector(self) -> int:
        """The next free sector, or the oldest that may be overwritten: settled first (R12)."""
        if self._free:
            return self._free.pop()
        for settled_only in (True, False):
            for epoch in sorted(self.epochs):
                marks = self.epochs[epoch]
                reclaimable = self._reclaimable(marks)
                if settled_only:
                    reclaimable = min(reclaimable, marks.reclaimable(marks.settled))
                if reclaimable and not (marks.segments[0] is self._current and len(marks.segments) == 1):
                    segment = marks.segments.pop(0)
                    if not marks.segments and epoch != max(self.epochs):
                        del self.epochs[epoch]
                    return segment.sector
        raise RingFull("every record in the ring is unacknowledged")

    def _program_mark(self, marks: EpochMarks, sequence: int, mark_offset: int) -> None:
        """Mark the highest readable record at or below `sequence`; a lower mark only means sending twice."""
        index = bisect_right(marks.segments, sequence, key=_first) - 1
        for segment in reversed(marks.segments[: index + 1]):
            for each in range(min(sequence, segment.last), segment.first - 1, -1):
                slot = segment.slot(each)
                if slot is None:
                    continue
                try:
                    self._flash.program(_slot_offset(segment.sector, slot) + mark_offset, _MARK)
                except SectorDead:
                    break
                return

    def _scan(self, sector: int) -> Segment | None:
        """What a sector holds; None when it is free. A torn header means that no record was ever put behind it."""
        header = self._flash.read(sector * SECTOR_BYTES, HEADER_BYTES)
        magic, epoch, first, acknowledged, check = HEADER.unpack(header)
        if magic != MAGIC or check != crc32(header[:-4]) or not (epoch and first):
            return None
        data = self._flash.read(sector * SECTOR_BYTES, SECTOR_BYTES)
        segment = Segment(sector, epoch, first)
        marks = self.epochs.setdefault(epoch, EpochMarks(epoch))
        marks.acknowledged = max(marks.acknowledged, acknowledged)
        for slot in range(SLOTS_PER_SECTOR):
            start = HEADER_BYTES + slot * SLOT_BYTES
            slot_bytes = data[start : start + SLOT_BYTES]
            if slot_bytes == _ERASED_SLOT:
                break
            segment.slots_used = slot + 1
            sequence = _committed(slot_bytes, epoch)
            if sequence is None or sequence <= segment.last:
                continue
            segment.place(sequence, slot)
            if slot_bytes[ACKNOWLEDGED_OFFSET] != 0xFF:
                marks.acknowledged = max(marks.acknowledged, sequence)
            if slot_bytes[SETTLED_OFFSET] != 0xFF:
                marks.settled = max(marks.settled, sequence)
        return segment

    def _adopt(self, segment: Segment) -> bool:
        """Keep a scanned segment; returns whether it is the newest seen so far."""
        marks = self.epochs[segment.epoch]
        marks.segments.append(segment)
        current = self._current
        if current is None or (segment.epoch, segment.first, segment.count) >= (
            current.epoch,
            current.first,
            current.count,
        ):
            self._current = segment
            return True
        return False

    def _after_scan(self, newest: int) -> None:
        """Order the segments, drop empty leftovers, and let free sectors follow the newest (even wear)."""
        for marks in self.epochs.values():
            marks.segments.sort(key=attrgetter("first", "count"))
            empty = [each for each in marks.segments if each.count == 0 and each is not self._current]
            self._free.extend(each.sector for each in empty)
            marks.segments = [each for each in marks.segments if each.count or each is self._current]
            last = marks.segments[-1].last if marks.segments else 0
            marks.next = max(last, marks.acknowledged) + 1
            marks.settled = min(marks.settled, marks.acknowledged)
        free = sorted(self._free)
        at = bisect_right(free, newest)
        self._free = array("H", reversed(free[at:] + free[:at]))  # taken from its end


def _slot_offset(sector: int, slot: int) -> int:
    return sector * SECTOR_BYTES + HEADER_BYTES + slot * SLOT_BYTES


def _committed(slot_bytes: bytes, epoch: int) -> int | None:
    """The sequence of the record in a slot, None if the slot is torn or damaged."""
    length = slot_bytes[LENGTH_OFFSET]
    if not RECORD_BYTES_MIN <= length <= RECORD_BYTES_MAX:
        return None
    if crc32(slot_bytes[:length]) != _COMMIT.unpack_from(slot_bytes, COMMIT_OFFSET)[0]:
        return None
    its_epoch, sequence = _IDENTITY.unpack_from(slot_bytes, EPOCH_OFFSET)
    return int(sequence) if its_epoch == epoch else None
