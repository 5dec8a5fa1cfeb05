"""The bytes of a sector memory card, and what a cut during the write of one block leaves of them. Pure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.cards.memory_layout import (
    BLOCK_BYTES,
    BLOCKS,
    BLOCKS_PER_SECTOR,
    CHIP_BLOCK,
    SECTORS,
    TRANSPORT_TRAILER,
)
from protocol.errors import DamagedData, OutOfRange
from protocol.keys import CARD_UID_BYTES

CARD_BYTES: Final = BLOCKS * BLOCK_BYTES
_SAK: Final = b"\x08"  # what such a chip says it is
_VERSION: Final = b"\x01"
_CRC_BYTES: Final = 4
MEMORY_IMAGE_BYTES: Final = len(_VERSION) + CARD_BYTES + _CRC_BYTES
assert MEMORY_IMAGE_BYTES == 1029


class Remainder(Enum):
    """What a torn write leaves behind the bytes that were still written."""

    OLD = "as before the write"
    ERASED = "zeros: the block was erased first"


@dataclass(slots=True, frozen=True, repr=False)
class MemoryCardImage:
    """Everything that a card keeps, keys in the trailers included; never shown."""

    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) != CARD_BYTES:
            raise OutOfRange(f"a memory card has {CARD_BYTES} bytes, not {len(self.data)}")

    @property
    def uid(self) -> bytes:
        return self.data[:CARD_UID_BYTES]

    def block(self, index: int) -> bytes:
        return self.data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]

    def trailer(self, sector: int) -> bytes:
        return self.block((sector + 1) * BLOCKS_PER_SECTOR - 1)

    def written(self, index: int, block: bytes) -> MemoryCardImage:
        """The image after one block was written."""
        assert len(block) == BLOCK_BYTES
        at = index * BLOCK_BYTES
        return MemoryCardImage(self.data[:at] + block + self.data[at + BLOCK_BYTES :])

    def encode(self) -> bytes:
        """MEMORY_IMAGE_BYTES bytes, with a version and a CRC-32 (the file's, not the card's)."""
        content = _VERSION + self.data
        return content + zlib.crc32(content).to_bytes(_CRC_BYTES, "big")

    @classmethod
    def decode(cls, data: bytes) -> MemoryCardImage:
        """Raises DamagedData for another length or version, or a wrong CRC."""
        content = data[:-_CRC_BYTES]
        if len(data) != MEMORY_IMAGE_BYTES or zlib.crc32(content).to_bytes(4, "big") != data[-_CRC_BYTES:]:
            raise DamagedData("card image: length or check is wrong")
        if content[:1] != _VERSION:
            raise DamagedData(f"card image: version {content[0]}")
        return cls(content[1:])

    def __repr__(self) -> str:
        return "MemoryCardImage(…)"


def blank_image(uid: bytes) -> MemoryCardImage:
    """A card as it leaves the factory: transport keys everywhere."""
    if len(uid) != CARD_UID_BYTES:
        raise OutOfRange(f"a card UID has {CARD_UID_BYTES} bytes, not {len(uid)}")
    sector = bytes(BLOCK_BYTES * (BLOCKS_PER_SECTOR - 1)) + TRANSPORT_TRAILER
    return MemoryCardImage(sector * SECTORS).written(CHIP_BLOCK, (uid + _SAK).ljust(BLOCK_BYTES, b"\0"))


def torn(
    before: MemoryCardImage, after: MemoryCardImage, bytes_written: int, *, remainder: Remainder = Remainder.OLD
) -> MemoryCardImage:
    """What the card holds when power goes after `bytes_written` (0 to 16) bytes of the one block that was changing.

    0 bytes with the rest OLD is the cut just before the write; 16 is the cut just after it.
    """
    changed = [index for index in range(BLOCKS) if before.block(index) != after.block(index)]
    if not changed:
        return after
    assert len(changed) == 1, "a command writes one block"
    if not 0 <= bytes_written <= BLOCK_BYTES:
        raise OutOfRange(f"{bytes_written} bytes of a block")
    rest = before.block(changed[0]) if remainder is Remainder.OLD else bytes(BLOCK_BYTES)
    new = after.block(changed[0])
    return before.written(changed[0], new[:bytes_written] + rest[bytes_written:])
