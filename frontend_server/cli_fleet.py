"""`onecard fleet`: what is online, what is behind, what is alarming, what is missing, and what to do.

Everything is asked of the running server over its control socket, page by page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from frontend_server.cli import EXAMPLE, AsJson, FrontendNumber, Host, SitePath, asked, host_of

TERMINALS_LISTED_MAX: Final = 100_000  # as many as a registry may have
GAPS_LISTED_MAX: Final = 10_000
PAGES_MAX: Final = 100_000  # one of each terminal that a site can have; an answer that never ends is a fault
HINT_ROWS_MAX: Final = 20  # hints below a table; more are read in the table of `fleet show`

fleet = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Terminals of the running front-end: online, behind, missing.",
)


@fleet.command("list", epilog=EXAMPLE + "onecard fleet list --behind --site canteen")
def fleet_list(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    behind: Annotated[bool, typer.Option("--behind", help="Only terminals with records not uploaded.")] = False,
    alarming: Annotated[bool, typer.Option("--alarming", help="Only terminals that an alarm names.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=TERMINALS_LISTED_MAX, help="At most so many.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Every terminal (机具) seen since the server's start. Online or not, what it holds back, which list it has."""
    host = host_of(context)
    control = host.control(site, frontend)
    sessions: list[dict[str, Any]] = []
    for page in _pages(host, control, {"verb": "sessions"}, 0):
        sessions += page["sessions"]
    if behind:
        sessions = [one for one in sessions if one["backlog"]]
    if alarming:
        sessions = [one for one in sessions if one["alarming"]]
    found, sessions = len(sessions), sessions[:limit]
    if as_json:
        host.emit({"terminals": sessions, "truncated": found > limit})
        return
    columns = ["terminal", "online", "epoch", "durable", "settled", "backlog", "list_version", "address", "findings"]
    rows: list[list[object]] = [[_cell(one.get(name, "")) for name in columns] for one in sessions]
    waits = _waits_text(asked(host, control, {"verb": "status"}))
    host.table(f"{sum(one['online'] for one in sessions)} of {len(sessions)} online; {waits}", columns, rows)
    if found > limit:
        host.say(f"{found - limit} more: --limit")
    remedies: dict[str, str] = {}
    for one in sessions:
        if one["findings"]:
            remedies.setdefault(one["findings"][0], one["what_to_do"])
    for name, remedy in list(remedies.items())[:HINT_ROWS_MAX]:
        host.say(f"{name}\n  do: {remedy}")


@fleet.command("show", epilog=EXAMPLE + "onecard fleet show 1001 --site canteen")
def fleet_show(
    context: typer.Context,
    terminal: Annotated[int, typer.Argument(min=1, max=0xFFFF_FFFF, help="The terminal's number.")],
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    as_json: AsJson = False,
) -> None:
    """Everything known of one terminal (机具), and what to do. Watermarks, ranges, list, clock, alarms, refusals."""
    host = host_of(context)
    answer = asked(host, host.control(site, frontend), {"verb": "terminal", "terminal": terminal})
    if as_json:
        host.emit(answer)
        return
    name = f" ({answer['name']})" if answer["name"] else ""
    host.table(f"terminal {terminal}{name}", ["", ""], [*_facts(host, answer)])
    for epoch in answer["epochs"]:
        host.table(f"epoch {epoch['epoch']}", ["", ""], [*_epoch_facts(host, epoch)])
    for finding in answer["findings"]:
        host.say(f"{finding['finding']}: {finding['says']}\n  do: {finding['what_to_do']}")
    if not answer["findings"]:
        host.say("nothing to do")


@fleet.command("gaps", epilog=EXAMPLE + "onecard fleet gaps --site canteen")
def fleet_gaps(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    terminal: Annotated[int | None, typer.Option(min=1, max=0xFFFF_FFFF, help="Only of this terminal.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what another front-end, or an earlier spool, has acknowledged.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=GAPS_LISTED_MAX, help="At most so many lines.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Sequences that exist and that this front-end does not hold (断号). Per terminal and epoch, and what to do.

    A gap of the site is what no front-end has brought: `onecard ledger report` names those.
    """
    host = host_of(context)
    listed: list[dict[str, Any]] = []
    records: dict[str, int] = {}
    is_whole = True
    for hole in _holes(host, host.control(site, frontend), terminal):
        records[hole["kind"]] = records.get(hole["kind"], 0) + hole["count"]
        if hole["kind"] == "elsewhere" and not everything:
            continue
        is_whole = is_whole and len(listed) < limit and not hole.get("not_listed")
        if len(listed) < limit:
            listed.append(hole)
    if as_json:
        host.emit({"gaps": listed, "records": records, "truncated": not is_whole})
        return
    columns = ["terminal", "epoch", "first", "last", "records", "kind", "since", "asked"]
    rows: list[list[object]] = [
        [one["terminal"], one["epoch"], one["first"], one["last"], one["count"], one["kind"],
         host.moment(one["since_ms"]), _asked_text(one)]
        for one in listed
    ]  # fmt: skip
    host.table("sequences not held here", columns, rows)
    for kind, remedy in {one["kind"]: one["what_to_do"] for one in listed}.items():
        host.say(f"{kind}: {records[kind]} records\n  do: {remedy}")
    if not everything and records.get("elsewhere"):
        host.say(f"{records['elsewhere']} more were acknowledged by another front-end or an earlier spool (--all)")
    if not is_whole:
        host.say("there are more: --limit, or --terminal")


@fleet.command("refused", epilog=EXAMPLE + "onecard fleet refused --limit 20 --site canteen")
def fleet_refused(
    context: typer.Context,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest first, at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Refused log-ins with the true reason. The wire never tells it."""
    host = host_of(context)
    answer = asked(host, host.control(site, frontend), {"verb": "refused", "limit": limit})
    if as_json:
        host.emit(answer)
        return
    columns = ["terminal", "epoch", "address", "reason", "what_to_do"]
    host.table("refused log-ins", columns, [[one.get(name, "") for name in columns] for one in answer["refused"]])


@fleet.command("metrics", epilog=EXAMPLE + "onecard fleet metrics --prometheus --site canteen")
def fleet_metrics(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="As Prometheus reads them, for a text file.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are 0.")] = False,
    as_json: AsJson = False,
) -> None:
    """Counters, and how long acknowledgements took. All since the server's start."""
    host = host_of(context)
    answer = asked(host, host.control(site, frontend), {"verb": "metrics"})
    if as_json:
        host.emit({"metrics": answer["metrics"], "waits": answer["waits"]})
        return
    if prometheus:
        host.say(answer["text"].rstrip("\n"))
        return
    rows: list[list[object]] = [
        [name, one["count"], *(_at_most(one[quantile]) for quantile in ("p50_ms", "p99_ms", "p999_ms"))]
        for name, one in answer["waits"].items()
    ]
    host.table("waits in ms, at most", ["of", "count", "p50", "p99", "p99.9"], rows)
    rows = [
        [sample["name"] + "".join(f" {name}={of}" for name, of in sample["labels"].items()), sample["value"]]
        for family in answer["metrics"]
        if family["kind"] != "histogram"
        for sample in family["samples"]
        if sample["value"] or everything
    ]
    host.table("metrics", ["name", "value"], rows)


def _waits_text(status: dict[str, Any]) -> str:
    """For the head of the list: how a sale and a backlog fare, and what waits."""
    waits = status["waits"]
    live, backlog = (_at_most(waits[lane]["p99_ms"]) for lane in ("live", "backlog"))
    return f"99 of 100 acknowledged within ms: live {live}, backlog {backlog}; {status['intake_frames']} frames wait"


def _at_most(quantile_ms: int | None) -> object:
    return "-" if quantile_ms is None else quantile_ms


def _pages(host: Host, control: str, request: dict[str, object], after: object) -> Iterator[dict[str, Any]]:
    """Every page of an answer that comes in pages."""
    for _ in range(PAGES_MAX):
        page = asked(host, control, {**request, "after": after})
        yield page
        after = page["next"]
        if after is None:
            return


def _holes(host: Host, control: str, terminal: int | None) -> Iterator[dict[str, Any]]:
    """What is not held, of all terminals or of one."""
    if terminal is not None:
        answer = asked(host, control, {"verb": "terminal", "terminal": terminal})
        for epoch in answer["epochs"]:
            for hole in epoch["holes"]:
                yield {"terminal": terminal, "epoch": epoch["epoch"]} | hole
        return
    for page in _pages(host, control, {"verb": "gaps"}, [0, 0]):
        yield from page["gaps"]


def _asked_text(hole: dict[str, Any]) -> str:
    if not hole["asked_times"]:
        return "no"
    return f"{hole['asked_times']}×" + ("" if hole["asked_here"] else ", terminal not here")


def _facts(host: Host, answer: dict[str, Any]) -> Iterator[list[object]]:
    enrolled = f"epoch {answer['enrolled_epoch']}, {answer['kind']}, suite {answer['suite']}"
    yield ["enrolled", f"{enrolled}, merchant {answer['merchant']}" if answer["enrolled"] else "no"]
    one = answer["session"]
    if one:
        yield ["online", f"since {host.moment(one['online_since_ms'])}" if one["online"] else "no"]
        yield ["last heard", f"{host.moment(one['last_heard_ms'])} from {one['address']}"]
        yield ["epoch / boot", f"{one['epoch']} / {one['boot']}"]
        yield ["durable / settled", f"{one['durable']} / {one['settled']}"]
        yield ["first unacknowledged / next", f"{one['first_unacknowledged']} / {one['next']}"]
        yield ["backlog", one["backlog"]]
        yield [
            "deny list (黑名单) held / in force",
            f"{one['list_version'] or 'none'} / {answer['list_wanted'] or 'none'}",
        ]
        yield ["flags", ", ".join(one["flag_names"]) or "none"]
        ahead_ms = one["clock_ahead_ms"]
        told = "" if one["clock_told"] else " (before it was told the time)"
        yield ["its clock less ours", "not known" if ahead_ms is None else f"{ahead_ms / 1000:+.1f} s{told}"]
        for taken in one["take_overs"]:
            yield ["taken over", f"{host.moment(taken['at_ms'])} by {taken['address']}"]
    refused = answer["last_refusal"]
    if refused is not None:
        yield ["last refusal", f"{host.moment(refused['at_ms'])} from {refused['address']}: {refused['reason']}"]
    for alarm in answer["alarms"]:
        yield ["ALARM", f"{alarm['alarm']} since {host.moment(alarm['since_ms'])}, {alarm['count']}×: {alarm['text']}"]


def _epoch_facts(host: Host, epoch: dict[str, Any]) -> Iterator[list[object]]:
    more = f" and {epoch['ranges_not_listed']} lower ones" if epoch["ranges_not_listed"] else ""
    yield ["held", _spans(epoch["ranges"]) + more]
    yield ["settled", _spans(epoch["settled"])]
    if epoch["next"] is not None:
        yield ["first unacknowledged / next", f"{epoch['first_unacknowledged']} / {epoch['next']}"]
    for hole in epoch["holes"]:
        yield [hole["kind"], f"{hole['first']}–{hole['last']} since {host.moment(hole['since_ms'])}"]


def _spans(pairs: list[list[int]]) -> str:
    return ", ".join(f"{first}–{last}" for first, last in pairs) or "nothing"


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else value
