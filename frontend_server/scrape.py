"""Metrics over HTTP on a loopback address, for Prometheus; off unless the site file names an address.

One GET a connection: `/metrics` gives the text, anything else 404, another method 405, what is no request 400; then it
closes. No header matters, no body is read. Clients, the request and its time are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from frontend_server.timers import Deadline, TimerWheel
from protocol.ports import Listener, Network, Stream

CLIENTS_MAX: Final = 4  # a scraper or two, and a person
REQUEST_BYTES_MAX: Final = 8_192
REQUEST_MS_MAX: Final = 5_000  # from connection to the end of the answer
PATH: Final = b"/metrics"

_END: Final = b"\r\n\r\n"


def is_loopback(address: str) -> bool:
    """Whether `host:port` can only be reached from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class MetricsListener:
    """Answers scrapes with what `render` returns."""

    def __init__(self, *, network: Network, wheel: TimerWheel, content_type: str, render: Callable[[], str]) -> None:
        self._network = network
        self._wheel = wheel
        self._content_type = content_type
        self._render = render
        self._clients: set[_Scrape] = set()
        self._listener: Listener | None = None

    def start(self, address: str) -> None:
        """Bind; raises OSError."""
        self._listener = self._network.listen(address, lambda: _Scrape(self))

    def address(self) -> str:
        """Where it listens; empty when it does not."""
        return self._listener.address() if self._listener is not None else ""

    def close(self) -> None:
        """Idempotent; who is being answered is cut off."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            client.cut()

    def admit(self, client: _Scrape) -> bool:
        if self._listener is None or len(self._clients) >= CLIENTS_MAX:
            return False
        self._clients.add(client)
        return True

    def leave(self, client: _Scrape) -> None:
        self._clients.discard(client)

    def deadline(self, callback: Callable[[], None]) -> Deadline:
        return self._wheel.after(REQUEST_MS_MAX, callback)

    def answer(self, head: bytes) -> bytes:
        """The whole response to a request's head."""
        method, path, version = [*head.partition(b"\r\n")[0].split(b" "), b"", b"", b""][:3]
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", "text/plain", "not an HTTP/1 request\n")
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", "text/plain", "GET only\n")
        if path.partition(b"?")[0] != PATH:
            return _response("404 Not Found", "text/plain", "only /metrics is here\n")
        response = _response("200 OK", self._content_type, self._render())
        return response if method == b"GET" else response[: response.index(_END) + len(_END)]


def _response(status: str, content_type: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class _Scrape:
    """One connection: a StreamHandler."""

    def __init__(self, owner: MetricsListener) -> None:
        self._owner = owner
        self._stream: Stream | None = None
        self._head = b""
        self._is_answered = False
        self._deadline: Deadline | None = None

    def connected(self, stream: Stream) -> None:
        if not self._owner.admit(self):
            stream.abort()
            return
        self._stream = stream
        self._deadline = self._owner.deadline(self.cut)

    def received(self, data: bytes) -> None:
        stream = self._stream
        if stream is None or self._is_answered:
            return
        self._head += data
        if _END in self._head:
            response = self._owner.answer(self._head)
        elif len(self._head) > REQUEST_BYTES_MAX:
            response = _response("400 Bad Request", "text/plain", "too long\n")
        else:
            return
        self._is_answered = True
        self._head = b""
        stream.write(response)
        stream.close()

    def drained(self) -> None:
        """It closes by itself."""

    def closed(self, error: Exception | None) -> None:
        self._stream = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.leave(self)

    def cut(self) -> None:
        if self._stream is not None:
            self._stream.abort()
