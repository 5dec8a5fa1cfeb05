"""Sealing and opening of frames (docs/protocol.md §5, R33, R34). Pure.

    suite A   AES-128-CCM   nonce = salt(5) ‖ counter u64                tag 16 bytes (TCP) or 8 (line)
    suite B   SM4-GCM       nonce = first 4 bytes of salt ‖ counter u64  tag 16 bytes; TCP only

Associated data are the 12 header bytes. The suite chooses the cipher object once, when a Sealer or Opener is made.

One Sealer or Opener per direction and session; the counter starts at 0 and never repeats a value.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM

from protocol.codes import FrameKind, Medium, Suite
from protocol.errors import CounterError, Disposition, OutOfRange, RemoteError, StateMisuse, TagError
from protocol.frame import (
    CRC16_INITIAL,
    HEADER_BYTES,
    HEADER_START,
    LINE_ADDRESS_MAX,
    MAGIC,
    Frame,
    close_frame,
    flags_of,
    tag_bytes,
)
from protocol.limits import BODY_BYTES_MAX_LINE, BODY_BYTES_MAX_TCP, SESSION_FRAMES_MAX
from protocol.mac import KEY_BYTES

SALT_BYTES: Final = 5
GCM_SALT_BYTES: Final = 4  # what a GCM nonce of 12 bytes leaves beside the counter
GCM_TAG_BYTES: Final = 16
COUNTER_BYTES: Final = 8
_SEALED: Final = int(FrameKind.SEALED)
_Buffer = bytes | bytearray | memoryview


class Repeated(RemoteError):
    """The frame last taken has come again byte for byte: answer with the cached reply (line only, R34)."""

    disposition = Disposition.DROP


def medium_body_bytes_max(medium: Medium) -> int:
    """The largest body that a medium carries."""
    return BODY_BYTES_MAX_LINE if medium == Medium.LINE else BODY_BYTES_MAX_TCP


class _Aead(Protocol):
    """What both suites' ciphers do; the names are those of `cryptography`'s AEAD classes."""

    def encrypt(self, nonce: bytes, data: _Buffer, associated_data: bytes, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...


class _Sm4Gcm:
    """SM4-GCM (GB/T 32907, RFC 8998), for which the library has no AEAD class: one context per frame."""

    __slots__ = ("_algorithm",)

    def __init__(self, key: bytes) -> None:
        self._algorithm = SM4(key)

    def encrypt(self, nonce: bytes, data: _Buffer, associated_data: bytes, /) -> bytes:
        context = Cipher(self._algorithm, GCM(nonce)).encryptor()
        context.authenticate_additional_data(associated_data)
        return context.update(data) + context.finalize() + context.tag

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        """Raises InvalidTag; what was decrypted until then is never given out."""
        context = Cipher(self._algorithm, GCM(nonce, data[-GCM_TAG_BYTES:])).decryptor()
        context.authenticate_additional_data(associated_data)
        return context.update(data[:-GCM_TAG_BYTES]) + context.finalize()


def _cipher(key: bytes, salt: bytes, medium: Medium, suite: int) -> tuple[_Aead, bytes]:
    """The cipher of a suite, and as much of the salt as its nonces take."""
    if len(key) != KEY_BYTES or len(salt) != SALT_BYTES:
        raise OutOfRange(f"a key of {len(key)} bytes with a salt of {len(salt)}")
    if suite == Suite.A:
        return AESCCM(key, tag_length=tag_bytes(medium)), salt
    if suite == Suite.B and medium == Medium.TCP:
        return _Sm4Gcm(key), salt[:GCM_SALT_BYTES]
    raise OutOfRange(f"suite {suite:02x} on {medium.name} is reserved")


class Sealer:
    """Seals the frames of one direction; never twice under one nonce."""

    __slots__ = (
        "_address_max",
        "_address_min",
        "_body_bytes_max",
        "_cipher",
        "_flags",
        "_is_line",
        "_medium",
        "_salt",
        "counter",
    )

    def __init__(
        self,
        key: bytes,
        salt: bytes,
        medium: Medium,
        down: bool,  # noqa: FBT001  # a direction
        *,
        suite: int = Suite.A,
    ) -> None:
        self._cipher, self._salt = _cipher(key, salt, medium, suite)
        self._medium = medium
        self._is_line = medium == Medium.LINE
        self._flags = flags_of(_SEALED, medium, down=down)
        self._address_min, self._address_max = (1, LINE_ADDRESS_MAX) if medium == Medium.LINE else (0, 0)
        self._body_bytes_max = medium_body_bytes_max(medium)
        self.counter = 0
        """Frames sealed so far, which is the counter of the next."""

    def seal(self, body: _Buffer, address: int = 0) -> bytes:
        """The whole frame around `body`.

        Raises:
            StateMisuse: 2^20 frames are sealed; the session must be re-keyed.
            OutOfRange: the body is longer than the medium carries, or the address does not fit it.
        """
        counter = self.counter
        if counter >= SESSION_FRAMES_MAX:
            raise StateMisuse(f"{SESSION_FRAMES_MAX} frames are sealed; a new handshake is due")
        if len(body) > self._body_bytes_max:
            raise OutOfRange(f"a body of {len(body)} bytes, at most {self._body_bytes_max}")
        if not self._address_min <= address <= self._address_max:
            raise OutOfRange(f"address {address} on {self._medium.name}")
        start = HEADER_START.pack(MAGIC, self._flags, _SEALED, address, counter, len(body))
        header = start + crc_hqx(start, CRC16_INITIAL).to_bytes(2, "big")
        self.counter = counter + 1  # before sealing: whatever happens, this nonce is spent
        nonce = self._salt + counter.to_bytes(COUNTER_BYTES, "big")
        sealed = self._cipher.encrypt(nonce, body, header)
        return close_frame(header, sealed, medium=self._medium) if self._is_line else header + sealed

    def __repr__(self) -> str:
        return f"Sealer(counter={self.counter})"


class Opener:
    """Opens the frames of one direction; state changes only after the tag has verified."""

    __slots__ = ("_cipher", "_flags", "_is_line", "_last", "_overhead_bytes", "_salt", "counter")

    def __init__(
        self,
        key: bytes,
        salt: bytes,
        medium: Medium,
        *,
        down: bool = False,
        suite: int = Suite.A,
    ) -> None:
        self._cipher, self._salt = _cipher(key, salt, medium, suite)
        self._is_line = medium == Medium.LINE
        self._flags = flags_of(_SEALED, medium, down=down)
        self._overhead_bytes = HEADER_BYTES + tag_bytes(medium)
        self._last: tuple[bytes, bytes, bytes] | None = None  # header, body, tag; kept on a line only
        self.counter = 0
        """Frames taken so far, which is the counter expected next."""

    def open_whole(self, data: bytes, body_bytes_max: int) -> bytes | None:
        """The body in clear, where `data` is exactly the frame that may come next, whole and genuine (TCP only).

        None: it is not, and nothing has changed; `FrameDecoder` and `open` say what it is. There is one header that
        may come for a body of that size, so the header is not taken apart but compared.
        """
        counter = self.counter
        body_bytes = len(data) - self._overhead_bytes
        if not 0 <= body_bytes <= body_bytes_max or counter >= SESSION_FRAMES_MAX or self._is_line:
            return None
        start = HEADER_START.pack(MAGIC, self._flags, _SEALED, 0, counter, body_bytes)
        if not data.startswith(start) or data[10] << 8 | data[11] != crc_hqx(start, CRC16_INITIAL):
            return None
        nonce = self._salt + counter.to_bytes(COUNTER_BYTES, "big")
        try:
            body = self._cipher.decrypt(nonce, data[HEADER_BYTES:], data[:HEADER_BYTES])
        except InvalidTag:
            return None
        self.counter = counter + 1
        return body

    def open(self, frame: Frame) -> bytes:
        """The body in clear.

        Raises:
            Repeated: the frame last taken, byte for byte (line only).
            CounterError: another counter than the next, or 2^20 frames are taken.
            TagError: a forgery, or other keys.
        """
        counter = self.counter
        if frame.counter != counter or counter >= SESSION_FRAMES_MAX:
            if self._is_line and self._last == (frame.header, frame.body, frame.tag):
                raise Repeated(f"frame {frame.counter} again")
            raise CounterError(got=frame.counter, expected=counter)
        nonce = self._salt + counter.to_bytes(COUNTER_BYTES, "big")
        try:
            body = self._cipher.decrypt(nonce, frame.body + frame.tag, frame.header)
        except InvalidTag:
            raise TagError(f"tag of frame {counter} does not verify") from None
        self.counter = counter + 1
        if self._is_line:
            self._last = (frame.header, frame.body, frame.tag)
        return body

    def __repr__(self) -> str:
        return f"Opener(counter={self.counter})"
