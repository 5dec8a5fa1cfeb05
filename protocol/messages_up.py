"""Messages of a terminal (docs/protocol.md §6.1). Pure; seals are carried, `protocol.proofs` makes and checks them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.codes import ByeCode, ListKind, ListStatus, MessageType, SealStatus, TombstoneReason
from protocol.errors import Malformed, OutOfRange
from protocol.layout import Buffer, code, fixed_bytes, pack, require, unpack, unpack_head
from protocol.limits import (
    BASELINE_ENTRIES_MAX,
    RECORD_BYTES_MAX,
    RECORD_BYTES_MIN,
    RECORD_BYTES_STEP,
    RECORDS_PER_FRAME_MAX,
)
from protocol.mac import SEAL_BYTES

HEAD_BYTES: Final = 128  # a signed head, §10
NO_SEAL: Final = bytes(SEAL_BYTES)
NO_HEAD: Final = bytes(HEAD_BYTES)

_BASELINE: Final = struct.Struct("!BBHIIQ")
_BASELINE_ENTRY: Final = struct.Struct("!HIII8s")
_UPLOAD: Final = struct.Struct("!BBBB")
_RECORD_HEAD: Final = struct.Struct("!xBxxHxxII")  # length, epoch, terminal, sequence (§7)
_RECORD_LENGTHS: Final = frozenset(range(RECORD_BYTES_MIN, RECORD_BYTES_MAX + 1, RECORD_BYTES_STEP))
_SEAL_ANSWER: Final = struct.Struct("!BBHI8s")
_TOMBSTONE: Final = struct.Struct("!BBHIII")
_HEARTBEAT: Final = struct.Struct("!BBHHHIQII")
_LIST_STATE: Final = struct.Struct("!BBBBIII128s")
_BYE: Final = struct.Struct("!BB")
assert (_BASELINE.size, _BASELINE_ENTRY.size, _UPLOAD.size, _SEAL_ANSWER.size) == (20, 22, 4, 16)
assert (_TOMBSTONE.size, _HEARTBEAT.size, _LIST_STATE.size, _BYE.size) == (16, 28, 144, 2)

LIVE: Final = 0x01
HEARTBEAT_FLAGS: Final = 0x0F
CLOCK_NEVER_SET: Final = 0x01
MEMORY_80_PERCENT: Final = 0x02
MEMORY_FULL: Final = 0x04
LIST_STALE: Final = 0x08


@dataclass(slots=True)
class BaselineEntry:
    """What a terminal holds of one epoch; nothing held: all three sequences are equal."""

    epoch: int
    oldest_held: int
    first_unacknowledged: int
    next: int
    """The sequence that the next record will get."""
    seal_before: bytes
    """Seal of the record before the first unacknowledged one; of sequence 0: the genesis seal."""


@dataclass(slots=True)
class Baseline:
    """The first message of a session: what the terminal holds (R6); the last entry is the session's epoch."""

    boot: int
    terminal: int
    uptime_ds: int
    clock_ms: int
    entries: list[BaselineEntry]
    seal: bytes = NO_SEAL

    def sealed_part(self) -> bytes:
        """Everything before the seal. Raises OutOfRange."""
        if not 0 < len(self.entries) <= BASELINE_ENTRIES_MAX:
            raise OutOfRange(f"BASELINE of {len(self.entries)} entries")
        parts = [
            pack(
                _BASELINE,
                "BASELINE",
                MessageType.BASELINE,
                len(self.entries),
                self.boot,
                self.terminal,
                self.uptime_ds,
                self.clock_ms,
            )
        ]
        for entry in self.entries:
            seal = fixed_bytes(entry.seal_before, SEAL_BYTES, "a seal")
            facts = (entry.epoch, entry.oldest_held, entry.first_unacknowledged, entry.next, seal)
            parts.append(pack(_BASELINE_ENTRY, "BASELINE entry", *facts))
        return b"".join(parts)

    def seal_input(self) -> bytes:
        """What the seal is computed over: purpose FF 02, then everything before the seal."""
        return b"\xff\x02" + self.sealed_part()

    def encode(self) -> bytes:
        return self.sealed_part() + fixed_bytes(self.seal, SEAL_BYTES, "a seal")

    @classmethod
    def decode(cls, body: Buffer) -> Baseline:
        what = "BASELINE"
        _, count, boot, terminal, uptime_ds, clock_ms = unpack_head(_BASELINE, what, body)
        require(0 < count <= BASELINE_ENTRIES_MAX, what, f"{count} entries")
        seal_at = _BASELINE.size + count * _BASELINE_ENTRY.size
        require(len(body) == seal_at + SEAL_BYTES, what, f"{len(body)} bytes with {count} entries")
        require(terminal != 0, what, "terminal 0")
        entries = [
            BaselineEntry(*_BASELINE_ENTRY.unpack_from(body, offset))
            for offset in range(_BASELINE.size, seal_at, _BASELINE_ENTRY.size)
        ]
        epoch_before = 0
        for entry in entries:
            require(entry.epoch > epoch_before, what, "epochs do not ascend")
            in_order = 0 < entry.oldest_held <= entry.first_unacknowledged <= entry.next
            require(in_order, what, f"sequences of epoch {entry.epoch} out of order")
            epoch_before = entry.epoch
        return cls(boot, terminal, uptime_ds, clock_ms, entries, bytes(body[seal_at:]))


@dataclass(slots=True)
class Upload:
    """Records of one epoch with consecutive sequences (R8).

    Everything but `records` is read out of the first and the last record, so a frame costs the same whatever its
    length; the records between are judged by those who read them.
    """

    count: int
    last_record_bytes: int
    live: bool
    records: bytes = field(repr=False)
    epoch: int
    terminal: int
    first: int
    last: int
    previous_seal: bytes
    """The predecessor's seal inside the first record."""
    last_seal: bytes

    @classmethod
    def of(cls, records: Sequence[Buffer], *, live: bool = False) -> Upload:
        """An upload of whole records. Raises OutOfRange where they cannot stand in one frame."""
        if not records:
            raise OutOfRange("UPLOAD of no records")
        try:
            return cls._read(len(records), len(records[-1]), b"".join(records), live=live)
        except Malformed as error:
            raise OutOfRange(str(error)) from None

    def encode(self) -> bytes:
        flags = LIVE if self.live else 0
        return pack(_UPLOAD, "UPLOAD", MessageType.UPLOAD, self.count, self.last_record_bytes, flags) + self.records

    @classmethod
    def decode(cls, body: Buffer) -> Upload:
        _, count, last_record_bytes, flags = unpack_head(_UPLOAD, "UPLOAD", body)
        require(flags & ~LIVE == 0, "UPLOAD", "reserved flags are set")
        return cls._read(count, last_record_bytes, bytes(body[_UPLOAD.size :]), live=flags != 0)

    @classmethod
    def _read(cls, count: int, last_bytes: int, records: bytes, *, live: bool) -> Upload:
        total = len(records)
        if not 0 < count <= RECORDS_PER_FRAME_MAX:
            raise Malformed("UPLOAD", f"{count} records")
        if not count * RECORD_BYTES_MIN <= total <= count * RECORD_BYTES_MAX or total % RECORD_BYTES_STEP:
            raise Malformed("UPLOAD", f"{total} bytes of {count} records")
        first_bytes, epoch, terminal, first = _RECORD_HEAD.unpack_from(records)
        if first_bytes not in _RECORD_LENGTHS or last_bytes not in _RECORD_LENGTHS:
            raise Malformed("UPLOAD", f"records of {first_bytes} and {last_bytes} bytes")
        inner = total - first_bytes - last_bytes
        if count == 1:
            fits = first_bytes == last_bytes == total
        else:
            fits = (count - 2) * RECORD_BYTES_MIN <= inner <= (count - 2) * RECORD_BYTES_MAX
        if not fits:
            raise Malformed("UPLOAD", "lengths do not add up")
        stated_bytes, last_epoch, last_terminal, last = _RECORD_HEAD.unpack_from(records, total - last_bytes)
        if stated_bytes != last_bytes:
            raise Malformed("UPLOAD", "length of the last record is not as stated")
        if last_epoch != epoch or last_terminal != terminal:
            raise Malformed("UPLOAD", "records of two terminals or epochs")
        if not (epoch and terminal and first) or last - first + 1 != count:
            raise Malformed("UPLOAD", f"{count} records from {first} to {last} of {terminal}/{epoch}")
        previous_at = first_bytes - 2 * SEAL_BYTES  # a record ends with its predecessor's seal and its own
        previous_seal = records[previous_at : previous_at + SEAL_BYTES]
        last_seal = records[-SEAL_BYTES:]
        return cls(count, last_bytes, live, records, epoch, terminal, first, last, previous_seal, last_seal)


@dataclass(slots=True)
class SealAnswer:
    """The seal of one record, asked for by SEAL_QUERY; zero unless held (R7)."""

    status: SealStatus
    epoch: int
    sequence: int
    seal: bytes = NO_SEAL

    def encode(self) -> bytes:
        seal = fixed_bytes(self.seal, SEAL_BYTES, "a seal")
        facts = (MessageType.SEAL_ANSWER, self.status, self.epoch, self.sequence, seal)
        return pack(_SEAL_ANSWER, "SEAL_ANSWER", *facts)

    @classmethod
    def decode(cls, body: Buffer) -> SealAnswer:
        what = "SEAL_ANSWER"
        _, status, epoch, sequence, seal = unpack(_SEAL_ANSWER, what, body)
        status = code(SealStatus, status, what, 1)
        require(epoch > 0 and sequence > 0, what, "epoch or sequence is 0")
        require(status is SealStatus.HELD or seal == NO_SEAL, what, "a seal of a record that is not held")
        return cls(status, epoch, sequence, seal)


@dataclass(slots=True)
class Tombstone:
    """Sequences that the terminal cannot read any more (R9)."""

    reason: TombstoneReason
    epoch: int
    terminal: int
    first: int
    last: int
    seal: bytes = NO_SEAL

    def sealed_part(self) -> bytes:
        """Everything before the seal. Raises OutOfRange."""
        facts = (MessageType.TOMBSTONE, self.reason, self.epoch, self.terminal, self.first, self.last)
        return pack(_TOMBSTONE, "TOMBSTONE", *facts)

    def seal_input(self) -> bytes:
        """What the seal is computed over: purpose FF 03, then everything before the seal."""
        return b"\xff\x03" + self.sealed_part()

    def encode(self) -> bytes:
        return self.sealed_part() + fixed_bytes(self.seal, SEAL_BYTES, "a seal")

    @classmethod
    def decode(cls, body: Buffer) -> Tombstone:
        what = "TOMBSTONE"
        require(len(body) == _TOMBSTONE.size + SEAL_BYTES, what, f"{len(body)} bytes, not 24")
        _, reason, epoch, terminal, first, last = _TOMBSTONE.unpack_from(body)
        require(epoch > 0 and terminal > 0, what, "terminal or epoch is 0")
        require(0 < first <= last, what, f"from {first} to {last}")
        return cls(code(TombstoneReason, reason, what, 1), epoch, terminal, first, last, bytes(body[-SEAL_BYTES:]))


@dataclass(slots=True)
class Heartbeat:
    """The terminal's clocks and watermarks; answered by TIME."""

    epoch: int
    boot: int
    uptime_ds: int
    clock_ms: int
    next: int
    first_unacknowledged: int
    flags: int = 0
    """Any of CLOCK_NEVER_SET, MEMORY_80_PERCENT, MEMORY_FULL, LIST_STALE."""

    def encode(self) -> bytes:
        return pack(
            _HEARTBEAT,
            "HEARTBEAT",
            MessageType.HEARTBEAT,
            self.flags,
            self.epoch,
            self.boot,
            0,
            self.uptime_ds,
            self.clock_ms,
            self.next,
            self.first_unacknowledged,
        )

    @classmethod
    def decode(cls, body: Buffer) -> Heartbeat:
        what = "HEARTBEAT"
        _, flags, epoch, boot, reserved, uptime_ds, clock_ms, next_, first = unpack(_HEARTBEAT, what, body)
        require(flags & ~HEARTBEAT_FLAGS == 0 and reserved == 0, what, "a reserved field is not zero")
        require(epoch > 0 and 0 < first <= next_, what, "epoch is 0 or sequences out of order")
        return cls(epoch, boot, uptime_ds, clock_ms, next_, first, flags)


@dataclass(slots=True)
class ListState:
    """What a terminal holds and stages of one list kind (R27); `head` is raw, all zero where it holds none."""

    kind: int
    """A `ListKind`."""
    status: ListStatus
    staged_generation: int = 0
    staged_counter: int = 0
    staged_bytes: int = 0
    head: bytes = NO_HEAD

    def encode(self) -> bytes:
        return pack(
            _LIST_STATE,
            "LIST_STATE",
            MessageType.LIST_STATE,
            self.kind,
            self.status,
            0,
            self.staged_generation,
            self.staged_counter,
            self.staged_bytes,
            fixed_bytes(self.head, HEAD_BYTES, "a signed head"),
        )

    @classmethod
    def decode(cls, body: Buffer) -> ListState:
        what = "LIST_STATE"
        _, kind, status, reserved, generation, counter, staged, head = unpack(_LIST_STATE, what, body)
        require(reserved == 0, what, "reserved field is not zero")
        return cls(code(ListKind, kind, what, 1), code(ListStatus, status, what, 2), generation, counter, staged, head)


@dataclass(slots=True)
class ByeUp:
    """The terminal ends the session."""

    code: ByeCode

    def encode(self) -> bytes:
        return _BYE.pack(MessageType.BYE_UP, self.code)

    @classmethod
    def decode(cls, body: Buffer) -> ByeUp:
        _, bye_code = unpack(_BYE, "BYE", body)
        return cls(code(ByeCode, bye_code, "BYE", 1))


UpMessage = Baseline | Upload | SealAnswer | Tombstone | Heartbeat | ListState | ByeUp
