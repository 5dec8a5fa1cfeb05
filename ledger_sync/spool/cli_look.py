"""`onecard spool stuck` and `spool inspect`: why money is not settled, and one row in full; both beside the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ledger_sync.spool.cli import EXAMPLE, AsJson, FrontendNumber, Host, SitePath, app, host_of, reading

if TYPE_CHECKING:
    from ledger_sync.spool.waiting import Place, Waiting

__all__ = ["app"]

EXIT_STUCK: Final = 1
EXIT_USAGE: Final = 2
RECORDS_IN_FULL_MAX: Final = 4  # of one row on a screen; --sequence shows any one of them
NOT_VERIFIED: Final = "not verified: a front-end has no key for them; the ledger checks every one"


@app.command("stuck", epilog=EXAMPLE + "onecard spool stuck --site canteen")
def stuck(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    patience: Annotated[int, typer.Option(min=1, help="Seconds that a row may wait before it counts as late.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Why money is not settled (未入账). What waits, since when, and what to do; exit code 1 if something is stuck."""
    from ledger_sync.spool.waiting import reasons, waiting_in

    host = host_of(context)
    with reading(host, site, frontend) as reader:
        waiting = waiting_in(reader, host.now_ms())
    place = _place(host, site, frontend)
    found = list(reasons(waiting, place, host.now_ms(), patience_ms=patience * 1000))
    is_stuck = any(one.is_stuck for one in found)
    if as_json:
        link = place.status["link"] if place.status is not None else None
        host.emit(
            {"stuck": is_stuck, "waiting": asdict(waiting), "link": link, "reasons": [asdict(one) for one in found]}
        )
    else:
        _show(host, waiting, place)
        for one in found:
            host.say(f"{'STUCK ' if one.is_stuck else ''}{one.name}: {one.says}\n  do: {one.what_to_do}")
        if not found:
            host.say("nothing is stuck" if waiting.rows else "everything is settled")
    if is_stuck:
        raise typer.Exit(EXIT_STUCK)


@app.command("inspect", epilog=EXAMPLE + "onecard spool inspect 17 --site canteen")
def inspect(
    context: typer.Context,
    row: Annotated[int | None, typer.Argument(min=1, metavar="[ROW]", help="Number of the row.")] = None,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    terminal: Annotated[int | None, typer.Option(min=1, max=0xFFFF_FFFF, help="Instead of ROW: of this one.")] = None,
    epoch: Annotated[int, typer.Option(min=1, max=0xFFFF, help="With --terminal.")] = 1,
    sequence: Annotated[int | None, typer.Option(min=1, max=0xFFFF_FFFF, help="With --terminal: the record.")] = None,
    as_json: AsJson = False,
) -> None:
    """One row or record (流水) in full. Every field with its place, its receipt, its bytes; card numbers are masked."""
    from ledger_sync.spool.inspection import inspected

    host = host_of(context)
    if (row is None) == (terminal is None or sequence is None):
        host.complain("name a row, or a record by --terminal, --epoch and --sequence")
        raise typer.Exit(EXIT_USAGE)
    with reading(host, site, frontend) as reader:
        numbers = [row] if row is not None else reader.rows_with((terminal or 0, epoch), sequence or 0)
        found = [view for each in numbers if (view := inspected(reader, each, sequence)) is not None]
        held = None if row is not None else reader.range_of((terminal or 0, epoch), sequence or 0)
    if not found:
        host.complain(_not_there(row, held))
        raise typer.Exit(1)
    if as_json:
        host.emit({"rows": found, "seals": NOT_VERIFIED})
        return
    for view in found:
        _show_row(host, view)


def _not_there(row: int | None, held: tuple[int, int] | None) -> str:
    if row is not None:
        return f"row {row} is not stored: it was pruned after its receipt, or never was"
    if held is not None:
        return f"the spool has held it (range {held[0]}–{held[1]}), and its row was pruned after its receipt"
    return "the spool does not hold it; `onecard fleet gaps` says why"


def _place(host: Host, site: Path, frontend: int | None) -> Place:
    """What is known beside the file."""
    from ledger_sync.spool.waiting import Place

    control = host.control(site, frontend)
    free_bytes, total_bytes = host.free_bytes(host.spool(site, frontend))
    if not host.answers(control):
        return Place(None, free_bytes=free_bytes, total_bytes=total_bytes)
    status = host.ask(control, {"verb": "status"})
    alarms = host.ask(control, {"verb": "alarms"}).get("alarms", [])
    return Place(status if status.get("ok") else None, alarms, free_bytes, total_bytes)


def _show(host: Host, waiting: Waiting, place: Place) -> None:
    link = place.status["link"] if place.status is not None else None
    rows: list[list[object]] = [
        ["rows without a receipt", waiting.rows],
        ["oldest of them received", host.moment(waiting.oldest_ms)],
        ["newest receipt", host.moment(waiting.last_settled_ms)],
        ["front-end", "running" if link else "not running here"],
    ]
    if link:
        rows.append(["link to the ledger", f"{link['state']} since {host.moment(link.get('since_ms'))}"])
        rows.append(["batches under way", link["batches_outstanding"]])
    host.table("what waits for the ledger", ["", ""], rows)
    ages: list[list[object]] = [
        [one.name, one.rows, one.records, one.count, host.yuan(one.cents)] for one in waiting.ages if one.rows
    ]
    if ages:
        host.table("by age", ["received", "rows", "records", "purchases and greys", "yuan"], ages)
    if not waiting.is_summed:
        host.say("only the oldest rows are summed")


def _show_row(host: Host, view: dict[str, Any]) -> None:
    host.table(f"row {view['row']}", ["", ""], [*_row_facts(host, view)])
    records = view["records"]
    if len(records) > RECORDS_IN_FULL_MAX:
        brief: list[list[object]] = [[one["sequence"], one["type"], host.moment(one["trade_ms"])] for one in records]
        host.table("records", ["sequence", "type", "trade time"], brief)
        host.say("one of them in full: onecard spool inspect --terminal … --epoch … --sequence …")
        return
    for one in records:
        rows: list[list[object]] = [
            [each["offset"], each["size"], each["name"], each["value"]] for each in one["fields"]
        ]
        host.table(f"record {one['sequence']}, {one['type']}", ["offset", "bytes", "field", "value"], rows)
        host.say(one["hex"])
    if records:
        host.say(f"seals and proofs are {NOT_VERIFIED}")


def _row_facts(host: Host, view: dict[str, Any]) -> Iterator[list[object]]:
    yield ["kind", view["kind"]]
    yield ["terminal / epoch", f"{view['terminal']} / {view['epoch']}"]
    yield ["sequences", f"{view['first']}–{view['last']}"]
    yield ["received", host.moment(view["received_ms"])]
    if view["range"]:
        yield ["in the range held", f"{view['range'][0]}–{view['range'][1]}"]
    receipt = view["settled"]
    if receipt:
        batch = f"rows {receipt['first_row']}–{receipt['last_row']}"
        where = f"ledger generation {receipt['generation']}, position {receipt['position']}"
        yield ["settled", f"{host.moment(receipt['settled_ms'])}, {batch}, {where}"]
    else:
        yield ["settled", "no: it waits for a receipt"]
    for name, value in view["message"].items():
        yield [name, value]
    if view["fault"]:
        yield ["FAULT", view["fault"]]
