"""Packed rows: the vectors of the second implementation, literal bytes, and hostile ones."""

import pytest

from protocol.codes import RowKind
from protocol.errors import Malformed, OutOfRange
from protocol.rows import ROW_BYTES_MAX, PackedRow, decode, owner, peek
from tests.hostile import HostileKit
from tests.protocol.samples import vector_cases

ROWS = [case for case in vector_cases("11") if "row_kind" in case["given"] and "error" not in case]

TOMBSTONE = PackedRow(RowKind.TOMBSTONE, 66051, 3, 8, 9, 0x0102030405060708, b"\xaa\xbb")
TOMBSTONE_BYTES = bytes.fromhex(
    "03 00 0003 00010203 00000008 00000009 0102030405060708 0000 0000 00000002 aabb".replace(" ", "")
)
RECORDS = PackedRow(RowKind.RECORDS, 1, 2, 3, 4, 5, bytes(128), (6, 7), anchor_known=True)


def test_a_row_is_these_bytes() -> None:
    assert TOMBSTONE.encode() == TOMBSTONE_BYTES
    assert decode(TOMBSTONE_BYTES) == TOMBSTONE


@pytest.mark.parametrize("case", ROWS, ids=[case["name"] for case in ROWS])
def test_a_row_of_the_vectors_is_read_and_written_alike(case: dict) -> None:  # type: ignore[type-arg]
    given, data = case["given"], bytes.fromhex(case["bytes"])
    row = decode(data)
    assert row == PackedRow(
        given["row_kind"],
        given["terminal"],
        given["epoch"],
        given["first_sequence"],
        given["last_sequence"],
        given["received_ms"],
        bytes.fromhex(given["payload"]),
        tuple(given["trade_ms"]),
        anchor_known=bool(given["flags"]),
    )
    assert row.encode() == data


@pytest.mark.parametrize("row", [TOMBSTONE, RECORDS], ids=["tombstone", "records"])
def test_hostile_rows_raise_nothing_but_remote_errors(row: PackedRow) -> None:
    HostileKit(row.encode(), decode, bytes_max=ROW_BYTES_MAX).run_all()


@pytest.mark.parametrize(
    ("offset", "data", "why"),
    [
        (0, b"\x05", "kind"),
        (1, b"\x02", "flags"),
        (2, b"\0\0", "epoch"),
        (4, b"\0\0\0\0", "terminal"),
        (8, b"\0\0\0\0", "first"),
        (8, b"\0\0\0\x05", "first above last"),
        (24, b"\0\x03", "count"),
        (26, b"\0\x01", "reserved"),
        (28, b"\0\0\0\x7f", "payload length"),
    ],
)
def test_each_field_is_checked(offset: int, data: bytes, why: str) -> None:
    broken = bytearray(RECORDS.encode())
    broken[offset : offset + len(data)] = data
    with pytest.raises(Malformed, match=why):
        decode(bytes(broken))


def test_more_records_than_a_frame_holds_are_refused() -> None:
    data = bytearray(RECORDS.encode())
    data[12:16] = (3 + 63).to_bytes(4, "big")
    data[24:26] = (64).to_bytes(2, "big")
    with pytest.raises(Malformed, match="too many"):
        decode(bytes(data))


def test_peek_reads_the_head_alone() -> None:
    head = peek(RECORDS.encode()[:32])
    assert (head.terminal, head.first, head.last, head.records, head.payload_bytes) == (1, 3, 4, 2, 128)
    with pytest.raises(Malformed):
        peek(bytes(31))


@pytest.mark.parametrize(
    "row",
    [
        PackedRow(1, 1 << 32, 1, 1, 1, 0, b"x", (1,)),
        PackedRow(1, 1, 1, 1, 1, -1, b"x", (1,)),
        PackedRow(1, 1, 1, 1, 1, 0, b"x", (-1,)),
        PackedRow(1, 1, 1, 1, 64, 0, b"x", (1,) * 64),
    ],
)
def test_a_row_that_does_not_fit_its_fields_is_out_of_range(row: PackedRow) -> None:
    with pytest.raises(OutOfRange):
        row.encode()


def test_the_owner_of_a_row_is_what_its_head_says() -> None:
    row = PackedRow(RowKind.RECORDS, 0x01020304, 0x0506, 1, 1, 9, bytes(96), (7,)).encode()
    assert owner(row) == owner(memoryview(row)) == (0x01020304, 0x0506)
