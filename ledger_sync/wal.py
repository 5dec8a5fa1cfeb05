"""Making sure of a WAL before it is believed: a copy of it is synced and takes its name.

When a sync fails, a system may drop what it could not write, call those pages clean, and still give them to whoever
reads the file, in this process or the next; the next sync then succeeds without having written anything. SQLite's
recovery would take such frames for safe, write them into the database, and a power cut would leave them there half,
beside a WAL that never had them. Only bytes that are written once more are on the disk after a sync that succeeds.

They are written to a new file, for a cut may spoil what is being written. A WAL may change places while nobody has its
database open: whoever has, holds a shared lock on it, so the lock of all is taken meanwhile.
"""

from __future__ import annotations

from typing import Final

import apsw

from protocol.ports import Files

WAL_SUFFIX: Final = "-wal"
_PIECE_BYTES: Final = 1 << 16  # at a time: `unix` takes less than 128 KiB in one write
_SYNC_NORMAL: Final = apsw.SQLITE_SYNC_NORMAL
_LOCKS: Final = (apsw.SQLITE_LOCK_SHARED, apsw.SQLITE_LOCK_RESERVED, apsw.SQLITE_LOCK_EXCLUSIVE)


def make_sure_of_wal(path: str, files: Files, *, vfs: str | None, is_doubtful: bool = False) -> None:
    """For the owner of the database at `path`, before it opens it; nothing if there is no WAL.

    While somebody is reading the database its WAL stays where it is: written over itself if a sync of it is known to
    have failed (`is_doubtful`), else let be.

    Raises:
        apsw.Error, OSError: the disk refused.
    """
    name = vfs or apsw.vfs_names()[0]  # the first is the default
    try:
        database = apsw.VFSFile(name, path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
    except apsw.CantOpenError:
        return  # there is none; if there is and it cannot be opened, SQLite will say so
    try:
        for level in _LOCKS:
            database.xLock(level)
        wal = files.read(path + WAL_SUFFIX)
        if wal:
            files.replace(path + WAL_SUFFIX, wal)
    except apsw.BusyError:
        if is_doubtful:
            _write_over(name, path + WAL_SUFFIX)
    finally:
        try:
            database.xUnlock(apsw.SQLITE_LOCK_NONE)
        finally:
            database.xClose()


def _write_over(vfs: str, wal: str) -> None:
    try:
        file = apsw.VFSFile(vfs, wal, [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE, 0])
    except apsw.CantOpenError:
        return  # there is none
    try:
        size = file.xFileSize()
        for offset in range(0, size, _PIECE_BYTES):
            file.xWrite(file.xRead(min(_PIECE_BYTES, size - offset), offset), offset)
        if size:
            file.xSync(_SYNC_NORMAL)
    finally:
        file.xClose()
