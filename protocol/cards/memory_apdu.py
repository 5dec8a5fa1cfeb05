"""Commands to a memory card as a reader module takes them (docs/cards.md): APDU-like, class FF. Pure.

    GET UID     FF CA 00 00 00              uid(7), 08
    AUTH        FF 88 sector letter 08 rndT(8)      rndC(8), CMAC8(key, 01 ‖ sector ‖ letter ‖ uid ‖ rndT ‖ rndC)
    PROVE       FF 89 00 00 08 CMAC8(key, 02 ‖ sector ‖ letter ‖ uid ‖ rndC ‖ rndT)
    READ        FF B0 00 block 10           16 bytes
    WRITE       FF D6 00 block 10 data
    VALUE       FF D7 op block 04 amount    op 01 increment, 02 decrement, 03 restore: into the card's register
    TRANSFER    FF D8 00 block 00           the register into a block: the only one of the four that writes

The three passes stand for the chip's own cipher, which is broken; the MAC key is the 6-byte sector key and ten zeros.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from protocol.cards.memory_layout import BLOCK_BYTES, KeyLetter
from protocol.errors import Malformed, OutOfRange
from protocol.keys import CARD_UID_BYTES
from protocol.mac import KEY_BYTES, MacKey

CLA_READER: Final = 0xFF
INS_AUTH: Final = 0x88
INS_PROVE: Final = 0x89
INS_READ: Final = 0xB0
INS_GET_UID: Final = 0xCA
INS_WRITE: Final = 0xD6
INS_VALUE: Final = 0xD7
INS_TRANSFER: Final = 0xD8
CHALLENGE_BYTES: Final = 8
PROOF_BYTES: Final = 8
GET_UID_COMMAND: Final = bytes((CLA_READER, INS_GET_UID, 0x00, 0x00, 0x00))
SAK: Final = 0x08


class ValueOperation(IntEnum):
    INCREMENT = 0x01
    DECREMENT = 0x02
    RESTORE = 0x03


def auth_command(sector: int, letter: KeyLetter, challenge: bytes) -> bytes:
    if len(challenge) != CHALLENGE_BYTES:
        raise OutOfRange(f"a challenge of {len(challenge)} bytes")
    return bytes((CLA_READER, INS_AUTH, sector, letter, CHALLENGE_BYTES)) + challenge


def prove_command(proof: bytes) -> bytes:
    return bytes((CLA_READER, INS_PROVE, 0x00, 0x00, PROOF_BYTES)) + proof


def read_command(block: int) -> bytes:
    return bytes((CLA_READER, INS_READ, 0x00, block, BLOCK_BYTES))


def write_command(block: int, data: bytes) -> bytes:
    return bytes((CLA_READER, INS_WRITE, 0x00, block, BLOCK_BYTES)) + data


def value_command(operation: ValueOperation, block: int, amount: int = 0) -> bytes:
    return bytes((CLA_READER, INS_VALUE, operation, block, 4)) + amount.to_bytes(4, "big")


def transfer_command(block: int) -> bytes:
    return bytes((CLA_READER, INS_TRANSFER, 0x00, block, 0x00))


def card_proof(key: bytes, sector: int, letter: int, uid: bytes, terminal: bytes, card: bytes) -> bytes:
    """The card's proof, with both challenges."""
    return _mac_key(key).mac8(bytes((0x01, sector, letter)), uid, terminal, card)


def terminal_proof(key: bytes, sector: int, letter: int, uid: bytes, terminal: bytes, card: bytes) -> bytes:
    """The terminal's proof, with both challenges."""
    return _mac_key(key).mac8(bytes((0x02, sector, letter)), uid, card, terminal)


def parse_uid(data: bytes) -> bytes:
    """Raises Malformed unless the chip says that it is a memory card."""
    if len(data) != CARD_UID_BYTES + 1 or data[-1] != SAK:
        raise Malformed("UID answer", "no memory card of this kind")
    return data[:-1]


def parse_auth(data: bytes) -> tuple[bytes, bytes]:
    """(challenge of the card, its proof). Raises Malformed for another length."""
    if len(data) != CHALLENGE_BYTES + PROOF_BYTES:
        raise Malformed("AUTH answer", f"{len(data)} bytes")
    return data[:CHALLENGE_BYTES], data[CHALLENGE_BYTES:]


def parse_block(data: bytes) -> bytes:
    """Raises Malformed for another length than a block's."""
    if len(data) != BLOCK_BYTES:
        raise Malformed("READ answer", f"{len(data)} bytes")
    return data


def _mac_key(key: bytes) -> MacKey:
    return MacKey(key.ljust(KEY_BYTES, b"\0"))
