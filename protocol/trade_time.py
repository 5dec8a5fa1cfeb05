"""Trade time, trade day, booking day (docs/protocol.md §9, R25). Pure; computed once, at intake.

Order is by sequence, never by clock: times of a terminal's records never fall from one sequence to the next, and no
record is later than its receipt. A time zone is an argument, since its rules come from files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

MS_PER_DS: Final = 100
MS_PER_MINUTE: Final = 60_000
MS_PER_DAY: Final = 86_400_000

UtcOffset = Callable[[int], int]
"""UTC instant in ms → local time minus UTC at that instant, in ms (east is positive)."""


def measured_anchor_ms(utc_ms: int, uptime_ds: int) -> int:
    """UTC at which this boot began, as the front-end measures it when BASELINE or HEARTBEAT arrives."""
    return utc_ms - MS_PER_DS * uptime_ds


def trade_times(
    boots: Sequence[int],
    uptimes_ds: Sequence[int],
    clocks_ms: Sequence[int],
    *,
    anchors_ms: Mapping[int, int],
    received_ms: int,
    predecessor_ms: int | None,
    successor_ms: int | None,
) -> list[int]:
    """Trade times (UTC, ms) of one frame of consecutive records, from their heads' columns.

    Args:
        boots: boot number of every record, in order of sequence.
        uptimes_ds: tenths of a second since that boot.
        clocks_ms: the terminal's own clock; 0: never set.
        anchors_ms: boot → measured start of that boot; a boot that is missing was never measured.
        received_ms: when the frame arrived; no time is later.
        predecessor_ms: trade time of the record before the first, None if not held.
        successor_ms: trade time of the record after the last, None if not held. It bounds the whole frame, for
            each record is bounded by its successor, and that one by its own.
    """
    latest = received_ms if successor_ms is None else min(received_ms, successor_ms)
    before = 0 if predecessor_ms is None else predecessor_ms
    anchor = anchors_ms.get(boots[0])
    if anchor is not None and boots.count(boots[0]) == len(boots):
        times = [anchor + MS_PER_DS * uptime_ds for uptime_ds in uptimes_ds]
        # The rule: one boot, measured, in order. Nothing is left to bound, at a quarter of the loop's price.
        if before <= times[0] and times[-1] <= latest and times == sorted(times):
            return times
    times = []
    for boot, uptime_ds, clock_ms in zip(boots, uptimes_ds, clocks_ms, strict=True):
        anchor = anchors_ms.get(boot)
        stated = clock_ms or received_ms if anchor is None else anchor + MS_PER_DS * uptime_ds
        before = min(max(stated, before), latest)
        times.append(before)
    return times


def fixed_offset(minutes: int) -> UtcOffset:
    """A zone without daylight saving; China is `fixed_offset(480)`."""
    offset_ms = minutes * MS_PER_MINUTE

    def offset(_utc_ms: int) -> int:
        return offset_ms

    return offset


def trade_day(trade_ms: int, utc_offset_ms: UtcOffset) -> int:
    """The site's local calendar day of a trade time, in days since 1970-01-01."""
    return (trade_ms + utc_offset_ms(trade_ms)) // MS_PER_DAY


def trade_days(trade_times_ms: Sequence[int], utc_offset_ms: UtcOffset) -> list[int]:
    """`trade_day` of a whole frame, in order as `trade_times` gives them.

    Two questions to the time zone when the frame lies in one day, for no zone changes twice within 24 hours.
    """
    first, last = trade_times_ms[0], trade_times_ms[-1]
    first_offset = utc_offset_ms(first)
    if first == last:
        return [(first + first_offset) // MS_PER_DAY] * len(trade_times_ms)
    last_offset = utc_offset_ms(last)
    if first_offset == last_offset and last - first < MS_PER_DAY:
        first_day, last_day = (first + first_offset) // MS_PER_DAY, (last + first_offset) // MS_PER_DAY
        if first_day == last_day:
            return [first_day] * len(trade_times_ms)
        return [(trade_ms + first_offset) // MS_PER_DAY for trade_ms in trade_times_ms]
    return [(trade_ms + utc_offset_ms(trade_ms)) // MS_PER_DAY for trade_ms in trade_times_ms]


class DayByMinute:
    """`trade_day` of instants close to each other, as live sales are: the zone is asked twice a minute."""

    __slots__ = ("_day", "_from_ms", "_to_ms", "_utc_offset_ms")

    def __init__(self, utc_offset_ms: UtcOffset) -> None:
        self._utc_offset_ms = utc_offset_ms
        self._from_ms, self._to_ms, self._day = 0, -1, 0

    def __call__(self, trade_ms: int) -> int:
        if self._from_ms <= trade_ms <= self._to_ms:
            return self._day
        offset_ms, later_ms = self._utc_offset_ms(trade_ms), trade_ms + MS_PER_MINUTE
        day = (trade_ms + offset_ms) // MS_PER_DAY
        # The same offset at both ends was the same between them, for no zone changes twice within 24 hours.
        if self._utc_offset_ms(later_ms) == offset_ms and (later_ms + offset_ms) // MS_PER_DAY == day:
            self._from_ms, self._to_ms, self._day = trade_ms, later_ms, day
        return day


def booking_day(trade_day_: int, first_open_day: int, today: int) -> int:
    """The trade day clamped to [first open day, today] (R25); never a closed day, whatever today says."""
    return max(min(trade_day_, today), first_open_day)
