"""Vectors of section 8: log-in and acceptance, each as ranges before, an event, and what is expected after.

All records are those of one chain (and of a fork of it), given in the first two cases; `stored_records` says which of
them are still in the spool.
"""

from typing import Any, Final

from tests.oracle.fields import Fields
from tests.oracle.messages import build_message, sealed_message
from tests.oracle.ranges import Frame, Held, Range, accept_frame, accept_tombstone, acknowledgement, log_in
from tests.oracle.reference import EPOCH, SEAL_KEY, TERMINAL, Case, case, section
from tests.oracle.vectors_messages import tombstone, upload
from tests.oracle.vectors_records import aborted_chain

LENGTH: Final = 40
FORK_AT: Final = 8
CHAIN: Final = aborted_chain(LENGTH)
FORK: Final = aborted_chain(LENGTH, fork_at=FORK_AT)
ZERO_SEAL: Final = "00" * 8
HELD, OVERWRITTEN, NEVER_ISSUED, UNREADABLE = range(4)


def seal(sequence: int, records: list[bytes] = CHAIN) -> str:
    return records[0][-16:-8].hex() if sequence == 0 else records[sequence - 1][-8:].hex()


def one(first: int, last: int, *, unknown_before: bool = False, unknown_last: bool = False) -> Range:
    return Range(first, last, None if unknown_before else seal(first - 1), None if unknown_last else seal(last))


def _shown(ranges: list[Range]) -> list[Fields]:
    names = ("first", "last", "seal_before_first", "seal_of_last")
    return [{name: getattr(each, name) for name in names} for each in ranges]


def _records(stretches: list[tuple[int, int]]) -> dict[int, tuple[str, str]]:
    sequences = [sequence for first, last in stretches for sequence in range(first, last + 1)]
    return {sequence: (seal(sequence - 1), seal(sequence)) for sequence in sequences}


# name, ranges before, (frame's first, last, records it comes from), and where it matters: stretches still stored,
# tombstoned stretches, `durable` of the log-in
Scenario = tuple[str, list[Range], tuple[int, int, list[bytes]], dict[str, Any]]
TAIL: Final = one(1, 6, unknown_last=True)
SCENARIOS: Final[list[Scenario]] = [
    ("first frame of an epoch", [], (1, 3, CHAIN), {}),
    ("first frame, after records another front-end took", [], (11, 13, CHAIN), {"durable": 10}),
    ("extends a range", [one(1, 5)], (6, 8, CHAIN), {}),
    ("extends a range, predecessor's seal differs", [one(1, 9)], (10, 12, FORK), {}),
    ("extends a range whose seal of last is unknown", [TAIL], (7, 9, CHAIN), {"tombstoned": [(5, 6)]}),
    ("extends a range whose seal of last is unknown, by a fork", [TAIL], (7, 9, FORK), {"tombstoned": [(5, 6)]}),
    ("extends and meets the next range: they merge", [one(1, 5), one(9, 12)], (6, 8, CHAIN), {}),
    ("extends and meets the next range, last seal differs", [one(1, 5), one(9, 12)], (6, 8, FORK), {}),
    ("merges into a range that a tombstone begins", [one(1, 5), one(9, 12, unknown_before=True)], (6, 8, CHAIN),
     {"tombstoned": [(9, 9)]}),
    ("extends the lower of two ranges, a hole stays", [one(1, 5), one(20, 22)], (6, 8, CHAIN), {}),
    ("touches no range, above all", [one(1, 5)], (9, 11, CHAIN), {}),
    ("touches no range, below all", [one(20, 22)], (9, 11, CHAIN), {}),
    ("touches no range, between two", [one(1, 5), one(20, 22)], (9, 11, CHAIN), {}),
    ("a fifth and sixth range: the lowest four above durable are listed",
     [one(1, 2), one(5, 6), one(9, 10), one(13, 14), one(17, 18)], (21, 22, CHAIN), {}),
    ("joins in front of a range", [one(9, 12)], (6, 8, CHAIN), {}),
    ("joins in front of a range, last seal differs", [one(12, 14)], (9, 11, FORK), {}),
    ("joins in front of a range that a tombstone begins", [one(9, 12, unknown_before=True)], (6, 8, FORK),
     {"tombstoned": [(9, 9)]}),
    ("duplicate, fully inside", [one(1, 12)], (4, 6, CHAIN), {"stored": [(1, 12)]}),
    ("duplicate, exactly a range", [one(4, 6)], (4, 6, CHAIN), {"stored": [(4, 6)]}),
    ("duplicate at the end of a range, all pruned: seal of last tells", [one(1, 12)], (9, 12, CHAIN), {}),
    ("duplicate, last record pruned, an earlier one still stored", [one(1, 12)], (4, 6, CHAIN), {"stored": [(4, 5)]}),
    ("fully inside, all pruned, nothing left to compare", [one(1, 12)], (4, 6, CHAIN), {}),
    ("fully inside, seal of the last differs", [one(1, 12)], (7, 9, FORK), {"stored": [(1, 12)]}),
    ("fully inside at the end, all pruned, seal of last differs", [one(1, 12)], (9, 12, FORK), {}),
    ("straddles the end: cut, the rest extends", [one(1, 5)], (4, 8, CHAIN), {"stored": [(1, 5)]}),
    ("straddles the end by a fork inside the range", [one(1, 9)], (8, 12, FORK), {"stored": [(1, 9)]}),
    ("straddles the beginning: cut, the rest joins in front", [one(9, 12)], (6, 10, CHAIN), {"stored": [(9, 12)]}),
    ("straddles the beginning by a fork", [one(9, 12)], (6, 10, FORK), {"stored": [(9, 12)]}),
    ("straddles from one range into the next: the hole is filled", [one(1, 5), one(9, 12)], (4, 10, CHAIN),
     {"stored": [(1, 5), (9, 12)]}),
    ("covers a whole range: one row on either side", [one(9, 10)], (6, 12, CHAIN), {"stored": [(9, 10)]}),
    ("covers two ranges: three rows", [one(9, 10), one(13, 13)], (8, 14, CHAIN), {"stored": [(9, 10), (13, 13)]}),
    ("records of a tombstoned stretch: stored, the stretch lapses", [one(1, 12)], (5, 7, CHAIN),
     {"stored": [(1, 4), (8, 12)], "tombstoned": [(5, 7)]}),
    ("records of a part of a tombstoned stretch", [one(1, 12)], (6, 6, CHAIN),
     {"stored": [(1, 4), (8, 12)], "tombstoned": [(5, 7)]}),
    ("records of a tombstoned stretch that do not fit the successor", [one(1, 15)], (6, 10, FORK),
     {"stored": [(1, 5), (11, 15)], "tombstoned": [(6, 10)]}),
    ("records of a tombstoned stretch at the end of a range", [TAIL], (5, 6, CHAIN),
     {"stored": [(1, 4)], "tombstoned": [(5, 6)]}),
    ("held records and a tombstoned stretch in one frame", [one(1, 12)], (3, 7, CHAIN),
     {"stored": [(1, 4), (8, 12)], "tombstoned": [(5, 7)]}),
]  # fmt: skip

TOMBSTONES: Final[list[tuple[str, list[Range], tuple[int, int]]]] = [
    ("tombstone extends a range", [one(1, 5)], (6, 8)),
    ("tombstone fills a hole", [one(1, 5), one(9, 12)], (6, 8)),
    ("tombstone touches no range", [one(1, 5)], (9, 11)),
    ("tombstone joins in front of a range", [one(9, 12)], (6, 8)),
    ("tombstone over what is held", [one(1, 12)], (4, 6)),
    ("tombstone over a range and both sides of it", [one(9, 10)], (6, 12)),
]

# name, ranges, first unacknowledged, next, seal before first unacknowledged, answer (status, seal)
Login = tuple[str, list[Range], int, int, str, tuple[int, str] | None]
LOGINS: Final[list[Login]] = [
    ("nothing held by anybody", [], 1, 1, seal(0), None),
    ("front-end holds nothing, terminal has been acknowledged to 10", [], 11, 15, seal(10), None),
    ("highest range ends at first unacknowledged - 1, seals equal", [one(1, 10)], 11, 15, seal(10), None),
    ("highest range ends at first unacknowledged - 1, seals differ", [one(1, 10)], 11, 15, seal(10, FORK), None),
    ("highest range ends at first unacknowledged - 1, its last seal unknown",
     [one(1, 10, unknown_last=True)], 11, 15, seal(10), None),
    ("terminal has gone back in time", [one(1, 10)], 5, 10, seal(4), None),
    ("acknowledgement was lost: held and equal", [one(1, 10)], 5, 15, seal(4), (HELD, seal(10))),
    ("acknowledgement was lost: held and equal, it is the terminal's last record",
     [one(1, 10)], 5, 11, seal(4), (HELD, seal(10))),
    ("held and different", [one(1, 10)], 5, 15, seal(4), (HELD, seal(10, FORK))),
    ("held, seal of last unknown", [one(1, 10, unknown_last=True)], 5, 15, seal(4), (HELD, seal(10))),
    ("never issued", [one(1, 10)], 5, 15, seal(4), (NEVER_ISSUED, ZERO_SEAL)),
    ("another front-end went on: held and equal", [one(1, 10)], 21, 25, seal(20), (HELD, seal(10))),
    ("another front-end went on: overwritten", [one(1, 10)], 21, 25, seal(20), (OVERWRITTEN, ZERO_SEAL)),
    ("another front-end went on: unreadable", [one(1, 10)], 21, 25, seal(20), (UNREADABLE, ZERO_SEAL)),
    ("unreadable where this front-end is ahead: all is offered again",
     [one(1, 10)], 5, 15, seal(4), (UNREADABLE, ZERO_SEAL)),
    ("highest range above a hole: listed, not durable", [one(12, 20)], 5, 25, seal(4), (HELD, seal(20))),
    ("two ranges: the lower one is durable, the upper listed",
     [one(1, 10), one(20, 30)], 5, 31, seal(4), (HELD, seal(30))),
    ("two ranges, the lower one ends at first unacknowledged - 1",
     [one(1, 10), one(20, 30)], 11, 31, seal(10), (HELD, seal(30))),
    ("six ranges above a hole: the lowest four are listed",
     [one(3, 3), one(5, 5), one(7, 7), one(9, 9), one(11, 11), one(13, 13)], 1, 15, seal(0), (HELD, seal(13))),
]  # fmt: skip


def _frame_case(name: str, ranges: list[Range], taken: tuple[int, int, list[bytes]], more: Fields) -> Case:
    first, last, source = taken
    stored, tombstoned, durable = more.get("stored", []), more.get("tombstoned", []), more.get("durable", 0)
    records = source[first - 1 : last]
    frame = Frame(first, [seal(sequence, source) for sequence in range(first - 1, last + 1)])
    found, rows, after = accept_frame(Held(ranges, tombstoned, _records(stored)), frame)
    suspect = found == "suspect"
    given = {
        "ranges": _shown(ranges),
        "tombstoned": [list(stretch) for stretch in tombstoned],
        "stored_records": [list(stretch) for stretch in stored],
        "durable_at_login": durable,
        "frame": {"first": first, "last": last, "predecessor_seal": frame.seals[0], "seal": frame.seals[-1]},
    }
    expected = {
        "case": found,
        "rows": [list(row) for row in rows],
        "ranges": _shown(after.ranges),
        "tombstoned": [list(stretch) for stretch in after.tombstoned],
        "ack": None if suspect else acknowledgement(after, durable),
        "bye": 5 if suspect else None,
    }
    return case(name, given, build_message(upload(records)), expected=expected)


def _tombstone_case(name: str, ranges: list[Range], first: int, last: int) -> Case:
    after = accept_tombstone(Held(ranges), first, last)
    given = {"ranges": _shown(ranges), "durable_at_login": 0, "tombstone": {"first": first, "last": last}}
    expected = {
        "case": "tombstone",
        "ranges": _shown(after.ranges),
        "tombstoned": [list(stretch) for stretch in after.tombstoned],
        "ack": acknowledgement(after, 0),
    }
    return case(name, given, build_message(sealed_message(tombstone(first, last), SEAL_KEY)), expected=expected)


def _login_case(
    name: str, ranges: list[Range], first_unacknowledged: int, following: int, before: str, answer: Any
) -> Case:
    entry: dict[str, int | str] = {
        "epoch": EPOCH,
        "oldest_held": 1,
        "first_unacknowledged": first_unacknowledged,
        "next": following,
        "seal_before_first_unacknowledged": before,
    }
    told = None if answer is None else {"status": answer[0], "seal": answer[1]}
    given = {"ranges": _shown(ranges), "entry": entry, "seal_answer": told}
    return case(f"log-in: {name}", given, expected=log_in(Held(ranges), entry, told))


def _refused() -> list[Case]:
    """The check of O(1)."""
    other = aborted_chain(3)
    holed = build_message(upload([CHAIN[0], CHAIN[2]]))
    epochs = [other[0], other[1][:5] + b"\x63" + other[1][6:]]
    terminals = [other[0], other[1][:11] + b"\x63" + other[1][12:]]
    return [
        case("refused: two records, sequences 1 and 3", {"terminal": TERMINAL}, holed, error="malformed"),
        case("refused: two epochs", {"terminal": TERMINAL}, build_message(upload(epochs)), error="malformed"),
        case("refused: two terminals", {"terminal": TERMINAL}, build_message(upload(terminals)), error="malformed"),
        case(
            "refused: another terminal than the session's",
            {"terminal": TERMINAL + 1},
            build_message(upload(other)),
            error="malformed",
        ),
    ]


def section_8() -> Fields:
    cases = [
        case("the chain", {"sequences": [1, LENGTH]}, b"".join(CHAIN)),
        case("the fork", {"sequences": [1, LENGTH], "differs_from": FORK_AT}, b"".join(FORK)),
    ]
    cases += [_login_case(*each) for each in LOGINS]
    cases += [_frame_case(*each) for each in SCENARIOS]
    cases += [_tombstone_case(name, ranges, *stretch) for name, ranges, stretch in TOMBSTONES]
    return section("8. Upload, ranges, acknowledgement", cases + _refused())
