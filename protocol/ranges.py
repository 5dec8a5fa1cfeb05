"""What a front-end holds of one (terminal, epoch), and what it makes of a frame (docs/protocol.md §8). Pure.

    frame a…b against the ranges held            verdict
    begins behind a range                        EXTENDS; FILLS where it ends before the next one too
    ends before a range                          FILLS
    touches nothing                              NEW_RANGE
    all held                                     INSIDE: a duplicate
    partly held, or held as a tombstone          STRADDLES: cut, keep what is new
    a seal differs                               SUSPECT

`classify` compares what the ends of ranges tell. What only stored records can tell it leaves as checks; `agree` makes
them, with the seals of the frame and of stored records supplied on demand. Sequences held only as a tombstone are kept
apart: their record is new when it arrives, although the ranges stay as they are (R9).

It knows nothing of storage, and trusts no seal: it only compares them (R4).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.codes import SealStatus
from protocol.intervals import Intervals
from protocol.limits import ACK_RANGES_MAX

RANGES_MAX: Final = 1024  # of one (terminal, epoch); an honest terminal has a handful, a hostile one stops here


@dataclass(slots=True)
class Range:
    """Consecutive sequences held durably; None: not known (a tombstone stands at that end)."""

    first: int
    last: int
    seal_before_first: bytes | None
    seal_last: bytes | None
    trade_ms_first: int | None
    trade_ms_last: int | None


class Verdict(Enum):
    EXTENDS = "extends"
    FILLS = "fills"
    NEW_RANGE = "new range"
    INSIDE = "inside"
    STRADDLES = "straddles"
    SUSPECT = "suspect"
    FULL = "full"
    """Would open one range more than `RANGES_MAX`; nothing is stored or acknowledged."""


@dataclass(slots=True)
class Check:
    """The frame's seal at `sequence` must equal the one held.

    `expected` is None where only storage knows it; if the record of `sequence` is stored no more, the nearest stored
    one from there down to `floor` is compared instead.
    """

    sequence: int
    floor: int
    expected: bytes | None


@dataclass(slots=True)
class Decision:
    verdict: Verdict
    keep: tuple[tuple[int, int], ...] = ()
    """What is to be stored once every check agrees, ascending; one row each."""
    checks: tuple[Check, ...] = ()


class LoginAction(Enum):
    DURABLE = "durable"
    ASK = "ask"
    FORK = "fork"


@dataclass(slots=True)
class LoginDecision:
    """What follows from one BASELINE entry; `ASK` means SEAL_QUERY(`sequence`), then `answered`."""

    action: LoginAction
    durable: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    sequence: int = 0
    seal: bytes | None = None
    durable_unproved: int = 0

    def answered(self, status: int, seal: bytes) -> LoginDecision:
        """DURABLE or FORK, from the SEAL_ANSWER to this question."""
        if status == SealStatus.HELD:
            if self.seal is not None and self.seal != seal:
                return LoginDecision(LoginAction.FORK)
            return LoginDecision(LoginAction.DURABLE, self.durable, self.ranges)
        if status == SealStatus.NEVER_ISSUED:
            return LoginDecision(LoginAction.FORK)
        return LoginDecision(LoginAction.DURABLE, self.durable_unproved)


class EpochRanges:
    """The ranges and tombstones of one (terminal, epoch); remembers what changed until `take_changes`."""

    __slots__ = ("_changed", "_firsts", "_ranges", "tombstoned")

    def __init__(self, ranges: Iterable[Range] = (), tombstoned: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[Range] = sorted(ranges, key=lambda held: held.first)
        self._firsts: list[int] = [held.first for held in self._ranges]
        self._changed: dict[int, Range | None] = {}
        self.tombstoned = Intervals(tombstoned)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    # -- looking ------------------------------------------------------------------------------------------------------

    def covering(self, sequence: int) -> Range | None:
        """The range that holds `sequence`, be it as a tombstone."""
        index = bisect_right(self._firsts, sequence) - 1
        if index >= 0 and sequence <= self._ranges[index].last:
            return self._ranges[index]
        return None

    def recorded(self, sequence: int) -> bool:
        """Whether the record itself is held, not only its tombstone."""
        return self.covering(sequence) is not None and sequence not in self.tombstoned

    def pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of `first`…`last` whose records are held, ascending."""
        index = max(bisect_right(self._firsts, first) - 1, 0)
        found: list[tuple[int, int]] = []
        while index < len(self._ranges) and self._ranges[index].first <= last:
            held = self._ranges[index]
            if held.last >= first:
                found += self.tombstoned.missing(max(first, held.first), min(last, held.last))
            index += 1
        return found

    # -- frames -------------------------------------------------------------------------------------------------------

    def classify(self, first: int, last: int, previous_seal: bytes, last_seal: bytes) -> Decision:
        """Judge a frame by its ends; whatever else there is to compare comes back as checks."""
        index = bisect_right(self._firsts, first) - 1
        left = self._ranges[index] if index >= 0 else None
        right = self._ranges[index + 1] if index + 1 < len(self._ranges) else None
        if (left is not None and first <= left.last) or (right is not None and last >= right.first):
            return self._overlapping(first, last)
        verdict = Verdict.NEW_RANGE
        checks: tuple[Check, ...] = ()
        if left is not None and left.last + 1 == first:
            verdict = Verdict.EXTENDS
            if left.seal_last is None:
                checks = self._unless_tombstone(left.last, Check(left.last, left.last, None))
            elif left.seal_last != previous_seal:
                return Decision(Verdict.SUSPECT)
        if right is not None and last + 1 == right.first:
            verdict = Verdict.FILLS
            if right.seal_before_first is None:
                checks += self._unless_tombstone(right.first, Check(last, last, None))
            elif right.seal_before_first != last_seal:
                return Decision(Verdict.SUSPECT)
        if verdict is Verdict.NEW_RANGE and len(self._ranges) >= RANGES_MAX:
            return Decision(Verdict.FULL)
        return Decision(verdict, ((first, last),), checks)

    def _unless_tombstone(self, neighbour: int, check: Check) -> tuple[Check, ...]:
        """The end's seal is not known, but if its record has come after the tombstone, storage has it."""
        return () if neighbour in self.tombstoned else (check,)

    def _overlapping(self, first: int, last: int) -> Decision:
        held = Intervals(self.pieces(first, last))
        lapsing = self.tombstoned.within(first, last)
        if len(self.tombstoned) >= RANGES_MAX and any(self._splits(*piece) for piece in lapsing):
            return Decision(Verdict.FULL)
        keep = tuple(sorted(lapsing + self.missing(first, last)))
        checks: list[Check] = []
        for begin, end in keep:
            if self.recorded(begin - 1):
                floor = (held.covering(begin - 1) or (begin - 1, begin - 1))[0]
                checks.append(Check(begin - 1, floor, self._seal_at(begin - 1)))
            if self.recorded(end + 1):
                after = self.covering(end + 1)
                known = after.seal_before_first if after is not None and after.first == end + 1 else None
                checks.append(Check(end, end, known))
        begins = self.covering(first)
        if begins is not None and begins.first == first and begins.seal_before_first is not None:
            checks.append(Check(first - 1, first - 1, begins.seal_before_first))
        tail = held.covering(last)
        if tail is not None:
            checks.append(Check(last, tail[0], self._seal_at(last)))
        return Decision(Verdict.STRADDLES if keep else Verdict.INSIDE, keep, tuple(checks))

    def _splits(self, first: int, last: int) -> bool:
        """Whether taking these out of a tombstoned stretch leaves two."""
        stretch = self.tombstoned.covering(first)
        return stretch is not None and stretch[0] < first and last < stretch[1]

    def _seal_at(self, sequence: int) -> bytes | None:
        held = self.covering(sequence)
        return held.seal_last if held is not None and held.last == sequence else None

    def trade_ms_at(self, sequence: int) -> int | None:
        """The trade time at `sequence` if it is the end of a range and known here."""
        held = self.covering(sequence)
        if held is None:
            return None
        if sequence == held.last:
            return held.trade_ms_last
        return held.trade_ms_first if sequence == held.first else None

    # -- changing -----------------------------------------------------------------------------------------------------

    def apply(self, first: int, last: int, *, seals: tuple[bytes, bytes], trade_ms: tuple[int, int]) -> bool:
        """Take up one kept piece; `seals` are (predecessor's, last), `trade_ms` those of first and last.

        Returns:
            Whether a tombstone lapsed: the piece was one, the ranges stay as they are.
        """
        if self.tombstoned and first in self.tombstoned:
            self.tombstoned.remove(first, last)
            return True
        self._join(Range(first, last, *seals, *trade_ms))
        return False

    def tail_before(self, first: int, previous_seal: bytes) -> Range | None:
        """The highest range, where a frame from `first` on plainly continues it: both seals known and equal."""
        if self._ranges:
            tail = self._ranges[-1]
            if tail.last + 1 == first and tail.seal_last == previous_seal:
                return tail
        return None

    def extend(self, tail: Range, last: int, last_seal: bytes, trade_ms_last: int) -> None:
        """Continue what `tail_before` has returned."""
        tail.last, tail.seal_last, tail.trade_ms_last = last, last_seal, trade_ms_last
        self._changed[tail.first] = tail

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of `first`…`last` that are held in no way, not even as tombstones."""
        index = max(bisect_right(self._firsts, first) - 1, 0)
        holes: list[tuple[int, int]] = []
        while index < len(self._ranges) and self._ranges[index].first <= last:
            held = self._ranges[index]
            if first < held.first:
                holes.append((first, held.first - 1))
            first = max(first, held.last + 1)
            index += 1
        if first <= last:
            holes.append((first, last))
        return holes

    def has_room(self) -> bool:
        """Whether one more tombstone keeps this bounded, whatever it splits."""
        return max(len(self._ranges), len(self.tombstoned)) < RANGES_MAX

    def apply_tombstone(self, first: int, last: int) -> list[tuple[int, int]]:
        """Take up a tombstone; returns the parts that were not held in any way (none: a duplicate)."""
        missing = self.missing(first, last)
        for begin, end in missing:
            self._join(Range(begin, end, None, None, None, None))
            self.tombstoned.add(begin, end)
        return missing

    def _join(self, piece: Range) -> None:
        """Merge with every range it overlaps or touches; the piece's own ends win where they coincide."""
        index = bisect_right(self._firsts, piece.first) - 1
        begin = index if index >= 0 and self._ranges[index].last >= piece.first - 1 else index + 1
        end = bisect_right(self._firsts, piece.last + 1)
        if begin < end:
            leftmost, rightmost = self._ranges[begin], self._ranges[end - 1]
            if leftmost.first < piece.first:
                piece.first, piece.seal_before_first = leftmost.first, leftmost.seal_before_first
                piece.trade_ms_first = leftmost.trade_ms_first
            if rightmost.last > piece.last:
                piece.last, piece.seal_last = rightmost.last, rightmost.seal_last
                piece.trade_ms_last = rightmost.trade_ms_last
            for first in self._firsts[begin:end]:
                self._changed[first] = None
        self._ranges[begin:end] = [piece]
        self._firsts[begin:end] = [piece.first]
        self._changed[piece.first] = piece

    def take_changes(self) -> dict[int, Range | None]:
        """Ranges changed since the last call, by first sequence; None: no range begins there any more."""
        changed, self._changed = self._changed, {}
        return changed

    # -- log-in and acknowledgement -----------------------------------------------------------------------------------

    def login(self, first_unacknowledged: int, next_sequence: int, seal: bytes) -> LoginDecision:
        """Judge one BASELINE entry; `seal` is the one before `first_unacknowledged`."""
        before = first_unacknowledged - 1
        if not self._ranges:
            return LoginDecision(LoginAction.DURABLE, before)
        highest = self._ranges[-1]
        durable, ranges = self.ack_view(first_unacknowledged)
        if highest.last == before:
            if _differ(highest.seal_last, seal):
                return LoginDecision(LoginAction.FORK)
            return LoginDecision(LoginAction.DURABLE, before, ranges)
        if highest.last >= next_sequence:
            return LoginDecision(LoginAction.FORK)
        return LoginDecision(LoginAction.ASK, durable, ranges, highest.last, highest.seal_last, before)

    def ack_view(self, first_unacknowledged: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """(durable, at most 4 ranges above it) of the ACK; never past a hole at or above `first_unacknowledged`."""
        if self._ranges:
            highest = self._ranges[-1]
            if highest.first <= first_unacknowledged <= highest.last:  # the rule: one range, nothing above it
                return highest.last, ()
        held = self.covering(first_unacknowledged)
        durable = first_unacknowledged - 1 if held is None else held.last
        index = bisect_right(self._firsts, durable + 1)
        above = self._ranges[index : index + ACK_RANGES_MAX]
        return durable, tuple((one.first, one.last) for one in above)


def agree(
    checks: Iterable[Check],
    frame_seal: Callable[[int], bytes],
    stored_seal: Callable[[int, int], tuple[int, bytes] | None],
) -> bool:
    """Make a decision's checks; what nobody knows any more agrees with anything.

    Args:
        checks: of the decision.
        frame_seal: seal that the frame states for a sequence; also for the one before its first record.
        stored_seal: `(sequence, floor)` → the highest sequence in `floor`…`sequence` whose seal storage still knows,
            with that seal, or None.
    """
    for check in checks:
        found = (
            (check.sequence, check.expected) if check.expected is not None else stored_seal(check.sequence, check.floor)
        )
        if found is not None and frame_seal(found[0]) != found[1]:
            return False
    return True


def _differ(known: bytes | None, stated: bytes) -> bool:
    """An unknown seal compares equal to anything (docs/protocol.md §8)."""
    return known is not None and known != stated
