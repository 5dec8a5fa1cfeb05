"""Records that more than one spool of a site holds, so that a sum over all spools counts each identity once.

A terminal that lost its front-end before the acknowledgement came offers the same records to the next one: both keep
them, both forward them, and the ledger posts them once. Only stored rows are looked at, as sums by merchant do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger_sync.spool.reader import SpoolReader, money_of
from protocol import rows
from protocol.codes import RowKind
from protocol.intervals import Intervals
from protocol.records import read_head, seal_of, walk

EpochKey = tuple[int, int]


@dataclass(slots=True)
class Twins:
    """Counted once for every copy beyond the first."""

    records: int = 0
    count: int = 0
    """Of those, purchases and greys."""
    amount_cents: int = 0
    merchants: dict[int, list[int]] = field(default_factory=dict)
    """Merchant → [count, cents]."""
    terminals: dict[int, list[int]] = field(default_factory=dict)
    """Terminal → [count, cents]."""
    differing: int = 0
    """Copies of one identity with another seal: two devices under one identity (R10)."""


def find_twins(readers: Sequence[SpoolReader]) -> Twins:
    """Compare spools, each opened at its own moment; reads the rows that overlap, and the spans of all others."""
    found = Twins()
    held: dict[EpochKey, list[tuple[Intervals, SpoolReader]]] = {}
    for reader in readers:
        mine: dict[EpochKey, Intervals] = {}
        for row, terminal, epoch, first, last in reader.spans(RowKind.RECORDS):
            key = (terminal, epoch)
            seen = Intervals()
            for theirs, other in held.get(key, ()):
                pieces = [new for piece in theirs.within(first, last) for new in seen.missing(*piece)]
                if pieces:
                    _count(found, reader, row, pieces, other)
                for piece in pieces:
                    seen.add(*piece)
            mine.setdefault(key, Intervals()).add(first, last)
        for key, intervals in mine.items():
            held.setdefault(key, []).append((intervals, reader))
    return found


def _count(found: Twins, reader: SpoolReader, row: int, pieces: list[tuple[int, int]], other: SpoolReader) -> None:
    decoded = rows.decode(reader.row_bytes(row) or b"")
    for record in walk(decoded.payload):
        sequence = read_head(record).sequence
        piece = next((one for one in pieces if one[0] <= sequence <= one[1]), None)
        if piece is None:
            continue
        found.records += 1
        if sequence == piece[1]:  # each seal contains the one before it: the last tells of all
            found.differing += other.seal_at((decoded.terminal, decoded.epoch), sequence) != seal_of(record)
        merchant, cents = money_of(record)
        if merchant is not None:
            found.count += 1
            found.amount_cents += cents
            for total in (
                found.merchants.setdefault(merchant, [0, 0]),
                found.terminals.setdefault(decoded.terminal, [0, 0]),
            ):
                total[0] += 1
                total[1] += cents
