"""Handshake messages, transcript, proofs and session keys (docs/protocol.md §4)."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.codes import FrameKind, Medium, RefuseCode, Suite
from protocol.errors import Downgrade, Malformed, OutOfRange
from protocol.frame import encode_frame
from protocol.handshake import (
    Challenge,
    Hello,
    SessionKeys,
    decode_refuse,
    encode_refuse,
    frontend_proof,
    terminal_proof,
    transcript_of,
)
from protocol.mac import derive
from tests.hostile import HostileKit
from tests.protocol.vectors import Vector, good, refused, vectors

BY_NAME = {v.name: v for v in vectors("04_handshake")}
HELLO = BY_NAME["HELLO body"].data
CHALLENGE = BY_NAME["CHALLENGE body"].data


def hello_of(facts: dict[str, Any]) -> Hello:
    return Hello(
        suite=facts["suite"],
        role=facts["role"],
        medium=facts["medium"],
        key_version=facts["link_key_version"],
        terminal=facts["terminal"],
        epoch=facts["epoch"],
        body_bytes_max=facts["body_limit"],
        terminal_class=facts["class"],
        terminal_kind=facts["terminal_kind"],
        nonce=bytes.fromhex(facts["nonce"]),
    )


def challenge_of(facts: dict[str, Any]) -> Challenge:
    return Challenge(
        suite=facts["suite"],
        medium=facts["medium"],
        key_version=facts["link_key_version"],
        frontend=facts["front_end"],
        site=facts["site"],
        body_bytes_max=facts["body_limit"],
        nonce=bytes.fromhex(facts["nonce"]),
    )


def test_hello_and_challenge_have_the_second_implementations_bytes_both_ways() -> None:
    hello = hello_of(BY_NAME["HELLO body"].given)
    assert (hello.encode(), Hello.decode(HELLO)) == (HELLO, hello)
    challenge = challenge_of(BY_NAME["CHALLENGE body"].given)
    assert (challenge.encode(), Challenge.decode(CHALLENGE)) == (CHALLENGE, challenge)


@pytest.mark.parametrize("vector", good("04_handshake", "REFUSE"), ids=str)
def test_refuse_has_the_second_implementations_bytes_both_ways(vector: Vector) -> None:
    code, retry_after_s = RefuseCode(vector.given["code"]), vector.given["retry_after_s"]
    assert encode_refuse(code, retry_after_s) == vector.data
    assert decode_refuse(vector.data) == (code, retry_after_s)


@pytest.mark.parametrize("vector", refused("04_handshake"), ids=str)
def test_what_the_second_implementation_refuses_is_malformed(vector: Vector) -> None:
    decode = {FrameKind.HELLO: Hello.decode, FrameKind.CHALLENGE: Challenge.decode}[vector.given["kind"]]
    with pytest.raises(Malformed):
        decode(vector.data)


@pytest.mark.parametrize("vector", good("04_handshake", "handshake"), ids=str)
def test_frames_transcript_proofs_and_keys_are_the_second_implementations(vector: Vector) -> None:
    hello, challenge = hello_of(vector.given["hello"]), challenge_of(vector.given["challenge"])
    medium, address, suite = Medium(hello.medium), vector.given["line_address"], hello.suite
    link_key = vector.bytes_of("link_key")

    def framed(kind: FrameKind, body: bytes) -> bytes:
        down = kind in {FrameKind.CHALLENGE, FrameKind.ACCEPT}
        return encode_frame(kind, body, medium=medium, down=down, address=address)

    hello_frame = framed(FrameKind.HELLO, hello.encode())
    challenge_frame = framed(FrameKind.CHALLENGE, challenge.encode())
    assert hello_frame == vector.bytes_of("hello_frame")
    assert challenge_frame == vector.bytes_of("challenge_frame")
    transcript = transcript_of(hello_frame[:12], hello.encode(), challenge_frame[:12], challenge.encode())
    assert transcript == vector.bytes_of("transcript")
    prove = terminal_proof(link_key, transcript, suite=suite)
    assert framed(FrameKind.PROVE, prove) == vector.bytes_of("prove_frame")
    accept = frontend_proof(link_key, transcript, prove, suite=suite)
    assert framed(FrameKind.ACCEPT, accept) == vector.bytes_of("accept_frame")
    keys = SessionKeys.derive(link_key, transcript, suite=suite)
    assert (keys.up_key, keys.up_salt) == (vector.bytes_of("up_key"), vector.bytes_of("up_salt"))
    assert (keys.down_key, keys.down_salt) == (vector.bytes_of("down_key"), vector.bytes_of("down_salt"))


def test_hostile_hello() -> None:
    HostileKit(HELLO, Hello.decode, bytes_max=32, length_fields=[(10, 2)]).run_all()


def test_hostile_challenge() -> None:
    HostileKit(CHALLENGE, Challenge.decode, bytes_max=32, length_fields=[(12, 2)]).run_all()


def test_hostile_refuse() -> None:
    HostileKit(bytes.fromhex("0200001e"), decode_refuse, bytes_max=4).run_all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"suite": 0}, "suite 00 on TCP"),
        ({"suite": 0x11}, "suite 11 on TCP"),
        ({"suite": 0x12}, "suite 12 on TCP"),
        ({"role": 3}, "role 03"),
        ({"role": 2}, "role 02"),
        ({"medium": 2}, "medium 02 on TCP"),
        ({"key_version": 0}, "is 0"),
        ({"terminal": 0}, "is 0"),
        ({"epoch": 0}, "is 0"),
        ({"body_bytes_max": 319}, "body limit 319"),
        ({"terminal_class": 3}, "class 03"),
        ({"terminal_kind": 0}, "kind 00"),
        ({"terminal_kind": 0x80}, "kind 80"),
    ],
)
def test_a_well_formed_hello_that_version_1_does_not_take_says_why(change: dict[str, int], reason: str) -> None:
    hello = replace(Hello.decode(HELLO), **change)  # type: ignore[arg-type]  # all changed fields are int
    assert reason in (Hello.decode(hello.encode()).unwelcome(Medium.TCP) or "")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"suite": Suite.B},
        {"terminal_kind": 0x7F},
        {"terminal_class": 2},
        {"body_bytes_max": 320},
        {"key_version": 255},
    ],
)
def test_a_hello_at_the_edges_is_welcome(change: dict[str, int]) -> None:
    hello = replace(Hello.decode(HELLO), **change)  # type: ignore[arg-type]  # all changed fields are int
    assert hello.unwelcome(Medium.TCP) is None


def test_suite_b_is_spoken_on_tcp_and_reserved_on_a_line() -> None:
    hello = replace(Hello.decode(HELLO), suite=Suite.B)
    assert hello.unwelcome(Medium.TCP) is None
    assert replace(hello, medium=Medium.LINE).unwelcome(Medium.LINE) == "suite 02 on LINE"


@pytest.mark.parametrize("change", [{"suite": 2}, {"medium": 2}, {"key_version": 1}, {"site": 43}])
def test_a_challenge_that_repeats_something_else_is_a_downgrade(change: dict[str, int]) -> None:
    hello, challenge = Hello.decode(HELLO), Challenge.decode(CHALLENGE)
    challenge.check_against(hello, 42)
    with pytest.raises(Downgrade):
        replace(challenge, **change).check_against(hello, 42)  # type: ignore[arg-type]  # all are int


@pytest.mark.parametrize(("offset", "value"), [(1, b"\x01"), (4, bytes(4)), (8, bytes(4)), (12, b"\x01\x3f")])
def test_a_challenge_of_another_role_or_of_nobody_is_malformed(offset: int, value: bytes) -> None:
    with pytest.raises(Malformed):
        Challenge.decode(CHALLENGE[:offset] + value + CHALLENGE[offset + len(value) :])


def test_values_that_do_not_fit_are_our_own_errors() -> None:
    for hello in (replace(Hello.decode(HELLO), nonce=b"short"), replace(Hello.decode(HELLO), epoch=65536)):
        with pytest.raises(OutOfRange):
            hello.encode()
    challenge = Challenge.decode(CHALLENGE)
    for wrong in (replace(challenge, nonce=bytes(17)), replace(challenge, frontend=-1)):
        with pytest.raises(OutOfRange):
            wrong.encode()


def test_a_longer_retry_than_the_field_holds_is_sent_as_the_longest() -> None:
    assert encode_refuse(RefuseCode.BUSY, 100_000) == b"\x02\x00\xff\xff"
    assert encode_refuse(RefuseCode.BUSY, -1) == b"\x02\x00\x00\x00"


def test_every_bit_of_the_transcript_changes_proofs_and_every_key() -> None:
    link_key, transcript = bytes(16), bytes(88)
    one = SessionKeys.derive(link_key, transcript)
    for offset in range(88):
        changed = transcript[:offset] + b"\x01" + transcript[offset + 1 :]
        other = SessionKeys.derive(link_key, changed)
        assert terminal_proof(link_key, changed) != terminal_proof(link_key, transcript)
        assert frontend_proof(link_key, changed, b"") != frontend_proof(link_key, transcript, b"")
        assert {one.up_key, one.down_key}.isdisjoint({other.up_key, other.down_key})
        assert {one.up_salt, one.down_salt}.isdisjoint({other.up_salt, other.down_salt})


def test_a_terminals_proof_is_no_front_ends_proof() -> None:
    proof = terminal_proof(bytes(16), bytes(88))
    assert frontend_proof(bytes(16), bytes(88), proof) != proof
    assert derive(bytes(16), "session.prove.terminal", bytes(88)) != derive(
        bytes(16), "session.prove.frontend", bytes(88)
    )


def test_session_keys_are_never_shown() -> None:
    assert repr(SessionKeys.derive(bytes(16), bytes(88))) == "SessionKeys(…)"
