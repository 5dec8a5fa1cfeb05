"""What a panel knows of one reader, and how a session with it begins and ends. What is said in one: `reader_link`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from protocol.osdp.codes import CommandCode
from protocol.osdp.file_send import FileSender
from protocol.osdp.limits import (
    COMSET_MS_MAX,
    COMSET_TRIAL_MS,
    DEAD_PROBE_MS,
    PACKET_BYTES_DEFAULT,
    PACKET_BYTES_MAX,
)
from protocol.osdp.link_state import TRANSITIONS, LinkState, LinkStep
from protocol.osdp.panel_events import (
    CommandDone,
    CommandFailed,
    CommunicationSet,
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
    Capabilities,
    Identity,
    Reply,
)
from protocol.osdp.secure_channel import Channel

HANDSHAKES_MAX: Final = 4
"""In a row without a session; then the reader counts as dead until the next probe."""


class LinkBase:
    """State, queue and session of one reader."""

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

    def _packet_bytes_max(self) -> int:
        stated = self.capabilities.receive_bytes or PACKET_BYTES_DEFAULT
        return max(PACKET_BYTES_DEFAULT, min(stated, PACKET_BYTES_MAX))

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
