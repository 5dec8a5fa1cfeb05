"""A door terminal under power cuts and with a full memory: nobody passes unaccounted, nobody is kept out (R12)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from protocol.codes import AlarmKind, EndReason
from protocol.door import Mode
from protocol.permissions import AntiPassback
from protocol.record_bodies import AccessGranted, Alarm, DoorEvent, EndOfEpoch, EventsLost, Power
from protocol.records import read_head
from terminal_sim.door_tally import COUNT_MAX, LossTally
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.dump import dump_flash
from terminal_sim.errors import PowerCut
from terminal_sim.flash import CutAfter, VirtualFlash
from terminal_sim.ring import Ring
from tests.protocol.door_kit import door, site
from tests.terminal_sim.door_kit import DoorBench, acknowledge_all, bodies, door_layout, fill
from tests.terminal_sim.kit import check_chain, records_of

BITS: list[int] = [0x00, 0xAA]
Act = Callable[[DoorBench, DoorTerminal], object]
Check = Callable[[DoorBench, DoorTerminal], object]


def sweep(base: DoorBench, prepared: DoorTerminal, act: Act, check: Check, *, bits_done: int) -> int:
    """Cut the power at every byte that `act` programs or erases, boot again, `check`; returns the cuts.

    Every sweep asks besides that no committed record changes, that the chain is whole, and that the boot works.
    """
    image = base.flash.snapshot()
    before = records_of(prepared)
    steps = 0
    while True:
        bench = DoorBench(layout=base.layout, permissions=base.permissions, seed=steps, has_clock=base.has_clock)
        bench.cards = base.cards
        bench.flash.restore(image)
        terminal = bench.boot(power_on=False)
        made: list[bytes] = []
        terminal.on_record = made.append
        bench.acted.clear()
        bench.flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done, erase_step_bytes=512)
        with suppress(PowerCut):
            act(bench, terminal)
        terminal = bench.boot()
        held = check_chain(terminal)
        first = read_head(held[0]).sequence
        assert set(made) <= set(held), "a record that could have left the terminal is not there any more"
        assert [each for each in before if read_head(each).sequence >= first] == held[: len(before) - (first - 1)]
        check(bench, terminal)
        if not plan.fired:
            return steps
        steps += 1


# -- a card


@pytest.mark.parametrize("bits_done", BITS)
@pytest.mark.parametrize("events", [0, 32, 70], ids=["fresh", "new sector", "journal turned"])
def test_a_power_cut_anywhere_in_a_passage_never_lets_anybody_pass_unrecorded(events: int, bits_done: int) -> None:
    bench = DoorBench(permissions=site(door(anti_passback=AntiPassback.HARD)))
    card = bench.issue()
    prepared = bench.boot()
    for _ in range(events):
        prepared.tamper(is_open=True)

    def check(cut: DoorBench, terminal: DoorTerminal) -> None:
        passages = [each for each in bodies(terminal) if isinstance(each, AccessGranted)]
        assert cut.strikes() <= len(passages) <= 1, "a strike without its record"
        cut.acted.clear()
        again = cut.present(terminal, card)
        assert again.granted is not bool(passages), "the record says that the card is inside, and only the record"

    cuts = sweep(bench, prepared, lambda cut, terminal: cut.present(terminal, card), check, bits_done=bits_done)
    print(f"{cuts} cuts")
    assert cuts > 150


@pytest.mark.parametrize("bits_done", BITS)
def test_a_power_cut_anywhere_in_a_keepers_order_leaves_the_old_order_or_the_new_one(bits_done: int) -> None:
    bench = DoorBench()
    prepared = bench.boot()

    def check(cut: DoorBench, terminal: DoorTerminal) -> None:
        mode = terminal.locks[1].mode
        said = [each for each in bodies(terminal) if isinstance(each, DoorEvent)]
        assert mode is (Mode.UNLOCKED if said else Mode.NORMAL)
        assert cut.strikes() <= 2 * len(said)  # at the order, and at the boot

    cuts = sweep(bench, prepared, lambda _, terminal: terminal.set_mode(1, Mode.UNLOCKED), check, bits_done=bits_done)
    assert cuts > 100


# -- a full memory


def full(*, lost: int = 0, ring_sectors: int = 3) -> tuple[DoorBench, DoorTerminal, int]:
    bench = DoorBench(layout=door_layout(ring_sectors=ring_sectors))
    card = bench.issue()
    terminal = bench.boot()
    fill(terminal)
    already = terminal.events_lost
    for _ in range(lost - already):
        terminal.tamper(is_open=True)
    return bench, terminal, card


def test_a_filling_memory_warns_once_and_says_that_it_is_full_in_its_last_slot() -> None:
    _, terminal, _ = full()
    found = bodies(terminal)
    alarms = [(index, each.alarm) for index, each in enumerate(found) if isinstance(each, Alarm)]
    assert [alarm for _, alarm in alarms] == [AlarmKind.MEMORY_WARNING, AlarmKind.MEMORY_FULL]
    assert alarms[0][0] in {81, 82}  # 80 % of 102
    assert alarms[1][0] == len(found) - 1 == 101
    assert terminal.memory_full


def test_doors_go_on_opening_with_a_full_memory_and_tell_it_in_one_record() -> None:
    bench, terminal, card = full()
    assert terminal.events_lost == 1
    for _ in range(20):
        access = bench.present(terminal, card)
        assert (access.granted, access.sequence) == (True, 0)
        bench.clock.time_ms += 10_000
        terminal.tick()
    assert bench.strikes() == 20
    assert terminal.events_lost == 21
    acknowledge_all(terminal)
    assert bench.present(terminal, card).granted
    assert bodies(terminal)[-2:] == [EventsLost(21), bodies(terminal)[-1]]
    assert isinstance(bodies(terminal)[-1], AccessGranted)
    assert terminal.events_lost == 0


def test_time_alone_tells_the_losses_once_there_is_room() -> None:
    _, terminal, _ = full(lost=5)
    terminal.tick()
    assert terminal.events_lost == 5
    acknowledge_all(terminal)
    terminal.tick()
    terminal.tick()
    assert [each for each in bodies(terminal) if isinstance(each, EventsLost)] == [EventsLost(5)]


def test_the_count_of_losses_survives_every_boot_and_counts_the_boots_too() -> None:
    bench, terminal, card = full(lost=3)
    for boots in range(1, 6):
        terminal = bench.boot()
        assert terminal.events_lost == 3 + boots  # its own `power on` had no room either
    bench.present(terminal, card)
    acknowledge_all(terminal)
    terminal = bench.boot()
    assert bodies(terminal)[-2:] == [EventsLost(9), bodies(terminal)[-1]]
    assert isinstance(bodies(terminal)[-1], Power)


@pytest.mark.parametrize("bits_done", BITS)
def test_a_power_cut_anywhere_while_events_are_lost_never_lets_anybody_pass_uncounted(bits_done: int) -> None:
    bench, prepared, card = full(lost=6)

    def pass_twice(cut: DoorBench, terminal: DoorTerminal) -> None:
        for _ in range(2):
            cut.present(terminal, card)
            cut.clock.time_ms += 10_000
            terminal.tick()

    def check(cut: DoorBench, terminal: DoorTerminal) -> None:
        counted = terminal.events_lost - 6 - 2  # and `power on` of two boots
        assert cut.strikes() <= counted <= 2

    assert sweep(bench, prepared, pass_twice, check, bits_done=bits_done) == 2  # one byte each


@pytest.mark.parametrize("bits_done", BITS)
def test_a_power_cut_at_the_first_loss_never_lets_anybody_pass_uncounted(bits_done: int) -> None:
    bench, prepared, card = full(lost=0, ring_sectors=3)
    acknowledge_all(prepared)
    prepared.tick()
    fill(prepared, leave=1)
    assert prepared.events_lost == 0
    image = bench.flash.snapshot()
    fired = True
    steps = 0
    while fired:
        cut = DoorBench(layout=bench.layout)
        cut.cards = bench.cards
        cut.flash.restore(image)
        cut.flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done)
        with suppress(PowerCut):
            terminal = cut.boot(power_on=False)  # `memory full` goes into the last slot, `power on` is lost
            cut.present(terminal, card)
        terminal = cut.boot()
        lost = terminal.events_lost
        check_chain(terminal)
        assert cut.strikes() <= max(0, lost - 1) <= 2
        assert lost >= 1
        fired, steps = plan.fired, steps + 1
    print(f"{steps} cuts")
    assert steps > 150


@pytest.mark.parametrize("bits_done", [0x00, 0xAA, 0xFF])
def test_a_power_cut_anywhere_while_the_losses_are_told_tells_them_once(bits_done: int) -> None:
    """The boot is what tells them."""
    bench, prepared, _ = full(lost=9)
    acknowledge_all(prepared)

    def check(terminal: DoorTerminal) -> None:
        assert terminal.events_lost == 0
        told = [each for each in bodies(terminal) if isinstance(each, EventsLost)]
        assert told == [EventsLost(9)]

    image = bench.flash.snapshot()
    steps, fired = 0, True
    while fired:
        cut = DoorBench(layout=bench.layout)
        cut.flash.restore(image)
        cut.flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done)
        with suppress(PowerCut):
            cut.boot(power_on=False)
        check(cut.boot())
        fired, steps = plan.fired, steps + 1
    print(f"{steps} cuts")
    assert steps > 300


def test_the_dump_of_a_door_terminals_flash_counts_its_records_by_type() -> None:
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    bench.present(terminal, card)
    bench.present(terminal, bench.issue(1001, group=77))
    terminal.exit_pressed()
    dump = dump_flash(bench.flash, 4001, layout=bench.layout)
    [epoch] = dump["epochs"]
    assert epoch["records_by_type"] == {"40": 1, "41": 1, "42": 1, "63": 1}
    assert (epoch["issued"], epoch["running_count"], epoch["merchants"]) == (4, 0, {})


def test_while_losses_are_counted_no_other_record_takes_their_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one record is not enough: `events_lost` must be the next, and not the last that fits."""
    _, terminal, _ = full(lost=5)
    acknowledge_all(terminal)
    issued = len(bodies(terminal))
    monkeypatch.setattr(Ring, "room_records", lambda _: 1)
    terminal.tamper(is_open=True)
    assert (terminal.events_lost, len(bodies(terminal))) == (6, issued)


def test_a_retired_terminal_opens_to_no_card_records_nothing_more_and_lets_people_out() -> None:
    """R11: the epoch has ended; a record behind its last one would deny it."""
    bench = DoorBench()
    card = bench.issue()
    assert bench.boot().retire(EndReason.REPLACED)
    for terminal in (bench.boot(), bench.boot()):
        assert not bench.present(terminal, card).granted
        assert bench.strikes() == 0
        terminal.exit_pressed()
        terminal.tamper(is_open=True)
        terminal.tick()
        assert bench.strikes() == 1
        assert isinstance(bodies(terminal)[-1], EndOfEpoch)
        assert terminal.events_lost == 0
        bench.acted.clear()


def test_losses_are_told_before_an_epoch_ends() -> None:
    _, terminal, _ = full(lost=4)
    assert not terminal.retire(EndReason.REPLACED)
    acknowledge_all(terminal)
    assert terminal.retire(EndReason.REPLACED)
    assert bodies(terminal)[-2:] == [EventsLost(4), EndOfEpoch(EndReason.REPLACED)]


# -- the tally by itself


def tally(flash: VirtualFlash, *, epoch: int = 1, next_sequence: int = 7) -> LossTally:
    return LossTally(flash, door_layout().tally, epoch=epoch, next_sequence=next_sequence)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_a_tally_is_found_again_and_forgotten_when_the_ring_is_past_it(count: int) -> None:
    flash = VirtualFlash(door_layout().size_bytes)
    made = tally(flash)
    for _ in range(count):
        made.add(7)
    assert tally(flash).count == count
    assert tally(flash, next_sequence=8).count == 0
    assert tally(flash).count == 0  # for good


def test_a_tally_of_a_closed_epoch_is_no_loss_of_the_next() -> None:
    flash = VirtualFlash(door_layout().size_bytes)
    tally(flash).add(7)
    assert tally(flash, epoch=2, next_sequence=1).count == 0


def test_a_dead_tally_sector_hands_its_count_to_the_other() -> None:
    flash = VirtualFlash(door_layout().size_bytes)
    made = tally(flash)
    for _ in range(11):
        made.add(7)
    flash.dead_sectors.add(door_layout().tally[0])
    made.add(7)
    assert (made.count, tally(flash).count) == (12, 12)


def test_without_a_working_sector_the_count_lasts_as_long_as_the_power() -> None:
    flash = VirtualFlash(door_layout().size_bytes)
    flash.dead_sectors.update(door_layout().tally)
    made = tally(flash)
    for _ in range(5):
        made.add(7)
    assert (made.count, tally(flash).count) == (5, 0)
    made.recorded()
    assert made.count == 0


def test_a_tally_that_is_full_counts_no_further() -> None:
    flash = VirtualFlash(door_layout().size_bytes)
    made = tally(flash)
    made.add(7)
    made.count = COUNT_MAX - 1
    made.add(7)
    made.add(7)
    assert made.count == COUNT_MAX == 32_640


def test_a_full_memory_whose_sectors_die_under_a_record_loses_it_countedly() -> None:
    bench, terminal, card = full()
    acknowledge_all(terminal)
    terminal.tick()
    fill(terminal, leave=3)
    bench.flash.dead_sectors.update(bench.layout.ring)
    assert bench.present(terminal, card).granted
    assert terminal.events_lost == 1
