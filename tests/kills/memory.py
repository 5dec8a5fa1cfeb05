"""What the simulator's terminals and cards remember, wrapped: programs that tear, debits that go unrecorded."""

from __future__ import annotations

from collections.abc import Iterator

from terminal_sim.card_kinds import Card, counter_of
from terminal_sim.flash import SECTOR_BYTES, Backing, VirtualFlash
from terminal_sim.population import CardShelf, Chips
from tests.kills.traps import Moment, Trap


class TrappedMemory:
    """Chips and cards of one fleet: a debit is known to both."""

    def __init__(self, trap: Trap, chips: Chips, cards: CardShelf) -> None:
        self.chips = _TrappedChips(trap, self, chips)
        self.cards = _TrappedCards(trap, self, cards)
        self.owes_record = False
        """A card has paid, and no terminal has written anything since."""


class _TrappedChips(Chips):
    def __init__(self, trap: Trap, memory: TrappedMemory, inner: Chips) -> None:
        self._trap = trap
        self._shared = memory
        self._inner = inner

    def chip(self, index: int) -> VirtualFlash:
        made = self._inner.chip(index)
        return VirtualFlash(made.size_bytes, _TrappedCells(self._trap, self._shared, made._backing))

    def close(self) -> None:
        self._inner.close()


class _TrappedCells:
    def __init__(self, trap: Trap, memory: TrappedMemory, inner: Backing) -> None:
        self._trap = trap
        self._memory = memory
        self._inner = inner

    def read(self, offset: int, count: int) -> bytes:
        return self._inner.read(offset, count)

    def write(self, offset: int, data: bytes) -> None:
        if self._memory.owes_record:
            self._memory.owes_record = False
            self._tear(Moment.CARD, offset, data, "a card has paid; inside the program of its record")
        self._tear(Moment.FLASH, offset, data, "inside a program")
        self._inner.write(offset, data)

    def erase(self, sector: int) -> None:
        self._tear(Moment.FLASH, sector * SECTOR_BYTES, b"\xff" * SECTOR_BYTES, "inside an erase")
        self._inner.erase(sector)

    def touched(self) -> Iterator[int]:
        return self._inner.touched()

    def _tear(self, moment: Moment, offset: int, data: bytes, doing: str) -> None:
        if self._trap.is_due(moment):
            done = self._trap.torn(len(data))
            if done:
                self._inner.write(offset, data[:done])
            self._trap.die(f"{doing}, {done} of {len(data)} bytes done")


class _TrappedCards(CardShelf):
    def __init__(self, trap: Trap, memory: TrappedMemory, inner: CardShelf) -> None:
        self._trap = trap
        self._memory = memory
        self._inner = inner

    def load(self, number: int) -> Card:
        return self._inner.load(number)

    def save(self, image: Card) -> None:
        has_paid = counter_of(image) != counter_of(self._inner.load(image.number))
        self._inner.save(image)
        if has_paid:
            self._trap.passes(Moment.CARD, "a card has paid, nobody has noted anything")
            self._memory.owes_record = True

    def numbers(self) -> Iterator[int]:
        return self._inner.numbers()

    def close(self) -> None:
        self._inner.close()
