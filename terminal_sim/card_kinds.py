"""Cards of every kind as the simulator holds them: one chip's bytes, and what an onlooker may read of it.

A memory card keeps no word of who took its money (R4). So that a simulator that is killed still knows, what it last
paid is kept beside its bytes, in the same write; no command reads it.

    encoded: kind u8 · length u16 · image; a memory card's image is followed by paid u8, identity(10), amount u32
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
from protocol.cards.pboc_image import PBOC_IMAGE_BYTES, PbocCardImage
from protocol.codes import CardKind, RecordType
from protocol.errors import DamagedData

_HEAD: Final = struct.Struct("!BH")
_TERMINAL6: Final = struct.Struct("!IH")
_PAID: Final = struct.Struct("!?IHII")
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


def last_debit(card: Card) -> Debit | None:
    """What the card last paid, whether or not a terminal knows."""
    if isinstance(card, MemoryCard):
        return card.paid
    if isinstance(card, AesCardImage):
        proof = card.last_proof
        return None if proof is None else Debit(proof.identity, proof.amount_cents, proof.type)
    kept = card.last_purchase
    if kept is None:
        return None
    terminal, epoch = _TERMINAL6.unpack(kept.entry.terminal)
    return Debit(Identity(terminal, epoch, kept.entry.sequence), kept.entry.amount_cents)


def is_torn(card: Card) -> bool:
    """Whether the next tap has something to bring home or to repair."""
    return card.purse.repair is not Repair.NONE if isinstance(card, MemoryCard) else card.proof_pending


def encode_card(card: Card) -> bytes:
    """ENCODED_BYTES of its kind."""
    if isinstance(card, MemoryCard):
        paid = card.paid
        who = (0, 0, 0) if paid is None else (paid.identity.terminal, paid.identity.epoch, paid.identity.sequence)
        data = card.image.encode() + _PAID.pack(paid is not None, *who, 0 if paid is None else paid.amount_cents)
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
    is_paid, terminal, epoch, sequence, amount = _PAID.unpack(image[MEMORY_IMAGE_BYTES:])
    paid = Debit(Identity(terminal, epoch, sequence), amount) if is_paid else None
    return MemoryCard(MemoryCardImage.decode(image[:MEMORY_IMAGE_BYTES]), paid)
