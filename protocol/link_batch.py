"""Batches, their names, and the digests that tie receipts to them (docs/protocol.md §11.2-11.4, R16). Pure.

A batch is a run of spool rows. Its name holds the digest of the very bytes of the rows, so that name and receipt
can be compared with what a front-end has in its own file. Rows are views into the received message: a batch of a
megabyte is hashed in place and never copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from operator import lt
from typing import Final

from protocol.errors import Malformed, OutOfRange
from protocol.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX
from protocol.signed import DIGEST_BYTES

SPOOL_ID_BYTES: Final = 16
_NAME: Final = struct.Struct("!I16sQQ32s")
BATCH_NAME_BYTES: Final = 68
assert _NAME.size == BATCH_NAME_BYTES

_COUNT: Final = struct.Struct("!I")
BATCH_HEAD_BYTES: Final = BATCH_NAME_BYTES + _COUNT.size
_ROW_ID: Final = struct.Struct("!Q")
_ROW_SIZES: Final = struct.Struct("!H2xI")  # of a packed row: n at offset 24, payload bytes at 28
_ROW_SIZES_OFFSET: Final = 24
ROW_HEAD_BYTES: Final = 32

CHAIN_CONTEXT: Final = b"onecard.chain.v1\0"
CHAIN_START: Final = bytes(DIGEST_BYTES)
"""The chain hash at position 0."""

Row = tuple[int, bytes | memoryview]
"""(row id, packed row of §11.1)."""


@dataclass(slots=True)
class BatchName:
    """What names a batch for ever; the same rows always have the same name."""

    frontend: int
    spool_id: bytes
    first_row: int
    last_row: int
    digest: bytes

    def encode(self) -> bytes:
        if len(self.spool_id) != SPOOL_ID_BYTES or len(self.digest) != DIGEST_BYTES:
            raise OutOfRange("batch name: spool id or digest of a wrong length")
        try:
            return _NAME.pack(self.frontend, self.spool_id, self.first_row, self.last_row, self.digest)
        except struct.error as error:
            raise OutOfRange(f"batch name: {error}") from None

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> BatchName:
        """Read 68 bytes.

        Raises:
            Malformed: another length, front-end 0, or rows that end before they start.
        """
        if len(data) != BATCH_NAME_BYTES:
            raise Malformed("batch name", f"{len(data)} bytes, not {BATCH_NAME_BYTES}")
        name = cls(*_NAME.unpack(data))
        if name.frontend == 0:
            raise Malformed("batch name", "front-end 0", offset=0)
        if name.last_row < name.first_row:
            raise Malformed("batch name", "ends before it starts", offset=28)
        return name


@dataclass(slots=True)
class BatchMessage:
    """BATCH `02`: rows in ascending order of their ids; decoded rows are views into the payload."""

    name: BatchName
    rows: list[Row]


def batch_digest(rows: Iterable[Row]) -> bytes:
    """SHA-256 over (row id u64 ‖ packed row) of every row, in the order given (ascending)."""
    digest = sha256()
    for row_id, row in rows:
        digest.update(_ROW_ID.pack(row_id))
        digest.update(row)
    return digest.digest()


def name_batch(frontend: int, spool_id: bytes, rows: Sequence[Row]) -> BatchName:
    """The name of these rows (at least one)."""
    if not rows:
        raise OutOfRange("a batch has at least one row")
    return BatchName(frontend, spool_id, rows[0][0], rows[-1][0], batch_digest(rows))


def result_digest(results: bytes) -> bytes:
    """SHA-256 over the result byte of every record of a batch, in order."""
    return sha256(results).digest()


def chain_hash(previous: bytes, name: BatchName, results_digest: bytes) -> bytes:
    """The ledger's chain hash after a batch; `previous` is that of the position before, or `CHAIN_START`."""
    return sha256(b"".join((CHAIN_CONTEXT, previous, name.encode(), results_digest))).digest()


def encode_batch_head(batch: BatchMessage) -> bytes:
    """Name and count: the part of the body that the proof covers."""
    if fault := _fault(batch.name, batch.rows):
        raise OutOfRange(f"BATCH: {fault}")
    return batch.name.encode() + _COUNT.pack(len(batch.rows))


def batch_row_parts(rows: Iterable[Row]) -> list[bytes | memoryview]:
    """The part of the body behind `encode_batch_head`, as parts to be joined once."""
    return [part for row_id, row in rows for part in (_ROW_ID.pack(row_id), row)]


def decode_batch(body: memoryview) -> BatchMessage:
    """Read a BATCH body. The digest is not compared here but by `verify_up`, with the MAC.

    Raises:
        Malformed: a length, count, order or name that does not fit the rows.
    """
    if len(body) < BATCH_HEAD_BYTES:
        raise Malformed("BATCH", f"a body of {len(body)} bytes")
    name = BatchName.decode(body[:BATCH_NAME_BYTES])
    (count,) = _COUNT.unpack_from(body, BATCH_NAME_BYTES)
    if count > BATCH_ROWS_MAX:
        raise Malformed("BATCH", f"{count} rows, at most {BATCH_ROWS_MAX}", offset=BATCH_NAME_BYTES)
    rows: list[Row] = []
    offset = BATCH_HEAD_BYTES
    size = len(body)
    sizes_at = _ROW_ID.size + _ROW_SIZES_OFFSET
    for _ in range(count):
        if size - offset < _ROW_ID.size + ROW_HEAD_BYTES:
            raise Malformed("BATCH", "ends within a row", offset=offset)
        (row_id,) = _ROW_ID.unpack_from(body, offset)
        times, payload_bytes = _ROW_SIZES.unpack_from(body, offset + sizes_at)
        start = offset + _ROW_ID.size
        offset = start + ROW_HEAD_BYTES + 8 * times + payload_bytes
        if offset > size:
            raise Malformed("BATCH", "ends within a row", offset=start)
        rows.append((row_id, body[start:offset]))
    if offset != size:
        raise Malformed("BATCH", "bytes behind the last row", offset=offset)
    if fault := _fault(name, rows):
        raise Malformed("BATCH", fault)
    return BatchMessage(name, rows)


def _fault(name: BatchName, rows: Sequence[Row]) -> str | None:
    """What is wrong with rows under this name, if anything."""
    if not 1 <= len(rows) <= BATCH_ROWS_MAX:
        return f"{len(rows)} rows, 1 to {BATCH_ROWS_MAX} are allowed"
    ids = [row_id for row_id, _ in rows]
    if not all(map(lt, ids, islice(ids, 1, None))):
        return "row ids are not strictly ascending"
    if ids[0] != name.first_row or ids[-1] != name.last_row:
        return "the name is of other rows"
    row_bytes = sum(len(row) for _, row in rows)
    if row_bytes > BATCH_BYTES_MAX:
        return f"{row_bytes} bytes of rows, at most {BATCH_BYTES_MAX}"
    return None
