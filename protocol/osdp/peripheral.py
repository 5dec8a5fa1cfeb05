"""A reader's side of the line: sequence numbers, cached replies, secure channel. What it switches belongs to a handler.

The reply to the command that came last is kept, and a repetition of that very command is answered by the same bytes:
an event whose reply was lost on the line is neither lost nor told twice. An event is forgotten when the panel goes on
to the next sequence number; a panel that starts again at 0 before that is told it again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final, Protocol

from protocol.errors import Malformed, OutOfRange, RemoteError, StateMisuse, TagError, UnexpectedMessage
from protocol.osdp.codes import CommandCode, NakCode, ScsType
from protocol.osdp.commands import (
    CapabilityRequest,
    Challenge,
    Command,
    IdentityRequest,
    KeySet,
    PanelReceiveSize,
    Poll,
    ServerCryptogram,
    SetCommunication,
    decode_command,
)
from protocol.osdp.limits import ADDRESS_MAX, BROADCAST, CHARACTER_GAP_MS, EVENTS_MAX, KEY_BYTES, OFFLINE_MS
from protocol.osdp.packet import MARK, Packet, PacketDecoder, encode_packet
from protocol.osdp.replies import (
    EVENT_REPLIES,
    Ack,
    Busy,
    Capabilities,
    ClientCryptogram,
    Communication,
    Identity,
    InitialReplyMac,
    Nak,
    Reply,
)
from protocol.osdp.secure_channel import SCBK_DEFAULT, Channel, Opened, SessionKeys

_IN_CLEAR: Final = frozenset({CommandCode.ID, CommandCode.CAP})
"""What a reader that insists on a secure channel answers without one."""


class Handler(Protocol):
    """What the reader does; it is asked once per command, never for a repetition."""

    def handle(self, command: Command) -> Reply:
        """The answer; `Busy` makes the panel ask again."""

    def store_key(self, key: bytes) -> bool:
        """Make a new base key durable before this returns; False if that failed."""

    def store_communication(self, address: int, baud: int) -> bool:
        """Take over address and speed, once the answer has gone out; False to keep the present ones."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""


@dataclass(slots=True)
class ReaderSetup:
    """What a reader is delivered with."""

    address: int
    identity: Identity
    capabilities: Capabilities
    base_key: bytes | None = field(default=None, repr=False)
    insists: bool = True
    """Only identity and capabilities in clear, once it has a key of its own."""
    install_until_ms: int | None = None
    """Until then the default key is taken too."""
    baud: int = 9600

    def __post_init__(self) -> None:
        if not 0 <= self.address <= ADDRESS_MAX or len(self.base_key or bytes(KEY_BYTES)) != KEY_BYTES:
            raise OutOfRange(f"address {self.address}, or a base key that has not {KEY_BYTES} bytes")


@dataclass(slots=True)
class _Handshake:
    keys: SessionKeys
    server_cryptogram: bytes


@dataclass(slots=True)
class ReaderCounters:
    commands: int = 0
    repeated: int = 0
    refused: int = 0
    """Packets with a wrong MAC, wrong key, or in clear where that is not allowed."""


class Peripheral:
    """One reader; `receive`, `take_output`, `next_deadline_ms` and `tick` are all that a line needs."""

    def __init__(self, setup: ReaderSetup, handler: Handler) -> None:
        self.setup = setup
        self.counters = ReaderCounters()
        self._handler = handler
        self._decoder = PacketDecoder()
        self._output: list[bytes] = []
        self._events: deque[Reply] = deque()
        self._told: Reply | None = None  # the event in the last reply, until the panel shows that it has it
        self._sequence: int | None = None
        self._last_raw = b""
        self._last_reply = b""
        self._channel: Channel | None = None
        self._handshake: _Handshake | None = None
        self._heard_ms = 0
        self._byte_ms = 0

    @property
    def secure(self) -> bool:
        """Whether a secure channel stands."""
        return self._channel is not None

    @property
    def online(self) -> bool:
        """Whether a panel was heard within the last eight seconds."""
        return self._sequence is not None

    @property
    def events_waiting(self) -> int:
        """Events that no panel is known to have."""
        return len(self._events) + (self._told is not None)

    def submit(self, event: Reply) -> None:
        """Tell `event` at one of the next polls.

        Raises:
            OutOfRange: no event, or too many wait.
        """
        if not isinstance(event, EVENT_REPLIES) or len(self._events) >= EVENTS_MAX:
            raise OutOfRange(f"{event.CODE.name} as an event, {len(self._events)} wait")
        self._events.append(event)

    def receive(self, data: bytes, now_ms: int) -> None:
        """What the line brought; answers are in `take_output` at once."""
        self.tick(now_ms)
        self._byte_ms = now_ms
        for packet in self._decoder.feed(data):
            self._take(packet, now_ms)

    def take_output(self) -> bytes:
        """The bytes to send now; each is given out once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def next_deadline_ms(self) -> int | None:
        """When `tick` has something to do."""
        if self._decoder.unfinished:
            return self._byte_ms + CHARACTER_GAP_MS
        return self._heard_ms + OFFLINE_MS if self.online else None

    def tick(self, now_ms: int) -> None:
        """Let time pass: an unfinished packet is given up, a silent panel forgotten."""
        if self._decoder.unfinished and now_ms - self._byte_ms >= CHARACTER_GAP_MS:
            for packet in self._decoder.line_silent():
                self._take(packet, now_ms)
        if self.online and now_ms - self._heard_ms >= OFFLINE_MS:
            self._forget_session()

    def restart(self) -> None:
        """Power was cut: session and cache are gone, waiting events stay."""
        self._decoder = PacketDecoder()
        self._output.clear()
        self._forget_session()

    def _forget_session(self) -> None:
        self._sequence = None
        self._last_raw = self._last_reply = b""
        self._channel = self._handshake = None
        if self._told is not None:
            self._events.appendleft(self._told)
            self._told = None

    def _take(self, packet: Packet, now_ms: int) -> None:
        if packet.reply or packet.address not in {self.setup.address, BROADCAST}:
            return
        if packet.raw == self._last_raw and (packet.sequence or packet.code == CommandCode.CHLNG):
            self._heard_ms = now_ms
            self.counters.repeated += 1
            self._output.append(MARK + self._last_reply)
            return
        if packet.sequence == 0:
            self._forget_session()
        elif packet.sequence != self._expected():
            self._refuse(packet, NakCode.SEQUENCE, now_ms)
            return
        try:
            opened = self._opened(packet, now_ms)
            command = decode_command(packet.code, opened.data)
        except TagError:
            self.counters.refused += 1
            self._refuse(packet, NakCode.SECURITY_CONDITIONS, now_ms)
            return
        except StateMisuse:
            self.counters.refused += 1
            self._refuse(packet, NakCode.NO_SECURE_CHANNEL, now_ms)
            return
        except RemoteError as error:
            opened = Opened(b"", self._link(packet))
            unknown = isinstance(error, UnexpectedMessage)
            self._answer(packet, opened, Nak(NakCode.UNKNOWN_COMMAND if unknown else NakCode.LENGTH), now_ms)
            return
        self._perform(packet, opened, command, now_ms)

    def _expected(self) -> int | None:
        return None if self._sequence is None else self._sequence % 3 + 1

    def _opened(self, packet: Packet, now_ms: int) -> Opened:
        """The command's data, once it is known to be allowed.

        Raises:
            TagError: the security block does not fit the session.
            StateMisuse: in clear, and this reader does not take it in clear.
        """
        kind = packet.block_type
        if kind in {ScsType.COMMAND_MAC, ScsType.COMMAND_DATA}:
            if self._channel is None:
                raise TagError("a sealed command without a session")
            opened = self._channel.open(packet)
            if packet.code == CommandCode.KEYSET and kind != ScsType.COMMAND_DATA:
                raise TagError("a key in clear")
            return opened
        if kind in {ScsType.CHLNG, ScsType.SCRYPT}:
            code = CommandCode.CHLNG if kind == ScsType.CHLNG else CommandCode.SCRYPT
            if packet.code != code or len(packet.block) != 2:
                raise TagError("a step of the handshake that is none")
            return Opened(packet.data, b"")
        if kind or packet.code in {CommandCode.CHLNG, CommandCode.SCRYPT, CommandCode.KEYSET}:
            raise TagError("a security block that no command has, or one is missing")
        if self._must_be_secure(now_ms) and packet.code not in _IN_CLEAR:
            raise StateMisuse("in clear")
        self._channel = None if packet.code not in _IN_CLEAR else self._channel
        return Opened(packet.data, b"")

    def _must_be_secure(self, now_ms: int) -> bool:
        installing = self.setup.install_until_ms is not None and now_ms < self.setup.install_until_ms
        return self.setup.insists and self.setup.base_key is not None and not installing

    def _link(self, packet: Packet) -> bytes:
        """The chain's next link after a sealed command that was authentic and could not be read."""
        if self._channel is None or packet.block_type not in {ScsType.COMMAND_MAC, ScsType.COMMAND_DATA}:
            return b""
        try:
            return self._channel.open(packet).link
        except Malformed:
            self._channel = None  # authentic, and not to be decrypted: nothing more can be agreed
            return b""

    def _perform(self, packet: Packet, opened: Opened, command: Command, now_ms: int) -> None:
        if isinstance(command, Challenge):
            self._challenge(packet, command, now_ms)
        elif isinstance(command, ServerCryptogram):
            self._prove(packet, command, now_ms)
        else:
            reply = self._reply_to(packet, command)
            if isinstance(reply, Busy):
                # Nothing has happened: neither sequence nor chain move, and the same bytes may come again.
                busy = encode_packet(self.setup.address, 0, reply.CODE, b"", reply=True, uses_crc=packet.uses_crc)
                self._output.append(MARK + busy)
                return
            self._answer(packet, opened, reply, now_ms)
            if isinstance(reply, Communication):
                # The session goes on: some panels do, others start again at sequence 0, which ends it anyway.
                self.setup.address, self.setup.baud = reply.address, reply.baud

    def _reply_to(self, packet: Packet, command: Command) -> Reply:
        if isinstance(command, Poll):
            if packet.sequence:
                self._told = None
            if self._events:
                self._told = self._events.popleft()
                return self._told
            return Ack()
        if packet.sequence:
            self._told = None
        if isinstance(command, IdentityRequest):
            return self.setup.identity
        if isinstance(command, CapabilityRequest):
            return self.setup.capabilities
        if isinstance(command, KeySet):
            if self._channel is None or not self._handler.store_key(command.key):
                return Nak(NakCode.RECORD)
            self.setup.base_key, self.setup.install_until_ms = command.key, None
            return Ack()
        if isinstance(command, SetCommunication):
            if not self._handler.store_communication(command.address, command.baud):
                return Communication(self.setup.address, self.setup.baud)
            return Communication(command.address, command.baud)
        if isinstance(command, PanelReceiveSize):
            return Ack()
        return self._handler.handle(command)

    def _challenge(self, packet: Packet, command: Challenge, now_ms: int) -> None:
        setup = self.setup
        installing = setup.install_until_ms is not None and now_ms < setup.install_until_ms
        by_default = packet.block[1] == 0 and installing
        # Asked for the default key out of its time, a reader proves its own key: some panels ask for nothing else, and
        # look at what the answer says.
        key = SCBK_DEFAULT if by_default else setup.base_key
        if key is None:
            self.counters.refused += 1
            self._refuse(packet, NakCode.SECURITY_CONDITIONS, now_ms)
            return
        self._channel = None
        own = self._handler.random_bytes(8)
        keys = SessionKeys.derive(key, command.random)
        self._handshake = _Handshake(keys, keys.server_cryptogram(command.random, own))
        proof = ClientCryptogram(setup.identity.client_id, own, keys.client_cryptogram(command.random, own))
        self._finish(packet, proof, bytes((ScsType.CCRYPT, not by_default)), now_ms)

    def _prove(self, packet: Packet, command: ServerCryptogram, now_ms: int) -> None:
        handshake, self._handshake = self._handshake, None
        right = handshake is not None and compare_digest(handshake.server_cryptogram, command.cryptogram)
        if handshake is None or not right:
            self.counters.refused += 1
            self._refuse(packet, NakCode.SECURITY_CONDITIONS, now_ms)
            return
        first = handshake.keys.initial_reply_mac(handshake.server_cryptogram)
        self._finish(packet, InitialReplyMac(first), bytes((ScsType.RMAC_I, 1)), now_ms)
        self._channel = Channel(handshake.keys, first, reader=True)

    def _answer(self, packet: Packet, opened: Opened, reply: Reply, now_ms: int) -> None:
        if self._channel is not None and opened.link:
            self._channel.accept(opened)
            data = reply.encode()
            wire = self._channel.seal(self.setup.address, packet.sequence, reply.CODE, data, uses_crc=packet.uses_crc)
            self._keep(packet, wire, now_ms)
        else:
            self._finish(packet, reply, b"", now_ms)

    def _finish(self, packet: Packet, reply: Reply, block: bytes, now_ms: int) -> None:
        wire = encode_packet(
            *(self.setup.address, packet.sequence, reply.CODE, reply.encode()),
            reply=True,
            block=block,
            uses_crc=packet.uses_crc,
        )
        self._keep(packet, wire, now_ms)

    def _keep(self, packet: Packet, wire: bytes, now_ms: int) -> None:
        self.counters.commands += 1
        self._heard_ms = now_ms
        self._sequence = packet.sequence
        self._last_raw, self._last_reply = packet.raw, wire
        self._output.append(MARK + wire)

    def _refuse(self, packet: Packet, reason: NakCode, now_ms: int) -> None:
        """Say NAK in clear. While a session stands nothing changes: the sender has not shown that it is the panel."""
        if self._channel is None and reason != NakCode.SEQUENCE:
            self._finish(packet, Nak(reason), b"", now_ms)
            return
        wire = encode_packet(
            *(self.setup.address, packet.sequence, Nak.CODE, bytes((reason,))), reply=True, uses_crc=packet.uses_crc
        )
        self._output.append(MARK + wire)
