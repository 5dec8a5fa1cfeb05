"""Frames on both media: the second implementation's bytes, hostile bytes, resynchronisation."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.aead import Sealer
from protocol.codes import FrameKind, Medium
from protocol.errors import CounterError, Garbage, OutOfRange, RemoteError, TooLong, UnknownFrame
from protocol.frame import (
    Frame,
    FrameDecoder,
    close_frame,
    encode_frame,
    encode_header,
)
from protocol.limits import BODY_BYTES_MAX_LINE, BODY_BYTES_MAX_TCP, GARBAGE_BYTES_MAX
from tests.hostile import HostileStream
from tests.protocol.vectors import Vector, good, refused

HELLO = encode_frame(FrameKind.HELLO, bytes(range(32)), medium=Medium.TCP, down=False)
LINE_HELLO = encode_frame(FrameKind.HELLO, bytes(range(32)), medium=Medium.LINE, down=False, address=17)
SEALED = Sealer(bytes(16), bytes(5), Medium.TCP, down=False).seal(b"\xc3" * 40)
LINE_SEALED = Sealer(bytes(16), bytes(5), Medium.LINE, down=True).seal(b"\xc3" * 40, address=254)


def medium_of(vector: Vector) -> Medium:
    return Medium.LINE if vector.given["line"] else Medium.TCP


def decoded(data: bytes, medium: Medium = Medium.TCP, body_bytes_max: int = 4096) -> list[Frame]:
    decoder = FrameDecoder(medium, body_bytes_max)
    frames = decoder.feed(data)
    if decoder.error is not None:
        raise decoder.error
    return frames


def raising_feed(medium: Medium, body_bytes_max: int = 4096) -> Callable[[Any], list[Frame]]:
    decoder = FrameDecoder(medium, body_bytes_max)

    def feed(data: bytes) -> list[Frame]:
        frames = decoder.feed(data)
        if decoder.error is not None:
            raise decoder.error
        return frames

    return feed


@pytest.mark.parametrize("vector", good("03_frames"), ids=str)
def test_frames_have_the_second_implementations_bytes_both_ways(vector: Vector) -> None:
    g, medium = vector.given, medium_of(vector)
    body, tag = vector.bytes_of("body"), bytes.fromhex(g.get("tag", ""))
    header = encode_header(
        g["kind"],
        len(body),
        medium=medium,
        down=g["down"],
        address=g["line_address"],
        counter=g["counter"],
    )
    assert close_frame(header, body + tag, medium=medium) == vector.data
    (frame,) = decoded(vector.data, medium)
    assert (frame.kind, frame.address, frame.counter, frame.down) == (
        g["kind"],
        g["line_address"],
        g["counter"],
        g["down"],
    )
    assert (frame.header, frame.body, frame.tag) == (header, body, tag)


@pytest.mark.parametrize("vector", refused("03_frames"), ids=str)
def test_frames_that_the_second_implementation_refuses_are_refused(vector: Vector) -> None:
    medium = medium_of(vector)
    decoder = FrameDecoder(medium, vector.given["body_limit"])
    assert decoder.feed(vector.data) == []
    if vector.error in {"magic", "header check"}:
        assert decoder.error is None
        assert decoder.garbage_bytes > 0
    elif vector.error == "crc":
        assert (decoder.error, decoder.noise_frames) == (None, 1)
    else:
        assert isinstance(decoder.error, TooLong if vector.error == "length" else UnknownFrame)


@pytest.mark.parametrize("data", [HELLO, SEALED], ids=["hello", "sealed"])
def test_hostile_bytes_on_tcp(data: bytes) -> None:
    HostileStream(
        data, lambda: raising_feed(Medium.TCP), resynchronises=True, garbage_bytes=GARBAGE_BYTES_MAX
    ).run_all()


@pytest.mark.parametrize("data", [LINE_HELLO, LINE_SEALED], ids=["hello", "sealed"])
def test_hostile_bytes_on_a_line(data: bytes) -> None:
    def new_feed() -> Callable[[Any], list[Frame]]:
        return raising_feed(Medium.LINE, BODY_BYTES_MAX_LINE)

    HostileStream(data, new_feed, authenticated=True, resynchronises=True, garbage_bytes=5000).run_all()


@given(st.data())
def test_chunks_of_any_size_give_the_same_frames_error_and_counts(data: st.DataObject) -> None:
    pieces = st.sampled_from([HELLO, SEALED, HELLO[:20], b"\xc3", b"\xc3\x11", b"noise", SEALED[5:]])
    stream = b"".join(data.draw(st.lists(pieces, max_size=12)))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    for medium in Medium:
        whole = FrameDecoder(medium, 4096)
        expected = whole.feed(stream)
        chunked = FrameDecoder(medium, 4096)
        bounds = [0, *cuts, len(stream)]
        got = [f for start, end in pairwise(bounds) for f in chunked.feed(stream[start:end])]
        assert got == expected
        assert type(chunked.error) is type(whole.error)
        assert chunked.garbage_bytes == whole.garbage_bytes
        assert chunked.unknown_frames == whole.unknown_frames


def test_good_frames_before_an_error_are_delivered_and_nothing_after_it() -> None:
    decoder = FrameDecoder(Medium.TCP, 4096)
    unknown = bytes.fromhex("c3100600000000000020318f")
    frames = decoder.feed(HELLO + SEALED + unknown + HELLO)
    assert [frame.kind for frame in frames] == [FrameKind.HELLO, FrameKind.SEALED]
    assert isinstance(decoder.error, UnknownFrame)
    assert decoder.feed(HELLO) == []


def test_a_tcp_peer_may_send_8192_bytes_of_garbage_and_not_one_more() -> None:
    assert decoded(bytes(GARBAGE_BYTES_MAX) + HELLO)[0].kind == FrameKind.HELLO
    with pytest.raises(Garbage):
        decoded(bytes(GARBAGE_BYTES_MAX + 1) + HELLO)


def test_garbage_without_any_frame_counts_at_once() -> None:
    decoder = FrameDecoder(Medium.TCP, 4096)
    for _ in range(GARBAGE_BYTES_MAX):
        decoder.feed(b"\0")
    assert decoder.error is None
    decoder.feed(b"\0")
    assert isinstance(decoder.error, Garbage)


def test_garbage_of_nothing_but_magics_ends_too() -> None:
    with pytest.raises(Garbage):
        decoded(b"\xc3" * (GARBAGE_BYTES_MAX + 32))


@pytest.mark.parametrize("seed", range(20))
def test_garbage_on_a_line_costs_at_most_one_frame(seed: int) -> None:
    source = random.Random(seed)
    print(f"seed={seed}")
    torn = LINE_SEALED[: source.randint(1, len(LINE_SEALED) - 1)]
    noise = source.randbytes(source.randint(0, 400))
    decoder = FrameDecoder(Medium.LINE, 960)
    # A random header check that happens to be right would cost a frame; 1 in 65,536 per magic.
    frames = decoder.feed(torn + noise + LINE_HELLO + LINE_SEALED + LINE_HELLO * 20)
    assert len(frames) >= 21
    assert decoder.error is None


def test_a_line_frame_that_lost_bytes_does_not_swallow_the_next() -> None:
    decoder = FrameDecoder(Medium.LINE, 960)
    lost = LINE_SEALED[:20] + LINE_SEALED[23:]
    frames = decoder.feed(lost + LINE_HELLO)
    assert [frame.kind for frame in frames] == [FrameKind.HELLO]
    assert decoder.noise_frames == 1


def test_silence_on_a_line_gives_up_an_unfinished_frame_but_not_what_it_swallowed() -> None:
    decoder = FrameDecoder(Medium.LINE, 960)
    start = encode_header(FrameKind.SEALED, 900, medium=Medium.LINE, down=True, address=254)
    assert decoder.feed(start + LINE_HELLO + LINE_HELLO[:30]) == []
    assert [frame.kind for frame in decoder.line_silent()] == [FrameKind.HELLO]
    assert [frame.kind for frame in decoder.feed(LINE_HELLO)] == [FrameKind.HELLO]
    assert FrameDecoder(Medium.TCP, 4096).line_silent() == []


def test_an_unknown_or_too_long_frame_on_a_line_is_searched_through() -> None:
    decoder = FrameDecoder(Medium.LINE, 320)
    too_long = encode_header(FrameKind.SEALED, 321, medium=Medium.LINE, down=True, address=254)
    frames = decoder.feed(too_long + HELLO + LINE_HELLO)
    assert [frame.address for frame in frames] == [17]
    assert (decoder.error, decoder.unknown_frames) == (None, 2)


def test_the_body_limit_is_the_last_length_taken() -> None:
    for length, fits in ((BODY_BYTES_MAX_TCP, True), (BODY_BYTES_MAX_TCP + 1, False)):
        data = encode_frame(FrameKind.HELLO, bytes(length), medium=Medium.TCP, down=False)
        if fits:
            assert len(decoded(data)[0].body) == length
        else:
            with pytest.raises(TooLong) as caught:
                decoded(data[:12])  # refused at its header: nothing is waited for
            assert (caught.value.got_bytes, caught.value.max_bytes) == (4097, 4096)


def test_a_handshake_frame_counts_nothing() -> None:
    header = encode_header(FrameKind.HELLO, 0, medium=Medium.TCP, down=False, counter=1)
    with pytest.raises(CounterError):
        decoded(header)


def test_an_address_belongs_to_a_line_and_to_nothing_else() -> None:
    for medium, address in ((Medium.TCP, 1), (Medium.LINE, 0), (Medium.LINE, 256), (Medium.TCP, -1)):
        with pytest.raises(OutOfRange):
            encode_frame(FrameKind.HELLO, b"", medium=medium, down=False, address=address)
    addressed = bytearray(HELLO[:10])
    addressed[3] = 1
    with pytest.raises(UnknownFrame):
        decoded(_with_check(bytes(addressed)) + HELLO[12:])


def test_a_body_that_its_length_field_cannot_hold_is_our_own_error() -> None:
    with pytest.raises(OutOfRange):
        encode_frame(FrameKind.HELLO, bytes(65536), medium=Medium.TCP, down=False)


def test_only_the_low_32_bits_of_a_counter_are_sent() -> None:
    header = encode_header(FrameKind.SEALED, 0, medium=Medium.TCP, down=False, counter=(7 << 32) | 5)
    (frame,) = decoded(header + bytes(16))
    assert frame.counter == 5


def test_a_shown_frame_has_no_bytes_of_body_or_tag() -> None:
    (frame,) = decoded(SEALED)
    assert repr(frame) == "Frame(kind=10, flags=1, address=0, counter=0, body=40 bytes)"


def test_every_error_of_the_decoder_is_the_peers() -> None:
    for vector in refused("03_frames"):
        decoder = FrameDecoder(medium_of(vector), 4096)
        decoder.feed(vector.data)
        assert decoder.error is None or isinstance(decoder.error, RemoteError)


def _with_check(start: bytes) -> bytes:
    """A header's first ten bytes and their CRC-16, computed bit by bit from the table of §3."""
    crc = 0xFFFF
    for byte in start:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1
    return start + crc.to_bytes(2, "big")


def test_the_header_check_is_the_crc_of_the_specification() -> None:
    assert _with_check(HELLO[:10]) == HELLO[:12]
