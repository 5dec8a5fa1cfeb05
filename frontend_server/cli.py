"""The front-end's verbs: `serve` composes the server, `status` and `fleet` ask the running one.

What they need of the world comes from the command line through typer's context (`Host`, implemented in the root).

serve: lock ─▶ keys, registry ─▶ spool ─▶ port ─▶ server ─▶ ready line ─▶ … signal ─▶ ordered stop ─▶ exit 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, cast

import typer

from frontend_server.place import FrontendPlace

FRESH_TRIES_MAX: Final = 100
FRESH_PAUSE_MS: Final = 20  # two seconds in all: then the disk is the news, and the figures are old ones
EXAMPLE: Final = "\b\nExample:\n  "
DOCUMENTS: Final = ("parameters", "permissions")

SitePath = Annotated[
    Path, typer.Option("--site", "--config", envvar="ONECARD_SITE", help="The site's directory, or its site.toml.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]
LogFile = Annotated[Path | None, typer.Option("--log", help="Write the log here instead of stderr.")]


class Host(Protocol):
    """What the command line lends."""

    def frontend(self, path: Path) -> FrontendPlace: ...
    def run(self, start: Callable[[Any], None], *, name: str, log_file: Path | None = None) -> int: ...
    def locked(self, directory: Path) -> AbstractContextManager[None]: ...
    def ask(self, address: str, request: Mapping[str, object]) -> dict[str, Any]: ...
    def ready(self, what: str, facts: Mapping[str, object]) -> None: ...
    def notify(self, state: str) -> None: ...
    def emit(self, value: object) -> None: ...
    def say(self, text: str) -> None: ...
    def pause(self, pause_ms: int) -> None: ...
    def complain(self, sentence: str) -> None: ...
    def table(self, title: str, columns: list[str], rows: list[list[object]]) -> None: ...


def _host(context: typer.Context) -> Host:
    return cast(Host, context.obj)


app = typer.Typer(rich_markup_mode=None)
fleet = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Terminals of the running front-end: online, behind, refused."
)


@app.command("serve", epilog=EXAMPLE + "onecard serve --config canteen --log canteen/frontend.log")
def serve(context: typer.Context, site: SitePath = Path(), log: LogFile = None) -> None:
    """Run the terminal front-end server (前置机) until SIGTERM or Ctrl-C.

    One line of JSON on stdout says that terminals can connect, and where. Records are on disk before they are
    acknowledged; without the ledger it goes on taking them.
    """
    from frontend_server.serving import Serving

    host = _host(context)
    place = host.frontend(site)
    with host.locked(place.data_dir):
        serving = Serving.prepare(place, ready=host.ready, stopping=lambda: host.notify("STOPPING=1"))
        code = host.run(serving.start, name="frontend", log_file=log)
    if serving.failure:
        host.complain(serving.failure)
    raise typer.Exit(code)


@app.command("status", epilog=EXAMPLE + "onecard status --site canteen")
def status(context: typer.Context, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """Figures of the running front-end: terminals, spool, link to the ledger, lists, alarms."""
    host = _host(context)
    answer = _fresh_status(host, site)
    alarms = _asked(host, site, {"verb": "alarms"}) if answer.get("alarms") else {"alarms": []}
    if as_json:
        host.emit(answer | {"standing": alarms["alarms"]})
        return
    spool, link = answer["spool"] or {}, answer["link"]
    rows: list[list[object]] = [
        ["listens on", answer["address"]],
        ["terminals online / enrolled", f"{answer['terminals']['online']} / {answer['terminals']['enrolled']}"],
        ["rows in the spool / without receipt", f"{spool.get('rows', '?')} / {spool.get('rows_unsettled', '?')}"],
        ["link to the ledger", f"{link['state']}{' (' + str(link['last_fault']) + ')' if link['last_fault'] else ''}"],
        ["deny list (黑名单)", answer["lists"].get("deny") or "none"],
        [
            "parameters (参数) / permissions (权限)",
            " / ".join(answer["lists"].get(each) or "none" for each in DOCUMENTS),
        ],
        ["alarms", answer["alarms"]],
    ]
    host.table(f"front-end {answer['frontend']} of site {answer['site']}", ["", ""], rows)
    for alarm in alarms["alarms"]:
        host.say(f"ALARM {alarm['alarm']} ({alarm['subject']}): {alarm['text']}\n  do: {alarm['what_to_do']}")


@fleet.command("list", epilog=EXAMPLE + "onecard fleet list --behind --site canteen")
def fleet_list(
    context: typer.Context,
    site: SitePath = Path(),
    behind: Annotated[bool, typer.Option("--behind", help="Only terminals with records not uploaded.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every terminal seen since the server's start. Online or not, what it holds back, which list it has."""
    host = _host(context)
    sessions: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = _asked(host, site, {"verb": "sessions", "after": after})
        sessions += page["sessions"]
        after = page["next"]
    if behind:
        sessions = [one for one in sessions if one["backlog"]]
    if as_json:
        host.emit({"terminals": sessions})
        return
    columns = [
        "terminal",
        "online",
        "epoch",
        "durable",
        "settled",
        "backlog",
        "list_version",
        "lists_behind",
        "address",
    ]
    rows: list[list[object]] = [[_cell(one.get(name, "")) for name in columns] for one in sessions]
    host.table(f"{sum(one['online'] for one in sessions)} of {len(sessions)} online", columns, rows)


@fleet.command("refused", epilog=EXAMPLE + "onecard fleet refused --limit 20 --site canteen")
def fleet_refused(
    context: typer.Context,
    site: SitePath = Path(),
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest first, at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Refused log-ins with the true reason. The wire never tells it."""
    host = _host(context)
    answer = _asked(host, site, {"verb": "refused", "limit": limit})
    if as_json:
        host.emit(answer)
        return
    columns = ["terminal", "epoch", "address", "reason", "what_to_do"]
    host.table("refused log-ins", columns, [[one.get(name, "") for name in columns] for one in answer["refused"]])


def _fresh_status(host: Host, site: Path) -> dict[str, Any]:
    """The status with figures of the spool that were read after we asked; the server reads them behind its answer."""
    answer = _asked(host, site, {"verb": "status", "fresh": True})
    wanted = answer["spool_asked"]
    for _ in range(FRESH_TRIES_MAX):
        if answer["spool_answered"] >= wanted:
            break
        host.pause(FRESH_PAUSE_MS)
        answer = _asked(host, site, {"verb": "status"})
    return answer


def _asked(host: Host, site: Path, request: Mapping[str, object]) -> dict[str, Any]:
    """The answer of the control socket without its `ok`."""
    answer = host.ask(host.frontend(site).settings.control_address, request)
    if not answer.pop("ok", False):
        host.complain(f"the front-end refuses: {answer.get('error', 'no reason given')}")
        raise typer.Exit(1)
    return answer


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else value
