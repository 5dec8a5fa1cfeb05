"""`onecard ledger suspense …` and `quarantine …`: what two persons decide (docs/ledger.md, "Two persons")."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ledger_sync.cli_report import age
from ledger_sync.cli_work import (
    EXAMPLE,
    OPERATOR_UNKNOWN,
    AsJson,
    Host,
    Operator,
    SitePath,
    changed,
    host_of,
    reader_of,
)

ItemNumber = Annotated[int, typer.Argument(min=1, metavar="ITEM", help="Number of the item, as `list` shows it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept for ever.")]
Confirm = Annotated[bool, typer.Option("--confirm", help="Confirm, as the second person, what another has proposed.")]
Withdraw = Annotated[bool, typer.Option("--withdraw", help="Take the proposal back.")]
All = Annotated[bool, typer.Option("--all", help="Those already decided too.")]

suspense = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Debits set aside (灰记录): list them, decide by two persons."
)
quarantine = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Records that do not prove themselves: list, retry, reject."
)


@suspense.command("list", epilog=EXAMPLE + "onecard ledger suspense list --site canteen")
def suspense_list(
    context: typer.Context, *, site: SitePath = Path(), everything: All = False, as_json: AsJson = False
) -> None:
    """Greys and unproven debits that are set aside. With age, card, hints, and what is proposed for them."""
    from ledger_sync.ledger.decided import suspense_items

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        found = suspense_items(connection, now_ms=host.now_ms(), everything=everything)
    if as_json:
        host.emit({"items": found})
        return
    columns = ["item", "kind", "terminal", "epoch", "sequence", "card", "merchant", "yuan", "age", "hint", "decision"]
    show_items(host, "set aside: decided by the card's proof, or by two persons", columns, found)


@suspense.command("resolve", epilog=EXAMPLE + 'onecard ledger suspense resolve 17 --spent --reason "receipt seen"')
def suspense_resolve(
    context: typer.Context,
    *,
    item: ItemNumber,
    spent: Annotated[
        bool | None, typer.Option("--spent/--not-spent", help="It goes to the merchant, or back to the card.")
    ] = None,
    reason: Reason = "",
    confirm: Confirm = False,
    withdraw: Withdraw = False,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Decide a debit that no card proves. One person proposes, another says the same with --confirm."""
    outcome = None if spent is None else "spent" if spent else "not spent"
    if outcome is None and not withdraw:
        raise typer.BadParameter("say --spent or --not-spent")
    request = {"subject": "suspense", "item": item, "outcome": outcome, "reason": reason, "operator": operator}
    decide(host_of(context), site, request, confirm=confirm, withdraw=withdraw, as_json=as_json)


@quarantine.command("list", epilog=EXAMPLE + "onecard ledger quarantine list --site canteen")
def quarantine_list(
    context: typer.Context, *, site: SitePath = Path(), everything: All = False, as_json: AsJson = False
) -> None:
    """Records kept raw because they do not prove themselves. With reason, age, and what is proposed for them."""
    from ledger_sync.ledger.decided import quarantine_items

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        found = quarantine_items(connection, now_ms=host.now_ms(), everything=everything)
    if as_json:
        host.emit({"items": found})
        return
    columns = ["item", "terminal", "epoch", "sequence", "type", "yuan", "age", "reason", "decision"]
    show_items(host, "quarantine: came, but does not prove itself", columns, found)


@quarantine.command("retry", epilog=EXAMPLE + "onecard ledger quarantine retry 3 --operator Li --site canteen")
def quarantine_retry(
    context: typer.Context,
    *,
    item: ItemNumber,
    reason: Reason = "",
    confirm: Confirm = False,
    withdraw: Withdraw = False,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Judge a kept record again by what is known now. One person proposes, another says the same with --confirm."""
    request = {"subject": "quarantine", "item": item, "outcome": "retry", "reason": reason, "operator": operator}
    decide(host_of(context), site, request, confirm=confirm, withdraw=withdraw, as_json=as_json)


@quarantine.command("reject", epilog=EXAMPLE + 'onecard ledger quarantine reject 3 --reason "forged" --site canteen')
def quarantine_reject(
    context: typer.Context,
    *,
    item: ItemNumber,
    reason: Reason = "",
    confirm: Confirm = False,
    withdraw: Withdraw = False,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Close a kept record for good; its bytes stay. One person proposes, another says the same with --confirm."""
    request = {"subject": "quarantine", "item": item, "outcome": "reject", "reason": reason, "operator": operator}
    decide(host_of(context), site, request, confirm=confirm, withdraw=withdraw, as_json=as_json)


def decide(host: Host, site: Path, request: dict[str, object], *, confirm: bool, withdraw: bool, as_json: bool) -> None:
    if confirm and withdraw:
        raise typer.BadParameter("--confirm and --withdraw exclude each other")
    verb = "withdraw" if withdraw else "confirm" if confirm else "propose"
    told = changed(host, host.ledger(site), {"verb": verb} | request)
    if as_json:
        host.emit(told)
        return
    subject = f"{told['subject']} item {told['item']}"
    if verb == "withdraw":
        host.say(f"{subject}: nothing is proposed any more.")
    elif verb == "confirm":
        host.say(f"{subject}: {told['outcome']}, by {told['proposed_by']} and {told['confirmed_by']}.")
    else:
        host.say(f"{subject}: {told['outcome']} is proposed. Next: another operator says the same with --confirm")


def show_items(host: Host, title: str, columns: list[str], items: list[dict[str, Any]]) -> None:
    rows: list[list[object]] = [[_cell(host, item, column) for column in columns] for item in items]
    if rows:
        host.table(title, columns, rows)
    else:
        host.say("Nothing is open.")


def _cell(host: Host, item: dict[str, Any], column: str) -> object:
    if column == "yuan":
        return "unknown" if item["amount_cents"] is None else host.yuan(item["amount_cents"])
    if column == "age":
        return age(item["age_ms"])
    if column == "decision":
        decision = item["decision"]
        if decision is None:
            return ""
        persons = " and ".join(filter(None, (decision["proposed_by"], decision["closed_by"])))
        return f"{decision['outcome']}, {decision['state']}: {persons}"
    if column == "sequence" and item.get("last_sequence", 0) > item["sequence"]:
        return f"{item['sequence']}–{item['last_sequence']}"
    return "" if item[column] is None else item[column]
