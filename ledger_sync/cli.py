"""`onecard ledger`: the central ledger's verbs; those on cards are in `cli_cards`.

Reports, balances and `verify` open the file read-only, beside a server or without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ledger_sync import cli_cards
from ledger_sync.cli_work import (
    EXAMPLE,
    OPERATOR_UNKNOWN,
    AsJson,
    Host,
    Operator,
    SitePath,
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
        _show_report(host, found, with_items=items)
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
        _show_conservation(host, found["conservation"])
        _show_merchants(host, found["merchants"])
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
app.add_typer(cli_cards.card, name="card")


# -- what people read


def _show_report(host: Host, found: dict[str, Any], *, with_items: bool) -> None:
    counts = found["counts"]
    host.say(
        f"Site {found['site']}, generation {found['generation']}, position {found['position']}: "
        f"{counts['posted']} records posted, {counts['duplicates']} duplicates, {counts['quarantined']} quarantined, "
        f"{found['double_posted']} posted twice."
    )
    records: list[list[object]] = [
        [one["merchant"], one["count"], host.yuan(one["amount_cents"])] for one in found["records"]["by_merchant"]
    ]
    records.append(["all", found["records"]["count"], host.yuan(found["records"]["amount_cents"])])
    host.table("records held, by merchant (商户)", ["merchant", "records", "yuan"], records)
    _show_merchants(host, found["merchants"])
    _show_conservation(host, found["conservation"])
    rows: list[list[object]] = [
        [kind, one["items"], one["sequences"], host.yuan(one["amount_cents"]), one["amount_unknown"]]
        for kind, one in found["open_items"].items()
        if one["items"]
    ]
    host.table("open items", ["kind", "items", "sequences", "yuan", "of unknown amount"], rows)
    if not with_items:
        return
    columns = ["kind", "terminal", "epoch", "first", "last", "amount_cents", "detail"]
    named: list[list[object]] = [
        ["" if item.get(name) is None else item[name] for name in columns]
        for one in found["open_items"].values()
        for item in one["listed"]
    ]
    if named:
        host.table("open items by name", columns, named)


def _show_merchants(host: Host, merchants: list[dict[str, Any]]) -> None:
    rows: list[list[object]] = [[one["merchant"], host.yuan(one["balance_cents"])] for one in merchants]
    host.table("owed to merchants", ["merchant", "yuan"], rows)


def _show_conservation(host: Host, sums: dict[str, int]) -> None:
    rows: list[list[object]] = [
        [name.removesuffix("_cents").replace("_", " "), host.yuan(cents)] for name, cents in sums.items()
    ]
    host.table("accounts; sources equal uses when the difference is 0.00", ["account", "yuan"], rows)
