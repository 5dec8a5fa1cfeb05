"""What an AES card says of its serials and meal tokens: READ MEALS (docs/protocol.md §12, R22, R23). Pure.

A token is a booked meal: booking serial, place (day, meal, menu) and the price paid for it. The card has room for four.
The answer bears no MAC: it says what to ask the card for, and the card itself decides whether that is so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from protocol.errors import Malformed, OutOfRange

TOKENS_MAX: Final = 4
_PLACE: Final = struct.Struct("!HBB")
_SERIALS: Final = struct.Struct("!II")
_TOKEN: Final = struct.Struct("!IHBBI")
TOKENS_BYTES: Final = TOKENS_MAX * _TOKEN.size
MEALS_ANSWER_BYTES: Final = _SERIALS.size + TOKENS_BYTES
assert (_PLACE.size, MEALS_ANSWER_BYTES) == (4, 56)


class MealPlace(NamedTuple):
    """Which meal: the *detail* of a card's command, and the last fields of the meal records."""

    day: int
    """Local day, days since 1970-01-01."""
    meal: int
    menu: int

    def encode(self) -> bytes:
        """4 bytes. Raises OutOfRange."""
        try:
            return _PLACE.pack(*self)
        except struct.error as error:
            raise OutOfRange(f"meal: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> MealPlace:
        """From 4 bytes."""
        return cls(*_PLACE.unpack(data))


NO_MEAL: Final = MealPlace(0, 0, 0)


class Token(NamedTuple):
    """One booked meal on the card."""

    serial: int
    place: MealPlace
    price_cents: int


def encode_tokens(tokens: Iterable[Token]) -> bytes:
    """TOKENS_BYTES, free places zero. Raises OutOfRange for more than TOKENS_MAX."""
    try:
        packed = b"".join(_TOKEN.pack(each.serial, *each.place, each.price_cents) for each in tokens)
    except struct.error as error:
        raise OutOfRange(f"token: {error}") from None
    if len(packed) > TOKENS_BYTES:
        raise OutOfRange(f"more than {TOKENS_MAX} tokens")
    return packed.ljust(TOKENS_BYTES, b"\0")


def decode_tokens(data: bytes) -> tuple[Token, ...]:
    """The tokens in their order, free places left out. Raises Malformed."""
    if len(data) != TOKENS_BYTES:
        raise Malformed("tokens", f"{len(data)} bytes, not {TOKENS_BYTES}")
    found = []
    for serial, day, meal, menu, price in _TOKEN.iter_unpack(data):
        if serial:
            found.append(Token(serial, MealPlace(day, meal, menu), price))
        elif day or meal or menu or price:
            raise Malformed("tokens", "a free place that is not zero")
    return tuple(found)


@dataclass(slots=True, frozen=True)
class CardMeals:
    """The answer to READ MEALS."""

    load_serial: int = 0
    """The highest that the card has taken."""
    booking_serial: int = 0
    tokens: tuple[Token, ...] = ()

    def encode(self) -> bytes:
        """The 56 bytes of the answer. Raises OutOfRange."""
        try:
            return _SERIALS.pack(self.load_serial, self.booking_serial) + encode_tokens(self.tokens)
        except struct.error as error:
            raise OutOfRange(f"serial: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> CardMeals:
        """Raises Malformed for another length, or a free place that is not zero."""
        if len(data) != MEALS_ANSWER_BYTES:
            raise Malformed("READ MEALS answer", f"{len(data)} bytes, not {MEALS_ANSWER_BYTES}")
        load_serial, booking_serial = _SERIALS.unpack_from(data)
        return cls(load_serial, booking_serial, decode_tokens(data[_SERIALS.size :]))
