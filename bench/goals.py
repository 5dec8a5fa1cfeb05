"""What is promised, what came out, and how it is shown. Floors are reported here, never asserted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table

GENERATOR_CPU_MAX: Final = 0.80
"""Above this share of its core the generator may be what was measured: the row claims nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table before it is measured; where the aim is below the floor, lower is better."""

    goal: int
    what: str
    floor: float
    aim: float

    @property
    def lower_is_better(self) -> bool:
        return self.aim < self.floor

    def reaches(self, result: float, bound: float) -> bool:
        return result <= bound if self.lower_is_better else result >= bound


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table; its fields are the keys of the JSON."""

    goal: int
    what: str
    floor: float
    aim: float
    result: float | None
    """None: generator-bound or not measured here; nothing is claimed."""
    met: bool
    """Whether the floor is met."""
    generator_cpu: float
    """Share of a core, the highest of all rounds that went into the result."""
    why_not: str = field(default="generator-bound", repr=False)
    """Where there is no result; not in the JSON."""

    @classmethod
    def measured(cls, target: Target, result: float, generator_cpu: float) -> Goal:
        is_bound = generator_cpu > GENERATOR_CPU_MAX
        return cls(
            goal=target.goal,
            what=target.what,
            floor=target.floor,
            aim=target.aim,
            result=None if is_bound else round(result, 3),
            met=not is_bound and target.reaches(result, target.floor),
            generator_cpu=round(generator_cpu, 3),
        )

    @classmethod
    def unmeasured(cls, target: Target, why: str) -> Goal:
        """Something is missing here; `why` in a word or two."""
        return cls(target.goal, target.what, target.floor, target.aim, None, False, 0.0, why)

    @property
    def verdict(self) -> str:
        if self.result is None:
            return self.why_not
        if Target(self.goal, self.what, self.floor, self.aim).reaches(self.result, self.aim):
            return "aim"
        return "floor" if self.met else "no"


def as_json(goals: Sequence[Goal], details: dict[str, Any]) -> dict[str, Any]:
    """The document of `--json`: `goals` is the contract, `details` is for whoever wants to know how."""
    listed = [asdict(goal) for goal in goals]
    for each in listed:
        del each["why_not"]
    return {"goals": listed, "details": details}


def show(goals: Sequence[Goal], notes: Sequence[str], console: Console) -> None:
    """The table, then what a reader must know about it."""
    table = Table(title="goals: ratios of one run, medians of interleaved rounds")
    for heading in ("goal", "what", "floor", "aim", "result", "met", "generator CPU"):
        table.add_column(heading, justify="left" if heading in {"what", "met"} else "right")
    for goal in goals:
        sign = "≤" if goal.aim < goal.floor else "≥"
        table.add_row(
            str(goal.goal),
            goal.what,
            f"{sign} {goal.floor:g}",
            f"{sign} {goal.aim:g}",
            "–" if goal.result is None else f"{goal.result:.2f}",
            goal.verdict,
            f"{100 * goal.generator_cpu:.0f} %",
        )
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
