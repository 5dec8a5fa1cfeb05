"""Moments of transactions and checkpoints, seen by SQLite itself: a default VFS, and hooks on each new connection.

In WAL mode the database file is written by checkpoints alone, and the WAL by commits: so who writes where tells what
is going on. A write that is cut leaves part of its bytes, as a machine does that dies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import apsw

from tests.kills.traps import Moment, Trap

BASE: Final = "unix"
SETTLING: Final = frozenset({"settlements"})


class Disk:
    """Installs itself for all connections of this process.

    Args:
        database: path of the file that is watched; its WAL lies beside it.
        taking_in: tables whose changes mean that something is taken in; None: any change does.
    """

    def __init__(self, trap: Trap, database: str, *, taking_in: frozenset[str] | None) -> None:
        self._trap = trap
        self._database = database
        self._taking_in = taking_in
        self._is_taking_in = False
        self._is_committing = False
        self._vfs = _Vfs(self)
        apsw.connection_hooks.append(self._watch)

    def took_in(self) -> bool:
        """Whether something was taken in and committed since the last call; for the thread that did it."""
        taken, self._is_taking_in, self._is_committing = self._is_committing, False, False
        return taken

    def _watch(self, connection: apsw.Connection) -> None:
        connection.set_update_hook(self._changed)
        connection.set_commit_hook(self._commits)

    def _changed(self, _operation: int, _database: str, table: str, _row: int) -> None:
        if self._taking_in is None or table in self._taking_in:
            self._is_taking_in = True
            self._trap.passes(Moment.BEFORE_COMMIT, f"a row of {table} is written, COMMIT is not asked for")
        elif table in SETTLING:
            self._trap.passes(Moment.SEND_TO_RECEIPT, "a receipt has come, its settling is not committed")

    def _commits(self) -> bool:
        if self._is_taking_in:
            self._is_committing = True
            self._trap.passes(Moment.BEFORE_COMMIT, "COMMIT begins")
        return False

    def writes(self, path: str, data: Any, offset: int, file: _File) -> None:
        """About to write; dies in the middle of it, or returns to let it happen."""
        if path == self._database + "-wal" and self._is_committing:
            moment, doing = Moment.BEFORE_COMMIT, f"inside a write of {len(data)} bytes to the WAL"
        elif path == self._database and self._is_in_use():
            moment, doing = Moment.CHECKPOINT, f"inside a write of {len(data)} bytes to the database"
        else:
            return
        if self._trap.is_due(moment):
            done = self._trap.torn(len(data))
            if done:
                file.write_part(bytes(data[:done]), offset)
            self._trap.die(f"{doing}, {done} of them done")

    def syncs(self, path: str) -> None:
        if path == self._database + "-wal" and self._is_committing:
            self._trap.passes(Moment.BEFORE_COMMIT, "all is written to the WAL, COMMIT has not returned")
        elif path == self._database and self._is_in_use():
            self._trap.passes(Moment.CHECKPOINT, "all pages are written back, the database is not synced")

    def truncates(self, path: str) -> None:
        if path == self._database + "-wal" and self._is_in_use():
            self._trap.passes(Moment.CHECKPOINT, "all is written back, the WAL is not emptied yet")

    def _is_in_use(self) -> bool:
        """Whether there is a WAL; before that the database is just being made."""
        try:
            return Path(self._database + "-wal").stat().st_size > 0
        except OSError:
            return False


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name or "")
        self._disk = disk
        super().__init__(BASE, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw's name
        self._disk.writes(self._path, data, offset, self)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        self._disk.syncs(self._path)
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        self._disk.truncates(self._path)
        super().xTruncate(newsize)

    def write_part(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__("kills", BASE, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        return _File(name, flags, self._disk)
