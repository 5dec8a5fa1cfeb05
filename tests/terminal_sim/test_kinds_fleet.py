"""A fleet of every kind that moves money, under virtual time: people do what the kind is for, and every cent agrees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.cards.memory_layout import Application
from protocol.codes import CardKind, TerminalKind
from protocol.keystore import Keystore
from protocol.parameters import Limits
from protocol.record_bodies import BODIES, Load
from protocol.records import decode_body, read_head
from protocol.registry import Registry
from terminal_sim.customers import usual_parameters
from terminal_sim.errors import SimError
from terminal_sim.population import SetupError
from terminal_sim.run import EXIT_DONE
from terminal_sim.seats import load_seats, sam_of
from tests.terminal_sim.fleet_kit import FIRST, FIRST_CARD, Canteen, asked
from tests.terminal_sim.kit import (
    AUTHENTICATE_MASTER,
    DEBIT_MASTER,
    PBOC_MASTERS,
    SECTOR_MASTERS,
    SITE,
    proof_verifies,
)

KINDS = [TerminalKind.POS, TerminalKind.MEAL, TerminalKind.LOAD_STATION, TerminalKind.POS]
STATION = FIRST + 2


class MixedCanteen(Canteen):
    """The canteen with tills, a meal terminal and a load station."""

    def __init__(self, directory: Path, **given: Any) -> None:
        super().__init__(directory, **given)
        registry = Registry.parse(self.place.registry.read_bytes())
        for number, kind in enumerate(KINDS, FIRST):
            registry.put(replace(registry.terminals[number], kind=kind))
        self.place.registry.write_bytes(registry.dump())
        masters = {
            "card_authenticate_master.1": AUTHENTICATE_MASTER,
            "card_debit_master.1": DEBIT_MASTER,
            "card_refund_master.1": bytes(16),
            "memory_purse_a_master.1": SECTOR_MASTERS[Application.PURSE].a,
            **{f"pboc_{name}_master.1": PBOC_MASTERS[name] for name in ("internal", "purchase", "maintenance")},
        }
        load_masters = {
            "card_load_master.1": bytes(16),
            "memory_purse_b_master.1": SECTOR_MASTERS[Application.PURSE].b,
            "pboc_load_master.1": PBOC_MASTERS["load"],
        }
        held = self.place.keystore
        stores = {
            "sam": Keystore("sam", SITE, masters, {}),
            "load": Keystore("load", SITE, load_masters, {}),
        }
        self.place = replace(self.place, keystore=lambda name: stores.get(name) or held(name))

    def order_file(self, count: int) -> Path:
        lines = [
            {"order": 70 + n, "card": FIRST_CARD + n, "amount_cents": 5_000 + n, "serial": 3, "station": STATION}
            for n in range(count)
        ]
        path = self.directory / "orders.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
        return path


@pytest.fixture
def canteen(tmp_path: Path) -> Iterator[MixedCanteen]:
    made = MixedCanteen(tmp_path)
    yield made
    made.close()


def types_held(canteen: Canteen, terminal: int) -> set[str]:
    records = canteen.frontend.stored[terminal].values()
    return {BODIES[read_head(record).type].__name__ for record in records}


def test_every_kind_does_its_work_and_flash_cards_and_customers_agree(canteen: MixedCanteen) -> None:
    code = canteen.play(asked(taps=900, rate=60.0), orders=canteen.order_file(20))
    sim, oracle = canteen.read("sim.json"), canteen.read("oracle.json")
    assert (code, sim["agrees"], oracle["faults"]) == (EXIT_DONE, True, [])
    assert types_held(canteen, FIRST) >= {"Purchase", "Refund"}
    assert types_held(canteen, FIRST + 1) >= {"Purchase", "Booking", "Cancellation", "Collection"}
    assert "Load" in types_held(canteen, STATION)
    done = oracle["done_by_type"]
    assert set(done) == {"refund", "load", "booking", "cancellation", "collection"}
    assert (done["load"]["count"], done["load"]["cents"]) == (20, sum(range(5_000, 5_020)))
    merchants = {each["terminal"]: each["merchant"] for each in canteen.read("terminals.json")["terminals"]}
    assert merchants[STATION] == 0, "what a station's ring has overwritten was no merchant's"
    assert all(merchant for terminal, merchant in merchants.items() if terminal != STATION)
    opening = 40 * 1_000_000
    taken = oracle["sold_cents"] + done["booking"]["cents"]
    given = done["refund"]["cents"] + done["load"]["cents"] + done["cancellation"]["cents"]
    assert oracle["purses_cents"] == opening - taken + given
    assert sum(each["cents"] for each in sim["merchants"].values()) == taken - given


def test_the_same_seed_gives_the_same_people(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        canteen = MixedCanteen(tmp_path / name)
        assert canteen.play(asked(taps=200), orders=canteen.order_file(5)) == EXIT_DONE
        runs.append({number: sorted(held) for number, held in canteen.frontend.stored.items()})
        canteen.close()
    assert runs[0] == runs[1]


def test_parameters_from_a_file_hold_at_every_terminal(canteen: MixedCanteen) -> None:
    limits = Limits(amount_max_cents=1_000)
    path = canteen.directory / "parameters.json"
    path.write_bytes(replace(usual_parameters(FIRST_CARD), limits=limits).content())
    assert canteen.play(asked(taps=200), parameters=path) == EXIT_DONE
    oracle = canteen.read("oracle.json")
    assert oracle["refused"]["amount_limit"] > 20
    assert "Refusal" in types_held(canteen, FIRST)


def test_power_cuts_at_every_kind_leave_nothing_unaccounted_for(canteen: MixedCanteen) -> None:
    parameters = canteen.directory / "parameters.json"
    limited = replace(usual_parameters(FIRST_CARD), limits=Limits(amount_max_cents=100_000))
    parameters.write_bytes(limited.content())
    code = canteen.play(
        asked(taps=600, rate=60.0, faults="power:at=20%,terminals=4;power:at=50%,terminals=4;torn:every=9"),
        orders=canteen.order_file(20),
        parameters=parameters,
    )
    oracle = canteen.read("oracle.json")
    assert (code, oracle["agrees"], oracle["faults"]) == (EXIT_DONE, True, [])


def test_only_a_load_station_gets_the_load_key(canteen: MixedCanteen) -> None:
    seats = load_seats(canteen.place, 4)
    loads = [seat.secrets.terminal for seat in seats if seat.secrets.sam.holds(1, 4)]
    refunds = [seat.secrets.terminal for seat in seats if seat.secrets.sam.holds(1, 3)]
    assert (loads, len(refunds)) == ([STATION], 4)
    with pytest.raises(SetupError, match="enrol more"):
        load_seats(canteen.place, 5)
    with pytest.raises(SimError):
        sam_of(Keystore("sam", SITE, {}, {}))


def test_orders_of_cards_of_every_kind_are_executed_once_through_torn_taps_and_power_cuts(tmp_path: Path) -> None:
    canteen = MixedCanteen(tmp_path, cards=30, memory=10, pboc=10)
    faults = "power:at=20%,terminals=4;power:at=50%,terminals=4;torn:every=7"
    code = canteen.play(asked(taps=900, rate=60.0, faults=faults), orders=canteen.order_file(30))
    oracle = canteen.read("oracle.json")
    assert (code, oracle["agrees"], oracle["faults"]) == (EXIT_DONE, True, [])
    stored = canteen.frontend.stored[STATION].values()
    loads = [body for body in map(decode_body, stored) if isinstance(body, Load)]
    assert {each.card_kind for each in loads} == set(CardKind)
    assert len({each.order for each in loads}) == len(loads), "no order is executed by two records"
    assert all(proof_verifies(read_head(one), body) for one in stored if isinstance(body := decode_body(one), Load))
    canteen.close()
