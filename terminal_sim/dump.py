"""What a terminal's memory says, decoded from the flash bytes alone: one of the three artefacts that must agree.

It uses the firmware's readers and never its state. Amounts in cents; sequences are inclusive. JSON-able.
"""

from __future__ import annotations

from typing import Any

from protocol.codes import RecordType
from protocol.errors import ProtocolError
from protocol.record_bodies import Completion, Doubt
from protocol.records import Grey, RecordHead, counted_cents, decode_body, merchant_of, read_head
from protocol.signed import SignedHead
from terminal_sim.errors import RecordGone, SectorDead
from terminal_sim.flash import VirtualFlash
from terminal_sim.journal import EntryKind, Journal
from terminal_sim.layout import FlashLayout
from terminal_sim.lists import DenyListMemory
from terminal_sim.ring import EpochMarks, Ring


def dump_flash(flash: VirtualFlash, terminal: int, *, layout: FlashLayout | None = None) -> dict[str, Any]:
    """Everything countable of one terminal's memory; the flash is only read."""
    layout = layout if layout is not None else FlashLayout(flash.size_bytes)
    ring = Ring(flash, layout.ring)
    lists = DenyListMemory(flash, layout)
    return {
        "terminal": terminal,
        "list": _list(lists),
        "capacity_records": ring.capacity_records,
        "unacknowledged": ring.unacknowledged,
        "epochs": [_epoch(flash, layout, ring, ring.epochs[epoch]) for epoch in sorted(ring.epochs)],
    }


def _list(lists: DenyListMemory) -> dict[str, Any]:
    generation, counter = lists.version
    entries_bytes = 0 if lists.version == (0, 0) else SignedHead.decode(lists.head).content_bytes
    return {
        "generation": generation,
        "counter": counter,
        "content_bytes": entries_bytes,
        "damaged": lists.damaged,
    }


def _grey(head: RecordHead, body: Grey | Doubt) -> dict[str, Any]:
    """What the record says of a transaction that nobody saw the end of; balance and counter are hints (R20)."""
    return {
        "sequence": head.sequence,
        "type": head.type,
        "attempted_type": body.attempted_type or int(RecordType.PURCHASE),
        "clock_ms": head.clock_ms,
        "card": body.card,
        "card_kind": body.card_kind,
        "amount_cents": body.amount_cents,
        "counter_before": body.counter_before,
        "order": body.order if isinstance(body, Doubt) else 0,
    }


def _epoch(flash: VirtualFlash, layout: FlashLayout, ring: Ring, marks: EpochMarks) -> dict[str, Any]:
    journal = Journal(flash, layout.journal, epoch=marks.epoch)
    next_sequence = marks.next
    owed: dict[str, Any] | None = None
    last = journal.last
    if last is not None and last.entry.sequence >= marks.next:
        if last.record_type:
            next_sequence = last.entry.sequence + 1
        elif last.entry.kind == EntryKind.INTENT:
            owed = {
                "sequence": last.entry.sequence,
                "amount_cents": last.entry.amount_cents,
                "debit_sent": last.debit_sent,
            }
    overwritten = {"count": 0, "cents": 0}
    types: dict[str, int] = {}
    merchants: dict[str, dict[str, int]] = {}
    unreadable: list[int] = []
    greys: list[dict[str, Any]] = []
    completed: set[int] = set()
    running_count = running_sum_cents = 0
    for sequence in range(marks.oldest, next_sequence):
        try:
            record = ring.read(marks.epoch, sequence)
            head = read_head(record)
            body = decode_body(record)
        except (SectorDead, RecordGone, ProtocolError):
            unreadable.append(sequence)
            continue
        cents = counted_cents(body)
        if sequence == marks.oldest:
            overwritten = {
                "count": head.running_count - (cents != 0),
                "cents": head.running_sum_cents - cents,
            }
        name = f"{head.type:02x}"
        types[name] = types.get(name, 0) + 1
        running_count, running_sum_cents = head.running_count, head.running_sum_cents
        if cents:
            totals = merchants.setdefault(str(merchant_of(body)), {"count": 0, "cents": 0, "grey_cents": 0})
            totals["count"] += 1
            totals["cents"] += cents
            totals["grey_cents"] += cents if isinstance(body, Grey) else 0
        if isinstance(body, Grey | Doubt):
            greys.append(_grey(head, body))
        elif isinstance(body, Completion) and (body.original_terminal, body.original_epoch) == (
            head.terminal,
            head.epoch,
        ):
            completed.add(body.original_sequence)
    return {
        "epoch": marks.epoch,
        "boot": journal.boot,
        "oldest": marks.oldest,
        "issued": next_sequence - 1,
        "acknowledged": marks.acknowledged,
        "settled": marks.settled,
        "unacknowledged": next_sequence - 1 - marks.acknowledged,
        "unreadable": unreadable,
        "owed": owed,
        "records_by_type": types,
        "overwritten": overwritten,
        "merchants": merchants,
        "greys": [each | {"completed_here": each["sequence"] in completed} for each in greys],
        "running_count": running_count,
        "running_sum_cents": running_sum_cents,
    }
