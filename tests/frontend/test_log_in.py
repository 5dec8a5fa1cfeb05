"""Who gets in, who does not, and that the wire does not tell why (R13, R35, R40)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from frontend_server.alarms import AlarmKind
from frontend_server.refusals import Reason
from protocol.codes import ByeCode, FrameKind, RefuseCode, ReportKind, Suite, TerminalClass, TerminalKind
from protocol.frame import pack_header
from protocol.handshake import HELLO
from protocol.messages import Time
from protocol.registry import EnrolledTerminal, Registry
from tests.frontend.site import CONTROL, ENROLMENT_ID, FRONTEND, SITE, Site

REFUSED_CASES: list[tuple[dict[str, Any], Reason]] = [
    ({"terminal": 4711}, Reason.UNKNOWN_TERMINAL),
    ({"epoch": 2}, Reason.WRONG_EPOCH),
    ({"suite": Suite.B}, Reason.WRONG_SUITE),
    ({"key_version": 2}, Reason.WRONG_KEY_VERSION),
    ({"terminal_kind": TerminalKind.DOOR}, Reason.WRONG_KIND),
    ({"terminal_class": TerminalClass.PROXY}, Reason.WRONG_CLASS),
    ({"link_master": bytes.fromhex("00112233445566778899aabbccddeef0")}, Reason.WRONG_PROOF),
]


def test_a_terminal_as_enrolled_gets_its_first_acknowledgement_and_the_time(site: Site) -> None:
    terminal = site.logged_in(records=3)
    assert [(ack.epoch, ack.durable, ack.credit) for ack in terminal.acks()] == [(1, 0, 4)]
    assert isinstance(terminal.of_kind(Time)[0], Time)
    assert site.server.parts.sessions.online == 1


@pytest.mark.parametrize(("changes", "reason"), REFUSED_CASES, ids=lambda value: getattr(value, "name", ""))
def test_a_refusal_has_the_same_bytes_at_the_same_step_whatever_its_reason(
    make_site: Callable[..., Site], changes: dict[str, Any], reason: Reason
) -> None:
    sites = [make_site(), make_site()]
    answers = []
    for site, each in zip(sites, ({"link_master": bytes(range(3, 19))}, changes), strict=True):
        terminal = site.terminal(**{"terminal": 101, **each})
        terminal.connect()
        site.run()
        assert terminal.refused is not None
        assert terminal.refused.code == RefuseCode.REFUSED
        assert terminal.is_closed
        answers.append(bytes(terminal.raw))
    # CHALLENGE repeats suite and key version of HELLO and has a nonce; all the rest, and all of REFUSE, is equal.
    wrong_proof, other = answers
    assert len(wrong_proof) == len(other) == 12 + 32 + 12 + 4
    assert wrong_proof[:12] == other[:12]
    assert wrong_proof[12 + 4 : 12 + 16] == other[12 + 4 : 12 + 16]
    assert wrong_proof[44:] == other[44:] == bytes.fromhex("c312050000000000 0004") + other[54:56] + b"\x01\0\0\0"
    refusals = sites[1].server.parts.refusals
    chosen = refusals.newest(1)[0]
    assert chosen.reason is reason
    assert refusals.counts[reason] == 1
    assert chosen.terminal == changes.get("terminal", 101)


@pytest.mark.parametrize("enrolled", [Suite.A, Suite.B])
@pytest.mark.parametrize("offered", [Suite.A, Suite.B])
def test_a_terminal_gets_in_with_the_suite_of_its_enrolment_and_with_no_other(
    make_site: Callable[..., Site], enrolled: Suite, offered: Suite
) -> None:
    site = make_site()
    entry = EnrolledTerminal(201, TerminalClass.TERMINAL, TerminalKind.POS, 1, enrolled, 1, ENROLMENT_ID)
    site.registry.put(entry)
    terminal = site.terminal(201, suite=offered)
    terminal.connect()
    site.run()
    if offered == enrolled:
        assert terminal.acks()
        assert site.server.parts.sessions.online == 1
        return
    assert terminal.refused is not None
    assert terminal.raw[44:].hex() == "c31205000000000000045b7b" + "01000000"
    assert site.server.parts.refusals.newest(1)[0].reason is Reason.WRONG_SUITE
    assert site.server.parts.sessions.online == 0


def test_what_a_terminal_of_suite_b_uploads_is_acknowledged(site: Site) -> None:
    site.registry.put(EnrolledTerminal(201, TerminalClass.TERMINAL, TerminalKind.POS, 1, Suite.B, 1, ENROLMENT_ID))
    terminal = site.terminal(201, records=5, suite=Suite.B)
    terminal.connect()
    site.run()
    terminal.upload(1, 5)
    site.run()
    assert terminal.acks()[-1].durable == 5


def test_a_refused_terminal_is_not_online_and_leaves_no_trace_in_the_caps(site: Site) -> None:
    terminal = site.terminal(4711)
    terminal.connect()
    site.run()
    metrics = site.server.parts.metrics
    assert (metrics.connections_now, metrics.handshakes_now, metrics.log_ins_refused) == (0, 0, 1)
    assert site.server.parts.sessions.online == 0


def test_a_replayed_hello_says_nothing_new_about_who_is_enrolled(site: Site) -> None:
    """Nothing but a CHALLENGE follows a HELLO, be it known or not: the refusal waits for PROVE."""
    for terminal in (101, 4711):
        made = site.terminal(terminal)
        made.connect()
        for _ in range(200):
            if made.raw:
                break
            site.world.step()
        assert len(made.raw) == 12 + HELLO.size
        assert made.raw[2] == 0x02


def test_the_newest_session_of_a_terminal_wins(site: Site) -> None:
    first = site.logged_in(records=5)
    second = site.terminal(101, records=5, host="other")
    second.connect()
    site.run()
    assert first.byes() == [ByeCode.TAKEN_OVER]
    assert first.is_closed
    second.upload(1, 5)
    site.run()
    assert second.acks()[-1].durable == 5
    assert site.server.parts.sessions.online == 1
    assert not site.alarms.standing()


def test_more_than_three_take_overs_in_a_minute_alarm_with_both_addresses(site: Site) -> None:
    terminals = [site.terminal(101, host=f"place{index % 2}") for index in range(5)]
    for terminal in terminals:
        terminal.connect()
        site.run(2_000)
    assert terminals[-1].acks()
    [alarm] = site.alarms.standing()
    assert alarm.kind is AlarmKind.TAKE_OVERS
    assert "place0" in alarm.text
    assert "place1" in alarm.text
    assert site.forwarder.reports == [(101, ReportKind.TAKE_OVERS, alarm.text)]


def test_take_overs_spread_over_time_do_not_alarm(site: Site) -> None:
    for _ in range(6):
        site.terminal(101).connect()
        site.run(25_000)
    assert not site.alarms.standing()


def test_a_connection_that_says_nothing_ends_after_ten_seconds(site: Site) -> None:
    closed = Silent()
    site.terminal(101).host.connect(site.settings.listen_address, closed)
    site.run(9_900)
    assert not closed.is_closed
    site.run(400)
    assert closed.is_closed
    assert site.server.parts.metrics.handshake_timeouts == 1


def test_a_connection_that_dribbles_its_hello_ends_after_ten_seconds_too(site: Site) -> None:
    dribbling = Silent()
    host = site.terminal(101).host
    host.connect(site.settings.listen_address, dribbling)
    for _ in range(120):
        site.run(100)
        if dribbling.stream is not None and not dribbling.is_closed:
            dribbling.stream.write(b"\xc3")
    assert dribbling.is_closed


def test_a_terminal_that_falls_silent_is_let_go_after_three_heartbeats(site: Site) -> None:
    terminal = site.logged_in()
    for _ in range(4):
        site.run(80_000)
        terminal.say(terminal.heartbeat())
    site.run(1_000)
    assert not terminal.is_closed
    site.run(88_000)
    assert not terminal.is_closed
    site.run(2_000)
    assert terminal.byes() == [ByeCode.IDLE]
    assert site.server.parts.sessions.online == 0


def test_a_terminal_that_dribbles_a_frame_without_end_is_let_go_all_the_same(site: Site) -> None:
    terminal = site.logged_in()
    assert terminal.stream is not None
    frame = pack_header(0x11, FrameKind.SEALED, 0, 3, 4000) + bytes(100)
    for byte in frame[:20]:
        if terminal.stream is not None:
            terminal.stream.write(bytes([byte]))
        site.run(10_000)
    assert site.server.parts.metrics.frame_timeouts == 1
    assert site.server.parts.sessions.online == 0


def test_a_session_of_a_day_is_ended_for_new_keys(site: Site) -> None:
    terminal = site.logged_in()
    for _ in range(24 * 60):
        if terminal.is_closed:
            break
        site.run(60_000)
        if not terminal.is_closed:
            terminal.say(terminal.heartbeat())
    site.run()
    assert terminal.is_closed
    assert site.world.time_ms >= 86_400_000
    assert site.server.parts.metrics.rekeys == 1
    assert site.logged("terminal.offline")[-1]["reason"] == "BYE REKEY sent"
    terminal.connect()
    site.run()
    assert terminal.acks()


def test_connections_above_the_cap_are_told_to_come_back(make_site: Callable[..., Site]) -> None:
    site = make_site(connections_max=2)
    site.world.latency_ms = (5, 5)
    terminals = [site.terminal(101 + index) for index in range(3)]
    for terminal in terminals:
        terminal.connect()
        site.run()
    assert [terminal.is_established for terminal in terminals] == [True, True, False]
    assert terminals[2].refused is not None
    assert (terminals[2].refused.code, terminals[2].refused.retry_after_s) == (RefuseCode.BUSY, 3)
    terminals[0].hang_up()
    site.run()
    terminals[2].connect()
    site.run()
    assert terminals[2].is_established


def test_one_address_can_not_take_every_place(make_site: Callable[..., Site]) -> None:
    site = make_site(connections_per_address_max=2)
    near = [site.terminal(101 + index, host="one-router") for index in range(3)]
    far = site.terminal(110 - 3, host="elsewhere")
    for terminal in (*near, far):
        terminal.connect()
        site.run()
    assert [terminal.is_established for terminal in (*near, far)] == [True, True, False, True]


def test_one_address_can_not_take_every_handshake(make_site: Callable[..., Site]) -> None:
    site = make_site(handshakes_max=4, handshakes_per_address_max=2)
    inside = site.terminal(101, host="one-router")
    inside.connect()
    site.run()
    for _ in range(2):
        site.terminal(102, host="one-router").host.connect(site.settings.listen_address, Silent())
    site.run()
    near, far = site.terminal(103, host="one-router"), site.terminal(104, host="elsewhere")
    for terminal in (near, far):
        terminal.connect()
        site.run()
    assert near.refused is not None
    assert near.refused.code == RefuseCode.BUSY
    assert far.is_established
    site.run(11_000)  # the silent ones have had their time; who is logged in does not count
    near.connect()
    site.run()
    assert near.is_established
    near.hang_up()
    inside.hang_up()
    far.hang_up()
    site.run()
    gate = site.server.parts.gate
    assert (gate.addresses, gate.addresses_in_handshake) == (0, 0)


def test_handshakes_in_progress_are_capped_and_those_who_are_in_do_not_count(make_site: Callable[..., Site]) -> None:
    site = make_site(handshakes_max=2)
    site.world.latency_ms = (5, 5)
    site.logged_in(101)
    for _ in range(2):
        site.terminal(102).host.connect(site.settings.listen_address, Silent())
    site.run()
    late = site.terminal(103)
    late.connect()
    site.run()
    assert late.refused is not None
    assert late.refused.code == RefuseCode.BUSY
    site.run(11_000)
    late.connect()
    site.run()
    assert late.is_established


def test_a_registry_that_changed_counts_from_the_next_log_in(site: Site) -> None:
    terminal = site.terminal(4711, records=1)
    terminal.connect()
    site.run()
    assert terminal.refused is not None
    site.registry.put(EnrolledTerminal(4711, TerminalClass.TERMINAL, TerminalKind.POS, 1, Suite.A, 1, ENROLMENT_ID))
    site.server.replace_registry(site.registry)
    terminal.connect()
    site.run()
    assert terminal.acks()
    facts = site.server.ready_facts()
    assert (facts["frontend"], facts["site"], facts["control"], facts["terminals"]) == (FRONTEND, SITE, CONTROL, 9)


def registry_with(site: Site, **epochs: int) -> Registry:
    """The site's registry, with terminals (`t101`) at other epochs; 0: struck out."""
    made = Registry(SITE)
    for entry in site.registry.terminals.values():
        epoch = epochs.get(f"t{entry.terminal}", entry.epoch)
        if epoch:
            made.put(replace(entry, epoch=epoch))
    return made


def test_sessions_of_terminals_struck_out_or_enrolled_anew_end_and_all_others_stay(site: Site) -> None:
    struck, renewed, stays = (site.logged_in(number, records=2) for number in (101, 102, 103))
    site.server.replace_registry(registry_with(site, t101=0, t102=2))
    site.run()
    assert [one.is_closed for one in (struck, renewed, stays)] == [True, True, False]
    assert {facts["terminal"] for facts in site.logged("terminal.not_enrolled")} == {101, 102}
    stays.upload(1, 2)
    site.run()
    assert stays.acks()[-1].durable == 2
    for gone in (struck, renewed):
        gone.connect()
        site.run()
        assert gone.refused is not None
        assert gone.refused.code == RefuseCode.REFUSED
    again = site.terminal(102, epoch=2)
    again.connect()
    site.run()
    site.server.replace_registry(registry_with(site, t101=0, t102=2))
    site.run()
    assert again.is_established
    assert not again.is_closed
    assert site.server.parts.metrics.connections_now == 2


def test_many_sessions_end_in_slices_and_each_once(make_site: Callable[..., Site]) -> None:
    site = make_site(push_slice=2)
    terminals = [site.logged_in(number) for number in range(101, 108)]
    site.server.replace_registry(Registry(SITE))
    site.run()
    assert all(one.is_closed for one in terminals)
    assert {facts["terminal"] for facts in site.logged("terminal.not_enrolled")} == set(range(101, 108))
    assert len(site.logged("terminal.not_enrolled")) == 7


def test_a_terminal_struck_out_between_the_two_frames_of_its_log_in_is_refused(site: Site) -> None:
    site.world.latency_ms = (50, 50)
    terminal = site.terminal(101)
    terminal.connect()
    site.run(230)  # its HELLO has been answered, its proof has not come
    assert site.server.parts.metrics.handshakes_now == 1
    site.server.replace_registry(registry_with(site, t101=0))
    site.run(400)
    assert terminal.refused is not None
    assert site.server.parts.sessions.live(101) is None


class Silent:
    """A peer that connects and waits."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.is_closed = False

    def connected(self, stream: Any) -> None:
        self.stream = stream

    def received(self, data: bytes) -> None:
        pass

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True
