"""Questions to the ledger that somebody waits for: correlated, expiring, bounded; without I/O but a clock's timers.

An answer counts only if it is of a question that still waits, says the same kind and expiry, and comes in time; all
else is dropped and counted. When the connection ends nobody waits any longer: whoever asked decides what that means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.link_messages import Answer, Request
from protocol.link_requests import CORRELATION_BYTES
from protocol.ports import Clock, Random, Timer

WAITING_MAX: Final = 256  # a tap on every second terminal of a large site at once

Answered = Callable[[Answer | None], None]
"""None: no answer in time, or no connection."""


@dataclass(slots=True)
class _Waiting:
    request: Request
    answered: Answered
    timer: Timer


class Requests:
    """Args: send: puts a message on the wire; whether there is one."""

    def __init__(self, *, clock: Clock, random: Random, send: Callable[[Request], bool]) -> None:
        self._clock = clock
        self._random = random
        self._send = send
        self._waiting: dict[bytes, _Waiting] = {}
        self.asked = 0
        self.expired = 0
        self.dropped = 0
        """Answers that nobody waited for, or not any more."""

    def ask(self, kind: int, body: bytes, *, within_ms: int, answered: Answered) -> None:
        """Ask once; `answered` follows later, exactly once. Raises nothing: too many at once are answered None."""
        correlation = self._random.random_bytes(CORRELATION_BYTES)
        request = Request(correlation, self._clock.now_ms() + within_ms, kind, body)
        now_ms = self._clock.monotonic_ms()
        if len(self._waiting) >= WAITING_MAX or not self._send(request):
            self._clock.call_at(now_ms, lambda: answered(None))
            return
        self.asked += 1
        timer = self._clock.call_at(now_ms + within_ms, lambda: self._expire(correlation))
        self._waiting[correlation] = _Waiting(request, answered, timer)

    def answer(self, answer: Answer) -> None:
        """A verified ANSWER came."""
        waiting = self._waiting.get(answer.correlation)
        if waiting is None or (answer.kind, answer.expires_ms) != (waiting.request.kind, waiting.request.expires_ms):
            self.dropped += 1
            return
        del self._waiting[answer.correlation]
        waiting.timer.cancel()
        waiting.answered(answer)

    def forget(self) -> None:
        """The connection has ended."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.timer.cancel()
            one.answered(None)

    def _expire(self, correlation: bytes) -> None:
        waiting = self._waiting.pop(correlation, None)
        if waiting is not None:
            self.expired += 1
            waiting.answered(None)
