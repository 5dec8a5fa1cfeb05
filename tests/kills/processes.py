"""One life of one process, seen from outside: its lines, its readiness, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.kills.schedule import Planned, Role
from tests.kills.traps import Moment
from tests.source_tree import ROOT

READ_BYTES: Final = 1 << 16
LAST_LINES: Final = 25


class Life:
    """Starts the process at once; `close` must be called."""

    def __init__(self, role: Role, planned: Planned | None, arguments: list[str], *, log: Path, notes: Path) -> None:
        self.role = role
        self.planned = planned
        self.ready: dict[str, Any] | None = None
        self.ready_at = 0.0
        self.was_killed = False
        self.was_stopped = False
        self._log = log
        self._rest = b""
        trap = []
        if planned is not None and planned.order.moment is not Moment.BLIND:
            trap = ["--die-at", str(planned.order), "--notes", str(notes)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.kills.{role.value}", *arguments, *trap],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=environment,
            )
        self.started_at = time.monotonic()
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def look(self) -> int | None:
        """Read what it says; its exit code once it has ended."""
        code = self.process.poll()
        for line in self._lines():
            if self.ready is None and ("ready" in line or line.get("event") == "started"):
                self.ready, self.ready_at = line, time.monotonic()
        return code

    def urge(self) -> None:
        """Send what the plan says is due: SIGKILL for a blind kill, SIGTERM for a checkpoint at the stop."""
        planned = self.planned
        if planned is None or planned.after_ready_ms is None or self.ready is None:
            return
        if time.monotonic() < self.ready_at + planned.after_ready_ms / 1000:
            return
        if planned.order.moment is Moment.BLIND:
            self.was_killed = True
            self.process.send_signal(signal.SIGKILL)
        elif not self.was_stopped:
            self.stop()

    def stop(self) -> None:
        """Ask for an orderly end."""
        self.was_stopped = True
        self.process.send_signal(signal.SIGTERM)

    def ended_within(self, seconds: float) -> int | None:
        """Wait for its end while reading what it says; None if it goes on."""
        end = time.monotonic() + seconds
        while (code := self.look()) is None and time.monotonic() < end:
            time.sleep(0.02)
        return code

    def last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST_LINES:])

    def close(self) -> None:
        """Kill it if it lives, and leave nothing of it; idempotent."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _lines(self) -> list[dict[str, Any]]:
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.process.stdout.fileno(), READ_BYTES):
                self._rest += chunk
        *whole, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in whole if line.startswith(b"{")]
