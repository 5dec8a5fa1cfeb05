"""Chance from a seed: the same draws on every machine and every run.

Not for keys or nonces: those come from the `Random` port. Each use has a stream of its own, named by a label, so that
drawing more of one thing never changes another.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_UNIT: Final = 2.0**-53


class Draws:
    """SplitMix64 (Steele, Lea, Flood 2014), started from seed and label."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, label: str) -> None:
        digest = blake2b(f"{seed}:{label}".encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "big")

    def next64(self) -> int:
        """64 bits."""
        state = self._state = (self._state + _GOLDEN) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, count: int) -> int:
        """0 … count − 1; the bias of 2^-64 per value is nobody's concern here."""
        return (self.next64() * count) >> 64

    def between(self, low: int, high: int) -> int:
        """`low` … `high`, both included."""
        return low + self.below(high - low + 1)

    def unit(self) -> float:
        """0 ≤ x < 1."""
        return (self.next64() >> 11) * _UNIT
