"""The deny list on its way down: verified, kept, pushed at once, and never back (R27, R28)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frontend_server.alarms import AlarmKind
from frontend_server.distribution import ASK_AGAIN_MS
from frontend_server.list_cache import DELTAS_MAX, compose_deltas, decode_cache
from protocol.codes import ListForm, ListKind, ReportKind
from protocol.deny_list import DenyList, apply_delta, make_delta
from protocol.errors import Malformed, RemoteError
from protocol.messages import ListChunk, ListOffer
from tests.frontend.scripted_terminal import ScriptedTerminal
from tests.frontend.site import ROOT_PUBLIC, SITE, Site
from tests.hostile import flipped, outcome


def offers(terminal: ScriptedTerminal) -> list[ListOffer]:
    return [message for message in terminal.messages if isinstance(message, ListOffer)]


def alarm_kinds(site: Site) -> set[AlarmKind]:
    return {alarm.kind for alarm in site.alarms.standing()}


def cache_file(site: Site) -> Path:
    return site.directory / "list-deny.cache"


def test_a_lost_card_reaches_every_terminal_online_within_a_second(make_site: Callable[..., Site]) -> None:
    site = make_site(enrolled=40, push_slice=4)
    terminals = [site.terminal(101 + index) for index in range(40)]
    for terminal in terminals:
        terminal.connect()
    site.run()
    site.issue(1, DenyList([5, 9]))
    site.run(1_000)
    assert {terminal.list_receiver.held_version for terminal in terminals} == {(1, 1)}
    site.issue(2, DenyList([5, 7, 9]), base=(1, DenyList([5, 9])))
    site.run(1_000)
    assert {terminal.list_receiver.held_version for terminal in terminals} == {(1, 2)}
    assert DenyList.from_content(terminals[0].list_content).contains(7)
    assert {status.list_version for status in site.server.parts.sessions.statuses()} == {(1, 2)}


def test_a_small_change_of_a_long_list_travels_as_a_delta(site: Site) -> None:
    long = DenyList(range(1, 5_001))
    longer = DenyList(range(1, 5_002))
    terminal = site.logged_in()
    site.issue(1, long)
    site.run(2_000)
    site.issue(2, longer, base=(1, long))
    site.run(2_000)
    assert [offer.form for offer in offers(terminal)] == [ListForm.SNAPSHOT, ListForm.DELTA]
    assert terminal.list_content == longer.content()


def test_a_terminal_that_comes_later_is_brought_to_the_present_version(site: Site) -> None:
    site.issue(3, DenyList([5]))
    site.run()
    terminal = site.logged_in()
    site.run()
    assert terminal.list_receiver.held_version == (1, 3)


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(site: Site) -> None:
    terminal = site.logged_in()
    site.issue(1, DenyList(range(1, 50_001)))
    for _ in range(100_000):
        if len(terminal.staged) > 60_000:
            break
        site.world.step()
    terminal.hang_up()
    site.run()
    staged = len(terminal.staged)
    assert 60_000 < staged < 200_008
    terminal.connect()
    site.run(5_000)
    assert offers(terminal)[0].data == b""  # first it asks how much is there
    chunks = [message for message in terminal.messages if isinstance(message, ListChunk)]
    assert chunks[0].offset == staged
    assert terminal.list_receiver.held_version == (1, 1)


def test_the_list_does_not_go_back_over_a_restart(site: Site) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    site.power_cut()
    site.boot()
    assert site.server.parts.distribution.version(ListKind.DENY) == (1, 4)
    site.issue(3, DenyList([5]))
    site.run()
    assert site.server.parts.distribution.version(ListKind.DENY) == (1, 4)
    assert alarm_kinds(site) == {AlarmKind.LIST_REFUSED}
    terminal = site.logged_in()
    site.run()
    assert terminal.list_receiver.held_version == (1, 4)


def test_the_present_list_sent_again_is_no_alarm(site: Site) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    site.issue(4, DenyList([5, 6]))
    site.run()
    assert not alarm_kinds(site)


def refused_lists(site: Site) -> list[tuple[Any, ...]]:
    content = DenyList([1]).content()
    good = site.head(9, content)
    return [
        (site.head(9, content, seed=bytes(32)), site.certificate(), ListForm.SNAPSHOT, (0, 0), content),
        (good, site.certificate(root=bytes(32)), ListForm.SNAPSHOT, (0, 0), content),
        (good, site.certificate(site=SITE + 1), ListForm.SNAPSHOT, (0, 0), content),
        (good, site.certificate(), ListForm.SNAPSHOT, (0, 0), DenyList([2]).content()),
        (good, site.certificate(), ListForm.SNAPSHOT, (0, 0), content + b"\0"),
        (good, site.certificate(), ListForm.DELTA, (1, 4), b"junk"),
        (site.head(4, content), site.certificate(), ListForm.SNAPSHOT, (0, 0), content),
    ]


@pytest.mark.parametrize("index", range(7))
def test_an_unsigned_foreign_or_wrong_list_is_refused_and_alarmed(site: Site, index: int) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    before = cache_file(site).read_bytes()
    site.server.on_list(*refused_lists(site)[index])
    site.run()
    assert site.server.parts.distribution.version(ListKind.DENY) == (1, 4)
    assert alarm_kinds(site) == {AlarmKind.LIST_REFUSED}
    assert cache_file(site).read_bytes() == before
    site.issue(5, DenyList([5]))
    site.run()
    assert not alarm_kinds(site)


def test_a_list_of_which_not_even_the_head_can_be_read_is_asked_for_again(site: Site) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    site.server.on_damaged_list("signed head: reserved bytes are not zero at offset 9")
    site.server.on_damaged_list("signed head: reserved bytes are not zero at offset 9")
    assert not site.server.parts.distribution.is_newest(ListKind.DENY)
    assert alarm_kinds(site) == {AlarmKind.LIST_REFUSED}
    site.run(ASK_AGAIN_MS)
    assert site.forwarder.requests == [(ListKind.DENY, (1, 4))]


def test_a_delta_from_another_base_makes_the_front_end_ask_for_a_snapshot(site: Site) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    site.issue(7, DenyList([5]), base=(6, DenyList([5, 6])))
    site.run()
    assert site.forwarder.requests == [(ListKind.DENY, (0, 0))]
    assert site.server.parts.distribution.version(ListKind.DENY) == (1, 4)


def test_versions_that_come_faster_than_they_are_made_end_at_the_newest(site: Site) -> None:
    for counter in range(1, 6):
        site.issue(counter, DenyList(range(1, counter + 1)))
    site.run()
    assert site.server.parts.distribution.version(ListKind.DENY) == (1, 5)


def test_a_damaged_cache_is_set_aside_and_alarmed(site: Site) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    data = bytearray(cache_file(site).read_bytes())
    data[len(data) // 2] ^= 1
    site.power_cut()
    cache_file(site).write_bytes(data)
    site.boot()
    assert site.server.parts.distribution.held(ListKind.DENY) is None
    assert alarm_kinds(site) == {AlarmKind.LIST_CACHE}
    assert Path(f"{cache_file(site)}.damaged").read_bytes() == bytes(data)
    site.issue(4, DenyList([5, 6]))
    site.run()
    assert site.server.parts.distribution.version(ListKind.DENY) == (1, 4)
    assert not alarm_kinds(site)


def test_a_disk_that_refuses_the_cache_does_not_keep_a_lost_card_from_being_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = site.logged_in()

    def refuse(_path: str, _data: bytes) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(site.host, "replace", refuse)
    site.issue(1, DenyList([5]))
    site.run()
    assert terminal.list_receiver.held_version == (1, 1)
    assert alarm_kinds(site) == {AlarmKind.LIST_CACHE}


def test_a_terminal_that_reports_an_unsigned_head_is_alarmed_and_brought_back(site: Site) -> None:
    site.issue(4, DenyList([5]))
    terminal = site.logged_in()
    site.run()
    terminal.list_receiver = type(terminal.list_receiver)(
        site=SITE, root_public=ROOT_PUBLIC, room_bytes=1 << 20, store=terminal
    )
    terminal.report(site.head(9, DenyList([8]).content(), seed=bytes(32)).encode())
    site.run()
    assert site.forwarder.reports[0][:2] == (101, ReportKind.UNSIGNED_HEAD)
    assert terminal.list_receiver.held_version == (1, 4)
    assert not alarm_kinds(site)  # cleared when it reported the right one


def test_a_higher_signed_head_is_passed_to_the_ledger(site: Site) -> None:
    site.issue(4, DenyList([5]))
    terminal = site.logged_in()
    site.run()
    terminal.report(site.head(9, DenyList([8]).content()).encode())
    site.run()
    assert [report[:2] for report in site.forwarder.reports] == [(101, ReportKind.HIGHER_HEAD)]
    assert alarm_kinds(site) == {AlarmKind.HIGHER_HEAD}


def test_composed_deltas_do_what_the_deltas_do_one_after_the_other() -> None:
    seed = 20
    print(f"seed={seed}")
    source = random.Random(seed)

    def some() -> DenyList:
        return DenyList(source.sample(range(1, 40), 12), source.sample(range(1, 20), 6))

    for _ in range(300):
        one, two, three = some(), some(), some()
        composed = compose_deltas(make_delta(one, two), make_delta(two, three))
        assert apply_delta(one, composed) == three
        assert composed == make_delta(one, three)
    with pytest.raises(Malformed):
        compose_deltas(bytes(16), bytes(17))


def test_deltas_from_earlier_versions_are_carried_over_restarts_within_bounds(site: Site) -> None:
    cards = DenyList(range(1, 1_000))
    site.issue(1, cards)
    site.run()
    for counter in range(2, DELTAS_MAX + 6):
        after = cards.with_changes(added=[5_000 + counter])
        site.issue(counter, after, base=(counter - 1, cards))
        cards = after
        site.run()
    site.power_cut()
    site.boot()
    held = site.server.parts.distribution.held(ListKind.DENY)
    assert held is not None
    assert sorted(held.deltas) == [(1, counter) for counter in range(5, DELTAS_MAX + 5)]
    oldest = DenyList([*range(1, 1_000), *(5_000 + counter for counter in range(2, 6))])
    assert apply_delta(oldest, held.deltas[1, 5]) == cards


def test_a_cache_with_one_flipped_bit_or_a_missing_end_is_refused(site: Site) -> None:
    site.issue(4, DenyList([5, 6]))
    site.run()
    data = cache_file(site).read_bytes()

    def read(changed: bytes) -> object:
        return decode_cache(changed, kind=ListKind.DENY, root_public=ROOT_PUBLIC, site=SITE)

    for _, _, changed in flipped(data):
        with pytest.raises(RemoteError):
            read(changed)
    for length in range(len(data)):
        with pytest.raises(RemoteError):
            read(data[:length])
    outcome(read, b"\xff" * 5000, "all ones")
