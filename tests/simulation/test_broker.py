"""A site whose link goes over a broker that acknowledges, and then loses, repeats, overtakes and forgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.agreement import agree
from tests.simulation.broker import Broker
from tests.simulation.broker_site import BROKER_HOST, lead_over_broker
from tests.simulation.keys import FIRST_CARD
from tests.simulation.plays import CENTS, sell
from tests.simulation.runner import drain
from tests.simulation.site import Site

HOUR_MS = 3_600_000


def heal(broker: Broker) -> None:
    broker.lost_permille = broker.twice_permille = broker.overtaken_permille = 0


@pytest.mark.parametrize("seed", range(3))
def test_every_cent_arrives_once_through_a_broker_that_forgets(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    with Site(seed, tmp_path / "site", frontends=2) as site:
        broker = lead_over_broker(site)
        site.start()
        site.run(3_000)
        broker.lost_permille, broker.twice_permille, broker.overtaken_permille = 30, 60, 30
        sold = sell(site, 20)
        broker.crash()
        sold += sell(site, 10)
        broker.start()
        sold += sell(site, 20)
        site.frontends[0].crash()
        sold += sell(site, 10)
        site.frontends[0].start()
        site.crash_ledger()
        sold += sell(site, 10)
        site.start_ledger()
        broker.crash()
        broker.start()
        sold += sell(site, 20)
        site.cut_network(BROKER_HOST)
        sold += sell(site, 10)
        site.heal()
        heal(broker)
        drain(site)
        found = agree(site)
        assert (found.records, found.ledger_cents) == (sold, sold * CENTS)
        assert {"message_lost", "message_twice", "message_overtaken", "broker_killed"} <= site.world.faults_fired.keys()


def test_a_seed_replays_the_broker_too(tmp_path: Path) -> None:
    def trace(directory: Path) -> str:
        with Site(11, directory) as site:
            broker = lead_over_broker(site)
            site.start()
            broker.lost_permille = 50
            sell(site, 10)
            broker.crash()
            broker.start()
            sell(site, 10)
            return site.world.trace_hash()

    assert trace(tmp_path / "one") == trace(tmp_path / "two")


def test_a_lost_card_is_refused_at_every_terminal_within_a_second_of_its_report(tmp_path: Path) -> None:
    with Site(5, tmp_path / "site", frontends=2) as site:
        lead_over_broker(site)
        site.start()
        site.run(5_000)
        drain(site)
        before = site.tills[0].terminal
        assert before is not None
        version = before.deny_list.memory.version
        site.report_lost(FIRST_CARD)
        site.run(1_000)
        for till in site.tills:
            assert till.terminal is not None
            assert till.terminal.deny_list.memory.version > version
        assert site.is_drained()


def test_the_list_that_a_broker_has_lost_arrives_with_the_next_ping(tmp_path: Path) -> None:
    with Site(6, tmp_path / "site") as site:
        broker = lead_over_broker(site)
        site.start()
        site.run(5_000)
        drain(site)
        broker.lost_permille = 1_000
        site.report_lost(FIRST_CARD)
        site.run(200)
        broker.lost_permille = 0
        site.run(15_000)
        assert site.is_drained()


def test_an_hour_without_the_broker_is_sold_through_and_drained(tmp_path: Path) -> None:
    with Site(7, tmp_path / "site") as site:
        broker = lead_over_broker(site)
        site.start()
        site.run(3_000)
        broker.crash()
        sold = 0
        for _ in range(12):
            sold += sell(site, 5)
            site.run(HOUR_MS // 12)
            forwarder = site.frontend.forwarder
            assert forwarder is not None
            assert forwarder.state()["batches_outstanding"] == 0
        broker.start()
        drain(site)
        assert agree(site).records == sold


def test_front_ends_stop_sending_when_the_ledgers_will_says_offline(tmp_path: Path) -> None:
    with Site(8, tmp_path / "site") as site:
        lead_over_broker(site)
        site.start()
        site.run(3_000)
        drain(site)
        site.crash_ledger()
        site.run(100)
        forwarder = site.frontend.forwarder
        assert forwarder is not None
        assert forwarder.state()["state"] == "waiting"
        sell(site, 5)
        assert forwarder.state()["batches_outstanding"] == 0
        site.start_ledger()
        drain(site)
