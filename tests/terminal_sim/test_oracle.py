"""The oracle finds what cannot be; the clock drifts as told."""

from __future__ import annotations

from dataclasses import replace

from protocol.cards.apdu import Identity
from terminal_sim.card import Disturbance, Moment
from terminal_sim.firmware import Outcome
from terminal_sim.rtc import DriftingRtc
from tests.terminal_sim.kit import FIRST_CARD, MERCHANT, OPENING_CENTS, TERMINAL, Bench, BenchClock, aes_card


def test_the_formula_of_conservation_holds_at_every_stage_of_posting() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    for amount in (100, 200, 300):
        bench.tap(terminal, card, amount)
    spent = bench.tap(terminal, card, 40, Disturbance(2, Moment.AFTER_WRITE))
    bench.tap(terminal, card, 60)
    unspent = bench.tap(terminal, card, 7, Disturbance(2, Moment.BEFORE))
    assert spent.outcome is unspent.outcome is Outcome.GREY
    oracle = bench.oracle
    assert oracle.executed_by_merchant() == {MERCHANT: 700}
    assert oracle.purses_cents(bench.cards) == OPENING_CENTS - 700
    identities = [Identity(TERMINAL, 1, sequence) for sequence in range(1, 8)]
    nothing = oracle.expected_mirrors_cents(bench.cards, posted=[], grey_posted={})
    two = oracle.expected_mirrors_cents(bench.cards, posted=identities[:2], grey_posted={})
    everything = oracle.expected_mirrors_cents(
        bench.cards, posted=identities, grey_posted={identities[3]: 40, identities[6]: 7}
    )
    assert (nothing, two, everything) == (OPENING_CENTS, OPENING_CENTS - 300, OPENING_CENTS - 707)
    assert oracle.check_cards(bench.cards) == []


def test_a_till_that_lies_is_found() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    sold = bench.tap(terminal, card, 100)
    bench.oracle.answered(TERMINAL, 1, sold)
    bench.oracle.answered(TERMINAL, 1, replace(sold, sequence=9))
    bench.oracle.answered(TERMINAL, 1, replace(sold, outcome=Outcome.REFUSED))
    assert len(bench.oracle.faults) == 3
    assert not any(str(FIRST_CARD) in fault for fault in bench.oracle.faults)


def test_a_purse_that_moved_by_itself_is_found() -> None:
    bench = Bench()
    card = bench.issue()
    bench.cards.save(replace(aes_card(bench, card), balance_cents=1))
    assert len(bench.oracle.check_cards(bench.cards)) == 1


def test_a_crystal_that_is_fast_gains_and_a_flat_battery_forgets() -> None:
    clock = BenchClock()
    rtc = DriftingRtc(clock, drift_ppm=100, offset_ms=2_000)
    clock.time_ms += 1_000_000
    assert rtc.now_ms() - clock.now_ms() == 2_000 + 100
    assert rtc.uptime_ds() == 10_001
    rtc.set_utc(clock.now_ms())
    assert rtc.now_ms() == clock.now_ms()
    for nonsense in (0, 1 << 63, 253_402_300_800_000):
        rtc.set_utc(nonsense)
        assert rtc.now_ms() == clock.now_ms()
    rtc.boot()
    assert (rtc.now_ms(), rtc.uptime_ds()) == (0, 0)
    kept = DriftingRtc(clock, offset_ms=5, has_battery=True)
    kept.boot()
    assert kept.now_ms() == clock.now_ms() + 5
