"""Promise 1 at the front-end: acknowledged means on disk; and what is not on disk is not acknowledged (R7-R10, R14)."""

from __future__ import annotations

from collections.abc import Callable

from frontend_server.alarms import AlarmKind
from ledger_sync.errors import SpoolFailure
from protocol.codes import ByeCode, ReportKind, SealStatus
from protocol.messages import BaselineEntry, SealAnswer, SealQuery, Upload
from protocol.records import seal_of
from tests.frontend.scripted_terminal import purchase_chain
from tests.frontend.site import ENROLMENT_ID, Site


def alarm_kinds(site: Site) -> set[AlarmKind]:
    return {alarm.kind for alarm in site.alarms.standing()}


def test_a_frame_is_acknowledged_after_the_commit(site: Site) -> None:
    terminal = site.logged_in(records=16)
    terminal.upload(1, 16)
    site.run()
    assert terminal.acks()[-1].durable == 16
    assert site.spool.held(101, 1)[0].last == 16


def test_nothing_is_acknowledged_while_the_disk_has_not_answered(site: Site) -> None:
    terminal = site.logged_in(records=32)
    site.executor.is_held = True
    terminal.upload(1, 16)
    terminal.upload(17, 32)
    site.run(5_000)
    assert [ack.durable for ack in terminal.acks()] == [0]
    site.executor.release()
    site.run()
    assert terminal.acks()[-1].durable == 32


def test_frames_committed_together_are_answered_by_one_acknowledgement(site: Site) -> None:
    terminal = site.logged_in(records=64)
    site.executor.is_held = True
    for first in (1, 17, 33, 49):
        terminal.upload(first, first + 15)
    site.run()
    site.executor.release()
    site.run()
    # The first frame found an idle disk and went alone; the other three gathered behind it.
    assert [ack.durable for ack in terminal.acks()] == [0, 16, 64]


def test_a_lost_acknowledgement_is_asked_for_again_and_answered_as_duplicate(site: Site) -> None:
    terminal = site.logged_in(records=16)
    site.executor.is_held = True
    terminal.upload(1, 16)
    site.run()
    terminal.hang_up()
    site.executor.release()
    site.run()
    assert terminal.first_unacknowledged == 1
    assert site.spool.held(101, 1)[0].last == 16
    terminal.connect()
    site.run()
    # The terminal shows that it has the same record 16: acknowledged without sending again.
    assert [query.sequence for query in terminal.of_kind(SealQuery)] == [16]  # type: ignore[union-attr]
    assert [ack.durable for ack in terminal.acks()] == [16]
    terminal.upload(1, 16)
    site.run()
    assert terminal.acks()[-1].durable == 16
    assert site.server.parts.metrics.duplicate_frames == 1
    assert site.spool.facts().rows == 3  # two baselines, one frame


def test_a_terminal_that_comes_from_another_front_end_opens_a_range_without_a_gap(site: Site) -> None:
    terminal = site.logged_in(records=60)
    terminal.upload(1, 10)
    site.run()
    terminal.hang_up()
    site.run()
    terminal.first_unacknowledged = 41  # 11 to 40 went to another front-end
    terminal.connect()
    site.run()
    assert [ack.durable for ack in terminal.acks()] == [40]
    terminal.upload(41, 60)
    site.run()
    assert terminal.acks()[-1].durable == 60
    assert [(held.first, held.last) for held in site.spool.held(101, 1)] == [(1, 10), (41, 60)]


def test_a_terminal_that_went_back_in_time_is_told_that_it_has_forked(site: Site) -> None:
    terminal = site.logged_in(records=20)
    terminal.upload(1, 20)
    site.run()
    terminal.hang_up()
    site.run()
    terminal.records = terminal.records[:10]
    terminal.first_unacknowledged = 11
    terminal.connect()
    site.run()
    assert terminal.byes() == [ByeCode.FORKED]
    assert terminal.acks() == []
    assert site.forwarder.reports[0][:2] == (101, ReportKind.FORK)
    assert alarm_kinds(site) == {AlarmKind.FORK}


def test_a_terminal_whose_seal_differs_has_forked_and_nothing_is_acknowledged(site: Site) -> None:
    terminal = site.logged_in(records=20)
    terminal.upload(1, 20)
    site.run()
    terminal.hang_up()
    site.run()
    terminal.records = purchase_chain(101, 1, ENROLMENT_ID, 30, amount_cents=1)
    terminal.first_unacknowledged = 5
    terminal.connect()
    site.run()
    assert terminal.byes() == [ByeCode.FORKED]
    assert terminal.acks() == []


def test_a_frame_that_contradicts_what_is_held_is_kept_as_suspect_and_not_acknowledged(site: Site) -> None:
    terminal = site.logged_in(records=20)
    terminal.upload(1, 10)
    site.run()
    other = purchase_chain(101, 1, ENROLMENT_ID, 20, amount_cents=1)
    terminal.say(Upload.of(other[10:20]).encode())
    site.run()
    assert terminal.byes() == [ByeCode.FORKED]
    assert terminal.acks()[-1].durable == 10
    assert site.spool.facts().rows == 3  # baseline, frame, suspect frame
    assert alarm_kinds(site) == {AlarmKind.SUSPECT_RECORDS}
    assert [report[:2] for report in site.forwarder.reports] == [(101, ReportKind.FORK)]


def test_a_terminal_that_can_not_show_its_old_seal_is_acknowledged_only_as_far_as_it_offers(site: Site) -> None:
    terminal = site.logged_in(records=20)
    terminal.upload(1, 20)
    site.run()
    terminal.hang_up()
    site.run()
    terminal.records = purchase_chain(101, 1, ENROLMENT_ID, 25)
    terminal.first_unacknowledged = 5
    terminal.answers_queries = False
    terminal.connect()
    site.run()
    terminal.say(SealAnswer(SealStatus.OVERWRITTEN, 1, 20).encode())
    site.run()
    assert [(ack.durable, ack.ranges) for ack in terminal.acks()] == [(4, ())]
    terminal.upload(5, 8)
    site.run()
    assert (terminal.acks()[-1].durable, terminal.acks()[-1].ranges) == (8, ())
    terminal.upload(9, 25)
    site.run()
    assert terminal.acks()[-1].durable == 25


def test_a_terminal_that_never_answers_for_its_seal_is_let_go(site: Site) -> None:
    terminal = site.logged_in(records=5)
    terminal.upload(1, 5)
    site.run()
    terminal.hang_up()
    site.run()
    terminal.records = purchase_chain(101, 1, ENROLMENT_ID, 9)
    terminal.first_unacknowledged = 3
    terminal.answers_queries = False
    terminal.connect()
    site.run(9_000)
    assert terminal.byes() == []
    site.run(3_000)
    assert terminal.byes() == [ByeCode.IDLE]


def test_a_hole_is_listed_above_durable_and_closes_when_it_is_filled(site: Site) -> None:
    terminal = site.logged_in(records=30)
    terminal.upload(1, 10)
    terminal.upload(21, 30)
    site.run()
    assert (terminal.acks()[-1].durable, terminal.acks()[-1].ranges) == (10, ((21, 30),))
    terminal.upload(11, 20)
    site.run()
    assert (terminal.acks()[-1].durable, terminal.acks()[-1].ranges) == (30, ())


def test_a_tombstone_takes_part_in_the_acknowledgement(site: Site) -> None:
    terminal = site.logged_in(records=30)
    terminal.upload(1, 10)
    terminal.tombstone(11, 20)
    terminal.upload(21, 30)
    site.run()
    assert terminal.acks()[-1].durable == 30
    assert site.spool.tombstoned(101, 1) == [(11, 20)]


def test_a_disk_that_refuses_is_answered_by_a_refusal_and_never_by_an_acknowledgement(site: Site) -> None:
    terminal = site.logged_in(records=16)
    site.executor.fails = SpoolFailure("no space")
    terminal.upload(1, 16)
    site.run()
    assert [(ack.durable, ack.credit) for ack in terminal.acks()] == [(0, 4), (0, 0)]
    assert terminal.byes() == [ByeCode.CANNOT_STORE]
    assert AlarmKind.SPOOL_REFUSES in alarm_kinds(site)
    terminal.connect()
    site.run()
    assert terminal.byes() == [ByeCode.CANNOT_STORE]
    site.executor.fails = None
    terminal.connect()
    site.run()
    terminal.upload(1, 16)
    site.run()
    assert (terminal.acks()[-1].durable, terminal.acks()[-1].credit) == (16, 4)
    assert AlarmKind.SPOOL_REFUSES not in alarm_kinds(site)


def test_what_was_acknowledged_survives_a_power_cut(site: Site) -> None:
    terminal = site.logged_in(records=40)
    terminal.upload(1, 16)
    site.run()
    terminal.upload(17, 32)  # on its way when the power goes
    site.world.step()
    acknowledged = terminal.acks()[-1].durable
    site.power_cut()
    site.boot()
    site.run()
    assert site.spool.held(101, 1)[0].last >= acknowledged == 16
    terminal.connect()
    site.run()
    terminal.upload(terminal.first_unacknowledged, 40)
    site.run()
    assert terminal.acks()[-1].durable == 40


def test_credit_falls_to_one_frame_when_the_queue_is_half_full(make_site: Callable[..., Site]) -> None:
    site = make_site(intake_frames_max=8)
    terminal = site.logged_in(records=60)
    site.executor.is_held = True
    for first in range(1, 7):
        terminal.upload(first, first)
    site.run()
    site.executor.waiting.pop(0)()  # one group: the first frame alone
    site.run()
    assert [ack.credit for ack in terminal.acks()] == [4, 1]
    site.executor.release()
    site.run()
    assert terminal.acks()[-1].credit == 4


def test_a_full_queue_stops_reading_and_an_emptier_one_goes_on(make_site: Callable[..., Site]) -> None:
    site = make_site(intake_frames_max=8)
    terminal = site.logged_in(records=60)
    site.executor.is_held = True
    for sequence in range(1, 41):
        terminal.upload(sequence, sequence)
    site.run(2_000)
    assert len(site.server.parts.intake) <= 9
    assert site.server.parts.metrics.reading_paused == 1
    site.executor.release()
    site.run(2_000)
    assert terminal.acks()[-1].durable == 40


def test_a_terminal_that_sends_beyond_any_credit_is_not_read_meanwhile(site: Site) -> None:
    terminal = site.logged_in(records=60)
    site.executor.is_held = True
    for sequence in range(1, 41):
        terminal.upload(sequence, sequence)
    site.run(2_000)
    assert len(site.server.parts.intake) <= 17
    site.executor.release()
    site.run(2_000)
    assert terminal.acks()[-1].durable == 40


def test_a_receipt_is_told_to_the_terminal(site: Site) -> None:
    terminal = site.logged_in(records=16)
    terminal.upload(1, 16)
    site.run()
    assert terminal.acks()[-1].settled == 0
    state = site.server.parts.sessions.live(101)
    assert state is not None
    state.settled(1, 12)
    site.run()
    assert (terminal.acks()[-1].durable, terminal.acks()[-1].settled) == (16, 12)
    site.server.on_settled({(101, 1), (999, 1)})  # the spool says: nothing; a watermark does not fall
    site.run()
    assert terminal.acks()[-1].settled == 12


def test_the_ledger_s_question_for_missing_records_reaches_the_terminal(site: Site) -> None:
    terminal = site.logged_in(records=16)
    site.server.on_recollect(101, 1, 3, 9)
    site.server.on_recollect(999, 1, 3, 9)
    site.run()
    assert terminal.messages[-1].first == 3  # type: ignore[union-attr]


def test_an_older_epoch_that_differs_is_kept_as_suspect_after_re_enrolment(site: Site) -> None:
    terminal = site.logged_in(records=10)
    terminal.upload(1, 10)
    site.run()
    terminal.hang_up()
    site.run()
    entry = site.registry.get(101)
    assert entry is not None
    site.registry.put(entry.re_enrolled(ENROLMENT_ID))
    forged = purchase_chain(101, 1, ENROLMENT_ID, 12, amount_cents=1)
    renewed = site.terminal(101, records=4, epoch=2)
    renewed.old_epochs = [BaselineEntry(1, 1, 5, 13, seal_of(forged[3]))]
    renewed.answers_queries = False
    renewed.connect()
    site.run()
    renewed.say(SealAnswer(SealStatus.HELD, 1, 10, seal_of(forged[9])).encode())
    site.run()
    assert [(ack.epoch, ack.durable, ack.kept_as_suspect) for ack in renewed.acks()] == [(1, 4, True), (2, 0, False)]
    renewed.say(Upload.of(forged[4:12]).encode())
    renewed.upload(1, 4)
    site.run()
    assert {(ack.epoch, ack.durable, ack.kept_as_suspect) for ack in renewed.acks()[2:]} == {
        (1, 12, True),
        (2, 4, False),
    }
    assert [(held.first, held.last) for held in site.spool.held(101, 1)] == [(1, 10)]
    assert alarm_kinds(site) == {AlarmKind.FORK}


def test_a_terminal_enrolled_again_ends_the_alarm_of_its_fork(site: Site) -> None:
    terminal = site.logged_in(records=20)
    terminal.upload(1, 20)
    site.run()
    terminal.hang_up()
    site.run()
    terminal.records = []
    terminal.first_unacknowledged = 1
    terminal.connect()
    site.run()
    assert alarm_kinds(site) == {AlarmKind.FORK}
    entry = site.registry.get(101)
    assert entry is not None
    site.registry.put(entry.re_enrolled(ENROLMENT_ID))
    site.logged_in(records=1, epoch=2)
    assert not alarm_kinds(site)
