"""The SAM for memory cards: sector keys by application, never exported (R36, R37; docs/cards.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from typing import Final, Protocol

from protocol.cards.memory_apdu import card_proof, terminal_proof
from protocol.cards.memory_layout import (
    DIRECTORY_KEY,
    OWNER_OF_SECTOR,
    SECTORS,
    Application,
    KeyLetter,
    sector_key,
)
from protocol.errors import OutOfRange, ProofError
from protocol.mac import KEY_BYTES

VERSION_MAX: Final = 255


class MemorySam(Protocol):
    """What a terminal asks of its SAM to open a sector under key A.

    Raises ProofError for a sector of an application, or for a key version, whose masters it does not hold.
    """

    def holds(self, key_version: int) -> bool:
        """Whether cards of this key version can be served."""

    def card_is_genuine(
        self, key_version: int, uid: bytes, sector: int, *, terminal: bytes, card: bytes, proof: bytes
    ) -> bool:
        """Whether the card has proved its key of this sector; `terminal` and `card` are the challenges."""

    def terminal_proof(self, key_version: int, uid: bytes, sector: int, *, terminal: bytes, card: bytes) -> bytes:
        """The terminal's proof for this sector."""


class SoftwareMemorySam:
    """A SAM in memory: masters by key version and application, for one key letter."""

    __slots__ = ("_letter", "_masters")

    def __init__(self, masters: Mapping[int, Mapping[Application, bytes]], *, letter: KeyLetter = KeyLetter.A) -> None:
        for version, keys in masters.items():
            if not 1 <= version <= VERSION_MAX:
                raise OutOfRange(f"master key version {version}")
            if any(len(key) != KEY_BYTES for key in keys.values()):
                raise OutOfRange(f"a master key has {KEY_BYTES} bytes")
        self._masters = {version: dict(keys) for version, keys in masters.items()}
        self._letter = letter

    def holds(self, key_version: int) -> bool:
        return key_version in self._masters

    def card_is_genuine(
        self, key_version: int, uid: bytes, sector: int, *, terminal: bytes, card: bytes, proof: bytes
    ) -> bool:
        key = self._key(key_version, uid, sector)
        return compare_digest(card_proof(key, sector, self._letter, uid, terminal, card), proof)

    def terminal_proof(self, key_version: int, uid: bytes, sector: int, *, terminal: bytes, card: bytes) -> bytes:
        return terminal_proof(self._key(key_version, uid, sector), sector, self._letter, uid, terminal, card)

    def _key(self, key_version: int, uid: bytes, sector: int) -> bytes:
        if not 0 <= sector < SECTORS:
            raise OutOfRange(f"sector {sector}")
        owner = OWNER_OF_SECTOR[sector]
        if owner is Application.DIRECTORY and self._letter is KeyLetter.A:
            return DIRECTORY_KEY
        master = self._masters.get(key_version, {}).get(owner)
        if master is None:
            raise ProofError(f"sector {sector} belongs to {owner.name}, version {key_version}: not in this SAM")
        return sector_key(master, uid=uid, application=owner, sector=sector, letter=self._letter)

    def __repr__(self) -> str:
        return f"SoftwareMemorySam(versions={sorted(self._masters)}, letter={self._letter.name})"
