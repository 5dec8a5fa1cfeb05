"""The list versions that a front-end holds, as bytes on disk and as values (docs/protocol.md §10, R27, R28). No I/O.

A cache file is one version and what is needed to serve it after a restart without the ledger:

    offset size field
    0      4    "OCLC"
    4      1    format 1
    5      1    list kind
    6      1    count of older certificates
    7      1    count of deltas
    8      128  signed head
    136    120  certificate
    256    …    older certificates, 120 each
    …      …    per delta: base generation u32, base counter u32, length u32, then the deltas themselves
    …      …    content
    end    32   SHA-256 of everything before

Nothing in it is trusted: signatures, digest and every delta's place are checked when it is read.
"""

from __future__ import annotations

import struct
from array import array
from hashlib import sha256
from typing import Final

from protocol.codes import ListKind
from protocol.deny_list import DenyList, apply_delta
from protocol.errors import DamagedData, Malformed, ProofError
from protocol.limits import LIST_ENTRIES_MAX
from protocol.list_kinds import certificate_use, check_content
from protocol.list_transfer import ListVersion
from protocol.signed import (
    CERTIFICATE_BYTES,
    DIGEST_BYTES,
    HEAD_BYTES,
    Certificate,
    SignedHead,
    Version,
    verify_certificate,
    verify_head,
)

DELTAS_MAX: Final = 16  # versions back that a terminal may be and still get a delta; further back costs it a snapshot
DELTAS_BYTES_MAX: Final = 1 << 20  # all of one version together: beside a list of 10,000 cards (40 KB) plenty
OLDER_CERTIFICATES_MAX: Final = 4  # signing keys change in years

_HEAD: Final = struct.Struct("!4sBBBB")
_DELTA: Final = struct.Struct("!III")
_COUNTS: Final = struct.Struct("!IIII")
MAGIC: Final = b"OCLC"
FORMAT: Final = 1


def encode_cache(version: ListVersion) -> bytes:
    """The file's bytes."""
    deltas = list(version.deltas.items())
    parts = [
        _HEAD.pack(MAGIC, FORMAT, version.head.list_kind, len(version.older_certificates), len(deltas)),
        version.head_bytes,
        version.certificate_bytes,
        *(certificate.encode() for certificate in version.older_certificates),
        *(_DELTA.pack(*base, len(delta)) for base, delta in deltas),
        *(delta for _, delta in deltas),
        version.content,
    ]
    data = b"".join(parts)
    return data + sha256(data).digest()


def decode_cache(data: bytes, *, kind: ListKind, root_public: bytes, site: int) -> ListVersion:
    """The version that a cache file holds.

    A certificate that has expired since is still good here: the list was taken while it was valid, and only rises.

    Raises:
        DamagedData: the file is not whole, or not of this kind.
        ProofError: a signature does not verify, or it is another site's.
    """
    if len(data) < _HEAD.size + HEAD_BYTES + CERTIFICATE_BYTES + DIGEST_BYTES:
        raise DamagedData("list cache: too short")
    if sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise DamagedData("list cache: its own digest differs")
    magic, file_format, file_kind, older_count, delta_count = _HEAD.unpack_from(data)
    if (magic, file_format, file_kind) != (MAGIC, FORMAT, kind):
        raise DamagedData("list cache: another format or kind")
    try:
        reader = _Reader(data[:-DIGEST_BYTES], _HEAD.size)
        head = SignedHead.decode(reader.take(HEAD_BYTES))
        certificate = Certificate.decode(reader.take(CERTIFICATE_BYTES))
        older = tuple(Certificate.decode(reader.take(CERTIFICATE_BYTES)) for _ in range(older_count))
        bases = [_DELTA.unpack(reader.take(_DELTA.size)) for _ in range(delta_count)]
        deltas = {(generation, counter): reader.take(length) for generation, counter, length in bases}
        content = reader.rest()
    except Malformed as error:
        raise DamagedData(f"list cache: {error}") from None
    for each in (certificate, *older):
        verify_certificate(each, root_public, site, None, use=certificate_use(kind))
    verify_head(head, certificate)
    if head.list_kind != kind or not head.names(content):
        raise ProofError("list cache: the content is not what its head names")
    return ListVersion(head, certificate, content, deltas, older)


class _Reader:
    """Takes a file apart from front to back; raises Malformed where it ends too early."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise Malformed("list cache", "cut short", offset=self._at)
        part = self._data[self._at : end]
        self._at = end
        return part

    def rest(self) -> bytes:
        return self._data[self._at :]


def next_version(
    held: ListVersion | None, head: SignedHead, certificate: Certificate, *, base: Version | None, data: bytes
) -> ListVersion:
    """The version that `head` names, made of a snapshot (`base` None) or of a delta to `held`, with its own deltas.

    The signatures were verified before. Costs some milliseconds for a usual list and up to a second for the longest.

    Raises:
        Malformed: the data is no list, the delta does not fit, or the result is not what the head names.
    """
    delta: bytes | None = None
    if base is None:
        content = bytes(data)
        check_content(head.list_kind, content)  # signed, and still: what cannot be read must not reach a terminal
    else:
        if held is None or held.head.version != base or head.list_kind != ListKind.DENY:
            raise Malformed("LIST", "a delta from a version that is not held")
        content = apply_delta(DenyList.from_content(held.content), data).content()
        delta = bytes(data)
    if not head.names(content):
        raise Malformed("LIST", "the content is not what its head names")
    deltas: dict[Version, bytes] = {}
    older: tuple[Certificate, ...] = ()
    if held is not None:
        if delta is not None:
            deltas = _carried(held, delta)
        if held.certificate.key_id != certificate.key_id:
            kept = [one for one in held.older_certificates if one.key_id not in (certificate.key_id, held.head.key_id)]
            older = (held.certificate, *kept)[:OLDER_CERTIFICATES_MAX]
        else:
            older = held.older_certificates
    return ListVersion(head, certificate, content, deltas, older)


def _carried(held: ListVersion, delta: bytes) -> dict[Version, bytes]:
    """Deltas to the next version from the held one and from those before it; the nearest first, within the bounds."""
    found = {held.head.version: delta}
    total = len(delta)
    for base, earlier in held.deltas.items():
        composed = compose_deltas(earlier, delta)
        total += len(composed)
        if len(found) >= DELTAS_MAX or total > DELTAS_BYTES_MAX:
            break
        found[base] = composed
    return found


def compose_deltas(first: bytes, second: bytes) -> bytes:
    """One delta with the effect of `first` and then `second`: what one adds and the other removes falls out."""
    parts_first, parts_second = _parts(first), _parts(second)
    composed: list[array[int]] = []
    for added_at in (0, 2):  # cards, lots
        added_1, removed_1 = parts_first[added_at], parts_first[added_at + 1]
        added_2, removed_2 = parts_second[added_at], parts_second[added_at + 1]
        composed.append(array("I", sorted((added_1 - removed_2) | (added_2 - removed_1))))
        composed.append(array("I", sorted((removed_1 - added_2) | (removed_2 - added_1))))
    counts = _COUNTS.pack(*map(len, composed))
    return counts + b"".join(struct.pack(f"!{len(part)}I", *part) for part in composed)


def _parts(delta: bytes) -> list[set[int]]:
    counts = _COUNTS.unpack_from(delta)
    if sum(counts) > 2 * LIST_ENTRIES_MAX or len(delta) != _COUNTS.size + 4 * sum(counts):
        raise Malformed("deny list delta", "counts and length disagree", offset=0)
    parts: list[set[int]] = []
    offset = _COUNTS.size
    for count in counts:
        parts.append(set(struct.unpack_from(f"!{count}I", delta, offset)))
        offset += 4 * count
    return parts
