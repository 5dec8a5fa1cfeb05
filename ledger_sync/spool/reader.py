"""Reading a spool beside a running server, without a right to write (`mode=ro`): totals, rows, what is stuck, verify.

Nothing here is needed to run; everything here is what a person asks. Card numbers show their last digits only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Final

import apsw

from ledger_sync.errors import SpoolDamaged, SpoolFailure
from ledger_sync.spool.epochs import Epochs, load_intervals
from ledger_sync.spool.fold import replay, totals_of
from ledger_sync.spool.holes import EPOCHS_MAX, EpochHeld, epoch_held, epochs_after
from ledger_sync.spool.places import ENTRY, EpochKey, Places
from ledger_sync.spool.schema import open_reader
from ledger_sync.spool.stored import StoredRows
from protocol import rows
from protocol.codes import RowKind
from protocol.errors import Malformed, RemoteError
from protocol.intervals import Intervals
from protocol.limits import RECORDS_PER_FRAME_MAX
from protocol.records import (
    MONEY_TYPES,
    Body,
    card_masked,
    counted_cents,
    decode_body,
    merchant_of,
    previous_seal,
    read_head,
    seal_of,
    walk,
)

ROWS_LISTED_MAX: Final = 1_000
FINDINGS_MAX: Final = 1_000
_ROW_SPAN_MAX: Final = {
    RowKind.RECORDS: RECORDS_PER_FRAME_MAX,
    RowKind.SUSPECT: RECORDS_PER_FRAME_MAX,
    RowKind.TOMBSTONE: 0xFFFF_FFFF,
}
"""How far above a sequence a row that holds it can end."""
ROWS_WITH_MAX: Final = 100  # of one kind: suspects of one sequence can be many
_BEGINS_BELOW: Final = "SELECT 1 FROM rows WHERE id = ? AND first <= ?"


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record as a person may see it; `card` is masked, None where the type has none."""

    sequence: int
    type: int
    trade_ms: int
    boot: int
    clock_ms: int
    amount_cents: int
    merchant: int | None
    card: str | None


@dataclass(frozen=True, slots=True)
class RowView:
    """One row; `records` is empty for baselines and tombstones, `fault` says why a row cannot be read."""

    row: int
    kind: int
    terminal: int
    epoch: int
    first: int
    last: int
    received_ms: int
    settled: bool
    records: list[RecordView]
    fault: str = ""


class SpoolReader:
    """Made by `SpoolReader.open`; close it soon, for an open read keeps the WAL from being written back."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._epochs: Epochs | None = None

    @classmethod
    @contextmanager
    def open(cls, path: str, *, vfs: str | None = None) -> Iterator[SpoolReader]:
        """One consistent view of the file as it is now. Raises SpoolFailure, ForeignSpool, UnsafeSqlite."""
        connection = open_reader(path, vfs=vfs)
        try:
            connection.execute("BEGIN")
            yield cls(connection)
        except apsw.Error as error:
            raise SpoolFailure(f"cannot read the spool: {type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def identity(self) -> dict[str, Any]:
        """Spool id (hex), birth, front-end, site, ledger generation and position known."""
        found: dict[str, Any] = dict(self._query("SELECT name, value FROM meta"))
        found["spool_id"] = found["spool_id"].hex()
        return found

    def totals(self) -> list[dict[str, int]]:
        """Count and cents per terminal, epoch, trade day and type (R15); they include what was pruned."""
        names = ("terminal", "epoch", "trade_day", "type", "count", "cents")
        return [dict(zip(names, each, strict=True)) for each in totals_of(self._connection)]

    def merchants(self) -> list[dict[str, int]]:
        """Count and cents per merchant and type, decoded from the rows still stored; suspects are not in it."""
        sums: dict[tuple[int, int], list[int]] = {}
        for _, data in self._stored(RowKind.RECORDS):
            for record in walk(rows.decode(data).payload):
                merchant, cents = money_of(record)
                if merchant is not None:
                    total = sums.setdefault((merchant, record[0]), [0, 0])
                    total[0] += 1
                    total[1] += cents
        return [
            {"merchant": merchant, "type": kind, "count": count, "cents": cents}
            for (merchant, kind), (count, cents) in sorted(sums.items())
        ]

    def rows(
        self, *, after_row: int = 0, terminal: int | None = None, unsettled: bool = False, limit: int = 100
    ) -> list[RowView]:
        """Rows in order of intake with their records; at most `ROWS_LISTED_MAX`."""
        settled = self._settled()
        found: list[RowView] = []
        query = "SELECT id, bytes FROM rows WHERE id > ? AND (? IS NULL OR terminal = ?) ORDER BY id"
        for row, data in self._rows_of(query, (after_row, terminal, terminal)):
            if unsettled and row in settled:
                continue
            found.append(_view(row, data, settled=row in settled))
            if len(found) >= min(limit, ROWS_LISTED_MAX):
                break
        return found

    def epochs(self) -> list[dict[str, Any]]:
        """Ranges, tombstones and holes of every (terminal, epoch)."""
        listed = []
        for terminal, epoch in self._query("SELECT DISTINCT terminal, epoch FROM ranges"):
            key = (terminal, epoch)
            ranges = [(held.first, held.last) for held in self._known().ranges(key)]
            listed.append(
                {
                    "terminal": terminal,
                    "epoch": epoch,
                    "ranges": ranges,
                    "tombstones": list(load_intervals(self._connection, "tombstones", key)),
                    "gaps": Intervals(ranges).missing(ranges[0][0], ranges[-1][1]),
                }
            )
        return listed

    def held(self, after: EpochKey, limit: int = EPOCHS_MAX) -> list[EpochHeld]:
        """The next epochs after that key with all that is known of each."""
        known, places = self._known(), self._places()
        return [
            epoch_held(self._connection, places, key, known.ranges(key))
            for key in epochs_after(self._connection, after, limit)
        ]

    def verify(self) -> list[str]:
        """What in the file contradicts itself; an empty list is a sound spool. Reads every row."""
        findings = [f"integrity: {text}" for (text,) in self._query("PRAGMA integrity_check") if text != "ok"]
        try:
            self._known()
        except SpoolDamaged as error:
            return [*findings, f"rows above the tables: {error}"]
        findings += self._against_runs()
        counts: dict[EpochKey, int] = {}
        for terminal, epoch, _, _, count, _ in totals_of(self._connection):
            counts[terminal, epoch] = counts.get((terminal, epoch), 0) + count
        held: dict[tuple[int, int], Intervals] = {}
        counted: dict[tuple[int, int], int] = {}
        for row, data in self._stored(RowKind.RECORDS):
            try:
                decoded = rows.decode(data)
                _check_records(decoded)
            except RemoteError as error:
                findings.append(f"row {row}: {error}")
                continue
            key = (decoded.terminal, decoded.epoch)
            mine = held.setdefault(key, Intervals())
            if mine.within(decoded.first, decoded.last):
                findings.append(f"row {row}: sequences {decoded.first}…{decoded.last} are stored twice")
            mine.add(decoded.first, decoded.last)
            counted[key] = counted.get(key, 0) + decoded.last - decoded.first + 1
        for key, mine in held.items():
            findings += self._against_ranges(key, mine, counted[key], counts.get(key, 0))
        return findings[:FINDINGS_MAX]

    def _against_runs(self) -> Iterator[str]:
        """Every row is entered where it is looked for, but for those that are not folded yet."""
        ((stored, entered),) = self._query(
            "SELECT (SELECT count(*) FROM rows), (SELECT coalesce(sum(length(entries)), 0) FROM runs)"
        )
        places = entered // ENTRY.size + self._known().recent_count()
        if places != stored:
            yield f"{stored} rows, {places} places entered for them"

    def _against_ranges(self, key: tuple[int, int], stored: Intervals, count: int, total: int) -> Iterator[str]:
        who = f"terminal {key[0]} epoch {key[1]}"
        ranges = Intervals((held.first, held.last) for held in self._known().ranges(key))
        tombstones = Intervals(load_intervals(self._connection, "tombstones", key))
        for first, last in stored:
            if ranges.missing(first, last):
                yield f"{who}: rows hold {first}…{last}, the ranges do not"
            if tombstones.within(first, last):
                yield f"{who}: {first}…{last} is stored and a tombstone too"
        pruned = bool(self._query("SELECT 1 FROM pruned LIMIT 1"))
        if not pruned:
            for first, last in ranges:
                for hole in stored.missing(first, last):
                    if tombstones.missing(*hole):
                        yield f"{who}: the ranges hold {hole[0]}…{hole[1]}, no row does"
        if total < count or (total > count and not pruned):
            yield f"{who}: totals count {total} records, the rows {count}"

    def spans(self, kind: int) -> Iterator[tuple[int, int, int, int, int]]:
        """(row, terminal, epoch, first, last) of every stored row of a kind, in order of intake."""
        yield from self._connection.execute(
            "SELECT id, terminal, epoch, first, last FROM rows WHERE kind = ? ORDER BY id", (kind,)
        )

    def unsettled(self) -> tuple[int, int | None]:
        """How many rows wait for a receipt, and the lowest of them; counted from intervals, not from rows."""
        holes = self._unsettled_ids()
        return sum(last - first + 1 for first, last in holes), holes[0][0] if holes else None

    def unsettled_rows(self, limit: int) -> Iterator[tuple[int, bytes]]:
        """The oldest rows without a receipt."""
        for first, last in self._unsettled_ids():
            for row in self._rows_of(
                "SELECT id, bytes FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?", (first, last, limit)
            ):
                yield row
                limit -= 1

    def _unsettled_ids(self) -> list[tuple[int, int]]:
        ((last,),) = self._query("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'rows'")
        return self._settled().missing(1, last) if last else []

    def count_of(self, kind: int) -> int:
        """Stored rows of a kind."""
        ((count,),) = self._query("SELECT count(*) FROM rows WHERE kind = ?", (kind,))
        return int(count)

    def last_settled_ms(self) -> int | None:
        """When the newest receipt came, of those whose rows are still stored."""
        ((found,),) = self._query("SELECT max(settled_ms) FROM settlements")
        return None if found is None else int(found)

    def settlement_of(self, row: int) -> dict[str, int] | None:
        """Which receipt settled a row: rows of its batch that it settled, ledger generation, position, moment."""
        names = ("first_row", "last_row", "generation", "position", "settled_ms")
        found = self._query(
            f"SELECT {', '.join(names)} FROM settlements WHERE first_row <= ? ORDER BY first_row DESC LIMIT 1",  # noqa: S608
            (row,),
        )
        return dict(zip(names, found[0], strict=True)) if found and found[0][1] >= row else None

    def rows_with(self, key: EpochKey, sequence: int) -> list[int]:
        """Stored rows that hold a sequence: its record, a tombstone for it, and suspects (at most 100)."""
        found: list[int] = []
        for kind in (RowKind.RECORDS, RowKind.TOMBSTONE, RowKind.SUSPECT):
            ends = takewhile(
                lambda place, kind=kind: place[0] <= sequence + _ROW_SPAN_MAX[kind],  # type: ignore[misc]
                self._places().upwards(key, kind, sequence),
            )
            holding = (row for _, row in ends if self._query(_BEGINS_BELOW, (row, sequence)))
            found += islice(holding, ROWS_WITH_MAX)
        return found

    def range_of(self, key: EpochKey, sequence: int) -> tuple[int, int] | None:
        """The contiguous range that holds a sequence."""
        return next(
            ((one.first, one.last) for one in self._known().ranges(key) if one.first <= sequence <= one.last),
            None,
        )

    def row_bytes(self, row: int) -> bytes | None:
        """One packed row; None: it was pruned, or never was."""
        found = self._query("SELECT bytes FROM rows WHERE id = ?", (row,))
        return found[0][0] if found else None

    def seal_at(self, key: EpochKey, sequence: int) -> bytes | None:
        """The seal of that record, if it is still stored. Raises SpoolDamaged."""
        found = StoredRows(self._connection, self._places()).seal(key, sequence, sequence)
        return found[1] if found is not None else None

    def _known(self) -> Epochs:
        """Every (terminal, epoch) as the rows have it; the tables may lag behind them. Raises SpoolDamaged."""
        if self._epochs is None:
            epochs = Epochs(self._connection)
            replay(self._connection, epochs)
            self._epochs = epochs
        return self._epochs

    def _places(self) -> Places:
        return Places(self._connection, self._known().recent)

    def _settled(self) -> Intervals:
        return Intervals(
            self._query("SELECT first_row, last_row FROM settlements UNION ALL SELECT first_row, last_row FROM pruned")
        )

    def _stored(self, kind: int) -> Iterable[tuple[int, bytes]]:
        return self._rows_of("SELECT id, bytes FROM rows WHERE kind = ? ORDER BY id", (kind,))

    def _rows_of(self, sql: str, bindings: tuple[object, ...]) -> Iterable[tuple[int, bytes]]:
        found: Iterable[Any] = self._connection.execute(sql, bindings)  # one by one: a spool may exceed memory
        return found

    def _query(self, sql: str, bindings: tuple[object, ...] = ()) -> list[Any]:
        return self._connection.execute(sql, bindings).fetchall()


def money_of(record: memoryview) -> tuple[int | None, int]:
    """(merchant, cents) of a record that counts money; (None, 0) of any other, and of one that cannot be read."""
    if record[0] in MONEY_TYPES:
        body = _body(record)
        if body is not None and (cents := counted_cents(body)):
            return merchant_of(body), cents
    return None, 0


def _body(record: memoryview) -> Body | None:
    try:
        return decode_body(record)
    except RemoteError:
        return None


def _check_records(row: rows.PackedRow) -> None:
    """Raise a RemoteError unless the records are what the row says and each contains its predecessor's seal."""
    before: bytes | None = None
    expected = row.first
    for record in walk(row.payload):
        head = read_head(record)
        if (head.terminal, head.epoch, head.sequence) != (row.terminal, row.epoch, expected):
            raise Malformed("packed row", f"another record where {expected} should stand")
        if before is not None and previous_seal(record) != before:
            raise Malformed("packed row", f"the chain of seals breaks before {expected}")
        before = seal_of(record)
        expected += 1
    if expected != row.last + 1:
        raise Malformed("packed row", f"records end before {expected}")


def _view(row: int, data: bytes, *, settled: bool) -> RowView:
    try:
        found = rows.decode(data)
        records = (
            [
                _record_view(record, trade_ms)
                for record, trade_ms in zip(walk(found.payload), found.trade_ms, strict=True)
            ]
            if found.trade_ms
            else []
        )
    except (RemoteError, ValueError) as error:
        return RowView(row, 0, 0, 0, 0, 0, 0, settled, [], f"cannot be read: {error}")
    return RowView(
        row, found.kind, found.terminal, found.epoch, found.first, found.last, found.received_ms, settled, records
    )


def _record_view(record: memoryview, trade_ms: int) -> RecordView:
    head = read_head(record)
    body = _body(record)
    card: int | None = getattr(body, "card", None) or None
    return RecordView(
        sequence=head.sequence,
        type=head.type,
        trade_ms=trade_ms,
        boot=head.boot,
        clock_ms=head.clock_ms,
        amount_cents=0 if body is None else counted_cents(body),
        merchant=None if body is None else merchant_of(body) or None,
        card=None if card is None else card_masked(card),
    )
