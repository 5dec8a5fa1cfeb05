"""Start, stop, hostile peers and the control socket, through the ports."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from frontend_server.alarms import ALARMS_MAX, AlarmingLog, AlarmKind, Alarms
from frontend_server.control import REFUSED_LIMIT_MAX
from frontend_server.refusals import REFUSALS_KEPT
from frontend_server.server import ServerState
from frontend_server.terminal import TAKES, TRANSITIONS, Phase
from protocol.codes import ByeCode, Medium
from protocol.deny_list import DenyList
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.messages import Heartbeat, Upload
from protocol.session import TerminalSession
from tests.frontend.scripted_terminal import purchase_chain
from tests.frontend.site import ENROLMENT_ID, ControlClient, Site
from tests.hostile import garbage, garbage_with_head
from tests.simulation.world import Host

# -- hostile terminals --------------------------------------------------------------------------------------------


class Hostile:
    """A peer that sends what it was given, in one piece."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received_bytes = 0
        self.is_closed = False

    def connected(self, stream: Any) -> None:
        stream.write(self.data)

    def received(self, data: bytes) -> None:
        self.received_bytes += len(data)

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True


def test_hostile_bytes_end_their_own_connection_and_nothing_else(site: Site) -> None:
    terminal = site.logged_in(records=5)
    claims = TerminalSession(
        terminal.identity, bytes(16), medium=Medium.TCP, nonce=bytes(16), body_bytes_max=BODY_BYTES_MAX_TCP, now_ms=0
    )
    hello = claims.take_output()
    peers = [Hostile(data) for data in garbage(20, 100, 20_000)]
    peers += [Hostile(data) for data in garbage_with_head(hello, 21, 100, 2_000)]
    for peer in peers:
        Host(site.world, "attacker").connect(site.settings.listen_address, peer)
    site.run(13_000)
    assert all(peer.is_closed for peer in peers)
    terminal.upload(1, 5)
    site.run()
    assert terminal.acks()[-1].durable == 5
    metrics = site.server.parts.metrics
    assert (metrics.connections_now, metrics.handshakes_now) == (1, 0)


MALFORMED_MESSAGES = [
    b"\x00",
    b"\x08\x00",
    b"\x7f" * 10,
    b"\x02\x00\x60\x00",
    b"\x05" + bytes(27),
    b"\x06" + bytes(143),
    b"\x07\x77",
    b"\x81" + bytes(7),
]


@pytest.mark.parametrize("message", MALFORMED_MESSAGES, ids=lambda message: message[:4].hex())
def test_a_malformed_message_is_answered_by_bye_protocol_error(site: Site, message: bytes) -> None:
    terminal = site.logged_in(records=1)
    terminal.say(message)
    site.run()
    assert terminal.byes() == [ByeCode.PROTOCOL_ERROR]
    assert site.server.parts.metrics.protocol_errors == 1


def test_random_messages_of_an_authenticated_terminal_raise_nothing(site: Site) -> None:
    seed = 20
    print(f"seed={seed}")
    source = random.Random(seed)
    for _ in range(150):
        terminal = site.logged_in(records=2)
        good = [terminal.baseline(), terminal.heartbeat(), Upload.of(terminal.records[:2]).encode()]
        message = bytearray(source.choice(good))
        for _ in range(source.randint(1, 4)):
            message[source.randrange(len(message))] = source.randrange(256)
        terminal.say(bytes(message))
        site.run(100)
        terminal.hang_up()
        site.run(100)
    assert len(site.server.parts.intake) == 0


def test_records_of_another_terminal_are_refused(site: Site) -> None:
    terminal = site.logged_in(records=1)
    terminal.say(Upload.of(purchase_chain(102, 1, ENROLMENT_ID, 3)).encode())
    site.run()
    assert terminal.byes() == [ByeCode.PROTOCOL_ERROR]


def test_records_of_an_epoch_that_was_not_announced_are_refused(site: Site) -> None:
    terminal = site.logged_in(records=1)
    terminal.say(Upload.of(purchase_chain(101, 2, ENROLMENT_ID, 3)).encode())
    site.run()
    assert terminal.byes() == [ByeCode.PROTOCOL_ERROR]


def test_a_frame_whose_middle_contradicts_its_ends_is_refused_by_the_spool(site: Site) -> None:
    terminal = site.logged_in(records=4)
    records = terminal.records
    terminal.say(Upload.of([records[0], records[2], records[1], records[3]]).encode())
    site.run()
    assert terminal.byes() == [ByeCode.PROTOCOL_ERROR]
    assert site.spool.held(101, 1) == []


def test_a_terminal_that_uploads_before_its_baseline_is_refused(site: Site) -> None:
    terminal = site.terminal(records=4)
    terminal.says_hello_after_log_in = False
    terminal.connect()
    site.run()
    terminal.upload(1, 4)
    site.run()
    assert terminal.byes() == [ByeCode.PROTOCOL_ERROR]


def test_a_forged_frame_ends_the_session_and_is_counted(site: Site) -> None:
    terminal = site.logged_in(records=4)
    assert terminal.session is not None
    terminal.session.send(terminal.heartbeat())
    frame = bytearray(terminal.session.take_output())
    frame[-1] ^= 1
    assert terminal.stream is not None
    terminal.stream.write(bytes(frame))
    site.run()
    assert terminal.is_closed
    assert site.server.parts.metrics.forgeries == 1


def test_a_peer_that_never_reads_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = site.logged_in()
    connection: Any = site.server.parts.sessions.live(101)
    sent: list[bytes] = []
    monkeypatch.setattr(connection._stream, "write", sent.append)
    monkeypatch.setattr(connection._stream, "write_buffer_bytes", lambda: len(b"".join(sent)))
    while len(b"".join(sent)) <= 64 * 1024:
        assert not terminal.is_closed
        terminal.say(terminal.heartbeat())
        site.run()
    assert terminal.is_closed
    assert site.server.parts.metrics.never_read == 1
    assert site.server.parts.metrics.connections_now == 0


def test_every_phase_has_its_row_in_both_tables() -> None:
    assert set(TAKES) == set(TRANSITIONS) == set(Phase)
    assert not TAKES[Phase.OVER]
    assert not TAKES[Phase.LEAVING]


def test_a_terminal_that_goes_on_sending_does_not_hold_up_the_stop(site: Site) -> None:
    terminal = site.logged_in(records=200)
    done: list[int] = []
    started = site.world.time_ms
    site.server.stop(lambda: done.append(site.world.time_ms))
    for sequence in range(1, 200):
        terminal.upload(sequence, sequence)
        site.run(5)
        if terminal.is_closed:
            break
    site.run(1_000)
    assert terminal.is_closed
    assert done[0] - started < 1_000
    held = site.spool_reopened().held(101, 1)
    assert terminal.acks()[-1].durable <= (held[-1].last if held else 0)


# -- start and stop -------------------------------------------------------------------------------------------------


def test_the_server_stops_in_order_and_acknowledges_what_it_took(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = site.logged_in(records=16)
    order = site.order
    close_spool = site.spool.close

    def note_closing() -> None:
        order.append("spool closed")
        close_spool()

    monkeypatch.setattr(site.spool, "close", note_closing)
    site.executor.is_held = True
    terminal.upload(1, 16)
    site.run()
    site.server.stop(lambda: order.append("done"))
    late = site.terminal(102)
    late.connect()
    site.run(300)
    assert late.stream is None
    assert terminal.byes() == []
    site.executor.release()
    site.run(1_000)
    assert terminal.acks()[-1].durable == 16
    assert terminal.byes() == [ByeCode.GOING_DOWN]
    assert order == ["forwarder started", "forwarder stopped", "spool closed", "done"]
    assert site.server.state is ServerState.STOPPED
    assert site.server.address() == ""
    site.server.stop(lambda: order.append("again"))
    assert order[-1] == "again"


def test_a_stopped_server_leaves_no_timer_and_no_connection(site: Site) -> None:
    for terminal in (101, 102, 103):
        site.logged_in(terminal)
    done: list[bool] = []
    site.server.stop(lambda: done.append(True))
    site.run(10_000)
    assert done == [True]
    assert not site.world.step()
    assert not site.host.streams
    assert not site.host.listeners


def test_a_peer_that_ignores_the_bye_does_not_hold_up_the_stop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.logged_in()
    connection: Any = site.server.parts.sessions.live(101)
    monkeypatch.setattr(connection._stream, "close", lambda: None)
    done: list[int] = []
    site.server.stop(lambda: done.append(site.world.time_ms))
    started = site.world.time_ms
    site.run(20_000)
    assert done
    assert done[0] - started <= site.settings.drain_ms_max + 1_000


def test_a_server_that_never_started_stops_too(make_site: Callable[..., Site]) -> None:
    site = make_site(starts=False)
    done: list[int] = []
    site.server.stop(lambda: done.append(1))
    site.server.stop(lambda: done.append(2))
    site.run()
    assert done == [1, 2]


def test_settled_rows_are_pruned_from_time_to_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[tuple[int, int]] = []

    def prune(now_ms: int, settled_days: int) -> int:
        pruned.append((now_ms, settled_days))
        return 3 if len(pruned) == 2 else 0

    monkeypatch.setattr(site.spool, "prune", prune)
    site.run(2 * 3_600_000 + 60_000)
    assert [days for _, days in pruned] == [7] * len(pruned)
    assert 2 <= len(pruned) <= 4
    assert site.logged("spool.pruned") == [{"rows": 3}]


# -- control socket -------------------------------------------------------------------------------------------------


def test_status_names_what_is_online_and_what_the_spool_holds(site: Site) -> None:
    terminal = site.logged_in(records=16)
    terminal.upload(1, 16)
    site.issue(2, DenyList([5]))
    site.run(1_500)
    site.ask(verb="status")
    answer = site.ask(verb="status")
    assert answer["ok"]
    assert answer["terminals"] == {"enrolled": 8, "online": 1}
    assert answer["spool"]["rows"] == 2
    assert answer["lists"] == {"deny": "1.2", "parameters": None, "permissions": None}
    assert answer["link"] == {"state": "offline"}
    assert answer["counts"]["records_received"] == 16
    assert answer["uptime_ms"] > 0


def test_sessions_show_what_is_behind_page_by_page(site: Site) -> None:
    ahead = site.logged_in(101, records=20)
    site.logged_in(102, records=7)
    ahead.upload(1, 16)
    site.run()
    site.issue(1, DenyList([5]))
    site.run()
    answer = site.ask(verb="sessions", limit=1)
    [first] = answer["sessions"]
    assert (first["terminal"], first["online"], first["epoch"], first["durable"], first["backlog"]) == (
        101,
        True,
        1,
        16,
        4,
    )
    assert (first["list_version"], first["list_current"]) == ("1.1", True)
    assert answer["next"] == 101
    ahead.hang_up()
    site.run()
    answer = site.ask(verb="sessions", after=101)
    assert ([one["terminal"] for one in answer["sessions"]], answer["next"]) == ([102], None)
    assert answer["sessions"][0]["backlog"] == 7
    assert not site.ask(verb="sessions")["sessions"][0]["online"]


def test_refused_and_alarms_say_what_to_do(site: Site) -> None:
    stranger = site.terminal(4711)
    stranger.connect()
    site.run()
    site.alarms.raise_alarm(AlarmKind.FORK, "101", "chain differs", 5)
    refused = site.ask(verb="refused")
    assert refused["counts"] == {"unknown terminal": 1}
    assert refused["refused"][0]["what_to_do"].startswith("enrol the terminal")
    alarms = site.ask(verb="alarms")["alarms"]
    assert (alarms[0]["alarm"], alarms[0]["subject"], alarms[0]["count"]) == ("fork", "101", 1)
    assert "enrol it again" in alarms[0]["what_to_do"]


BAD_REQUESTS = [
    (b"nonsense\n", "not JSON"),
    (b"[" * 3_000 + b"\n", "not JSON"),
    (b'["status"]\n', "verb must be one of"),
    (b'{"verb": "format disk"}\n', "verb must be one of"),
    (b'{"verb": ["status"]}\n', "verb must be one of"),
    (b'{"verb": "sessions", "limit": "all"}\n', "limit must be a whole number"),
    (b'{"verb": "sessions", "after": true}\n', "after must be a whole number"),
    (b'{"verb": "refused", "limit": 1001}\n', f"from 0 to {REFUSED_LIMIT_MAX}"),
    (b"\n", "not JSON"),
    (b'{"verb": "status", "padding": "' + b"x" * 5_000 + b'"}\n', "a line has at most"),
    (b"x" * 5_000, "a line has at most"),
]


@pytest.mark.parametrize(("line", "error"), BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_a_bad_request_is_answered_in_words(site: Site, line: bytes, error: str) -> None:
    client = ControlClient(site.host)
    client.ask(line)
    site.run()
    answer = client.answers()[0]
    assert not answer["ok"]
    assert error in answer["error"]


def test_requests_may_come_in_pieces_and_several_at_once(site: Site) -> None:
    client = ControlClient(site.host)
    client.ask(b'{"verb": "ala')
    site.run()
    client.ask(b'rms"}\n{"verb": "refused"}\n{"verb": "alarms"}\n')
    site.run()
    assert [answer["ok"] for answer in client.answers()] == [True, True, True]


def test_clients_of_the_control_socket_are_bounded_and_idle_ones_leave(site: Site) -> None:
    clients = [ControlClient(site.host) for _ in range(9)]
    for client in clients:
        client.ask(b'{"verb": "alarms"}\n')
    site.run()
    assert sum(not client.answers()[0]["ok"] for client in clients) == 1
    site.run(310_000)
    assert all(client.is_closed for client in clients)
    assert site.ask(verb="alarms")["ok"]


def test_a_control_client_that_is_told_to_go_and_does_not_read_loses_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ControlClient(site.host)
    client.ask(b'{"verb": "status"}\n')
    site.run()
    ended = next(iter(site.server._control._clients))
    monkeypatch.setattr(ended._stream, "close", lambda: None)  # what is queued never leaves
    ended.end()
    site.run(site.settings.linger_ms + 200)
    assert client.is_closed
    assert not site.server._control._clients


def test_stop_is_answered_before_it_stops(site: Site) -> None:
    terminal = site.logged_in()
    assert site.ask(verb="stop") == {"ok": True, "stopping": True}
    site.run(6_000)
    assert terminal.byes() == [ByeCode.GOING_DOWN]
    assert site.server.state is ServerState.STOPPED


# -- bounds ---------------------------------------------------------------------------------------------------------


def test_refusals_are_kept_in_a_ring_and_counted_beyond_it(site: Site) -> None:
    stranger = site.terminal(4711)
    for _ in range(REFUSALS_KEPT // 100):
        stranger.connect()
        site.run(100)
    ring = site.server.parts.refusals
    for _ in range(REFUSALS_KEPT + 5):
        ring.add(ring.newest(1)[0])
    assert len(ring.newest(10 * REFUSALS_KEPT)) == REFUSALS_KEPT
    assert sum(ring.counts.values()) == REFUSALS_KEPT + 5 + REFUSALS_KEPT // 100


def test_alarms_are_bounded_and_those_first_there_stay() -> None:
    alarms = Alarms()
    for subject in range(ALARMS_MAX + 7):
        alarms.raise_alarm(AlarmKind.FORK, str(subject), "x", subject)
    assert not alarms.raise_alarm(AlarmKind.FORK, "0", "again", 99_999)
    assert (len(alarms), alarms.not_listed) == (ALARMS_MAX, 7)
    first = alarms.standing()[0]
    assert (first.subject, first.count, first.since_ms, first.last_ms, first.text) == ("0", 2, 0, 99_999, "again")


def test_an_alarming_event_of_the_spool_becomes_an_alarm(site: Site) -> None:
    log = AlarmingLog(site.log, site.alarms, site.host)
    log("spool.missing", alarm=True, path="/x", lost_spool="ab")
    log("spool.reopened")
    [alarm] = site.alarms.standing()
    assert (alarm.kind, alarm.subject, alarm.text) == (AlarmKind.STORAGE, "spool.missing", "lost_spool ab")
    assert [name for name, _ in site.events[-2:]] == ["spool.missing", "spool.reopened"]


def test_a_heartbeat_of_another_epoch_is_refused(site: Site) -> None:
    terminal = site.logged_in()
    terminal.say(Heartbeat(2, 1, 5, 0, 1, 1).encode())
    site.run()
    assert terminal.byes() == [ByeCode.PROTOCOL_ERROR]
