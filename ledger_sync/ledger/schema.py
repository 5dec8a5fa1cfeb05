"""How the ledger's file is made, opened and checked (docs/ledger.md). The only place that issues pragmas."""

from __future__ import annotations

from typing import Final

import apsw

from ledger_sync.errors import UnsafeSqlite
from ledger_sync.ledger.errors import ForeignLedger, LedgerFailure
from ledger_sync.ledger.migrate import OLDEST_VERSION, migrate
from ledger_sync.ledger.tables import TABLES

APPLICATION_ID: Final = 0x4F434C47  # "OCLG"
SCHEMA_VERSION: Final = 4
SQLITE_VERSION_MIN: Final = 3_051_003  # first without the WAL-reset corruption
BUSY_MS_MAX: Final = 5_000  # a report that is reading; never another writer
CACHE_KIB: Final = 64 * 1024
MEMORY: Final = ":memory:"  # `verify` makes the books anew there
WAL_PAGES_MAX: Final = 4_000  # 16 MiB between checkpoints


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
        _configure(connection, in_memory=path == MEMORY)
        if create:
            _create(connection)
        _upgrade(connection)
        check_ids(connection)
        # what a killed process left in the WAL is in the database before a receipt rests on it
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
        is_older = isinstance(version, int) and OLDEST_VERSION <= version < SCHEMA_VERSION
        hint = "; `onecard ledger serve` brings it up to date" if is_older else ""
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
    """An older ledger becomes one of this version, in one transaction: a kill leaves one or the other."""
    version = int(connection.pragma("user_version"))
    if connection.pragma("application_id") == APPLICATION_ID and OLDEST_VERSION <= version < SCHEMA_VERSION:
        with connection:
            migrate(connection, version)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _create(connection: apsw.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise ForeignLedger("the file is not empty; a ledger is made once")
    with connection:
        connection.execute(TABLES)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
