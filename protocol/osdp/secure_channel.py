"""Secure channel of OSDP: session keys, cryptograms, the chain of MACs, encryption. Knows no sequence and no retries.

A command's MAC is chained on the last reply's, a reply's on its command's; four of its sixteen bytes are sent. Nothing
changes in a channel before a MAC has been found right, and the changes of one exchange are made together: `open` gives
the values that `accept` takes over, so that a repeated or refused command leaves the chain as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB

from protocol.errors import Malformed, OutOfRange, TagError
from protocol.osdp.codes import ScsType
from protocol.osdp.limits import KEY_BYTES
from protocol.osdp.packet import MAC_BYTES, Packet, close_packet, packet_start

SCBK_DEFAULT: Final = bytes(range(0x30, 0x40))
"""SCBK-D, known to everybody: good for the first key of a reader on an installer's bench and for nothing else."""
BLOCK_BYTES: Final = 16
_PAD_START: Final = 0x80
_ENC: Final = b"\x01\x82"
_MAC_1: Final = b"\x01\x01"
_MAC_2: Final = b"\x01\x02"


def _ecb(key: bytes, block: bytes) -> bytes:
    return Cipher(AES(key), ECB()).encryptor().update(block)  # noqa: S305  # single blocks, as the standard says


def pad(data: bytes) -> bytes:
    """`data`, 80, zeros to a whole block: always at least one byte more."""
    return data + bytes((_PAD_START,)) + bytes(-(len(data) + 1) % BLOCK_BYTES)


def unpad(padded: bytes) -> bytes:
    """Undo `pad`; the MAC has been checked before, so nobody learns from what is wrong here."""
    data = padded.rstrip(b"\0")
    if not data or data[-1] != _PAD_START or len(padded) - len(data) >= BLOCK_BYTES:
        raise Malformed("encrypted data", "its padding is wrong")
    return data[:-1]


@dataclass(frozen=True, slots=True, repr=False)
class SessionKeys:
    """Keys of one session, and what each side proves itself with."""

    enc: bytes
    mac_1: bytes
    mac_2: bytes

    @classmethod
    def derive(cls, base_key: bytes, panel_random: bytes) -> SessionKeys:
        """From the reader's SCBK and the panel's 8 random bytes.

        Raises:
            OutOfRange: one of them has another length.
        """
        if len(base_key) != KEY_BYTES or len(panel_random) != 8:
            raise OutOfRange(f"a base key of {len(base_key)} bytes or {len(panel_random)} random bytes")
        tail = panel_random[:6] + bytes(8)
        return cls(*(_ecb(base_key, prefix + tail) for prefix in (_ENC, _MAC_1, _MAC_2)))

    def client_cryptogram(self, panel_random: bytes, reader_random: bytes) -> bytes:
        """What the reader proves itself with."""
        return _ecb(self.enc, panel_random + reader_random)

    def server_cryptogram(self, panel_random: bytes, reader_random: bytes) -> bytes:
        """What the panel proves itself with."""
        return _ecb(self.enc, reader_random + panel_random)

    def initial_reply_mac(self, server_cryptogram: bytes) -> bytes:
        """The first link of the chain."""
        return _ecb(self.mac_2, _ecb(self.mac_1, server_cryptogram))

    def mac(self, chained: bytes, signed: bytes) -> bytes:
        """16 bytes over `signed`, chained on the MAC before."""
        padded = signed if len(signed) % BLOCK_BYTES == 0 else pad(signed)
        start, last = padded[:-BLOCK_BYTES], padded[-BLOCK_BYTES:]
        if start:
            encryptor = Cipher(AES(self.mac_1), CBC(chained)).encryptor()
            chained = encryptor.update(start)[-BLOCK_BYTES:]
        return Cipher(AES(self.mac_2), CBC(chained)).encryptor().update(last)

    def data_cipher(self, chained: bytes, *, encrypt: bool) -> CipherContext:
        """CBC under the complement of the chained MAC."""
        cipher = Cipher(AES(self.enc), CBC(bytes(byte ^ 0xFF for byte in chained)))
        return cipher.encryptor() if encrypt else cipher.decryptor()

    def __repr__(self) -> str:
        return "SessionKeys(…)"


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """What a sealed packet held, and the MAC that becomes the chain's next link."""

    data: bytes
    link: bytes


class Channel:
    """One established session, of either side: `reader` seals replies, else commands."""

    __slots__ = ("_is_reader", "_keys", "_last_command", "_last_reply")

    def __init__(self, keys: SessionKeys, initial_reply_mac: bytes, *, reader: bool) -> None:
        self._keys = keys
        self._is_reader = reader
        self._last_reply = initial_reply_mac
        self._last_command = bytes(BLOCK_BYTES)

    def seal(self, address: int, sequence: int, code: int, data: bytes, *, uses_crc: bool = True) -> bytes:
        """A whole packet; the chain moves on at once, so every packet is sealed once and repeated as it is."""
        chained = self._last_command if self._is_reader else self._last_reply
        if data:
            kind = ScsType.REPLY_DATA if self._is_reader else ScsType.COMMAND_DATA
            data = self._keys.data_cipher(chained, encrypt=True).update(pad(data))
        else:
            kind = ScsType.REPLY_MAC if self._is_reader else ScsType.COMMAND_MAC
        start = packet_start(
            address, sequence, code, data, reply=self._is_reader, block=bytes((kind,)), uses_crc=uses_crc
        )
        mac = self._keys.mac(chained, start)
        if self._is_reader:
            self._last_reply = mac
        else:
            self._last_command = mac
        return close_packet(start, mac[:MAC_BYTES], uses_crc=uses_crc)

    def open(self, packet: Packet) -> Opened:
        """The data of the other side's packet; the chain stays where it is until `accept`.

        Raises:
            TagError: its MAC is not the next of the chain, is cut short, or is missing.
            Malformed: right MAC, encrypted data that is none.
        """
        mac_only, with_data = (
            (ScsType.COMMAND_MAC, ScsType.COMMAND_DATA) if self._is_reader else (ScsType.REPLY_MAC, ScsType.REPLY_DATA)
        )
        chained = self._last_reply if self._is_reader else self._last_command
        if packet.block not in {bytes((mac_only,)), bytes((with_data,))} or len(packet.mac) != MAC_BYTES:
            raise TagError("a packet without the MAC of this session")
        mac = self._keys.mac(chained, packet.signed)
        if not compare_digest(mac[:MAC_BYTES], packet.mac):
            raise TagError("a packet whose MAC is not the next of this session")
        data = packet.data
        if packet.block_type == with_data and data:
            if len(data) % BLOCK_BYTES:
                raise Malformed("encrypted data", f"{len(data)} bytes are no whole blocks")
            data = unpad(self._keys.data_cipher(chained, encrypt=False).update(data))
        return Opened(data, mac)

    def accept(self, opened: Opened) -> None:
        """Move the chain on to a packet that was opened and is acted upon."""
        if self._is_reader:
            self._last_command = opened.link
        else:
            self._last_reply = opened.link

    def __repr__(self) -> str:
        return f"Channel({'reader' if self._is_reader else 'panel'})"
