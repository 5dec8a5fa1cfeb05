"""`onecard keys`: the verbs over `onecard_keys.py`. They run where the masters are, never beside a server (R36)."""

from __future__ import annotations

import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from onecard_host import EXIT_USAGE, Host

if TYPE_CHECKING:
    from onecard_keys import Progress

EXAMPLE: Final = "\b\nExample:\n  "
CARDS_WORTH_A_BAR: Final = 2_000

SitePath = Annotated[Path, typer.Option("--site", "--config", envvar="ONECARD_SITE", help="The site's directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Keys of a site, its terminals and cards (密钥). One card one key (一卡一密); no key is ever shown.",
)

frontends_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Further front-ends (前置机) of a site.")
app.add_typer(frontends_app, name="frontend")


class Kind(Enum):
    """Terminal kinds that can be enrolled."""

    POS = "pos"
    MEAL = "meal"
    DOOR = "door"
    LOAD_STATION = "load_station"


class Document(Enum):
    """Lists that people publish."""

    PARAMETERS = "parameters"
    PERMISSIONS = "permissions"


class SuiteName(Enum):
    """What a terminal's link or proofs are made with."""

    A = "A"
    B = "B"


@app.command(epilog=EXAMPLE + "onecard keys init --site canteen --site-id 42 --time-zone Asia/Shanghai")
def init(
    context: typer.Context,
    site: SitePath = Path(),
    site_id: Annotated[int, typer.Option(min=1, max=0xFFFF_FFFF, help="Number of the site.")] = 1,
    frontends: Annotated[
        int, typer.Option(min=1, max=100, help="Front-ends (前置机); one more later: onecard keys frontend add.")
    ] = 1,
    time_zone: Annotated[str, typer.Option(help="IANA name; days of trade begin at its midnight.")] = "Asia/Shanghai",
    as_json: AsJson = False,
) -> None:
    """Make every key of a new site, and its site file. Done once; nothing is ever overwritten."""
    from onecard_keys import OFFLINE, init_site
    from onecard_site import utc_offset_of

    host = _host(context)
    utc_offset_of(time_zone)  # refused before anything is written
    init_site(site, site=site_id, frontends=frontends, time_zone=time_zone, now_ms=time.time_ns() // 1_000_000)
    if as_json:
        host.emit({"site": site_id, "directory": str(site.absolute()), "frontends": frontends})
        return
    host.say(f"Site {site_id} is in {site}. Take {site / OFFLINE} away from the servers: it holds the masters.")
    host.say(f"Next: onecard keys enrol --terminals 20 --site {site}")


@app.command(epilog=EXAMPLE + "onecard keys enrol --terminals 20 --kind pos --merchants 4 --site canteen")
def enrol(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    terminals: Annotated[int, typer.Option("--terminals", "-n", min=1, max=100_000, help="How many new ones.")] = 1,
    kind: Annotated[Kind, typer.Option(help="What they are.")] = Kind.POS,
    merchants: Annotated[int, typer.Option(min=1, max=10_000, help="Merchants (商户) that get them in turn.")] = 1,
    suite: Annotated[SuiteName, typer.Option(help="A: AES. B: SM4 (国密). Fixed for this enrolment.")] = SuiteName.A,
    proof_suite: Annotated[
        SuiteName | None, typer.Option(help="Of the seals on its records (流水), where it is not that of the link.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Enrol new terminals (机具入网). Each gets its line in the registry, a link key and a seal key."""
    from onecard_keys import enrol as enrol_terminals
    from protocol.codes import ProofSuite, Suite, TerminalKind

    host = _host(context)
    proofs = proof_suite or suite
    made = enrol_terminals(
        host.site(site),
        count=terminals,
        kind=TerminalKind[kind.value.upper()],
        merchants=merchants,
        suite=Suite[suite.value],
        proof_suite=ProofSuite.SM4_CMAC if proofs is SuiteName.B else ProofSuite.AES_CMAC,
    )
    if as_json:
        host.emit({"terminals": made, "kind": kind.value, "suite": suite.value, "proof_suite": proofs.value})
        return
    host.say(f"Enrolled {len(made)} {kind.value} terminals: {made[0]} to {made[-1]}.")
    host.say("A front-end that runs takes them up within seconds; tell the ledger: onecard ledger register")


@app.command(epilog=EXAMPLE + "onecard keys replace 1003 --site canteen")
def replace(
    context: typer.Context,
    terminal: Annotated[int, typer.Argument(min=1, max=0xFFFF_FFFF, help="Its number.")],
    site: SitePath = Path(),
    as_json: AsJson = False,
) -> None:
    """Enrol a terminal anew (换机). For a device replaced, or one that lost its memory: the epoch rises."""
    from onecard_keys import replace_terminal

    host = _host(context)
    epoch = replace_terminal(host.site(site), terminal)
    if as_json:
        host.emit({"terminal": terminal, "epoch": epoch})
        return
    host.say(f"Terminal {terminal} is in epoch {epoch} now; the device of epoch {epoch - 1} can no longer log in.")
    host.say("Load the new keys into the new device, and tell the ledger: onecard ledger register")


@app.command(epilog=EXAMPLE + "onecard keys cards --count 500 --memory 50 --pboc 50 --opening 50.00 --site canteen")
def cards(
    context: typer.Context,
    *,
    site: SitePath = Path(),
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000_000, help="How many new cards.")] = 1,
    memory: Annotated[int, typer.Option(min=0, help="How many of them are sector memory cards (M1-like).")] = 0,
    pboc: Annotated[int, typer.Option(min=0, help="How many of them are PBOC purses (电子钱包); the rest AES.")] = 0,
    opening: Annotated[str, typer.Option(help="Balance they start with, in yuan.")] = "0.00",
    as_json: AsJson = False,
) -> None:
    """Personalise cards (发卡) offline. Makes images for the simulator and a register for the ledger."""
    from onecard_keys import personalise

    host = _host(context)
    cents = host.cents(opening)
    if memory + pboc > count:
        raise typer.BadParameter(f"{memory} memory cards and {pboc} PBOC purses do not fit into --count {count}")

    def make(progress: Progress | None) -> int:
        shares = {"memory": memory, "pboc": pboc}
        return personalise(host.site(site), count=count, opening_cents=cents, **shares, progress=progress)

    first = _with_progress(count, make)
    if as_json:
        shares = {"aes": count - memory - pboc, "memory": memory, "pboc": pboc}
        host.emit({"first": first, "last": first + count - 1, "count": count, **shares, "opening_cents": cents})
        return
    host.say(f"Made {count} cards, {first} to {first + count - 1}, with {host.yuan(cents)} each.")
    if memory + pboc:
        host.say(f"The last {memory + pboc}: {memory} memory cards, then {pboc} PBOC purses.")
    host.say(f"Next, into the books: onecard ledger card issue --site {site}")


@app.command(epilog=EXAMPLE + "onecard keys show --site canteen")
def show(context: typer.Context, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """List keys with their check values (校验值). For two people to compare; keys themselves are never shown."""
    from onecard_keys import key_table

    host = _host(context)
    found = key_table(host.site(site))
    if as_json:
        host.emit({"keys": [{"file": file, "key": key, "check_value": value} for file, key, value in found]})
        return
    host.table("keys", ["file", "key", "check value"], [[*row] for row in found])


@frontends_app.command("add", epilog=EXAMPLE + "onecard keys frontend add --listen 0.0.0.0:4701 --site canteen")
def frontend_add(
    context: typer.Context,
    site: SitePath = Path(),
    number: Annotated[int | None, typer.Option("--id", min=1, max=0xFFFF_FFFF, help="Its number; else free.")] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it takes terminals.")] = "127.0.0.1:0",
    as_json: AsJson = False,
) -> None:
    """Add a front-end to the site. Its own keys, data directory and section of the site file; nothing is overwritten.

    Terminals need no new keys: every front-end knows the link masters. A ledger that runs must be started again to
    know the new batch key.
    """
    from onecard_keys_frontend import add_frontend
    from onecard_runtime import split_address

    host = _host(context)
    try:
        split_address(listen)
    except ValueError as error:
        host.complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    made = add_frontend(host.site(site), number=number, listen_address=listen)
    if as_json:
        host.emit({"frontend": made, "listen_address": listen})
        return
    host.say(f"Front-end {made} is in the site file. Start the ledger again: it must know the new batch key.")
    host.say(f"Next: onecard serve --frontend {made} --site {site}")


@app.command("lists-key", epilog=EXAMPLE + "onecard keys lists-key --renew --site canteen")
def lists_key(
    context: typer.Context,
    site: SitePath = Path(),
    renew: Annotated[bool, typer.Option("--renew", help="Make the next one although there is one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the key that signs parameters and permissions. For a site without it, or before its certificate ends."""
    from onecard_lists import make_lists_key

    host = _host(context)
    certificate = make_lists_key(host.site(site), is_renewal=renew, now_ms=host.now_ms())
    if as_json:
        host.emit({"key_id": certificate.key_id, "valid_to_ms": certificate.valid_to_ms})
        return
    host.say(f"Made lists key {certificate.key_id}. Terminals take it with the next list that is published.")


@app.command(epilog=EXAMPLE + "onecard keys publish parameters parameters.json --site canteen")
def publish(
    context: typer.Context,
    kind: Annotated[Document, typer.Argument(help="What it is.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="The document as people write it.")],
    site: SitePath = Path(),
    generation: Annotated[
        int | None, typer.Option(min=1, max=0xFFFF_FFFF, help="Raise it above what lost files held.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign parameters (参数) or permissions (权限) as the next version. A running front-end sends it out."""
    from onecard_lists import publish as publish_document
    from onecard_lists import served_path
    from protocol.codes import ListKind

    host = _host(context)
    found, list_kind = host.site(site), ListKind[kind.name]
    version, is_new = publish_document(found, list_kind, file, now_ms=host.now_ms(), generation=generation)
    path = served_path(found, list_kind)
    if as_json:
        host.emit({"kind": kind.value, "version": list(version), "is_new": is_new, "file": str(path)})
        return
    number = f"{version[0]}.{version[1]}"
    if is_new:
        host.say(f"Published {kind.value} {number} in {path}. See who has it: onecard fleet list --site {site}")
    else:
        host.say(f"This document is published already, as {kind.value} {number}; nothing was changed.")


@app.command(epilog=EXAMPLE + "onecard keys lists --site canteen")
def lists(context: typer.Context, site: SitePath = Path(), as_json: AsJson = False) -> None:
    """Parameters and permissions that were published. Which version is served, and what is wrong with a file."""
    from onecard_lists import published

    host = _host(context)
    found = published(host.site(site))
    names = ["kind", "version", "issued_ms", "content_bytes", "is_served", "fault"]
    rows: list[list[object]] = [
        [
            one.kind.name.lower(),
            ".".join(map(str, one.version)),
            one.issued_ms,
            one.content_bytes,
            one.is_served,
            one.fault,
        ]
        for one in found
    ]
    if as_json:
        host.emit({"lists": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        shown = [[*row[:2], host.moment(one.issued_ms), row[3], "yes" if one.is_served else "no", one.fault]
                 for row, one in zip(rows, found, strict=True)]  # fmt: skip
        host.table("published lists", ["kind", "version", "issued", "bytes", "served", "fault"], shown)


def _host(context: typer.Context) -> Host:
    return cast(Host, context.obj)


def _with_progress(count: int, work: _Work) -> int:
    """Do the work, with a bar on stderr where there is much of it and somebody looks."""
    if count < CARDS_WORTH_A_BAR or not sys.stderr.isatty():
        return work(None)
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("cards", total=count)
        return work(lambda done: bar.advance(task, done))


if TYPE_CHECKING:
    from collections.abc import Callable

    _Work = Callable[[Progress | None], int]
