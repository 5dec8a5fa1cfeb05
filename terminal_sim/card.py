"""Cards and the field they are held into: pulled away, silent, or there when the power goes (docs/protocol.md §12).

A card, of any kind, is its bytes in a store; a core is made around it for as long as it lies on a reader. A
`Disturbance` names one command of the dialogue and what happens there, so that every interruption point can be
enumerated or drawn from a seed. CPU cards write whole or not at all; of a memory card's write any byte may be the last.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self
from zlib import crc32

from protocol.cards.apdu import CHALLENGE_BYTES, Identity
from protocol.cards.memory_image import Remainder, torn
from protocol.codes import CardKind, RecordType
from protocol.errors import DamagedData
from protocol.ports import Random
from terminal_sim.card_kinds import (
    ENCODED_BYTES,
    Card,
    Debit,
    MemoryCard,
    core_of,
    counter_of,
    decode_card,
    encode_card,
)
from terminal_sim.errors import CardGone, FlashMisuse, PowerCut

_CELL_TAIL: Final = struct.Struct("!II")  # write serial, crc32 of card and serial
CARD_BYTES_USUAL: Final = ENCODED_BYTES[CardKind.AES]
CELL_BYTES: Final = CARD_BYTES_USUAL + _CELL_TAIL.size


class CardStore(Protocol):
    """Where cards keep what they keep without power, by card number."""

    def load(self, number: int) -> Card:
        """Raises KeyError for a card that was never issued."""

    def save(self, image: Card) -> None:
        """After return the card has the new image; before, the old one: never a mixture."""

    def numbers(self) -> Iterator[int]:
        """Every card, ascending."""


class MemoryCards:
    """Cards in RAM."""

    __slots__ = ("_images",)

    def __init__(self) -> None:
        self._images: dict[int, Card] = {}

    def load(self, number: int) -> Card:
        return self._images[number]

    def save(self, image: Card) -> None:
        self._images[image.number] = image

    def numbers(self) -> Iterator[int]:
        return iter(sorted(self._images))


class FileCards:
    """Cards in one mapped file, two cells each: the older is overwritten, so a killed simulator tears no card."""

    def __init__(self, path: Path, *, cards_max: int, card_bytes: int = CARD_BYTES_USUAL) -> None:
        """Open or create, with room for cards of `card_bytes` encoded bytes.

        Raises OSError, and FlashMisuse if a file of another size is there.
        """
        self._card_bytes = card_bytes
        self._cell_bytes = card_bytes + _CELL_TAIL.size
        size = cards_max * 2 * self._cell_bytes
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

    def load(self, number: int) -> Card:
        newest = self._newest(self._place[number][0])
        if newest is None:
            raise DamagedData("both cells of a card are torn")
        return newest[1]

    def save(self, image: Card) -> None:
        index, serial = self._place.get(image.number, (len(self._place), 0))
        if index >= self._cards_max:
            raise FlashMisuse(f"the card file has room for {self._cards_max} cards")
        serial += 1
        encoded = encode_card(image).ljust(self._card_bytes, b"\0")
        if len(encoded) != self._card_bytes:
            raise FlashMisuse(f"the card file has room for cards of {self._card_bytes} bytes")
        check = crc32(encoded + serial.to_bytes(4, "big"))
        at = (2 * index + serial % 2) * self._cell_bytes
        self._map[at : at + self._cell_bytes] = encoded + _CELL_TAIL.pack(serial, check)
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

    def _newest(self, index: int) -> tuple[int, Card] | None:
        best: tuple[int, Card] | None = None
        for cell in (0, 1):
            at = (2 * index + cell) * self._cell_bytes
            encoded = self._map[at : at + self._card_bytes]
            serial, check = _CELL_TAIL.unpack_from(self._map, at + self._card_bytes)
            if serial == 0 or crc32(encoded + serial.to_bytes(4, "big")) != check:
                continue
            if best is None or serial > best[0]:
                best = serial, decode_card(encoded)
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
    bytes_written: int | None = None
    """After a write to a memory card: how many of the block's 16 bytes were still written; None: all."""
    remainder: Remainder = Remainder.OLD


class CardField:
    """One card held into one reader for one tap; `exchange` is what the firmware sees of it."""

    __slots__ = (
        "_card",
        "_core",
        "_disturbance",
        "_gone",
        "_on_write",
        "_payee",
        "_random",
        "_store",
        "commands",
        "wrote",
    )

    def __init__(
        self,
        store: CardStore,
        number: int,
        random: Random,
        *,
        disturbance: Disturbance | None = None,
        on_write: Callable[[Card, Card], None] | None = None,
        payee: Callable[[], Identity | None] | None = None,
    ) -> None:
        """`on_write(before, after)` is told of every change of the card's memory, for an oracle.

        `payee` says for which record the till is taking money: a memory card is not told.
        """
        self._store = store
        self._card = store.load(number)
        self._core = core_of(self._card)
        self._random = random
        self._disturbance = disturbance
        self._on_write = on_write
        self._payee = payee
        self._gone = False
        self.commands = 0
        self.wrote: list[int] = []
        """Which of this tap's commands changed the card."""

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
        answer, written = self._core.command(command, self._random.random_bytes(CHALLENGE_BYTES))
        if written is not None:
            self.wrote.append(self.commands - 1)
            self._store_written(written, hit)
        if hit is not None:
            self._disturb(hit)
            return None
        return answer

    def _store_written(self, written: Card, hit: Disturbance | None) -> None:
        before = self._card
        if isinstance(written, MemoryCard) and isinstance(before, MemoryCard):
            if hit is not None and hit.bytes_written is not None and hit.effect is not Effect.SILENT:
                image = torn(before.image, written.image, hit.bytes_written, remainder=hit.remainder)
                written = replace(written, image=image)
            written = self._noted(before, written)
        self._card = written
        self._store.save(written)
        if self._on_write is not None:
            self._on_write(before, written)

    def _noted(self, before: MemoryCard, after: MemoryCard) -> MemoryCard:
        """With the simulator's note of a debit that has just come to stand."""
        payee = self._payee() if self._payee is not None else None
        if payee is None or counter_of(after) == counter_of(before):
            return replace(after, paid=before.paid)
        gained_cents = after.balance_cents - before.balance_cents
        type_ = RecordType.LOAD if gained_cents > 0 else RecordType.PURCHASE
        return replace(after, paid=Debit(payee, abs(gained_cents), type_))

    def _disturb(self, hit: Disturbance) -> None:
        """Silence is a return; the rest takes the card out of the field."""
        if hit.effect is Effect.SILENT:
            return
        self._gone = True
        self._core.reset()
        if hit.effect is Effect.POWER_CUT:
            raise PowerCut("cut during a card dialogue")
        raise CardGone("the card was pulled away")
