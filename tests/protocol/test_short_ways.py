"""The short ways of a live sale against the general ones: whatever the bytes and their chunks, the same comes of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

import pytest

from protocol.codes import Medium, RecordType, Suite
from protocol.handshake import Hello, TerminalIdentity
from protocol.limits import CREDIT_MAX, SESSION_FRAMES_MAX, SESSION_MS_MAX
from protocol.messages import Ack, plain_ack
from protocol.records import SINGLE, single_cents, summarise
from protocol.rows import PackedRow, encode_single
from protocol.session import FrontEndSession, TerminalSession
from protocol.trade_time import DayByMinute, UtcOffset, fixed_offset, trade_day
from tests.protocol.test_session import (
    EPOCH,
    FRONTEND_NONCE,
    KEY,
    KEY_VERSION,
    SITE,
    START_MS,
    TERMINAL,
    TERMINAL_NONCE,
)

SEEDS: Final = range(40)


class Twins:
    """One terminal, and two front-ends that get the same bytes: one by `receive` alone, one the short way first."""

    def __init__(self, medium: Medium = Medium.TCP, suite: int = Suite.A) -> None:
        address = 17 if medium is Medium.LINE else 0
        identity = TerminalIdentity(SITE, TERMINAL, EPOCH, KEY_VERSION, 1, suite=suite)
        limit = 960 if medium is Medium.LINE else 4096
        common = {"medium": medium, "body_bytes_max": limit, "now_ms": START_MS, "address": address}
        self.terminal = TerminalSession(identity, KEY, nonce=TERMINAL_NONCE, **common)  # type: ignore[arg-type]

        def find_key(_: Hello) -> bytes:
            return KEY

        def frontend() -> FrontEndSession:
            return FrontEndSession(frontend=7, site=SITE, nonce=FRONTEND_NONCE, find_key=find_key, **common)  # type: ignore[arg-type]

        self.general, self.short = frontend(), frontend()
        self.taken_short = 0
        for _ in range(3):
            self.feed(self.terminal.take_output())
            down = self.general.take_output()
            assert down == self.short.take_output()
            if down:
                self.terminal.receive(down, START_MS)
        assert self.terminal.established
        assert self.short.established

    def feed(self, data: bytes, now_ms: int = START_MS) -> list[Any]:
        expected = self.general.receive(data, now_ms)
        message = self.short.receive_whole(data, now_ms)
        self.taken_short += message is not None
        found = self.short.receive(data, now_ms) if message is None else [message]
        assert found == expected
        assert facts(self.short) == facts(self.general)
        return expected

    def frames(self, bodies: list[bytes]) -> list[bytes]:
        made = []
        for body in bodies:
            self.terminal.send(body)
            made.append(self.terminal.take_output())
        return made


def facts(session: FrontEndSession) -> tuple[object, ...]:
    """All that others can see, and what is told to the peer."""
    return (
        session.state,
        session.reason,
        type(session.failure),
        str(session.failure),
        session.tag_failures,
        session.dropped_frames,
        session.garbage_bytes,
        session.noise_frames,
        session.has_output,
        session._opener.counter if session._opener is not None else None,
        session._sealer.counter if session._sealer is not None else None,
        list(session._output),
    )


def mischief(rng: random.Random, frames: list[bytes]) -> bytes:
    """A stream of genuine frames, and often something wrong with it."""
    stream = list(frames)
    at = rng.randrange(len(stream))
    frame = bytearray(stream[at])
    what = rng.randrange(9)
    if what == 1:
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
    elif what == 2:
        del frame[rng.randrange(len(frame)) :]
    elif what == 3:
        frame[:0] = rng.randbytes(rng.randint(1, 20))
    elif what == 4:
        stream.insert(at, bytes(frame))  # replayed
    elif what == 5:
        stream.pop(at)  # lost
        return b"".join(stream)
    elif what == 6:
        frame += rng.randbytes(rng.randint(1, 20))
    elif what == 7:
        del frame[rng.randrange(12) : 12]
    stream[at] = bytes(frame)
    return b"".join(stream)


def chunks(rng: random.Random, stream: bytes, frames: list[bytes]) -> Iterator[bytes]:
    """Cut as a network may: at frames, anywhere, or byte by byte."""
    how = rng.randrange(3)
    sizes = iter([len(frame) for frame in frames] if how == 0 else [])
    position = 0
    while position < len(stream):
        size = next(sizes, None) or (1 if how == 1 else rng.randint(1, 300))
        yield stream[position : position + size]
        position += size


@pytest.mark.parametrize(
    ("medium", "suite"), [(Medium.TCP, Suite.A), (Medium.TCP, Suite.B), (Medium.LINE, Suite.A)], ids=str
)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_frame_taken_whole_is_the_frame_taken_apart(seed: int, medium: Medium, suite: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    twins = Twins(medium, suite)
    frames = twins.frames([rng.randbytes(rng.choice((0, 1, 100, 900))) for _ in range(rng.randint(1, 6))])
    for chunk in chunks(rng, mischief(rng, frames), frames):
        twins.feed(chunk)
    assert facts(twins.short) == facts(twins.general)


def test_whole_frames_do_go_the_short_way_but_for_lines() -> None:
    for medium, expected in ((Medium.TCP, 5), (Medium.LINE, 0)):
        twins = Twins(medium)
        for frame in twins.frames([bytes(100)] * 5):
            assert twins.feed(frame) == [bytes(100)]
        assert twins.taken_short == expected


@pytest.mark.parametrize("offset", range(12 + 20 + 16))
def test_one_wrong_bit_anywhere_is_no_message(offset: int) -> None:
    twins = Twins()
    (frame,) = twins.frames([bytes(20)])
    broken = bytearray(frame)
    broken[offset] ^= 0x10
    assert twins.feed(bytes(broken)) == []
    assert twins.taken_short == 0


def test_what_may_not_come_any_more_is_not_taken_short() -> None:
    twins = Twins()
    (frame,) = twins.frames([b"late"])
    assert twins.feed(frame, START_MS + SESSION_MS_MAX) == []
    twins = Twins()
    for session in (twins.general, twins.short):
        assert session._opener is not None
        session._opener.counter = SESSION_FRAMES_MAX - 1
    assert twins.terminal._sealer is not None
    twins.terminal._sealer.counter = SESSION_FRAMES_MAX - 1
    (last,) = twins.frames([b"the last of this session"])[:1]
    last = last[: 12 + 24 + 16]  # without the terminal's own BYE
    assert twins.feed(last) == [b"the last of this session"]
    assert twins.short.closed
    assert twins.feed(last) == []


@pytest.mark.parametrize("kind", range(1, 255))
def test_cents_of_one_record_are_those_of_a_frame_of_two(kind: int) -> None:
    for length in range(64, 113, 16):
        for version in (0, 1):
            record = bytearray(length)
            record[0], record[1], record[3] = kind, length, version
            record[4:6], record[8:12] = b"\0\1", b"\0\0\0\1"
            record[56:60] = (4_000_000_000).to_bytes(4, "big")
            both = [bytes(record[:12]) + sequence.to_bytes(4, "big") + bytes(record[16:]) for sequence in (1, 2)]
            (one, two) = (SINGLE.unpack_from(each) for each in both)
            cents = (single_cents(one), single_cents(two))
            assert summarise(b"".join(both)).amounts_cents == cents
            assert cents == (0, 0) or (version == 0 and kind in {int(each) for each in RecordType})


def test_a_row_of_one_record_has_the_bytes_of_the_page() -> None:
    record = bytes(range(96))
    row = PackedRow(
        kind=1,
        terminal=1001,
        epoch=3,
        first=7,
        last=7,
        received_ms=1_790_000_000_000,
        payload=record,
        trade_ms=(1_789_999_999_000,),
        anchor_known=True,
    )
    assert encode_single(3, 1001, 7, 1_790_000_000_000, 1_789_999_999_000, record) == row.encode()


@pytest.mark.parametrize("credit", [0, 1, CREDIT_MAX])
def test_a_plain_ack_has_the_bytes_of_the_page(credit: int) -> None:
    assert plain_ack(3, 77, 70, credit) == Ack(3, 77, 70, credit).encode()


def summer_time(utc_ms: int) -> int:
    """An hour more between two moments, one of them odd."""
    return 7_200_000 if 1_700_000_020_500 <= utc_ms < 1_790_000_000_000 else 3_600_000


@pytest.mark.parametrize("offset", [fixed_offset(480), fixed_offset(-210), summer_time], ids=["+8", "-3:30", "summer"])
def test_days_by_the_minute_are_days(offset: UtcOffset) -> None:
    rng = random.Random(1)
    day_of = DayByMinute(offset)
    for start_ms in (0, 1_700_000_000_000, 1_789_999_950_000, 1_790_000_000_000 - 57_600_000):
        moment_ms = start_ms
        for _ in range(4000):
            assert day_of(moment_ms) == trade_day(moment_ms, offset), moment_ms
            moment_ms = max(0, moment_ms + rng.choice((0, 1, 17, 500, 40_000, 3_600_000, -59_000)))
