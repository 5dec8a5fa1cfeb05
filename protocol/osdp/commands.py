"""Commands of a control panel with strict decoders.

Times are units of 100 ms as on the wire; integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from protocol.errors import Malformed, OutOfRange, UnexpectedMessage
from protocol.osdp.codes import CommandCode
from protocol.osdp.limits import ADDRESS_MAX, KEY_BYTES

_OUTPUT: Final = struct.Struct("<BBH")
_LED: Final = struct.Struct("<BB5BH5B")
_COMSET: Final = struct.Struct("<BI")
_FILE: Final = struct.Struct("<BIIH")
assert (_OUTPUT.size, _LED.size, _COMSET.size, _FILE.size) == (4, 14, 5, 11)
FILE_HEAD_BYTES: Final = _FILE.size
TEXT_BYTES_MAX: Final = 255
KEY_TYPE_SCBK: Final = 1
RANDOM_BYTES: Final = 8
CRYPTOGRAM_BYTES: Final = 16


def need(what: str, data: bytes, count: int) -> None:
    """Raise Malformed unless `data` has exactly `count` bytes."""
    if len(data) != count:
        raise Malformed(what, f"{len(data)} bytes instead of {count}")


def records(what: str, data: bytes, count: int) -> range:
    """Offsets of one or more records of `count` bytes that fill `data`."""
    if not data or len(data) % count:
        raise Malformed(what, f"{len(data)} bytes are no records of {count}")
    return range(0, len(data), count)


@dataclass(frozen=True, slots=True)
class Command:
    """Base: a command without data."""

    CODE: ClassVar[CommandCode]
    REQUEST: ClassVar[bytes] = b""

    def encode(self) -> bytes:
        return self.REQUEST

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if data != cls.REQUEST:
            raise Malformed(cls.CODE.name, f"{len(data)} bytes of data that it has not")
        return cls()


class Poll(Command):
    CODE = CommandCode.POLL


class IdentityRequest(Command):
    CODE = CommandCode.ID
    REQUEST = b"\0"


class CapabilityRequest(Command):
    CODE = CommandCode.CAP
    REQUEST = b"\0"


class LocalStatusRequest(Command):
    CODE = CommandCode.LSTAT


class InputStatusRequest(Command):
    CODE = CommandCode.ISTAT


class OutputStatusRequest(Command):
    CODE = CommandCode.OSTAT


class ReaderStatusRequest(Command):
    CODE = CommandCode.RSTAT


class Abort(Command):
    """End what takes long: a file transfer."""

    CODE = CommandCode.ABORT


@dataclass(frozen=True, slots=True)
class OutputRecord:
    output: int
    control: int
    """0 none, 1 off, 2 on, 3 off when its timer ends, 4 on when it ends, 5 on for the timer, 6 off for the timer."""
    timer: int = 0


@dataclass(frozen=True, slots=True)
class Output(Command):
    """Switch outputs: the strike of a door."""

    CODE = CommandCode.OUT
    outputs: tuple[OutputRecord, ...]

    def encode(self) -> bytes:
        return b"".join(_OUTPUT.pack(one.output, one.control, one.timer) for one in self.outputs)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        offsets = records("OUT", data, _OUTPUT.size)
        return cls(tuple(OutputRecord(*_OUTPUT.unpack_from(data, at)) for at in offsets))


@dataclass(frozen=True, slots=True)
class LedState:
    """One half of a LED record: what to do, on and off times, the two colours."""

    control: int = 0
    """Temporary: 0 none, 1 cancel, 2 set. Permanent: 0 none, 1 set."""
    on: int = 0
    off: int = 0
    on_color: int = 0
    off_color: int = 0


@dataclass(frozen=True, slots=True)
class LedRecord:
    reader: int = 0
    led: int = 0
    temporary: LedState = LedState()
    timer: int = 0
    permanent: LedState = LedState()


@dataclass(frozen=True, slots=True)
class Led(Command):
    CODE = CommandCode.LED
    leds: tuple[LedRecord, ...]

    def encode(self) -> bytes:
        return b"".join(
            _LED.pack(one.reader, one.led, *_half(one.temporary), one.timer, *_half(one.permanent)) for one in self.leds
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        found = []
        for at in records("LED", data, _LED.size):
            reader, led, *rest = _LED.unpack_from(data, at)
            found.append(LedRecord(reader, led, LedState(*rest[:5]), rest[5], LedState(*rest[6:])))
        return cls(tuple(found))


def _half(state: LedState) -> tuple[int, int, int, int, int]:
    return state.control, state.on, state.off, state.on_color, state.off_color


@dataclass(frozen=True, slots=True)
class Buzzer(Command):
    CODE = CommandCode.BUZ
    reader: int
    tone: int
    on: int
    off: int
    count: int
    """0 sounds until the next command."""

    def encode(self) -> bytes:
        return bytes((self.reader, self.tone, self.on, self.off, self.count))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("BUZ", data, 5)
        return cls(*data)


@dataclass(frozen=True, slots=True)
class Text(Command):
    CODE = CommandCode.TEXT
    reader: int
    control: int
    """1 permanent, 2 permanent wrapped, 3 temporary, 4 temporary wrapped."""
    seconds: int
    row: int
    column: int
    text: bytes

    def encode(self) -> bytes:
        if len(self.text) > TEXT_BYTES_MAX:
            raise OutOfRange(f"a text of {len(self.text)} bytes, {TEXT_BYTES_MAX} at most")
        return bytes((self.reader, self.control, self.seconds, self.row, self.column, len(self.text))) + self.text

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 6 or len(data) != 6 + data[5]:
            raise Malformed("TEXT", f"{len(data)} bytes and the length it states do not agree")
        return cls(data[0], data[1], data[2], data[3], data[4], data[6:])


@dataclass(frozen=True, slots=True)
class SetCommunication(Command):
    """COMSET: the answer still comes at the old address and speed."""

    CODE = CommandCode.COMSET
    address: int
    baud: int

    def encode(self) -> bytes:
        return _COMSET.pack(self.address, self.baud)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("COMSET", data, _COMSET.size)
        address, baud = _COMSET.unpack(data)
        if address > ADDRESS_MAX:
            raise Malformed("COMSET", f"address {address}", offset=0)
        return cls(address, baud)


@dataclass(frozen=True, slots=True)
class KeySet(Command):
    """The key never shows in a repr."""

    CODE = CommandCode.KEYSET
    key: bytes = field(repr=False)

    def encode(self) -> bytes:
        return bytes((KEY_TYPE_SCBK, len(self.key))) + self.key

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("KEYSET", data, 2 + KEY_BYTES)
        if data[0] != KEY_TYPE_SCBK or data[1] != KEY_BYTES:
            raise Malformed("KEYSET", f"key type {data[0]} of {data[1]} bytes", offset=0)
        return cls(data[2:])


@dataclass(frozen=True, slots=True)
class Challenge(Command):
    CODE = CommandCode.CHLNG
    random: bytes

    def encode(self) -> bytes:
        return self.random

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("CHLNG", data, RANDOM_BYTES)
        return cls(data)


@dataclass(frozen=True, slots=True)
class ServerCryptogram(Command):
    CODE = CommandCode.SCRYPT
    cryptogram: bytes

    def encode(self) -> bytes:
        return self.cryptogram

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("SCRYPT", data, CRYPTOGRAM_BYTES)
        return cls(data)


@dataclass(frozen=True, slots=True)
class PanelReceiveSize(Command):
    """ACURXSIZE: the longest packet that the panel takes."""

    CODE = CommandCode.ACURXSIZE
    size_bytes: int

    def encode(self) -> bytes:
        return self.size_bytes.to_bytes(2, "little")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("ACURXSIZE", data, 2)
        return cls(int.from_bytes(data, "little"))


@dataclass(frozen=True, slots=True)
class KeepActive(Command):
    CODE = CommandCode.KEEPACTIVE
    keep_ms: int

    def encode(self) -> bytes:
        return self.keep_ms.to_bytes(2, "little")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        need("KEEPACTIVE", data, 2)
        return cls(int.from_bytes(data, "little"))


@dataclass(frozen=True, slots=True)
class FileTransfer(Command):
    """One fragment; an empty one asks a reader that is finishing how far it is."""

    CODE = CommandCode.FILETRANSFER
    file_type: int
    total_bytes: int
    offset: int
    fragment: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _FILE.pack(self.file_type, self.total_bytes, self.offset, len(self.fragment)) + self.fragment

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < FILE_HEAD_BYTES:
            raise Malformed("FILETRANSFER", f"{len(data)} bytes, {FILE_HEAD_BYTES} at least")
        file_type, total, offset, length = _FILE.unpack_from(data)
        fragment = data[FILE_HEAD_BYTES:]
        if length != len(fragment) or offset + length > total:
            raise Malformed("FILETRANSFER", f"{length} bytes at {offset} of {total}, {len(fragment)} are there")
        return cls(file_type, total, offset, fragment)


@dataclass(frozen=True, slots=True)
class Manufacturer(Command):
    """MFG: whatever a maker defined, under its three bytes."""

    CODE = CommandCode.MFG
    vendor: bytes
    body: bytes

    def encode(self) -> bytes:
        return self.vendor + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 3:
            raise Malformed("MFG", f"{len(data)} bytes, 3 at least")
        return cls(data[:3], data[3:])


@dataclass(frozen=True, slots=True)
class ExtendedWrite(Command):
    """XWR: transparent access to a card; carried, not interpreted."""

    CODE = CommandCode.XWR
    mode: int
    body: bytes

    def encode(self) -> bytes:
        return bytes((self.mode,)) + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 2:
            raise Malformed("XWR", f"{len(data)} bytes, 2 at least")
        return cls(data[0], data[1:])


COMMANDS: Final[dict[int, type[Command]]] = {
    int(one.CODE): one
    for one in (
        *(Poll, IdentityRequest, CapabilityRequest, LocalStatusRequest, InputStatusRequest, OutputStatusRequest),
        *(ReaderStatusRequest, Output, Led, Buzzer, Text, SetCommunication, KeySet, Challenge, ServerCryptogram),
        *(PanelReceiveSize, FileTransfer, Manufacturer, ExtendedWrite, Abort, KeepActive),
    )
}


def decode_command(code: int, data: bytes | bytearray | memoryview) -> Command:
    """The command of that code.

    Raises:
        UnexpectedMessage: no command of this implementation.
        Malformed: its data breaks its layout.
    """
    kind = COMMANDS.get(code)
    if kind is None:
        raise UnexpectedMessage(f"command {code:02x}")
    return kind.decode(bytes(data))
