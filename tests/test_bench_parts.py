"""What the bench is made of: verdicts, pictures, records made fast, loops that count. No figure is asserted here."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import apsw
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from bench import slow_disk
from bench.children import BenchFailed, cpu_seconds
from bench.contest import Contest
from bench.goals import Goal, Target, as_json, as_markdown
from bench.mqtt import Publisher, connect_packet, publish_packet, subscribe_packet
from bench.picture import picture
from bench.pump import Run
from bench.sealing import Chain, purchase
from bench.sides import AckedLine
from bench.site import ENROLMENT_ID, EPOCH
from bench.window_pump import WindowLine, WindowPump
from protocol.aead import Sealer
from protocol.codes import Medium
from protocol.mac import MacKey
from protocol.messages import Ack
from protocol.proofs import genesis_seal
from protocol.records import encode_record, seal_of

KEY, SALT = bytes(range(16)), b"salt5"

# -- goals


def test_a_generator_bound_row_claims_nothing() -> None:
    target = Target(1, "what", 0.45, 0.60)
    bound = Goal.measured(target, 0.9, 0.81)
    assert (bound.result, bound.met, bound.verdict) == (None, False, "generator-bound")


@pytest.mark.parametrize(
    ("floor", "aim", "result", "verdict", "met"),
    [
        (0.45, 0.60, 0.60, "aim", True),
        (0.45, 0.60, 0.59, "floor", True),
        (0.45, 0.60, 0.44, "no", False),
        (2.5, 2.0, 2.0, "aim", True),
        (2.5, 2.0, 2.4, "floor", True),
        (2.5, 2.0, 2.6, "no", False),
    ],
)
def test_the_verdict_follows_the_direction_of_the_goal(
    floor: float, aim: float, result: float, verdict: str, met: bool
) -> None:
    goal = Goal.measured(Target(1, "what", floor, aim), result, 0.5)
    assert (goal.verdict, goal.met) == (verdict, met)


def test_percentiles_are_taken_from_the_sorted_latencies() -> None:
    run = Run(4, 1.0, [1.0, 2.0, 3.0, 4.0], 0.5, 0.5, 0.5, ran_out=False)
    assert (run.percentile_ms(0.5), run.percentile_ms(0.99), run.percentile_ms(1.0)) == (3.0, 4.0, 4.0)


def test_the_cpu_time_of_another_process_is_read_as_it_grows() -> None:
    before = cpu_seconds(os.getpid())
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.02


def test_what_could_not_be_measured_stands_in_the_table_without_a_result() -> None:
    goal = Goal.unmeasured(Target(2, "what", 10, 15), "no Mosquitto")
    assert (goal.result, goal.met, goal.verdict) == (None, False, "no Mosquitto")
    assert as_json([goal], {})["goals"] == [
        {"goal": 2, "what": "what", "floor": 10, "aim": 15, "result": None, "met": False, "generator_cpu": 0.0}
    ]
    assert as_markdown([goal]).splitlines()[-1] == "| 2 | what | ≥ 10 | ≥ 15 | – | no Mosquitto |"


def test_a_result_taken_back_is_not_claimed() -> None:
    goal = Goal.measured(Target(1, "what", 0.45, 0.60), 0.7, 0.5).withdrawn("a slice")
    assert (goal.result, goal.met, goal.verdict) == (None, False, "a slice")


def test_the_picture_draws_better_as_longer_whichever_way_a_goal_goes() -> None:
    goals = [
        Goal.measured(Target(1, "higher & better", 0.5, 0.75), 0.75, 0.1),
        Goal.measured(Target(4, "lower is better", 5.0, 2.5), 10.0, 0.1),
        Goal.measured(Target(3, "bound", 0.5, 0.8), 0.9, 0.9),
    ]
    svg = ET.fromstring(picture(goals, "a title"))
    bars = [each for each in svg.findall("{*}rect") if each.get("height") == "14"]
    assert len(bars) == 2  # what claims nothing has no bar
    longer, shorter = (float(bar.get("width", "")) for bar in bars)
    assert longer == pytest.approx(3 * shorter)
    texts = "".join(svg.itertext())
    assert "higher & better" in texts
    assert "generator-bound" in texts


# -- records and frames


def test_records_made_fast_are_those_that_the_protocol_makes() -> None:
    key = MacKey(KEY)
    chain = Chain(66_051, key, 1_790_000_000_123)
    seal = genesis_seal(key, 66_051, EPOCH, ENROLMENT_ID)
    for sequence, record in enumerate([*chain.next(3), *chain.next(40)], 1):
        expected = encode_record(*purchase(66_051, sequence, 1_790_000_000_123), seal, key)
        assert record == expected
        seal = seal_of(expected)


def test_mqtt_packets_are_those_of_version_3_1_1() -> None:
    assert connect_packet("ab", is_clean=True) == bytes.fromhex("100e 0004 4d515454 04 02 0000 0002 6162")
    assert connect_packet("ab", is_clean=False)[9] == 0x00
    assert subscribe_packet("s/#") == bytes.fromhex("8208 0001 0003 732f23 01")
    assert publish_packet("t", 258, b"xyz") == bytes.fromhex("3208 0001 74 0102 78797a")
    assert publish_packet("t", 1, bytes(200))[:3] == bytes.fromhex("32cd01")  # 205 in two bytes


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def test_pubacks_are_counted_however_they_are_cut(connection: socket.socket) -> None:
    publisher = Publisher(connection, 1001, b"payload", 16)
    for byte in bytes.fromhex("40020001 40020002 40020003"):
        publisher.take(bytes((byte,)))
    assert publisher.answered == 3
    with pytest.raises(BenchFailed):
        publisher.take(bytes.fromhex("d000"))
    with pytest.raises(BenchFailed):  # the end of the connection
        Publisher(connection, 1001, b"payload", 16).take(b"")


def test_packets_come_round_with_one_identifier_each(connection: socket.socket) -> None:
    publisher = Publisher(connection, 1001, b"", 16)
    sent = b"".join(publisher.frames(count) for count in (1, 16, 16, 16, 15, 3))
    size = len(publish_packet("site/1/1001", 1, b""))
    identifiers = [int.from_bytes(sent[at - 2 : at], "big") for at in range(size, len(sent) + 1, size)]
    assert identifiers == [*range(1, 65), 1, 2, 3]


def acked_line(connection: socket.socket) -> tuple[AckedLine, Sealer, SimpleNamespace]:
    cipher = AESCCM(KEY, tag_length=16)
    terminal = SimpleNamespace(
        socket=connection, frames=[b"one", b"two", b"three"], replies=[], ack_cipher=lambda: (cipher, SALT)
    )
    return AckedLine(cast(Any, terminal), 4, 16), Sealer(KEY, SALT, Medium.TCP, True), terminal


def test_the_last_acknowledgement_of_a_read_says_how_far_a_terminal_is(connection: socket.socket) -> None:
    line, sealer, terminal = acked_line(connection)
    both = sealer.seal(Ack(1, 16, 0, 4).encode()) + sealer.seal(Ack(1, 48, 0, 1).encode())
    line.take(both)
    assert (line.answered, line.window) == (3, 1)
    third = sealer.seal(Ack(1, 64, 0, 16).encode())
    for byte in third:
        line.take(bytes((byte,)))
    assert (line.answered, line.window) == (4, 4)  # more credit than the row's window is not used
    assert b"".join(terminal.replies) == both + third


def test_an_acknowledgement_that_does_not_verify_ends_the_bench(connection: socket.socket) -> None:
    line, sealer, _ = acked_line(connection)
    frame = bytearray(sealer.seal(Ack(1, 16, 0, 4).encode()))
    frame[-1] ^= 1
    with pytest.raises(BenchFailed):
        line.take(bytes(frame))
    with pytest.raises(BenchFailed):
        line.take(b"")


def test_frames_that_were_sent_are_dropped_and_the_rest_stays(connection: socket.socket) -> None:
    line, _, terminal = acked_line(connection)
    assert line.frames(2) == b"onetwo"
    with pytest.raises(StopIteration):
        line.frames(2)
    line.drop_sent()
    assert terminal.frames == [b"three"]
    assert line.frames(1) == b"three"


# -- the loop


class ByteLine(WindowLine):
    """Frames and answers of one byte; the window falls to 2."""

    def take(self, data: bytes) -> None:
        self.answered += len(data)
        self.window = 2

    def frames(self, count: int) -> bytes:
        return b"f" * count


def test_the_pump_keeps_to_the_window_and_counts_every_answer() -> None:
    ours, theirs = socket.socketpair()
    line = ByteLine(ours, 4)
    reads: list[int] = []

    def answer() -> None:
        while data := theirs.recv(64):
            reads.append(len(data))
            theirs.sendall(data)

    peer = threading.Thread(target=answer)
    peer.start()
    pump = WindowPump([line], os.getpid())
    try:
        run = pump.run(0.05)
    finally:
        pump.close()
        peer.join()
        theirs.close()
    assert reads[0] <= 4
    assert max(reads[2:]) <= 2
    assert line.answered == line.sent == sum(reads)
    assert 0 < run.frames <= line.sent
    assert run.latencies_ms == []
    assert "p50_ms" not in run.as_json()


# -- the slow disk


def test_every_sync_of_the_slow_disk_waits_and_the_rows_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("bench.slow_disk.time.sleep", waits.append)
    disk = slow_disk.SlowDisk(5)
    connection = apsw.Connection(str(tmp_path / "slow.db"), vfs=slow_disk.NAME)
    try:
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.execute("CREATE TABLE rows (id INTEGER)")
        before = len(waits)
        connection.execute("INSERT INTO rows VALUES (7)")
        assert waits[before:] == [0.005]
        assert connection.execute("SELECT id FROM rows").get == 7
    finally:
        connection.close()
        disk.unregister()


def test_one_bad_round_of_either_side_does_not_move_a_ratio() -> None:
    contest = Contest.__new__(Contest)
    contest._per_frame = {"ours": 16, "theirs": 1}
    contest.runs = {
        "ours": [{"per_second": rate} for rate in (100.0, 50.0, 100.0)],
        "theirs": [{"per_second": rate} for rate in (800.0, 800.0, 400.0)],
    }
    assert contest.ratio("ours", "theirs") == 16 * 100 / 800
