"""What a verb of the ledger works on: its transaction, the books, who does it and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw

from ledger_sync.ledger import catalogue
from ledger_sync.ledger.books import Books
from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.rules import RULES
from protocol.signed import Version
from protocol.trade_time import UtcOffset


@dataclass(slots=True)
class Work:
    """What a verb works on, within its transaction."""

    connection: apsw.Connection
    books: Books
    keys: LedgerKeys
    operation: int
    position: int
    """Batches posted before this operation."""
    generation: int
    now_ms: int
    operator: str
    currency: int
    first_open_day: int
    utc_offset_ms: UtcOffset
    day: int
    """Booking day of this operation: today, never below the first open day."""
    rules: int = RULES
    unproven_limit_cents: int = 0
    is_replay: bool = False
    """`verify` does an old operation again: what it issued then was signed then."""

    def issue(self, **changes: Any) -> Version:
        """The next version of the deny list, by `catalogue.issue`.

        Raises:
            VerbRefused: as there, or the ledger's certificate is not valid now, and terminals would not take it.
        """
        certificate = self.keys.certificate
        if not self.is_replay and not certificate.valid_from_ms <= self.now_ms <= certificate.valid_to_ms:
            when = "has expired" if self.now_ms > certificate.valid_to_ms else "is not valid yet"
            raise VerbRefused(
                f"the ledger's certificate {certificate.key_id} {when}: no terminal would take a new list version;"
                " check the clock of this machine, or renew the certificate (`onecard doctor` shows its days)"
            )
        return catalogue.issue(self.connection, self.keys, generation=self.generation, now_ms=self.now_ms, **changes)
