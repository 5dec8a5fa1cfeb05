"""A disk in memory that remembers what is synced, and notes every operation in a `Journal`; SQLite and Files over it.

One flat directory. A write, a truncation, a new name, a removed name and a rename last only once they are synced: a
file's bytes by its own sync, names by a sync of the directory. `unix` syncs the directory with the first sync
through each handle that may have made a WAL or rollback journal, and after it removed one, so this VFS does too; a
database's own name gets no such sync.

Files of SQLite inherit one empty real file: apsw hands the shared memory of a WAL through to it and to nothing else.
Its locks keep the connections of this process apart, and `unix-excl` keeps that memory in the heap.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

SECTOR_BYTES: Final = 512
DIRECTORY: Final = "/disk/"

_NAMES_SYNCED: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
_FLAT: Final = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE  # what `unix` claims of every disk


@dataclass(slots=True)
class Operation:
    """One step of the disk: create, write, truncate, sync, doubt, delete, rename, names, mark.

    `doubt` is a sync that failed, `names` the sync of the directory. `mark` is no step of the disk: it says that one
    more step of the workload has returned.
    """

    kind: str
    inode: int = 0
    name: str = ""
    other: str = ""
    offset: int = 0
    data: bytes = b""


Hook = Callable[[str, str], None]
"""Called before each operation with its kind and the file's name; raising makes the operation fail."""


def no_hook(_kind: str, _name: str) -> None:
    return


CHANGES: Final = frozenset({"create", "write", "truncate", "sync", "delete", "rename"})


class Kill:
    """A `Hook`: after so many changes the process is dead, and nothing of it reaches the disk any more."""

    def __init__(self, changes: int) -> None:
        self._left = changes

    def __call__(self, kind: str, _name: str) -> None:
        if kind in CHANGES:
            self._left -= 1
            if self._left < 0:
                raise apsw.IOError("killed")


@dataclass(slots=True)
class Disk:
    """Names and bytes as a running system sees them; `journal` is what happened."""

    files: dict[str, bytearray] = field(default_factory=dict)
    journal: list[Operation] = field(default_factory=list)
    hook: Hook = no_hook
    drops_failed_pages: bool = False
    """A failed sync leaves its pages in doubt, whatever the next sync says."""
    is_lying: bool = False
    """Syncs say that they are done and are not noted."""
    _inodes: dict[int, tuple[int, bytearray]] = field(default_factory=dict)
    """By id; the bytes are kept, so that no id comes twice."""

    @classmethod
    def of(cls, image: dict[str, bytes]) -> Disk:
        """The disk of a machine that starts with these files, all of them synced; their inodes are 1, 2, 3 …"""
        disk = cls(files={name: bytearray(data) for name, data in image.items()})
        for data in disk.files.values():
            disk.inode(data)
        return disk

    def image(self) -> dict[str, bytes]:
        return {name: bytes(data) for name, data in self.files.items()}

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nothing planted happens: somebody is only looking."""
        hook, self.hook = self.hook, no_hook
        try:
            yield
        finally:
            self.hook = hook

    def mark(self) -> None:
        self.journal.append(Operation("mark"))

    def inode(self, data: bytearray) -> int:
        found = self._inodes.get(id(data))
        if found is None:
            found = self._inodes[id(data)] = len(self._inodes) + 1, data
        return found[0]

    def open(self, name: str, *, create: bool) -> bytearray | None:
        data = self.files.get(name)
        if data is None and create:
            self.hook("create", name)
            data = self.files[name] = bytearray()
            self.journal.append(Operation("create", self.inode(data), name))
        return data

    def write(self, data: bytearray, offset: int, new: bytes) -> None:
        if offset > len(data):
            data.extend(bytes(offset - len(data)))
        data[offset : offset + len(new)] = new
        self.journal.append(Operation("write", self.inode(data), offset=offset, data=new))

    def truncate(self, data: bytearray, size: int) -> None:
        if size < len(data):
            del data[size:]
        else:
            data.extend(bytes(size - len(data)))
        self.journal.append(Operation("truncate", self.inode(data), offset=size))

    def sync(self, data: bytearray) -> None:
        if not self.is_lying:
            self.journal.append(Operation("sync", self.inode(data)))

    def sync_or_doubt(self, name: str, data: bytearray) -> None:
        """As the system's fsync: what a failed one has not written may be lost for good (a kill fails none)."""
        try:
            self.hook("sync", name)
        except apsw.Error:
            if self.drops_failed_pages and not isinstance(self.hook, Kill):
                self.journal.append(Operation("doubt", self.inode(data)))
            raise
        self.sync(data)

    def sync_names(self) -> None:
        if not self.is_lying:
            self.journal.append(Operation("names"))

    def delete(self, name: str) -> None:
        del self.files[name]
        self.journal.append(Operation("delete", name=name))

    def rename(self, name: str, target: str) -> None:
        self.files[target] = self.files.pop(name)
        self.journal.append(Operation("rename", name=name, other=target))


class DiskFiles:
    """The Files port, step by step as `onecard_runtime.RealFiles` does it; a planted failure is an OSError here."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def read(self, path: str) -> bytes | None:
        name = path.removeprefix(DIRECTORY)
        with _os_errors():
            self.disk.hook("read", name)
        found = self.disk.files.get(name)
        return None if found is None else bytes(found)

    def replace(self, path: str, data: bytes) -> None:
        name = path.removeprefix(DIRECTORY)
        beside, disk = name + ".new", self.disk
        with _os_errors():
            disk.hook("open", beside)
            file = disk.open(beside, create=True)
            assert file is not None
            if file:
                disk.truncate(file, 0)
            disk.hook("write", beside)
            disk.write(file, 0, data)
            disk.sync_or_doubt(beside, file)
            disk.hook("rename", beside)
            disk.rename(beside, name)
            disk.hook("sync", "")
            disk.sync_names()

    def append(self, path: str, data: bytes) -> None:
        name, disk = path.removeprefix(DIRECTORY), self.disk
        is_new = name not in disk.files
        with _os_errors():
            disk.hook("open", name)
            file = disk.open(name, create=True)
            assert file is not None
            disk.hook("write", name)
            disk.write(file, len(file), data)
            disk.sync_or_doubt(name, file)
            if is_new:
                disk.hook("sync", "")
                disk.sync_names()


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise OSError(errno.EIO, str(error)) from error


class DiskFile(apsw.VFSFile):
    """One open file of SQLite."""

    def __init__(self, vfs: DiskVfs, name: str, data: bytearray, flags: int, *, names_due: bool) -> None:
        self._disk = vfs.disk
        self._name = name
        self._data = data
        self._names_due = names_due
        if flags & apsw.SQLITE_OPEN_MAIN_DB:
            super().__init__(vfs.base, vfs.lock_path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - apsw's name
        self._disk.hook("read", self._name)
        return bytes(self._data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's name
        self._disk.hook("write", self._name)
        self._disk.write(self._data, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        self._disk.hook("truncate", self._name)
        self._disk.truncate(self._data, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        self._disk.sync_or_doubt(self._name, self._data)
        if self._names_due:
            self._disk.hook("sync", "")
            self._disk.sync_names()
            self._names_due = False

    def xFileSize(self) -> int:  # noqa: N802 - apsw's name
        self._disk.hook("size", self._name)
        return len(self._data)

    def xLock(self, level: int) -> None:  # noqa: N802 - apsw's name
        self._disk.hook("lock", self._name)
        super().xLock(level)

    def xUnlock(self, level: int) -> None:  # noqa: N802 - apsw's name
        self._disk.hook("unlock", self._name)
        super().xUnlock(level)

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802 - apsw's name
        return False

    def xSectorSize(self) -> int:  # noqa: N802 - apsw's name
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802 - apsw's name
        return _FLAT


class DiskVfs(apsw.VFS):
    """The VFS over `disk`, which may be another one for each connection."""

    def __init__(self, name: str, lock_path: Path, *, base: str = "unix-excl") -> None:
        self.disk = Disk()
        self.vfs_name = name
        self.lock_path = str(lock_path)
        self.base = base
        lock_path.touch()
        super().__init__(name, base)

    def xOpen(self, name: Any, flags: list[int]) -> DiskFile:  # noqa: N802 - apsw's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        short = path.removeprefix(DIRECTORY)
        self.disk.hook("open", short)
        may_create = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        data = self.disk.open(short, create=may_create)
        if data is None:
            raise apsw.CantOpenError(f"there is no {short}")
        flags[1] = flags[0]
        return DiskFile(self, short, data, flags[0], names_due=may_create and bool(flags[0] & _NAMES_SYNCED))

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's name
        name = filename.removeprefix(DIRECTORY)
        self.disk.hook("delete", name)
        if name not in self.disk.files:
            raise apsw.IOError("there is none")
        self.disk.delete(name)
        if syncdir:
            self.disk.sync_names()

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802 - apsw's name
        name = pathname.removeprefix(DIRECTORY)
        self.disk.hook("access", name)
        return name in self.disk.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802 - apsw's name
        return name
