"""protocol.door_lock: strike, contact, timers; forced and held doors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import DoorEventKind
from protocol.door import Mode
from protocol.door_lock import TRANSITIONS, Actuation, DoorLock, Event, Happened, LockInput, LockState

STRIKE_ON = Happened((Actuation.STRIKE_ON,))
STRIKE_OFF = Happened((Actuation.STRIKE_OFF,))
NOTHING = Happened()


def lock(**changes: object) -> DoorLock:
    return DoorLock(**({"held_open_ms": 30_000, "now_ms": 0} | changes))  # type: ignore[arg-type]  # as named


def test_somebody_passes_and_nothing_is_worth_a_record() -> None:
    door = lock()
    assert door.release(5_000, 1_000) == STRIKE_ON
    assert door.deadline_ms() == 6_000
    assert door.contact(2_000, is_open=True) == STRIKE_OFF  # the bolt falls behind it, not before it is open
    assert door.deadline_ms() == 32_000
    assert door.contact(5_000, is_open=False) == NOTHING
    assert (door.state, door.deadline_ms()) == (LockState.SECURE, None)


def test_a_release_nobody_uses_ends_by_itself() -> None:
    door = lock()
    door.release(5_000, 0)
    assert door.tick(4_999) == NOTHING
    assert door.tick(5_000) == STRIKE_OFF
    assert door.tick(5_000) == NOTHING


def test_a_door_opened_without_a_release_is_forced_until_it_is_shut() -> None:
    door = lock()
    forced = door.contact(1_000, is_open=True)
    assert forced == Happened((Actuation.SOUNDER_ON,), (Event(DoorEventKind.FORCED),))
    assert door.contact(1_100, is_open=True) == NOTHING
    assert door.release(5_000, 2_000) == NOTHING  # a card at a forced door makes it no better
    closed = door.contact(4_500, is_open=False)
    assert closed == Happened((Actuation.SOUNDER_OFF,), (Event(DoorEventKind.CLOSED, 35),))


def test_a_door_opened_after_its_release_has_run_out_is_forced_although_nobody_ticked() -> None:
    door = lock()
    door.release(5_000, 0)
    happened = door.contact(5_000, is_open=True)
    assert happened == Happened((Actuation.STRIKE_OFF, Actuation.SOUNDER_ON), (Event(DoorEventKind.FORCED),))


def test_a_door_held_open_is_said_once_and_its_closing_with_how_long() -> None:
    door = lock()
    door.release(5_000, 0)
    door.contact(1_000, is_open=True)
    assert door.tick(30_999) == NOTHING
    assert door.tick(31_000) == Happened((Actuation.SOUNDER_ON,), (Event(DoorEventKind.HELD_OPEN, 300),))
    assert door.deadline_ms() is None
    assert door.tick(99_000) == NOTHING
    closed = door.contact(61_000, is_open=False)
    assert closed == Happened((Actuation.SOUNDER_OFF,), (Event(DoorEventKind.CLOSED, 600),))


def test_a_held_door_that_is_shut_before_anybody_ticked_has_still_been_held() -> None:
    door = lock()
    door.release(5_000, 0)
    door.contact(1_000, is_open=True)
    events = door.contact(41_000, is_open=False).events
    assert events == (Event(DoorEventKind.HELD_OPEN, 400), Event(DoorEventKind.CLOSED, 400))


def test_a_second_person_through_the_open_door_gets_the_whole_time() -> None:
    door = lock()
    door.release(5_000, 0)
    door.contact(1_000, is_open=True)
    assert door.release(5_000, 20_000) == NOTHING
    assert door.tick(49_999) == NOTHING
    assert door.tick(50_000).events[0].kind is DoorEventKind.HELD_OPEN


def test_an_unlocked_door_is_free_and_is_bound_again() -> None:
    door = lock()
    assert door.set_mode(Mode.UNLOCKED, 0) == Happened((Actuation.STRIKE_ON,), (Event(DoorEventKind.UNLOCKED, 0),))
    assert door.contact(1_000, is_open=True) == NOTHING
    assert door.tick(999_000) == NOTHING
    bound = door.set_mode(Mode.NORMAL, 999_000)
    assert bound == Happened((Actuation.STRIKE_OFF,), (Event(DoorEventKind.UNLOCKED, 1),))
    assert (door.state, door.deadline_ms()) == (LockState.OPEN, 1_029_000)
    assert door.set_mode(Mode.NORMAL, 999_000) == NOTHING


def test_locking_says_so_and_lets_those_in_the_doorway_through() -> None:
    door = lock()
    door.release(5_000, 0)
    assert door.set_mode(Mode.LOCKED, 1_000) == Happened((), (Event(DoorEventKind.LOCKED, 0),))
    assert door.state is LockState.RELEASED
    from_locked_to_unlocked = door.set_mode(Mode.UNLOCKED, 2_000).events
    assert from_locked_to_unlocked == (Event(DoorEventKind.LOCKED, 1), Event(DoorEventKind.UNLOCKED, 0))


def test_a_door_found_open_at_boot_is_open_and_not_forced() -> None:
    door = lock(is_open=True, now_ms=100)
    assert (door.state, door.deadline_ms()) == (LockState.OPEN, 30_100)
    assert door.outputs == (Actuation.STRIKE_OFF, Actuation.SOUNDER_OFF)
    free = lock(mode=Mode.UNLOCKED)
    assert free.outputs == (Actuation.STRIKE_ON, Actuation.SOUNDER_OFF)


def test_every_state_is_reached_and_answers_every_input_it_can_get() -> None:
    assert set(TRANSITIONS.values()) == set(LockState)
    for state in LockState:
        is_open = state in {LockState.OPEN, LockState.HELD, LockState.FORCED, LockState.FREE_OPEN}
        assert (state, LockInput.RELEASE) in TRANSITIONS
        assert (state, LockInput.CLOSED if is_open else LockInput.OPENED) in TRANSITIONS
        is_free = state in {LockState.FREE, LockState.FREE_OPEN}
        assert (state, LockInput.BOUND if is_free else LockInput.FREE) in TRANSITIONS


steps = st.lists(
    st.tuples(
        st.sampled_from(["release", "open", "close", "tick", *Mode]), st.integers(0, 40_000)
    ),
    max_size=50,
)  # fmt: skip


@given(steps)
def test_whatever_happens_at_a_door(walk: list[tuple[str | Mode, int]]) -> None:
    """Held open once an opening, forced only where nothing was released, and the outputs are what the state says."""
    door, now_ms = lock(), 0
    strike = sounder = is_open = False
    held_in_this_opening = 0
    for what, after_ms in walk:
        now_ms += after_ms
        was_released = strike
        due = door.deadline_ms()
        if isinstance(what, Mode):
            happened = door.set_mode(what, now_ms)
            held_in_this_opening = 0  # an order begins a new count
        elif what == "release":
            happened = door.release(5_000, now_ms)
        elif what == "tick":
            happened = door.tick(now_ms)
        else:
            if what == "open" and not is_open:
                held_in_this_opening = 0
            is_open = what == "open"
            happened = door.contact(now_ms, is_open=is_open)
        for each in happened.actuations:
            strike = each is Actuation.STRIKE_ON if each.name.startswith("STRIKE") else strike
            sounder = each is Actuation.SOUNDER_ON if each.name.startswith("SOUNDER") else sounder
        for event in happened.events:
            held_in_this_opening += event.kind is DoorEventKind.HELD_OPEN
            if event.kind is DoorEventKind.FORCED:
                assert what == "open"
                assert not was_released or (due is not None and now_ms >= due), "forced while it was released"
        assert held_in_this_opening <= 1
        assert door.is_open == is_open
        assert strike == (Actuation.STRIKE_ON in door.outputs)
        assert sounder == (Actuation.SOUNDER_ON in door.outputs)
        assert door.deadline_ms() is None or door.deadline_ms() > now_ms  # type: ignore[operator]  # narrowed before
        assert not strike or door.deadline_ms() is not None or door.mode is Mode.UNLOCKED, "released for ever"


def test_a_card_at_a_door_that_is_overdue_does_not_hide_that_it_was_held() -> None:
    door = lock()
    door.release(5_000, 0)
    door.contact(1_000, is_open=True)
    assert door.release(5_000, 31_000).events == (Event(DoorEventKind.HELD_OPEN, 300),)
    assert door.state is LockState.HELD
