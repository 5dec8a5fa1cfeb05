"""The heads file as the running ledger writes it: after each commit, before anything rests on it (R26; see `heads`)."""

from __future__ import annotations

import apsw

from ledger_sync.ledger import heads
from ledger_sync.ledger.errors import LedgerDamaged, LedgerFailure
from protocol.link_messages import BatchName
from protocol.ports import Files
from protocol.signed import Signer


class Anchor:
    """One heads file; `append` returns when the line is on disk."""

    def __init__(self, files: Files, path: str, signer: Signer) -> None:
        self._files = files
        self._path = path
        self._signer = signer

    def append(self, line: bytes) -> None:
        """Add a line. Raises LedgerFailure: the commit stands, its line comes at the next opening."""
        try:
            self._files.append(self._path, line)
        except OSError as error:
            raise LedgerFailure(f"the heads file cannot be written: {error}") from error

    def read(self) -> bytes | None:
        """The whole file, or None if there is none. Raises LedgerFailure."""
        try:
            return self._files.read(self._path)
        except OSError as error:
            raise LedgerFailure(f"the heads file cannot be read: {error}") from error

    def mend(self, connection: apsw.Connection, position: int, operation: int, *, is_restored: bool) -> None:
        """Append what the database (which ends at these) has and the file lacks.

        Raises:
            LedgerDamaged: the file is ahead of the database and nobody said that a backup was put back.
            LedgerFailure: it cannot be written, or has grown too long to be read.
        """
        data = self.read() or b""
        if len(data) > heads.HEADS_FILE_BYTES_MAX:
            raise LedgerFailure("the heads file is too long: move it away to an archive")
        found = heads.read_heads(data, None)
        if not is_restored and (found.last_position > position or found.last_operation > operation):
            raise LedgerDamaged(
                f"the heads file knows position {found.last_position} and operation {found.last_operation}, the"
                f" database ends at {position} and {operation}: it was truncated, or a backup was put back"
            )
        self._make_sure_of_the_end(data)
        last_operation, last_position = found.last_operation, found.last_position
        lost = _restore_without_head(connection, found)
        if is_restored and lost is not None:  # a crash cut the restore itself off from its line: it counts from there
            last_operation, last_position = lost[0] - 1, min(last_position, lost[1])
        elif lost is not None:
            raise LedgerDamaged(f"operation {lost[0]}, a restore, is not in the heads file: restore again")
        for number in range(last_operation + 1, operation + 1):
            self.append(self._operation_line(connection, number))
        for number in range(last_position + 1, position + 1):
            self.append(self._batch_line(connection, number))

    def _make_sure_of_the_end(self, data: bytes) -> None:
        """Write the last line once more: if its sync failed, it may be in memory only, and the next sync not say so.

        The same line twice is no fault, nor is an empty one, read as junk: what is lost may be the end of the line
        before, so a line begins anew. A line that a cut has torn is ended: its beginning stays and counts for nothing.
        """
        if not data:
            return
        last = data.removesuffix(b"\n").rpartition(b"\n")[2] + b"\n"
        is_whole = not heads.read_heads(last, None).torn
        self.append(b"\n" + last if is_whole else b"\n")

    def _batch_line(self, connection: apsw.Connection, position: int) -> bytes:
        generation, posted_ms, *name, chain = connection.execute(
            "SELECT generation, posted_ms, frontend, spool, first_row, last_row, digest, chain FROM batches"
            " WHERE position = ?",
            (position,),
        ).fetchone()  # type: ignore[misc]
        return heads.batch_line(
            self._signer,
            position=position,
            generation=generation,
            posted_ms=posted_ms,
            name=BatchName(*name).encode(),
            chain=chain,
        )

    def _operation_line(self, connection: apsw.Connection, operation: int) -> bytes:
        after_position, at_ms, operator, verb, arguments, hash_ = connection.execute(
            "SELECT after_position, at_ms, operator, verb, arguments, hash FROM operations WHERE operation = ?",
            (operation,),
        ).fetchone()  # type: ignore[misc]
        return heads.operation_line(
            self._signer,
            operation=operation,
            after_position=after_position,
            at_ms=at_ms,
            operator=operator,
            verb=verb,
            arguments=arguments,
            hash_=hash_,
        )


def _restore_without_head(connection: apsw.Connection, found: heads.Heads) -> tuple[int, int] | None:
    """(operation, after position) of the last restore, if the file has another line in its place."""
    row = connection.execute(
        "SELECT operation, after_position, hash FROM operations WHERE verb = 'restore' ORDER BY operation DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    operation, after_position, hash_ = row
    head = found.operations.get(operation)
    return None if head is None or head.get("hash") == hash_.hex() else (operation, after_position)
