"""Looking into stored rows of records: seals and trade times at one sequence (docs/protocol.md §8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import apsw

from ledger_sync.errors import SpoolDamaged
from protocol import rows
from protocol.codes import RowKind
from protocol.errors import Malformed
from protocol.records import previous_seal, seal_of, walk

_AT_OR_ABOVE: Final = (
    "SELECT first, last, bytes FROM rows"
    " WHERE terminal = ? AND epoch = ? AND kind = ? AND last >= ? ORDER BY last LIMIT 1"
)
_BELOW: Final = (
    "SELECT first, last, bytes FROM rows"
    " WHERE terminal = ? AND epoch = ? AND kind = ? AND last < ? AND last >= ? ORDER BY last DESC LIMIT 1"
)
_SUSPECTS: Final = "SELECT bytes FROM rows WHERE terminal = ? AND epoch = ? AND kind = ? AND last = ?"


def stored_seal(
    connection: apsw.Connection, key: tuple[int, int], sequence: int, floor: int
) -> tuple[int, bytes] | None:
    """(sequence, seal) of the highest record in `floor`…`sequence` whose seal is still stored; None: of none.

    The seal of a record that is gone stands inside its successor, if that one is stored.
    """
    for first, last, data in connection.execute(_AT_OR_ABOVE, (*key, RowKind.RECORDS, sequence)):
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
    for _, last, data in connection.execute(_BELOW, (*key, RowKind.RECORDS, sequence, floor)):
        return last, _decode(data).payload[-8:]
    return None


def stored_trade_ms(connection: apsw.Connection, key: tuple[int, int], sequence: int) -> int | None:
    """The trade time of one record, if it is still stored and readable."""
    for first, last, data in connection.execute(_AT_OR_ABOVE, (*key, RowKind.RECORDS, sequence)):
        if first <= sequence:
            try:
                times = _decode(data).trade_ms
            except SpoolDamaged:
                return None
            return times[sequence - first] if len(times) == last - first + 1 else None
    return None


def suspect_stored(connection: apsw.Connection, key: tuple[int, int], last: int, payload: bytes) -> bool:
    """Whether these very bytes are already kept as suspect; a forked terminal offers them at every log-in."""
    found: Iterable[Any] = connection.execute(_SUSPECTS, (*key, RowKind.SUSPECT, last)).fetchall()
    return any(data[-len(payload) :] == payload for (data,) in found)


def _decode(data: bytes) -> rows.PackedRow:
    try:
        return rows.decode(data)
    except Malformed as error:
        raise SpoolDamaged(f"stored row: {error}") from error
