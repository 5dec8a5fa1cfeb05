"""What the bodies of link messages have in common: packing that refuses instead of cutting (§11.2). Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from protocol.errors import Malformed, OutOfRange

NONCE_BYTES: Final = 16
RESERVED3: Final = b"\0\0\0"

Encoder = Callable[[Any], bytes]
"""Body of one message; may raise struct.error, which `packed` turns into OutOfRange."""


def packed(encode: Encoder, message: object) -> bytes:
    try:
        return encode(message)
    except struct.error as error:
        raise OutOfRange(f"{type(message).__name__}: {error}") from None


def unpacked(layout: struct.Struct, body: memoryview, what: str) -> tuple[Any, ...]:
    if len(body) != layout.size:
        raise Malformed(what, f"{len(body)} bytes where {layout.size} are fixed")
    return layout.unpack(body)


def exact(value: bytes, size: int) -> bytes:
    """`value`, if it has that size: `struct` would cut or pad it without a word."""
    if len(value) != size:
        raise OutOfRange(f"a field of {size} bytes was given {len(value)}")
    return value


def check_reserved(reserved: bytes, what: str, offset: int) -> None:
    if reserved != RESERVED3:
        raise Malformed(what, "reserved bytes are not zero", offset=offset)


def decode_nonce(body: memoryview, what: str) -> bytes:
    if len(body) != NONCE_BYTES:
        raise Malformed(what, f"{len(body)} bytes, not {NONCE_BYTES}")
    return bytes(body)
