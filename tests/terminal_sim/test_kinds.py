"""Tills with parameters, meal terminals and load stations: what they do, and every way to interrupt them (R20–R23)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from protocol.cards.apdu import Identity
from protocol.cards.meals import MealPlace, Token
from protocol.codes import RecordType, RefusalReason
from protocol.errors import Malformed
from protocol.list_receiver import Apply
from protocol.parameters import Parameters
from protocol.record_bodies import (
    Aborted,
    Booking,
    Cancellation,
    Collection,
    Completion,
    Doubt,
    Grey,
    Load,
    LoadNotExecuted,
    Purchase,
    Refund,
    Refusal,
)
from protocol.records import decode_body, read_head
from protocol.sam import SoftwareSam, TerminalMasters
from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import Outcome, Why
from terminal_sim.flash import CutAfter
from terminal_sim.list_age import LIST_AGE_UNKNOWN_MS
from terminal_sim.load_station import ORDERS_BYTES_MAX, LoadOrder, LoadStation, parse_orders
from terminal_sim.meal_terminal import MealTerminal
from terminal_sim.selling_terminal import SellingTerminal
from tests.hostile import HostileKit
from tests.terminal_sim.kinds_kit import (
    ACTS,
    DAY_MS,
    DINNER_NOW,
    LUNCH,
    LUNCH_TOMORROW,
    OPERATOR,
    ORDERS,
    SITE,
    SOUP,
    TODAY,
    Act,
    KindBench,
    ready,
    settle,
)
from tests.terminal_sim.kit import (
    AUTHENTICATE_MASTER,
    DEBIT_MASTER,
    MERCHANT,
    OPENING_CENTS,
    TERMINAL,
    flash_layout,
    records_of,
    signed_list,
)

STEP_BYTES = 5
"""Power is cut at every fifth byte of a dialogue, from the first to the last."""


def meal_bench() -> tuple[KindBench, MealTerminal, int]:
    bench = KindBench(make=MealTerminal)
    card = bench.issue()
    bench.issue(OPERATOR)
    terminal = bench.boot()
    assert isinstance(terminal, MealTerminal)
    return bench, terminal, card


def station_bench() -> tuple[KindBench, LoadStation, int]:
    bench = KindBench(make=LoadStation)
    card = bench.issue()
    terminal = bench.boot()
    assert isinstance(terminal, LoadStation)
    return bench, terminal, card


def bodies(terminal: SellingTerminal) -> list[object]:
    return [decode_body(record) for record in records_of(terminal)]


# -- what they do ------------------------------------------------------------------------------------------------------


def test_a_till_gives_back_its_own_last_purchase_once_and_only_with_an_operator() -> None:
    bench = KindBench()
    card = bench.issue()
    bench.issue(OPERATOR)
    terminal = bench.boot()
    assert terminal.refund(bench.field(card)).why is Why.OPERATOR
    bench.told(terminal.tap(bench.field(card), 850))
    assert not terminal.present_operator(bench.field(card)), "a customer's card is no operator's"
    assert terminal.refund(bench.field(card)).why is Why.OPERATOR
    assert terminal.present_operator(bench.field(OPERATOR))
    given = bench.told(terminal.refund(bench.field(card), 300))
    assert (given.outcome, given.amount_cents, given.balance_after_cents) == (Outcome.DONE, 300, OPENING_CENTS - 550)
    body = bodies(terminal)[given.sequence - 1]
    assert isinstance(body, Refund)
    assert (body.merchant, body.reference, body.operator_card) == (MERCHANT, 2, OPERATOR)
    assert terminal.refund(bench.field(card)).why is Why.OPERATOR, "one operator's card, one transaction"
    assert terminal.present_operator(bench.field(OPERATOR))
    assert terminal.refund(bench.field(card)).why is Why.NOT_REFUNDABLE
    assert settle(bench, bench.boot()) == -550


def test_an_operator_who_has_walked_away_allows_nothing() -> None:
    bench = KindBench()
    card = bench.issue()
    bench.issue(OPERATOR)
    terminal = bench.boot()
    bench.tap(terminal, card, 850)
    assert terminal.present_operator(bench.field(OPERATOR))
    bench.clock.time_ms += 60_100
    assert terminal.refund(bench.field(card)).why is Why.OPERATOR


def test_nothing_is_given_back_for_a_grey_debit_or_for_another_terminals_purchase() -> None:
    here = KindBench()
    card = here.issue()
    here.issue(OPERATOR)
    terminal = here.boot()
    here.tap(terminal, card, 850)
    assert here.tap(terminal, card, 700, Disturbance(3, Moment.AFTER_WRITE)).outcome is Outcome.GREY
    assert terminal.present_operator(here.field(OPERATOR))
    result = here.told(terminal.refund(here.field(card)))
    assert (result.why, result.completed) == (Why.NOT_REFUNDABLE, Identity(TERMINAL, 1, 2))
    there = KindBench(secrets=replace(here.secrets, terminal=5_000), seed=2)
    there.cards, there.oracle = here.cards, here.oracle
    assert there.tap(there.boot(), card, 100).outcome is Outcome.SOLD
    assert terminal.present_operator(here.field(OPERATOR))
    assert here.told(terminal.refund(here.field(card))).why is Why.NOT_REFUNDABLE, "the grey stands in the way"


def test_the_card_itself_refuses_a_refund_of_what_is_not_its_last_debit() -> None:
    here = KindBench()
    card = here.issue()
    here.issue(OPERATOR)
    terminal = here.boot()
    here.tap(terminal, card, 850)
    there = KindBench(secrets=replace(here.secrets, terminal=5_000), seed=2)
    there.cards, there.oracle = here.cards, here.oracle
    there.tap(there.boot(), card, 100)
    assert terminal.present_operator(here.field(OPERATOR))
    result = here.told(terminal.refund(here.field(card)))
    assert (result.outcome, result.why) == (Outcome.REFUSED, Why.NOT_REFUNDABLE)
    assert isinstance(bodies(terminal)[-1], Aborted), "its sequence had been allocated"


def test_a_discount_is_taken_and_a_daily_limit_outlives_a_reboot() -> None:
    bench = KindBench()
    card = bench.issue()
    bench.cards.save(replace(bench.aes(card), group=2))
    terminal = bench.boot()
    assert bench.tap(terminal, card, 20_000).amount_cents == 18_000
    assert bench.tap(bench.boot(), card, 13_335).why is Why.DAILY_LIMIT
    assert bench.tap(bench.boot(), card, 13_334).outcome is Outcome.SOLD
    assert bench.tap(bench.boot(), card, 1).why is Why.DAILY_LIMIT
    bench.clock.time_ms += DAY_MS
    assert bench.tap(bench.boot(), card, 1_000).outcome is Outcome.SOLD, "tomorrow is another day"
    assert settle(bench, bench.boot()) == -30_900


def test_a_refusal_names_its_reason_amount_and_the_deny_list_that_was_used() -> None:
    bench = KindBench()
    card = bench.issue()
    terminal = bench.boot()
    assert bench.tap(terminal, card, 20_001).why is Why.AMOUNT_LIMIT
    terminal.deny_list.memory.perform(Apply(*signed_list(7, [card])))
    assert bench.tap(terminal, card, 100).why is Why.DENY_LIST
    assert bodies(terminal) == [
        Refusal(card, RecordType.PURCHASE, RefusalReason.AMOUNT_LIMIT, 0, 0, 20_001),
        Refusal(card, RecordType.PURCHASE, RefusalReason.DENY_LIST, 1, 7, 100),
    ]
    assert bench.oracle.executed == {}


def test_an_old_deny_list_lowers_the_limit_until_a_younger_one_comes() -> None:
    limits = replace(SITE.limits, list_age_ms_max=60_000, stale_max_cents=500)
    bench = KindBench(parameters=replace(SITE, limits=limits))
    card = bench.issue()
    terminal = bench.boot()
    assert terminal.list_age_ms() == LIST_AGE_UNKNOWN_MS
    assert bench.tap(terminal, card, 501).why is Why.LIST_TOO_OLD
    assert bench.tap(terminal, card, 500).outcome is Outcome.SOLD
    terminal.use(replace(SITE, limits=replace(limits, stale_max_cents=501)))
    assert bench.tap(terminal, card, 501).outcome is Outcome.SOLD, "new parameters hold from the next tap on"


def test_a_meal_is_booked_cancelled_and_collected_by_its_token() -> None:
    bench, terminal, card = meal_bench()
    booked = bench.told(terminal.book(bench.field(card), LUNCH_TOMORROW))
    assert (booked.outcome, booked.amount_cents) == (Outcome.DONE, 1_200)
    bench.told(terminal.book(bench.field(card), DINNER_NOW))
    assert bench.aes(card).tokens == (Token(1, LUNCH_TOMORROW, 1_200), Token(2, DINNER_NOW, 1_600))
    bench.told(terminal.cancel(bench.field(card), LUNCH_TOMORROW))
    collected = bench.told(terminal.collect(bench.field(card)))
    assert (collected.outcome, collected.amount_cents, collected.balance_after_cents) == (
        Outcome.DONE,
        1_600,
        OPENING_CENTS - 1_600,
    )
    assert bench.aes(card).tokens == ()
    assert bench.told(terminal.collect(bench.field(card))).why is Why.NOT_BOOKED
    assert bench.told(terminal.cancel(bench.field(card), LUNCH_TOMORROW)).why is Why.NOT_BOOKED
    kinds = [type(body) for body in bodies(terminal)]
    assert kinds == [Booking, Booking, Cancellation, Collection, Refusal, Refusal]
    last = read_head(records_of(terminal)[-1])
    assert (last.running_count, last.running_sum_cents) == (3, 1_600)
    assert settle(bench, bench.boot()) == -1_600


def test_two_terminals_that_never_talk_do_not_hand_out_one_booking_twice() -> None:
    here, terminal, card = meal_bench()
    here.told(terminal.book(here.field(card), DINNER_NOW))
    there = KindBench(make=MealTerminal, secrets=replace(here.secrets, terminal=5_000), seed=2)
    there.cards, there.oracle = here.cards, here.oracle
    other = there.boot()
    assert isinstance(other, MealTerminal)
    assert there.told(other.collect(there.field(card))).outcome is Outcome.DONE
    assert here.told(terminal.collect(here.field(card))).why is Why.NOT_BOOKED


def test_a_free_meal_costs_nothing_and_is_still_handed_out_once() -> None:
    bench, terminal, card = meal_bench()
    soup = MealPlace(TODAY + 1, LUNCH, SOUP)
    assert bench.told(terminal.book(bench.field(card), soup)).amount_cents == 0
    assert bench.told(terminal.collect(bench.field(card))).why is Why.NOT_BOOKED, "it is tomorrow's"
    assert bench.told(terminal.cancel(bench.field(card), soup)).outcome is Outcome.DONE
    assert settle(bench, bench.boot()) == 0
    assert read_head(records_of(terminal)[-1]).running_count == 0


def test_a_walk_in_pays_the_sites_price_and_portions_are_counted_with_what_is_booked() -> None:
    bench, terminal, card = meal_bench()
    bench.told(terminal.book(bench.field(card), DINNER_NOW))
    sold = bench.told(terminal.walk_in(bench.field(card)))
    assert (sold.outcome, sold.amount_cents) == (Outcome.SOLD, 1_800)
    assert bench.told(terminal.walk_in(bench.field(card))).why is Why.MEAL_LIMIT
    bench.told(terminal.collect(bench.field(card)))
    again = bench.boot()
    assert isinstance(again, MealTerminal)
    assert bench.told(again.walk_in(bench.field(card))).why is Why.MEAL_LIMIT, "a reboot forgets no portion"
    bench.clock.time_ms += 120 * 60_000
    assert bench.told(again.walk_in(bench.field(card))).why is Why.OUTSIDE_SERVING_TIME


def test_an_operator_may_cancel_after_the_cut_off() -> None:
    bench, terminal, card = meal_bench()
    bench.told(terminal.book(bench.field(card), DINNER_NOW))
    bench.clock.time_ms += 31 * 60_000
    assert bench.told(terminal.cancel(bench.field(card), DINNER_NOW)).why is Why.CUT_OFF_PASSED
    assert terminal.present_operator(bench.field(OPERATOR))
    assert bench.told(terminal.cancel(bench.field(card), DINNER_NOW)).outcome is Outcome.DONE


def test_a_card_has_room_for_four_bookings() -> None:
    bench, terminal, card = meal_bench()
    results = [
        bench.told(terminal.book(bench.field(card), MealPlace(TODAY + day, LUNCH, 1))).why for day in range(1, 6)
    ]
    assert results == [Why.NONE] * 4 + [Why.MEAL_LIMIT]


def test_a_terminal_without_parameters_offers_no_meal_and_refunds_nothing() -> None:
    bench = KindBench(make=MealTerminal, parameters=Parameters())
    card = bench.issue()
    terminal = bench.boot()
    assert isinstance(terminal, MealTerminal)
    assert bench.told(terminal.book(bench.field(card), DINNER_NOW)).why is Why.CUT_OFF_PASSED
    assert bench.told(terminal.walk_in(bench.field(card))).why is Why.OUTSIDE_SERVING_TIME
    assert bench.told(terminal.refund(bench.field(card))).why is Why.OPERATOR


def test_a_load_station_executes_each_order_once_and_only_its_own() -> None:
    bench, terminal, card = station_bench()
    results = [bench.told(terminal.tap(bench.field(card), 0)) for _ in range(3)]
    assert [(each.outcome, each.amount_cents) for each in results] == [
        (Outcome.DONE, 5_000),
        (Outcome.DONE, 700),
        (Outcome.REFUSED, 0),
    ]
    assert results[-1].why is Why.NO_ORDER
    loads = [body for body in bodies(terminal) if isinstance(body, Load)]
    assert [(each.reference, each.order) for each in loads] == [(3, 71), (4, 72)]
    again = bench.boot()
    assert bench.told(again.tap(bench.field(card), 0)).why is Why.NO_ORDER, "the card knows"
    assert settle(bench, bench.boot()) == 5_700


def test_an_order_that_the_station_has_refused_is_never_executed() -> None:
    bench, terminal, card = station_bench()
    assert terminal.refuse_order(71)
    assert not terminal.refuse_order(71), "its word is given once"
    assert not terminal.refuse_order(70), "it is another station's"
    assert bodies(terminal) == [LoadNotExecuted(card, 5_000, 3, 71, RefusalReason.OPERATOR)]
    again = bench.boot()
    assert isinstance(again, LoadStation)
    assert not again.refuse_order(71)
    assert bench.told(again.tap(bench.field(card), 0)).amount_cents == 700
    assert not again.refuse_order(72), "it was executed"
    assert settle(bench, bench.boot()) == 700


def test_an_order_in_doubt_is_not_called_not_executed() -> None:
    bench, terminal, card = station_bench()
    torn_tap = bench.told(terminal.tap(bench.field(card, Disturbance(3, Moment.AFTER_WRITE)), 0))
    assert torn_tap.outcome is Outcome.GREY
    assert isinstance(bodies(terminal)[-1], Doubt)
    assert not terminal.refuse_order(71)
    after = bench.told(terminal.tap(bench.field(card), 0))
    assert (after.completed, after.amount_cents) == (Identity(TERMINAL, 1, 1), 700)


def test_a_load_station_needs_its_own_key() -> None:
    bench = KindBench(make=LoadStation)
    till_only = TerminalMasters(AUTHENTICATE_MASTER, DEBIT_MASTER, bytes(16))
    bench.secrets = replace(bench.secrets, sam=SoftwareSam({1: till_only}))
    card = bench.issue()
    terminal = bench.boot()
    assert bench.told(terminal.tap(bench.field(card), 0)).why is Why.FOREIGN
    assert bench.oracle.executed == {}


# -- order files -------------------------------------------------------------------------------------------------------

LINE = b'{"order": 71, "card": 1000, "amount_cents": 5000, "serial": 3, "station": 4001}\n'


def test_an_order_file_is_read_line_by_line() -> None:
    second = LINE.replace(b"71", b"72").replace(b'"serial": 3', b'"serial": 4').replace(b"5000", b"700")
    assert parse_orders(LINE + b"\n" + second) == ORDERS[:2]
    assert parse_orders(b"") == []


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"null", LINE.replace(b"3,", b"0,"), LINE.replace(b"5000", b"-1"), LINE.replace(b"71", b"71.0")],
    ids=repr,
)
def test_a_wrong_order_is_refused_with_its_line(line: bytes) -> None:
    with pytest.raises(Malformed, match="line 2"):
        parse_orders(LINE.replace(b"71", b"9") + line)


def test_one_order_cannot_stand_in_a_file_twice() -> None:
    with pytest.raises(Malformed, match="twice"):
        parse_orders(LINE * 2)


def test_hostile_order_files_raise_nothing_but_remote_errors() -> None:
    def some_orders(data: bytes) -> list[LoadOrder]:
        found = parse_orders(data)
        if not found:
            raise Malformed("load orders", "none")  # an empty file is right, and no order
        return found

    HostileKit(LINE.strip(), some_orders, bytes_max=ORDERS_BYTES_MAX).run_all()


# -- interruptions -----------------------------------------------------------------------------------------------------

CUTS = [Disturbance(index, moment, effect) for index in range(5) for moment in Moment for effect in Effect]


@pytest.mark.parametrize("act", ACTS, ids=str)
def test_a_transaction_torn_anywhere_is_made_exact_by_the_next_tap(act: Act) -> None:
    """Every command of the dialogue, before and after it runs; card pulled, answer lost, terminal without power."""
    for disturbance in CUTS:
        bench, terminal, card = ready(act)
        with suppress(PowerCut):
            bench.told(act.run(terminal, bench.field(card, disturbance)))
        if disturbance.effect is Effect.POWER_CUT:
            terminal = bench.boot()
        held = next(reversed(bodies(terminal)), None)
        if isinstance(held, Grey):
            assert held.attempted_type == (0 if act.type == RecordType.PURCHASE else act.type)
            assert act.type in {RecordType.PURCHASE, RecordType.BOOKING}
        elif isinstance(held, Doubt):
            assert held.attempted_type == act.type
            assert held.reference > 0
            assert (held.order == 71) == (act.type == RecordType.LOAD)
        bench.make = SellingTerminal
        last = bench.told(bench.boot().tap(bench.field(card), 50))
        assert last.outcome is Outcome.SOLD, disturbance
        settle(bench, bench.boot())


@pytest.mark.parametrize("first", [1, 35, 137])
@pytest.mark.parametrize("act", ACTS, ids=str)
def test_power_cut_at_every_program_and_erase_of_a_transaction_loses_nothing(act: Act, first: int) -> None:
    """35: a sector of the ring is opened for the record; 137: an old one is erased for it."""
    base, _, card = ready(act, first=first)
    flash_image, card_before, executed = base.flash.snapshot(), base.cards.load(card), dict(base.oracle.executed)
    steps = 0
    while True:
        bench = KindBench(make=act.make, seed=steps)
        bench.flash.restore(flash_image)
        bench.oracle.opening_cents, bench.oracle.executed = dict(base.oracle.opening_cents), dict(executed)
        bench.cards.save(card_before)
        bench.issue(OPERATOR)
        terminal = bench.boot()
        if act.type == RecordType.REFUND:
            assert terminal.present_operator(bench.field(OPERATOR))
        bench.flash.cut_plan = plan = CutAfter(steps, bits_done=0x55, erase_step_bytes=4_096)
        with suppress(PowerCut):
            bench.told(act.run(terminal, bench.field(card)))
        bench.make = SellingTerminal
        terminal = bench.boot()
        assert bench.told(terminal.tap(bench.field(card), 50)).outcome is Outcome.SOLD
        settle(bench, bench.boot())
        if not plan.fired:
            break
        steps += STEP_BYTES
    print(f"{steps // STEP_BYTES} cuts, sectors erased: {sum(bench.flash.wear.values())}")
    assert (sum(bench.flash.wear.values()) > 0) == (first == 137)
    assert steps > 200


def test_a_full_memory_neither_sells_nor_books_nor_loads() -> None:
    for make in (SellingTerminal, MealTerminal, LoadStation):
        bench = KindBench(make=make, layout=flash_layout(ring_sectors=3), parameters=SITE)
        card = bench.issue(balance_cents=1_000_000)
        bench.make = SellingTerminal
        bench.parameters = Parameters()
        terminal = bench.boot()
        while bench.tap(terminal, card, 1).outcome is Outcome.SOLD:
            pass
        bench.make, bench.parameters = make, SITE
        terminal = bench.boot()
        assert terminal.memory_full
        results = [terminal.tap(bench.field(card), 1), terminal.refund(bench.field(card))]
        if isinstance(terminal, MealTerminal):
            results += [terminal.book(bench.field(card), DINNER_NOW), terminal.walk_in(bench.field(card))]
        assert {each.why for each in results} == {Why.MEMORY_FULL}
        assert bench.aes(card).counter == len(bench.oracle.sold)


def test_a_proof_of_any_type_is_brought_home_by_any_terminal() -> None:
    for act in ACTS:
        bench, terminal, card = ready(act)
        result = bench.told(act.run(terminal, bench.field(card, Disturbance(3, Moment.AFTER_WRITE))))
        assert result.outcome is Outcome.GREY
        bench.make = MealTerminal
        meal = bench.boot()
        assert isinstance(meal, MealTerminal)
        bench.told(meal.walk_in(bench.field(card)))
        (completion,) = [body for body in bodies(meal) if isinstance(body, Completion)]
        made = bench.aes(card)
        assert (completion.original_type, completion.original_sequence) == (act.type, result.sequence)
        assert (completion.reference > 0) == (act.type != RecordType.PURCHASE)
        assert not made.proof_pending


def test_purchases_without_parameters_are_sold_as_before() -> None:
    bench = KindBench(parameters=Parameters())
    card = bench.issue()
    terminal = bench.boot()
    field = bench.field(card)
    assert bench.told(terminal.tap(field, 99_999)).outcome is Outcome.SOLD
    assert field.commands == 4, "nothing is asked of the card that a till does not need"
    assert isinstance(bodies(terminal)[0], Purchase)
