"""A frame of records alike, read at one glance: what is taken is what `summarise` makes of it, whatever the bytes."""

from __future__ import annotations

import random
import struct
from typing import Final

import pytest

from protocol.codes import RecordType
from protocol.errors import Malformed
from protocol.limits import RECORDS_PER_FRAME_MAX
from protocol.record_runs import read_run
from protocol.records import Summary, summarise

TERMINAL: Final = 1001
EPOCH: Final = 3
BOOT: Final = 258
_HEAD: Final = struct.Struct("!BBBBHHIIIQIq")


def record(kind: int, length: int, sequence: int, **other: int) -> bytes:
    head = {"suite": 1, "version": 0, "epoch": EPOCH, "boot": BOOT, "terminal": TERMINAL, "uptime": 7, **other}
    start = _HEAD.pack(
        kind,
        length,
        head["suite"],
        head["version"],
        head["epoch"],
        head["boot"],
        head["terminal"],
        sequence,
        head["uptime"],
        1_790_000_000_000,
        sequence,
        0,
    )
    return (start + bytes(16) + (1000 + sequence % 1000).to_bytes(4, "big")).ljust(length, b"\xa5")


def summary_of(payload: bytes) -> Summary | None:
    try:
        return summarise(payload)
    except Malformed:
        return None


def agrees(payload: bytes, terminal: int = TERMINAL, epoch: int = EPOCH) -> bool:
    """Whether it was taken the short way; it fails where that says anything else than the general one."""
    run = read_run(payload, terminal, epoch)
    if run is None:
        return False
    kind, boot, first, last, uptimes_ds, cents = run
    found = summarise(payload)
    assert (found.terminal, found.epoch, found.first, found.last) == (terminal, epoch, first, last)
    assert (found.types, found.boots) == (bytes((kind,)) * found.count, (boot,) * found.count)
    assert (found.uptimes_ds, found.sum_cents) == (uptimes_ds, cents)
    return True


@pytest.mark.parametrize("kind", range(256))
def test_frames_of_every_type_and_length_say_the_same(kind: int) -> None:
    for length in range(64, 113, 16):
        payload = b"".join(record(kind, length, sequence, uptime=sequence * 3) for sequence in range(5, 9))
        assert agrees(payload) == (kind not in {0, 255})
        assert not agrees(payload, terminal=TERMINAL + 1)
        assert not agrees(payload, epoch=EPOCH + 1)


def test_as_many_records_as_a_frame_may_hold_are_taken_and_one_alone_or_more_are_not() -> None:
    for count in (2, 16, RECORDS_PER_FRAME_MAX):
        assert agrees(b"".join(record(RecordType.PURCHASE, 64, 1 + at) for at in range(count)))
    for count in (1, RECORDS_PER_FRAME_MAX + 1):
        assert not agrees(b"".join(record(RecordType.PURCHASE, 64, 1 + at) for at in range(count)))


def test_a_record_unlike_the_others_is_left_to_the_general_way() -> None:
    for at in (0, 1, 2):
        for other in ("suite", "version", "epoch", "boot", "terminal"):
            records = [record(RecordType.PURCHASE, 96, 5 + each) for each in range(3)]
            records[at] = record(RecordType.PURCHASE, 96, 5 + at, **{other: 4})
            assert not agrees(b"".join(records)), (at, other)
        records = [record(RecordType.PURCHASE, 96, 5 + each) for each in range(3)]
        assert agrees(b"".join(records))
        records[at] = record(RecordType.REFUND, 96, 5 + at)
        assert not agrees(b"".join(records)), at


def test_sequences_that_begin_with_none_or_go_on_behind_the_highest_are_refused() -> None:
    for first in (0, 0xFFFF_FFFF):
        pair = record(1, 64, first) + record(1, 64, first + 1 & 0xFFFF_FFFF, terminal=TERMINAL + (first > 0))
        assert not agrees(pair)
        assert not agrees(pair, terminal=TERMINAL + 1)
    assert agrees(record(1, 64, 0xFFFF_FFFE) + record(1, 64, 0xFFFF_FFFF))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_bytes_it_takes_nothing_that_the_general_way_reads_otherwise(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    taken = 0
    for _ in range(400):
        kind, length, first = rng.choice((1, 2, 9, 200)), rng.choice((64, 80, 96, 112)), rng.randint(1, 1 << 31)
        records = [record(kind, length, first + at, uptime=rng.randint(0, 99)) for at in range(rng.randint(2, 20))]
        payload = bytearray(b"".join(records))
        for _ in range(rng.randint(0, 2)):
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.1:
            del payload[rng.randrange(2, len(payload)) :]
        taken += agrees(bytes(payload))
        assert summary_of(bytes(payload)) is not None or not agrees(bytes(payload))
    assert taken > 40
