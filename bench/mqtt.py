"""As much MQTT 3.1.1 as the comparison needs: packets built before the clock, acknowledgements counted in bytes.

A library would be what is measured: the fastest for Python takes some 20 µs a message, twice what the broker takes.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from bench.children import BenchFailed
from bench.terminals import connect
from bench.window_pump import WindowLine

PACKETS: Final = 64
"""Built for each connection and sent in turn: their identifiers come round after 64, and at most 16 are outstanding."""
PUBACK_BYTES: Final = 4
PUBACK_HEAD: Final = b"\x40\x02"
SUBSCRIBER: Final = "onecard-bench-ledger"
KEEP_ALIVE_S: Final = 0  # none: the bench ends the broker
CONNACK_ACCEPTED: Final = 0


def _string(text: str) -> bytes:
    return struct.pack("!H", len(text)) + text.encode("ascii")


def _packet(first: int, rest: bytes) -> bytes:
    size, length = len(rest), bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes((first,)) + length + rest


def connect_packet(client: str, *, is_clean: bool) -> bytes:
    flags = 0x02 if is_clean else 0x00
    return _packet(0x10, _string("MQTT") + struct.pack("!BBH", 4, flags, KEEP_ALIVE_S) + _string(client))


def subscribe_packet(topic: str) -> bytes:
    return _packet(0x82, struct.pack("!H", 1) + _string(topic) + b"\x01")


def publish_packet(topic: str, identifier: int, payload: bytes) -> bytes:
    """QoS 1."""
    return _packet(0x32, _string(topic) + struct.pack("!H", identifier) + payload)


def opened(address: str, client: str, number: int = 0, *, is_clean: bool) -> socket.socket:
    """A connection that the broker has accepted."""
    made = connect(address, number)
    made.sendall(connect_packet(client, is_clean=is_clean))
    answer = made.recv(4)
    if len(answer) != 4 or answer[0] != 0x20 or answer[3] != CONNACK_ACCEPTED:
        raise BenchFailed(f"the broker refuses: {answer.hex()}")
    return made


class Publisher(WindowLine):
    """One terminal that publishes with QoS 1."""

    __slots__ = ("_next", "_packets", "_rest")

    def __init__(self, connection: socket.socket, number: int, payload: bytes, window: int) -> None:
        super().__init__(connection, window)
        topic = f"site/1/{number}"
        made = [publish_packet(topic, identifier, payload) for identifier in range(1, PACKETS + 1)]
        self._packets = made + made[:window]
        self._next = 0
        self._rest = b""

    def take(self, data: bytes) -> None:
        data = self._rest + data
        count, rest = divmod(len(data), PUBACK_BYTES)
        if not data or data[:2] != PUBACK_HEAD[: len(data)]:
            raise BenchFailed(f"the broker says {data[:8].hex()} instead of PUBACK")
        self._rest = data[len(data) - rest :] if rest else b""
        self.answered += count

    def frames(self, count: int) -> bytes:
        packets = self._packets[self._next : self._next + count]
        self._next = (self._next + count) % PACKETS
        return b"".join(packets)


def subscribe_and_leave(address: str) -> None:
    """A persistent session that wants everything with QoS 1 and is away, as the ledger is away in the row beside it.

    What an earlier round has left for it is gone. That it is away favours the broker: delivering costs it more.
    """
    opened(address, SUBSCRIBER, is_clean=True).close()
    with opened(address, SUBSCRIBER, is_clean=False) as session:
        session.sendall(subscribe_packet("site/1/#"))
        if session.recv(5)[:2] != b"\x90\x03":
            raise BenchFailed("the broker refuses a subscription")
