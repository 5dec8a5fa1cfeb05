"""Two front-ends, terminals with both addresses (docs/frontends.md): moving over opens no gap and doubles nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.recollection import GAP_AGE_MS, LOOK_MS
from ledger_sync.ledger.report import report
from ledger_sync.spool.reader import SpoolReader
from ledger_sync.spool.twins import Twins, find_twins
from protocol.codes import ByeCode
from terminal_sim.firmware import Outcome, Why
from terminal_sim.uplink import BACK_OFF_MS_MAX
from tests.simulation.agreement import agree
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.keys import FIRST_CARD
from tests.simulation.plays import CENTS, sell
from tests.simulation.runner import drain
from tests.simulation.site import Site
from tests.simulation.till import Till

MOVED_MS = 30_000  # silence is noticed after 50 s at most, a refused connection at once; then half a second of back-off


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(2026, tmp_path / "site", frontends=2, check_every_events=100) as made:
        made.start()
        made.run(3_000)
        drain(made)
        yield made


def told(site: Site) -> dict[str, Any]:
    ledger = site.invariants.ledger
    assert ledger is not None
    return report(ledger.connection, now_ms=site.ledger.host.now_ms())


def twins(site: Site) -> Twins:
    first, second = site.frontends
    with SpoolReader.open(first.spool_path) as one, SpoolReader.open(second.spool_path) as other:
        return find_twins([one, other])


def at(site: Site, frontend: int) -> list[Till]:
    """Tills that are logged in at that front-end."""
    server = site.frontends[frontend].server
    if server is None:
        return []
    return [till for till in site.tills if server.parts.sessions.live(till.number) is not None]


def spans(site: Site, frontend: int, till: Till) -> list[tuple[int, int]]:
    with SpoolReader.open(site.frontends[frontend].spool_path) as reader:
        return next((one["ranges"] for one in reader.epochs() if one["terminal"] == till.number), [])


def test_terminals_share_out_over_two_front_ends_and_every_record_arrives_once(site: Site) -> None:
    assert [len(at(site, number)) for number in (0, 1)] == [2, 2]
    sold = sell(site, 40)
    drain(site)
    assert agree(site).records == sold
    assert twins(site).records == 0


def test_terminals_of_a_front_end_that_is_killed_go_on_at_the_other(site: Site) -> None:
    sold = sell(site, 20)
    site.frontends[0].crash()
    sold += sell(site, 40)
    assert len(at(site, 1)) == 4
    site.frontends[0].start()
    sold += sell(site, 20)
    drain(site)
    assert len(at(site, 1)) == 4  # they stay where they are well
    found = agree(site)
    assert (found.records, found.ledger_cents) == (sold, sold * CENTS)
    assert told(site)["open_items"]["gap"]["items"] == 0


def test_a_record_whose_acknowledgement_was_lost_is_held_twice_and_posted_once(site: Site) -> None:
    first = site.frontends[0]
    till = at(site, 0)[0]
    first.host.done_ms = 1_000  # the commit is on disk a second before anybody is told
    assert site.tap(till, FIRST_CARD, 1_250) is not None
    site.run(200)
    first.crash()
    first.host.done_ms = 1
    site.run(MOVED_MS)
    assert till in at(site, 1)
    first.start()
    drain(site)
    assert twins(site).records == 1
    assert (agree(site).records, agree(site).ledger_cents) == (1, 1_250)
    assert (told(site)["counts"]["duplicates"], told(site)["double_posted"]) == (1, 0)


def test_a_terminal_that_comes_back_is_asked_for_its_seal_and_uploads_nothing_twice(site: Site) -> None:
    till = at(site, 0)[0]
    for number in range(5):
        site.tap(till, FIRST_CARD + number, CENTS)
    drain(site)
    site.part(till.host.name, site.frontends[0].host.name)
    site.run(2 * MOVED_MS)
    assert till in at(site, 1)
    for number in range(5, 9):
        site.tap(till, FIRST_CARD + number, CENTS)
    site.run(1_000)
    site.heal()
    site.frontends[1].crash()
    site.run(MOVED_MS)
    assert till in at(site, 0)
    for number in range(9, 12):
        site.tap(till, FIRST_CARD + number, CENTS)
    site.frontends[1].start()
    drain(site)
    assert (spans(site, 0, till), spans(site, 1, till)) == ([(1, 5), (10, 12)], [(6, 9)])
    assert twins(site).records == 0
    assert (agree(site).records, told(site)["counts"]["duplicates"]) == (12, 0)
    with SpoolReader.open(site.frontends[0].spool_path) as reader:
        [held] = [one for one in reader.held((0, 0)) if one.terminal == till.number]
        assert [(hole.kind.value, hole.first, hole.last) for hole in held.holes()] == [("elsewhere", 6, 9)]


def test_what_a_dead_front_end_had_acknowledged_is_collected_again_through_the_other(site: Site) -> None:
    site.crash_ledger()
    till = at(site, 0)[0]
    for number in range(8):
        site.tap(till, FIRST_CARD + number, CENTS)
    site.run(2_000)
    assert till.terminal is not None
    assert till.terminal.memory is not None
    assert till.terminal.memory.ring.unacknowledged == 0  # durable there, and the ledger knows nothing of them
    site.frontends[0].crash()
    site.run(MOVED_MS)
    site.tap(till, FIRST_CARD + 8, CENTS)
    site.start_ledger()
    site.run(GAP_AGE_MS - 10_000)
    gap = told(site)["open_items"]["gap"]
    assert (gap["sequences"], gap["amount_cents"]) == (8, 8 * CENTS)  # named, with its amount, not lost
    site.run(2 * LOOK_MS + GAP_AGE_MS)
    assert told(site)["open_items"]["gap"]["items"] == 0  # through the second, while the first is away
    assert told(site)["records"]["count"] == 9
    site.frontends[0].start()
    drain(site)
    assert (agree(site).records, twins(site).records) == (9, 8)
    assert (told(site)["counts"]["duplicates"], told(site)["double_posted"]) == (8, 0)


@pytest.mark.parametrize("how", ["disk full", "orderly stop"])
def test_a_front_end_that_cannot_serve_sends_its_terminals_to_the_other(site: Site, how: str) -> None:
    first = site.frontends[0]
    assert len(at(site, 0)) == 2
    if how == "disk full":
        first.free_percent = 2
    else:
        first.stop()
    sold = sell(site, 12, every_ms=1_000)
    assert len(at(site, 1)) == 4
    first.free_disk()
    if first.is_stopped:
        first.start()
    drain(site)
    assert agree(site).records == sold


@pytest.mark.parametrize("code", [ByeCode.REKEY, ByeCode.IDLE])
def test_a_terminal_whose_session_alone_is_over_stays_with_its_front_end(site: Site, code: ByeCode) -> None:
    server = site.frontends[0].server
    assert server is not None
    till = at(site, 0)[0]
    live = server.parts.sessions.live(till.number)
    assert live is not None
    live.say_bye(code)
    site.run(3_000)
    assert till in at(site, 0)
    assert server.parts.sessions.live(till.number) is not live


def test_a_terminal_backs_off_only_when_every_address_has_failed(site: Site) -> None:
    uplink = site.tills[0].uplink
    assert uplink is not None
    assert [uplink.back_off_ms() for _ in range(6)] == [500, 500, 1_000, 1_000, 2_000, 2_000]
    assert [uplink.back_off_ms() for _ in range(30)][-1] == BACK_OFF_MS_MAX


def test_every_front_end_gets_every_list_version_and_a_moved_terminal_refuses_a_lost_card(site: Site) -> None:
    site.frontends[0].crash()
    site.run(MOVED_MS)
    site.report_lost(FIRST_CARD)
    site.run(1_000)
    for till in site.tills:
        result = site.tap(till, FIRST_CARD, 10)
        assert result is not None
        assert (result.outcome, result.why) == (Outcome.REFUSED, Why.DENY_LIST)
    site.frontends[0].start()
    drain(site)
    assert site.frontends[0].list_on_disk() == site.frontends[1].list_on_disk() == max(site.invariants.ledger.denied())  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", [2, 5, 7, 8])  # with twins; 160 others were run by hand
def test_whatever_is_cut_killed_or_parted_everything_arrives_once(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(f"{seed}:two front-ends")
    with Site(seed, tmp_path / "site", frontends=2, check_every_events=500) as site:
        site.start()
        site.run(3_000)
        names = [one.host.name for one in site.frontends]
        for _ in range(14):
            kind = rng.randrange(5)
            frontend = rng.choice(site.frontends)
            if kind == 0 and frontend.server is not None:
                frontend.host.done_ms = rng.choice((1, 300))
                sell(site, 4, every_ms=40)
                frontend.crash()
            elif kind == 1:
                site.part(rng.choice(site.tills).host.name, rng.choice(names))
            elif kind == 2:
                site.cut_network(rng.choice((*names, LEDGER_HOST)))
            elif kind == 3:
                site.heal()
            elif frontend.server is None:
                frontend.start()
            sell(site, rng.randrange(4, 16), every_ms=rng.choice((20, 200)))
            site.run(rng.choice((500, 5_000, 60_000)))
        site.heal()
        for one in site.frontends:
            one.host.done_ms = 1
            if one.server is None:
                one.start()
        drain(site)
        found = agree(site)
        print(found, twins(site).records, site.world.faults_fired)
        assert found.records > 80
        assert found.terminals_cents == found.ledger_cents
