"""Directed scenarios: what this system is for, one sentence each, on a whole site under virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ledger_sync.ledger.errors import LedgerDamaged
from ledger_sync.ledger.wires import FrontEndWire
from protocol.cards.apdu import Identity
from protocol.codes import LinkType
from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.firmware import Outcome, Why
from terminal_sim.flash import CutAfter
from tests.simulation.agreement import agree
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.keys import FIRST_CARD
from tests.simulation.plays import (
    play_dead_sector,
    play_full_memory,
    play_lost_card,
    play_missed_list,
    play_old_list_again,
    play_restored_ledger,
    play_rolled_back,
    play_torn_taps,
    sell,
    started,
)
from tests.simulation.runner import drain
from tests.simulation.site import FRONTEND_HOST, Site

DEBIT: Final = 2  # commands of an ordinary tap, counted from 0: SELECT, AUTHENTICATE, DEBIT, CONFIRM


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with started(tmp_path) as made:
        yield made


def waiting(site: Site) -> int:
    """Records that terminals still hold unacknowledged."""
    return sum(
        till.terminal.memory.ring.unacknowledged
        for till in site.tills
        if till.terminal is not None and till.terminal.memory is not None
    )


def unsettled(site: Site) -> int:
    assert site.invariants.spool is not None
    return site.invariants.spool.unsettled_rows()


def test_a_canteen_sells_through_an_outage_and_every_cent_arrives(site: Site) -> None:
    before = sell(site, 20)
    site.cut_network(FRONTEND_HOST)
    during = sell(site, 60)
    assert during > 50
    assert waiting(site) >= during
    site.heal()
    drain(site)
    totals = agree(site)
    assert totals.records == before + during
    assert totals.terminals_cents == totals.spool_cents == totals.ledger_cents == 850 * (before + during)
    assert totals.open_cents == 0


def test_sales_go_on_while_the_ledger_is_away_and_arrive_when_it_is_back(site: Site) -> None:
    site.crash_ledger()
    sold = sell(site, 40)
    assert unsettled(site) > 0
    assert waiting(site) == 0
    site.start_ledger()
    drain(site)
    assert agree(site).records == sold


def test_a_front_end_killed_between_commit_and_acknowledgement_acknowledges_duplicates_and_doubles_nothing(
    site: Site,
) -> None:
    host = site.frontend.host
    host.done_ms = 1_000  # the commit is on disk a second before anybody is told
    till = site.tills[0]
    sold = site.tap(till, FIRST_CARD, 1_250)
    assert sold is not None
    site.run(200)
    assert site.invariants.spool is not None
    assert site.invariants.spool.stored(till.number, 1, sold.sequence, sold.sequence)
    assert waiting(site) == 1
    site.crash_frontend()
    host.done_ms = 1
    site.start_frontend()
    drain(site)
    assert agree(site).records == 1
    assert agree(site).ledger_cents == 1_250


@pytest.mark.parametrize("again", ["twice", "late"])
def test_a_ledger_that_answers_twice_or_late_settles_each_row_once(
    site: Site, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = FrontEndWire.send
    answers = 0

    def sends(wire: FrontEndWire, message: bytes) -> None:
        nonlocal answers
        if message[5] != LinkType.RECEIPT:
            send(wire, message)
            return
        answers += 1
        if again == "twice":
            send(wire, message)
        site.after(70_000 if again == "late" and answers == 1 else 0, lambda: send(wire, message))

    monkeypatch.setattr(FrontEndWire, "send", sends)
    sold = sell(site, 12)
    site.run(90_000)
    drain(site)
    assert answers >= (2 if again == "late" else 1)
    assert agree(site).records == sold


def test_a_terminal_cut_mid_debit_leaves_a_grey_record_that_the_cards_next_tap_resolves(site: Site) -> None:
    first, second = site.tills[:2]
    cut = Disturbance(DEBIT, Moment.AFTER_WRITE, Effect.POWER_CUT)
    before_cents = site.cards.load(FIRST_CARD).balance_cents
    assert site.tap(first, FIRST_CARD, 900, cut) is None
    assert site.cards.load(FIRST_CARD).balance_cents == before_cents - 900  # the card has paid, nobody was told
    site.run(2_000)
    site.reboot(first)
    drain(site)
    identity = Identity(first.number, 1, 1)
    ledger = site.invariants.ledger
    assert ledger is not None
    assert ledger.open_greys() == {identity: 900}
    assert agree(site).open_cents == 900

    result = site.tap(second, FIRST_CARD, 100)
    assert result is not None
    assert result.completed == identity
    assert result.outcome is Outcome.SOLD
    drain(site)
    assert ledger.open_greys() == {}
    assert agree(site).ledger_cents == 1_000


def test_a_terminal_cut_before_the_debit_took_effect_stays_grey_until_a_person_decides(site: Site) -> None:
    first, second = site.tills[:2]
    assert site.tap(first, FIRST_CARD, 900, Disturbance(DEBIT, Moment.BEFORE, Effect.POWER_CUT)) is None
    site.reboot(first)
    assert site.tap(second, FIRST_CARD, 100) is not None
    drain(site)
    totals = agree(site)
    assert totals.greys_open == 1
    assert totals.ledger_cents == 100
    assert totals.terminals_cents == 1_000


def test_a_card_reported_lost_is_refused_within_a_second_at_every_online_terminal(tmp_path: Path) -> None:
    outcomes = play_lost_card(tmp_path)
    terminals = len(outcomes) // 2
    assert terminals > 1
    assert outcomes == [Outcome.REFUSED] * terminals + [Outcome.SOLD] * terminals


def test_a_card_reported_lost_during_an_outage_is_refused_as_soon_as_a_terminal_is_back(site: Site) -> None:
    cut = site.tills[0]
    site.cut_network(cut.host.name)
    site.report_lost(FIRST_CARD)
    site.run(2_000)
    result = site.tap(cut, FIRST_CARD, 500)
    assert result is not None
    assert result.outcome is Outcome.SOLD  # it cannot know; the sale posts, as an exception (R19)
    site.heal()
    drain(site)
    refused = site.tap(cut, FIRST_CARD, 500)
    assert refused is not None
    assert refused.why is Why.DENY_LIST
    drain(site)
    assert agree(site).ledger_cents == 500


def test_a_restored_ledger_gets_everything_again_under_its_higher_generation(tmp_path: Path) -> None:
    totals = play_restored_ledger(tmp_path)
    assert totals.ledger_cents == totals.terminals_cents == 850 * totals.records


def test_a_terminal_whose_memory_went_back_in_time_is_told_that_it_has_forked(tmp_path: Path) -> None:
    assert play_rolled_back(tmp_path) & {"fork", "suspect records"}


def test_records_of_a_dead_sector_are_named_as_tombstones_with_their_amount(tmp_path: Path) -> None:
    totals, lost = play_dead_sector(tmp_path)
    assert totals.open_cents == 100 * lost
    assert totals.terminals_cents == totals.ledger_cents + totals.open_cents


def test_an_old_ledger_put_back_without_saying_so_does_not_start(site: Site, tmp_path: Path) -> None:
    """The heads file beside it knows positions that the copy does not (R26): nothing is settled on its word."""
    sell(site, 4)
    drain(site)
    backup = tmp_path / "yesterday.db"
    site.ledger.back_up(backup)
    sold = 4 + sell(site, 8)
    drain(site)
    site.crash_ledger()
    site.ledger.put_back(backup)
    with pytest.raises(LedgerDamaged, match="truncated, or a backup was put back"):
        site.ledger.open()
    site.restore_ledger(backup)
    site.start_ledger()
    drain(site)
    assert agree(site).records == sold


@pytest.mark.parametrize("steps", [0, 40, 100, 118, 130, 200])
def test_power_cut_inside_a_flash_operation_of_a_sale_costs_nobody_a_cent(site: Site, steps: int) -> None:
    till = site.tills[0]
    till.flash.cut_plan = CutAfter(steps, bits_done=0x0F)
    site.tap(till, FIRST_CARD, 700)
    site.run(1_000)
    till.flash.cut_plan = None
    site.reboot(till)
    site.run(1_000)
    for each in site.tills[1:]:
        assert site.tap(each, FIRST_CARD, 99_999_999) is not None  # shows the card; it cannot pay that
    drain(site)
    paid = sum(one.amount_cents for one in site.oracle.executed.values())
    assert agree(site).ledger_cents == paid


def test_a_till_with_a_full_memory_refuses_to_sell_and_loses_nothing(tmp_path: Path) -> None:
    found, refused = play_full_memory(tmp_path)
    assert refused > 10
    assert found.records == 200 - refused


def test_cards_torn_at_every_command_of_a_tap_bring_their_debits_home(tmp_path: Path) -> None:
    found = play_torn_taps(tmp_path)
    assert found.records > 2
    assert (found.greys_open, found.open_cents) == (1, 850)


def test_a_list_that_is_missed_is_fetched_whole(tmp_path: Path) -> None:
    assert set(play_missed_list(tmp_path)) == {Why.DENY_LIST}


def test_a_list_said_again_by_somebody_on_the_wire_changes_nothing(tmp_path: Path) -> None:
    assert play_old_list_again(tmp_path).open_cents == 0


def test_both_machines_of_the_back_room_lose_power_together_and_nothing_is_missing(site: Site) -> None:
    sold = sell(site, 10, every_ms=7)
    site.crash_frontend()
    site.crash_ledger()
    sold += sell(site, 10)
    site.cut_network(LEDGER_HOST)
    site.start_ledger()
    site.start_frontend()
    sold += sell(site, 10)
    site.heal()
    drain(site)
    assert agree(site).records == sold


def test_parameters_reach_every_terminal_through_crashes_and_cuts_and_never_go_back(site: Site) -> None:
    site.frontend.publish_parameters()
    drain(site)
    assert {till.parameters_version for till in site.tills} == {(1, 1)}
    torn, away, *_ = site.tills
    site.power_cut(away)
    site.crash_frontend()
    site.frontend.publish_parameters()  # while nobody serves
    torn.flash.cut_plan = CutAfter(40, bits_done=0x66)  # in the middle of the transfer
    site.start_frontend()
    site.run(30_000)
    assert not torn.is_on
    site.frontend.publish_parameters()
    site.run(5_000)
    assert {till.parameters_version for till in site.tills if till.is_on} == {(1, 3)}
    for till in (torn, away):
        site.reboot(till)
        assert till.parameters_version in {(1, 1), (1, 2)}
    drain(site)
    assert {till.parameters_version for till in site.tills} == {(1, 3)}
    contents = {till.terminal.parameters_content for till in site.tills if till.terminal is not None}
    assert [content is not None and b"of version 3" in content for content in contents] == [True]
