"""A disk that loses power: what SQLite has written and not synced may be there afterwards, or not, or in part.

A VFS over the ordinary one. It keeps, per file, the writes since the last sync, each with the bytes it has replaced. A
power cut puts the file back to what was synced and does some of those writes again, in their order, the last of a run
perhaps torn at a sector. So a commit that was not synced may vanish, and one that was may not (R14).

A cut may be armed to fall before the n-th write or sync from now: inside a commit. From then on every operation fails.
"""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import apsw

SECTOR_BYTES: Final = 512
_numbers: Final = itertools.count()


class DiskDead(apsw.IOError):
    """The power has gone."""


def close_killed(connection: apsw.Connection) -> None:
    """As the system closes the files of a process that is gone; a disk without power takes no last words."""
    with suppress(DiskDead):
        connection.close(True)


class FragileDisk(apsw.VFS):
    """Registers itself under `name`; `close` it when no connection is open any more."""

    def __init__(self, seed: str) -> None:
        self.name = f"fragile-{next(_numbers)}"
        self.rng = random.Random(seed)
        self.is_dead = False
        self.cut_after: int | None = None
        self.unsynced: dict[str, list[tuple[int, bytes, bytes]]] = {}
        """File → (offset, bytes before, bytes written), oldest first; truncation writes nothing over what was there."""
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - apsw's name
        return _FragileFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's names
        self.operation()
        self.unsynced.pop(filename, None)
        super().xDelete(filename, syncdir)

    def operation(self) -> None:
        """One more; raises DiskDead where the power goes."""
        if self.cut_after is not None:
            self.cut_after -= 1
            self.is_dead |= self.cut_after < 0
        if self.is_dead:
            raise DiskDead("no power")

    def power_back(self) -> tuple[int, int]:
        """Make the files what the cut left, all connections being closed; (writes lost, writes torn)."""
        lost = torn = 0
        for path, writes in self.unsynced.items():
            if not Path(path).exists():
                continue
            with Path(path).open("r+b") as file:
                for offset, before, written in reversed(writes):
                    file.seek(offset)
                    file.write(before)
                    if len(before) < len(written):
                        file.truncate(offset + len(before))
                for offset, _, data in writes:
                    written = data
                    fate = self.rng.random()
                    if fate < 0.5:
                        lost += 1
                        continue
                    if fate < 0.65 and len(written) > SECTOR_BYTES:
                        torn += 1
                        written = written[: SECTOR_BYTES * self.rng.randrange(1, len(written) // SECTOR_BYTES + 1)]
                    file.seek(offset)
                    file.write(written)
        for path in {each.removesuffix("-wal") for each in self.unsynced}:
            Path(path + "-shm").unlink(missing_ok=True)
        self.unsynced.clear()
        self.is_dead, self.cut_after = False, None
        return lost, torn

    def close(self) -> None:
        """Idempotent."""
        self.unregister()


class _FragileFile(apsw.VFSFile):
    def __init__(self, disk: FragileDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def _note(self, offset: int, before: bytes, written: bytes) -> None:
        self._disk.unsynced.setdefault(self._path, []).append((offset, before, written))

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw's name
        self._disk.operation()
        size = self.xFileSize()
        count = min(len(data), max(0, size - offset))
        self._note(offset, bytes(self.xRead(count, offset)) if count else b"", bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        self._disk.operation()
        size = self.xFileSize()
        if size > newsize:
            self._note(newsize, bytes(self.xRead(size - newsize, newsize)), b"")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        self._disk.operation()
        self._disk.unsynced.pop(self._path, None)
