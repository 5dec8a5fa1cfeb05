"""Section 13: keystore files.

"OCKS", format, kdf, log2 N, r, p, reserved(3), salt(16), nonce(12): 40 bytes of associated data; ciphertext, tag(16)
"""

import json
from typing import Any, Final

from construct import Const, Struct

from tests.oracle.fields import Fields, OracleError, build, hexed, parse, reserved, u8
from tests.oracle.primitives import aes_gcm_open, aes_gcm_seal, scrypt_key

HEADER: Final = Struct(
    "magic" / Const(b"OCKS"),
    "format" / u8,
    "kdf" / u8,
    "log2_n" / u8,
    "r" / u8,
    "p" / u8,
    reserved(3),
    "salt" / hexed(16),
    "nonce" / hexed(12),
)
HEADER_BYTES: Final = 40
TAG_BYTES: Final = 16
assert HEADER.sizeof() == HEADER_BYTES


def parse_header(header: bytes) -> Fields:
    """Refuses what would cost memory before any is spent."""
    fields = parse(HEADER, header)
    fields.pop("magic")
    if (fields["format"], fields["kdf"], fields["r"], fields["p"]) != (1, 1, 8, 1):
        raise OracleError("malformed", "format, kdf, r or p")
    if not 10 <= fields["log2_n"] <= 18:
        raise OracleError("malformed", "log2 N")
    return fields


def seal_keystore(plaintext: bytes, unlock_secret: bytes, salt: bytes, nonce: bytes, log2_n: int) -> bytes:
    given = {"format": 1, "kdf": 1, "log2_n": log2_n, "r": 8, "p": 1, "salt": salt.hex(), "nonce": nonce.hex()}
    header = build(HEADER, given)
    key = scrypt_key(unlock_secret, salt, log2_n, 8, 1)
    ciphertext, tag = aes_gcm_seal(key, nonce, header, plaintext)
    return header + ciphertext + tag


def open_keystore(data: bytes, unlock_secret: bytes) -> dict[str, Any]:
    if len(data) < HEADER_BYTES + TAG_BYTES:
        raise OracleError("malformed", "size")
    header = data[:HEADER_BYTES]
    fields = parse_header(header)
    key = scrypt_key(unlock_secret, bytes.fromhex(fields["salt"]), fields["log2_n"], fields["r"], fields["p"])
    nonce = bytes.fromhex(fields["nonce"])
    plaintext = aes_gcm_open(key, nonce, header, data[HEADER_BYTES:-TAG_BYTES], data[-TAG_BYTES:])
    content: dict[str, Any] = json.loads(plaintext)
    return content
