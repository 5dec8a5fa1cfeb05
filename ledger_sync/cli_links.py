"""`onecard ledger links`: which front-ends are connected, since when, and what a broker says of who is there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer

from ledger_sync.cli_work import EXAMPLE, OPERATOR_UNKNOWN, AsJson, SitePath, host_of

app = typer.Typer(rich_markup_mode=None)


@app.command("links", epilog=EXAMPLE + "onecard ledger links --site canteen")
def links(context: typer.Context, *, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """Front-ends on the link, and since when.

    Where the link goes over a broker also what the broker says of who is there, which is a claim and no proof.
    """
    host = host_of(context)
    answer = host.ask(host.ledger(site).admin_socket, {"verb": "status", "operator": OPERATOR_UNKNOWN})
    broker = answer.get("broker") or {}
    present = broker.get("present", {})
    connected = {one["frontend"]: one for one in answer["links"]}
    numbers = sorted({*connected, *map(int, present)})
    if as_json:
        host.emit({"links": answer["links"], "broker": answer.get("broker"), "requests": answer["requests"]})
        return
    rows: list[list[object]] = []
    for number in numbers:
        link, said = connected.get(number, {}), present.get(str(number), {})
        rows.append(
            [
                number, link.get("state", "not connected"), _moment(link.get("since_ms")),
                said.get("state", "–"), _moment(said.get("since_ms")),
            ]
        )  # fmt: skip
    host.table("front-ends", ["front-end", "link", "since", "broker says", "since "], rows)
    if broker:
        dropped = ", ".join(f"{count} {why}" for why, count in broker["dropped"].items()) or "nothing"
        host.say(f"broker: {broker['broker']}, sessions so far {broker['broker_sessions']}; dropped: {dropped}")


def _moment(utc_ms: int | None) -> str:
    if not utc_ms:
        return "–"
    return datetime.fromtimestamp(utc_ms / 1000, UTC).astimezone().isoformat(" ", "seconds")
