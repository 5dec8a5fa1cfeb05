"""Terminals and cards of a site: from its registry, key files and card images to what a fleet boots with.

The first N selling terminals of the registry play. What tills and cards remember lives in files of the run's
directory, so that the simulator itself can be killed and continued:

    flash.bin    one sparse file with all flash chips (terminal_sim.flash)
    cards.bin    all cards, two cells each (terminal_sim.card); made from the site's card images, one file a kind

Without a directory all of it is memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.cards.image import CARD_IMAGE_BYTES, AesCardImage
from protocol.cards.memory_image import MEMORY_IMAGE_BYTES, MemoryCardImage
from protocol.cards.pboc_image import PBOC_IMAGE_BYTES, PbocCardImage
from protocol.errors import DamagedData
from protocol.keystore import Keystore
from terminal_sim.card import FileCards
from terminal_sim.card_kinds import ENCODED_BYTES, Card, MemoryCard, kind_of
from terminal_sim.errors import SimError
from terminal_sim.flash import FLASH_BYTES_USUAL, SECTOR_BYTES, FlashFile, MemoryBacking, VirtualFlash
from terminal_sim.layout import RING_SECTORS_MIN, FlashLayout
from terminal_sim.provisioning import TerminalSecrets

FLASH_FILE: Final = "flash.bin"
CARDS_FILE: Final = "cards.bin"
MEMORY_IMAGES_FILE: Final = "images_memory.bin"
PBOC_IMAGES_FILE: Final = "images_pboc.bin"
"""Beside the images of AES cards; a site without such cards has no such file."""
CARD_FILE_BYTES_MAX: Final = 1 << 30


SMALL_CHIP_BYTES: Final = (FlashLayout().ring.start + RING_SECTORS_MIN) * SECTOR_BYTES


class SetupError(SimError):
    """The run cannot start as asked; the text says why and what to do."""


@dataclass(slots=True, kw_only=True)
class SimPlace:
    """What the site file says of terminals and cards; paths are absolute."""

    registry: Path
    card_images: Path
    keystore: Callable[[str], Keystore]
    """Opens the key file of that name under the site's secrets."""


@dataclass(slots=True)
class Seat:
    """One terminal of the registry, provisioned."""

    secrets: TerminalSecrets
    name: str


_IMAGES: Final[tuple[tuple[str, int, Callable[[bytes], Card]], ...]] = (
    ("", CARD_IMAGE_BYTES, AesCardImage.decode),
    (MEMORY_IMAGES_FILE, MEMORY_IMAGE_BYTES, lambda data: MemoryCard(MemoryCardImage.decode(data))),
    (PBOC_IMAGES_FILE, PBOC_IMAGE_BYTES, PbocCardImage.decode),
)
"""Per kind: file name ("": the one that SimPlace names), bytes of an image, how it is read."""


def load_cards(place: SimPlace) -> list[Card]:
    """Every card as it was personalised, by number. Raises SetupError, OSError, DamagedData."""
    cards: list[Card] = []
    for name, image_bytes, decode in _IMAGES:
        path = place.card_images.with_name(name) if name else place.card_images
        if not path.exists():
            continue
        data = path.read_bytes()
        if not data or len(data) % image_bytes or len(data) > CARD_FILE_BYTES_MAX:
            raise DamagedData(f"{path}: {len(data)} bytes are no number of card images")
        cards += [decode(data[at : at + image_bytes]) for at in range(0, len(data), image_bytes)]
    if not cards:
        raise SetupError(f"{place.card_images}: no such file; `onecard keys cards` makes cards")
    return sorted(cards, key=lambda card: card.number)


def _read(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file; {remedy}") from None


class Chips:
    """The fleet's flash chips, in one file or in memory."""

    def __init__(
        self,
        directory: Path | None,
        *,
        chips: int,
        chip_bytes: int = FLASH_BYTES_USUAL,
        small: Collection[int] = (),
    ) -> None:
        """`small`: the chips, by index, with room for a few dozen records only."""
        self.count = chips
        self._chip_bytes = chip_bytes
        self._small = frozenset(small)
        self._file: FlashFile | None = None
        if directory is not None:
            self._file = FlashFile(directory / FLASH_FILE, chips=chips, chip_bytes=chip_bytes)
        self._memory = [MemoryBacking() for _ in range(chips)] if self._file is None else []

    def chip(self, index: int) -> VirtualFlash:
        """A chip made anew around its cells: what a boot or a dump starts from."""
        size_bytes = SMALL_CHIP_BYTES if index in self._small else self._chip_bytes
        if self._file is not None:
            return VirtualFlash(size_bytes, self._file.backing(index))
        return VirtualFlash(size_bytes, self._memory[index])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class CardShelf:
    """A `CardStore` that keeps decoded images at hand and, with a directory, every write in a file."""

    def __init__(self, directory: Path | None, opening: list[Card]) -> None:
        self._file: FileCards | None = None
        self._images = {each.number: each for each in opening}
        if len(self._images) != len(opening):
            raise SetupError("two card images have the same number")
        if directory is None:
            return
        card_bytes = max(ENCODED_BYTES[kind_of(each)] for each in opening)
        self._file = FileCards(directory / CARDS_FILE, cards_max=len(opening), card_bytes=card_bytes)
        held = set(self._file.numbers())
        for image in opening:
            if image.number in held:
                self._images[image.number] = self._file.load(image.number)
            else:
                self._file.save(image)

    def load(self, number: int) -> Card:
        return self._images[number]

    def save(self, image: Card) -> None:
        if self._file is not None:
            self._file.save(image)
        self._images[image.number] = image

    def numbers(self) -> Iterator[int]:
        return iter(sorted(self._images))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
