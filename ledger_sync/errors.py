"""Every error of the way to the ledger, in one tree.

    LedgerSyncError
    └── SpoolError
        ├── SpoolFailure      our own disk or file: nothing of the group was taken; alarm, then `reopen`
        │   └── DiskFull      less than the share of free space below which nothing is taken
        ├── SpoolBusy         its queue is full; stop reading from peers until it has room
        ├── SpoolClosed       used before `open`, after `close`, or after a failure and before `reopen`
        ├── UnsafeSqlite      the SQLite that is loaded can corrupt a WAL database
        ├── ForeignSpool      the file is no spool, of another version, or of another site or front-end
        └── SpoolDamaged      the file's content contradicts itself

What a peer sends wrong is a `protocol.errors.RemoteError`. No message holds a seal, a full card number or a record.
"""

from __future__ import annotations


class LedgerSyncError(Exception):
    """Base of everything that this package raises on purpose."""


class SpoolError(LedgerSyncError):
    """The spool could not do what was asked."""


class SpoolFailure(SpoolError):
    """A statement, commit or sync failed: not the peer's fault, and nothing of it counts as stored (R14)."""


class DiskFull(SpoolFailure):
    """The volume has too little free space left to take records (R14)."""

    def __init__(self, *, free_share: float, refuse_below: float) -> None:
        super().__init__(f"{free_share:.1%} of the volume is free, below {refuse_below:.0%} nothing is taken")
        self.free_share = free_share
        self.refuse_below = refuse_below


class SpoolBusy(SpoolError):
    """The writer's queue is full; nothing was taken."""

    def __init__(self, *, intakes: int, queued_bytes: int) -> None:
        super().__init__(f"{intakes} intakes of {queued_bytes} bytes wait for the disk already")
        self.intakes = intakes
        self.queued_bytes = queued_bytes


class SpoolClosed(SpoolError):
    """The spool has no open connection."""


class UnsafeSqlite(SpoolError):
    """SQLite before 3.51.3 can corrupt a database when its WAL is reset."""

    def __init__(self, *, got: str, need: str) -> None:
        super().__init__(f"SQLite {got} is loaded, at least {need} is needed: install a newer apsw")
        self.got = got
        self.need = need


class ForeignSpool(SpoolError):
    """The file belongs to something or somebody else."""


class SpoolDamaged(SpoolError):
    """What the file says in one place contradicts what it says in another."""
