"""Seals of records, chains of seals, card proofs (docs/protocol.md §7.3, RULES R2–R4, R6, R9). Pure.

Every MAC made with a seal key is a record, or starts with FF and a purpose byte; no record starts with FF, so none
can be passed off as another. Callers choose the MacKey of the proof suite that the register names for the terminal.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.codes import RECORD_TYPES_FORBIDDEN
from protocol.errors import OutOfRange
from protocol.limits import RECORD_BYTES_MIN
from protocol.mac import SEAL_BYTES, MacKey
from protocol.record_bodies import Transaction
from protocol.records import (
    LENGTH_OFFSET,
    PREVIOUS_SEAL_OFFSET_FROM_END,
    SEAL_OFFSET_FROM_END,
    Buffer,
    Completion,
    RecordHead,
    seal_of,
    walk,
)

ENROLMENT_ID_BYTES: Final = 8
_PURPOSE_GENESIS: Final = b"\xff\x01"
_PURPOSE_BASELINE: Final = b"\xff\x02"
_PURPOSE_TOMBSTONE: Final = b"\xff\x03"
_GENESIS: Final = struct.Struct("!2sIH8s")
TAC_INPUT: Final = struct.Struct("!BIHIIHIIi")
"""What a card proves: type, amount, currency, card, terminal, epoch, sequence, counter, balance after."""
assert TAC_INPUT.size == 29


def seal_record(seal_key: MacKey, unsealed: Buffer) -> bytes:
    """The seal (8 bytes) over a record's bytes up to it, predecessor's seal included."""
    if len(unsealed) < RECORD_BYTES_MIN - SEAL_BYTES or unsealed[0] in RECORD_TYPES_FORBIDDEN:
        raise OutOfRange("no record starts like this; its seal would serve another purpose")
    return seal_key.mac8(unsealed)


def verify_record(seal_key: MacKey, record: Buffer) -> bool:
    """Whether one whole record bears its seal; False for bytes that are no whole record."""
    if len(record) < RECORD_BYTES_MIN or record[LENGTH_OFFSET] != len(record):
        return False
    view = memoryview(record)
    sealed, seal = view[:-SEAL_OFFSET_FROM_END], view[-SEAL_OFFSET_FROM_END:]
    return record[0] not in RECORD_TYPES_FORBIDDEN and seal_key.verifies(seal, sealed)


def genesis_seal(seal_key: MacKey, terminal: int, epoch: int, enrolment_id: bytes) -> bytes:
    """What stands for the predecessor's seal in the record of sequence 1."""
    if len(enrolment_id) != ENROLMENT_ID_BYTES:
        raise OutOfRange(f"an enrolment id has {ENROLMENT_ID_BYTES} bytes, not {len(enrolment_id)}")
    try:
        return seal_key.mac8(_GENESIS.pack(_PURPOSE_GENESIS, terminal, epoch, enrolment_id))
    except struct.error as error:
        raise OutOfRange(f"genesis seal: {error}") from None


def seal_baseline(seal_key: MacKey, sealed_part: Buffer) -> bytes:
    """The seal of a BASELINE; `sealed_part` is the message before its seal, without purpose bytes (R6)."""
    return seal_key.mac8(_PURPOSE_BASELINE, _message(sealed_part))


def verify_baseline(seal_key: MacKey, seal: Buffer, sealed_part: Buffer) -> bool:
    """Whether `seal` (8 bytes) is that of the BASELINE."""
    return len(seal) == SEAL_BYTES and seal_key.verifies(bytes(seal), _PURPOSE_BASELINE, sealed_part)


def seal_tombstone(seal_key: MacKey, sealed_part: Buffer) -> bytes:
    """The seal of a TOMBSTONE; `sealed_part` is the message before its seal, without purpose bytes (R9)."""
    return seal_key.mac8(_PURPOSE_TOMBSTONE, _message(sealed_part))


def verify_tombstone(seal_key: MacKey, seal: Buffer, sealed_part: Buffer) -> bool:
    """Whether `seal` (8 bytes) is that of the TOMBSTONE."""
    return len(seal) == SEAL_BYTES and seal_key.verifies(bytes(seal), _PURPOSE_TOMBSTONE, sealed_part)


def _message(sealed_part: Buffer) -> Buffer:
    if not sealed_part or sealed_part[0] == _PURPOSE_BASELINE[0]:
        raise OutOfRange("the sealed part of a message starts with its type, not with purpose bytes")
    return sealed_part


class ChainFault(Enum):
    SEAL = "a record does not bear its own seal"
    LINK = "a record does not name its predecessor's seal"


@dataclass(slots=True, frozen=True)
class ChainCheck:
    """Outcome of `verify_chain`: how many leading records hold, and what the next one breaks, if any."""

    good: int
    last_seal: bytes | None
    """Seal of the last good record; the seal given when there is none."""
    fault: ChainFault | None

    def __repr__(self) -> str:
        return f"ChainCheck(good={self.good}, fault={self.fault})"


def verify_chain(seal_key: MacKey, payload: Buffer, previous_seal: Buffer | None) -> ChainCheck:
    """Verify consecutive records: every seal, and every link to the one before (R3).

    `previous_seal` None: not known (after a tombstone), so the first link is not checked. Raises Malformed where
    the payload is not whole records.
    """
    expected = None if previous_seal is None else bytes(previous_seal)
    good = 0
    for record in walk(payload):
        if not verify_record(seal_key, record):
            return ChainCheck(good, expected, ChainFault.SEAL)
        if expected is not None and record[-PREVIOUS_SEAL_OFFSET_FROM_END:-SEAL_OFFSET_FROM_END] != expected:
            return ChainCheck(good, expected, ChainFault.LINK)
        expected = seal_of(record)
        good += 1
    return ChainCheck(good, expected, None)


def _tac_input(
    *,
    type_: int,
    amount: int,
    currency: int,
    card: int,
    terminal: int,
    epoch: int,
    sequence: int,
    counter: int,
    balance_after: int,
) -> bytes:
    try:
        return TAC_INPUT.pack(type_, amount, currency, card, terminal, epoch, sequence, counter, balance_after)
    except struct.error as error:
        raise OutOfRange(f"card proof: {error}") from None


def tac(
    card_tac_key: MacKey,
    *,
    type_: int,
    amount: int,
    currency: int,
    card: int,
    terminal: int,
    epoch: int,
    sequence: int,
    counter: int,
    balance_after: int,
) -> bytes:
    """The card proof (TAC 交易认证码, 8 bytes) as the card makes it; amounts in cents (R2)."""
    return card_tac_key.mac8(
        _tac_input(
            type_=type_,
            amount=amount,
            currency=currency,
            card=card,
            terminal=terminal,
            epoch=epoch,
            sequence=sequence,
            counter=counter,
            balance_after=balance_after,
        )
    )


def verify_tac(
    card_tac_key: MacKey,
    proof: Buffer,
    *,
    type_: int,
    amount: int,
    currency: int,
    card: int,
    terminal: int,
    epoch: int,
    sequence: int,
    counter: int,
    balance_after: int,
) -> bool:
    """Whether `proof` (8 bytes) is the card's proof of exactly these facts."""
    facts = _tac_input(
        type_=type_,
        amount=amount,
        currency=currency,
        card=card,
        terminal=terminal,
        epoch=epoch,
        sequence=sequence,
        counter=counter,
        balance_after=balance_after,
    )
    return len(proof) == SEAL_BYTES and card_tac_key.verifies(bytes(proof), facts)


def verify_card_proof(card_tac_key: MacKey, head: RecordHead, body: Transaction | Completion) -> bool:
    """Whether the card's proof inside a record holds; a completion proves its original identity (R20)."""
    if isinstance(body, Completion):
        type_, terminal = body.original_type, body.original_terminal
        epoch, sequence = body.original_epoch, body.original_sequence
    else:
        type_, terminal, epoch, sequence = head.type, head.terminal, head.epoch, head.sequence
    return verify_tac(
        card_tac_key,
        body.proof,
        type_=type_,
        amount=body.amount_cents,
        currency=body.currency,
        card=body.card,
        terminal=terminal,
        epoch=epoch,
        sequence=sequence,
        counter=body.counter,
        balance_after=body.balance_after_cents,
    )
