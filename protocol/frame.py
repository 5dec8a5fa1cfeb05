"""Frame codec for both media (docs/protocol.md §3, R31). Knows no keys, no session, no messages.

    offset size field
    0      1    magic C3
    1      1    version (high nibble, 1) and flags (low nibble): sealed 1, down 2, line 4
    2      1    kind
    3      1    line address 1-254, 255 broadcast; 0 on TCP
    4      4    counter, low 32 bits
    8      2    body length
    10     2    CRC-16 of bytes 0-9
    12     ...  body, tag (SEALED only: 16 bytes on TCP, 8 on a line), CRC-32 (line only)

The two CRCs are the ones that C code in the standard library computes: `binascii.crc_hqx` and `zlib.crc32`.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from protocol import PROTOCOL_VERSION
from protocol.codes import FrameKind, Medium
from protocol.errors import CounterError, Garbage, OutOfRange, RemoteError, TooLong, UnknownFrame, kept
from protocol.limits import GARBAGE_BYTES_MAX, TAG_BYTES_LINE, TAG_BYTES_TCP

MAGIC: Final = 0xC3
VERSION_BITS: Final = PROTOCOL_VERSION << 4
FLAG_SEALED: Final = 0x1
FLAG_DOWN: Final = 0x2
FLAG_LINE: Final = 0x4

HEADER: Final = struct.Struct("!BBBBIHH")
HEADER_START: Final = struct.Struct("!BBBBIH")  # without the check
HEADER_BYTES: Final = 12
assert HEADER.size == HEADER_BYTES
CRC16_INITIAL: Final = 0xFFFF
CRC_BYTES: Final = 4
LINE_ADDRESS_MAX: Final = 255
_CRC32: Final = struct.Struct("!I")

_KIND_SEALED: Final = int(FrameKind.SEALED)
_DOWN_KINDS: Final = frozenset({FrameKind.CHALLENGE, FrameKind.ACCEPT, FrameKind.REFUSE})
_UP_KINDS: Final = frozenset({FrameKind.HELLO, FrameKind.PROVE})


def _heads_of(medium: Medium) -> frozenset[tuple[int, int]]:
    """Every (version and flags, kind) that this version knows on `medium`."""
    base = VERSION_BITS | (FLAG_LINE if medium == Medium.LINE else 0)
    return frozenset(
        {(base, int(kind)) for kind in _UP_KINDS}
        | {(base | FLAG_DOWN, int(kind)) for kind in _DOWN_KINDS}
        | {(base | FLAG_SEALED | down, _KIND_SEALED) for down in (0, FLAG_DOWN)}
    )


_HEADS: Final = {medium: _heads_of(medium) for medium in Medium}


def tag_bytes(medium: Medium) -> int:
    """Length of a sealed frame's tag."""
    return TAG_BYTES_LINE if medium == Medium.LINE else TAG_BYTES_TCP


@dataclass(slots=True)
class Frame:
    """One frame whose header (and CRC, on a line) is right; its tag is not verified yet. Owns its bytes."""

    kind: int
    flags: int
    address: int
    counter: int
    header: bytes
    body: bytes
    tag: bytes

    @property
    def down(self) -> bool:
        """Whether a front-end sent it."""
        return self.flags & FLAG_DOWN != 0

    def __repr__(self) -> str:
        return (
            f"Frame(kind={self.kind:02x}, flags={self.flags:x}, address={self.address}, "
            f"counter={self.counter}, body={len(self.body)} bytes)"
        )


def encode_header(
    kind: int, body_bytes: int, *, medium: Medium, down: bool, address: int = 0, counter: int = 0
) -> bytes:
    """The 12 header bytes; of `counter` the low 32 bits are sent.

    Raises:
        OutOfRange: the address does not fit the medium, or the body its length field.
    """
    address_fits = 0 < address <= LINE_ADDRESS_MAX if medium == Medium.LINE else address == 0
    if not address_fits or not 0 <= body_bytes <= 0xFFFF:
        raise OutOfRange(f"address {address} or body of {body_bytes} bytes on {medium.name}")
    return pack_header(flags_of(kind, medium, down=down), kind, address, counter, body_bytes)


def flags_of(kind: int, medium: Medium, *, down: bool) -> int:
    """Second byte of a header: version and flags."""
    flags = VERSION_BITS
    if kind == _KIND_SEALED:
        flags |= FLAG_SEALED
    if down:
        flags |= FLAG_DOWN
    if medium == Medium.LINE:
        flags |= FLAG_LINE
    return flags


def pack_header(version_and_flags: int, kind: int, address: int, counter: int, body_bytes: int) -> bytes:
    """The 12 bytes from values that fit; for the hot path, whose flags never change."""
    start = HEADER_START.pack(MAGIC, version_and_flags, kind, address, counter & 0xFFFFFFFF, body_bytes)
    return start + crc_hqx(start, CRC16_INITIAL).to_bytes(2, "big")


def close_frame(header: bytes, body_and_tag: bytes, *, medium: Medium) -> bytes:
    """The whole frame: with the CRC on a line."""
    if medium == Medium.TCP:
        return header + body_and_tag
    frame = header + body_and_tag
    return frame + _CRC32.pack(crc32(frame))


def encode_frame(kind: int, body: bytes, *, medium: Medium, down: bool, address: int = 0) -> bytes:
    """A whole frame of the handshake kinds; sealed ones come from `protocol.aead.Sealer`."""
    header = encode_header(kind, len(body), medium=medium, down=down, address=address)
    return close_frame(header, body, medium=medium)


class FrameDecoder:
    """Cuts one direction of a byte stream into frames; how the bytes are chunked makes no difference.

    `feed` never raises for the peer's bytes: it returns the good frames that came before an error and keeps
    the error in `error` (TCP only: on a line it searches on, and counts). After an error it returns nothing
    more. Between calls less than one largest frame is kept.
    """

    __slots__ = (
        "_buffer",
        "_closing_bytes",
        "_heads",
        "_is_line",
        "_tag_bytes",
        "body_bytes_max",
        "error",
        "garbage_bytes",
        "noise_frames",
        "unknown_frames",
    )

    def __init__(self, medium: Medium, body_bytes_max: int) -> None:
        self.body_bytes_max = body_bytes_max
        self.error: RemoteError | None = None
        self.garbage_bytes = 0
        """Bytes skipped in search of a frame, over the life of the connection."""
        self.noise_frames = 0
        """Line only: frames whose CRC is wrong."""
        self.unknown_frames = 0
        """Line only: headers with a right check that this version or side does not take."""
        self._is_line = medium == Medium.LINE
        self._heads = _HEADS[medium]
        self._tag_bytes = tag_bytes(medium)
        self._closing_bytes = CRC_BYTES if self._is_line else 0
        self._buffer = b""

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing of an unfinished frame is kept, and nothing was wrong."""
        return not self._buffer and self.error is None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes, in order; look at `error` afterwards."""
        if self.error is not None:
            return []
        buffer = self._buffer + data if self._buffer else bytes(data)
        frames: list[Frame] = []
        try:
            position = self._cut(buffer, frames)
        except RemoteError as error:
            self.error = kept(error)
            self._buffer = b""
            return frames
        self._buffer = buffer[position:] if position else buffer
        return frames

    def line_silent(self) -> list[Frame]:
        """The line fell silent inside a frame, so its end will not come: search behind its first byte."""
        frames: list[Frame] = []
        while self._is_line and self._buffer:
            rest, self._buffer = self._buffer[1:], b""
            self.garbage_bytes += 1
            frames += self.feed(rest)
        return frames

    def _cut(self, buffer: bytes, frames: list[Frame]) -> int:
        """Append the frames in `buffer` to `frames`; return where the unfinished rest starts."""
        heads, is_line = self._heads, self._is_line
        end = len(buffer)
        position = 0
        while end - position >= HEADER_BYTES:
            magic, flags, kind, address, counter, length, check = HEADER.unpack_from(buffer, position)
            body_at = position + HEADER_BYTES
            if magic != MAGIC or check != crc_hqx(buffer[position : body_at - 2], CRC16_INITIAL):
                position = self._search(buffer, position, position + 1)
                continue
            fits = (flags, kind) in heads and length <= self.body_bytes_max and (address != 0) == is_line
            if not fits or (counter and kind != _KIND_SEALED):
                if not is_line:
                    raise self._header_error(flags, kind, address, counter, length)
                self.unknown_frames += 1
                position = self._search(buffer, position, position + 1)
                continue
            tag_at = body_at + length
            crc_at = tag_at + self._tag_bytes if kind == _KIND_SEALED else tag_at
            next_at = crc_at + self._closing_bytes
            if next_at > end:
                return position
            if is_line and _CRC32.unpack_from(buffer, crc_at)[0] != crc32(buffer[position:crc_at]):
                # Searching goes on inside it: where bytes were lost, the next good frame has already begun.
                self.noise_frames += 1
                position = self._search(buffer, position, position + 1)
                continue
            frames.append(
                Frame(
                    kind,
                    flags & 0x0F,
                    address,
                    counter,
                    buffer[position:body_at],
                    buffer[body_at:tag_at],
                    buffer[tag_at:crc_at],
                )
            )
            position = next_at
        if position == end:
            return end
        # Fewer bytes than a header: what cannot begin a frame is passed over now, so that it counts at once.
        return self._search(buffer, position, position)

    def _header_error(self, flags: int, kind: int, address: int, counter: int, length: int) -> RemoteError:
        """What is wrong with a header whose check is right, in the order of docs/protocol.md §3."""
        if (flags, kind) not in self._heads or self._is_line != (address != 0):
            return UnknownFrame(f"frame version and flags {flags:02x}, kind {kind:02x}, address {address}")
        if length > self.body_bytes_max:
            return TooLong("frame body", got_bytes=length, max_bytes=self.body_bytes_max)
        return CounterError(got=counter, expected=0)

    def _search(self, buffer: bytes, position: int, search_at: int) -> int:
        """The first place from `search_at` on where a frame may begin; counts what lies between."""
        found = buffer.find(MAGIC, search_at)
        if found < 0:
            found = len(buffer)
        self.garbage_bytes += found - position
        if not self._is_line and self.garbage_bytes > GARBAGE_BYTES_MAX:
            raise Garbage(f"more than {GARBAGE_BYTES_MAX} bytes that belong to no frame")
        return found
