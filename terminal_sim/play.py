"""`onecard sim run`, composed: files, fleet, run, control socket, and what is left behind.

    prepare (read and check everything) → start (on the ports of one process) → … → artefacts, report, exit code

`run.json` in the dump directory says what was asked, so that a continued run is the same run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, Self

from protocol.parameters import Parameters, decode_parameters
from protocol.ports import Clock, Log, Network, Random
from terminal_sim.artefacts import LiveFiles, write_artefacts
from terminal_sim.card_kinds import Card
from terminal_sim.control import ControlSocket
from terminal_sim.faults import Chance, Fault, FillMemory, parse_faults
from terminal_sim.fleet import Fleet
from terminal_sim.incidents import Reseat
from terminal_sim.load import Profile, TapPlan
from terminal_sim.load_station import LoadOrder, parse_orders
from terminal_sim.oracle import Oracle
from terminal_sim.population import CardShelf, Chips, Seat, SetupError, SimPlace, load_cards
from terminal_sim.report import write_report
from terminal_sim.run import EXIT_DISAGREEMENT, EXIT_DONE, Patience, Run
from terminal_sim.seats import load_seat, load_seats
from terminal_sim.truth import TRUTH_FILE, Truth

RUN_FILE: Final = "run.json"
MODE_DIRECTORY: Final = 0o700
EVENTS_KEPT_MAX: Final = 1_000
SPARE_DEVICES: Final = 16  # terminals that may be replaced in one run

Emit = Callable[[dict[str, Any]], None]


class World(Protocol):
    """The real ports of one process."""

    @property
    def clock(self) -> Clock: ...
    @property
    def network(self) -> Network: ...
    @property
    def random(self) -> Random: ...
    @property
    def log(self) -> Log: ...
    def on_signal(self, callback: Callable[[], None]) -> None: ...
    def stop(self, exit_code: int = 0) -> None: ...


@dataclass(slots=True, kw_only=True)
class Asked:
    """What makes a run this run: the same values give the same taps and the same faults."""

    terminals: int
    taps: int
    rate: float
    seed: int
    faults: str = ""
    profile: str = Profile.POISSON.value


@dataclass(slots=True, kw_only=True)
class Circumstances:
    """What may differ when a run is continued."""

    addresses: tuple[str, ...]
    """Of front-ends: each terminal has one as its first, in turn, and moves on from one that it loses."""
    dump: Path | None = None
    report: Path | None = None
    control: str = ""
    resume: bool = False
    connect_ms: int = 10_000
    drain_ms: int = 60_000
    keep_log: bool = False
    card_check: bool = True
    """End with a card check: every torn card is tapped once, with nothing for sale."""
    parameters: Path | None = None
    """The site's parameters (docs/parameters.md); None: no limits, and in a fleet of several kinds one meal that is
    served all day."""
    orders: Path | None = None
    """Load orders, JSON lines as the ledger exports them."""


class Play:
    """One run; `close` after `world.run` has returned. Also a context manager."""

    def __init__(
        self, asked: Asked, circumstances: Circumstances, *, faults: list[Fault], seats: list[Seat], files: ExitStack
    ) -> None:
        self.result: dict[str, Any] = {}
        """What sim.json holds, when the run is over."""
        self._asked = asked
        self._given = circumstances
        self._faults = faults
        self._seats = seats
        self._files = files
        self._events: list[dict[str, Any]] = []
        self._emit: Emit = lambda event: None
        self._run: Run | None = None
        self._control: ControlSocket | None = None
        self._live: LiveFiles | None = None
        self._failure: BaseException | None = None

    @classmethod
    def prepare(cls, place: SimPlace, asked: Asked, circumstances: Circumstances) -> Self:
        """Read and check everything that can be wrong before a terminal boots.

        Raises:
            SetupError, FaultSpecError: what was asked cannot be done; the text says what to do.
            OSError, ProtocolError: files that cannot be read, or are damaged.
        """
        if not circumstances.addresses:
            raise SetupError("--connect names no front-end; an example is 127.0.0.1:4700")
        faults = parse_faults(asked.faults)
        Profile(asked.profile)
        dump = circumstances.dump
        seats = load_seats(place, asked.terminals)
        opening = load_cards(place)
        if dump is not None:
            dump.mkdir(mode=MODE_DIRECTORY, parents=True, exist_ok=True)
            _claim(dump, asked, resume=circumstances.resume)
        elif circumstances.resume:
            raise SetupError("--resume goes on with what a dump directory holds; name it with --dump")
        files = ExitStack()
        play = cls(asked, circumstances, faults=faults, seats=seats, files=files)
        with files:
            fills = any(isinstance(one, FillMemory) for one in faults)
            small = [Chance(asked.seed).fillable(asked.terminals)] if fills else []
            play.chips = Chips(dump, chips=len(seats) + SPARE_DEVICES, small=small)
            play.reseat = partial(load_seat, place)
            files.callback(play.chips.close)
            play.cards = CardShelf(dump, opening)
            files.callback(play.cards.close)
            oracle = Oracle({seat.secrets.terminal: seat.secrets.merchant for seat in seats})
            for image in opening:
                oracle.issued(image)
            play.truth = Truth(oracle, dump / TRUTH_FILE if dump is not None else None)
            files.callback(play.truth.close)
            play.truth.reconcile(play.cards)
            given = circumstances
            play.parameters = decode_parameters(given.parameters.read_bytes()) if given.parameters is not None else None
            play.orders = parse_orders(given.orders.read_bytes()) if given.orders is not None else []
            play.opening = opening
            play._files = files.pop_all()
        return play

    def start(self, world: World, emit: Emit) -> None:
        """For `Runtime.run`; ends with `world.stop(exit code)`. Raises OSError if the control socket is taken."""
        asked, given = self._asked, self._given
        self._emit = emit
        self._live = LiveFiles(given.dump, world.clock)
        self._files.callback(self._live.close)
        fleet = Fleet(
            seats=self._seats,
            chips=self.chips,
            cards=self.cards,
            truth=self.truth,
            opening=self.opening,
            addresses=given.addresses,
            seed=asked.seed,
            clock=world.clock,
            network=world.network,
            random=world.random,
            log=world.log if given.keep_log else _no_log,
            note=self._note,
            on_session=self._live.session,
            parameters=self.parameters,
            orders=self.orders,
        )
        plan = TapPlan(
            seed=asked.seed,
            taps=asked.taps,
            rate=asked.rate,
            terminals=asked.terminals,
            cards=len(self.opening),
            profile=Profile(asked.profile),
        )
        self._clock = world.clock
        run = self._run = Run(
            fleet,
            plan,
            self._faults,
            clock=world.clock,
            patience=Patience(connect_ms=given.connect_ms, drain_ms=given.drain_ms),
            emit=self._told,
            walks=fleet.walks(),
            on_thief=self._live.thief,
            finished=lambda exit_code: world.stop(self._finished(exit_code)),
            checks_cards=given.card_check,
            reseat=self.reseat,
        )
        if given.control:
            self._control = ControlSocket(given.control, network=world.network, run=run)
            self._control.start()
        world.on_signal(run.stop)
        self._told(
            {"event": "started", "utc_ms": world.clock.now_ms(), "resumed_taps": self.truth.taps_done} | asdict(asked)
        )
        run.start()

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside

    chips: Chips
    reseat: Reseat
    cards: CardShelf
    truth: Truth
    opening: list[Card]
    _clock: Clock
    parameters: Parameters | None
    orders: list[LoadOrder]

    def _note(self, event: str, **facts: object) -> None:
        assert self._run is not None
        self._run.note(event, **facts)

    def _told(self, event: dict[str, Any]) -> None:
        if event["event"] != "progress" and len(self._events) < EVENTS_KEPT_MAX:
            self._events.append(event)
        self._emit(event)

    def _finished(self, exit_code: int) -> int:
        run = self._run
        assert run is not None
        if self._control is not None:
            self._control.close()
        self.result = write_artefacts(
            self._given.dump, run.fleet, self.chips, self._facts(run, exit_code), now_ms=self._clock.now_ms()
        )
        if exit_code == EXIT_DONE and not self.result["agrees"]:
            exit_code = EXIT_DISAGREEMENT
        report = write_report(self._given.report, self.result) if self._given.report is not None else None
        shown = ("taps_made", "sold", "records_created", "records_acknowledged", "late", "agrees", "drained")
        self._emit(
            {
                "event": "finished",
                "exit_code": exit_code,
                **{name: self.result[name] for name in shown},
                "ack_ms_p50": self.result["ack_ms"]["p50"],
                "ack_ms_p99": self.result["ack_ms"]["p99"],
                "recovery_records_per_second": self.result["recovery_records_per_second"],
                "report": str(report) if report is not None else None,
            }
        )
        return exit_code

    def _facts(self, run: Run, exit_code: int) -> dict[str, Any]:
        fleet, figures = run.fleet, run.fleet.figures
        thief = run.selling.thief
        return {
            **asdict(self._asked),
            "exit_code": exit_code,
            "taps_made": fleet.truth.taps_done,
            "sold": len(fleet.truth.oracle.sold),
            "interrupted": fleet.truth.interrupted,
            "unserved": fleet.unserved,
            "late": figures.late,
            "lateness_ms": figures.lateness.as_dict(),
            "records_created": figures.created,
            "records_acknowledged": figures.acknowledged_total,
            "drained": exit_code == EXIT_DONE,
            "missing": run.missing,
            "selling_ms": run.selling_ms,
            "drain_ms": run.drain_ms,
            "ack_ms": figures.ack.as_dict(),
            "recovery": [each.as_dict(figures.base_ms) for each in figures.episodes],
            "recovery_records_per_second": figures.recovery_records_per_second(),
            "lists_applied": figures.lists_applied,
            "doors": run.walks.as_dict(),
            "thief": {"taps": thief.taps, "accepted": thief.accepted, "refused": thief.refused},
            "faults_fired": fleet.faults_fired,
            "torn_by_kind": fleet.torn_by_kind,
            "card_check": asdict(run.checks),
            "events": self._events,
            "timeline_columns": ["ms", "taps", "sold", "records", "acknowledged", "backlog", "online", "late"],
            "timeline": figures.samples,
        }


def _claim(dump: Path, asked: Asked, *, resume: bool) -> None:
    """Make the directory this run's, or find that it is. Raises SetupError."""
    path = dump / RUN_FILE
    wanted = asdict(asked)
    if not path.exists():
        path.touch(0o600)
        path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        return
    if not resume:
        raise SetupError(
            f"{dump} holds a run already: terminals and cards remember it. Go on with --resume, or take an empty "
            "--dump and a new site (a terminal that starts again from nothing is a fork)"
        )
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        held = {}  # killed while it was written, before anything happened
        path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    for name, value in wanted.items():
        if held and held.get(name) != value:
            raise SetupError(f"{dump} holds a run with --{name} {held.get(name)}; --resume needs the same, not {value}")


def _no_log(event: str, /, **facts: object) -> None:
    """Keeps nothing."""
