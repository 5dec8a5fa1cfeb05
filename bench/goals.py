"""What is promised, what came out, and how it is shown. Floors are reported here, never asserted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

GENERATOR_CPU_MAX: Final = 0.80
"""Above this share of its core the generator may be what was measured: the row claims nothing."""

GENERATOR_BOUND: Final = "generator-bound"


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
    why_not: str = field(default=GENERATOR_BOUND, repr=False)
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

    def withdrawn(self, why: str) -> Goal:
        """The same without its result."""
        return replace(self, result=None, met=False, why_not=why)

    @property
    def sign(self) -> str:
        return "≤" if self.aim < self.floor else "≥"

    def share_of_floor(self, value: float) -> float:
        """1: as good as the floor; more is better, whichever way the goal goes."""
        return self.floor / max(value, 1e-9) if self.aim < self.floor else value / self.floor

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


VERDICTS: Final = {"aim": ("aim met", "bold green"), "floor": ("met", "green"), "no": ("missed", "bold red")}


def show(goals: Sequence[Goal], notes: Sequence[str], console: Console) -> None:
    """The table, then what a reader must know about it."""
    if goals:
        console.print(_table(goals))
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _table(goals: Sequence[Goal]) -> Table:
    table = Table(title="goals: ratios of one run, medians of interleaved rounds", header_style="bold")
    for heading in ("goal", "what", "floor", "aim", "result", "", "generator"):
        table.add_column(heading, justify="left" if heading in {"what", ""} else "right")
    for goal in goals:
        text, style = VERDICTS.get(goal.verdict, (goal.verdict, "yellow"))
        table.add_row(
            str(goal.goal),
            goal.what,
            f"{goal.sign} {goal.floor:g}",
            f"{goal.sign} {goal.aim:g}",
            Text("–" if goal.result is None else f"{goal.result:.2f}", style=style),
            Text(text, style=style),
            f"{goal.generator_cpu:.0%}",
        )
    return table


def as_markdown(goals: Sequence[Goal]) -> str:
    """The table of docs/performance.md."""
    lines = ["| goal | what | floor | aim | result | met |", "|---|---|---|---|---|---|"]
    for goal in goals:
        result = "–" if goal.result is None else f"{goal.result:.2f}"
        text, _ = VERDICTS.get(goal.verdict, (goal.verdict, ""))
        bounds = f"{goal.sign} {goal.floor:g} | {goal.sign} {goal.aim:g}"
        lines.append(f"| {goal.goal} | {goal.what} | {bounds} | {result} | {text} |")
    return "\n".join(lines)
