"""The spool: every accepted record on disk before it is acknowledged, until the ledger's receipt (docs/spool.md)."""

from ledger_sync.errors import DiskFull, SpoolBusy, SpoolClosed, SpoolError, SpoolFailure
from ledger_sync.spool.batches import Batch
from ledger_sync.spool.holes import EpochHeld, Hole, HoleKind, Stated
from ledger_sync.spool.intake import (
    AnchorIntake,
    BaselineIntake,
    EntryLogin,
    Intake,
    Outcome,
    OutcomeKind,
    RecordsIntake,
    TombstoneIntake,
)
from ledger_sync.spool.spool import Spool, SpoolFacts, Total
from ledger_sync.spool.store import SpoolSettings, SpoolState
from ledger_sync.spool.writer import SpoolWriter

__all__ = [
    "AnchorIntake",
    "BaselineIntake",
    "Batch",
    "DiskFull",
    "EntryLogin",
    "EpochHeld",
    "Hole",
    "HoleKind",
    "Intake",
    "Outcome",
    "OutcomeKind",
    "RecordsIntake",
    "Spool",
    "SpoolBusy",
    "SpoolClosed",
    "SpoolError",
    "SpoolFacts",
    "SpoolFailure",
    "SpoolSettings",
    "SpoolState",
    "SpoolWriter",
    "Stated",
    "TombstoneIntake",
    "Total",
]
