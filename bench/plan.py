"""What the command line asks for, and what a row answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.goals import Goal

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    terminals: int
    """Of the usual rows."""
    many: int
    """Of the rows about ten thousand."""
    seconds: float
    """Of one round."""
    rounds: int
    """Of each side, interleaved."""
    work_dir: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    goals: list[Goal]
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Row = Callable[[Plan, Progress], Measured]
