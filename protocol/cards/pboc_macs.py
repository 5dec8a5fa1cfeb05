"""Session keys, MACs and TAC of the PBOC purse (电子钱包), and their place in our records (docs/cards.md, R4). Pure.

    SESPK = 3DES(DPK, random4 ‖ offline counter2 ‖ terminal sequence, low 2 bytes)
    SESLK = 3DES(DLK, random4 ‖ online counter2 ‖ 80 00)
    terminal6 = terminal u32 ‖ epoch u16; terminal sequence = ours: the identity of the record (R1)
    moment7 = date4 ‖ time3, BCD, UTC: the record's own clock_ms, so that the ledger need not be told

A TAC has 4 bytes; in a record's 8-byte proof field they stand left-aligned, then zeros.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hmac import compare_digest
from typing import Final

from protocol.cards.des import des3_block, des3_mac, des_mac, diversified, folded
from protocol.errors import Malformed, OutOfRange
from protocol.keys import CARD_UID_BYTES
from protocol.mac import SEAL_BYTES

RANDOM_BYTES: Final = 4
MOMENT_BYTES: Final = 7
TAC_BYTES: Final = 4
_TERMINAL: Final = struct.Struct("!IH")
_SESSION: Final = struct.Struct("!4sHH")
_LOAD_SESSION_TAIL: Final = 0x8000
_AMOUNT: Final = struct.Struct("!I")
_BALANCE: Final = struct.Struct("!I")
_STATED: Final = struct.Struct("!IB6s")
_LOADED: Final = struct.Struct("!IH")
_LOAD_REFERENCE: Final = struct.Struct("!II")
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31T23:59:59Z: a BCD year has four digits
_BCD_FORMAT: Final = "%Y%m%d%H%M%S"
_KEY_NAME: Final = b"\x03"  # the card kind, so that no other kind's key of the same UID and master can be equal


class TransactionType(IntEnum):
    """交易类型标识; the purse's own two, and the passbook's load of the published example."""

    PASSBOOK_LOAD = 0x01
    LOAD = 0x02
    PURCHASE = 0x06


def pboc_key(master: bytes, uid: bytes) -> bytes:
    """One card one key: 3DES diversification over UID and card kind."""
    if len(uid) != CARD_UID_BYTES:
        raise OutOfRange(f"a card UID has {CARD_UID_BYTES} bytes, not {len(uid)}")
    return diversified(master, uid + _KEY_NAME)


def terminal6(terminal: int, epoch: int) -> bytes:
    """终端机编号 of ours."""
    return _packed(_TERMINAL, terminal, epoch)


def pboc_moment(clock_ms: int) -> bytes:
    """date4 ‖ time3 in BCD of a terminal's clock, whole seconds, UTC. Raises OutOfRange after the year 9999."""
    seconds = clock_ms // 1000
    if not 0 <= seconds <= _SECONDS_MAX:
        raise OutOfRange("a clock outside the years 1970 to 9999")
    return bytes.fromhex((_EPOCH_START + timedelta(seconds=seconds)).strftime(_BCD_FORMAT))


def clock_of_moment(moment: bytes) -> int:
    """The clock_ms, in whole seconds, whose `pboc_moment` this is. Raises Malformed for bytes that are none."""
    try:
        at = datetime.strptime(moment.hex(), _BCD_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise Malformed("date and time", "no moment in BCD") from None
    clock_ms = int((at - _EPOCH_START).total_seconds()) * 1000
    if clock_ms < 0 or pboc_moment(clock_ms) != moment:
        raise Malformed("date and time", "before 1970, or not in this form")
    return clock_ms


def load_reference(serial: int, clock_ms: int) -> int:
    """*Reference* of the completion of a load: load serial u32 ‖ whole seconds of the clock under its TAC, u32."""
    return int.from_bytes(_packed(_LOAD_REFERENCE, serial, clock_ms // 1000), "big")


def split_load_reference(reference: int) -> tuple[int, int]:
    """(load serial, clock_ms in whole seconds)."""
    return reference >> 32, (reference & 0xFFFF_FFFF) * 1000


def purchase_session(dpk: bytes, random: bytes, counter: int, sequence: int) -> bytes:
    """SESPK of one purchase; `counter` as INITIALIZE FOR PURCHASE gave it."""
    return des3_block(dpk, _packed(_SESSION, _random(random), counter, sequence & 0xFFFF))


def purchase_mac1(session: bytes, amount_cents: int, terminal: bytes, moment: bytes) -> bytes:
    """By the terminal's PSAM: it may debit."""
    return des_mac(session, _stated(amount_cents, TransactionType.PURCHASE, terminal) + _moment(moment))


def purchase_mac2(session: bytes, amount_cents: int) -> bytes:
    """By the card: this card has debited this amount in this session."""
    return des_mac(session, _packed(_AMOUNT, amount_cents))


def load_session(dlk: bytes, random: bytes, counter: int) -> bytes:
    """SESLK of one load (圈存); `counter` as INITIALIZE FOR LOAD gave it."""
    return des3_block(dlk, _packed(_SESSION, _random(random), counter, _LOAD_SESSION_TAIL))


def load_mac1(session: bytes, balance_cents: int, amount_cents: int, type_: int, terminal: bytes) -> bytes:
    """By the card: this card, with this balance, asks for this load."""
    return des_mac(session, _packed(_BALANCE, balance_cents) + _stated(amount_cents, type_, terminal))


def load_mac2(session: bytes, amount_cents: int, type_: int, terminal: bytes, moment: bytes) -> bytes:
    """By the load station: the money has been paid."""
    return des_mac(session, _stated(amount_cents, type_, terminal) + _moment(moment))


def purchase_tac(dtk: bytes, amount_cents: int, terminal: bytes, sequence: int, moment: bytes) -> bytes:
    """TAC (交易认证码) of a purchase, 4 bytes; `dtk` is the card's own 16-byte TAC key."""
    stated = _stated(amount_cents, TransactionType.PURCHASE, terminal)
    return des_mac(folded(dtk), stated + _packed(_AMOUNT, sequence) + _moment(moment))


def load_tac(
    dtk: bytes, *, balance_after_cents: int, counter: int, amount_cents: int, terminal: bytes, moment: bytes
) -> bytes:
    """TAC of a load, 4 bytes; `counter` is the online counter before it."""
    stated = _stated(amount_cents, TransactionType.LOAD, terminal)
    return des_mac(folded(dtk), _packed(_LOADED, balance_after_cents, counter) + stated + _moment(moment))


def pboc_tac(dtk: bytes, *, amount_cents: int, terminal: int, epoch: int, sequence: int, moment: bytes) -> bytes:
    """A purchase's TAC as the 8 bytes of a record's card proof: left-aligned, padded with zeros (R4)."""
    return as_proof(purchase_tac(dtk, amount_cents, terminal6(terminal, epoch), sequence, moment))


def verify_pboc_tac(
    dtk: bytes, proof: bytes, *, amount_cents: int, terminal: int, epoch: int, sequence: int, moment: bytes
) -> bool:
    """Whether a record's card proof is this card's TAC. For the ledger: facts that fit no field verify nothing.

    `moment` is `pboc_moment(clock_ms)` of a purchase's own head; a completion carries it from the card's log.
    """
    try:
        expected = pboc_tac(
            dtk, amount_cents=amount_cents, terminal=terminal, epoch=epoch, sequence=sequence, moment=moment
        )
    except OutOfRange:
        return False
    return compare_digest(expected, proof)


def as_proof(tac: bytes) -> bytes:
    """A 4-byte TAC in the 8-byte proof field."""
    return tac + bytes(SEAL_BYTES - len(tac))


def confirm_mac(maintenance_key: bytes, challenge: bytes, header_and_data: bytes) -> bytes:
    """Secure messaging of UPDATE BINARY: ISO 9797-1 algorithm 3 with the card's challenge4 ‖ 0 as IV."""
    return des3_mac(maintenance_key, header_and_data, _random(challenge) + bytes(4))


def _stated(amount_cents: int, type_: int, terminal: bytes) -> bytes:
    if len(terminal) != _TERMINAL.size:
        raise OutOfRange(f"a PBOC terminal number has {_TERMINAL.size} bytes, not {len(terminal)}")
    return _packed(_STATED, amount_cents, type_, terminal)


def _moment(moment: bytes) -> bytes:
    if len(moment) != MOMENT_BYTES:
        raise OutOfRange(f"date and time have {MOMENT_BYTES} bytes, not {len(moment)}")
    return moment


def _random(random: bytes) -> bytes:
    if len(random) != RANDOM_BYTES:
        raise OutOfRange(f"a PBOC random number has {RANDOM_BYTES} bytes, not {len(random)}")
    return random


def _packed(layout: struct.Struct, *values: int | bytes) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise OutOfRange(f"a value does not fit its field: {error}") from None
