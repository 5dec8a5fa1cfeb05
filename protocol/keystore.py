"""Keystore files (docs/protocol.md §13, R37): keys at rest, encrypted under an unlock secret. Pure.

    offset size field
    0      4    magic "OCKS"
    4      1    format 1
    5      1    kdf 1 = scrypt
    6      3    log2 N (10-18), r (8), p (1)
    9      3    reserved
    12     16   salt
    28     12   nonce
    40     …    AES-256-GCM ciphertext of JSON, bytes 0–39 associated, tag(16) last

Which keys stand in which file: docs/keys.md. Salt and nonce are arguments and must be new for every sealing: the key
depends on the salt, so a fresh salt also keeps a nonce from ever serving twice under one key.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from protocol.errors import DamagedData, Malformed, OutOfRange, ProofError, TooLong
from protocol.limits import KEYSTORE_BYTES_MAX

MAGIC: Final = b"OCKS"
FORMAT: Final = 1
KDF_SCRYPT: Final = 1
LOG2_N_MIN: Final = 10
LOG2_N_USUAL: Final = 14  # 16 MiB and some 50 ms: an unlock secret is 32 random bytes, not a person's password
LOG2_N_MAX: Final = 18  # 256 MiB; more would let a file exhaust the memory of whoever opens it
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_HEADER: Final = struct.Struct("!4sBBBBB3s16s12s")
HEADER_BYTES: Final = 40
assert _HEADER.size == HEADER_BYTES

_WHAT: Final = "keystore"


@dataclass(slots=True, repr=False)
class Keystore:
    """What one process may know: `keys` by name (docs/keys.md), `facts` any JSON values that are no secrets."""

    kind: str
    site: int
    keys: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def key(self, name: str) -> bytes:
        """One key.

        Raises:
            DamagedData: the keystore has none of that name; says which, and what kind of keystore this is.
        """
        try:
            return self.keys[name]
        except KeyError:
            raise DamagedData(f"keystore {self.kind!r}: holds no key {name!r}") from None

    def versions(self, branch: str) -> dict[int, bytes]:
        """The keys named `branch.1`, `branch.2`, …, by number."""
        found = {}
        for name, key in self.keys.items():
            stem, _, number = name.rpartition(".")
            if stem == branch and number.isascii() and number.isdigit():
                found[int(number)] = key
        return found

    def __repr__(self) -> str:
        return f"Keystore({self.kind!r}, site {self.site}, keys {sorted(self.keys)})"


def seal_keystore(
    contents: Keystore, unlock_secret: bytes, *, salt: bytes, nonce: bytes, log2_n: int = LOG2_N_USUAL
) -> bytes:
    """The file's bytes; `salt` (16) and `nonce` (12) are random and used for nothing else.

    Raises:
        OutOfRange: an empty secret or key, a wrong length, a cost outside 10–18, facts that are no JSON.
    """
    if len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise OutOfRange(f"keystore: needs a salt of {SALT_BYTES} and a nonce of {NONCE_BYTES} bytes")
    if not LOG2_N_MIN <= log2_n <= LOG2_N_MAX:
        raise OutOfRange(f"keystore: log2 N of {log2_n}, {LOG2_N_MIN} to {LOG2_N_MAX} are allowed")
    if not unlock_secret or not all(contents.keys.values()):
        raise OutOfRange("keystore: the unlock secret or a key is empty")
    document = {
        "kind": contents.kind,
        "site": contents.site,
        "keys": {name: key.hex() for name, key in contents.keys.items()},
        "facts": contents.facts,
    }
    try:
        plaintext = json.dumps(document, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError):
        raise OutOfRange("keystore: facts hold something that JSON has no form for") from None
    header = _HEADER.pack(MAGIC, FORMAT, KDF_SCRYPT, log2_n, SCRYPT_R, SCRYPT_P, b"", salt, nonce)
    sealed = header + AESGCM(_file_key(unlock_secret, salt, log2_n)).encrypt(nonce, plaintext, header)
    if len(sealed) > KEYSTORE_BYTES_MAX:
        raise OutOfRange(f"keystore: {len(sealed)} bytes, at most {KEYSTORE_BYTES_MAX}")
    return sealed


def open_keystore(data: bytes | memoryview, unlock_secret: bytes) -> Keystore:
    """Decrypt a file. All that can be checked without the secret is checked first, and before memory is spent.

    Raises:
        TooLong: more than 16 MiB.
        Malformed: no keystore, cut short, or of a format or cost that is not taken.
        ProofError: the secret is wrong or the file was altered; nobody can tell which.
        DamagedData: it opens, so the secret is right, but what it holds is no keystore: made wrong.
    """
    if len(data) > KEYSTORE_BYTES_MAX:
        raise TooLong(_WHAT, got_bytes=len(data), max_bytes=KEYSTORE_BYTES_MAX)
    data = bytes(data)
    log2_n, salt, nonce = _checked_header(data)
    if not unlock_secret:
        raise ProofError("keystore: the unlock secret is empty")
    try:
        plaintext = AESGCM(_file_key(unlock_secret, salt, log2_n)).decrypt(
            nonce, data[HEADER_BYTES:], data[:HEADER_BYTES]
        )
    except InvalidTag:
        raise ProofError("keystore: the unlock secret is wrong, or the file was altered") from None
    return _contents(plaintext)


def unlock_secret_of(file_content: bytes) -> bytes:
    """The unlock secret in a secret file or systemd credential: its bytes without one final line end."""
    secret = file_content.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise Malformed("unlock secret", "the file is empty")
    return secret


def _checked_header(data: bytes) -> tuple[int, bytes, bytes]:
    """(log2 N, salt, nonce)."""
    if data[: len(MAGIC)] != MAGIC:
        raise Malformed(_WHAT, "this is no keystore file", offset=0)
    if len(data) < HEADER_BYTES + TAG_BYTES:
        raise Malformed(_WHAT, f"cut short: {len(data)} bytes")
    _, file_format, kdf, log2_n, r, p, reserved, salt, nonce = _HEADER.unpack_from(data)
    if file_format != FORMAT or kdf != KDF_SCRYPT:
        raise Malformed(_WHAT, f"format {file_format} with key derivation {kdf}; this program knows 1 and 1", offset=4)
    if not LOG2_N_MIN <= log2_n <= LOG2_N_MAX or r != SCRYPT_R or p != SCRYPT_P:
        raise Malformed(_WHAT, f"scrypt cost {log2_n}, {r}, {p} is not taken", offset=6)
    if reserved != b"\0\0\0":
        raise Malformed(_WHAT, "reserved bytes are not zero", offset=9)
    return log2_n, salt, nonce


def _file_key(unlock_secret: bytes, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << log2_n, r=SCRYPT_R, p=SCRYPT_P).derive(unlock_secret)


def _contents(plaintext: bytes) -> Keystore:
    """No message quotes the text: it holds keys. Chained exceptions would quote it too, hence `from None`."""
    try:
        document = json.loads(plaintext.decode(), object_pairs_hook=_no_repetitions)
    except (ValueError, RecursionError):
        raise DamagedData("keystore: opens, but does not hold the JSON of a keystore") from None
    if not isinstance(document, dict) or set(document) != {"kind", "site", "keys", "facts"}:
        raise DamagedData("keystore: must hold exactly kind, site, keys and facts")
    kind, site, named, facts = (document[name] for name in ("kind", "site", "keys", "facts"))
    if not isinstance(kind, str) or type(site) is not int or not 0 <= site <= 0xFFFF_FFFF:
        raise DamagedData("keystore: kind must be text and site a u32")
    if not isinstance(named, dict) or not isinstance(facts, dict):
        raise DamagedData("keystore: keys and facts must be objects")
    keys = {}
    for name, text in named.items():
        try:
            keys[name] = bytes.fromhex(text)
        except (TypeError, ValueError):
            raise DamagedData(f"keystore: key {name!r} is not a hex string") from None
        if not keys[name]:
            raise DamagedData(f"keystore: key {name!r} is empty")
    return Keystore(kind, site, keys, facts)


def _no_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made
