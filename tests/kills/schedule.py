"""Who dies when: drawn from the seed alone, so that a seed names a run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from itertools import cycle, islice
from typing import Final

from tests.kills.traps import Moment, Order


class Role(Enum):
    FRONTEND = "frontend"
    LEDGER = "ledger"
    SIMULATOR = "simulator"


KINDS: Final = (
    # each kind once, so that a short run has seen them all …
    (Role.FRONTEND, Moment.HANDSHAKE),
    (Role.FRONTEND, Moment.BEFORE_COMMIT),
    (Role.FRONTEND, Moment.COMMIT_TO_ACK),
    (Role.FRONTEND, Moment.SEND_TO_RECEIPT),
    (Role.FRONTEND, Moment.CHECKPOINT),
    (Role.LEDGER, Moment.BEFORE_COMMIT),
    (Role.LEDGER, Moment.SEND_TO_RECEIPT),
    (Role.LEDGER, Moment.CHECKPOINT),
    (Role.SIMULATOR, Moment.FLASH),
    (Role.SIMULATOR, Moment.CARD),
    (Role.FRONTEND, Moment.BLIND),
    (Role.LEDGER, Moment.BLIND),
    (Role.SIMULATOR, Moment.BLIND),
    # … and those twice that money hangs on
    (Role.FRONTEND, Moment.HANDSHAKE),
    (Role.FRONTEND, Moment.BEFORE_COMMIT),
    (Role.FRONTEND, Moment.COMMIT_TO_ACK),
    (Role.FRONTEND, Moment.SEND_TO_RECEIPT),
    (Role.FRONTEND, Moment.CHECKPOINT),
    (Role.LEDGER, Moment.SEND_TO_RECEIPT),
    (Role.SIMULATOR, Moment.CARD),
)
KILLS_USUAL: Final = len(KINDS)

OCCURRENCES_MAX: Final = {
    Moment.HANDSHAKE: 40,  # four a terminal
    Moment.BEFORE_COMMIT: 1_500,  # some twenty a commit
    Moment.COMMIT_TO_ACK: 300,  # two or more a commit
    Moment.SEND_TO_RECEIPT: 200,  # three a batch
    Moment.FLASH: 2_000,  # some five a tap
    Moment.CARD: 300,  # two a tap
}
"""Reached within seconds of load."""
CHECKPOINT_SMALL_MAX: Final = 12  # pages that the WAL of a second's life surely has
CHECKPOINT_LARGE_MAX: Final = 40
RUNNING_SHARE: Final = 0.5
STOP_AFTER_MS: Final = (800, 2_500)
STOP_AFTER_PATIENCE_MS: Final = 20_000
BLIND_AFTER_MS: Final = (0, 3_000)


@dataclass(frozen=True, slots=True)
class Planned:
    """One kill. `after_ready_ms`: when the test sends SIGKILL (blind), or SIGTERM so that a checkpoint comes about."""

    role: Role
    order: Order
    after_ready_ms: int | None = None

    def __str__(self) -> str:
        return f"{self.role.value} {self.order}"


def plan(seed: int, kills: int) -> list[Planned]:
    """In the order in which they are tried; each process has its own queue of them."""
    draws = random.Random(f"kills {seed}")
    kinds = list(islice(cycle(KINDS), kills))
    draws.shuffle(kinds)
    return [_planned(role, moment, draws) for role, moment in kinds]


def _planned(role: Role, moment: Moment, draws: random.Random) -> Planned:
    if moment is Moment.BLIND:
        return Planned(role, Order(moment, 1), draws.randint(*BLIND_AFTER_MS))
    if moment is Moment.CHECKPOINT:
        if draws.random() < RUNNING_SHARE:  # of the WAL that has grown under load
            occurrence = draws.randint(1, CHECKPOINT_LARGE_MAX)
            return Planned(role, Order(moment, occurrence, from_ready=True), STOP_AFTER_PATIENCE_MS)
        # of what an earlier life has left, when the file is opened; or of its own, at the orderly stop
        return Planned(role, Order(moment, draws.randint(1, CHECKPOINT_SMALL_MAX)), draws.randint(*STOP_AFTER_MS))
    return Planned(role, Order(moment, draws.randint(1, OCCURRENCES_MAX[moment])))
