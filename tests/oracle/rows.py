"""Section 11.1 and 11.3: packed rows, and the batch name with its digest."""

from collections.abc import Sequence
from typing import Final

from construct import Array, Struct, this

from tests.oracle.fields import Fields, build, flags, hexed, hexed_by, parse, reserved, u8, u16, u32, u64
from tests.oracle.primitives import sha256

ROW: Final = Struct(
    "row_kind" / u8,
    "flags" / flags(0),
    "epoch" / u16,
    "terminal" / u32,
    "first_sequence" / u32,
    "last_sequence" / u32,
    "received_ms" / u64,
    "n" / u16,
    reserved(2),
    "payload_bytes" / u32,
    "trade_ms" / Array(this.n, u64),
    "payload" / hexed_by(this.payload_bytes),
)
BATCH_NAME: Final = Struct(
    "front_end" / u32,
    "spool_id" / hexed(16),
    "first_row" / u64,
    "last_row" / u64,
    "digest" / hexed(32),
)
assert BATCH_NAME.sizeof() == 68

Row = tuple[int, bytes]


def build_row(given: Fields) -> bytes:
    payload_bytes = len(given["payload"]) // 2
    return build(ROW, {**given, "n": len(given["trade_ms"]), "payload_bytes": payload_bytes})


def split_row(data: bytes) -> tuple[bytes, bytes]:
    """The row at the front, and what follows it: a row states its own size."""
    size = 32 + 8 * int.from_bytes(data[24:26], "big") + int.from_bytes(data[28:32], "big")
    parse(ROW, data[:size])
    return data[:size], data[size:]


def with_row_ids(rows: Sequence[Row]) -> bytes:
    return b"".join(row_id.to_bytes(8, "big") + row for row_id, row in rows)


def digest(rows: Sequence[Row]) -> bytes:
    """Over row id and packed row of every row, ascending."""
    assert [row_id for row_id, _ in rows] == sorted({row_id for row_id, _ in rows})
    return sha256(with_row_ids(rows))


def batch_name(front_end: int, spool_id: bytes, rows: Sequence[Row]) -> bytes:
    return build(
        BATCH_NAME,
        {
            "front_end": front_end,
            "spool_id": spool_id.hex(),
            "first_row": rows[0][0],
            "last_row": rows[-1][0],
            "digest": digest(rows).hex(),
        },
    )
