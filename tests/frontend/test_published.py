"""Parameters and permissions on their way down: from a file to every terminal that holds them (R27, R36)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from frontend_server.alarms import AlarmKind
from frontend_server.published import FILE_BYTES_MAX, PublishedFiles, decode_published
from protocol.codes import ListForm, ListKind, ListStatus, Suite, TerminalClass, TerminalKind
from protocol.deny_list import DenyList
from protocol.documents import canonical
from protocol.errors import RemoteError
from protocol.limits import LIST_CHUNKS_OUTSTANDING_MAX
from protocol.messages import LIST_STALE, Heartbeat, ListChunk, ListOffer, ListState, Time
from protocol.registry import EnrolledTerminal
from protocol.signed import CertificateUse
from tests.frontend.scripted_terminal import HeldList, ScriptedTerminal
from tests.frontend.site import ENROLMENT_ID, SIGNING_SEED, SITE, Site
from tests.hostile import HostileKit
from tests.simulation.world import EPOCH_MS

PARAMETERS, PERMISSIONS, DENY = ListKind.PARAMETERS, ListKind.PERMISSIONS, ListKind.DENY
DOOR = 108
LONG: dict[str, Any] = {"fill": "x" * 60_000}


def door(site: Site) -> ScriptedTerminal:
    site.registry.put(EnrolledTerminal(DOOR, TerminalClass.TERMINAL, TerminalKind.DOOR, 1, Suite.A, 1, ENROLMENT_ID))
    return site.logged_in(DOOR, documents=True, terminal_kind=TerminalKind.DOOR)


def held(terminal: ScriptedTerminal, kind: ListKind) -> tuple[int, int]:
    return terminal.documents[kind].receiver.held_version


def lists_sent(terminal: ScriptedTerminal) -> list[ListOffer | ListChunk]:
    return [one for one in terminal.messages if isinstance(one, ListOffer | ListChunk)]


def kind_of(message: ListOffer | ListChunk) -> int:
    return message.head[8] if isinstance(message, ListOffer) else message.kind


def alarm_kinds(site: Site) -> set[AlarmKind]:
    return {alarm.kind for alarm in site.alarms.standing()}


def test_new_parameters_reach_those_online_at_once_and_the_others_at_their_log_in(site: Site) -> None:
    early = site.logged_in(101, documents=True)
    site.publish(PARAMETERS, 1, {"price": 850})
    site.run(500)
    assert early.documents[PARAMETERS].content == b'{"price":850}'
    late = site.logged_in(102, documents=True)
    site.run()
    assert held(late, PARAMETERS) == (1, 1)
    site.publish(PARAMETERS, 2, {"price": 900})
    site.run(500)
    assert {held(one, PARAMETERS) for one in (early, late)} == {(1, 2)}


def test_permissions_go_to_doors_alone(site: Site) -> None:
    site.publish(PERMISSIONS, 1, {"doors": []})
    site.publish(PARAMETERS, 1, {"price": 850})
    site.run()
    guard, till, silent = door(site), site.logged_in(101, documents=True), site.logged_in(102)
    site.run(500)
    assert (held(guard, PERMISSIONS), held(guard, PARAMETERS)) == ((1, 1), (1, 1))
    assert {kind_of(one) for one in lists_sent(till)} == {PARAMETERS}
    assert lists_sent(silent) == []  # it has reported no kind but the deny list


def test_a_till_that_reports_permissions_is_offered_none(site: Site) -> None:
    site.publish(PERMISSIONS, 1, {"doors": []})
    site.run()
    till = site.logged_in(101)
    stranger = HeldList(PERMISSIONS, site=SITE, root_public=bytes(32))
    till.say(stranger.receiver.state().encode())
    site.run()
    assert (till.is_closed, lists_sent(till)) == (False, [])


WRONG: dict[str, Any] = {
    "signed by the ledger's key": {"seed": SIGNING_SEED},
    "certified for the ledger": {"use": CertificateUse.ONLINE},
    "certified by another root": {"root": bytes(32)},
    "of another site": {"site": SITE + 1},
    "certificate has ended": {"valid_to_ms": EPOCH_MS - 1},
    "not canonical": {"content": b'{"price": 1}'},
    "no JSON": {"content": DenyList([1]).content()},
    "too long": {"content": canonical({"a": "x" * 65_000}) + bytes(1_000)},
}


@pytest.mark.parametrize("why", WRONG)
def test_a_wrong_file_is_alarmed_and_the_version_before_it_is_served(site: Site, why: str) -> None:
    site.publish(PARAMETERS, 4, {"price": 850})
    site.run()
    site.publish(PARAMETERS, 5, {"price": 1}, **WRONG[why])
    site.run()
    assert alarm_kinds(site) == {AlarmKind.PUBLISHED_REFUSED}
    till = site.logged_in(101, documents=True)
    site.run()
    assert (held(till, PARAMETERS), till.documents[PARAMETERS].content) == ((1, 4), b'{"price":850}')
    site.publish(PARAMETERS, 5, {"price": 900})
    site.run()
    assert (held(till, PARAMETERS), alarm_kinds(site)) == ((1, 5), set())
    assert site.forwarder.requests == []  # the ledger has nothing to do with it


def test_an_older_file_is_refused_and_the_present_one_put_back_ends_the_alarm(site: Site) -> None:
    site.publish(PARAMETERS, 4, {"price": 850})
    site.run()
    site.publish(PARAMETERS, 3, {"price": 1})
    site.publish(PERMISSIONS, 1, {}, content=canonical({}))
    site.run()
    assert [(one.kind, one.subject) for one in site.alarms.standing()] == [
        (AlarmKind.PUBLISHED_REFUSED, "PARAMETERS"),
    ]
    site.publish(PARAMETERS, 4, {"price": 850})
    site.run()
    assert alarm_kinds(site) == set()


def test_two_files_of_one_version_are_a_quarrel(site: Site) -> None:
    site.publish(PARAMETERS, 4, {"price": 850})
    site.publish(PARAMETERS, 4, {"price": 1})
    site.run()
    assert alarm_kinds(site) == {AlarmKind.PUBLISHED_REFUSED}
    till = site.logged_in(101, documents=True)
    site.run()
    assert till.documents[PARAMETERS].content == b'{"price":850}'


def test_what_was_taken_is_served_after_a_restart_without_its_file_and_never_falls(site: Site) -> None:
    site.publish(PARAMETERS, 4, {"price": 850})
    site.run()
    site.power_cut()
    site.boot()
    till = site.logged_in(101, documents=True)
    site.run()
    assert held(till, PARAMETERS) == (1, 4)
    site.publish(PARAMETERS, 3, {"price": 1})
    site.run()
    assert site.server.parts.distribution.version(PARAMETERS) == (1, 4)
    assert alarm_kinds(site) == {AlarmKind.PUBLISHED_REFUSED}


def test_parameters_from_the_ledger_are_left_out(site: Site) -> None:
    head, certificate, content = decode_published(site.published(PARAMETERS, 9, {"price": 1}), PARAMETERS)
    site.server.on_list(head, certificate, ListForm.SNAPSHOT, (0, 0), content)
    site.run()
    assert (site.server.parts.distribution.version(PARAMETERS), alarm_kinds(site)) == ((0, 0), set())


def test_hostile_bytes_for_a_published_file(site: Site) -> None:
    vector = site.published(PARAMETERS, 1, {"price": 850})

    def read(data: bytes) -> object:
        return decode_published(bytes(data), PARAMETERS)[2]

    HostileKit(vector, read, bytes_max=FILE_BYTES_MAX, ignored=[*range(8), *range(12, 28), *range(64, 248)]).run_all()


# -- one window, the most urgent first


class Slow:
    """A terminal that takes one part of a list at a time, when the test says so."""

    def __init__(self, site: Site, terminal: ScriptedTerminal) -> None:
        self.site = site
        self.terminal = terminal
        self.terminal.takes_lists = False
        self.taken = 0

    def waiting(self) -> list[ListOffer | ListChunk]:
        self.site.run(50)
        return lists_sent(self.terminal)[self.taken :]

    def take(self) -> int:
        """Take the oldest part; its kind."""
        part = self.waiting()[0]
        self.taken += 1
        self.terminal.take_list(part)
        return kind_of(part)


def test_a_lost_card_overtakes_parameters_that_are_on_their_way(site: Site) -> None:
    slow = Slow(site, site.logged_in(101, documents=True))
    site.publish(PARAMETERS, 1, LONG)
    slow.waiting()
    for _ in range(3):
        assert slow.take() == PARAMETERS
    on_the_way = len(slow.waiting())
    assert on_the_way == LIST_CHUNKS_OUTSTANDING_MAX
    site.issue(1, DenyList(range(1, 6_001)))  # six chunks
    order = []
    while slow.waiting():
        unanswered = len(slow.waiting())
        assert unanswered <= LIST_CHUNKS_OUTSTANDING_MAX + (DENY not in order)
        order.append(ListKind(slow.take()))
    first, last = order.index(DENY), len(order) - 1 - order[::-1].index(DENY)
    assert order[:on_the_way] == [PARAMETERS] * on_the_way  # what was sent already
    assert first == on_the_way
    assert set(order[first : last + 1]) == {DENY}
    assert slow.terminal.list_receiver.held_version == (1, 1)
    assert held(slow.terminal, PARAMETERS) == (1, 1)
    assert slow.terminal.documents[PARAMETERS].content == canonical(LONG)


def test_at_log_in_the_kinds_come_one_after_the_other_in_their_order(site: Site) -> None:
    site.issue(1, DenyList(range(1, 6_001)))
    site.publish(PERMISSIONS, 1, LONG)
    site.publish(PARAMETERS, 1, LONG)
    site.run()
    site.registry.put(EnrolledTerminal(DOOR, TerminalClass.TERMINAL, TerminalKind.DOOR, 1, Suite.A, 1, ENROLMENT_ID))
    slow = Slow(site, site.terminal(DOOR, documents=True, terminal_kind=TerminalKind.DOOR))
    slow.terminal.connect()
    order = []
    while slow.waiting():
        assert len(slow.waiting()) <= LIST_CHUNKS_OUTSTANDING_MAX
        order.append(ListKind(slow.take()))
    assert sorted(order, key=[DENY, PERMISSIONS, PARAMETERS].index) == order
    assert set(order) == {DENY, PERMISSIONS, PARAMETERS}
    assert (held(slow.terminal, PERMISSIONS), held(slow.terminal, PARAMETERS)) == ((1, 1), (1, 1))


def test_a_newer_version_during_a_wait_is_what_comes_afterwards(site: Site) -> None:
    site.issue(1, DenyList(range(1, 6_001)))
    site.publish(PARAMETERS, 1, {"price": 1})
    site.run()
    slow = Slow(site, site.terminal(101, documents=True))
    slow.terminal.connect()
    slow.take()
    site.publish(PARAMETERS, 2, {"price": 2})
    while slow.waiting():
        slow.take()
    offers = [one for one in lists_sent(slow.terminal) if isinstance(one, ListOffer) and kind_of(one) == PARAMETERS]
    assert len(offers) == 1
    assert held(slow.terminal, PARAMETERS) == (1, 2)


def test_a_report_that_has_waited_is_not_taken_for_the_answer_to_a_later_offer(site: Site) -> None:
    site.publish(PARAMETERS, 1, {"price": 1})
    site.run()
    slow = Slow(site, site.logged_in(101, documents=True))
    while slow.waiting():
        slow.take()
    site.issue(1, DenyList(range(1, 6_001)))
    slow.take()
    state = slow.terminal.documents[PARAMETERS].receiver.state()
    slow.terminal.say(state.encode())  # nobody has asked; it waits behind the deny list
    site.publish(PARAMETERS, 2, {"price": 2})
    while slow.waiting():
        slow.take()
    offers = [one for one in lists_sent(slow.terminal) if isinstance(one, ListOffer) and kind_of(one) == PARAMETERS]
    assert [(one.head[12:20]).hex() for one in offers] == ["0000000100000001", "0000000100000002"]
    assert held(slow.terminal, PARAMETERS) == (1, 2)


def test_random_reports_of_all_kinds_raise_nothing_and_cost_a_window_at_most(site: Site) -> None:
    seed = 77
    print(f"seed={seed}")
    source = random.Random(seed)
    site.issue(1, DenyList(range(1, 6_001)))
    for kind in (PARAMETERS, PERMISSIONS):
        site.publish(kind, 3, LONG)
    site.run()
    guard = door(site)
    guard.takes_lists = False
    held_ones = [site.server.parts.distribution.held(kind) for kind in (DENY, PARAMETERS, PERMISSIONS)]
    heads = [bytes(128), *(version.head_bytes for version in held_ones if version is not None)]
    for step in range(1_500):
        if step % 300 == 299:
            site.publish(source.choice((PARAMETERS, PERMISSIONS)), 4 + step, LONG)
            site.run(20)
        head = bytearray(source.choice(heads))
        if source.random() < 0.1:
            head[source.randrange(128)] ^= 1
        version = source.choice([(0, 0), (1, 1), (1, 3), (1, 4)])
        report = ListState(
            source.choice(list(ListKind)),
            source.choice(list(ListStatus)),
            *version,
            source.choice([0, 100, 3_832, 60_011, 1 << 31]),
            bytes(head),
        )
        before = len(lists_sent(guard))
        guard.say(report.encode())
        site.run(20)
        assert len(lists_sent(guard)) - before <= LIST_CHUNKS_OUTSTANDING_MAX + 1, report
    assert not guard.is_closed
    assert len(lists_sent(guard)) > 20


def test_a_head_of_parameters_that_nobody_here_published_is_alarmed_and_stays_with_the_operator(site: Site) -> None:
    site.publish(PARAMETERS, 1, {"price": 1})
    till = site.logged_in(101, documents=True)
    site.run()
    higher = decode_published(site.published(PARAMETERS, 9, {"price": 9}), PARAMETERS)[0].encode()
    till.say(ListState(PARAMETERS, ListStatus.HOLDS, head=higher).encode())
    site.run()
    [alarm] = site.alarms.standing()
    assert (alarm.kind, "parameters 1.9" in alarm.text) == (AlarmKind.HIGHER_HEAD, True)
    assert site.forwarder.reports == []  # the ledger issues no parameters


# -- the deny list's age


def confirmed(site: Site, terminal: ScriptedTerminal) -> bool:
    terminal.say(terminal.heartbeat())
    site.run()
    last = [message for message in terminal.messages if isinstance(message, Time)][-1]
    return last.deny_list_current


def test_time_confirms_a_list_that_the_ledger_has_sent_on_the_link_that_is_up(site: Site) -> None:
    terminal = site.logged_in()
    assert not confirmed(site, terminal)  # there is no list at all
    site.issue(1, DenyList([5]))
    site.run()
    assert confirmed(site, terminal)
    site.forwarder.life += 1  # the link has ended
    assert not confirmed(site, terminal)
    site.issue(1, DenyList([5]))  # a new link: the ledger says it again
    site.run()
    assert confirmed(site, terminal)


def test_time_confirms_nothing_to_a_terminal_that_holds_another_list(site: Site) -> None:
    terminal = site.logged_in()
    site.issue(1, DenyList([5]))
    site.run()
    terminal.takes_lists = False
    site.issue(2, DenyList([5, 6]))
    site.run()
    assert not confirmed(site, terminal)


def test_after_a_restart_without_the_ledger_nothing_is_confirmed(site: Site) -> None:
    site.issue(1, DenyList([5]))
    site.run()
    site.power_cut()
    site.boot()
    terminal = site.logged_in()
    site.run()
    assert terminal.list_receiver.held_version == (1, 1)
    assert not confirmed(site, terminal)


# -- what an operator sees


def test_sessions_show_each_kind_wanted_and_reported(site: Site) -> None:
    site.issue(1, DenyList([5]))
    site.publish(PARAMETERS, 3, {"price": 850})
    site.run()
    till = site.logged_in(101, documents=True)
    site.run()
    site.logged_in(102)  # it does not speak of parameters
    beat = Heartbeat(1, 1, 100, 0, 1, 1, LIST_STALE)
    till.say(beat.encode())
    site.run()
    first, second = site.ask(verb="sessions")["sessions"]
    assert first["lists"] == {
        "deny": {"reported": "1.1", "wanted": "1.1", "current": True},
        "parameters": {"reported": "1.3", "wanted": "1.3", "current": True},
    }
    assert (first["lists_behind"], first["list_stale"]) == ([], True)
    assert second["lists"]["parameters"] == {"reported": None, "wanted": "1.3", "current": False}
    assert (second["lists_behind"], second["list_stale"]) == (["parameters"], False)


# -- files


def test_a_file_is_read_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    paths = {PARAMETERS: tmp_path / "parameters.list", PERMISSIONS: tmp_path / "permissions.list"}
    taken: list[tuple[ListKind, bytes]] = []
    refused: list[ListKind] = []
    files = PublishedFiles(
        paths, take=lambda kind, data: taken.append((kind, data)), refused=lambda kind, _: refused.append(kind)
    )
    files.look()
    assert taken == []  # nothing was published yet
    paths[PARAMETERS].write_bytes(b"one")
    files.look()
    files.look()
    assert taken == [(PARAMETERS, b"one")]
    beside = tmp_path / "new"
    beside.write_bytes(b"two, longer")
    beside.replace(paths[PARAMETERS])
    files.look()
    assert taken[1:] == [(PARAMETERS, b"two, longer")]
    paths[PARAMETERS].unlink()
    paths[PERMISSIONS].mkdir()
    files.look()
    assert (len(taken), refused) == (2, [PERMISSIONS])


def test_no_more_of_a_long_file_is_read_than_tells_that_it_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "parameters.list"
    path.write_bytes(bytes(FILE_BYTES_MAX + 5_000))
    sizes: list[int] = []
    PublishedFiles({PARAMETERS: path}, take=lambda _, data: sizes.append(len(data)), refused=lambda *_: None).look()
    assert sizes == [FILE_BYTES_MAX + 1]
    with pytest.raises(RemoteError):
        decode_published(bytes(FILE_BYTES_MAX + 1), PARAMETERS)
