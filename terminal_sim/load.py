"""Open-loop load: who taps which card where and when, from the seed alone.

The plan never looks at what the system does: a tap has its moment, and one that happens later than that is *late*
(counted), never a reason to tap less. Moments are in ms from the start of selling.

    even      one tap every 1/rate s
    poisson   independent customers: exponential gaps (default)
    lunch     independent customers, 0.4 × rate at the doors' opening and closing, 1.6 × in the middle (午餐高峰)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import cos, log1p, pi, sin
from typing import Final

from terminal_sim.draws import Draws

CARD_STAY_MS: Final = 1000  # a customer who has paid here is not at another till at once
CARD_DRAWS_MAX: Final = 8  # then the customer is in two places; it takes a site with too few cards
PRICE_CENTS_MIN: Final = 200
PRICE_STEP_CENTS: Final = 50
PRICE_STEPS: Final = 27  # 2.00 … 15.00, 8.50 on average
LUNCH_SWING: Final = 0.6
NEWTON_STEPS: Final = 6  # the curve is smooth: 6 steps reach 1e-9


class Profile(Enum):
    EVEN = "even"
    POISSON = "poisson"
    LUNCH = "lunch"


@dataclass(slots=True)
class PlannedTap:
    """One customer; `terminal` and `card` are indexes."""

    at_ms: int
    terminal: int
    card: int
    amount_cents: int


class TapPlan:
    """`taps` taps over about taps ÷ rate seconds."""

    def __init__(
        self,
        *,
        seed: int,
        taps: int,
        rate: float,
        terminals: int,
        cards: int,
        profile: Profile = Profile.POISSON,
    ) -> None:
        assert taps >= 0
        assert rate > 0
        assert terminals > 0
        assert cards > 0
        self.taps = taps
        self.duration_ms = int(taps * 1000 / rate)
        """The selling time that percentages in a fault schedule refer to."""
        self._seed = seed
        self._gap_ms = 1000 / rate
        self._terminals = terminals
        self._cards = cards
        self._profile = profile
        self._stay_ms = min(CARD_STAY_MS, int(cards * self._gap_ms / 2))  # at most half of all cards are busy

    def __iter__(self) -> Iterator[PlannedTap]:
        draws = Draws(self._seed, "taps")
        busy_until = array("q", bytes(8 * self._cards))
        elapsed_ms = 0.0
        for _ in range(self.taps):
            gap = 1.0 if self._profile is Profile.EVEN else -log1p(-draws.unit())
            elapsed_ms += gap * self._gap_ms
            at_ms = self._moment_ms(elapsed_ms)
            terminal = draws.below(self._terminals)
            card = draws.below(self._cards)
            for _ in range(CARD_DRAWS_MAX):
                if busy_until[card] <= at_ms:
                    break
                card = draws.below(self._cards)
            busy_until[card] = at_ms + self._stay_ms
            amount_cents = PRICE_CENTS_MIN + PRICE_STEP_CENTS * draws.below(PRICE_STEPS)
            yield PlannedTap(at_ms, terminal, card, amount_cents)

    def _moment_ms(self, elapsed_ms: float) -> int:
        """Lunch bends the time axis: the share of taps made by x is x − swing ÷ 2π · sin 2πx."""
        if self._profile is not Profile.LUNCH or not 0 < elapsed_ms < self.duration_ms:
            return int(elapsed_ms)
        share = x = elapsed_ms / self.duration_ms
        for _ in range(NEWTON_STEPS):
            value = x - LUNCH_SWING / (2 * pi) * sin(2 * pi * x) - share
            x -= value / (1 - LUNCH_SWING * cos(2 * pi * x))
        return int(x * self.duration_ms)
