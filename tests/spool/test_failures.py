"""What a spool is worth when things go wrong: kills, failing disks, missing files, foreign files."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from ledger_sync.errors import ForeignSpool, SpoolClosed, SpoolFailure, UnsafeSqlite
from ledger_sync.spool import Spool, SpoolState, schema
from ledger_sync.spool.reader import SpoolReader
from tests.spool.kit import ListLog, SeededRandom, Terminal, append_one, open_spool, receipt_for, spans

ROOT = Path(__file__).parents[2]


class Faults:
    """Counts writes, syncs and truncations of one VFS; fails the k-th, or all from the k-th on."""

    def __init__(self) -> None:
        self.operations = 0
        self.fail_at = 0
        self.persistent = False

    def passes(self) -> None:
        self.operations += 1
        hit = self.operations >= self.fail_at if self.persistent else self.operations == self.fail_at
        if self.fail_at and hit:
            raise apsw.IOError("planted")

    def heal(self) -> None:
        self.fail_at = 0


class FaultyFile(apsw.VFSFile):
    def __init__(self, base: str, name: Any, flags: list[int], faults: Faults) -> None:
        self._faults = faults
        super().__init__(base, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw's name
        self._faults.passes()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        self._faults.passes()
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        self._faults.passes()
        super().xTruncate(newsize)


class FaultyVfs(apsw.VFS):
    def __init__(self, name: str, faults: Faults) -> None:
        self._faults = faults
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        return FaultyFile("", name, flags, self._faults)


@pytest.fixture
def faults() -> Iterator[Faults]:
    found = Faults()
    vfs = FaultyVfs("faulty", found)
    yield found
    vfs.unregister()


def scenario(spool: Spool, acknowledged: list[tuple[int, int]]) -> None:
    """Ten groups, a settlement, a checkpoint; `acknowledged` gathers (terminal, durable) as they come."""
    terminals = [Terminal(1), Terminal(2)]
    for group in range(5):
        for terminal in terminals:
            (outcome,) = spool.append([terminal.frame(3 * group + 1, 3 * group + 3)])
            acknowledged.append((terminal.terminal, outcome.durable))
    batch = spool.claim()
    assert batch is not None
    spool.settle(receipt_for(batch))
    spool.checkpoint()
    spool.append([terminals[0].frame(16, 18)])
    acknowledged.append((1, 18))


def held_in_file(spool: Spool, terminal: int) -> int:
    return max((held.last for held in spool.held(terminal, 1)), default=0)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_whatever_write_or_sync_fails_nothing_acknowledged_is_lost(
    tmp_path: Path, faults: Faults, persistent: bool
) -> None:
    spool = open_spool(tmp_path / "count.db", vfs="faulty")
    started = faults.operations
    scenario(spool, [])
    total = faults.operations - started
    spool.close()
    assert total > 40
    refused = 0
    for k in range(1, total + 1):
        path = tmp_path / f"{k}.db"
        faults.heal()
        spool = open_spool(path, vfs="faulty")
        faults.operations, faults.fail_at, faults.persistent = 0, k, persistent
        acknowledged: list[tuple[int, int]] = []
        with contextlib.suppress(SpoolFailure, SpoolClosed):
            scenario(spool, acknowledged)
        if spool.state is SpoolState.FAILED:
            refused += 1
            if persistent:
                with pytest.raises(SpoolFailure):
                    spool.reopen()
            faults.heal()
            spool.reopen()
        faults.heal()
        check_after_failure(spool, path, acknowledged)
        spool.close()
    assert refused > total // 2


def check_after_failure(spool: Spool, path: Path, acknowledged: list[tuple[int, int]]) -> None:
    """Everything acknowledged is held, memory is what the file says, and the spool goes on."""
    for terminal, durable in acknowledged:
        assert held_in_file(spool, terminal) >= durable
    for terminal in (1, 2):
        owner = Terminal(terminal)
        before = held_in_file(spool, terminal)
        outcome = append_one(spool, owner.frame(max(before - 2, 1), before + 4))
        assert outcome.durable == before + 4
        assert spans(spool, owner) == [(1, before + 4)]
    with SpoolReader.open(str(path), vfs="faulty") as reader:
        assert reader.verify() == []


def test_a_refused_group_leaves_no_trace_in_memory(tmp_path: Path, faults: Faults) -> None:
    log = ListLog()
    spool = open_spool(tmp_path / "spool.db", vfs="faulty", log=log)
    terminal = Terminal()
    append_one(spool, terminal.frame(1, 4))
    totals = spool.totals()
    faults.fail_at, faults.operations = 1, 0
    with pytest.raises(SpoolFailure):
        spool.append([terminal.frame(5, 8), terminal.frame(20, 22)])
    assert (spool.state, log.alarms()) == (SpoolState.FAILED, ["spool.failed"])
    with pytest.raises(SpoolClosed):
        spool.append([terminal.frame(5, 8)])
    spool.reopen()
    assert spans(spool, terminal) == [(1, 4)]
    assert spool.totals() == totals
    assert append_one(spool, terminal.frame(5, 8)).durable == 8
    spool.close()


def test_a_failed_settlement_leaves_the_rows_waiting(tmp_path: Path, faults: Faults) -> None:
    spool = open_spool(tmp_path / "spool.db", vfs="faulty")
    append_one(spool, Terminal().frame(1, 4))
    batch = spool.claim()
    assert batch is not None
    faults.fail_at, faults.operations = 1, 0
    with pytest.raises(SpoolFailure):
        spool.settle(receipt_for(batch))
    spool.reopen()
    assert spool.claim() == batch
    assert spool.settled_watermark(1001, 1, 1) == 0
    spool.close()


CHILD = """
import sys
from pathlib import Path
from tests.spool.kit import Terminal, open_spool
spool = open_spool(Path(sys.argv[1]))
terminals = [Terminal(n) for n in (1, 2, 3)]
at = 0
while True:
    outcomes = spool.append([each.frame(at + 1, at + 4) for each in terminals])
    at += 4
    print(*[outcome.durable for outcome in outcomes], flush=True)
"""


def test_what_a_killed_process_had_acknowledged_is_there_after_the_kill(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate(timeout=30)
    lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    acknowledged = [int(number) for number in lines[-1].split()]
    assert min(acknowledged) >= 200
    spool = open_spool(path)
    for terminal, durable in zip((1, 2, 3), acknowledged, strict=True):
        assert held_in_file(spool, terminal) in {durable, durable + 4}
    spool.close()
    with SpoolReader.open(str(path)) as reader:
        assert reader.verify() == []


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_spool_that_is_missing_beside_its_id_is_alarmed_and_gets_a_new_id(tmp_path: Path) -> None:
    path, log = tmp_path / "spool.db", ListLog()
    spool = open_spool(path, log=log)
    first = spool.identity
    spool.close()
    assert log.alarms() == []
    for file in tmp_path.glob("spool.db*"):
        if file.name != "spool.db.id":
            file.unlink()
    spool = open_spool(path, log=log, random=SeededRandom(2))
    assert log.alarms() == ["spool.missing"]
    assert spool.identity.spool_id != first.spool_id
    spool.close()
    spool = open_spool(path, log=log, random=SeededRandom(3))
    assert log.alarms() == ["spool.missing"]
    spool.close()


def test_an_id_file_that_is_missing_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = open_spool(path)
    spool.close()
    (tmp_path / "spool.db.id").unlink()
    log = ListLog()
    again = open_spool(path, log=log, random=SeededRandom(2))
    assert again.identity == spool.identity
    assert log.alarms() == []
    assert (tmp_path / "spool.db.id").exists()
    again.close()


def test_another_database_in_the_place_of_the_spool_is_alarmed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        open_spool(tmp_path / name, seed=seed).close()
    (tmp_path / "b").rename(tmp_path / "a")
    log = ListLog()
    open_spool(tmp_path / "a", log=log).close()
    assert log.alarms() == ["spool.replaced"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"spool_id": "zz", "birth_ms": 1}', b"\xff\xfe"])
def test_a_damaged_id_file_is_alarmed_not_fatal(tmp_path: Path, damage: bytes) -> None:
    path, log = tmp_path / "spool.db", ListLog()
    open_spool(path).close()
    (tmp_path / "spool.db.id").write_bytes(damage)
    open_spool(path, log=log).close()
    assert log.alarms() == ["spool.replaced"]


def test_a_file_that_is_no_spool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(ForeignSpool, match="no spool"):
        open_spool(path)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(SpoolFailure):
        open_spool(path)


def test_a_spool_of_another_front_end_or_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = open_spool(path)
    spool.close()
    settings: dict[str, Any] = {
        "utc_offset_ms": lambda _: 0,
        "clock": spool._clock,
        "random": SeededRandom(),
        "files": spool._settings.files,
        "log": ListLog(),
    }
    with pytest.raises(ForeignSpool, match="front-end 7"):
        Spool.open(str(path), frontend=8, site=9, **settings)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(ForeignSpool, match="version 3"):
        open_spool(path)


def test_a_sqlite_with_the_wal_reset_bug_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SQLITE_VERSION_MIN", 9_000_000)
    with pytest.raises(UnsafeSqlite, match=r"at least 9\.0\.0"):
        open_spool(tmp_path / "spool.db")


def test_a_closed_spool_refuses_and_stays_closed(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    spool.close()
    spool.close()
    calls: list[Callable[[], object]] = [
        lambda: spool.append([]),
        spool.totals,
        spool.claim,
        spool.reopen,
        lambda: spool.prune(0),
    ]
    for call in calls:
        with pytest.raises(SpoolClosed):
            call()


def test_a_checkpoint_that_a_reader_holds_up_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_MS_MAX", 10)
    path = tmp_path / "spool.db"
    spool = open_spool(path)
    append_one(spool, Terminal().frame(1, 4))
    with SpoolReader.open(str(path)) as reader:
        assert len(reader.totals()) == 1
        append_one(spool, Terminal().frame(5, 8))
        assert not spool.checkpoint()
        assert len(reader.totals()) == 1
    assert spool.checkpoint()
    assert spool.state is SpoolState.OPEN
    spool.close()


def test_the_owner_writes_the_wal_back_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger_sync.spool.store.WAL_PAGES_MAX", 50)
    spool = open_spool(tmp_path / "spool.db")
    terminal = Terminal()
    for group in range(60):
        append_one(spool, terminal.frame(16 * group + 1, 16 * group + 16))
    assert (tmp_path / "spool.db-wal").stat().st_size < 100 * 4200
    assert (tmp_path / "spool.db").stat().st_size > 60 * 1600
    spool.close()
    assert (tmp_path / "spool.db-wal").stat().st_size == 0
