"""Section 8: log-in, and what becomes of a frame or a tombstone, as pure functions over the ranges of one epoch.

Written for clarity over speed: a frame is walked sequence by sequence. `None` stands for an unknown seal, which equals
anything. `records` gives (predecessor's seal, seal) of every record still stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from tests.oracle.fields import Fields

Seal = str | None
ACK_RANGES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Range:
    first: int
    last: int
    seal_before_first: Seal
    seal_of_last: Seal


@dataclass(slots=True)
class Held:
    """What a front-end holds of one terminal and epoch."""

    ranges: list[Range]
    tombstoned: list[tuple[int, int]] = field(default_factory=list)
    records: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """Records first … last with their seals; `seals[0]` is the predecessor's seal of the first record."""

    first: int
    seals: Sequence[str]

    @property
    def last(self) -> int:
        return self.first + len(self.seals) - 2

    def seal_of(self, sequence: int) -> str:
        return self.seals[sequence - self.first + 1]


def _fits(a: Seal, b: Seal) -> bool:
    return a is None or b is None or a == b


def _kind_of(held: Held, sequence: int) -> str:
    if any(first <= sequence <= last for first, last in held.tombstoned):
        return "tombstoned"
    return "held" if any(one.first <= sequence <= one.last for one in held.ranges) else "missing"


def _segments(held: Held, first: int, last: int) -> list[tuple[str, int, int]]:
    """Consecutive sequences of one kind, ascending."""
    result = []
    for kind, group in groupby(range(first, last + 1), key=lambda sequence: _kind_of(held, sequence)):
        members = list(group)
        result.append((kind, members[0], members[-1]))
    return result


def _known_seal(held: Held, sequence: int) -> Seal:
    """The seal of a held record: of the record itself, or kept at the end of a range."""
    if sequence in held.records:
        return held.records[sequence][1]
    return next((one.seal_of_last for one in held.ranges if one.last == sequence), None)


def _seal_expected_by_next(held: Held, sequence: int) -> Seal:
    """The seal of `sequence` as its successor states it."""
    if sequence + 1 in held.records:
        return held.records[sequence + 1][0]
    return next((one.seal_before_first for one in held.ranges if one.first == sequence + 1), None)


def _segment_fits(held: Held, frame: Frame, kind: str, first: int, last: int) -> bool:
    if kind == "held":
        for sequence in range(last, first - 1, -1):
            known = _known_seal(held, sequence)
            if known is not None:
                return known == frame.seal_of(sequence)
        return True
    before = _known_seal(held, first - 1)
    after = _seal_expected_by_next(held, last)
    return _fits(before, frame.seal_of(first - 1)) and _fits(after, frame.seal_of(last))


def _joined(ranges: Sequence[Range]) -> list[Range]:
    result: list[Range] = []
    for one in sorted(ranges, key=lambda each: each.first):
        if result and result[-1].last + 1 == one.first:
            left = result.pop()
            result.append(Range(left.first, one.last, left.seal_before_first, one.seal_of_last))
        else:
            result.append(one)
    return result


def _name(held: Held, segments: Sequence[tuple[str, int, int]]) -> str:
    kinds = [kind for kind, _, _ in segments]
    if "tombstoned" in kinds:
        return "lapses"
    if "missing" not in kinds:
        return "duplicate"
    if "held" in kinds:
        return "cut"
    (_, first, last) = segments[0]
    left = any(one.last == first - 1 for one in held.ranges)
    right = any(one.first == last + 1 for one in held.ranges)
    return {(True, True): "merges", (True, False): "extends", (False, True): "joins_in_front"}.get(
        (left, right), "new_range"
    )


def accept_frame(held: Held, frame: Frame) -> tuple[str, list[tuple[int, int]], Held]:
    """The case, the rows stored (first, last), and what is held then. A suspect changes nothing that is held."""
    segments = _segments(held, frame.first, frame.last)
    if not all(_segment_fits(held, frame, *segment) for segment in segments):
        return "suspect", [(frame.first, frame.last)], held
    rows = [(first, last) for kind, first, last in segments if kind != "held"]
    added = [
        Range(first, last, frame.seal_of(first - 1), frame.seal_of(last))
        for kind, first, last in segments
        if kind == "missing"
    ]
    stretches = _without(held.tombstoned, frame.first, frame.last)
    return _name(held, segments), rows, Held(_joined([*held.ranges, *added]), stretches, held.records)


def _without(stretches: Sequence[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    result = []
    for low, high in stretches:
        result += [
            (start, end) for start, end in ((low, min(high, first - 1)), (max(low, last + 1), high)) if start <= end
        ]
    return result


def accept_tombstone(held: Held, first: int, last: int) -> Held:
    missing = [(low, high) for kind, low, high in _segments(held, first, last) if kind == "missing"]
    added = [Range(low, high, None, None) for low, high in missing]
    stretches = sorted([*held.tombstoned, *missing])
    return Held(_joined([*held.ranges, *added]), stretches, held.records)


def acknowledgement(held: Held, durable_at_login: int) -> Fields:
    """`durable` rises through the range that reaches it, never past a hole; the lowest ranges above are listed."""
    durable = durable_at_login
    for one in held.ranges:
        if one.first <= durable + 1 <= one.last:
            durable = one.last
    above = [[one.first, one.last] for one in held.ranges if one.first > durable + 1]
    return {"durable": durable, "ranges": above[:ACK_RANGES_MAX]}


def log_in(held: Held, entry: Mapping[str, int | str], answer: Mapping[str, int | str] | None) -> Fields:
    """Question asked (a sequence or None), fork or not, and the first ACK's durable and ranges."""
    first_unacknowledged, following = int(entry["first_unacknowledged"]), int(entry["next"])
    base = first_unacknowledged - 1
    fork: Fields = {"question": None, "fork": True, "ack": None}
    if not held.ranges:
        return {"question": None, "fork": False, "ack": {"durable": base, "ranges": []}}
    top = held.ranges[-1]
    if top.last == base:
        if not _fits(top.seal_of_last, str(entry["seal_before_first_unacknowledged"])):
            return fork
        return {"question": None, "fork": False, "ack": acknowledgement(held, base)}
    if top.last >= following:
        return fork
    assert answer is not None, "a question is due"
    asked = {"question": top.last}
    if answer["status"] == 2 or (answer["status"] == 0 and not _fits(top.seal_of_last, str(answer["seal"]))):
        return {**fork, **asked}
    ack = acknowledgement(held, base) if answer["status"] == 0 else {"durable": base, "ranges": []}
    return {**asked, "fork": False, "ack": ack}
