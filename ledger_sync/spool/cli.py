"""`onecard spool`: what the front-end's spool holds, read beside the running server without a right to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

import typer

if TYPE_CHECKING:
    from ledger_sync.spool.reader import SpoolReader

EXAMPLE: Final = "\b\nExample:\n  "
ROWS_LISTED_MAX: Final = 1_000

SitePath = Annotated[
    Path, typer.Option("--site", "--config", envvar="ONECARD_SITE", help="The site's directory, or its site.toml.")
]
FrontendNumber = Annotated[
    int | None, typer.Option("--frontend", min=1, help="Number of one of several front-ends; else that of [frontend].")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]


class Host(Protocol):
    """What the command line lends."""

    def spool(self, path: Path, number: int | None = None) -> Path: ...
    def control(self, path: Path, number: int | None = None) -> str: ...
    def frontends(self, path: Path) -> list[int]: ...
    def ask(self, address: str, request: Mapping[str, object]) -> dict[str, Any]: ...
    def answers(self, address: str) -> bool: ...
    def free_bytes(self, path: Path) -> tuple[int, int]: ...
    def now_ms(self) -> int: ...
    def complain(self, sentence: str) -> None: ...
    def moment(self, utc_ms: int | None) -> str: ...
    def emit(self, value: object) -> None: ...
    def say(self, text: str) -> None: ...
    def yuan(self, cents: int) -> str: ...
    def day(self, trade_day: int) -> str: ...
    def table(self, title: str, columns: list[str], rows: list[list[object]]) -> None: ...


app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The front-end's spool on disk, beside the running server."
)


@app.command("totals", epilog=EXAMPLE + "onecard spool totals --json --site canteen")
def totals(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="All front-ends of the site; what two spools hold is named as twins.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Records and money by terminal, trade day and merchant (商户). Pruned rows stay counted."""
    host = host_of(context)
    if everywhere:
        with ExitStack() as stack:
            readers = [stack.enter_context(reading(host, site, number)) for number in host.frontends(site)]
            whole = union_of(readers)
        if as_json:
            host.emit(whole)
            return
        for one in whole["spools"]:
            host.say(f"front-end {one['spool']['frontend']}: {_summary(host, one)}")
        twins = whole["twins"]
        host.say(f"held by two spools: {_summary(host, twins)}; {twins['differing']} of them differ")
        return
    with reading(host, site, frontend) as reader:
        found = totals_of(reader)
    if as_json:
        host.emit(found)
        return
    columns = ["terminal", "epoch", "trade day", "type", "records", "yuan"]
    rows: list[list[object]] = [
        [one["terminal"], one["epoch"], host.day(one["trade_day"]), one["type_name"], one["count"],
         host.yuan(one["cents"])]
        for one in found["totals"]
    ]  # fmt: skip
    host.table("records by terminal and trade day", columns, rows)
    merchants: list[list[object]] = [
        [one["merchant"], one["count"], host.yuan(one["cents"])] for one in found["merchants"]
    ]
    host.table("money by merchant, from the rows still stored", ["merchant", "records", "yuan"], merchants)
    host.say(_summary(host, found))


@app.command("show", epilog=EXAMPLE + "onecard spool show --terminal 1001 --unsettled --site canteen")
def show(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    frontend: FrontendNumber = None,
    terminal: Annotated[int | None, typer.Option(min=1, help="Only rows of this terminal.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only rows behind this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=ROWS_LISTED_MAX, help="At most so many rows.")] = 20,
    unsettled: Annotated[bool, typer.Option("--unsettled", help="Only rows without a receipt.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rows in order of intake, records (流水) decoded. Card numbers show their last digits only."""
    from protocol.codes import RowKind

    named = {int(one): one.name.lower() for one in RowKind}
    host = host_of(context)
    with reading(host, site, frontend) as reader:
        found = reader.rows(after_row=after, terminal=terminal, unsettled=unsettled, limit=limit)
    if as_json:
        host.emit({"rows": [asdict(one) for one in found]})
        return
    columns = ["row", "kind", "terminal", "epoch", "first", "last", "receipt", "records", "yuan", "fault"]
    rows: list[list[object]] = [
        [one.row, named.get(one.kind, one.kind), one.terminal, one.epoch, one.first, one.last,
         "yes" if one.settled else "no", len(one.records),
         host.yuan(sum(record.amount_cents for record in one.records)), one.fault]
        for one in found
    ]  # fmt: skip
    host.table("rows", columns, rows)


@app.command("verify", epilog=EXAMPLE + "onecard spool verify --site canteen")
def verify(
    context: typer.Context, site: SitePath = Path(), frontend: FrontendNumber = None, as_json: AsJson = False
) -> None:
    """Read every row and name what contradicts itself. Exit code 4 if anything does."""
    host = host_of(context)
    with reading(host, site, frontend) as reader:
        findings = reader.verify()
    if as_json:
        host.emit({"sound": not findings, "findings": findings})
    else:
        for finding in findings:
            host.say(finding)
        host.say("the spool contradicts itself" if findings else "the spool is sound")
    if findings:
        raise typer.Exit(4)


def totals_of(reader: SpoolReader) -> dict[str, Any]:
    """What `spool totals --json` prints: identity, totals, merchants, ranges, and the sums a clearing compares."""
    from protocol.codes import RecordType
    from protocol.records import MONEY_TYPES

    named = {int(one): one.name.lower() for one in RecordType}
    money = {int(one) for one in MONEY_TYPES}
    listed = [one | {"type_name": named.get(one["type"], str(one["type"]))} for one in reader.totals()]
    merchants: dict[int, list[int]] = {}
    for one in reader.merchants():
        total = merchants.setdefault(one["merchant"], [0, 0])
        total[0] += one["count"]
        total[1] += one["cents"]
    return {
        "spool": reader.identity(),
        "records": sum(one["count"] for one in listed),
        "count": sum(one["count"] for one in listed if one["type"] in money),
        "amount_cents": sum(one["cents"] for one in listed if one["type"] in money),
        "totals": listed,
        "merchants": [
            {"merchant": merchant, "count": count, "cents": cents}
            for merchant, (count, cents) in sorted(merchants.items())
        ],
        "epochs": reader.epochs(),
    }


def union_of(readers: Sequence[SpoolReader]) -> dict[str, Any]:
    """What `spool totals --all --json` prints: the totals of each spool, and what is to be taken off their sum."""
    from ledger_sync.spool.twins import find_twins

    twins = find_twins(readers)
    merchants = [{"merchant": one, "count": n, "cents": cents} for one, (n, cents) in sorted(twins.merchants.items())]
    return {
        "spools": [totals_of(reader) for reader in readers],
        "twins": {
            "records": twins.records,
            "count": twins.count,
            "amount_cents": twins.amount_cents,
            "merchants": merchants,
            "differing": twins.differing,
        },
    }


def _summary(host: Host, found: dict[str, Any]) -> str:
    money = f"{found['count']}, {host.yuan(found['amount_cents'])} yuan"
    return f"{found['records']} records; purchases and greys: {money}"


def host_of(context: typer.Context) -> Host:
    """What the command line lends this verb."""
    return cast(Host, context.obj)


@contextmanager
def reading(host: Host, site: Path, frontend: int | None) -> Iterator[SpoolReader]:
    """The spool of one front-end, beside its server. Raises SpoolFailure where there is none."""
    from ledger_sync.errors import SpoolFailure
    from ledger_sync.spool.reader import SpoolReader

    path = host.spool(site, frontend)
    if not path.exists():
        raise SpoolFailure(f"{path}: there is no spool yet; `onecard serve` makes it")
    with SpoolReader.open(str(path)) as reader:
        yield reader
