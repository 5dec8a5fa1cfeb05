"""A record taken apart for a person: every field with its place, name and value (docs/protocol.md §7). Pure.

Card numbers and UIDs are masked, in values and in the bytes shown; the body of a type that is not known here is not
shown at all, for nobody can say where it names a card. Nothing is verified: whoever looks has no key.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

from protocol.codes import AbortReason, CardKind, ProofSuite, RecordType
from protocol.errors import Malformed
from protocol.record_bodies import Buffer, Unknown, card_masked
from protocol.records import (
    BODY_OFFSET,
    HEAD,
    PREVIOUS_SEAL_OFFSET_FROM_END,
    SEAL_OFFSET_FROM_END,
    RecordHead,
    decode_body,
    previous_seal,
    read_head,
    seal_of,
)

MASKED: Final = frozenset({"card", "uid"})
UID_SHOWN_BYTES: Final = 2
HIDDEN: Final = "··"
_CODES: Final[dict[str, type[IntEnum]]] = {
    "type": RecordType,
    "attempted_type": RecordType,
    "original_type": RecordType,
    "proof_suite": ProofSuite,
    "card_kind": CardKind,
    "reason": AbortReason,
}
_TOKEN: Final = re.compile(r"(\d*)([a-zA-Z?])")


@dataclass(frozen=True, slots=True)
class Field:
    """`offset` counts from the record's first byte; `is_hidden`: its bytes are not to be shown."""

    offset: int
    size: int
    name: str
    value: str
    is_hidden: bool = False


def fields_of(record: Buffer) -> list[Field]:
    """Every field of one whole record, in order. Raises Malformed."""
    head = read_head(record)
    body = decode_body(record)
    end = len(record)
    found = list(_head(head))
    if isinstance(body, Unknown):
        size = end - PREVIOUS_SEAL_OFFSET_FROM_END - BODY_OFFSET
        text = f"{size} bytes of a type or version not known here: not shown, they may name a card"
        found.append(Field(BODY_OFFSET, size, "body", text, is_hidden=True))
    else:
        names = [each.name for each in fields(body)]
        found += _packed(body.LAYOUT, names, [getattr(body, name) for name in names], BODY_OFFSET)
    seals = (("predecessor's seal", previous_seal(record), PREVIOUS_SEAL_OFFSET_FROM_END),
             ("seal", seal_of(record), SEAL_OFFSET_FROM_END))  # fmt: skip
    return found + [Field(end - back, len(seal), name, seal.hex()) for name, seal, back in seals]


def masked_hex(record: Buffer, shown: list[Field]) -> str:
    """The record's bytes in hex, without those that name a card."""
    pairs = [f"{byte:02x}" for byte in bytes(record)]
    for one in shown:
        if one.is_hidden:
            pairs[one.offset : one.offset + one.size] = [HIDDEN] * one.size
    return "".join(pairs)


def _head(head: RecordHead) -> Iterator[Field]:
    names = [each.name for each in fields(head)]
    yield from _packed(HEAD, names, [getattr(head, name) for name in names], 0)


def _packed(layout: struct.Struct, names: list[str], values: list[object], start: int) -> Iterator[Field]:
    """Fields of one layout, whose names stand in wire order."""
    places = _places(layout)
    if len(places) != len(names):
        raise Malformed("record", f"a layout of {len(places)} fields for {len(names)} names")
    for (offset, size), name, value in zip(places, names, values, strict=True):
        yield Field(start + offset, size, name, _text(name, value), is_hidden=name in MASKED)


def _places(layout: struct.Struct) -> list[tuple[int, int]]:
    """(offset, size) of every field of a big-endian layout, without its padding."""
    places: list[tuple[int, int]] = []
    offset = 0
    for count, code in _TOKEN.findall(layout.format.lstrip("!")):
        size = struct.calcsize(f"!{code}")
        if code in "sx":
            size *= int(count or 1)
        if code != "x":
            repeats = 1 if code == "s" else int(count or 1)
            places += [(offset + size * index, size) for index in range(repeats)]
            offset += size * (repeats - 1)
        offset += size
    return places


def _text(name: str, value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"…{bytes(value[-UID_SHOWN_BYTES:]).hex()}" if name in MASKED else bytes(value).hex()
    if name in MASKED and isinstance(value, int):
        return card_masked(value) if value else "none"
    codes = _CODES.get(name)
    if codes is not None and isinstance(value, int):
        known = {int(one): one.name.lower() for one in codes}
        return f"{value:02x} {known.get(value, 'not known here')}"
    if name.endswith("_cents") and isinstance(value, int):
        return f"{value} ({'-' if value < 0 else ''}{abs(value) // 100}.{abs(value) % 100:02d})"
    return str(value)
