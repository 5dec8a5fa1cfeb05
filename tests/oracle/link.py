"""Section 11.2 and 11.4: link messages, receipts and the chain of batches.

length u32, version u8 (1), type u8, reserved u16, body, proof: MAC going up, signature going down, or none
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from construct import Array, Struct, this

from tests.oracle.fields import (
    Fields,
    OracleError,
    build,
    count_of,
    hexed,
    hexed_rest,
    i64,
    parse,
    reserved,
    rule,
    u8,
    u16,
    u32,
    u64,
)
from tests.oracle.primitives import cmac, ed25519_sign, ed25519_verify, sha256
from tests.oracle.rows import Row, digest, split_row, with_row_ids

PREFIX: Final = b"onecard.link.v1\0"
CHAIN_PREFIX: Final = b"onecard.chain.v1\0"
BATCH: Final = 0x02
REPORT: Final = 0x04
LIST: Final = 0x83
REFUSAL: Final = 0x85
MAC_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
UNPROVED: Final = frozenset({LIST, REFUSAL})

EXCEPTION: Final = Struct(
    "terminal" / u32,
    "epoch" / u16,
    "result" / u8,
    reserved(1),
    "sequence" / u32,
    "row_offset" / u32,
)
RECEIPT: Final = Struct(
    "batch_name" / hexed(68),
    "ledger_generation" / u32,
    "chain_position" / u64,
    "chain_hash" / hexed(32),
    "records_posted" / u32,
    "duplicates" / u32,
    "quarantined" / u32,
    "sum_of_posted_amounts" / i64,
    "m" / count_of("exceptions", u16),
    "exceptions_not_listed" / u16,
    "exceptions" / Array(this.m, EXCEPTION),
    rule(lambda r: len(r.exceptions) <= 2048),
)
BODIES: Final[dict[int, tuple[str, Any]]] = {
    0x01: (
        "LINK_HELLO",
        Struct(
            "front_end" / u32,
            "spool_id" / hexed(16),
            "spool_birth_ms" / u64,
            "last_row" / u64,
            "nonce" / hexed(16),
            "known_ledger_generation" / u32,
            "known_position" / u64,
        ),
    ),
    BATCH: ("BATCH", Struct("batch_name" / hexed(68), "count_of_rows" / u32, "rows" / hexed_rest)),
    0x03: (
        "LIST_REQUEST",
        Struct("list_kind" / u8, reserved(3), "held_generation" / u32, "held_counter" / u32),
    ),
    REPORT: (
        "REPORT",
        Struct(
            "terminal" / u32,
            "report_kind" / u8,
            reserved(3),
            "text_length" / u16,
            "text" / hexed_rest,
            rule(lambda m: 2 * m.text_length == len(m.text) and m.text_length <= 512),
        ),
    ),
    0x05: ("PING", Struct("nonce" / hexed(16))),
    0x06: (
        "REQUEST",
        Struct(
            "correlation" / hexed(16),
            "expires_ms" / u64,
            "request_kind" / u8,
            reserved(1),
            "body_length" / u16,
            "request_body" / hexed_rest,
            rule(lambda m: 2 * m.body_length == len(m.request_body) and m.body_length <= 1024),
        ),
    ),
    0x81: (
        "LINK_WELCOME",
        Struct(
            "site" / u32,
            "generation" / u32,
            "position" / u64,
            "nonce" / hexed(16),
            "utc_ms" / u64,
            "certificate" / hexed(120),
        ),
    ),
    0x82: ("RECEIPT", RECEIPT),
    LIST: (
        "LIST",
        Struct(
            "form" / u8,
            reserved(3),
            "base_generation" / u32,
            "base_counter" / u32,
            "transfer_bytes" / u32,
            "signed_head" / hexed(128),
            "certificate" / hexed(120),
            "data" / hexed_rest,
            rule(lambda m: 2 * m.transfer_bytes == len(m.data)),
        ),
    ),
    0x84: (
        "RECOLLECT_REQUEST",
        Struct("terminal" / u32, "epoch" / u16, reserved(2), "first" / u32, "last" / u32),
    ),
    REFUSAL: ("REFUSAL", Struct("code" / u8, reserved(3), "first_row" / u64)),
    0x86: ("PONG", Struct("nonce" / hexed(16))),
    0x87: (
        "ANSWER",
        Struct(
            "correlation" / hexed(16),
            "expires_ms" / u64,
            "request_kind" / u8,
            "status" / u8,
            "body_length" / u16,
            "request_body" / hexed_rest,
            rule(lambda m: 2 * m.body_length == len(m.request_body) and m.body_length <= 1024 and m.status <= 2),
        ),
    ),
}
BATCH_PROVED_BYTES: Final = 4 + 68 + 4  # version to count of rows


def proof_bytes(kind: int) -> int:
    if kind in UNPROVED:
        return 0
    return SIGNATURE_BYTES if kind & 0x80 else MAC_BYTES


def proved(version_to_body: bytes) -> bytes:
    """What MAC or signature covers; of a BATCH not the rows, which the digest in its name covers."""
    if version_to_body[1] == BATCH:
        version_to_body = version_to_body[:BATCH_PROVED_BYTES]
    return PREFIX + version_to_body


def build_body(kind: int, given: Mapping[str, Any]) -> bytes:
    if kind == BATCH:
        rows = b"".join(row["row_id"].to_bytes(8, "big") + bytes.fromhex(row["row"]) for row in given["rows"])
        given = {**given, "rows": rows.hex()}
    elif kind == REPORT:
        text = given["text"].encode("utf-8")
        given = {**given, "text_length": len(text), "text": text.hex()}
    return build(BODIES[kind][1], given)


def parse_body(kind: int, body: bytes) -> Fields:
    fields = parse(BODIES[kind][1], body)
    if kind == BATCH:
        rows, rest = [], bytes.fromhex(fields["rows"])
        while rest:
            row, after = split_row(rest[8:])
            rows.append({"row_id": int.from_bytes(rest[:8], "big"), "row": row.hex()})
            rest = after
        if len(rows) != fields["count_of_rows"]:
            raise OracleError("malformed", "count of rows")
        fields["rows"] = rows
    elif kind == REPORT:
        fields["text"] = bytes.fromhex(fields["text"]).decode("utf-8")
    return fields


def build_message(kind: int, body: bytes, *, batch_key: bytes, ledger_seed: bytes) -> bytes:
    message = bytes([1, kind, 0, 0]) + body
    if kind not in UNPROVED:
        over = proved(message)
        message += ed25519_sign(ledger_seed, over) if kind & 0x80 else cmac(batch_key, over)
    return len(message).to_bytes(4, "big") + message


def parse_message(data: bytes, *, batch_key: bytes, ledger_public: bytes) -> tuple[int, Fields]:
    """Type and body of one whole message whose proof is right."""
    if len(data) < 8 or int.from_bytes(data[:4], "big") != len(data) - 4:
        raise OracleError("malformed", "length")
    if data[4] != 1 or data[5] not in BODIES or data[6:8] != b"\0\0":
        raise OracleError("malformed", "envelope")
    kind, size = data[5], proof_bytes(data[5])
    end = len(data) - size
    over, proof = proved(data[4:end]), data[end:]
    if kind & 0x80 and size and not ed25519_verify(ledger_public, over, proof):
        raise OracleError("signature wrong")
    if not kind & 0x80 and cmac(batch_key, over) != proof:
        raise OracleError("MAC wrong")
    fields = parse_body(kind, data[8:end])
    if kind == BATCH:
        _check_digest(fields)
    return kind, fields


def _check_digest(fields: Fields) -> None:
    rows: list[Row] = [(row["row_id"], bytes.fromhex(row["row"])) for row in fields["rows"]]
    if digest(rows).hex() != fields["batch_name"][-64:]:
        raise OracleError("digest wrong")


def batch_body(name: bytes, rows: Sequence[Row]) -> bytes:
    return name + len(rows).to_bytes(4, "big") + with_row_ids(rows)


def result_digest(results: Sequence[int]) -> bytes:
    """Over the result byte of every record in order; a baseline or tombstone row counts as one record."""
    return sha256(bytes(results))


def chain_hash(previous: bytes, name: bytes, results: Sequence[int]) -> bytes:
    return sha256(CHAIN_PREFIX + previous + name + result_digest(results))
