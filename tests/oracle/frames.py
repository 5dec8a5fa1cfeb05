"""Section 3: one frame codec for both media.

    header(12): magic C3, version and flags, kind, line address, counter u32, body length u16, header check u16
    body, tag (kind 10 only: 16 on TCP, 8 on a line), crc u32 (line only)

Whole frames only: the oracle describes bytes, searching for the next frame is the product's business.
"""

from collections.abc import Mapping
from typing import Any, Final

from construct import BitsInteger, BitStruct, Flag, Struct

from tests.oracle.fields import Fields, OracleError, build, plain, u8, u16, u32
from tests.oracle.primitives import crc16, crc32

MAGIC: Final = 0xC3
HEADER_BYTES: Final = 12
KINDS: Final = {0x01: "HELLO", 0x02: "CHALLENGE", 0x03: "PROVE", 0x04: "ACCEPT", 0x05: "REFUSE", 0x10: "SEALED"}
SEALED: Final = 0x10
DOWN_HANDSHAKE: Final = frozenset({0x02, 0x04, 0x05})

HEADER: Final = Struct(
    "magic" / u8,
    "version_and_flags"
    / BitStruct("version" / BitsInteger(4), "reserved" / Flag, "line" / Flag, "down" / Flag, "sealed" / Flag),
    "kind" / u8,
    "line_address" / u8,
    "counter" / u32,
    "body_length" / u16,
    "header_check" / u16,
)


def tag_bytes(kind: int, line: bool) -> int:
    return 0 if kind != SEALED else 8 if line else 16


def header(*, kind: int, down: bool, line_address: int, counter: int, body_length: int, line: bool) -> bytes:
    given = {
        "magic": MAGIC,
        "version_and_flags": {
            "version": 1,
            "reserved": False,
            "line": line,
            "down": down,
            "sealed": kind == SEALED,
        },
        "kind": kind,
        "line_address": line_address,
        "counter": counter & 0xFFFFFFFF,
        "body_length": body_length,
        "header_check": 0,
    }
    first = build(HEADER, given)[:10]
    return first + crc16(first).to_bytes(2, "big")


def build_frame(given: Mapping[str, Any]) -> bytes:
    """`given`: kind, down, line, line_address, counter, body (as on the wire) and, when sealed, tag."""
    body, tag = bytes.fromhex(given["body"]), bytes.fromhex(given.get("tag", ""))
    assert len(tag) == tag_bytes(given["kind"], given["line"])
    frame = header(
        kind=given["kind"],
        down=given["down"],
        line=given["line"],
        line_address=given["line_address"],
        counter=given["counter"],
        body_length=len(body),
    )
    frame += body + tag
    return frame + crc32(frame).to_bytes(4, "big") if given["line"] else frame


def parse_header(data: bytes, *, line: bool, body_limit: int) -> Fields:
    """The checks of a receiver up to the length, in the page's order."""
    if len(data) < HEADER_BYTES:
        raise OracleError("incomplete")
    if data[0] != MAGIC:
        raise OracleError("magic")
    if crc16(data[:10]).to_bytes(2, "big") != data[10:12]:
        raise OracleError("header check")
    fields: Fields = plain(HEADER.parse(data[:HEADER_BYTES]))
    bits = fields.pop("version_and_flags")
    kind = fields["kind"]
    if bits["version"] != 1:
        raise OracleError("version")
    if kind not in KINDS:
        raise OracleError("kind")
    # A sealed frame goes either way; whose it is the receiver knows, a description does not.
    down_right = bits["down"] == (kind in DOWN_HANDSHAKE) or kind == SEALED
    if bits["reserved"] or bits["sealed"] != (kind == SEALED) or bits["line"] != line or not down_right:
        raise OracleError("flags")
    if fields["body_length"] > body_limit:
        raise OracleError("length")
    return {**fields, "line": bits["line"], "down": bits["down"], "sealed": bits["sealed"]}


def parse_frame(data: bytes, *, line: bool, body_limit: int = 4096) -> Fields:
    """One whole frame, body and tag as hex; the crc is checked, the tag is not."""
    fields = parse_header(data, line=line, body_limit=body_limit)
    body_end = HEADER_BYTES + fields["body_length"]
    tag_end = body_end + tag_bytes(fields["kind"], line)
    if len(data) != tag_end + (4 if line else 0):
        raise OracleError("incomplete" if len(data) < tag_end else "left-over bytes")
    if line and crc32(data[:tag_end]).to_bytes(4, "big") != data[tag_end:]:
        raise OracleError("crc")
    if fields["kind"] != SEALED and fields["counter"]:
        raise OracleError("malformed", "counter of a handshake frame")
    return {
        **fields,
        "header": data[:HEADER_BYTES].hex(),
        "body": data[HEADER_BYTES:body_end].hex(),
        "tag": data[body_end:tag_end].hex(),
    }
