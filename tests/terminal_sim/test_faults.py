"""The fault SPEC, what the seed adds, and the network that can be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import CardKind
from protocol.ports import Stream
from terminal_sim.faults import (
    CUT_STEPS_MAX,
    TAP_COMMANDS,
    TAP_WRITES,
    Chance,
    FaultSpecError,
    NetworkCut,
    PowerCuts,
    Thief,
    TornTaps,
    When,
    parse_faults,
)
from terminal_sim.outage import CONNECT_TIMEOUT_MS, FaultyNetwork
from tests.simulation.world import Host, World

FULL = (
    "cut:at=40%,seconds=5; blackhole:at=12s,seconds=0.5;power:at=30%,terminals=3;torn:every=500;"
    "thief:card=1000007,at=55%,rate=20;thief:card=any,at=60%,seconds=2;"
)


def test_every_kind_of_fault_is_read() -> None:
    assert parse_faults(FULL) == [
        NetworkCut(When(percent=40), 5000, swallow=False),
        NetworkCut(When(ms=12_000), 500, swallow=True),
        PowerCuts(When(percent=30), 3, 1000),
        TornTaps(500),
        Thief(When(percent=55), 1_000_007, 20, None),
        Thief(When(percent=60), 0, 10, 2000),
    ]


@pytest.mark.parametrize("spec", ["", "none", " ; ;"])
def test_nothing_asked_for_means_no_fault(spec: str) -> None:
    assert parse_faults(spec) == []


def test_a_share_is_of_the_selling_time() -> None:
    assert When(percent=40).offset_ms(20_000) == 8000
    assert When(ms=1500).offset_ms(20_000) == 1500


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cutt:at=40%,seconds=5", "'cutt' is no fault; there are cut, blackhole, power, torn, full, thief"),
        ("cut", "cut needs at=, seconds="),
        ("cut:at=40%", "cut needs seconds="),
        ("cut:at=40%,secs=5", "'secs=5' is not understood; cut takes at=, seconds="),
        ("cut:at=40%,at=50%,seconds=1", "at= stands there twice"),
        ("cut:at=140%,seconds=1", "0% to 100%"),
        ("cut:at=-3%,seconds=1", "0% to 100%"),
        ("cut:at=soon,seconds=1", "write a share of the selling time (40%) or seconds into it (12s)"),
        ("cut:at=40%,seconds=0", "a number above 0"),
        ("cut:at=40%,seconds=1e9", "a number above 0"),
        ("torn:every=0", "a whole number from 1 to"),
        ("torn:every=x", "a whole number from 1 to"),
        ("power:at=1s,terminals=2.5", "a whole number from 1 to"),
        ("thief:at=1s", "thief needs card="),
        (";".join(["torn:every=5"] * 101), "101 faults; at most 100"),
    ],
)
def test_a_mistake_is_answered_by_what_to_write(spec: str, says: str) -> None:
    with pytest.raises(FaultSpecError) as caught:
        parse_faults(spec)
    assert says in str(caught.value)


@given(st.text(alphabet="cutpowerthinkbals:=,;%0123456789. ", max_size=60))
def test_any_text_is_read_or_refused_in_words(spec: str) -> None:
    said, faults = "", []
    try:
        faults = parse_faults(spec)
    except FaultSpecError as error:
        said = str(error)
    assert " " in said or (not said and len(faults) <= spec.count(";") + 1)


def test_the_same_seed_gives_the_same_faults() -> None:
    def drawn(seed: int) -> list[object]:
        chance = Chance(seed)
        return [
            chance.victims(3, 50),
            [chance.cut_steps() for _ in range(5)],
            [chance.disturbance(kind) for kind in CardKind for _ in range(5)],
            chance.stolen_card(1000),
            [chance.thief_terminal(50) for _ in range(5)],
        ]

    assert drawn(9) == drawn(9)
    assert drawn(9) != drawn(10)


@pytest.mark.parametrize("kind", list(CardKind), ids=lambda kind: kind.name)
def test_taps_are_torn_at_every_command_and_memory_cards_at_every_byte_of_a_write(kind: CardKind) -> None:
    chance = Chance(4)
    drawn = [chance.disturbance(kind) for _ in range(4000)]
    assert {each.command_index for each in drawn} == set(range(TAP_COMMANDS[kind]))
    at_writes = sum(each.command_index in TAP_WRITES[kind] for each in drawn)
    assert at_writes > 2000
    torn = {each.bytes_written for each in drawn if each.command_index in TAP_WRITES[kind]}
    assert torn == ({None, *range(17)} if kind is CardKind.MEMORY else {None})


def test_victims_are_different_tills_and_never_more_than_there_are() -> None:
    chance = Chance(1)
    assert sorted(chance.victims(5, 5)) == [0, 1, 2, 3, 4]
    assert sorted(chance.victims(9, 3)) == [0, 1, 2]
    assert all(0 <= chance.cut_steps() < CUT_STEPS_MAX for _ in range(100))


# -- the network


class Recorder:
    """A StreamHandler that writes down what happens to it."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.data = b""
        self.ends: list[Exception | None] = []

    def connected(self, stream: Stream) -> None:
        self.stream = stream

    def received(self, data: bytes) -> None:
        self.data += data

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.ends.append(error)


class Bench:
    def __init__(self) -> None:
        self.world = World(3)
        self.host = Host(self.world, "sim")
        self.network = FaultyNetwork(self.host, self.host)
        self.accepted: list[Recorder] = []
        Host(self.world, "frontend").listen("f:1", self._accept)

    def _accept(self) -> Recorder:
        self.accepted.append(Recorder())
        return self.accepted[-1]

    def run(self, ms: int) -> None:
        self.world.run_until(self.world.time_ms + ms)

    def connected(self) -> tuple[Recorder, Recorder]:
        near = Recorder()
        self.network.connect("f:1", near)
        self.run(100)
        assert near.stream is not None
        return near, self.accepted[-1]


def test_bytes_pass_both_ways_through_a_network_that_is_up() -> None:
    bench = Bench()
    near, far = bench.connected()
    assert near.stream is not None
    assert far.stream is not None
    near.stream.write(b"up")
    far.stream.write(b"down")
    bench.run(100)
    assert (near.data, far.data) == (b"down", b"up")
    assert near.stream.peer() == "f:1"
    near.stream.close()
    bench.run(100)
    assert near.ends == [None]
    assert len(far.ends) == 1


def test_a_cut_resets_what_is_open_and_refuses_what_is_new() -> None:
    bench = Bench()
    near, _ = bench.connected()
    bench.network.cut()
    later = Recorder()
    bench.network.connect("f:1", later)
    bench.run(100)
    assert len(near.ends) == 1
    assert isinstance(later.ends[0], ConnectionRefusedError)
    bench.network.restore()
    bench.connected()


def test_a_connection_that_was_on_its_way_when_the_network_was_cut_is_reset() -> None:
    bench = Bench()
    near = Recorder()
    bench.network.connect("f:1", near)
    bench.network.cut()
    bench.run(200)
    assert len(near.ends) == 1


def test_a_swallowed_connection_is_open_and_silent_for_ever() -> None:
    bench = Bench()
    near, far = bench.connected()
    assert near.stream is not None
    assert far.stream is not None
    bench.network.swallow()
    near.stream.write(b"lost")
    far.stream.write(b"lost too")
    bench.run(100)
    bench.network.restore()
    near.stream.write(b"behind a hole")
    bench.run(1000)
    assert (near.data, far.data, near.ends) == (b"", b"", [])
    near.stream.abort()
    bench.run(100)
    assert len(near.ends) == 1


def test_a_new_connection_times_out_while_bytes_are_swallowed() -> None:
    bench = Bench()
    bench.network.swallow()
    near = Recorder()
    bench.network.connect("f:1", near)
    bench.run(CONNECT_TIMEOUT_MS - 100)
    assert near.ends == []
    bench.run(200)
    assert isinstance(near.ends[0], TimeoutError)
