"""What goes wrong in the ledger, one tree.

    LedgerError
    ├── LedgerFailure     our own disk or file: nothing of the transaction counts; reopen
    ├── LedgerBusy        another process has the ledger's lock
    ├── ForeignLedger     the file is no ledger, of another version, or of another site
    ├── LedgerDamaged     the file contradicts its heads file or itself; `verify` names the row
    ├── VerbRefused       an operator's request that the books do not allow; nothing was changed
    └── BatchRefused      a batch that cannot be booked whole; carries the code of the REFUSAL

No message holds a seal, a key, a full card number or a record.
"""

from __future__ import annotations

from ledger_sync.errors import LedgerSyncError
from protocol.codes import RefusalCode


class LedgerError(LedgerSyncError):
    """The ledger could not do what was asked."""


class LedgerFailure(LedgerError):
    """A statement, commit or sync failed; nothing of the transaction counts as booked."""


class LedgerBusy(LedgerError):
    """Another process works on this ledger."""


class ForeignLedger(LedgerError):
    """The file belongs to something or somebody else."""


class LedgerDamaged(LedgerError):
    """Database and heads file contradict each other."""


class VerbRefused(LedgerError):
    """The books do not allow it; nothing was changed."""


class BatchRefused(LedgerError):
    """Nothing of the batch was booked; the front-end is told by REFUSAL."""

    code: RefusalCode = RefusalCode.MALFORMED

    def __init__(self, says: str, *, first_row: int) -> None:
        super().__init__(says)
        self.first_row = first_row
