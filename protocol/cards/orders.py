"""What a terminal can ask an AES card to do to its purse and its tokens, as one table (docs/protocol.md §12). Pure.

    data = amount u32, currency u16, terminal u32, epoch u16, sequence u32 [, reference u32, detail(4)], MAC(8)

DEBIT has no part in brackets; the other five have. Each verb has its own instruction, MAC label and key, and makes a
proof of its own type: no MAC of one can serve another.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from protocol.cards.apdu import (
    DEBIT_FIELDS,
    INS_DEBIT,
    MAC_BYTES,
    CardOrder,
    Identity,
    card_command,
    challenges,
    packed,
    sized,
)
from protocol.cards.meals import NO_MEAL, MealPlace
from protocol.codes import RecordType
from protocol.errors import OutOfRange

INS_LOAD: Final = 0x52
INS_BOOK: Final = 0x56
INS_REFUND: Final = 0x58
INS_CANCEL: Final = 0x62
INS_COLLECT: Final = 0x64

_REFERENCE: Final = struct.Struct("!I4s")
_ORDER_BYTES: Final = DEBIT_FIELDS.size + _REFERENCE.size
assert _ORDER_BYTES == 24


class KeyPurpose(IntEnum):
    """Which of a card's keys a terminal's MAC is made with; TAC keys are no terminal's."""

    AUTHENTICATE = 0
    DEBIT = 1
    REFUND = 2
    LOAD = 3


@dataclass(slots=True, frozen=True)
class Verb:
    """One transaction of the card."""

    type: int
    """Record type, as in the card's proof."""
    ins: int
    label: bytes
    """First byte under the MAC."""
    purpose: KeyPurpose
    sign: int
    """What it does to the purse: -1 takes, 1 gives, 0 leaves it."""

    @property
    def data_bytes(self) -> int:
        """Lc of the command."""
        return (DEBIT_FIELDS.size if self.type == RecordType.PURCHASE else _ORDER_BYTES) + MAC_BYTES


VERBS: Final[Mapping[int, Verb]] = MappingProxyType(
    {
        each.type: each
        for each in (
            Verb(RecordType.PURCHASE, INS_DEBIT, b"\x02", KeyPurpose.DEBIT, -1),
            Verb(RecordType.REFUND, INS_REFUND, b"\x04", KeyPurpose.REFUND, 1),
            Verb(RecordType.LOAD, INS_LOAD, b"\x05", KeyPurpose.LOAD, 1),
            Verb(RecordType.BOOKING, INS_BOOK, b"\x06", KeyPurpose.DEBIT, -1),
            Verb(RecordType.CANCELLATION, INS_CANCEL, b"\x07", KeyPurpose.REFUND, 1),
            Verb(RecordType.COLLECTION, INS_COLLECT, b"\x08", KeyPurpose.DEBIT, 0),
        )
    }
)
"""By record type."""
VERB_OF_INS: Final[Mapping[int, Verb]] = MappingProxyType({each.ins: each for each in VERBS.values()})


def order_fields(order: CardOrder) -> bytes:
    """The 16 or 24 bytes of a transaction in front of its MAC. Raises OutOfRange."""
    if order.type not in VERBS:
        raise OutOfRange(f"no card makes a transaction of type {order.type:02X}")
    who = order.identity
    fields = packed(DEBIT_FIELDS, order.amount_cents, order.currency, who.terminal, who.epoch, who.sequence)
    if order.type == RecordType.PURCHASE:
        if order.reference or order.meal != NO_MEAL:
            raise OutOfRange("a purchase has neither reference nor meal")
        return fields
    return fields + packed(_REFERENCE, order.reference, order.meal.encode())


def parse_order(verb: Verb, fields: bytes) -> CardOrder:
    """What `fields` (as of `order_fields`, right in length) ask for."""
    amount, currency, terminal, epoch, sequence = DEBIT_FIELDS.unpack_from(fields)
    reference, meal = 0, NO_MEAL
    if verb.type != RecordType.PURCHASE:
        reference, detail = _REFERENCE.unpack_from(fields, DEBIT_FIELDS.size)
        meal = MealPlace.decode(detail)
    return CardOrder(amount, currency, Identity(terminal, epoch, sequence), verb.type, reference, meal)


def order_mac_input(verb: Verb, terminal_challenge: bytes, card_challenge: bytes, fields: bytes) -> bytes:
    """What the terminal's MAC of a transaction covers."""
    return verb.label + challenges(terminal_challenge, card_challenge) + sized(fields, verb.data_bytes - MAC_BYTES)


def order_command(key_version: int, order: CardOrder, mac: bytes) -> bytes:
    """The command for an order; `mac` by the SAM over `order_mac_input`."""
    fields = order_fields(order)
    return card_command(VERBS[order.type].ins, key_version, fields + sized(mac, MAC_BYTES))
