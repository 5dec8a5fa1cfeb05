"""Certificates and signed heads: who issues a version, and which one it is (docs/protocol.md §10, R27). Pure.

Certificate, 120 bytes: the offline root says whose key signs for a site, and in the context of its signature what for:
the ledger's online key, or the site's offline key for lists that people publish (R36).
Signed head, 128 bytes: that key says what content a (generation, counter) has.

Every signature covers a context string, a zero byte and the bytes signed, and those bytes hold the site, so
that a receipt can never be shown as a head, nor one site's list to another (R36). Signing is a port: an HSM
(密码机) takes the place of `SoftwareSigner` without any caller noticing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import Malformed, OutOfRange, ProofError

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
DIGEST_BYTES: Final = 32

CERTIFICATE_CONTEXT: Final = "onecard.certificate.v1"
OFFLINE_CERTIFICATE_CONTEXT: Final = "onecard.certificate.offline.v1"
HEAD_CONTEXT: Final = "onecard.head.v1"

_CERTIFICATE: Final = struct.Struct("!IIQQ32s")
_HEAD: Final = struct.Struct("!IIB3sIIQI32s")
CERTIFICATE_BYTES: Final = 120
HEAD_BYTES: Final = 128
assert _CERTIFICATE.size + SIGNATURE_BYTES == CERTIFICATE_BYTES
assert _HEAD.size + SIGNATURE_BYTES == HEAD_BYTES

NO_HEAD: Final = bytes(HEAD_BYTES)
"""What stands in the place of a head where a terminal holds none."""


class CertificateUse(Enum):
    """What a certified key may sign; the value is the context of the root's signature."""

    ONLINE = CERTIFICATE_CONTEXT
    """The ledger: deny list, receipts, link messages."""
    OFFLINE = OFFLINE_CERTIFICATE_CONTEXT
    """People, away from every server: parameters, permissions."""


Version = tuple[int, int]
"""(generation, counter), compared in that order; only rises (R27)."""

NO_VERSION: Final[Version] = (0, 0)


def sign_context(context: str, data: bytes | bytearray | memoryview) -> bytes:
    """The bytes that are signed: context ‖ 00 ‖ data."""
    return b"".join((context.encode("ascii"), b"\0", data))


class Signer(Protocol):
    """Whatever holds an Ed25519 key and signs with it: software here, an HSM elsewhere."""

    @property
    def public_key(self) -> bytes:
        """The 32 raw bytes of the public key."""

    def sign(self, data: bytes) -> bytes:
        """The signature (64 bytes) over `data`, which already begins with its context string."""


class SoftwareSigner:
    """An Ed25519 key in this process's memory; never shows its seed."""

    __slots__ = ("_key", "_public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise OutOfRange(f"a signing seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public_key = self._key.public_key().public_bytes_raw()

    @property
    def public_key(self) -> bytes:
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def __repr__(self) -> str:
        return "SoftwareSigner(…)"


def verify_signature(public_key: bytes, signature: bytes | bytearray | memoryview, signed: bytes, *, what: str) -> None:
    """Check an Ed25519 signature over `signed` (see `sign_context`).

    Raises:
        ProofError: the signature, or the public key itself, is wrong.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(bytes(signature), signed)
    except (InvalidSignature, ValueError):
        raise ProofError(f"{what}: the signature does not verify") from None


@dataclass(frozen=True, slots=True)
class Certificate:
    """The offline root's word that `public_key` signs for `site`; times are inclusive."""

    key_id: int
    site: int
    valid_from_ms: int
    valid_to_ms: int
    public_key: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        """Bytes 0 … 55."""
        try:
            return _CERTIFICATE.pack(self.key_id, self.site, self.valid_from_ms, self.valid_to_ms, self.public_key)
        except struct.error as error:
            raise OutOfRange(f"certificate: {error}") from None

    def encode(self) -> bytes:
        return self.signed_bytes() + self.signature

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Certificate:
        """Read 120 bytes; says nothing about the signature.

        Raises:
            Malformed: another length, or site 0.
        """
        if len(data) != CERTIFICATE_BYTES:
            raise Malformed("certificate", f"{len(data)} bytes, not {CERTIFICATE_BYTES}")
        key_id, site, valid_from_ms, valid_to_ms, public_key = _CERTIFICATE.unpack_from(data)
        signature = bytes(data[_CERTIFICATE.size :])
        certificate = cls(key_id, site, valid_from_ms, valid_to_ms, public_key, signature)
        if certificate.site == 0:
            raise Malformed("certificate", "site 0", offset=4)
        return certificate


@dataclass(frozen=True, slots=True)
class SignedHead:
    """One version of one list, named by the digest of its full content."""

    key_id: int
    site: int
    list_kind: int
    generation: int
    counter: int
    issued_ms: int
    content_bytes: int
    digest: bytes
    signature: bytes

    @property
    def version(self) -> Version:
        return self.generation, self.counter

    def signed_bytes(self) -> bytes:
        """Bytes 0 … 63."""
        try:
            return _HEAD.pack(
                self.key_id,
                self.site,
                self.list_kind,
                b"",
                self.generation,
                self.counter,
                self.issued_ms,
                self.content_bytes,
                self.digest,
            )
        except struct.error as error:
            raise OutOfRange(f"signed head: {error}") from None

    def encode(self) -> bytes:
        return self.signed_bytes() + self.signature

    def names(self, content: bytes | bytearray | memoryview) -> bool:
        """Whether `content` is the very content that this head was signed for."""
        return len(content) == self.content_bytes and sha256(content).digest() == self.digest

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> SignedHead:
        """Read 128 bytes; says nothing about the signature. `NO_HEAD` is not a head.

        Raises:
            Malformed: another length, reserved bytes that are not zero, site 0, or version (0, 0).
        """
        if len(data) != HEAD_BYTES:
            raise Malformed("signed head", f"{len(data)} bytes, not {HEAD_BYTES}")
        key_id, site, kind, reserved, generation, counter, issued_ms, size, digest = _HEAD.unpack_from(data)
        if reserved != b"\0\0\0":
            raise Malformed("signed head", "reserved bytes are not zero", offset=9)
        if site == 0:
            raise Malformed("signed head", "site 0", offset=4)
        if (generation, counter) == NO_VERSION:
            raise Malformed("signed head", "version (0, 0), which means none", offset=12)
        signature = bytes(data[_HEAD.size :])
        return cls(key_id, site, kind, generation, counter, issued_ms, size, digest, signature)


def issue_certificate(
    root: bytes | Signer,
    *,
    key_id: int,
    site: int,
    valid_from_ms: int,
    valid_to_ms: int,
    public_key: bytes,
    use: CertificateUse = CertificateUse.ONLINE,
) -> Certificate:
    """Certify a signing key for one use; `root` is the offline root's seed, or a signer that holds it."""
    if site == 0 or len(public_key) != PUBLIC_KEY_BYTES or valid_to_ms < valid_from_ms:
        raise OutOfRange("certificate: needs a site, a public key of 32 bytes, and an end after its start")
    unsigned = Certificate(key_id, site, valid_from_ms, valid_to_ms, public_key, b"")
    signed = unsigned.signed_bytes()
    signature = _signer(root).sign(sign_context(use.value, signed))
    return Certificate(key_id, site, valid_from_ms, valid_to_ms, public_key, signature)


def sign_head(
    signing: bytes | Signer,
    *,
    key_id: int,
    site: int,
    list_kind: int,
    generation: int,
    counter: int,
    issued_ms: int,
    content: bytes,
) -> SignedHead:
    """Sign one version; `signing` is the seed of the key that signs this list kind, or a signer that holds it."""
    if site == 0 or (generation, counter) == NO_VERSION:
        raise OutOfRange("signed head: needs a site and a version above (0, 0)")
    digest = sha256(content).digest()
    fields = (key_id, site, int(list_kind), generation, counter, issued_ms, len(content), digest)
    signed = SignedHead(*fields, b"").signed_bytes()
    return SignedHead(*fields, _signer(signing).sign(sign_context(HEAD_CONTEXT, signed)))


def verify_certificate(
    certificate: Certificate,
    root_public: bytes,
    site: int,
    now_ms: int | None,
    *,
    use: CertificateUse = CertificateUse.ONLINE,
) -> None:
    """Check a certificate's root signature for this use, its site and its validity.

    `now_ms` is UTC; None where no clock can be trusted (in a terminal), and the validity is not checked then.

    Raises:
        ProofError: any of them fails.
    """
    if certificate.site != site:
        raise ProofError(f"certificate: for site {certificate.site}, this is site {site}")
    signed = sign_context(use.value, certificate.signed_bytes())
    verify_signature(root_public, certificate.signature, signed, what="certificate")
    if now_ms is not None and not certificate.valid_from_ms <= now_ms <= certificate.valid_to_ms:
        raise ProofError(f"certificate {certificate.key_id}: not valid at this time")


def verify_head(head: SignedHead, certificate: Certificate) -> None:
    """Check a head against a certificate that was verified before: key id, site, signature, and that it was issued
    while the certificate was valid (both ends inclusive).

    A terminal without a clock can check that too: it ends a ledger that goes on signing with an expired certificate. A
    thief who backdates is not caught by it; against him stands a raised generation (docs/keys.md).

    Raises:
        ProofError: any of them fails.
    """
    if head.key_id != certificate.key_id:
        raise ProofError(f"signed head: key {head.key_id}, the certificate is for key {certificate.key_id}")
    if head.site != certificate.site:
        raise ProofError(f"signed head: site {head.site}, the certificate is for site {certificate.site}")
    signed = sign_context(HEAD_CONTEXT, head.signed_bytes())
    verify_signature(certificate.public_key, head.signature, signed, what="signed head")
    if not certificate.valid_from_ms <= head.issued_ms <= certificate.valid_to_ms:
        raise ProofError(f"signed head: issued outside the validity of certificate {certificate.key_id}")


def _signer(key: bytes | Signer) -> Signer:
    return SoftwareSigner(key) if isinstance(key, bytes) else key
