"""What every test is held to: it leaves no task, thread, descriptor, process or temporary file behind.

A leak is an error of the test that made it, at its teardown, naming what leaked. The same comparison runs
once more over the whole session, since what wider fixtures own is nobody's at a single test's end.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

try:
    import uvloop
except ImportError:  # the `fast` extra is optional
    uvloop = None  # type: ignore[assignment]  # mypy has no conditional modules

# A thread that was told to end, or a child just reaped, may need a moment, on a loaded machine a long one. Only a test
# that leaks waits it out.
GRACE_S: Final = float(os.environ.get("ONECARD_TEST_GRACE_S", "5"))
POLL_S: Final = 0.01

# Children inherit it, so a process is recognised even after its parent died and init adopted it.
MARK_NAME: Final = "ONECARD_TEST_SESSION"
MARK: Final = uuid.uuid4().hex

# Opened once, by imports, and kept for the life of the process.
DESCRIPTORS_KEPT_BY_IMPORTS: Final = frozenset({"/dev/urandom", "/dev/random"})

# What asyncio says, to a log and not to the caller, about a task that nobody finished or looked at.
ASYNCIO_COMPLAINTS: Final = ("was destroyed but it is pending", "was never retrieved")

# Set at import, so that loops of this process run in debug mode; PYTHONASYNCIODEBUG= (empty) switches it off.
os.environ.setdefault("PYTHONASYNCIODEBUG", "1")

# No deadline: a loaded machine is no failure. No database: the printed seed replays a run, on any machine.
settings.register_profile("onecard", deadline=None, print_blob=True, database=None)
settings.register_profile("thorough", deadline=None, print_blob=True, database=None, max_examples=5000)
settings.load_profile("onecard")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed here, so that it can be printed before anything fails."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.option.hypothesis_seed
    return f"replay: --hypothesis-seed={seed}"


@pytest.fixture
def child_environment() -> dict[str, str]:
    """The environment for a child whose speed counts: this one without asyncio's debug mode."""
    environment = dict(os.environ)
    environment.pop("PYTHONASYNCIODEBUG", None)
    return environment


# libuv opens one signal pipe per process, with the first loop, and keeps it; that is nobody's leak.
if uvloop is not None:
    uvloop.new_event_loop().close()

# -- event loops ---------------------------------------------------------------------------------------------

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def _note_every_loop(loop_class: type[asyncio.AbstractEventLoop]) -> None:
    """Remember each loop that is made: `asyncio.all_tasks` can only be asked about a loop one knows."""
    patched: Any = loop_class
    original = patched.__init__

    def init(self: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _loops.add(self)

    patched.__init__ = init


_note_every_loop(asyncio.BaseEventLoop)
if uvloop is not None:
    _note_every_loop(uvloop.Loop)


class _Complaints(logging.Handler):
    """Collects what asyncio logs about abandoned tasks and futures."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if any(complaint in message for complaint in ASYNCIO_COMPLAINTS):
            self.lines.append(" ".join(message.split()))


# -- what a process holds ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds at one moment.

    A descriptor is (number, device, inode), so that a number used again for something else is seen.
    """

    descriptors: frozenset[tuple[int, int, int]]
    threads: frozenset[threading.Thread]
    processes: frozenset[int]
    loops: frozenset[int]
    files: frozenset[str]

    @classmethod
    def now(cls, scratch: Path) -> "Holdings":
        return cls(
            descriptors=frozenset(_descriptors()),
            threads=frozenset(threading.enumerate()),
            processes=frozenset(_pids()),
            loops=frozenset(id(loop) for loop in _loops),
            files=frozenset(os.listdir(scratch)),
        )


def _descriptors() -> Iterator[tuple[int, int, int]]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
            status = os.fstat(int(name))
            if str(Path(f"/proc/self/fd/{name}").readlink()) not in DESCRIPTORS_KEPT_BY_IMPORTS:
                yield int(name), status.st_dev, status.st_ino


def _describe_descriptor(descriptor: int) -> str:
    try:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return f"file descriptor {descriptor}: {target}"
        with socket.socket(fileno=os.dup(descriptor)) as leaked:
            peer: object = "nobody"
            with contextlib.suppress(OSError):
                peer = leaked.getpeername()
            return (
                f"socket {descriptor}: {leaked.family.name} {leaked.type.name}"
                f" {leaked.getsockname()!r} connected to {peer!r}"
            )
    except OSError as error:
        return f"file descriptor {descriptor}: {error}"


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _is_ours(pid: int) -> bool:
    """Whether we started it: it is our child, or it carries this session's mark, whoever adopted it."""
    try:
        # The command's name stands in parentheses and may itself contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        if int(fields[1]) == os.getpid():
            return True
        return f"{MARK_NAME}={MARK}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, IndexError):  # gone, or another user's
        return False


def _describe_process(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        command = ""
    return f"process {pid}: {command.strip() or 'a zombie that nobody waited for'}"


def _leaked_processes(before: Holdings) -> list[int]:
    return [pid for pid in _pids() if pid not in before.processes and _is_ours(pid)]


def _loop_leaks(before: Holdings) -> Iterator[str]:
    for loop in list(_loops):
        if id(loop) in before.loops:
            continue
        for task in asyncio.all_tasks(loop):
            yield f"task {task.get_name()}: {task.get_coro()!r}"
        if not loop.is_closed():
            yield f"event loop: {loop!r}"


def _leaks(before: Holdings, scratch: Path) -> list[str]:
    """What is held now and was not held before, one line each."""
    found = list(_loop_leaks(before))
    found += [
        f"thread {thread.name}{' (daemon)' if thread.daemon else ''}"
        for thread in threading.enumerate()
        # A dummy stands for a thread that C code started and Python once saw; it is never taken off the list.
        if thread not in before.threads and not isinstance(thread, threading._DummyThread)
    ]
    found += [_describe_process(pid) for pid in _leaked_processes(before)]
    found += [_describe_descriptor(held[0]) for held in sorted(set(_descriptors()) - before.descriptors)]
    found += [f"temporary file {scratch / name}" for name in sorted(set(os.listdir(scratch)) - before.files)]
    return found


def _leaks_that_stay(before: Holdings, scratch: Path) -> list[str]:
    found = _leaks(before, scratch)
    if found:
        gc.collect()  # closes what only a reference cycle held, with a ResourceWarning that is this test's
        give_up_at = time.monotonic() + GRACE_S
        while (found := _leaks(before, scratch)) and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
    return found


def _clear_away(before: Holdings, scratch: Path) -> None:
    """End leaked processes and remove leaked files: neither the next test nor the machine shall keep them."""
    for pid in _leaked_processes(before):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    for name in set(os.listdir(scratch)) - before.files:
        leaked = scratch / name
        if leaked.is_dir() and not leaked.is_symlink():
            shutil.rmtree(leaked, ignore_errors=True)
        else:
            leaked.unlink(missing_ok=True)


@contextlib.contextmanager
def _leaving_nothing(scratch: Path, whose: str) -> Iterator[None]:
    before = Holdings.now(scratch)
    complaints = _Complaints()
    log = logging.getLogger("asyncio")
    log.addHandler(complaints)
    try:
        yield
        found = _leaks_that_stay(before, scratch)
        found += [f"asyncio: {line}" for line in complaints.lines]
        if found:
            _clear_away(before, scratch)
    finally:
        log.removeHandler(complaints)
    if found:
        pytest.fail(f"{whose} left behind:\n" + "\n".join(f"  {line}" for line in found), pytrace=False)


# -- fixtures ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def session_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The session, wider fixtures included, leaves nothing; temporary files go where we can watch them."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch, _leaving_nothing(scratch, "the session"):
        patch.setenv(MARK_NAME, MARK)
        patch.setenv("TMPDIR", str(scratch))
        patch.setattr(tempfile, "tempdir", str(scratch))
        yield scratch


@pytest.fixture(autouse=True)
def leaves_nothing(session_leaves_nothing: Path) -> Iterator[None]:
    """A test leaves nothing behind; what belongs to a wider fixture was there before and is not counted."""
    with _leaving_nothing(session_leaves_nothing, "the test"):
        yield
