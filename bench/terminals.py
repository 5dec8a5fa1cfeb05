"""Terminals of the generator: they log in over real sockets, then seal real frames before the clock starts.

Records are whole, chained and sealed (`sealing`); only the card's proof is a dummy, for which the front-end holds no
key anyway.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from bench.children import BenchFailed
from bench.sealing import BOOT, UPTIME_AT_LOG_IN_DS, Chain
from bench.site import EPOCH, KEY_VERSION, SITE, BenchSite
from onecard_runtime import split_address
from protocol.codes import Medium, TerminalKind
from protocol.handshake import NONCE_BYTES, TerminalIdentity
from protocol.keys import link_key, seal_key
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.mac import MacKey
from protocol.messages import Ack, Baseline, BaselineEntry, Upload, decode_down
from protocol.proofs import seal_baseline
from protocol.session import Established, TerminalSession

ANSWER_SECONDS_MAX: Final = 20.0
READ_BYTES: Final = 4096
LOG_INS_AT_ONCE: Final = 250  # far below the server's cap on unfinished handshakes
ADDRESSES: Final = 8
"""Of the generator, 127.0.0.2 and on: one address has ports for 28,000 connections, those just closed included."""


def connect(address: str, number: int = 0) -> socket.socket:
    """A blocking connection that sends small frames at once; `number` spreads many over the generator's addresses."""
    source = (f"127.0.0.{2 + number % ADDRESSES}", 0)
    made = socket.create_connection(split_address(address), timeout=ANSWER_SECONDS_MAX, source_address=source)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class Terminal:
    """One terminal: its session, its chain of records, its frames sealed and not sent yet."""

    def __init__(self, number: int, site: BenchSite, address: str) -> None:
        self.number = number
        self.frames: list[bytes] = []
        """Sealed, in order; whoever sends takes them from the front."""
        self.replies: list[bytes] = []
        """Bytes received since log-in, not opened yet."""
        self.sent = 0
        """Records."""
        self.acknowledged = 0
        self._seal_key = MacKey(seal_key(bytes.fromhex(site.seal_master), terminal=number, epoch=EPOCH))
        self._chain = Chain(number, self._seal_key, time.time_ns() // 1_000_000)
        self.socket = connect(address, number)
        self._session = TerminalSession(
            TerminalIdentity(SITE, number, EPOCH, KEY_VERSION, TerminalKind.POS),
            link_key(bytes.fromhex(site.link_master), terminal=number, epoch=EPOCH, key_version=KEY_VERSION),
            medium=Medium.TCP,
            nonce=os.urandom(NONCE_BYTES),
            body_bytes_max=BODY_BYTES_MAX_TCP,
            now_ms=0,  # the server's deadlines are real, the generator's own do not matter
        )
        self.socket.sendall(self._session.take_output())

    # -- log-in: each step is taken by many terminals at once, so that they do not wait for each other

    def prove(self) -> None:
        """CHALLENGE has come: PROVE."""
        self._answer()

    def open_session(self) -> None:
        """ACCEPT has come: BASELINE."""
        events = self._answer()
        if len(events) != 1 or not isinstance(events[0], Established):
            raise BenchFailed(f"log-in refused: {self._session.reason or events}")
        entry = BaselineEntry(EPOCH, 1, 1, 1, self._chain.last_seal)
        baseline = Baseline(BOOT, self.number, UPTIME_AT_LOG_IN_DS, time.time_ns() // 1_000_000, [entry])
        baseline.seal = seal_baseline(self._seal_key, baseline.sealed_part())
        self._session.send(baseline.encode())
        self.socket.sendall(self._session.take_output())

    def await_first_ack(self) -> None:
        """The BASELINE is durable: uploads may begin."""
        events = self._answer()
        if len(events) != 1 or not isinstance(events[0], bytes) or not isinstance(decode_down(events[0]), Ack):
            raise BenchFailed(f"no ACK after BASELINE: {self._session.reason or events}")

    def _answer(self) -> Sequence[object]:
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise BenchFailed("the server has closed a connection during log-in")
        events = self._session.receive(data, 0)
        output = self._session.take_output()
        if output:
            self.socket.sendall(output)
        return events

    # -- records

    def seal(self, count: int, records_per_frame: int = 1) -> None:
        """Make `count` more frames."""
        session, chain, is_live = self._session, self._chain, records_per_frame == 1
        for _ in range(count):
            session.send(Upload.of(chain.next(records_per_frame), live=is_live).encode())
            self.frames.append(session.take_output())

    def ack_cipher(self) -> tuple[AESCCM, bytes]:
        """What opens acknowledgements, and the salt of its nonces, for a loop that cannot afford a session."""
        opener = self._session._opener
        assert opener is not None
        cipher = opener._cipher
        assert isinstance(cipher, AESCCM)
        return cipher, opener._salt

    def check_replies(self) -> None:
        """Open every reply: each a verified ACK, the last one covering all records sent.

        Raises:
            BenchFailed: what was counted were not acknowledgements of what was sent.
        """
        acks = 0
        for event in self._session.receive(b"".join(self.replies), 0):
            message = decode_down(event) if isinstance(event, bytes) else event
            if not isinstance(message, Ack):
                raise BenchFailed(f"terminal {self.number} was told {message!r} instead of an ACK")
            acks += 1
            self.acknowledged = message.durable
        self.replies.clear()
        if self._session.closed or self.acknowledged != self.sent or acks == 0 < self.sent:
            raise BenchFailed(
                f"terminal {self.number}: {self.sent} records sent, {self.acknowledged} acknowledged"
                f" {self._session.reason}"
            )


def logged_in(site: BenchSite, address: str) -> list[Terminal]:
    """All terminals of the site, each with its first ACK."""
    terminals: list[Terminal] = []
    numbers = site.numbers()
    for start in range(0, len(numbers), LOG_INS_AT_ONCE):
        some = [Terminal(number, site, address) for number in numbers[start : start + LOG_INS_AT_ONCE]]
        for terminal in some:
            terminal.prove()
        for terminal in some:
            terminal.open_session()
        for terminal in some:
            terminal.await_first_ack()
        terminals += some
    return terminals
