"""The panel's view of one reader: what is said to it next, and what its answer means. Knows no line and no neighbours.

Everything that changes `state` goes through TRANSITIONS. A command that is not answered is repeated byte for byte under
its sequence number until it is answered or the session is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from protocol.errors import ProofError, RemoteError, TagError
from protocol.osdp.codes import CapabilityCode, CommandCode, NakCode, ReplyCode
from protocol.osdp.commands import (
    Abort,
    CapabilityRequest,
    Command,
    IdentityRequest,
    KeySet,
    Poll,
    SetCommunication,
)
from protocol.osdp.file_send import FileSender
from protocol.osdp.limits import (
    BUSY_PAUSE_MS,
    COMSET_MS_MAX,
    COMSET_TRIAL_MS,
    DEAD_PROBE_MS,
    OFFLINE_MS,
    PACKET_BYTES_DEFAULT,
    PACKET_BYTES_MAX,
    QUICK_RETRIES_MAX,
    SILENT_PAUSE_MS,
)
from protocol.osdp.packet import Packet, encode_packet
from protocol.osdp.panel_events import (
    CommandDone,
    CommandFailed,
    CommunicationSet,
    FileProgress,
    KeyAccepted,
    KeyProved,
    LinkCounters,
    PanelEvent,
    Queued,
    ReaderConfig,
    ReaderEvent,
    ReaderOffline,
    ReaderOnline,
    SecurityFailed,
)
from protocol.osdp.panel_security import PanelHandshake
from protocol.osdp.replies import (
    EVENT_REPLIES,
    Capabilities,
    ClientCryptogram,
    Communication,
    FileState,
    Identity,
    InitialReplyMac,
    Nak,
    Reply,
    decode_reply,
)
from protocol.osdp.secure_channel import Channel


class LinkState(Enum):
    OFFLINE = "offline"
    ASKING = "asking for capabilities"
    CHALLENGING = "challenging"
    PROVING = "proving"
    ONLINE = "online"
    DISABLED = "disabled"


class LinkStep(Enum):
    IDENTIFIED = "PDID"
    CAPABLE = "PDCAP, a secure channel is owed"
    CAPABLE_IN_CLEAR = "PDCAP, in clear by configuration"
    PROVED = "CCRYPT, right"
    ESTABLISHED = "RMAC_I, right"
    LOST = "session lost, handshake again"
    GIVEN_UP = "silent, refused, or moved"
    DISABLE = "disable"
    ENABLE = "enable"


_S, _T = LinkState, LinkStep
TRANSITIONS: Final[Mapping[tuple[LinkState, LinkStep], LinkState]] = {
    (_S.OFFLINE, _T.IDENTIFIED): _S.ASKING,
    (_S.ASKING, _T.CAPABLE): _S.CHALLENGING,
    (_S.ASKING, _T.CAPABLE_IN_CLEAR): _S.ONLINE,
    (_S.CHALLENGING, _T.PROVED): _S.PROVING,
    (_S.PROVING, _T.ESTABLISHED): _S.ONLINE,
    (_S.ONLINE, _T.LOST): _S.CHALLENGING,
    (_S.PROVING, _T.LOST): _S.CHALLENGING,
    (_S.CHALLENGING, _T.LOST): _S.CHALLENGING,
    **{(state, _T.GIVEN_UP): _S.OFFLINE for state in _S if state is not _S.DISABLED},
    **{(state, _T.DISABLE): _S.DISABLED for state in _S},
    (_S.DISABLED, _T.ENABLE): _S.OFFLINE,
}
HANDSHAKES_MAX: Final = 4
"""In a row without a session; then the reader counts as dead until the next probe."""
_NEEDS: Final = {
    CommandCode.OUT: CapabilityCode.OUTPUTS,
    CommandCode.OSTAT: CapabilityCode.OUTPUTS,
    CommandCode.ISTAT: CapabilityCode.CONTACTS,
    CommandCode.LED: CapabilityCode.LED,
    CommandCode.BUZ: CapabilityCode.BUZZER,
    CommandCode.TEXT: CapabilityCode.TEXT,
}
_ANSWERS: Final = {
    CommandCode.LSTAT: {ReplyCode.LSTATR},
    CommandCode.ISTAT: {ReplyCode.ISTATR},
    CommandCode.OSTAT: {ReplyCode.OSTATR},
    CommandCode.RSTAT: {ReplyCode.RSTATR},
    CommandCode.OUT: {ReplyCode.ACK, ReplyCode.OSTATR},
    CommandCode.COMSET: {ReplyCode.COM},
    CommandCode.MFG: {ReplyCode.ACK, ReplyCode.MFGREP},
    CommandCode.XWR: {ReplyCode.ACK, ReplyCode.XRD},
    CommandCode.FILETRANSFER: {ReplyCode.FTSTAT},
}
_ACK_ONLY: Final = frozenset({ReplyCode.ACK})
_SESSION_LOST: Final = frozenset({NakCode.SEQUENCE, NakCode.NO_SECURE_CHANNEL, NakCode.SECURITY_CONDITIONS})
_AROUND_BYTES: Final = 30  # header, security block, code, MAC, CRC and at most a block of padding


class ReaderLink:
    """One reader; `panel` decides when it has the line."""

    def __init__(self, config: ReaderConfig, random_bytes: Callable[[int], bytes], now_ms: int) -> None:
        self.config = config
        self.counters = LinkCounters()
        self.state = LinkState.OFFLINE
        self.ready_ms = now_ms
        self.reply_ms = config.reply_ms_max
        """How long an answer is waited for beside neighbours; rises when one came late."""
        self.identity: Identity | None = None
        self.capabilities = Capabilities(())
        self.unconfirmed: ReaderEvent | None = None
        self.queue: deque[Queued] = deque()
        self.file: FileSender | None = None
        self.channel: Channel | None = None
        self._random_bytes = random_bytes
        self._handshake = PanelHandshake(config)
        self._handshakes = 0
        self._sequence = 0
        self._wire = b""  # on its way, not answered yet
        self._code = 0
        self._in_flight: Queued | None = None
        self._tries = 0
        self._heard_ms: int | None = None
        self._not_acknowledged: Reply | None = None
        self._doubtful: Reply | None = None  # the same, of the session before, until this one's first answer
        self._event_number = 0
        self._key_sent = False
        self._security_told = False
        self._abort_file = False
        self._trial: tuple[tuple[int, int], tuple[int, int]] | None = None  # after COMSET: new and old settings
        self._trial_since_ms = 0
        self._trial_turned_ms = 0

    # -- what the panel asks ---------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether a session stands, or is being made."""
        return self.state not in {LinkState.OFFLINE, LinkState.DISABLED}

    @property
    def wants_ms(self) -> int | None:
        """When it wants the line; None while it may not have it (disabled, or an event is not durable yet)."""
        held = self.state is LinkState.DISABLED or self.unconfirmed is not None
        return None if held else self.ready_ms

    @property
    def silent_last(self) -> bool:
        """Whether it did not answer what it was asked last."""
        return self._tries > 0

    @property
    def urgent(self) -> bool:
        """Whether a command of the caller waits and may go out."""
        return self.state is LinkState.ONLINE and bool(self.queue) and not self._wire

    def next_wire(self, now_ms: int, events: list[PanelEvent]) -> bytes:
        """The packet to send now; empty if there is nothing after all."""
        flying = self._in_flight
        if flying is not None and flying.expires_ms is not None and now_ms >= flying.expires_ms:
            self._lose("a command expired on its way", now_ms, events)
        if self._handshake.by_default and self.live and not self._handshake.window_open(now_ms) and self.channel:
            self._give_up("the install window has closed", now_ms, events)
        if self._wire:
            self.counters.repeats += 1
            return self._wire
        if self.state is LinkState.OFFLINE:
            self._turn_trial(now_ms, events)
            self._build(0, IdentityRequest())
        elif self.state is LinkState.ASKING:
            self._build(self._next_sequence(), CapabilityRequest())
        elif self.state is LinkState.CHALLENGING:
            if not self._handshake.start(self._random_bytes(8), now_ms):
                self._fail_security("no key may be tried", now_ms, events)
                return b""
            self._build_step(self._next_sequence(), *self._handshake.challenge())
        elif self.state is LinkState.PROVING:
            self._build_step(self._next_sequence(), *self._handshake.answer())
        else:
            self._build_command(now_ms, events)
        return self._wire

    def confirm(self, now_ms: int) -> None:
        """The event is durable: the next sequence number may go out."""
        self.unconfirmed = None
        self._heard_ms = self.ready_ms = now_ms

    def disable(self, now_ms: int, events: list[PanelEvent]) -> None:
        if self.state is not LinkState.DISABLED:
            self._end_session("disabled", events)
            self._step(LinkStep.DISABLE)
            self.ready_ms = now_ms

    def enable(self, now_ms: int) -> None:
        if self.state is LinkState.DISABLED:
            self._step(LinkStep.ENABLE)
            self.ready_ms = now_ms

    def set_next_key(self, key: bytes) -> None:
        """Give the reader this key at its next turn; the caller has stored it."""
        self.config.next_key, self._key_sent = key, False

    def cancel_file(self) -> None:
        """End the transfer in place of its next fragment."""
        self._abort_file = self.file is not None

    def send_file(self, ticket: int, file_type: int, data: bytes, now_ms: int) -> None:
        self.file = FileSender(ticket, file_type, data, self._packet_bytes_max(), now_ms)

    # -- what the line brings --------------------------------------------------------------------------------

    def take(self, packet: Packet, now_ms: int, events: list[PanelEvent]) -> bool:
        """Act on a reply; False if it is not the one that is waited for."""
        if packet.code == ReplyCode.BUSY and not packet.block and self._wire:
            self.counters.busy += 1
            self._heard(now_ms)
            self.ready_ms = now_ms + BUSY_PAUSE_MS
            return True
        nak = packet.data[:1] if packet.code == ReplyCode.NAK and not packet.block else b""
        # A reader that lost count may answer under a number of its own; a first one is about a stale repetition.
        lost_count = nak == bytes((NakCode.SEQUENCE,)) and self._tries > 0
        if not self._wire or (packet.sequence != self._sequence and not lost_count):
            self.counters.strays += 1
            return False
        if packet.uses_crc != self.config.uses_crc and not nak:
            return False  # noise that looks like the other kind of check
        try:
            data = self._opened(packet, nak)
            if data is None:
                return False
            reply = decode_reply(packet.code, data)
        except TagError:
            self.counters.refused += 1
            self._lose("a reply with a wrong MAC", now_ms, events)
            return True
        except RemoteError as error:
            self._answered(now_ms)
            self._finish_command(None, str(error), events)
            return True
        if self.state is LinkState.ONLINE and not isinstance(reply, Nak):
            self._not_acknowledged = None  # the reader has seen the sequence number after its last event
        self._take_reply(packet, reply, now_ms, events)
        return True

    def silence(self, now_ms: int, events: list[PanelEvent]) -> None:
        """Nothing came within the time: repeat later, or give the session up."""
        self.counters.silences += 1
        self._tries += 1
        if self.state is LinkState.OFFLINE:
            self._wire = b""
            quick = self._tries < QUICK_RETRIES_MAX or self._trial is not None
            self.ready_ms = now_ms + (SILENT_PAUSE_MS if quick else DEAD_PROBE_MS)
            return
        if self._code == CommandCode.COMSET and self._tries > QUICK_RETRIES_MAX and self._in_flight is not None:
            moved = self._in_flight.command
            assert isinstance(moved, SetCommunication)
            self._start_trial((moved.address, moved.baud), now_ms)
            self._give_up("its answer to COMSET was lost", now_ms, events)
            self.ready_ms = now_ms
            return
        if self._heard_ms is not None and now_ms - self._heard_ms >= OFFLINE_MS:
            self._give_up("silent", now_ms, events)
            return
        self.ready_ms = now_ms + (0 if self._tries <= QUICK_RETRIES_MAX else SILENT_PAUSE_MS)

    # -- sending ---------------------------------------------------------------------------------------------

    def _next_sequence(self) -> int:
        return 0 if self._sequence < 0 else self._sequence % 3 + 1

    def _build(self, sequence: int, command: Command) -> None:
        data = command.encode()
        self._sequence, self._code = sequence, command.CODE
        if self.channel is not None:
            self._wire = self.channel.seal(
                self.config.address, sequence, command.CODE, data, uses_crc=self.config.uses_crc
            )
        else:
            self._build_step(sequence, command.CODE, b"", data)

    def _build_step(self, sequence: int, code: int, block: bytes, data: bytes) -> None:
        self._sequence, self._code = sequence, code
        self._wire = encode_packet(
            self.config.address, sequence, code, data, reply=False, block=block, uses_crc=self.config.uses_crc
        )

    def _build_command(self, now_ms: int, events: list[PanelEvent]) -> None:
        key = self.config.next_key
        file = self.file
        if key is not None and not self._key_sent and not self._handshake.by_next_key and self.channel is not None:
            self._build(self._next_sequence(), KeySet(key))
        elif file is not None and self._abort_file:
            self._build(self._next_sequence(), Abort())
        elif file is not None and file.due_ms <= now_ms and not self._poll_between():
            self._build(self._next_sequence(), file.next_fragment())
        elif file is not None and file.exclusive and not file.poll_first:
            self.ready_ms = max(file.due_ms, now_ms + 1)
        elif not self._build_queued(now_ms, events):
            if file is not None:
                file.poll_first = False
            self.counters.polls += 1
            self._build(self._next_sequence(), Poll())

    def _poll_between(self) -> bool:
        """Between two fragments goes a poll or a command where the reader allows it: its events come through."""
        file = self.file
        return file is not None and (file.poll_first or (not file.exclusive and self._code == CommandCode.FILETRANSFER))

    def _build_queued(self, now_ms: int, events: list[PanelEvent]) -> bool:
        while self.queue:
            queued = self.queue.popleft()
            reason = self._not_sendable(queued, now_ms)
            if reason:
                events.append(CommandFailed(self.config.name, queued.ticket, reason))
                continue
            self._in_flight = queued
            self._build(self._next_sequence(), queued.command)
            return True
        return False

    def _not_sendable(self, queued: Queued, now_ms: int) -> str:
        code = queued.command.CODE
        if queued.expires_ms is not None and now_ms >= queued.expires_ms:
            return "expired"
        need = _NEEDS.get(code)
        if need is not None and not self.capabilities.level(need):
            return f"the reader has no {need.name.lower()}"
        size = len(queued.command.encode()) + _AROUND_BYTES
        if size > self._packet_bytes_max():
            return f"longer than the {self._packet_bytes_max()} bytes that the reader takes"
        return ""

    def _packet_bytes_max(self) -> int:
        stated = self.capabilities.receive_bytes or PACKET_BYTES_DEFAULT
        return max(PACKET_BYTES_DEFAULT, min(stated, PACKET_BYTES_MAX))

    # -- receiving -------------------------------------------------------------------------------------------

    def _opened(self, packet: Packet, nak: bytes) -> bytes | None:
        """The reply's data; None for one in clear that a secure session does not take."""
        if self.channel is None:
            return packet.data
        if not packet.block:
            if nak and nak[0] in {*_SESSION_LOST, NakCode.CHECK}:
                return packet.data
            self.counters.refused += 1
            return None
        opened = self.channel.open(packet)
        self.channel.accept(opened)
        return opened.data

    def _heard(self, now_ms: int) -> None:
        if self.state is LinkState.ONLINE and self._heard_ms is not None:
            self.counters.gap_ms_max = max(self.counters.gap_ms_max, now_ms - self._heard_ms)
        self._heard_ms = now_ms

    def _answered(self, now_ms: int) -> None:
        """The command on its way is done with."""
        self._heard(now_ms)
        self._wire = b""
        self._tries = 0
        self.ready_ms = now_ms

    def _take_reply(self, packet: Packet, reply: Reply, now_ms: int, events: list[PanelEvent]) -> None:
        if isinstance(reply, Nak):
            self._take_nak(reply, now_ms, events)
        elif self.state is LinkState.OFFLINE:
            self._take_identity(reply, now_ms)
        elif self.state is LinkState.ASKING:
            self._take_capabilities(reply, now_ms, events)
        elif self.state in {LinkState.CHALLENGING, LinkState.PROVING}:
            self._take_proof(packet, reply, now_ms, events)
        else:
            self._take_answer(reply, now_ms, events)

    def _take_nak(self, reply: Nak, now_ms: int, events: list[PanelEvent]) -> None:
        self.counters.naks += 1
        if reply.reason == NakCode.CHECK:
            self._tries += 1
            self._heard(now_ms)
            if self._tries > QUICK_RETRIES_MAX and self.state is LinkState.OFFLINE:
                self.config.uses_crc = not self.config.uses_crc  # a reader that knows only checksums says so like this
            if self._tries > QUICK_RETRIES_MAX:
                self._lose("the reader finds every check wrong", now_ms, events)
            return
        if self.state is LinkState.CHALLENGING and reply.reason != NakCode.SEQUENCE:
            self._fail_security(f"the reader refuses the secure channel: {reply.name}", now_ms, events)
        elif reply.reason in _SESSION_LOST:
            self._lose(f"the reader says {reply.name}", now_ms, events)
        else:
            self._answered(now_ms)
            if self._code == CommandCode.KEYSET:
                events.append(SecurityFailed(self.config.name, f"the reader refuses the next key: {reply.name}"))
                self._key_sent = True
            self._finish_command(None, f"refused: {reply.name}", events)

    def _take_identity(self, reply: Reply, now_ms: int) -> None:
        self._answered(now_ms)
        if isinstance(reply, Identity):
            self.identity = reply
            self._handshakes = 0
            self._step(LinkStep.IDENTIFIED)
        else:
            self.ready_ms = now_ms + SILENT_PAUSE_MS

    def _take_capabilities(self, reply: Reply, now_ms: int, events: list[PanelEvent]) -> None:
        self._answered(now_ms)
        if not isinstance(reply, Capabilities):
            self._give_up("no capabilities", now_ms, events)
            return
        self.capabilities = reply
        if self.config.in_clear:
            self._step(LinkStep.CAPABLE_IN_CLEAR)
            self._online(events)
        else:
            # Whatever the reader claims to lack: the secure channel is owed by configuration.
            self._step(LinkStep.CAPABLE)

    def _take_proof(self, packet: Packet, reply: Reply, now_ms: int, events: list[PanelEvent]) -> None:
        try:
            if self.state is LinkState.CHALLENGING and isinstance(reply, ClientCryptogram):
                self._handshake.take_proof(packet, reply)
                self._answered(now_ms)
                self._step(LinkStep.PROVED)
            elif self.state is LinkState.PROVING and isinstance(reply, InitialReplyMac):
                self.channel = self._handshake.establish(packet, reply)
                self._answered(now_ms)
                self._step(LinkStep.ESTABLISHED)
                self._online(events)
            else:
                raise ProofError("another answer than the handshake's")
        except ProofError as error:
            self.counters.refused += 1
            self._fail_security(str(error), now_ms, events)

    def _online(self, events: list[PanelEvent]) -> None:
        assert self.identity is not None
        self._handshakes = 0
        self._security_told = False
        self._key_sent = False
        if self._trial is not None:
            here = (self.config.address, self.config.baud)
            events.append(CommunicationSet(self.config.name, *here, rolled_back=here == self._trial[1]))
            self._trial = None
        events.append(
            ReaderOnline(
                self.config.name,
                self.channel is not None,
                self.channel is not None and self._handshake.by_default,
                self.identity,
                self.capabilities,
            )
        )
        if self.channel is not None and self._handshake.by_next_key:
            self.config.base_key, self.config.next_key = self.config.next_key, None
            self.config.install_until_ms = None
            self._handshake.by_next_key = False
            events.append(KeyProved(self.config.name))

    def _take_answer(self, reply: Reply, now_ms: int, events: list[PanelEvent]) -> None:
        code = self._code
        self._answered(now_ms)
        if code == CommandCode.KEYSET:
            self._take_key_answer(reply, now_ms, events)
        elif code == CommandCode.FILETRANSFER and isinstance(reply, FileState):
            self._take_file_state(reply, now_ms, events)
        elif code == CommandCode.ABORT and self._abort_file and self.file is not None:
            self._end_file("cancelled", events)
        elif reply.CODE in _ANSWERS.get(CommandCode(code), _ACK_ONLY):
            if isinstance(reply, Communication):
                self._start_trial((reply.address, reply.baud), now_ms)
            self._finish_command(reply, "", events)
            if self._trial is not None:
                self._give_up("moved", now_ms, events)
                self.ready_ms = now_ms
        elif isinstance(reply, EVENT_REPLIES):
            self._tell(reply, events)
            self._finish_command(reply, "", events)
        else:
            self._finish_command(None, f"answered by {reply.CODE.name}", events)
        self._doubtful = None

    def _tell(self, reply: Reply, events: list[PanelEvent]) -> None:
        self._event_number += 1
        repeated = self._doubtful == reply
        event = ReaderEvent(self.config.name, self._event_number, reply, repeated)
        self._not_acknowledged = reply
        self.unconfirmed = event
        events.append(event)

    def _take_key_answer(self, reply: Reply, now_ms: int, events: list[PanelEvent]) -> None:
        if reply.CODE == ReplyCode.ACK:
            events.append(KeyAccepted(self.config.name))
            self._handshake.prefer_own()
            self._lose("the next key is to be proved", now_ms, events)
        else:
            self._key_sent = True
            events.append(SecurityFailed(self.config.name, f"KEYSET answered by {reply.CODE.name}"))

    def _take_file_state(self, reply: FileState, now_ms: int, events: list[PanelEvent]) -> None:
        file = self.file
        if file is None:
            return
        outcome = file.take(reply, now_ms)
        events.append(FileProgress(self.config.name, file.ticket, file.sent_bytes, file.total_bytes))
        if outcome == "":
            self.file = None
            events.append(CommandDone(self.config.name, file.ticket, reply))
        elif outcome is not None:
            self._end_file(outcome, events)

    def _end_file(self, reason: str, events: list[PanelEvent]) -> None:
        if self.file is not None:
            events.append(CommandFailed(self.config.name, self.file.ticket, reason))
        self.file, self._abort_file = None, False

    def _finish_command(self, reply: Reply | None, reason: str, events: list[PanelEvent]) -> None:
        """Tell the caller of the command on its way, if it was the caller's."""
        flying, self._in_flight = self._in_flight, None
        if self.file is not None and self._code == CommandCode.FILETRANSFER and reason:
            self._end_file(reason, events)
        if flying is None:
            return
        if reply is not None:
            events.append(CommandDone(self.config.name, flying.ticket, reply))
        else:
            events.append(CommandFailed(self.config.name, flying.ticket, reason))

    # -- sessions --------------------------------------------------------------------------------------------

    def _step(self, step: LinkStep) -> None:
        self.state = TRANSITIONS[self.state, step]

    def _end_session(self, reason: str, events: list[PanelEvent]) -> None:
        flying, self._in_flight = self._in_flight, None
        if flying is not None:
            events.append(CommandFailed(self.config.name, flying.ticket, reason, unknown=True))
        self._end_file(reason, events)
        self._doubtful = self._not_acknowledged or self._doubtful
        self.channel = None
        self._wire = b""
        self._tries = 0

    def _lose(self, reason: str, now_ms: int, events: list[PanelEvent]) -> None:
        """Make a new session at once; a reader that never gets that far is given up."""
        self._handshakes += 1
        in_clear = self.config.in_clear or self.state in {LinkState.OFFLINE, LinkState.ASKING}
        if in_clear or self._handshakes > HANDSHAKES_MAX:
            self._give_up(reason, now_ms, events)
            self.ready_ms = now_ms if self._handshakes <= HANDSHAKES_MAX else now_ms + DEAD_PROBE_MS
            return
        self._end_session(reason, events)
        self._step(LinkStep.LOST)
        self._sequence = -1  # the next one is 0, which tells the reader to forget its session too
        self.ready_ms = now_ms

    def _fail_security(self, reason: str, now_ms: int, events: list[PanelEvent]) -> None:
        default_next = not self._handshake.by_default and self._handshake.window_open(now_ms)
        self._handshake.failed()
        if default_next:
            self._lose(reason, now_ms, events)
            return
        if not self._security_told:
            self._security_told = True
            events.append(SecurityFailed(self.config.name, reason))
        self._give_up(reason, now_ms, events)

    def _give_up(self, reason: str, now_ms: int, events: list[PanelEvent]) -> None:
        was_online = self.state is LinkState.ONLINE
        self._end_session(reason, events)
        if self.state is not LinkState.OFFLINE:
            self._step(LinkStep.GIVEN_UP)
        self.ready_ms = now_ms + DEAD_PROBE_MS
        if was_online:
            events.append(ReaderOffline(self.config.name, reason))

    def _start_trial(self, settings: tuple[int, int], now_ms: int) -> None:
        self._trial = (settings, (self.config.address, self.config.baud))
        self._trial_since_ms = self._trial_turned_ms = now_ms
        self.config.address, self.config.baud = settings

    def _turn_trial(self, now_ms: int, events: list[PanelEvent]) -> None:
        """After COMSET: try the new settings and the old ones in turn, and end at the old ones."""
        if self._trial is None or now_ms - self._trial_turned_ms < COMSET_TRIAL_MS:
            return
        new, old = self._trial
        here = (self.config.address, self.config.baud)
        self.config.address, self.config.baud = old if here == new else new
        self._trial_turned_ms = now_ms
        if now_ms - self._trial_since_ms >= COMSET_MS_MAX:
            self.config.address, self.config.baud = old
            self._trial = None
            events.append(CommunicationSet(self.config.name, *old, rolled_back=True))
