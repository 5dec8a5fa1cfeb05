"""The uplink under virtual time, against a small front-end: nothing lost, nothing trusted before it is in flash."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from protocol.codes import ByeCode, ListForm, ListKind, SealStatus, Suite, TombstoneReason
from protocol.list_receiver import Apply
from protocol.messages import (
    LIST_STALE,
    Ack,
    Baseline,
    Heartbeat,
    ListOffer,
    ListState,
    Recollect,
    SealAnswer,
    SealQuery,
    Tombstone,
    Upload,
)
from protocol.records import read_head
from terminal_sim.card import CardField, Disturbance, Effect, MemoryCards, Moment
from terminal_sim.connection import TAKEN_OVER_MS
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import Alarm, Outcome, PosTerminal, TapResult, Why
from terminal_sim.flash import CutAfter, VirtualFlash
from terminal_sim.layout import FlashLayout
from terminal_sim.oracle import Oracle
from terminal_sim.rtc import DriftingRtc
from terminal_sim.uplink import Uplink, UplinkState
from tests.simulation.world import Host, World
from tests.terminal_sim.fake_frontend import FakeFrontEnd
from tests.terminal_sim.kit import (
    FIRST_CARD,
    TERMINAL,
    card_image,
    check_chain,
    flash_layout,
    ledger_certificate,
    lists_certificate,
    no_log,
    signed_document,
    signed_list,
    terminal_secrets,
)

ADDRESS = "frontend:4700"


@dataclass
class Moments:
    """An Observer that remembers."""

    written_ms: dict[int, int] = field(default_factory=dict)
    sent_ms: dict[int, int] = field(default_factory=dict)
    acknowledged_ms: dict[int, int] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    onlines: list[bool] = field(default_factory=list)
    lists: list[tuple[int, int]] = field(default_factory=list)

    def written(self, terminal: int, epoch: int, sequence: int, at_ms: int) -> None:
        self.written_ms[sequence] = at_ms

    def sent(self, terminal: int, epoch: int, first: int, last: int, at_ms: int, *, live: bool) -> None:
        for sequence in range(first, last + 1):
            self.sent_ms.setdefault(sequence, at_ms)
            if live:
                self.live.add(sequence)

    def acknowledged(self, terminal: int, epoch: int, first: int, last: int, at_ms: int) -> None:
        for sequence in range(first, last + 1):
            self.acknowledged_ms[sequence] = at_ms

    def online(self, terminal: int, at_ms: int, *, is_online: bool) -> None:
        self.onlines.append(is_online)

    def list_applied(self, terminal: int, version: tuple[int, int], at_ms: int) -> None:
        self.lists.append(version)


class Site:
    """One terminal, one front-end, one cable."""

    def __init__(self, seed: int = 1, *, layout: FlashLayout | None = None, suite: Suite = Suite.A) -> None:
        print(f"seed {seed}")
        self.world = World(seed)
        self.host = Host(self.world, "terminal-1")
        self.server = Host(self.world, "frontend")
        self.layout = layout if layout is not None else flash_layout(ring_sectors=12)
        self.flash = VirtualFlash(self.layout.size_bytes)
        self.secrets = terminal_secrets(suite=suite, proof_suite=suite)
        self.frontend = FakeFrontEnd(self.server, ADDRESS, self.secrets.seal_key, proof_suite=suite)
        self.frontend.listen()
        self.cards = MemoryCards()
        self.oracle = Oracle({TERMINAL: self.secrets.merchant})
        self.rtc = DriftingRtc(self.host, drift_ppm=40)
        self.moments = Moments()
        self.power_cuts = 0
        image = card_image(balance_cents=10_000_000)
        self.cards.save(image)
        self.oracle.issued(image)
        self.boot()

    def boot(self) -> None:
        self.flash.power_on()
        self.terminal = PosTerminal(
            self.flash, self.secrets, rtc=self.rtc, random=self.host, log=no_log, layout=self.layout
        )
        self.uplink = Uplink(
            self.terminal,
            addresses=(ADDRESS,),
            network=self.host,
            clock=self.host,
            random=self.host,
            log=no_log,
            observer=self.moments,
            on_power_cut=self.lost_power,
        )

    def lost_power(self) -> None:
        self.power_cuts += 1
        self.uplink.stop()
        self.host.crash()
        self.boot()
        self.uplink.start()

    def tap(self, amount_cents: int = 100, disturbance: Disturbance | None = None) -> TapResult | None:
        card = CardField(self.cards, FIRST_CARD, self.host, disturbance=disturbance, on_write=self.oracle.card_written)
        try:
            result = self.terminal.tap(card, amount_cents)
        except PowerCut:
            self.lost_power()
            return None
        self.oracle.answered(TERMINAL, self.secrets.epoch, result)
        return result

    def taps(self, count: int) -> None:
        for _ in range(count):
            assert self.tap() is not None

    def run(self, milliseconds: int) -> None:
        self.world.run_until(self.world.time_ms + milliseconds)

    @property
    def marks(self) -> tuple[int, int]:
        assert self.terminal.memory is not None
        marks = self.terminal.memory.ring.epochs[self.secrets.epoch]
        return marks.acknowledged, marks.next - 1

    def drained(self) -> bool:
        return self.marks[0] == self.marks[1]

    def check(self) -> None:
        """What the front-end holds is what the terminal made, to the byte."""
        records = check_chain(self.terminal)
        for record in records:
            assert self.frontend.stored[self.secrets.epoch, read_head(record).sequence] == record


def test_a_backlog_goes_up_in_full_frames_within_the_credit() -> None:
    site = Site()
    site.taps(300)
    site.run(5_000)
    site.uplink.start()
    site.run(1_000)
    assert site.drained()
    site.check()
    frames = [message.count for message in site.frontend.of(Upload) if isinstance(message, Upload)]
    assert frames == [42] * 7 + [6]
    assert not any(message.live for message in site.frontend.of(Upload) if isinstance(message, Upload))
    assert site.frontend.offered_twice == 0


def test_the_first_messages_are_baseline_a_list_state_per_kind_and_heartbeat() -> None:
    site = Site()
    site.taps(1)
    site.uplink.start()
    site.run(1_000)
    first = [Baseline, ListState, ListState, Heartbeat, Upload]
    assert [type(message) for message in site.frontend.messages[:5]] == first
    assert [one.kind for one in site.frontend.of(ListState) if isinstance(one, ListState)] == [1, 2]
    [baseline] = site.frontend.of(Baseline)
    assert isinstance(baseline, Baseline)
    [entry] = baseline.entries
    assert (baseline.boot, entry.oldest_held, entry.first_unacknowledged, entry.next) == (1, 1, 1, 2)


def test_a_new_record_leaves_at_once_when_idle() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    for _ in range(5):
        site.taps(1)
        site.run(50)
    moments = site.moments
    assert moments.live == {1, 2, 3, 4, 5}
    assert moments.sent_ms == moments.written_ms
    assert all(moments.acknowledged_ms[each] - moments.written_ms[each] <= 24 for each in range(1, 6))


def test_nothing_is_uploaded_before_the_first_ack_nor_above_the_credit() -> None:
    site = Site()
    site.frontend.acknowledges = False
    site.taps(200)
    site.uplink.start()
    site.run(1_000)
    site.taps(1)
    site.run(1_000)
    assert site.uplink.state is UplinkState.LOGGING_IN
    assert site.frontend.of(Upload) == []
    site.frontend.session.send(Ack(1, 0, 0, 2))
    site.run(1_000)
    assert len(site.frontend.of(Upload)) == 2
    site.frontend.session.send(Ack(1, 42, 0, 0))
    site.run(1_000)
    assert len(site.frontend.of(Upload)) == 2
    site.frontend.session.send(Ack(1, 84, 0, 4))
    site.run(1_000)
    assert len(site.frontend.of(Upload)) == 5


def test_frames_that_nobody_answers_end_the_connection_and_the_next_log_in_settles_them() -> None:
    site = Site()
    site.uplink.start()
    site.run(500)
    site.frontend.acknowledges = False
    site.taps(10)
    site.run(5_000)
    site.frontend.acknowledges = True
    site.run(60_000)
    assert site.drained()
    assert (len(site.frontend.sessions), len(site.frontend.of(Upload))) == (2, 5)
    site.check()


def test_ranges_above_the_watermark_are_not_offered_again() -> None:
    site = Site()
    site.frontend.acknowledges = False
    site.taps(60)
    site.uplink.start()
    site.run(1_000)
    site.frontend.session.send(Ack(1, 5, 0, 4, ranges=((10, 20), (30, 60))))
    site.run(1_000)
    offered = [(each.first, each.last) for each in site.frontend.of(Upload) if isinstance(each, Upload)]
    assert offered == [(6, 9), (21, 29)]


def test_recollection_brings_records_again_and_tombstones_for_those_that_are_gone() -> None:
    site = Site(layout=flash_layout(ring_sectors=4))
    site.uplink.start()
    for _ in range(30):
        site.taps(6)
        site.run(200)
    assert site.drained()
    assert site.terminal.memory is not None
    oldest = site.terminal.memory.ring.epochs[1].oldest
    assert oldest > 1
    site.flash.dead_sectors.add(site.layout.ring.start + 2)
    site.frontend.messages.clear()
    site.frontend.session.send(Recollect(1, 1, 4_000_000_000))
    site.run(1_000)
    tombstones = [
        (each.reason, each.first, each.last) for each in site.frontend.messages if isinstance(each, Tombstone)
    ]
    assert tombstones == [
        (TombstoneReason.OVERWRITTEN, 1, oldest - 1),
        (TombstoneReason.UNREADABLE, 69, 102),
    ]
    again = sum(each.count for each in site.frontend.messages if isinstance(each, Upload))
    assert again == 180 - (oldest - 1) - 34


@pytest.mark.parametrize("suite", [Suite.A, Suite.B])
def test_unacknowledged_records_in_a_dead_sector_become_a_tombstone_and_block_nothing(suite: Suite) -> None:
    site = Site(suite=suite)
    site.taps(100)
    site.flash.dead_sectors.add(site.layout.ring.start + 1)
    site.uplink.start()
    site.run(2_000)
    assert site.drained()
    [tombstone] = site.frontend.of(Tombstone)
    assert isinstance(tombstone, Tombstone)
    assert (tombstone.reason, tombstone.first, tombstone.last) == (TombstoneReason.UNREADABLE, 35, 68)


def test_seal_queries_are_answered_from_memory() -> None:
    site = Site()
    site.taps(40)
    site.flash.dead_sectors.add(site.layout.ring.start)
    site.uplink.start()
    site.run(1_000)
    for sequence in (1, 40, 41):
        site.frontend.session.send(SealQuery(1, sequence))
    site.run(100)
    answers = [each for each in site.frontend.of(SealAnswer) if isinstance(each, SealAnswer)]
    assert [each.status for each in answers] == [SealStatus.UNREADABLE, SealStatus.HELD, SealStatus.NEVER_ISSUED]
    assert answers[1].seal == site.frontend.stored[1, 40][-8:]


def test_a_terminal_that_was_taken_over_waits_before_it_comes_back() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    site.frontend.session.bye(ByeCode.TAKEN_OVER)
    site.run(TAKEN_OVER_MS - 1_000)
    assert (site.uplink.state, len(site.frontend.sessions)) == (UplinkState.WAITING, 1)
    site.run(TAKEN_OVER_MS)
    assert (site.uplink.state, len(site.frontend.sessions)) == (UplinkState.UPLOADING, 2)
    assert site.moments.onlines == [True, False, True]


def test_a_forked_terminal_raises_its_alarm_and_uploads_no_more() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    site.frontend.session.bye(ByeCode.FORKED)
    site.run(50)
    site.taps(1)
    site.run(600_000)
    assert (site.terminal.alarm, site.uplink.state) == (Alarm.FORKED, UplinkState.FORKED)
    assert (len(site.frontend.sessions), site.frontend.stored) == (1, {})
    assert site.moments.onlines == [True, False]


def test_rekey_comes_back_at_once() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    site.frontend.session.bye(ByeCode.REKEY)
    site.run(200)
    assert len(site.frontend.sessions) == 2


def test_a_busy_front_end_is_asked_again_after_its_time_and_at_most_half_more() -> None:
    site = Site()
    site.frontend.busy_s = 10
    site.uplink.start()
    site.run(9_000)
    assert site.uplink.counters.connections == 1
    site.frontend.busy_s = 0
    site.run(7_000)
    assert site.uplink.state is UplinkState.UPLOADING


def test_a_refused_terminal_backs_off_and_still_sells() -> None:
    site = Site()
    site.frontend.link_key_of = bytes(16)
    site.uplink.start()
    site.run(300_000)
    assert 5 < site.uplink.counters.refused <= 11
    assert site.tap() is not None


def test_an_idle_session_says_it_is_alive_every_half_minute_and_learns_the_time() -> None:
    site = Site()
    assert site.rtc.now_ms() == 0
    site.uplink.start()
    site.run(301_000)
    assert len(site.frontend.of(Heartbeat)) == 11
    assert abs(site.rtc.now_ms() - site.server.now_ms()) < 600


def test_a_day_old_session_is_renewed() -> None:
    site = Site()
    site.uplink.start()
    site.run(25 * 3_600_000)
    assert len(site.frontend.sessions) == 2
    assert site.uplink.state is UplinkState.UPLOADING


def test_a_pushed_deny_list_refuses_the_card_at_once_and_is_reported() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    head, content = signed_list(1, [FIRST_CARD])
    certificate = ledger_certificate().encode()
    site.frontend.session.send(ListOffer(ListForm.SNAPSHOT, 0, 0, len(content), head, certificate, content))
    site.run(20)
    result = site.tap()
    assert result is not None
    assert (result.outcome, result.why) == (Outcome.REFUSED, Why.DENY_LIST)
    site.run(100)
    last = site.frontend.of(ListState)[-1]
    assert isinstance(last, ListState)
    assert (last.head, site.moments.lists) == (head, [(1, 1)])


def test_pushed_parameters_are_in_force_and_reported() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    head, content = signed_document(ListKind.PARAMETERS, 1, {"amount_max_cents": 500})
    certificate = lists_certificate().encode()
    site.frontend.session.send(ListOffer(ListForm.SNAPSHOT, 0, 0, len(content), head, certificate, content))
    site.run(100)
    last = site.frontend.of(ListState)[-1]
    assert isinstance(last, ListState)
    assert (last.kind, last.head, site.terminal.parameters_content) == (ListKind.PARAMETERS, head, content)
    assert site.moments.lists == []  # an observer is told of deny lists


def stale_flags(site: Site) -> list[bool]:
    return [bool(beat.flags & LIST_STALE) for beat in site.frontend.of(Heartbeat) if isinstance(beat, Heartbeat)]


def holding_a_list(site: Site) -> None:
    """A list issued in 1970: nothing but a front-end's word makes it young."""
    site.terminal.deny_list.memory.perform(Apply(*signed_list(1, [FIRST_CARD])))


def test_a_terminal_that_is_told_that_its_list_is_the_newest_says_so_no_more_when_it_is_cut_off() -> None:
    site = Site()
    holding_a_list(site)
    site.terminal.list_age_ms_max = 60_000
    site.frontend.confirms_list = True
    site.uplink.start()
    site.run(50_000)
    assert stale_flags(site) == [True, False]  # at log-in nobody has said anything yet
    assert site.terminal.list_age_ms() < 60_000
    site.frontend.confirms_list = False  # the front-end has lost the ledger
    site.run(100_000)
    assert stale_flags(site)[-1] is True
    assert site.terminal.list_age_ms() > 60_000


def test_a_busy_terminal_still_asks_every_five_minutes_whether_its_list_is_the_newest() -> None:
    site = Site(layout=flash_layout(ring_sectors=40))
    holding_a_list(site)
    site.frontend.confirms_list = True
    site.uplink.start()
    site.run(1_000)
    for _ in range(60):
        site.tap()
        site.run(20_000)
    beats = len(site.frontend.of(Heartbeat))
    assert 4 <= beats <= 6
    assert site.terminal.list_age_ms() <= 320_000


def test_settled_watermarks_reach_the_flash() -> None:
    site = Site()
    site.taps(50)
    site.frontend.settled = 33
    site.uplink.start()
    site.run(1_000)
    site.boot()
    assert site.terminal.memory is not None
    assert site.terminal.memory.ring.epochs[1].settled == 33


def test_an_older_epoch_goes_up_after_re_enrolment_or_is_kept_as_suspect() -> None:
    site = Site()
    site.taps(60)
    site.secrets = replace(terminal_secrets(epoch=2), terminal=TERMINAL)
    site.frontend.seal_key = site.secrets.seal_key
    site.boot()
    site.taps(3)
    site.uplink.start()
    site.run(1_000)
    assert sorted(site.frontend.stored) == [(1, each) for each in range(1, 61)] + [(2, 1), (2, 2), (2, 3)]

    again = Site()
    again.taps(60)
    again.secrets, again.frontend.seal_key = site.secrets, site.secrets.seal_key
    again.frontend.acknowledges = False
    again.boot()
    again.uplink.start()
    again.run(1_000)
    again.frontend.session.send(Ack(1, 0, 0, 4, kept_as_suspect=True))
    again.frontend.session.send(Ack(2, 0, 0, 4))
    again.run(1_000)
    assert again.frontend.of(Upload) == []
    assert again.terminal.memory is not None
    assert again.terminal.memory.ring.unacknowledged == 0


@pytest.mark.parametrize("limit", [320, 960])
def test_frames_keep_to_the_smaller_limit(limit: int) -> None:
    site = Site()
    site.frontend.body_bytes_max = limit
    site.taps(20)
    site.uplink.start()
    site.run(2_000)
    assert site.drained()
    counts = {each.count for each in site.frontend.of(Upload) if isinstance(each, Upload)}
    assert max(counts) == (limit - 4) // 96


def test_garbage_from_a_front_end_ends_the_session_and_nothing_else() -> None:
    site = Site()
    site.uplink.start()
    site.run(1_000)
    stream = site.frontend.session.stream
    assert stream is not None
    stream.write(bytes(range(256)) * 40)
    site.run(20_000)
    assert len(site.frontend.sessions) == 2
    assert site.tap() is not None


def soak(seed: int) -> tuple[str, int, int]:
    """Taps, torn cards, power cuts at any byte, cut cables, front-end crashes; then heal and drain."""
    site = Site(seed, layout=flash_layout(ring_sectors=8))
    rng = random.Random(seed)
    site.uplink.start()
    for _ in range(150):
        for _ in range(rng.randint(0, 4)):
            torn = rng.random() < 0.15
            disturbance = (
                Disturbance(rng.randrange(5), rng.choice(list(Moment)), rng.choice(list(Effect))) if torn else None
            )
            site.tap(rng.randint(1, 900), disturbance)
        what = rng.random()
        if what < 0.15:
            site.flash.cut_plan = CutAfter(rng.randrange(700), bits_done=rng.randrange(256))
        elif what < 0.25:
            site.world.cut_hosts ^= {"frontend"}
        elif what < 0.32:
            site.server.crash()
            site.frontend.listen()
        site.run(rng.randint(1, 3_000))
    site.world.cut_hosts.clear()
    site.flash.cut_plan = None
    site.tap()  # brings the last torn tap home
    assert site.world.run_while(lambda: not site.drained(), limit_ms=300_000) or site.drained()
    site.check()
    assert site.oracle.check_cards(site.cards) == []
    issued = site.marks[1]
    assert sorted(sequence for _, sequence in site.frontend.stored) == list(range(1, issued + 1))
    return site.world.trace_hash(), site.power_cuts, site.frontend.offered_twice


@pytest.mark.parametrize("seed", range(8))
def test_through_cuts_of_everything_every_record_arrives_as_it_was_made(seed: int) -> None:
    first = soak(seed)
    assert first == soak(seed)
    assert first[1] > 5
