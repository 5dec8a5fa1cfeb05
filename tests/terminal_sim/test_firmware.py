"""The POS firmware: sales, refusals, torn cards, full memory, and power cuts at every byte (R1, R12, R20)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from protocol.cards.apdu import Identity
from protocol.codes import AbortReason, ProofSuite, RecordType, RefusalReason
from protocol.list_receiver import Apply
from protocol.record_bodies import Refusal
from protocol.records import Aborted, Completion, Grey, Purchase, decode_body, read_head
from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.card_kinds import is_torn
from terminal_sim.dump import dump_flash
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import Alarm, Outcome, PosTerminal, Why
from terminal_sim.flash import CutAfter
from terminal_sim.journal import SENT_OFFSET
from terminal_sim.layout import FlashLayout
from tests.terminal_sim.kit import (
    MERCHANT,
    OPENING_CENTS,
    TERMINAL,
    Bench,
    aes_card,
    card_image,
    check_chain,
    flash_layout,
    records_of,
    signed_list,
    terminal_secrets,
)


def bodies(terminal: PosTerminal) -> list[object]:
    return [decode_body(record) for record in records_of(terminal)]


def test_a_sale_leaves_one_proven_purchase_and_a_confirmed_card() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    result = bench.tap(terminal, card, 850)
    assert (result.outcome, result.sequence, result.balance_after_cents) == (Outcome.SOLD, 1, OPENING_CENTS - 850)
    [record] = check_chain(terminal)
    head, body = read_head(record), decode_body(record)
    assert (head.boot, head.running_count, head.running_sum_cents) == (1, 1, 850)
    assert isinstance(body, Purchase)
    assert (body.merchant, body.card, body.amount_cents, body.counter) == (MERCHANT, card, 850, 1)
    assert not is_torn(bench.cards.load(card))
    assert bench.oracle.check_cards(bench.cards) == []


@pytest.mark.parametrize("proof_suite", list(ProofSuite))
def test_numbers_seals_and_sums_go_on_after_every_boot(proof_suite: ProofSuite) -> None:
    bench = Bench(secrets=terminal_secrets(proof_suite=proof_suite))
    card = bench.issue()
    for boot in range(1, 6):
        terminal = bench.boot()
        assert terminal.boot_number == boot
        bench.tap(terminal, card, 100)
        bench.tap(terminal, card, 10)
    records = check_chain(bench.boot())
    assert [read_head(record).boot for record in records] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert read_head(records[-1]).running_sum_cents == 550


def test_boots_without_a_sale_are_counted_beyond_every_journal_sector() -> None:
    bench = Bench()
    card = bench.issue()
    bench.tap(bench.boot(), card, 100)
    for _ in range(399):
        bench.boot()
    terminal = bench.boot()
    assert terminal.boot_number == 401
    assert bench.tap(terminal, card, 100).sequence == 2
    check_chain(terminal)


def test_a_card_on_the_deny_list_is_refused_and_noted() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    assert bench.tap(terminal, bench.issue(card + 1), 100).outcome is Outcome.SOLD
    head, content = signed_list(1, [card])
    terminal.deny_list.memory.perform(Apply(head, content))
    result = bench.tap(terminal, card, 100)
    assert (result.outcome, result.why) == (Outcome.REFUSED, Why.DENY_LIST)
    assert bodies(terminal)[1:] == [Refusal(card, RecordType.PURCHASE, RefusalReason.DENY_LIST, 1, 1, 100)]


@pytest.mark.parametrize("turned_away", [Why.DENY_LIST, Why.EXPIRED], ids=str)
def test_a_card_that_gets_no_sale_still_brings_home_the_proof_of_an_earlier_debit(turned_away: Why) -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    assert bench.tap(terminal, card, 700, Disturbance(2, Moment.AFTER_WRITE)).outcome is Outcome.GREY
    if turned_away is Why.DENY_LIST:
        terminal.deny_list.memory.perform(Apply(*signed_list(1, [card])))
    else:
        bench.cards.save(replace(aes_card(bench, card), valid_until_day=10_000))
    for completed in (Identity(TERMINAL, 1, 1), None):
        result = bench.tap(terminal, card, 100)
        assert (result.outcome, result.why, result.completed) == (Outcome.REFUSED, turned_away, completed)
    is_denied = turned_away is Why.DENY_LIST
    reason = RefusalReason.DENY_LIST if is_denied else RefusalReason.EXPIRED
    version = (1, 1) if is_denied else (0, 0)
    grey, completion, *refusals = bodies(terminal)
    assert isinstance(grey, Grey)
    assert isinstance(completion, Completion)
    assert refusals == [Refusal(card, RecordType.PURCHASE, reason, *version, 100)] * 2
    assert settle(bench, terminal) == bench.oracle.executed_cents() == 700
    assert not is_torn(bench.cards.load(card))


def test_every_refusal_has_its_reason_and_takes_nothing() -> None:
    bench = Bench()
    terminal = bench.boot()
    poor = bench.issue(2000, balance_cents=99)
    bench.cards.save(replace(card_image(2001), valid_until_day=10_000))
    bench.cards.save(replace(card_image(2002), currency=840))
    bench.cards.save(replace(card_image(2003), keys=card_image(2004).keys))
    bench.cards.save(card_image(2005, key_version=9))
    whys = [bench.tap(terminal, number, 100).why for number in (poor, 2001, 2002, 2003, 2005)]
    assert whys == [Why.BALANCE, Why.EXPIRED, Why.FOREIGN, Why.NOT_GENUINE, Why.FOREIGN]
    assert bench.oracle.executed == {}
    assert [body.reason for body in bodies(terminal) if isinstance(body, Refusal)] == [3, 2, 4]
    check_chain(terminal)


def test_a_clock_that_was_never_set_refuses_no_card_as_expired() -> None:
    bench = Bench()
    bench.rtc = type(bench.rtc)(bench.clock)
    bench.cards.save(replace(card_image(2001), valid_until_day=10_000))
    bench.oracle.issued(bench.cards.load(2001))
    assert bench.tap(bench.boot(), 2001, 100).outcome is Outcome.SOLD


def test_a_full_memory_refuses_to_sell_and_sells_again_after_an_acknowledgement() -> None:
    bench = Bench(layout=flash_layout(ring_sectors=3))
    card = bench.issue()
    terminal = bench.boot()
    sold = 0
    while (result := bench.tap(terminal, card, 1)).outcome is Outcome.SOLD:
        sold += 1
    assert (result.why, sold, terminal.memory_warning) == (Why.MEMORY_FULL, 3 * 34 - 1, True)
    assert bench.boot().memory_full
    assert terminal.memory is not None
    terminal.memory.ring.mark_acknowledged(1, 40)
    assert bench.tap(terminal, card, 1).outcome is Outcome.SOLD
    assert bench.oracle.check_cards(bench.cards) == []


def test_refusals_leave_no_record_once_the_memory_is_nearly_full() -> None:
    bench = Bench(layout=flash_layout(ring_sectors=3))
    poor = bench.issue(balance_cents=0)
    terminal = bench.boot()
    for _ in range(200):
        bench.tap(terminal, poor, 100)
    assert not terminal.memory_full
    assert len(records_of(terminal)) == 82


ALL_DISTURBANCES = [Disturbance(index, moment, effect) for index in range(5) for moment in Moment for effect in Effect]


@pytest.mark.parametrize("disturbance", ALL_DISTURBANCES, ids=str)
@pytest.mark.parametrize("reboot", [False, True])
def test_a_tap_torn_anywhere_is_made_exact_by_the_next_tap(disturbance: Disturbance, reboot: bool) -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    with suppress(PowerCut):
        first = bench.tap(terminal, card, 300)
        assert first.outcome is not Outcome.REFUSED
    if reboot or disturbance.effect is Effect.POWER_CUT:
        terminal = bench.boot()
    with suppress(PowerCut):
        bench.tap(terminal, card, 700, disturbance)
    if reboot or disturbance.effect is Effect.POWER_CUT:
        terminal = bench.boot()
    last = bench.tap(terminal, card, 50)
    assert last.outcome is Outcome.SOLD
    assert settle(bench, terminal) == bench.oracle.executed_cents()
    assert bench.oracle.check_cards(bench.cards) == []


def settle(bench: Bench, terminal: PosTerminal) -> int:
    """What a ledger would come to: a grey is spent only by a completion of its own identity (R20)."""
    posted: dict[Identity, int] = {}
    secrets = terminal.secrets
    for record in check_chain(terminal):
        head, body = read_head(record), decode_body(record)
        identity = Identity(head.terminal, head.epoch, head.sequence)
        if isinstance(body, Purchase):
            assert identity not in posted
            posted[identity] = body.amount_cents
        elif isinstance(body, Completion):
            identity = Identity(body.original_terminal, body.original_epoch, body.original_sequence)
            posted[identity] = body.amount_cents
        elif isinstance(body, Grey):
            assert bench.oracle.executed.get(identity, None) is None or body.amount_cents
        elif isinstance(body, Aborted):
            assert identity not in bench.oracle.executed
    assert set(posted) == set(bench.oracle.executed)
    assert dump_flash(bench.flash, secrets.terminal, layout=bench.layout)["epochs"][0]["unreadable"] == []
    return sum(posted.values())


def cut_sweep(prepare_taps: int, *, bits_done: int) -> int:
    """Cut the power at every byte of two taps, one of which brings an earlier torn tap home; returns the cuts."""
    steps = 0
    base = Bench(layout=flash_layout(ring_sectors=3))
    card = base.issue()
    terminal = base.boot()
    assert terminal.memory is not None
    for number in range(1, prepare_taps + 1):
        base.tap(terminal, card, number)
        terminal.memory.ring.mark_acknowledged(1, max(0, number - 3))
    base.tap(terminal, card, 5, Disturbance(2, Moment.AFTER_WRITE))
    flash_image, card_before, executed_before = base.flash.snapshot(), base.cards.load(card), dict(base.oracle.executed)
    committed_before = records_of(terminal)
    while True:
        bench = Bench(layout=base.layout, seed=steps)
        bench.flash.restore(flash_image)
        bench.oracle.opening_cents = dict(base.oracle.opening_cents)
        bench.oracle.executed = dict(executed_before)
        bench.cards.save(card_before)
        terminal = bench.boot()
        made: list[bytes] = []
        terminal.on_record = made.append
        bench.flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done, erase_step_bytes=1024)
        with suppress(PowerCut):
            bench.tap(terminal, card, 700)
            bench.tap(terminal, card, 30)
        terminal = bench.boot()
        held = check_chain(terminal)
        told = {read_head(record).sequence: record for record in made}
        for record in held:  # what could have left the terminal is what is held: no sequence is ever re-made
            assert told.get(read_head(record).sequence, record) == record
        assert set(made) <= set(held)
        first_held = read_head(held[0]).sequence
        assert set(committed_before[first_held - read_head(committed_before[0]).sequence :]) <= set(held)
        assert bench.tap(terminal, card, 50).outcome is Outcome.SOLD
        check_money(bench, check_chain(terminal))
        if not plan.fired:
            return steps
        steps += 1


def check_money(bench: Bench, records: list[bytes]) -> None:
    """Every debit of the last taps is proved by a purchase or completion; nothing else is."""
    proved = set()
    for record in records:
        head, body = read_head(record), decode_body(record)
        if isinstance(body, Purchase):
            proved.add(Identity(head.terminal, head.epoch, head.sequence))
        elif isinstance(body, Completion):
            proved.add(Identity(body.original_terminal, body.original_epoch, body.original_sequence))
        elif isinstance(body, Aborted):
            assert Identity(head.terminal, head.epoch, head.sequence) not in bench.oracle.executed
    first = read_head(records[0]).sequence
    executed = {identity for identity in bench.oracle.executed if identity.sequence >= first}
    assert executed <= proved <= set(bench.oracle.executed)
    assert bench.oracle.check_cards(bench.cards) == []


@pytest.mark.parametrize("bits_done", [0x00, 0xAA])
@pytest.mark.parametrize("prepare_taps", [0, 33, 100])
def test_power_cut_at_every_byte_of_a_tap_loses_nothing_and_makes_nothing(prepare_taps: int, bits_done: int) -> None:
    """0: a fresh chip; 33: a new sector is opened inside the taps; 100: an old one is erased for them."""
    cuts = cut_sweep(prepare_taps, bits_done=bits_done)
    print(f"{cuts} cuts")
    assert cuts > 400


def test_power_cut_at_every_byte_of_a_recovery_ends_in_the_same_grey_record() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    bench.tap(terminal, card, 10)
    with pytest.raises(PowerCut):
        bench.tap(terminal, card, 700, Disturbance(2, Moment.AFTER_WRITE, Effect.POWER_CUT))
    image = bench.flash.snapshot()
    steps = 0
    while True:
        bench.flash.restore(image)
        bench.flash.cut_plan = plan = CutAfter(steps, bits_done=0x0F)
        with suppress(PowerCut):
            bench.boot(power_on=False)
        terminal = bench.boot()
        records = check_chain(terminal)
        body = decode_body(records[1])
        assert isinstance(body, Grey)
        assert (len(records), body.amount_cents, body.counter_before) == (2, 700, 1)
        assert read_head(records[1]).running_sum_cents == 710
        if not plan.fired:
            break
        steps += 1
    assert steps > 150
    assert bench.tap(terminal, card, 1).completed == Identity(TERMINAL, 1, 2)


def test_power_lost_before_the_debit_is_an_aborted_record_and_costs_nothing() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    bench.flash.cut_plan = CutAfter(SENT_OFFSET)  # the journal entry is whole, the debit-sent mark is not
    with pytest.raises(PowerCut):
        bench.tap(terminal, card, 700)
    terminal = bench.boot()
    assert bodies(terminal) == [Aborted(RecordType.PURCHASE, AbortReason.POWER_LOST, card)]
    assert bench.oracle.executed == {}


def test_a_tap_torn_at_one_terminal_is_completed_at_another() -> None:
    here, there = Bench(), Bench(secrets=terminal_secrets(terminal=5000), seed=2)
    there.cards, there.oracle = here.cards, here.oracle
    card = here.issue()
    torn = here.tap(here.boot(), card, 700, Disturbance(2, Moment.AFTER_WRITE))
    assert torn.outcome is Outcome.GREY
    terminal = there.boot()
    result = there.tap(terminal, card, 20)
    assert (result.outcome, result.completed) == (Outcome.SOLD, Identity(TERMINAL, 1, 1))
    completion, purchase = (decode_body(record) for record in check_chain(terminal))
    assert isinstance(completion, Completion)
    assert isinstance(purchase, Purchase)
    assert (completion.original_terminal, completion.amount_cents) == (TERMINAL, 700)


def test_a_dead_newest_sector_does_not_break_the_chain_or_reuse_a_number() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    for _ in range(40):
        bench.tap(terminal, card, 10)
    bench.flash.dead_sectors.add(bench.layout.ring.start + 1)  # sequences 35 … 40
    terminal = bench.boot()
    result = bench.tap(terminal, card, 10)
    assert result.sequence == 41
    assert read_head(records_of(terminal)[-1]).running_sum_cents == 410


def test_a_memory_that_proves_nothing_any_more_does_not_sell() -> None:
    bench = Bench()
    card = bench.issue()
    bench.tap(bench.boot(), card, 10)
    bench.flash.dead_sectors.update(bench.layout.journal)
    terminal = bench.boot()
    assert terminal.alarm is Alarm.MEMORY_LOST
    assert bench.tap(terminal, card, 10).why is Why.NOT_READY


def test_a_new_epoch_starts_at_one_and_keeps_the_old_records() -> None:
    bench = Bench()
    card = bench.issue()
    bench.tap(bench.boot(), card, 10)
    bench.re_enrol(2)
    terminal = bench.boot()
    assert (terminal.boot_number, bench.tap(terminal, card, 10).sequence) == (1, 1)
    assert len(records_of(terminal, 1)) == len(check_chain(terminal)) == 1


def test_the_dump_says_what_the_firmware_knows() -> None:
    bench = Bench(layout=FlashLayout())
    card = bench.issue()
    terminal = bench.boot()
    for _ in range(50):
        bench.tap(terminal, card, 10)
    bench.tap(terminal, card, 70, Disturbance(2, Moment.BEFORE))
    assert terminal.memory is not None
    terminal.memory.ring.mark_acknowledged(1, 20)
    terminal.memory.ring.mark_settled(1, 12)
    dump = dump_flash(bench.flash, TERMINAL)
    assert dump["capacity_records"] == 30_090
    assert dump["epochs"] == [
        {
            "epoch": 1,
            "boot": 1,
            "oldest": 1,
            "issued": 51,
            "acknowledged": 20,
            "settled": 12,
            "unacknowledged": 31,
            "unreadable": [],
            "owed": None,
            "records_by_type": {"01": 50, "07": 1},
            "overwritten": {"count": 0, "cents": 0},
            "merchants": {"9": {"count": 51, "cents": 570, "grey_cents": 70}},
            "greys": [
                {
                    "sequence": 51,
                    "type": 7,
                    "attempted_type": 1,
                    "clock_ms": bench.clock.now_ms(),
                    "card": card,
                    "card_kind": 1,
                    "amount_cents": 70,
                    "counter_before": 50,
                    "order": 0,
                    "completed_here": False,
                }
            ],
            "running_count": 51,
            "running_sum_cents": 570,
        }
    ]
