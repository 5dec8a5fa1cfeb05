"""A small terminal made of protocol bytes alone: real session, real seals, real card proofs. It does what a test says.

By default it behaves: BASELINE, LIST_STATE and HEARTBEAT after log-in, answers SEAL_QUERY from its memory, takes lists.
Uploads are the test's business: `upload(first, last)`.
"""

from __future__ import annotations

from typing import Final

from protocol.codes import CardKind, ListKind, ListStatus, Medium, RecordType, SealStatus, TombstoneReason
from protocol.handshake import TerminalIdentity
from protocol.keys import card_key, link_key, seal_key
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.list_transfer import Apply, ListReceiver, StageAppend, StageBegin, StageClear
from protocol.mac import MacKey
from protocol.messages import (
    Ack,
    Baseline,
    BaselineEntry,
    ByeDown,
    DownMessage,
    Heartbeat,
    ListChunk,
    ListOffer,
    ListState,
    SealAnswer,
    SealQuery,
    Tombstone,
    Upload,
    decode_down,
)
from protocol.ports import Stream
from protocol.proofs import genesis_seal, seal_baseline, seal_tombstone, tac
from protocol.records import Purchase, RecordHead, encode_record, seal_of
from protocol.session import Established, Refused, TerminalSession
from tests.simulation.world import Host

SEAL_MASTER: Final = bytes.fromhex("5ea15ea15ea15ea15ea15ea15ea15e00")
TAC_MASTER: Final = bytes.fromhex("7ac07ac07ac07ac07ac07ac07ac07a01")
UID: Final = bytes.fromhex("04a1b2c3d4e5f6")
CARD: Final = 9_000_001


def purchase_chain(
    terminal: int, epoch: int, enrolment_id: bytes, count: int, *, amount_cents: int = 850, first_boot: int = 1
) -> list[bytes]:
    """`count` sealed purchases from sequence 1 on, each with its card's proof."""
    key = MacKey(seal_key(SEAL_MASTER, terminal=terminal, epoch=epoch))
    proofs = MacKey(card_key(TAC_MASTER, UID))
    seal = genesis_seal(key, terminal, epoch, enrolment_id)
    records: list[bytes] = []
    for sequence in range(1, count + 1):
        balance = 1_000_000 - sequence * amount_cents
        proof = tac(
            proofs,
            type_=RecordType.PURCHASE,
            amount=amount_cents,
            currency=156,
            card=CARD,
            terminal=terminal,
            epoch=epoch,
            sequence=sequence,
            counter=sequence,
            balance_after=balance,
        )
        body = Purchase(77, CARD, UID, 1, amount_cents, balance, sequence, 156, CardKind.AES, proof)
        head = RecordHead(
            type=RecordType.PURCHASE,
            epoch=epoch,
            boot=first_boot,
            terminal=terminal,
            sequence=sequence,
            uptime_ds=sequence,
            clock_ms=0,
            running_count=sequence,
            running_sum_cents=sequence * amount_cents,
        )
        records.append(encode_record(head, body, seal, key))
        seal = seal_of(records[-1])
    return records


class HeldList:
    """What a scripted terminal holds of one list kind: a `ListStore` in memory."""

    def __init__(self, kind: ListKind, *, site: int, root_public: bytes) -> None:
        self.staged = b""
        self.content = b""
        self.receiver = ListReceiver(site=site, root_public=root_public, room_bytes=1 << 16, store=self, kind=kind)

    def staged_data(self) -> bytes:
        return self.staged

    def held_content(self) -> bytes:
        return self.content

    def take(self, message: ListOffer | ListChunk) -> list[bytes]:
        """Carry everything out; the answers come back."""
        receiver = self.receiver
        events = receiver.receive_offer(message) if isinstance(message, ListOffer) else receiver.receive_chunk(message)
        answers = []
        for event in events:
            if isinstance(event, StageBegin | StageClear):
                self.staged = b""
            elif isinstance(event, StageAppend):
                self.staged = self.staged[: event.offset] + event.data
            elif isinstance(event, Apply):
                self.content = event.content
            elif isinstance(event, ListState):
                answers.append(event.encode())
        return answers


class ScriptedTerminal:
    """A StreamHandler; reconnects only when told. `messages` holds what came down, decoded, in order."""

    def __init__(
        self,
        host: Host,
        address: str,
        identity: TerminalIdentity,
        link_master: bytes,
        enrolment_id: bytes,
        *,
        root_public: bytes = bytes(32),
        records: list[bytes] | None = None,
    ) -> None:
        self.host = host
        self.address = address
        self.identity = identity
        self.link_master = link_master
        self.enrolment_id = enrolment_id
        self.seal_key = MacKey(seal_key(SEAL_MASTER, terminal=identity.terminal, epoch=identity.epoch))
        self.records = [] if records is None else records
        self.first_unacknowledged = 1
        self.boot = 1
        self.says_hello_after_log_in = True
        self.answers_queries = True
        self.takes_lists = True
        self.old_epochs: list[BaselineEntry] = []
        self.session: TerminalSession | None = None
        self.stream: Stream | None = None
        self.raw = bytearray()
        self.writes: list[int] = []
        self.messages: list[DownMessage] = []
        self.refused: Refused | None = None
        self.is_established = False
        self.is_closed = False
        self.staged = b""
        self.list_content = b""
        self.documents: dict[int, HeldList] = {}
        """What it holds beside the deny list, by kind; reported after log-in."""
        self.list_receiver = ListReceiver(site=identity.site, root_public=root_public, room_bytes=1 << 22, store=self)

    # -- ListStore

    def staged_data(self) -> bytes:
        return self.staged

    def held_content(self) -> bytes:
        return self.list_content

    # -- life

    def connect(self) -> None:
        self.session = None
        self.is_established = self.is_closed = False
        self.refused = None
        self.raw.clear()
        self.messages.clear()
        self.host.connect(self.address, self)

    def hang_up(self) -> None:
        if self.stream is not None:
            self.stream.abort()

    def connected(self, stream: Stream) -> None:
        self.stream = stream
        self.session = TerminalSession(
            self.identity,
            link_key(
                self.link_master,
                terminal=self.identity.terminal,
                epoch=self.identity.epoch,
                key_version=self.identity.key_version,
                suite=self.identity.suite,
            ),
            medium=Medium.TCP,
            nonce=self.host.random_bytes(16),
            body_bytes_max=BODY_BYTES_MAX_TCP,
            now_ms=self.host.monotonic_ms(),
        )
        self._write()

    def received(self, data: bytes) -> None:
        self.raw += data
        assert self.session is not None
        for event in self.session.receive(data, self.host.monotonic_ms()):
            if isinstance(event, Established):
                self.is_established = True
                if self.says_hello_after_log_in:
                    self.send(self.baseline())
                    self.send(self.list_receiver.state().encode())
                    for held in self.documents.values():
                        self.send(held.receiver.state().encode())
                    self.send(self.heartbeat())
            elif isinstance(event, Refused):
                self.refused = event
            else:
                self._take(decode_down(event))
        self._write()

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True
        self.stream = None

    # -- what it says

    @property
    def next(self) -> int:
        return len(self.records) + 1

    def seal_at(self, sequence: int) -> bytes:
        if sequence == 0:
            return genesis_seal(self.seal_key, self.identity.terminal, self.identity.epoch, self.enrolment_id)
        return seal_of(self.records[sequence - 1])

    def baseline(self) -> bytes:
        first = self.first_unacknowledged
        entry = BaselineEntry(self.identity.epoch, 1, first, self.next, self.seal_at(first - 1))
        message = Baseline(self.boot, self.identity.terminal, 100, 0, [*self.old_epochs, entry])
        message.seal = seal_baseline(self.seal_key, message.sealed_part())
        return message.encode()

    def heartbeat(self) -> bytes:
        return Heartbeat(
            self.identity.epoch, self.boot, self.host.monotonic_ms() // 100, 0, self.next, self.first_unacknowledged
        ).encode()

    def upload(self, first: int, last: int) -> None:
        self.send(Upload.of(self.records[first - 1 : last]).encode())
        self._write()

    def tombstone(self, first: int, last: int) -> None:
        message = Tombstone(TombstoneReason.UNREADABLE, self.identity.epoch, self.identity.terminal, first, last)
        message.seal = seal_tombstone(self.seal_key, message.sealed_part())
        self.send(message.encode())
        self._write()

    def send(self, message: bytes) -> None:
        assert self.session is not None
        if self.session.established:
            self.session.send(message)

    def say(self, message: bytes) -> None:
        """Send at once."""
        self.send(message)
        self._write()

    def _write(self) -> None:
        assert self.session is not None
        data = self.session.take_output()
        if data and self.stream is not None:
            self.writes.append(len(data))
            self.stream.write(data)

    # -- what it hears

    def of_kind(self, kind: type) -> list[DownMessage]:
        return [message for message in self.messages if isinstance(message, kind)]

    def acks(self) -> list[Ack]:
        return [message for message in self.messages if isinstance(message, Ack)]

    def byes(self) -> list[int]:
        return [message.code for message in self.messages if isinstance(message, ByeDown)]

    def _take(self, message: DownMessage) -> None:
        self.messages.append(message)
        if isinstance(message, Ack) and message.epoch == self.identity.epoch:
            self.first_unacknowledged = max(self.first_unacknowledged, message.durable + 1)
        elif isinstance(message, SealQuery) and self.answers_queries:
            self.send(self._seal_answer(message))
        elif isinstance(message, ListOffer | ListChunk) and self.takes_lists:
            self._take_list(message)

    def _seal_answer(self, query: SealQuery) -> bytes:
        if query.sequence >= self.next:
            return SealAnswer(SealStatus.NEVER_ISSUED, query.epoch, query.sequence).encode()
        return SealAnswer(SealStatus.HELD, query.epoch, query.sequence, self.seal_at(query.sequence)).encode()

    def _take_list(self, message: ListOffer | ListChunk) -> None:
        kind = message.head[8] if isinstance(message, ListOffer) else message.kind
        if kind in self.documents:
            for answer in self.documents[kind].take(message):
                self.send(answer)
            return
        receiver = self.list_receiver
        events = receiver.receive_offer(message) if isinstance(message, ListOffer) else receiver.receive_chunk(message)
        for event in events:
            if isinstance(event, StageBegin | StageClear):
                self.staged = b""
            elif isinstance(event, StageAppend):
                self.staged = self.staged[: event.offset] + event.data
            elif isinstance(event, Apply):
                self.list_content = event.content
            elif isinstance(event, ListState):
                self.send(event.encode())

    def take_list(self, message: ListOffer | ListChunk) -> None:
        """For a test that has set `takes_lists` to False: take this one now."""
        self._take_list(message)
        self._write()

    def report(self, head: bytes) -> None:
        """Say that it holds `head`, true or not."""
        self.say(ListState(ListKind.DENY, ListStatus.HOLDS, head=head).encode())
