"""Commands and answers of the PBOC purse as bytes (docs/cards.md). Pure; keys and states are elsewhere.

SELECT is that of our AES card, and so is its answer, with kind 03: the site's own data in the application's FCI. The
log record has the standard's 23 bytes and then two fields of our own, terminal sequence and balance after: without
the sequence no other terminal could name the record that a forgotten TAC belongs to (R20).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from protocol.cards.apdu import CLA_CARD, CLA_ISO, KEY_VERSION_MAX, CardProof, DebitOrder, Identity
from protocol.cards.pboc_macs import MOMENT_BYTES, RANDOM_BYTES, TAC_BYTES, TransactionType, as_proof, terminal6
from protocol.codes import RecordType
from protocol.errors import Malformed, OutOfRange

INS_INITIALIZE: Final = 0x50
INS_CREDIT: Final = 0x52
INS_DEBIT: Final = 0x54
INS_GET_PROOF: Final = 0x5A
INS_GET_BALANCE: Final = 0x5C
INS_GET_CHALLENGE: Final = 0x84
INS_INTERNAL_AUTHENTICATE: Final = 0x88
INS_READ_BINARY: Final = 0xB0
INS_READ_RECORD: Final = 0xB2
INS_UPDATE_BINARY: Final = 0xD6
CLA_SECURE: Final = 0x04

MAC_BYTES: Final = 4
AUTHENTICATION_BYTES: Final = 8
COUNTER_MAX: Final = 0xFFFF
LOG_FILE: Final = 0x18 << 3 | 0x04  # SFI 18 (transaction details), record number in P1
LOG_PURCHASE: Final = 0x01
LOG_LOAD: Final = 0x02
SITE_FILE: Final = 0x80 | 0x1A  # SFI 1A, the site's own
SITE_COLLECTED: Final = 0x00  # u16: the offline counter last collected
SITE_LOAD: Final = 0x02  # u32: the highest load serial

INITIALIZE_FIELDS: Final = struct.Struct("!BI6s")
PURCHASE_READY: Final = struct.Struct("!IH3sBB4s")
LOAD_READY: Final = struct.Struct("!IHBB4s4s")
DEBIT_FIELDS: Final = struct.Struct("!I7s4s")
DEBIT_ANSWER: Final = struct.Struct("!4s4s")
CREDIT_FIELDS: Final = struct.Struct("!7s4s")
PROOF_ANSWER: Final = struct.Struct("!4s4s")
LOG_RECORD: Final = struct.Struct("!H3xIB6s7sIi")
CONFIRM_FIELDS: Final = struct.Struct("!H4s")
ORDER_FIELDS: Final = struct.Struct("!II4s")
_SERIAL: Final = struct.Struct("!I")
_ORDER: Final = struct.Struct("!II")
_COUNTER: Final = struct.Struct("!H")
_TERMINAL: Final = struct.Struct("!IH")
assert (INITIALIZE_FIELDS.size, PURCHASE_READY.size, LOAD_READY.size) == (11, 15, 16)
assert (DEBIT_FIELDS.size, CREDIT_FIELDS.size, LOG_RECORD.size) == (15, 11, 23 + 8)

GET_BALANCE_COMMAND: Final = bytes((CLA_CARD, INS_GET_BALANCE, 0x00, 0x02, 0x04))
GET_CHALLENGE_COMMAND: Final = bytes((CLA_ISO, INS_GET_CHALLENGE, 0x00, 0x00, RANDOM_BYTES))
READ_LAST_PURCHASE_COMMAND: Final = bytes((CLA_ISO, INS_READ_RECORD, LOG_PURCHASE, LOG_FILE, LOG_RECORD.size))
READ_LAST_LOAD_COMMAND: Final = bytes((CLA_ISO, INS_READ_RECORD, LOG_LOAD, LOG_FILE, LOG_RECORD.size))
READ_LOAD_SERIAL_COMMAND: Final = bytes((CLA_ISO, INS_READ_BINARY, SITE_FILE, SITE_LOAD, _SERIAL.size))


class PbocStatus(IntEnum):
    DONE = 0x9000
    WRONG_LENGTH = 0x6700
    SECURE_MAC_WRONG = 0x6988
    NOT_IN_THIS_STATE = 0x6985
    BAD_DATA = 0x6A80
    NO_RECORD = 0x6A83
    UNKNOWN_COMMAND = 0x6D00
    MAC_WRONG = 0x9302
    BALANCE_TOO_LOW = 0x9401
    COUNTER_EXHAUSTED = 0x9402
    KEY_UNKNOWN = 0x9403
    NO_PROOF = 0x9406


@dataclass(slots=True, frozen=True)
class Initialized:
    """What INITIALIZE FOR PURCHASE or FOR LOAD states; `mac1` only for a load."""

    balance_cents: int
    counter: int
    key_version: int
    random: bytes
    mac1: bytes = b""

    def __repr__(self) -> str:
        return f"Initialized(balance_cents={self.balance_cents}, counter={self.counter})"


@dataclass(slots=True, frozen=True)
class LogEntry:
    """One transaction as the card logs it; `counter` is the one before it, as INITIALIZE gave it."""

    counter: int
    amount_cents: int
    type: int
    terminal: bytes
    """6 bytes."""
    moment: bytes
    sequence: int
    """Of a load as the order that was announced states it; its own command carries none."""
    balance_after_cents: int

    def encode(self) -> bytes:
        return _packed(
            LOG_RECORD,
            self.counter,
            self.amount_cents,
            self.type,
            self.terminal,
            self.moment,
            self.sequence,
            self.balance_after_cents,
        )

    @classmethod
    def decode(cls, data: bytes) -> LogEntry:
        """Raises Malformed for another length."""
        return cls(*_taken(LOG_RECORD, data, "log record"))

    def proof(self, currency: int, tac: bytes) -> CardProof:
        """What a completion states of it. Raises Malformed for a log that names no purchase of ours."""
        terminal, epoch = _TERMINAL.unpack(self.terminal)
        if self.type != TransactionType.PURCHASE or not (terminal and epoch and self.sequence and self.amount_cents):
            raise Malformed("log record", "no purchase of ours")
        return CardProof(
            RecordType.PURCHASE,
            Identity(terminal, epoch, self.sequence),
            self.amount_cents,
            currency,
            self.counter + 1,
            self.balance_after_cents,
            as_proof(tac),
        )


def internal_authenticate_command(key_version: int, challenge: bytes) -> bytes:
    """INTERNAL AUTHENTICATE with 8 random bytes of the terminal."""
    if len(challenge) != AUTHENTICATION_BYTES:
        raise OutOfRange(f"a challenge of {len(challenge)} bytes")
    return _command(CLA_ISO, INS_INTERNAL_AUTHENTICATE, 0x00, _version(key_version), challenge)


def initialize_purchase_command(key_version: int, amount_cents: int, terminal: int, epoch: int) -> bytes:
    data = _packed(INITIALIZE_FIELDS, _version(key_version), amount_cents, terminal6(terminal, epoch))
    return _command(CLA_CARD, INS_INITIALIZE, 0x01, 0x02, data)


def initialize_load_command(key_version: int, amount_cents: int, terminal: int, epoch: int) -> bytes:
    data = _packed(INITIALIZE_FIELDS, _version(key_version), amount_cents, terminal6(terminal, epoch))
    return _command(CLA_CARD, INS_INITIALIZE, 0x00, 0x02, data)


def debit_command(order: DebitOrder, moment: bytes, mac1: bytes) -> bytes:
    data = _packed(DEBIT_FIELDS, order.identity.sequence, _sized(moment, MOMENT_BYTES), _sized(mac1, MAC_BYTES))
    return _command(CLA_CARD, INS_DEBIT, 0x01, 0x00, data)


def credit_command(moment: bytes, mac2: bytes) -> bytes:
    data = _packed(CREDIT_FIELDS, _sized(moment, MOMENT_BYTES), _sized(mac2, MAC_BYTES))
    return _command(CLA_CARD, INS_CREDIT, 0x00, 0x00, data)


def get_proof_command(type_: int, counter: int) -> bytes:
    """GET TRANSACTION PROVE of the transaction that INITIALIZE gave this counter for."""
    return _command(CLA_CARD, INS_GET_PROOF, 0x00, type_, _packed(_COUNTER, counter))


def confirm_header(counter: int) -> bytes:
    """What the MAC of a confirmation covers: header and data of UPDATE BINARY on the site file."""
    return bytes((CLA_SECURE, INS_UPDATE_BINARY, SITE_FILE, 0x00, CONFIRM_FIELDS.size)) + _packed(_COUNTER, counter)


def confirm_command(counter: int, mac: bytes) -> bytes:
    return confirm_header(counter) + _sized(mac, MAC_BYTES)


def order_header(serial: int, sequence: int) -> bytes:
    """What the MAC of an announced load order covers: its serial, and the sequence of the station's record."""
    return bytes((CLA_SECURE, INS_UPDATE_BINARY, SITE_FILE, SITE_LOAD, ORDER_FIELDS.size)) + _packed(
        _ORDER, serial, sequence
    )


def announce_command(serial: int, sequence: int, mac: bytes) -> bytes:
    return order_header(serial, sequence) + _sized(mac, MAC_BYTES)


def parse_load_serial(data: bytes) -> int:
    """Raises Malformed for another length."""
    return int(_taken(_SERIAL, data, "load serial")[0])


def parse_purchase_ready(data: bytes) -> Initialized:
    """Raises Malformed for another length."""
    balance, counter, _overdraft, version, _algorithm, random = _taken(PURCHASE_READY, data, "INITIALIZE answer")
    return Initialized(balance, counter, version, random)


def parse_load_ready(data: bytes) -> Initialized:
    """Raises Malformed for another length."""
    balance, counter, version, _algorithm, random, mac1 = _taken(LOAD_READY, data, "INITIALIZE answer")
    return Initialized(balance, counter, version, random, mac1)


def parse_debit(data: bytes) -> tuple[bytes, bytes]:
    """(TAC, MAC2). Raises Malformed for another length."""
    tac, mac2 = _taken(DEBIT_ANSWER, data, "DEBIT answer")
    return tac, mac2


def parse_proof(data: bytes) -> tuple[bytes, bytes]:
    """(MAC2, TAC) of GET TRANSACTION PROVE. Raises Malformed for another length."""
    mac2, tac = _taken(PROOF_ANSWER, data, "proof")
    return mac2, tac


def parse_exact(data: bytes, size: int, what: str) -> bytes:
    """Raises Malformed for another length."""
    if len(data) != size:
        raise Malformed(what, f"{len(data)} bytes, not {size}")
    return data


assert DEBIT_ANSWER.size == TAC_BYTES + MAC_BYTES


def _command(cla: int, ins: int, p1: int, p2: int, data: bytes) -> bytes:
    return bytes((cla, ins, p1, p2, len(data))) + data


def _version(key_version: int) -> int:
    if not 0 <= key_version <= KEY_VERSION_MAX:
        raise OutOfRange(f"key version {key_version}")
    return key_version


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise OutOfRange(f"{len(value)} bytes where {size} belong")
    return value


def _packed(layout: struct.Struct, *values: int | bytes) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise OutOfRange(f"a value does not fit its field: {error}") from None


def _taken(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    return layout.unpack(parse_exact(data, layout.size, what))
