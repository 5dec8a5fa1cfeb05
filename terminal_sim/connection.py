"""One TCP connection of a terminal: handshake, log-in, and every message on it (docs/protocol.md §4, §6, §8).

Nothing is believed before the session has opened it, and nothing is forgotten before it is in flash: an acknowledgement
counts once its mark is programmed. `UploadPlan` decides what to send; `Uplink` decides when to connect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.codes import ByeCode, Medium, RefuseCode, SealStatus
from protocol.errors import RemoteError
from protocol.limits import BASELINE_ENTRIES_MAX, HEARTBEAT_MS, HEARTBEAT_MS_MAX
from protocol.messages import (
    CLOCK_NEVER_SET,
    LIST_STALE,
    MEMORY_80_PERCENT,
    MEMORY_FULL,
    Ack,
    Baseline,
    BaselineEntry,
    ByeDown,
    DownMessage,
    Heartbeat,
    ListChunk,
    ListOffer,
    Recollect,
    SealAnswer,
    SealQuery,
    Time,
    decode_down,
)
from protocol.ports import Stream, Timer
from protocol.proofs import seal_baseline
from protocol.records import seal_of
from protocol.session import Established, Refused, TerminalSession
from terminal_sim.errors import PowerCut, RecordGone, SectorDead
from terminal_sim.memory import Memory
from terminal_sim.upload import UploadPlan

if TYPE_CHECKING:
    from terminal_sim.uplink import Uplink

REFUSED_MS: Final = 30_000  # not enrolled like this: people must act, there is no hurry
TAKEN_OVER_MS: Final = 60_000  # a twin is at work: do not fight for the seat (R13)
CANNOT_STORE_MS: Final = 5_000
ACK_MS_MAX: Final = 20_000  # frames unanswered for so long were swallowed; a new connection asks anew
SILENCE_MS_MAX: Final = HEARTBEAT_MS + ACK_MS_MAX
"""A front-end answers every heartbeat: where nothing comes for so long, what it says does not arrive, lists neither."""
WRITE_BUFFER_BYTES_MAX: Final = 64 * 1024  # a front-end that does not read gets no more
RTC_TOLERANCE_MS: Final = 500  # smaller differences are the network's

_STAYS: Final = frozenset({ByeCode.REKEY, ByeCode.IDLE, ByeCode.TAKEN_OVER})
"""The front-end is well and only this session is over; after any other end the next address is tried."""
_BYE_DELAY_MS: Final[dict[ByeCode, int]] = {
    ByeCode.REKEY: 0,
    ByeCode.IDLE: 0,
    ByeCode.TAKEN_OVER: TAKEN_OVER_MS,
    ByeCode.CANNOT_STORE: CANNOT_STORE_MS,
}
"""How long to stay away; after any other BYE the back-off says."""


class Connection:
    """A `StreamHandler`: one TCP connection and the session on it."""

    def __init__(self, uplink: Uplink) -> None:
        memory = uplink.terminal.memory
        assert memory is not None
        self._uplink = uplink
        self._terminal = uplink.terminal
        self._memory: Memory = memory
        self._stream: Stream | None = None
        self._session: TerminalSession | None = None
        self._plan: UploadPlan | None = None
        self._timer: Timer | None = None
        self._sent_ms = 0
        self._beat_ms = 0
        self._answered_ms = 0
        self._heard_ms = 0
        self._delay_ms: int | None = None
        self._stays = False
        self._closing = False
        self._over = False

    # -- StreamHandler

    def connected(self, stream: Stream) -> None:
        if self._over:
            stream.abort()
            return
        self._stream = stream
        uplink = self._uplink
        uplink.in_handshake()
        secrets = self._terminal.secrets
        self._session = TerminalSession(
            secrets.identity(),
            secrets.link_key,
            medium=Medium.TCP,
            nonce=uplink.random.random_bytes(16),
            body_bytes_max=uplink.body_bytes_max,
            now_ms=uplink.clock.monotonic_ms(),
        )
        self._flush()
        self._arm()

    def received(self, data: bytes) -> None:
        session = self._session
        if session is None or self._over or self._closing:
            return
        try:
            for event in session.receive(data, self._now_ms()):
                self._heard_ms = self._now_ms()
                self._take(event)
                if self._over or self._closing:
                    break
        except PowerCut:
            self._uplink.power_cut()
            return
        self._flush()

    def drained(self) -> None:
        try:
            self.pump()
        except PowerCut:
            self._uplink.power_cut()

    def closed(self, error: Exception | None) -> None:
        self._finish()

    # -- life

    def abandon(self) -> None:
        """No more words; the stream dies with the power."""
        self._over = True
        self._cancel_timer()
        if self._stream is not None:
            self._stream.abort()

    def pump(self) -> None:
        """Send what may be sent now."""
        session, plan, stream = self._session, self._plan, self._stream
        if self._over or self._closing or session is None or plan is None or stream is None or not session.established:
            return
        now_ms = self._now_ms()
        had_outstanding = plan.outstanding > 0
        observer = self._uplink.observer
        while session.established and stream.write_buffer_bytes() < WRITE_BUFFER_BYTES_MAX:
            item = plan.next_item(session.body_bytes_max)
            if item is None:
                break
            session.send(item.message)
            stream.write(session.take_output())
            self._sent_ms = now_ms
            counters = self._uplink.counters
            counters.frames_sent += 1
            if item.is_tombstone:
                counters.tombstones_sent += 1
                continue
            counters.records_sent += item.last - item.first + 1
            if observer is not None:
                terminal = self._terminal.secrets.terminal
                observer.sent(terminal, item.epoch, item.first, item.last, now_ms, live=item.live)
        if not had_outstanding:
            self._answered_ms = now_ms
        self._after_send()

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        self._cancel_timer()
        self._uplink.ended(self, self._delay_ms, stay=self._stays)

    def _close(self, why: str, delay_ms: int | None = None) -> None:
        """End this connection from our side; `closed` follows."""
        if self._closing or self._over:
            return
        self._closing = True
        self._delay_ms = delay_ms
        self._uplink.log("terminal_session_over", why=why)
        if self._stream is not None:
            self._stream.close()

    def _flush(self) -> None:
        session, stream = self._session, self._stream
        if session is None or stream is None or self._over:
            return
        output = session.take_output()
        if output:
            stream.write(output)
            self._sent_ms = self._now_ms()
        self._after_send()

    def _after_send(self) -> None:
        session = self._session
        if session is not None and session.closed:
            self._close(session.reason, self._delay_ms)

    def _send(self, message: bytes) -> None:
        session = self._session
        if session is not None and session.established:
            session.send(message)

    def _now_ms(self) -> int:
        return self._uplink.clock.monotonic_ms()

    # -- timers: the session's deadline, the heartbeat, the patience for an ACK

    def _arm(self) -> None:
        session = self._session
        if session is None or self._over:
            return
        due = [self._heartbeat_due_ms(), self._heard_ms + SILENCE_MS_MAX] if session.established else []
        deadline_ms = session.close_deadline_ms()
        if deadline_ms is not None:
            due.append(deadline_ms)
        if self._plan is not None and self._plan.outstanding:
            due.append(self._answered_ms + ACK_MS_MAX)
        if due:
            self._timer = self._uplink.clock.call_at(min(due), self._on_timer)

    def _on_timer(self) -> None:
        session, plan, now_ms = self._session, self._plan, self._now_ms()
        if session is None or self._over or self._closing:
            return
        session.tick(now_ms)
        if plan is not None and plan.outstanding and now_ms >= self._answered_ms + ACK_MS_MAX:
            self._close("no ACK")
            return
        if session.established and now_ms >= self._heard_ms + SILENCE_MS_MAX:
            self._close("front-end silent")
            return
        if session.established and now_ms >= self._heartbeat_due_ms():
            self._heartbeat()
        self._flush()
        self._arm()

    def _heartbeat_due_ms(self) -> int:
        """When nothing was sent for a while; a busy terminal too asks now and then whether its list is the newest."""
        return min(self._sent_ms + HEARTBEAT_MS, self._beat_ms + HEARTBEAT_MS_MAX)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- events

    def _take(self, event: Established | Refused | bytes) -> None:
        if isinstance(event, Established):
            self._log_in()
        elif isinstance(event, Refused):
            self._uplink.counters.refused += 1
            busy = event.code is RefuseCode.BUSY
            self._delay_ms = event.retry_after_s * 1000 if busy else REFUSED_MS
        else:
            try:
                self._obey(decode_down(event))
            except RemoteError as error:
                session = self._session
                assert session is not None
                session.fail(error)

    def _log_in(self) -> None:
        self._plan = UploadPlan(self._terminal, self._memory)
        self._uplink.in_log_in()
        self._send(self._baseline().encode())
        for state in self._terminal.lists.states():
            self._send(state.encode())
        self._heartbeat()
        self._cancel_timer()
        self._flush()
        self._arm()

    def _baseline(self) -> Baseline:
        memory, secrets = self._memory, self._terminal.secrets
        entries = []
        for epoch in sorted(memory.ring.epochs)[-BASELINE_ENTRIES_MAX:]:
            marks = memory.ring.epochs[epoch]
            first = marks.first_unacknowledged
            seal = memory.seal_before(epoch, first)
            while seal is None and first > 1:
                first -= 1  # offer known records again rather than state a seal that nobody can read any more
                seal = memory.seal_before(epoch, first)
            if seal is not None:
                entries.append(BaselineEntry(epoch, min(marks.oldest, first), first, marks.next, seal))
        rtc = self._terminal.rtc
        baseline = Baseline(self._terminal.boot_number, secrets.terminal, rtc.uptime_ds(), rtc.now_ms(), entries)
        baseline.seal = seal_baseline(secrets.sealing(), baseline.sealed_part())
        return baseline

    def _heartbeat(self) -> None:
        terminal, secrets = self._terminal, self._terminal.secrets
        marks = self._memory.ring.epochs[secrets.epoch]
        flags = 0
        if terminal.rtc.now_ms() == 0:
            flags |= CLOCK_NEVER_SET
        if terminal.memory_warning:
            flags |= MEMORY_80_PERCENT
        if terminal.memory_full:
            flags |= MEMORY_FULL
        if terminal.list_stale:
            flags |= LIST_STALE
        beat = Heartbeat(
            secrets.epoch,
            terminal.boot_number,
            terminal.rtc.uptime_ds(),
            terminal.rtc.now_ms(),
            marks.next,
            marks.first_unacknowledged,
            flags,
        )
        self._beat_ms = self._now_ms()
        self._send(beat.encode())

    def _obey(self, message: DownMessage) -> None:
        if isinstance(message, Ack):
            self._acknowledged(message)
        elif isinstance(message, ListOffer | ListChunk):
            self._list_part(message)
        elif isinstance(message, Time):
            self._set_time(message)
        elif isinstance(message, SealQuery):
            self._send(self._seal_answer(message).encode())
        elif isinstance(message, Recollect):
            assert self._plan is not None
            self._plan.recollect(message)
            self.pump()
        else:
            self._bye(message)

    def _acknowledged(self, ack: Ack) -> None:
        plan, uplink = self._plan, self._uplink
        assert plan is not None
        newly = plan.acknowledged(ack)
        uplink.counters.acks += 1
        uplink.in_upload()
        self._answered_ms = self._now_ms()
        if newly is not None and uplink.observer is not None:
            terminal = self._terminal.secrets.terminal
            uplink.observer.acknowledged(terminal, ack.epoch, *newly, self._now_ms())
        self.pump()

    def _list_part(self, message: ListOffer | ListChunk) -> None:
        deny_list = self._terminal.deny_list
        before = deny_list.memory.head
        for answer in self._terminal.lists.receive(message):
            self._send(answer.encode())
        observer = self._uplink.observer
        if deny_list.memory.head != before and observer is not None:
            version = deny_list.memory.version
            observer.list_applied(self._terminal.secrets.terminal, version, self._now_ms())

    def _set_time(self, message: Time) -> None:
        rtc = self._terminal.rtc
        age_ms = (rtc.uptime_ds() - message.uptime_ds) * 100
        if message.boot != self._terminal.boot_number or age_ms < 0:
            return  # of another boot, or of the future: no answer to us
        if message.deny_list_current:
            self._terminal.list_age.confirmed(message.uptime_ds)
        utc_ms = message.utc_ms + age_ms // 2  # half the round trip
        if abs(rtc.now_ms() - utc_ms) > RTC_TOLERANCE_MS:
            rtc.set_utc(utc_ms)

    def _seal_answer(self, query: SealQuery) -> SealAnswer:
        marks = self._memory.ring.epochs.get(query.epoch)
        if marks is None:
            status = SealStatus.OVERWRITTEN if query.epoch < self._terminal.secrets.epoch else SealStatus.NEVER_ISSUED
            return SealAnswer(status, query.epoch, query.sequence)
        if query.sequence >= marks.next:
            return SealAnswer(SealStatus.NEVER_ISSUED, query.epoch, query.sequence)
        try:
            seal = seal_of(self._memory.ring.read(query.epoch, query.sequence))
        except RecordGone:
            return SealAnswer(SealStatus.OVERWRITTEN, query.epoch, query.sequence)
        except SectorDead:
            return SealAnswer(SealStatus.UNREADABLE, query.epoch, query.sequence)
        return SealAnswer(SealStatus.HELD, query.epoch, query.sequence, seal)

    def _bye(self, bye: ByeDown) -> None:
        uplink = self._uplink
        if bye.code is ByeCode.FORKED:
            uplink.forked()
        if bye.code is ByeCode.TAKEN_OVER:
            uplink.counters.taken_over += 1
        self._stays = bye.code in _STAYS
        self._close(f"BYE {bye.code.name}", _BYE_DELAY_MS.get(bye.code))
