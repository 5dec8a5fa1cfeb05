"""`onecard ledger card …`, `lost`, `release`, `cancel`, `topup`: cards in the books (docs/ledger.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ledger_sync.cli_work import (
    EXAMPLE,
    OPERATOR_UNKNOWN,
    AsJson,
    Host,
    Operator,
    SitePath,
    changed,
    host_of,
    issue_all,
    reader_of,
)
from protocol.deny_list import LOT_MAX

CardNumber = Annotated[int, typer.Argument(min=1, max=0xFFFF_FFFF, metavar="CARD", help="Card number.")]

OneCard = Annotated[
    int | None, typer.Argument(min=1, max=0xFFFF_FFFF, metavar="[CARD]", show_default=False, help="Card number.")
]
Lot = Annotated[
    int | None,
    typer.Option(
        min=0, max=LOT_MAX, help="Instead of a card: a whole issue lot (批次), 1,024 card numbers; card / 1024."
    ),
]

app = typer.Typer(rich_markup_mode=None)
"""Verbs that stand beside `card`, not under it."""
card = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Cards in the books: issue, show.")


@card.command("issue", epilog=EXAMPLE + "onecard ledger card issue --operator Li --site canteen")
def card_issue(
    context: typer.Context, *, site: SitePath = Path(), operator: Operator = OPERATOR_UNKNOWN, as_json: AsJson = False
) -> None:
    """Take the personalised cards into the books (办卡). With their opening balances; can be repeated."""
    host = host_of(context)
    told = issue_all(host, host.ledger(site), operator)
    if as_json:
        host.emit(told)
    else:
        host.say(f"{told['issued']} cards issued, {told['already_issued']} issued before.")


@card.command("show", epilog=EXAMPLE + "onecard ledger card show 1000001 --site canteen")
def card_show(context: typer.Context, *, number: CardNumber, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """What the books say of one card. The mirror is its purse as far as the ledger knows."""
    from ledger_sync.ledger.books import Books
    from ledger_sync.ledger.cards import show_card

    host = host_of(context)
    with reader_of(host.ledger(site)) as connection:
        found = show_card(Books(connection), number)
    if as_json:
        host.emit(found)
        return
    shown: list[list[object]] = [
        [name.removesuffix("_cents").replace("_", " "), _money(host, name, value)] for name, value in found.items()
    ]
    host.table(f"card {number}", ["", ""], shown)


@app.command("lost", epilog=EXAMPLE + "onecard ledger lost 1000001 --operator Li --site canteen")
def lost(
    context: typer.Context,
    *,
    number: OneCard = None,
    lot: Lot = None,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Report a card lost (挂失). Every online terminal has the new deny list (黑名单) within a second."""
    _change_card_or_lot(host_of(context), site, "lost", number, lot, operator, as_json=as_json)


@app.command("release", epilog=EXAMPLE + "onecard ledger release 1000001 --operator Li --site canteen")
def release(
    context: typer.Context,
    *,
    number: OneCard = None,
    lot: Lot = None,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Release a lost card (解挂). The next deny-list version is without it."""
    _change_card_or_lot(host_of(context), site, "release", number, lot, operator, as_json=as_json)


@app.command("cancel", epilog=EXAMPLE + "onecard ledger cancel 1000001 --yes --operator Li --site canteen")
def cancel(
    context: typer.Context,
    *,
    number: CardNumber,
    site: SitePath = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Cancel a card (作废) for ever; it stays on the deny list."""
    if not yes:
        typer.confirm(f"Cancel card {number} for ever?", abort=True, err=True)
    _change_card(host_of(context), site, "cancel", number, operator, as_json=as_json)


@app.command("topup", epilog=EXAMPLE + "onecard ledger topup 1000001 50.00 --operator Li --site canteen")
def topup(
    context: typer.Context,
    *,
    number: CardNumber,
    amount: Annotated[str, typer.Argument(metavar="YUAN", help="Cash taken in, for instance 50.00.")],
    station: Annotated[
        int, typer.Option("--station", min=0, help="The load station (充值机) that the card will go to.")
    ] = 0,
    site: SitePath = Path(),
    operator: Operator = OPERATOR_UNKNOWN,
    as_json: AsJson = False,
) -> None:
    """Take cash in for a card (充值). A load order, in flight until a load station writes it to the card."""
    host = host_of(context)
    request: dict[str, object] = {
        "verb": "topup",
        "card": number,
        "amount_cents": host.cents(amount),
        "operator": operator,
    }
    if station:
        request["station"] = station
    told = changed(host, host.ledger(site), request)
    if as_json:
        host.emit(told)
    else:
        host.say(
            f"Load order {told['load_order']}: {host.yuan(told['amount_cents'])} yuan for card {number}, in flight"
            + (f" at station {told['station']}." if told["station"] else "; no load station is registered.")
        )


def _change_card_or_lot(
    host: Host, site: Path, verb: str, number: int | None, lot: int | None, operator: str, *, as_json: bool
) -> None:
    if number is not None and lot is None:
        _change_card(host, site, verb, number, operator, as_json=as_json)
        return
    if number is not None or lot is None:
        raise typer.BadParameter("name one card, or one lot with --lot")
    told = changed(host, host.ledger(site), {"verb": verb, "lot": lot, "operator": operator})
    if as_json:
        host.emit(told)
        return
    version = ".".join(map(str, told["list_version"]))
    cards = f"cards {told['first_card']} to {told['last_card']}"
    host.say(f"Lot {lot} ({cards}) is {told['status']}; deny list (黑名单) version {version}.")


def _change_card(host: Host, site: Path, verb: str, number: int, operator: str, *, as_json: bool) -> None:
    told = changed(host, host.ledger(site), {"verb": verb, "card": number, "operator": operator})
    if as_json:
        host.emit(told)
    else:
        version = ".".join(map(str, told["list_version"]))
        host.say(f"Card {number} is {told['status']}; deny list (黑名单) version {version}.")


def _money(host: Host, name: str, value: object) -> object:
    if name.endswith("_cents") and isinstance(value, int):
        return host.yuan(value)
    return "–" if value is None else value
