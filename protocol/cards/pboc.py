"""The PBOC purse card itself (电子钱包), as a pure core over its memory image (docs/cards.md, R4, R20).

As `aes`: a command gives an answer and, when it writes, one new image, the single atomic write of the card (its
operating system undoes a write that power cut short). A refused command changes nothing, except that a wrong MAC
uses up the INITIALIZE before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from hmac import compare_digest
from types import MappingProxyType
from typing import Final

from protocol.cards import pboc_apdu as apdu
from protocol.cards import pboc_macs as macs
from protocol.cards.apdu import CLA_CARD, CLA_ISO, FLAG_PROOF_PENDING, INS_SELECT, SELECT_ANSWER, SELECT_COMMAND
from protocol.cards.des import des3_block
from protocol.cards.pboc_apdu import LogEntry, PbocStatus
from protocol.cards.pboc_image import PBOC_IMAGE_BYTES, KeptProof, PbocCardImage, PbocCardKeys
from protocol.cards.pboc_macs import TransactionType
from protocol.codes import CardKind
from protocol.errors import OutOfRange

__all__ = ["PBOC_IMAGE_BYTES", "TRANSITIONS", "PbocCardCore", "PbocCardImage", "PbocCardKeys", "PbocState"]

BALANCE_MAX: Final = 0x7FFF_FFFF


class PbocState(Enum):
    """The card's dialogue; forgotten without power."""

    OFF = "no SELECT yet"
    SELECTED = "selected"
    PURCHASE_READY = "INITIALIZE FOR PURCHASE done; one DEBIT is possible"
    LOAD_READY = "INITIALIZE FOR LOAD done; one order can be announced"
    ORDERED = "order announced; one CREDIT is possible"


_ANYWHERE: Final = (
    apdu.INS_GET_PROOF,
    apdu.INS_GET_BALANCE,
    apdu.INS_GET_CHALLENGE,
    apdu.INS_INTERNAL_AUTHENTICATE,
    apdu.INS_READ_BINARY,
    apdu.INS_READ_RECORD,
    apdu.INS_UPDATE_BINARY,
)
_ON: Final = (PbocState.SELECTED, PbocState.PURCHASE_READY, PbocState.LOAD_READY, PbocState.ORDERED)

TRANSITIONS: Final[Mapping[tuple[PbocState, int], frozenset[PbocState]]] = MappingProxyType(
    {
        **{(state, INS_SELECT): frozenset({PbocState.SELECTED}) for state in PbocState},
        **{(state, ins): frozenset({state}) for state in _ON for ins in _ANYWHERE},
        **{(state, apdu.INS_INITIALIZE): frozenset({PbocState.PURCHASE_READY, PbocState.LOAD_READY}) for state in _ON},
        (PbocState.PURCHASE_READY, apdu.INS_DEBIT): frozenset({PbocState.SELECTED}),
        (PbocState.LOAD_READY, apdu.INS_UPDATE_BINARY): frozenset({PbocState.LOAD_READY, PbocState.ORDERED}),
        (PbocState.ORDERED, apdu.INS_CREDIT): frozenset({PbocState.SELECTED}),
    }
)
"""(state, instruction) → states after success; a pair that is missing is answered 69 85."""

_SHAPES: Final[Mapping[int, tuple[int, int]]] = MappingProxyType(
    {
        apdu.INS_INITIALIZE: (CLA_CARD, apdu.INITIALIZE_FIELDS.size),
        apdu.INS_DEBIT: (CLA_CARD, apdu.DEBIT_FIELDS.size),
        apdu.INS_CREDIT: (CLA_CARD, apdu.CREDIT_FIELDS.size),
        apdu.INS_GET_PROOF: (CLA_CARD, 2),
        apdu.INS_GET_BALANCE: (CLA_CARD, 0),
        apdu.INS_GET_CHALLENGE: (CLA_ISO, 0),
        apdu.INS_INTERNAL_AUTHENTICATE: (CLA_ISO, apdu.AUTHENTICATION_BYTES),
        apdu.INS_READ_BINARY: (CLA_ISO, 0),
        apdu.INS_READ_RECORD: (CLA_ISO, 0),
        apdu.INS_UPDATE_BINARY: (apdu.CLA_SECURE, apdu.CONFIRM_FIELDS.size),
    }
)
"""Class and bytes of data of every instruction; without data the fifth byte is the length expected."""
_UPDATE_BYTES: Final[Mapping[int, int]] = MappingProxyType(
    {apdu.SITE_COLLECTED: apdu.CONFIRM_FIELDS.size, apdu.SITE_LOAD: apdu.ORDER_FIELDS.size}
)
"""Of UPDATE BINARY the data's length depends on the place in the file."""


class _Refusal(Exception):  # inside this module only; no error of the protocol
    def __init__(self, status: PbocStatus) -> None:
        self.status = status


class PbocCardCore:
    """One card. Not for concurrent use; `image` is what the card holds after the last command."""

    __slots__ = ("_amount", "_challenge", "_order", "_session", "_terminal", "image", "state")

    def __init__(self, image: PbocCardImage) -> None:
        self.image = image
        self.reset()

    def reset(self) -> None:
        """Power was lost, or the field: the dialogue is forgotten, the image stays."""
        self.state = PbocState.OFF
        self._session = self._terminal = self._challenge = b""
        self._amount = 0
        self._order = (0, 0)

    def command(self, command: bytes, random: bytes) -> tuple[bytes, PbocCardImage | None]:
        """Answer one command; of `random` (4 bytes or more) INITIALIZE and GET CHALLENGE use the first 4.

        A returned image is already the core's own and must be stored before the answer is passed on.
        """
        if len(random) < macs.RANDOM_BYTES:
            raise OutOfRange(f"{len(random)} random bytes, fewer than {macs.RANDOM_BYTES}")
        before = self.image
        try:
            if command == SELECT_COMMAND:
                data = self._select()
            else:
                data = self._run(self._admitted(command), command, random[: macs.RANDOM_BYTES])
        except _Refusal as refusal:
            return refusal.status.to_bytes(2, "big"), None
        return data + PbocStatus.DONE.to_bytes(2, "big"), self.image if self.image is not before else None

    def _admitted(self, command: bytes) -> int:
        """The instruction, if it is known, of the right length, and allowed now."""
        if len(command) < 5:
            raise _Refusal(PbocStatus.WRONG_LENGTH)
        cla, ins, length = command[0], command[1], command[4]
        if ins not in _SHAPES or cla != _SHAPES[ins][0]:
            raise _Refusal(PbocStatus.UNKNOWN_COMMAND)
        size = _UPDATE_BYTES.get(command[3], 0) if ins == apdu.INS_UPDATE_BINARY else _SHAPES[ins][1]
        if len(command) != 5 + size or (size and length != size):
            raise _Refusal(PbocStatus.WRONG_LENGTH)
        if (self.state, ins) not in TRANSITIONS:
            raise _Refusal(PbocStatus.NOT_IN_THIS_STATE)
        return ins

    def _run(self, ins: int, command: bytes, random: bytes) -> bytes:
        p1, p2, data = command[2], command[3], command[5:]
        if ins == apdu.INS_INITIALIZE:
            return self._initialize(p1, p2, data, random)
        if ins == apdu.INS_DEBIT and (p1, p2) == (0x01, 0x00):
            return self._debit(data)
        if ins == apdu.INS_CREDIT and (p1, p2) == (0x00, 0x00):
            return self._credit(data)
        if ins == apdu.INS_GET_PROOF and p1 == 0x00:
            return self._proof(p2, int.from_bytes(data, "big"))
        if ins == apdu.INS_GET_BALANCE and command == apdu.GET_BALANCE_COMMAND:
            return self.image.balance_cents.to_bytes(4, "big")
        if ins == apdu.INS_GET_CHALLENGE and command == apdu.GET_CHALLENGE_COMMAND:
            self._challenge = random
            return random
        if ins == apdu.INS_INTERNAL_AUTHENTICATE and p1 == 0x00:
            self._check_version(p2)
            return des3_block(self.image.keys.internal, data)
        if ins == apdu.INS_READ_RECORD and p2 == apdu.LOG_FILE:
            return self._log(p1, command[4])
        if ins == apdu.INS_READ_BINARY and command == apdu.READ_LOAD_SERIAL_COMMAND:
            return self.image.load_serial.to_bytes(4, "big")
        if ins == apdu.INS_UPDATE_BINARY and (p1, p2) == (apdu.SITE_FILE, apdu.SITE_COLLECTED):
            return self._confirm(command)
        if ins == apdu.INS_UPDATE_BINARY and (p1, p2) == (apdu.SITE_FILE, apdu.SITE_LOAD):
            return self._announced(command)
        raise _Refusal(PbocStatus.UNKNOWN_COMMAND)

    def _select(self) -> bytes:
        self.reset()
        self.state = PbocState.SELECTED
        card = self.image
        flags = FLAG_PROOF_PENDING if card.proof_pending else 0
        facts = (card.uid, card.number, card.currency, flags, card.valid_until_day, card.group, 0)
        return SELECT_ANSWER.pack(CardKind.PBOC, card.key_version, *facts)

    def _initialize(self, p1: int, p2: int, data: bytes, random: bytes) -> bytes:
        if p2 != 0x02 or p1 not in {0x00, 0x01}:
            raise _Refusal(PbocStatus.UNKNOWN_COMMAND)
        version, amount, terminal = apdu.INITIALIZE_FIELDS.unpack(data)
        self._check_version(version)
        card = self.image
        if amount == 0 or (p1 == 0x00 and card.balance_cents + amount > BALANCE_MAX):
            raise _Refusal(PbocStatus.BAD_DATA)
        if p1 == 0x01 and card.balance_cents < amount:
            raise _Refusal(PbocStatus.BALANCE_TOO_LOW)
        if (card.offline_counter if p1 else card.online_counter) == apdu.COUNTER_MAX:
            raise _Refusal(PbocStatus.COUNTER_EXHAUSTED)
        self._amount, self._terminal = amount, terminal
        if p1 == 0x01:
            self.state, self._session = PbocState.PURCHASE_READY, random
            values = (card.balance_cents, card.offline_counter, bytes(3), version, 0, random)
            return apdu.PURCHASE_READY.pack(*values)
        self.state = PbocState.LOAD_READY
        self._session = macs.load_session(card.keys.load, random, card.online_counter)
        mac1 = macs.load_mac1(self._session, card.balance_cents, amount, TransactionType.LOAD, terminal)
        return apdu.LOAD_READY.pack(card.balance_cents, card.online_counter, version, 0, random, mac1)

    def _debit(self, data: bytes) -> bytes:
        sequence, moment, mac1 = apdu.DEBIT_FIELDS.unpack(data)
        card, amount, terminal = self.image, self._amount, self._terminal
        # The key needs the terminal's sequence, which only this command brings; until now the random stood here.
        session = macs.purchase_session(card.keys.purchase, self._session, card.offline_counter, sequence)
        self.state = PbocState.SELECTED
        if not compare_digest(mac1, macs.purchase_mac1(session, amount, terminal, moment)):
            raise _Refusal(PbocStatus.MAC_WRONG)
        mac2 = macs.purchase_mac2(session, amount)
        tac = macs.purchase_tac(card.keys.tac, amount, terminal, sequence, moment)
        balance = card.balance_cents - amount
        counter = card.offline_counter
        entry = LogEntry(counter, amount, TransactionType.PURCHASE, terminal, moment, sequence, balance)
        self.image = replace(
            card,
            balance_cents=balance,
            offline_counter=counter + 1,
            last_purchase=KeptProof(entry, mac2, tac),
        )
        return apdu.DEBIT_ANSWER.pack(tac, mac2)

    def _credit(self, data: bytes) -> bytes:
        moment, mac2 = apdu.CREDIT_FIELDS.unpack(data)
        card, amount, terminal = self.image, self._amount, self._terminal
        self.state = PbocState.SELECTED
        if not compare_digest(mac2, macs.load_mac2(self._session, amount, TransactionType.LOAD, terminal, moment)):
            raise _Refusal(PbocStatus.MAC_WRONG)
        balance, counter = card.balance_cents + amount, card.online_counter
        tac = macs.load_tac(
            card.keys.tac,
            balance_after_cents=balance,
            counter=counter,
            amount_cents=amount,
            terminal=terminal,
            moment=moment,
        )
        serial, sequence = self._order
        entry = LogEntry(counter, amount, TransactionType.LOAD, terminal, moment, sequence, balance)
        kept = KeptProof(entry, bytes(apdu.MAC_BYTES), tac)
        self.image = replace(
            card, balance_cents=balance, online_counter=counter + 1, load_serial=serial, last_load=kept
        )
        return tac

    def _proof(self, type_: int, counter: int) -> bytes:
        kept = {TransactionType.PURCHASE: self.image.last_purchase, TransactionType.LOAD: self.image.last_load}
        found = kept.get(TransactionType(type_)) if type_ in kept else None
        if found is None or found.entry.counter != counter:
            raise _Refusal(PbocStatus.NO_PROOF)
        return apdu.PROOF_ANSWER.pack(found.mac, found.tac)

    def _log(self, record: int, length: int) -> bytes:
        if length not in {0, apdu.LOG_RECORD.size}:
            raise _Refusal(PbocStatus.WRONG_LENGTH)
        kept = {apdu.LOG_PURCHASE: self.image.last_purchase, apdu.LOG_LOAD: self.image.last_load}.get(record)
        if kept is None:
            raise _Refusal(PbocStatus.NO_RECORD)
        return kept.entry.encode()

    def _confirm(self, command: bytes) -> bytes:
        counter = int.from_bytes(self._secured(command)[-2:], "big")
        if counter == self.image.offline_counter != self.image.collected_counter:
            self.image = replace(self.image, collected_counter=counter)
        return b""

    def _announced(self, command: bytes) -> bytes:
        """The order of the load that has been initialized: the CREDIT takes its serial over, in the same write."""
        if self.state is not PbocState.LOAD_READY:
            raise _Refusal(PbocStatus.NOT_IN_THIS_STATE)
        serial, sequence, _ = apdu.ORDER_FIELDS.unpack(self._secured(command) + bytes(apdu.MAC_BYTES))
        if serial <= self.image.load_serial:
            raise _Refusal(PbocStatus.BAD_DATA)
        self.state, self._order = PbocState.ORDERED, (serial, sequence)
        return b""

    def _secured(self, command: bytes) -> bytes:
        """The data of an UPDATE BINARY whose MAC over a fresh challenge holds, after its header."""
        challenge, self._challenge = self._challenge, b""
        if not challenge:
            raise _Refusal(PbocStatus.NOT_IN_THIS_STATE)
        covered, mac = command[: -apdu.MAC_BYTES], command[-apdu.MAC_BYTES :]
        if not compare_digest(mac, macs.confirm_mac(self.image.keys.maintenance, challenge, covered)):
            raise _Refusal(PbocStatus.SECURE_MAC_WRONG)
        return covered[5:]

    def _check_version(self, version: int) -> None:
        if version != self.image.key_version:
            raise _Refusal(PbocStatus.KEY_UNKNOWN)
