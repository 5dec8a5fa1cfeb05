"""One conversation over a broker: the `Stream` that forwarder and ledger know, cut into published messages. Sans-IO.

    write:    length-prefixed link messages ─▶ one publish each, with conversation and counter in front
    arrive:   a published message ─▶ the length is put back ─▶ handler.received

The bytes that the broker has not acknowledged are the write buffer: a writer that watches it is slowed by the broker.
A counter that comes again is a duplicate and is dropped; one that is ahead means that something was lost or overtaken,
and ends the conversation at once: nobody waits for a receipt, or believes in a list, that the broker has lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from ledger_sync.link.mqtt_topics import COUNTER_MAX, PREFIX
from protocol.link_envelope import LENGTH_BYTES, LinkDecoder
from protocol.ports import StreamHandler

DRAINED_ABOVE_BYTES: Final = 256 * 1024  # `drained` follows when so much was unacknowledged and nothing is any more
PAUSED_BYTES_MAX: Final = 4 << 20  # two of the longest link messages: a broker cannot be told to wait


class ConversationLost(ConnectionError):
    """The broker lost, repeated out of order or held back something, or an end of the link is gone."""


class Carrier(Protocol):
    """The side of the link that a conversation runs on."""

    def carry(self, conversation: Conversation, payload: bytes, done: Callable[[], None]) -> None:
        """Publish to the peer of that conversation; may end the session when too much is unacknowledged."""

    def later(self, callback: Callable[[], None]) -> None:
        """Run it among the callbacks, not at once."""

    def ended(self, conversation: Conversation) -> None:
        """It is over; forget it."""


class Conversation:
    """`Stream` for one `StreamHandler`."""

    def __init__(self, carrier: Carrier, identity: bytes, handler: StreamHandler, *, frontend: int, peer: str) -> None:
        self._carrier = carrier
        self._handler = handler
        self._decoder = LinkDecoder()
        self._peer = peer
        self._sent = 0
        self._expected = 0
        self._unacknowledged_bytes = 0
        self._was_large = False
        self._is_paused = False
        self._paused: deque[bytes] = deque()
        self._paused_bytes = 0
        self.identity = identity
        self.frontend = frontend
        self.is_over = False
        self.duplicates = 0
        self.heard_at_ms = 0
        """Monotonic; kept by the carrier."""

    # -- Stream

    def write(self, data: bytes) -> None:
        if self.is_over or not data:
            return
        self._decoder.receive_data(data)
        for payload in self._decoder.payloads():
            self._publish(payload)

    def write_buffer_bytes(self) -> int:
        return self._unacknowledged_bytes

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._carrier.later(self._give)

    def close(self) -> None:
        self.end(None)

    def abort(self) -> None:
        self.end(None)

    def peer(self) -> str:
        return self._peer

    # -- for the carrier

    def begin(self) -> None:
        self._handler.connected(self)

    def arrive(self, counter: int, payload: bytes) -> None:
        """Take one message of the peer."""
        if self.is_over:
            return
        if counter < self._expected:
            self.duplicates += 1
            return
        if counter > self._expected:
            self.end(ConversationLost(f"message {counter} came where {self._expected} was due"))
            return
        self._expected += 1
        if not payload:
            self.end(None, tell_peer=False)
            return
        self._paused.append(payload)
        self._paused_bytes += len(payload)
        if self._is_paused and self._paused_bytes > PAUSED_BYTES_MAX:
            self.end(ConversationLost("the peer goes on talking to somebody who does not listen"))
            return
        self._give()

    def end(self, error: Exception | None, *, tell_peer: bool = True) -> None:
        """Over, for whatever reason; the handler is told soon, the peer by an empty message. Idempotent."""
        if self.is_over:
            return
        if tell_peer:
            self._publish(b"")
        self.is_over = True
        self._paused.clear()
        self._carrier.ended(self)
        self._carrier.later(lambda: self._handler.closed(error))

    # -- inside

    def _publish(self, payload: bytes) -> None:
        if self.is_over:  # publishing may find that the session must end
            return
        if self._sent > COUNTER_MAX:
            self._sent = 0  # the peer sees a hole and ends it
        message = PREFIX.pack(self.identity, self._sent) + payload
        self._sent += 1
        size = len(message)
        self._unacknowledged_bytes += size
        self._was_large |= self._unacknowledged_bytes > DRAINED_ABOVE_BYTES

        def done() -> None:
            self._unacknowledged_bytes -= size
            if self._was_large and self._unacknowledged_bytes == 0 and not self.is_over:
                self._was_large = False
                self._handler.drained()

        self._carrier.carry(self, message, done)

    def _give(self) -> None:
        while self._paused and not self._is_paused and not self.is_over:
            payload = self._paused.popleft()
            self._paused_bytes -= len(payload)
            self._handler.received(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)
