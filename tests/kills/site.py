"""A small site under load whose three processes are killed and started again until every order is carried out.

Each process has its own queue of orders: a life has one, and ends by it. The load has no end of its own; when the
last order is carried out selling stops, everything drains, and what is left is judged in `verdict`.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from onecard_host import CliError, Host
from onecard_site import load_site
from tests.cli.commands import onecard_here
from tests.kills.processes import Life
from tests.kills.schedule import Planned, Role, plan
from tests.kills.traps import Moment

TERMINALS: Final = 12
MERCHANTS: Final = 3
CARDS: Final = 200
OPENING: Final = "100000.00"  # nobody runs out of money, however long the run
RATE: Final = 150
TAPS_PER_KILL: Final = 3_000  # a bound that no run reaches
FAULTS: Final = "torn:every=60"

LOOK_SECONDS: Final = 0.02
# Waits for events that come within seconds on an idle machine; a loaded one is no failure.
READY_SECONDS_MAX: Final = 90.0
ORDER_SECONDS_MAX: Final = 180.0
DRAIN_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 90.0
TRIES_MAX: Final = 20  # lives in a row that ended before the moment of their order, for want of load
KILLED: Final = -9
NOBODY_ONLINE: Final = 3


class RunFailed(Exception):
    """A process did what it must not, or an order was never reached."""


@dataclass(frozen=True, slots=True)
class Kill:
    planned: Planned
    doing: str
    at_s: float
    """Since the run began."""


@dataclass(slots=True)
class Killing:
    """What happened."""

    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0

    def counts(self) -> dict[tuple[Role, Moment], int]:
        return Counter((kill.planned.role, kill.planned.order.moment) for kill in self.kills)


class Site:
    """One run in an empty directory. Use as a context manager: no process outlives it.

    Args:
        tell: gets a line for people as each kill happens.
    """

    def __init__(self, directory: Path, *, seed: int, kills: int, tell: Callable[[str], None]) -> None:
        self.directory = directory
        self.dump = directory / "dump"
        self.result = Killing()
        self._seed = seed
        self._taps = kills * TAPS_PER_KILL
        self._tell = tell
        self._notes = directory / "notes.jsonl"
        self._queues: dict[Role, deque[Planned]] = {role: deque() for role in Role}
        for planned in plan(seed, kills):
            self._queues[planned.role].append(planned)
        self._lives: dict[Role, Life] = {}
        self._tries: Counter[Role] = Counter()
        self._address = ""
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for life in self._lives.values():
            life.close()

    # -- the run

    def run(self) -> Killing:
        """Everything, until all is drained and every process has ended in order. Raises RunFailed."""
        self._prepare()
        self._began = time.monotonic()
        while not self._is_done():
            for role in Role:
                self._step(role)
            time.sleep(LOOK_SECONDS)
        self._drain()
        self.result.seconds = time.monotonic() - self._began
        return self.result

    def _prepare(self) -> None:
        self.dump.mkdir(parents=True)
        (self.directory / "logs").mkdir()
        for arguments in (
            ("keys", "init", "--site-id", 42),
            ("keys", "enrol", "--terminals", TERMINALS, "--merchants", MERCHANTS),
            ("keys", "cards", "--count", CARDS, "--opening", OPENING),
            ("ledger", "init", "--operator", "kills"),
        ):
            done = onecard_here(*arguments, "--site", self.directory)
            if done.code:
                raise RunFailed(f"onecard {arguments}: {done.err}")

    def _is_done(self) -> bool:
        return not any(self._queues.values()) and all(
            role in self._lives and self._lives[role].planned is None and self._lives[role].ready is not None
            for role in Role
        )

    # -- one process

    def _step(self, role: Role) -> None:
        life = self._lives.get(role)
        if life is None:
            if role is not Role.SIMULATOR or self._address:
                self._start(role)
            return
        code = life.look()
        if role is Role.FRONTEND and life.ready is not None:
            self._address = str(life.ready["address"])
        if code is not None:
            life.close()
            self._ended(life, code)
            self._start(role)
            return
        life.urge()
        self._must_not_dawdle(life)

    def _start(self, role: Role) -> None:
        queue = self._queues[role]
        planned = queue.popleft() if queue else None
        arguments = [str(self.directory)]
        if role is Role.SIMULATOR:
            arguments += ["--connect", self._address, "--terminals", str(TERMINALS), "--taps", str(self._taps)]
            arguments += ["--rate", str(RATE), "--seed", str(self._seed), "--faults", FAULTS]
            arguments += ["--dump", str(self.dump)]
        log = self.directory / "logs" / f"{role.value}.log"
        self._lives[role] = Life(role, planned, arguments, log=log, notes=self._notes)

    def _ended(self, life: Life, code: int) -> None:
        """Note a kill, or put an order back that could not be carried out in that life."""
        planned = life.planned
        doing = self._note_of(life.pid)
        if code == KILLED and planned is not None and (doing or life.was_killed):
            self._killed(planned, doing or f"blind, {planned.after_ready_ms} ms after it was ready")
            return
        stopped = code == 0 and life.was_stopped and planned is not None
        alone = code == NOBODY_ONLINE and life.role is Role.SIMULATOR
        self._tries[life.role] += 1
        if not (stopped or alone) or self._tries[life.role] > TRIES_MAX:
            raise RunFailed(f"{life.role.value} ended with {code} before {planned}; its log:\n{life.last_words()}")
        if planned is not None:
            self._queues[life.role].appendleft(planned)

    def _killed(self, planned: Planned, doing: str) -> None:
        self._tries[planned.role] = 0
        kill = Kill(planned, doing, time.monotonic() - self._began)
        self.result.kills.append(kill)
        self._tell(f"{kill.at_s:6.1f} s  {len(self.result.kills):3d}  {planned}: {doing}")

    def _note_of(self, pid: int) -> str:
        if not self._notes.exists():
            return ""
        notes = [json.loads(line) for line in self._notes.read_text().splitlines()]
        return next((str(note["doing"]) for note in reversed(notes) if note["pid"] == pid), "")

    def _must_not_dawdle(self, life: Life) -> None:
        now = time.monotonic()
        if life.ready is None and now > life.started_at + READY_SECONDS_MAX:
            raise RunFailed(f"{life.role.value} does not get ready; its log:\n{life.last_words()}")
        if life.planned is not None and life.ready is not None and now > life.ready_at + ORDER_SECONDS_MAX:
            raise RunFailed(f"{life.planned} was not reached in {ORDER_SECONDS_MAX:.0f} s")

    # -- the end

    def _drain(self) -> None:
        simulator = self._lives[Role.SIMULATOR]
        self._tell(f"{time.monotonic() - self._began:6.1f} s  all orders are carried out; selling ends")
        simulator.stop()
        code = simulator.ended_within(DRAIN_SECONDS_MAX + STOP_SECONDS_MAX)
        if code != 0:
            raise RunFailed(f"the simulator ended with {code}; its log:\n{simulator.last_words()}")
        self._tell(f"{time.monotonic() - self._began:6.1f} s  terminals are drained")
        end = time.monotonic() + DRAIN_SECONDS_MAX
        while self._rows_unsettled():
            if time.monotonic() > end:
                raise RunFailed("rows of the spool were not settled in time")
            time.sleep(LOOK_SECONDS)
        for role in (Role.FRONTEND, Role.LEDGER):
            life = self._lives[role]
            life.stop()
            code = life.ended_within(STOP_SECONDS_MAX)
            if code != 0:
                raise RunFailed(f"{role.value} ended with {code} when told to stop; its log:\n{life.last_words()}")

    def _rows_unsettled(self) -> int | None:
        """By the front-end's own figures; None counts as "some"."""
        site = load_site(self.directory, {})
        try:
            answer: dict[str, Any] = Host({}).ask(site.socket(site.frontend.control_socket), {"verb": "status"})
        except CliError as error:
            raise RunFailed(f"the front-end does not answer: {error}") from None
        spool = answer.get("spool")
        return int(spool["rows_unsettled"]) if spool else 1
