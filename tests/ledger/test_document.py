"""docs/ledger.md: its SQL, run as it stands there with another SQLite library, says what the report says."""

import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import pytest

from ledger_sync.ledger.accounts import SOURCES, AccountKind
from ledger_sync.ledger.report import DOUBLE_POSTED, report
from ledger_sync.ledger.tables import TABLES
from protocol.codes import RecordType, RowKind
from protocol.record_bodies import Booking, Cancellation, Collection, Load, Refund
from tests.ledger.canteen import NOW_MS, Canteen, Card, Till

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
BLOCKS = dict(re.findall(r"```sql (\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[dict[str, Any], sqlite3.Connection]]:
    """The report of a ledger in which everything happens, and the closed file as an auditor opens it."""
    card, other = Card(1), Card(2)
    till, second = Till(5), Till(6, merchant=9002)
    canteen = Canteen(tmp_path, cards=[card, other], tills=[till, second])
    rows = [till.row(till.purchase(card, 100), till.grey(other, 40), till.aborted())]
    proof = other.debit(till, 40, sequence=2)
    till.purchase(card, 33)
    rows.append(till.row(till.purchase(Card(77), 8)))
    till.purchase(card, 1)
    rows.append(till.baseline())
    canteen.post(*rows)
    canteen.post(second.row(second.purchase(card, 5, proof=bytes(8)), second.completion(proof), second.grey(card, 9)))
    fork = till.forge(1, till.grey_body(other, 7), kind=RecordType.GREY, cents=7)
    ahead = second.completion(other.debit(till, 66))
    canteen.post(till.row(fork, kind=RowKind.SUSPECT), second.row(ahead), rows[0])
    canteen.operate("topup", card=2, amount_cents=500)
    canteen.operate("topup", card=2, amount_cents=300)
    canteen.post(second.row(
        *(second.does(Booking, card, 120, reference=serial) for serial in (1, 2, 3)),
        second.does(Collection, card, 120, reference=1), second.does(Cancellation, card, 120, reference=2),
        second.does(Cancellation, card, 120, reference=1), second.does(Refund, card, 11, reference=1),
        second.does(Load, other, 300, reference=2, order=2), second.does(Load, other, 17, reference=9, order=9),
    ))  # fmt: skip
    found = report(canteen.ledger.connection, now_ms=NOW_MS)
    canteen.close()
    with closing(sqlite3.connect(f"file:{canteen.paths.database}?mode=ro", uri=True)) as connection:
        yield found, connection


def test_every_block_of_the_page_is_checked_here() -> None:
    checked = set(re.findall(r'ask\(connection, "(\w+)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert set(BLOCKS) == checked
    assert " ".join(BLOCKS["double_posted"].split()).rstrip(" ;") == " ".join(DOUBLE_POSTED.split())


def ask(connection: sqlite3.Connection, block: str) -> list[tuple[Any, ...]]:
    return connection.execute(BLOCKS[block]).fetchall()


def test_an_auditor_finds_the_totals_of_the_report(busy: tuple[dict[str, Any], sqlite3.Connection]) -> None:
    found, connection = busy
    assert ask(connection, "conservation") == [(0,)]
    assert ask(connection, "unbalanced") == []
    assert ask(connection, "wrong_balances") == []
    assert ask(connection, "batch_against_records") == []
    books = found["conservation"]
    for kind, cents in ask(connection, "kinds"):
        sign = -1 if kind in SOURCES else 1
        assert books[f"{AccountKind(kind).name.lower()}_cents"] == sign * cents
    merchants = [(one["merchant"], one["balance_cents"]) for one in found["merchants"]]
    assert ask(connection, "merchants") == merchants == [(9001, 214), (9002, 120)]
    days = sorted((one["merchant"], one["booking_day"], one["amount_cents"]) for one in found["merchant_days"])
    assert ask(connection, "merchant_days") == days
    assert sum(cents for _, _, cents in days) == sum(cents for _, cents in merchants)
    records = found["records"]
    assert ask(connection, "records") == [(records["count"], records["amount_cents"])]
    assert ask(connection, "records_by_merchant") == [tuple(one.values()) for one in records["by_merchant"]]
    assert ask(connection, "records_by_terminal_day") == [tuple(one.values()) for one in records["by_terminal_day"]]
    assert ask(connection, "double_posted") == [(found["double_posted"],)] == [(0,)]
    open_items = found["open_items"]
    suspense = {kind: (count, cents) for kind, count, cents in ask(connection, "suspense")}
    assert suspense["grey"] == (open_items["grey"]["items"], books["suspense_grey_cents"]) == (1, 9)
    assert suspense["unproven"] == (open_items["suspect"]["items"], books["suspense_unproven_cents"]) == (1, 7)
    assert ask(connection, "loads") == [(books["loads_in_flight_cents"],)] == [(500,)]
    assert ask(connection, "booked_meals") == [(books["booked_meals_cents"],)] == [(120,)]
    exceptions = found["exceptions"]
    kinds = {3: "refund_exception", 4: "load_without_order", 33: "meal_twice"}
    unmet = ask(connection, "unmet_claims")
    assert unmet == [
        (kind, exceptions[name]["items"], exceptions[name]["amount_cents"]) for kind, name in kinds.items()
    ]
    assert (-books["refund_exceptions_cents"], books["loads_without_order_cents"]) == (11, 17)
    apart = [(kind, int(merchant), cents) for kind, merchant, _, cents in ask(connection, "apart")]
    assert apart == sorted(
        (kind, int(merchant), cents)
        for kind, one in found["apart"].items()
        for merchant, cents in one["by_merchant"].items()
    )
    holes = ask(connection, "card_holes")
    assert len(holes) == found["card_holes"]["items"] > 0
    counts = found["counts"]
    names = ("batches", "posted", "duplicates", "quarantined", "posted_cents", "results")
    assert ask(connection, "counts") == [tuple(counts[name] for name in names)]


def test_an_auditor_finds_the_missing_sequences(busy: tuple[dict[str, Any], sqlite3.Connection]) -> None:
    found, connection = busy
    missing = ask(connection, "missing")
    assert missing == [(5, 1, 4, 4, 33), (5, 1, 6, 6, None), (6, 1, 1, 1, 5)]
    items = [one for kind in ("gap", "quarantine") for one in found["open_items"][kind]["listed"]]
    listed = sorted((one["terminal"], one["epoch"], one["first"], one["last"], one["amount_cents"]) for one in items)
    assert listed == missing


def test_an_auditor_finds_records_whose_running_sums_do_not_follow(tmp_path: Path) -> None:
    till, card = Till(5), Card(1)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    first = till.purchase(card, 10)
    till.count, till.sum_cents = till.count + 1, till.sum_cents + 25  # it has counted a sale that it has no record of
    second = till.purchase(card, 5)
    till.sum_cents -= 3
    canteen.post(till.row(first, second, till.aborted(), till.purchase(card, 1)))
    found = report(canteen.ledger.connection, now_ms=NOW_MS)["open_items"]
    canteen.close()
    with closing(sqlite3.connect(f"file:{canteen.paths.database}?mode=ro", uri=True)) as connection:
        differing = ask(connection, "sums_differ")
        assert ask(connection, "missing") == []
    assert differing == [(5, 1, 2, 25), (5, 1, 3, -3)]
    items = found["sums_differ"]["listed"]
    assert [(one["terminal"], one["epoch"], one["first"], one["amount_cents"]) for one in items] == differing
    assert items[0]["detail"] == "running sums differ: +1 records besides those that are there"
    assert [kind for kind, one in found.items() if one["items"]] == ["sums_differ"]


def test_records_that_follow_each_other_differ_in_no_sum(busy: tuple[dict[str, Any], sqlite3.Connection]) -> None:
    found, connection = busy
    assert ask(connection, "sums_differ") == []
    assert found["open_items"]["sums_differ"]["items"] == 0


def test_the_chain_can_be_recomputed_from_the_page_alone(
    busy: tuple[dict[str, Any], sqlite3.Connection],
) -> None:
    found, connection = busy
    chain = bytes(32)
    for position, frontend, spool, first, last, results in connection.execute(
        "SELECT position, frontend, spool, first_row, last_row, results FROM batches ORDER BY position"
    ):
        digest = sha256()
        for row_id, packed in connection.execute(
            "SELECT row_id, packed FROM evidence WHERE position = ? ORDER BY row_id", (position,)
        ):
            digest.update(struct.pack("!Q", row_id) + packed)
        name = struct.pack("!I16sQQ32s", frontend, spool, first, last, digest.digest())
        chain = sha256(b"onecard.chain.v1\0" + chain + name + sha256(results).digest()).digest()
    assert chain.hex() == found["chain"]


def test_every_table_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for table in re.findall(r"CREATE TABLE (\w+)", TABLES):
        assert f"`{table}`" in text, table


def test_the_schema_is_strict_and_without_tables_that_were_measured_slow(tmp_path: Path) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(TABLES)
    for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"):
        assert str(sql).rstrip().endswith("STRICT"), name
    connection.close()
