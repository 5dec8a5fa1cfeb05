"""A front-end of a hundred lines, for the uplink alone: keeps records in a dict, acknowledges, obeys a test."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.codes import ByeCode, Medium, ProofSuite
from protocol.handshake import Hello
from protocol.keys import link_key
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.mac import MacKey
from protocol.messages import (
    Ack,
    Baseline,
    ByeDown,
    DownMessage,
    Heartbeat,
    ListState,
    SealAnswer,
    Time,
    Tombstone,
    Upload,
    UpMessage,
    decode_up,
)
from protocol.ports import Stream
from protocol.proofs import verify_baseline, verify_tombstone
from protocol.records import read_head, walk
from protocol.session import Established, FrontEndSession
from tests.simulation.world import Host
from tests.terminal_sim.kit import LINK_MASTER, SITE


@dataclass
class FakeFrontEnd:
    """Survives its own host's crashes, as a spool does; connections do not."""

    host: Host
    address: str
    seal_key: bytes
    credit: int = 4
    acknowledges: bool = True
    busy_s: int = 0
    confirms_list: bool = False
    """Says in every TIME that the deny list is the newest."""
    link_key_of: bytes = LINK_MASTER
    stored: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(epoch, sequence) → record; b"" under a tombstone."""
    offered_twice: int = 0
    settled: int = 0
    messages: list[UpMessage] = field(default_factory=list)
    byes: list[int] = field(default_factory=list)
    proof_suite: int = ProofSuite.AES_CMAC
    body_bytes_max: int = BODY_BYTES_MAX_TCP
    sessions: list[FakeConnection] = field(default_factory=list)

    def listen(self) -> None:
        self.host.listen(self.address, lambda: FakeConnection(self))

    @property
    def session(self) -> FakeConnection:
        return self.sessions[-1]

    def of(self, kind: type[UpMessage]) -> list[UpMessage]:
        return [message for message in self.messages if isinstance(message, kind)]

    def durable(self, epoch: int, at_least: int = 0) -> int:
        last = at_least
        while (epoch, last + 1) in self.stored:
            last += 1
        return last

    def keep(self, epoch: int, sequence: int, record: bytes) -> None:
        held = self.stored.get((epoch, sequence))
        if held:
            assert record in (held, b""), "the same identity with other bytes"
            self.offered_twice += 1
        else:
            self.stored[epoch, sequence] = record


class FakeConnection:
    def __init__(self, frontend: FakeFrontEnd) -> None:
        self.frontend = frontend
        self.session: FrontEndSession | None = None
        self.stream: Stream | None = None
        self.first: dict[int, int] = {}

    def connected(self, stream: Stream) -> None:
        frontend = self.frontend
        self.stream = stream
        self.session = FrontEndSession(
            frontend=1,
            site=SITE,
            medium=Medium.TCP,
            body_bytes_max=frontend.body_bytes_max,
            nonce=frontend.host.random_bytes(16),
            find_key=self.find_key,
            now_ms=frontend.host.monotonic_ms(),
        )
        if frontend.busy_s:
            self.session.refuse_busy(frontend.busy_s)
            self.flush()

    def find_key(self, hello: Hello) -> bytes:
        return link_key(
            self.frontend.link_key_of, terminal=hello.terminal, epoch=hello.epoch, key_version=1, suite=hello.suite
        )

    def received(self, data: bytes) -> None:
        assert self.session is not None
        for event in self.session.receive(data, self.frontend.host.monotonic_ms()):
            if isinstance(event, Established):
                self.frontend.sessions.append(self)
            elif isinstance(event, bytes):
                self.take(decode_up(event))
        assert self.session.failure is None or not self.session.established, self.session.failure
        self.flush()

    def take(self, message: UpMessage) -> None:
        frontend = self.frontend
        frontend.messages.append(message)
        if isinstance(message, Baseline):
            assert verify_baseline(MacKey(frontend.seal_key, frontend.proof_suite), message.seal, message.sealed_part())
            for entry in message.entries:
                self.first[entry.epoch] = entry.first_unacknowledged
                self.ack(entry.epoch)
        elif isinstance(message, Upload):
            records = [bytes(record) for record in walk(message.records)]
            for record in records:
                head = read_head(record)
                frontend.keep(head.epoch, head.sequence, record)
            self.ack(message.epoch)
        elif isinstance(message, Tombstone):
            assert verify_tombstone(
                MacKey(frontend.seal_key, frontend.proof_suite), message.seal, message.sealed_part()
            )
            for sequence in range(message.first, message.last + 1):
                frontend.keep(message.epoch, sequence, b"")
            self.ack(message.epoch)
        elif isinstance(message, Heartbeat):
            self.send(Time(message.boot, message.uptime_ds, frontend.host.now_ms(), frontend.confirms_list))

    def ack(self, epoch: int) -> None:
        frontend = self.frontend
        if frontend.acknowledges:
            durable = frontend.durable(epoch, self.first[epoch] - 1)
            self.send(Ack(epoch, durable, min(frontend.settled, durable), frontend.credit))

    def send(self, message: DownMessage) -> None:
        assert self.session is not None
        if self.session.established:
            self.session.send(message.encode())
            self.flush()

    def bye(self, code: ByeCode) -> None:
        self.send(ByeDown(code))

    def flush(self) -> None:
        assert self.session is not None
        assert self.stream is not None
        output = self.session.take_output()
        if output:
            self.stream.write(output)
        if self.session.closed:
            self.stream.close()

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        pass


__all__ = ["FakeConnection", "FakeFrontEnd", "ListState", "SealAnswer"]
