"""The ledger's tables and how its file is opened (docs/ledger.md). The only place that issues pragmas.

Evidence, which nothing recomputes, is what came in: `evidence` (packed rows, under the batch digests, the chain and
the heads file) and `operations` (what people did, under a chain of their own). Every other table follows from these
two, so `verify` rebuilds them and compares column by column (R26).

Rowid tables with a UNIQUE index: 310k inserts a second, against 105k WITHOUT ROWID (PERFORMANCE.md).
"""

from __future__ import annotations

from typing import Final

import apsw

from ledger_sync.errors import UnsafeSqlite
from ledger_sync.ledger.errors import ForeignLedger, LedgerFailure

APPLICATION_ID: Final = 0x4F434C47  # "OCLG"
SCHEMA_VERSION: Final = 2
SQLITE_VERSION_MIN: Final = 3_051_003  # first without the WAL-reset corruption
BUSY_MS_MAX: Final = 5_000  # a report that is reading; never another writer
CACHE_KIB: Final = 64 * 1024
WAL_PAGES_MAX: Final = 4_000  # 16 MiB between checkpoints

_TABLES_OF_EVIDENCE: Final = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    site INTEGER NOT NULL, generation INTEGER NOT NULL, currency INTEGER NOT NULL, first_open_day INTEGER NOT NULL
) STRICT;
CREATE TABLE operations (
    operation INTEGER PRIMARY KEY, after_position INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    operator TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE TABLE batches (
    position INTEGER PRIMARY KEY, generation INTEGER NOT NULL, posted_ms INTEGER NOT NULL,
    frontend INTEGER NOT NULL, spool BLOB NOT NULL, first_row INTEGER NOT NULL, last_row INTEGER NOT NULL,
    digest BLOB NOT NULL, results BLOB NOT NULL, chain BLOB NOT NULL,
    posted INTEGER NOT NULL, duplicates INTEGER NOT NULL, quarantined INTEGER NOT NULL, sum_cents INTEGER NOT NULL,
    receipt BLOB NOT NULL,
    UNIQUE (frontend, spool, first_row, last_row)
) STRICT;
CREATE TABLE evidence (
    evidence INTEGER PRIMARY KEY, position INTEGER NOT NULL, row_id INTEGER NOT NULL,
    digest BLOB NOT NULL, packed BLOB NOT NULL,
    UNIQUE (position, row_id)
) STRICT;
CREATE TABLE generations (
    generation INTEGER PRIMARY KEY, position INTEGER NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
"""

_TABLES_OF_REGISTERS: Final = """
CREATE TABLE terminals (
    id INTEGER PRIMARY KEY, terminal INTEGER NOT NULL, epoch INTEGER NOT NULL,
    class INTEGER NOT NULL, kind INTEGER NOT NULL, merchant INTEGER NOT NULL, proof_suite INTEGER NOT NULL,
    enrolment BLOB NOT NULL, closed_ms INTEGER,
    highest INTEGER NOT NULL DEFAULT 0, next_known INTEGER NOT NULL DEFAULT 1,
    completed_to INTEGER NOT NULL DEFAULT 0, quarantined_to INTEGER NOT NULL DEFAULT 0,
    UNIQUE (terminal, epoch)
) STRICT;
CREATE TABLE cards (
    number INTEGER PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('active', 'lost', 'cancelled', 'unknown')),
    status_ms INTEGER NOT NULL, uid BLOB, kind INTEGER, key_version INTEGER, card_group INTEGER,
    opening_cents INTEGER NOT NULL, mirror_cents INTEGER NOT NULL,
    top_counter INTEGER NOT NULL, top_balance_cents INTEGER
) STRICT;
CREATE TABLE load_orders (
    load_order INTEGER PRIMARY KEY, card INTEGER NOT NULL, serial INTEGER NOT NULL, amount_cents INTEGER NOT NULL,
    ordered_ms INTEGER NOT NULL, operation INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('in_flight')),
    UNIQUE (card, serial)
) STRICT;
CREATE TABLE list_versions (
    version INTEGER PRIMARY KEY, kind INTEGER NOT NULL, generation INTEGER NOT NULL, counter INTEGER NOT NULL,
    head BLOB NOT NULL, base_generation INTEGER NOT NULL, base_counter INTEGER NOT NULL,
    delta BLOB NOT NULL, content BLOB,
    UNIQUE (kind, generation, counter)
) STRICT;
"""

_TABLES_OF_BOOKS: Final = """
CREATE TABLE accounts (
    account INTEGER PRIMARY KEY, balance_cents INTEGER NOT NULL
) STRICT;
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY, position INTEGER, operation INTEGER, posting INTEGER,
    account INTEGER NOT NULL, booking_day INTEGER NOT NULL, amount_cents INTEGER NOT NULL,
    CHECK ((position IS NULL) <> (operation IS NULL))
) STRICT;
CREATE TABLE postings (
    posting INTEGER PRIMARY KEY,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, seal BLOB NOT NULL,
    type INTEGER NOT NULL, result INTEGER NOT NULL, card INTEGER, counter INTEGER,
    amount_cents INTEGER NOT NULL, balance_cents INTEGER, merchant INTEGER,
    running_count INTEGER NOT NULL, running_sum_cents INTEGER NOT NULL,
    trade_ms INTEGER NOT NULL, trade_day INTEGER NOT NULL, booking_day INTEGER NOT NULL,
    position INTEGER NOT NULL, row_id INTEGER NOT NULL, record_index INTEGER NOT NULL,
    UNIQUE (terminal, epoch, sequence, seal)
) STRICT;
CREATE INDEX postings_by_proof ON postings (card, counter) WHERE counter IS NOT NULL;
CREATE TABLE forks (
    fork INTEGER PRIMARY KEY, terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    seal BLOB NOT NULL, result INTEGER NOT NULL, amount_cents INTEGER NOT NULL,
    position INTEGER NOT NULL, row_id INTEGER NOT NULL, record_index INTEGER NOT NULL,
    UNIQUE (terminal, epoch, sequence, seal)
) STRICT;
CREATE TABLE suspense (
    posting INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('grey', 'unproven')),
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    card INTEGER NOT NULL, counter_hint INTEGER NOT NULL, amount_cents INTEGER NOT NULL, merchant INTEGER NOT NULL,
    trade_ms INTEGER NOT NULL, resolved_position INTEGER, resolved_by INTEGER
) STRICT;
CREATE TABLE completions (
    posting INTEGER PRIMARY KEY,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    card INTEGER NOT NULL, counter INTEGER NOT NULL, amount_cents INTEGER NOT NULL, merchant INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('resolved', 'posted', 'nothing new')), record INTEGER
) STRICT;
CREATE INDEX completions_by_identity ON completions (terminal, epoch, sequence);
CREATE TABLE quarantine (
    item INTEGER PRIMARY KEY, terminal INTEGER NOT NULL, epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL, type INTEGER, result INTEGER NOT NULL,
    reason TEXT NOT NULL, amount_cents INTEGER, merchant INTEGER, trade_ms INTEGER NOT NULL,
    digest BLOB NOT NULL, raw BLOB NOT NULL,
    position INTEGER NOT NULL, row_id INTEGER NOT NULL, record_index INTEGER NOT NULL, resolved_position INTEGER,
    UNIQUE (terminal, epoch, sequence, digest)
) STRICT;
CREATE TABLE baselines (
    baseline INTEGER PRIMARY KEY, position INTEGER NOT NULL, row_id INTEGER NOT NULL,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, oldest INTEGER NOT NULL,
    first_unacknowledged INTEGER NOT NULL, next INTEGER NOT NULL, boot INTEGER NOT NULL, received_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE tombstones (
    tombstone INTEGER PRIMARY KEY, position INTEGER NOT NULL, row_id INTEGER NOT NULL,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    reason INTEGER NOT NULL, received_ms INTEGER NOT NULL
) STRICT;
"""

_TABLES_OF_DECISIONS: Final = """
CREATE TABLE decisions (
    decision INTEGER PRIMARY KEY, subject TEXT NOT NULL CHECK (subject IN ('suspense', 'quarantine')),
    item INTEGER NOT NULL, outcome TEXT NOT NULL CHECK (outcome IN ('spent', 'not spent', 'retry', 'reject')),
    state TEXT NOT NULL CHECK (state IN ('proposed', 'withdrawn', 'confirmed', 'lapsed', 'reversed')),
    reason TEXT NOT NULL, proposed_operation INTEGER NOT NULL, proposed_by TEXT NOT NULL, proposed_ms INTEGER NOT NULL,
    closed_operation INTEGER, closed_by TEXT, ended_by INTEGER
) STRICT;
CREATE UNIQUE INDEX decisions_in_force ON decisions (subject, item) WHERE state IN ('proposed', 'confirmed');
"""
"""Came with schema version 2; a ledger of version 1 gets them when it is next opened for writing."""
TABLES: Final = _TABLES_OF_EVIDENCE + _TABLES_OF_REGISTERS + _TABLES_OF_BOOKS + _TABLES_OF_DECISIONS

DERIVED_TABLES: Final = (
    ("meta", "one"),
    ("generations", "generation"),
    ("batches", "position"),
    ("terminals", "id"),
    ("cards", "number"),
    ("load_orders", "load_order"),
    ("list_versions", "version"),
    ("accounts", "account"),
    ("entries", "entry"),
    ("postings", "posting"),
    ("forks", "fork"),
    ("suspense", "posting"),
    ("completions", "posting"),
    ("quarantine", "item"),
    ("decisions", "decision"),
    ("baselines", "baseline"),
    ("tombstones", "tombstone"),
)
"""(table, its integer key): what `verify` rebuilds from evidence and operations."""


def check_sqlite() -> None:
    """Raise UnsafeSqlite unless the loaded SQLite is safe to trust with money."""
    if apsw.SQLITE_VERSION_NUMBER < SQLITE_VERSION_MIN:
        major, minor, patch = (SQLITE_VERSION_MIN // 1_000_000, SQLITE_VERSION_MIN // 1000 % 1000, 3)
        raise UnsafeSqlite(got=apsw.sqlite_lib_version(), need=f"{major}.{minor}.{patch}")


def open_writer(path: str, *, vfs: str | None = None, create: bool = False) -> apsw.Connection:
    """The one connection that writes; with `create` an empty file gets its tables, otherwise it must be a ledger.

    Raises:
        UnsafeSqlite, ForeignLedger: the library or the file will not do.
        LedgerFailure: the disk refused.
    """
    check_sqlite()
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    try:
        connection = apsw.Connection(path, flags=flags, vfs=vfs, statementcachesize=200)
    except apsw.Error as error:
        raise LedgerFailure(f"cannot open the ledger: {error}") from error
    try:
        _configure(connection, in_memory=path == ":memory:")
        if create:
            _create(connection)
        _upgrade(connection)
        check_ids(connection)
        # what a killed process, or a failed sync, left in the WAL is on disk before a receipt rests on it
        frames, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if moved < frames:
            raise LedgerFailure("another process keeps the ledger's WAL from being written back")
    except apsw.Error as error:
        connection.close(True)  # noqa: FBT003 - force: it is given up whatever it says
        raise LedgerFailure(f"cannot open the ledger: {type(error).__name__}: {error}") from error
    except BaseException:
        connection.close(True)  # noqa: FBT003 - as above
        raise
    return connection


def open_reader(path: str, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that cannot write, for reports and `verify` beside a running server.

    Raises:
        UnsafeSqlite, ForeignLedger, LedgerFailure: as `open_writer`.
    """
    check_sqlite()
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?mode=ro"
    try:
        connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs=vfs)
    except apsw.Error as error:
        raise LedgerFailure(f"cannot open the ledger: {error}") from error
    try:
        connection.set_busy_timeout(BUSY_MS_MAX)
        check_ids(connection)
    except apsw.Error as error:
        connection.close(True)  # noqa: FBT003 - as above
        raise LedgerFailure(f"cannot read the ledger: {type(error).__name__}: {error}") from error
    except BaseException:
        connection.close(True)  # noqa: FBT003 - as above
        raise
    return connection


def check_ids(connection: apsw.Connection) -> None:
    """Raise ForeignLedger unless the file is a ledger of this schema version."""
    if connection.pragma("application_id") != APPLICATION_ID:
        raise ForeignLedger("the file is no ledger")
    version = connection.pragma("user_version")
    if version != SCHEMA_VERSION:
        hint = "; `onecard ledger serve` brings it up to date" if version == 1 else ""
        raise ForeignLedger(f"ledger of schema version {version}, this program knows {SCHEMA_VERSION}{hint}")


def schema_of(connection: apsw.Connection) -> dict[str, str]:
    """Name → SQL of every table, index, view and trigger; a planted trigger shows here."""
    rows = connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name")
    return {str(name): str(sql) for name, sql in rows}


def _configure(connection: apsw.Connection, *, in_memory: bool) -> None:
    connection.set_busy_timeout(BUSY_MS_MAX)
    if not in_memory:
        mode = connection.execute("PRAGMA journal_mode = WAL").get
        if mode != "wal":
            raise LedgerFailure(f"the file system does not take a WAL (journal mode {mode})")
        connection.wal_autocheckpoint(WAL_PAGES_MAX)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _upgrade(connection: apsw.Connection) -> None:
    """Version 1 to 2: one table more, and nothing else; in one transaction, so a kill leaves one or the other."""
    if connection.pragma("application_id") == APPLICATION_ID and connection.pragma("user_version") == 1:
        with connection:
            connection.execute(_TABLES_OF_DECISIONS)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _create(connection: apsw.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise ForeignLedger("the file is not empty; a ledger is made once")
    with connection:
        connection.execute(TABLES)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
