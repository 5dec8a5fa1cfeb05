"""A histogram by plain integers: bucket n counts the values below 2^n that are in no lower one.

A value costs 0.1 µs, an HDR histogram 1.7 µs (docs/decisions.md); a factor of two is as exact as an operator needs it.
The hot path adds by itself, since a call costs as much again:

    histogram.counts[value.bit_length()] += 1
    histogram.total += value
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

BUCKETS: Final = 64  # of every whole number there is here, a jump of the clock by years included


class Histogram:
    """Values are whole numbers; what they count in (milliseconds, bytes) its owner's name says."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0

    def add(self, value: int) -> None:
        """Off the hot path."""
        self.counts[value.bit_length()] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self, buckets: int) -> Iterator[tuple[int, int]]:
        """(largest value, how many are not above it) of the first so many buckets."""
        seen = 0
        for bucket in range(buckets):
            seen += self.counts[bucket]
            yield (1 << bucket) - 1, seen

    def quantile(self, share: float) -> int | None:
        """The largest value of the bucket in which that share of all values is reached; None: there is none yet."""
        wanted = share * self.count
        if not wanted:
            return None
        return next(largest for largest, seen in self.cumulative(BUCKETS) if seen >= wanted)
