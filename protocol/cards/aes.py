"""The AES CPU card itself, as a pure core over its memory image (docs/protocol.md §12, R2, R20).

A command gives an answer and, when it writes, one new image: the single atomic write of the card. A caller that
cuts power has three places to do so: before the command, after the new image is stored but before the answer, and
after the answer. The image is bytes on request, so a simulator can keep cards in files. A refused command changes
nothing, neither image nor dialogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from protocol.cards.apdu import (
    AUTHENTICATE_ANSWER,
    CHALLENGE_BYTES,
    CLA_CARD,
    DEBIT_ANSWER,
    DEBIT_FIELDS,
    FLAG_PROOF_PENDING,
    GET_PROOF_COMMAND,
    IDENTITY_FIELDS,
    INS_AUTHENTICATE,
    INS_CONFIRM,
    INS_DEBIT,
    INS_GET_PROOF,
    MAC_BYTES,
    SELECT_ANSWER,
    SELECT_COMMAND,
    CardProof,
    Identity,
    StatusWord,
    authenticate_mac_input,
    confirm_mac_input,
    debit_mac_input,
)
from protocol.cards.image import CARD_IMAGE_BYTES, AesCardImage, CardKeys
from protocol.codes import CardKind, RecordType
from protocol.errors import OutOfRange
from protocol.mac import MacKey
from protocol.proofs import tac

__all__ = ["CARD_IMAGE_BYTES", "COUNTER_MAX", "TRANSITIONS", "AesCardCore", "AesCardImage", "CardKeys", "CardState"]

COUNTER_MAX: Final = 0xFFFF_FFFF


class CardState(Enum):
    """The card's dialogue; forgotten without power."""

    OFF = "no SELECT yet"
    SELECTED = "selected"
    AUTHENTICATED = "a DEBIT is possible"
    DEBITED = "the DEBIT of this AUTHENTICATE is used up"


TRANSITIONS: Final[Mapping[tuple[CardState, int], CardState]] = MappingProxyType(
    {
        **{(state, SELECT_COMMAND[1]): CardState.SELECTED for state in CardState},
        (CardState.SELECTED, INS_AUTHENTICATE): CardState.AUTHENTICATED,
        (CardState.AUTHENTICATED, INS_AUTHENTICATE): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_AUTHENTICATE): CardState.AUTHENTICATED,
        (CardState.AUTHENTICATED, INS_DEBIT): CardState.DEBITED,
        (CardState.SELECTED, INS_GET_PROOF): CardState.SELECTED,
        (CardState.AUTHENTICATED, INS_GET_PROOF): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_GET_PROOF): CardState.DEBITED,
        (CardState.AUTHENTICATED, INS_CONFIRM): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_CONFIRM): CardState.DEBITED,
    }
)
"""(state, instruction) → state after success; a pair that is missing is answered 69 85."""

_DATA_BYTES: Final[Mapping[int, int]] = MappingProxyType(
    {
        INS_AUTHENTICATE: CHALLENGE_BYTES,
        INS_DEBIT: DEBIT_FIELDS.size + MAC_BYTES,
        INS_CONFIRM: IDENTITY_FIELDS.size + MAC_BYTES,
        INS_GET_PROOF: 0,
    }
)


class _Refusal(Exception):  # inside this module only; no error of the protocol
    def __init__(self, status: StatusWord) -> None:
        self.status = status


class AesCardCore:
    """One card. Not for concurrent use; `image` is what the card holds after the last command."""

    __slots__ = (
        "_authenticate_key",
        "_card_challenge",
        "_debit_key",
        "_tac_key",
        "_terminal_challenge",
        "image",
        "state",
    )

    def __init__(self, image: AesCardImage) -> None:
        self.image = image
        self._authenticate_key = MacKey(image.keys.authenticate)
        self._debit_key = MacKey(image.keys.debit)
        self._tac_key = MacKey(image.keys.tac)
        self.reset()

    def reset(self) -> None:
        """Power was lost, or the field: the dialogue is forgotten, the image stays."""
        self.state = CardState.OFF
        self._terminal_challenge = self._card_challenge = b""

    def command(self, apdu: bytes, random: bytes) -> tuple[bytes, AesCardImage | None]:
        """Answer one command; `random` is 16 bytes that only AUTHENTICATE uses.

        A returned image is already the core's own and must be stored before the answer is passed on.
        """
        if len(random) != CHALLENGE_BYTES:
            raise OutOfRange(f"{len(random)} random bytes, not {CHALLENGE_BYTES}")
        before = self.image
        try:
            ins = self._admitted(apdu)
            data = self._run(ins, apdu[5:], random)
        except _Refusal as refusal:
            return refusal.status.to_bytes(2, "big"), None
        self.state = TRANSITIONS[self.state, ins]
        return data + StatusWord.DONE.to_bytes(2, "big"), self.image if self.image is not before else None

    def _admitted(self, apdu: bytes) -> int:
        """The instruction, if it is known, of the right length, of this card's key version, and allowed now."""
        if apdu[:4] == SELECT_COMMAND[:4]:
            if len(apdu) != len(SELECT_COMMAND) or apdu[4] != SELECT_COMMAND[4]:
                raise _Refusal(StatusWord.WRONG_LENGTH)
            if apdu != SELECT_COMMAND:
                raise _Refusal(StatusWord.UNKNOWN_COMMAND)
            return SELECT_COMMAND[1]
        if len(apdu) < 4:
            raise _Refusal(StatusWord.WRONG_LENGTH)
        cla, ins, p1, p2 = apdu[:4]
        if cla != CLA_CARD or ins not in _DATA_BYTES or p2 != 0 or (ins == INS_GET_PROOF and p1 != 0):
            raise _Refusal(StatusWord.UNKNOWN_COMMAND)
        if len(apdu) != len(GET_PROOF_COMMAND) + _DATA_BYTES[ins] or apdu[4] != _DATA_BYTES[ins]:
            raise _Refusal(StatusWord.WRONG_LENGTH)
        if ins != INS_GET_PROOF and p1 != self.image.key_version:
            raise _Refusal(StatusWord.KEY_VERSION_UNKNOWN)
        if (self.state, ins) not in TRANSITIONS or (ins == INS_DEBIT and self.image.proof_pending):
            raise _Refusal(StatusWord.NOT_IN_THIS_STATE)
        return int(ins)

    def _run(self, ins: int, data: bytes, random: bytes) -> bytes:
        if ins == INS_AUTHENTICATE:
            return self._authenticate(data, random)
        if ins == INS_DEBIT:
            return self._debit(data)
        if ins == INS_CONFIRM:
            return self._confirm(data)
        if ins == INS_GET_PROOF:
            if self.image.last_proof is None:
                raise _Refusal(StatusWord.NO_PROOF_KEPT)
            return self.image.last_proof.encode()
        return self._select()

    def _select(self) -> bytes:
        self._terminal_challenge = self._card_challenge = b""
        card = self.image
        return SELECT_ANSWER.pack(
            CardKind.AES,
            card.key_version,
            card.uid,
            card.number,
            card.currency,
            FLAG_PROOF_PENDING if card.proof_pending else 0,
            card.valid_until_day,
            card.group,
            0,
        )

    def _authenticate(self, data: bytes, random: bytes) -> bytes:
        self._terminal_challenge, self._card_challenge = bytes(data), bytes(random)
        card = self.image
        covered = authenticate_mac_input(data, random, card.number, card.balance_cents, card.counter)
        return AUTHENTICATE_ANSWER.pack(random, card.balance_cents, card.counter, self._authenticate_key.mac8(covered))

    def _debit(self, data: bytes) -> bytes:
        card, fields, mac = self.image, data[:-MAC_BYTES], data[-MAC_BYTES:]
        if not self._debit_key.verifies(mac, debit_mac_input(self._terminal_challenge, self._card_challenge, fields)):
            raise _Refusal(StatusWord.MAC_WRONG)
        amount, currency, terminal, epoch, sequence = DEBIT_FIELDS.unpack(fields)
        if amount == 0 or currency != card.currency:
            raise _Refusal(StatusWord.AMOUNT_OR_CURRENCY)
        if card.balance_cents < amount:
            raise _Refusal(StatusWord.BALANCE_TOO_LOW)
        if card.counter == COUNTER_MAX:
            raise _Refusal(StatusWord.COUNTER_EXHAUSTED)
        counter, balance = card.counter + 1, card.balance_cents - amount
        proof = tac(
            self._tac_key,
            type_=RecordType.PURCHASE,
            amount=amount,
            currency=currency,
            card=card.number,
            terminal=terminal,
            epoch=epoch,
            sequence=sequence,
            counter=counter,
            balance_after=balance,
        )
        identity = Identity(terminal, epoch, sequence)
        kept = CardProof(RecordType.PURCHASE, identity, amount, currency, counter, balance, proof)
        self.image = replace(card, balance_cents=balance, counter=counter, last_proof=kept, proof_pending=True)
        return DEBIT_ANSWER.pack(balance, counter, proof)

    def _confirm(self, data: bytes) -> bytes:
        fields, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
        covered = confirm_mac_input(self._terminal_challenge, self._card_challenge, fields)
        if not self._authenticate_key.verifies(mac, covered):
            raise _Refusal(StatusWord.MAC_WRONG)
        kept = self.image.last_proof
        if kept is None:
            raise _Refusal(StatusWord.NO_PROOF_KEPT)
        if self.image.proof_pending and kept.identity == Identity(*IDENTITY_FIELDS.unpack(fields)):
            self.image = replace(self.image, proof_pending=False)
        return b""
