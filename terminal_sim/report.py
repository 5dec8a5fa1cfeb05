"""A run as one self-contained HTML page: totals, a timeline, the latency histogram; pictures are inline SVG.

No script, no font, no address: it can be mailed, and opened in ten years.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

REPORT_FILE: Final = "report.html"
WIDTH: Final = 900
HEIGHT: Final = 220
LEFT: Final = 64  # room for the axis's figures
BOTTOM: Final = 24
POINTS_MAX: Final = 600  # per curve
BARS: Final = 48

Points = Sequence[tuple[float, float]]

STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #d6dde5;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.ok{color:#12703c}.bad{color:#b3261e;font-weight:600}
svg{background:#fafbfc;border:1px solid #d6dde5;max-width:100%}svg text{font:11px system-ui,sans-serif;fill:#52606d}
"""


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    colour: str
    points: Points


def write_report(directory: Path, sim: dict[str, Any]) -> Path:
    """Write report.html from what `write_artefacts` returned; returns its path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / REPORT_FILE
    path.write_text(render(sim), encoding="utf-8")
    return path


def render(sim: dict[str, Any]) -> str:
    """The whole page."""
    verdict = "flash and cards agree 一致" if sim["agrees"] else "flash and cards DISAGREE 不一致"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>onecard sim</title>",
        f"<style>{STYLE}</style><h1>Simulated terminals 模拟机具</h1>",
        f"<p class='{'ok' if sim['agrees'] else 'bad'}'>{verdict}; ",
        "every record acknowledged</p>" if sim["drained"] else "<b class='bad'>records still unacknowledged</b></p>",
        f"<p>seed {sim['seed']} · faults <code>{escape(sim['faults'] or 'none')}</code> · profile {sim['profile']}</p>",
        "<h2>Totals 合计</h2>",
        _totals(sim),
        "<h2>Timeline 时间线</h2>",
        *_timeline(sim["timeline"], sim["events"]),
        "<h2>Acknowledgement latency 确认时延</h2>",
        _histogram(sim["ack_ms"]),
        "<h2>Merchants 商户</h2>",
        _merchants(sim["merchants"]),
    ]
    if sim["greys"]["listed"]:
        parts += ["<h2>Half-finished debits that wait 灰记录</h2>", _greys(sim["greys"])]
    if sim["torn_cards"]["listed"]:
        parts += ["<h2>Torn cards not tapped since 闪卡</h2>", _torn_cards(sim["torn_cards"])]
    if sim["recovery"]:
        parts += ["<h2>Recoveries 恢复</h2>", _recoveries(sim["recovery"])]
    if sim["missing"]:
        rows = [[str(each["terminal"]), str(each["unacknowledged"]), each["state"]] for each in sim["missing"][:100]]
        parts += ["<h2>Missing 未确认</h2>", _table(["terminal", "records", "state"], rows)]
    return "".join(parts) + "</html>\n"


def _totals(sim: dict[str, Any]) -> str:
    ack, oracle = sim["ack_ms"], sim["oracle"]
    rows = [
        ["terminals 机具", f"{sim['terminals']:,}"],
        ["taps made 刷卡", f"{sim['taps_made']:,} of {sim['taps']:,}"],
        ["sold 成交", f"{oracle['sold_count']:,} · {_yuan(oracle['sold_cents'])}"],
        ["refused 拒绝", f"{sum(oracle['refused'].values()):,}"],
        ["told neither 灰", f"{len(oracle['grey_told']):,} grey, {oracle['interrupted_taps']:,} interrupted"],
        ["late taps 迟到", f"{sim['late']:,} (p99 {_ms(sim['lateness_ms']['p99'])})"],
        ["records 流水", f"{sim['records_created']:,}, acknowledged {sim['records_acknowledged']:,}"],
        ["debits executed by cards", f"{oracle['executed_count']:,} · {_yuan(oracle['executed_cents'])}"],
        ["purses 卡余额", f"{_yuan(oracle['opening_cents'])} → {_yuan(oracle['purses_cents'])}"],
        ["tap to acknowledgement, live", f"p50 {_ms(ack['p50'])}, p99 {_ms(ack['p99'])}"],
        ["recovery", f"{sim['recovery_records_per_second'] or '–'} records/s"],
        ["thief 盗刷", f"{sim['thief']['accepted']} accepted, {sim['thief']['refused']} refused"],
        ["torn taps 闪卡", ", ".join(f"{count} {kind}" for kind, count in sim["torn_by_kind"].items()) or "none"],
        ["card check 卡检查", _card_check(sim["card_check"])],
        ["selling, drain", f"{sim['selling_ms'] / 1000:.1f} s, {_ms(sim['drain_ms'])}"],
    ]
    return _table(["", ""], rows)


def _timeline(samples: Sequence[Sequence[int]], events: Sequence[dict[str, Any]]) -> list[str]:
    if len(samples) < 2:
        return ["<p>too short for a picture</p>"]
    step = -(-len(samples) // POINTS_MAX)
    kept = [*samples[::step], samples[-1]]
    moments = [row[0] / 1000 for row in kept]

    def level(column: int) -> Points:
        return [(at, row[column]) for at, row in zip(moments, kept, strict=True)]

    def rate(column: int) -> Points:
        return [
            (after[0] / 1000, (after[column] - before[column]) * 1000 / (after[0] - before[0]))
            for before, after in pairwise(kept)
            if after[0] > before[0]
        ]

    marks = [
        (each["ms"] / 1000, each["event"].replace("_", " "))
        for each in events
        if each["event"] in {"network_cut", "network_back", "power_cut", "thief", "selling_started", "selling_finished"}
    ]
    return [
        _chart("a second", [Curve("taps", "#2866c4", rate(1)), Curve("acknowledged", "#12703c", rate(4))], marks),
        _chart("records", [Curve("backlog", "#b3261e", level(5))], marks),
        _chart("terminals", [Curve("online", "#7a4fb5", level(6))], marks),
    ]


def _chart(unit: str, curves: Sequence[Curve], marks: Sequence[tuple[float, str]]) -> str:
    last_x = max(x for curve in curves for x, _ in curve.points) or 1
    top = max(max((y for _, y in curve.points), default=0) for curve in curves) or 1
    plot_width, plot_height = WIDTH - LEFT - 10, HEIGHT - BOTTOM - 24

    def px(x: float) -> float:
        return LEFT + plot_width * x / last_x

    def py(y: float) -> float:
        return 24 + plot_height * (1 - y / top)

    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img'>"]
    for share in (0, 0.5, 1):
        y = py(top * share)
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH - 10}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e3e8ee'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{_short(top * share)}</text>")
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = px(last_x * share)
        parts.append(f"<text x='{x:.1f}' y='{HEIGHT - 8}' text-anchor='middle'>{last_x * share:.1f} s</text>")
    for index, (at, label) in enumerate(mark for mark in marks if mark[0] <= last_x):
        x, y = px(at), 36 + 12 * (index % 4)
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='24' y2='{HEIGHT - BOTTOM}' stroke='#c9a227'/>")
        parts.append(f"<text x='{x + 3:.1f}' y='{y}'>{escape(label)}</text>")
    for index, curve in enumerate(curves):
        line = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in curve.points)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{curve.colour}' stroke-width='1.5'/>")
        x = LEFT + 130 * index
        parts.append(f"<text x='{x}' y='15' style='fill:{curve.colour}'>{escape(curve.label)} ({unit})</text>")
    return "".join([*parts, "</svg>"])


def _histogram(ack: dict[str, Any]) -> str:
    """Bars of equal width up to p99.5 or so; the last one holds the rest."""
    counts = {int(ms): count for ms, count in ack["counts"].items()}
    if not counts:
        return "<p>no record went out live</p>"
    widest = max(int((ack["p99"] or 0) * 1.25), BARS)
    bin_ms = -(-widest // BARS)
    bars = [0] * (BARS + 1)
    for ms, count in counts.items():
        bars[min(ms // bin_ms, BARS)] += count
    top, width, plot_height = max(bars), (WIDTH - LEFT - 10) / (BARS + 1), HEIGHT - BOTTOM - 24
    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img'>"]
    for index, count in enumerate(bars):
        height = plot_height * count / top
        x, y = LEFT + index * width, HEIGHT - BOTTOM - height
        parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{width - 1:.1f}' height='{height:.1f}' fill='#2866c4'/>")
        if index % 8 == 0:
            label = f"{index * bin_ms} ms" if index < BARS else "more"
            parts.append(f"<text x='{x:.1f}' y='{HEIGHT - 8}'>{label}</text>")
    parts.append(f"<text x='{LEFT - 6}' y='28' text-anchor='end'>{_short(top)}</text>")
    caption = f"{ack['count']:,} live records · mean {ack['mean']} ms · p50 {_ms(ack['p50'])} · p99 {_ms(ack['p99'])}"
    return "".join([*parts, f"<text x='{LEFT}' y='15'>{caption} · longest {_ms(ack['max'])}</text></svg>"])


def _merchants(merchants: dict[str, dict[str, int]]) -> str:
    rows = [
        [name, f"{each['count']:,}", _yuan(each["cents"]), _yuan(each["grey_cents"]), _yuan(each["executed_cents"])]
        for name, each in merchants.items()
    ]
    return _table(["merchant", "records", "terminals say", "of that grey 灰", "cards have paid"], rows)


def _card_check(check: dict[str, Any]) -> str:
    if not check["asked"]:
        return "not asked for"
    return f"{check['checked']} of {check['torn']} torn cards, {check['completed']} debits brought home"


def _greys(greys: dict[str, Any]) -> str:
    """Item, age and card: what a person who has to decide looks for."""
    hint = {None: "not seen", True: "spent", False: "not spent"}
    rows = [
        [
            f"{each['terminal']}/{each['epoch']}/{each['sequence']}",
            _yuan(each["amount_cents"]),
            "–" if each["age_s"] is None else f"{each['age_s']:,} s",
            f"{each['card']} {each['card_kind']}",
            each["decided_by"].replace("_", " "),
            hint[each["purse_says_spent"]] if each["card_kind"] == "memory" else "–",
        ]
        for each in greys["listed"][:100]
    ]
    return _table(["item", "amount", "age", "card", "waits for", "purse says"], rows)


def _torn_cards(torn: dict[str, Any]) -> str:
    rows = [
        [
            f"{each['card']} {each['card_kind']}",
            each["left"],
            "–" if each["of"] is None else "/".join(map(str, each["of"])),
            "record is there" if each["known"] else "record is grey or owed",
        ]
        for each in torn["listed"][:100]
    ]
    return _table(["card", "to do", "of", ""], rows)


def _recoveries(episodes: Sequence[dict[str, Any]]) -> str:
    columns = ("terminals", "records", "drain_ms", "records_per_second")
    rows = [[f"{each['start_ms'] / 1000:.1f} s", *(f"{each[name]:,}" for name in columns)] for each in episodes[:100]]
    return _table(["from", "terminals", "backlog", "drained in ms", "records/s"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        shown = [f"<{tag}{' class=n' if index else ''}>{escape(cell)}</{tag}>" for index, cell in enumerate(cells)]
        return f"<tr>{''.join(shown)}</tr>"

    shown = [line(head, "th")] if any(head) else []
    return "<table>" + "".join([*shown, *(line(row, "td") for row in rows)]) + "</table>"


def _yuan(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def _ms(value: int | None) -> str:
    return "–" if value is None else f"{value:,} ms"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
