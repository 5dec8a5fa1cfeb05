"""The envelope of every message between a front-end and the ledger (docs/protocol.md §11.2). Pure.

    length u32 ‖ version u8 (1) ‖ type u8 ‖ reserved u16 ‖ body ‖ proof

`length` counts everything after itself; a *payload* here is a message without it (what MQTT carries). Up, the proof
is a CMAC under the front-end's batch key; down, the ledger's Ed25519 signature; both over a context string and the
payload up to the end of the body. LIST and REFUSAL carry none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from protocol.codes import LinkType
from protocol.errors import Malformed, OutOfRange, StateMisuse, TooLong, UnknownFrame
from protocol.limits import LINK_MESSAGE_BYTES_MAX
from protocol.mac import MAC_BYTES
from protocol.signed import SIGNATURE_BYTES

Buffer = bytes | bytearray | memoryview

LINK_VERSION: Final = 1
LINK_CONTEXT: Final = "onecard.link.v1"
LINK_CONTEXT_PREFIX: Final = LINK_CONTEXT.encode("ascii") + b"\0"

LENGTH_BYTES: Final = 4
ENVELOPE: Final = struct.Struct("!BBH")
ENVELOPE_BYTES: Final = ENVELOPE.size
assert ENVELOPE_BYTES == 4

DOWN_BIT: Final = 0x80
UNSIGNED_TYPES: Final = frozenset({LinkType.LIST, LinkType.REFUSAL})
"""Down messages without a proof: a list's head is signed itself, a refusal settles nothing."""


def proof_bytes(link_type: LinkType) -> int:
    """Length of the proof of a message type."""
    if not link_type & DOWN_BIT:
        return MAC_BYTES
    return 0 if link_type in UNSIGNED_TYPES else SIGNATURE_BYTES


def envelope_head(link_type: LinkType) -> bytes:
    """The four bytes in front of the body."""
    return ENVELOPE.pack(LINK_VERSION, link_type, 0)


def with_length(*parts: Buffer) -> bytes:
    """The message as a socket carries it.

    Raises:
        OutOfRange: longer than one link message may be.
    """
    size = sum(map(len, parts))
    if size > LINK_MESSAGE_BYTES_MAX:
        raise OutOfRange(f"a link message of {size} bytes, at most {LINK_MESSAGE_BYTES_MAX}")
    return b"".join((size.to_bytes(LENGTH_BYTES, "big"), *parts))


def split_payload(payload: Buffer) -> tuple[LinkType, memoryview, memoryview]:
    """(type, body, proof) of a payload; views into it, nothing is copied and nothing verified.

    Raises:
        TooLong: longer than one link message may be.
        UnknownFrame: another version, or a type that version 1 does not have.
        Malformed: shorter than envelope and proof, or a reserved field that is not zero.
    """
    view = memoryview(payload)
    size = len(view)
    if size > LINK_MESSAGE_BYTES_MAX:
        raise TooLong("link message", got_bytes=size, max_bytes=LINK_MESSAGE_BYTES_MAX)
    if size < ENVELOPE_BYTES:
        raise Malformed("link message", f"{size} bytes, shorter than its envelope")
    version, type_code, reserved = ENVELOPE.unpack_from(view)
    if version != LINK_VERSION:
        raise UnknownFrame(f"link message of version {version}")
    try:
        link_type = LinkType(type_code)
    except ValueError:
        raise UnknownFrame(f"link message of type {type_code:#04x}") from None
    if reserved:
        raise Malformed("link message", "reserved field is not zero", offset=2)
    end = size - proof_bytes(link_type)
    if end < ENVELOPE_BYTES:
        raise Malformed("link message", "shorter than envelope and proof")
    return link_type, view[ENVELOPE_BYTES:end], view[end:]


class LinkDecoder:
    """Cuts a byte stream into payloads; holds at most one incomplete message (LINK_MESSAGE_BYTES_MAX).

    Call `receive_data`, then iterate `payloads` to its end. What comes out does not depend on how the stream was cut
    into pieces: complete messages in front of a wrong length come out first, then the error, and then nothing more.
    """

    __slots__ = ("_buffer", "_is_broken")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_broken = False

    def receive_data(self, data: Buffer) -> None:
        """Take some bytes; they are copied.

        Raises:
            StateMisuse: after an error; a stream whose lengths are wrong cannot be followed any further.
        """
        if self._is_broken:
            raise StateMisuse("this stream has ended with an error")
        self._buffer += data

    def payloads(self) -> Iterator[bytes]:
        """Every complete payload, in order.

        Raises:
            TooLong: a length above LINK_MESSAGE_BYTES_MAX; known from the length alone.
            Malformed: a length below that of an envelope.
        """
        buffer = self._buffer
        start = 0
        try:
            while len(buffer) - start >= LENGTH_BYTES:
                size = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
                self._check_size(size)
                end = start + LENGTH_BYTES + size
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[start + LENGTH_BYTES : end])
                start = end
                yield payload
        finally:
            if self._is_broken:
                buffer.clear()
            else:
                del buffer[:start]

    def _check_size(self, size: int) -> None:
        if size > LINK_MESSAGE_BYTES_MAX:
            self._is_broken = True
            raise TooLong("link message", got_bytes=size, max_bytes=LINK_MESSAGE_BYTES_MAX)
        if size < ENVELOPE_BYTES:
            self._is_broken = True
            raise Malformed("link message", f"length {size}, shorter than its envelope")
