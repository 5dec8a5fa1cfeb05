"""Events that a full memory had no room for, counted in flash so that a power cut forgets none (R12).

Two sectors at the end of the chip, of which one is in use. A sector in use:

     0  magic u16, epoch u16, sequence u32, crc32 of those      the sequence that `events_lost` will have
    12  reserved (4)
    16  one bit per event, 1 until it is lost                    32,640 of them

Losing an event clears one bit: one program, which a cut does whole or not at all, and no erase. While anything is
counted the terminal writes no other record than `events_lost`, so that record gets the sequence in the header. After
its commit the sector is erased; a cut in between is told by the sequence: if the ring is past it, the count has been
recorded. Where both sectors are dead the count is in RAM only, and is lost with the power.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Final
from zlib import crc32

from terminal_sim.errors import SectorDead
from terminal_sim.flash import SECTOR_BYTES, VirtualFlash
from terminal_sim.layout import FlashLayout

TALLY_SECTORS: Final = 2  # one may die
HEADER: Final = struct.Struct("!HHI")
CHECK: Final = struct.Struct("!I")
BITS_OFFSET: Final = 16
COUNT_MAX: Final = (SECTOR_BYTES - BITS_OFFSET) * 8  # more are counted as so many
MAGIC: Final = 0x4C54
assert HEADER.size + CHECK.size <= BITS_OFFSET


class DoorLayout(FlashLayout):
    """A door terminal's chip: as any other, and the tally behind a ring that is two sectors shorter."""

    __slots__ = ()

    @property
    def ring(self) -> range:
        whole = super().ring
        return range(whole.start, whole.stop - TALLY_SECTORS)

    @property
    def tally(self) -> range:
        return range(self.ring.stop, self.ring.stop + TALLY_SECTORS)


class LossTally:
    """Found again from flash by the constructor; `next_sequence` is the one the ring would give out."""

    __slots__ = ("_epoch", "_flash", "_sector", "_sectors", "count")

    def __init__(self, flash: VirtualFlash, sectors: range, *, epoch: int, next_sequence: int) -> None:
        self._flash = flash
        self._sectors = sectors
        self._epoch = epoch
        self._sector: int | None = None
        self.count = 0
        """Events lost and not yet recorded."""
        for sector in sectors:
            with suppress(SectorDead):
                self._adopt(sector, next_sequence)

    def add(self, next_sequence: int) -> None:
        """Count one more; after return it survives a power cut, as long as a sector works."""
        if self.count >= COUNT_MAX:
            return
        self.count += 1
        if self._sector is not None:
            try:
                self._clear(self._sector, (self.count - 1) // 8)
            except SectorDead:
                self._sector = None
        if self._sector is None:
            self._open(next_sequence)  # where none works, the count goes on in RAM

    def recorded(self) -> None:
        """The `events_lost` record with this count is committed."""
        self.count = 0
        if self._sector is not None:
            with suppress(SectorDead):
                self._flash.erase(self._sector)
        self._sector = None

    # -- inside

    def _open(self, next_sequence: int) -> None:
        header = HEADER.pack(MAGIC, self._epoch, next_sequence)
        for sector in self._sectors:
            try:
                if not self._flash.is_erased(sector):
                    self._flash.erase(sector)
                for byte in range(-(-self.count // 8)):
                    self._clear(sector, byte)
                self._flash.program(sector * SECTOR_BYTES, header + CHECK.pack(crc32(header)))
            except SectorDead:
                continue
            self._sector = sector
            return

    def _clear(self, sector: int, byte: int) -> None:
        """Make one byte of the bits say what the count does."""
        cleared = min(8, self.count - 8 * byte)
        self._flash.program(sector * SECTOR_BYTES + BITS_OFFSET + byte, bytes((0xFF >> cleared,)))

    def _adopt(self, sector: int, next_sequence: int) -> None:
        data = self._flash.read(sector * SECTOR_BYTES, SECTOR_BYTES)
        magic, epoch, sequence = HEADER.unpack_from(data)
        if magic != MAGIC or CHECK.unpack_from(data, HEADER.size)[0] != crc32(data[: HEADER.size]):
            return
        if epoch != self._epoch or sequence < next_sequence:
            self._flash.erase(sector)  # recorded; or of an epoch that is closed, with its tail unknown (R11)
            return
        self._sector = sector
        self.count = sum(8 - byte.bit_count() for byte in data[BITS_OFFSET:])
