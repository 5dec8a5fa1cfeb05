"""A session's side of the spool: what it hands over, what is acknowledged, when it stops reading (docs/protocol.md §8).

Nothing is acknowledged before the spool has committed it (promise 1); one ACK answers all frames of one commit.
"""

from __future__ import annotations

from typing import Final

from frontend_server.alarms import AlarmKind
from frontend_server.log_in import EpochAck
from frontend_server.parts import Parts
from frontend_server.turns import Paused, TurnTakingConnection
from ledger_sync.spool import (
    BaselineIntake,
    Intake,
    Outcome,
    OutcomeKind,
    RecordsIntake,
    SpoolError,
    TombstoneIntake,
)
from protocol.codes import ByeCode, ReportKind
from protocol.errors import Malformed
from protocol.limits import CREDIT_MAX
from protocol.messages import Ack, Tombstone, plain_ack
from protocol.records import summarise

# Plain names: an enum's members and their hashes are looked up by Python code, which the hot path would pay for.
_ACCEPTED: Final = OutcomeKind.ACCEPTED
_DUPLICATE: Final = OutcomeKind.DUPLICATE
_PARTLY: Final = OutcomeKind.PARTLY
_FOR_CREDIT: Final = Paused.FOR_CREDIT


class AcknowledgingConnection(TurnTakingConnection):
    """A Submitter; subclasses know the messages."""

    __slots__ = ("_epoch", "_epochs", "_terminal", "is_touched")

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._terminal = 0
        self._epoch = 0
        self._epochs: tuple[EpochAck, ...] = ()  # ascending; empty before the first ACKs
        self.is_touched = False

    def _baseline_stored(self, outcome: Outcome) -> None:
        """The log-in's BASELINE is durable."""
        raise NotImplementedError

    def _epoch_ack(self, epoch: int) -> EpochAck | None:
        """The state of an epoch that this session has opened; there are at most four, and nearly always one."""
        for state in self._epochs:
            if state.epoch == epoch:
                return state
        return None

    def _submit(self, item: Intake, *, is_live: bool = False) -> None:
        """Hand over to the spool; stop reading where the terminal sends beyond any credit."""
        try:
            self._parts.intake.submit(self, item, is_live=is_live)
        except SpoolError as error:
            self._cannot_store(str(error))
            return
        self._outstanding += 1
        if self._outstanding >= CREDIT_MAX:
            self._pause(Paused.FOR_CREDIT)

    # -- Submitter

    def stored(self, item: Intake, outcome: Outcome) -> None:
        self._outstanding -= 1
        kind = outcome.kind
        if self._session is None:
            return
        if item.__class__ is RecordsIntake or item.__class__ is TombstoneIntake:
            state = self._epoch_ack(item.epoch)
            assert state is not None
            if kind is _ACCEPTED or kind is _DUPLICATE or kind is _PARTLY:
                if kind is _DUPLICATE:
                    self._count_duplicate(item)
                if state.is_suspect:
                    state.advance_suspect(*_span(item))
                else:
                    last = 0 if state.proved_to is None else _span(item)[1]
                    state.advance(outcome.durable, outcome.settled, outcome.ranges, last)
            else:
                self._not_taken(item, state, outcome)
        elif kind is OutcomeKind.MALFORMED:
            self._session.fail(Malformed("message", outcome.reason))
            self._settle()
        elif item.__class__ is BaselineIntake:
            self._baseline_stored(outcome)

    def _count_duplicate(self, item: Intake) -> None:
        first, last = _span(item)
        self._parts.metrics.duplicate_frames += 1
        self._parts.metrics.duplicate_records += last - first + 1

    def not_stored(self, error: SpoolError) -> None:
        self._outstanding -= 1
        self._cannot_store(str(error))

    def acknowledge(self) -> None:
        for state in self._epochs:
            if state.dirty:
                self._send_ack(state)
        if self._paused is _FOR_CREDIT and self._outstanding < CREDIT_MAX:
            self._credit_is_back()
        self._settle()

    def _not_taken(self, item: Intake, state: EpochAck, outcome: Outcome) -> None:
        """A frame that may not simply be acknowledged: suspect, too many holes, or not what it claimed to be."""
        assert self._session is not None
        if outcome.kind is OutcomeKind.SUSPECT:
            self._parts.metrics.suspect_frames += 1
            if item.epoch == self._epoch:
                self._forked(AlarmKind.SUSPECT_RECORDS, outcome.reason)
            else:
                state.advance_suspect(*_span(item))
        elif outcome.kind is OutcomeKind.FULL:
            self._parts.alarm(AlarmKind.TOO_MANY_HOLES, str(self._terminal), outcome.reason)
            self.say_bye(ByeCode.CANNOT_STORE)
        else:
            self._session.fail(Malformed("records", outcome.reason))
            self._settle()

    def _cannot_store(self, why: str) -> None:
        """ACK with credit 0 for what was acknowledged before, then BYE (docs/protocol.md §14)."""
        if self._session is None:
            return
        self._parts.log("terminal.not_stored", terminal=self._terminal, reason=why)
        for state in self._epochs:
            self._send_ack(state, credit=0)
        self.say_bye(ByeCode.CANNOT_STORE)

    def _send_ack(self, state: EpochAck, credit: int | None = None) -> None:
        parts = self._parts
        state.dirty = False
        if state.epoch == self._epoch and self.status is not None:
            self.status.durable = state.durable
            self.status.settled = state.settled
        if credit is None:
            credit = parts.intake.credit(is_live=self._is_live)
        parts.metrics.acks_sent += 1
        if state.ranges or state.is_suspect:
            self._send(Ack(state.epoch, state.durable, state.settled, credit, state.is_suspect, state.ranges).encode())
        else:
            self._send(plain_ack(state.epoch, state.durable, state.settled, credit))

    def _forked(self, kind: AlarmKind, text: str) -> None:
        assert self.status is not None
        self.status.suspect_epoch = self._epoch
        self._parts.metrics.forks += 1
        self._parts.alarm(kind, str(self._terminal), text, ReportKind.FORK)
        self.say_bye(ByeCode.FORKED)

    # -- receipts

    def settling(self, epoch: int) -> int | None:
        state = self._epoch_ack(epoch)
        return None if state is None or state.is_suspect else state.first_unacknowledged

    def settled(self, epoch: int, settled: int) -> None:
        state = self._epoch_ack(epoch)
        if state is None or self._session is None:
            return
        settled = min(settled, state.durable)
        if settled > state.settled:
            state.settled = settled
            state.dirty = True
            if self._outstanding == 0:  # else the ACK of the next commit says it
                self._send_ack(state)
                self._settle()


def _span(item: Intake) -> tuple[int, int]:
    """(first, last) sequence of a frame that was taken; only where a log-in left doubts, for it reads every record."""
    if isinstance(item, RecordsIntake):
        found = summarise(item.payload)
        return found.first, found.last
    assert isinstance(item, TombstoneIntake)
    tombstone = Tombstone.decode(item.message)
    return tombstone.first, tombstone.last
