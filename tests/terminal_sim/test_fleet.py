"""Whole runs under virtual time: every cent of cards, tills and front-end agrees, whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.codes import RecordType
from protocol.errors import DamagedData
from protocol.record_bodies import Purchase
from protocol.records import decode_body
from terminal_sim.faults import FaultSpecError
from terminal_sim.figures import Figures, Histogram
from terminal_sim.flash import FLASH_BYTES_USUAL
from terminal_sim.play import SPARE_DEVICES, Play
from terminal_sim.population import SetupError, load_cards
from terminal_sim.seats import load_seats
from tests.simulation.world import Host, World
from tests.terminal_sim.fleet_kit import FIRST, FIRST_CARD, Canteen, asked, enrol_anew

MakeCanteen = Callable[..., Canteen]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeCanteen]:
    """Canteens in directories of their own, closed at the end."""
    made: list[Canteen] = []

    def build(**options: Any) -> Canteen:
        made.append(Canteen(tmp_path / str(len(made)), **options))
        return made[-1]

    yield build
    for canteen in made:
        canteen.close()


def purchases_cents(canteen: Canteen) -> int:
    """What the front-end holds, decoded from the records alone; greys and the rest left out."""
    total = 0
    for held in canteen.frontend.stored.values():
        for record in held.values():
            body = decode_body(record)
            if type(body) is Purchase:
                total += body.amount_cents
    return total


def check_books(canteen: Canteen) -> dict[str, Any]:
    """Flash = front-end = cards; returns oracle.json."""
    oracle, sim, terminals = (canteen.read(f"{name}.json") for name in ("oracle", "sim", "terminals"))
    assert oracle["agrees"], oracle
    assert oracle["faults"] == []
    assert sim["records_created"] == sim["records_acknowledged"] == canteen.frontend.records()
    assert oracle["flash_purchases_cents"] == purchases_cents(canteen)
    assert oracle["opening_cents"] - oracle["purses_cents"] == oracle["executed_cents"]
    for row in terminals["terminals"]:
        assert row["unacknowledged"] == 0
        assert row["epochs"][0]["issued"] == len(canteen.frontend.stored.get(row["terminal"], {}))
    return dict(oracle)


def test_a_quiet_run_sells_every_tap_and_accounts_for_it(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked()) == 0
    oracle = check_books(canteen)
    assert oracle["sold_count"] == oracle["executed_count"] == canteen.frontend.records() == 200
    sim = canteen.read("sim.json")
    assert sim["late"] == 0
    assert sim["drained"]
    assert sim["ack_ms"]["count"] == 200
    assert 1 <= sim["ack_ms"]["p50"] <= sim["ack_ms"]["p99"] <= 100
    assert sim["recovery"] == []
    assert set(sim["merchants"]) == {"101", "102", "103"}
    assert all(each["cents"] == each["executed_cents"] for each in sim["merchants"].values())
    cards = canteen.read("cards.json")["cards"]
    assert sum(card["counter"] for card in cards) == 200
    names = [event["event"] for event in canteen.events if event["event"] != "progress"]
    assert names == ["started", "selling_started", "selling_finished", "drained", "finished"]
    assert canteen.told("progress")[-1]["acknowledged"] == 200


def test_the_same_seed_gives_the_same_run(make: MakeCanteen) -> None:
    spec = "cut:at=40%,seconds=2;power:at=30%,terminals=2;torn:every=20"
    runs = []
    for _ in range(2):
        canteen = make()
        assert canteen.play(asked(faults=spec)) == 0
        runs.append((canteen.world.trace_hash(), canteen.events, canteen.read("terminals.json")))
    for event in (*runs[0][1], *runs[1][1]):
        event.pop("report", None)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", ["cut", "blackhole"])
def test_terminals_sell_through_an_outage_and_every_record_arrives(make: MakeCanteen, kind: str) -> None:
    canteen = make()
    assert canteen.play(asked(taps=400, faults=f"{kind}:at=30%,seconds=3")) == 0
    oracle = check_books(canteen)
    assert oracle["sold_count"] == 400
    back = canteen.told("network_back")[0]
    assert back["backlog"] >= 100  # 3 s at 40 taps a second
    sim = canteen.read("sim.json")
    assert sum(each["records"] for each in sim["recovery"]) >= 100
    assert sim["recovery_records_per_second"] > 0
    assert sim["faults_fired"] == {kind: 1}


def test_power_cuts_in_the_middle_of_flash_operations_lose_nothing(make: MakeCanteen) -> None:
    spec = ";".join(f"power:at={percent}%,terminals=3" for percent in range(5, 95, 10))
    canteen = make()
    assert canteen.play(asked(taps=600, faults=spec)) == 0
    oracle = check_books(canteen)
    assert oracle["interrupted_taps"] > 0
    assert len(canteen.told("till_dark")) >= 20
    assert oracle["sold_count"] + oracle["interrupted_taps"] == 600


def test_a_till_whose_memory_is_full_refuses_until_it_is_connected_again(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked(taps=900, faults="full:at=10%")) == 0
    oracle = check_books(canteen)
    full = canteen.told("memory_full")[0]
    assert full["unacknowledged"] >= 60  # two sectors of the smallest ring
    assert oracle["refused"] == {"memory_full": 3}
    assert oracle["sold_count"] == 897
    sold_after = [tap for tap in canteen.told("progress") if tap["ms"] > full["ms"] + 5_000]
    assert sold_after
    assert canteen.read("sim.json")["faults_fired"] == {"full": 1}


def test_a_replaced_device_drains_and_its_successor_goes_on_in_the_next_epoch(make: MakeCanteen) -> None:
    canteen = make()
    play, ports = canteen.begin(asked(taps=400))
    canteen.world.run_until(canteen.world.time_ms + 3_000)
    run = play._run
    assert run is not None
    assert run.replace(FIRST + 1) is None
    assert run.replace(FIRST + 1) == "it is retiring already"
    assert run.install(FIRST + 1) == "that terminal has not been retired"
    canteen.world.run_until(canteen.world.time_ms + 1_000)
    assert [each["terminal"] for each in canteen.told("terminal_retired")] == [FIRST + 1]
    assert run.install(FIRST + 1) == "enrol it first: onecard keys replace"
    enrol_anew(canteen.place, FIRST + 1)
    assert run.install(FIRST + 1) is None
    assert canteen.finish(play, ports) == 0
    rows = [each for each in canteen.read("terminals.json")["terminals"] if each["terminal"] == FIRST + 1]
    assert sorted(row["epoch"] for row in rows) == [1, 2]
    old, new = sorted(rows, key=lambda row: row["epoch"])
    assert old["epochs"][0]["records_by_type"]["65"] == 1
    assert new["epochs"][0]["issued"] > 10
    last = canteen.frontend.stored[FIRST + 1][old["epochs"][0]["issued"]]
    assert last[0] == RecordType.END_OF_EPOCH
    sim = canteen.read("sim.json")
    assert sim["records_created"] == sim["records_acknowledged"] == canteen.frontend.records()
    assert canteen.read("oracle.json")["agrees"]


def test_when_no_till_has_power_the_customer_goes_away_unserved(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked(faults="power:at=20%,terminals=4,seconds=4")) == 0
    check_books(canteen)
    sim = canteen.read("sim.json")
    assert sim["unserved"] > 0
    assert sim["taps_made"] == 200


def test_torn_taps_come_home_with_the_next_tap_of_the_card(make: MakeCanteen) -> None:
    canteen = make(cards=4)
    assert canteen.play(asked(taps=300, faults="torn:every=7")) == 0
    oracle = check_books(canteen)
    assert oracle["grey_told"]
    assert {each["executed"] for each in oracle["grey_told"]} == {True, False}
    rows = canteen.read("terminals.json")["terminals"]
    assert sum(row["epochs"][0]["records_by_type"].get("02", 0) for row in rows) > 0


def test_a_stolen_card_is_refused_once_the_list_has_come(make: MakeCanteen) -> None:
    canteen = make()
    play, ports = canteen.begin(asked(taps=400, faults="thief:card=1003,at=30%,rate=10"))
    assert canteen.world.run_while(lambda: not canteen.told("thief"), limit_ms=60_000)
    canteen.world.run_until(canteen.world.time_ms + 2000)
    canteen.frontend.deny(1003)
    reported_ms = canteen.frontend.host.now_ms()
    assert canteen.finish(play, ports) == 0
    check_books(canteen)
    taps = canteen.lines("thief.jsonl")
    assert {tap["card"] for tap in taps} == {1003}
    assert {tap["outcome"] for tap in taps if tap["utc_ms"] < reported_ms} == {"sold"}
    after = [tap for tap in taps if tap["utc_ms"] > reported_ms + 100]
    assert len(after) >= 20
    assert {(tap["outcome"], tap["why"]) for tap in after} == {("refused", "deny_list")}
    assert all(tap["list"] == [1, 1] and tap["online_since_utc_ms"] < reported_ms for tap in after)
    sim = canteen.read("sim.json")
    assert sim["thief"]["taps"] == len(taps)
    # the owner no longer has the card: every other refusal would be a customer of the plan
    assert sim["taps_made"] == 400


def test_a_killed_simulator_goes_on_where_it_was(make: MakeCanteen) -> None:
    for kill_ms in (700, 1500, 2500):
        canteen = make()
        wanted = asked(taps=300, faults="torn:every=10;power:at=25%,terminals=2;cut:at=60%,seconds=1")
        for _ in range(3):
            play, _ports = canteen.begin(wanted, resume=True)
            canteen.kill(play, kill_ms)
        assert canteen.play(wanted, resume=True) == 0
        assert canteen.told("started")[-1]["resumed_taps"] > 0
        assert canteen.read("sim.json")["taps_made"] == 300
        check_books(canteen)


def test_a_thief_without_an_end_is_still_at_work_after_a_kill(make: MakeCanteen) -> None:
    canteen = make()
    wanted = asked(taps=400, faults="thief:card=any,at=10%,rate=10")
    play, _ports = canteen.begin(wanted)
    canteen.kill(play, 5000)
    before = len(canteen.lines("thief.jsonl"))
    assert before > 10
    assert canteen.play(wanted, resume=True) == 0
    taps = canteen.lines("thief.jsonl")
    assert len(taps) > before + 10
    assert len({tap["card"] for tap in taps}) == 1
    check_books(canteen)


def test_the_chips_of_a_fleet_take_only_the_room_of_what_was_written(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked()) == 0
    status = (canteen.dump / "flash.bin").stat()
    assert status.st_size == (4 + SPARE_DEVICES) * FLASH_BYTES_USUAL
    assert status.st_blocks * 512 < 4 * 64 * 1024  # two boots and a dump have looked at every sector


def test_without_a_dump_directory_everything_is_memory(make: MakeCanteen) -> None:
    canteen = make()
    play, ports = canteen.begin(asked(), dump=None)
    assert canteen.finish(play, ports) == 0
    assert play.result["agrees"]
    assert not canteen.dump.exists()


def test_a_front_end_that_never_acknowledges_is_told_by_name(make: MakeCanteen) -> None:
    canteen = make()
    canteen.frontend.acknowledges = False
    assert canteen.play(asked(taps=40), drain_ms=3000) == 1
    told = canteen.told("not_drained")[0]
    assert told["terminals_owing"] == 4
    assert {each["terminal"] for each in told["missing"]} == {FIRST, FIRST + 1, FIRST + 2, FIRST + 3}
    sim = canteen.read("sim.json")
    assert not sim["drained"]
    assert sum(each["unacknowledged"] for each in sim["missing"]) == 40
    assert canteen.read("oracle.json")["agrees"]  # cards and flash still agree; nothing is lost


def test_where_nobody_answers_the_run_ends_before_a_single_tap(make: MakeCanteen) -> None:
    canteen = make(has_frontend=False)
    assert canteen.play(asked(), connect_ms=2000) == 3
    assert canteen.told("unreachable") == [{"event": "unreachable", "seconds": 2.0}]
    assert canteen.read("sim.json")["taps_made"] == 0


def test_a_signal_ends_selling_and_the_rest_follows(make: MakeCanteen) -> None:
    canteen = make()
    play, ports = canteen.begin(asked(taps=4000))
    canteen.world.run_until(3000)
    assert ports.signal is not None
    ports.signal()
    assert canteen.finish(play, ports) == 0
    assert 0 < canteen.read("sim.json")["taps_made"] < 400
    check_books(canteen)


# -- what cannot start


def test_a_directory_with_a_run_in_it_is_not_taken_for_another(make: MakeCanteen) -> None:
    canteen = make()
    assert canteen.play(asked(taps=20)) == 0
    with pytest.raises(SetupError, match="Go on with --resume"):
        canteen.begin(asked(taps=20))
    with pytest.raises(SetupError, match="holds a run with --seed 5"):
        canteen.begin(asked(taps=20, seed=6), resume=True)
    assert canteen.play(asked(taps=20), resume=True) == 0  # nothing left to sell, and that is no mistake


def test_more_terminals_than_are_enrolled_is_answered_by_the_command_to_run(make: MakeCanteen) -> None:
    canteen = make()
    with pytest.raises(SetupError, match="onecard keys enrol --terminals 3"):
        load_seats(canteen.place, 7)


def test_a_faults_mistake_and_missing_or_damaged_cards_are_found_before_anything_boots(make: MakeCanteen) -> None:
    canteen = make()
    with pytest.raises(FaultSpecError):
        canteen.begin(asked(faults="cut"))
    canteen.place.card_images.write_bytes(b"x")
    with pytest.raises(DamagedData):
        load_cards(canteen.place)
    canteen.place.card_images.unlink()
    with pytest.raises(SetupError, match="onecard keys cards"):
        canteen.begin(asked())
    with pytest.raises(SetupError, match="--dump"):
        make().begin(asked(), dump=None, resume=True)
    assert not canteen.dump.exists()


def test_keys_and_card_numbers_show_in_no_repr(make: MakeCanteen) -> None:
    canteen = make()
    play, ports = canteen.begin(asked(taps=5))
    seats = load_seats(canteen.place, 1)
    shown = repr(seats) + repr(play) + json.dumps(canteen.events)
    assert seats[0].secrets.link_key.hex() not in shown
    assert str(FIRST_CARD + 3) not in shown
    assert canteen.finish(play, ports) == 0


# -- figures by hand


def test_percentiles_are_exact() -> None:
    histogram = Histogram()
    assert histogram.percentile(50) is None
    for ms in (1, 2, 3, 4, 100_000):
        histogram.add(ms)
    assert [histogram.percentile(percent) for percent in (20, 50, 80, 99)] == [1, 3, 4, 100_000]
    assert histogram.as_dict()["counts"] == {"1": 1, "2": 1, "3": 1, "4": 1, "9999": 1}


def make_figures() -> tuple[World, Figures]:
    world = World(1)
    figures = Figures(Host(world, "sim"), [1, 2])
    for terminal in (1, 2):
        figures.booted(terminal, created=0, acknowledged=0, next_sequence=1)
        figures.online(terminal, 0, is_online=True)
    return world, figures


def test_only_live_records_count_for_the_latency() -> None:
    _, figures = make_figures()
    figures.written(1, 1, 1, 100)
    figures.sent(1, 1, 1, 1, 100, live=True)
    figures.acknowledged(1, 1, 1, 1, 107)
    figures.online(1, 200, is_online=False)
    figures.written(1, 1, 2, 300)  # waits for a network
    figures.online(1, 900, is_online=True)
    figures.sent(1, 1, 2, 2, 900, live=True)
    figures.acknowledged(1, 1, 2, 2, 905)
    figures.written(1, 1, 3, 950)
    figures.online(1, 960, is_online=False)  # the front-end has died and committed it: the log-in acknowledges
    figures.online(1, 990, is_online=True)
    figures.acknowledged(1, 1, 3, 3, 995)
    figures.written(1, 1, 4, 1000)
    figures.sent(1, 1, 4, 4, 1000, live=True)
    figures.sent(1, 1, 4, 4, 5000, live=False)  # offered again when it was old
    figures.acknowledged(1, 1, 4, 4, 5001)
    assert figures.ack.as_dict()["counts"] == {"7": 1}


def test_recovery_is_backlog_at_reconnection_over_time_to_drain() -> None:
    _, figures = make_figures()
    for terminal in (1, 2):
        figures.online(terminal, 0, is_online=False)
        for sequence in range(1, 51):
            figures.written(terminal, 1, sequence, sequence)
    figures.online(1, 1000, is_online=True)
    figures.written(1, 1, 51, 1001)  # made after the reconnection: not part of the backlog
    figures.online(2, 1400, is_online=True)
    figures.acknowledged(1, 1, 1, 50, 1200)
    figures.acknowledged(2, 1, 1, 30, 1450)
    figures.acknowledged(2, 1, 31, 50, 1500)
    assert [each.as_dict(0) for each in figures.episodes] == [
        {"start_ms": 1000, "drain_ms": 500, "records": 100, "terminals": 2, "records_per_second": 200}
    ]
    assert figures.recovery_records_per_second() == 200
    assert figures.backlog == 1


def test_the_timeline_is_thinned_and_never_grows_without_bound() -> None:
    _, figures = make_figures()
    for _ in range(20_000):
        figures.sample(1, 1)
    assert 1000 < len(figures.samples) <= 2401


def test_a_run_object_that_never_started_can_be_closed(make: MakeCanteen) -> None:
    canteen = make()
    play, _ports = canteen.begin(asked())
    play.close()
    play.close()
    assert isinstance(play, Play)
