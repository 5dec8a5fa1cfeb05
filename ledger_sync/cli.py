"""`onecard ledger`: the central ledger's verbs; those on cards are in `cli_cards`, those of two persons
in `cli_decide`.

Reports, balances and `verify` open the file read-only, beside a server or without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ledger_sync import cli_cards, cli_decide, cli_links, cli_loads
from ledger_sync.cli_report import show_conservation, show_merchants, show_report
from ledger_sync.cli_work import (
    EXAMPLE,
    OPERATOR_UNKNOWN,
    AsJson,
    Operator,
    SitePath,
    changed,
    changed_in_place,
    day_of,
    host_of,
    issue_all,
    keys_of,
    reader_of,
    register_all,
)

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The central ledger (中心账务): serve, report, cards, verify."
)


@app.command("init", epilog=EXAMPLE + "onecard ledger init --operator Li --site canteen")
def init(
    context: typer.Context, site: SitePath = Path(), operator: Operator = OPERATOR_UNKNOWN, as_json: AsJson = False
) -> None:
    """Open the books of a site (建账). Done once; takes over the terminals of the registry, and the cards made."""
    from ledger_sync.ledger.core import Ledger

    host = host_of(context)
    place = host.ledger(site)
    keys = keys_of(place)
    place.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Ledger.create(
        place.paths(),
        keys,
        files=host.files,
        utc_offset_ms=place.utc_offset_ms,
        now_ms=host.now_ms(),
        operator=operator,
        unproven_limit_cents=place.unproven_limit_cents,
    )
    made.close()
    terminals = register_all(host, place, operator)
    cards = issue_all(host, place, operator) if place.card_register.exists() else {"issued": 0, "already_issued": 0}
    if as_json:
        host.emit({"site": place.site, "terminals": terminals, "cards": cards})
        return
    host.say(f"The books of site {place.site} are open: {terminals['added']} terminals, {cards['issued']} cards.")
    host.say(f"Next: onecard ledger serve --site {site}")


@app.command("serve", epilog=EXAMPLE + "onecard ledger serve --site canteen --log canteen/ledger.log")
def serve(
    context: typer.Context,
    site: SitePath = Path(),
    log: Annotated[Path | None, typer.Option("--log", help="Write the log here instead of stderr.")] = None,
) -> None:
    """Run the ledger until SIGTERM or Ctrl-C. One line of JSON on stdout says that it serves."""
    from ledger_sync.serving import LedgerServing

    host = host_of(context)
    place = host.ledger(site)
    serving = LedgerServing(place, keys_of(place), ready=host.ready, stopping=lambda: host.notify("STOPPING=1"))
    code = host.run(serving.start, name="ledger", log_file=log)
    if serving.failure is not None:
        raise serving.failure
    raise typer.Exit(code)


@app.command("register", epilog=EXAMPLE + "onecard ledger register --operator Li --site canteen")
def register(
    context: typer.Context, site: SitePath = Path(), operator: Operator = OPERATOR_UNKNOWN, as_json: AsJson = False
) -> None:
    """Take over the terminals of the registry file. For after `onecard keys enrol`; can be repeated."""
    host = host_of(context)
    told = register_all(host, host.ledger(site), operator)
    if as_json:
        host.emit(told)
    else:
        host.say(f"{told['added']} terminals added, {told['updated']} known before.")


@app.command("restore", epilog=EXAMPLE + "onecard ledger restore --operator Li --yes --site canteen")
def restore(
    context: typer.Context,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    yes: Annotated[bool, typer.Option("--yes", help="I have put a backup of the ledger back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Declare a restored backup (恢复). Front-ends then send again all that came after it. With the server stopped."""
    from ledger_sync.ledger.errors import VerbRefused

    host = host_of(context)
    place = host.ledger(site)
    if not yes:
        raise VerbRefused("a restore ends what the heads file knows beyond the backup: say --yes")
    if host.answers(place.admin_socket):
        raise VerbRefused("the ledger is being served: stop it, put the backup back, then restore")
    told = changed_in_place(host, place, {"verb": "restore", "operator": operator}, is_restored=True)
    if as_json:
        host.emit(told)
    else:
        host.say(f"Generation {told['generation']} begins at position {told['position']}.")
        host.say(f"Next: onecard ledger verify --site {site}, then onecard ledger serve --site {site}")


@app.command("close-day", epilog=EXAMPLE + "onecard ledger close-day 2026-09-20 --operator Li --site canteen")
def close_day(
    context: typer.Context,
    *,
    day: Annotated[str, typer.Argument(metavar="DATE", help="The last day to close, as 2026-09-20.")],
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Close a day and all before it (日结). Records of it that come later book on the first open day."""
    host = host_of(context)
    told = changed(host, host.ledger(site), {"verb": "close_day", "day": day_of(day), "operator": operator})
    if as_json:
        host.emit(told)
    else:
        host.say(
            f"Closed up to {host.day(told['closed_day'])}; the first open day is {host.day(told['first_open_day'])}."
        )


@app.command("report", epilog=EXAMPLE + "onecard ledger report --site canteen")
def report(
    context: typer.Context,
    site: SitePath = Path(),
    items: Annotated[bool, typer.Option("--items/--no-items", help="Name every open item.")] = True,
    as_json: AsJson = False,
) -> None:
    """Totals per merchant (清分), open items, conservation. Exit code 1 if the books disagree."""
    from ledger_sync.ledger.report import report as report_of

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        found = report_of(connection, now_ms=host.now_ms(), with_items=items)
    if as_json:
        host.emit(found)
    else:
        show_report(host, found, with_items=items)
    if found["conservation"]["difference_cents"] or found["double_posted"]:
        host.complain("the books disagree: run `onecard ledger verify`")
        raise typer.Exit(1)


@app.command("balances", epilog=EXAMPLE + "onecard ledger balances --site canteen")
def balances(context: typer.Context, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """Balances of accounts and merchants. Exit code 1 if debits and credits differ."""
    from ledger_sync.ledger.report import balances as balances_of

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        connection.execute("BEGIN")
        found = balances_of(connection)
    if as_json:
        host.emit(found)
    else:
        show_conservation(host, found["conservation"])
        show_merchants(host, found["merchants"])
    if found["conservation"]["difference_cents"]:
        raise typer.Exit(1)


@app.command("verify", epilog=EXAMPLE + "onecard ledger verify --site canteen")
def verify(context: typer.Context, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """Recompute everything and name each row that was touched. Exit code 4 if any was."""
    from ledger_sync.ledger.verify import verify as verify_ledger

    host = host_of(context)
    place = host.ledger(site)
    keys = keys_of(place)
    with reader_of(place) as connection:
        found = verify_ledger(connection, host.files.read(place.paths().heads), keys, utc_offset_ms=place.utc_offset_ms)
    looked_at = {"batches": found.batches, "operations": found.operations, "rows": found.rows}
    if as_json:
        findings = [
            {"table": one.table, "row": one.row, "column": one.column, "says": one.says} for one in found.findings
        ]
        host.emit({"sound": found.is_sound, **looked_at, "findings": findings})
    else:
        for finding in found.findings:
            host.say(str(finding))
        verdict = "sound" if found.is_sound else "NOT sound: keep the file, and put the last good backup beside it"
        host.say(f"{', '.join(f'{count} {name}' for name, count in looked_at.items())} looked at: {verdict}")
    if not found.is_sound:
        raise typer.Exit(4)


app.registered_commands.extend(cli_cards.app.registered_commands)
app.registered_commands.extend(cli_links.app.registered_commands)
app.add_typer(cli_cards.card, name="card")
app.add_typer(cli_decide.suspense, name="suspense")
app.add_typer(cli_decide.quarantine, name="quarantine")
app.add_typer(cli_loads.loads, name="loads")
