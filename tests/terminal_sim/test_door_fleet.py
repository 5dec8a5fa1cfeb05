"""Door terminals beside tills in whole runs: people walk, records arrive, nothing about money changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onecard_agreement_events import EventCounts, judge_events
from protocol.codes import RecordType, Suite, TerminalClass, TerminalKind
from protocol.keys import link_key, seal_key
from protocol.permissions import Permissions
from protocol.records import read_head
from protocol.registry import EnrolledTerminal, Registry
from terminal_sim.door_people import GROUPS, SHARES, Act, next_person, simulated_permissions
from terminal_sim.draws import Draws
from tests.cli.commands import onecard_here, onecard_process, serving
from tests.terminal_sim.fleet_kit import Canteen, asked
from tests.terminal_sim.kit import LINK_MASTER, SEAL_MASTER
from tests.terminal_sim.test_sim_cli import make_site

FIRST_DOOR = 5001
MakeSite = Callable[..., Canteen]


def add_doors(canteen: Canteen, doors: int) -> None:
    """Enrol them as `onecard keys enrol --kind door` would."""
    path = canteen.place.registry
    registry = Registry.parse(path.read_bytes())
    keys = canteen.place.keystore("terminals").keys
    for number in range(FIRST_DOOR, FIRST_DOOR + doors):
        registry.put(
            EnrolledTerminal(number, TerminalClass.TERMINAL, TerminalKind.DOOR, 1, Suite.A, 1, bytes(8), 0, "door")
        )
        keys[f"link.{number}.1"] = link_key(LINK_MASTER, terminal=number, epoch=1, key_version=1)
        keys[f"seal.{number}.1"] = seal_key(SEAL_MASTER, terminal=number, epoch=1)
    path.write_bytes(registry.dump())


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeSite]:
    made: list[Canteen] = []

    def build(*, doors: int = 3, **options: Any) -> Canteen:
        canteen = Canteen(tmp_path / str(len(made)), **options)
        made.append(canteen)
        add_doors(canteen, doors)
        return canteen

    yield build
    for canteen in made:
        canteen.close()


def arrived(canteen: Canteen) -> Counter[str]:
    """Records that the front-end holds of door terminals, by type."""
    found: Counter[str] = Counter()
    for terminal, held in canteen.frontend.stored.items():
        if terminal >= FIRST_DOOR:
            found.update(f"{read_head(record).type:02x}" for record in held.values())
    return found


def door_rows(canteen: Canteen) -> list[dict[str, Any]]:
    return [row for row in canteen.read("terminals.json")["terminals"] if row["terminal"] >= FIRST_DOOR]


def held(canteen: Canteen) -> Counter[str]:
    """The same, by the flash of the doors."""
    found: Counter[str] = Counter()
    for row in door_rows(canteen):
        for epoch in row["epochs"]:
            found.update(epoch["records_by_type"])
    return found


def test_people_walk_while_tills_sell_and_every_record_of_both_arrives(make: MakeSite) -> None:
    canteen = make()
    assert canteen.play(asked(taps=1200)) == 0  # half a minute
    sim, oracle = canteen.read("sim.json"), canteen.read("oracle.json")
    doors = sim["doors"]
    assert oracle["agrees"]
    assert oracle["sold_count"] == sim["flash"]["money_count"] == 1200
    assert doors["terminals"] == len(door_rows(canteen)) == 3
    assert doors["people"] >= 25
    flash = held(canteen)
    assert flash == arrived(canteen)
    assert flash["40"] == doors["opened"] > 0
    assert flash["41"] == doors["refused"] > 0
    assert flash["63"] == 3
    assert flash["42"] >= doors["exits"] + doors["forced"] > 0
    assert set(flash) <= {"40", "41", "42", "63", "64"}
    assert sim["flash"]["records_by_type"] == dict(sorted((flash + Counter({"01": 1200})).items()))
    assert sim["records_created"] == sim["records_acknowledged"] == 1200 + flash.total()


def test_doors_change_nothing_about_the_taps_of_a_run(make: MakeSite) -> None:
    """The same seed with and without doors sells the same to the same cards."""
    cards = []
    for doors in (0, 4):
        canteen = make(doors=doors)
        assert canteen.play(asked()) == 0
        cards.append(canteen.read("cards.json"))
        assert canteen.read("sim.json")["doors"]["terminals"] == doors
    assert cards[0] == cards[1]


def test_the_same_seed_gives_the_same_people(make: MakeSite) -> None:
    runs = []
    for _ in range(2):
        canteen = make()
        assert canteen.play(asked(taps=400, faults="power:at=40%,terminals=4")) == 0
        runs.append((canteen.read("sim.json")["doors"], canteen.read("terminals.json")))
    assert runs[0] == runs[1]


def test_doors_lose_power_and_network_and_nobody_passes_unrecorded(make: MakeSite) -> None:
    spec = ";".join(f"power:at={percent}%,terminals=5" for percent in range(5, 95, 10)) + ";cut:at=30%,seconds=5"
    canteen = make(doors=4)
    assert canteen.play(asked(taps=1200, faults=spec)) == 0
    doors, flash = canteen.read("sim.json")["doors"], held(canteen)
    assert sum(row["boots"] for row in door_rows(canteen)) > 4
    assert flash["40"] >= doors["opened"] > 0  # a cut after the record and before the answer leaves a record more
    assert flash["41"] >= doors["refused"] > 0
    assert flash == arrived(canteen)
    assert all(row["unacknowledged"] == 0 for row in door_rows(canteen))


def test_a_killed_simulator_goes_on_with_its_doors(make: MakeSite) -> None:
    canteen = make()
    run = asked(taps=600)
    play, _ = canteen.begin(run)
    canteen.kill(play, 8_000)
    before = arrived(canteen)
    assert before["63"] == 3
    assert canteen.play(run, resume=True) == 0
    flash = held(canteen)
    assert flash == arrived(canteen)
    assert flash["63"] == 6
    assert canteen.read("oracle.json")["agrees"]


def test_the_simulated_permissions_are_a_document_like_any_other() -> None:
    made = simulated_permissions(5001)
    assert Permissions.decode(made.encode()) == made
    assert [door.door for door in made.doors_of(5001)] == [1, 2, 3]
    assert len(made.groups) == GROUPS


def test_every_kind_of_person_comes_in_its_share() -> None:
    draws = Draws(1, "people")
    seen = Counter(next_person(draws, 10).act for _ in range(5_000))
    assert set(seen) == set(Act)
    for act, share in SHARES.items():
        assert abs(seen[act] / 50 - share) < 3, act


def test_real_doors_beside_real_tills_send_every_event_to_a_real_front_end(tmp_path: Path) -> None:
    site, dump = make_site(tmp_path), tmp_path / "dump"
    assert onecard_here("keys", "enrol", "--terminals", 2, "--kind", "door", "--site", site).code == 0
    with serving("serve", "--config", site) as server:
        done = onecard_process(
            *("sim", "run", "--connect", server.ready["address"], "--site", site, "--terminals", 2, "--json"),
            *("--taps", 150, "--rate", 30, "--seed", 3, "--dump", dump),
        )
        assert done.code == 0, done.err
        assert server.stop() == 0
    doors = json.loads((dump / "sim.json").read_text())["doors"]
    assert (doors["terminals"], doors["people"] > 0) == (2, True)
    counts = EventCounts()
    for row in json.loads((dump / "terminals.json").read_text())["terminals"]:
        for epoch in row["epochs"]:
            counts.add(epoch)
    assert counts.by_type[RecordType.POWER] == 2
    assert counts.by_type[RecordType.ACCESS_GRANTED] == doors["opened"]
    totals = onecard_here("spool", "totals", "--site", site, "--json")
    assert totals.code == 0, totals.err
    assert list(judge_events(counts, json.loads(totals.out), {})) == []
