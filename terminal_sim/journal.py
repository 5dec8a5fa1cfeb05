"""The terminal's journal in flash: boots, intents, and the tip of its chain (R1, R20).

Four sectors in turn. Sector: header(16) = magic u16, epoch u16, boot u16, reserved u16, generation u32, crc32; then 36
entries of 112 bytes:

     0  fields of Entry (80), crc32 (4)    one program: the sequence is allocated when it is whole
    84  debit sent u8, FF until then       programmed just before DEBIT, or what else is asked, leaves the terminal
    88  type u8, reserved(3), seal(8), crc32 of all fields and these (4)      the record is committed in the ring

At boot the last entry tells everything: not whole = its sequence was never used; no debit sent and no record = the
power went before the debit; debit sent and no record = grey, or doubt, by the type that was attempted. The sums before
and the seal after make the chain's tip known even where the sector of the last record has died.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from typing import Final
from zlib import crc32

from protocol.codes import RecordType
from terminal_sim.errors import MemoryLost, SectorDead
from terminal_sim.flash import SECTOR_BYTES, VirtualFlash

HEADER: Final = struct.Struct("!HHHHII")
HEADER_BYTES: Final = 16
assert HEADER.size == HEADER_BYTES
MAGIC: Final = 0x4A4B  # 4A4A had entries without type, reference and order
FIELDS: Final = struct.Struct("!BBHIHHIQII7sBiIIq8sB3xII")
CHECK: Final = struct.Struct("!I")
DONE: Final = struct.Struct("!B3x8s")
ENTRY_BYTES: Final = 112
SENT_OFFSET: Final = 84
DONE_OFFSET: Final = 88
assert FIELDS.size + CHECK.size == SENT_OFFSET
assert DONE_OFFSET + DONE.size + CHECK.size <= ENTRY_BYTES
ENTRIES_PER_SECTOR: Final = (SECTOR_BYTES - HEADER_BYTES) // ENTRY_BYTES
assert ENTRIES_PER_SECTOR == 36

BOOT_MAX: Final = 65_535  # docs/protocol.md §6.1: then the device needs re-enrolment
_ERASED: Final = b"\xff" * ENTRY_BYTES
_MARK: Final = b"\x00"
_NO_UID: Final = bytes(7)
_NO_SEAL: Final = bytes(8)


class EntryKind(IntEnum):
    INTENT = 0x01
    """A transaction of a card may follow."""
    PURCHASE = INTENT
    PLAIN = 0x02
    """A record without a debit of its own."""
    BOOT = 0x03


@dataclass(slots=True)
class Entry:
    """What was known when the sequence was allocated; running totals are those before it."""

    kind: int
    key_version: int
    epoch: int
    sequence: int
    boot: int
    currency: int
    uptime_ds: int
    clock_ms: int
    amount_cents: int
    card: int
    uid: bytes
    card_kind: int
    balance_before_cents: int
    counter_before: int
    running_count: int
    running_sum_cents: int
    previous_seal: bytes
    attempted_type: int = RecordType.PURCHASE
    """Of an intent: the record it would become."""
    reference: int = 0
    order: int = 0
    """Of a load."""

    def __repr__(self) -> str:
        what = f"type={self.attempted_type:02X}, amount_cents={self.amount_cents}"
        return f"Entry(kind={self.kind}, {self.epoch}/{self.sequence}, {what})"


def plain_entry(
    epoch: int, sequence: int, boot: int, *, running_count: int, running_sum_cents: int, previous_seal: bytes
) -> Entry:
    """An entry for a record that moves no money on a card."""
    totals = running_count, running_sum_cents
    return Entry(EntryKind.PLAIN, 0, epoch, sequence, boot, 0, 0, 0, 0, 0, _NO_UID, 0, 0, 0, *totals, previous_seal)


@dataclass(slots=True)
class Found:
    """The last entry of an epoch as flash has it."""

    entry: Entry
    debit_sent: bool
    record_type: int
    """0 while the record is not known to be committed."""
    seal: bytes


class Journal:
    """Append-only; the constructor reads what earlier boots wrote. Raises MemoryLost if no sector works."""

    __slots__ = ("_entry_offset", "_flash", "_generation", "_open_crc", "_sectors", "_slot", "boot", "last")

    def __init__(self, flash: VirtualFlash, sectors: range, *, epoch: int) -> None:
        self._flash = flash
        self._sectors = sectors
        self._generation = 0
        self._slot = ENTRIES_PER_SECTOR  # no sector is open yet
        self._entry_offset = -1
        self._open_crc = 0
        self.boot = 0
        """The last boot of this epoch; `begin_boot` starts the next."""
        self.last: Found | None = None
        """The last entry of this epoch that allocated a sequence."""
        self._scan(epoch)

    def begin_boot(self, epoch: int, *, at_least: int = 0) -> int:
        """Write the next boot number, above `at_least`; raises MemoryLost when the numbers are used up."""
        boot = max(self.boot, at_least) + 1
        if boot > BOOT_MAX:
            raise MemoryLost("boot numbers are used up: re-enrolment")
        self.boot = boot
        self._append(Entry(EntryKind.BOOT, 0, epoch, 0, boot, 0, 0, 0, 0, 0, _NO_UID, 0, 0, 0, 0, 0, _NO_SEAL))
        return boot

    def open_entry(self, entry: Entry) -> None:
        """Allocate the entry's sequence; after return it is used up, whatever comes."""
        self._entry_offset, self._open_crc = self._append(entry)
        self.last = Found(entry, debit_sent=False, record_type=0, seal=b"")

    def mark_debit_sent(self) -> None:
        """The next thing is DEBIT. Raises SectorDead: then it must not be sent."""
        self._flash.program(self._entry_offset + SENT_OFFSET, _MARK)
        assert self.last is not None
        self.last.debit_sent = True

    def close_entry(self, record_type: int, seal: bytes) -> None:
        """The record is committed in the ring; the seal is the new tip."""
        done = DONE.pack(record_type, seal)
        check = CHECK.pack(crc32(done, self._open_crc))
        with suppress(SectorDead):  # the ring has the record
            self._flash.program(self._entry_offset + DONE_OFFSET, done + check)
        assert self.last is not None
        self.last.record_type, self.last.seal = record_type, seal

    def _append(self, entry: Entry) -> tuple[int, int]:
        """Program one entry; returns its offset and the crc of its fields."""
        packed = FIELDS.pack(*_values(entry))
        check = crc32(packed)
        for _ in range(len(self._sectors) + 1):
            if self._slot >= ENTRIES_PER_SECTOR:
                self._open_sector(entry.epoch)
            sector = self._sectors[self._generation % len(self._sectors)]
            offset = sector * SECTOR_BYTES + HEADER_BYTES + self._slot * ENTRY_BYTES
            self._slot += 1
            try:
                self._flash.program(offset, packed + CHECK.pack(check))
            except SectorDead:
                self._slot = ENTRIES_PER_SECTOR
                continue
            return offset, check
        raise MemoryLost("no journal sector takes an entry")

    def _open_sector(self, epoch: int) -> None:
        for _ in self._sectors:
            self._generation += 1
            sector = self._sectors[self._generation % len(self._sectors)]
            header = HEADER.pack(MAGIC, epoch, self.boot, 0, self._generation, 0)[: -CHECK.size]
            try:
                if not self._flash.is_erased(sector):
                    self._flash.erase(sector)
                self._flash.program(sector * SECTOR_BYTES, header + CHECK.pack(crc32(header)))
            except SectorDead:
                continue
            self._slot = 0
            return
        raise MemoryLost("every journal sector is dead")

    # -- boot

    def _scan(self, epoch: int) -> None:
        """Newest sector first, until an entry of this epoch is found that allocated a sequence."""
        found: list[tuple[int, int, int, int, bytes]] = []
        for sector in self._sectors:
            try:
                data = self._flash.read(sector * SECTOR_BYTES, SECTOR_BYTES)
            except SectorDead:
                continue
            magic, its_epoch, boot, _, generation, check = HEADER.unpack_from(data)
            is_ours = magic == MAGIC and check == crc32(data[: HEADER_BYTES - CHECK.size])
            if is_ours and self._sectors[generation % len(self._sectors)] == sector:
                found.append((generation, sector, its_epoch, boot, data))
        found.sort(reverse=True)
        for index, (generation, sector, its_epoch, boot, data) in enumerate(found):
            if its_epoch == epoch:
                self.boot = max(self.boot, boot)
            slots_used = self._scan_sector(epoch, data, sector * SECTOR_BYTES)
            if index == 0:
                self._generation, self._slot = generation, slots_used
            if self.last is not None:
                return

    def _scan_sector(self, epoch: int, data: bytes, sector_offset: int) -> int:
        """Take over what a sector says of `epoch`; returns how many of its slots are used."""
        for slot in range(ENTRIES_PER_SECTOR):
            start = HEADER_BYTES + slot * ENTRY_BYTES
            raw = data[start : start + ENTRY_BYTES]
            if raw == _ERASED:
                return slot
            packed = raw[: FIELDS.size]
            check = crc32(packed)
            if check != CHECK.unpack_from(raw, FIELDS.size)[0]:
                continue  # torn: nothing was done on its account
            entry = Entry(*FIELDS.unpack(packed))
            if entry.epoch != epoch:
                continue
            self.boot = max(self.boot, entry.boot)
            if entry.kind != EntryKind.BOOT:
                self.last = _found(entry, raw, check)
                self._entry_offset, self._open_crc = sector_offset + start, check
        return ENTRIES_PER_SECTOR


_values: Final = attrgetter(*(each.name for each in fields(Entry)))


def _found(entry: Entry, raw: bytes, check: int) -> Found:
    done = raw[DONE_OFFSET : DONE_OFFSET + DONE.size]
    record_type, seal = DONE.unpack(done)
    if CHECK.unpack_from(raw, DONE_OFFSET + DONE.size)[0] != crc32(done, check):
        record_type, seal = 0, b""
    return Found(entry, raw[SENT_OFFSET] != 0xFF, record_type, seal)
