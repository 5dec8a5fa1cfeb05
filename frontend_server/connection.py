"""One TCP connection: handshake, deadlines, last words. What a terminal says after log-in is for `terminal`.

    connected ─▶ gate ─▶ handshake ─▶ registry ─▶ logged in ─▶ … ─▶ last words, linger ─▶ closed

A peer's bytes never raise out of here: a RemoteError ends the session with the words that its disposition asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from frontend_server.alarms import AlarmKind
from frontend_server.entrance import EARLY_BYTES_MAX
from frontend_server.gate import host_of
from frontend_server.parts import Parts
from frontend_server.refusals import Reason, Refusal
from frontend_server.sessions import LiveSession, TerminalStatus
from frontend_server.timers import Deadline
from protocol.codes import ByeCode, FrameKind, Medium, RefuseCode, ReportKind
from protocol.errors import RemoteError, TagError
from protocol.frame import encode_frame
from protocol.handshake import NONCE_BYTES, Hello, encode_refuse, suite_is_spoken
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.ports import Stream
from protocol.session import Established, Event, FrontEndSession, Refused, State

_CLOSED: Final = State.CLOSED
_ESTABLISHED: Final = State.ESTABLISHED
_REKEYED: Final = f"BYE {ByeCode.REKEY.name} sent"  # as `protocol.session` gives its reason


class Connection(LiveSession):
    """A StreamHandler; subclasses take the messages of a session that is established."""

    __slots__ = (
        "_deadline",
        "_early",
        "_host",
        "_idle_ms",
        "_is_heard",
        "_parts",
        "_reason",
        "_session",
        "_stream",
        "_unread_bytes",
        "_write_buffer_bytes_max",
        "status",
    )

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._session: FrontEndSession | None = None  # None: not admitted, or over
        self._stream: Stream | None = None
        self._deadline: Deadline | None = None
        self._early = b""  # said before the log-in, and not heard yet
        self._is_heard = False
        self._host = ""  # empty: the gate did not let it in
        self._reason: Reason | None = None
        self._idle_ms = parts.settings.idle_ms
        self._write_buffer_bytes_max = parts.settings.write_buffer_bytes_max
        self._unread_bytes = 0  # the most that can be queued: what was when last asked, and all written since
        self.status: TerminalStatus | None = None
        """Set when the session is established; stays when it is over."""

    # -- StreamHandler

    def connected(self, stream: Stream) -> None:
        parts = self._parts
        self._stream = stream
        host = host_of(stream.peer())
        if not parts.gate.enter(host):
            retry_after_s = parts.gate.retry_after_s(host, parts.clock.monotonic_ms())
            body = encode_refuse(RefuseCode.BUSY, retry_after_s)
            stream.write(encode_frame(FrameKind.REFUSE, body, medium=Medium.TCP, down=True))
            self._linger(stream)
            return
        self._host = host
        self._session = FrontEndSession(
            frontend=parts.settings.frontend,
            site=parts.settings.site,
            medium=Medium.TCP,
            body_bytes_max=BODY_BYTES_MAX_TCP,
            nonce=parts.random.random_bytes(NONCE_BYTES),
            find_key=self._find_key,
            now_ms=parts.clock.monotonic_ms(),
        )
        deadline_ms = self._session.close_deadline_ms()
        assert deadline_ms is not None
        self._deadline = parts.wheel.after(deadline_ms - parts.clock.monotonic_ms(), self._on_deadline)

    def received(self, data: bytes) -> None:
        session = self._session
        if session is None:
            return
        if self.status is None and not self._is_heard:
            self._put_by(data)
            return
        now_ms = self._parts.clock.monotonic_ms()
        message = session.receive_whole(data, now_ms)
        events: list[Event] = session.receive(data, now_ms) if message is None else [message]
        self._handle(session, self._in_turn(events))
        # Whole frames count, not bytes: whoever dribbles one byte a minute is not there.
        if self._session is session and self.status is not None and self._deadline is not None:
            if events:
                self._deadline.due_ms = now_ms + self._idle_ms
                self.status.last_heard_ms = now_ms
            else:
                self._half_a_frame(self._deadline, now_ms)
        self._settle()

    def _put_by(self, data: bytes) -> None:
        """Who has not logged in is heard in turn."""
        parts = self._parts
        if not self._early:
            parts.entrance.wait(self)
        self._early += data
        if len(self._early) > EARLY_BYTES_MAX:
            parts.metrics.protocol_errors += 1
            self.cut()

    def hear(self) -> None:
        """A Stranger's turn."""
        data, self._early = self._early, b""
        self._is_heard = True
        self.received(data)
        self._is_heard = False

    def _handle(self, session: FrontEndSession, events: Iterable[Event]) -> None:
        """What the session has made of the peer's bytes. `_settle` writes."""
        try:
            for event in events:
                if event.__class__ is bytes:
                    self._take(event)
                elif isinstance(event, Established):
                    self._log_in(event)
                elif isinstance(event, Refused):
                    self._log_refusal(event)
        except RemoteError as error:
            session.fail(error)

    def _half_a_frame(self, deadline: Deadline, now_ms: int) -> None:
        """A read that ended no frame: the rest has an absolute deadline, which further bytes do not move."""
        due_ms = now_ms + self._parts.settings.frame_ms_max
        if due_ms < deadline.due_ms:
            self._parts.wheel.sooner(deadline, due_ms)

    def drained(self) -> None:
        """Nothing waits for it: what is sent is bounded by `write_buffer_bytes_max`."""

    def closed(self, error: Exception | None) -> None:
        self._end_session()
        if self._early:
            self._parts.entrance.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._stream = None
        if self._host:
            self._parts.gate.leave(self._host, in_handshake=self.status is None)
            self._host = ""

    # -- for subclasses

    def _in_turn(self, events: list[Event]) -> list[Event]:
        """Those of `events` that are handled now; what is held back is handled later."""
        return events

    def _take(self, body: bytes) -> None:
        """One message of an established session; raises RemoteError for what must not be."""
        raise NotImplementedError

    def _logged_in(self, event: Established) -> None:
        """The registry and the proofs have agreed."""
        raise NotImplementedError

    def _ended(self) -> None:
        """The session is over, the connection not yet."""

    def _send(self, message: bytes) -> None:
        """Queue a message; nothing happens when the session is over. `_settle` writes."""
        session = self._session
        if session is not None and session.state is _ESTABLISHED:
            session.send(message)

    def _settle(self) -> None:
        """Write what is queued, and end what is closed."""
        session, stream = self._session, self._stream
        if session is None or stream is None:
            return
        data = session.take_output()
        if data:
            stream.write(data)
            self._unread_bytes += len(data)
            if self._unread_bytes > self._write_buffer_bytes_max and self._is_full(stream):
                self._parts.metrics.never_read += 1
                self._parts.log("connection.never_reads", address=stream.peer())
                self._end_session()
                stream.abort()
                return
        if session.state is _CLOSED:
            self._count_failure(session)
            self._end_session()
            self._linger(stream)

    def _is_full(self, stream: Stream) -> bool:
        """Whether more is queued than may be; asked only when so much was written since that it can be."""
        self._unread_bytes = stream.write_buffer_bytes()
        return self._unread_bytes > self._write_buffer_bytes_max

    def say_bye(self, code: ByeCode) -> None:
        if self._session is not None:
            self._session.bye(code)
            self._settle()

    def leave(self) -> None:
        """The server goes down: say so, in the words of the session's state."""
        session = self._session
        if session is not None and not session.established:
            session.refuse_busy(self._parts.settings.busy_retry_after_s)
            self._settle()
        self.say_bye(ByeCode.GOING_DOWN)

    def cut(self) -> None:
        self._end_session()
        if self._stream is not None:
            self._stream.abort()

    # -- inside

    def _find_key(self, hello: Hello) -> bytes | None:
        key, self._reason = self._parts.admission.find_key(hello)
        return None if self._reason is not None else key

    def _log_in(self, event: Established) -> None:
        parts, hello = self._parts, event.hello
        assert self._stream is not None
        parts.gate.established(self._host)
        parts.metrics.log_ins += 1
        address = self._stream.peer()
        status, displaced = parts.sessions.log_in(hello.terminal, self)
        self.status = status
        if displaced is not None:
            self._take_over(status, address)
            displaced.say_bye(ByeCode.TAKEN_OVER)
        status.online_since_ms = parts.clock.now_ms()
        status.address = address
        status.epoch = hello.epoch
        parts.log("terminal.online", terminal=hello.terminal, epoch=hello.epoch, address=address)
        self._logged_in(event)

    def _take_over(self, status: TerminalStatus, address: str) -> None:
        parts = self._parts
        parts.metrics.take_overs += 1
        both = parts.sessions.too_many_take_overs(status, status.address, address, parts.clock.monotonic_ms())
        if both is not None:
            text = f"more than {parts.settings.take_overs_max} take-overs in a minute, by {both[1]} from {both[0]}"
            parts.alarm(AlarmKind.TAKE_OVERS, str(status.terminal), text, ReportKind.TAKE_OVERS)

    def _log_refusal(self, event: Refused) -> None:
        """The wire was told nothing; the operator is told why."""
        parts, hello = self._parts, event.hello
        reason = self._reason
        if hello is not None and hello.unwelcome(Medium.TCP) is not None and reason is not Reason.UNKNOWN_TERMINAL:
            is_spoken = suite_is_spoken(hello.suite, Medium.TCP)
            reason = Reason.NOT_WELCOME if is_spoken else Reason.WRONG_SUITE
        if reason is None:
            reason = Reason.WRONG_PROOF
        parts.metrics.log_ins_refused += 1
        terminal, epoch = (hello.terminal, hello.epoch) if hello is not None else (0, 0)
        address = self._stream.peer() if self._stream is not None else ""
        parts.refusals.add(Refusal(parts.clock.now_ms(), address, terminal, epoch, reason, event.reason))
        not_logged = parts.refusals.to_log(parts.clock.monotonic_ms())
        if not_logged is not None:
            facts = {"terminal": terminal, "epoch": epoch, "address": address, "reason": reason.value}
            parts.log("terminal.refused", **facts, **({"not_logged": not_logged} if not_logged else {}))

    def _count_failure(self, session: FrontEndSession) -> None:
        metrics = self._parts.metrics
        if session.reason == _REKEYED:
            metrics.rekeys += 1
        if isinstance(session.failure, TagError):
            metrics.forgeries += 1
        elif session.failure is not None and self._reason is None:
            metrics.protocol_errors += 1
        if session.failure is not None and self.status is not None:
            self._parts.log("terminal.fault", terminal=self.status.terminal, reason=session.reason)

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            if self.status is not None:
                self._parts.log("terminal.offline", terminal=self.status.terminal, reason=session.reason or "lost")
                self._parts.sessions.log_out(self)
            self._ended()

    def _linger(self, stream: Stream) -> None:
        """Let the last words leave, but not for ever."""
        if self._deadline is not None:
            self._deadline.cancel()
        stream.close()
        self._deadline = self._parts.wheel.after(self._parts.settings.linger_ms, stream.abort)

    def _on_deadline(self) -> None:
        session, metrics = self._session, self._parts.metrics
        self._deadline = None
        if session is None:
            return
        now_ms = self._parts.clock.monotonic_ms()
        if session.established:
            due_ms = session.close_deadline_ms()
            if due_ms is not None and now_ms >= due_ms:
                session.tick(now_ms)
            else:
                if self.status is not None and now_ms < self.status.last_heard_ms + self._parts.settings.idle_ms:
                    metrics.frame_timeouts += 1
                else:
                    metrics.idle_timeouts += 1
                session.bye(ByeCode.IDLE)
        else:
            metrics.handshake_timeouts += 1
            session.tick(now_ms)
        self._settle()
