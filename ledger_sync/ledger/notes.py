"""Rows that are no records: log-in baselines (R6) and tombstones (R9); what a terminal says it holds or has lost."""

from __future__ import annotations

from ledger_sync.ledger.books import Books, TerminalState
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.quarantine import Claim, Place, quarantine
from ledger_sync.ledger.rules import RULES
from protocol.codes import MessageType, PostingResult, RowKind
from protocol.errors import Malformed
from protocol.mac import SEAL_BYTES
from protocol.messages import Baseline, Tombstone
from protocol.proofs import verify_baseline, verify_tombstone
from protocol.rows import PackedRow


def note(books: Books, keys: LedgerKeys, row: PackedRow, place: Place) -> PostingResult:
    """Keep what one baseline or tombstone row says, if its seal holds; NOTED, or why it is quarantined."""
    state = books.terminals.get((row.terminal, row.epoch))
    claim = Claim(row.terminal, row.epoch, row.first, row.first - 1, row.payload, row.received_ms)
    what = f"{RowKind(row.kind).name.lower()} {row.first}–{row.last}"
    if state is None:
        result = PostingResult.QUARANTINED_UNKNOWN_TERMINAL
        return quarantine(books, None, claim, place, result, f"{what}: no such terminal and epoch", rules=RULES)
    try:
        message = _decode(row)
    except Malformed as error:
        return quarantine(books, state, claim, place, PostingResult.QUARANTINED_FORMAT, f"{what}: {error}", rules=RULES)
    key = keys.seal_key(row.terminal, row.epoch, state.suite)
    sealed, seal = memoryview(row.payload)[:-SEAL_BYTES], row.payload[-SEAL_BYTES:]
    verify = verify_baseline if isinstance(message, Baseline) else verify_tombstone
    if not verify(key, seal, sealed):
        return quarantine(
            books, state, claim, place, PostingResult.QUARANTINED_SEAL, f"{what}: its seal does not hold", rules=RULES
        )
    if isinstance(message, Baseline):
        _note_baseline(books, row, message, place)
    else:
        _note_tombstone(books, state, row, message, place)
    return PostingResult.NOTED


def _decode(row: PackedRow) -> Baseline | Tombstone:
    """The message of the row, which must be about the row's terminal and epoch."""
    expected = MessageType.BASELINE if row.kind == RowKind.BASELINE else MessageType.TOMBSTONE
    if row.payload[0] != expected:
        raise Malformed("packed row", f"a message of type {row.payload[0]:02X}", offset=0)
    message: Baseline | Tombstone
    if expected is MessageType.BASELINE:
        message = Baseline.decode(row.payload)
        last = message.entries[-1]
        agrees = (message.terminal, last.epoch, last.first_unacknowledged, last.next) == (
            row.terminal, row.epoch, row.first, row.last,
        )  # fmt: skip
    else:
        message = Tombstone.decode(row.payload)
        # a tombstone that reached into what is held is stored with the cut limits, the message is whole
        agrees = (message.terminal, message.epoch) == (row.terminal, row.epoch)
        agrees &= message.first <= row.first <= row.last <= message.last
    if not agrees:
        raise Malformed("packed row", "names other sequences than its message")
    return message


def _note_baseline(books: Books, row: PackedRow, message: Baseline, place: Place) -> None:
    for entry in message.entries:
        state = books.terminals.get((row.terminal, entry.epoch))
        if state is not None:
            state.next_known = max(state.next_known, entry.next)
            books.touched_terminals[state.id] = state
        books.connection.execute(
            "INSERT INTO baselines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (books.next_id("baselines", "baseline"), place.position, place.row_id, row.terminal, entry.epoch,
             entry.oldest_held, entry.first_unacknowledged, entry.next, message.boot, row.received_ms),
        )  # fmt: skip


def _note_tombstone(books: Books, state: TerminalState, row: PackedRow, message: Tombstone, place: Place) -> None:
    state.next_known = max(state.next_known, row.last + 1)
    books.touched_terminals[state.id] = state
    books.connection.execute(
        "INSERT INTO tombstones VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (books.next_id("tombstones", "tombstone"), place.position, place.row_id, row.terminal, row.epoch,
         row.first, row.last, int(message.reason), row.received_ms),
    )  # fmt: skip
