"""Keys of terminals and cards, taken from the masters (docs/protocol.md §2, R36). Pure.

No process holds two branches: the front-end calls only `link_key`, the ledger only `seal_key` and `card_key`
with the TAC master, a SAM only `card_key` with the application masters.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol.codes import ProofSuite, Suite
from protocol.errors import OutOfRange
from protocol.mac import MacKey, derive

CARD_UID_BYTES: Final = 7
CARD_APPLICATION_ID: Final = bytes.fromhex("F04301")
CARD_SYSTEM_ID: Final = b"ONECARD"


def link_key(link_master: bytes, *, terminal: int, epoch: int, key_version: int, suite: int = Suite.A) -> bytes:
    """The link key of one terminal and epoch, derived with the cipher of the link suite it is enrolled with."""
    return derive(link_master, "link.terminal", struct.pack("!IHB", terminal, epoch, key_version), suite=suite)


def seal_key(seal_master: bytes, *, terminal: int, epoch: int, proof_suite: int = ProofSuite.AES_CMAC) -> bytes:
    """The key with which one terminal seals its records of one epoch, derived with the cipher that seals (R3)."""
    return derive(seal_master, "seal.terminal", struct.pack("!IH", terminal, epoch), suite=proof_suite)


def card_key(card_master: bytes, uid: bytes) -> bytes:
    """One card one key (一卡一密): diversified as NXP AN10922 does for AES-128, whatever suite its terminals have."""
    if len(uid) != CARD_UID_BYTES:
        raise OutOfRange(f"a card UID has {CARD_UID_BYTES} bytes, not {len(uid)}")
    return MacKey(card_master).mac(b"\x01", uid, CARD_APPLICATION_ID, CARD_SYSTEM_ID)
