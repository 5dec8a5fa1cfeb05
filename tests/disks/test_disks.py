"""A slow disk, a full one and a broken one under the real server: correct, alarmed, recovering (R14).

Sound terminals sell all the while, and go on when the disk is well again; in the end nothing is missing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.commands import Server, copy_of, environment, onecard_here, started, wait_until
from tests.source_tree import ROOT

TERMINALS: Final = 4
SMALL_BYTES: Final = 12 << 20
TROUBLE_SECONDS_MAX: Final = 25.0
FILLING_BYTES: Final = 64 << 10


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disks") / "s"
    for arguments in (
        ("init", "--site-id", 42),
        ("enrol", "-n", TERMINALS),
        ("cards", "-n", 20, "--opening", "900.00"),
    ):
        assert onecard_here("keys", *arguments, "--site", path).code == 0
    return path


@pytest.fixture
def site(pristine: Path, tmp_path: Path) -> Path:
    return copy_of(pristine, tmp_path / "s")


@contextlib.contextmanager
def serving_on(site: Path, *arguments: object, before: tuple[str, ...] = ()) -> Iterator[Server]:
    command = [*before, sys.executable, "-m", "tests.disks.frontend", str(site), *map(str, arguments)]
    with started(command, environment(), ROOT) as server:
        yield server
        assert server.stop() == 0


@contextlib.contextmanager
def tills(site: Path, server: Server, *, taps: int, rate: int) -> Iterator[subprocess.Popen[str]]:
    """Terminals that sell in the background, to their last acknowledged record."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "onecard", "sim", "run", "--connect", server.ready["address"], "--site", str(site)),
            *("--terminals", str(TERMINALS), "--taps", str(taps), "--rate", str(rate), "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
        out, _ = process.communicate(timeout=90)
        assert process.returncode == 0, out[-2_000:]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def status(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = onecard_here("status", "--json", "--site", site).json
    return found


def standing(site: Path) -> dict[str, str]:
    """Text of every standing alarm by its name."""
    return {alarm["alarm"]: alarm["text"] for alarm in status(site)["standing"]}


def stored(site: Path) -> int:
    records: int = onecard_here("spool", "totals", "--json", "--site", site).json["records"]
    return records


@pytest.mark.parametrize(("sync_ms", "is_alarmed"), [(5, False), (50, True)])
def test_a_slow_disk_stores_everything_in_larger_groups_and_is_named_when_it_is_very_slow(
    site: Path, sync_ms: int, is_alarmed: bool
) -> None:
    with serving_on(site, "--sync-ms", sync_ms) as server:
        with tills(site, server, taps=120, rate=60):
            if is_alarmed:
                wait_until(lambda: "slow disk" in standing(site), TROUBLE_SECONDS_MAX)
        found = status(site)
        commits = onecard_here("fleet", "metrics", "--json", "--site", site).json["waits"]["commit"]
        # A quantile is the upper end of its bucket, never less than the truth.
        assert commits["p50_ms"] >= sync_ms
        assert found["counts"]["storage_refusals"] == 0
        assert stored(site) == found["counts"]["records_received"] - found["counts"]["duplicate_records"] >= 120
        if is_alarmed:
            assert commits["count"] < found["counts"]["upload_frames"]  # what came meanwhile shared a commit


@contextlib.contextmanager
def small_file_system(site: Path) -> Iterator[tuple[str, ...]]:
    """The command to put before a server so that its data lie on a small file system of their own."""
    if os.geteuid() != 0:
        pytest.skip("a file system is mounted, which only root may")
    data = site / "data" / "frontend"
    data.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size={SMALL_BYTES},mode=0700 onecard-small "{data}"'
    try:
        tried = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare(1) here")
    if tried.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    yield ("unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh")


@pytest.mark.parametrize("is_watched", [True, False], ids=["refused at 5 per cent", "refused by the file system"])
def test_a_disk_that_fills_up_refuses_and_alarms_and_takes_everything_when_there_is_room_again(
    site: Path, is_watched: bool
) -> None:
    with (
        small_file_system(site) as before,
        serving_on(site, *([] if is_watched else ["--no-watch"]), before=before) as server,
    ):
        inside = Path(f"/proc/{server.process.pid}/root{site}/data/frontend")
        assert (inside / "spool.db").exists()
        with tills(site, server, taps=160, rate=60):
            wait_until(lambda: status(site)["counts"]["records_received"] > 20, TROUBLE_SECONDS_MAX)
            _take_all(inside / "filler")
            wait_until(lambda: "spool refuses" in standing(site), TROUBLE_SECONDS_MAX)
            says = standing(site)["spool refuses"]
            assert ("free" if is_watched else "FullError") in says
            (inside / "filler").unlink()
        assert "spool refuses" not in standing(site)
        found = status(site)["counts"]
        with contextlib.closing(_Inside(site, inside)) as look:
            assert look.records() >= 160
        assert found["records_received"] - found["duplicate_records"] >= 160


def _take_all(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (FILLING_BYTES, 4_096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(size))
    finally:
        os.close(descriptor)


class _Inside:
    """The spool of a server whose file system nobody else sees, by a copy of its files."""

    def __init__(self, site: Path, inside: Path) -> None:
        self._directory = site / "data" / "frontend"
        for name in ("spool.db", "spool.db-wal", "spool.db.id"):
            if (inside / name).exists():
                (self._directory / name).write_bytes((inside / name).read_bytes())
        self._site = site

    def records(self) -> int:
        return stored(self._site)

    def close(self) -> None:
        for file in self._directory.glob("spool.db*"):
            file.unlink()


def test_an_i_o_error_is_refused_and_alarmed_and_the_file_is_opened_again_when_it_has_passed(
    site: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    with serving_on(site, "--broken-while", broken) as server:
        with tills(site, server, taps=160, rate=60):
            wait_until(lambda: status(site)["counts"]["records_received"] > 20, TROUBLE_SECONDS_MAX)
            broken.touch()
            wait_until(lambda: "spool refuses" in standing(site), TROUBLE_SECONDS_MAX)
            assert "IOError" in standing(site)["spool refuses"]
            time.sleep(1.2)  # a try to open it again fails too
            kept = stored(site)
            broken.unlink()
        assert "spool refuses" not in standing(site)
        assert stored(site) >= 160 > kept > 0
