"""Sealing and opening: the second implementation's bytes, counters, forgeries, repetition on a line (R33, R34)."""

from dataclasses import replace

import pytest
from Crypto.Cipher import AES as PEER_AES

from protocol.aead import Opener, Repeated, Sealer, _Sm4Gcm
from protocol.codes import Medium, Suite
from protocol.errors import CounterError, Disposition, OutOfRange, StateMisuse, TagError
from protocol.frame import Frame, FrameDecoder
from protocol.limits import BODY_BYTES_MAX_LINE, BODY_BYTES_MAX_TCP, SESSION_FRAMES_MAX
from tests.hostile import flipped
from tests.protocol.vectors import Vector, good

KEY = bytes(range(16))
SALT = b"salt!"
SPOKEN = pytest.mark.parametrize(
    ("medium", "address", "suite"),
    [(Medium.TCP, 0, Suite.A), (Medium.LINE, 9, Suite.A), (Medium.TCP, 0, Suite.B)],
)


def frame_of(data: bytes, medium: Medium) -> Frame:
    (frame,) = FrameDecoder(medium, BODY_BYTES_MAX_TCP).feed(data)
    return frame


@pytest.mark.parametrize("vector", good("05_sealed_frames"), ids=str)
def test_sealed_frames_have_the_second_implementations_bytes_both_ways(vector: Vector) -> None:
    g = vector.given
    medium = Medium.LINE if g["line"] else Medium.TCP
    key, salt, message = (vector.bytes_of(name) for name in ("key", "salt", "message"))
    sealer = Sealer(key, salt, medium, g["down"], suite=g["suite"])
    opener = Opener(key, salt, medium, suite=g["suite"])
    sealer.counter = opener.counter = g["counter"]
    assert sealer.seal(message, g["line_address"]) == vector.data
    assert opener.open(frame_of(vector.data, medium)) == message
    assert sealer.counter == opener.counter == g["counter"] + 1


def test_a_sealed_frame_opens_with_another_library() -> None:
    sealer = Sealer(KEY, SALT, Medium.TCP, down=True)
    sealer.counter = 0x1234
    data = sealer.seal(b"\x84 time")
    peer = PEER_AES.new(KEY, PEER_AES.MODE_CCM, nonce=SALT + (0x1234).to_bytes(8, "big"), mac_len=16)
    peer.update(data[:12])
    assert peer.decrypt_and_verify(data[12:-16], data[-16:]) == b"\x84 time"


def test_sm4_gcm_seals_and_opens_the_published_example_of_rfc_8998() -> None:
    cipher = _Sm4Gcm(bytes.fromhex("0123456789abcdeffedcba9876543210"))
    nonce, header = bytes.fromhex("00001234567800000000abcd"), bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    body = b"".join(bytes([value]) * 8 for value in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
    sealed = bytes.fromhex(
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec"
    )
    assert cipher.encrypt(nonce, memoryview(body), header) == sealed
    assert cipher.decrypt(nonce, sealed, header) == body


def test_a_frame_of_one_suite_opens_under_no_other() -> None:
    for ours, other in ((Suite.A, Suite.B), (Suite.B, Suite.A)):
        frame = frame_of(Sealer(KEY, SALT, Medium.TCP, down=False, suite=ours).seal(b"a message"), Medium.TCP)
        with pytest.raises(TagError):
            Opener(KEY, SALT, Medium.TCP, suite=other).open(frame)


@pytest.mark.parametrize(
    ("suite", "medium"),
    [(Suite.B, Medium.LINE), (Suite.A_X25519, Medium.TCP), (Suite.B_SM2, Medium.TCP), (0, Medium.TCP)],
)
def test_a_suite_that_is_reserved_on_a_medium_is_refused_by_name(suite: int, medium: Medium) -> None:
    with pytest.raises(OutOfRange, match=f"suite {suite:02x} on {medium.name} is reserved"):
        Sealer(KEY, SALT, medium, down=False, suite=suite)
    with pytest.raises(OutOfRange, match="reserved"):
        Opener(KEY, SALT, medium, suite=suite)


@SPOKEN
def test_no_nonce_and_no_frame_is_ever_used_twice(medium: Medium, address: int, suite: Suite) -> None:
    sealer = Sealer(KEY, SALT, medium, down=False, suite=suite)
    assert len({sealer.seal(b"same body", address) for _ in range(100)}) == 100
    assert sealer.counter == 100


def test_a_nonce_is_spent_even_when_sealing_fails() -> None:
    sealer = Sealer(KEY, SALT, Medium.TCP, down=False)
    with pytest.raises(TypeError):
        sealer.seal(["not bytes"])  # type: ignore[arg-type]
    assert sealer.counter == 1


def test_after_2_to_the_20_frames_nothing_is_sealed_or_opened_any_more() -> None:
    sealer = Sealer(KEY, SALT, Medium.TCP, down=False)
    opener = Opener(KEY, SALT, Medium.TCP)
    sealer.counter = opener.counter = SESSION_FRAMES_MAX - 1
    opener.open(frame_of(sealer.seal(b"last"), Medium.TCP))
    with pytest.raises(StateMisuse):
        sealer.seal(b"one too many")
    sealer.counter -= 1
    with pytest.raises(CounterError):
        opener.open(frame_of(sealer.seal(b"x"), Medium.TCP))


@SPOKEN
def test_a_forged_bit_anywhere_is_refused_and_changes_nothing(medium: Medium, address: int, suite: Suite) -> None:
    good_frame = Sealer(KEY, SALT, medium, down=False, suite=suite).seal(b"a message", address)
    frame = frame_of(good_frame, medium)
    opener = Opener(KEY, SALT, medium, suite=suite)
    for part in ("header", "body", "tag"):
        for _, _, changed in flipped(getattr(frame, part)):
            with pytest.raises(TagError):
                opener.open(replace(frame, **{part: changed}))  # type: ignore[arg-type]  # all three are bytes
    assert opener.counter == 0
    assert opener.open(frame) == b"a message"


def test_keys_of_the_other_direction_and_another_salt_do_not_open() -> None:
    data = Sealer(KEY, SALT, Medium.TCP, down=False).seal(b"up")
    for key, salt in ((KEY[::-1], SALT), (KEY, b"SALT!")):
        with pytest.raises(TagError):
            Opener(key, salt, Medium.TCP).open(frame_of(data, Medium.TCP))


def test_on_tcp_only_the_next_counter_is_taken() -> None:
    sealer = Sealer(KEY, SALT, Medium.TCP, down=False)
    first, second, third = (frame_of(sealer.seal(b"x"), Medium.TCP) for _ in range(3))
    opener = Opener(KEY, SALT, Medium.TCP)
    opener.open(first)
    for wrong in (first, third):
        with pytest.raises(CounterError) as caught:
            opener.open(wrong)
        assert (caught.value.got, caught.value.expected) == (wrong.counter, 1)
    assert opener.open(second) == b"x"


def test_on_a_line_the_last_frame_again_is_a_repetition_and_any_other_a_counter_error() -> None:
    sealer = Sealer(KEY, SALT, Medium.LINE, down=False)
    first, second, third = (frame_of(sealer.seal(b"x", 1), Medium.LINE) for _ in range(3))
    opener = Opener(KEY, SALT, Medium.LINE)
    opener.open(first)
    opener.open(second)
    for _ in range(3):
        with pytest.raises(Repeated):
            opener.open(second)
    with pytest.raises(CounterError):
        opener.open(first)
    forged = Frame(second.kind, second.flags, 1, second.counter, second.header, second.body, bytes(8))
    with pytest.raises(CounterError):
        opener.open(forged)
    assert opener.open(third) == b"x"
    assert Repeated.disposition is Disposition.DROP


@pytest.mark.parametrize(
    ("medium", "address", "limit"), [(Medium.TCP, 0, BODY_BYTES_MAX_TCP), (Medium.LINE, 1, BODY_BYTES_MAX_LINE)]
)
def test_a_body_above_what_the_medium_carries_is_our_own_error(medium: Medium, address: int, limit: int) -> None:
    sealer = Sealer(KEY, SALT, medium, down=False)
    assert sealer.seal(bytes(limit), address)
    with pytest.raises(OutOfRange):
        sealer.seal(bytes(limit + 1), address)
    with pytest.raises(OutOfRange):
        sealer.seal(b"", 1 - address)
    assert sealer.counter == 1


def test_keys_and_salts_have_one_length_and_are_never_shown() -> None:
    for key, salt in ((KEY[1:], SALT), (KEY * 2, SALT), (KEY, SALT[1:]), (KEY, b"")):
        with pytest.raises(OutOfRange):
            Sealer(key, salt, Medium.TCP, down=False)
        with pytest.raises(OutOfRange):
            Opener(key, salt, Medium.TCP)
    shown = repr(Sealer(KEY, SALT, Medium.TCP, down=False)) + repr(Opener(KEY, SALT, Medium.TCP))
    assert shown == "Sealer(counter=0)Opener(counter=0)"
