"""Section 5: sealed frames. Associated data is the header; the nonce is salt and 64-bit counter."""

from tests.oracle import sm4
from tests.oracle.fields import OracleError
from tests.oracle.frames import SEALED, build_frame, header, parse_frame, tag_bytes
from tests.oracle.primitives import SUITE_A, ccm_open, ccm_seal


def nonce(salt: bytes, counter: int, suite: int = SUITE_A) -> bytes:
    """13 bytes for CCM; 12 for suite B on TCP, which takes the first 4 bytes of the salt."""
    return (salt if suite == SUITE_A else salt[:4]) + counter.to_bytes(8, "big")


def seal_frame(
    message: bytes,
    *,
    key: bytes,
    salt: bytes,
    counter: int,
    down: bool,
    line: bool = False,
    line_address: int = 0,
    suite: int = SUITE_A,
) -> bytes:
    head = header(
        kind=SEALED, down=down, line=line, line_address=line_address, counter=counter, body_length=len(message)
    )
    if suite == SUITE_A:
        body, tag = ccm_seal(key, nonce(salt, counter), head, message, tag_bytes(SEALED, line))
    else:
        assert not line, "suite B on a line is a reserved section"
        body, tag = sm4.gcm_seal(key, nonce(salt, counter, suite), head, message)
    return build_frame(
        {
            "kind": SEALED,
            "down": down,
            "line": line,
            "line_address": line_address,
            "counter": counter,
            "body": body.hex(),
            "tag": tag.hex(),
        }
    )


def open_frame(
    frame: bytes, *, key: bytes, salt: bytes, counter: int, line: bool = False, suite: int = SUITE_A
) -> bytes:
    """The message, if this is the frame with exactly this counter."""
    fields = parse_frame(frame, line=line)
    if fields["counter"] != counter & 0xFFFFFFFF:
        raise OracleError("counter not next")
    head, body, tag = (bytes.fromhex(fields[name]) for name in ("header", "body", "tag"))
    if suite == SUITE_A:
        return ccm_open(key, nonce(salt, counter), head, body, tag)
    opened = sm4.gcm_open(key, nonce(salt, counter, suite), head, body, tag)
    if opened is None:
        raise OracleError("tag wrong")
    return opened
