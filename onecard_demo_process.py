"""The demo's processes and its directory: `onecard` children with JSON lines, verbs run to their end, local sockets."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from onecard_site import SOCKET_PATH_BYTES_MAX

READY_SECONDS_MAX: Final = 60.0  # usually one; a machine that does other things too takes longer
STOP_SECONDS_MAX: Final = 20.0
ANSWER_SECONDS_MAX: Final = 30.0
ANSWER_BYTES: Final = 1 << 20
LONGEST_SOCKET: Final = "run/ledger-link.sock"


class DemoFailed(Exception):
    """A process ended or stayed silent; the text says which, and where its log is."""


class Child:
    """One `onecard` process: its JSON lines on stdout, its log in a file."""

    def __init__(self, name: str, arguments: list[str], directory: Path) -> None:
        self.name = name
        self.log = directory / "logs" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "onecard", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parent,
            )
        assert self.process.stdout is not None
        self._descriptor = self.process.stdout.fileno()
        os.set_blocking(self._descriptor, False)
        self._rest = b""

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines that have come since the last call."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._descriptor, 1 << 16):
                self._rest += chunk
        *whole, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in whole if line.startswith(b"{")]

    def ready(self) -> dict[str, Any]:
        """Wait for the ready line; raises DemoFailed."""
        end = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < end:
            for line in self.lines():
                if "ready" in line:
                    return line
            self.must_live()
            time.sleep(0.02)
        raise DemoFailed(f"{self.name} did not get ready in {READY_SECONDS_MAX:.0f} s; see {self.log}")

    def must_live(self) -> None:
        if self.process.poll() is not None:
            raise DemoFailed(f"{self.name} ended with {self.process.returncode}; its last words:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])

    def kill(self) -> None:
        """As a power cut would: no warning, no cleaning up."""
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def stop(self) -> int:
        """SIGTERM, then wait; SIGKILL if it hangs. Returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.close()

    def close(self) -> int:
        code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def run_onecard(directory: Path, *arguments: str) -> str:
    """Run one verb to its end; raises DemoFailed."""
    done = subprocess.run(
        [sys.executable, "-m", "onecard", *arguments, "--site", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    if done.returncode:
        raise DemoFailed(f"onecard {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Errand:
    """Verbs run one after another beside a story that goes on; `close` must be called."""

    def __init__(self, directory: Path, *verbs: tuple[str, ...]) -> None:
        self._directory = directory
        self._waiting = list(verbs)
        self._verb: tuple[str, ...] = ()
        self._process: subprocess.Popen[str] | None = None

    def is_done(self) -> bool:
        """Begin the next verb when the one before has ended; raises DemoFailed if that failed."""
        if self._process is not None and self._process.poll() is not None:
            _, errors = self._process.communicate()
            code, self._process = self._process.returncode, None
            if code:
                raise DemoFailed(f"onecard {' '.join(self._verb)} ended with {code}: {errors.strip()}")
        if self._process is None and self._waiting:
            self._verb = self._waiting.pop(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "onecard", *self._verb, "--site", str(self._directory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent,
            )
        return self._process is None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Asked:
    """A local socket of JSON lines, kept open for many questions. Raises OSError where nobody answers."""

    def __init__(self, path: Path) -> None:
        self._stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stream.settimeout(ANSWER_SECONDS_MAX)
        try:
            self._stream.connect(str(path))
        except OSError:
            self._stream.close()
            raise
        self._rest = b""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer."""
        self._stream.sendall(json.dumps(request).encode() + b"\n")
        while b"\n" not in self._rest:
            chunk = self._stream.recv(ANSWER_BYTES)
            if not chunk:
                raise OSError("closed without an answer")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def asking(path: Path) -> Iterator[Asked]:
    """An open socket of that path."""
    asked = Asked(path)
    try:
        yield asked
    finally:
        asked.close()


@contextlib.contextmanager
def data_directory(named: Path | None) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A directory for the demo's data, and a call that keeps it; a temporary one is removed unless kept."""
    if named is not None:
        if named.exists() and any(named.iterdir()):
            raise DemoFailed(f"{named} is not empty; name a new directory")
        named.mkdir(parents=True, exist_ok=True)
        if len(str(named.absolute() / LONGEST_SOCKET).encode()) > SOCKET_PATH_BYTES_MAX:
            raise DemoFailed(f"{named}: too long a path for local sockets; choose a shorter one")
        yield named.absolute(), lambda: None
        return
    made = Path(tempfile.mkdtemp(prefix="onecard-demo-"))
    kept: list[bool] = []
    try:
        yield made, lambda: kept.append(True)
    finally:
        if not kept:
            shutil.rmtree(made, ignore_errors=True)
