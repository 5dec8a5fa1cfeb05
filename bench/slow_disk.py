"""A SQLite VFS whose every sync takes longer: the disk of goal 9. An entry of the bench; the product has no hook."""

from __future__ import annotations

import time
from typing import Any, Final

import apsw

NAME: Final = "bench-slow-disk"


class _File(apsw.VFSFile):
    def __init__(self, base: str, name: Any, flags: list[int], delay_seconds: float) -> None:
        self._delay_seconds = delay_seconds
        super().__init__(base, name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        time.sleep(self._delay_seconds)  # gives the interpreter's lock away, as the sync itself does
        super().xSync(flags)


class SlowDisk(apsw.VFS):
    """Keep it for as long as a connection uses it."""

    def __init__(self, delay_ms: float) -> None:
        self._delay_seconds = delay_ms / 1000
        super().__init__(NAME, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        return _File("", name, flags, self._delay_seconds)
