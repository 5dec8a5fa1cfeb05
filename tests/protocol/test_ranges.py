"""Ranges against the table of docs/protocol.md §8, the vectors, and a naive model: sequence → seal."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codes import SealStatus
from protocol.errors import RemoteError
from protocol.intervals import Intervals
from protocol.ranges import RANGES_MAX, EpochRanges, LoginAction, Range, Verdict, agree
from protocol.records import previous_seal, seal_of, summarise, walk

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "08_ranges.json").read_text("utf-8"))["cases"]
NAMED = {case["name"]: case for case in VECTORS}


def seal(sequence: int, chain: str = "a") -> bytes:
    """A seal that stands for (chain, sequence); chains share nothing."""
    return chain.encode() + sequence.to_bytes(7, "big")


def of(*ranges: tuple[int, int], tombstoned: tuple[tuple[int, int], ...] = ()) -> EpochRanges:
    """Ranges of chain a, with trade times 1000 × sequence."""
    return EpochRanges([Range(a, b, seal(a - 1), seal(b), 1000 * a, 1000 * b) for a, b in ranges], tombstoned)


def offer(held: EpochRanges, first: int, last: int, chain: str = "a") -> tuple[Verdict, tuple[tuple[int, int], ...]]:
    decision = held.classify(first, last, seal(first - 1, chain), seal(last, chain))
    return decision.verdict, decision.keep


def spans(held: EpochRanges) -> list[tuple[int, int]]:
    return [(one.first, one.last) for one in held]


# -- each row of the table, literally ---------------------------------------------------------------------------------


def test_a_frame_behind_a_range_with_the_right_seal_extends_it() -> None:
    assert offer(of((1, 5)), 6, 8) == (Verdict.EXTENDS, ((6, 8),))


def test_a_frame_behind_a_range_with_another_seal_is_suspect() -> None:
    assert offer(of((1, 5)), 6, 8, chain="b") == (Verdict.SUSPECT, ())


def test_continuing_the_highest_range_is_the_same_as_judging_and_joining() -> None:
    in_place, joined = of((1, 5), (9, 12)), of((1, 5), (9, 12))
    tail = in_place.tail_before(13, seal(12))
    assert tail is not None
    in_place.extend(tail, 15, seal(15), 15_000)
    assert offer(joined, 13, 15) == (Verdict.EXTENDS, ((13, 15),))
    assert joined.apply(13, 15, seals=(seal(12), seal(15)), trade_ms=(13_000, 15_000)) is False
    assert list(in_place) == list(joined)
    assert in_place.take_changes()[9] == joined.take_changes()[9] == tail
    assert [in_place.ack_view(first) for first in range(1, 18)] == [joined.ack_view(first) for first in range(1, 18)]


@pytest.mark.parametrize(
    ("held", "first", "chain"),
    [
        (of(), 1, "a"),
        (of((1, 5)), 6, "b"),
        (of((1, 5)), 5, "a"),
        (of((1, 5)), 7, "a"),
        (of((1, 5), (9, 12)), 6, "a"),
        (EpochRanges([Range(1, 5, None, None, None, None)], [(1, 5)]), 6, "a"),
    ],
    ids=["nothing held", "another seal", "overlaps", "a hole", "not the highest", "behind a tombstone"],
)
def test_whatever_does_not_plainly_continue_the_highest_range_is_judged(
    held: EpochRanges, first: int, chain: str
) -> None:
    assert held.tail_before(first, seal(first - 1, chain)) is None


def test_a_frame_that_reaches_the_next_range_fills_the_hole() -> None:
    assert offer(of((1, 5), (9, 12)), 6, 8) == (Verdict.FILLS, ((6, 8),))


def test_a_frame_that_reaches_the_next_range_with_another_seal_is_suspect() -> None:
    held = of((1, 5), (9, 12))
    assert held.classify(6, 8, seal(5), seal(8, "b")).verdict is Verdict.SUSPECT


def test_a_frame_just_before_a_range_joins_in_front() -> None:
    assert offer(of((9, 12)), 6, 8) == (Verdict.FILLS, ((6, 8),))


def test_a_frame_that_touches_nothing_opens_a_range() -> None:
    assert offer(of((1, 5), (20, 22)), 9, 11) == (Verdict.NEW_RANGE, ((9, 11),))


def test_a_frame_inside_a_range_is_to_be_compared_at_its_last_record() -> None:
    decision = of((1, 12)).classify(4, 6, seal(3), seal(6))
    assert (decision.verdict, decision.keep) == (Verdict.INSIDE, ())
    assert [(c.sequence, c.floor, c.expected) for c in decision.checks] == [(6, 4, None)]


def test_a_frame_over_the_end_of_a_range_is_cut_there() -> None:
    decision = of((1, 5)).classify(4, 8, seal(3), seal(8))
    assert (decision.verdict, decision.keep) == (Verdict.STRADDLES, ((6, 8),))
    assert [(c.sequence, c.expected) for c in decision.checks] == [(5, seal(5))]


def test_a_frame_over_the_beginning_of_a_range_is_cut_there() -> None:
    decision = of((9, 12)).classify(6, 10, seal(5), seal(10))
    assert (decision.verdict, decision.keep) == (Verdict.STRADDLES, ((6, 8),))
    assert [(c.sequence, c.expected) for c in decision.checks] == [(8, seal(8)), (10, None)]


def test_an_unknown_seal_of_last_lets_any_chain_extend() -> None:
    held = of((1, 5))
    held.apply_tombstone(6, 7)
    assert offer(held, 8, 9, chain="b") == (Verdict.EXTENDS, ((8, 9),))


def test_a_tombstone_leaves_what_is_held_as_it_is() -> None:
    held = of((4, 6))
    assert held.apply_tombstone(1, 8) == [(1, 3), (7, 8)]
    assert spans(held) == [(1, 8)]
    assert list(held.tombstoned) == [(1, 3), (7, 8)]
    assert held.apply_tombstone(2, 5) == []


def test_a_record_of_a_tombstoned_stretch_is_new_and_the_stretch_lapses() -> None:
    held = of((1, 12), tombstoned=((5, 7),))
    decision = held.classify(6, 6, seal(5), seal(6))
    assert decision.keep == ((6, 6),)
    assert held.apply(6, 6, seals=(seal(5), seal(6)), trade_ms=(6, 6))
    assert list(held.tombstoned) == [(5, 5), (7, 7)]
    assert spans(held) == [(1, 12)]


def test_changes_are_told_once() -> None:
    held = of((1, 5), (9, 12))
    held.apply(6, 8, seals=(seal(5), seal(8)), trade_ms=(6000, 8000))
    changes = held.take_changes()
    assert changes[9] is None
    assert changes[1] == Range(1, 12, seal(0), seal(12), 1000, 12000)
    assert held.take_changes() == {}


def test_the_number_of_ranges_is_bounded() -> None:
    held = of(*((2 * i, 2 * i) for i in range(1, RANGES_MAX + 1)))
    top = 2 * RANGES_MAX
    assert offer(held, top + 2, top + 3) == (Verdict.FULL, ())
    assert offer(held, top + 1, top + 3) == (Verdict.EXTENDS, ((top + 1, top + 3),))
    assert not held.has_room()


def test_splitting_tombstones_is_bounded() -> None:
    held = of((1, 10_000), tombstoned=tuple((4 * i, 4 * i + 2) for i in range(1, RANGES_MAX + 1)))
    assert offer(held, 5, 5) == (Verdict.FULL, ())
    assert offer(held, 4, 5)[0] is Verdict.STRADDLES


# -- vectors of the second implementation ------------------------------------------------------------------------------


def from_vector(given_: dict[str, Any]) -> EpochRanges:
    def known(text: str | None) -> bytes | None:
        return None if text is None else bytes.fromhex(text)

    ranges = [
        Range(one["first"], one["last"], known(one["seal_before_first"]), known(one["seal_of_last"]), None, None)
        for one in given_["ranges"]
    ]
    return EpochRanges(ranges, [tuple(one) for one in given_.get("tombstoned", [])])


def as_vector(held: EpochRanges) -> list[dict[str, Any]]:
    return [
        {
            "first": one.first,
            "last": one.last,
            "seal_before_first": None if one.seal_before_first is None else one.seal_before_first.hex(),
            "seal_of_last": None if one.seal_last is None else one.seal_last.hex(),
        }
        for one in held
    ]


def cases(wanted: str) -> list[str]:
    return [name for name, case in NAMED.items() if wanted in case["given"]]


CHAIN = dict(enumerate(walk(bytes.fromhex(NAMED["the chain"]["bytes"])), 1))


@pytest.mark.parametrize("name", cases("frame"))
def test_a_frame_is_judged_as_the_vector_says(name: str) -> None:
    given_, expected = NAMED[name]["given"], NAMED[name]["expected"]
    held = from_vector(given_)
    records = list(walk(bytes.fromhex(NAMED[name]["bytes"])[4:]))
    first, last = given_["frame"]["first"], given_["frame"]["last"]
    stored = Intervals(tuple(one) for one in given_["stored_records"])

    def stored_seal(sequence: int, floor: int) -> tuple[int, bytes] | None:
        if sequence in stored:
            return sequence, seal_of(CHAIN[sequence])
        if sequence + 1 in stored:
            return sequence, previous_seal(CHAIN[sequence + 1])
        lower = [one for one in range(floor, sequence) if one in stored]
        return (lower[-1], seal_of(CHAIN[lower[-1]])) if lower else None

    def frame_seal(sequence: int) -> bytes:
        return previous_seal(records[0]) if sequence < first else seal_of(records[sequence - first])

    decision = held.classify(first, last, frame_seal(first - 1), frame_seal(last))
    suspect = decision.verdict is Verdict.SUSPECT or not agree(decision.checks, frame_seal, stored_seal)
    assert suspect == (expected["case"] == "suspect")
    rows = []
    for begin, end in [] if suspect else decision.keep:
        held.apply(begin, end, seals=(frame_seal(begin - 1), frame_seal(end)), trade_ms=(0, 0))
        rows.append([begin, end])
    assert ([[first, last]] if suspect else rows) == expected["rows"]
    assert as_vector(held) == expected["ranges"]
    assert [list(one) for one in held.tombstoned] == expected["tombstoned"]
    if expected["ack"] is not None:
        durable, above = held.ack_view(given_["durable_at_login"] + 1)
        assert {"durable": durable, "ranges": [list(one) for one in above]} == expected["ack"]


@pytest.mark.parametrize("name", cases("tombstone"))
def test_a_tombstone_is_taken_up_as_the_vector_says(name: str) -> None:
    given_, expected = NAMED[name]["given"], NAMED[name]["expected"]
    held = from_vector(given_)
    held.apply_tombstone(given_["tombstone"]["first"], given_["tombstone"]["last"])
    assert as_vector(held) == expected["ranges"]
    assert [list(one) for one in held.tombstoned] == expected["tombstoned"]
    durable, above = held.ack_view(given_["durable_at_login"] + 1)
    assert {"durable": durable, "ranges": [list(one) for one in above]} == expected["ack"]


@pytest.mark.parametrize("name", cases("entry"))
def test_a_log_in_is_judged_as_the_vector_says(name: str) -> None:
    given_, expected = NAMED[name]["given"], NAMED[name]["expected"]
    entry, answer = given_["entry"], given_["seal_answer"]
    seal_before = bytes.fromhex(entry["seal_before_first_unacknowledged"])
    decision = from_vector(given_).login(entry["first_unacknowledged"], entry["next"], seal_before)
    assert (decision.sequence if decision.action is LoginAction.ASK else None) == expected["question"]
    if decision.action is LoginAction.ASK:
        decision = decision.answered(answer["status"], bytes.fromhex(answer["seal"]))
    assert (decision.action is LoginAction.FORK) == expected["fork"]
    if expected["ack"] is not None:
        assert decision.action is LoginAction.DURABLE
        assert decision.durable == expected["ack"]["durable"]
        assert [list(one) for one in decision.ranges] == expected["ack"]["ranges"]


@pytest.mark.parametrize("name", [name for name, case in NAMED.items() if case.get("error") == "malformed"])
def test_a_frame_of_the_vectors_that_is_refused_is_refused(name: str) -> None:
    try:
        found = summarise(bytes.fromhex(NAMED[name]["bytes"])[4:])
    except RemoteError:
        return
    assert found.terminal != NAMED[name]["given"]["terminal"]


def test_a_question_answered_never_issued_is_a_fork() -> None:
    decision = of((1, 10)).login(5, 15, seal(4))
    assert decision.answered(SealStatus.NEVER_ISSUED, bytes(8)).action is LoginAction.FORK


# -- against a naive model ---------------------------------------------------------------------------------------------

SEQUENCE_MAX = 40
frames = st.tuples(st.integers(1, SEQUENCE_MAX), st.integers(1, 9), st.sampled_from("aaaaab"))
steps = st.lists(st.tuples(st.sampled_from(["frame"] * 4 + ["tombstone"]), frames), max_size=25)


class Model:
    """Sequence → (predecessor's seal, seal) of its record, or None for a tombstone."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[bytes, bytes] | None] = {}

    def differs(self, first: int, last: int, chain: str) -> bool:
        """Whether any record or neighbour that is stored contradicts the frame where the rules look."""
        runs: list[list[int]] = []
        for sequence in range(first, last + 1):
            kind = "new" if self.held.get(sequence) is None else "held"
            before = None if sequence == first else ("new" if self.held.get(sequence - 1) is None else "held")
            if kind == before:
                runs[-1].append(sequence)
            else:
                runs.append([sequence])
        for run in runs:
            record = self.held.get(run[-1])
            if record is not None:
                if record[1] != seal(run[-1], chain):
                    return True
                continue
            left, right = self.held.get(run[0] - 1), self.held.get(run[-1] + 1)
            if left is not None and left[1] != seal(run[0] - 1, chain):
                return True
            if right is not None and right[0] != seal(run[-1], chain):
                return True
        return False


@settings(max_examples=400)
@given(steps)
def test_ranges_agree_with_a_set_of_sequences(steps_: list[tuple[str, tuple[int, int, str]]]) -> None:
    held, model = EpochRanges(), Model()
    for what, (first, count, chain) in steps_:
        last = first + count - 1
        if what == "tombstone":
            missing = [one for one in range(first, last + 1) if one not in model.held]
            taken = held.apply_tombstone(first, last)
            assert [one for a, b in taken for one in range(a, b + 1)] == missing
            model.held.update(dict.fromkeys(missing))
        else:
            take_frame(held, model, first, last, chain)
        check_same(held, model)


def take_frame(held: EpochRanges, model: Model, first: int, last: int, chain: str) -> None:
    def frame_seal(sequence: int) -> bytes:
        return seal(sequence, chain)

    def stored_seal(sequence: int, floor: int) -> tuple[int, bytes] | None:
        record, after = model.held.get(sequence), model.held.get(sequence + 1)
        if record is not None:
            return sequence, record[1]
        assert floor <= sequence
        return None if after is None else (sequence, after[0])

    decision = held.classify(first, last, frame_seal(first - 1), frame_seal(last))
    suspect = decision.verdict is Verdict.SUSPECT or not agree(decision.checks, frame_seal, stored_seal)
    if model.differs(first, last, chain):
        assert suspect
        return
    new = [one for one in range(first, last + 1) if model.held.get(one) is None]
    if suspect:
        # Stricter than the model only where the frame begins with a range: the predecessor's seal differs there.
        record = model.held.get(first)
        assert record is not None
        assert record[0] != frame_seal(first - 1)
        return
    assert [one for a, b in decision.keep for one in range(a, b + 1)] == new
    for a, b in decision.keep:
        held.apply(a, b, seals=(frame_seal(a - 1), frame_seal(b)), trade_ms=(1000 * a, 1000 * b))
    for one in new:
        model.held[one] = (frame_seal(one - 1), frame_seal(one))


def check_same(held: EpochRanges, model: Model) -> None:
    covered = Intervals((one, one) for one in model.held)
    assert spans(held) == list(covered)
    assert held.tombstoned == Intervals((one, one) for one, record in model.held.items() if record is None)
    for one in held:
        end, begin = model.held[one.last], model.held[one.first]
        assert one.seal_last in ({None, end[1]} if end else {None})
        assert one.seal_before_first in ({None, begin[0]} if begin else {None})
    for unacknowledged in (1, 7, SEQUENCE_MAX):
        durable, above = held.ack_view(unacknowledged)
        expected = unacknowledged - 1
        while expected + 1 in model.held:
            expected += 1
        assert durable == expected
        assert list(above) == [one for one in covered if one[0] > durable + 1][:4]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=40), st.integers(0, 70))
def test_intervals_agree_with_a_set(steps_: list[tuple[bool, int, int]], probe: int) -> None:
    intervals, model = Intervals(), set[int]()
    for adds, first, more in steps_:
        if adds:
            intervals.add(first, first + more)
            model.update(range(first, first + more + 1))
        else:
            intervals.remove(first, first + more)
            model.difference_update(range(first, first + more + 1))
        assert [one for a, b in intervals for one in range(a, b + 1)] == sorted(model)
        assert all(b + 1 < c for (_, b), (c, _) in zip(list(intervals), list(intervals)[1:], strict=False))
    assert (probe in intervals) == (probe in model)
    inside = [one for a, b in intervals.within(probe, probe + 20) for one in range(a, b + 1)]
    outside = [one for a, b in intervals.missing(probe, probe + 20) for one in range(a, b + 1)]
    assert inside == sorted(model & set(range(probe, probe + 21)))
    assert outside == sorted(set(range(probe, probe + 21)) - model)
