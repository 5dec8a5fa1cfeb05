"""An older ledger's tables become those of this version (docs/ledger.md, "Versions"). Evidence is never touched.

    1 → 2   decisions of two persons
    2 → 3   every record type of the terminal kinds: tables that gained columns or values are made anew under their
            own names, so that their SQL is what `verify` compares with; the large ones are left alone
    3 → 4   a batch is named by its digest too, wherever its rows were numbered before (R16)

A migrated ledger goes on under the posting rules of its time until an `upgrade` operation says otherwise.
"""

from __future__ import annotations

from typing import Final

import apsw

from ledger_sync.ledger.rules import RULES_1
from ledger_sync.ledger.tables import BATCHES, CLAIMS, COMPLETIONS, DECISIONS, LOAD_ORDERS, META, SUSPENSE
from protocol.codes import RecordType

OLDEST_VERSION: Final = 1

_MADE_ANEW: Final = (
    ("meta", META, f"*, {RULES_1}, 0"),
    ("load_orders", LOAD_ORDERS, "*, 0, NULL, NULL"),
    ("suspense", SUSPENSE, f"*, {int(RecordType.PURCHASE)}"),
    ("completions", COMPLETIONS, f"*, {int(RecordType.PURCHASE)}, 0"),
)
"""(table, its SQL, what is read from the old one): every debit of before was a purchase."""


def migrate(connection: apsw.Connection, version: int) -> None:
    """From `version` to the newest; within the caller's transaction."""
    if version < 3:
        _to_every_record_type(connection, version)
    _make_anew(connection, "batches", BATCHES, "*")


def _to_every_record_type(connection: apsw.Connection, version: int) -> None:
    for table, sql, columns in _MADE_ANEW:
        _make_anew(connection, table, sql, columns)
    if version == 1:
        connection.execute(DECISIONS)
    else:
        connection.execute("DROP INDEX decisions_in_force")
        _make_anew(connection, "decisions", DECISIONS, "*")
    connection.execute(CLAIMS)


def _make_anew(connection: apsw.Connection, table: str, sql: str, columns: str) -> None:
    if table == "completions":
        connection.execute("DROP INDEX completions_by_identity")
    connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    connection.execute(sql)
    connection.execute(f"INSERT INTO {table} SELECT {columns} FROM old_{table}")  # noqa: S608 - names of our own
    connection.execute(f"DROP TABLE old_{table}")
