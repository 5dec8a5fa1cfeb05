"""What the bodies of all records share: packing, unpacking, a discreet repr (docs/protocol.md §7.2). Pure.

Fields stand in wire order, so that one packing and one unpacking serve every type. Reserved bytes are
written as zero and ignored. No repr shows more of a card than its last digits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import ClassVar, Final, Self

from protocol.errors import Malformed, OutOfRange
from protocol.keys import CARD_UID_BYTES
from protocol.mac import SEAL_BYTES

Buffer = bytes | bytearray | memoryview

_BYTES_OF_FIELD: Final = {"uid": CARD_UID_BYTES, "proof": SEAL_BYTES}


def card_masked(card: int) -> str:
    """The last four digits of a card number, for people and logs."""
    return f"…{card % 10_000:04d}"


class RecordBody:
    """Packing, unpacking and a discreet repr, from the fields of the dataclass below it."""

    __slots__ = ()
    TYPE: ClassVar[int]
    LAYOUT: ClassVar[struct.Struct]
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ()

    def encode(self) -> bytes:
        """The body's bytes. Raises OutOfRange when a value does not fit its field."""
        values = []
        name: str
        for name in self.__match_args__:  # type: ignore[attr-defined]  # dataclasses have it: their fields in order
            value = getattr(self, name)
            if isinstance(value, bytes) and len(value) != _BYTES_OF_FIELD[name]:
                raise OutOfRange(f"{name} has {_BYTES_OF_FIELD[name]} bytes, not {len(value)}")
            values.append(value)
        try:
            return self.LAYOUT.pack(*values)
        except struct.error as error:
            raise OutOfRange(f"{type(self).__name__}: {error}") from None

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """Raises Malformed for a wrong length, or for 0 where 0 is never valid."""
        if len(body) != cls.LAYOUT.size:
            raise Malformed(cls.__name__, f"a body of {len(body)} bytes, not {cls.LAYOUT.size}")
        decoded = cls(*cls.LAYOUT.unpack(body))
        for name in cls.NEVER_ZERO:
            if getattr(decoded, name) == 0:
                raise Malformed(cls.__name__, f"{name} is 0")
        return decoded

    def __repr__(self) -> str:
        shown = []
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, each.name)
            if each.name == "card":
                value = card_masked(value)
            shown.append(f"{each.name}={f'{len(value)} bytes' if isinstance(value, bytes) else value}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(slots=True)
class Unknown:
    """A type or body version of a later day: kept as bytes, quarantined under its number (R5)."""

    type: int
    body_version: int
    body: bytes

    def encode(self) -> bytes:
        return self.body

    def __repr__(self) -> str:
        return f"Unknown(type={self.type:02X}, body_version={self.body_version}, {len(self.body)} bytes)"
