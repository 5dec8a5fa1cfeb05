"""Taking intakes up inside one transaction: ranges, trade times, totals, packed rows (docs/protocol.md §8, §9).

The work per frame is small and constant; per record there is one pass for columns and one for trade times, both
without a Python call per record. Only a frame that overlaps what is held is taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import apsw

from ledger_sync.errors import SpoolDamaged
from ledger_sync.spool.epochs import Epochs, EpochState
from ledger_sync.spool.fold import COUNTED, COUNTED_MAX, FOLD_ROWS_MAX, counted_times, fold_rows, fold_totals
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
from ledger_sync.spool.stored import StoredRows
from protocol.codes import RowKind
from protocol.errors import Malformed, RemoteError
from protocol.messages import Baseline, Tombstone, decode_up
from protocol.ranges import Decision, Range, Verdict, agree
from protocol.records import LENGTH_OFFSET, Single, Summary, previous_seal, seal_of, single_cents, summarise, walk
from protocol.rows import PackedRow, encode_single
from protocol.trade_time import MS_PER_DS, DayByMinute, UtcOffset, measured_anchor_ms, trade_days, trade_times

_INSERT_COUNTED: Final = "INSERT INTO counted (last_row, entries) VALUES (?, ?)"
_INSERT_ROW: Final = "INSERT INTO rows (id, terminal, epoch, kind, first, last, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)"
_RECORDS: Final = int(RowKind.RECORDS)  # a plain number packs at half the price
_ACCEPTED: Final = OutcomeKind.ACCEPTED  # a member of an enum is looked up by Python code
HOLES_REASON: Final = "more holes in this epoch than are kept apart"
_WHOLE: Final = frozenset({Verdict.EXTENDS, Verdict.NEW_RANGE, Verdict.FILLS})


class Acceptor:
    """Takes up one group; `finish` writes what was gathered. The caller owns the transaction.

    When it fails this object is given up with the connection: what it remembers is then ahead of the file.
    """

    def __init__(
        self, connection: apsw.Connection, epochs: Epochs, stored: StoredRows, utc_offset_ms: UtcOffset, last_row: int
    ) -> None:
        self._connection = connection
        self._epochs = epochs
        self._stored = stored
        self._utc_offset_ms = utc_offset_ms
        self._day_of = DayByMinute(utc_offset_ms)
        self._last_row = last_row
        """The highest id given out; the next is one more (AUTOINCREMENT holds that none comes twice)."""
        self._counted_times = counted_times(connection)
        self._rows: list[tuple[int, int, int, int, int, int, bytes]] = []
        self._counted: list[bytes] = []

    def accept(self, intake: Intake) -> Outcome:
        """Take up one intake; nothing of a MALFORMED one has any effect."""
        try:
            if isinstance(intake, RecordsIntake):
                return self._records(intake)
            if isinstance(intake, AnchorIntake):
                return self._anchor(intake)
            if isinstance(intake, BaselineIntake):
                return self._baseline(intake)
            return self._tombstone(intake)
        except RemoteError as error:
            return Outcome(OutcomeKind.MALFORMED, reason=str(error))

    def finish(self) -> None:
        """Write everything of this group that is not yet in the transaction; from time to time, fold."""
        self._write_rows()
        self._epochs.write()
        if self._counted:
            self._connection.execute(_INSERT_COUNTED, (self._last_row, b"".join(self._counted)))
            self._counted.clear()
            self._counted_times += 1
        if self._counted_times >= COUNTED_MAX:
            self._fold_totals()
        oldest = self._epochs.oldest_recent_row()
        if self._epochs.is_due or (oldest is not None and self._last_row - oldest >= FOLD_ROWS_MAX):
            fold_rows(self._connection, self._epochs, self._last_row - FOLD_ROWS_MAX, self._last_row)

    def fold(self) -> None:
        """Bring every table to where the rows are; inside the caller's transaction, before anything is accepted."""
        if self._epochs.oldest_recent_row() is not None:
            fold_rows(self._connection, self._epochs, self._last_row, self._last_row)
        self._fold_totals()

    def _fold_totals(self) -> None:
        if self._counted_times:
            fold_totals(self._connection)
            self._counted_times = 0

    # -- records ------------------------------------------------------------------------------------------------------

    def _records(self, intake: RecordsIntake) -> Outcome:
        if intake.single is not None and not intake.keep_as_suspect:
            outcome = self._live_sale(intake, intake.single)
            if outcome is not None:
                return outcome
        payload = intake.payload
        found = summarise(payload)
        if found.terminal != intake.terminal or found.epoch != intake.epoch:
            raise Malformed("records", "not of the session's terminal and epoch")
        state = self._epochs.get(intake.terminal, intake.epoch)
        if intake.keep_as_suspect:
            return self._suspect(intake, found, state, "kept as suspect after re-enrolment")
        end_of_first = payload[LENGTH_OFFSET]
        tail = state.ranges.tail_before(found.first, payload[end_of_first - 16 : end_of_first - 8])
        if tail is not None and tail.trade_ms_last is not None:
            return self._continue(intake, found, state, tail)
        decision = state.ranges.classify(
            found.first, found.last, payload[end_of_first - 16 : end_of_first - 8], payload[-8:]
        )
        verdict = decision.verdict
        if verdict is Verdict.SUSPECT:
            return self._suspect(intake, found, state, "the chain of seals does not continue what is held")
        if verdict is Verdict.FULL:
            return Outcome(OutcomeKind.FULL, reason=HOLES_REASON)
        if decision.checks or verdict not in _WHOLE:
            return self._checked(intake, found, state, decision)
        self._epochs.change(intake.terminal, intake.epoch)
        self._keep(intake, found, state)
        return Outcome(OutcomeKind.ACCEPTED, *state.ack(intake.first_unacknowledged))

    def _live_sale(self, intake: RecordsIntake, single: Single) -> Outcome | None:
        """One record that continues what is held, of a measured boot, in time; None: it is not, and nothing was done.

        `_continue` for one record, without columns of one: half of what a live sale costs here was making them.
        """
        kind, _, _, epoch, boot, terminal, sequence, uptime_ds, _, _ = single
        payload = intake.payload
        state = self._epochs.get(terminal, epoch)
        anchor_ms = state.anchors_ms.get(boot)
        tail = state.ranges.tail_before(sequence, payload[-16:-8])
        if anchor_ms is None or tail is None or tail.trade_ms_last is None:
            return None
        trade_ms = anchor_ms + MS_PER_DS * uptime_ds
        if not tail.trade_ms_last <= trade_ms <= intake.received_ms:
            return None
        data = encode_single(epoch, terminal, sequence, intake.received_ms, trade_ms, payload)
        row = self._last_row = self._last_row + 1
        self._rows.append((row, terminal, epoch, _RECORDS, sequence, sequence, data))
        self._epochs.note_row(state, _RECORDS, sequence, sequence, row)
        state.ranges.extend(tail, sequence, payload[-8:], trade_ms)
        self._counted.append(COUNTED.pack(terminal, epoch, self._day_of(trade_ms), kind, 1, single_cents(single)))
        return Outcome(_ACCEPTED, *state.ack(intake.first_unacknowledged))

    def _continue(self, intake: RecordsIntake, found: Summary, state: EpochState, tail: Range) -> Outcome:
        """The rule: the next records of a terminal whose last one is held. Nothing overlaps, nothing follows."""
        times = trade_times(
            found.boots,
            found.uptimes_ds,
            found.clocks_ms,
            anchors_ms=state.anchors_ms,
            received_ms=intake.received_ms,
            predecessor_ms=tail.trade_ms_last,
            successor_ms=None,
        )
        self._add_row(intake, found, state, RowKind.RECORDS, times)
        state.ranges.extend(tail, found.last, intake.payload[-8:], times[-1])
        self._count(intake, found, times)
        return Outcome(OutcomeKind.ACCEPTED, *state.ack(intake.first_unacknowledged))

    def _checked(self, intake: RecordsIntake, found: Summary, state: EpochState, decision: Decision) -> Outcome:
        """Compare with what is stored, keep what is new: a duplicate, a straddling frame, or a fork."""
        self._write_rows()  # this group's own rows take part in the comparison
        key = (intake.terminal, intake.epoch)
        records = list(walk(intake.payload))

        def frame_seal(sequence: int) -> bytes:
            if sequence < found.first:
                return previous_seal(records[0])
            return seal_of(records[sequence - found.first])

        is_proved = True

        def stored(sequence: int, floor: int) -> tuple[int, bytes] | None:
            nonlocal is_proved
            nearest = self._stored.seal(key, sequence, floor)
            is_proved &= nearest is not None and nearest[0] == sequence
            return nearest

        try:
            same = agree(decision.checks, frame_seal, stored)
        except SpoolDamaged as error:
            return self._suspect(intake, found, state, str(error))
        if not same:
            return self._suspect(intake, found, state, "another seal is held for the same sequence")
        new = sum(last - first + 1 for first, last in decision.keep)
        if not is_proved and new < found.count:
            self._keep_suspect(intake, found, state)  # pruned: only the ledger can tell a duplicate from a fork (R10)
        if not decision.keep:
            return Outcome(OutcomeKind.DUPLICATE, *state.ack(intake.first_unacknowledged))
        self._epochs.change(*key)
        for first, last in decision.keep:
            payload = b"".join(records[first - found.first : last - found.first + 1])
            self._keep(replace(intake, payload=payload), summarise(payload), state)
        kind = OutcomeKind.ACCEPTED if new == found.count else OutcomeKind.PARTLY
        return Outcome(kind, *state.ack(intake.first_unacknowledged))

    def _keep(self, intake: RecordsIntake, found: Summary, state: EpochState) -> None:
        """Store consecutive records of which none is held yet, as one row."""
        first, last = found.first, found.last
        times = trade_times(
            found.boots,
            found.uptimes_ds,
            found.clocks_ms,
            anchors_ms=state.anchors_ms,
            received_ms=intake.received_ms,
            predecessor_ms=self._trade_ms(state, intake, first - 1),
            successor_ms=self._trade_ms(state, intake, last + 1),
        )
        self._add_row(intake, found, state, RowKind.RECORDS, times)
        payload = intake.payload
        end_of_first = payload[LENGTH_OFFSET]
        seals = (payload[end_of_first - 16 : end_of_first - 8], payload[-8:])
        if state.ranges.apply(first, last, seals=seals, trade_ms=(times[0], times[-1])):
            # The tombstone's receipt was not the record's (R9).
            state.settled.remove(first, last)
            state.settled_changed = state.tombstones_changed = True
        self._count(intake, found, times)

    def _trade_ms(self, state: EpochState, intake: RecordsIntake, sequence: int) -> int | None:
        known = state.ranges.trade_ms_at(sequence)
        if known is None and state.ranges.recorded(sequence):
            self._write_rows()
            return self._stored.trade_ms((intake.terminal, intake.epoch), sequence)
        return known

    def _count(self, intake: RecordsIntake, found: Summary, times: list[int]) -> None:
        """Add to the totals (R15): every record counts under its trade day and type, cents where money moved."""
        days = trade_days(times, self._utc_offset_ms)
        types = found.types
        key = (intake.terminal, intake.epoch)
        if days.count(days[0]) == len(days) and types.count(types[0]) == len(types):
            self._counted.append(COUNTED.pack(*key, days[0], types[0], len(types), found.sum_cents))
            return
        sums: dict[tuple[int, int], list[int]] = {}
        for day, kind, cents in zip(days, types, found.amounts_cents, strict=True):
            total = sums.setdefault((day, kind), [0, 0])
            total[0] += 1
            total[1] += cents
        self._counted += [COUNTED.pack(*key, *each, count, cents) for each, (count, cents) in sums.items()]

    # -- suspects -----------------------------------------------------------------------------------------------------

    def _suspect(self, intake: RecordsIntake, found: Summary, state: EpochState, why: str) -> Outcome:
        self._keep_suspect(intake, found, state)
        return Outcome(OutcomeKind.SUSPECT, *state.ack(intake.first_unacknowledged), reason=why)

    def _keep_suspect(self, intake: RecordsIntake, found: Summary, state: EpochState) -> None:
        """Store beside the ranges: neither ranges nor totals change. The same bytes are stored once."""
        self._write_rows()
        if self._stored.is_suspect((intake.terminal, intake.epoch), found.last, intake.payload):
            return
        times = trade_times(
            found.boots,
            found.uptimes_ds,
            found.clocks_ms,
            anchors_ms=state.anchors_ms,
            received_ms=intake.received_ms,
            predecessor_ms=None,
            successor_ms=None,
        )
        self._add_row(intake, found, state, RowKind.SUSPECT, times)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _add_row(
        self, intake: RecordsIntake, found: Summary, state: EpochState, kind: RowKind, times: Sequence[int]
    ) -> None:
        boots = found.boots
        if boots.count(boots[0]) == len(boots):
            known = boots[0] in state.anchors_ms
        else:
            known = all(boot in state.anchors_ms for boot in boots)
        self._pack(
            PackedRow(
                kind,
                intake.terminal,
                intake.epoch,
                found.first,
                found.last,
                intake.received_ms,
                intake.payload,
                times,
                known,
            ),
            state,
        )

    def _pack(self, row: PackedRow, state: EpochState) -> None:
        data = row.encode()
        row_id = self._last_row = self._last_row + 1
        self._rows.append((row_id, row.terminal, row.epoch, row.kind, row.first, row.last, data))
        self._epochs.note_row(state, row.kind, row.first, row.last, row_id)

    def _write_rows(self) -> None:
        if self._rows:
            self._connection.executemany(_INSERT_ROW, self._rows)
            self._rows.clear()

    # -- the other kinds ----------------------------------------------------------------------------------------------

    def _anchor(self, intake: AnchorIntake) -> Outcome:
        self._epochs.change(intake.terminal, intake.epoch).note_anchor(intake.boot, intake.anchor_ms)
        return Outcome(OutcomeKind.ACCEPTED)

    def _baseline(self, intake: BaselineIntake) -> Outcome:
        message = decode_up(intake.message)
        if not isinstance(message, Baseline):
            raise Malformed("BASELINE", "another message")
        entry = message.entries[-1]
        if message.terminal != intake.terminal or entry.epoch != intake.epoch:
            raise Malformed("BASELINE", "not of the session's terminal and epoch")
        ours = self._epochs.change(intake.terminal, intake.epoch)
        self._pack(
            PackedRow(
                RowKind.BASELINE,
                intake.terminal,
                intake.epoch,
                entry.first_unacknowledged,
                entry.next,
                intake.received_ms,
                intake.message,
                anchor_known=True,
            ),
            ours,
        )
        ours.note_anchor(message.boot, measured_anchor_ms(intake.received_ms, message.uptime_ds))
        logins = []
        for one in message.entries:
            state = self._epochs.get(intake.terminal, one.epoch)
            decision = state.ranges.login(one.first_unacknowledged, one.next, one.seal_before)
            settled = state.settled_up_to(decision.durable)
            logins.append(EntryLogin(one.epoch, one.first_unacknowledged, settled, decision))
        return Outcome(OutcomeKind.ACCEPTED, logins=logins)

    def _tombstone(self, intake: TombstoneIntake) -> Outcome:
        message = decode_up(intake.message)
        if not isinstance(message, Tombstone):
            raise Malformed("TOMBSTONE", "another message")
        if message.terminal != intake.terminal or message.epoch != intake.epoch:
            raise Malformed("TOMBSTONE", "not of the session's terminal and epoch")
        state = self._epochs.get(intake.terminal, intake.epoch)
        missing = state.ranges.missing(message.first, message.last)
        if missing and not state.ranges.has_room():
            return Outcome(OutcomeKind.FULL, reason=HOLES_REASON)
        if missing:
            self._epochs.change(intake.terminal, intake.epoch)
            state.ranges.apply_tombstone(message.first, message.last)
            state.tombstones_changed = True
            self._pack(
                PackedRow(
                    RowKind.TOMBSTONE,
                    intake.terminal,
                    intake.epoch,
                    message.first,
                    message.last,
                    intake.received_ms,
                    intake.message,
                ),
                state,
            )
        if not missing:
            kind = OutcomeKind.DUPLICATE
        else:
            kind = OutcomeKind.ACCEPTED if missing == [(message.first, message.last)] else OutcomeKind.PARTLY
        return Outcome(kind, *state.ack(intake.first_unacknowledged))
