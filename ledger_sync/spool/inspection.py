"""One row of a spool in full, as JSON values: head, receipt, range, and every record field by field."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ledger_sync.spool.reader import SpoolReader
from protocol import rows
from protocol.codes import RecordType, RowKind, TombstoneReason
from protocol.errors import RemoteError
from protocol.messages import Baseline, Tombstone, decode_up
from protocol.record_fields import fields_of, masked_hex
from protocol.records import read_head, walk
from protocol.rows import PackedRow

_TYPES = {int(one): one.name.lower() for one in RecordType}


def inspected(reader: SpoolReader, row: int, sequence: int | None = None) -> dict[str, Any] | None:
    """Everything of one stored row, or of its one record of that sequence; None: there is no such row.

    What cannot be read is named in `fault`, and the rest is told all the same.
    """
    data = reader.row_bytes(row)
    if data is None:
        return None
    found: dict[str, Any] = {
        "row": row,
        "bytes": len(data),
        "settled": reader.settlement_of(row),
        "records": [],
        "message": {},
        "fault": "",
    }
    try:
        head = rows.peek(data)
        kinds = {int(one): one.name.lower() for one in RowKind}
        found |= {
            "kind": kinds.get(head.kind, f"{head.kind:02x}, not known here"),
            "terminal": head.terminal,
            "epoch": head.epoch,
            "first": head.first,
            "last": head.last,
            "received_ms": head.received_ms,
            "range": None
            if head.kind == RowKind.BASELINE
            else reader.range_of((head.terminal, head.epoch), head.first),
        }
        _contents(found, rows.decode(data), sequence)
    except RemoteError as error:
        found["fault"] = f"cannot be read: {error}"
    return found


def _contents(found: dict[str, Any], row: PackedRow, sequence: int | None) -> None:
    found["anchor_known"] = row.anchor_known
    if not row.trade_ms:
        found["message"] = _message(row.payload)
        return
    for record, trade_ms in zip(walk(row.payload), row.trade_ms, strict=False):
        head = read_head(record)
        if sequence is None or head.sequence == sequence:
            shown = fields_of(record)
            found["records"].append(
                {
                    "sequence": head.sequence,
                    "type": _TYPES.get(head.type, f"{head.type:02x}, not known here"),
                    "trade_ms": trade_ms,
                    "fields": [asdict(one) for one in shown],
                    "hex": masked_hex(record, shown),
                }
            )


def _message(payload: bytes) -> dict[str, Any]:
    """A BASELINE or TOMBSTONE in words."""
    message = decode_up(payload)
    if isinstance(message, Tombstone):
        return {"reason": TombstoneReason(message.reason).name.lower(), "seal": message.seal.hex()}
    if isinstance(message, Baseline):
        entries = {
            f"epoch {one.epoch}": f"oldest held {one.oldest_held}, first unacknowledged {one.first_unacknowledged}, "
            f"next {one.next}, seal before {one.seal_before.hex()}"
            for one in message.entries
        }
        return {"boot": message.boot, "uptime_ds": message.uptime_ds, "clock_ms": message.clock_ms, **entries}
    return {}
