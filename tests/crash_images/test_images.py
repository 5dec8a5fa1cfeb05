"""No power cut loses what was acknowledged; and the same cuts find every way of promising too early that is tried."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ledger_sync.ledger.core import Ledger
from ledger_sync.spool import identity
from tests.crash_images.__main__ import cut
from tests.crash_images.disk import Disk, DiskVfs, Operation
from tests.crash_images.images import GARBAGE_BYTES_MIN, Platter
from tests.crash_images.judging import WORKED_ON_EVERY
from tests.crash_images.ledger_work import LedgerJudge, LedgerWork
from tests.crash_images.running import Cutter, Day, Tally, days_of, live
from tests.crash_images.spool_work import SpoolJudge, SpoolWork

IMAGES: Final = 100_000  # drawn; about half of them differ
CONTROL_IMAGES: Final = 1_200
DRAWS_MAX: Final = 200_000  # some hundred times what the rarest of them takes
SECONDS_MAX: Final = 600  # about 100 on two free cores; a loaded machine is no failure


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def vfs(lock: Path) -> Iterator[DiskVfs]:
    made = DiskVfs("crash-test", lock)
    yield made
    made.unregister()


@pytest.mark.timeout(SECONDS_MAX)
def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seed = int(pytestconfig.option.hypothesis_seed) % 2**20
    print(f"replay: make images IMAGES={IMAGES} SEED={seed}")
    sums, _ = cut(IMAGES, seed, os.cpu_count() or 1, tmp_path)
    for sum_ in sums.values():
        assert sum_.findings == []
        assert sum_.opened > IMAGES // 10
        assert sum_.worked_on >= sum_.recovered // WORKED_ON_EVERY > 0
        assert sum_.cut_again > sum_.opened // 50
        assert min(sum_.manners.values()) > 0
    drawn, opened = (sum(getattr(sum_, what) for sum_ in sums.values()) for what in ("drawn", "opened"))
    print(f"{drawn:,} images, {opened:,} of them different")
    assert drawn >= IMAGES


@pytest.mark.parametrize("subject", ["spool", "ledger"])
def test_a_sync_less_loses_acknowledged_steps(subject: str, lock: Path) -> None:
    tally = live(Day(subject, 1, CONTROL_IMAGES, "NORMAL"), lock)
    print(tally.findings[:3])
    # of the ledger the heads are ahead, so it does not even open
    assert tally.wrong > tally.opened // 10
    assert subject == "ledger" or tally.lost > tally.opened // 10


@pytest.mark.parametrize("subject", ["spool", "ledger"])
def test_no_sync_at_all_corrupts(subject: str, lock: Path) -> None:
    tally = live(Day(subject, 1, CONTROL_IMAGES, "OFF"), lock)
    print(tally.findings)
    assert tally.wrong > tally.opened // 5
    assert subject == "ledger" or any("CorruptError" in finding for finding in tally.findings)


@pytest.mark.parametrize("subject", ["spool", "ledger"])
def test_a_disk_that_lies_about_syncs_is_beyond_any_promise(subject: str, vfs: DiskVfs) -> None:
    disk = Disk(is_lying=True)
    assert _cuts(subject, vfs, disk).wrong > CONTROL_IMAGES // 5


@pytest.mark.parametrize("subject", ["spool", "ledger"])
def test_an_acknowledgement_before_the_sync_is_found(subject: str, vfs: DiskVfs) -> None:
    """The same day, told as if each step had returned before the sync of its commit."""
    last = 1 if subject == "spool" else 2  # a ledger's commit is followed by the sync of its head, which may be lost

    def early(journal: list[Operation]) -> list[Operation]:
        told: list[Operation] = []
        for done in journal:
            syncs = [at for at, before in enumerate(told) if before.kind == "sync"]
            told.insert(syncs[-last] if done.kind == "mark" and len(syncs) >= last else len(told), done)
        return told

    tally = _cuts(subject, vfs, Disk(), told=early)
    assert tally.lost > 0


def test_a_head_written_before_its_commit_makes_a_healthy_ledger_look_touched(
    vfs: DiskVfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def head_first(ledger: Any, work: Any) -> Any:
        ledger.connection.execute("BEGIN IMMEDIATE")
        try:
            done, line = work()
            ledger._anchor.append(line)
            ledger.connection.execute("COMMIT")
        except BaseException:
            ledger._roll_back()
            raise
        ledger._load()
        return done

    monkeypatch.setattr(Ledger, "_transaction", head_first)
    tally = _cuts("ledger", vfs, Disk(), steps=5, unpatch=monkeypatch)
    assert any("the heads file knows position" in finding for finding in tally.findings)


def test_heads_that_are_never_synced_make_a_healthy_ledger_look_touched(
    vfs: DiskVfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disk, "sync_or_doubt", lambda self, name, data: name.endswith("heads") or self.sync(data))
    tally = _cuts("ledger", vfs, Disk(), unpatch=monkeypatch)
    assert any("heads file row" in finding for finding in tally.findings)


def test_an_id_file_written_before_the_spool_is_durable_is_found(vfs: DiskVfs, monkeypatch: pytest.MonkeyPatch) -> None:
    true = identity.establish

    def too_soon(connection: Any, path: str, **ports: Any) -> Any:
        connection.execute("PRAGMA synchronous = OFF")
        try:
            return true(connection, path, **ports)
        finally:
            connection.execute("PRAGMA synchronous = FULL")

    monkeypatch.setattr("ledger_sync.spool.store.establish", too_soon)
    tally = _cuts("spool", vfs, Disk(), steps=2, unpatch=monkeypatch)
    assert any("spool.missing" in finding for finding in tally.findings)


def _cuts(
    subject: str,
    vfs: DiskVfs,
    disk: Disk,
    *,
    steps: int = 20,
    told: Any = list,
    unpatch: pytest.MonkeyPatch | None = None,
) -> Tally:
    """One day with something planted, judged without it."""
    judge: Any
    if subject == "spool":
        trace: Any = SpoolWork(vfs, 5).run(disk, steps)
        judge = SpoolJudge(vfs, trace)
    else:
        trace = LedgerWork(vfs, 5).run(disk, steps)
        judge = LedgerJudge(vfs, trace)
    if unpatch is not None:
        unpatch.undo()
    return Cutter(Day(subject, 5, CONTROL_IMAGES), judge, trace.states, told(trace.disk.journal)).run()


def test_a_seed_gives_the_same_days_and_the_same_cuts(lock: Path) -> None:
    assert list(days_of(3, 9_000)) == list(days_of(3, 9_000))
    assert list(days_of(3, 9_000)) != list(days_of(4, 9_000))
    first, second, other = (live(Day("spool", seed, 200), lock) for seed in (7, 7, 8))
    assert first == second
    assert first != other


# -- the disk itself --------------------------------------------------------------------------------------------------


Leaving = tuple[tuple[str, bytes], ...]


def leavings(disk: Disk, draws: int = 3_000, *, until: Collection[Leaving] = ()) -> set[Leaving]:
    """Every image that so many cuts after the last operation have left; more cuts, until those have all come."""
    platter, rng = Platter(), random.Random(1)
    for done in disk.journal:
        platter.step(done)
    left = {tuple(sorted(platter.draw(rng)[1].items())) for _ in range(draws)}
    for _ in range(DRAWS_MAX):
        if left.issuperset(until):
            break
        left.add(tuple(sorted(platter.draw(rng)[1].items())))
    return left


def synced_file(disk: Disk, content: bytes) -> bytearray:
    data = disk.open("f", create=True)
    assert data is not None
    disk.write(data, 0, content)
    disk.sync(data)
    disk.sync_names()
    return data


def test_what_is_synced_has_one_image_only() -> None:
    disk = Disk()
    synced_file(disk, b"abc")
    assert leavings(disk) == {(("f", b"abc"),)}


def test_writes_that_are_not_synced_arrive_in_any_combination_and_torn() -> None:
    disk = Disk()
    data = synced_file(disk, b"abcd")
    disk.write(data, 0, b"X")
    disk.write(data, 3, b"YZ")
    wanted = {b"abcd", b"Xbcd", b"abcYZ", b"XbcYZ", b"XbcY", b"abcdZ"}
    left = {dict(image)["f"] for image in leavings(disk, until={(("f", one),) for one in wanted})}
    assert wanted <= left
    assert all(one[1:3] == b"bc" for one in left)  # nothing outside what was written


def test_the_place_of_a_longer_write_may_hold_what_nobody_wrote() -> None:
    disk = Disk()
    data = synced_file(disk, b"a" * 100)
    disk.write(data, 8, b"b" * 64)
    left = {dict(image)["f"] for image in leavings(disk)}
    assert any(bytes(GARBAGE_BYTES_MIN) in one for one in left)  # zeros
    assert any(set(one) - {0, *b"ab"} for one in left)  # rubbish
    assert all((one[:8], one[72:]) == (b"a" * 8, b"a" * 28) for one in left)


def test_a_name_lasts_once_its_directory_is_synced() -> None:
    disk = Disk()
    data = disk.open("f", create=True)
    assert data is not None
    disk.write(data, 0, b"abc")
    disk.sync(data)
    assert leavings(disk) == {(), (("f", b"abc"),)}
    disk.sync_names()
    disk.rename("f", "g")
    assert leavings(disk) == {(("f", b"abc"),), (("g", b"abc"),), (("f", b"abc"), ("g", b"abc")), ()}
    disk.sync_names()
    assert leavings(disk) == {(("g", b"abc"),)}


def test_what_a_failed_sync_left_in_doubt_stays_so_when_the_next_one_succeeds() -> None:
    disk = Disk()
    data = synced_file(disk, b"abcd")
    disk.write(data, 0, b"X")
    disk.journal.append(Operation("doubt", disk.inode(data)))
    disk.write(data, 3, b"Y")
    disk.sync(data)
    assert {dict(image)["f"] for image in leavings(disk)} >= {b"abcY", b"XbcY"}
    assert all(dict(image)["f"].endswith(b"bcY") for image in leavings(disk))
