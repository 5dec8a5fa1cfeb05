"""Cards of every kind as the simulator holds them: one chip's bytes, and what an onlooker may read of it.

A memory card keeps no word of who took its money (R4). So that a simulator that is killed still knows, what it last
paid is kept beside its bytes, in the same write; no command reads it.

    encoded: kind u8 · length u16 · image; a memory card's image is followed by type u8, identity(10), amount u32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, Protocol

from protocol.cards.aes import AesCardCore
from protocol.cards.apdu import Identity
from protocol.cards.image import CARD_IMAGE_BYTES, AesCardImage
from protocol.cards.memory import MemoryCardCore
from protocol.cards.memory_image import MEMORY_IMAGE_BYTES, MemoryCardImage
from protocol.cards.memory_layout import BACKUP_BLOCK, FACTS_BLOCK, MARKER_BLOCKS, PURSE_BLOCK, MemoryFacts
from protocol.cards.memory_purse import PurseState, Repair, judge
from protocol.cards.pboc import PbocCardCore
from protocol.cards.pboc_image import PBOC_IMAGE_BYTES, KeptProof, PbocCardImage
from protocol.cards.pboc_macs import TransactionType
from protocol.codes import CardKind, RecordType
from protocol.errors import DamagedData

_HEAD: Final = struct.Struct("!BH")
_TERMINAL6: Final = struct.Struct("!IH")
_PAID: Final = struct.Struct("!BIHII")  # type, 0: nothing was paid; identity, amount
_IMAGE_BYTES: Final = {
    CardKind.AES: CARD_IMAGE_BYTES,
    CardKind.MEMORY: MEMORY_IMAGE_BYTES + _PAID.size,
    CardKind.PBOC: PBOC_IMAGE_BYTES,
}
ENCODED_BYTES: Final = {kind: _HEAD.size + size for kind, size in _IMAGE_BYTES.items()}


@dataclass(frozen=True, slots=True)
class Debit:
    """What a card last paid or was given, and for which record."""

    identity: Identity
    amount_cents: int
    type: int = RecordType.PURCHASE
    """An AES card proves refunds, loads and meals in the same way."""


@dataclass(frozen=True, slots=True, repr=False)
class MemoryCard:
    """A sector memory card, and the simulator's note of its last debit; raises DamagedData where it makes no sense."""

    image: MemoryCardImage
    paid: Debit | None = None

    @property
    def facts(self) -> MemoryFacts:
        return MemoryFacts.decode(self.image.block(FACTS_BLOCK))

    @property
    def uid(self) -> bytes:
        return self.image.uid

    @property
    def number(self) -> int:
        return self.facts.number

    @property
    def key_version(self) -> int:
        return self.facts.key_version

    @property
    def purse(self) -> PurseState:
        """As any next tap finds it, repair included."""
        block = self.image.block
        return judge(block(PURSE_BLOCK), block(BACKUP_BLOCK), (block(MARKER_BLOCKS[0]), block(MARKER_BLOCKS[1])))

    @property
    def balance_cents(self) -> int:
        return self.purse.balance_cents

    def __repr__(self) -> str:
        return f"MemoryCard({self.facts})"


Card = AesCardImage | MemoryCard | PbocCardImage


class Core(Protocol):
    """A card that answers, around its bytes."""

    def reset(self) -> None:
        """The field is gone."""

    def command(self, command: bytes, random: bytes) -> tuple[bytes, Card | None]:
        """As the cores of `protocol.cards`: the answer, and what the card holds now if that has changed."""


class _MemoryCore:
    """A memory card's core that speaks of cards instead of chips."""

    __slots__ = ("_card", "_core")

    def __init__(self, card: MemoryCard) -> None:
        self._card = card
        self._core = MemoryCardCore(card.image)

    def reset(self) -> None:
        self._core.reset()

    def command(self, command: bytes, random: bytes) -> tuple[bytes, Card | None]:
        answer, image = self._core.command(command, random)
        if image is None:
            return answer, None
        self._card = replace(self._card, image=image)
        return answer, self._card


def core_of(card: Card) -> Core:
    """The card, powered by a field."""
    if isinstance(card, MemoryCard):
        return _MemoryCore(card)
    return AesCardCore(card) if isinstance(card, AesCardImage) else PbocCardCore(card)


def kind_of(card: Card) -> CardKind:
    if isinstance(card, MemoryCard):
        return CardKind.MEMORY
    return CardKind.AES if isinstance(card, AesCardImage) else CardKind.PBOC


def counter_of(card: Card) -> int:
    """Debits that happened; what a record states of the card."""
    if isinstance(card, MemoryCard):
        return card.purse.counter
    return card.counter if isinstance(card, AesCardImage) else card.offline_counter


def transactions_of(card: Card) -> int:
    """Debits and loads that happened: rises by one with each."""
    return counter_of(card) + (card.online_counter if isinstance(card, PbocCardImage) else 0)


def last_made(before: Card, after: Card) -> Debit | None:
    """The transaction between two looks at a card, if it is one."""
    if isinstance(after, PbocCardImage) and isinstance(before, PbocCardImage):
        if after.online_counter != before.online_counter:
            return _of_purse(after.last_load)
        return _of_purse(after.last_purchase) if after.offline_counter != before.offline_counter else None
    paid = last_debit(after)
    return None if paid == last_debit(before) else paid


def remembered(card: Card) -> list[Debit]:
    """Whatever a card still knows of what it has made: of a PBOC purse the last of each kind."""
    kept = [last_debit(card), _of_purse(card.last_load) if isinstance(card, PbocCardImage) else None]
    return [each for each in kept if each is not None]


def _of_purse(kept: KeptProof | None) -> Debit | None:
    if kept is None:
        return None
    entry = kept.entry
    terminal, epoch = _TERMINAL6.unpack(entry.terminal)
    type_ = RecordType.LOAD if entry.type == TransactionType.LOAD else RecordType.PURCHASE
    return Debit(Identity(terminal, epoch, entry.sequence), entry.amount_cents, type_)


def last_debit(card: Card) -> Debit | None:
    """What the card last paid (AES and memory card: or was given), whether or not a terminal knows."""
    if isinstance(card, MemoryCard):
        return card.paid
    if isinstance(card, AesCardImage):
        proof = card.last_proof
        return None if proof is None else Debit(proof.identity, proof.amount_cents, proof.type)
    return _of_purse(card.last_purchase)


def is_torn(card: Card) -> bool:
    """Whether the next tap has something to bring home or to repair."""
    return card.purse.repair is not Repair.NONE if isinstance(card, MemoryCard) else card.proof_pending


def encode_card(card: Card) -> bytes:
    """ENCODED_BYTES of its kind."""
    if isinstance(card, MemoryCard):
        paid = card.paid
        who = (0, 0, 0) if paid is None else (paid.identity.terminal, paid.identity.epoch, paid.identity.sequence)
        type_, amount = (0, 0) if paid is None else (paid.type, paid.amount_cents)
        data = card.image.encode() + _PAID.pack(type_, *who, amount)
    else:
        data = card.encode()
    return _HEAD.pack(kind_of(card), len(data)) + data


def decode_card(data: bytes) -> Card:
    """Zeros may follow. Raises DamagedData for an unknown kind, another length or a damaged image."""
    kind, size = _HEAD.unpack_from(data)
    image = data[_HEAD.size : _HEAD.size + size]
    if kind not in _IMAGE_BYTES or not size == len(image) == _IMAGE_BYTES[kind]:
        raise DamagedData("card image: kind or length is wrong")
    if kind == CardKind.AES:
        return AesCardImage.decode(image)
    if kind == CardKind.PBOC:
        return PbocCardImage.decode(image)
    type_, terminal, epoch, sequence, amount = _PAID.unpack(image[MEMORY_IMAGE_BYTES:])
    paid = Debit(Identity(terminal, epoch, sequence), amount, type_) if type_ else None
    return MemoryCard(MemoryCardImage.decode(image[:MEMORY_IMAGE_BYTES]), paid)
