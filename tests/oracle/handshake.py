"""Section 4: bodies of the handshake, transcript, both proofs, and the session keys of section 2."""

from typing import Final

from construct import Struct

from tests.oracle.fields import hexed, reserved, u8, u16, u32
from tests.oracle.keys import derive
from tests.oracle.primitives import SUITE_A, cmac

HELLO: Final = Struct(
    "suite" / u8,
    "role" / u8,
    "medium" / u8,
    "link_key_version" / u8,
    "terminal" / u32,
    "epoch" / u16,
    "body_limit" / u16,
    "class" / u8,
    "terminal_kind" / u8,
    reserved(2),
    "nonce" / hexed(16),
)
CHALLENGE: Final = Struct(
    "suite" / u8,
    "role" / u8,
    "medium" / u8,
    "link_key_version" / u8,
    "front_end" / u32,
    "site" / u32,
    "body_limit" / u16,
    reserved(2),
    "nonce" / hexed(16),
)
PROVE: Final = Struct("proof" / hexed(16))
ACCEPT: Final = Struct("proof" / hexed(16))
REFUSE: Final = Struct("code" / u8, reserved(1), "retry_after_s" / u16)

BODIES: Final = {0x01: HELLO, 0x02: CHALLENGE, 0x03: PROVE, 0x04: ACCEPT, 0x05: REFUSE}
assert HELLO.sizeof() == CHALLENGE.sizeof() == 32

SESSION_LABELS: Final = ("session.up.key", "session.up.salt", "session.down.key", "session.down.salt")


def transcript(hello_frame: bytes, challenge_frame: bytes) -> bytes:
    """Headers as sent, and bodies: the first 44 bytes of either frame, so without the crc of a line."""
    return hello_frame[:44] + challenge_frame[:44]


def prove(link_key: bytes, seen: bytes, suite: int = SUITE_A) -> bytes:
    return cmac(derive(link_key, "session.prove.terminal", seen, suite), b"\x01" + seen, suite)


def accept(link_key: bytes, seen: bytes, prove_body: bytes, suite: int = SUITE_A) -> bytes:
    return cmac(derive(link_key, "session.prove.frontend", seen, suite), b"\x02" + seen + prove_body, suite)


def session_keys(link_key: bytes, seen: bytes, suite: int = SUITE_A) -> dict[str, bytes]:
    """`up_key`, `up_salt`, `down_key`, `down_salt`."""
    return {
        label.removeprefix("session.").replace(".", "_"): derive(link_key, label, seen, suite)
        for label in SESSION_LABELS
    }
