"""The simulator's verbs: `onecard sim run|show|cards`.

What they need of the world comes from the command line through typer's context (`Host`, implemented in the root).
Exit codes of `run`: 0 every record acknowledged and flash and cards agree, 1 not, 2 asked wrongly, 3 no terminal was
let in, 4 damaged files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

import typer

from protocol.errors import ProtocolError
from terminal_sim.errors import FlashMisuse
from terminal_sim.faults import FaultSpecError
from terminal_sim.load import Profile
from terminal_sim.population import SetupError, SimPlace

if TYPE_CHECKING:
    from terminal_sim.play import Asked, Circumstances, Play

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_DAMAGED: Final = 4
LOG_FILE: Final = "sim.log"
ROWS_SHOWN: Final = 40
EXAMPLE: Final = "\b\nExample:\n  "


class Host(Protocol):
    """What the command line lends."""

    def simulator(self, path: Path) -> SimPlace: ...
    def run(self, start: Callable[[Any], None], *, name: str, log_file: Path | None = None) -> int: ...
    def locked(self, directory: Path) -> AbstractContextManager[None]: ...
    def emit(self, value: object) -> None: ...
    def say(self, text: str) -> None: ...
    def complain(self, sentence: str) -> None: ...
    def table(self, title: str, columns: list[str], rows: list[list[object]]) -> None: ...


def _host(context: typer.Context) -> Host:
    return cast(Host, context.obj)


app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Simulated terminals (模拟机具).")

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]
DumpDir = Annotated[Path, typer.Argument(metavar="DUMP", help="The --dump directory of a run.")]


@app.command(
    "run",
    epilog=EXAMPLE
    + "onecard sim run --connect 127.0.0.1:4700 --site canteen --terminals 20 --taps 2000 --rate 50 "
    + '--faults "cut:at=40%,seconds=5" --dump run1 --report run1',
)
def run(
    context: typer.Context,
    *,
    connect: Annotated[
        list[str],
        typer.Option(metavar="HOST:PORT", help="The front-end's terminal port; given twice, terminals move over."),
    ],
    site: Annotated[Path, typer.Option(envvar="ONECARD_SITE", help="The site's directory, or its site.toml.")] = Path(),
    terminals: Annotated[int, typer.Option(min=1, max=100_000, help="How many terminals of the registry play.")] = 20,
    taps: Annotated[int, typer.Option(min=0, max=1_000_000_000, help="Taps of the whole run.")] = 1000,
    rate: Annotated[float, typer.Option(min=0.01, max=100_000, help="Taps per second of the whole fleet.")] = 50,
    seed: Annotated[int, typer.Option(help="Gives taps, prices, clocks and faults.")] = 1,
    faults: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="What goes wrong: cut:at=40%,seconds=5; blackhole:…; power:at=30%,terminals=3; torn:every=500; "
            "full:at=60%; thief:card=any,at=55%,rate=10. Several are joined by ';'.",
        ),
    ] = "",
    profile: Annotated[Profile, typer.Option(help="How taps are spread over the time.")] = Profile.POISSON,
    dump: Annotated[
        Path | None, typer.Option(help="Keep terminals' and cards' memories and the results here; else in memory.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write report.html, with pictures, here.")] = None,
    connect_seconds: Annotated[float, typer.Option(min=0, help="Wait so long for terminals to come online.")] = 10,
    drain_seconds: Annotated[float, typer.Option(min=0, help="Wait so long for the last records.")] = 60,
    parameters: Annotated[
        Path | None, typer.Option(help="Parameters (参数) of the terminals; else no limits, and meals at any hour.")
    ] = None,
    orders: Annotated[Path | None, typer.Option(help="Load orders (充值单) for the load stations, JSON lines.")] = None,
    control: Annotated[str, typer.Option(metavar="PATH", help="Control socket: status, thief, cut, stop.")] = "",
    card_check: Annotated[
        bool,
        typer.Option(
            "--card-check/--no-card-check", help="End by tapping every torn card (闪卡) once, without a sale."
        ),
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a killed run, or begin it.")] = False,
    log: Annotated[Path | None, typer.Option(help="Terminals' log; usually sim.log in the dump.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let firmware-faithful terminals sell against a real front-end, with faults, and account for every cent.

    Terminals of the kinds pos, meal and load_station play, in the order of the registry: tills sell and now and then
    give back, meal terminals book, cancel, hand out and sell, load stations execute their orders; people walk through
    the doors that are enrolled. A line of JSON per event on stdout, a table on a terminal. The load is open: taps have
    their moments, late ones are counted. Ends when every record is acknowledged.
    """
    from terminal_sim.play import Asked, Circumstances
    from terminal_sim.progress import LiveTable

    host = _host(context)
    is_live = sys.stdout.isatty() and not as_json
    show = LiveTable(sys.stdout).show if is_live else host.emit
    log = log if log is not None or dump is None else dump / LOG_FILE
    asked = Asked(terminals=terminals, taps=taps, rate=rate, seed=seed, faults=faults, profile=profile.value)
    given = Circumstances(
        addresses=tuple(each for one in connect for each in one.split(",") if each),
        dump=dump,
        report=report,
        control=str(Path(control).absolute()) if control else "",
        resume=resume,
        connect_ms=int(connect_seconds * 1000),
        drain_ms=int(drain_seconds * 1000),
        keep_log=log is not None,
        card_check=card_check,
        parameters=parameters,
        orders=orders,
    )
    with nullcontext() if dump is None else host.locked(dump), _prepared(host, site, asked, given) as play:
        code = host.run(lambda world: play.start(world, show), name="sim", log_file=log)
    if is_live and play.result:
        _summary(host, play.result)
    for each in play.result.get("missing", [])[:ROWS_SHOWN]:
        host.complain(f"terminal {each['terminal']}: {each['unacknowledged']} records unacknowledged, {each['state']}")
    raise typer.Exit(code)


def _prepared(host: Host, site: Path, asked: Asked, given: Circumstances) -> Play:
    """The run with everything read and checked; what cannot be is told, and ends the command."""
    from terminal_sim.play import Play

    try:
        return Play.prepare(host.simulator(site), asked, given)
    except (SetupError, FaultSpecError) as error:
        host.complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except (ProtocolError, FlashMisuse) as error:
        host.complain(str(error))
        raise typer.Exit(EXIT_DAMAGED) from None


def _summary(host: Host, sim: dict[str, Any]) -> None:
    ack = sim["ack_ms"]
    host.table(
        f"Run with seed {sim['seed']}",
        ["", ""],
        [
            ["taps made", f"{sim['taps_made']:,} of {sim['taps']:,}, {sim['late']:,} late"],
            ["sold", f"{sim['sold']:,}"],
            ["records", f"{sim['records_created']:,}, acknowledged {sim['records_acknowledged']:,}"],
            ["terminals say", f"{sim['flash']['money_cents'] / 100:,.2f}"],
            ["cards have paid", f"{sim['oracle']['executed_cents'] / 100:,.2f}"],
            ["flash and cards", "agree" if sim["agrees"] else "DISAGREE"],
            ["tap to acknowledgement", f"p50 {ack['p50']} ms, p99 {ack['p99']} ms"],
            ["recovery", f"{sim['recovery_records_per_second'] or '–'} records/s"],
        ],
    )


@app.command("show", epilog=EXAMPLE + "onecard sim show run1")
def show(context: typer.Context, dump: DumpDir, as_json: AsJson = False) -> None:
    """What the terminals' memories said at the end of a run."""
    host = _host(context)
    rows = _read(host, dump, "terminals.json")["terminals"]
    if as_json:
        host.emit(rows)
        return
    host.table(
        f"{len(rows)} terminals",
        ["terminal", "merchant", "boots", "issued", "acknowledged", "settled", "cents", "list"],
        [
            [
                row["terminal"],
                row["merchant"],
                row["boots"],
                sum(each["issued"] for each in row["epochs"]),
                sum(each["acknowledged"] for each in row["epochs"]),
                sum(each["settled"] for each in row["epochs"]),
                sum(each["running_sum_cents"] for each in row["epochs"]),
                f"{row['list']['generation']}.{row['list']['counter']}",
            ]
            for row in rows[:ROWS_SHOWN]
        ],
    )
    if len(rows) > ROWS_SHOWN:
        host.say(f"… and {len(rows) - ROWS_SHOWN} more; --json has them all")


@app.command("cards", epilog=EXAMPLE + "onecard sim cards run1")
def cards(context: typer.Context, dump: DumpDir, as_json: AsJson = False) -> None:
    """What the cards' purses held at the end of a run."""
    host = _host(context)
    rows = _read(host, dump, "cards.json")["cards"]
    if as_json:
        host.emit(rows)
        return
    used = [row for row in rows if row["counter"]]
    host.table(
        f"{len(rows)} cards, {len(used)} used",
        ["card", "kind", "opening cents", "purse cents", "debits", "torn"],
        [
            [*(row[name] for name in ("number", "kind", "opening_cents", "purse_cents", "counter")), row["torn"]]
            for row in used[:ROWS_SHOWN]
        ],
    )


def _read(host: Host, dump: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((dump / name).read_text(encoding="utf-8"))
    except OSError as error:
        host.complain(f"{dump / name}: {error.strerror}; a run writes it when it ends")
        raise typer.Exit(EXIT_REFUSED) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        host.complain(f"{dump / name}: not what a run writes")
        raise typer.Exit(EXIT_DAMAGED)
    return found
