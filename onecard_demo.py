"""`onecard demo`: a canteen sells through an outage, and three totals are compared.

Real processes and files, one story:

    keys, terminals, cards ─▶ ledger serve ─▶ serve ─▶ sim run sells …
        … the network goes down for a while; the terminals go on selling
        … a card is reported lost; it is tapped on and on, and refused
        … the front-end is killed with -9 and started again
    … all drains ─▶ flash of the terminals, spool and ledger are read, each by itself, and must agree

It reaches into nobody: it starts processes, reads their lines and files, and asks by their own verbs and sockets.
"""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from onecard_agreement import Agreement, compare
from onecard_demo_screen import Screen, show_verdict
from onecard_keys import enrol, init_site, personalise
from onecard_site import SOCKET_PATH_BYTES_MAX, load_site
from protocol.codes import TerminalKind

SITE_NUMBER: Final = 1
MERCHANTS: Final = 5
OPENING_CENTS: Final = 50_000
SELLING_SECONDS: Final = 20.0
RATE_OF_SMALL_RUNS: Final = 60.0  # a few taps should not take those seconds
SELLING_PER_OUTAGE: Final = 3.0  # so that there is selling before, during and after it
RATE_MIN: Final = 20.0
RATE_MAX: Final = 1_200.0
CUT_AT_PERCENT: Final = 20
LOSS_AT_SHARE: Final = 0.70
KILL_AT_SHARE: Final = 0.85
READY_SECONDS_MAX: Final = 20.0
DRAIN_SECONDS_MAX: Final = 90.0
SETTLE_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 20.0
LOOK_SECONDS: Final = 0.1
LOSS_GRACE_MS: Final = 1_000  # promise: refused within a second at every terminal online over TCP
LONGEST_SOCKET: Final = "run/ledger-link.sock"

app = typer.Typer(rich_markup_mode=None)


class DemoFailed(Exception):
    """A process ended or stayed silent; the text says which, and where its log is."""


@dataclass(slots=True, kw_only=True)
class Story:
    """What was asked for, and what has happened so far."""

    terminals: int
    taps: int
    outage_seconds: float
    seed: int
    directory: Path
    rate: float
    lost_card: int = 0
    lost_at_ms: int = 0
    front_end_killed: bool = False
    is_network_down: bool = False
    offered_again: int = 0
    """Records that the front-end, since its last start, was offered again and held already."""
    has_sold: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


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


class Demo:
    """The story, told to a Screen."""

    def __init__(self, story: Story, screen: Screen) -> None:
        self.story = story
        self.screen = screen
        self.directory = story.directory
        self._children: dict[str, Child] = {}

    # -- scenes

    def run(self) -> tuple[Agreement, dict[str, Any]]:
        """The whole story; raises DemoFailed. Nothing runs any more at return."""
        started = time.monotonic()
        try:
            self._prepare()
            self._open()
            self._sell()
            self._settle()
        finally:
            for child in reversed(self._children.values()):
                child.stop()
        agreement = self._compare()
        return agreement, self._result(agreement, time.monotonic() - started)

    def _prepare(self) -> None:
        story = self.story
        self.screen.scene("keys, terminals and cards", "密钥、机具、卡片")
        init_site(
            self.directory, site=SITE_NUMBER, frontends=1, time_zone="Asia/Shanghai", now_ms=time.time_ns() // 1_000_000
        )
        site = load_site(self.directory, {})
        enrol(site, count=story.terminals, kind=TerminalKind.POS, merchants=min(MERCHANTS, story.terminals))
        first = personalise(site, count=max(100, story.taps // 20), opening_cents=OPENING_CENTS)
        story.lost_card = first + story.seed % 50
        self._onecard("ledger", "init")
        self._onecard("ledger", "card", "issue")

    def _open(self) -> None:
        self.screen.scene("ledger and front-end start", "账务与前置机启动")
        self._start("ledger", "ledger", "serve", "--site", str(self.directory))
        self._start_front_end()

    def _start_front_end(self) -> str:
        ready = self._start("front-end", "serve", "--config", str(self.directory))
        return str(ready["address"])

    def _sell(self) -> None:
        story = self.story
        address = str(json.loads((self.directory / "address.json").read_text())["address"])
        self.screen.scene(f"{story.terminals} terminals sell, {story.rate:g} taps a second", "机具营业")
        sim = Child(
            "simulator",
            [
                *("sim", "run", "--connect", address, "--site", str(self.directory)),
                *("--terminals", str(story.terminals), "--taps", str(story.taps), "--rate", f"{story.rate:g}"),
                *("--seed", str(story.seed), "--faults", f"cut:at={CUT_AT_PERCENT}%,seconds={story.outage_seconds:g}"),
                *("--dump", str(self.directory / "dump"), "--report", str(self.directory / "report")),
                *("--control", str(self.directory / "run" / "sim.sock"), "--json"),
                *("--drain-seconds", f"{DRAIN_SECONDS_MAX:g}"),
            ],
            self.directory,
        )
        self._children["simulator"] = sim
        while sim.process.poll() is None:
            for line in sim.lines():
                self._hear(line)
            self._act()
            for name, child in self._children.items():
                if name != "simulator":
                    child.must_live()
            self.screen.refresh(story.progress)
            time.sleep(LOOK_SECONDS)
        for line in sim.lines():
            self._hear(line)
        if sim.close() not in {0, 1}:
            raise DemoFailed(f"the simulator ended with {sim.process.returncode}:\n{sim.last_words()}")

    def _hear(self, line: dict[str, Any]) -> None:
        match line.get("event"):
            case "progress":
                self.story.progress = line
            case "network_cut":
                self.story.is_network_down = True
                self.screen.event("the network is down; terminals go on selling", "断网，脱机消费")
            case "network_back":
                self.story.is_network_down = False
                self.screen.event("the network is back; everybody uploads at once", "网络恢复，集中上传")
            case "selling_finished":
                self.story.has_sold = True
                self.screen.event("selling has ended; what is left drains", "营业结束，补传")
            case _:
                pass

    def _act(self) -> None:
        story = self.story
        if story.is_network_down and not story.has_sold:
            return  # a loss is reported, and a front-end dies, when that means something to terminals online
        share = 1.0 if story.has_sold else story.progress.get("taps", 0) / story.taps
        if share >= LOSS_AT_SHARE and not story.lost_at_ms:
            self._ask_sim({"verb": "thief", "card": story.lost_card})
            answer = json.loads(self._onecard("ledger", "lost", str(story.lost_card), "--json"))
            story.lost_at_ms = int(answer.get("at_ms") or time.time_ns() // 1_000_000)
            self.screen.event(f"card …{story.lost_card % 10_000:04d} is reported lost", "挂失")
        if share >= KILL_AT_SHARE and not story.front_end_killed:
            story.front_end_killed = True
            self._children["front-end"].kill()
            self.screen.event("the front-end is killed with -9 and started again", "前置机断电重启")
            self._start_front_end()

    def _settle(self) -> None:
        """Wait until the ledger's receipts cover every row of the spool."""
        self.screen.scene("the ledger posts what is left", "入账")
        story, end = self.story, time.monotonic() + SETTLE_SECONDS_MAX
        while time.monotonic() < end:
            status = json.loads(self._onecard("status", "--json"))
            if not status["spool"]["rows_unsettled"]:
                story.offered_again = status["counts"]["duplicate_records"]
                return
            time.sleep(LOOK_SECONDS)
        raise DemoFailed("rows of the spool were not settled in time; see " + str(self._children["ledger"].log))

    # -- the end

    def _compare(self) -> Agreement:
        self.screen.scene("three artefacts are read and compared", "三方对账")
        dump = self.directory / "dump"
        terminals = json.loads((dump / "terminals.json").read_text())
        spool = json.loads(self._onecard("spool", "totals", "--json"))
        ledger = json.loads(self._onecard("ledger", "report", "--json"))
        self.story.figures = json.loads((dump / "sim.json").read_text())
        cards = json.loads((dump / "cards.json").read_text())
        return compare(terminals["terminals"], spool, ledger, cards["cards"])

    def _result(self, agreement: Agreement, seconds: float) -> dict[str, Any]:
        story, sim = self.story, self.story.figures
        denied, accepted = self._after_loss()
        return {
            "terminals": story.terminals,
            "taps": story.taps,
            "records_created": agreement.records_created,
            "records_acknowledged": agreement.records_acknowledged,
            "records_posted": agreement.records_posted,
            "duplicates": agreement.duplicates + story.offered_again,
            "quarantined": agreement.quarantined,
            "gaps_open": agreement.gaps_open,
            "open_items": agreement.open_items,
            "amount_terminals_cents": agreement.total.terminals_cents,
            "amount_spool_cents": agreement.total.spool_cents,
            "amount_ledger_cents": agreement.total.ledger_cents,
            "amount_open_items_cents": agreement.total.open_cents,
            "lost": agreement.lost,
            "double_posted": agreement.double_posted,
            "denied_after_loss": denied,
            "accepted_after_loss": accepted,
            "ack_ms_p50": sim["ack_ms"]["p50"],
            "ack_ms_p99": sim["ack_ms"]["p99"],
            "records_per_second": round(agreement.records_posted / max(sim["selling_ms"] / 1000, 0.001), 1),
            "recovery_records_per_second": sim["recovery_records_per_second"],
            "seconds": round(seconds, 1),
            "seed": story.seed,
            "data_dir": str(self.directory),
            "disagreements": agreement.disagreements,
        }

    def _after_loss(self) -> tuple[int, int]:
        """(refused, accepted a second after the report at terminals online all that second) taps of the lost card."""
        denied = accepted = 0
        for line in (self.directory / "dump" / "thief.jsonl").read_text().splitlines():
            tap = json.loads(line)
            if tap["outcome"] != "sold":
                denied += tap["why"] == "deny_list"
            elif tap["utc_ms"] > self.story.lost_at_ms + LOSS_GRACE_MS:
                online_since_ms = tap["online_since_utc_ms"]
                accepted += bool(online_since_ms) and online_since_ms <= tap["utc_ms"] - LOSS_GRACE_MS
        return denied, accepted

    # -- processes

    def _start(self, name: str, *arguments: str) -> dict[str, Any]:
        child = Child(name, list(arguments), self.directory)
        self._children[name] = child
        ready = child.ready()
        if name == "front-end":
            (self.directory / "address.json").write_text(json.dumps({"address": ready["address"]}))
        return ready

    def _onecard(self, *arguments: str) -> str:
        """Run one verb to its end; raises DemoFailed."""
        done = subprocess.run(
            [sys.executable, "-m", "onecard", *arguments, "--site", str(self.directory)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        )
        if done.returncode:
            raise DemoFailed(f"onecard {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _ask_sim(self, request: dict[str, Any]) -> None:
        """Tell the simulator, unless so few taps were asked for that it has ended already."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(5)
            stream.connect(str(self.directory / "run" / "sim.sock"))
            stream.sendall(json.dumps(request).encode() + b"\n")
            stream.recv(1 << 16)


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


@app.command(name="demo")
def demo(
    terminals: Annotated[int, typer.Option(min=1, max=10_000, help="POS terminals (消费机).")] = 200,
    taps: Annotated[int, typer.Option(min=1, max=10_000_000, help="Card taps in all.")] = 20_000,
    outage_seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long the network is down.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Replays the same customers and faults.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Keep everything here (a new or empty directory).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """A canteen sells through an outage; terminals, spool and ledger must agree to the cent (三方对账).

    Starts a ledger, a front-end and simulated terminals as processes, cuts the network, reports a card lost, kills the
    front-end once, and compares three independent totals. Exit code 0 only if they agree.
    """
    selling_seconds = max(min(SELLING_SECONDS, taps / RATE_OF_SMALL_RUNS), SELLING_PER_OUTAGE * outage_seconds)
    rate = max(RATE_MIN, min(RATE_MAX, taps / selling_seconds))
    try:
        with data_directory(data_dir) as (directory, keep), Screen(taps=taps, quiet=as_json) as screen:
            story = Story(
                terminals=terminals,
                taps=taps,
                outage_seconds=outage_seconds,
                seed=seed,
                directory=directory,
                rate=rate,
            )
            try:
                agreement, result = Demo(story, screen).run()
            except BaseException:
                keep()
                raise
            screen.close()
            good = agreement.agrees and not result["accepted_after_loss"]
            if not good:
                keep()
            result["data_kept"] = data_dir is not None or not good
            if as_json:
                print(json.dumps(result, ensure_ascii=False))
            else:
                show_verdict(agreement, result, good=good)
    except DemoFailed as error:
        print(f"onecard demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if good else 1)
