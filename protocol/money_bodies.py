"""Bodies of records about money and meals (docs/protocol.md §7.2). Pure.

All that a card proves starts with the forty bytes of a purchase; what is more than that follows the proof.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from protocol.codes import RecordType
from protocol.errors import Malformed
from protocol.mac import SEAL_BYTES
from protocol.record_body import Buffer, RecordBody

MEAL_TYPES: Final = frozenset({RecordType.BOOKING, RecordType.CANCELLATION, RecordType.COLLECTION})
PROVED_TYPES: Final = frozenset({RecordType.PURCHASE, RecordType.REFUND, RecordType.LOAD}) | MEAL_TYPES
"""Types that bear a card's own proof."""
GREY_TYPES: Final = frozenset({0, RecordType.PURCHASE, RecordType.BOOKING})
"""What a grey may have attempted: the debits."""
DOUBT_TYPES: Final = PROVED_TYPES - GREY_TYPES


@dataclass(slots=True, repr=False)
class Purchase(RecordBody):
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
class Grey(RecordBody):
    """A debit whose outcome is not known (灰记录, R20); balance and counter were read before it: hints."""

    TYPE: ClassVar[int] = RecordType.GREY
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!II7sBIiIHBB8x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card",)

    merchant: int
    card: int
    uid: bytes
    key_version: int
    amount_cents: int
    balance_before_cents: int
    counter_before: int
    currency: int
    card_kind: int
    attempted_type: int = 0
    """0: purchase."""

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """As the others, and Malformed for a card proof: nobody had one to put there."""
        decoded = super(Grey, cls).decode(body)  # a class with slots is made twice: bare super() misses it
        if any(body[-SEAL_BYTES:]):
            raise Malformed("Grey", "a card proof where none can be", offset=72)
        if decoded.attempted_type not in GREY_TYPES:
            raise Malformed("Grey", f"attempted type {decoded.attempted_type:02X}", offset=71)
        if not decoded.amount_cents and decoded.attempted_type not in MEAL_TYPES:
            raise Malformed("Grey", "amount_cents is 0")
        return decoded


@dataclass(slots=True, repr=False)
class Doubt(RecordBody):
    """A credit or collection whose outcome is not known; laid out as a grey, moves and counts no money."""

    TYPE: ClassVar[int] = RecordType.DOUBT
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!II7sBIiIHBBII")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card",)

    merchant: int
    card: int
    uid: bytes
    key_version: int
    amount_cents: int
    balance_before_cents: int
    counter_before: int
    currency: int
    card_kind: int
    attempted_type: int
    reference: int
    """As in the record that was attempted."""
    order: int = 0
    """Of a load."""

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """As the others, and Malformed for an attempt that would be a grey, or none."""
        decoded = super(Doubt, cls).decode(body)
        if decoded.attempted_type not in DOUBT_TYPES:
            raise Malformed("Doubt", f"attempted type {decoded.attempted_type:02X}", offset=71)
        return decoded


@dataclass(slots=True, repr=False)
class Refund(RecordBody):
    """Part or all of the card's own last debit, given back under the refund key (R21)."""

    TYPE: ClassVar[int] = RecordType.REFUND
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!II7sBIiIHBx8sII8x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card", "amount_cents", "reference")

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
    reference: int
    """Sequence of the purchase, of the same terminal and epoch."""
    operator_card: int


@dataclass(slots=True, repr=False)
class Load(RecordBody):
    """A load order executed at a load station (R22)."""

    TYPE: ClassVar[int] = RecordType.LOAD
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!4xI7sBIiIHBx8sII8x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card", "amount_cents", "reference", "order")

    card: int
    uid: bytes
    key_version: int
    amount_cents: int
    balance_after_cents: int
    counter: int
    currency: int
    card_kind: int
    proof: bytes
    reference: int
    """The card's load serial."""
    order: int


@dataclass(slots=True, repr=False)
class LoadNotExecuted(RecordBody):
    """The station's sealed word that an order will not be executed there (R22); no card proof."""

    TYPE: ClassVar[int] = RecordType.LOAD_NOT_EXECUTED
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!IIIIB7x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card", "amount_cents", "reference", "order")

    card: int
    amount_cents: int
    reference: int
    """The order's load serial."""
    order: int
    reason: int
    """A RefusalReason."""


@dataclass(slots=True, repr=False)
class _Meal(RecordBody):
    """A token in the card's meal sector, written or cleared (R23)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!II7sBIiIHBx8sIHBB8x")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = ("card", "reference")

    merchant: int
    card: int
    uid: bytes
    key_version: int
    amount_cents: int
    """The price that the token carries; 0 where meals are free."""
    balance_after_cents: int
    counter: int
    currency: int
    card_kind: int
    proof: bytes
    reference: int
    """The booking serial, rising per card."""
    meal_day: int
    """Local day, days since 1970-01-01."""
    meal: int
    menu: int


class Booking(_Meal):
    """A meal booked and paid from the purse."""

    __slots__ = ()
    TYPE: ClassVar[int] = RecordType.BOOKING


class Cancellation(_Meal):
    """A booking taken back, its price returned to the purse."""

    __slots__ = ()
    TYPE: ClassVar[int] = RecordType.CANCELLATION


class Collection(_Meal):
    """A booked meal handed out: the token cleared, the purse untouched."""

    __slots__ = ()
    TYPE: ClassVar[int] = RecordType.COLLECTION


@dataclass(slots=True, repr=False)
class Completion(RecordBody):
    """A card's own last proof, carried in by the next terminal that saw the card (R20)."""

    TYPE: ClassVar[int] = RecordType.COMPLETION
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("!IIHBBI7sBIiIH2x8sQ")
    NEVER_ZERO: ClassVar[tuple[str, ...]] = (
        "original_terminal",
        "original_sequence",
        "original_epoch",
        "card",
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
    """PBOC purse: clock_ms of the original; AES card: serial or sequence of a load, meal or refund."""

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """As the others, and Malformed unless the original is of a type that a card proves."""
        decoded = super(Completion, cls).decode(body)
        if decoded.original_type not in PROVED_TYPES:
            raise Malformed("Completion", f"original type {decoded.original_type:02X}", offset=50)
        if not decoded.amount_cents and decoded.original_type not in MEAL_TYPES:
            raise Malformed("Completion", "amount_cents is 0")
        return decoded
