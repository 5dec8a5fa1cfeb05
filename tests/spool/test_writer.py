"""Group commit: how intakes gather, what happens when the disk fails, and how it ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.errors import SpoolBusy, SpoolClosed, SpoolError, SpoolFailure
from ledger_sync.spool import Outcome, OutcomeKind, Spool, SpoolState, SpoolWriter
from tests.simulation.world import World
from tests.spool.kit import HeldExecutor, ListLog, StillClock, Terminal, open_spool


class Bench:
    """A writer whose executor waits to be told."""

    def __init__(self, path: Path, **limits: Any) -> None:
        self.log = ListLog()
        self.clock = StillClock()
        self.free = 100
        self.spool: Spool = open_spool(path, log=self.log, clock=self.clock, free_bytes=lambda: (self.free, 100))
        self.executor = HeldExecutor()
        self.writer = SpoolWriter(self.spool, executor=self.executor, clock=self.clock, log=self.log, **limits)
        self.answers: list[Outcome | SpoolError] = []
        self.terminal = Terminal()
        self.sold = 0
        self.marks: list[tuple[bool, int]] = []
        """(urgent, sequence) of what was answered to `submit_by`, in order."""

    def submit(self, count: int = 1) -> None:
        for _ in range(count):
            self.writer.submit(self.terminal.frame(self.sold + 1, self.sold + 4), self.answers.append)
            self.sold += 4

    def durable(self) -> list[int]:
        return [answer.durable for answer in self.answers if isinstance(answer, Outcome)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool.db")
    yield made
    made.spool.close()


def test_what_arrives_while_the_disk_is_busy_shares_one_commit(bench: Bench) -> None:
    before = bench.spool.commits
    bench.submit(64)
    assert bench.answers == []
    bench.executor.run_all()
    assert bench.durable() == [4 * n for n in range(1, 65)]
    # The first submit went at once and alone; the 63 that came meanwhile went together.
    assert bench.spool.commits == before + 2
    assert bench.writer.groups == 2


def test_nothing_is_answered_before_its_commit(bench: Bench) -> None:
    bench.submit(3)
    bench.executor.step()
    assert bench.durable() == [4]
    bench.executor.step()
    assert bench.durable() == [4, 8, 12]


def test_a_group_is_bounded_in_intakes_and_bytes(tmp_path: Path) -> None:
    frame_bytes = len(Terminal().frame(1, 4).payload)
    for limits in ({"group_intakes_max": 4}, {"group_bytes_max": 4 * frame_bytes}):
        bench = Bench(tmp_path / f"{next(iter(limits))}.db", **limits)
        bench.submit(9)
        bench.executor.run_all()
        assert bench.writer.groups == 3
        assert len(bench.answers) == 9
        bench.spool.close()


def test_a_full_queue_has_no_room_and_takes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db", intakes_queued_max=5)
    bench.submit(6)
    assert not bench.writer.has_room()
    with pytest.raises(SpoolBusy) as caught:
        bench.submit()
    assert caught.value.intakes == 5
    bench.executor.step()
    assert bench.writer.has_room()
    bench.executor.run_all()
    assert len(bench.answers) == 6
    bench.spool.close()


def test_queued_bytes_are_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db", bytes_queued_max=1)
    bench.submit(2)
    assert not bench.writer.has_room()
    bench.executor.run_all()
    bench.spool.close()


def test_a_failed_group_is_refused_whole_and_the_spool_reopened(bench: Bench) -> None:
    bench.submit(1)
    bench.executor.run_all()
    connection = bench.spool._open_handles().connection
    connection.execute("PRAGMA query_only = ON")
    bench.submit(3)
    bench.executor.run_all()
    assert [type(answer) for answer in bench.answers[1:]] == [SpoolFailure, SpoolClosed, SpoolClosed]
    assert bench.writer.refused == 3
    assert bench.spool.state is SpoolState.FAILED
    assert "spool.group_refused" in bench.log.alarms()
    bench.clock.advance(1_000)
    bench.executor.run_all()
    assert bench.spool.state.value == "open"
    bench.writer.submit(bench.terminal.frame(1, 16), bench.answers.append)
    bench.executor.run_all()
    answer = bench.answers[-1]
    assert isinstance(answer, Outcome)
    assert (answer.kind, answer.durable) == (OutcomeKind.PARTLY, 16)


def test_reopening_is_tried_again_until_it_works(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.spool._open_handles().connection.execute("PRAGMA query_only = ON")
    bench.submit(1)
    bench.executor.run_all()

    def refuse() -> None:
        raise SpoolFailure("still no disk")

    with monkeypatch.context() as patch:
        patch.setattr(bench.spool, "reopen", refuse)
        for _ in range(3):
            bench.clock.advance(1_000)
            bench.executor.run_all()
    assert bench.log.alarms().count("spool.reopen_failed") == 3
    bench.clock.advance(1_000)
    bench.executor.run_all()
    assert bench.spool.state is SpoolState.OPEN
    assert bench.clock.timers == []


def test_a_full_disk_refuses_the_group_but_keeps_the_spool_open(bench: Bench) -> None:
    bench.free = 1
    bench.submit(1)
    bench.executor.run_all()
    assert isinstance(bench.answers[0], SpoolFailure)
    assert bench.spool.state is SpoolState.OPEN
    bench.free = 50
    bench.sold = 0
    bench.submit(1)
    bench.executor.run_all()
    assert bench.durable() == [4]


def test_flush_is_told_when_everything_before_is_answered(bench: Bench) -> None:
    told: list[int] = []
    bench.writer.flush(lambda: told.append(len(bench.answers)))
    assert told == [0]
    bench.submit(3)
    bench.writer.flush(lambda: told.append(len(bench.answers)))
    bench.executor.step()
    assert told == [0]
    bench.executor.run_all()
    assert told == [0, 3]


def test_close_commits_what_is_queued_and_takes_nothing_more(bench: Bench) -> None:
    told: list[str] = []
    bench.submit(3)
    bench.writer.close(lambda: told.append("closed"))
    with pytest.raises(SpoolClosed):
        bench.submit(1)
    bench.executor.run_all()
    bench.writer.close()
    assert bench.durable() == [4, 8, 12]
    assert told == ["closed"]
    assert bench.spool.state is SpoolState.CLOSED


def test_other_work_runs_between_groups_on_the_same_executor(bench: Bench) -> None:
    seen: list[object] = []
    bench.submit(1)
    bench.writer.run(lambda spool: spool.facts().rows, lambda result, error: seen.append((result, error)))
    bench.executor.run_all()
    assert seen == [(1, None)]


def test_the_writer_runs_under_virtual_time(tmp_path: Path) -> None:
    from tests.simulation.world import Host

    world = World(3)
    host = Host(world, "front-end")
    spool = open_spool(tmp_path / "spool.db", clock=host)
    writer = SpoolWriter(spool, executor=host, clock=host, log=ListLog())
    answers: list[Outcome | SpoolError] = []
    terminal = Terminal()
    for n in range(20):
        world.at(n, lambda n=n: writer.submit(terminal.frame(n + 1, n + 1), answers.append))  # type: ignore[misc]
    world.run_until(1_000)
    assert [answer.durable for answer in answers if isinstance(answer, Outcome)] == list(range(1, 21))
    assert writer.groups < 20
    spool.close()


def submit_by(bench: Bench, terminal: Terminal, count: int, *, first: int = 0, is_urgent: bool = False) -> None:
    """Frames of one record each; `bench.marks` tells in which order they were answered."""
    for sequence in range(first + 1, first + count + 1):
        bench.writer.submit(
            terminal.frame(sequence, sequence),
            lambda _, mark=(is_urgent, sequence): bench.marks.append(mark),  # type: ignore[misc]  # bound now
            is_urgent=is_urgent,
        )


def test_what_is_urgent_overtakes_what_waits_and_each_lane_keeps_its_order(bench: Bench) -> None:
    backlog, live = Terminal(), Terminal(terminal=Terminal().terminal + 1)
    submit_by(bench, backlog, 5)
    submit_by(bench, live, 3, is_urgent=True)
    bench.executor.run_all()
    ordinary = [(False, sequence) for sequence in range(1, 6)]
    assert bench.marks == [ordinary[0], *((True, sequence) for sequence in range(1, 4)), *ordinary[1:]]


def test_an_eighth_of_every_group_is_kept_for_a_backlog(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db", group_intakes_max=16)
    backlog, live = Terminal(), Terminal(terminal=Terminal().terminal + 1)
    submit_by(bench, backlog, 9)  # the first goes alone
    submit_by(bench, live, 60, is_urgent=True)
    bench.executor.step()
    for _ in range(3):
        bench.executor.step()
        assert [is_urgent for is_urgent, _ in bench.marks[-16:]] == [True] * 14 + [False] * 2
    bench.executor.run_all()
    assert len(bench.marks) == 69
    bench.spool.close()


def test_a_lane_alone_has_the_whole_group_and_both_count_for_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db", group_intakes_max=16, intakes_queued_max=40)
    live = Terminal()
    submit_by(bench, live, 33, is_urgent=True)
    bench.executor.run_all()
    assert bench.writer.groups == 3
    submit_by(bench, live, 21, first=33, is_urgent=True)
    submit_by(bench, live, 20, first=54)
    with pytest.raises(SpoolBusy):
        submit_by(bench, live, 1, first=74)
    flushed: list[bool] = []
    bench.writer.flush(lambda: flushed.append(True))
    bench.executor.run_all()
    assert flushed == [True]
    assert len(bench.marks) == 74
    bench.spool.close()
