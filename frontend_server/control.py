"""The control socket: what is online, what is behind, what is alarming, and what to do. JSON, one object a line.

    {"verb": "status"}                                        counts, spool, link, lists, number of alarms
    {"verb": "sessions", "after": 0, "limit": 500}            one object per terminal, ascending; `next` goes on
    {"verb": "terminal", "terminal": 1001}                    everything known of one terminal, and what to do
    {"verb": "gaps", "after": [0, 0], "limit": 200}           sequences not held, of the next epochs; `next` goes on
    {"verb": "refused", "limit": 100}                         refused log-ins with the true reason, newest first
    {"verb": "alarms"}                                        standing alarms with what to do
    {"verb": "metrics"}                                       counters and histograms, also as Prometheus reads them
    {"verb": "echo"}                                          how long a question to the ledger and its answer take
    {"verb": "stop"}                                          answers, then stops the server

An answer is `{"ok": true, …}` or `{"ok": false, "error": "…"}`. The socket's mode (0600, directory 0700) is the access
control. Lines, clients and answers are bounded; a client that does not read its answers is cut off. An answer that
needs the spool comes later; the client's further lines wait for it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from frontend_server.settings import FrontendSettings
from frontend_server.timers import Deadline, TimerWheel
from protocol.ports import Listener, Network, Stream

SESSIONS_LIMIT_MAX: Final = 1_000  # about 250 KB of answer
REFUSED_LIMIT_MAX: Final = 1_000
UNREAD_BYTES_MAX: Final = 1 << 20  # answers a client may leave unread

Arguments = Mapping[str, Any]
Answer = dict[str, Any]
Reply = Callable[[Answer], None]
Later = Callable[[Reply], None]
"""Gives its answer, once, to the reply it is called with: at once or when the spool's thread has looked."""
Verb = Callable[[Arguments], Answer | Later]


class RequestError(ValueError):
    """The request cannot be answered; its text goes to the client."""


def number(arguments: Arguments, name: str, default: int, largest: int) -> int:
    """A whole number from 0 to `largest` out of a request."""
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise RequestError(f"{name} must be a whole number from 0 to {largest}")
    return value


class ControlServer:
    """Listens on the control socket and answers with the verbs it was given."""

    def __init__(
        self, *, settings: FrontendSettings, network: Network, wheel: TimerWheel, verbs: Mapping[str, Verb]
    ) -> None:
        self._settings = settings
        self._network = network
        self._wheel = wheel
        self._verbs = verbs
        self._clients: set[_Client] = set()
        self._listener: Listener | None = None

    def start(self) -> None:
        """Bind; raises OSError."""
        self._listener = self._network.listen(self._settings.control_address, self._accept)

    def close(self) -> None:
        """Take no more requests; what was answered still leaves. Idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            client.end()

    def _accept(self) -> _Client:
        return _Client(self)

    def admit(self, client: _Client) -> bool:
        if self._listener is None or len(self._clients) >= self._settings.control_clients_max:
            return False
        self._clients.add(client)
        return True

    def leave(self, client: _Client) -> None:
        self._clients.discard(client)

    def idle_deadline(self, callback: Callable[[], None]) -> Deadline:
        return self._wheel.after(self._settings.control_idle_ms, callback)

    def linger_deadline(self, callback: Callable[[], None]) -> Deadline:
        return self._wheel.after(self._settings.linger_ms, callback)

    @property
    def line_bytes_max(self) -> int:
        return self._settings.control_line_bytes_max

    def answer(self, line: bytes, reply: Reply) -> None:
        """Answer a request line, now or later; never raises for what a client sends."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            reply({"ok": False, "error": "not JSON"})
            return
        verb = request.get("verb") if isinstance(request, dict) else None
        if not isinstance(verb, str) or verb not in self._verbs:
            reply({"ok": False, "error": "verb must be one of " + ", ".join(self._verbs)})
            return
        try:
            answer = self._verbs[verb](request)
        except RequestError as error:
            reply({"ok": False, "error": str(error)})
            return
        if isinstance(answer, dict):
            reply({"ok": True, **answer})
        else:
            answer(lambda found: reply({"ok": True, **found}))


class _Client:
    """One connection to the control socket."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._stream: Stream | None = None
        self._line = b""
        self._lines: deque[bytes] = deque()
        """Whole lines that wait for the answer to one before; nothing is read meanwhile."""
        self._is_asked = False
        self._is_going = False
        self._idle: Deadline | None = None

    def connected(self, stream: Stream) -> None:
        if not self._server.admit(self):
            stream.write(_line({"ok": False, "error": "too many clients of the control socket"}))
            stream.close()
            return
        self._stream = stream
        self._idle = self._server.idle_deadline(self.end)

    def received(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._lines.extend(lines)
        self._go_on()
        if self._stream is not None and len(self._line) > self._server.line_bytes_max:
            self._too_long(stream)
        elif self._stream is not None and lines and self._idle is not None:
            self._idle.cancel()
            self._idle = self._server.idle_deadline(self.end)

    def _go_on(self) -> None:
        """Answer lines in order, as far as their answers are there."""
        if self._is_going:
            return
        self._is_going = True
        while self._lines and not self._is_asked and self._stream is not None:
            line = self._lines.popleft()
            if len(line) > self._server.line_bytes_max:
                self._too_long(self._stream)
                break
            self._is_asked = True
            self._server.answer(line, self._answered)
            if self._is_asked and self._stream is not None:
                self._stream.pause_reading()
        self._is_going = False

    def _answered(self, answer: Answer) -> None:
        self._is_asked = False
        stream = self._stream
        if stream is None:
            return
        stream.write(_line(answer))
        if stream.write_buffer_bytes() > UNREAD_BYTES_MAX:
            stream.abort()
            self._stream = None
            return
        stream.resume_reading()
        self._go_on()

    def _too_long(self, stream: Stream) -> None:
        stream.write(_line({"ok": False, "error": f"a line has at most {self._server.line_bytes_max} bytes"}))
        self.end()

    def drained(self) -> None:
        """Nothing waits for it."""

    def closed(self, error: Exception | None) -> None:
        self._stream = None
        self._line = b""
        if self._idle is not None:
            self._idle.cancel()
        self._server.leave(self)

    def end(self) -> None:
        """Close after what was answered; a client that does not read it loses its place all the same."""
        stream, self._stream = self._stream, None
        if stream is not None:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = self._server.linger_deadline(stream.abort)
            stream.close()


def _line(answer: Answer) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
