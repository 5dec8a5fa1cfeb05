"""The goals as one self-contained SVG: a bar for each, with its floor and its aim. No script, no font, no address.

Results are shares of the floor, so that ten goals of different kinds stand on one axis; where lower is better it is the
floor's share of the result. So a bar that reaches the first line has met its floor, whatever the goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from bench.goals import Goal

WIDTH: Final = 1040
LEFT: Final = 510  # room for what is measured
RIGHT: Final = 210  # room for figures
ROW: Final = 26
TOP: Final = 40
BAR: Final = 14
SHARES_MAX: Final = 2.0
"""Of the floor; longer bars end here, with an arrow."""
COLOURS: Final = {"aim": "#12703c", "floor": "#2866c4", "no": "#b3261e"}
STYLE: Final = "svg{background:#fafbfc}text{font:11px system-ui,sans-serif;fill:#52606d}.b{font-weight:600}"


def picture(goals: Sequence[Goal], title: str) -> str:
    """The whole SVG document."""
    height = TOP + ROW * len(goals) + 24
    floor_x, bottom = _x(1.0), height - 20
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' role='img'>",
        f"<style>{STYLE}</style><text x='10' y='18' class='b'>{escape(title)}</text>",
        f"<line x1='{floor_x:.0f}' x2='{floor_x:.0f}' y1='{TOP - 8}' y2='{bottom}' stroke='#1d2733'/>",
        f"<text x='{floor_x:.0f}' y='{TOP - 12}' text-anchor='middle'>floor</text>",
    ]
    for index, goal in enumerate(goals):
        parts += _row(goal, TOP + ROW * index)
    legend = (("aim met", "aim"), ("floor met", "floor"), ("missed", "no"))
    for index, (text, verdict) in enumerate(legend):
        x = LEFT + 110 * index
        parts.append(f"<rect x='{x}' y='{bottom + 4}' width='10' height='10' fill='{COLOURS[verdict]}'/>")
        parts.append(f"<text x='{x + 14}' y='{bottom + 13}'>{text}</text>")
    parts.append(f"<text x='{LEFT + 330}' y='{bottom + 13}'>◆ the aim</text>")
    return "".join([*parts, "</svg>\n"])


def _row(goal: Goal, y: int) -> list[str]:
    text_y = y + BAR - 3
    parts = [
        f"<text x='10' y='{text_y}' class='b'>{goal.goal}</text>",
        f"<text x='34' y='{text_y}'>{escape(goal.what)}</text>",
    ]
    if goal.result is None:
        return [*parts, f"<text x='{LEFT}' y='{text_y}'>{escape(goal.verdict)}</text>"]
    share = goal.share_of_floor(goal.result)
    width = _x(min(share, SHARES_MAX)) - LEFT
    colour = COLOURS.get(goal.verdict, COLOURS["no"])
    aim_x = _x(min(goal.share_of_floor(goal.aim), SHARES_MAX))
    sign = goal.sign
    figures = f"{goal.result:.2f} (floor {sign} {goal.floor:g}, aim {sign} {goal.aim:g})"
    parts += [
        f"<rect x='{LEFT}' y='{y}' width='{width:.1f}' height='{BAR}' fill='{colour}'/>",
        f"<text x='{aim_x:.1f}' y='{text_y}' text-anchor='middle'>◆</text>",
        f"<text x='{WIDTH - RIGHT + 14}' y='{text_y}'>{escape(figures)}</text>",
    ]
    if share > SHARES_MAX:
        parts.append(f"<text x='{LEFT + width - 12:.1f}' y='{text_y}' style='fill:#ffffff'>▶</text>")
    return parts


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share / SHARES_MAX
