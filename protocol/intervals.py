"""Sets of whole numbers kept as sorted, disjoint, never adjacent intervals. Pure.

Everything that a front-end remembers for ever (held sequences, tombstones, settled rows) is such a set: its size is
the number of holes, not the number of members.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """A mutable set; every interval is `(first, last)`, both inside."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in intervals:
            self.add(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __len__(self) -> int:
        """How many intervals, not how many members."""
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervals):
            return NotImplemented
        return self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return "Intervals(" + ", ".join(f"{first}…{last}" for first, last in self) + ")"

    def covering(self, member: int) -> tuple[int, int] | None:
        """The interval that holds `member`, if one does."""
        index = bisect_right(self._firsts, member) - 1
        if index < 0 or self._lasts[index] < member:
            return None
        return self._firsts[index], self._lasts[index]

    def __contains__(self, member: int) -> bool:
        return self.covering(member) is not None

    def add(self, first: int, last: int) -> None:
        """Add `first`…`last`; joins what it overlaps or touches."""
        assert first <= last
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take `first`…`last` out, whatever of it is there."""
        assert first <= last
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if begin >= end:
            return
        left = (self._firsts[begin], first - 1)
        right = (last + 1, self._lasts[end - 1])
        stay = [piece for piece in (left, right) if piece[0] <= piece[1]]
        self._firsts[begin:end] = [piece[0] for piece in stay]
        self._lasts[begin:end] = [piece[1] for piece in stay]

    def within(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of `first`…`last` that are in the set, ascending."""
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        return [(max(first, self._firsts[i]), min(last, self._lasts[i])) for i in range(begin, end)]

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of `first`…`last` that are not in the set, ascending."""
        holes: list[tuple[int, int]] = []
        for begin, end in self.within(first, last):
            if first < begin:
                holes.append((first, begin - 1))
            first = end + 1
        if first <= last:
            holes.append((first, last))
        return holes
