"""The front-end's verbs: `serve` composes the server, `status` asks the running one (`fleet`: `cli_fleet`).

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
FrontendNumber = Annotated[
    int | None, typer.Option("--frontend", min=1, help="Number of one of several front-ends; else that of [frontend].")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]
LogFile = Annotated[Path | None, typer.Option("--log", help="Write the log here instead of stderr.")]


class Host(Protocol):
    """What the command line lends."""

    def frontend(self, path: Path, number: int | None = None) -> FrontendPlace: ...
    def control(self, path: Path, number: int | None = None) -> str: ...
    def run(self, start: Callable[[Any], None], *, name: str, log_file: Path | None = None) -> int: ...
    def locked(self, directory: Path) -> AbstractContextManager[None]: ...
    def ask(self, address: str, request: Mapping[str, object]) -> dict[str, Any]: ...
    def ready(self, what: str, facts: Mapping[str, object]) -> None: ...
    def notify(self, state: str) -> None: ...
    def emit(self, value: object) -> None: ...
    def say(self, text: str) -> None: ...
    def pause(self, pause_ms: int) -> None: ...
    def complain(self, sentence: str) -> None: ...
    def moment(self, utc_ms: int | None) -> str: ...
    def table(self, title: str, columns: list[str], rows: list[list[object]]) -> None: ...


def host_of(context: typer.Context) -> Host:
    """What the command line lends this verb."""
    return cast(Host, context.obj)


app = typer.Typer(rich_markup_mode=None)


@app.command("serve", epilog=EXAMPLE + "onecard serve --config canteen --log canteen/frontend.log")
def serve(
    context: typer.Context, site: SitePath = Path(), frontend: FrontendNumber = None, log: LogFile = None
) -> None:
    """Run the terminal front-end server (前置机) until SIGTERM or Ctrl-C.

    One line of JSON on stdout says that terminals can connect, and where. Records are on disk before they are
    acknowledged; without the ledger it goes on taking them.
    """
    from frontend_server.serving import Serving

    host = host_of(context)
    place = host.frontend(site, frontend)
    with host.locked(place.data_dir):
        serving = Serving.prepare(place, ready=host.ready, stopping=lambda: host.notify("STOPPING=1"))
        code = host.run(serving.start, name="frontend", log_file=log)
    if serving.failure:
        host.complain(serving.failure)
    raise typer.Exit(code)


@app.command("status", epilog=EXAMPLE + "onecard status --site canteen")
def status(
    context: typer.Context, site: SitePath = Path(), frontend: FrontendNumber = None, as_json: AsJson = False
) -> None:
    """Figures of the running front-end: terminals, spool, link to the ledger, lists, alarms."""
    host = host_of(context)
    control = host.control(site, frontend)
    answer = _fresh_status(host, control)
    alarms = asked(host, control, {"verb": "alarms"}) if answer.get("alarms") else {"alarms": []}
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


def _fresh_status(host: Host, control: str) -> dict[str, Any]:
    """The status with figures of the spool that were read after we asked; the server reads them behind its answer."""
    answer = asked(host, control, {"verb": "status", "fresh": True})
    wanted = answer["spool_asked"]
    for _ in range(FRESH_TRIES_MAX):
        if answer["spool_answered"] >= wanted:
            break
        host.pause(FRESH_PAUSE_MS)
        answer = asked(host, control, {"verb": "status"})
    return answer


def asked(host: Host, control: str, request: Mapping[str, object]) -> dict[str, Any]:
    """The answer of a control socket without its `ok`; ends the command where it is none."""
    answer = host.ask(control, request)
    if not answer.pop("ok", False):
        host.complain(f"the front-end refuses: {answer.get('error', 'no reason given')}")
        raise typer.Exit(1)
    return answer
