"""`onecard sim`: control socket, table on a terminal, verbs; at last a real fleet and a real front-end."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.ports import Stream
from terminal_sim.progress import LiveTable
from tests.cli.commands import Done, environment, onecard_here, onecard_process, serving, wait_until
from tests.simulation.world import Host
from tests.terminal_sim.fleet_kit import Canteen, asked

CONTROL = "/run/sim.sock"


@pytest.fixture
def canteen(tmp_path: Path) -> Iterator[Canteen]:
    made = Canteen(tmp_path)
    yield made
    made.close()


# -- the control socket


class Client:
    """A StreamHandler that asks and keeps the answers."""

    def __init__(self, canteen: Canteen) -> None:
        self.canteen = canteen
        self.stream: Stream | None = None
        self.data = b""
        self.ended = False
        canteen_host: Host = canteen.host
        canteen_host.connect(CONTROL, self)
        self.run()

    def ask(self, line: bytes) -> list[Any]:
        assert self.stream is not None
        self.data = b""
        self.stream.write(line)
        self.run()
        return [json.loads(each) for each in self.data.splitlines()]

    def run(self) -> None:
        self.canteen.world.run_until(self.canteen.world.time_ms + 60)

    def connected(self, stream: Stream) -> None:
        self.stream = stream

    def received(self, data: bytes) -> None:
        self.data += data

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.ended = True


def test_a_demo_steers_the_run_over_its_socket(canteen: Canteen) -> None:
    play, ports = canteen.begin(asked(taps=4000), control=CONTROL)
    canteen.world.run_until(3000)
    client = Client(canteen)
    (status,) = client.ask(b'{"verb": "status"}\n')
    assert status["ok"]
    assert status["phase"] == "selling"
    assert status["online"] == 4
    assert client.ask(b'{"verb": "thief", "card": 1003}\n{"verb": "cut", "seconds": 1}\n') == [{"ok": True}] * 2
    canteen.world.run_until(canteen.world.time_ms + 5000)
    assert {tap["card"] for tap in canteen.lines("thief.jsonl")} == {1003}
    assert len(canteen.told("network_back")) == 1
    stopped, refused = client.ask(b'{"verb": "stop"}\n{"verb": "thief", "card": 1004}\n')
    assert stopped == {"ok": True}
    assert refused["error"].startswith("nobody is selling")
    assert canteen.finish(play, ports) == 0
    assert canteen.read("oracle.json")["agrees"]
    canteen.world.run_until(canteen.world.time_ms + 1000)
    assert client.ended
    assert CONTROL not in canteen.world.listeners


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1]\n",
        b"null\n",
        b"{}\n",
        b'{"verb": "sell"}\n',
        b'{"verb": "thief"}\n',
        b'{"verb": "thief", "card": "1003"}\n',
        b'{"verb": "thief", "card": 1}\n',
        b'{"verb": "thief", "card": 1003, "rate": 0}\n',
        b'{"verb": "cut", "seconds": 0}\n',
        b'{"verb": "cut", "seconds": true}\n',
        b'{"verb": "cut"}\n',
        b"\xff\xfe\n",
        b"[" * 3000 + b"\n",
    ],
)
def test_a_request_that_makes_no_sense_is_answered_and_changes_nothing(canteen: Canteen, line: bytes) -> None:
    play, ports = canteen.begin(asked(taps=40), control=CONTROL)
    canteen.world.run_until(200)
    client = Client(canteen)
    (answer,) = client.ask(line)
    assert answer["ok"] is False
    assert answer["error"]
    assert client.ask(b'{"verb": "status"}\n')[0]["ok"]
    assert canteen.finish(play, ports) == 0


def test_a_line_without_an_end_is_cut_off(canteen: Canteen) -> None:
    play, ports = canteen.begin(asked(taps=40), control=CONTROL)
    canteen.world.run_until(200)
    client = Client(canteen)
    assert client.ask(b"x" * 5000) == []
    client.run()
    assert client.ended
    assert canteen.finish(play, ports) == 0


# -- what a person sees


def test_the_live_table_draws_over_itself_and_keeps_sentences(canteen: Canteen) -> None:
    assert canteen.play(asked(taps=120, faults="cut:at=30%,seconds=1")) == 0
    screen = io.StringIO()
    table = LiveTable(screen)
    for event in canteen.events:
        table.show(event)
    text = screen.getvalue()
    assert "selling starts with 4 of 4 terminals online" in text
    assert "the network is cut for 1 s; terminals go on selling" in text
    assert "every record is acknowledged" in text
    assert "4 / 4" in text


# -- the verbs


def sim(*arguments: object) -> Done:
    return onecard_here("sim", *arguments)


def test_mistakes_are_answered_with_exit_2_and_what_to_do(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    base = ("run", "--connect", "127.0.0.1:1", "--site", site, "--terminals", 2)
    done = sim(*base, "--faults", "cut:at=40%")
    assert (done.code, done.out) == (2, "")
    assert "cut needs seconds=" in done.err
    done = sim("run", "--connect", "127.0.0.1:1", "--site", site, "--terminals", 9)
    assert done.code == 2
    assert "onecard keys enrol --terminals 6" in done.err
    assert sim("run", "--site", site).code == 2  # --connect is needed
    (site / "cards" / "images.bin").write_bytes(b"x")
    assert sim(*base).code == 4


def test_nobody_listening_is_exit_3(tmp_path: Path) -> None:
    done = onecard_process(
        "sim",
        "run",
        "--connect",
        "127.0.0.1:1",
        "--site",
        make_site(tmp_path),
        "--terminals",
        2,
        "--connect-seconds",
        0.3,
    )
    assert done.code == 3
    assert [json.loads(line)["event"] for line in done.out.splitlines()][-3:] == ["unreachable", "progress", "finished"]


def test_show_and_cards_read_a_dump(canteen: Canteen) -> None:
    assert canteen.play(asked(taps=50)) == 0
    rows = sim("show", canteen.dump, "--json").json
    assert [row["terminal"] for row in rows] == [4001, 4002, 4003, 4004]
    shown = sim("show", canteen.dump)
    assert shown.code == 0
    assert "4 terminals" in shown.out
    cards = sim("cards", canteen.dump, "--json").json
    assert sum(card["counter"] for card in cards) == 50
    assert "40 cards" in sim("cards", canteen.dump).out
    assert sim("show", canteen.directory).code == 1
    (canteen.dump / "cards.json").write_text("[]")
    assert sim("cards", canteen.dump).code == 4


# -- with a real front-end


def make_site(directory: Path, *, terminals: int = 3, cards: int = 30) -> Path:
    site = directory / "site"
    for arguments in (
        ("init", "--site", site),
        ("enrol", "--terminals", terminals, "--site", site),
        ("cards", "--count", cards, "--memory", 10, "--pboc", 10, "--opening", "500.00", "--site", site),
    ):
        done = onecard_here("keys", *arguments)
        assert done.code == 0, done.err
    return site


def test_a_real_fleet_is_killed_continued_and_drained_by_a_real_front_end(tmp_path: Path) -> None:
    site, dump = make_site(tmp_path), tmp_path / "dump"
    with serving("serve", "--config", site) as server:
        arguments = [
            *("sim", "run", "--connect", server.ready["address"], "--site", site, "--terminals", 3),
            *("--taps", 300, "--rate", 100, "--seed", 11, "--dump", dump, "--report", dump, "--resume", "--json"),
            *("--faults", "cut:at=20%,seconds=0.5;torn:every=40;power:at=60%,terminals=1"),
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "onecard", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as first:
            wait_until(lambda: (dump / "truth.bin").exists() and (dump / "truth.bin").stat().st_size > 36 * 100)
            first.send_signal(signal.SIGKILL)
        done = onecard_process(*arguments)
        assert done.code == 0, done.err
        events = [json.loads(line) for line in done.out.splitlines()]
        assert events[0]["resumed_taps"] > 0
        assert events[-1]["event"] == "finished"
        assert events[-1]["agrees"]
        figures = json.loads((dump / "sim.json").read_text())
        assert figures["taps_made"] == 300
        assert figures["records_created"] == figures["records_acknowledged"] == figures["flash"]["records"]
        assert server.stop() == 0
    assert {card["kind"] for card in json.loads((dump / "cards.json").read_text())["cards"]} == {
        "aes",
        "memory",
        "pboc",
    }
    assert figures["torn_cards"]["count"] == 0
    assert (dump / "report.html").stat().st_size > 5000
    totals = onecard_here("spool", "totals", "--site", site, "--json")
    assert totals.code == 0, totals.err
    assert str(figures["flash"]["money_cents"]) in totals.out
