"""`ledger verify`: names the row that was touched (R26).

1. The schema is the one this program made (no planted trigger), the file is whole.
2. The heads file: every line signed, no position missing; its last line is the anchor that shows a missing tail.
3. Operations: their chain of hashes against the heads.
4. Evidence: digest of every row, digest of every batch against its signed name.
5. Everything else is made anew from evidence and operations, in memory, by the code that made it first, and compared
   column by column. So results, chain, receipts, entries, balances and conservation are all recomputed.

Names, times and operations are taken from the signed heads where they exist, so that a column altered in the database
is told from one altered in the evidence. Needs the ledger's keys: an auditor without them has docs/ledger.md's SQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import apsw

from ledger_sync.ledger import heads
from ledger_sync.ledger.core import Ledger, row_digest
from ledger_sync.ledger.errors import LedgerError
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.report import conservation
from ledger_sync.ledger.schema import open_writer, schema_of
from ledger_sync.ledger.tables import DERIVED_TABLES
from protocol.link_messages import BatchMessage, BatchName, Row, batch_digest
from protocol.trade_time import UtcOffset

FINDINGS_MAX: Final = 1_000  # a ledger that differs more often than this is not the one it claims to be


@dataclass(slots=True, frozen=True)
class Finding:
    """One difference: table, integer key of the row (0: the table or file as a whole), column, what is wrong."""

    table: str
    row: int
    column: str
    says: str

    def __str__(self) -> str:
        where = f"{self.table} row {self.row}" if self.row else self.table
        return f"{where}{f', {self.column}' if self.column else ''}: {self.says}"


@dataclass(slots=True)
class Verification:
    """What `verify` found; `is_sound` only when everything was looked at and nothing differs."""

    findings: list[Finding] = field(default_factory=list)
    batches: int = 0
    operations: int = 0
    rows: int = 0
    rows_compared: int = 0
    last_evidence: int = 0
    """Key of the evidence row looked at last; they are given out one by one."""

    @property
    def is_sound(self) -> bool:
        return not self.findings

    def add(self, table: str, row: int, column: str, says: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(table, row, column, says))

    def add_missing(self, table: str, first: int, last: int, says: str) -> None:
        """One finding for a stretch of rows, however long."""
        if first <= last:
            self.add(table, first, "", f"rows {first}–{last} are {says}")


def verify(
    connection: apsw.Connection,
    heads_data: bytes | None,
    keys: LedgerKeys,
    *,
    utc_offset_ms: UtcOffset,
    scratch: str = ":memory:",
) -> Verification:
    """Check a whole ledger through any connection to it; one read transaction.

    `scratch`: where the books are made anew; a path of a file that does not exist yet for ledgers above some
    gigabytes.
    """
    found = Verification()
    connection.execute("BEGIN")
    try:
        anchor = heads.read_heads(heads_data or b"", keys.signer.public_key)
        for line, says in anchor.faults:
            found.add("heads file", line, "", says)
        if heads_data is None:
            found.add("heads file", 0, "", "there is none")
        _check_file(connection, found)
        _check_operations(connection, anchor, found)
        _check_evidence(connection, anchor, found)
        if found.is_sound:  # otherwise every row made from the damaged one would be named too
            _check_derived(connection, anchor, keys, utc_offset_ms, scratch, found)
        difference = conservation(connection)["difference_cents"]
        if difference:
            found.add("accounts", 0, "balance_cents", f"debits and credits differ by {difference} cents")
    finally:
        connection.execute("ROLLBACK")
    return found


def _check_file(connection: apsw.Connection, found: Verification) -> None:
    for (says,) in connection.execute("PRAGMA integrity_check(10)"):
        if says != "ok":
            found.add("database file", 0, "", str(says))
    model = open_writer(":memory:", create=True)
    try:
        expected, actual = schema_of(model), schema_of(connection)
    finally:
        model.close()
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            found.add("schema", 0, name, "is not as this program makes it")


def _check_operations(connection: apsw.Connection, anchor: heads.Heads, found: Verification) -> None:
    previous = heads.OPERATIONS_START
    expected = 1
    for number, after, at_ms, operator, verb, arguments, hash_ in connection.execute(
        "SELECT operation, after_position, at_ms, operator, verb, arguments, hash FROM operations ORDER BY operation"
    ):
        found.operations += 1
        found.add_missing("operations", expected, number - 1, "missing")
        expected = number + 1
        facts = {"after_position": after, "at_ms": at_ms, "operator": operator, "verb": verb}
        head = anchor.operations.get(number)
        stated = facts | {"arguments": sha256(arguments.encode()).hexdigest(), "hash": hash_.hex()}
        if head is None:
            found.add("operations", number, "", "has no signed head")
        else:
            for column, value in stated.items():
                if head[column] != value:
                    found.add("operations", number, column, "is not what its signed head says")
        made = heads.operation_hash(previous, operation=number, arguments=arguments, **facts)
        if head is None and made != hash_:
            found.add("operations", number, "hash", "does not follow from its row and the one before")
        previous = hash_
    found.add_missing("operations", expected, anchor.last_operation, "missing at the end: the heads file knows them")


def _check_evidence(connection: apsw.Connection, anchor: heads.Heads, found: Verification) -> None:
    expected = 1
    for position, *name in connection.execute(
        "SELECT position, frontend, spool, first_row, last_row, digest FROM batches ORDER BY position"
    ):
        found.batches += 1
        found.add_missing("batches", expected, position - 1, "missing")
        expected = position + 1
        head = anchor.batches.get(position)
        if head is None:
            found.add("batches", position, "", "has no signed head")
            digest = name[4]
        else:
            digest = BatchName.decode(bytes.fromhex(head["name"])).digest
        _check_batch(connection, position, digest, found)
    found.add_missing("batches", expected, anchor.last_position, "missing at the end: the heads file knows them")
    for position, number in connection.execute(
        "SELECT position, count(*) FROM evidence WHERE position NOT IN (SELECT position FROM batches) GROUP BY 1"
    ):
        found.add("evidence", 0, "position", f"{number} rows of batch {position}, which does not exist")


def _check_batch(connection: apsw.Connection, position: int, digest: object, found: Verification) -> None:
    """The rows of one batch against its digest; which row, where its own digest tells."""
    rows: list[Row] = []
    named = False
    for key, row_id, of_row, packed in connection.execute(
        "SELECT evidence, row_id, digest, packed FROM evidence WHERE position = ? ORDER BY row_id", (position,)
    ):
        found.rows += 1
        rows.append((row_id, packed))
        if key != found.last_evidence + 1:
            says = f"follows row {found.last_evidence}: rows between were taken out, or it was moved"
            found.add("evidence", key, "evidence", says)
        found.last_evidence = key
        if row_digest(row_id, packed) != of_row:
            found.add("evidence", key, "packed", f"row {row_id} of batch {position} does not have its digest")
            named = True
    if not named and batch_digest(rows) != digest:
        held = {row_id for row_id, _ in rows}
        lacking = [
            row_id
            for (row_id,) in connection.execute(
                "SELECT DISTINCT row_id FROM postings WHERE position = ? ORDER BY 1", (position,)
            )
            if row_id not in held
        ]
        says = f"row {lacking[0]} is missing" if lacking else "its rows do not have the digest of its name"
        found.add("evidence", 0, "row_id" if lacking else "packed", f"batch {position}: {says}")


# -- making the books anew


def _check_derived(
    connection: apsw.Connection,
    anchor: heads.Heads,
    keys: LedgerKeys,
    utc_offset_ms: UtcOffset,
    scratch: str,
    found: Verification,
) -> None:
    shadow = open_writer(scratch, create=True)
    try:
        ledger = Ledger(shadow, keys, utc_offset_ms=utc_offset_ms, anchor=None, lock=None, keeps_evidence=False)
        try:
            _replay(connection, anchor, ledger)
        except (LedgerError, apsw.Error, ValueError) as error:
            found.add("operations", 0, "", f"cannot be done again: {type(error).__name__}: {error}")
            return
        for position, head in anchor.batches.items():
            (chain,) = shadow.execute("SELECT chain FROM batches WHERE position = ?", (position,)).fetchone() or (b"",)
            if chain != bytes.fromhex(head["chain"]):
                found.add("heads file", 0, "chain", f"batch {position} made anew has another chain hash")
                break
        for table, key in DERIVED_TABLES:
            _compare(connection, shadow, table, key, found)
    finally:
        shadow.close()


def _replay(connection: apsw.Connection, anchor: heads.Heads, ledger: Ledger) -> None:
    """Operations and batches in the order in which they came."""
    operations = connection.execute(
        "SELECT after_position, at_ms, operator, verb, arguments FROM operations ORDER BY operation"
    )
    batches = _batches(connection, anchor)
    for after, at_ms, operator, verb, arguments in operations:
        while ledger.position < after:
            ledger.post(*next(batches))
        ledger.operate(verb, json.loads(arguments), operator=operator, now_ms=at_ms)
    for batch, posted_ms in batches:
        ledger.post(batch, posted_ms)


def _batches(connection: apsw.Connection, anchor: heads.Heads) -> Iterator[tuple[BatchMessage, int]]:
    row: tuple[Any, ...]
    for row in connection.execute(
        "SELECT position, posted_ms, frontend, spool, first_row, last_row, digest FROM batches ORDER BY position"
    ):
        head = anchor.batches[row[0]]  # that there is one was checked before
        rows = connection.execute("SELECT row_id, packed FROM evidence WHERE position = ? ORDER BY row_id", (row[0],))
        name = BatchName.decode(bytes.fromhex(head["name"]))
        yield BatchMessage(name, rows.fetchall()), head["posted_ms"]  # type: ignore[arg-type]


def _compare(connection: apsw.Connection, shadow: apsw.Connection, table: str, key: str, found: Verification) -> None:
    """Two tables, row by row in order of their key, column by column."""
    query = f"SELECT * FROM {table} ORDER BY {key}"  # noqa: S608 - names of our own
    columns = [str(row[1]) for row in shadow.execute(f"PRAGMA table_info({table})")]
    at = columns.index(key)
    stored, made = iter(connection.execute(query)), iter(shadow.execute(query))
    row, wanted = next(stored, None), next(made, None)
    while row is not None or wanted is not None:
        if wanted is None or (row is not None and row[at] < wanted[at]):
            assert row is not None
            found.add(table, row[at], "", "does not follow from evidence and operations")
            row = next(stored, None)
        elif row is None or wanted[at] < row[at]:
            found.add(table, wanted[at], "", "is missing")
            wanted = next(made, None)
        else:
            found.rows_compared += 1
            if row != wanted:
                for name, has, should in zip(columns, row, wanted, strict=True):
                    if has != should:
                        found.add(table, row[at], name, f"is {_shown(has)}, should be {_shown(should)}")
            row, wanted = next(stored, None), next(made, None)


def _shown(value: object) -> str:
    """A value for a finding; of bytes only how many, of large numbers (cards among them) all."""
    return f"{len(value)} other bytes" if isinstance(value, bytes) else str(value)
