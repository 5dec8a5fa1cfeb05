"""The shared kit of hostile bytes: run it on every decoder of peer's bytes or of stored files.

Two shapes of decoder, two classes:

`HostileKit(vector, decode)` for a decoder of one whole message, record, row or file: `decode(data)` returns
a value that compares by `==`, or raises a `RemoteError`:

    HostileKit(ACK_VECTOR, decode_down, bytes_max=4096).run_all()

`HostileStream(vector, new_feed)` for a decoder of a byte stream: `new_feed()` makes a fresh decoder and
returns its `feed(data)`, which returns the list of items completed by these bytes, or raises a `RemoteError`:

    HostileStream(VECTOR, lambda: LineDecoder(bytes_max=4096).feed).run_all()

Whatever is thrown, only a RemoteError may come out, or (where no tag or check covers the bits) a changed but
valid value. Anything else (IndexError, struct.error, an unchanged value, memory that grows with a claimed
length) fails the test with the offending bytes in hex and the seed. Single checks are methods, so that a test
can be one sentence each.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.errors import RemoteError

Buffer = bytes | bytearray | memoryview
BUFFER_TYPES: Final[tuple[Callable[[bytes], Buffer], ...]] = (bytes, bytearray, memoryview)
HEX_SHOWN_BYTES: Final = 200
MEMORY_BYTES_MAX: Final = 1 << 20
"""What a decoder may allocate at its peak for a hostile input, beyond a few copies of the input itself."""


class _Refused:
    """Stands for "a RemoteError came out"; equal to nothing else."""

    def __repr__(self) -> str:
        return "REFUSED"


REFUSED: Final = _Refused()


def shown(data: Buffer) -> str:
    """The first bytes in hex, for a failure that can be replayed by hand."""
    return bytes(data[:HEX_SHOWN_BYTES]).hex(" ") + (" …" if len(data) > HEX_SHOWN_BYTES else "")


def outcome(decode: Callable[[Any], Any], data: Buffer, why: str) -> Any:
    """The value that `decode` makes of `data`, or REFUSED; any exception but a RemoteError fails the test."""
    try:
        return decode(data)
    except RemoteError:
        return REFUSED
    except Exception as error:
        raise AssertionError(f"{why}: {type(error).__name__} escaped for {shown(data)}") from error


def flipped(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Every (offset, bit, data with that one bit inverted)."""
    for offset in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[offset] ^= 1 << bit
            yield offset, bit, bytes(changed)


def garbage(seed: int, rounds: int, bytes_max: int) -> Iterator[bytes]:
    """`rounds` strings of random length up to `bytes_max`; prints the seed, which pytest shows on failure."""
    print(f"hostile garbage: seed={seed}")
    source = random.Random(seed)
    for _ in range(rounds):
        yield source.randbytes(source.randint(0, bytes_max))


def garbage_with_head(head: bytes, seed: int, rounds: int, bytes_max: int) -> Iterator[bytes]:
    """Random bytes behind a true beginning, which get further into a decoder than pure noise."""
    source = random.Random(seed)
    for tail in garbage(seed, rounds, bytes_max):
        yield head[: source.randint(1, len(head))] + tail


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of memory that Python allocated during `work`, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclass(slots=True)
class HostileKit:
    """Hostile inputs for a decoder of one whole thing.

    Args:
        vector: bytes that decode; small ones (≤ 1 KiB) keep every-bit-flipped fast.
        decode: the decoder; its value compares by `==`.
        bytes_max: no longer input may be accepted.
        authenticated: every flipped bit must be refused (a tag, seal, digest or check covers all bytes).
        ignored: offsets whose bits a reader ignores by the specification; flips there may change nothing.
        valid_lengths: lengths to which a truncated vector still decodes (variable data at its end).
        takes_tail: a longer input may be valid (variable data at its end), so trailing bytes are not refused.
        length_fields: (offset, size) of counts and lengths inside; they are set to extreme values.
        seed: for the random part.
    """

    vector: bytes
    decode: Callable[[Any], Any]
    bytes_max: int | None = None
    authenticated: bool = False
    ignored: Collection[int] = ()
    valid_lengths: Collection[int] = ()
    takes_tail: bool = False
    length_fields: Iterable[tuple[int, int]] = field(default_factory=tuple)
    seed: int = 20
    garbage_rounds: int = 300

    def run_all(self) -> None:
        """Every check of this class."""
        self.decodes_from_any_buffer()
        self.refuses_truncation_at_every_offset()
        self.survives_every_flipped_bit()
        self.refuses_oversize()
        self.refuses_concatenation()
        self.survives_claimed_lengths()
        self.survives_garbage()

    def decodes_from_any_buffer(self) -> None:
        """bytes, bytearray and memoryview give the same value."""
        expected = self.decode(self.vector)
        for buffer_type in BUFFER_TYPES:
            assert self.decode(buffer_type(self.vector)) == expected, f"differs from {buffer_type}"

    def refuses_truncation_at_every_offset(self) -> None:
        for length in range(len(self.vector)):
            value = outcome(self.decode, self.vector[:length], f"truncated to {length}")
            if length not in self.valid_lengths and not self.takes_tail:
                assert value is REFUSED, f"took {length} of {len(self.vector)} bytes: {value!r}"
            if value is not REFUSED:
                assert value != self.decode(self.vector), f"{length} bytes equal the whole"

    def survives_every_flipped_bit(self) -> None:
        expected = self.decode(self.vector)
        for offset, bit, changed in flipped(self.vector):
            value = outcome(self.decode, changed, f"offset {offset} bit {bit}")
            if self.authenticated:
                assert value is REFUSED, f"forged bit {bit} at offset {offset} was taken"
            elif offset not in self.ignored:
                assert value != expected, f"bit {bit} at offset {offset} changes nothing"

    def refuses_oversize(self) -> None:
        """One byte more than the vector (unless a tail is allowed), and one more than `bytes_max`."""
        if not self.takes_tail:
            assert outcome(self.decode, self.vector + b"\0", "one byte more") is REFUSED, "a trailing byte was taken"
        if self.bytes_max is not None:
            longer = self.vector + bytes(self.bytes_max + 1 - len(self.vector))
            assert outcome(self.decode, longer, "above bytes_max") is REFUSED, f"{len(longer)} bytes were taken"

    def refuses_concatenation(self) -> None:
        value = outcome(self.decode, self.vector * 5, "five at once")
        assert self.takes_tail or value is REFUSED, "five vectors were taken as one"

    def survives_claimed_lengths(self) -> None:
        """Extreme counts and lengths are refused or change the value, and cost no memory."""
        expected = self.decode(self.vector)
        for offset, size in self.length_fields:
            top = (1 << 8 * size) - 1
            true_value = int.from_bytes(self.vector[offset : offset + size], "big")
            extremes = {0, 1, true_value - 1, true_value + 1, top >> 1, top - 1, top}
            for claimed in sorted(extremes - {true_value, -1, top + 1}):
                changed = self.vector[:offset] + claimed.to_bytes(size, "big") + self.vector[offset + size :]
                self._cheap(changed, f"length field at {offset} claims {claimed}")
                assert outcome(self.decode, changed, f"claims {claimed}") != expected, f"{claimed} changes nothing"

    def survives_garbage(self) -> None:
        """Random bytes, alone and behind a true beginning: a value or a RemoteError, and bounded memory."""
        bytes_max = min(self.bytes_max or 4096, 8192)
        for data in garbage(self.seed, self.garbage_rounds, bytes_max):
            outcome(self.decode, data, f"garbage, seed {self.seed}")
        for data in garbage_with_head(self.vector, self.seed, self.garbage_rounds, bytes_max):
            outcome(self.decode, data, f"garbage behind a head, seed {self.seed}")
        self._cheap(b"\xff" * bytes_max, "all ones")
        self._cheap(self.vector[:1] + b"\xff" * (bytes_max - 1), "all ones behind the first byte")

    def _cheap(self, data: bytes, why: str) -> None:
        peak = peak_bytes(lambda: outcome(self.decode, data, why))
        assert peak < MEMORY_BYTES_MAX + 8 * len(data), f"{why}: {peak} bytes allocated for {shown(data)}"


Feed = Callable[[Any], list[Any]]


@dataclass(slots=True)
class HostileStream:
    """Hostile inputs for a decoder of a byte stream.

    Args:
        vector: bytes of one or more complete items.
        new_feed: makes a fresh decoder and returns its feed function.
        authenticated: a flipped bit must never yield an item (a check covers all bytes).
        resynchronises: after garbage or a torn item, a following vector is found again.
        repeatable: the same bytes may come several times (false for counters that must rise).
        garbage_bytes: how much garbage may precede an item that must still be found.
        seed: for the random part.
    """

    vector: bytes
    new_feed: Callable[[], Feed]
    authenticated: bool = False
    resynchronises: bool = False
    repeatable: bool = True
    garbage_bytes: int = 64
    seed: int = 20
    garbage_rounds: int = 200

    def run_all(self) -> None:
        """Every check of this class."""
        self.decodes_from_any_buffer()
        self.decodes_byte_by_byte()
        self.decodes_at_every_split()
        self.decodes_five_in_one()
        self.waits_when_truncated_at_every_offset()
        self.survives_every_flipped_bit()
        self.survives_garbage()
        self.finds_the_vector_behind_garbage()
        self.keeps_memory_bounded()

    def _expected(self) -> list[Any]:
        items = self.new_feed()(self.vector)
        assert items, "the vector must hold a complete item"
        return items

    def decodes_from_any_buffer(self) -> None:
        """bytes, bytearray and memoryview; the caller may overwrite its buffer afterwards."""
        expected = self._expected()
        for buffer_type in BUFFER_TYPES:
            assert self.new_feed()(buffer_type(self.vector)) == expected
        reused = bytearray(self.vector)
        items = self.new_feed()(reused)
        reused[:] = bytes(len(reused))
        assert items == expected, "items alias the caller's buffer"

    def decodes_byte_by_byte(self) -> None:
        feed = self.new_feed()
        items = [item for byte in self.vector for item in feed(bytes([byte]))]
        assert items == self._expected()

    def decodes_at_every_split(self) -> None:
        expected = self._expected()
        for cut in range(1, len(self.vector)):
            feed = self.new_feed()
            assert feed(self.vector[:cut]) + feed(self.vector[cut:]) == expected, f"split at {cut}"

    def decodes_five_in_one(self) -> None:
        if self.repeatable:
            assert self.new_feed()(self.vector * 5) == self._expected() * 5
            feed = self.new_feed()
            data = self.vector * 5
            step = len(self.vector) // 2 + 1
            items = [item for start in range(0, len(data), step) for item in feed(data[start : start + step])]
            assert items == self._expected() * 5

    def waits_when_truncated_at_every_offset(self) -> None:
        """A beginning yields fewer items and no error: the rest may still come."""
        expected = self._expected()
        for length in range(len(self.vector)):
            items = self.new_feed()(self.vector[:length])
            assert len(items) < len(expected), f"{length} bytes gave all items"
            assert items == expected[: len(items)]

    def survives_every_flipped_bit(self) -> None:
        expected = self._expected()
        for offset, bit, changed in flipped(self.vector):
            items = outcome(self.new_feed(), changed, f"offset {offset} bit {bit}")
            if items is not REFUSED:
                assert items != expected, f"bit {bit} at offset {offset} changes nothing"
                assert not (self.authenticated and len(items) >= len(expected)), f"forged bit {bit} at {offset} taken"

    def survives_garbage(self) -> None:
        """Random bytes alone and behind a true beginning, in random pieces: only RemoteErrors come out."""
        source = random.Random(self.seed)
        for data in (
            *garbage(self.seed, self.garbage_rounds, 2048),
            *garbage_with_head(self.vector, self.seed, self.garbage_rounds, 2048),
        ):
            feed = self.new_feed()
            start = 0
            while start < len(data):
                end = start + source.randint(1, 700)
                if outcome(feed, data[start:end], f"garbage, seed {self.seed}") is REFUSED:
                    break
                start = end

    def finds_the_vector_behind_garbage(self) -> None:
        if self.resynchronises:
            expected = self._expected()
            for noise in (b"\0" * self.garbage_bytes, b"\xff" * self.garbage_bytes, self.vector[:1] * 11):
                assert self.new_feed()(noise + self.vector)[-len(expected) :] == expected, f"lost behind {shown(noise)}"

    def keeps_memory_bounded(self, total_bytes: int = 1 << 20) -> None:
        """A megabyte of noise, zeros and repeated beginnings is neither kept nor makes anything grow."""
        source = random.Random(self.seed)
        beginning = self.vector[: max(1, len(self.vector) - 1)]
        for piece in (source.randbytes(4096), bytes(4096), (beginning * (4096 // len(beginning) + 1))[:4096]):
            peak = peak_bytes(lambda piece=piece: self._pour(piece, total_bytes // 4096))  # type: ignore[misc]  # bound now
            assert peak < MEMORY_BYTES_MAX, f"{peak} bytes held while pouring {shown(piece)}"

    def _pour(self, piece: bytes, times: int) -> None:
        feed = self.new_feed()
        for _ in range(times):
            if outcome(feed, piece, "poured") is REFUSED:
                feed = self.new_feed()
