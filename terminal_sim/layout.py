"""Which sectors of the flash hold what.

    sectors        what
    0 … 3          journal: boots, intents, the chain's tip
    4 …            deny list: slot A, slot B, staging area, `list_sectors` each
    … the end      record ring

A chip of 4 MiB with the usual figures holds 30,090 records and 45,054 list entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from terminal_sim.errors import FlashMisuse
from terminal_sim.flash import FLASH_BYTES_USUAL, SECTOR_BYTES

JOURNAL_SECTORS: Final = 4  # two would do; a dead one must not end the terminal
LIST_AREAS: Final = 3
LIST_SECTORS_USUAL: Final = 45
RING_SECTORS_MIN: Final = 3  # one being written, one being erased, one held


@dataclass(frozen=True, slots=True)
class FlashLayout:
    """Sector ranges for a chip of `size_bytes`."""

    size_bytes: int = FLASH_BYTES_USUAL
    list_sectors: int = LIST_SECTORS_USUAL

    def __post_init__(self) -> None:
        if self.list_sectors < 2 or len(self.ring) < RING_SECTORS_MIN:
            raise FlashMisuse(f"a chip of {self.size_bytes} bytes has no room for this layout")

    @property
    def journal(self) -> range:
        return range(JOURNAL_SECTORS)

    def list_area(self, index: int) -> range:
        """0 and 1: the slots; 2: the staging area."""
        first = JOURNAL_SECTORS + index * self.list_sectors
        return range(first, first + self.list_sectors)

    @property
    def ring(self) -> range:
        return range(JOURNAL_SECTORS + LIST_AREAS * self.list_sectors, self.size_bytes // SECTOR_BYTES)
