"""One writer: a lock on a file beside the database, held by the server, or by a verb that works in place."""

from __future__ import annotations

import fcntl
import os

from ledger_sync.ledger.errors import LedgerBusy


class WriterLock:
    """`flock` on `path`; freed by `release`, or by the system when the process ends."""

    def __init__(self, path: str) -> None:
        """Take the lock. Raises LedgerBusy when another process, or another ledger of this one, has it."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            self._descriptor = -1
            raise LedgerBusy("another process works on this ledger; ask it through its admin socket") from None

    def release(self) -> None:
        """Free it; idempotent. The file stays: removing it would let two processes hold "the" lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
