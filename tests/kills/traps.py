"""An order to die, and the process that carries it out on itself.

The ports in `wires`, `disk` and `memory` say which moments pass; the trap counts those of its class and kills the
process at the drawn one. What it was doing is noted in a file first, for the counts that a run prints.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Final, Self

TEAR_STEPS: Final = 8


class Moment(Enum):
    """Classes of moments; each passes many times in the life of a process."""

    HANDSHAKE = "mid-handshake"
    BEFORE_COMMIT = "before commit"
    COMMIT_TO_ACK = "between commit and acknowledgement"
    SEND_TO_RECEIPT = "between send and receipt"
    CHECKPOINT = "during a checkpoint"
    FLASH = "inside a flash program"
    CARD = "between card write and record"
    BLIND = "blind"
    """At a drawn time, wherever the process is; carried out from outside."""


@dataclass(frozen=True, slots=True)
class Order:
    """Die at the n-th occurrence, from 1; `from_ready`: occurrences before the process serves do not count."""

    moment: Moment
    occurrence: int
    from_ready: bool = False

    def __str__(self) -> str:
        return f"{self.moment.name}:{self.occurrence}{':ready' if self.from_ready else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        name, occurrence, *more = text.split(":")
        return cls(Moment[name], int(occurrence), from_ready=more == ["ready"])


class Trap:
    """Counts towards one order."""

    def __init__(self, order: Order, notes: Path) -> None:
        self.order = order
        self._notes = notes
        self._is_counting = not order.from_ready
        self._numbers = count(1)  # two threads may pass at once: each gets a number of its own

    def ready(self) -> None:
        """The process serves now."""
        self._is_counting = True

    def is_due(self, moment: Moment) -> bool:
        """Count one occurrence; whether it is the one. The caller may still leave half of its work undone, or done."""
        if moment is not self.order.moment or not self._is_counting:
            return False
        return next(self._numbers) == self.order.occurrence

    def passes(self, moment: Moment, doing: str) -> None:
        """As `is_due`, and dies there and then."""
        if self.is_due(moment):
            self.die(doing)

    def torn(self, size_bytes: int) -> int:
        """How many of `size_bytes` a write that is cut still gets done: fewer than all of them."""
        return size_bytes * (self.order.occurrence % TEAR_STEPS) // TEAR_STEPS

    def die(self, doing: str) -> None:
        """No warning, no cleaning up."""
        line = json.dumps({"pid": os.getpid(), "order": str(self.order), "doing": doing}) + "\n"
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode())
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody comes back from SIGKILL")
