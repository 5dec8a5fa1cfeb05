"""An enrolled terminal with its keys: logs in as it must, and then does what its owner wants, good or bad.

The front-end holds no seal key (R4), so records here are sealed under a dummy; their chain is true, which it checks.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from bench.children import BenchFailed
from onecard_runtime import split_address
from protocol.codes import CardKind, ListKind, ListStatus, Medium, RecordType
from protocol.handshake import NONCE_BYTES, TerminalIdentity
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.mac import MacKey
from protocol.messages import Ack, Baseline, BaselineEntry, Heartbeat, ListState, Upload, decode_down
from protocol.proofs import genesis_seal, seal_baseline
from protocol.records import Purchase, RecordHead, encode_record, seal_of
from protocol.session import TerminalSession

LOG_IN_SECONDS_MAX: Final = 20.0
READ_BYTES: Final = 65_536
EPOCH: Final = 1
BOOT: Final = 1
AMOUNT_CENTS: Final = 850
SEAL_KEY: Final = MacKey(bytes(16))
NO_ENROLMENT_ID: Final = bytes(8)


@dataclass(slots=True)
class Enrolled:
    """One terminal of the site, with its link key in hex."""

    site: int
    terminal: int
    kind: int
    link_key: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def all_of(cls, directory: Path) -> list[Self]:
        """Every terminal of a site that `onecard keys` has made."""
        from onecard_keys import KeyFile
        from protocol.registry import Registry

        registry = Registry.parse((directory / "registry.json").read_bytes())
        keys = KeyFile.named(directory / "secrets", "terminals").open()
        return [
            cls(registry.site, entry.terminal, entry.kind, keys.key(f"link.{entry.terminal}.1").hex())
            for entry in registry
        ]


class Insider:
    """Logged in when made; non-blocking from then on. Raises BenchFailed when it is not let in."""

    def __init__(self, address: str, enrolled: Enrolled, *, receive_buffer_bytes: int = 0) -> None:
        self.number = enrolled.terminal
        self.sequence = 0
        self.durable = 0
        self.closed = False
        self._seal = genesis_seal(SEAL_KEY, self.number, EPOCH, NO_ENROLMENT_ID)
        self._started_s = time.monotonic()
        self._pending = b""
        self.socket = socket.socket()
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(LOG_IN_SECONDS_MAX)
        self.socket.connect(split_address(address))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = TerminalSession(
            TerminalIdentity(
                site=enrolled.site,
                terminal=self.number,
                epoch=EPOCH,
                key_version=1,
                terminal_kind=enrolled.kind,
            ),
            bytes.fromhex(enrolled.link_key),
            medium=Medium.TCP,
            nonce=os.urandom(NONCE_BYTES),
            body_bytes_max=BODY_BYTES_MAX_TCP,
            now_ms=0,  # the server's deadlines are the ones that matter
        )
        self._log_in()
        self.socket.setblocking(False)

    def _log_in(self) -> None:
        acks: list[Ack] = []
        told = False
        while not acks:
            if self._session.established and not told:
                told = True
                entry = BaselineEntry(EPOCH, 1, 1, 1, self._seal)
                baseline = Baseline(BOOT, self.number, self._uptime_ds(), 0, [entry])
                baseline.seal = seal_baseline(SEAL_KEY, baseline.sealed_part())
                self._session.send(baseline.encode())
            self.socket.sendall(self._session.take_output())
            data = self.socket.recv(READ_BYTES)
            if not data:
                raise BenchFailed(f"terminal {self.number} was not let in: {self._session.reason or 'closed'}")
            acks = self._opened(data)

    def _uptime_ds(self) -> int:
        return int((time.monotonic() - self._started_s) * 10) + 600

    def _opened(self, data: bytes) -> list[Ack]:
        found: list[Ack] = []
        for event in self._session.receive(data, 0):
            message = decode_down(event) if isinstance(event, bytes) else event
            if isinstance(message, Ack):
                self.durable = max(self.durable, message.durable)
                found.append(message)
        return found

    # -- what it may say

    def sale(self) -> bytes:
        """The next record's UPLOAD, which calls itself live."""
        self.sequence += 1
        head = RecordHead(
            type=RecordType.PURCHASE,
            epoch=EPOCH,
            boot=BOOT,
            terminal=self.number,
            sequence=self.sequence,
            uptime_ds=self._uptime_ds(),
            clock_ms=time.time_ns() // 1_000_000,
            running_count=self.sequence,
            running_sum_cents=self.sequence * AMOUNT_CENTS,
        )
        body = Purchase(1, 9_000_001, bytes(7), 1, AMOUNT_CENTS, 5_000, self.sequence, 156, CardKind.AES, bytes(8))
        record = encode_record(head, body, self._seal, SEAL_KEY)
        self._seal = seal_of(record)
        return Upload.of([record], live=True).encode()

    def heartbeat(self) -> bytes:
        return Heartbeat(EPOCH, BOOT, self._uptime_ds(), 0, self.sequence + 1, self.durable + 1).encode()

    def list_state(self) -> bytes:
        return ListState(ListKind.DENY, ListStatus.HOLDS).encode()

    # -- the line

    def seal(self, message: bytes, times: int = 1) -> bytes:
        """So many frames of one message."""
        for _ in range(times):
            self._session.send(message)
        return self._session.take_output()

    def send(self, data: bytes) -> bool:
        """Queue and write as much as the line takes; False when the line is gone."""
        self._pending += data
        try:
            self._pending = self._pending[self.socket.send(self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        return not self.closed

    @property
    def unsent_bytes(self) -> int:
        return len(self._pending)

    def read(self) -> list[Ack]:
        """What has come, opened."""
        found: list[Ack] = []
        while not self.closed:
            try:
                data = self.socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            found += self._opened(data)
        return found


class Good:
    """A sound terminal that sells at its moments and keeps the wait of each sale."""

    def __init__(self, insider: Insider, first_s: float, every_s: float) -> None:
        self.insider = insider
        self._next_s = first_s
        self._every_s = every_s
        self._sold: deque[tuple[int, float]] = deque()

    def turn(self, now_s: float) -> list[float]:
        """Sell what is due; the waits in ms of what was acknowledged, from the moment each sale was due."""
        waits: list[float] = []
        insider = self.insider
        for ack in insider.read():
            while self._sold and self._sold[0][0] <= ack.durable:
                waits.append((now_s - self._sold.popleft()[1]) * 1000)
        while self._next_s <= now_s and insider.unsent_bytes == 0:
            message = insider.sale()
            self._sold.append((insider.sequence, self._next_s))
            self._next_s += self._every_s
            insider.send(insider.seal(message))
        return waits

    @property
    def outstanding(self) -> int:
        return len(self._sold)
