"""Making sure of a WAL before it is believed: its bytes are written over themselves and synced.

When a sync fails, a system may drop what it could not write, call those pages clean, and still give them to whoever
reads the file; the next sync then succeeds without having written anything. SQLite's recovery would take such frames
for safe, write them into the database, and a power cut would leave them there half, beside a WAL that never had them.
Only bytes that are written once more are on the disk after a sync that succeeds.
"""

from __future__ import annotations

from typing import Final

import apsw

WAL_SUFFIX: Final = "-wal"
_PIECE_BYTES: Final = 1 << 16  # at a time: `unix` takes less than 128 KiB in one write
_SYNC_NORMAL: Final = apsw.SQLITE_SYNC_NORMAL


def rewrite_wal(path: str, *, vfs: str | None) -> None:
    """For the owner of the database at `path`, before it opens it; nothing if there is no WAL.

    Raises:
        apsw.Error: the disk refused.
    """
    name = vfs or apsw.vfs_names()[0]  # the first is the default
    wal = path + WAL_SUFFIX
    try:
        file = apsw.VFSFile(name, wal, [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE, 0])
    except apsw.CantOpenError:
        return  # there is none; if there is and it cannot be opened, SQLite will say so
    except apsw.IOError as error:
        if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_FSTAT:
            return  # `unix` looks at the database for the mode of its WAL: there is no database either
        raise
    try:
        size = file.xFileSize()
        for offset in range(0, size, _PIECE_BYTES):
            file.xWrite(file.xRead(min(_PIECE_BYTES, size - offset), offset), offset)
        if size:
            file.xSync(_SYNC_NORMAL)
    finally:
        file.xClose()
