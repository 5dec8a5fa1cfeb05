"""One timer wheel for every deadline of the server: a connection costs no timer of the loop.

A deadline that moves later, as an idle deadline does with every frame, costs one attribute: it stays in its bucket and
is put into the right one when that bucket comes up. The wheel asks the clock for one call at a time, at its next
bucket. A deadline runs at or after its moment, by at most one tick.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from protocol.ports import Clock, Timer

TICK_MS: Final = 100  # deadlines here are seconds long; a finer tick would only wake the loop more often


class Deadline:
    """A moment and what happens then; owned by whoever asked for it."""

    __slots__ = ("callback", "due_ms", "tick")

    def __init__(self, due_ms: int, callback: Callable[[], None] | None) -> None:
        self.due_ms = due_ms
        """Monotonic; may be raised freely, lowered only through `TimerWheel.sooner`."""
        self.callback = callback
        self.tick = 0

    def cancel(self) -> None:
        """Never run; idempotent, and harmless after it has run."""
        self.callback = None


class TimerWheel:
    """Deadlines in buckets of one tick; bounded by the number of their owners."""

    def __init__(self, clock: Clock, *, tick_ms: int = TICK_MS) -> None:
        self._clock = clock
        self._tick_ms = tick_ms
        self._buckets: dict[int, list[Deadline]] = {}
        self._ticks: list[int] = []
        self._timer: Timer | None = None
        self._armed_tick = 0

    def __len__(self) -> int:
        """Entries held, cancelled ones included until their bucket comes up."""
        return sum(len(bucket) for bucket in self._buckets.values())

    def after(self, delay_ms: int, callback: Callable[[], None]) -> Deadline:
        """Run `callback` once, `delay_ms` from now or up to one tick later."""
        deadline = Deadline(self._clock.monotonic_ms() + delay_ms, callback)
        self._put(deadline)
        self._arm()
        return deadline

    def sooner(self, deadline: Deadline, due_ms: int) -> None:
        """Move a deadline that has not run to an earlier moment."""
        deadline.due_ms = due_ms
        if self._tick_of(due_ms) < deadline.tick and deadline.callback is not None:
            self._put(deadline)  # its old entry is recognised by its tick and dropped
            self._arm()

    def close(self) -> None:
        """Forget every deadline; none runs any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._ticks.clear()

    def _tick_of(self, due_ms: int) -> int:
        return -(-due_ms // self._tick_ms)

    def _put(self, deadline: Deadline) -> None:
        tick = deadline.tick = self._tick_of(deadline.due_ms)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [deadline]
            heappush(self._ticks, tick)
        else:
            bucket.append(deadline)

    def _arm(self) -> None:
        if not self._ticks:
            return
        tick = self._ticks[0]
        if self._timer is not None:
            if self._armed_tick <= tick:
                return
            self._timer.cancel()
        self._armed_tick = tick
        self._timer = self._clock.call_at(tick * self._tick_ms, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now_ms = self._clock.monotonic_ms()
        due: list[Deadline] = []
        while self._ticks and self._ticks[0] * self._tick_ms <= now_ms:
            tick = heappop(self._ticks)
            due += [entry for entry in self._buckets.pop(tick) if entry.tick == tick]
        for entry in due:
            callback = entry.callback
            if callback is None:
                continue
            if entry.due_ms > now_ms:
                self._put(entry)
                continue
            entry.callback = None
            callback()
        self._arm()
