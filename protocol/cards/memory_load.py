"""A load station's side of a load of a memory card (docs/cards.md, R4, R22). Pure.

As a debit, with two differences: the purse's sectors are opened under key B, which alone can increment, and before the
marker a *load mark* is written: the order's serial, and the number of the transaction that executes it. The card's
highest load serial is that of the newest mark whose transaction has happened. A number that is used again by a debit
makes the mark before it count: then the order is dead, for two persons, and never executed twice.
"""

from __future__ import annotations

from typing import Final

from protocol.cards import memory_apdu as apdu
from protocol.cards.apdu import CardOrder
from protocol.cards.dialogue import Input
from protocol.cards.events import Authenticated, Reason, Step
from protocol.cards.memory_apdu import ValueOperation
from protocol.cards.memory_dialogue import Commands, MemoryDialogue, NotDone, State
from protocol.cards.memory_layout import (
    BACKUP_BLOCK,
    BLOCKS_PER_SECTOR,
    DIRECTORY_SECTOR,
    LOAD_BLOCKS,
    MARKER_SECTOR,
    PURSE_BLOCK,
    PURSE_SECTOR,
    VALUE_MAX,
    KeyLetter,
    LoadMark,
    Marker,
    MarkerKind,
)
from protocol.cards.memory_purse import PurseState
from protocol.cards.memory_sam import MemorySam
from protocol.cards.port import Choose, DebitTerms

_IN_MARKER_SECTOR, _IN_PURSE_SECTOR = LOAD_BLOCKS
assert (_IN_MARKER_SECTOR // BLOCKS_PER_SECTOR, _IN_PURSE_SECTOR // BLOCKS_PER_SECTOR) == (MARKER_SECTOR, PURSE_SECTOR)
NO_SERIAL: Final = 0


def load_serial(blocks: tuple[bytes, bytes], counter: int) -> tuple[int, int]:
    """(highest load serial that a card has executed, 0: none; block for the next mark), by the purse's counter."""
    marks = [LoadMark.decode(each) for each in blocks]
    serials = [mark.serial if mark is not None and mark.counter <= counter else NO_SERIAL for mark in marks]
    newest = serials.index(max(serials))
    return serials[newest], LOAD_BLOCKS[1 - newest]


class MemoryLoadDialogue(MemoryDialogue):
    """One memory card at a load station; the order of its intent is a load."""

    __slots__ = ("_choose", "_load_sam", "_mark_block")

    def __init__(self, sam: MemorySam, load_sam: MemorySam, terms: DebitTerms, choose: Choose) -> None:
        """`sam` opens the directory, `load_sam` (key B) the purse; the amount of `terms` is the choice's."""
        super().__init__(sam, terms)
        self._load_sam = load_sam
        self._choose = choose
        self._mark_block = 0

    def authenticate(self, challenge: bytes) -> Step:
        self._turns.take(Input.AUTHENTICATE)
        assert self._card is not None
        if not self._load_sam.holds(self._card.key_version):
            return self._refuse_key_version()
        return super().authenticate(challenge)

    def intent_written(self, order: CardOrder, *, clock_ms: int) -> Step:  # the card keeps no time
        self._turns.take(Input.INTENT_WRITTEN)
        self._terms.check(order)
        self._order = order
        return self._begin(Input.INTENT_WRITTEN, State.MARKING, self._mark())

    # -- what differs from a debit

    def _key_of(self, sector: int) -> tuple[MemorySam, KeyLetter]:
        return (self._sam, KeyLetter.A) if sector == DIRECTORY_SECTOR else (self._load_sam, KeyLetter.B)

    def _decided(self, found: PurseState) -> Commands:
        card = self._card
        assert card is not None
        second = yield from self._block(_IN_PURSE_SECTOR)
        yield from self._open(MARKER_SECTOR, card.key_version)
        first = yield from self._block(_IN_MARKER_SECTOR)
        serial, self._mark_block = load_serial((first, second), found.counter)
        choice = self._choose(serial)
        if choice is None or choice.recalls is not None:
            raise NotDone(Reason.ABANDONED)  # a memory card keeps no proof to recall
        if found.balance_cents + choice.amount_cents > VALUE_MAX:
            raise NotDone(Reason.CARD_REFUSED)
        terms = self._terms
        self._terms = DebitTerms(choice.amount_cents, terms.currency, terms.terminal, terms.epoch)
        return Authenticated(found.balance_cents, found.counter)

    def _mark(self) -> Commands:
        assert self._card is not None
        assert self._order is not None
        marker, version = self._marker(), self._card.key_version
        mark = LoadMark(self._order.reference, marker.counter)
        yield from self._open(MARKER_SECTOR, version)
        if self._mark_block == _IN_MARKER_SECTOR:
            yield apdu.write_command(self._mark_block, mark.encode())
        yield apdu.write_command(marker.block, marker.encode())
        yield from self._open(PURSE_SECTOR, version)
        if self._mark_block == _IN_PURSE_SECTOR:
            yield apdu.write_command(self._mark_block, mark.encode())
        yield apdu.value_command(ValueOperation.INCREMENT, BACKUP_BLOCK, marker.amount_cents)
        yield apdu.transfer_command(BACKUP_BLOCK)
        return None

    def _follow(self) -> Commands:
        yield apdu.value_command(ValueOperation.INCREMENT, PURSE_BLOCK, self._marker().amount_cents)
        yield apdu.transfer_command(PURSE_BLOCK)
        return None

    def _marker(self) -> Marker:
        assert self._order is not None
        assert self._purse is not None
        return self._purse.next_marker(MarkerKind.LOAD, self._order.amount_cents)
