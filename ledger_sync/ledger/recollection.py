"""Re-collection (补采, R9): the ledger looks for its gaps and asks for them through the front-ends that are connected.

    LINK_HELLO ─▶ look (slices on the executor) ─▶ requests that are due ─▶ look again after LOOK_MS, while anyone is up

A gap is asked for when it has stood unchanged for GAP_AGE_MS, since what is under way comes by itself, and then again
after waits that double up to ASK_AGAIN_MS_MAX. The front-end that has the terminal passes it on, all others drop it;
the terminal offers the records again or tombstones for them (docs/protocol.md §6.2). A gap that nobody can fill stays
an open item of the report: nothing here changes the books.

What is not asked for: sequences with a tombstone or in quarantine, for a terminal would answer the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import apsw

from ledger_sync.ledger.core import Ledger
from protocol.intervals import Intervals
from protocol.link_messages import RecollectRequest
from protocol.ports import Clock, Log

T = TypeVar("T")

LOOK_MS: Final = 15_000
LOOK_SHARE: Final = 20  # looking takes at most a twentieth of the time, however large the ledger is
GAP_AGE_MS: Final = 30_000
ASK_AGAIN_MS: Final = 60_000
ASK_AGAIN_MS_MAX: Final = 3_600_000  # a terminal that was away for days is asked within the hour
REQUESTS_PER_LOOK_MAX: Final = 64
REQUESTS_PER_EPOCH_MAX: Final = 8  # half of what a terminal keeps waiting
EPOCHS_PER_SLICE_MAX: Final = 256
GAPS_PER_EPOCH_MAX: Final = 1_024  # the lowest; the others when those have come
GAPS_FOLLOWED_MAX: Final = 65_536

Gap = tuple[int, int, int, int]
"""(terminal, epoch, first, last)"""

_HOLES: Final = """
SELECT before + 1, sequence - 1 FROM (
    SELECT sequence, coalesce(lag(sequence) OVER (ORDER BY sequence), ?3) AS before
    FROM postings WHERE terminal = ?1 AND epoch = ?2 AND sequence > ?3
) WHERE sequence > before + 1 ORDER BY 1 LIMIT ?4
"""


class GapFinder:
    """Finds gaps slice by slice, on the executor; goes over what came since it last found an epoch complete."""

    def __init__(self) -> None:
        self._complete_to: dict[int, int] = {}
        self._generation = 0

    def look(self, ledger: Ledger, after_id: int) -> tuple[list[Gap], int | None]:
        """Gaps of the next epochs of the register, and what to look after next; None: that was the last slice."""
        if ledger.generation != self._generation:
            self._complete_to.clear()
            self._generation = ledger.generation
        rows: list[tuple[Any, ...]] = ledger.connection.execute(
            "SELECT id, terminal, epoch, highest, next_known FROM terminals WHERE id > ? ORDER BY id LIMIT ?",
            (after_id, EPOCHS_PER_SLICE_MAX),
        ).fetchall()
        gaps: list[Gap] = []
        for key, terminal, epoch, highest, next_known in rows:
            before = self._complete_to.get(key, 0)
            if max(highest, next_known - 1) <= before:
                continue
            found = list(self._epoch(ledger.connection, terminal, epoch, before, highest, next_known))
            self._complete_to[key] = found[0][0] - 1 if found else max(highest, before)
            gaps += [(terminal, epoch, first, last) for first, last in found]
        return gaps, rows[-1][0] if len(rows) == EPOCHS_PER_SLICE_MAX else None

    @staticmethod
    def _epoch(
        connection: apsw.Connection, terminal: int, epoch: int, before: int, highest: int, next_known: int
    ) -> Iterator[tuple[int, int]]:
        holes = Intervals(connection.execute(_HOLES, (terminal, epoch, before, GAPS_PER_EPOCH_MAX)))
        after = max(highest, before)
        if next_known > after + 1:
            holes.add(after + 1, next_known - 1)
        if len(holes):
            for first, last in connection.execute(
                "SELECT first, last FROM tombstones WHERE terminal = ? AND epoch = ?"
                " UNION ALL SELECT sequence, last_sequence FROM quarantine WHERE terminal = ? AND epoch = ?"
                " AND resolved_position IS NULL AND last_sequence >= sequence",
                (terminal, epoch, terminal, epoch),
            ):
                holes.remove(first, last)
        return iter(holes)


@dataclass(slots=True)
class _Followed:
    """One gap: when it is asked for next (monotonic) and how long after that."""

    due_ms: int
    wait_ms: int = ASK_AGAIN_MS


class FollowedGaps:
    """Which gaps to ask for now. Pure; times are monotonic."""

    def __init__(self) -> None:
        self._gaps: dict[Gap, _Followed] = {}

    def __len__(self) -> int:
        return len(self._gaps)

    def let_settle(self, now_ms: int) -> None:
        """Front-ends were away: what they still have comes by itself first."""
        for one in self._gaps.values():
            one.due_ms = max(one.due_ms, now_ms + GAP_AGE_MS)

    def looked(self, gaps: list[Gap], now_ms: int) -> list[RecollectRequest]:
        """All gaps of this moment; what is to be asked for, longest due first. A gap that has changed is a new one."""
        held = self._gaps
        self._gaps = {gap: held.get(gap) or _Followed(now_ms + GAP_AGE_MS) for gap in gaps[:GAPS_FOLLOWED_MAX]}
        due = sorted((one.due_ms, gap) for gap, one in self._gaps.items() if one.due_ms <= now_ms)
        requests: list[RecollectRequest] = []
        of_epoch: dict[tuple[int, int], int] = {}
        for _, gap in due:
            key = gap[:2]
            if len(requests) >= REQUESTS_PER_LOOK_MAX:
                break
            if of_epoch.get(key, 0) >= REQUESTS_PER_EPOCH_MAX:
                continue
            of_epoch[key] = of_epoch.get(key, 0) + 1
            one = self._gaps[gap]
            one.due_ms = now_ms + one.wait_ms
            one.wait_ms = min(2 * one.wait_ms, ASK_AGAIN_MS_MAX)
            requests.append(RecollectRequest(*gap))
        return requests


class OnLedger(Protocol):
    """Runs work on the ledger's executor, and `done` on the callbacks' thread."""

    def __call__(
        self, work: Callable[[Ledger], T], done: Callable[[T | None, BaseException | None], None], /
    ) -> None: ...


class Recollector:
    """Looks while it is wanted. Every method runs on the callbacks' thread."""

    def __init__(
        self, *, clock: Clock, on_ledger: OnLedger, ask: Callable[[list[RecollectRequest]], bool], log: Log
    ) -> None:
        """`ask` sends requests to whoever is connected; False: nobody is, and looking stops until `wake`."""
        self._clock = clock
        self._on_ledger = on_ledger
        self._ask = ask
        self._log = log
        self._finder = GapFinder()
        self._followed = FollowedGaps()
        self._found: list[Gap] = []
        self._began_ms = 0
        self._is_awake = False

    def wake(self) -> None:
        """A front-end has come: look now, unless that is going on already."""
        if not self._is_awake:
            self._is_awake = True
            self._followed.let_settle(self._clock.monotonic_ms())
            self._look()

    def _look(self) -> None:
        if not self._ask([]):
            self._is_awake = False
            return
        self._found = []
        self._began_ms = self._clock.monotonic_ms()
        self._slice(0)

    def _slice(self, after_id: int) -> None:
        def looked(done: tuple[list[Gap], int | None] | None, error: BaseException | None) -> None:
            if done is None:
                self._log("ledger.gaps_not_looked_for", error=str(error))
                self._again()
                return
            gaps, next_id = done
            self._found += gaps[: GAPS_FOLLOWED_MAX - len(self._found)]
            if next_id is not None:
                self._slice(next_id)
                return
            requests = self._followed.looked(self._found, self._clock.monotonic_ms())
            if requests and self._ask(requests):
                self._log("ledger.recollects", requests=len(requests), gaps=len(self._followed))
            self._again()

        self._on_ledger(lambda ledger: self._finder.look(ledger, after_id), looked)

    def _again(self) -> None:
        now_ms = self._clock.monotonic_ms()
        delay_ms = max(LOOK_MS, LOOK_SHARE * (now_ms - self._began_ms))
        self._clock.call_at(now_ms + delay_ms, self._look)
