"""Replies of a reader with strict decoders.

Integers are little-endian. Card data and keys pressed never show in a repr.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from protocol.errors import Malformed, OutOfRange, UnexpectedMessage
from protocol.osdp.codes import CapabilityCode, NakCode, ReplyCode
from protocol.osdp.commands import CRYPTOGRAM_BYTES, RANDOM_BYTES, need, records
from protocol.osdp.limits import ADDRESS_MAX, PACKET_BYTES_MAX

_IDENTITY: Final = struct.Struct("<3sBB4s3B")
_RAW: Final = struct.Struct("<BBH")
_COM: Final = struct.Struct("<BI")
_FTSTAT: Final = struct.Struct("<BHhH")
assert (_IDENTITY.size, _RAW.size, _COM.size, _FTSTAT.size) == (12, 4, 5, 7)
STATUS_ITEMS_MAX: Final = 255
NAMES: Final = {int(code): code.name.lower() for code in NakCode}


@dataclass(frozen=True, slots=True)
class Reply:
    """Base: a reply without data."""

    CODE: ClassVar[ReplyCode]

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need(cls.CODE.name, data, 0)
        return cls()


class Ack(Reply):
    CODE = ReplyCode.ACK


class Busy(Reply):
    CODE = ReplyCode.BUSY


@dataclass(frozen=True, slots=True)
class Nak(Reply):
    CODE = ReplyCode.NAK
    reason: int
    details: bytes = b""

    def encode(self) -> bytes:
        return bytes((self.reason,)) + self.details

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if not data:
            raise Malformed("NAK", "no reason")
        return cls(data[0], data[1:])

    @property
    def name(self) -> str:
        """The reason in words where the standard has one."""
        return NAMES.get(self.reason, str(self.reason))


@dataclass(frozen=True, slots=True)
class Identity(Reply):
    """PDID: who the reader says it is; a claim, as long as no secure channel stands."""

    CODE = ReplyCode.PDID
    vendor: bytes
    model: int
    version: int
    serial: bytes
    firmware: tuple[int, int, int]

    def encode(self) -> bytes:
        return _IDENTITY.pack(self.vendor, self.model, self.version, self.serial, *self.firmware)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("PDID", data, _IDENTITY.size)
        vendor, model, version, serial, major, minor, build = _IDENTITY.unpack(data)
        return cls(vendor, model, version, serial, (major, minor, build))

    @property
    def client_id(self) -> bytes:
        """The cUID of the secure channel: the first eight bytes."""
        return self.encode()[:8]


@dataclass(frozen=True, slots=True)
class Capabilities(Reply):
    """PDCAP: (function, level, count), in the reader's order."""

    CODE = ReplyCode.PDCAP
    entries: tuple[tuple[int, int, int], ...]

    def encode(self) -> bytes:
        return b"".join(bytes(entry) for entry in self.entries)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(tuple((data[at], data[at + 1], data[at + 2]) for at in records("PDCAP", data, 3)))

    def level(self, function: CapabilityCode) -> int:
        """Level stated for a function, 0 where it is not named."""
        return next((level for code, level, _ in self.entries if code == function), 0)

    def count(self, function: CapabilityCode) -> int:
        """Number of items stated for a function, 0 where it is not named."""
        return next((count for code, _, count in self.entries if code == function), 0)

    @property
    def receive_bytes(self) -> int | None:
        """Longest packet that the reader takes; None where it does not say (both bytes are one number)."""
        for code, low, high in self.entries:
            if code == CapabilityCode.RECEIVE_SIZE:
                return low | high << 8
        return None


@dataclass(frozen=True, slots=True)
class LocalStatus(Reply):
    CODE = ReplyCode.LSTATR
    tampered: bool
    power_failed: bool

    def encode(self) -> bytes:
        return bytes((self.tampered, self.power_failed))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("LSTATR", data, 2)
        if max(data) > 1:
            raise Malformed("LSTATR", "neither 0 nor 1")
        return cls(data[0] == 1, data[1] == 1)


@dataclass(frozen=True, slots=True)
class _Items(Reply):
    """One byte an item; what the items are says the subclass."""

    items: bytes

    def encode(self) -> bytes:
        return self.items

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if not 0 < len(data) <= STATUS_ITEMS_MAX:
            raise Malformed(cls.CODE.name, f"{len(data)} items")
        return cls(data)


class InputStatus(_Items):
    CODE = ReplyCode.ISTATR


class OutputStatus(_Items):
    CODE = ReplyCode.OSTATR


class ReaderStatus(_Items):
    """0 normal, 1 not connected, 2 tampered."""

    CODE = ReplyCode.RSTATR


@dataclass(frozen=True, slots=True)
class CardRead(Reply):
    """RAW: the bits of a card, left-aligned in their bytes."""

    CODE = ReplyCode.RAW
    reader: int
    format: int
    bits: int
    card: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _RAW.pack(self.reader, self.format, self.bits) + self.card

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _RAW.size:
            raise Malformed("RAW", f"{len(data)} bytes, {_RAW.size} at least")
        reader, card_format, bits = _RAW.unpack_from(data)
        card = data[_RAW.size :]
        if not bits or len(card) != -(-bits // 8):
            raise Malformed("RAW", f"{bits} bits in {len(card)} bytes", offset=2)
        return cls(reader, card_format, bits, card)


@dataclass(frozen=True, slots=True)
class FormattedRead(Reply):
    """FMT: characters of a card; deprecated, still spoken by old readers."""

    CODE = ReplyCode.FMT
    reader: int
    backward: int
    card: bytes = field(repr=False)

    def encode(self) -> bytes:
        return bytes((self.reader, self.backward, len(self.card))) + self.card

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 4 or len(data) != 3 + data[2]:
            raise Malformed("FMT", f"{len(data)} bytes and the length it states do not agree")
        return cls(data[0], data[1], data[3:])


@dataclass(frozen=True, slots=True)
class Keypad(Reply):
    CODE = ReplyCode.KEYPAD
    reader: int
    digits: bytes = field(repr=False)
    """ASCII digits; 7F clear (*), 0D enter (#)."""

    def encode(self) -> bytes:
        return bytes((self.reader, len(self.digits))) + self.digits

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 3 or len(data) != 2 + data[1]:
            raise Malformed("KEYPAD", f"{len(data)} bytes and the length it states do not agree")
        return cls(data[0], data[2:])


@dataclass(frozen=True, slots=True)
class Communication(Reply):
    """COM: what the reader will use from now on, which may differ from what COMSET asked for."""

    CODE = ReplyCode.COM
    address: int
    baud: int

    def encode(self) -> bytes:
        return _COM.pack(self.address, self.baud)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("COM", data, _COM.size)
        address, baud = _COM.unpack(data)
        if address > ADDRESS_MAX:
            raise Malformed("COM", f"address {address}", offset=0)
        return cls(address, baud)


@dataclass(frozen=True, slots=True)
class ClientCryptogram(Reply):
    CODE = ReplyCode.CCRYPT
    client_id: bytes
    random: bytes
    cryptogram: bytes

    def encode(self) -> bytes:
        return self.client_id + self.random + self.cryptogram

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("CCRYPT", data, 2 * RANDOM_BYTES + CRYPTOGRAM_BYTES)
        return cls(data[:8], data[8:16], data[16:])


@dataclass(frozen=True, slots=True)
class InitialReplyMac(Reply):
    CODE = ReplyCode.RMAC_I
    mac: bytes

    def encode(self) -> bytes:
        return self.mac

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("RMAC_I", data, CRYPTOGRAM_BYTES)
        return cls(data)


@dataclass(frozen=True, slots=True)
class FileState(Reply):
    """FTSTAT: how a transfer goes on."""

    CODE = ReplyCode.FTSTAT
    flags: int
    delay_ms: int
    status: int
    receive_bytes: int
    """Longest packet for the next fragments; 0 leaves it as it is."""

    def encode(self) -> bytes:
        return _FTSTAT.pack(self.flags, self.delay_ms, self.status, self.receive_bytes)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("FTSTAT", data, _FTSTAT.size)
        return cls(*_FTSTAT.unpack(data))


@dataclass(frozen=True, slots=True)
class ManufacturerReply(Reply):
    CODE = ReplyCode.MFGREP
    vendor: bytes
    body: bytes

    def encode(self) -> bytes:
        return self.vendor + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 3:
            raise Malformed("MFGREP", f"{len(data)} bytes, 3 at least")
        return cls(data[:3], data[3:])


@dataclass(frozen=True, slots=True)
class ExtendedRead(Reply):
    CODE = ReplyCode.XRD
    mode: int
    body: bytes

    def encode(self) -> bytes:
        return bytes((self.mode,)) + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 2:
            raise Malformed("XRD", f"{len(data)} bytes, 2 at least")
        return cls(data[0], data[1:])


REPLIES: Final[dict[int, type[Reply]]] = {
    int(one.CODE): one
    for one in (
        *(Ack, Nak, Identity, Capabilities, LocalStatus, InputStatus, OutputStatus, ReaderStatus, CardRead),
        *(FormattedRead, Keypad, Communication, ClientCryptogram, InitialReplyMac, Busy, FileState),
        *(ManufacturerReply, ExtendedRead),
    )
}
EVENT_REPLIES: Final = (
    *(LocalStatus, InputStatus, OutputStatus, ReaderStatus, CardRead, FormattedRead, Keypad),
    *(ManufacturerReply, ExtendedRead),
)
"""What a reader may answer to a poll because something happened."""


def decode_reply(code: int, data: bytes | bytearray | memoryview) -> Reply:
    """The reply of that code.

    Raises:
        UnexpectedMessage: no reply of this implementation.
        Malformed: its data breaks its layout.
    """
    kind = REPLIES.get(code)
    if kind is None:
        raise UnexpectedMessage(f"reply {code:02x}")
    return kind.decode(bytes(data))


def card_read(bits: str, *, reader: int = 0, card_format: int = 1) -> CardRead:
    """A read of a card whose bits are written as 0 and 1.

    Raises:
        OutOfRange: no bits, or more than a packet holds.
    """
    if not bits or len(bits) > (PACKET_BYTES_MAX - 64) * 8:
        raise OutOfRange(f"a card of {len(bits)} bits")
    padded = bits + "0" * (-len(bits) % 8)
    return CardRead(reader, card_format, len(bits), int(padded, 2).to_bytes(len(padded) // 8, "big"))
