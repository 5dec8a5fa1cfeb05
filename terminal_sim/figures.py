"""Figures of a run, gathered while it happens: an `Observer` of every uplink that never influences one.

- ack_ms: record written → acknowledged, of live records: offered as live (made less than 2 s before), and acknowledged
  in the session in which they were written. What has waited for a network or a front-end is backlog, not latency.
- backlog: records written and not acknowledged, of the whole fleet.
- recovery: backlog at reconnection ÷ time to drain. An episode lasts from the first terminal that comes back with a
  backlog to the last such record acknowledged; reconnections less than 2 s apart are one episode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.ports import Clock

ACK_BINS: Final = 10_000  # of 1 ms; the last one holds everything slower
PENDING_MAX: Final = 512  # per terminal: more than can be live, so a backlog costs no memory
EPISODE_GAP_MS: Final = 2_000
EPISODES_MAX: Final = 1_000
LATE_MS: Final = 100  # a customer notices
SAMPLES_MAX: Final = 2_400  # ten minutes at 4 a second; then every second one is dropped, again and again

SessionNote = Callable[[int, bool], None]


class Histogram:
    """Whole milliseconds, exact up to ACK_BINS."""

    __slots__ = ("bins", "count", "max_ms", "total_ms")

    def __init__(self) -> None:
        self.bins = [0] * ACK_BINS
        self.count = 0
        self.total_ms = 0
        self.max_ms = 0

    def add(self, ms: int) -> None:
        ms = max(ms, 0)
        self.bins[ms if ms < ACK_BINS else -1] += 1
        self.count += 1
        self.total_ms += ms
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, percent: float) -> int | None:
        """The smallest ms that at least `percent` of all values do not exceed; None without values."""
        wanted = self.count * percent / 100
        seen = 0
        for ms, count in enumerate(self.bins):
            seen += count
            if count and seen >= wanted:
                return self.max_ms if ms == ACK_BINS - 1 else ms
        return None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `counts` has the bins that are not empty."""
        return {
            "count": self.count,
            "mean": round(self.total_ms / self.count, 2) if self.count else None,
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "max": self.max_ms if self.count else None,
            "counts": {str(ms): count for ms, count in enumerate(self.bins) if count},
        }


@dataclass(slots=True)
class Episode:
    """One recovery, in monotonic ms."""

    start_ms: int
    end_ms: int
    records: int = 0
    terminals: int = 0

    def as_dict(self, base_ms: int) -> dict[str, Any]:
        ms = max(1, self.end_ms - self.start_ms)
        return {
            "start_ms": self.start_ms - base_ms,
            "drain_ms": ms,
            "records": self.records,
            "terminals": self.terminals,
            "records_per_second": round(self.records * 1000 / ms),
        }


@dataclass(slots=True)
class _Track:
    """One terminal."""

    created: int = 0
    acknowledged: int = 0
    next: int = 1
    pending: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=PENDING_MAX))
    live_first: int = 1
    live_last: int = 0
    online_since_utc_ms: int | None = None
    drains_to: int = 0
    """Recovering until this sequence is acknowledged; 0: not recovering."""


class Figures:
    """One per run."""

    def __init__(self, clock: Clock, terminals: list[int], *, on_session: SessionNote | None = None) -> None:
        self._clock = clock
        self._tracks = {terminal: _Track() for terminal in terminals}
        self._on_session = on_session
        self.created = 0
        self.acknowledged_total = 0
        self.online_terminals = 0
        self.ack = Histogram()
        self.lateness = Histogram()
        self.late = 0
        self.lists_applied = 0
        self.episodes: list[Episode] = []
        self._draining = 0
        self.base_ms = clock.monotonic_ms()
        self.samples: list[tuple[int, ...]] = []
        """(ms, taps, sold, created, acknowledged, backlog, online, late)."""
        self._sample_every = 1
        self._sample_skipped = 0

    @property
    def backlog(self) -> int:
        return self.created - self.acknowledged_total

    def online_since_utc_ms(self, terminal: int) -> int | None:
        """Since when the terminal has had this authenticated session; None: it has none."""
        return self._tracks[terminal].online_since_utc_ms

    def booted(self, terminal: int, *, created: int, acknowledged: int, next_sequence: int) -> None:
        """What a terminal's memory says at boot: records that a boot itself wrote are not observed otherwise."""
        track = self._tracks[terminal]
        self.created += created - track.created
        self.acknowledged_total += acknowledged - track.acknowledged
        track.created, track.acknowledged, track.next = created, acknowledged, next_sequence

    def replaced(self, terminal: int) -> None:
        """Another device begins at sequence 1; what the old one made and sent stays counted."""
        track = self._tracks[terminal]
        track.created = track.acknowledged = track.drains_to = 0
        track.live_first, track.live_last = 1, 0
        track.pending.clear()

    def tapped(self, late_ms: int) -> None:
        """A planned tap has been made, so many ms after its moment."""
        self.lateness.add(late_ms)
        self.late += late_ms > LATE_MS

    def sample(self, taps: int, sold: int) -> None:
        """Add a point to the timeline."""
        self._sample_skipped += 1
        if self._sample_skipped < self._sample_every:
            return
        self._sample_skipped = 0
        at_ms = self._clock.monotonic_ms() - self.base_ms
        shown = self.created, self.acknowledged_total, self.backlog, self.online_terminals, self.late
        self.samples.append((at_ms, taps, sold, *shown))
        if len(self.samples) > SAMPLES_MAX:
            self.samples = self.samples[::2]
            self._sample_every *= 2

    # -- Observer

    def written(self, terminal: int, epoch: int, sequence: int, at_ms: int) -> None:
        track = self._tracks[terminal]
        track.created += 1
        track.next = sequence + 1
        self.created += 1
        if track.online_since_utc_ms is not None:
            track.pending.append((sequence, at_ms))

    def sent(self, terminal: int, epoch: int, first: int, last: int, at_ms: int, *, live: bool) -> None:
        track = self._tracks[terminal]
        if not live:
            if first <= track.live_last and track.live_first <= last:
                track.live_first, track.live_last = last + 1, last
        elif first == track.live_last + 1:
            track.live_last = last
        else:
            track.live_first, track.live_last = first, last

    def acknowledged(self, terminal: int, epoch: int, first: int, last: int, at_ms: int) -> None:
        track = self._tracks[terminal]
        track.acknowledged += last - first + 1
        self.acknowledged_total += last - first + 1
        pending = track.pending
        while pending and pending[0][0] <= last:
            sequence, written_ms = pending.popleft()
            if track.live_first <= sequence <= track.live_last:
                self.ack.add(at_ms - written_ms)
        if track.drains_to and last >= track.drains_to:
            self._drained(track, at_ms)

    def online(self, terminal: int, at_ms: int, *, is_online: bool) -> None:
        track = self._tracks[terminal]
        self.online_terminals += 1 if is_online else -1
        track.online_since_utc_ms = self._clock.now_ms() if is_online else None
        track.pending.clear()
        if self._on_session is not None:
            self._on_session(terminal, is_online)
        backlog = track.created - track.acknowledged
        if is_online and backlog > 0:
            self._reconnected(track, backlog, at_ms)
        elif not is_online and track.drains_to:
            self._drained(track, at_ms)  # it will count again when it comes back

    def list_applied(self, terminal: int, version: tuple[int, int], at_ms: int) -> None:
        self.lists_applied += 1

    # -- recovery

    def _reconnected(self, track: _Track, backlog: int, at_ms: int) -> None:
        last = self.episodes[-1] if self.episodes else None
        if last is None or (not self._draining and at_ms - last.end_ms > EPISODE_GAP_MS):
            if len(self.episodes) >= EPISODES_MAX:
                return
            last = Episode(at_ms, at_ms)
            self.episodes.append(last)
        last.records += backlog
        last.terminals += 1
        track.drains_to = track.next - 1
        self._draining += 1

    def _drained(self, track: _Track, at_ms: int) -> None:
        track.drains_to = 0
        self._draining -= 1
        self.episodes[-1].end_ms = at_ms

    def recovery_records_per_second(self) -> int | None:
        """Over all episodes; None if there was none."""
        records = sum(each.records for each in self.episodes)
        ms = sum(max(1, each.end_ms - each.start_ms) for each in self.episodes)
        return round(records * 1000 / ms) if records else None
