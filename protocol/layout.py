"""What every fixed layout of a message needs: packing and unpacking with the package's own errors. Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, TypeVar

from protocol.errors import Malformed, OutOfRange

Buffer = bytes | bytearray | memoryview
Code = TypeVar("Code", bound=IntEnum)


def pack(layout: struct.Struct, what: str, *values: object) -> bytes:
    """Raises OutOfRange where a value does not fit its field."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise OutOfRange(f"{what}: {error}") from None


def unpack(layout: struct.Struct, what: str, body: Buffer) -> tuple[Any, ...]:
    """The fields of a body that has exactly this layout. Raises Malformed."""
    if len(body) != layout.size:
        raise Malformed(what, f"{len(body)} bytes, not {layout.size}")
    return layout.unpack(body)


def unpack_head(layout: struct.Struct, what: str, body: Buffer) -> tuple[Any, ...]:
    """The fields of a body that begins with this layout and goes on. Raises Malformed."""
    if len(body) < layout.size:
        raise Malformed(what, f"{len(body)} bytes, at least {layout.size}")
    return layout.unpack_from(body)


def code(codes: type[Code], value: int, what: str, offset: int) -> Code:
    """The code point, or Malformed where the table does not have it."""
    try:
        return codes(value)
    except ValueError:
        raise Malformed(what, f"unknown {codes.__name__} {value:02x}", offset=offset) from None


def require(holds: bool, what: str, why: str) -> None:  # noqa: FBT001  # the condition is the argument
    """Raises Malformed unless it holds."""
    if not holds:
        raise Malformed(what, why)


def fixed_bytes(value: bytes, length: int, what: str) -> bytes:
    """`value`, which has `length` bytes; `Struct` would cut or fill it silently. Raises OutOfRange."""
    if len(value) != length:
        raise OutOfRange(f"{what} has {length} bytes, not {len(value)}")
    return value
