"""The sector memory card itself, as a pure core over its bytes (docs/cards.md, R4). It proves nothing of a debit.

A command gives an answer and, when it writes, one new image that differs from the old one in one block. Unlike a
CPU card it does not undo a write that power cut short: a caller that cuts passes both images to `memory_image.torn`
and sets `image` to what comes out. A refused command changes nothing, except that a wrong proof ends the
authentication.
"""

from __future__ import annotations

from enum import Enum
from hmac import compare_digest
from typing import Final

from protocol.cards import memory_apdu as apdu
from protocol.cards.apdu import StatusWord
from protocol.cards.memory_image import MEMORY_IMAGE_BYTES, MemoryCardImage
from protocol.cards.memory_layout import (
    ACCESS_TABLE,
    BLOCK_BYTES,
    BLOCKS,
    BLOCKS_PER_SECTOR,
    CHIP_BLOCK,
    KEY_BYTES,
    SECTORS,
    VALUE_MAX,
    KeyLetter,
    Right,
    decode_access,
    decode_value,
    encode_value,
)
from protocol.errors import OutOfRange

__all__ = ["MEMORY_IMAGE_BYTES", "MemoryCardCore", "MemoryCardImage", "MemoryState"]

_DATA_BYTES: Final = {
    apdu.INS_GET_UID: 0,
    apdu.INS_AUTH: apdu.CHALLENGE_BYTES,
    apdu.INS_PROVE: apdu.PROOF_BYTES,
    apdu.INS_READ: 0,
    apdu.INS_WRITE: BLOCK_BYTES,
    apdu.INS_VALUE: 4,
    apdu.INS_TRANSFER: 0,
}
_OPERATION_RIGHT: Final = {
    apdu.ValueOperation.INCREMENT: Right.INCREMENT,
    apdu.ValueOperation.DECREMENT: Right.DECREMENT,
    apdu.ValueOperation.RESTORE: Right.DECREMENT,
}


class MemoryState(Enum):
    """The card's authentication; forgotten without power."""

    CLOSED = "no sector open"
    CHALLENGED = "the card has proved a sector's key and waits for the terminal's proof"
    OPEN = "one sector open under one key"


class _Refusal(Exception):  # inside this module only; no error of the protocol
    def __init__(self, status: StatusWord) -> None:
        self.status = status


class MemoryCardCore:
    """One card. Not for concurrent use; `image` is what the card holds after the last command."""

    __slots__ = ("_challenges", "_letter", "_register", "_sector", "image", "state")

    def __init__(self, image: MemoryCardImage) -> None:
        self.image = image
        self.reset()

    def reset(self) -> None:
        """Power was lost, or the field: authentication and register are forgotten, the bytes stay."""
        self.state = MemoryState.CLOSED
        self._sector = 0
        self._letter = KeyLetter.A
        self._challenges = (b"", b"")
        self._register: tuple[int, int] | None = None

    def command(self, command: bytes, random: bytes) -> tuple[bytes, MemoryCardImage | None]:
        """Answer one command; of `random` (8 bytes or more) only AUTH uses the first 8.

        A returned image is already the core's own and must be stored before the answer is passed on.
        """
        if len(random) < apdu.CHALLENGE_BYTES:
            raise OutOfRange(f"{len(random)} random bytes, fewer than {apdu.CHALLENGE_BYTES}")
        before = self.image
        try:
            data = self._run(command, random[: apdu.CHALLENGE_BYTES])
        except _Refusal as refusal:
            return refusal.status.to_bytes(2, "big"), None
        return data + StatusWord.DONE.to_bytes(2, "big"), self.image if self.image is not before else None

    def _run(self, command: bytes, random: bytes) -> bytes:
        if len(command) < 5 or command[0] != apdu.CLA_READER or command[1] not in _DATA_BYTES:
            raise _Refusal(StatusWord.UNKNOWN_COMMAND)
        ins, p1, p2, data = command[1], command[2], command[3], command[5:]
        if len(data) != _DATA_BYTES[ins]:
            raise _Refusal(StatusWord.WRONG_LENGTH)
        if ins == apdu.INS_GET_UID:
            return self.image.uid + bytes((apdu.SAK,))
        if ins == apdu.INS_AUTH:
            return self._auth(p1, p2, data, random)
        if ins == apdu.INS_PROVE:
            return self._prove(data)
        if p2 >= BLOCKS:
            raise _Refusal(StatusWord.AMOUNT_OR_CURRENCY)
        if ins == apdu.INS_READ:
            return self._read(p2)
        if ins == apdu.INS_WRITE:
            return self._write(p2, data)
        if ins == apdu.INS_VALUE:
            return self._value(p1, p2, int.from_bytes(data, "big"))
        return self._transfer(p2)

    def _auth(self, sector: int, letter: int, challenge: bytes, random: bytes) -> bytes:
        if sector >= SECTORS or letter not in set(KeyLetter):
            raise _Refusal(StatusWord.AMOUNT_OR_CURRENCY)
        self.reset()
        self._sector, self._letter = sector, KeyLetter(letter)
        self._challenges = (challenge, random)
        self.state = MemoryState.CHALLENGED
        return random + apdu.card_proof(self._key(), sector, letter, self.image.uid, challenge, random)

    def _prove(self, proof: bytes) -> bytes:
        if self.state is not MemoryState.CHALLENGED:
            raise _Refusal(StatusWord.NOT_IN_THIS_STATE)
        expected = apdu.terminal_proof(self._key(), self._sector, self._letter, self.image.uid, *self._challenges)
        if not compare_digest(expected, proof):
            self.reset()
            raise _Refusal(StatusWord.MAC_WRONG)
        self.state = MemoryState.OPEN
        return b""

    def _read(self, index: int) -> bytes:
        self._check(index, Right.READ)
        block = self.image.block(index)
        if index % BLOCKS_PER_SECTOR == BLOCKS_PER_SECTOR - 1:
            return bytes(KEY_BYTES) + block[KEY_BYTES:-KEY_BYTES] + bytes(KEY_BYTES)
        return block

    def _write(self, index: int, data: bytes) -> bytes:
        self._check(index, Right.WRITE)
        if index == CHIP_BLOCK:
            raise _Refusal(StatusWord.NOT_IN_THIS_STATE)
        self._store(index, data)
        return b""

    def _value(self, operation: int, index: int, amount: int) -> bytes:
        if operation not in _OPERATION_RIGHT:
            raise _Refusal(StatusWord.UNKNOWN_COMMAND)
        operation = apdu.ValueOperation(operation)
        self._check(index, _OPERATION_RIGHT[operation])
        held = decode_value(self.image.block(index))
        if held is None:
            raise _Refusal(StatusWord.AMOUNT_OR_CURRENCY)
        value, address = held
        if operation is apdu.ValueOperation.RESTORE:
            amount = 0
        after = value + amount if operation is apdu.ValueOperation.INCREMENT else value - amount
        if not 0 <= after <= VALUE_MAX and amount:
            raise _Refusal(StatusWord.BALANCE_TOO_LOW)
        self._register = (after, address)
        return b""

    def _transfer(self, index: int) -> bytes:
        self._check(index, Right.TRANSFER)
        if self._register is None:
            raise _Refusal(StatusWord.NOT_IN_THIS_STATE)
        register, self._register = self._register, None
        self._store(index, encode_value(*register))
        return b""

    def _store(self, index: int, block: bytes) -> None:
        if block != self.image.block(index):
            self.image = self.image.written(index, block)

    def _check(self, index: int, right: Right) -> None:
        """Refuses unless the sector is open under a key that the access table gives this right."""
        if self.state is not MemoryState.OPEN or index // BLOCKS_PER_SECTOR != self._sector:
            raise _Refusal(StatusWord.NOT_IN_THIS_STATE)
        conditions = decode_access(self.image.trailer(self._sector)[KEY_BYTES:-KEY_BYTES])
        if conditions is None or self._letter not in ACCESS_TABLE[conditions[index % BLOCKS_PER_SECTOR]][right]:
            raise _Refusal(StatusWord.MAC_WRONG)

    def _key(self) -> bytes:
        trailer = self.image.trailer(self._sector)
        return trailer[:KEY_BYTES] if self._letter is KeyLetter.A else trailer[-KEY_BYTES:]
