"""Mosquitto, started for one row in a directory of its own and ended with it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.children import BenchFailed, pin_other

START_SECONDS_MAX: Final = 10.0
TRY_AGAIN_SECONDS: Final = 0.02
SYSTEM_DIRECTORIES: Final = "/usr/sbin:/usr/local/sbin"
"""Where distributions put servers; not on everybody's PATH."""
HOW_TO_INSTALL: Final = "apt-get install mosquitto (Debian, Ubuntu), dnf install mosquitto (Fedora)"

SETTINGS: Final = (
    "allow_anonymous true",
    "set_tcp_nodelay true",
    "max_queued_messages 0",  # no limit: the default drops QoS 1 messages that it has acknowledged
    "max_queued_bytes 0",
    "max_inflight_messages 200",
    "persistence true",
    "log_type error",
)
DURABLE: Final = ("autosave_on_changes true", "autosave_interval 1")


def find_broker() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=SYSTEM_DIRECTORIES)


class Broker:
    """One broker, listening when it is made."""

    def __init__(self, program: str, directory: Path, core: int, settings: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self._database = directory / "mosquitto.db"
        self._is_durable = bool(settings)
        self.address = f"127.0.0.1:{port}"
        directory.mkdir()
        lines = [
            f"listener {port} 127.0.0.1",
            f"persistence_location {directory}/",
            f"user {pwd.getpwuid(os.geteuid()).pw_name}",  # else, started by root, it may not write there
            *SETTINGS,
            *settings,
        ]
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process = subprocess.Popen(
            [program, "-c", str(directory / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            pin_other(self.pid, core)
            self._await(port)
        except BaseException:
            self.kill()
            raise

    def _await(self, port: int) -> None:
        give_up = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS_MAX).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise BenchFailed("Mosquitto does not start") from None
                time.sleep(TRY_AGAIN_SECONDS)
            else:
                return

    def check(self) -> None:
        """Raise BenchFailed where it was to write everything down and has not."""
        if self._is_durable and not self._database.exists():
            raise BenchFailed("Mosquitto was to be durable and has written nothing")

    def kill(self) -> None:
        """What it holds is not wanted any more."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()
        if kind is None:
            self.check()
