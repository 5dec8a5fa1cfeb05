"""Processes of one bench run: each pinned to one core, told what to do on stdin, ended with the run whatever happens.

A child reads one JSON line of what it is to be, answers with JSON lines on stdout, and ends when its stdin does. So a
bench that is killed leaves nobody behind: the kernel closes the pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parent.parent
END_SECONDS_MAX: Final = 15.0
ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM})
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
"""Where an fsync costs nothing, so that nothing measured there would be durable."""


class BenchFailed(Exception):
    """The bench itself could not do its work; its figures would mean nothing."""


def pin(core: int) -> None:
    """Keep this process, with the threads it is going to start, on one core."""
    os.sched_setaffinity(0, {core})


def pin_other(pid: int, core: int) -> None:
    """The same for a process that is no child of ours in spirit: it knows nothing of benches."""
    os.sched_setaffinity(pid, {core})


def cores() -> tuple[int, int]:
    """(server's, generator's) core: the first two that this process may use; the same one where there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a whole process, all its threads; the kernel's clock of a process, see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def waited_seconds(pid: int) -> float:
    """For how long the main thread of a process could have run and was not let: other work had its core."""
    _, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
    return int(waited_ns) / 1e9


def config_from_stdin() -> dict[str, Any]:
    """What the parent wants of this child; ends the child where there is no parent any more."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # see `undisturbed`
    config: dict[str, Any] = json.loads(line)
    pin(config["core"])
    return config


def requests() -> Iterator[dict[str, Any]]:
    """What the parent asks of this child, line by line, until it wants nothing more."""
    for line in sys.stdin:
        yield json.loads(line)


def say(**facts: Any) -> None:
    """One line to the parent."""
    print(json.dumps(facts), flush=True)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits until this is over; a child started in it lets signals come by `config_from_stdin`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def environment() -> dict[str, str]:
    """Ours, without what would make a loop slow for the sake of finding mistakes."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}


class Child:
    """One process of the run."""

    def __init__(self, module: str, core: int, **config: Any) -> None:
        self.module = module
        with undisturbed():  # a process half started would be nobody's
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is ours to pass on, in order
            )
            self.pid = self._process.pid
            try:
                self.tell(core=core, **config)
            except BenchFailed:
                self.kill()
                raise

    def tell(self, **facts: Any) -> None:
        """One line to it. Raises BenchFailed when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(facts) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchFailed(f"{self.module} is not there: {error}") from error

    def hear(self) -> dict[str, Any]:
        """Its next line. Raises BenchFailed when that is an error, or it has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchFailed(f"{self.module} ended with exit code {self._process.wait(END_SECONDS_MAX)}")
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            raise BenchFailed(f"{self.module}: {facts['error']}")
        return facts

    def ask(self, **facts: Any) -> dict[str, Any]:
        """Tell, then hear."""
        self.tell(**facts)
        return self.hear()

    def end(self) -> None:
        """Close its stdin, which is the sign to stop; what it says after that can still be heard."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, which whoever waits for it will see
            self._process.stdin.close()

    def kill(self) -> None:
        """Whatever state it is in; idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Let it end by itself where all went well."""
        if kind is None:
            self.end()
            try:
                self._process.wait(END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
                raise BenchFailed(f"{self.module} did not end within {END_SECONDS_MAX:g} s") from None
        self.kill()


@contextmanager
def scratch_directory(wanted: str | None) -> Iterator[Path]:
    """A directory on a real disk, removed afterwards.

    Raises:
        BenchFailed: there is none.
    """
    candidates = [wanted] if wanted else [tempfile.gettempdir(), "/var/tmp", str(Path.cwd())]
    for candidate in candidates:
        if filesystem_of(candidate) not in MEMORY_FILESYSTEMS and os.access(candidate, os.W_OK):
            break
    else:
        raise BenchFailed(f"no directory on a real disk among {', '.join(candidates)}; name one with --work-dir")
    directory = Path(tempfile.mkdtemp(prefix="onecard-bench-", dir=candidate))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def socket_directory() -> tempfile.TemporaryDirectory[str]:
    """For local sockets, whose paths must be short, wherever the scratch directory lies."""
    return tempfile.TemporaryDirectory(prefix="onecard-bench-")


def filesystem_of(path: str) -> str:
    """Type of the file system that holds `path`, as the kernel names it."""
    target = os.path.realpath(path)
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mount, found, *_ = line.split(" ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
