"""Sides of one row, run in turn: servers on one core, the generator on the other, rounds interleaved, medians taken."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.broker import Broker
from bench.children import BenchFailed, Child, cores, scratch_directory, socket_directory, undisturbed
from bench.plan import Plan, Progress
from bench.site import BenchSite

WARM_UP_SECONDS: Final = 0.5
SATURATED_CPU: Final = 0.90
"""A server that uses less of its core was not the limit: something else was."""

Found = dict[str, Any]
Beside = Callable[[], AbstractContextManager[None]]


class Contest:
    """Add sides, then run; everything started ends with it."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._stack = ExitStack()
        self._server_core, generator_core = cores()
        self._directory: Path = self._stack.enter_context(scratch_directory(plan.work_dir))
        self._sockets = self._stack.enter_context(socket_directory())
        self._generator = self._stack.enter_context(Child("bench.generator", generator_core))
        self._intakes: dict[str, Child] = {}
        self._commits: dict[str, tuple[Child, dict[str, Any]]] = {}
        self._per_frame: dict[str, int] = {}
        self._beside: dict[str, Beside] = {}
        self.runs: dict[str, list[Found]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # -- sides

    def intake(
        self, name: str, terminals: int, *, records_per_frame: int = 1, outstanding: int = 1, **settings: Any
    ) -> Found:
        """A front-end and its terminals; `settings` are those of `bench.intake_server`."""
        site = BenchSite(terminals).as_json()
        directory = self._directory / name
        directory.mkdir()
        control = f"{self._sockets}/{len(self._intakes)}"
        child = self._child("bench.intake_server", site=site, directory=str(directory), control=control, **settings)
        facts = child.hear()
        self._intakes[name] = child
        facts |= {
            "control": control,
            "pid": child.pid,
            "site": site,
            "outstanding": outstanding,
        }
        self._add(name, records_per_frame, kind="intake", **facts)
        self._progress(f"{name}: {terminals:,} terminals logged in")
        return facts

    def echo(self, name: str, of: str) -> Found:
        """An echo of the frames of an intake."""
        child = self._child("bench.echo_server")
        facts = child.hear()
        self._add(name, self._per_frame[of], kind="echo", of=of, pid=child.pid, **facts)
        return facts

    def mqtt(
        self, name: str, program: str, terminals: int, *, records: int, outstanding: int, settings: Sequence[str] = ()
    ) -> None:
        """Mosquitto and as many publishers."""
        with undisturbed():
            broker = self._stack.enter_context(Broker(program, self._directory / name, self._server_core, settings))
        facts = {"terminals": terminals, "outstanding": outstanding, "address": broker.address, "pid": broker.pid}
        self._add(name, records, kind="mqtt", **facts)

    def commits(self, name: str, *, rows: int, row_bytes: int, records: int, commits_max: int) -> None:
        """Bare commits of `rows` rows with `records` each."""
        directory = self._directory / name
        directory.mkdir()
        child = self._child("bench.commits", directory=str(directory))
        self._commits[name] = child, {"rows": rows, "row_bytes": row_bytes, "commits_max": commits_max}
        self._per_frame[name] = records
        self.runs[name] = []

    def beside(self, name: str, what: Beside) -> None:
        """Something that goes on while that side is measured."""
        self._beside[name] = what

    def _child(self, module: str, **config: Any) -> Child:
        with undisturbed():
            return self._stack.enter_context(Child(module, self._server_core, **config))

    def _add(self, name: str, records_per_frame: int, **config: Any) -> None:
        self._generator.ask(do="add", name=name, records_per_frame=records_per_frame, **config)
        self._per_frame[name] = records_per_frame
        self.runs[name] = []

    # -- rounds

    def run(self, seconds: float) -> dict[str, Found]:
        """A warm-up, then the rounds; per side the medians, `per_second` in records."""
        for name in self.runs:
            self._round(name, min(seconds, WARM_UP_SECONDS))
            self.runs[name].clear()
        for number in range(1, self._plan.rounds + 1):
            for name, runs in self.runs.items():
                self._round(name, seconds)
                rate, cost = runs[-1]["per_second"] * self._per_frame[name], runs[-1].get("server_us")
                self._progress(
                    f"round {number} of {self._plan.rounds}: {name} {rate:,.0f}/s"
                    + (f" ({cost:.1f} µs a frame)" if cost else "")
                )
        return {name: summary(runs, self._per_frame[name]) for name, runs in self.runs.items()}

    def _round(self, name: str, seconds: float) -> None:
        if name in self._commits:
            child, settings = self._commits[name]
            found = child.ask(seconds=seconds, **settings)
        else:
            self._generator.ask(do="prepare", name=name, seconds=seconds)
            with self._beside.get(name, nullcontext)():
                found = self._generator.ask(do="run", name=name, seconds=seconds)
        if not found["per_second"]:
            raise BenchFailed(f"{name}: no answer within {seconds:g} s")
        self.runs[name].append(found)

    def ratio(self, over: str, under: str) -> float:
        """Records a second of one side against another's: the median of the rounds' ratios, which one bad round of
        either side does not move.
        """
        scale = self._per_frame[over] / self._per_frame[under]
        pairs = zip(self.runs[over], self.runs[under], strict=True)
        ratios: list[float] = [one["per_second"] / other["per_second"] for one, other in pairs]
        return scale * statistics.median(ratios)

    def held(self) -> dict[str, Found]:
        """End the intakes; what each spool holds, which must be what was acknowledged.

        Raises:
            BenchFailed: it is not.
        """
        acknowledged = self._generator.ask(do="facts")
        found = {}
        for name, child in self._intakes.items():
            child.end()
            held = child.hear()
            told = acknowledged[name]["acknowledged"]
            if held["records"] != told:
                raise BenchFailed(f"{name}: {told} records acknowledged, the spool holds {held['records']}")
            found[name] = {**held, "acknowledged": told}
        return found


def summary(runs: Sequence[Found], records_per_frame: int) -> Found:
    """Medians over the rounds; of the generator's share the highest."""
    found: Found = {
        name: statistics.median(run[name] for run in runs)
        for name, value in runs[0].items()
        if isinstance(value, float) and name != "generator_cpu"
    }
    rates = [run["per_second"] * records_per_frame for run in runs]
    found["per_second"] = statistics.median(rates)
    found["rounds_per_second"] = [round(rate) for rate in rates]
    found["generator_cpu"] = max(run.get("generator_cpu", 0.0) for run in runs)
    found["ran_out"] = any(run.get("ran_out", False) for run in runs)
    return found


def generator_cpu(found: dict[str, Found], *names: str) -> float:
    """The highest share of any round that goes into a result."""
    return max(float(found[name]["generator_cpu"]) for name in names)


def notes_of(found: dict[str, Found]) -> list[str]:
    """A line for each side, and what spoils it."""
    lines = []
    for name, each in found.items():
        line = f"  {name:22} {each['per_second']:11,.0f} records/s"
        if "p50_ms" in each:
            line += f"  p50 {each['p50_ms']:6.2f} ms  p99 {each['p99_ms']:6.2f} ms"
        if "server_us" in each:
            line += f"  server {each['server_us']:5.1f} µs a frame, {each['server_cpu']:4.0%} of its core"
            line += f"  generator {each['generator_us']:4.1f} µs, {each['generator_cpu']:4.0%}"
        lines.append(line + f"  rounds {' '.join(f'{rate:,}' for rate in each['rounds_per_second'])}")
        if each.get("server_cpu", 1) < SATURATED_CPU:
            lines.append(f"  {name} had less than its whole core: it waited for a disk, or other work was in the way")
    return lines
