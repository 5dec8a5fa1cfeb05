"""From true bytes to slightly untrue ones: a seeded mutator in the manner of the coverage fuzzers.

Each round takes a piece of the corpus and bends it one to four times. What makes decoders stumble is overweighted:
lengths and counts at their extremes, a cut end, a part twice, a part of another message in the middle.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

EXTREME_BYTES: Final = (0x00, 0x01, 0x0F, 0x10, 0x7F, 0x80, 0xC3, 0xFE, 0xFF)
EXTREME_WORDS: Final = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x1000, 0x03C0)
BENDS_MAX: Final = 4
BYTES_MAX: Final = 6_000  # beyond any message; a decoder's own limit speaks before

Bend = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _flip(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _extreme_byte(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[source.randrange(len(data))] = source.choice(EXTREME_BYTES)


def _extreme_word(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = source.randrange(len(data))
    data[at : at + 2] = source.choice(EXTREME_WORDS).to_bytes(2, "big")


def _any_byte(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[source.randrange(len(data))] = source.randrange(256)


def _nudge(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = source.randrange(len(data))
    data[at] = (data[at] + source.choice((-2, -1, 1, 2))) & 0xFF


def _cut(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[source.randrange(len(data)) :]


def _remove(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = source.randrange(len(data))
    del data[at : at + source.randint(1, 16)]


def _repeat(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = source.randrange(len(data))
    part = data[at : at + source.choice((1, 2, 4, 8, 16, 64, 96))]
    data[at:at] = part * source.randint(1, 3)


def _insert(source: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = source.randint(0, len(data))
    data[at:at] = source.randbytes(source.randint(1, 16))


def _splice(source: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = source.choice(corpus)
    at, start = source.randint(0, len(data)), source.randint(0, len(other))
    data[at:] = other[start:]


def _overlay(source: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = source.choice(corpus)
    start = source.randint(0, len(other))
    part = other[start : start + source.choice((1, 2, 4, 8, 16, 32))]
    at = source.randrange(len(data))
    data[at : at + len(part)] = part


BENDS: Final[tuple[Bend, ...]] = (
    _flip,
    _flip,
    _extreme_byte,
    _extreme_byte,
    _extreme_word,
    _any_byte,
    _nudge,
    _cut,
    _remove,
    _repeat,
    _insert,
    _splice,
    _overlay,
)


def mutated(source: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One mutation of one piece of the corpus; the same source state gives the same bytes."""
    data = bytearray(source.choice(corpus))
    for _ in range(source.randint(1, BENDS_MAX)):
        if not data:
            break
        source.choice(BENDS)(source, data, corpus)
    return bytes(data[:BYTES_MAX])
