"""What the control socket says of terminals: everything of one, a hint for each, and what is not held."""

from __future__ import annotations

import json

import pytest

from frontend_server import fleet_views
from frontend_server.advice import CLOCK_OFF_MS, WHAT_TO_DO_ABOUT_HOLES, findings
from frontend_server.alarms import AlarmKind
from frontend_server.recollections import Recollections
from frontend_server.sessions import TerminalStatus
from ledger_sync.spool import HoleKind
from protocol.deny_list import DenyList
from protocol.messages import (
    CLOCK_NEVER_SET,
    LIST_STALE,
    MEMORY_80_PERCENT,
    MEMORY_FULL,
    Heartbeat,
    Recollect,
)
from tests.frontend.site import ControlClient, Site


def names(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [one["finding"] for one in answer["findings"]]


# -- one terminal ---------------------------------------------------------------------------------------------------


def test_everything_known_of_a_terminal_is_in_one_answer(site: Site) -> None:
    terminal = site.logged_in(101, records=20)
    terminal.upload(1, 16)
    site.issue(1, DenyList([5]))
    site.run()
    now_ms = site.host.now_ms()
    beat = Heartbeat(1, 1, 5, now_ms + 3_000, 21, 17, MEMORY_80_PERCENT)
    terminal.say(beat.encode())
    site.run()
    answer = site.ask(verb="terminal", terminal=101)
    assert (answer["enrolled"], answer["kind"], answer["enrolled_epoch"], answer["suite"]) == (True, "pos", 1, "A")
    session = answer["session"]
    assert (session["online"], session["epoch"], session["boot"], session["durable"]) == (True, 1, 1, 16)
    assert (session["first_unacknowledged"], session["next"], session["backlog"]) == (17, 21, 4)
    assert (session["flag_names"], session["list_version"], answer["list_wanted"]) == (
        ["memory 80 % full"],
        "1.1",
        "1.1",
    )
    assert 2_900 < session["clock_ahead_ms"] <= 3_000
    [epoch] = answer["epochs"]
    assert (epoch["ranges"], epoch["settled"], epoch["next"]) == ([[1, 16]], [], 21)
    assert [(hole["kind"], hole["first"], hole["last"]) for hole in epoch["holes"]] == [("waiting", 17, 20)]
    assert names(answer) == ["memory 80 % full", "behind", "unsettled"]
    assert all(one["what_to_do"] for one in answer["findings"])


def test_a_terminal_that_is_well_has_nothing_to_do(site: Site) -> None:
    site.logged_in(101)
    answer = site.ask(verb="terminal", terminal=101)
    assert answer["findings"] == []
    assert site.ask(verb="sessions")["sessions"][0]["what_to_do"] == ""


def test_a_terminal_not_seen_since_start_is_told_from_registry_and_spool(site: Site) -> None:
    terminal = site.logged_in(101, records=5)
    terminal.upload(1, 3)
    site.run()
    site.power_cut()
    site.boot()
    answer = site.ask(verb="terminal", terminal=101)
    assert (answer["enrolled"], answer["session"], answer["epochs"][0]["ranges"]) == (True, {}, [[1, 3]])
    assert [(hole["kind"], hole["first"], hole["last"]) for hole in answer["epochs"][0]["holes"]] == [("waiting", 4, 5)]
    assert names(answer) == ["not seen"]


def test_a_terminal_that_nobody_enrolled_is_told_with_its_refusal(site: Site) -> None:
    assert names(site.ask(verb="terminal", terminal=4711)) == ["unknown"]
    site.terminal(4711).connect()
    site.run()
    answer = site.ask(verb="terminal", terminal=4711)
    assert names(answer) == ["refused"]
    assert answer["last_refusal"]["reason"] == "unknown terminal"
    assert answer["findings"][0]["what_to_do"].startswith("enrol the terminal")


def test_take_overs_and_alarms_are_in_the_answer_and_come_first(site: Site) -> None:
    for host in ("a", "b"):
        site.logged_in(101, host=host)
    site.alarms.raise_alarm(AlarmKind.FORK, "101", "chain differs", 5)
    answer = site.ask(verb="terminal", terminal=101)
    assert len(answer["session"]["take_overs"]) == 1
    assert answer["alarms"] == [{"alarm": "fork", "text": "chain differs", "since_ms": 5, "count": 1}]
    assert names(answer)[0] == "fork"
    listed = site.ask(verb="sessions")["sessions"][0]
    assert (listed["alarming"], listed["behind"], listed["findings"]) == (True, False, ["fork"])
    assert "enrol it again" in listed["what_to_do"]


def test_an_answer_that_waits_for_the_spool_keeps_its_place_among_the_others(site: Site) -> None:
    site.logged_in(101)
    site.executor.is_held = True
    client = ControlClient(site.host)
    client.ask(b'{"verb": "terminal", "terminal": 101}\n{"verb": "alarms"}\n{"verb": "gaps"}\n{"verb": "refused"}\n')
    site.run()
    assert client.answers() == []
    site.executor.release()
    site.run()
    marks = ("session", "not_listed", "next", "counts")  # of the four answers, in the order of their questions
    assert [mark in answer for mark, answer in zip(marks, client.answers(), strict=True)] == [True] * 4
    assert all(answer["ok"] for answer in client.answers())
    client.ask(b'{"verb": "alarms"}\n')
    site.run()
    assert len(client.answers()) == 5


def test_a_spool_that_cannot_be_read_is_answered_in_words(site: Site) -> None:
    site.executor.fails = OSError("the disk has failed")
    for request in ({"verb": "terminal", "terminal": 101}, {"verb": "gaps"}):
        answer = site.ask(**request)
        assert (answer["ok"], answer["error"]) == (False, "the spool cannot be read: the disk has failed")


@pytest.mark.parametrize(
    "request_",
    [
        {"verb": "terminal"},
        {"verb": "terminal", "terminal": "all"},
        {"verb": "gaps", "after": 7},
        {"verb": "gaps", "after": [1, "x"]},
        {"verb": "gaps", "after": [1, 70_000]},
        {"verb": "gaps", "limit": 501},
    ],
    ids=json.dumps,
)
def test_a_request_that_makes_no_sense_is_answered_in_words(site: Site, request_: dict[str, object]) -> None:
    assert "must be" in site.ask(**request_)["error"]


# -- what is not held -----------------------------------------------------------------------------------------------


def test_gaps_of_all_terminals_come_page_by_page_with_what_to_do(site: Site) -> None:
    for number, last in ((101, 16), (102, 20), (103, 5)):
        site.logged_in(number, records=20).upload(1, last)
    site.run()
    skipping = site.logged_in(104, records=20)
    skipping.upload(1, 5)
    skipping.upload(11, 20)
    site.run()
    first = site.ask(verb="gaps", limit=3)
    assert [(one["terminal"], one["first"], one["last"]) for one in first["gaps"]] == [(101, 17, 20), (103, 6, 20)]
    assert first["next"] == [103, 1]
    rest = site.ask(verb="gaps", after=first["next"], limit=3)
    [hole] = rest["gaps"]
    assert (hole["terminal"], hole["kind"], hole["first"], hole["last"], hole["count"]) == (104, "missing", 6, 10, 5)
    assert (hole["asked_times"], hole["tombstoned"]) == (0, False)
    assert hole["what_to_do"] == WHAT_TO_DO_ABOUT_HOLES[HoleKind.MISSING]
    assert rest["next"] is None


def test_a_gap_that_the_ledger_asked_for_says_how_often_and_whether_the_terminal_was_here(site: Site) -> None:
    terminal = site.logged_in(101, records=20)
    terminal.upload(1, 5)
    terminal.upload(11, 20)
    site.run()
    assert site.forwarder.events is not None
    for _ in range(2):
        site.forwarder.events.on_recollect(101, 1, 6, 10)
        site.run()
    assert len(terminal.of_kind(Recollect)) == 2
    [hole] = site.ask(verb="gaps")["gaps"]
    assert (hole["asked_times"], hole["asked_here"], hole["first"]) == (2, True, 6)
    terminal.tombstone(6, 10)
    site.run()
    [hole] = site.ask(verb="gaps")["gaps"]
    assert (hole["kind"], hole["tombstoned"], hole["asked_times"]) == ("tombstone", True, 2)


def test_holes_of_one_terminal_and_of_one_answer_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_views, "HOLES_OF_EPOCH_MAX", 2)
    monkeypatch.setattr(fleet_views, "HOLES_OF_ANSWER_MAX", 3)
    for number in (101, 102, 103):
        terminal = site.logged_in(number, records=20)
        for at in range(1, 20, 4):
            terminal.upload(at, at)
            site.run()
    found = site.ask(verb="gaps")
    assert [(one["terminal"], one.get("not_listed")) for one in found["gaps"]] == [
        (101, None), (101, 3), (102, None), (102, 3),
    ]  # fmt: skip
    assert found["next"] == [102, 1]
    assert [one["terminal"] for one in site.ask(verb="gaps", after=found["next"])["gaps"]] == [103, 103]


def test_requests_for_recollection_are_kept_up_to_a_bound_the_newest_first() -> None:
    kept = Recollections(kept_max=3)
    for first in (1, 11, 21):
        kept.note(7, 1, first, first + 4, now_ms=first, passed_on=False)
    kept.note(7, 1, 1, 5, now_ms=100, passed_on=True)
    kept.note(8, 1, 1, 5, now_ms=101, passed_on=False)
    assert len(kept) == 3
    assert kept.about(7, 1, 11, 11) is None
    again = kept.about(7, 1, 5, 30)
    assert again is not None
    assert (again.first, again.count, again.passed_on) == (1, 2, True)
    assert kept.about(7, 2, 1, 5) is None


# -- advice ---------------------------------------------------------------------------------------------------------


def status(**changes: object) -> TerminalStatus:
    made = TerminalStatus(101)
    made.live = object()  # type: ignore[assignment]  # only whether there is one counts
    made.list_version = (1, 2)
    made.clock_ahead_ms = 0
    made.heartbeats = 2
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"flags": MEMORY_FULL | MEMORY_80_PERCENT}, ["memory full"]),
        ({"flags": MEMORY_80_PERCENT}, ["memory 80 % full"]),
        ({"flags": LIST_STALE}, ["list stale"]),
        ({"flags": LIST_STALE, "heartbeats": 1}, []),
        ({"flags": CLOCK_NEVER_SET}, ["clock never set"]),
        ({"clock_ahead_ms": CLOCK_OFF_MS}, []),
        ({"clock_ahead_ms": -CLOCK_OFF_MS - 1}, ["clock"]),
        ({"clock_ahead_ms": -CLOCK_OFF_MS - 1, "flags": CLOCK_NEVER_SET, "heartbeats": 1}, []),
        ({"list_version": (1, 1)}, ["list behind"]),
        ({"next": 5}, ["behind"]),
        ({"live": None}, ["offline"]),
        ({"live": None, "list_version": (1, 1), "next": 5}, ["offline"]),
    ],
)
def test_each_trouble_of_a_terminal_is_named_and_nothing_else(changes: dict[str, object], expected: list[str]) -> None:
    found = findings(status(**changes), standing=[], refusal=None, is_enrolled=True, newest_list=(1, 2))
    assert [one.name for one in found] == expected
    assert all(one.says and one.what_to_do for one in found)


def test_a_terminal_struck_from_the_registry_is_named() -> None:
    found = findings(status(), standing=[], refusal=None, is_enrolled=False, newest_list=(1, 2))
    assert [one.name for one in found] == ["not enrolled"]
