"""One seed's site and its luck: how large, who plays, how long, and how often each kind of thing goes wrong.

Swarm: each seed has its own mix, and leaves some kinds of fault out, so that rare ones meet often in some. Most sites
are small and short, for a run is worth as many different seeds as it can afford; one in twenty-five has up to fifty
terminals.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.cast import Cast

SELLING_MS: Final = (4_000, 7_000, 12_000)
FAULTS: Final = {
    "outage": (3_000, 15_000),
    "frontend": (3_000, 15_000),
    "ledger": (3_000, 15_000),
    "power": (2_500, 12_000),
    "weather": (700, 4_000),
    "attack": (800, 5_000),
}
"""Kind → range from which its mean gap in virtual milliseconds is drawn."""
OPERATORS: Final = {
    "list": (1_000, 6_000),
    "topup": (800, 4_000),
    "publish": (2_000, 9_000),
    "replace": (4_000, 20_000),
    "close_day": (3_000, 12_000),
}
OFF_SHARE: Final = 0.25
"""Of the seeds, per kind, in which it never happens."""


@dataclass(slots=True)
class Plan:
    """Rates are per tap, gaps are mean virtual milliseconds between two events of a kind; one without a gap is off."""

    terminals: int
    cards: int
    frontends: int
    ring_sectors: int
    selling_ms: int
    tap_gap_ms: int
    disturbed: float
    cut_in_flash: float
    gaps: dict[str, int] = field(default_factory=dict)
    commit_ms: int = 2
    callback_ms: int = 1
    records_before: int = 0
    """That every terminal that sells has in its memory when the play begins: small rings wrap within it."""
    has_fragile_disks: bool = False
    """Power cuts of front-end and ledger lose what was not synced, below SQLite; else they are kills."""
    stolen: bool = False
    hijacked: bool = False

    @classmethod
    def drawn(cls, seed: int, *, selling_ms: int | None = None) -> Plan:
        rng = random.Random(f"{seed}:plan")
        size = rng.random()
        terminals = rng.randint(5, 8) if size < 0.86 else rng.randint(9, 16) if size < 0.96 else rng.randint(20, 50)
        kinds = {**FAULTS, **OPERATORS}
        return cls(
            terminals=terminals,
            cards=rng.randint(10, 10 + 2 * terminals),
            frontends=rng.choice((1, 1, 2)),
            ring_sectors=rng.choice((3, 4, 6, 9)),
            selling_ms=selling_ms if selling_ms is not None else rng.choice(SELLING_MS),
            tap_gap_ms=rng.choice((40, 80, 150)),
            disturbed=rng.choice((0.0, 0.05, 0.15)),
            cut_in_flash=rng.choice((0.0, 0.02, 0.06)),
            gaps={kind: rng.randint(*gap) for kind, gap in kinds.items() if rng.random() >= OFF_SHARE},
            commit_ms=rng.choice((1, 4, 25, 120)),
            callback_ms=rng.choice((1, 3, 30)),
            records_before=rng.choice((0, 0, 0, 0, 100)),
            has_fragile_disks=rng.random() < 0.4,
            stolen=rng.random() < 0.2,
            hijacked=rng.random() < 0.2,
        )

    def cast(self, seed: int) -> Cast:
        return Cast.drawn(random.Random(f"{seed}:cast"), self.terminals, self.cards)
