"""protocol.door: who passes, in which order reasons are asked, and what a grant leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import AccessIdentity, AccessReason
from protocol.door import FLAG_DURESS, FLAG_FIRST_CARD, AccessState, Decision, Facts, Mode, Passage, evaluate
from protocol.local_time import LocalTime
from protocol.permissions import AntiPassback, Clockless, Door, DuressRule, Group
from tests.protocol.door_kit import DOOR, GUESTS, MONDAY, NIGHT, NOON, OFFICE_HOURS, STAFF, door, site

WORKER = Facts(card=1000, group=STAFF, now=NOON)


def ask(
    at: Door = DOOR, facts: Facts = WORKER, *, state: AccessState | None = None, mode: Mode = Mode.NORMAL
) -> Decision:
    return evaluate(site(at), at, facts, state if state is not None else AccessState(), mode)


WRONG_EVERYWHERE = door(
    code="4711", first_groups=(STAFF,), anti_passback=AntiPassback.HARD, grants=((STAFF, OFFICE_HOURS),)
)
"""A door at which everything can go wrong at once."""

# Each step mends what the reason before it named; the next reason of the order is what is left.
ORDER: list[tuple[dict[str, Any], Mode, AccessReason]] = [
    ({"is_genuine": False, "card": 0}, Mode.LOCKED, AccessReason.NOT_GENUINE),
    ({"is_genuine": True}, Mode.LOCKED, AccessReason.UNKNOWN_CARD),
    ({"card": 1000, "is_denied": True}, Mode.LOCKED, AccessReason.DENY_LIST),
    ({"is_denied": False, "valid_until_day": MONDAY - 1}, Mode.LOCKED, AccessReason.EXPIRED),
    ({"valid_until_day": MONDAY}, Mode.LOCKED, AccessReason.LOCKED),
    ({"group": GUESTS}, Mode.NORMAL, AccessReason.NO_PERMISSION),
    ({"group": STAFF}, Mode.NORMAL, AccessReason.OUTSIDE_TIME_PROFILE),
    ({"now": NOON, "code": "0000"}, Mode.NORMAL, AccessReason.WRONG_CODE),
    ({"code": "4711"}, Mode.NORMAL, AccessReason.ANTI_PASSBACK),
]


def test_reasons_are_asked_in_the_order_of_the_page() -> None:
    state = AccessState()
    state.remember(Passage(1000, DOOR.area_to, DOOR.lock))
    facts = Facts(now=NIGHT, group=GUESTS)
    for changes, mode, reason in ORDER:
        facts = replace(facts, **changes)
        decision = ask(WRONG_EVERYWHERE, facts, state=state, mode=mode)
        assert (decision.granted, decision.reason) == (False, reason)
        assert decision.passage is None
        assert decision.release_ms == 0
    state.forget(1000)
    first = ask(WRONG_EVERYWHERE, facts, state=state)
    assert (first.granted, first.reason, first.flags) == (True, AccessReason.PERMITTED, FLAG_FIRST_CARD)


def test_a_permitted_card_releases_the_strike_for_the_doors_own_time() -> None:
    decision = ask(door(unlock_ms=7_000))
    assert decision == Decision(
        granted=True, reason=AccessReason.PERMITTED, release_ms=7_000, passage=Passage(0, 1, 1, None)
    )


def test_a_group_that_is_claimed_counts_only_for_the_numbers_that_may_claim_it() -> None:
    """The card proves its number, and only claims its group."""
    permissions = site(groups=(Group(STAFF, "staff", ((1, 500), (1000, 1000))), Group(GUESTS, "guests")))
    answers = {
        number: evaluate(permissions, DOOR, replace(WORKER, card=number), AccessState()).reason
        for number in (1, 500, 501, 999, 1000, 1001)
    }
    nobody = AccessReason.NO_PERMISSION
    yes = AccessReason.PERMITTED
    assert answers == {1: yes, 500: yes, 501: nobody, 999: nobody, 1000: yes, 1001: nobody}


def test_a_card_is_good_to_the_end_of_its_last_day() -> None:
    for until, granted in ((MONDAY - 1, False), (MONDAY, True), (0, True)):
        assert ask(facts=replace(WORKER, valid_until_day=until)).granted is granted


@pytest.mark.parametrize(
    ("clockless", "group", "granted"),
    [
        (Clockless.CLOSED, STAFF, False),
        (Clockless.CLOSED, GUESTS, False),
        (Clockless.UNPROFILED, STAFF, True),
        (Clockless.UNPROFILED, GUESTS, False),
    ],
)
def test_without_a_clock_a_door_lets_pass_only_whom_it_is_told_to(
    clockless: Clockless, group: int, granted: bool
) -> None:
    decision = ask(door(clockless=clockless), Facts(card=1000, group=group, now=None))
    assert decision.granted is granted
    assert granted or decision.reason is AccessReason.OUTSIDE_TIME_PROFILE


def test_a_locked_door_opens_to_no_card_and_an_unlocked_one_to_every_good_card() -> None:
    stranger_at_night = Facts(card=7, group=77, now=NIGHT)
    assert ask(facts=WORKER, mode=Mode.LOCKED).reason is AccessReason.LOCKED
    assert ask(facts=stranger_at_night, mode=Mode.UNLOCKED).granted
    assert ask(facts=replace(stranger_at_night, is_denied=True), mode=Mode.UNLOCKED).reason is AccessReason.DENY_LIST


def test_a_number_alone_is_judged_like_a_card() -> None:
    """R41: what a reader delivers that proves nothing; the record says so, the rules are the same."""
    number_only = replace(WORKER, identity=AccessIdentity.NUMBER_ONLY)
    assert ask(facts=number_only).granted
    assert ask(facts=replace(number_only, card=0)).reason is AccessReason.UNKNOWN_CARD


# -- codes


@pytest.mark.parametrize(
    ("rule", "code", "keyed", "granted", "duress"),
    [
        (DuressRule.OFF, "", "", True, False),
        (DuressRule.OFF, "", "1234", True, False),
        (DuressRule.OFF, "4711", "4711", True, False),
        (DuressRule.OFF, "4711", "4712", False, False),
        (DuressRule.OFF, "4711", "47119", False, False),
        (DuressRule.OFF, "4711", "", False, False),
        (DuressRule.PLUS_ONE, "4711", "4711", True, False),
        (DuressRule.PLUS_ONE, "4711", "4712", True, True),
        (DuressRule.PLUS_ONE, "4719", "4720", True, True),
        (DuressRule.PLUS_ONE, "9999", "0000", True, True),
        (DuressRule.PLUS_ONE, "9999", "10000", False, False),
        (DuressRule.PLUS_ONE, "0009", "0010", True, True),
        (DuressRule.PLUS_ONE, "4711", "4710", False, False),
        (DuressRule.SUFFIX, "4711", "47119", True, True),
        (DuressRule.SUFFIX, "4711", "4711", True, False),
        (DuressRule.SUFFIX, "4711", "4712", False, False),
        (DuressRule.SUFFIX, "4711", "471199", False, False),
    ],
)
def test_codes_and_duress_codes(rule: DuressRule, code: str, keyed: str, granted: bool, duress: bool) -> None:
    decision = ask(door(code=code, duress=rule), replace(WORKER, code=keyed))
    assert (decision.granted, decision.is_duress) == (granted, duress)
    assert granted or decision.reason is AccessReason.WRONG_CODE


def test_a_duress_code_opens_as_the_code_does_and_is_flagged_even_where_the_door_stays_shut() -> None:
    forced = replace(WORKER, code="4712")
    vault = door(code="4711", duress=DuressRule.PLUS_ONE)
    opened, shut = ask(vault, forced), ask(vault, replace(forced, is_denied=True))
    assert (opened.granted, opened.reason, opened.flags) == (True, AccessReason.PERMITTED, FLAG_DURESS)
    assert (shut.granted, shut.reason, shut.flags) == (False, AccessReason.DENY_LIST, FLAG_DURESS)
    assert opened.release_ms == ask(vault, replace(WORKER, code="4711")).release_ms


# -- first card


def test_nobody_passes_before_the_first_card_and_everybody_after_it() -> None:
    guarded = door(first_groups=(STAFF,), grants=((STAFF, 0), (GUESTS, 0)))
    guest, state = Facts(card=2000, group=GUESTS, now=NOON), AccessState()
    assert ask(guarded, guest, state=state).reason is AccessReason.FIRST_CARD_MISSING
    first = ask(guarded, WORKER, state=state)
    assert (first.granted, first.flags, first.passage) == (True, FLAG_FIRST_CARD, Passage(0, 1, 1, MONDAY))
    assert ask(guarded, guest, state=state).reason is AccessReason.FIRST_CARD_MISSING  # not before it is recorded
    assert first.passage is not None
    state.remember(first.passage)
    after = ask(guarded, guest, state=state)
    assert (after.granted, after.reason, after.flags) == (True, AccessReason.FIRST_CARD_SEEN, 0)
    tomorrow = replace(guest, now=LocalTime(MONDAY + 1, 0))
    assert ask(guarded, tomorrow, state=state).reason is AccessReason.FIRST_CARD_MISSING


# -- anti-passback


def two_doors(rule: AntiPassback) -> tuple[Door, Door]:
    way_in = door(anti_passback=rule)
    return way_in, door(door=2, lock=1, name="main, out", area_from=1, area_to=0, anti_passback=rule)


def test_soft_anti_passback_opens_and_says_so() -> None:
    way_in, _ = two_doors(AntiPassback.SOFT)
    state = AccessState()
    state.remember(Passage(1000, 1, 1))
    decision = ask(way_in, state=state)
    assert (decision.granted, decision.reason) == (True, AccessReason.ANTI_PASSBACK)


def test_a_card_that_is_forgotten_may_pass_once_more_and_is_counted() -> None:
    way_in, _ = two_doors(AntiPassback.HARD)
    state = AccessState(cards_max=2)
    for card in (1000, 1001, 1002):
        state.remember(Passage(card, 1, 1))
    assert (len(state), state.forgotten) == (2, 1)
    assert ask(way_in, WORKER, state=state).granted
    assert not ask(way_in, replace(WORKER, card=1001), state=state).granted
    state.remember(Passage(1001, 1, 1))  # seen again: 1002 is now the oldest
    state.remember(Passage(1003, 1, 1))
    assert (state.area_of(1001), state.area_of(1002)) == (1, None)


people = st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=60)


@given(people, st.integers(1, 5))
def test_hard_anti_passback_never_grants_twice_in_the_same_direction(walk: list[tuple[int, bool]], room: int) -> None:
    doors = two_doors(AntiPassback.HARD)
    permissions, state = site(*doors), AccessState(cards_max=room)
    inside: dict[int, bool] = {}
    for card, goes_out in walk:
        forgotten = state.area_of(card) is None
        decision = evaluate(permissions, doors[goes_out], replace(WORKER, card=card), state)
        if decision.granted:
            assert decision.passage is not None
            assert forgotten or inside[card] is goes_out, "twice in the same direction"
            inside[card] = not goes_out
            state.remember(decision.passage)
        else:
            assert decision.reason is AccessReason.ANTI_PASSBACK
            assert inside[card] is not goes_out, "shut before somebody who did nothing wrong"
        assert len(state) <= room


facts = st.builds(
    Facts,
    card=st.integers(0, 3),
    group=st.sampled_from([STAFF, GUESTS, 0, 255]),
    valid_until_day=st.sampled_from([0, MONDAY - 1, MONDAY]),
    is_denied=st.booleans(),
    is_genuine=st.booleans(),
    code=st.sampled_from(["", "4711", "4712"]),
    now=st.none() | st.builds(LocalTime, st.integers(MONDAY, MONDAY + 7), st.integers(0, 1439)),
)
some_doors = st.builds(
    door,
    grants=st.sampled_from([(), ((STAFF, 0),), ((GUESTS, OFFICE_HOURS),), ((STAFF, OFFICE_HOURS), (GUESTS, 0))]),
    clockless=st.sampled_from(Clockless),
    code=st.sampled_from(["", "4711"]),
    anti_passback=st.sampled_from(AntiPassback),
)


@given(some_doors, facts, st.sampled_from([Mode.NORMAL, Mode.LOCKED]))
def test_nothing_is_ever_granted_without_a_permission(at: Door, given_facts: Facts, mode: Mode) -> None:
    """Said again in other words than the evaluator's: whoever passes has a grant whose time has come."""
    decision = ask(at, given_facts, mode=mode)
    if not decision.granted:
        assert decision.release_ms == 0
        assert decision.passage is None
        return
    now = given_facts.now
    in_hours = now is not None and (now.day - MONDAY) % 7 < 5 and 480 <= now.minute < 1080
    has_grant = (given_facts.group, 0) in at.grants or (in_hours and (given_facts.group, OFFICE_HOURS) in at.grants)
    assert has_grant
    assert given_facts.card
    assert given_facts.is_genuine
    assert not given_facts.is_denied
    assert mode is Mode.NORMAL
    assert now is not None or at.clockless is Clockless.UNPROFILED
    assert not at.code or given_facts.code == "4711"


@given(some_doors, facts)
def test_asking_changes_nothing(at: Door, given_facts: Facts) -> None:
    state = AccessState()
    first = ask(at, given_facts, state=state)
    assert len(state) == 0
    assert ask(at, given_facts, state=state) == first


def test_no_repr_shows_a_whole_card_number() -> None:
    shown = f"{Facts(card=12345678)} {Passage(12345678, 1, 1)}"
    assert "…5678" in shown
    assert "12345678" not in shown
