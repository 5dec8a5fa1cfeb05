"""Looking into stored rows of records: seals and trade times at one sequence (docs/protocol.md §8)."""

from __future__ import annotations

from itertools import takewhile
from typing import Final

import apsw

from ledger_sync.errors import SpoolDamaged
from ledger_sync.spool.places import EpochKey, Places
from protocol import rows
from protocol.codes import RowKind
from protocol.errors import Malformed
from protocol.records import previous_seal, seal_of, walk

_ROW: Final = "SELECT first, last, bytes FROM rows WHERE id = ?"


class StoredRows:
    """Rows of records by sequence; of those that were pruned it knows nothing."""

    def __init__(self, connection: apsw.Connection, places: Places) -> None:
        self._connection = connection
        self._places = places

    def seal(self, key: EpochKey, sequence: int, floor: int) -> tuple[int, bytes] | None:
        """(sequence, seal) of the highest record in `floor`…`sequence` whose seal is still stored; None: of none.

        The seal of a record that is gone stands inside its successor, if that one is stored.
        """
        above = self._at_or_above(key, sequence)
        if above is not None:
            first, last, data = above
            try:
                records = list(walk(_decode(data).payload))
            except Malformed as error:
                raise SpoolDamaged(f"stored row of terminal {key[0]}: {error}") from error
            if len(records) != last - first + 1:
                raise SpoolDamaged(f"a row of terminal {key[0]} does not hold the records it names")
            if first <= sequence:
                return sequence, seal_of(records[sequence - first])
            if first == sequence + 1:
                return sequence, previous_seal(records[0])
        below = self._places.highest(key, RowKind.RECORDS, sequence - 1)
        if below is None or below[0] < floor:
            return None
        _, last, data = self._row(below[1])
        return last, _decode(data).payload[-8:]

    def trade_ms(self, key: EpochKey, sequence: int) -> int | None:
        """The trade time of one record, if it is still stored and readable."""
        above = self._at_or_above(key, sequence)
        if above is None or above[0] > sequence:
            return None
        first, last, data = above
        try:
            times = _decode(data).trade_ms
        except SpoolDamaged:
            return None
        return times[sequence - first] if len(times) == last - first + 1 else None

    def is_suspect(self, key: EpochKey, last: int, payload: bytes) -> bool:
        """Whether these very bytes are already kept as suspect; a forked terminal offers them at every log-in."""
        alike = takewhile(lambda place: place[0] == last, self._places.upwards(key, RowKind.SUSPECT, last))
        return any(self._row(row)[2][-len(payload) :] == payload for _, row in alike)

    def _at_or_above(self, key: EpochKey, sequence: int) -> tuple[int, int, bytes] | None:
        place = next(self._places.upwards(key, RowKind.RECORDS, sequence), None)
        return None if place is None else self._row(place[1])

    def _row(self, row: int) -> tuple[int, int, bytes]:
        found: tuple[int, int, bytes] | None = self._connection.execute(_ROW, (row,)).fetchone()
        if found is None:
            raise SpoolDamaged(f"row {row} is not where it was entered")
        return found


def _decode(data: bytes) -> rows.PackedRow:
    try:
        return rows.decode(data)
    except Malformed as error:
        raise SpoolDamaged(f"stored row: {error}") from error
