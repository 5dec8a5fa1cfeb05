"""Keys of terminals and cards, taken from the masters (docs/protocol.md §2, R36). Pure.

No process holds two branches: the front-end calls only `link_key`, the ledger only `seal_key` and `card_key`
with the TAC master, a SAM only `card_key` with the application masters.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol.errors import OutOfRange
from protocol.mac import MacKey, derive

CARD_UID_BYTES: Final = 7
CARD_APPLICATION_ID: Final = bytes.fromhex("F04301")
CARD_SYSTEM_ID: Final = b"ONECARD"


def link_key(link_master: bytes, *, terminal: int, epoch: int, key_version: int) -> bytes:
    """The link key of one terminal and epoch."""
    return derive(link_master, "link.terminal", struct.pack("!IHB", terminal, epoch, key_version))


def seal_key(seal_master: bytes, *, terminal: int, epoch: int) -> bytes:
    """The key with which one terminal seals its records of one epoch (R3)."""
    return derive(seal_master, "seal.terminal", struct.pack("!IH", terminal, epoch))


def card_key(card_master: bytes, uid: bytes) -> bytes:
    """One card one key (一卡一密): diversified as NXP AN10922 does for AES-128."""
    if len(uid) != CARD_UID_BYTES:
        raise OutOfRange(f"a card UID has {CARD_UID_BYTES} bytes, not {len(uid)}")
    return MacKey(card_master).mac(b"\x01", uid, CARD_APPLICATION_ID, CARD_SYSTEM_ID)
