"""The books do not depend on the order in which batches come, nor on how often (R16, R18–R20)."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ledger_sync.ledger.report import report
from tests.ledger.canteen import NOW_MS, Canteen, Card, Till


@st.composite
def days(draw: st.DrawFn) -> tuple[list[Card], list[Till], list[bytes]]:
    """What a few tills and cards did, as rows of one to four records, in the order of each till."""
    cards = [Card(1 + number) for number in range(3)]
    tills = [Till(10 + number) for number in range(3)]
    waiting: list[tuple[Till, dict[str, Any]]] = []
    rows: list[bytes] = []
    for _ in range(draw(st.integers(1, 12))):
        till = draw(st.sampled_from(tills))
        records = []
        for _ in range(draw(st.integers(1, 4))):
            card = draw(st.sampled_from(cards))
            cents = draw(st.integers(1, 900))
            match draw(st.sampled_from(["purchase", "purchase", "grey", "spent grey", "lost record", "carry", "none"])):
                case "purchase":
                    records.append(till.purchase(card, cents))
                case "grey":
                    records.append(till.grey(card, cents))
                case "spent grey":  # the debit happened: the card has the proof, another till will carry it in
                    records.append(till.grey(card, cents))
                    waiting.append((till, card.debit(till, cents, sequence=till.next - 1)))
                case "lost record":  # made, and perhaps never uploaded
                    record = till.purchase(card, cents)
                    if draw(st.booleans()):
                        rows.append(till.row(record))
                    records = []
                case "carry" if waiting:
                    origin, proof = waiting.pop(0)
                    records.append(till.completion(proof))
                    if draw(st.booleans()):
                        waiting.append((origin, proof))  # and a third till carries it in again
                case _:
                    records.append(till.aborted())
        if records:
            rows.append(till.row(*records))
    return cards, tills, rows


def books_of(cards: list[Card], tills: list[Till], batches: list[list[bytes]]) -> tuple[Any, ...]:
    """Balances and the report's view after posting these batches."""
    with tempfile.TemporaryDirectory() as directory:
        canteen = Canteen(Path(directory), cards=cards, tills=tills)
        try:
            for rows in batches:
                canteen.post_batch(canteen.batch(*rows))
            found = report(canteen.ledger.connection, now_ms=NOW_MS)
            assert found["double_posted"] == 0
            assert found["conservation"]["difference_cents"] == 0
            suspense = canteen.ledger.connection.execute(
                "SELECT kind, terminal, epoch, sequence, amount_cents FROM suspense WHERE resolved_position IS NULL"
                " ORDER BY 1, 2, 3, 4"
            ).fetchall()
            gaps = [{**item, "since_ms": 0} for item in found["open_items"]["gap"]["listed"]]
            return canteen.balances(), found["records"], found["merchants"], suspense, gaps
        finally:
            canteen.close()


@settings(max_examples=60)
@given(st.data())
def test_shuffled_and_repeated_batches_make_the_same_books(data: st.DataObject) -> None:
    cards, tills, rows = data.draw(days())
    assume(rows)
    expected = books_of(cards, tills, [rows])
    shuffled = data.draw(st.permutations(rows + data.draw(st.lists(st.sampled_from(rows), max_size=4))))
    cut = data.draw(st.integers(1, 5))
    batches = [shuffled[at : at + cut] for at in range(0, len(shuffled), cut)]
    assert books_of(cards, tills, batches) == expected
