"""Running `onecard` in tests: in this process, as a process to its end, and as a server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onecard
from tests.source_tree import ROOT

# Bounds of waits for events that usually come at once: a loaded machine is no failure, and no test may hang.
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
WAIT_SECONDS_MAX = 60.0
VERB_SECONDS_MAX = 100.0


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def onecard_here(*arguments: object) -> Done:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = onecard.main([str(each) for each in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: without asyncio's debug mode, and our own modules on its path."""
    made = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    return made | {"PYTHONPATH": str(ROOT)} | more


def onecard_process(*arguments: object, **more: str) -> Done:
    """Run a command as a process to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "onecard", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=VERB_SECONDS_MAX,
        env=environment(**more),
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Server:
    """A server process after its ready line."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS_MAX)


@contextlib.contextmanager
def serving(*arguments: object, **more: str) -> Iterator[Server]:
    """Start a server and wait for its ready line; killed at exit if the test has not stopped it."""
    with started([sys.executable, "-m", "onecard", *map(str, arguments)], environment(**more)) as made:
        yield made


@contextlib.contextmanager
def started(command: list[str], variables: dict[str, str], cwd: Path | None = None) -> Iterator[Server]:
    """The same for any command that says it is ready as `onecard serve` does."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        cwd=cwd,
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS_MAX)
        line = process.stdout.readline() if readable else ""
        if not line:
            process.kill()
            raise AssertionError(f"no ready line: {process.communicate()[1]}")
        yield Server(process, json.loads(line))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def copy_of(site: Path, target: Path) -> Path:
    """A site's own copy for one test: paths in it are relative."""
    shutil.copytree(site, target)
    for name in ("secrets", "offline"):
        (target / name).chmod(0o700)
    return target


def wait_until(condition: Any, seconds: float = WAIT_SECONDS_MAX) -> Any:
    """Poll until it is true; fails the test otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come true in time")
