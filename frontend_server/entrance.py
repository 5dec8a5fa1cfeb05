"""Who has not logged in waits his turn: some handshakes at a time, and whoever is logged in is served between.

A handshake step costs as much as several sales, and a read may bring hundreds of them at once: after a power failure,
or from somebody who does nothing else. So what strangers say is put by, in the order in which it came, and taken up a
few at a time; the loop looks at everybody else's sockets before it goes on. The front-end logs in as many a second as
before; it only does not do so in one piece.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from protocol.ports import Clock

STRANGERS_A_TURN: Final = 16  # some 2 ms
EARLY_BYTES_MAX: Final = 16_384  # unheard; a log-in has said 80 bytes before it must wait for an answer


class Stranger(Protocol):
    """A connection that has not logged in."""

    def hear(self) -> None:
        """It is your turn."""


class Entrance:
    """One per server; holds those who wait, each once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: OrderedDict[Stranger, None] = OrderedDict()
        self._is_called = False

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, stranger: Stranger) -> None:
        """`stranger.hear` follows soon, unless it leaves."""
        self._waiting[stranger] = None
        if not self._is_called:
            self._call()

    def leave(self, stranger: Stranger) -> None:
        """It is gone, or need not wait; idempotent."""
        self._waiting.pop(stranger, None)

    def _call(self) -> None:
        self._is_called = True
        self._clock.call_at(self._clock.monotonic_ms(), self._turn)

    def _turn(self) -> None:
        self._is_called = False
        for _ in range(min(STRANGERS_A_TURN, len(self._waiting))):
            if not self._waiting:
                break
            self._waiting.popitem(last=False)[0].hear()
        if self._waiting and not self._is_called:
            self._call()
