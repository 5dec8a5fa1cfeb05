"""Records that move no money are kept and counted; a doubtful end of an epoch is not invented (R5, R11, R12, R41)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.report import report
from protocol.record_bodies import (
    Aborted,
    AccessDenied,
    AccessGranted,
    Alarm,
    Booking,
    Collection,
    DoorEvent,
    EventsLost,
    LoadNotExecuted,
    Power,
    Refusal,
    Tamper,
)
from tests.ledger.canteen import Canteen, Card, Till, assert_sound


@pytest.fixture
def till() -> Till:
    return Till(51)


@pytest.fixture
def canteen(tmp_path: Path, till: Till) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[Card(1001)], tills=[till])
    made.operate("register", terminals=[Till(70).registered(kind=3, **{"class": 2})])
    yield made
    assert_sound(made)
    made.close()


def told(canteen: Canteen) -> dict[str, Any]:
    return report(canteen.ledger.connection, now_ms=canteen.now_ms)


EVENTS: list[Any] = [
    Refusal(1001, 1, 3, 1, 2, 500), Refusal(1001, 1, 1, 1, 2, 500), Refusal(0, 1, 3, 0, 0, 500),
    AccessGranted(1001, 1, 0, 1, 0, 1, 2, 0), AccessDenied(0, 1, 2, 2, 0, 1, 2, 77), DoorEvent(2, 1, 300),
    EventsLost(40), EventsLost(2), Tamper(1), Power(2, 11_900), Alarm(1), Aborted(1, 1, 1001),
]  # fmt: skip


def test_events_are_noted_counted_by_what_they_say_and_move_nothing(canteen: Canteen, till: Till) -> None:
    before = canteen.balances()
    assert canteen.post(till.row(*(till.event(each) for each in EVENTS))) == [0x20] * len(EVENTS)
    assert canteen.balances() == before
    found = told(canteen)
    assert found["events"] == {
        "by_type": {
            "refusal": {"deny_list": 1, "balance_too_low": 2},
            "access_granted": {"permitted": 1},
            "access_denied": {"unknown_card": 1},
            "door_event": {"held_open": 1},
            "aborted": {"card_removed": 1},
            "events_lost": {"0": 2},
            "tamper": {"1": 1},
            "power": {"mains_lost": 1},
            "alarm": {"memory_warning": 1},
        },
        "records": 12,
        "events_lost": 42,
    }
    assert found["counts"]["by_type"]["6"] == 3
    assert found["open_items"]["gap"]["items"] == found["open_items"]["sums_differ"]["items"] == 0


def test_events_sent_again_are_not_counted_again(canteen: Canteen, till: Till) -> None:
    row = till.row(till.event(EventsLost(40)))
    assert [canteen.post(row), canteen.post(row)] == [[0x20], [0x01]]
    assert told(canteen)["events"]["events_lost"] == 40


def test_an_event_that_forks_is_suspect_and_not_counted(canteen: Canteen, till: Till) -> None:
    fork = till.forge(1, EventsLost(9), kind=EventsLost.TYPE)
    assert canteen.post(till.row(till.event(EventsLost(1))), till.row(fork)) == [0x20, 0x07]
    found = told(canteen)
    assert (found["events"]["events_lost"], found["open_items"]["suspect"]["items"]) == (1, 1)


@pytest.mark.parametrize("kind", [Booking, Collection])
def test_a_proxy_reports_events_and_never_money(canteen: Canteen, kind: Any) -> None:
    proxy = Till(70)
    records = [
        proxy.event(AccessGranted(1001, 1, 0, 2, 0, 1, 2, 0)),
        proxy.does(kind, Card(1001), 5, reference=1),
        proxy.event(LoadNotExecuted(1001, 5, 1, 1, 13)),
    ]
    assert canteen.post(proxy.row(*records)) == [0x20, 0x12, 0x12]


def test_an_epoch_that_says_it_has_ended_leaves_no_unknown_tail(canteen: Canteen, till: Till) -> None:
    canteen.post(till.row(till.event(Power(1))))
    canteen.operate("register", terminals=[till.registered(closed=True)])
    assert told(canteen)["open_items"]["epoch_tail"]["items"] == 1
    connection = canteen.ledger.connection
    connection.execute("UPDATE postings SET type = 0x65")  # as a record of a later terminal would be
    assert told(canteen)["open_items"]["epoch_tail"]["items"] == 0
    connection.execute("UPDATE postings SET type = 0x63")


def test_counters_that_no_proof_has_shown_are_listed_by_card(canteen: Canteen, till: Till) -> None:
    card = Card(1001)
    records = [till.purchase(card, 10) for _ in range(6)]
    canteen.post(till.row(records[1]), till.row(records[4], records[5]))
    holes = told(canteen)["card_holes"]
    assert (holes["items"], holes["counters"]) == (2, 3)
    assert [(one["card"], one["first"], one["last"]) for one in holes["listed"]] == [("…1001", 1, 1), ("…1001", 3, 4)]
    assert holes["listed"][0]["age_ms"] > 0
    canteen.post(till.row(*records[:4]))
    assert told(canteen)["card_holes"]["items"] == 0
