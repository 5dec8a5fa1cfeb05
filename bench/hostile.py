"""`python -m bench.hostile`: the real server among hostile clients, one attack after the other (docs/overload.md).

    onecard serve          the product's own process, on the first core
    bench.hostile_good     sound terminals that sell at a steady rate all the while, on the second
    bench.hostile_attacks  the attack, on the second too, at a lower priority

For each attack: how much memory the server took more, how the sound terminals' waits compare with those before, whether
every connection was given back. Exit 0 when memory stayed within its bound, nothing was lost and every connection came
back; how long the sound ones waited is printed, and asserted by nobody: on a busy machine it says little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

import onecard
from bench.children import ROOT, BenchFailed, Child, cores, scratch_directory
from bench.hostile_attacks import ATTACKS, INSIDERS
from bench.hostile_insider import Enrolled

SEED: Final = 20_261_128
GROWTH_KIB_MAX: Final = 32 * 1024
RATIO_AIM: Final = 2.0
GOOD_TERMINALS: Final = 40
ENROLLED: Final = GOOD_TERMINALS + INSIDERS * len(ATTACKS)
GOOD_RATE: Final = 200.0  # sales a second of all of them: twenty times a canteen's noon
SETTLE_SECONDS_MAX: Final = 30.0
LOOK_SECONDS: Final = 0.05
SERVER_SECONDS_MAX: Final = 30.0
OWN_DESCRIPTORS_MAX: Final = 4  # files that the spool opens at its first use


@dataclass(slots=True)
class Found:
    """What one attack did."""

    attack: str
    seconds: float
    growth_kib: int
    p50_ms: float
    p99_ms: float
    sales: int
    p99_ratio: float | None
    reconnects: int
    back_seconds: float | None
    """From the end of the attack until every connection was given back; None: they were not."""


class Server:
    """`onecard serve` of a site made for this run."""

    def __init__(self, directory: Path, core: int, enrolled: int = ENROLLED) -> None:
        self.site = directory / "site"
        for arguments in (("init", "--site-id", "42"), ("enrol", "-n", str(enrolled))):
            _onecard("keys", *arguments, "--site", str(self.site))
        self.process = subprocess.Popen(
            [
                *("taskset", "-c", str(core), sys.executable, "-m", "onecard"),
                *("serve", "--site", str(self.site), "--log", str(self.site / "frontend.log")),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchFailed("the server did not start; see its log")
        self.address: str = json.loads(line)["address"]

    def rss_kib(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(_onecard("status", "--json", "--site", str(self.site)))["counts"]
        return found

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(SERVER_SECONDS_MAX)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


def _onecard(*arguments: str) -> str:
    """A command's stdout; in this process, so that it costs no start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = onecard.main(list(arguments))
    if code not in (0, None):
        raise BenchFailed(f"onecard {' '.join(arguments)}: {err.getvalue().strip()}")
    return out.getvalue()


class Waits:
    """What the sound terminals say, gathered on a thread while the attack goes on."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread = threading.Thread(target=self._listen, name="good terminals", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(BenchFailed, ValueError):
            while True:
                self._heard.put(self._child.hear())

    def take(self) -> list[float]:
        """The waits since the last call."""
        found: list[float] = []
        while not self._heard.empty():
            found += self._heard.get().get("waits_ms", [])
        return sorted(found)

    def last_word(self) -> dict[str, Any]:
        """Tell it to end; what it sold and what was acknowledged."""
        self._child.end()
        while True:
            try:
                word = self._heard.get(timeout=SETTLE_SECONDS_MAX)
            except queue.Empty:
                raise BenchFailed("the sound terminals did not end") from None
            if "sold" in word:
                return word


def _share(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Contest:
    """One run of all attacks."""

    def __init__(self, server: Server, seconds: float, before_seconds: float, say: Any) -> None:
        self._server = server
        self._seconds = seconds
        self._before_seconds = before_seconds
        self._say = say
        self._good_core = cores()[1]
        self._enrolled = Enrolled.all_of(server.site)
        self._before_p99_ms: float | None = None
        self.lost: dict[str, Any] = {}

    def run(self, attacks: Sequence[str]) -> Iterator[Found]:
        good = [one.as_json() for one in self._enrolled[:GOOD_TERMINALS]]
        with Child(
            "bench.hostile_good", self._good_core, address=self._server.address, terminals=good, rate=GOOD_RATE
        ) as child:
            first = child.hear()
            if "error" in first:
                raise BenchFailed(first["error"])
            waits = Waits(child)
            time.sleep(1)
            self._descriptors = self._server.descriptors() + OWN_DESCRIPTORS_MAX
            yield self._phase("nobody", waits, None)
            for index, attack in enumerate(attacks):
                at = GOOD_TERMINALS + INSIDERS * index
                yield self._phase(attack, waits, self._enrolled[at : at + INSIDERS])
            self.lost = waits.last_word()

    def _phase(self, name: str, waits: Waits, insiders: list[Enrolled] | None) -> Found:
        self._say(f"{name} …")
        server = self._server
        before_kib = peak_kib = server.rss_kib()
        seconds = self._before_seconds if insiders is None else self._seconds
        attacker = self._attacker(name, insiders) if insiders is not None else None
        if attacker is not None:
            attacker.hear()  # it is ready: its start is not what the sound terminals are to wait for
        waits.take()
        started_s = time.monotonic()
        try:
            while time.monotonic() < started_s + seconds:
                peak_kib = max(peak_kib, server.rss_kib())
                time.sleep(LOOK_SECONDS)
            word = attacker.hear() if attacker is not None else {}
        finally:
            if attacker is not None:
                attacker.kill()
        ordered = waits.take()
        p99_ms = _share(ordered, 0.99)
        if self._before_p99_ms is None:
            self._before_p99_ms = p99_ms
        back_s = self._given_back()
        return Found(
            name,
            round(time.monotonic() - started_s, 1),
            max(peak_kib, server.rss_kib()) - before_kib,
            round(_share(ordered, 0.5), 1),
            round(p99_ms, 1),
            len(ordered),
            round(p99_ms / self._before_p99_ms, 2) if insiders is not None and self._before_p99_ms else None,
            word.get("reconnects", 0),
            back_s,
        )

    def _attacker(self, name: str, insiders: list[Enrolled]) -> Child:
        return Child(
            "bench.hostile_attacks",
            self._good_core,
            attack=name,
            address=self._server.address,
            terminals=[one.as_json() for one in insiders],
            seconds=self._seconds,
            seed=SEED,
        )

    def _given_back(self) -> float | None:
        """Seconds until the sound terminals' connections are the only ones again."""
        started_s = time.monotonic()
        while (now_s := time.monotonic()) < started_s + SETTLE_SECONDS_MAX:
            counts = self._server.counts()
            is_back = counts["connections_now"] == GOOD_TERMINALS and counts["handshakes_now"] == 0
            if is_back and self._server.descriptors() <= self._descriptors:
                return round(now_s - started_s, 1)
            time.sleep(LOOK_SECONDS)
        return None


def show(found: list[Found], lost: dict[str, Any], console: Console) -> None:
    table = Table(title="the server among hostile clients")
    for column in (
        "attack",
        "seconds",
        "growth MiB",
        "sales",
        "p50 ms",
        "p99 ms",
        "p99 against before",
        "came again",
        "all back s",
    ):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for one in found:
        ratio = "" if one.p99_ratio is None else f"{one.p99_ratio:.2f}" + (" !" if one.p99_ratio > RATIO_AIM else "")
        table.add_row(
            *(one.attack, f"{one.seconds:.0f}", f"{one.growth_kib / 1024:.1f}", str(one.sales), f"{one.p50_ms:.1f}"),
            *(
                f"{one.p99_ms:.1f}",
                ratio,
                str(one.reconnects),
                "never" if one.back_seconds is None else f"{one.back_seconds:.1f}",
            ),
        )
    console.print(table)
    console.print(
        f"sound terminals: {lost['sold']} sales, {lost['acknowledged']} acknowledged, {lost['lost_sessions']} of "
        f"{GOOD_TERMINALS} sessions lost; bounds: {GROWTH_KIB_MAX // 1024} MiB, aim {RATIO_AIM:g}× of p99"
    )


def is_held(found: list[Found], lost: dict[str, Any]) -> bool:
    """Memory within its bound, nothing lost, every connection back."""
    return (
        all(one.growth_kib <= GROWTH_KIB_MAX and one.back_seconds is not None for one in found)
        and lost["sold"] == lost["acknowledged"] > 0
        and lost["lost_sessions"] == 0
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack (default 60)")
    parser.add_argument("--before", type=float, metavar="S", help="of nobody attacking, first (default: as long)")
    parser.add_argument("--only", action="append", choices=list(ATTACKS), help="this attack; may be given again")
    parser.add_argument("--json", metavar="FILE", help="write what was found there")
    parser.add_argument("--work-dir", metavar="DIR", help="on a real disk; emptied again")
    arguments = parser.parse_args(argv)
    try:
        with scratch_directory(arguments.work_dir) as directory:
            server = Server(directory, cores()[0])
            try:
                before_s = arguments.seconds if arguments.before is None else arguments.before
                contest = Contest(
                    server, arguments.seconds, before_s, lambda text: print(text, file=sys.stderr, flush=True)
                )
                found = []
                for one in contest.run(arguments.only or list(ATTACKS)):
                    found.append(one)
                    print(one, file=sys.stderr, flush=True)
                counts = server.counts()
            finally:
                server.close()
    except BenchFailed as error:
        print(f"bench.hostile: {error}", file=sys.stderr)
        return 1
    show(found, contest.lost, Console())
    if arguments.json:
        details = {"attacks": [asdict(one) for one in found], "good": contest.lost, "counts": counts}
        Path(arguments.json).write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
    return 0 if is_held(found, contest.lost) else 1


if __name__ == "__main__":
    sys.exit(main())
