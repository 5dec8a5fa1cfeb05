"""A backup of a spool is put back: what it forgot stays booked, what it takes in from then on is booked once (R16)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from ledger_sync.spool import OutcomeKind, RecordsIntake, Spool
from protocol.link_messages import BatchMessage
from tests.ledger.canteen import FRONTEND, MERCHANT, NOW_MS, SITE, ZONE, Canteen, Card, PlainFiles, Till
from tests.spool.kit import SeededRandom, StillClock

CENTS: Final = 350
MERCHANTS: Final = 7  # kind of the merchants' accounts (docs/ledger.md)


class FrontEnd:
    """A spool in a file, and the way of its rows to the ledger and back, by hand."""

    def __init__(self, path: Path, canteen: Canteen) -> None:
        self.path = path
        self.canteen = canteen
        self.spool = self._open()

    def _open(self) -> Spool:
        return Spool.open(
            str(self.path),
            frontend=FRONTEND,
            site=SITE,
            utc_offset_ms=ZONE,
            clock=StillClock(),
            random=SeededRandom(),
            files=PlainFiles(),
            log=lambda event, /, **facts: None,
        )

    def close(self) -> None:
        self.spool.close()

    def take(self, till: Till, *records: bytes, first_unacknowledged: int = 1) -> None:
        intake = RecordsIntake(till.number, 1, b"".join(records), NOW_MS + 60_000, first_unacknowledged)
        [outcome] = self.spool.append([intake])
        assert outcome.kind is OutcomeKind.ACCEPTED, outcome

    def forward(self) -> int:
        """All unsettled rows to the ledger, a batch each time; how many batches were settled by their receipts."""
        settled = 0
        while (batch := self.spool.claim()) is not None:
            posted = self.canteen.post_batch(BatchMessage(batch.name, list(batch.rows)))
            assert self.spool.settle(self.canteen.receipt(posted)), "a receipt that does not fit"
            settled += 1
        return settled

    def back_up(self, copy: Path) -> None:
        self.spool.close()
        shutil.copy(self.path, copy)
        shutil.copy(f"{self.path}.id", f"{copy}.id")
        self.spool = self._open()

    def put_back(self, copy: Path) -> None:
        self.spool.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self.path)
        shutil.copy(f"{copy}.id", f"{self.path}.id")
        self.spool = self._open()


def test_rows_numbered_again_by_yesterdays_spool_settle_and_every_record_is_booked_once(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    card, till = Card(1001), Till(66051)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    request.addfinalizer(canteen.close)
    front_end = FrontEnd(tmp_path / "spool.db", canteen)
    request.addfinalizer(front_end.close)
    front_end.take(till, *[till.purchase(card, CENTS) for _ in range(5)])
    assert front_end.forward() == 1
    front_end.back_up(tmp_path / "yesterday.db")
    lost = [till.purchase(card, CENTS) for _ in range(6)]
    for record in lost:
        front_end.take(till, record)
    assert front_end.forward() == 1
    booked_to = canteen.ledger.booked_to(FRONTEND, front_end.spool.identity.spool_id)
    assert booked_to == front_end.spool.last_row()

    front_end.put_back(tmp_path / "yesterday.db")
    assert front_end.spool.last_row() < booked_to, "this is what the ledger alarms at LINK_HELLO"
    # The terminal was told that the lost ones are on disk: it goes on behind them, under row numbers used before.
    for _ in range(9):
        front_end.take(till, till.purchase(card, CENTS), first_unacknowledged=12)
    assert front_end.forward() == 1
    assert front_end.spool.facts().rows_unsettled == 0
    assert canteen.balance(MERCHANTS, MERCHANT) == 20 * CENTS
    canteen.assert_conserved()

    for record in lost:  # read out of the terminal once more: duplicates, each
        front_end.take(till, record)
    front_end.forward()
    assert canteen.balance(MERCHANTS, MERCHANT) == 20 * CENTS
