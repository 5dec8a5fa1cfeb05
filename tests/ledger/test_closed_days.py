"""A closed day takes nothing more; what comes late keeps its trade day and books on the first open one (R25)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_sync.ledger.errors import VerbRefused
from protocol.record_bodies import Refund
from protocol.rows import PackedRow
from tests.ledger.canteen import DAY, MERCHANT, NOW_MS, Canteen, Card, Till, assert_sound

DAY_MS = 86_400_000


@pytest.fixture
def canteen(tmp_path: Path) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[Card(1001)], tills=[Till(51)])
    yield made
    assert_sound(made)
    made.close()


def days_of(canteen: Canteen) -> list[tuple[int, int]]:
    return canteen.ledger.connection.execute("SELECT trade_day, booking_day FROM postings ORDER BY posting").fetchall()  # type: ignore[return-value]


def test_a_late_record_books_on_the_first_open_day_and_keeps_its_trade_day(canteen: Canteen) -> None:
    card, till = Card(1001), Till(51)
    early, late = till.row(till.purchase(card, 100)), till.row(till.purchase(card, 20))
    assert canteen.post(early) == [0x00]
    canteen.now_ms += 3 * DAY_MS
    assert canteen.operate("close_day", day=DAY + 1) == {"closed_day": DAY + 1, "first_open_day": DAY + 2}
    assert canteen.post(late) == [0x00]
    assert days_of(canteen) == [(DAY, DAY), (DAY, DAY + 2)]
    booked = canteen.ledger.connection.execute(
        "SELECT booking_day, sum(amount_cents) FROM entries WHERE account = ? GROUP BY 1", (7 << 32 | MERCHANT,)
    ).fetchall()
    assert booked == [(DAY, 100), (DAY + 2, 20)]


def test_no_clock_moves_a_record_into_a_closed_day(canteen: Canteen) -> None:
    card, till = Card(1001), Till(51)
    canteen.now_ms += 3 * DAY_MS
    canteen.operate("close_day", day=DAY)
    record = till.purchase(card, 100)
    row = PackedRow(1, 51, 1, 1, 1, NOW_MS, record, [NOW_MS - 400 * DAY_MS]).encode()
    canteen.post(row)
    canteen.now_ms = NOW_MS  # the ledger's own clock goes back: today lies in a closed day
    canteen.post(till.row(till.purchase(card, 1)))
    assert [booking for _, booking in days_of(canteen)] == [DAY + 1, DAY + 1]


def test_a_late_record_after_a_refund_books_with_what_it_changes(canteen: Canteen) -> None:
    """The refund stood against the exceptions; its purchase moves it to the merchant, on the first open day."""
    card, till = Card(1001), Till(51)
    purchase, refund = till.row(till.purchase(card, 100)), till.row(till.does(Refund, card, 100, reference=1))
    canteen.post(refund)
    canteen.now_ms += 3 * DAY_MS
    canteen.operate("close_day", day=DAY)
    assert canteen.post(purchase) == [0x00]
    days = canteen.ledger.connection.execute("SELECT DISTINCT booking_day FROM entries WHERE position = 2").fetchall()
    assert days == [(DAY + 1,)]
    assert (canteen.balance(7, MERCHANT), canteen.balance(11, MERCHANT)) == (0, 0)


@pytest.mark.parametrize(
    ("day", "says"),
    [(DAY - 1, "closed already"), (DAY, "today cannot be closed"), (DAY + 5, "today cannot"), (-1, "day")],
)
def test_only_a_past_open_day_is_closed(canteen: Canteen, day: int, says: str) -> None:
    with pytest.raises(VerbRefused, match=says):
        canteen.operate("close_day", day=day)


def test_closing_is_in_the_operations_log(canteen: Canteen) -> None:
    canteen.now_ms += DAY_MS
    canteen.operate("close_day", day=DAY)
    last = canteen.ledger.connection.execute(
        "SELECT operator, verb, arguments FROM operations ORDER BY operation DESC LIMIT 1"
    ).fetchone()
    assert last == ("Li", "close_day", f'{{"day":{DAY}}}')
