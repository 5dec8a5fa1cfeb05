"""What an AES card keeps without power, and its form in a file. Pure; layout is the simulator's own, not the card's."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from protocol.cards.apdu import PROOF_ANSWER, CardProof, Identity
from protocol.cards.meals import TOKENS_BYTES, Token, decode_tokens, encode_tokens
from protocol.errors import DamagedData, OutOfRange
from protocol.keys import CARD_UID_BYTES
from protocol.mac import KEY_BYTES
from protocol.record_bodies import card_masked

_IMAGE_VERSION: Final = 2  # 1 had neither serials nor tokens, and 152 bytes
_FLAG_PENDING: Final = 0x01
_FLAG_HAS_PROOF: Final = 0x02
_FLAG_HAS_DEBIT: Final = 0x04
_FLAG_REFUNDED: Final = 0x08
_IMAGE: Final = struct.Struct(f"!BB7sBIHIBxiI16s16s16s16s16s{PROOF_ANSWER.size}sII{TOKENS_BYTES}sIHII")
_CRC: Final = struct.Struct("!I")
CARD_IMAGE_BYTES: Final = _IMAGE.size + _CRC.size
assert CARD_IMAGE_BYTES == 224


@dataclass(slots=True, frozen=True)
class CardKeys:
    """One card's own five keys, of one version; never shown (R36: where they meet is offline)."""

    authenticate: bytes
    debit: bytes
    refund: bytes
    load: bytes
    tac: bytes

    def all(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        return self.authenticate, self.debit, self.refund, self.load, self.tac

    def __repr__(self) -> str:
        return "CardKeys(…)"


@dataclass(slots=True, frozen=True)
class LastDebit:
    """What a REFUND can be of, once (R21); a card's other transactions leave it as it is."""

    identity: Identity
    amount_cents: int
    refunded: bool = False


@dataclass(slots=True, frozen=True, repr=False)
class AesCardImage:
    """Everything that a card keeps without power."""

    uid: bytes
    number: int
    key_version: int
    currency: int
    keys: CardKeys
    balance_cents: int
    counter: int = 0
    valid_until_day: int = 0
    group: int = 0
    last_proof: CardProof | None = None
    proof_pending: bool = False
    load_serial: int = 0
    """Highest taken; a LOAD at or below it is refused (R22)."""
    booking_serial: int = 0
    tokens: tuple[Token, ...] = ()
    last_debit: LastDebit | None = None

    def encode(self) -> bytes:
        """CARD_IMAGE_BYTES bytes, with a version and a CRC-32. Raises OutOfRange."""
        keys = self.keys.all()
        if len(self.uid) != CARD_UID_BYTES or any(len(key) != KEY_BYTES for key in keys):
            raise OutOfRange("a UID or key of another length")
        debit = self.last_debit
        flags = (_FLAG_PENDING if self.proof_pending else 0) | (_FLAG_HAS_PROOF if self.last_proof else 0)
        if debit is not None:
            flags |= _FLAG_HAS_DEBIT | (_FLAG_REFUNDED if debit.refunded else 0)
        who, debited = (debit.identity, debit.amount_cents) if debit is not None else (Identity(0, 0, 0), 0)
        try:
            content = _IMAGE.pack(
                _IMAGE_VERSION,
                flags,
                self.uid,
                self.key_version,
                self.number,
                self.currency,
                self.valid_until_day,
                self.group,
                self.balance_cents,
                self.counter,
                *keys,
                self.last_proof.encode() if self.last_proof else b"",
                self.load_serial,
                self.booking_serial,
                encode_tokens(self.tokens),
                *(who.terminal, who.epoch, who.sequence, debited),
            )
        except struct.error as error:
            raise OutOfRange(f"card image: {error}") from None
        return content + _CRC.pack(zlib.crc32(content))

    @classmethod
    def decode(cls, data: bytes) -> AesCardImage:
        """Raises DamagedData for another version or length, or a wrong CRC."""
        if data[:1] and data[0] != _IMAGE_VERSION:
            raise DamagedData(f"card image: version {data[0]}, not {_IMAGE_VERSION}: personalise the cards again")
        if len(data) != CARD_IMAGE_BYTES or zlib.crc32(data[: _IMAGE.size]) != _CRC.unpack_from(data, _IMAGE.size)[0]:
            raise DamagedData("card image: length or check is wrong")
        values = _IMAGE.unpack_from(data)
        _, flags, uid, key_version, number, currency, until, group, balance, counter, *rest = values
        load_serial, booking_serial, tokens, terminal, epoch, sequence, debited = rest[6:]
        debit = LastDebit(Identity(terminal, epoch, sequence), debited, bool(flags & _FLAG_REFUNDED))
        return cls(
            uid=uid,
            number=number,
            key_version=key_version,
            currency=currency,
            keys=CardKeys(*rest[:5]),
            balance_cents=balance,
            counter=counter,
            valid_until_day=until,
            group=group,
            last_proof=CardProof.decode(rest[5]) if flags & _FLAG_HAS_PROOF else None,
            proof_pending=bool(flags & _FLAG_PENDING),
            load_serial=load_serial,
            booking_serial=booking_serial,
            tokens=decode_tokens(tokens),
            last_debit=debit if flags & _FLAG_HAS_DEBIT else None,
        )

    def __repr__(self) -> str:
        return (
            f"AesCardImage({card_masked(self.number)}, balance_cents={self.balance_cents}, "
            f"counter={self.counter}, proof_pending={self.proof_pending})"
        )
