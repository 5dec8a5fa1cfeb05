"""`python -m tests.disks.frontend SITE [--sync-ms N] [--broken-while FILE] [--no-watch]`: `serve` on such a disk.

The product's own process; only the default VFS of SQLite is another, and with `--no-watch` free space looks endless, so
that the file system itself has to say when it is full.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import apsw

import frontend_server.serving
import onecard

BASE: Final = "unix"


class SlowVfs(apsw.VFS):
    """Each sync takes `sync_ms` longer; while `broken` exists, writes and syncs fail."""

    def __init__(self, sync_ms: int, broken: Path | None) -> None:
        self.sync_ms = sync_ms
        self.broken = broken
        super().__init__("slow", BASE, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        return _File(name, flags, self)

    def check(self) -> None:
        if self.broken is not None and self.broken.exists():
            raise apsw.IOError("the disk is broken")


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], vfs: SlowVfs) -> None:
        self._vfs = vfs
        super().__init__(BASE, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw's name
        self._vfs.check()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        self._vfs.check()
        time.sleep(self._vfs.sync_ms / 1000)
        super().xSync(flags)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.disks.frontend")
    parser.add_argument("site", type=Path)
    parser.add_argument("--sync-ms", type=int, default=0)
    parser.add_argument("--broken-while", type=Path)
    parser.add_argument("--no-watch", action="store_true")
    asked = parser.parse_args()
    vfs = SlowVfs(asked.sync_ms, asked.broken_while)
    if asked.no_watch:
        setattr(frontend_server.serving, "free_bytes_of", lambda _: (1, 1))  # noqa: B010 - a name it has imported
    code = onecard.main(["serve", "--config", str(asked.site)])
    vfs.unregister()
    return code


if __name__ == "__main__":
    sys.exit(main())
