"""Every edit shows: each column of each protected table is altered in turn, and `verify` names it (R26)."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from ledger_sync.ledger.core import Ledger, LedgerPaths, row_digest
from ledger_sync.ledger.errors import LedgerDamaged
from ledger_sync.ledger.schema import open_writer
from ledger_sync.ledger.tables import DERIVED_TABLES
from ledger_sync.ledger.verify import Verification, verify
from protocol.codes import RecordType, RowKind
from protocol.record_bodies import Load, Power, Purchase
from tests.ledger.canteen import ZONE, Canteen, Card, PlainFiles, Till, ledger_keys


@pytest.fixture(scope="module")
def busy_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerPaths]:
    """A closed ledger with at least one row in every table."""
    card, other = Card(1001), Card(1002)
    till, second, closed = Till(1), Till(2), Till(1, epoch=2)
    canteen = Canteen(tmp_path_factory.mktemp("busy"), cards=[card, other], tills=[till, second])
    memory = Card(3001)
    canteen.operate("card_issue", cards=[memory.registered(kind=2)])
    canteen.operate("register", terminals=[till.registered(closed=True), closed.registered()])
    canteen.post(till.baseline(), till.row(till.purchase(card, 100), till.grey(other, 40), till.aborted()))
    proof = other.debit(till, 40, sequence=2)
    canteen.operate("lost", card=1001)
    fork = till.forge(3, till.grey_body(other, 7), kind=RecordType.GREY, cents=7)
    bad = second.purchase(card, 5, proof=bytes(8))
    canteen.post(second.row(bad, second.completion(proof)), till.row(fork, kind=RowKind.SUSPECT))
    canteen.operate("topup", card=1002, amount_cents=500)
    canteen.operate("release", card=1001)
    canteen.post(till.tombstone(9, 12), second.row(second.grey(other, 3)), second.row(second.records[2]))
    bad_item = canteen.ledger.connection.execute("SELECT item FROM quarantine").get
    posting = canteen.ledger.connection.execute("SELECT max(posting) FROM suspense").get
    canteen.operate("propose", subject="quarantine", item=bad_item, outcome="retry")
    canteen.operate("withdraw", subject="quarantine", item=bad_item)
    what = {"subject": "suspense", "item": posting, "outcome": "not spent"}
    canteen.operate("propose", **what, reason="the cook saw it")
    canteen.ledger.operate("confirm", what, operator="Wang", now_ms=canteen.now_ms)
    canteen.post(second.row(second.completion(other.debit(second, 3, sequence=3))))
    canteen.post(second.row(
        second.does(Load, other, 500, reference=1, order=1), second.does(Purchase, memory, 5, proof=bytes(8)),
        second.event(Power(1)),
    ))  # fmt: skip
    canteen.close()
    yield canteen.paths
    shutil.rmtree(Path(canteen.paths.database).parent)


@pytest.fixture
def paths(busy_ledger: LedgerPaths, tmp_path: Path) -> LedgerPaths:
    """A copy that a test may spoil."""
    copy = tmp_path / "copy"
    shutil.copytree(Path(busy_ledger.database).parent, copy)
    return LedgerPaths.in_directory(str(copy))


def look(paths: LedgerPaths) -> Verification:
    connection = open_writer(paths.database)
    try:
        return verify(connection, PlainFiles().read(paths.heads), ledger_keys(), utc_offset_ms=ZONE)
    finally:
        connection.close()


def alter(paths: LedgerPaths, *statements: str) -> None:
    connection = apsw.Connection(paths.database)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def columns_of(paths: LedgerPaths) -> Iterator[tuple[str, str, str]]:
    connection = open_writer(paths.database)
    tables = [*DERIVED_TABLES, ("operations", "operation"), ("evidence", "evidence")]
    for table, key in tables:
        assert connection.execute(f"SELECT count(*) FROM {table}").get > 0, f"{table} is empty"
        for row in connection.execute(f"PRAGMA table_info({table})").fetchall():
            yield table, key, str(row[1])
    connection.close()


def test_an_untouched_ledger_is_sound(paths: LedgerPaths) -> None:
    found = look(paths)
    assert found.is_sound, found.findings
    assert (found.batches, found.operations) == (5, 12)
    assert found.rows_compared >= 50


def test_every_altered_column_of_every_table_is_named(busy_ledger: LedgerPaths, tmp_path: Path) -> None:
    swept = 0
    for table, key, column in list(columns_of(busy_ledger)):
        directory = tmp_path / f"{table}.{column}"
        shutil.copytree(Path(busy_ledger.database).parent, directory)
        paths = LedgerPaths.in_directory(str(directory))
        connection = apsw.Connection(paths.database)
        (row,) = connection.execute(f"SELECT max({key}) FROM {table}").fetchone()  # type: ignore[misc]
        changed = f"""
            UPDATE {table} SET {column} = CASE typeof({column})
                WHEN 'integer' THEN iif(substr('{column}', 1, 3) = 'is_', 1 - {column}, {column} + 1)
                WHEN 'text' THEN CASE {column}
                    WHEN 'active' THEN 'cancelled' WHEN 'grey' THEN 'unproven' WHEN 'resolved' THEN 'posted'
                    WHEN 'reversed' THEN 'lapsed' WHEN 'not spent' THEN 'spent' WHEN 'suspense' THEN 'quarantine'
                    WHEN 'executed' THEN 'not_executed' ELSE {column} || ' ' END
                WHEN 'blob' THEN CAST(X'EE' || substr({column}, 2) AS BLOB)
                ELSE CASE '{column}' WHEN 'uid' THEN X'00' WHEN 'content' THEN X'00' ELSE 7 END END
            WHERE {key} = ?"""
        if (table, column) == ("meta", "one"):
            connection.close()  # the schema allows one value only
            continue
        try:
            connection.execute(changed, (row,))
        except apsw.ConstraintError:  # one of position and operation must be null
            connection.execute(f"UPDATE {table} SET operation = 7, position = NULL WHERE {key} = ?", (row,))
        connection.close()
        found = look(paths)
        named = {finding.table for finding in found.findings}
        assert table in named, f"{table}.{column} was altered, found {[str(one) for one in found.findings]}"
        if column != key:
            columns = {(one.table, one.row, one.column) for one in found.findings}
            wanted = {"digest": "packed", "position": "packed", "row_id": "packed"}.get(column, column)
            if table == "evidence":
                assert {one[2] for one in columns if one[0] == table} & {wanted, "row_id", "position"}
            else:
                assert (table, row, column) in columns, f"{table}.{column}: {[str(one) for one in found.findings]}"
        swept += 1
        shutil.rmtree(directory)
    assert swept > 130


@pytest.mark.parametrize("table", [table for table, _ in DERIVED_TABLES] + ["operations", "evidence"])
def test_a_deleted_row_is_missed(paths: LedgerPaths, table: str) -> None:
    keys = dict(DERIVED_TABLES) | {"operations": "operation", "evidence": "evidence"}
    alter(paths, f"DELETE FROM {table} WHERE {keys[table]} = (SELECT min({keys[table]}) FROM {table})")
    assert table in {finding.table for finding in look(paths).findings}


def test_swapped_rows_are_named(paths: LedgerPaths) -> None:
    alter(
        paths,
        "UPDATE evidence SET row_id = 1000 + row_id WHERE position = 1",
        "UPDATE evidence SET row_id = CASE row_id WHEN 1001 THEN 2 ELSE 1 END WHERE position = 1",
    )
    assert {(one.table, one.row, one.column) for one in look(paths).findings} >= {
        ("evidence", 2, "packed"),
        ("evidence", 1, "packed"),
    }


def test_a_row_rewritten_with_its_digest_still_breaks_the_batch(paths: LedgerPaths) -> None:
    connection = apsw.Connection(paths.database)
    key, row_id, packed = connection.execute("SELECT evidence, row_id, packed FROM evidence LIMIT 1").fetchone()  # type: ignore[misc]
    forged = packed[:-1] + bytes([packed[-1] ^ 1])
    connection.execute("UPDATE evidence SET packed = ?, digest = ? WHERE evidence = ?",
                       (forged, row_digest(row_id, forged), key))  # fmt: skip
    connection.close()
    assert [str(one) for one in look(paths).findings] == [
        "evidence, packed: batch 1: its rows do not have the digest of its name"
    ]


def test_a_truncated_tail_shows_in_the_anchor_and_at_opening(paths: LedgerPaths) -> None:
    alter(
        paths,
        "DELETE FROM batches WHERE position = 5",
        "DELETE FROM evidence WHERE position = 5",
        "DELETE FROM operations WHERE after_position = 5",
    )
    says = [str(one) for one in look(paths).findings]
    assert says == ["batches row 5: rows 5–5 are missing at the end: the heads file knows them"]
    with pytest.raises(LedgerDamaged, match="knows position 5"):
        Ledger.open(paths, ledger_keys(), files=PlainFiles(), utc_offset_ms=ZONE)


def test_a_planted_trigger_is_named(paths: LedgerPaths) -> None:
    alter(paths, "CREATE TRIGGER skim AFTER INSERT ON entries BEGIN SELECT 1; END")
    assert [(one.table, one.column) for one in look(paths).findings] == [("schema", "skim")]


@pytest.mark.parametrize(("field", "value"), [("position", 4), ("chain", "00" * 32), ("posted_ms", 1)])
def test_an_altered_head_is_named(paths: LedgerPaths, field: str, value: object) -> None:
    lines = Path(paths.heads).read_bytes().split(b"\n")
    at = next(at for at, line in enumerate(lines) if b'"head":"batch"' in line)
    lines[at] = json.dumps(json.loads(lines[at]) | {field: value}, sort_keys=True, separators=(",", ":")).encode()
    Path(paths.heads).write_bytes(b"\n".join(lines))
    assert f"heads file row {at + 1}: the signature does not verify" in {str(one) for one in look(paths).findings}


def test_a_lost_heads_file_is_said(paths: LedgerPaths) -> None:
    Path(paths.heads).unlink()
    assert "heads file: there is none" in {str(one) for one in look(paths).findings}


def test_a_head_lost_in_a_crash_is_written_again_at_opening(paths: LedgerPaths) -> None:
    data = Path(paths.heads).read_bytes()
    for cut in (len(data.rstrip(b"\n").rpartition(b"\n")[0]) + 1, len(data) - 20):
        Path(paths.heads).write_bytes(data[:cut])
        ledger = Ledger.open(paths, ledger_keys(), files=PlainFiles(), utc_offset_ms=ZONE)
        ledger.close()
        assert look(paths).is_sound
