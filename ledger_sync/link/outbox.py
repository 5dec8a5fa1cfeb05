"""Batches on their way: claimed from the spool, sent, and forgotten when their receipt has settled them (R16).

At most `BATCHES_OUTSTANDING_MAX` are out at a time. `reset` forgets all of them, as the end of a connection does: the
same rows are claimed again, and the ledger answers for what it has. Work that was under way on the spool then comes
back to an outbox of another life and changes nothing but the spool itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ledger_sync.link.settings import SpoolAccess
from ledger_sync.spool.batches import Batch
from protocol.limits import BATCHES_OUTSTANDING_MAX
from protocol.link_messages import BatchMessage, Receipt
from protocol.ports import Clock, Log
from protocol.rows import owner


@dataclass(slots=True)
class _Outstanding:
    batch: Batch
    terminals: set[tuple[int, int]]
    sent_at_ms: int


class Outbox:
    """Moves only while `is_open`.

    Args:
        send: puts one batch on the wire.
        settled: told the (terminal, epoch) of a batch whose receipt settled it.
        failed: told why the connection should be given up.
    """

    def __init__(
        self,
        spool: SpoolAccess,
        *,
        clock: Clock,
        log: Log,
        send: Callable[[BatchMessage], None],
        settled: Callable[[set[tuple[int, int]]], None],
        failed: Callable[[str], None],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._log = log
        self._send = send
        self._settled = settled
        self._failed = failed
        self._outstanding: deque[_Outstanding] = deque()
        self._claimed_up_to = 0
        self._is_claiming = False
        self._claim_again = False
        self._life = 0
        self.is_open = False
        self.batches_sent = 0
        self.batches_settled = 0
        self.receipts_ignored = 0

    def __len__(self) -> int:
        """Batches without a receipt."""
        return len(self._outstanding)

    def oldest_ms(self) -> int | None:
        """When the oldest of them was sent (monotonic); None: none is out."""
        return self._outstanding[0].sent_at_ms if self._outstanding else None

    def reset(self, *, is_open: bool) -> None:
        """Forget what is out; with `is_open` start again from the first unsettled row at the next `pump`."""
        self._life += 1
        self._outstanding.clear()
        self._claimed_up_to = 0
        self.is_open = is_open

    def pump(self) -> None:
        """Claim and send until enough is out or nothing is left."""
        if not self.is_open or len(self._outstanding) >= BATCHES_OUTSTANDING_MAX:
            return
        if self._is_claiming:
            self._claim_again = True
            return
        self._is_claiming = True
        self._claim_again = False
        life, after_row = self._life, self._claimed_up_to

        def claimed(batch: Batch | None, error: BaseException | None) -> None:
            self._is_claiming = False
            if life != self._life:
                return
            if error is not None:
                self._log("link.not_claimed", alarm=True, error=str(error))
                self._failed("the spool cannot be read")
            elif batch is not None:
                self._take(batch)
                self.pump()
            elif self._claim_again:
                self.pump()

        self._spool.run(lambda spool: spool.claim(after_row), claimed)

    def _take(self, batch: Batch) -> None:
        self._claimed_up_to = batch.name.last_row
        terminals = {owner(row) for _, row in batch.rows}
        self._outstanding.append(_Outstanding(batch, terminals, self._clock.monotonic_ms()))
        self.batches_sent += 1
        self._send(BatchMessage(batch.name, list(batch.rows)))

    def receipt(self, receipt: Receipt) -> None:
        """Settle what a verified receipt names; whether it fits, the spool says from its own file."""
        life = self._life

        def settled(is_settled: bool | None, error: BaseException | None) -> None:  # noqa: FBT001 - a result
            if error is not None:
                self._log("link.not_settled", alarm=True, error=str(error))
                self._failed("the spool cannot settle")
                return
            if not is_settled:
                self.receipts_ignored += 1
                self._log("link.receipt_ignored", alarm=True, first_row=receipt.name.first_row)
                return
            if life != self._life:
                return
            self.batches_settled += 1
            terminals = self._forget(receipt)
            if terminals:
                self._settled(terminals)
            self.pump()

        self._spool.run(lambda spool: spool.settle(receipt), settled)

    def _forget(self, receipt: Receipt) -> set[tuple[int, int]]:
        for waiting in self._outstanding:
            if waiting.batch.name == receipt.name:
                self._outstanding.remove(waiting)
                return waiting.terminals
        return set()
