"""Packets of OSDP and how they are cut out of a line. Knows no keys, no sequence rules, no messages.

    offset size
    0      1    53 (a mark byte FF goes before it and belongs to no packet)
    1      1    address 0-126, 127 all; bit 7 set in replies
    2      2    length from byte 0 to the end of the check, little-endian
    4      1    sequence 0-3, 04 CRC instead of checksum, 08 a security block follows
    5      n    security block: its length n, type, data              (only with 08)
    5+n    1    command or reply
    6+n    ...  data; MAC, 4 bytes (block types 15-18)
    end-2  2    CRC-16, little-endian; or 1 byte checksum

Bytes before a packet that are no SOM are passed over.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import LineNoise, Malformed, OutOfRange, TooLong, UnknownFrame
from protocol.osdp.codes import ScsType
from protocol.osdp.limits import BROADCAST, PACKET_BYTES_MAX

MARK: Final = b"\xff"
SOM: Final = 0x53
REPLY_BIT: Final = 0x80
CONTROL_CRC: Final = 0x04
CONTROL_SCB: Final = 0x08
CONTROL_SEQUENCE: Final = 0x03
HEADER: Final = struct.Struct("<BBHB")
HEADER_BYTES: Final = 5
assert HEADER.size == HEADER_BYTES
PACKET_BYTES_MIN: Final = HEADER_BYTES + 2  # code and checksum
SCB_BYTES_MAX: Final = 16
MAC_BYTES: Final = 4
CRC_INITIAL: Final = 0x1D0F
_MAC_TYPES: Final = frozenset(
    {ScsType.COMMAND_MAC, ScsType.REPLY_MAC, ScsType.COMMAND_DATA, ScsType.REPLY_DATA},
)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet whose check is right; its MAC is not verified yet, its data may still be encrypted."""

    address: int
    reply: bool
    sequence: int
    code: int
    data: bytes
    block: bytes = b""
    """Type and data of the security block, without its length; empty where there is none."""
    mac: bytes = b""
    uses_crc: bool = True
    raw: bytes = field(default=b"", compare=False)
    """The whole packet from SOM to check, for the MAC and for recognising a repetition."""

    @property
    def block_type(self) -> int:
        """Type of the security block, 0 where there is none."""
        return self.block[0] if self.block else 0

    @property
    def signed(self) -> bytes:
        """The bytes that the MAC covers."""
        return self.raw[: len(self.raw) - MAC_BYTES - (2 if self.uses_crc else 1)]

    def __repr__(self) -> str:
        return (
            f"Packet({'reply' if self.reply else 'command'} {self.code:02x}, address={self.address}, "
            f"sequence={self.sequence}, block={self.block_type:02x}, data={len(self.data)} bytes)"
        )


def check_bytes(start: bytes, *, uses_crc: bool) -> bytes:
    """The CRC or checksum over everything before it."""
    if uses_crc:
        return crc_hqx(start, CRC_INITIAL).to_bytes(2, "little")
    return bytes((-sum(start) & 0xFF,))


def packet_start(
    address: int, sequence: int, code: int, data: bytes, *, reply: bool, block: bytes = b"", uses_crc: bool = True
) -> bytes:
    """SOM to DATA with the final length: what a MAC covers; `close_packet` makes it whole.

    Raises:
        OutOfRange: a field does not fit, or the packet would be longer than the standard allows.
    """
    if not 0 <= address <= BROADCAST or not 0 <= sequence <= CONTROL_SEQUENCE or len(block) >= SCB_BYTES_MAX:
        raise OutOfRange(f"address {address}, sequence {sequence} or security block of {len(block)} bytes")
    mac_bytes = MAC_BYTES if block and block[0] in _MAC_TYPES else 0
    scb = bytes((len(block) + 1,)) + block if block else b""
    length = HEADER_BYTES + len(scb) + 1 + len(data) + mac_bytes + (2 if uses_crc else 1)
    if length > PACKET_BYTES_MAX:
        raise OutOfRange(f"a packet of {length} bytes, {PACKET_BYTES_MAX} at most")
    control = sequence | (CONTROL_CRC if uses_crc else 0) | (CONTROL_SCB if block else 0)
    head = HEADER.pack(SOM, address | (REPLY_BIT if reply else 0), length, control)
    return head + scb + bytes((code,)) + data


def close_packet(start: bytes, mac: bytes = b"", *, uses_crc: bool = True) -> bytes:
    """The whole packet, without the mark byte."""
    body = start + mac
    return body + check_bytes(body, uses_crc=uses_crc)


def encode_packet(
    address: int, sequence: int, code: int, data: bytes, *, reply: bool, block: bytes = b"", uses_crc: bool = True
) -> bytes:
    """A whole packet without MAC: in clear, or a step of the secure channel's handshake."""
    start = packet_start(address, sequence, code, data, reply=reply, block=block, uses_crc=uses_crc)
    return close_packet(start, uses_crc=uses_crc)


def decode_packet(data: bytes | bytearray | memoryview) -> Packet:
    """One whole packet.

    Raises:
        RemoteError: size, check or layout is wrong.
    """
    raw = bytes(data)
    if len(raw) > PACKET_BYTES_MAX:
        raise TooLong("packet", got_bytes=len(raw), max_bytes=PACKET_BYTES_MAX)
    if len(raw) < PACKET_BYTES_MIN:
        raise Malformed("packet", f"{len(raw)} bytes, {PACKET_BYTES_MIN} at least")
    som, address, length, control = HEADER.unpack_from(raw)
    if som != SOM or length != len(raw):
        raise Malformed("packet", f"starts with {som:02x}, states {length} bytes and has {len(raw)}")
    uses_crc = control & CONTROL_CRC != 0
    check_at = len(raw) - (2 if uses_crc else 1)
    if check_bytes(raw[:check_at], uses_crc=uses_crc) != raw[check_at:]:
        raise LineNoise("packet with a wrong check")
    if control & ~(CONTROL_CRC | CONTROL_SCB | CONTROL_SEQUENCE):
        raise UnknownFrame(f"control byte {control:02x}")
    block, code_at = b"", HEADER_BYTES
    if control & CONTROL_SCB:
        block_bytes = raw[HEADER_BYTES]
        code_at = HEADER_BYTES + block_bytes
        if not 2 <= block_bytes <= SCB_BYTES_MAX:
            raise Malformed("packet", f"a security block of {block_bytes} bytes", offset=HEADER_BYTES)
        block = raw[HEADER_BYTES + 1 : code_at]
    if code_at >= check_at:
        raise Malformed("packet", "no room for a code", offset=code_at)
    # Without room for a MAC there is none, and no session will take it: some panels begin with a sealed poll in clear.
    has_mac = bool(block) and block[0] in _MAC_TYPES and check_at - code_at > MAC_BYTES
    data_end = check_at - MAC_BYTES if has_mac else check_at
    return Packet(
        address & ~REPLY_BIT,
        address & REPLY_BIT != 0,
        control & CONTROL_SEQUENCE,
        raw[code_at],
        raw[code_at + 1 : data_end],
        block,
        raw[data_end:check_at],
        uses_crc,
        raw,
    )


class PacketDecoder:
    """Cuts what a line brings into packets; how the bytes are chunked makes no difference.

    `feed` never raises: noise is passed over and counted. It never looks for a packet inside one that is not finished,
    since the data of a packet may look like one; `line_silent` gives an unfinished one up. Less than one largest packet
    is kept.
    """

    __slots__ = ("_buffer", "garbage_bytes", "noise_packets")

    def __init__(self) -> None:
        self._buffer = b""
        self.garbage_bytes = 0
        """Bytes that belonged to no packet, mark bytes left out."""
        self.noise_packets = 0
        """Packets with a wrong check, or a right check and a layout that no version has."""

    @property
    def unfinished(self) -> bool:
        """Whether a packet has begun and its end is missing."""
        return bool(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Packet]:
        """The packets that `data` completes, in order."""
        buffer = self._buffer + data if self._buffer else bytes(data)
        packets: list[Packet] = []
        position = self._next_start(buffer, 0)
        while len(buffer) - position >= HEADER_BYTES - 1:
            length = buffer[position + 2] | buffer[position + 3] << 8
            if not PACKET_BYTES_MIN <= length <= PACKET_BYTES_MAX:
                position = self._skip(buffer, position)
                continue
            if len(buffer) - position < length:
                break
            try:
                packets.append(decode_packet(buffer[position : position + length]))
            except (LineNoise, Malformed, UnknownFrame):
                self.noise_packets += 1
                position = self._skip(buffer, position)
                continue
            position = self._next_start(buffer, position + length)
        self._buffer = buffer[position:]
        return packets

    def line_silent(self) -> list[Packet]:
        """The line fell silent inside a packet: give its first byte up, and return what it had swallowed."""
        packets: list[Packet] = []
        while self._buffer:
            rest, self._buffer = self._buffer[1:], b""
            self.garbage_bytes += 1
            packets += self.feed(rest)
        return packets

    def _skip(self, buffer: bytes, position: int) -> int:
        self.garbage_bytes += 1
        return self._next_start(buffer, position + 1)

    def _next_start(self, buffer: bytes, position: int) -> int:
        found = buffer.find(SOM, position)
        end = len(buffer) if found < 0 else found
        passed = buffer[position:end]
        self.garbage_bytes += len(passed) - passed.count(MARK)
        return end
