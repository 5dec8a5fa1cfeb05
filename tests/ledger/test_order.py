"""The books do not depend on the order in which batches come, nor on how often (R16, R18–R23)."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ledger_sync.ledger.report import report
from protocol.codes import RecordType
from protocol.record_bodies import Booking, Cancellation, Collection, Load, Purchase, Refund
from tests.ledger.canteen import NOW_MS, Canteen, Card, Till, assert_sound

MEMORY_CARD = 3
STATION = 12
LIMIT_CENTS = 900
ORDERS = [(1, 1, 500), (2, 1, 700), (3, 2, 900), (4, MEMORY_CARD, 300)]
"""(order, card, cents), made before the day begins."""
WHAT = (
    "purchase", "purchase", "purchase", "grey", "spent grey", "carry", "refund", "book", "cancel", "collect", "load",
    "not executed", "memory", "none",
)  # fmt: skip


MINUS = ("bookings",)
INSIDE = ("refunds", "collected_twice")
"""Parts that merchants have had taken off already, or that moved nothing at all."""


class Site:
    """What a few tills and cards do in a day; the last till is a load station."""

    def __init__(self) -> None:
        self.cards = [Card(1), Card(2)]
        self.memory = Card(MEMORY_CARD)
        self.tills = [Till(10), Till(11, merchant=9002), Till(STATION)]
        self.waiting: list[tuple[Till, dict[str, Any]]] = []

    def proof(self, data: st.DrawFn, till: Till, card: Card, kind: Any, cents: int, **more: Any) -> list[bytes]:
        """A record of that kind; or a grey or doubt of it, whose proof another till will carry in."""
        reference, attempted = more["reference"], int(kind.TYPE)
        if data(st.booleans()):
            return [till.does(kind, card, cents, **more)]
        if attempted == RecordType.BOOKING:
            record = till.grey(card, cents, attempted_type=attempted)
        else:
            record = till.doubt(card, cents, attempted, reference)
        facts = card.debit(till, cents, sequence=till.next - 1, type_=attempted)
        self.waiting.append((till, facts | {"original_type": attempted, "reference": reference}))
        return [record]

    def do(self, draw: st.DrawFn, till: Till) -> list[bytes]:
        card = draw(st.sampled_from(self.cards))
        cents = draw(st.integers(1, 900))
        what = draw(st.sampled_from(WHAT))
        serial = draw(st.integers(1, 3))
        if what == "purchase":
            return [till.purchase(card, cents)]
        if what == "grey":
            return [till.grey(card, cents)]
        if what == "spent grey":
            record = till.grey(card, cents)
            self.waiting.append((till, card.debit(till, cents, sequence=till.next - 1)))
            return [record]
        if what == "carry" and self.waiting:
            origin, proof = self.waiting.pop(0)
            if draw(st.booleans()):
                self.waiting.append((origin, proof))  # and a third till carries it in again
            return [till.completion(proof)]
        if what == "refund":
            reference = draw(st.integers(1, max(1, till.next - 1)))
            return self.proof(draw, till, card, Refund, draw(st.integers(1, 60)), reference=reference)
        if what in ("book", "cancel", "collect"):
            kind = {"book": Booking, "cancel": Cancellation, "collect": Collection}[what]
            return self.proof(draw, till, card, kind, 100 * serial, reference=serial)
        if what in ("load", "not executed"):
            number, of, amount = draw(st.sampled_from(ORDERS))
            stated = draw(st.sampled_from([amount, amount, amount + 1]))
            serial = 2 if number == 2 else 1
            who = next(each for each in (*self.cards, self.memory) if each.number == of)
            if what == "not executed":
                return [till.not_executed(who, stated, serial, number)]
            if who is self.memory:
                return [till.does(Load, who, stated, reference=serial, order=number, proof=bytes(8))]
            return self.proof(draw, till, who, Load, stated, reference=serial, order=number)
        if what == "memory":
            return [till.does(Purchase, self.memory, cents, proof=bytes(8))]
        return [till.aborted()]


@st.composite
def days(draw: st.DrawFn) -> tuple[Site, list[bytes]]:
    """Rows of one to four records, in the order of each till."""
    site = Site()
    rows: list[bytes] = []
    for _ in range(draw(st.integers(1, 14))):
        till = draw(st.sampled_from(site.tills))
        records: list[bytes] = []
        for _ in range(draw(st.integers(1, 4))):
            records += site.do(draw, till)
        rows.append(till.row(*records))
    return site, rows


def books_of(site: Site, batches: list[list[bytes]], *, is_audited: bool = False) -> tuple[Any, ...]:
    """Balances and the report's view after posting these batches."""
    with tempfile.TemporaryDirectory() as directory:
        canteen = Canteen(Path(directory), cards=site.cards, limit_cents=LIMIT_CENTS)
        try:
            *tills, station = site.tills
            canteen.operate("register", terminals=[*(till.registered() for till in tills), station.registered(kind=4)])
            canteen.operate("card_issue", cards=[site.memory.registered(kind=2)])
            for _, card, cents in ORDERS:
                canteen.operate("topup", card=card, amount_cents=cents)
            for rows in batches:
                canteen.post_batch(canteen.batch(*rows))
            found = report(canteen.ledger.connection, now_ms=NOW_MS)
            assert found["double_posted"] == 0
            assert found["conservation"]["difference_cents"] == 0
            if is_audited:
                assert_sound(canteen)
            assert_records_and_money_meet(found)
            execute = canteen.ledger.connection.execute
            suspense = execute(
                "SELECT kind, terminal, epoch, sequence, amount_cents FROM suspense WHERE resolved_position IS NULL"
                " ORDER BY 1, 2, 3, 4"
            ).fetchall()
            orders = execute("SELECT load_order, state, refused_by IS NULL FROM load_orders ORDER BY 1").fetchall()
            claims = execute(
                "SELECT type, terminal, epoch, sequence, card, counter, amount_cents, merchant, is_met FROM claims"
                " ORDER BY 1, 2, 3, 4, 5, 6"
            ).fetchall()
            gaps = [{**item, "since_ms": 0} for item in found["open_items"]["gap"]["listed"]]
            apart = {kind: one["amount_cents"] for kind, one in found["apart"].items()}
            return canteen.balances(), found["records"], found["merchants"], suspense, gaps, orders, claims, apart
        finally:
            canteen.close()


def assert_records_and_money_meet(found: dict[str, Any]) -> None:
    """docs/money.md, "Agreement"; there is no fork here, but for sequences that a carried proof contradicts."""
    if found["forks"]:
        return
    books, apart = found["conservation"], found["apart"]
    money = sum(
        books[f"{kind}_cents"]
        for kind in ("merchant", "booked_meals", "refund_exceptions", "suspense_grey", "suspense_unproven")
    )
    records = found["records"]["amount_cents"] + found["open_items"]["completion"]["amount_cents"]
    between = sum(apart[kind]["amount_cents"] for kind in ("loads", "cancelled_twice", "doubts_proved"))
    assert money == records + between
    assert_merchants_have_what_their_records_say(found)


def assert_merchants_have_what_their_records_say(found: dict[str, Any]) -> None:
    """The same merchant by merchant, as the page says."""
    expected: dict[int, int] = {one["merchant"]: one["amount_cents"] for one in found["records"]["by_merchant"]}
    items, apart = found["open_items"], found["apart"]
    plus = [items["completion"], *(apart[kind] for kind in apart if kind not in MINUS and kind not in INSIDE)]
    minus = [items["grey"], items["over_limit"], *(apart[kind] for kind in MINUS)]
    for sign, parts in ((1, plus), (-1, minus)):
        for part in parts:
            for merchant, cents in part["by_merchant"].items():
                expected[int(merchant)] = expected.get(int(merchant), 0) + sign * cents
    owed = {one["merchant"]: one["balance_cents"] for one in found["merchants"] if one["balance_cents"]}
    assert owed == {merchant: cents for merchant, cents in expected.items() if cents}


@settings(max_examples=50)
@given(st.data())
def test_shuffled_and_repeated_batches_make_the_same_books(data: st.DataObject) -> None:
    site, rows = data.draw(days())
    assume(rows)
    expected = books_of(site, [rows])
    shuffled = data.draw(st.permutations(rows + data.draw(st.lists(st.sampled_from(rows), max_size=4))))
    cut = data.draw(st.integers(1, 5))
    batches = [shuffled[at : at + cut] for at in range(0, len(shuffled), cut)]
    assert books_of(site, batches, is_audited=True) == expected
