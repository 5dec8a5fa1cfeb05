"""Local time and time profiles: when something is allowed, by the wall clock of a site (时间段, 节假日). Pure.

A moment is UTC milliseconds; what the wall clock shows is got from it and an offset, both arguments. A profile is a set
of weekly intervals `[days, from, to)`: `days` is a mask, bit 0 Monday to bit 6 Sunday, bit 7 a holiday; `from` and `to`
are minutes of the day, 1440 its end. On a holiday only bit 7 counts, whatever the weekday.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from protocol.errors import OutOfRange

MS_PER_MINUTE: Final = 60_000
MINUTES_PER_DAY: Final = 1_440
OFFSET_MINUTES_MAX: Final = 18 * 60  # what any place on earth has had, and some
HOLIDAY_BIT: Final = 7
DAYS_MASK_MAX: Final = 0xFF
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY: Final = date(1970, 1, 1).weekday()


@dataclass(frozen=True, slots=True)
class LocalTime:
    """What a wall clock shows."""

    day: int
    """Days since 1970-01-01, local."""
    minute: int
    """0 … 1439."""

    @property
    def weekday(self) -> int:
        """0 Monday … 6 Sunday."""
        return (self.day + _EPOCH_WEEKDAY) % 7


def local_time(utc_ms: int, offset_minutes: int) -> LocalTime:
    """The wall clock at `utc_ms` where clocks are `offset_minutes` ahead of UTC."""
    day, minute = divmod(utc_ms // MS_PER_MINUTE + offset_minutes, MINUTES_PER_DAY)
    return LocalTime(day, minute)


def day_of_date(written: int) -> int:
    """Days since 1970 of a date written as 20261001. Raises OutOfRange where the calendar has no such day."""
    try:
        return date(written // 10_000, written // 100 % 100, written % 100).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        raise OutOfRange(f"{written} is no date") from None


@dataclass(frozen=True, slots=True)
class Interval:
    """Some days of the week, from a minute to another of the same day; over midnight takes two."""

    days: int
    from_minute: int
    to_minute: int
    """Not included."""

    def covers(self, day_bit: int, minute: int) -> bool:
        return bool(self.days >> day_bit & 1) and self.from_minute <= minute < self.to_minute


def is_within(intervals: Sequence[Interval], now: LocalTime, holidays: Collection[int]) -> bool:
    """Whether the wall clock stands inside one of `intervals`; `holidays` are local days since 1970."""
    day_bit = HOLIDAY_BIT if now.day in holidays else now.weekday
    return any(each.covers(day_bit, now.minute) for each in intervals)
