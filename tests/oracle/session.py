"""One handshake and the first messages after it, value by value: sections 4 and 5 put together."""

from typing import Any

from tests.oracle import handshake, keys, reference, vectors_records
from tests.oracle.fields import Fields, build
from tests.oracle.frames import build_frame
from tests.oracle.messages import build_message, sealed_message
from tests.oracle.primitives import SUITE_A
from tests.oracle.reference import BOOT, EPOCH, NOW_MS, SEAL_KEY, TERMINAL, UPTIME_DS


def hello(*, suite: int = SUITE_A, line: bool = False, **other: Any) -> Fields:
    return {
        "suite": suite,
        "role": 1,
        "medium": 2 if line else 1,
        "link_key_version": reference.LINK_KEY_VERSION,
        "terminal": TERMINAL,
        "epoch": EPOCH,
        "body_limit": 960 if line else 4096,
        "class": 1,
        "terminal_kind": 1,
        "nonce": reference.HELLO_NONCE.hex(),
    } | other


def challenge(*, suite: int = SUITE_A, line: bool = False, **other: Any) -> Fields:
    return {
        "suite": suite,
        "role": 2,
        "medium": 2 if line else 1,
        "link_key_version": reference.LINK_KEY_VERSION,
        "front_end": reference.FRONT_END,
        "site": reference.SITE,
        "body_limit": 960 if line else 4096,
        "nonce": reference.CHALLENGE_NONCE.hex(),
    } | other


def plain_frame(kind: int, body: bytes, *, line: bool = False) -> bytes:
    return build_frame(
        {
            "kind": kind,
            "down": kind in {2, 4, 5},
            "line": line,
            "line_address": reference.LINE_ADDRESS if line else 0,
            "counter": 0,
            "body": body.hex(),
        }
    )


def run_handshake(*, suite: int = SUITE_A, line: bool = False) -> dict[str, bytes]:
    """Every value of one handshake, in the order in which they arise."""
    hello_frame = plain_frame(1, build(handshake.HELLO, hello(suite=suite, line=line)), line=line)
    challenge_frame = plain_frame(2, build(handshake.CHALLENGE, challenge(suite=suite, line=line)), line=line)
    key = keys.link_key(reference.LINK_MASTER, TERMINAL, EPOCH, reference.LINK_KEY_VERSION, suite)
    seen = handshake.transcript(hello_frame, challenge_frame)
    prove = handshake.prove(key, seen, suite)
    accept = handshake.accept(key, seen, prove, suite)
    return {
        "hello_frame": hello_frame,
        "challenge_frame": challenge_frame,
        "link_key": key,
        "transcript": seen,
        "prove_frame": plain_frame(3, prove, line=line),
        "accept_frame": plain_frame(4, accept, line=line),
        **handshake.session_keys(key, seen, suite),
    }


def first_messages() -> dict[str, tuple[bool, int, bytes]]:
    """What is said first, both ways: name, (down, counter, message)."""
    baseline = sealed_message(
        {
            "type": 0x01,
            "boot": BOOT,
            "terminal": TERMINAL,
            "uptime_ds": UPTIME_DS,
            "clock_ms": NOW_MS,
            "entries": [
                {
                    "epoch": EPOCH,
                    "oldest_held": 1,
                    "first_unacknowledged": 1,
                    "next": 1,
                    "seal_before_first_unacknowledged": vectors_records.genesis().hex(),
                }
            ],
        },
        SEAL_KEY,
    )
    list_state = {
        "type": 0x06,
        "list_kind": 1,
        "status": 0,
        "staged_generation": 0,
        "staged_counter": 0,
        "staged_bytes": 0,
        "signed_head_held": "00" * 128,
    }
    heartbeat = {
        "type": 0x05,
        "flags": 0,
        "epoch": EPOCH,
        "boot": BOOT,
        "uptime_ds": UPTIME_DS,
        "clock_ms": NOW_MS,
        "next": 1,
        "first_unacknowledged": 1,
    }
    ack = {"type": 0x82, "epoch": EPOCH, "durable": 0, "settled": 0, "credit": 4, "flags": 0, "ranges": []}
    time = {"type": 0x84, "flags": 0, "boot": BOOT, "uptime_ds": UPTIME_DS, "utc_ms": NOW_MS}
    return {
        "BASELINE": (False, 0, build_message(baseline)),
        "LIST_STATE": (False, 1, build_message(list_state)),
        "HEARTBEAT": (False, 2, build_message(heartbeat)),
        "ACK": (True, 0, build_message(ack)),
        "TIME": (True, 1, build_message(time)),
    }
