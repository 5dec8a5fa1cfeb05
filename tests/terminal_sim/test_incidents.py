"""A device that leaves service: its last record, and what no cut of power can make of it (R11)."""

from __future__ import annotations

from contextlib import suppress

import pytest

from protocol.codes import EndReason, PowerEvent
from protocol.record_bodies import EndOfEpoch, Power, Tamper
from protocol.records import decode_body
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import Outcome, Why
from terminal_sim.flash import CutAfter
from terminal_sim.load_station import LoadStation
from terminal_sim.meal_terminal import MealTerminal
from terminal_sim.selling_terminal import SellingTerminal
from tests.terminal_sim.kinds_kit import ACTS, Act, KindBench, ready
from tests.terminal_sim.kit import Bench, check_chain


def test_a_retired_terminal_writes_its_last_record_once_and_serves_nobody_even_after_a_boot() -> None:
    bench = Bench()
    card = bench.issue()
    terminal = bench.boot()
    assert bench.tap(terminal, card, 700).outcome is Outcome.SOLD
    assert terminal.retire(EndReason.REPLACED)
    assert terminal.retire(EndReason.REPLACED)
    for _ in range(2):
        held = check_chain(terminal)
        assert [type(decode_body(record)).__name__ for record in held] == ["Purchase", "EndOfEpoch"]
        assert decode_body(held[-1]) == EndOfEpoch(EndReason.REPLACED)
        refused = bench.tap(terminal, card, 30)
        assert (refused.outcome, refused.why) == (Outcome.REFUSED, Why.NOT_READY)
        terminal = bench.boot()


@pytest.mark.parametrize("bits_done", [0, 5])
def test_power_cut_at_every_byte_of_retiring_leaves_a_terminal_that_sells_or_one_that_has_ended(bits_done: int) -> None:
    steps, ended = 0, 0
    while True:
        bench = Bench(seed=steps)
        card = bench.issue()
        terminal = bench.boot()
        assert bench.tap(terminal, card, 700).outcome is Outcome.SOLD
        bench.flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done, erase_step_bytes=1024)
        with suppress(PowerCut):
            terminal.retire(EndReason.OUT_OF_SERVICE)
        terminal = bench.boot()
        names = [type(decode_body(record)).__name__ for record in check_chain(terminal)]
        result = bench.tap(terminal, card, 30)
        has_ended = "EndOfEpoch" in names
        assert result.outcome is (Outcome.REFUSED if has_ended else Outcome.SOLD)
        assert names.index("EndOfEpoch") == len(names) - 1 if has_ended else True
        ended += has_ended
        if not plan.fired:
            break
        steps += 1
    assert steps > 50
    assert 0 < ended < steps


@pytest.mark.parametrize("act", ACTS, ids=str)
def test_a_retired_terminal_of_no_kind_makes_a_transaction_any_more(act: Act) -> None:
    bench, terminal, card = ready(act)
    before = len(check_chain(terminal))
    assert terminal.retire(EndReason.REPLACED)
    for _ in range(2):
        refused = bench.told(act.run(terminal, bench.field(card)))
        assert (refused.outcome, refused.why) == (Outcome.REFUSED, Why.NOT_READY)
        assert not terminal.tamper(is_open=True)
        assert len(check_chain(terminal)) == before + 1, "nothing follows the end of the epoch"
        terminal = bench.boot()


@pytest.mark.parametrize("make", [SellingTerminal, MealTerminal, LoadStation])
def test_every_kind_of_selling_terminal_notes_tampering_and_power_until_memory_is_needed_for_sales(
    make: type[SellingTerminal],
) -> None:
    bench = KindBench(make=make)
    terminal = bench.boot()
    assert terminal.tamper(is_open=True, source=2)
    assert terminal.power(PowerEvent.MAINS_LOST, 3_600)
    assert [decode_body(record) for record in check_chain(terminal)] == [
        Tamper(1, 2),
        Power(PowerEvent.MAINS_LOST, 3_600),
    ]
    for _ in range(1_000):
        if not terminal.power(PowerEvent.BATTERY_LOW):
            break
    assert terminal.memory_warning
    assert not terminal.memory_full
