"""The AES card's commands and answers as bytes (docs/protocol.md §12). Pure; keys and states are elsewhere.

    command = CLA INS P1 P2 Lc data          answer = data SW1 SW2

Builders serve the terminal, parsers of answers too; the card core takes commands apart with the layouts here. The
commands that move money or tokens are in `orders`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from protocol.cards.meals import NO_MEAL, MealPlace
from protocol.codes import RecordType
from protocol.errors import Malformed, OutOfRange
from protocol.keys import CARD_APPLICATION_ID
from protocol.mac import SEAL_BYTES
from protocol.record_bodies import card_masked

CHALLENGE_BYTES: Final = 16
MAC_BYTES: Final = SEAL_BYTES
COMMAND_BYTES_MAX: Final = 5 + 255
KEY_VERSION_MAX: Final = 255

INS_SELECT: Final = 0xA4
INS_AUTHENTICATE: Final = 0x82
INS_DEBIT: Final = 0x54
INS_GET_PROOF: Final = 0x5A
INS_CONFIRM: Final = 0x5C
INS_READ_MEALS: Final = 0x66
CLA_ISO: Final = 0x00
CLA_CARD: Final = 0x80

SELECT_COMMAND: Final = bytes((CLA_ISO, INS_SELECT, 0x04, 0x00, 0x03)) + CARD_APPLICATION_ID
GET_PROOF_COMMAND: Final = bytes((CLA_CARD, INS_GET_PROOF, 0x00, 0x00, 0x00))
READ_MEALS_COMMAND: Final = bytes((CLA_CARD, INS_READ_MEALS, 0x00, 0x00, 0x00))

SELECT_ANSWER: Final = struct.Struct("!BB7sIHBIBB")
AUTHENTICATE_ANSWER: Final = struct.Struct("!16siI8s")
DEBIT_FIELDS: Final = struct.Struct("!IHIHI")
DEBIT_ANSWER: Final = struct.Struct("!iI8s")
PROOF_ANSWER: Final = struct.Struct("!BBHIIIHHIi8sI")
IDENTITY_FIELDS: Final = struct.Struct("!IHI")
_AUTHENTICATED_FIELDS: Final = struct.Struct("!IiI")
assert (SELECT_ANSWER.size, AUTHENTICATE_ANSWER.size, DEBIT_ANSWER.size, PROOF_ANSWER.size) == (22, 32, 16, 40)
assert (DEBIT_FIELDS.size, IDENTITY_FIELDS.size) == (16, 10)

FLAG_PROOF_PENDING: Final = 0x01


class StatusWord(IntEnum):
    DONE = 0x9000
    WRONG_LENGTH = 0x6700
    MAC_WRONG = 0x6982
    NOT_IN_THIS_STATE = 0x6985
    AMOUNT_OR_CURRENCY = 0x6A80
    NO_SUCH_TOKEN = 0x6A83
    NO_ROOM = 0x6A84
    NO_PROOF_KEPT = 0x6A88
    UNKNOWN_COMMAND = 0x6D00
    BALANCE_TOO_LOW = 0x9401
    KEY_VERSION_UNKNOWN = 0x9403
    COUNTER_EXHAUSTED = 0x9406
    NOT_REFUNDABLE = 0x9407
    SERIAL_USED = 0x9408


@dataclass(slots=True, frozen=True)
class Identity:
    """The record that a debit is for (R1)."""

    terminal: int
    epoch: int
    sequence: int


@dataclass(slots=True, frozen=True)
class CardOrder:
    """What a transaction asks of a card, with the identity allocated for it; as it stands, a DEBIT."""

    amount_cents: int
    currency: int
    """ISO 4217."""
    identity: Identity
    type: int = RecordType.PURCHASE
    """Of the record, and in the card's proof."""
    reference: int = 0
    """Refund: sequence of the purchase; load, meals: the serial; a purchase has none."""
    meal: MealPlace = NO_MEAL


DebitOrder = CardOrder
"""The name for an order of a purchase."""


@dataclass(slots=True, frozen=True, repr=False)
class CardFacts:
    """What a card states at SELECT. Only number and UID are proved later, by AUTHENTICATE; the rest is a claim."""

    kind: int
    key_version: int
    uid: bytes
    number: int
    currency: int
    proof_pending: bool
    valid_until_day: int
    """Days since 1970; 0: no end."""
    group: int

    def __repr__(self) -> str:
        return f"CardFacts({card_masked(self.number)}, key_version={self.key_version}, pending={self.proof_pending})"


@dataclass(slots=True, frozen=True)
class AuthenticateAnswer:
    challenge: bytes
    balance_cents: int
    counter: int
    mac: bytes

    def __repr__(self) -> str:
        return f"AuthenticateAnswer(balance_cents={self.balance_cents}, counter={self.counter})"


@dataclass(slots=True, frozen=True)
class DebitAnswer:
    balance_after_cents: int
    counter: int
    proof: bytes

    def __repr__(self) -> str:
        return f"DebitAnswer(balance_after_cents={self.balance_after_cents}, counter={self.counter})"


@dataclass(slots=True, frozen=True)
class CardProof:
    """The last proof a card keeps: what it was for, and the TAC over it (R2, R20)."""

    type: int
    identity: Identity
    amount_cents: int
    currency: int
    counter: int
    balance_after_cents: int
    proof: bytes
    reference: int = 0
    """Of the order; not under the TAC."""

    def encode(self) -> bytes:
        """The 40 bytes of the answer to GET PROOF."""
        return PROOF_ANSWER.pack(
            self.type,
            0,
            self.identity.epoch,
            self.identity.terminal,
            self.identity.sequence,
            self.amount_cents,
            self.currency,
            0,
            self.counter,
            self.balance_after_cents,
            self.proof,
            self.reference,
        )

    @classmethod
    def decode(cls, data: bytes) -> CardProof:
        """Raises Malformed for another length or a reserved field that is not zero."""
        values = _taken(PROOF_ANSWER, data, "proof")
        kind, reserved1, epoch, terminal, sequence, amount, currency, reserved2, *rest = values
        if reserved1 or reserved2:
            raise Malformed("proof", "a reserved field is not zero")
        return cls(kind, Identity(terminal, epoch, sequence), amount, currency, *rest)

    def __repr__(self) -> str:
        return f"CardProof({self.identity}, amount_cents={self.amount_cents}, counter={self.counter})"


def authenticate_command(key_version: int, challenge: bytes) -> bytes:
    """AUTHENTICATE with the terminal's own challenge (16 random bytes, new each time)."""
    return card_command(INS_AUTHENTICATE, key_version, sized(challenge, CHALLENGE_BYTES))


def confirm_command(key_version: int, identity: Identity, mac: bytes) -> bytes:
    """CONFIRM; `mac` by the SAM over `confirm_mac_input`."""
    return card_command(INS_CONFIRM, key_version, identity_fields(identity) + sized(mac, MAC_BYTES))


def split_answer(answer: bytes) -> tuple[bytes, int]:
    """(data, status word). Raises Malformed for less than a status word."""
    if len(answer) < 2:
        raise Malformed("card answer", f"{len(answer)} bytes")
    return answer[:-2], int.from_bytes(answer[-2:], "big")


def parse_select(data: bytes) -> CardFacts:
    """Raises Malformed for another length, card number 0, or reserved bits that are not zero."""
    kind, version, uid, number, currency, flags, until, group, reserved = _taken(SELECT_ANSWER, data, "SELECT answer")
    if number == 0:
        raise Malformed("SELECT answer", "card number 0")
    if reserved or flags & ~FLAG_PROOF_PENDING:
        raise Malformed("SELECT answer", "a reserved field is not zero")
    return CardFacts(kind, version, uid, number, currency, bool(flags & FLAG_PROOF_PENDING), until, group)


def parse_authenticate(data: bytes) -> AuthenticateAnswer:
    """Raises Malformed for another length. Proves nothing until the SAM has verified it."""
    return AuthenticateAnswer(*_taken(AUTHENTICATE_ANSWER, data, "AUTHENTICATE answer"))


def parse_debit(data: bytes) -> DebitAnswer:
    """The answer to any transaction. Raises Malformed for another length."""
    return DebitAnswer(*_taken(DEBIT_ANSWER, data, "DEBIT answer"))


def identity_fields(identity: Identity) -> bytes:
    """The 10 bytes of a CONFIRM in front of its MAC. Raises OutOfRange."""
    return packed(IDENTITY_FIELDS, identity.terminal, identity.epoch, identity.sequence)


def authenticate_mac_input(
    terminal_challenge: bytes, card_challenge: bytes, number: int, balance_cents: int, counter: int
) -> bytes:
    """What the card's authenticate MAC covers."""
    stated = packed(_AUTHENTICATED_FIELDS, number, balance_cents, counter)
    return b"\x01" + challenges(terminal_challenge, card_challenge) + stated


def confirm_mac_input(terminal_challenge: bytes, card_challenge: bytes, fields: bytes) -> bytes:
    """What the terminal's confirm MAC covers; `fields` from `identity_fields`."""
    return b"\x03" + challenges(terminal_challenge, card_challenge) + sized(fields, IDENTITY_FIELDS.size)


def card_command(ins: int, key_version: int, data: bytes) -> bytes:
    """CLA INS P1 P2 Lc data, P1 the key version. Raises OutOfRange."""
    if not 0 <= key_version <= KEY_VERSION_MAX:
        raise OutOfRange(f"key version {key_version}")
    return bytes((CLA_CARD, ins, key_version, 0x00, len(data))) + data


def challenges(terminal_challenge: bytes, card_challenge: bytes) -> bytes:
    """Both random numbers (rndT ‖ rndC), as every MAC of a dialogue covers them."""
    return sized(terminal_challenge, CHALLENGE_BYTES) + sized(card_challenge, CHALLENGE_BYTES)


def sized(value: bytes, size: int) -> bytes:
    """The value, if it has `size` bytes. Raises OutOfRange."""
    if len(value) != size:
        raise OutOfRange(f"{len(value)} bytes where {size} belong")
    return bytes(value)


def packed(layout: struct.Struct, *values: int | bytes) -> bytes:
    """Raises OutOfRange when a value does not fit its field."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise OutOfRange(f"a value does not fit its field: {error}") from None


def _taken(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    if len(data) != layout.size:
        raise Malformed(what, f"{len(data)} bytes, not {layout.size}")
    return layout.unpack(data)
