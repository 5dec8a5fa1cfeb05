"""What may be appended to the spool, and what comes back. Values only.

intake            durable effect                        kinds of outcome
RecordsIntake     row(s) of records, ranges, totals     all
TombstoneIntake   row, ranges                           all but SUSPECT
BaselineIntake    row; anchor of the boot               ACCEPTED, MALFORMED
AnchorIntake      anchor of the boot                    ACCEPTED
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from protocol.ranges import LoginDecision
from protocol.records import Single


class OutcomeKind(Enum):
    """What became of one intake; all but the last two may be acknowledged once the group is durable."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """Nothing new: the same records are held with the same seals."""
    PARTLY = "partly"
    """Cut: some was held already, the rest was stored."""
    SUSPECT = "suspect"
    """A seal differs: stored as suspect, alarmed, not acknowledged; BYE `forked` (R10)."""
    FULL = "full"
    """Would make more holes in one epoch than `RANGES_MAX`: not stored, not acknowledged."""
    MALFORMED = "malformed"
    """Not what it claims to be: not stored; `reason` says why."""


@dataclass(slots=True)
class RecordsIntake:
    """The records of one UPLOAD frame.

    Attributes:
        terminal, epoch: of the authenticated session.
        payload: the records, back to back.
        received_ms: UTC of receipt; no trade time is later (R25).
        first_unacknowledged: of this epoch, from the session's BASELINE; where `durable` starts from.
        keep_as_suspect: an old epoch read out after re-enrolment: stored as suspect in any case (R10, R11).
        single: what the head of the payload says where it is one record, of this terminal and epoch and of a length and
            type that may be; so that it is read once. None: it will be read.
    """

    terminal: int
    epoch: int
    payload: bytes
    received_ms: int
    first_unacknowledged: int
    keep_as_suspect: bool = False
    single: Single | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.payload)


@dataclass(slots=True)
class BaselineIntake:
    """A whole BASELINE message; `epoch` is the session's, the last of its entries."""

    terminal: int
    epoch: int
    message: bytes
    received_ms: int

    @property
    def size_bytes(self) -> int:
        return len(self.message)


@dataclass(slots=True)
class TombstoneIntake:
    """A whole TOMBSTONE message (R9)."""

    terminal: int
    epoch: int
    message: bytes
    received_ms: int
    first_unacknowledged: int

    @property
    def size_bytes(self) -> int:
        return len(self.message)


@dataclass(slots=True)
class AnchorIntake:
    """UTC at which a boot began, measured by a HEARTBEAT (docs/protocol.md §9)."""

    terminal: int
    epoch: int
    boot: int
    anchor_ms: int

    @property
    def size_bytes(self) -> int:
        return 0


Intake = RecordsIntake | BaselineIntake | TombstoneIntake | AnchorIntake


@dataclass(slots=True)
class EntryLogin:
    """What follows from one entry of a BASELINE."""

    epoch: int
    first_unacknowledged: int
    settled: int
    decision: LoginDecision


@dataclass(slots=True)
class Outcome:
    """What became of one intake, and what its ACK says; valid only once `append` has returned.

    `durable`, `settled` and `ranges` are set for records and tombstones, `logins` (ascending epochs) for baselines.
    """

    kind: OutcomeKind
    durable: int = 0
    settled: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    reason: str = ""
    logins: Sequence[EntryLogin] = ()
