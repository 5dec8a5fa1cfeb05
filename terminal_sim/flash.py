"""A NOR flash chip: program clears bits, erase sets a whole sector, a power cut tears either at any byte.

Only touched sectors exist: in memory a sector is kept up to its last programmed byte, in a file (one for a whole
fleet, mapped) untouched stretches are holes. The file holds the bytes inverted, so that a hole reads as erased flash,
and a killed simulator finds every byte again that it had programmed.

The chip knows no records; it must not know what it stores.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from terminal_sim.errors import FlashMisuse, PowerCut, SectorDead

SECTOR_BYTES: Final = 4096
ERASED_SECTOR: Final = b"\xff" * SECTOR_BYTES
FLASH_BYTES_USUAL: Final = 4 << 20
GROWTH_BYTES: Final = 256  # a sector in memory grows by pages, as the firmware fills it

SNAPSHOT_HEAD: Final = struct.Struct("!4sII")  # magic, size in bytes, count of sectors
SNAPSHOT_SECTOR: Final = struct.Struct("!I")
SNAPSHOT_MAGIC: Final = b"FLSH"

_INVERTED: Final = bytes(255 - value for value in range(256))


@dataclass(frozen=True, slots=True)
class Tear:
    """Where the power goes inside one operation.

    `bytes_done` bytes have taken effect; of the next byte only the bits in `bits_done` have.
    """

    bytes_done: int
    bits_done: int = 0


CutPlan = Callable[[str, int, int], Tear | None]
"""Asked before each operation with ("program" or "erase", offset, bytes); a Tear cuts the power inside it."""


class CutAfter:
    """A plan that cuts after `steps` steps: a programmed byte is one, an erase is one per `erase_step_bytes`."""

    def __init__(self, steps: int, *, bits_done: int = 0, erase_step_bytes: int = 512) -> None:
        self.steps_left = steps
        self.fired = False
        self._bits_done = bits_done
        self._erase_step_bytes = erase_step_bytes

    def __call__(self, operation: str, _offset: int, count: int) -> Tear | None:
        step_bytes = self._erase_step_bytes if operation == "erase" else 1
        steps = -(-count // step_bytes)
        if self.steps_left >= steps:
            self.steps_left -= steps
            return None
        self.fired = True
        return Tear(self.steps_left * step_bytes, self._bits_done)


class Backing(Protocol):
    """Where the cells are kept; reads and writes never cross a sector boundary."""

    def read(self, offset: int, count: int) -> bytes:
        """The bytes there; FF where nothing was ever written."""

    def write(self, offset: int, data: bytes) -> None:
        """Overwrite, bits up or down: NOR semantics are the chip's, not the cells'."""

    def erase(self, sector: int) -> None:
        """Make the whole sector FF, and give its memory back where that is possible."""

    def touched(self) -> Iterator[int]:
        """Sectors that are not all FF, ascending."""


class MemoryBacking:
    """Sectors in a dict, each as long as its last written page."""

    __slots__ = ("_sectors",)

    def __init__(self) -> None:
        self._sectors: dict[int, bytearray] = {}

    def read(self, offset: int, count: int) -> bytes:
        cells = self._sectors.get(offset // SECTOR_BYTES)
        if cells is None:
            return b"\xff" * count
        start = offset % SECTOR_BYTES
        data = bytes(cells[start : start + count])
        return data if len(data) == count else data + b"\xff" * (count - len(data))

    def write(self, offset: int, data: bytes) -> None:
        sector, start = divmod(offset, SECTOR_BYTES)
        cells = self._sectors.get(sector)
        if cells is None:
            cells = self._sectors[sector] = bytearray()
        end = start + len(data)
        if end > len(cells):
            cells.extend(b"\xff" * (-(-end // GROWTH_BYTES) * GROWTH_BYTES - len(cells)))
        cells[start:end] = data

    def erase(self, sector: int) -> None:
        self._sectors.pop(sector, None)

    def touched(self) -> Iterator[int]:
        return iter(sorted(self._sectors))


class FlashFile:
    """One sparse file with the flash chips of a whole fleet; the page cache outlives a killed process."""

    def __init__(self, path: Path, *, chips: int, chip_bytes: int = FLASH_BYTES_USUAL) -> None:
        """Open or create; raises OSError, and FlashMisuse if a file of another size is there."""
        size = chips * chip_bytes
        with path.open("a+b") as file:
            file.seek(0, 2)
            held = file.tell()
            if held not in {0, size}:
                raise FlashMisuse(f"the flash file has {held} bytes, not {size}")
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
            self._touched = _sectors_with_data(file.fileno(), size)
        self.chips = chips
        self.chip_bytes = chip_bytes

    def backing(self, chip: int) -> FileBacking:
        if not 0 <= chip < self.chips:
            raise FlashMisuse(f"chip {chip} of {self.chips}")
        return FileBacking(self._map, chip * self.chip_bytes, self.chip_bytes, self._touched)

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sectors_with_data(descriptor: int, size: int) -> set[int]:
    """Sectors of the file that are no hole; all of them where the file system cannot tell."""
    found: set[int] = set()
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but a hole up to the end
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.update(range(start // SECTOR_BYTES, -(-at // SECTOR_BYTES)))
    return found


class FileBacking:
    """One chip inside a FlashFile, bytes inverted.

    A hole is never read through the map: that would give it memory, 4 MiB a terminal at every boot.
    """

    __slots__ = ("_base", "_map", "_size", "_touched")

    def __init__(self, mapped: mmap.mmap, base: int, size_bytes: int, touched: set[int]) -> None:
        """`touched` is the whole file's, by sector of the file."""
        self._map = mapped
        self._base = base
        self._size = size_bytes
        self._touched = touched

    def read(self, offset: int, count: int) -> bytes:
        start = self._base + offset
        if start // SECTOR_BYTES not in self._touched:
            return b"\xff" * count
        return self._map[start : start + count].translate(_INVERTED)

    def write(self, offset: int, data: bytes) -> None:
        start = self._base + offset
        self._touched.add(start // SECTOR_BYTES)
        self._map[start : start + len(data)] = bytes(data).translate(_INVERTED)

    def erase(self, sector: int) -> None:
        start = self._base + sector * SECTOR_BYTES
        if start // SECTOR_BYTES in self._touched:  # do not fill a hole with zeros
            self._map[start : start + SECTOR_BYTES] = bytes(SECTOR_BYTES)

    def touched(self) -> Iterator[int]:
        empty = bytes(SECTOR_BYTES)
        for sector in range(self._size // SECTOR_BYTES):
            start = self._base + sector * SECTOR_BYTES
            if start // SECTOR_BYTES in self._touched and self._map[start : start + SECTOR_BYTES] != empty:
                yield sector


class VirtualFlash:
    """The chip. After a cut every access raises PowerCut until `power_on`."""

    __slots__ = ("_backing", "_off", "cut_plan", "dead_sectors", "programs", "size_bytes", "wear")

    def __init__(self, size_bytes: int = FLASH_BYTES_USUAL, backing: Backing | None = None) -> None:
        if size_bytes <= 0 or size_bytes % SECTOR_BYTES:
            raise FlashMisuse(f"a flash of {size_bytes} bytes is no number of sectors")
        self.size_bytes = size_bytes
        self._backing: Backing = MemoryBacking() if backing is None else backing
        self._off = False
        self.cut_plan: CutPlan | None = None
        self.dead_sectors: set[int] = set()
        self.wear: dict[int, int] = {}
        """Erases per sector, since this object was made."""
        self.programs = 0

    def read(self, offset: int, count: int) -> bytes:
        """The bytes there, within one sector; raises SectorDead."""
        self._check(offset, count)
        return self._backing.read(offset, count)

    def program(self, offset: int, data: bytes) -> None:
        """Clear the bits that are 0 in `data`, within one sector; bits never rise, as in the chip."""
        count = len(data)
        self._check(offset, count)
        self.programs += 1
        old = self._backing.read(offset, count)
        new = (int.from_bytes(old, "big") & int.from_bytes(data, "big")).to_bytes(count, "big")
        tear = self.cut_plan("program", offset, count) if self.cut_plan is not None else None
        if tear is None:
            self._backing.write(offset, new)
            return
        done = tear.bytes_done
        torn = new[:done]
        if done < count:
            torn += bytes((old[done] & (new[done] | ~tear.bits_done & 0xFF),))
        self._backing.write(offset, torn)
        self._cut()

    def erase(self, sector: int) -> None:
        """Set the whole sector to FF."""
        offset = sector * SECTOR_BYTES
        self._check(offset, SECTOR_BYTES)
        self.wear[sector] = self.wear.get(sector, 0) + 1
        tear = self.cut_plan("erase", offset, SECTOR_BYTES) if self.cut_plan is not None else None
        if tear is None:
            self._backing.erase(sector)
            return
        done = tear.bytes_done
        torn = b"\xff" * done
        if done < SECTOR_BYTES:
            torn += bytes((self._backing.read(offset + done, 1)[0] | tear.bits_done,))
        self._backing.write(offset, torn)
        self._cut()

    def read_across(self, offset: int, count: int) -> bytes:
        """As `read`, over as many sectors as it takes."""
        parts = []
        while count > 0:
            piece = min(count, SECTOR_BYTES - offset % SECTOR_BYTES)
            parts.append(self.read(offset, piece))
            offset += piece
            count -= piece
        return b"".join(parts)

    def program_across(self, offset: int, data: bytes) -> None:
        """As `program`, one operation per sector."""
        done = 0
        while done < len(data):
            piece = min(len(data) - done, SECTOR_BYTES - offset % SECTOR_BYTES)
            self.program(offset, data[done : done + piece])
            offset += piece
            done += piece

    def is_erased(self, sector: int) -> bool:
        """Whether every byte of the sector reads FF."""
        return self.read(sector * SECTOR_BYTES, SECTOR_BYTES) == ERASED_SECTOR

    def power_on(self) -> None:
        """The next boot; a cut that was planned is forgotten."""
        self._off = False
        self.cut_plan = None

    def power_off(self) -> None:
        """Cut the power between two operations."""
        self._off = True

    def snapshot(self) -> bytes:
        """All touched sectors, for `restore`; dead sectors are read as their cells still are."""
        sectors = list(self._backing.touched())
        parts = [SNAPSHOT_HEAD.pack(SNAPSHOT_MAGIC, self.size_bytes, len(sectors))]
        for sector in sectors:
            parts.append(SNAPSHOT_SECTOR.pack(sector))
            parts.append(self._backing.read(sector * SECTOR_BYTES, SECTOR_BYTES))
        return b"".join(parts)

    def restore(self, image: bytes) -> None:
        """Become the chip of `snapshot`, powered on; wear and faults are this object's own."""
        magic, size_bytes, count = SNAPSHOT_HEAD.unpack_from(image)
        if magic != SNAPSHOT_MAGIC or size_bytes != self.size_bytes:
            raise FlashMisuse("not a snapshot of a chip of this size")
        for sector in list(self._backing.touched()):
            self._backing.erase(sector)
        at = SNAPSHOT_HEAD.size
        for _ in range(count):
            (sector,) = SNAPSHOT_SECTOR.unpack_from(image, at)
            at += SNAPSHOT_SECTOR.size
            self._backing.write(sector * SECTOR_BYTES, image[at : at + SECTOR_BYTES])
            at += SECTOR_BYTES
        self.power_on()

    def _check(self, offset: int, count: int) -> None:
        if self._off:
            raise PowerCut("the flash has no power")
        sector = offset // SECTOR_BYTES
        if offset < 0 or offset + count > self.size_bytes or offset % SECTOR_BYTES + count > SECTOR_BYTES:
            raise FlashMisuse(f"{count} bytes at {offset} cross a boundary")
        if sector in self.dead_sectors:
            raise SectorDead(sector)

    def _cut(self) -> None:
        self._off = True
        raise PowerCut("cut inside a flash operation")
