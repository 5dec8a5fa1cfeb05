"""One list kind in flash: two slots and a staging area (docs/protocol.md §10, R27, R28).

    slot      sector 0: magic u32, signed head(128), crc32 of those; at 256 the crc once more = applied
              from sector 1 on: the content
    staging   sector 0: staging header(144), crc32; from 256 on a log of (bytes staged u32, its complement)
              from sector 1 on: the transfer

A new version is written whole into the slot that is not in use and comes into force by four bytes: the marker. Of two
marked slots the higher version counts, so an older one can never come back. Each kind has areas of its own: what
happens to one, a cut or a dead sector, leaves the others as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from protocol.codes import ListKind
from protocol.errors import Malformed
from protocol.list_receiver import (
    STAGING_HEADER_BYTES,
    Apply,
    ListEvent,
    StageAppend,
    StageBegin,
    StageClear,
    Staged,
)
from protocol.signed import HEAD_BYTES, NO_HEAD, NO_VERSION, SignedHead, Version
from terminal_sim.errors import SectorDead
from terminal_sim.flash import SECTOR_BYTES, VirtualFlash

SLOT_MAGIC: Final[Mapping[ListKind, bytes]] = {
    ListKind.DENY: b"DENY",
    ListKind.PARAMETERS: b"PARM",
    ListKind.PERMISSIONS: b"PERM",
}
MAGIC_BYTES: Final = 4
MARKER_OFFSET: Final = 256
LOG_OFFSET: Final = 256
_CHECK: Final = struct.Struct("!I")
_LOG_ENTRY: Final = struct.Struct("!II")
_U32: Final = 0xFFFF_FFFF
LOG_ENTRIES_MAX: Final = (SECTOR_BYTES - LOG_OFFSET) // _LOG_ENTRY.size  # later progress is lost in a cut, not wrong


@dataclass(slots=True)
class HeldSlot:
    """The slot in force."""

    area: range
    head: bytes

    @property
    def content_offset(self) -> int:
        return (self.area.start + 1) * SECTOR_BYTES


class ListMemory:
    """What is held and staged; everything is found again from flash by the constructor. A `ListStore`."""

    __slots__ = ("_flash", "_held", "_log_entries", "_magic", "_slots", "_staged_bytes", "_staging", "damaged")

    def __init__(self, flash: VirtualFlash, areas: Sequence[range], kind: ListKind) -> None:
        """`areas`: the sectors of slot, slot and staging area, equally long."""
        self._flash = flash
        self._magic = SLOT_MAGIC[kind]
        *slots, self._staging = areas
        self._slots = tuple(slots)
        self._log_entries = 0
        self._staged_bytes = 0
        self.damaged = False
        """A list that was in force can no longer be read; what is held is older, or nothing."""
        self._held = self._find_held()

    @property
    def room_bytes(self) -> int:
        return (len(self._staging) - 1) * SECTOR_BYTES

    @property
    def head(self) -> bytes:
        """The signed head held, NO_HEAD if none."""
        return NO_HEAD if self._held is None else self._held.head

    @property
    def version(self) -> Version:
        return NO_VERSION if self._held is None else SignedHead.decode(self._held.head).version

    # -- ListStore

    def held_content(self) -> bytes:
        assert self._held is not None
        size = SignedHead.decode(self._held.head).content_bytes
        return self._flash.read_across(self._held.content_offset, size)

    def staged_data(self) -> bytes:
        return self._flash.read_across((self._staging.start + 1) * SECTOR_BYTES, self._staged_bytes)

    def staged(self) -> Staged | None:
        """What the staging area holds, for a receiver made at boot."""
        base = self._staging.start * SECTOR_BYTES
        try:
            header = self._flash.read(base, STAGING_HEADER_BYTES + _CHECK.size)
            if _CHECK.unpack_from(header, STAGING_HEADER_BYTES)[0] != crc32(header[:STAGING_HEADER_BYTES]):
                return None
            log = self._flash.read(base + LOG_OFFSET, LOG_ENTRIES_MAX * _LOG_ENTRY.size)
        except SectorDead:
            return None
        self._log_entries = self._staged_bytes = 0
        for staged_bytes, complement in _LOG_ENTRY.iter_unpack(log):
            if staged_bytes == complement == _U32:
                break
            self._log_entries += 1
            if staged_bytes ^ complement == _U32:
                self._staged_bytes = staged_bytes
        return Staged(header[:STAGING_HEADER_BYTES], self._staged_bytes)

    # -- events of the receiver, in their order

    def perform(self, event: ListEvent) -> None:
        """Carry one event out; after return it survives a power cut. Raises SectorDead."""
        if isinstance(event, StageBegin):
            self._begin(event.header)
        elif isinstance(event, StageAppend):
            self._stage(event.offset, event.data)
        elif isinstance(event, StageClear):
            self._erase(self._staging, len(self._staging))
            self._log_entries = self._staged_bytes = 0
        elif isinstance(event, Apply):
            self._apply(event.head, event.content)

    def _begin(self, header: bytes) -> None:
        self._erase(self._staging, len(self._staging))
        self._log_entries = self._staged_bytes = 0
        self._flash.program(self._staging.start * SECTOR_BYTES, header + _CHECK.pack(crc32(header)))

    def _stage(self, offset: int, data: bytes) -> None:
        self._flash.program_across((self._staging.start + 1) * SECTOR_BYTES + offset, data)
        self._staged_bytes = offset + len(data)
        if self._log_entries < LOG_ENTRIES_MAX:
            at = self._staging.start * SECTOR_BYTES + LOG_OFFSET + self._log_entries * _LOG_ENTRY.size
            self._log_entries += 1
            self._flash.program(at, _LOG_ENTRY.pack(self._staged_bytes, self._staged_bytes ^ _U32))

    def _apply(self, head: bytes, content: bytes) -> None:
        area = self._slots[0]
        if self._held is not None and self._held.area == area:
            area = self._slots[1]
        base = area.start * SECTOR_BYTES
        self._erase(area, 1)  # first: a marker of an older list must not vouch for half a new one
        self._erase(area, 1 + -(-len(content) // SECTOR_BYTES))
        self._flash.program_across(base + SECTOR_BYTES, content)
        header = self._magic + head
        check = _CHECK.pack(crc32(header))
        self._flash.program(base, header + check)
        self._flash.program(base + MARKER_OFFSET, check)
        self._held = HeldSlot(area, head)
        self.damaged = False

    def _erase(self, area: range, sectors: int) -> None:
        for sector in area[:sectors]:
            if not self._flash.is_erased(sector):
                self._flash.erase(sector)

    # -- boot

    def _find_held(self) -> HeldSlot | None:
        found: list[tuple[Version, HeldSlot]] = []
        for area in self._slots:
            try:
                held = self._read_slot(area)
            except SectorDead:
                self.damaged = True
                continue
            if held is not None:
                found.append((SignedHead.decode(held.head).version, held))
        return max(found, key=lambda each: each[0])[1] if found else None

    def _read_slot(self, area: range) -> HeldSlot | None:
        base = area.start * SECTOR_BYTES
        header_bytes = MAGIC_BYTES + HEAD_BYTES
        header = self._flash.read(base, header_bytes + _CHECK.size)
        check = header[header_bytes:]
        is_marked = self._flash.read(base + MARKER_OFFSET, _CHECK.size) == check
        if not is_marked or check != _CHECK.pack(crc32(header[:header_bytes])) or header[:MAGIC_BYTES] != self._magic:
            return None
        head_bytes = header[MAGIC_BYTES:header_bytes]
        try:
            head = SignedHead.decode(head_bytes)
        except Malformed:
            return None
        content = self._flash.read_across(base + SECTOR_BYTES, head.content_bytes)
        if not head.names(content):
            self.damaged = True
            return None
        return HeldSlot(area, head_bytes)
