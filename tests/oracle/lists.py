"""Section 10: certificate, signed head, content and delta of a deny list."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from construct import Array, Struct, this

from tests.oracle.fields import Fields, OracleError, build, count_of, hexed, parse, reserved, rule, u8, u32, u64
from tests.oracle.primitives import ed25519_sign, ed25519_verify, sha256

CERTIFICATE_PREFIX: Final = b"onecard.certificate.v1\0"
OFFLINE_PREFIX: Final = b"onecard.certificate.offline.v1\0"
HEAD_PREFIX: Final = b"onecard.head.v1\0"

CERTIFICATE: Final = Struct(
    "key_id" / u32,
    "site" / u32,
    "valid_from_ms" / u64,
    "valid_to_ms" / u64,
    "public_key" / hexed(32),
    "root_signature" / hexed(64),
)
HEAD: Final = Struct(
    "key_id" / u32,
    "site" / u32,
    "list_kind" / u8,
    reserved(3),
    "generation" / u32,
    "counter" / u32,
    "issued_ms" / u64,
    "content_bytes" / u32,
    "digest" / hexed(32),
    "signature" / hexed(64),
)
assert (CERTIFICATE.sizeof(), HEAD.sizeof()) == (120, 128)


def _ascending(numbers: list[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


CONTENT: Final = Struct(
    "count_of_cards" / count_of("cards", u32),
    "count_of_lots" / count_of("lots", u32),
    "cards" / Array(this.count_of_cards, u32),
    "lots" / Array(this.count_of_lots, u32),
    rule(lambda c: _ascending(c.cards) and _ascending(c.lots)),
)
DELTA_ARRAYS: Final = ("cards_added", "cards_removed", "lots_added", "lots_removed")
DELTA: Final = Struct(
    *(f"count_of_{name}" / count_of(name, u32) for name in DELTA_ARRAYS),
    *(name / Array(this[f"count_of_{name}"], u32) for name in DELTA_ARRAYS),
    rule(lambda d: all(_ascending(d[name]) for name in DELTA_ARRAYS)),
)


def sign_certificate(given: Mapping[str, Any], root_seed: bytes, prefix: bytes = CERTIFICATE_PREFIX) -> bytes:
    unsigned = build(CERTIFICATE, {**given, "root_signature": "00" * 64})[:56]
    return unsigned + ed25519_sign(root_seed, prefix + unsigned)


def certificate_is_signed(certificate: bytes, root_public: bytes, prefix: bytes = CERTIFICATE_PREFIX) -> bool:
    return ed25519_verify(root_public, prefix + certificate[:56], certificate[56:])


def document(fields: Mapping[str, Any]) -> bytes:
    """Canonical JSON."""
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def sign_head(given: Mapping[str, Any], content: bytes, ledger_seed: bytes) -> bytes:
    full = {**given, "content_bytes": len(content), "digest": sha256(content).hex(), "signature": "00" * 64}
    unsigned = build(HEAD, full)[:64]
    return unsigned + ed25519_sign(ledger_seed, HEAD_PREFIX + unsigned)


def head_is_signed(head: bytes, ledger_public: bytes) -> bool:
    return ed25519_verify(ledger_public, HEAD_PREFIX + head[:64], head[64:])


def build_content(cards: Iterable[int], lots: Iterable[int]) -> bytes:
    return build(CONTENT, {"cards": sorted(cards), "lots": sorted(lots)})


def make_delta(base: bytes, content: bytes) -> bytes:
    old, new = parse(CONTENT, base), parse(CONTENT, content)
    arrays: Fields = {}
    for name in ("cards", "lots"):
        arrays[f"{name}_added"] = sorted(set(new[name]) - set(old[name]))
        arrays[f"{name}_removed"] = sorted(set(old[name]) - set(new[name]))
    return build(DELTA, arrays)


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The new content; the caller compares it with the head."""
    old, change = parse(CONTENT, base), parse(DELTA, delta)
    result: Fields = {}
    for name in ("cards", "lots"):
        added, removed, held = set(change[f"{name}_added"]), set(change[f"{name}_removed"]), set(old[name])
        if added & held or not removed <= held:
            raise OracleError("delta wrong", name)
        result[name] = (held | added) - removed
    return build_content(result["cards"], result["lots"])


@dataclass(frozen=True, slots=True)
class Signed:
    """One issued version and how to get there from its predecessor."""

    certificate: bytes
    base_version: tuple[int, int]
    base_content: bytes
    base_head: bytes
    version: tuple[int, int]
    content: bytes
    head: bytes
    delta: bytes
