"""Layout of the sector memory card (M1-like): owners, rights, directory, values, markers (docs/cards.md). Pure.

    16 sectors of 4 blocks of 16 bytes; block 3 of a sector is its trailer: key A(6), access(4), key B(6)
    sector 0    block 0 chip, 1 directory, 2 facts     readable with a public key A, written by the issuer
    sector 1    block 4 purse, 5 its backup            value blocks: the terminal's key A may only take away
    sector 2    blocks 8, 9 transaction markers        transaction n stands in marker n mod 2
    blocks 10, 6 load marks                            the newest that counts is never overwritten; key B writes
    sectors 3, 4    meals, doors                       other applications' own
    sectors 5–15    nobody's yet: the issuer's

The access byte of a block is its condition code, and the code's complement in the high nibble.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final
from zlib import crc32

from protocol.errors import DamagedData, OutOfRange
from protocol.mac import MacKey
from protocol.record_bodies import card_masked

BLOCK_BYTES: Final = 16
SECTORS: Final = 16
BLOCKS_PER_SECTOR: Final = 4
BLOCKS: Final = SECTORS * BLOCKS_PER_SECTOR
KEY_BYTES: Final = 6
CHIP_BLOCK: Final = 0
DIRECTORY_BLOCK: Final = 1
FACTS_BLOCK: Final = 2
PURSE_BLOCK: Final = 4
BACKUP_BLOCK: Final = 5
MARKER_BLOCKS: Final = (8, 9)
LOAD_BLOCKS: Final = (10, 6)  # in two sectors: a torn write leaves the other
DIRECTORY_SECTOR: Final = DIRECTORY_BLOCK // BLOCKS_PER_SECTOR
PURSE_SECTOR: Final = PURSE_BLOCK // BLOCKS_PER_SECTOR
MARKER_SECTOR: Final = MARKER_BLOCKS[0] // BLOCKS_PER_SECTOR
TRANSPORT_KEY: Final = b"\xff" * KEY_BYTES  # as chips leave the factory
DIRECTORY_KEY: Final = b"ONECRD"  # public, as every card directory's key A: it opens claims, no money
VALUE_MAX: Final = 0x7FFF_FFFF
COUNTER_MAX: Final = 0xFFFF_FFFF


class Application(IntEnum):
    """Who owns a sector."""

    ISSUER = 0x00
    DIRECTORY = 0x01
    PURSE = 0x02
    MEALS = 0x03
    DOORS = 0x04


OWNER_OF_SECTOR: Final = (
    Application.DIRECTORY,
    Application.PURSE,
    Application.PURSE,
    Application.MEALS,
    Application.DOORS,
    *(Application.ISSUER,) * 11,
)
"""An application has keys of its own sectors and of no others (扇区归属)."""
assert len(OWNER_OF_SECTOR) == SECTORS


class KeyLetter(IntEnum):
    A = 0x60
    """A terminal's."""
    B = 0x61
    """The issuer's and the load station's."""


class Right(Enum):
    READ = "read"
    WRITE = "write"
    INCREMENT = "increment"
    DECREMENT = "decrement, restore"
    TRANSFER = "transfer"


class Condition(IntEnum):
    """Condition code of one block."""

    TRANSPORT = 0x0
    ISSUER_WRITES = 0x1
    VALUE = 0x2
    TERMINAL_WRITES = 0x3
    ISSUER_ONLY = 0x4


_NOBODY: Final[frozenset[KeyLetter]] = frozenset()
_B: Final = frozenset({KeyLetter.B})
_BOTH: Final = frozenset(KeyLetter)

ACCESS_TABLE: Final[Mapping[Condition, Mapping[Right, frozenset[KeyLetter]]]] = MappingProxyType(
    {
        #                          read    write    increment  decrement  transfer
        condition: MappingProxyType(dict(zip(Right, keys, strict=True)))
        for condition, keys in {
            Condition.TRANSPORT: (_BOTH, _BOTH, _BOTH, _BOTH, _BOTH),
            Condition.ISSUER_WRITES: (_BOTH, _B, _NOBODY, _NOBODY, _NOBODY),
            Condition.VALUE: (_BOTH, _B, _B, _BOTH, _BOTH),
            Condition.TERMINAL_WRITES: (_BOTH, _BOTH, _NOBODY, _NOBODY, _NOBODY),
            Condition.ISSUER_ONLY: (_B, _B, _NOBODY, _NOBODY, _NOBODY),
        }.items()
    }
)
"""Which key may do what with a block. A trailer is a block too; its keys are never read back."""

SITE_CONDITIONS: Final[Mapping[int, tuple[Condition, Condition, Condition, Condition]]] = MappingProxyType(
    {
        DIRECTORY_SECTOR: (Condition.ISSUER_WRITES,) * 4,
        PURSE_SECTOR: (Condition.VALUE, Condition.VALUE, Condition.ISSUER_WRITES, Condition.ISSUER_WRITES),
        MARKER_SECTOR: (
            Condition.TERMINAL_WRITES,
            Condition.TERMINAL_WRITES,
            Condition.ISSUER_WRITES,
            Condition.ISSUER_WRITES,
        ),
        **{
            sector: (*(Condition.TERMINAL_WRITES,) * 3, Condition.ISSUER_WRITES)
            for sector, owner in enumerate(OWNER_OF_SECTOR)
            if owner in {Application.MEALS, Application.DOORS}
        },
        **{
            sector: (Condition.ISSUER_ONLY,) * 4
            for sector, owner in enumerate(OWNER_OF_SECTOR)
            if owner is Application.ISSUER
        },
    }
)
"""Conditions of blocks 0 to 3 of every sector after formatting."""


def sector_key(master: bytes, *, uid: bytes, application: int, sector: int, letter: KeyLetter) -> bytes:
    """One card one key per sector: AN10922-style over UID, application, sector and letter; the leftmost 6 bytes."""
    named = bytes((0x01,)) + uid + bytes((0xF0, 0x43, application, sector, letter))
    return MacKey(master).mac(named, b"ONECARD")[:KEY_BYTES]


def encode_access(conditions: tuple[Condition, Condition, Condition, Condition]) -> bytes:
    return bytes((~code & 0xF) << 4 | code for code in conditions)


def decode_access(access: bytes) -> tuple[Condition, ...] | None:
    """None for damaged access bytes: then nobody has any right in that sector, for ever."""
    if any(each >> 4 != ~each & 0xF or each & 0xF not in ACCESS_TABLE for each in access):
        return None
    return tuple(Condition(each & 0xF) for each in access)


def encode_trailer(key_a: bytes, conditions: tuple[Condition, Condition, Condition, Condition], key_b: bytes) -> bytes:
    return key_a + encode_access(conditions) + key_b


TRANSPORT_TRAILER: Final = encode_trailer(TRANSPORT_KEY, (Condition.TRANSPORT,) * 4, TRANSPORT_KEY)

_VALUE: Final = struct.Struct("!iIiBBBB")
assert _VALUE.size == BLOCK_BYTES


def encode_value(value: int, address: int) -> bytes:
    """value, ~value, value, address, ~address, address, ~address. Raises OutOfRange."""
    if not -VALUE_MAX - 1 <= value <= VALUE_MAX:
        raise OutOfRange(f"value {value}")
    return _VALUE.pack(value, ~value & 0xFFFF_FFFF, value, address, ~address & 0xFF, address, ~address & 0xFF)


def decode_value(block: bytes) -> tuple[int, int] | None:
    """(value, address) of a value block, None where its copies disagree: a torn write, or no value block."""
    value, _, _, address, *_ = _VALUE.unpack(block)
    return (value, address) if encode_value(value, address) == block else None


class MarkerKind(IntEnum):
    FORMAT = 0x01
    DEBIT = 0x02
    LOAD = 0x03


_MARKER: Final = struct.Struct("!BIiI3s")
_MARKER_CHECK_BYTES: Final = 3
assert _MARKER.size == BLOCK_BYTES


@dataclass(slots=True, frozen=True)
class Marker:
    """A transaction that is about to be made: its number, the balance before it and its amount."""

    kind: MarkerKind
    counter: int
    before_cents: int
    amount_cents: int

    @property
    def after_cents(self) -> int:
        return self.before_cents + (self.amount_cents if self.kind is MarkerKind.LOAD else -self.amount_cents)

    @property
    def block(self) -> int:
        """Where it stands; the other marker block keeps the transaction before."""
        return MARKER_BLOCKS[self.counter % 2]

    def encode(self) -> bytes:
        """16 bytes. Raises OutOfRange."""
        if not 0 <= self.counter <= COUNTER_MAX or not 0 <= self.amount_cents <= VALUE_MAX:
            raise OutOfRange("a marker's counter or amount")
        stated = _MARKER.pack(self.kind, self.counter, self.before_cents, self.amount_cents, b"")[:-_MARKER_CHECK_BYTES]
        return stated + crc32(stated).to_bytes(4, "big")[:_MARKER_CHECK_BYTES]

    @classmethod
    def decode(cls, block: bytes) -> Marker | None:
        """None for a torn or empty block."""
        kind, counter, before, amount, _ = _MARKER.unpack(block)
        if kind not in set(MarkerKind) or amount > VALUE_MAX or (amount == 0) != (kind == MarkerKind.FORMAT):
            return None
        marker = cls(MarkerKind(kind), counter, before, amount)
        return marker if marker.encode() == block else None


_LOAD: Final = struct.Struct("!II4x4s")
assert _LOAD.size == BLOCK_BYTES


@dataclass(slots=True, frozen=True)
class LoadMark:
    """Which order a load executes: its serial (R22), and the number of the transaction by which it does."""

    serial: int
    counter: int

    def encode(self) -> bytes:
        """16 bytes with a CRC-32."""
        stated = _LOAD.pack(self.serial, self.counter, b"")[:-4]
        return stated + crc32(stated).to_bytes(4, "big")

    @classmethod
    def decode(cls, block: bytes) -> LoadMark | None:
        """None for a torn or empty block."""
        serial, counter, _ = _LOAD.unpack(block)
        mark = cls(serial, counter)
        return mark if mark.encode() == block else None


_FACTS: Final = struct.Struct("!IBHIB")
_DIRECTORY_OWNERS: Final = SECTORS - 1


@dataclass(slots=True, frozen=True, repr=False)
class MemoryFacts:
    """What sector 0 states of a card; a claim until a sector of the purse has authenticated."""

    number: int
    key_version: int
    currency: int
    valid_until_day: int = 0
    group: int = 0

    def encode(self) -> bytes:
        """16 bytes with a CRC-32. Raises OutOfRange."""
        try:
            stated = _FACTS.pack(self.number, self.key_version, self.currency, self.valid_until_day, self.group)
        except struct.error as error:
            raise OutOfRange(f"card facts: {error}") from None
        return stated + crc32(stated).to_bytes(4, "big")

    @classmethod
    def decode(cls, block: bytes) -> MemoryFacts:
        """Raises DamagedData for a wrong check, or card number 0."""
        if len(block) != BLOCK_BYTES or crc32(block[:-4]).to_bytes(4, "big") != block[-4:]:
            raise DamagedData("memory card: facts and their check differ")
        facts = cls(*_FACTS.unpack(block[:-4]))
        if facts.number == 0:
            raise DamagedData("memory card: number 0")
        return facts

    def __repr__(self) -> str:
        return f"MemoryFacts({card_masked(self.number)}, key_version={self.key_version})"


def encode_directory() -> bytes:
    """Owners of sectors 1 to 15 and a check byte."""
    owners = bytes(OWNER_OF_SECTOR[1:])
    return owners + bytes((crc32(owners) & 0xFF,))


def decode_directory(block: bytes) -> tuple[int, ...]:
    """Owners of sectors 1 to 15. Raises DamagedData for a wrong check."""
    owners = block[:_DIRECTORY_OWNERS]
    if len(block) != BLOCK_BYTES or block[-1] != crc32(owners) & 0xFF:
        raise DamagedData("memory card: directory and its check differ")
    return tuple(owners)
