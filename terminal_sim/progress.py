"""How a run shows itself while it lasts: JSON lines for programs, a table that renews itself for people.

Events: started, selling_started, progress (4 a second), network_cut, network_back, power_cut, till_dark, thief,
selling_finished, cards_checked, drained or not_drained, unreachable, finished; most have `ms`, counted from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TextIO

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table

Show = Callable[[dict[str, Any]], None]

ROWS: Final = (
    ("taps", "taps 刷卡"),
    ("sold", "sold 成交"),
    ("refused", "refused 拒绝"),
    ("records", "records 流水"),
    ("acknowledged", "acknowledged 已确认"),
    ("backlog", "backlog 待传"),
    ("online", "terminals online 在线"),
    ("late", "late taps 迟到"),
)
SPOKEN: Final = {
    "selling_started": "selling starts with {online} of {terminals} terminals online",
    "network_cut": "the network is {kind} for {seconds:g} s; terminals go on selling",
    "network_back": "the network is back; {backlog} records wait",
    "power_cut": "power cut at terminals {terminals}",
    "thief": "a stolen card is tapped {rate} times a second",
    "selling_finished": "selling is over; {backlog} records wait",
    "cards_checked": "{checked} of {torn} torn cards are checked; {completed} debits brought home",
    "drained": "every record is acknowledged",
    "not_drained": "{terminals_owing} terminals still owe records",
    "unreachable": "no terminal was let in within {seconds:g} s",
}


class LiveTable:
    """Draws over itself on a terminal; events that matter stay above the table as sentences."""

    def __init__(self, file: TextIO) -> None:
        self._console = Console(file=file, highlight=False)
        self._height = 0

    def show(self, event: dict[str, Any]) -> None:
        name = event["event"]
        if name == "progress":
            self._draw(event)
            return
        text = SPOKEN.get(name)
        if text is not None:
            self._erase()
            self._console.print(text.format(**event))

    def _draw(self, figures: dict[str, Any]) -> None:
        table = Table(title=f"{figures['phase']} · {figures['ms'] / 1000:.1f} s", title_justify="left")
        table.add_column("")
        table.add_column("", justify="right", min_width=10)
        table.show_header = False
        for name, label in ROWS:
            value = f"{figures[name]:,}"
            table.add_row(label, f"{value} / {figures['terminals']:,}" if name == "online" else value)
        self._erase()
        self._console.print(table)
        self._height = len(ROWS) + 3  # title and two rules

    def _erase(self) -> None:
        for _ in range(self._height):
            self._console.control(
                Control((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2), ControlType.CARRIAGE_RETURN)
            )
        self._height = 0
