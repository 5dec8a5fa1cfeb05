"""The ledger's side of the link as a test wants it: signs what it is told to, keeps what it got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.link_messages import (
    CHAIN_START,
    BatchMessage,
    BatchName,
    DownMessage,
    LinkDecoder,
    LinkHello,
    LinkWelcome,
    Receipt,
    UpMessage,
    decode_up,
    encode_down,
    verify_up,
)
from protocol.mac import MacKey
from protocol.ports import Stream
from protocol.signed import SoftwareSigner, issue_certificate
from tests.simulation.world import EPOCH_MS

SITE: Final = 42
FRONTEND: Final = 7
ROOT: Final = SoftwareSigner(bytes(range(0x20, 0x40)))
SIGNER: Final = SoftwareSigner(bytes(range(0x40, 0x60)))
STRANGER: Final = SoftwareSigner(bytes(range(0x60, 0x80)))
BATCH_KEY: Final = MacKey(bytes(range(0x10, 0x20)))
YEAR_MS: Final = 365 * 86_400_000
CERTIFICATE: Final = issue_certificate(
    ROOT,
    key_id=1,
    site=SITE,
    valid_from_ms=EPOCH_MS - YEAR_MS,
    valid_to_ms=EPOCH_MS + YEAR_MS,
    public_key=SIGNER.public_key,
)


class ScriptedLedger:
    """Accepts connections one after the other; `answers` decides what a BATCH is answered with."""

    def __init__(self) -> None:
        self.generation = 1
        self.position = 0
        self.signer = SIGNER
        self.certificate = CERTIFICATE
        self.greets = True
        self.answers = True
        self.received: list[UpMessage] = []
        self.batches: list[BatchMessage] = []
        self.connections: list[_Connection] = []
        self.change_receipt: Callable[[Receipt], Receipt] = lambda receipt: receipt

    def accept(self) -> _Connection:
        connection = _Connection(self)
        self.connections.append(connection)
        return connection

    def send(self, message: DownMessage, *, signer: SoftwareSigner | None = None) -> None:
        """To the newest connection."""
        stream = self.connections[-1].stream
        if stream is not None:
            stream.write(encode_down(message, signer or self.signer))

    def receipt_for(self, name: BatchName) -> Receipt:
        self.position += 1
        return Receipt(
            name=name,
            generation=self.generation,
            position=self.position,
            chain_hash=CHAIN_START,
            posted=1,
            duplicates=0,
            quarantined=0,
            posted_cents=500,
        )

    def take(self, message: UpMessage) -> None:
        self.received.append(message)
        if isinstance(message, LinkHello) and self.greets:
            self.send(
                LinkWelcome(SITE, self.generation, self.position, message.nonce, EPOCH_MS, self.certificate.encode())
            )
        if isinstance(message, BatchMessage):
            self.batches.append(message)
            if self.answers:
                self.send(self.change_receipt(self.receipt_for(message.name)))


class _Connection:
    def __init__(self, ledger: ScriptedLedger) -> None:
        self.ledger = ledger
        self.stream: Stream | None = None
        self._decoder = LinkDecoder()

    def connected(self, stream: Stream) -> None:
        self.stream = stream

    def received(self, data: bytes) -> None:
        self._decoder.receive_data(data)
        for payload in self._decoder.payloads():
            verify_up(payload, BATCH_KEY)
            self.ledger.take(decode_up(payload))

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.stream = None
