"""Terminals and cards of a site: from its registry, key files and card images to what a fleet boots with.

The first N selling terminals of the registry play. What tills and cards remember lives in files of the run's
directory, so that the simulator itself can be killed and continued:

    flash.bin    one sparse file with all flash chips (terminal_sim.flash)
    cards.bin    all cards, two cells each (terminal_sim.card); made from the site's card images

Without a directory all of it is memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.cards.image import CARD_IMAGE_BYTES, AesCardImage
from protocol.codes import TerminalClass, TerminalKind
from protocol.errors import DamagedData
from protocol.keystore import Keystore
from protocol.registry import EnrolledTerminal, Registry
from protocol.sam import SoftwareSam, TerminalMasters
from terminal_sim.card import FileCards
from terminal_sim.errors import SimError
from terminal_sim.flash import FLASH_BYTES_USUAL, FlashFile, MemoryBacking, VirtualFlash
from terminal_sim.provisioning import TerminalSecrets

FLASH_FILE: Final = "flash.bin"
CARDS_FILE: Final = "cards.bin"
DOORS_MAX: Final = 256  # door terminals of a site that play beside its tills
CARD_FILE_BYTES_MAX: Final = 1 << 30
SAM_CONTEXTS_MAX: Final = 16_384  # two keys a card; 13 MB, shared by the whole fleet


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


def load_seats(place: SimPlace, terminals: int) -> list[Seat]:
    """The first `terminals` selling terminals, then the door terminals. Raises SetupError, OSError, ProtocolError."""
    registry = Registry.parse(_read(place.registry, "`onecard keys enrol` makes the registry"))
    enrolled = [
        each for each in registry if each.terminal_class == TerminalClass.TERMINAL and each.kind == TerminalKind.POS
    ]
    if len(enrolled) < terminals:
        raise SetupError(
            f"{place.registry} has {len(enrolled)} selling terminals and {terminals} shall play; "
            f"enrol more: onecard keys enrol --terminals {terminals - len(enrolled)}"
        )
    store = place.keystore("terminals")
    sam = _sam(place.keystore("sam"))
    root_public = bytes.fromhex(str(store.facts.get("root_public", "")))
    doors = [
        each for each in registry if each.kind == TerminalKind.DOOR and each.terminal_class == TerminalClass.TERMINAL
    ]
    playing = enrolled[:terminals] + doors[:DOORS_MAX]
    return [_seat(each, registry.site, store, sam, root_public) for each in playing]


def _seat(each: EnrolledTerminal, site: int, store: Keystore, sam: SoftwareSam, root_public: bytes) -> Seat:
    identity = f"{each.terminal}.{each.epoch}"
    secrets = TerminalSecrets(
        site=site,
        terminal=each.terminal,
        epoch=each.epoch,
        key_version=each.key_version,
        link_key=store.key(f"link.{identity}"),
        seal_key=store.key(f"seal.{identity}"),
        enrolment_id=each.enrolment_id,
        merchant=each.merchant,
        root_public=root_public,
        sam=sam,
        suite=each.suite,
        proof_suite=each.proof_suite,
        terminal_kind=each.kind,
    )
    return Seat(secrets, each.name)


def _sam(store: Keystore) -> SoftwareSam:
    authenticate, debit = (store.versions(f"card_{purpose}_master") for purpose in ("authenticate", "debit"))
    masters = {each: TerminalMasters(authenticate[each], debit[each]) for each in authenticate.keys() & debit.keys()}
    if not masters:
        raise SetupError("the SAM's key file holds no card master; make it with `onecard keys init`")
    return SoftwareSam(masters, contexts_max=SAM_CONTEXTS_MAX)


def load_cards(place: SimPlace) -> list[AesCardImage]:
    """Every card as it was personalised. Raises SetupError, OSError, DamagedData."""
    data = _read(place.card_images, "`onecard keys cards` makes cards")
    if not data or len(data) % CARD_IMAGE_BYTES or len(data) > CARD_FILE_BYTES_MAX:
        raise DamagedData(f"{place.card_images}: {len(data)} bytes are no number of card images")
    view = memoryview(data)
    return [
        AesCardImage.decode(bytes(view[at : at + CARD_IMAGE_BYTES])) for at in range(0, len(data), CARD_IMAGE_BYTES)
    ]


def _read(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file; {remedy}") from None


class Chips:
    """The fleet's flash chips, in one file or in memory."""

    def __init__(self, directory: Path | None, *, chips: int, chip_bytes: int = FLASH_BYTES_USUAL) -> None:
        self._chip_bytes = chip_bytes
        self._file: FlashFile | None = None
        if directory is not None:
            self._file = FlashFile(directory / FLASH_FILE, chips=chips, chip_bytes=chip_bytes)
        self._memory = [MemoryBacking() for _ in range(chips)] if self._file is None else []

    def chip(self, index: int) -> VirtualFlash:
        """A chip made anew around its cells: what a boot or a dump starts from."""
        if self._file is not None:
            return VirtualFlash(self._chip_bytes, self._file.backing(index))
        return VirtualFlash(self._chip_bytes, self._memory[index])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class CardShelf:
    """A `CardStore` that keeps decoded images at hand and, with a directory, every write in a file."""

    def __init__(self, directory: Path | None, opening: list[AesCardImage]) -> None:
        self._file: FileCards | None = None
        self._images = {each.number: each for each in opening}
        if len(self._images) != len(opening):
            raise SetupError("two card images have the same number")
        if directory is None:
            return
        self._file = FileCards(directory / CARDS_FILE, cards_max=len(opening))
        held = set(self._file.numbers())
        for image in opening:
            if image.number in held:
                self._images[image.number] = self._file.load(image.number)
            else:
                self._file.save(image)

    def load(self, number: int) -> AesCardImage:
        return self._images[number]

    def save(self, image: AesCardImage) -> None:
        if self._file is not None:
            self._file.save(image)
        self._images[image.number] = image

    def numbers(self) -> Iterator[int]:
        return iter(sorted(self._images))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
