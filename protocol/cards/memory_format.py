"""Formatting a blank memory card before issue (docs/cards.md, R36): transport keys out, site keys in. Pure.

Offline, where the issuer's masters are. Data blocks of a sector first, then its trailer; sector 0 last of all, so
that a card whose formatting was cut has no directory and no terminal takes it. It can be formatted again: a sector
that already has its site keys is opened with key B. A card with a directory is refused, for it may hold money. Only a
torn trailer makes scrap of a card, and such a card was never issued.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest
from typing import Final

from protocol.cards import memory_apdu as apdu
from protocol.cards.apdu import StatusWord, split_answer
from protocol.cards.memory_image import MemoryCardImage, blank_image
from protocol.cards.memory_layout import (
    BACKUP_BLOCK,
    BLOCK_BYTES,
    BLOCKS_PER_SECTOR,
    CHIP_BLOCK,
    DIRECTORY_BLOCK,
    DIRECTORY_KEY,
    DIRECTORY_SECTOR,
    FACTS_BLOCK,
    MARKER_BLOCKS,
    OWNER_OF_SECTOR,
    PURSE_BLOCK,
    SECTORS,
    SITE_CONDITIONS,
    TRANSPORT_KEY,
    Application,
    KeyLetter,
    Marker,
    MarkerKind,
    MemoryFacts,
    encode_directory,
    encode_trailer,
    encode_value,
    sector_key,
)
from protocol.errors import Malformed, RemoteError, StateMisuse

_ORDER: Final = (*(sector for sector in range(SECTORS) if sector != DIRECTORY_SECTOR), DIRECTORY_SECTOR)


@dataclass(slots=True, frozen=True)
class SectorMasters:
    """Both masters of one application; never shown. Terminals get A alone."""

    a: bytes
    b: bytes

    def __repr__(self) -> str:
        return "SectorMasters(…)"


IssuerMasters = Mapping[Application, SectorMasters]


class Formatting(Enum):
    WORKING = "commands are going out"
    FORMATTED = "the card can be issued"
    REFUSED = "not blank: issued before, foreign, or scrap"
    CUT = "the card has left; format it again"


def site_blocks(
    uid: bytes, facts: MemoryFacts, masters: IssuerMasters, *, balance_cents: int = 0, counter: int = 0
) -> dict[int, bytes]:
    """Every block of a formatted card but the chip's own, trailers included."""
    blocks = {index: bytes(BLOCK_BYTES) for index in range(SECTORS * BLOCKS_PER_SECTOR) if index != CHIP_BLOCK}
    blocks[DIRECTORY_BLOCK], blocks[FACTS_BLOCK] = encode_directory(), facts.encode()
    blocks[PURSE_BLOCK] = blocks[BACKUP_BLOCK] = encode_value(balance_cents, PURSE_BLOCK)
    marker = Marker(MarkerKind.FORMAT, counter, balance_cents, 0)
    blocks[marker.block] = marker.encode()
    assert marker.block in MARKER_BLOCKS
    for sector in range(SECTORS):
        key_a, key_b = site_keys(uid, sector, masters)
        trailer = encode_trailer(key_a, SITE_CONDITIONS[sector], key_b)
        blocks[(sector + 1) * BLOCKS_PER_SECTOR - 1] = trailer
    return blocks


def site_keys(uid: bytes, sector: int, masters: IssuerMasters) -> tuple[bytes, bytes]:
    """Keys A and B of one sector of one card; the directory's key A is public."""
    owner = OWNER_OF_SECTOR[sector]
    pair = masters[owner]
    key_a = sector_key(pair.a, uid=uid, application=owner, sector=sector, letter=KeyLetter.A)
    key_b = sector_key(pair.b, uid=uid, application=owner, sector=sector, letter=KeyLetter.B)
    return DIRECTORY_KEY if owner is Application.DIRECTORY else key_a, key_b


def formatted_image(
    uid: bytes, facts: MemoryFacts, masters: IssuerMasters, *, balance_cents: int = 0, counter: int = 0
) -> MemoryCardImage:
    """What `FormatDialogue` makes of a blank card, at once; for a simulated population."""
    blocks = site_blocks(uid, facts, masters, balance_cents=balance_cents, counter=counter)
    chip = blank_image(uid).block(CHIP_BLOCK)
    return MemoryCardImage(chip + b"".join(blocks[index] for index in sorted(blocks)))


class FormatDialogue:
    """Formats one card: send `command`, say `answered`, until `state` is no longer WORKING."""

    __slots__ = ("_balance", "_challenge", "_commands", "_counter", "_facts", "_masters", "_uid", "command", "state")

    def __init__(
        self,
        facts: MemoryFacts,
        masters: IssuerMasters,
        challenge: bytes,
        *,
        balance_cents: int = 0,
        counter: int = 0,
    ) -> None:
        """`challenge` is 7 random bytes or more."""
        self._facts = facts
        self._masters = masters
        self._challenge = challenge[: apdu.CHALLENGE_BYTES - 1]
        self._balance, self._counter = balance_cents, counter
        self._uid = b""
        self.state = Formatting.WORKING
        self._commands = self._run()
        self.command = next(self._commands)

    def answered(self, answer: bytes | None) -> None:
        """The card's answer to `command`; None when it is gone. Raises StateMisuse after the end."""
        if self.state is not Formatting.WORKING:
            raise StateMisuse(f"answered: {self.state.value}")
        if answer is None:
            self.state = Formatting.CUT
            return
        try:
            self.command = self._commands.send(answer)
        except StopIteration:
            self.state = Formatting.FORMATTED
        except RemoteError:
            self.state = Formatting.REFUSED

    def _run(self) -> Generator[bytes, bytes, None]:
        self._uid = apdu.parse_uid(_done((yield apdu.GET_UID_COMMAND)))
        blocks = site_blocks(self._uid, self._facts, self._masters, balance_cents=self._balance, counter=self._counter)
        # A card with a directory has been issued and may hold money; without one it is blank or was cut half-way.
        if not (yield from self._open(DIRECTORY_SECTOR, KeyLetter.A, TRANSPORT_KEY)):
            raise Malformed("memory card", "not blank")
        for sector in _ORDER:
            site_key = site_keys(self._uid, sector, self._masters)[1]
            is_blank = yield from self._open(sector, KeyLetter.A, TRANSPORT_KEY)
            if not is_blank and not (yield from self._open(sector, KeyLetter.B, site_key)):
                raise Malformed("memory card", "a sector is neither blank nor ours")
            first = sector * BLOCKS_PER_SECTOR
            for index in range(first, first + BLOCKS_PER_SECTOR):
                if index in blocks:
                    _done((yield apdu.write_command(index, blocks[index])))

    def _open(self, sector: int, letter: KeyLetter, key: bytes) -> Generator[bytes, bytes, bool]:
        challenge = self._challenge + bytes((sector,))
        card, proof = apdu.parse_auth(_done((yield apdu.auth_command(sector, letter, challenge))))
        if not compare_digest(apdu.card_proof(key, sector, letter, self._uid, challenge, card), proof):
            return False
        _done((yield apdu.prove_command(apdu.terminal_proof(key, sector, letter, self._uid, challenge, card))))
        return True


def _done(answer: bytes) -> bytes:
    data, status = split_answer(answer)
    if status != StatusWord.DONE:
        raise Malformed("memory card", f"answered {status:04X}")
    return data
