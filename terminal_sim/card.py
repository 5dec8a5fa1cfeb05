"""Cards and the field they are held into: pulled away, silent, or there when the power goes (docs/protocol.md §12).

A card is its image in a store; a core is made around it for as long as it lies on a reader. A `Disturbance` names one
command of the dialogue and what happens there, so that every interruption point can be enumerated or drawn from a seed.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self
from zlib import crc32

from protocol.cards.aes import CARD_IMAGE_BYTES, AesCardCore, AesCardImage
from protocol.cards.apdu import CHALLENGE_BYTES
from protocol.errors import DamagedData
from protocol.ports import Random
from terminal_sim.errors import CardGone, FlashMisuse, PowerCut

_CELL: Final = struct.Struct(f"!{CARD_IMAGE_BYTES}sII")  # image, write serial, crc32 of both
CELL_BYTES: Final = _CELL.size


class CardStore(Protocol):
    """Where cards keep what they keep without power, by card number."""

    def load(self, number: int) -> AesCardImage:
        """Raises KeyError for a card that was never issued."""

    def save(self, image: AesCardImage) -> None:
        """After return the card has the new image; before, the old one: never a mixture."""

    def numbers(self) -> Iterator[int]:
        """Every card, ascending."""


class MemoryCards:
    """Cards in RAM."""

    __slots__ = ("_images",)

    def __init__(self) -> None:
        self._images: dict[int, AesCardImage] = {}

    def load(self, number: int) -> AesCardImage:
        return self._images[number]

    def save(self, image: AesCardImage) -> None:
        self._images[image.number] = image

    def numbers(self) -> Iterator[int]:
        return iter(sorted(self._images))


class FileCards:
    """Cards in one mapped file, two cells each: the older is overwritten, so a killed simulator tears no card."""

    def __init__(self, path: Path, *, cards_max: int) -> None:
        """Open or create; raises OSError, and FlashMisuse if a file of another size is there."""
        size = cards_max * 2 * CELL_BYTES
        with path.open("a+b") as file:
            file.seek(0, 2)
            held = file.tell()
            if held not in {0, size}:
                raise FlashMisuse(f"the card file has {held} bytes, not {size}")
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._cards_max = cards_max
        self._place: dict[int, tuple[int, int]] = {}  # number → index, write serial
        for index in range(cards_max):
            newest = self._newest(index)
            if newest is not None:
                self._place[newest[1].number] = (index, newest[0])

    def load(self, number: int) -> AesCardImage:
        newest = self._newest(self._place[number][0])
        if newest is None:
            raise DamagedData("both cells of a card are torn")
        return newest[1]

    def save(self, image: AesCardImage) -> None:
        index, serial = self._place.get(image.number, (len(self._place), 0))
        if index >= self._cards_max:
            raise FlashMisuse(f"the card file has room for {self._cards_max} cards")
        serial += 1
        encoded = image.encode()
        check = crc32(encoded + serial.to_bytes(4, "big"))
        at = (2 * index + serial % 2) * CELL_BYTES
        self._map[at : at + CELL_BYTES] = _CELL.pack(encoded, serial, check)
        self._place[image.number] = (index, serial)

    def numbers(self) -> Iterator[int]:
        return iter(sorted(self._place))

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _newest(self, index: int) -> tuple[int, AesCardImage] | None:
        best: tuple[int, AesCardImage] | None = None
        for cell in (0, 1):
            encoded, serial, check = _CELL.unpack_from(self._map, (2 * index + cell) * CELL_BYTES)
            if serial == 0 or crc32(encoded + serial.to_bytes(4, "big")) != check:
                continue
            if best is None or serial > best[0]:
                best = serial, AesCardImage.decode(encoded)
        return best


class Moment(Enum):
    """Where inside one command the disturbance falls."""

    BEFORE = "the card has not executed the command"
    AFTER_WRITE = "the card has executed and stored, the answer is lost"


class Effect(Enum):
    """What the terminal notices."""

    PULLED = "the card is gone"
    SILENT = "the card is there, this answer is missing"
    POWER_CUT = "the terminal itself loses power; the card does too"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One interruption; `command_index` counts the commands of one tap from 0."""

    command_index: int
    moment: Moment
    effect: Effect = Effect.PULLED


class CardField:
    """One card held into one reader for one tap; `exchange` is what the firmware sees of it."""

    __slots__ = ("_core", "_disturbance", "_gone", "_on_write", "_random", "_store", "commands")

    def __init__(
        self,
        store: CardStore,
        number: int,
        random: Random,
        *,
        disturbance: Disturbance | None = None,
        on_write: Callable[[AesCardImage, AesCardImage], None] | None = None,
    ) -> None:
        """`on_write(before, after)` is told of every change of the card's memory, for an oracle."""
        self._store = store
        self._core = AesCardCore(store.load(number))
        self._random = random
        self._disturbance = disturbance
        self._on_write = on_write
        self._gone = False
        self.commands = 0

    def exchange(self, command: bytes) -> bytes | None:
        """The card's answer; None when it is there and silent. Raises CardGone, or PowerCut where so planned."""
        if self._gone:
            raise CardGone("no card in the field")
        planned = self._disturbance
        hit = planned if planned is not None and planned.command_index == self.commands else None
        self.commands += 1
        if hit is not None and hit.moment is Moment.BEFORE:
            self._disturb(hit)
            return None
        before = self._core.image
        answer, image = self._core.command(command, self._random.random_bytes(CHALLENGE_BYTES))
        if image is not None:
            self._store.save(image)
            if self._on_write is not None:
                self._on_write(before, image)
        if hit is not None:
            self._disturb(hit)
            return None
        return answer

    def _disturb(self, hit: Disturbance) -> None:
        """Silence is a return; the rest takes the card out of the field."""
        if hit.effect is Effect.SILENT:
            return
        self._gone = True
        self._core.reset()
        if hit.effect is Effect.POWER_CUT:
            raise PowerCut("cut during a card dialogue")
        raise CardGone("the card was pulled away")
