"""The control socket: what is online, what is behind, what is alarming, and what to do. JSON, one object a line.

    {"verb": "status"}                                        counts, spool, link, lists, number of alarms
    {"verb": "sessions", "after": 0, "limit": 500}            one object per terminal, ascending; `next` goes on
    {"verb": "refused", "limit": 100}                         refused log-ins with the true reason, newest first
    {"verb": "alarms"}                                        standing alarms with what to do
    {"verb": "stop"}                                          answers, then stops the server

An answer is `{"ok": true, …}` or `{"ok": false, "error": "…"}`. The socket's mode (0600, directory 0700) is the access
control. Lines, clients and answers are bounded; a client that does not read its answers is cut off.
"""

from __future__ import annotations

import json
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
Verb = Callable[[Arguments], Answer]


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

    def answer(self, line: bytes) -> Answer:
        """What a request line is answered with; never raises for what a client sends."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not JSON"}
        verb = request.get("verb") if isinstance(request, dict) else None
        if not isinstance(verb, str) or verb not in self._verbs:
            return {"ok": False, "error": "verb must be one of " + ", ".join(self._verbs)}
        try:
            return {"ok": True, **self._verbs[verb](request)}
        except RequestError as error:
            return {"ok": False, "error": str(error)}


class _Client:
    """One connection to the control socket."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._stream: Stream | None = None
        self._line = b""
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
        for line in lines:
            if len(line) > self._server.line_bytes_max:
                break
            stream.write(_line(self._server.answer(line)))
            if stream.write_buffer_bytes() > UNREAD_BYTES_MAX:
                stream.abort()
                return
        if max(map(len, (*lines, self._line))) > self._server.line_bytes_max:
            stream.write(_line({"ok": False, "error": f"a line has at most {self._server.line_bytes_max} bytes"}))
            self.end()
        elif lines and self._idle is not None:
            self._idle.cancel()
            self._idle = self._server.idle_deadline(self.end)

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
