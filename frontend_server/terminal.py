"""A terminal after log-in: every message it may send in each phase, and what follows (docs/protocol.md §6, §8).

phase      takes beside BYE                                      until
BASELINE   BASELINE                                              it is handed to the spool
STORING    HEARTBEAT, LIST_STATE                                 it is durable
ASKING     HEARTBEAT, LIST_STATE, SEAL_ANSWER                    every question is answered
READY      HEARTBEAT, LIST_STATE, UPLOAD, TOMBSTONE              the session ends
LEAVING    nothing: what comes now is not stored                 the spool has answered for what came before
OVER       nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from frontend_server.acknowledging import AcknowledgingConnection
from frontend_server.alarms import AlarmKind
from frontend_server.intake import LIVE_RECORDS_MAX, UPLOAD_HEAD_BYTES, check_upload, single_upload
from frontend_server.list_talk import ListTalk
from frontend_server.log_in import LogIn
from frontend_server.parts import Parts
from frontend_server.timers import Deadline
from ledger_sync.spool import (
    AnchorIntake,
    BaselineIntake,
    Outcome,
    RecordsIntake,
    TombstoneIntake,
)
from protocol.codes import ByeCode, MessageType
from protocol.errors import Malformed, UnexpectedMessage
from protocol.list_transfer import ListVersion
from protocol.messages import Baseline, ByeUp, Heartbeat, Recollect, SealAnswer, Time, Tombstone, decode_up
from protocol.session import Established
from protocol.trade_time import measured_anchor_ms


class Phase(Enum):
    BASELINE = "baseline awaited"
    STORING = "baseline being stored"
    ASKING = "seal asked for"
    READY = "ready"
    LEAVING = "leaving"
    OVER = "over"


TRANSITIONS: Final = {
    Phase.BASELINE: frozenset({Phase.STORING, Phase.LEAVING, Phase.OVER}),
    Phase.STORING: frozenset({Phase.ASKING, Phase.READY, Phase.LEAVING, Phase.OVER}),
    Phase.ASKING: frozenset({Phase.READY, Phase.LEAVING, Phase.OVER}),
    Phase.READY: frozenset({Phase.LEAVING, Phase.OVER}),
    Phase.LEAVING: frozenset({Phase.OVER}),
    Phase.OVER: frozenset[Phase](),
}
_DEAF: Final = frozenset({Phase.LEAVING, Phase.OVER})


class TerminalConnection(AcknowledgingConnection):
    """The session of one terminal."""

    __slots__ = (
        "_answer_deadline",
        "_lists",
        "_log_in_state",
        "_takes",
        "phase",
    )

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.phase = Phase.BASELINE
        self._takes = TAKES[Phase.BASELINE]
        self._log_in_state: LogIn | None = None
        self._answer_deadline: Deadline | None = None
        self._lists: ListTalk | None = None

    # -- Connection

    def _logged_in(self, event: Established) -> None:
        assert self.status is not None
        self._terminal = event.hello.terminal
        self._epoch = event.hello.epoch
        self._lists = ListTalk(self._parts, self.status, event.body_bytes_max, event.hello.terminal_kind)

    def _take(self, body: bytes) -> None:
        self._parts.metrics.frames_received += 1
        handler = self._takes.get(body[0]) if body else None
        if handler is not None:
            handler(self, body)
        elif self.phase not in _DEAF:
            decode_up(body)  # says what is malformed
            raise UnexpectedMessage(f"message {body[0]:02x} while {self.phase.value}")

    def _ended(self) -> None:
        self._go(Phase.OVER)
        self._lists = None
        self._log_in_state = None
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None

    def drain(self) -> None:
        """The server goes down: take nothing more, so that the spool comes to an end; what it has is still answered."""
        if self.phase not in _DEAF:
            self._go(Phase.LEAVING)

    def _go(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{self.phase} to {phase}"
        self.phase = phase
        self._takes = TAKES[phase]

    # -- messages: log-in

    def on_baseline(self, body: bytes) -> None:
        baseline = Baseline.decode(body)
        if baseline.terminal != self._terminal or baseline.entries[-1].epoch != self._epoch:
            raise Malformed("BASELINE", "not of the session's terminal and epoch")
        now_ms = self._parts.clock.now_ms()
        entry = baseline.entries[-1]
        assert self.status is not None
        self.status.heartbeats = -1  # what it says of its clock now is from before our first word
        self._heard(baseline.boot, baseline.clock_ms, entry.first_unacknowledged, entry.next, now_ms)
        self._parts.metrics.baselines += 1
        self._go(Phase.STORING)
        # Before backlogs: until this is durable the terminal's sales of this minute cannot be sent either.
        self._submit(BaselineIntake(self._terminal, self._epoch, body, now_ms), is_live=True)

    def _heard(self, boot: int, clock_ms: int, first_unacknowledged: int, next_sequence: int, now_ms: int) -> None:
        """Note what the terminal says of itself, for operators."""
        status = self.status
        assert status is not None
        status.boot = boot
        status.heartbeats += 1
        status.clock_ahead_ms = clock_ms - now_ms if clock_ms else None
        status.first_unacknowledged = first_unacknowledged
        status.next = next_sequence

    def _baseline_stored(self, outcome: Outcome) -> None:
        if self.phase is not Phase.STORING:  # the server goes down meanwhile
            return
        log_in = LogIn(outcome.logins, self._epoch)
        self._log_in_state = log_in
        for query in log_in.queries():
            self._send(query.encode())
        if log_in.is_decided or log_in.is_forked:
            self._decided(log_in)
            return
        self._go(Phase.ASKING)
        self._answer_deadline = self._parts.wheel.after(
            self._parts.settings.answer_ms, lambda: self.say_bye(ByeCode.IDLE)
        )

    def on_seal_answer(self, body: bytes) -> None:
        log_in = self._log_in_state
        assert log_in is not None
        log_in.take(SealAnswer.decode(body))
        if log_in.is_decided or log_in.is_forked:
            self._decided(log_in)

    def _decided(self, log_in: LogIn) -> None:
        """Acknowledge what the log-in has proved, or part with a terminal whose chain differs."""
        self._log_in_state = None
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None
        if log_in.is_forked:
            self._forked(AlarmKind.FORK, "the chain of seals differs from what is held, or goes back behind it")
            return
        self._go(Phase.READY)
        self._epochs = tuple(log_in.epochs)
        assert self.status is not None
        self._is_live = self.status.next - self.status.first_unacknowledged <= LIVE_RECORDS_MAX
        if 0 < self.status.suspect_epoch < self._epoch:  # enrolled again: the quarrel is over
            self.status.suspect_epoch = 0
            self._parts.alarms.clear(AlarmKind.FORK, str(self._terminal))
            self._parts.alarms.clear(AlarmKind.SUSPECT_RECORDS, str(self._terminal))
        for state in self._epochs:
            if state.is_suspect:
                self._parts.alarm(AlarmKind.FORK, str(self._terminal), f"epoch {state.epoch}: kept as suspect")
            self._send_ack(state)

    # -- messages: records

    def on_upload(self, body: bytes) -> None:
        single = single_upload(body, self._terminal)
        if single is not None:
            epoch, last = single[3], single[6]
        else:
            epoch, _, last = check_upload(body, self._terminal)
        state = self._epoch_ack(epoch)
        if state is None:
            raise UnexpectedMessage("records of an epoch that was not announced")
        status = self.status
        if epoch == self._epoch and status is not None and last >= status.next:
            status.next = last + 1
        parts = self._parts
        metrics = parts.metrics
        metrics.upload_frames += 1
        metrics.records_received += body[1]
        metrics.upload_bytes.counts[len(body).bit_length()] += 1
        metrics.upload_bytes.total += len(body)
        # Its flag says live; but a terminal's frames keep their order, so none overtakes a backlog of its own.
        is_live = body[3] == 1 and body[1] <= LIVE_RECORDS_MAX and (self._is_live or not self._outstanding)
        self._is_live = is_live
        metrics.live_frames += is_live
        self._submit(
            RecordsIntake(
                self._terminal,
                epoch,
                body[UPLOAD_HEAD_BYTES:],
                parts.clock.now_ms(),
                state.first_unacknowledged,
                state.is_suspect,
                single,
            ),
            is_live=is_live,
        )

    def on_tombstone(self, body: bytes) -> None:
        tombstone = Tombstone.decode(body)
        state = self._epoch_ack(tombstone.epoch)
        if tombstone.terminal != self._terminal or state is None:
            raise UnexpectedMessage("a tombstone of another terminal, or of an epoch that was not announced")
        parts = self._parts
        parts.metrics.tombstones += 1
        self._submit(
            TombstoneIntake(self._terminal, tombstone.epoch, body, parts.clock.now_ms(), state.first_unacknowledged)
        )

    # -- messages: the rest

    def on_heartbeat(self, body: bytes) -> None:
        beat = Heartbeat.decode(body)
        if beat.epoch != self._epoch:
            raise Malformed("HEARTBEAT", "not of the session's epoch")
        now_ms = self._parts.clock.now_ms()
        assert self.status is not None
        self.status.flags = beat.flags
        self._heard(beat.boot, beat.clock_ms, beat.first_unacknowledged, beat.next, now_ms)
        is_current = self._lists is not None and self._lists.deny_list_current
        self._send(Time(beat.boot, beat.uptime_ds, now_ms, is_current).encode())
        self._submit(AnchorIntake(self._terminal, self._epoch, beat.boot, measured_anchor_ms(now_ms, beat.uptime_ds)))

    def on_list_state(self, body: bytes) -> None:
        assert self._lists is not None
        for message in self._lists.on_state(body):
            self._send(message)

    def on_bye(self, body: bytes) -> None:
        code = ByeUp.decode(body).code
        self._parts.log("terminal.bye", terminal=self._terminal, code=code.name)
        stream = self._stream
        self._end_session()
        if stream is not None:
            self._linger(stream)

    # -- LiveSession

    def offer(self, version: ListVersion) -> None:
        if self._lists is not None:
            for message in self._lists.on_version(version):
                self._send(message)
            self._settle()

    def recollect(self, epoch: int, first: int, last: int) -> None:
        if self._epoch_ack(epoch) is not None:
            self._send(Recollect(epoch, first, last).encode())
            self._settle()


_Handler = Callable[[TerminalConnection, bytes], None]
_ALWAYS: Final[Mapping[int, _Handler]] = {int(MessageType.BYE_UP): TerminalConnection.on_bye}
_LOGGED_IN: Final[Mapping[int, _Handler]] = {
    **_ALWAYS,
    int(MessageType.HEARTBEAT): TerminalConnection.on_heartbeat,
    int(MessageType.LIST_STATE): TerminalConnection.on_list_state,
}
TAKES: Final[Mapping[Phase, Mapping[int, _Handler]]] = {
    Phase.BASELINE: {**_ALWAYS, int(MessageType.BASELINE): TerminalConnection.on_baseline},
    Phase.STORING: _LOGGED_IN,
    Phase.ASKING: {**_LOGGED_IN, int(MessageType.SEAL_ANSWER): TerminalConnection.on_seal_answer},
    Phase.READY: {
        **_LOGGED_IN,
        int(MessageType.UPLOAD): TerminalConnection.on_upload,
        int(MessageType.TOMBSTONE): TerminalConnection.on_tombstone,
    },
    Phase.LEAVING: {},
    Phase.OVER: {},
}
