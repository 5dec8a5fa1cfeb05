"""The panel's view of one reader: what is said to it next, and what its answer means. Knows no line and no neighbours.

A command that is not answered is repeated byte for byte under its sequence number, until it is answered or the session
is given up; the states and the ways between them are in `link_state`.
"""

from __future__ import annotations

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
from protocol.osdp.limits import (
    BUSY_PAUSE_MS,
    DEAD_PROBE_MS,
    OFFLINE_MS,
    QUICK_RETRIES_MAX,
    SILENT_PAUSE_MS,
)
from protocol.osdp.link_base import LinkBase
from protocol.osdp.link_state import LinkState, LinkStep
from protocol.osdp.packet import Packet, encode_packet
from protocol.osdp.panel_events import (
    CommandDone,
    CommandFailed,
    FileProgress,
    KeyAccepted,
    PanelEvent,
    Queued,
    ReaderEvent,
    SecurityFailed,
)
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


class ReaderLink(LinkBase):
    """One reader; `panel` decides when it has the line."""

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
