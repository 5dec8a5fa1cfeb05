"""DES and 3DES for cards of the PBOC age (docs/cards.md). Pure; the one module that imports pycryptodome.

Single DES is broken as a cipher and stays only because such cards are in people's pockets: nothing but their own
commands may use it. The library raises no error that shows a key.
"""

from __future__ import annotations

from typing import Final

from Crypto.Cipher import DES, DES3

from protocol.errors import OutOfRange

BLOCK_BYTES: Final = 8
DES_KEY_BYTES: Final = 8
DES3_KEY_BYTES: Final = 16
MAC_BYTES: Final = 4
_ZERO_IV: Final = bytes(BLOCK_BYTES)


def des3_block(key: bytes, block: bytes) -> bytes:
    """3DES (two keys) of one block. Raises OutOfRange for another length or a key with equal halves."""
    _sized(block, BLOCK_BYTES, "block")
    _sized(key, DES3_KEY_BYTES, "key")
    try:
        cipher = DES3.new(key, DES3.MODE_ECB)
    except ValueError:
        raise OutOfRange("a 3DES key whose halves are equal is single DES") from None
    return bytes(cipher.encrypt(block))


def des_mac(key: bytes, data: bytes) -> bytes:
    """DES-CBC MAC under an 8-byte session key: zero IV, padding 80 00…, the first 4 bytes of the last block."""
    _sized(key, DES_KEY_BYTES, "key")
    return _cbc_last(key, _ZERO_IV, _padded(data))[:MAC_BYTES]


def des3_mac(key: bytes, data: bytes, first: bytes) -> bytes:
    """ISO 9797-1 algorithm 3 (X9.19) under a 16-byte key with `first` as IV, first 4 bytes: secure messaging."""
    _sized(first, BLOCK_BYTES, "IV")
    _sized(key, DES3_KEY_BYTES, "key")
    padded = _padded(data)
    chained = first
    if len(padded) > BLOCK_BYTES:
        chained = _cbc_last(key[:DES_KEY_BYTES], first, padded[:-BLOCK_BYTES])
    last = bytes(a ^ b for a, b in zip(chained, padded[-BLOCK_BYTES:], strict=True))
    return des3_block(key, last)[:MAC_BYTES]


def folded(key: bytes) -> bytes:
    """Left half XOR right half: the single-DES key of a TAC."""
    _sized(key, DES3_KEY_BYTES, "key")
    return bytes(a ^ b for a, b in zip(key[:DES_KEY_BYTES], key[DES_KEY_BYTES:], strict=True))


def diversified(master: bytes, diversifier: bytes) -> bytes:
    """A card's key as PSAMs make it: 3DES(master, d) ‖ 3DES(master, not d)."""
    _sized(diversifier, BLOCK_BYTES, "diversifier")
    return des3_block(master, diversifier) + des3_block(master, bytes(each ^ 0xFF for each in diversifier))


def _cbc_last(key: bytes, first: bytes, padded: bytes) -> bytes:
    cipher = DES.new(key, DES.MODE_CBC, iv=first)  # noqa: S304  # the card's own cipher; see the docstring
    return bytes(cipher.encrypt(padded)[-BLOCK_BYTES:])


def _padded(data: bytes) -> bytes:
    data += b"\x80"
    return data + bytes(-len(data) % BLOCK_BYTES)


def _sized(value: bytes, size: int, what: str) -> None:
    if len(value) != size:
        raise OutOfRange(f"a DES {what} has {size} bytes, not {len(value)}")
