"""Why log-ins were refused: one identical answer on the wire, the true reason here (R35).

The ring is bounded, so that a flood of refusals costs no memory, and so are the lines that the log gets of them, so
that it costs no disk, which the spool needs; the counts per reason go on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

REFUSALS_KEPT: Final = 1000  # some minutes of a wrongly enrolled fleet; older ones are only counted
LOGGED_MAX: Final = 100  # lines in a window: 30 MB a day at the worst
LOGGED_WINDOW_MS: Final = 60_000


class Reason(Enum):
    """The true reason; the terminal is told none of them."""

    UNKNOWN_TERMINAL = "unknown terminal"
    WRONG_EPOCH = "wrong epoch"
    WRONG_SUITE = "wrong suite"
    WRONG_KEY_VERSION = "wrong key version"
    WRONG_CLASS = "wrong class"
    WRONG_KIND = "wrong kind"
    WRONG_PROOF = "wrong proof"
    NOT_WELCOME = "not welcome"
    """The HELLO names what version 1 takes from nobody: another role, medium, or a value that is never valid."""


WHAT_TO_DO: Final = {
    Reason.UNKNOWN_TERMINAL: "enrol the terminal, or find out who calls from that address",
    Reason.WRONG_EPOCH: "the terminal was re-enrolled or replaced: load its present enrolment into it",
    Reason.WRONG_SUITE: "the terminal offers another suite than it was enrolled with: enrol it again",
    Reason.WRONG_KEY_VERSION: "load the present link key version into the terminal",
    Reason.WRONG_CLASS: "the class does not match the registry: enrol the terminal again",
    Reason.WRONG_KIND: "the kind does not match the registry: enrol the terminal again",
    Reason.WRONG_PROOF: "the terminal has another key, or is not the one it says it is",
    Reason.NOT_WELCOME: "the peer is no terminal of this protocol version",
}


@dataclass(slots=True)
class Refusal:
    """One refused log-in; `terminal` and `epoch` are what the peer claimed, not what it proved."""

    at_ms: int
    address: str
    terminal: int
    epoch: int
    reason: Reason
    detail: str


class Refusals:
    """The newest refusals, and the count of each reason since start."""

    def __init__(self, *, kept: int = REFUSALS_KEPT) -> None:
        self._ring: deque[Refusal] = deque(maxlen=kept)
        self.counts: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self._window_ms = -LOGGED_WINDOW_MS
        self._logged = 0
        self._not_logged = 0

    def add(self, refusal: Refusal) -> None:
        self._ring.append(refusal)
        self.counts[refusal.reason] += 1

    def to_log(self, now_ms: int) -> int | None:
        """At monotonic `now_ms`: how many were kept from the log since its last line, or None: keep this one too."""
        if now_ms >= self._window_ms + LOGGED_WINDOW_MS:
            self._window_ms, self._logged = now_ms, 0
        if self._logged >= LOGGED_MAX:
            self._not_logged += 1
            return None
        self._logged += 1
        kept, self._not_logged = self._not_logged, 0
        return kept

    def newest(self, limit: int) -> list[Refusal]:
        """At most `limit`, newest first."""
        return [self._ring[-1 - index] for index in range(min(limit, len(self._ring)))]
