"""Rows first, tables later: whenever it is folded, and whatever is cut off in between, the spool is the same."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from ledger_sync.errors import ForeignSpool, SpoolDamaged
from ledger_sync.spool import BaselineIntake, Intake, Outcome, OutcomeKind, RecordsIntake, Spool, epochs
from ledger_sync.spool import accept as accepting
from ledger_sync.spool.places import RUN_ROWS_MAX, runs_of
from ledger_sync.spool.reader import SpoolReader
from protocol.codes import RowKind
from protocol.records import SINGLE
from tests.spool.kit import NOW_MS, Terminal, append_one, open_spool, prune_after, receipt_for

SEEDS: Final = range(6)
GROUPS: Final = 40
NEVER: Final = 1 << 40
UPTIME_DS: Final = 20_000  # at log-in: later than every record of `kit.Terminal` here


def history(seed: int) -> list[list[Intake]]:
    """Groups of intakes of a few terminals: mostly the next sale, and everything else that comes."""
    rng = random.Random(seed)
    terminals = [Terminal(number) for number in (1, 2, 3)]
    twins: dict[int, Terminal] = {}
    next_first = {terminal.terminal: 1 for terminal in terminals}
    groups: list[list[Intake]] = []
    for terminal in terminals:
        message = terminal.baseline(1, 1, uptime_ds=UPTIME_DS).encode()
        groups.append([BaselineIntake(terminal.terminal, 1, message, NOW_MS)])
    for _ in range(GROUPS):
        group: list[Intake] = []
        for _ in range(rng.randint(1, 6)):
            terminal = rng.choice(terminals)
            first = next_first[terminal.terminal]
            what = rng.random()
            if what < 0.6:
                frame = terminal.frame(first, first + (0 if rng.random() < 0.7 else rng.randint(1, 4)))
            elif what < 0.7:
                frame = terminal.frame(first + 3, first + 3)  # a hole
            elif what < 0.85:
                frame = terminal.frame(max(1, first - rng.randint(1, 6)), max(1, first - 1) + rng.randint(0, 2))
            elif what < 0.93 or first < 4:
                group.append(terminal.tombstone(first, first + rng.randint(0, 2)))
                continue
            else:
                twin = twins.setdefault(terminal.terminal, terminal.forked(first - 2))
                frame = twin.frame(first - 1, first - 1)
            group.append(with_head(frame))
            next_first[terminal.terminal] = max(first, frame_last(frame) + 1)
        groups.append(group)
    return groups


def frame_last(frame: RecordsIntake) -> int:
    return int.from_bytes(frame.payload[12:16], "big") + frame.payload.count(frame.payload[4:12]) - 1


def with_head(frame: RecordsIntake) -> RecordsIntake:
    """As a front-end hands a frame over."""
    is_single = len(frame.payload) == frame.payload[1]
    return replace(frame, single=SINGLE.unpack_from(frame.payload)) if is_single else frame


def looks(spool: Spool, path: Path) -> dict[str, Any]:
    """All that anybody can ask, of the server and beside it."""
    keys = [(number, 1) for number in (1, 2, 3)]
    with SpoolReader.open(str(path)) as reader:
        assert reader.verify() == []
        beside = (
            reader.totals(),
            reader.epochs(),
            reader.held((0, 0)),
            reader.rows(limit=1000),
            [[reader.rows_with(key, sequence) for sequence in range(1, 40)] for key in keys],
            [[reader.seal_at(key, sequence) for sequence in range(1, 40)] for key in keys],
        )
    return {
        "totals": spool.totals(),
        "held": [spool.held(*key) for key in keys],
        "look": spool.look((0, 0), 100),
        "beside": beside,
    }


def copied(path: Path, to: Path) -> Path:
    """The files as a killed process leaves them."""
    to.mkdir()
    for file in path.parent.glob(path.name + "*"):
        shutil.copy(file, to / file.name)
    return to / path.name


@pytest.fixture(params=SEEDS)
def groups(request: pytest.FixtureRequest) -> list[list[Intake]]:
    print(f"seed {request.param}")
    return history(request.param)


def run(path: Path, groups: list[list[Intake]]) -> tuple[Spool, list[list[Outcome]]]:
    path.parent.mkdir()
    spool = open_spool(path)
    return spool, [spool.append(group) for group in groups]


def test_when_it_is_folded_makes_no_difference(
    tmp_path: Path, groups: list[list[Intake]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, rows_max, counted_max in (("always", 0, 1), ("now and then", 7, 3), ("never", NEVER, NEVER)):
        monkeypatch.setattr(accepting, "FOLD_ROWS_MAX", rows_max)
        monkeypatch.setattr(accepting, "COUNTED_MAX", counted_max)
        path = tmp_path / name / "spool.db"
        spool, outcomes = run(path, groups)
        killed = open_spool(copied(path, tmp_path / f"{name}, killed"))
        before = looks(spool, path)
        found += [(outcomes, before), (outcomes, looks(killed, tmp_path / f"{name}, killed" / "spool.db"))]
        spool.fold()
        found.append((outcomes, looks(spool, path)))
        again = [(spool.append(group), killed.append(group)) for group in groups[-10:]]
        assert all(ours == theirs for ours, theirs in again)
        spool.close()
        killed.close()
    kinds = {outcome.kind for group in found[0][0] for outcome in group}
    assert {OutcomeKind.ACCEPTED, OutcomeKind.DUPLICATE, OutcomeKind.SUSPECT} <= kinds
    for each in found[1:]:
        assert each == found[0]


def test_a_head_that_was_read_before_makes_no_difference(tmp_path: Path, groups: list[list[Intake]]) -> None:
    plain: list[list[Intake]] = [
        [replace(each, single=None) if isinstance(each, RecordsIntake) else each for each in group] for group in groups
    ]
    short_path, plain_path = tmp_path / "short" / "spool.db", tmp_path / "plain" / "spool.db"
    short, short_outcomes = run(short_path, groups)
    general, plain_outcomes = run(plain_path, plain)
    assert short_outcomes == plain_outcomes
    assert looks(short, short_path) == looks(general, plain_path)
    ours, theirs = short.claim(), general.claim()
    assert ours is not None
    assert theirs is not None
    assert ours.rows == theirs.rows
    short.close()
    general.close()


def test_a_spool_of_version_1_is_taken_on(tmp_path: Path, groups: list[list[Intake]]) -> None:
    path = tmp_path / "one" / "spool.db"
    spool, _ = run(path, groups)
    before = looks(spool, path)
    spool.close()
    connection = apsw.Connection(str(path))
    connection.execute(
        "DROP TABLE runs; DROP TABLE counted; DELETE FROM meta WHERE name = 'folded_to';"
        "CREATE INDEX rows_by_sequence ON rows (terminal, epoch, kind, last); PRAGMA user_version = 1"
    )
    connection.close()
    spool = open_spool(path)
    assert looks(spool, path) == before
    (duplicate,) = groups[4][:1]
    assert append_one(spool, duplicate).kind is not OutcomeKind.ACCEPTED
    spool.close()


def test_what_is_pruned_is_not_looked_for_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "FOLD_ROWS_MAX", 4)
    path = tmp_path / "spool.db"
    spool, terminal = open_spool(path), Terminal()
    for sequence in range(1, 11):
        append_one(spool, terminal.frame(sequence, sequence))
    batch = spool.claim(2, 3)
    assert batch is not None
    assert spool.settle(receipt_for(batch))
    assert prune_after(spool, 8) == 3
    with SpoolReader.open(str(path)) as reader:
        assert reader.verify() == []
        assert [reader.rows_with((1001, 1), sequence) for sequence in (2, 3, 5, 6)] == [[2], [], [], [6]]
    assert append_one(spool, terminal.frame(2, 2)).kind is OutcomeKind.DUPLICATE
    assert append_one(spool, terminal.forked(1).frame(2, 2)).kind is OutcomeKind.SUSPECT
    spool.close()


def test_a_row_beside_the_ranges_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool, terminal = open_spool(path), Terminal()
    append_one(spool, terminal.frame(1, 1))
    spool.fold()
    append_one(spool, terminal.frame(2, 2))
    killed = copied(path, tmp_path / "killed")
    spool.close()
    connection = apsw.Connection(str(killed))
    connection.execute("UPDATE ranges SET first = 7, last = 7")
    connection.close()
    with SpoolReader.open(str(killed)) as reader:
        assert any("lies beside the ranges" in text for text in reader.verify())
    with pytest.raises(SpoolDamaged, match="row 2"):
        open_spool(killed)


def test_rows_are_folded_once_they_are_old_enough_and_no_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "FOLD_ROWS_MAX", 10)
    spool, terminals = open_spool(tmp_path / "spool.db"), [Terminal(number) for number in range(1, 6)]
    handles, waiting = spool._open_handles(), []
    for sequence in range(1, 9):
        for terminal in terminals:
            append_one(spool, terminal.frame(sequence, sequence))
            oldest = handles.epochs.oldest_recent_row()
            waiting.append(0 if oldest is None else spool.last_row() - oldest + 1)
    assert waiting[:10] == list(range(1, 11))
    assert max(waiting) == 10
    spool.close()


def test_a_run_is_consecutive_and_bounded() -> None:
    records = [(int(RowKind.RECORDS), each, each, 1000 + each) for each in range(1, RUN_ROWS_MAX + 3)]
    hole = (int(RowKind.RECORDS), 900, 901, 1)
    suspects = [(int(RowKind.SUSPECT), 5, 5, 2), (int(RowKind.SUSPECT), 6, 6, 3)]
    found = list(runs_of([*suspects, hole, *records]))
    assert [(kind, len(run)) for kind, run in found if kind == RowKind.SUSPECT] == [(RowKind.SUSPECT, 1)] * 2
    assert [len(run) for kind, run in found if kind == RowKind.RECORDS] == [RUN_ROWS_MAX, 2, 1]
    assert found[-1] == (RowKind.RECORDS, [(901, 1)])


def test_a_reader_refuses_version_1_and_says_who_takes_it_on(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    spool.close()
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(ForeignSpool, match="a server takes it on"), SpoolReader.open(str(tmp_path / "spool.db")):
        pass


def test_an_epoch_with_rows_that_are_not_folded_stays_in_memory(tmp_path: Path) -> None:
    spool, terminals = open_spool(tmp_path / "spool.db"), [Terminal(number) for number in range(1, 9)]
    handles = spool._open_handles()
    handles.epochs._cached_max = 3
    for terminal in terminals:
        append_one(spool, terminal.frame(1, 1))
    assert len(handles.epochs) == 8
    spool.fold()
    assert len(handles.epochs) == 3
    for terminal in terminals:
        assert append_one(spool, terminal.frame(2, 2)).durable == 2
    spool.close()


def test_one_epoch_never_has_many_rows_to_look_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "RECENT_ROWS_MAX", 8)
    path = tmp_path / "spool.db"
    spool, hasty, calm = open_spool(path), Terminal(1), Terminal(2)
    handles = spool._open_handles()
    append_one(spool, calm.frame(1, 1))
    for first in range(1, 100, 3):
        spool.append([hasty.frame(sequence, sequence) for sequence in range(first, first + 3)])
        assert len(handles.epochs.recent((1, 1))) < 8
        assert handles.epochs.oldest_recent_row() == 1
    killed = open_spool(copied(path, tmp_path / "killed"))
    assert killed.held(1, 1) == spool.held(1, 1)
    assert append_one(killed, calm.frame(2, 2)).durable == 2
    with SpoolReader.open(str(tmp_path / "killed" / "spool.db")) as reader:
        assert reader.verify() == []
        assert [reader.rows_with((1, 1), sequence) for sequence in (1, 50, 99)] == [[2], [51], [100]]
    spool.close()
    killed.close()
