"""The spool's connection: its life, transactions, failures and checkpoints (R14).

One connection owns writes and checkpoints. A transaction is committed and synced, or nothing of it happened and the
connection is given up with everything that memory knew; `reopen` reads it again from the file. A failed sync is never
tried again as if it had worked.

    OPEN ── failure ──▶ FAILED ── reopen ──▶ OPEN        OPEN, FAILED ── close ──▶ CLOSED
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

import apsw

from ledger_sync.errors import SpoolClosed, SpoolError, SpoolFailure
from ledger_sync.spool.accept import Acceptor
from ledger_sync.spool.batches import Batches
from ledger_sync.spool.epochs import Epochs
from ledger_sync.spool.fold import replay
from ledger_sync.spool.identity import SpoolIdentity, establish
from ledger_sync.spool.places import Places
from ledger_sync.spool.schema import open_writer
from ledger_sync.spool.stored import StoredRows
from protocol.ports import Clock, Files, Log, Random
from protocol.trade_time import UtcOffset

WAL_PAGES_MAX: Final = 4096  # 16 MiB: then the owner checkpoints
WAL_PAGES_ALARM: Final = 16 * WAL_PAGES_MAX  # a reader has kept the WAL from being written back

FreeBytes = Callable[[], tuple[int, int]]
"""(free, total) bytes of the volume that holds the spool."""


class SpoolState(Enum):
    OPEN = "open"
    FAILED = "failed"
    CLOSED = "closed"


TRANSITIONS: Final = {
    SpoolState.OPEN: frozenset({SpoolState.FAILED, SpoolState.CLOSED}),
    SpoolState.FAILED: frozenset({SpoolState.OPEN, SpoolState.CLOSED}),
    SpoolState.CLOSED: frozenset[SpoolState](),
}


class Handles:
    """What exists while a connection is open."""

    __slots__ = ("acceptor", "batches", "connection", "epochs", "places")

    def __init__(self, connection: apsw.Connection, utc_offset_ms: UtcOffset, frontend: int, spool_id: bytes) -> None:
        self.connection = connection
        self.epochs = Epochs(connection)
        self.places = Places(connection, self.epochs.recent)
        self.batches = Batches(connection, self.epochs, self.places, frontend=frontend, spool_id=spool_id)
        stored = StoredRows(connection, self.places)
        self.acceptor = Acceptor(connection, self.epochs, stored, utc_offset_ms, self.batches.last_row())
        replay(connection, self.epochs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Where a spool lives, whose it is, and its seams."""

    path: str
    """Of the database; `.id` is added for the file beside it."""
    frontend: int
    site: int
    utc_offset_ms: UtcOffset
    """The site's local time minus UTC, for trade days."""
    clock: Clock
    random: Random
    files: Files
    log: Log
    vfs: str | None = None
    """Name of a SQLite VFS; None: the system's."""
    synchronous: str = "FULL"
    """Anything less loses acknowledged records in a power cut: for control tests alone."""
    free_bytes: FreeBytes | None = None
    """None: free space is not watched."""


class Store:
    """What `Spool` stands on; `reopen` opens it the first time too."""

    def __init__(self, settings: SpoolSettings) -> None:
        self._settings = settings
        self._clock = settings.clock
        self._log = settings.log
        self._wal_pages = 0
        self._wal_alarmed = False
        self._has_failed = False
        self._handles: Handles | None = None
        self.state = SpoolState.FAILED
        self.identity = SpoolIdentity(b"", 0)
        self.commits = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Open again after a failure; what the file holds is all that is remembered. Raises as `Spool.open`."""
        if self.state is SpoolState.OPEN:
            return
        if self.state is SpoolState.CLOSED:
            raise SpoolClosed("a closed spool is not opened again")
        ours = self._settings
        connection = open_writer(
            ours.path, ours.files, vfs=ours.vfs, synchronous=ours.synchronous, is_doubtful=self._has_failed
        )
        try:
            self.identity = establish(
                connection,
                ours.path,
                frontend=ours.frontend,
                site=ours.site,
                clock=ours.clock,
                random=ours.random,
                files=ours.files,
                log=ours.log,
            )
            handles = Handles(connection, ours.utc_offset_ms, ours.frontend, self.identity.spool_id)
            with connection:
                handles.acceptor.fold()  # what a process that was killed had left to do
            self._handles = handles
        except (apsw.Error, OSError) as error:
            _give_up(connection)
            raise SpoolFailure(f"cannot open the spool: {type(error).__name__}: {error}") from error
        except BaseException:
            _give_up(connection)
            raise
        self._wal_pages = 0
        connection.set_wal_hook(self._note_wal)
        self._go(SpoolState.OPEN)

    def close(self) -> None:
        """Write the WAL back and close; idempotent. Rows are durable with or without it."""
        if self.state is SpoolState.CLOSED:
            return
        handles, self._handles = self._handles, None
        self._go(SpoolState.CLOSED)
        if handles is not None:
            try:
                with handles.connection:
                    handles.acceptor.fold()
                handles.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error as error:  # a reader is looking, or the disk fails: the WAL keeps what it has
                self._log("spool.checkpoint_failed", path=self._settings.path, error=str(error))
            _give_up(handles.connection)

    def _go(self, state: SpoolState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state

    def _fail(self, error: BaseException) -> None:
        """Give the connection up: what the transaction did to memory is forgotten with it."""
        handles, self._handles = self._handles, None
        self._has_failed = True
        self._go(SpoolState.FAILED)
        self._log("spool.failed", alarm=True, path=self._settings.path, error=f"{type(error).__name__}: {error}")
        if handles is not None:
            _give_up(handles.connection)

    def _open_handles(self) -> Handles:
        if self._handles is None:
            raise SpoolClosed(f"the spool is {self.state.value}")
        return self._handles

    @contextmanager
    def reading(self) -> Iterator[Handles]:
        handles = self._open_handles()
        try:
            yield handles
        except SpoolError:
            raise
        except apsw.Error as error:
            self._fail(error)
            raise SpoolFailure(f"the spool cannot be read: {type(error).__name__}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[Handles]:
        """One transaction: committed and synced at exit, or nothing of it happened and the connection is gone."""
        handles = self._open_handles()
        try:
            handles.connection.execute("BEGIN IMMEDIATE")
            yield handles
            handles.acceptor.finish()
            handles.connection.execute("COMMIT")
        except Exception as error:
            self._fail(error)
            raise SpoolFailure(f"nothing was stored: {type(error).__name__}: {error}") from error
        except BaseException as error:
            self._fail(error)
            raise
        self.commits += 1
        handles.epochs.trim()
        self._maintain(handles)

    def fold(self) -> None:
        """Bring ranges, totals and runs in the file to where its rows are."""
        with self.transaction() as handles:
            handles.acceptor.fold()

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _note_wal(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _maintain(self, handles: Handles) -> None:
        """Write the WAL back when it has grown; what was committed stays committed if that fails."""
        if self._wal_pages < WAL_PAGES_MAX:
            return
        try:
            frames, moved = handles.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            self._fail(error)
            return
        if moved < frames and frames > WAL_PAGES_ALARM and not self._wal_alarmed:
            self._wal_alarmed = True
            self._log("spool.wal_grows", alarm=True, path=self._settings.path, pages=frames, written_back=moved)
        elif moved == frames:
            self._wal_alarmed = False

    def checkpoint(self) -> bool:
        """Fold, write the whole WAL back and empty it; False if a reader held it up. Raises SpoolFailure."""
        self.fold()
        with self.reading() as handles:
            try:
                handles.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return False
            self._wal_pages = 0
            return True


def _give_up(connection: apsw.Connection) -> None:
    connection.close(True)  # noqa: FBT003 - force: errors of a connection that is given up say nothing new
