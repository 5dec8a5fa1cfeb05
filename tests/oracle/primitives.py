"""Cryptographic primitives, all from pycryptodome, except SM4 (see `sm4`), plus the two check sums of section 3.

Suite `01` uses AES-128, suite `02` SM4; CMAC and counter mode exist for both, so they take the suite as an argument.
"""

import zlib
from typing import Final

from Crypto.Cipher import AES
from Crypto.Hash import CMAC, SHA256
from Crypto.Protocol.KDF import scrypt
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

from tests.oracle import sm4
from tests.oracle.fields import OracleError

SUITE_A: Final = 1
SUITE_B: Final = 2


def cmac(key: bytes, message: bytes, suite: int = SUITE_A) -> bytes:
    """The full 16 bytes."""
    if suite == SUITE_B:
        return sm4.cmac(key, message)
    return bytes(CMAC.new(key, msg=message, ciphermod=AES).digest())


def cmac8(key: bytes, message: bytes, suite: int = SUITE_A) -> bytes:
    """The leftmost 8 bytes: seals, card proofs and card MACs."""
    return cmac(key, message, suite)[:8]


def ccm_seal(key: bytes, nonce: bytes, header: bytes, body: bytes, tag_bytes: int) -> tuple[bytes, bytes]:
    cipher = AES.new(key, AES.MODE_CCM, nonce=nonce, mac_len=tag_bytes)
    cipher.update(header)
    sealed, tag = cipher.encrypt_and_digest(body)
    return bytes(sealed), bytes(tag)


def ccm_open(key: bytes, nonce: bytes, header: bytes, body: bytes, tag: bytes) -> bytes:
    cipher = AES.new(key, AES.MODE_CCM, nonce=nonce, mac_len=len(tag))
    cipher.update(header)
    try:
        return bytes(cipher.decrypt_and_verify(body, tag))
    except ValueError as error:
        raise OracleError("tag wrong") from error


def aes_gcm_seal(key: bytes, nonce: bytes, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=16)
    cipher.update(header)
    sealed, tag = cipher.encrypt_and_digest(body)
    return bytes(sealed), bytes(tag)


def aes_gcm_open(key: bytes, nonce: bytes, header: bytes, body: bytes, tag: bytes) -> bytes:
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=16)
    cipher.update(header)
    try:
        return bytes(cipher.decrypt_and_verify(body, tag))
    except ValueError as error:
        raise OracleError("tag wrong") from error


def sha256(message: bytes) -> bytes:
    return bytes(SHA256.new(message).digest())


def ed25519_public(seed: bytes) -> bytes:
    """The 32 raw bytes."""
    return bytes(ECC.construct(curve="Ed25519", seed=seed).public_key().export_key(format="raw"))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    return bytes(eddsa.new(ECC.construct(curve="Ed25519", seed=seed), "rfc8032").sign(message))


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        eddsa.new(eddsa.import_public_key(public), "rfc8032").verify(message, signature)
    except ValueError:
        return False
    return True


def scrypt_key(secret: bytes, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    key = scrypt(secret, salt, 32, N=1 << log2_n, r=r, p=p)
    assert isinstance(key, bytes)
    return key


def crc16(data: bytes) -> int:
    """Header check: polynomial 1021, initial value FFFF, no reflection, no final xor."""
    value = 0xFFFF
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
            value &= 0xFFFF
    return value


def crc32(data: bytes) -> int:
    """CRC-32 of a frame on a line: zlib's."""
    return zlib.crc32(data)
