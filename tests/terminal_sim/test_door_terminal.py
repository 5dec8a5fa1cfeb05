"""The door terminal: cards proved and decided offline, records before strikes, doors as things, boots from records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.cards.aes import CardKeys
from protocol.cards.image import AesCardImage
from protocol.codes import AccessIdentity, AccessReason, AlarmKind, CardKind, DoorEventKind, PowerEvent
from protocol.door import FLAG_DURESS, FLAG_FIRST_CARD, Mode
from protocol.door_lock import Actuation
from protocol.list_receiver import Apply
from protocol.permissions import AntiPassback, Clockless, DuressRule
from protocol.record_bodies import AccessDenied, AccessGranted, Alarm, DoorEvent, Power, Tamper
from protocol.records import decode_body, read_head
from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import Alarm as TerminalAlarm
from terminal_sim.flash import CutAfter
from terminal_sim.outcome import Outcome, Why
from tests.protocol.door_kit import GUESTS, MONDAY, STAFF, door, site
from tests.terminal_sim.door_kit import DoorBench, bodies
from tests.terminal_sim.kit import Bench, card_of, records_of, signed_list

BOOTED = Power(PowerEvent.ON)
STRIKE = [(1, Actuation.STRIKE_ON)]


def granted(card: int = 1000, *, reason: int = AccessReason.PERMITTED, flags: int = 0, at: int = 1) -> AccessGranted:
    return AccessGranted(card, at, reason, AccessIdentity.CARD_PROVED, flags, 3, 7, 0)


def denied(card: int, reason: int, *, number: int = 0, flags: int = 0) -> AccessDenied:
    identity = AccessIdentity.CARD_PROVED if card else AccessIdentity.NUMBER_ONLY
    return AccessDenied(card, 1, reason, identity, flags, 3, 7, number)


def test_a_card_opens_the_door_after_its_record_and_is_not_written() -> None:
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    held_at_the_strike: list[int] = []

    def strike(lock: int, each: Actuation) -> None:
        bench.acted.append((lock, each))
        assert terminal.memory is not None
        held_at_the_strike.append(terminal.memory.next - 1)

    terminal.on_actuation = strike
    bench.acted.clear()
    access = bench.present(terminal, card)
    assert (access.granted, access.card, access.sequence) == (True, card, 2)
    assert bodies(terminal) == [BOOTED, granted()]
    assert (bench.acted, held_at_the_strike) == (STRIKE, [2])
    assert bench.written == 0
    head = read_head(records_of(terminal)[1])
    assert (head.running_count, head.running_sum_cents) == (0, 0)


def test_every_card_that_stays_outside_leaves_its_reason() -> None:
    bench = DoorBench(permissions=site(door(grants=((STAFF, 0), (GUESTS, 1)))))
    for card, group, until in ((1000, STAFF, 0), (1001, STAFF, MONDAY - 1), (1002, 77, 0), (1003, GUESTS, 0)):
        bench.issue(card, group=group, valid_until_day=until)
    genuine = bench.cards.load(bench.issue(1004))
    assert isinstance(genuine, AesCardImage)
    bench.cards.save(replace(genuine, keys=CardKeys(*(bytes(16) for _ in range(5)))))
    terminal = bench.boot()
    terminal.deny_list.memory.perform(Apply(*signed_list(1, [1000])))
    bench.rtc.set_utc(bench.rtc.now_ms() + 9 * 3_600_000)  # nine in the evening
    for card in (1000, 1001, 1002, 1003, 1004):
        assert not bench.present(terminal, card).granted
    assert bodies(terminal)[1:] == [
        denied(1000, AccessReason.DENY_LIST),
        denied(1001, AccessReason.EXPIRED),
        denied(1002, AccessReason.NO_PERMISSION),
        denied(1003, AccessReason.OUTSIDE_TIME_PROFILE),
        denied(0, AccessReason.NOT_GENUINE, number=1004),
    ]
    assert bench.strikes() == 0


class Stranger:
    """A card of another system."""

    def exchange(self, command: bytes) -> bytes:
        return b"\x6a\x82"


def test_a_card_of_another_system_is_unknown() -> None:
    bench = DoorBench()
    terminal = bench.boot()
    assert not terminal.present(1, Stranger()).granted
    assert bodies(terminal)[1:] == [denied(0, AccessReason.UNKNOWN_CARD)]


@pytest.mark.parametrize("kind", [CardKind.MEMORY, CardKind.PBOC])
def test_a_card_of_ours_that_cannot_prove_its_number_to_a_door_is_unknown(kind: CardKind) -> None:
    bench = DoorBench()
    bench.cards.save(card_of(kind, 1000))
    terminal = bench.boot()
    assert not bench.present(terminal, 1000).granted
    [body] = bodies(terminal)[1:]
    assert isinstance(body, AccessDenied)
    assert (body.card, body.reason) == (0, AccessReason.UNKNOWN_CARD)
    assert (bench.written, bench.strikes()) == (0, 0)


def test_a_reader_that_no_permission_names_opens_nothing() -> None:
    bench = DoorBench()
    terminal = bench.boot()
    assert not bench.present(terminal, bench.issue(), door=5).granted
    assert bodies(terminal)[1:] == [replace(denied(1000, AccessReason.NO_PERMISSION), door=5)]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("effect", [Effect.PULLED, Effect.SILENT])
def test_a_card_that_leaves_before_it_has_proved_anything_leaves_nothing(
    index: int, moment: Moment, effect: Effect
) -> None:
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    access = bench.present(terminal, card, disturbance=Disturbance(index, moment, effect))
    assert not access.granted
    assert bench.strikes() == 0
    assert [type(each) for each in bodies(terminal)] == [Power]
    assert bench.present(terminal, card).granted


def test_a_card_with_the_proof_of_a_torn_debit_opens_and_keeps_its_proof_for_the_next_till() -> None:
    """R20: a door settles no money."""
    till, bench = Bench(), DoorBench()
    card = till.issue()
    issued = till.cards.load(card)
    assert isinstance(issued, AesCardImage)
    till.cards.save(replace(issued, group=STAFF))
    till.tap(till.boot(), card, 700, Disturbance(2, Moment.AFTER_WRITE))
    torn = till.cards.load(card)
    assert isinstance(torn, AesCardImage)
    assert torn.proof_pending
    bench.cards.save(torn)
    assert bench.present(bench.boot(), card).granted
    assert bench.cards.load(card) == torn


def test_a_duress_code_opens_as_the_code_does_and_raises_the_alarm_before_the_strike() -> None:
    bench = DoorBench(permissions=site(door(code="4711", duress=DuressRule.PLUS_ONE)))
    card = bench.issue()
    terminal = bench.boot()
    assert not bench.present(terminal, card, code="1111").granted
    assert bench.present(terminal, card, code="4712").granted
    assert bodies(terminal)[1:] == [
        denied(1000, AccessReason.WRONG_CODE),
        granted(flags=FLAG_DURESS),
        Alarm(AlarmKind.DURESS, 1),
    ]
    assert bench.strikes() == 1


# -- the door as a thing


def test_a_forced_a_held_and_a_shut_door_are_recorded() -> None:
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    terminal.contact(1, is_open=True)
    bench.clock.time_ms += 2_000
    terminal.contact(1, is_open=False)
    bench.present(terminal, card)
    terminal.contact(1, is_open=True)
    assert terminal.deadline_ms() == bench.clock.time_ms + 30_000
    bench.clock.time_ms += 30_000
    terminal.tick()
    bench.clock.time_ms += 10_000
    terminal.contact(1, is_open=False)
    assert bodies(terminal)[1:] == [
        DoorEvent(DoorEventKind.FORCED, 1),
        DoorEvent(DoorEventKind.CLOSED, 1, 20),
        granted(),
        DoorEvent(DoorEventKind.HELD_OPEN, 1, 300),
        DoorEvent(DoorEventKind.CLOSED, 1, 400),
    ]


def test_the_way_out_opens_before_its_record() -> None:
    bench = DoorBench()
    terminal = bench.boot()
    bench.flash.cut_plan = CutAfter(0)
    with pytest.raises(PowerCut):
        terminal.exit_pressed()
    assert bench.acted[-1] == (1, Actuation.STRIKE_ON)
    terminal = bench.boot()
    terminal.exit_pressed()
    assert bodies(terminal)[-1] == DoorEvent(DoorEventKind.EXIT_BUTTON, 1)


def test_a_lock_without_an_exit_button_ignores_the_wire() -> None:
    bench = DoorBench(permissions=site(door(exit_button=False)))
    terminal = bench.boot()
    terminal.exit_pressed()
    terminal.exit_pressed(9)
    assert (bench.strikes(), bodies(terminal)) == (0, [BOOTED])


@pytest.mark.parametrize("permissions", [None, site(replace(door(), terminal=77))])
def test_without_permissions_nobody_gets_in_and_everybody_gets_out(permissions: object) -> None:
    bench = DoorBench(permissions=permissions)  # type: ignore[arg-type]  # None, or another terminal's
    terminal = bench.boot()
    assert not bench.present(terminal, bench.issue()).granted
    assert bench.strikes() == 0
    terminal.exit_pressed()
    assert bench.strikes() == 1
    assert bodies(terminal)[1:] == [
        denied(1000, AccessReason.NO_PERMISSION),
        DoorEvent(DoorEventKind.EXIT_BUTTON, 1),
    ]


def test_new_permissions_are_in_force_at_once_and_keep_the_doors_as_they_are() -> None:
    bench = DoorBench(permissions=None)
    card = bench.issue()
    terminal = bench.boot()
    terminal.contact(1, is_open=True)
    terminal.take_permissions(site(), (4, 1))
    assert terminal.locks[1].is_open
    assert bench.present(terminal, card).granted
    body = bodies(terminal)[-1]
    assert isinstance(body, AccessGranted)
    assert (body.list_generation, body.list_counter) == (4, 1)


def test_a_lock_that_new_permissions_no_longer_have_is_left_shut() -> None:
    bench = DoorBench(permissions=site(door(), door(door=2, lock=2)))
    card = bench.issue()
    terminal = bench.boot()
    bench.present(terminal, card, door=2)
    assert bench.acted[-1] == (2, Actuation.STRIKE_ON)
    terminal.take_permissions(site(), (4, 1))
    assert (2, Actuation.STRIKE_OFF) in bench.acted[-2:]
    assert not bench.present(terminal, card, door=2).granted


def test_a_command_from_afar_opens_once_even_over_a_power_cut() -> None:
    bench = DoorBench()
    terminal = bench.boot()
    assert terminal.open_remotely(1, 77)
    assert not terminal.open_remotely(1, 77)
    assert not terminal.open_remotely(9, 78)
    terminal = bench.boot()
    assert not terminal.open_remotely(1, 77)
    assert bench.strikes() == 1
    assert bodies(terminal)[1] == DoorEvent(DoorEventKind.REMOTE_OPEN, 1, 77)


def test_tamper_and_power_are_recorded() -> None:
    bench = DoorBench()
    terminal = bench.boot()
    terminal.tamper(is_open=True, source=2)
    terminal.power(PowerEvent.MAINS_LOST, 12_100)
    assert bodies(terminal)[1:] == [Tamper(1, 2), Power(PowerEvent.MAINS_LOST, 12_100)]


def test_a_door_found_open_at_boot_is_not_forced() -> None:
    bench = DoorBench()
    bench.open_contacts.add(1)
    terminal = bench.boot()
    terminal.contact(1, is_open=True)
    assert bodies(terminal) == [BOOTED]
    bench.clock.time_ms += 30_000
    terminal.tick()
    assert bodies(terminal)[-1] == DoorEvent(DoorEventKind.HELD_OPEN, 1, 300)


def test_a_door_sells_nothing_and_checks_no_card() -> None:
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    for result in (terminal.tap(bench.field(card), 850), terminal.check(bench.field(card))):
        assert (result.outcome, result.why, result.sequence) == (Outcome.REFUSED, Why.NOT_READY, 0)
    assert (bench.strikes(), bodies(terminal)) == (0, [BOOTED])


# -- what a boot knows


def two_doors(rule: AntiPassback = AntiPassback.HARD) -> DoorBench:
    way_in = door(anti_passback=rule)
    way_out = door(door=2, name="out", area_from=1, area_to=0, anti_passback=rule)
    return DoorBench(permissions=site(way_in, way_out))


def test_anti_passback_holds_over_a_power_cut() -> None:
    bench = two_doors()
    card = bench.issue()
    assert bench.present(bench.boot(), card).granted
    terminal = bench.boot()
    assert not bench.present(terminal, card).granted
    assert bodies(terminal)[-1] == denied(card, AccessReason.ANTI_PASSBACK)
    assert bench.present(terminal, card, door=2).granted
    terminal = bench.boot()
    assert not bench.present(terminal, card, door=2).granted
    assert bench.present(terminal, card).granted


def test_both_sides_of_a_door_move_one_strike() -> None:
    bench = two_doors()
    card = bench.issue()
    terminal = bench.boot()
    bench.present(terminal, card)
    bench.clock.time_ms += 10_000
    terminal.tick()
    bench.present(terminal, card, door=2)
    assert [lock for lock, each in bench.acted if each is Actuation.STRIKE_ON] == [1, 1]
    assert [each.door for each in bodies(terminal) if isinstance(each, AccessGranted)] == [1, 2]


def test_the_first_card_of_the_day_counts_after_a_power_cut_too() -> None:
    guarded = door(first_groups=(STAFF,), grants=((STAFF, 0), (GUESTS, 1)))
    bench = DoorBench(permissions=site(guarded))
    worker, guest = bench.issue(1000), bench.issue(2000, group=GUESTS)
    terminal = bench.boot()
    assert not bench.present(terminal, guest).granted
    assert bench.present(terminal, worker).granted
    terminal = bench.boot()
    assert bench.present(terminal, guest).granted
    bench.rtc.set_utc(bench.rtc.now_ms() + 86_400_000)
    assert not bench.present(terminal, guest).granted
    access = [each for each in bodies(terminal) if isinstance(each, AccessGranted | AccessDenied)]
    assert access == [
        denied(guest, AccessReason.FIRST_CARD_MISSING),
        granted(worker, flags=FLAG_FIRST_CARD),
        granted(guest, reason=AccessReason.FIRST_CARD_SEEN),
        denied(guest, AccessReason.FIRST_CARD_MISSING),
    ]


def test_a_locked_door_is_locked_after_a_power_cut_and_an_unlocked_one_is_free_at_once() -> None:
    bench = DoorBench()
    card = bench.issue()
    bench.boot().set_mode(1, Mode.LOCKED)
    terminal = bench.boot()
    assert not bench.present(terminal, card).granted
    terminal.set_mode(1, Mode.UNLOCKED)
    bench.acted.clear()
    terminal = bench.boot()
    assert bench.acted[0] == (1, Actuation.STRIKE_ON)
    terminal.set_mode(1, Mode.NORMAL)
    bench.acted.clear()
    bench.boot()
    assert bench.acted[0] == (1, Actuation.STRIKE_OFF)


@pytest.mark.parametrize(("rule", "opens"), [(Clockless.CLOSED, False), (Clockless.UNPROFILED, True)])
def test_a_clock_that_was_never_set_opens_only_what_the_door_says(rule: Clockless, opens: bool) -> None:
    bench = DoorBench(permissions=site(door(clockless=rule)), has_clock=False)
    worker, guest = bench.issue(1000), bench.issue(2000, group=GUESTS)
    terminal = bench.boot()
    assert bodies(terminal) == [BOOTED, Alarm(AlarmKind.CLOCK_DOUBTFUL)]
    assert bench.present(terminal, worker).granted is opens
    assert not bench.present(terminal, guest).granted
    bench.rtc.set_utc(1_773_633_600_000)  # TIME came: Monday noon
    assert bench.present(terminal, worker).granted
    assert bench.present(terminal, guest).granted


def test_a_terminal_whose_memory_proves_nothing_opens_to_no_card_and_lets_people_out() -> None:
    bench = DoorBench()
    card = bench.issue()
    bench.present(bench.boot(), card)
    bench.flash.dead_sectors.update(bench.layout.journal)
    terminal = bench.boot()
    assert terminal.alarm is TerminalAlarm.MEMORY_LOST
    bench.acted.clear()
    assert not bench.present(terminal, card).granted
    assert bench.acted == []
    terminal.exit_pressed()
    terminal.tick()
    assert bench.acted == STRIKE


def test_a_memory_that_is_lost_while_it_works_keeps_the_door_shut_and_alarms() -> None:
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    bench.flash.dead_sectors.update(bench.layout.journal)
    assert not bench.present(terminal, card).granted
    assert terminal.alarm is TerminalAlarm.MEMORY_LOST
    terminal.exit_pressed()
    assert bench.strikes() == 1


def test_decoding_a_record_needs_no_door_terminal() -> None:
    """The body of an access record, byte by byte (docs/protocol.md §7.2)."""
    bench = DoorBench()
    card = bench.issue()
    terminal = bench.boot()
    bench.present(terminal, card)
    record = records_of(terminal)[1]
    assert len(record) == 80
    assert record[0] == 0x40
    assert record[40:64].hex() == "000003e80100010000000003000000070000000000000000"
    assert decode_body(record) == granted()
