"""What a person sees of the demo: scenes and events as they happen, a live line, and the table at the end.

With a terminal the live line moves; without one, scenes and events are plain lines. Quiet (for --json) prints nothing.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from onecard_agreement import GIVEN_BACK, REJECTED, Agreement, Line

BAR_CELLS: Final = 28
PLAIN_LINE_SECONDS: Final = 5.0
WIDTH_WITHOUT_TERMINAL: Final = 120
OPEN_SHOWN: Final = 20


class Screen:
    """Use as a context manager; `close` before printing anything else."""

    def __init__(self, *, taps: int, quiet: bool) -> None:
        self._taps = taps
        self._quiet = quiet
        self._started = time.monotonic()
        width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
        self._console = Console(width=width, highlight=False, quiet=quiet)
        self._live: Live | None = None
        self._plain_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(Text(""), console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def scene(self, text: str, chinese: str) -> None:
        self._line("▶", "bold cyan", text, chinese)

    def event(self, text: str, chinese: str) -> None:
        self._line("•", "yellow", text, chinese)

    def refresh(self, progress: dict[str, Any]) -> None:
        """Show how far selling and uploading have come."""
        if not progress:
            return
        taps, acknowledged = progress.get("taps", 0), progress.get("acknowledged", 0)
        filled = min(BAR_CELLS, BAR_CELLS * taps // max(self._taps, 1))
        text = Text.assemble(
            ("█" * filled, "green"),
            ("░" * (BAR_CELLS - filled), "dim"),
            f" {taps:,} taps   {acknowledged:,} acknowledged   backlog {progress.get('backlog', 0):,}   "
            f"online {progress.get('online', 0)}",
        )
        if self._live is not None:
            self._live.update(text)
        elif time.monotonic() - self._plain_at > PLAIN_LINE_SECONDS:
            self._plain_at = time.monotonic()
            self._console.print(Text("  ") + text)

    def _line(self, mark: str, style: str, text: str, chinese: str) -> None:
        elapsed = time.monotonic() - self._started
        self._console.print(Text.assemble(f"{elapsed:6.1f} s ", (mark, style), f" {text}  ", (chinese, "dim")))


def show_verdict(agreement: Agreement, result: dict[str, Any], *, good: bool) -> None:
    """The table of three totals, the figures, and the verdict."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
    table = Table(title="Three totals, yuan  (三方对账，元)", title_justify="left", header_style="bold")
    table.add_column("merchant 商户")
    for column in ("records 笔数", "terminals 机具", "spool 前置机", "ledger 账务", "open, returned 未达/退回"):
        table.add_column(column, justify="right")
    table.add_column("")
    for line in agreement.lines:
        table.add_row(*_cells(line))
    table.add_section()
    table.add_row(*_cells(agreement.total), style="bold")
    console.print(table)
    if not agreement.open_items:
        console.print(f"  open: nothing; {result['decided_by_two_persons']} items were decided by two persons  无未达")
    for kind, item in agreement.open_items.items():
        console.print(f"  open: {kind} × {item['items']}, {yuan(item['amount_cents'])} yuan")
    for name in (REJECTED, GIVEN_BACK):
        if cents := agreement.beside_ledger_cents.get(name):
            console.print(f"  decided by two persons: {name.replace('_', ' ')}, {yuan(cents)} yuan  双人处理")
    for one in result["open_listed"][:OPEN_SHOWN]:
        where = f"terminal {one['terminal']}, record {one['epoch']}.{one['first']}"
        console.print(f"    {one['kind']}: {where}, {one['detail']}, {one['age_s']} s old", style="dim")
    console.print(
        f"  records: {result['records_created']:,} made, {result['records_acknowledged']:,} acknowledged, "
        f"{result['records_posted']:,} in the ledger; {result['duplicates']} offered again; "
        f"lost {result['lost']}, posted twice {result['double_posted']}"
    )
    kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in result["terminal_kinds"].items())
    cards = ", ".join(f"{count} {kind}" for kind, count in result["cards"].items())
    console.print(f"  terminals: {kinds}, {result['terminals_of_suite_b']} of them in SM4; cards: {cards}")
    console.print(
        f"  torn: {result['torn_taps']} taps, {result['torn_cards']} still torn at the end; a full memory refused at "
        f"{result['memory_full_at_records']} records; {result['replaced_terminals']} terminal replaced; "
        f"{result['held_by_two_frontends']} records at both front-ends"
    )
    console.print(
        f"  lost card: {result['denied_after_loss']} taps refused, {result['accepted_after_loss']} accepted later than "
        "1 s after the report"
    )
    console.print(
        f"  tap to acknowledgement: p50 {result['ack_ms_p50']} ms, p99 {result['ack_ms_p99']} ms; "
        f"recovery {result['recovery_records_per_second']:,} records/s; {result['seconds']} s in all"
    )
    for sentence in agreement.disagreements:
        console.print(Text(f"  ✗ {sentence}", style="red"))
    if good:
        console.print(Text("✓ terminals = spool = ledger + open items, to the cent  三方相符", style="bold green"))
    else:
        console.print(Text(f"✗ they do not agree; everything is kept in {result['data_dir']}", style="bold red"))


def _cells(line: Line) -> list[str]:
    name = "all 合计" if line.merchant is None else str(line.merchant)
    return [
        name,
        f"{line.count_terminals:,}",
        yuan(line.terminals_cents),
        yuan(line.spool_cents),
        yuan(line.ledger_cents),
        yuan(line.open_cents),
        "✓" if line.agrees else "✗",
    ]


def yuan(cents: int) -> str:
    """Cents as yuan with two places."""
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"
