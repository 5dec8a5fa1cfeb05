"""SM4 (GB/T 32907-2016) with CMAC and GCM, by hand: pycryptodome has no SM4. Slow, and only for vectors.

The S-box is computed from its algebraic description, so that no typed table can be wrong unnoticed; the standard's
own example is a test.
"""

from typing import Final

_FIELD: Final = 0x1F5  # x^8 + x^7 + x^6 + x^5 + x^4 + x^2 + 1
_FK: Final = (0xA3B1BAC6, 0x56AA3350, 0x677D9197, 0xB27022DC)
_GCM_FIELD: Final = 0xE1 << 120


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= _FIELD
        b >>= 1
    return product


def _affine(value: int) -> int:
    """The circulant matrix of A7 over GF(2), then 0xD3."""
    result = 0
    for shift in range(8):
        row = ((0xA7 << shift) | (0xA7 >> (8 - shift))) & 0xFF
        result |= ((row & value).bit_count() & 1) << shift
    return result ^ 0xD3


def _make_sbox() -> tuple[int, ...]:
    inverse = [0] * 256
    for a in range(1, 256):
        inverse[a] = next(b for b in range(1, 256) if _multiply(a, b) == 1)
    return tuple(_affine(inverse[_affine(x)]) for x in range(256))


_SBOX: Final = _make_sbox()
_CK: Final = tuple(int.from_bytes(bytes((4 * i + j) * 7 & 0xFF for j in range(4)), "big") for i in range(32))


def _rotate(word: int, by: int) -> int:
    return ((word << by) | (word >> (32 - by))) & 0xFFFFFFFF


def _substitute(word: int) -> int:
    return int.from_bytes(bytes(_SBOX[byte] for byte in word.to_bytes(4, "big")), "big")


def _round_keys(key: bytes) -> list[int]:
    k = [int.from_bytes(key[4 * i : 4 * i + 4], "big") ^ _FK[i] for i in range(4)]
    for i in range(32):
        t = _substitute(k[i + 1] ^ k[i + 2] ^ k[i + 3] ^ _CK[i])
        k.append(k[i] ^ t ^ _rotate(t, 13) ^ _rotate(t, 23))
    return k[4:]


def encrypt_block(key: bytes, block: bytes) -> bytes:
    x = [int.from_bytes(block[4 * i : 4 * i + 4], "big") for i in range(4)]
    for round_key in _round_keys(key):
        t = _substitute(x[1] ^ x[2] ^ x[3] ^ round_key)
        x = [*x[1:], x[0] ^ t ^ _rotate(t, 2) ^ _rotate(t, 10) ^ _rotate(t, 18) ^ _rotate(t, 24)]
    return b"".join(word.to_bytes(4, "big") for word in reversed(x))


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _double(block: bytes) -> bytes:
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value = (value & (1 << 128) - 1) ^ 0x87
    return value.to_bytes(16, "big")


def cmac(key: bytes, message: bytes) -> bytes:
    """SP 800-38B over SM4."""
    k1 = _double(encrypt_block(key, bytes(16)))
    blocks = [message[i : i + 16] for i in range(0, len(message), 16)] or [b""]
    last = blocks.pop()
    last = _xor(last, k1) if len(last) == 16 else _xor((last + b"\x80").ljust(16, b"\0"), _double(k1))
    state = bytes(16)
    for block in [*blocks, last]:
        state = encrypt_block(key, _xor(state, block))
    return state


def _gcm_multiply(x: int, y: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = (y >> 1) ^ _GCM_FIELD if y & 1 else y >> 1
    return product


def _ghash(h: bytes, header: bytes, body: bytes) -> bytes:
    padded = header + bytes(-len(header) % 16) + body + bytes(-len(body) % 16)
    padded += (8 * len(header)).to_bytes(8, "big") + (8 * len(body)).to_bytes(8, "big")
    state = 0
    for i in range(0, len(padded), 16):
        state = _gcm_multiply(state ^ int.from_bytes(padded[i : i + 16], "big"), int.from_bytes(h, "big"))
    return state.to_bytes(16, "big")


def _keystream(key: bytes, nonce: bytes, size: int) -> bytes:
    blocks = range(2, 2 + (size + 15) // 16)
    return b"".join(encrypt_block(key, nonce + i.to_bytes(4, "big")) for i in blocks)[:size]


def gcm_seal(key: bytes, nonce: bytes, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """SP 800-38D over SM4 with a nonce of 12 bytes and a tag of 16."""
    sealed = _xor(body, _keystream(key, nonce, len(body)))
    h = encrypt_block(key, bytes(16))
    tag = _xor(_ghash(h, header, sealed), encrypt_block(key, nonce + (1).to_bytes(4, "big")))
    return sealed, tag


def gcm_open(key: bytes, nonce: bytes, header: bytes, body: bytes, tag: bytes) -> bytes | None:
    """The plaintext, or None when the tag is wrong."""
    opened = _xor(body, _keystream(key, nonce, len(body)))
    return opened if gcm_seal(key, nonce, header, opened)[1] == tag else None
