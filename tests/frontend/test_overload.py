"""Overload, stage by stage (docs/overload.md): slow down, then refuse, never lose, never grow; live sales first."""

from __future__ import annotations

from collections.abc import Callable

from frontend_server.entrance import EARLY_BYTES_MAX, STRANGERS_A_TURN
from frontend_server.intake import LIVE_RECORDS_MAX
from frontend_server.turns import TURN_FRAMES_MAX
from protocol.codes import ByeCode
from protocol.limits import CREDIT_MAX, CREDIT_USUAL
from protocol.messages import Ack, Upload
from tests.frontend.scripted_terminal import ScriptedTerminal
from tests.frontend.site import Site


def offer(terminal: ScriptedTerminal, first: int, last: int, *, is_live: bool) -> None:
    terminal.say(Upload.of(terminal.records[first - 1 : last], live=is_live).encode())


def sells_by(site: Site, *, terminal: int = 101, records: int) -> ScriptedTerminal:
    """A terminal that has nothing when it logs in, and so many records soon after."""
    made = site.logged_in(terminal)
    made.records = site.terminal(terminal, records=records).records
    return made


def fill(site: Site, count: int, *, terminals: range) -> list[ScriptedTerminal]:
    """`count` frames of backlog of each terminal wait for a disk that does not answer."""
    backlogs = [site.logged_in(terminal, records=count) for terminal in terminals]
    site.executor.is_held = True
    for each in backlogs:
        send_all(site, each, count)
    return backlogs


def send_all(site: Site, terminal: ScriptedTerminal, count: int) -> None:
    for sequence in range(1, count + 1):
        terminal.upload(sequence, sequence)
    site.run()


# -- intake: who goes first


def test_a_live_sale_is_acknowledged_before_a_backlog_that_was_there_first(make_site: Callable[..., Site]) -> None:
    site = make_site(enrolled=40)
    till = sells_by(site, terminal=101, records=1)
    backlogs = fill(site, 15, terminals=range(102, 140))
    offer(till, 1, 1, is_live=True)
    site.run()
    # One group is with the disk already; the sale is in the next one, whatever waits.
    site.writer._group_intakes_max = 8
    groups: list[int] = []
    while till.acks()[-1].durable < 1:
        site.executor.release()
        site.executor.is_held = True
        site.run(20)
        groups.append(sum(each.acks()[-1].durable for each in backlogs))
    assert len(groups) <= 2
    assert groups[-1] <= 16
    site.executor.release()
    site.run(2_000)
    assert [each.acks()[-1].durable for each in backlogs] == [15] * 38


def test_a_terminal_s_sale_does_not_overtake_its_own_backlog(site: Site) -> None:
    terminal = site.logged_in(records=40)
    site.executor.is_held = True
    offer(terminal, 1, 20, is_live=False)
    offer(terminal, 21, 21, is_live=True)
    site.run()
    assert site.server.parts.metrics.live_frames == 0
    site.executor.release()
    site.run()
    assert [len(ack.ranges) for ack in terminal.acks()] == [0] * len(terminal.acks())
    offer(terminal, 22, 22, is_live=True)  # nothing is outstanding: now it goes first
    site.run()
    assert site.server.parts.metrics.live_frames == 1
    assert terminal.acks()[-1].durable == 22


def test_a_frame_of_many_records_is_a_backlog_whatever_its_flag_says(site: Site) -> None:
    terminal = site.logged_in(records=40)
    offer(terminal, 1, LIVE_RECORDS_MAX + 1, is_live=True)
    site.run()
    assert site.server.parts.metrics.live_frames == 0
    offer(terminal, LIVE_RECORDS_MAX + 2, 2 * LIVE_RECORDS_MAX + 1, is_live=True)
    site.run()
    assert site.server.parts.metrics.live_frames == 1
    assert terminal.acks()[-1].durable == 2 * LIVE_RECORDS_MAX + 1


# -- intake: credit, reading


def test_backlogs_lose_their_credit_before_live_sales_do(make_site: Callable[..., Site]) -> None:
    site = make_site(enrolled=20, intake_frames_max=80)
    intake = site.server.parts.intake
    assert [intake.credit(is_live=is_live) for is_live in (True, False)] == [CREDIT_USUAL, CREDIT_USUAL]
    late = site.logged_in(110, records=10)
    fill(site, 10, terminals=range(101, 104))
    assert len(intake) == 30  # between a quarter and a half
    assert intake.credit(is_live=True) == CREDIT_USUAL
    staggered = [intake.credit(is_live=False) for _ in range(2 * CREDIT_USUAL)]
    assert sorted(staggered) == sorted(2 * list(range(1, CREDIT_USUAL + 1)))
    send_all(site, late, 10)
    assert len(intake) == 40
    assert [intake.credit(is_live=is_live) for is_live in (True, False)] == [1, 1]


def test_a_terminal_with_a_backlog_is_known_by_its_baseline(make_site: Callable[..., Site]) -> None:
    site = make_site(enrolled=20, intake_frames_max=80)
    fill(site, 10, terminals=range(101, 104))
    site.executor.release()
    seen = {}
    for terminal, records in ((110, LIVE_RECORDS_MAX), (111, 500)):
        made = site.terminal(terminal, records=records)
        made.connect()
        site.run(60)
        live = site.server.parts.sessions.live(terminal)
        seen[terminal] = live._is_live if live is not None else None  # type: ignore[attr-defined]
        site.run()
    assert seen == {110: True, 111: False}


def test_a_full_intake_reads_live_sales_longer_than_backlogs_and_takes_exactly_what_it_says(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(enrolled=60, intake_frames_max=40)
    metrics, intake = site.server.parts.metrics, site.server.parts.intake
    tills = [sells_by(site, terminal=101 + index, records=3) for index in range(20)]
    others = [site.logged_in(130 + index, records=5) for index in range(20)]
    site.executor.is_held = True
    for sequence in range(1, 6):
        for each in others:
            each.upload(sequence, sequence)
        site.run(50)
    assert len(intake) == 30  # three quarters: backlogs wait outside
    assert metrics.frames_held > 0
    for each in tills:
        offer(each, 1, 1, is_live=True)
    site.run(50)
    assert len(intake) == 40  # live sales have filled the rest, and nobody comes in any more
    site.executor.release()
    site.run(3_000)
    assert [each.acks()[-1].durable for each in others] == [5] * 20
    assert [each.acks()[-1].durable for each in tills] == [1] * 20
    assert len(intake) == 0
    assert not intake.is_tight
    assert len(intake._waiting) == 0


def test_whoever_waits_for_room_is_called_in_the_order_in_which_he_came(make_site: Callable[..., Site]) -> None:
    site = make_site(enrolled=40, intake_frames_max=16)
    first = [site.logged_in(101 + index, records=3) for index in range(8)]
    late = [site.logged_in(120 + index, records=3) for index in range(8)]
    site.executor.is_held = True
    for each in (*first, *late):
        for sequence in range(1, 4):
            each.upload(sequence, sequence)
        site.run(30)
    order = [terminal._terminal for terminal in site.server.parts.intake._waiting]  # type: ignore[attr-defined]
    assert order == sorted(order)
    assert len(order) >= 10
    site.executor.release()
    site.run(3_000)
    assert [each.acks()[-1].durable for each in (*first, *late)] == [3] * 16


def test_a_connection_that_ends_while_it_waits_for_room_leaves_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site(enrolled=40, intake_frames_max=8)
    fill(site, 6, terminals=range(101, 104))
    late = site.logged_in(110) if not site.executor.is_held else site.terminal(110, records=1)
    late.connect()
    site.run(100)
    late.hang_up()
    site.run(100)
    site.executor.release()
    site.run(1_000)
    intake = site.server.parts.intake
    assert (len(intake), intake.is_tight, len(intake._waiting)) == (0, False, 0)
    assert site.server.parts.metrics.connections_now == 3


# -- one peer's share


def test_a_terminal_that_floods_gets_one_turn_at_a_time_and_others_are_served_between(site: Site) -> None:
    flooder, good = site.logged_in(101), site.logged_in(102, records=5)
    site.world.chunked = False
    metrics = site.server.parts.metrics
    before = metrics.frames_received
    for _ in range(1_000):
        flooder.send(flooder.heartbeat())
    flooder._write()
    site.run(150)
    taken = metrics.frames_received - before
    assert TURN_FRAMES_MAX <= taken <= 3 * TURN_FRAMES_MAX
    good.upload(1, 5)
    site.run(150)
    assert good.acks()[-1].durable == 5
    site.run(10_000)
    assert metrics.frames_received - before >= 1_000  # slowed down, nothing lost
    assert not flooder.is_closed
    site.run(1_000)
    assert not site.server.parts.intake.is_tight


def test_whoever_goes_on_flooding_is_parted_with_and_alarmed_and_what_he_sent_in_turn_is_kept(site: Site) -> None:
    flooder = site.logged_in(101, records=20)
    site.world.chunked = False
    flooder.upload(1, 20)
    started_ms = site.world.time_ms
    while not flooder.is_closed and site.world.time_ms < started_ms + 20_000:
        for _ in range(2 * TURN_FRAMES_MAX):
            flooder.send(flooder.heartbeat())
        flooder._write()
        site.run(100)
    assert 10_000 <= site.world.time_ms - started_ms <= 11_000
    assert flooder.byes() == [ByeCode.PROTOCOL_ERROR]
    assert [(alarm.kind.value, alarm.subject) for alarm in site.server.parts.alarms.standing()] == [("flood", "101")]
    assert site.server.parts.metrics.floods == 1
    assert flooder.acks()[-1].durable == 20


def test_a_terminal_that_sends_too_much_now_and_then_is_no_flooder(site: Site) -> None:
    busy = site.logged_in(101)
    site.world.chunked = False
    for _ in range(10):
        for _ in range(3 * TURN_FRAMES_MAX):
            busy.send(busy.heartbeat())
        busy._write()
        site.run(3_000)
    assert not busy.is_closed
    assert site.server.parts.metrics.floods == 0


def test_uploads_beyond_any_credit_wait_for_the_disk_and_then_for_their_turn(site: Site) -> None:
    site.world.chunked = False
    flooder = site.logged_in(101, records=200)
    site.executor.is_held = True
    for sequence in range(1, 201):
        flooder.send(Upload.of(flooder.records[sequence - 1 : sequence]).encode())
    flooder._write()
    site.run(1_000)
    assert len(site.server.parts.intake) <= TURN_FRAMES_MAX + CREDIT_MAX
    site.executor.release()
    site.run(5_000)
    assert flooder.acks()[-1].durable == 200


def test_half_a_frame_has_an_absolute_deadline_that_no_further_byte_moves(site: Site) -> None:
    terminal = site.logged_in(records=40)
    assert terminal.session is not None
    assert terminal.stream is not None
    terminal.send(Upload.of(terminal.records).encode())
    frame = terminal.session.take_output()
    before = site.world.time_ms
    for byte in frame:
        if terminal.is_closed:
            break
        terminal.stream.write(bytes([byte]))
        site.run(130)
    assert terminal.byes() == [ByeCode.IDLE]
    assert 20_000 <= site.world.time_ms - before <= 20_500
    assert site.server.parts.metrics.frame_timeouts == 1


def test_a_slow_line_that_ends_its_frame_in_time_is_served(site: Site) -> None:
    terminal = site.logged_in(records=36)
    assert terminal.session is not None
    assert terminal.stream is not None
    for first in (1, 13, 25):
        terminal.send(Upload.of(terminal.records[first - 1 : first + 11]).encode())
        frame = terminal.session.take_output()
        for start in range(0, len(frame), 100):
            terminal.stream.write(frame[start : start + 100])
            site.run(1_000)
    assert terminal.acks()[-1].durable == 36
    assert site.server.parts.metrics.frame_timeouts == 0


# -- spool


def test_what_the_spool_refuses_is_kept_by_the_terminal_and_taken_later(site: Site) -> None:
    terminal = site.logged_in(records=20)
    site.executor.fails = OSError(28, "No space left on device")
    terminal.upload(1, 10)
    site.run()
    assert terminal.byes() == [ByeCode.CANNOT_STORE]
    assert terminal.acks()[-1] == Ack(1, 0, 0, 0, False, ())
    assert [alarm.kind.value for alarm in site.server.parts.alarms.standing()] == ["spool refuses"]
    site.executor.fails = None
    terminal.connect()
    site.run()
    terminal.upload(1, 20)
    site.run()
    assert terminal.acks()[-1].durable == 20
    assert site.server.parts.alarms.standing() == []


# -- the entrance


class Caller:
    """A Stranger that notes when it is heard."""

    def __init__(self, name: int, heard: list[int]) -> None:
        self.name = name
        self.heard = heard

    def hear(self) -> None:
        self.heard.append(self.name)


def test_strangers_are_heard_some_at_a_time_in_the_order_in_which_they_came(site: Site) -> None:
    heard: list[int] = []
    entrance = site.server.parts.entrance
    callers = [Caller(number, heard) for number in range(3 * STRANGERS_A_TURN)]
    for caller in callers:
        entrance.wait(caller)
    entrance.leave(callers[1])
    entrance.leave(callers[1])
    counts: list[int] = []
    while len(entrance):
        before = len(heard)
        assert site.world.step()
        counts.append(len(heard) - before)
    assert max(counts) == STRANGERS_A_TURN  # and other work of the world in between
    assert heard == [caller.name for caller in callers if caller is not callers[1]]


def test_a_stranger_that_says_too_much_before_it_is_heard_is_cut_off_and_waits_no_more(site: Site) -> None:
    site.world.chunked = False
    site.world.latency_ms = (5, 5)
    stranger = site.terminal(101)
    stranger.connect()
    site.run(11)
    assert stranger.stream is not None
    assert not stranger.is_established
    before = site.server.parts.metrics.protocol_errors
    stranger.stream.write(bytes(EARLY_BYTES_MAX + 1))
    site.run(100)
    assert stranger.is_closed
    assert site.server.parts.metrics.protocol_errors == before + 1
    assert len(site.server.parts.entrance) == 0
    assert site.server.parts.metrics.handshakes_now == 0


def test_the_smallest_intake_still_takes_everything_in_the_end(make_site: Callable[..., Site]) -> None:
    site = make_site(intake_frames_max=4, enrolled=20)
    terminals = [site.logged_in(101 + index, records=10) for index in range(12)]
    for each in terminals:
        for sequence in range(1, 11):
            each.upload(sequence, sequence)
    site.run(20_000)
    assert [each.acks()[-1].durable for each in terminals] == [10] * 12
