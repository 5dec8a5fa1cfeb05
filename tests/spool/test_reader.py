"""Reading a spool from beside: totals, merchants, rows with masked cards, what is stuck, verify."""

from pathlib import Path

import apsw
import pytest

from ledger_sync.errors import SpoolFailure
from ledger_sync.spool import Spool
from ledger_sync.spool.reader import SpoolReader
from protocol.codes import RecordType, RowKind
from tests.spool.kit import FRONTEND, Terminal, append_one, open_spool, prune_after, receipt_for


def made(path: Path) -> tuple[Spool, list[Terminal]]:
    spool = open_spool(path)
    terminals = [Terminal(1, merchant=501), Terminal(2, merchant=502)]
    spool.append([each.frame(1, 16) for each in terminals])
    spool.append([terminals[0].frame(21, 24), terminals[1].tombstone(17, 18)])
    return spool, terminals


def test_totals_read_from_beside_are_the_spools_own(tmp_path: Path) -> None:
    spool, _ = made(tmp_path / "spool.db")
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        totals = reader.totals()
        assert [tuple(each.values()) for each in totals] == [
            (t.terminal, t.epoch, t.trade_day, t.type, t.count, t.cents) for t in spool.totals()
        ]
        assert reader.identity()["spool_id"] == spool.identity.spool_id.hex()
        assert reader.identity()["frontend"] == FRONTEND
    spool.close()


def test_merchants_are_summed_from_the_rows(tmp_path: Path) -> None:
    spool, terminals = made(tmp_path / "spool.db")
    append_one(spool, terminals[0].forked(14).frame(15, 16))
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        merchants = reader.merchants()
    cents = {(each["merchant"], each["type"]): each["cents"] for each in merchants}
    assert cents[502, RecordType.PURCHASE] + cents[502, RecordType.GREY] == terminals[1].cents(1, 16)
    assert sum(c for (merchant, _), c in cents.items() if merchant == 501) == terminals[0].cents(1, 16) + terminals[
        0
    ].cents(21, 24)
    spool.close()


def test_rows_show_records_with_masked_cards(tmp_path: Path) -> None:
    spool, _ = made(tmp_path / "spool.db")
    batch = spool.claim(0, 1)
    assert batch is not None
    spool.settle(receipt_for(batch))
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        listed = reader.rows()
        assert [(row.row, row.kind, row.settled) for row in listed] == [
            (1, RowKind.RECORDS, True),
            (2, RowKind.RECORDS, False),
            (3, RowKind.RECORDS, False),
            (4, RowKind.TOMBSTONE, False),
        ]
        first = listed[0].records[0]
        assert (first.sequence, first.amount_cents, first.merchant, first.card) == (1, 101, 501, "…3456")
        assert "123456" not in repr(listed)
        assert [row.row for row in reader.rows(terminal=2)] == [2, 4]
        assert [row.row for row in reader.rows(unsettled=True, limit=2)] == [2, 3]
        assert [row.row for row in reader.rows(after_row=3)] == [4]
        assert reader.unsettled() == (3, 2)
        assert [row for row, _ in reader.unsettled_rows(2)] == [2, 3]
    spool.close()


def test_epochs_name_ranges_tombstones_and_gaps(tmp_path: Path) -> None:
    spool, _ = made(tmp_path / "spool.db")
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        one, two = reader.epochs()
    assert (one["ranges"], one["gaps"], one["tombstones"]) == ([(1, 16), (21, 24)], [(17, 20)], [])
    assert (two["ranges"], two["gaps"], two["tombstones"]) == ([(1, 18)], [], [(17, 18)])
    spool.close()


def test_a_reader_sees_one_moment_and_works_without_a_server(tmp_path: Path) -> None:
    spool, terminals = made(tmp_path / "spool.db")
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        before = reader.totals()
        append_one(spool, terminals[0].frame(17, 20))
        assert reader.totals() == before
    spool.close()
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        assert reader.totals() != before
        assert reader.verify() == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    spool, _ = made(tmp_path / "spool.db")
    with pytest.raises(SpoolFailure), SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        reader._connection.execute("DELETE FROM rows")
    spool.close()


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SpoolFailure), SpoolReader.open(str(tmp_path / "none.db")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_sound_spool_verifies_before_and_after_pruning(tmp_path: Path) -> None:
    spool, _ = made(tmp_path / "spool.db")
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        assert reader.verify() == []
    batch = spool.claim(0, 2)
    assert batch is not None
    spool.settle(receipt_for(batch))
    assert prune_after(spool, 8) == 2
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        assert reader.verify() == []
    spool.close()


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("DELETE FROM rows WHERE id = 1", "no row does"),
        ("DELETE FROM ranges WHERE terminal = 1 AND first = 21", "the ranges do not"),
        ("UPDATE totals SET count = count + 1 WHERE terminal = 2", "totals count"),
        ("UPDATE rows SET bytes = zeroblob(40) WHERE id = 2", "row 2: packed row"),
        (
            "INSERT INTO rows SELECT 99, terminal, epoch, kind, first, last, bytes FROM rows WHERE id = 1",
            "stored twice",
        ),
        ("DELETE FROM tombstones", "no row does"),
        ("INSERT INTO tombstones VALUES (1, 1, 3, 4)", "a tombstone too"),
    ],
)
def test_verify_names_what_was_tampered_with(tmp_path: Path, tampering: str, finding: str) -> None:
    spool, _ = made(tmp_path / "spool.db")
    spool.close()
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    connection.execute(tampering)
    connection.close()
    with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
        assert any(finding in text for text in reader.verify()), reader.verify()


def test_any_flipped_byte_of_a_record_is_found_or_changes_only_what_its_seal_covers(tmp_path: Path) -> None:
    spool, _ = made(tmp_path / "spool.db")
    spool.close()
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    data = connection.execute("SELECT bytes FROM rows WHERE id = 1").get
    for offset in (0, 1, 2, 7, 11, 15, 25, 27, 31):
        broken = bytearray(data)
        broken[offset] ^= 0x80
        connection.execute("UPDATE rows SET bytes = ? WHERE id = 1", (bytes(broken),))
        with SpoolReader.open(str(tmp_path / "spool.db")) as reader:
            assert reader.verify() != [], offset
            shown = reader.rows(limit=1)[0]
            assert shown.fault or shown.records
    connection.close()
