"""Which sectors of the flash hold what.

    sectors        what
    0 … 3          journal: boots, intents, the chain's tip
    4 …            deny list: slot A, slot B, staging area, `list_sectors` each
    then           parameters, and permissions in a door: the same three areas, `document_sectors` each
    … the end      record ring

A chip of 4 MiB with the usual figures holds 30,090 records (a door's 28,356), 27,646 list entries and a document of
64 KiB of each kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from protocol.codes import ListKind
from protocol.limits import DOCUMENT_BYTES_MAX
from protocol.list_kinds import DOCUMENT_KINDS, kinds_held_by
from terminal_sim.errors import FlashMisuse
from terminal_sim.flash import FLASH_BYTES_USUAL, SECTOR_BYTES

JOURNAL_SECTORS: Final = 4  # two would do; a dead one must not end the terminal
LIST_AREAS: Final = 3
LIST_SECTORS_USUAL: Final = 28
DOCUMENT_SECTORS: Final = 1 + DOCUMENT_BYTES_MAX // SECTOR_BYTES  # room for the longest
RING_SECTORS_MIN: Final = 3  # one being written, one being erased, one held


@dataclass(frozen=True, slots=True)
class FlashLayout:
    """Sector ranges for a chip of `size_bytes`."""

    size_bytes: int = FLASH_BYTES_USUAL
    list_sectors: int = LIST_SECTORS_USUAL
    document_sectors: int = DOCUMENT_SECTORS
    documents: int = 1
    """Document kinds held: parameters, then permissions."""

    def __post_init__(self) -> None:
        is_too_small = self.list_sectors < 2 or (self.documents and self.document_sectors < 2)
        if is_too_small or len(self.ring) < RING_SECTORS_MIN:
            raise FlashMisuse(f"a chip of {self.size_bytes} bytes has no room for this layout")

    @classmethod
    def of_kind(cls, size_bytes: int, terminal_kind: int) -> Self:
        """The usual layout of a terminal kind."""
        held = kinds_held_by(terminal_kind)
        return cls(size_bytes, documents=sum(kind in held for kind in DOCUMENT_KINDS))

    @property
    def journal(self) -> range:
        return range(JOURNAL_SECTORS)

    def has_room_for(self, kind: ListKind) -> bool:
        """Whether this chip has areas for that list kind."""
        return kind in (ListKind.DENY, *DOCUMENT_KINDS[: self.documents])

    def list_areas(self, kind: ListKind) -> tuple[range, ...]:
        """Slot, slot, staging area of a kind that `has_room_for` knows."""
        first, sectors = JOURNAL_SECTORS, self.list_sectors
        if kind != ListKind.DENY:
            first += LIST_AREAS * (sectors + DOCUMENT_KINDS.index(kind) * self.document_sectors)
            sectors = self.document_sectors
        return tuple(range(first + area * sectors, first + (area + 1) * sectors) for area in range(LIST_AREAS))

    @property
    def ring(self) -> range:
        lists = LIST_AREAS * (self.list_sectors + self.documents * self.document_sectors)
        return range(JOURNAL_SECTORS + lists, self.size_bytes // SECTOR_BYTES)
