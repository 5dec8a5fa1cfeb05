"""The short way of plain purchases: it makes, row for row, what judging each record alone makes (R19)."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.books import Books
from ledger_sync.ledger.purchases import Purchases
from ledger_sync.ledger.tables import DERIVED_TABLES
from protocol.record_bodies import Refund
from tests.ledger.canteen import OPENING_CENTS, Canteen, Card, Till, assert_sound

CARDS, TILLS = 4, 3
SEEDS = range(12)


@pytest.fixture
def card() -> Card:
    return Card(1001)


@pytest.fixture
def tills() -> list[Till]:
    return [Till(51), Till(52, merchant=9002)]


@pytest.fixture
def canteen(tmp_path: Path, card: Card, tills: list[Till]) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card, Card(1002)], tills=tills)
    yield made
    assert_sound(made)
    made.close()


def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences that did not take the short way, noted from here on."""
    from ledger_sync.ledger.judge import Judge

    found: list[int] = []
    judge = Judge.judge

    def noted(self: Judge, record: Any, body: Any) -> Any:
        found.append(record.head.sequence)
        return judge(self, record, body)

    monkeypatch.setattr(Judge, "judge", noted)
    return found


def mischief(draw: random.Random, till: Till, cards: list[Card]) -> bytes:
    """One record: mostly a purchase, now and then something that the short way must leave alone."""
    card = draw.choice(cards)
    what = draw.randrange(20)
    if what == 0:
        return till.aborted()
    if what == 1:
        return till.purchase(card, 10, proof=bytes(8))
    if what == 2:
        card.counter -= 1  # a cloned card
        return till.purchase(card, 10)
    if what == 3:
        return till.grey(card, 25)
    if what == 4:
        record = till.purchase(card, 10)
        return record[:-1] + bytes([record[-1] ^ 1])
    if what == 5 and till.next > 1:
        return till.does(Refund, card, 5, reference=till.next - 1, operator_card=77)
    if what == 6:
        return till.purchase(Card(5000 + draw.randrange(3)), 10)  # nobody issued it
    if what == 7:
        return till.completion(card.debit(till, 15, sequence=till.next + draw.randrange(3)))
    return till.purchase(card, draw.randrange(1, OPENING_CENTS // 8))


def tables_of(directory: Path, seed: int) -> dict[str, list[tuple[Any, ...]]]:
    """A day of mischief in frames, batches shuffled and repeated; every derived table afterwards."""
    directory.mkdir()
    draw = random.Random(seed)
    cards = [Card(1001 + at) for at in range(CARDS)]
    tills = [Till(51 + at, merchant=9001 + at) for at in range(TILLS)]
    canteen = Canteen(directory, cards=cards, tills=tills)
    canteen.operate("lost", card=1004)
    records: dict[Till, list[bytes]] = {till: [] for till in tills}
    for _ in range(90):
        till = draw.choice(tills)
        records[till].append(mischief(draw, till, cards))
    rows = []
    for till, made in records.items():
        while made:
            count = draw.randrange(1, 9)
            rows.append(till.row(*made[:count]))
            del made[:count]
    draw.shuffle(rows)
    rows += draw.choices(rows, k=3)
    while rows:
        count = draw.randrange(1, 8)
        canteen.post(*rows[:count])
        del rows[:count]
    assert_sound(canteen)
    execute = canteen.ledger.connection.execute
    found = {table: list(execute(f"SELECT * FROM {table} ORDER BY {key}")) for table, key in DERIVED_TABLES}
    canteen.close()
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_short_way_makes_what_judging_each_record_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    print(f"seed {seed}")
    short = tables_of(tmp_path / "short", seed)
    monkeypatch.setattr(Purchases, "check", lambda *_, **__: [])
    long = tables_of(tmp_path / "long", seed)
    for table, rows in long.items():
        assert short[table] == rows, table


def test_a_backlog_that_brings_a_later_counter_first_takes_the_short_way(
    canteen: Canteen, card: Card, tills: list[Till], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged(monkeypatch)
    one, two = tills
    first, second, third = one.purchase(card, 10), two.purchase(card, 20), one.purchase(card, 30)
    assert canteen.post(two.row(second)) == [0]
    assert canteen.post(one.row(first, third)) == [0, 0]
    assert found == []
    assert canteen.balance(3, 1001) == OPENING_CENTS - 60


def test_a_late_counter_is_compared_with_both_its_neighbours(canteen: Canteen, card: Card, tills: list[Till]) -> None:
    one, two = tills
    first, second = one.purchase(card, 10), one.purchase(card, 20)
    card.balance_cents += 1  # the card says something else from here on
    late, last = two.purchase(card, 30), one.purchase(card, 40)
    assert canteen.post(one.row(first, second), one.row(last)) == [0, 0, 0]
    assert canteen.post(two.row(late)) == [0x03]


def test_a_counter_used_twice_is_found_within_one_batch_and_below_the_highest(
    canteen: Canteen, card: Card, tills: list[Till]
) -> None:
    one, two = tills
    first = one.purchase(card, 10)
    card.counter, card.balance_cents = 0, OPENING_CENTS
    twin = two.purchase(card, 10)
    card.counter = 1
    second = one.purchase(card, 5)
    assert canteen.post(one.row(first, second), two.row(twin)) == [0, 0, 0x04]


def test_a_late_purchase_whose_refund_has_come_is_judged_and_meets_it(
    canteen: Canteen, card: Card, tills: list[Till], monkeypatch: pytest.MonkeyPatch
) -> None:
    till = tills[0]
    purchase, refund = till.purchase(card, 80), till.does(Refund, card, 30, reference=1, operator_card=77)
    found = judged(monkeypatch)
    assert canteen.post(till.row(refund)) == [0x0C]
    assert canteen.post(till.row(purchase)) == [0]
    assert found == [2, 1]
    assert canteen.balance(11, 9001) == 0
    assert canteen.balance(7, 9001) == 50


def test_one_record_of_another_kind_does_not_keep_its_frame_from_the_short_way(
    canteen: Canteen, card: Card, tills: list[Till], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged(monkeypatch)
    till = tills[0]
    records = [till.purchase(card, 10), till.purchase(card, 10), till.aborted(), till.purchase(card, 10)]
    assert canteen.post(till.row(*records)) == [0, 0, 0x20, 0]
    assert found == [3]


def test_entries_of_a_run_are_in_the_order_of_their_postings(canteen: Canteen, card: Card, tills: list[Till]) -> None:
    till = tills[0]
    records = [till.purchase(card, 10), till.grey(Card(1002), 7), till.purchase(card, 20), till.purchase(card, 30)]
    canteen.post(till.row(*records))
    entries = canteen.ledger.connection.execute(
        "SELECT posting, account, amount_cents FROM entries WHERE position = 1 ORDER BY entry"
    ).fetchall()
    mirror, other = 3 << 32 | 1001, 3 << 32 | 1002
    assert entries == [
        (1, mirror, -10), (2, other, -7), (3, mirror, -20), (4, mirror, -30), (None, 5 << 32, 7),
        (None, 7 << 32 | 9001, 60),
    ]  # fmt: skip


def test_cards_of_a_batch_are_loaded_at_once_and_unknown_ones_are_none(canteen: Canteen) -> None:
    books = Books(canteen.ledger.connection)
    books.load_cards({1001, 1002, 7})
    assert set(books.cards) == {1001, 1002}
    assert books.card(7) is None
