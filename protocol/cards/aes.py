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

from protocol.cards.aes_transactions import COUNTER_MAX, Refusal, execute
from protocol.cards.apdu import (
    AUTHENTICATE_ANSWER,
    CHALLENGE_BYTES,
    CLA_CARD,
    DEBIT_ANSWER,
    FLAG_PROOF_PENDING,
    GET_PROOF_COMMAND,
    IDENTITY_FIELDS,
    INS_AUTHENTICATE,
    INS_CONFIRM,
    INS_GET_PROOF,
    INS_READ_MEALS,
    MAC_BYTES,
    SELECT_ANSWER,
    SELECT_COMMAND,
    Identity,
    StatusWord,
    authenticate_mac_input,
    confirm_mac_input,
)
from protocol.cards.image import CARD_IMAGE_BYTES, AesCardImage, CardKeys
from protocol.cards.meals import CardMeals
from protocol.cards.orders import VERB_OF_INS, KeyPurpose, order_mac_input, parse_order
from protocol.codes import CardKind
from protocol.errors import OutOfRange
from protocol.mac import MacKey

__all__ = ["CARD_IMAGE_BYTES", "COUNTER_MAX", "TRANSITIONS", "AesCardCore", "AesCardImage", "CardKeys", "CardState"]


class CardState(Enum):
    """The card's dialogue; forgotten without power."""

    OFF = "no SELECT yet"
    SELECTED = "selected"
    AUTHENTICATED = "a transaction is possible"
    DEBITED = "the transaction of this AUTHENTICATE is used up"


TRANSITIONS: Final[Mapping[tuple[CardState, int], CardState]] = MappingProxyType(
    {
        **{(state, SELECT_COMMAND[1]): CardState.SELECTED for state in CardState},
        (CardState.SELECTED, INS_AUTHENTICATE): CardState.AUTHENTICATED,
        (CardState.AUTHENTICATED, INS_AUTHENTICATE): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_AUTHENTICATE): CardState.AUTHENTICATED,
        **{(CardState.AUTHENTICATED, ins): CardState.DEBITED for ins in VERB_OF_INS},
        (CardState.SELECTED, INS_GET_PROOF): CardState.SELECTED,
        (CardState.AUTHENTICATED, INS_GET_PROOF): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_GET_PROOF): CardState.DEBITED,
        (CardState.AUTHENTICATED, INS_CONFIRM): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_CONFIRM): CardState.DEBITED,
        (CardState.AUTHENTICATED, INS_READ_MEALS): CardState.AUTHENTICATED,
        (CardState.DEBITED, INS_READ_MEALS): CardState.DEBITED,
    }
)
"""(state, instruction) → state after success; a pair that is missing is answered 69 85."""

_DATA_BYTES: Final[Mapping[int, int]] = MappingProxyType(
    {
        INS_AUTHENTICATE: CHALLENGE_BYTES,
        **{ins: verb.data_bytes for ins, verb in VERB_OF_INS.items()},
        INS_CONFIRM: IDENTITY_FIELDS.size + MAC_BYTES,
        INS_GET_PROOF: 0,
        INS_READ_MEALS: 0,
    }
)
_WITHOUT_KEY: Final = frozenset({INS_GET_PROOF, INS_READ_MEALS})


class AesCardCore:
    """One card. Not for concurrent use; `image` is what the card holds after the last command."""

    __slots__ = ("_card_challenge", "_keys", "_tac_key", "_terminal_challenge", "image", "state")

    def __init__(self, image: AesCardImage) -> None:
        self.image = image
        self._keys: dict[KeyPurpose, MacKey] = {}
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
        except Refusal as refusal:
            return refusal.status.to_bytes(2, "big"), None
        self.state = TRANSITIONS[self.state, ins]
        return data + StatusWord.DONE.to_bytes(2, "big"), self.image if self.image is not before else None

    def _admitted(self, apdu: bytes) -> int:
        """The instruction, if it is known, of the right length, of this card's key version, and allowed now."""
        if apdu[:4] == SELECT_COMMAND[:4]:
            if len(apdu) != len(SELECT_COMMAND) or apdu[4] != SELECT_COMMAND[4]:
                raise Refusal(StatusWord.WRONG_LENGTH)
            if apdu != SELECT_COMMAND:
                raise Refusal(StatusWord.UNKNOWN_COMMAND)
            return SELECT_COMMAND[1]
        if len(apdu) < 4:
            raise Refusal(StatusWord.WRONG_LENGTH)
        cla, ins, p1, p2 = apdu[:4]
        if cla != CLA_CARD or ins not in _DATA_BYTES or p2 != 0 or (ins in _WITHOUT_KEY and p1 != 0):
            raise Refusal(StatusWord.UNKNOWN_COMMAND)
        if len(apdu) != len(GET_PROOF_COMMAND) + _DATA_BYTES[ins] or apdu[4] != _DATA_BYTES[ins]:
            raise Refusal(StatusWord.WRONG_LENGTH)
        if ins not in _WITHOUT_KEY and p1 != self.image.key_version:
            raise Refusal(StatusWord.KEY_VERSION_UNKNOWN)
        if (self.state, ins) not in TRANSITIONS or (ins in VERB_OF_INS and self.image.proof_pending):
            raise Refusal(StatusWord.NOT_IN_THIS_STATE)
        return int(ins)

    def _run(self, ins: int, data: bytes, random: bytes) -> bytes:
        if ins == INS_AUTHENTICATE:
            return self._authenticate(data, random)
        if ins in VERB_OF_INS:
            return self._transact(ins, data)
        if ins == INS_CONFIRM:
            return self._confirm(data)
        if ins == INS_GET_PROOF:
            if self.image.last_proof is None:
                raise Refusal(StatusWord.NO_PROOF_KEPT)
            return self.image.last_proof.encode()
        if ins == INS_READ_MEALS:
            card = self.image
            return CardMeals(card.load_serial, card.booking_serial, card.tokens).encode()
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
        return AUTHENTICATE_ANSWER.pack(
            random, card.balance_cents, card.counter, self._key(KeyPurpose.AUTHENTICATE).mac8(covered)
        )

    def _transact(self, ins: int, data: bytes) -> bytes:
        verb, fields, mac = VERB_OF_INS[ins], data[:-MAC_BYTES], data[-MAC_BYTES:]
        covered = order_mac_input(verb, self._terminal_challenge, self._card_challenge, fields)
        if not self._key(verb.purpose).verifies(mac, covered):
            raise Refusal(StatusWord.MAC_WRONG)
        self.image = execute(self.image, parse_order(verb, fields), self._tac_key)
        kept = self.image.last_proof
        assert kept is not None
        return DEBIT_ANSWER.pack(kept.balance_after_cents, kept.counter, kept.proof)

    def _key(self, purpose: KeyPurpose) -> MacKey:
        """Scheduled when it is first needed: most cards on a reader only ever see two of the four."""
        key = self._keys.get(purpose)
        if key is None:
            keys = self.image.keys
            named = (keys.authenticate, keys.debit, keys.refund, keys.load)
            key = self._keys[purpose] = MacKey(named[purpose])
        return key

    def _confirm(self, data: bytes) -> bytes:
        fields, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
        covered = confirm_mac_input(self._terminal_challenge, self._card_challenge, fields)
        if not self._key(KeyPurpose.AUTHENTICATE).verifies(mac, covered):
            raise Refusal(StatusWord.MAC_WRONG)
        kept = self.image.last_proof
        if kept is None:
            raise Refusal(StatusWord.NO_PROOF_KEPT)
        if self.image.proof_pending and kept.identity == Identity(*IDENTITY_FIELDS.unpack(fields)):
            self.image = replace(self.image, proof_pending=False)
        return b""
