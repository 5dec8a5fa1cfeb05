"""`onecard ledger loads …`: load orders in flight, decided by two persons, sent to their station (docs/ledger.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ledger_sync.cli_decide import All, Confirm, Reason, Withdraw, decide, show_items
from ledger_sync.cli_work import EXAMPLE, OPERATOR_UNKNOWN, AsJson, Operator, SitePath, host_of, reader_of

OrderNumber = Annotated[int, typer.Argument(min=1, metavar="ORDER", help="Number of the order, as `list` shows it.")]

loads = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Load orders (充值单): list, decide by two persons, export."
)


@loads.command("list", epilog=EXAMPLE + "onecard ledger loads list --site canteen")
def loads_list(
    context: typer.Context, *, site: SitePath = Path(), everything: All = False, as_json: AsJson = False
) -> None:
    """Orders whose cash is in and whose card has not got it yet. With age, station, and what is proposed for them."""
    from ledger_sync.ledger.loading import load_items

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        found = load_items(connection, now_ms=host.now_ms(), everything=everything)
    if as_json:
        host.emit({"items": found})
        return
    columns = ["load_order", "card", "serial", "yuan", "station", "age", "state", "ended_by", "hint", "decision"]
    show_items(host, "load orders (充值单)", columns, found)


@loads.command("resolve", epilog=EXAMPLE + 'onecard ledger loads resolve 12 --not-executed --reason "station scrapped"')
def loads_resolve(
    context: typer.Context,
    *,
    order: OrderNumber,
    executed: Annotated[
        bool | None, typer.Option("--executed/--not-executed", help="It is on the card, or goes back to the payer.")
    ] = None,
    reason: Reason = "",
    confirm: Confirm = False,
    withdraw: Withdraw = False,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Decide an order that no record ends. One person proposes, another says the same with --confirm."""
    outcome = None if executed is None else "executed" if executed else "not executed"
    if outcome is None and not withdraw:
        raise typer.BadParameter("say --executed or --not-executed")
    request = {"subject": "load", "item": order, "outcome": outcome, "reason": reason, "operator": operator}
    decide(host_of(context), site, request, confirm=confirm, withdraw=withdraw, as_json=as_json)


@loads.command(
    "export", epilog=EXAMPLE + "onecard ledger loads export --station 1020 --out orders.jsonl --site canteen"
)
def loads_export(
    context: typer.Context,
    *,
    station: Annotated[int, typer.Option("--station", min=1, help="Terminal number of the load station (充值机).")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the lines here instead of stdout.")] = None,
    site: SitePath = Path(),
) -> None:
    """The orders that a load station may execute now. JSON lines, for the file that its configuration names."""
    from ledger_sync.ledger.loading import orders_of_station

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        found = orders_of_station(connection, station)
    if out is None:
        for one in found:
            host.emit(one)
        return
    host.files.replace(str(out), "".join(json.dumps(one) + "\n" for one in found).encode())
    host.say(f"{len(found)} orders for station {station}: {out}")
