"""Bodies of records by type (docs/protocol.md §7.2). Pure.

Fields stand in wire order, so that one packing and one unpacking serve every type. Reserved bytes are
written as zero and ignored. No repr shows more of a card than its last digits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import ClassVar, Final, Self

from protocol.codes import RecordType
from protocol.errors import Malformed, OutOfRange
from protocol.keys import CARD_UID_BYTES
from protocol.mac import SEAL_BYTES

Buffer = bytes | bytearray | memoryview

_BYTES_OF_FIELD: Final = {"uid": CARD_UID_BYTES, "proof": SEAL_BYTES}


def card_masked(card: int) -> str:
    """The last four digits of a card number, for people and logs."""
    return f"…{card % 10_000:04d}"


class _Body:
    """Packing, unpacking and a discreet repr, from the fields of the dataclass below it."""

    __slots__ = ()
    TYPE: ClassVar[int]
    LAYOUT: ClassVar[struct.Struct]
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ()

    def encode(self) -> bytes:
        """The body's bytes. Raises OutOfRange when a value does not fit its field."""
        values = []
        name: str
        for name in self.__slots__:
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


@dataclass(slots=True, repr=False)
class Purchase(_Body):
    """A debit that the card has proved (R2)."""

    TYPE: ClassVar[int] = RecordType.PURCHASE
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!II7sBIiIHBx8s")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card", "amount_cents")

    merchant: int
    card: int
    uid: bytes
    key_version: int
    amount_cents: int
    balance_after_cents: int
    counter: int
    currency: int
    card_kind: int
    proof: bytes


@dataclass(slots=True, repr=False)
class Grey(_Body):
    """A debit whose outcome is not known (灰记录, R20); balance and counter were read before it: hints."""

    TYPE: ClassVar[int] = RecordType.GREY
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!II7sBIiIHB9x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card", "amount_cents")

    merchant: int
    card: int
    uid: bytes
    key_version: int
    amount_cents: int
    balance_before_cents: int
    counter_before: int
    currency: int
    card_kind: int

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """As the others, and Malformed for a card proof: nobody had one to put there."""
        decoded = super(Grey, cls).decode(body)  # a class with slots is made twice: bare super() misses it
        if any(body[-SEAL_BYTES:]):
            raise Malformed("Grey", "a card proof where none can be", offset=72)
        return decoded


@dataclass(slots=True, repr=False)
class Completion(_Body):
    """A card's own last proof, carried in by the next terminal that saw the card (R20)."""

    TYPE: ClassVar[int] = RecordType.COMPLETION
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!IIHBBI7sBIiIH2x8sQ")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = (
        "original_terminal",
        "original_sequence",
        "original_epoch",
        "card",
        "amount_cents",
    )

    original_terminal: int
    original_sequence: int
    original_epoch: int
    original_type: int
    key_version: int
    card: int
    uid: bytes
    card_kind: int
    amount_cents: int
    balance_after_cents: int
    counter: int
    currency: int
    proof: bytes
    reference: int = 0
    """What else the proof covers: of a PBOC purse the debit's clock in ms, in whole seconds; 0 for AES cards."""

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """As the others, and Malformed unless the original is a purchase."""
        decoded = super(Completion, cls).decode(body)
        if decoded.original_type != RecordType.PURCHASE:
            raise Malformed("Completion", f"original type {decoded.original_type:02X}", offset=50)
        return decoded


@dataclass(slots=True, repr=False)
class Aborted(_Body):
    """A sequence whose dialogue came to nothing (R1); no money. `card` 0: not known."""

    TYPE: ClassVar[int] = RecordType.ABORTED
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!BB2xI")

    attempted_type: int
    reason: int
    card: int = 0


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


Body = Purchase | Grey | Completion | Aborted | Unknown
assert (Purchase.LAYOUT.size, Grey.LAYOUT.size, Completion.LAYOUT.size, Aborted.LAYOUT.size) == (
    40,
    40,
    56,
    8,
)
