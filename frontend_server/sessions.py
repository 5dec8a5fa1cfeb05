"""Who is logged in, and what is known of every terminal that was (R13).

One `TerminalStatus` per enrolled terminal that has ever logged in since start: bounded by the registry. The connection
writes into it while it lives; it stays when the connection goes, so that an operator sees what is behind, since when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from protocol.codes import ByeCode, ListKind
from protocol.list_transfer import ListVersion
from protocol.signed import NO_VERSION, Version

TAKE_OVERS_KEPT: Final = 8  # more than are needed to see "too many"


class LiveSession(Protocol):
    """A connection, as far as others than itself are concerned."""

    __slots__ = ()

    status: TerminalStatus | None

    def say_bye(self, code: ByeCode) -> None:
        """End the session with a reason; idempotent."""

    def cut(self) -> None:
        """End the connection now, without a word."""

    def offer(self, version: ListVersion) -> None:
        """A new list version is held: bring the terminal to it."""

    def recollect(self, epoch: int, first: int, last: int) -> None:
        """The ledger misses these records: ask the terminal for them."""

    def settling(self, epoch: int) -> int | None:
        """First unacknowledged sequence of an epoch that this session has opened, else None."""

    def settled(self, epoch: int, settled: int) -> None:
        """Receipts have come up to there: tell the terminal."""


class TerminalStatus:
    """What is known of one terminal; times are UTC milliseconds but for `last_heard_ms`, which is monotonic."""

    __slots__ = (
        "address",
        "boot",
        "clock_ahead_ms",
        "documents",
        "durable",
        "epoch",
        "first_unacknowledged",
        "flags",
        "heartbeats",
        "last_heard_ms",
        "list_version",
        "live",
        "next",
        "online_since_ms",
        "settled",
        "suspect_epoch",
        "take_overs",
        "terminal",
    )

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.live: LiveSession | None = None
        self.online_since_ms = 0
        self.last_heard_ms = 0
        self.address = ""
        self.epoch = 0
        self.durable = 0
        self.settled = 0
        self.next = 1
        """Sequence that the terminal's next record will get, as far as it has said."""
        self.first_unacknowledged = 1
        """Of its own epoch, as it has said last."""
        self.boot = 0
        self.clock_ahead_ms: int | None = None
        """Its clock less ours at its last word; None: it has no time, or has not said."""
        self.heartbeats = 0
        """Of this session: from the second on, its clock has had our time."""
        self.flags = 0
        """Of its last HEARTBEAT."""
        self.list_version: Version = NO_VERSION
        """Deny list that it reported to hold."""
        self.documents: tuple[tuple[int, Version], ...] = ()
        """(list kind, version) of the parameters and permissions that it reported to hold."""
        self.suspect_epoch = 0
        """Epoch in which its chain was found to differ; 0: never."""
        self.take_overs: deque[tuple[int, str]] | None = None
        """(monotonic ms, address) of the newest; None for the many that never had one."""

    def note_list(self, kind: int, version: Version) -> None:
        """It has reported to hold that version."""
        if kind == ListKind.DENY:
            self.list_version = version
        else:
            self.documents = (*(one for one in self.documents if one[0] != kind), (kind, version))

    def held_list(self, kind: int) -> Version:
        """What it reported to hold; (0, 0) when none, or when it has not spoken of that kind."""
        if kind == ListKind.DENY:
            return self.list_version
        return next((version for of_kind, version in self.documents if of_kind == kind), NO_VERSION)

    @property
    def backlog(self) -> int:
        """Records that the terminal has and this front-end has not."""
        return max(0, self.next - 1 - self.durable)


class Sessions:
    """Live sessions by terminal; the newest authenticated one wins."""

    def __init__(self, *, take_overs_max: int, take_over_window_ms: int) -> None:
        self._take_overs_max = take_overs_max
        self._window_ms = take_over_window_ms
        self._statuses: dict[int, TerminalStatus] = {}
        self.online = 0

    def __iter__(self) -> Iterator[LiveSession]:
        """Live sessions at this moment; the list is a copy, the caller may log sessions out meanwhile."""
        return iter([status.live for status in self._statuses.values() if status.live is not None])

    def live(self, terminal: int) -> LiveSession | None:
        status = self._statuses.get(terminal)
        return status.live if status is not None else None

    def status(self, terminal: int) -> TerminalStatus | None:
        """None: not seen since start."""
        return self._statuses.get(terminal)

    def statuses(self) -> list[TerminalStatus]:
        """Of every terminal seen since start, ascending."""
        return [self._statuses[terminal] for terminal in sorted(self._statuses)]

    def log_in(self, terminal: int, session: LiveSession) -> tuple[TerminalStatus, LiveSession | None]:
        """The terminal's status, and the session that `session` has displaced, if any."""
        status = self._statuses.get(terminal)
        if status is None:
            status = self._statuses[terminal] = TerminalStatus(terminal)
        displaced, status.live = status.live, session
        if displaced is None:
            self.online += 1
        return status, displaced

    def log_out(self, session: LiveSession) -> None:
        """Forget a session unless a newer one has its place already; idempotent."""
        status = session.status
        if status is not None and status.live is session:
            status.live = None
            self.online -= 1

    def too_many_take_overs(self, status: TerminalStatus, old: str, new: str, now_ms: int) -> tuple[str, str] | None:
        """Note a take-over at monotonic `now_ms`; both addresses when there were more than allowed in the window."""
        if status.take_overs is None:
            status.take_overs = deque(maxlen=max(TAKE_OVERS_KEPT, self._take_overs_max + 1))
        recent = status.take_overs
        recent.append((now_ms, new))
        while recent[0][0] <= now_ms - self._window_ms:
            recent.popleft()
        return (old, new) if len(recent) > self._take_overs_max else None
