"""The spool's tables and how its file is opened (docs/spool.md). The only place that issues pragmas.

meta         name → value: spool id, birth, site, front-end, ledger generation and position known
rows         one packed row per accepted frame, baseline or tombstone; AUTOINCREMENT, so no id is ever used twice
ranges       what is held of each (terminal, epoch), for ever
tombstones   the parts of those ranges that are held as tombstones only
totals       count and cents per (terminal, epoch, trade day, type), for ever
counted      what the rows above `folded_to` add to the totals, one entry list per transaction
runs         where rows are found by terminal and sequence (`places`)
anchors      UTC − uptime per boot
settlements  row ids that a receipt settled, with the ledger's generation and position
settled      sequences whose receipts have come, per (terminal, epoch)
pruned       row ids that were deleted, after `settled_days`
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import apsw

from ledger_sync.errors import ForeignSpool, SpoolFailure, UnsafeSqlite
from ledger_sync.spool.places import write_runs
from ledger_sync.wal import make_sure_of_wal
from protocol.ports import Files

APPLICATION_ID: Final = 0x4F435350  # "OCSP"
SCHEMA_VERSION: Final = 2  # 1: an index over rows, ranges and totals written with every row; `_upgrade` takes it on
SQLITE_VERSION_MIN: Final = 3_051_003  # first without the WAL-reset corruption
BUSY_MS_MAX: Final = 5_000  # a reader that is looking at the file; never another writer
CACHE_KIB: Final = 16 * 1024

TABLES_OF_2: Final = """
CREATE TABLE counted (last_row INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT;
CREATE TABLE runs (
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, kind INTEGER NOT NULL,
    last INTEGER NOT NULL, row INTEGER NOT NULL, entries BLOB NOT NULL,
    PRIMARY KEY (terminal, epoch, kind, last, row)
) STRICT, WITHOUT ROWID;
"""
TABLES: Final = f"""{TABLES_OF_2}
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, kind INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL,
    bytes BLOB NOT NULL
) STRICT;
CREATE TABLE ranges (
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    seal_before_first BLOB, seal_last BLOB, trade_ms_first INTEGER, trade_ms_last INTEGER,
    PRIMARY KEY (terminal, epoch, first), CHECK (first <= last)
) STRICT, WITHOUT ROWID;
CREATE TABLE tombstones (
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (terminal, epoch, first), CHECK (first <= last)
) STRICT, WITHOUT ROWID;
CREATE TABLE totals (
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, trade_day INTEGER NOT NULL, type INTEGER NOT NULL,
    count INTEGER NOT NULL, cents INTEGER NOT NULL,
    PRIMARY KEY (terminal, epoch, trade_day, type)
) STRICT, WITHOUT ROWID;
CREATE TABLE anchors (
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, boot INTEGER NOT NULL, anchor_ms INTEGER NOT NULL,
    PRIMARY KEY (terminal, epoch, boot)
) STRICT, WITHOUT ROWID;
CREATE TABLE settlements (
    first_row INTEGER PRIMARY KEY, last_row INTEGER NOT NULL,
    generation INTEGER NOT NULL, position INTEGER NOT NULL, settled_ms INTEGER NOT NULL,
    CHECK (first_row <= last_row)
) STRICT;
CREATE TABLE settled (
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (terminal, epoch, first), CHECK (first <= last)
) STRICT, WITHOUT ROWID;
CREATE TABLE pruned (
    first_row INTEGER PRIMARY KEY, last_row INTEGER NOT NULL, CHECK (first_row <= last_row)
) STRICT;
"""


def check_sqlite() -> None:
    """Raise UnsafeSqlite unless the loaded SQLite is safe to trust with money."""
    if apsw.SQLITE_VERSION_NUMBER < SQLITE_VERSION_MIN:
        need = f"{SQLITE_VERSION_MIN // 1_000_000}.{SQLITE_VERSION_MIN // 1000 % 1000}.{SQLITE_VERSION_MIN % 1000}"
        raise UnsafeSqlite(got=apsw.sqlite_lib_version(), need=need)


def open_writer(
    path: str, files: Files, *, vfs: str | None, synchronous: str, is_doubtful: bool = False
) -> apsw.Connection:
    """The one connection that writes and checkpoints, with the schema in place.

    Whatever a process left in the WAL when it was killed, or a failed sync left in the page cache (`is_doubtful`: it
    was this process), is written once more, then into the database, and synced before this returns: nothing may be
    acknowledged on the strength of bytes that were only ever read back from memory.

    Raises:
        UnsafeSqlite, ForeignSpool: the library or the file will not do.
        SpoolFailure: the disk refused, or another process is in the way.
    """
    check_sqlite()
    if synchronous not in {"FULL", "NORMAL", "OFF", "EXTRA"}:
        raise SpoolFailure("synchronous must be FULL, EXTRA, NORMAL or OFF")
    try:
        make_sure_of_wal(path, files, vfs=vfs, is_doubtful=is_doubtful)
        connection = apsw.Connection(path, vfs=vfs)
    except (apsw.Error, OSError) as error:
        raise SpoolFailure(f"cannot open the spool: {error}") from error
    try:
        _configure(connection, synchronous)
        _create_or_check(connection)
        frames, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if moved < frames:
            raise SpoolFailure("another process keeps the spool's WAL from being written back")
    except apsw.Error as error:
        _abandon(connection)
        raise SpoolFailure(f"cannot open the spool: {type(error).__name__}: {error}") from error
    except BaseException:
        _abandon(connection)
        raise
    return connection


def _abandon(connection: apsw.Connection) -> None:
    connection.close(True)  # noqa: FBT003 - force: a failed connection is given up whatever it says


def open_reader(path: str, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that cannot write (`mode=ro`), for reports beside a running server.

    Raises:
        UnsafeSqlite, ForeignSpool, SpoolFailure: as `open_writer`.
    """
    check_sqlite()
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?mode=ro"
    try:
        connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs=vfs)
    except apsw.Error as error:
        raise SpoolFailure(f"cannot open the spool: {error}") from error
    try:
        connection.set_busy_timeout(BUSY_MS_MAX)
        _check_ids(connection)
    except apsw.Error as error:
        connection.close()
        raise SpoolFailure(f"cannot read the spool: {type(error).__name__}: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: apsw.Connection, synchronous: str) -> None:
    connection.set_busy_timeout(BUSY_MS_MAX)
    # The owner checkpoints, never a commit by surprise and never `close`.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.wal_autocheckpoint(0)
    mode = connection.execute("PRAGMA journal_mode = WAL").get
    if mode != "wal":
        raise SpoolFailure(f"the file system does not take a WAL (journal mode {mode})")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _create_or_check(connection: apsw.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_schema").get:
        if (connection.pragma("application_id"), connection.pragma("user_version")) == (APPLICATION_ID, 1):
            _upgrade(connection)
        _check_ids(connection)
        return
    with connection:
        connection.execute(TABLES)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _upgrade(connection: apsw.Connection) -> None:
    """From version 1, in one transaction: its tables have taken every row in, and its index is what `runs` are now."""
    with connection:
        connection.execute(TABLES_OF_2)
        by_sequence = "SELECT terminal, epoch, kind, first, last, id FROM rows ORDER BY terminal, epoch, kind, last, id"
        found: Iterable[Any] = connection.execute(by_sequence)
        for key, group in groupby(found, key=itemgetter(0, 1)):
            write_runs(connection, [(key, [row[2:] for row in group])])
        connection.execute("DROP INDEX rows_by_sequence")
        connection.execute(
            "INSERT INTO meta (name, value) VALUES ('folded_to',"
            " coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'rows'), 0))"
        )
        connection.execute("PRAGMA user_version = 2")


def _check_ids(connection: apsw.Connection) -> None:
    found = connection.pragma("application_id")
    if found != APPLICATION_ID:
        raise ForeignSpool("the file is no spool")
    version = connection.pragma("user_version")
    if version != SCHEMA_VERSION:
        remedy = "; a server takes it on when it opens it" if version == 1 else ""
        raise ForeignSpool(f"spool of schema version {version}, this program knows {SCHEMA_VERSION}{remedy}")
