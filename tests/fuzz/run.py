"""Many mutations on every target, in as many processes as there are cores; a failure replays from (target, seed).

A unit of work is one target with one seed and a number of rounds, so that a finding is replayed by exactly that unit:

    python -m tests.fuzz --target "packed row" --seed 1234 --rounds 2000
"""

from __future__ import annotations

import multiprocessing
import random
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from protocol.errors import RemoteError
from tests.fuzz.machines import MACHINES
from tests.fuzz.mutate import mutated
from tests.fuzz.streams import READERS, corpus_of, try_stream
from tests.fuzz.targets import TARGETS, Target

ROUNDS_OF_UNIT: Final = 5_000
STREAM_SHARE: Final = 0.35  # a stream is read three times
SHOWN_BYTES: Final = 400


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one process, and all that is needed to do it again."""

    target: str
    seed: int
    rounds: int


@dataclass(slots=True)
class Found:
    """What a unit came to."""

    unit: Unit
    accepted: int = 0
    refused: int = 0
    frames: int = 0
    """Inputs tried: mutated byte strings, streams, or messages to a state machine."""
    failure: str = ""


@dataclass(slots=True)
class Summary:
    """Sums over all units, by target."""

    frames: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    failures: list[Found] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, found: Found) -> None:
        name = found.unit.target
        self.frames[name] = self.frames.get(name, 0) + found.frames
        self.accepted[name] = self.accepted.get(name, 0) + found.accepted
        self.refused[name] = self.refused.get(name, 0) + found.refused
        if found.failure:
            self.failures.append(found)

    @property
    def total(self) -> int:
        return sum(self.frames.values())


def shares() -> dict[str, float]:
    """Every target of every kind, with its share of the rounds."""
    found = {name: target.frames_share for name, target in TARGETS.items()}
    found |= dict.fromkeys(READERS, STREAM_SHARE)
    return found | {name: machine.frames_share for name, machine in MACHINES.items()}


def units(frames: int, seed: int, only: str = "") -> Iterator[Unit]:
    """About `frames` inputs, spread over the targets by their shares; seeds count upwards from `seed`."""
    wanted = {name: share for name, share in shares().items() if not only or name == only}
    whole = sum(wanted.values())
    for name, share in wanted.items():
        rounds = max(1, round(frames * share / whole))
        number = 0
        while rounds > 0:
            yield Unit(name, seed + number, min(rounds, ROUNDS_OF_UNIT))
            rounds -= ROUNDS_OF_UNIT
            number += 1


def run_unit(unit: Unit) -> Found:
    """All rounds of one unit; stops at the first failure."""
    found = Found(unit)
    source = random.Random(f"{unit.target}/{unit.seed}")
    try:
        if unit.target in TARGETS:
            _decode(TARGETS[unit.target], source, unit.rounds, found)
        elif unit.target in READERS:
            _read(unit.target, source, unit.rounds, found)
        else:
            machine = MACHINES[unit.target]
            while found.frames < unit.rounds:
                taken, refused = machine.play(source)
                found.accepted += taken
                found.refused += refused
                found.frames += taken + refused
    except Exception:  # noqa: BLE001  # whatever it is, it is the finding
        found.failure = traceback.format_exc(limit=-6)
    return found


class Escaped(AssertionError):
    """A decoder let something else out than an error of the protocol, or contradicts itself."""


def _decode(target: Target, source: random.Random, rounds: int, found: Found) -> None:
    corpus, decode, encode = weighted(target), target.decode, target.encode
    for _ in range(rounds):
        data = mutated(source, corpus)
        found.frames += 1
        try:
            value = decode(data)
            if encode is not None:
                _comes_back(encode, decode, value)
        except RemoteError:
            found.refused += 1
            continue
        except Exception as error:
            raise Escaped(f"{target.name}: {type(error).__name__} for {data[:SHOWN_BYTES].hex()}") from error
        found.accepted += 1


@cache
def weighted(target: Target) -> tuple[bytes, ...]:
    """The target's corpus, half of it pieces that decode: bending those reaches deeper than bending strangers."""
    pieces = target.corpus()
    good = [piece for piece in pieces if _decodes(target, piece)]
    assert good, f"{target.name}: nothing in its corpus decodes, so nothing behind its first check is ever reached"
    return (*(good * (1 + len(pieces) // len(good))), *pieces)


def _decodes(target: Target, piece: bytes) -> bool:
    try:
        target.decode(piece)
    except RemoteError:
        return False
    return True


def _comes_back(encode: Callable[[object], bytes], decode: Callable[[bytes], object], value: object) -> None:
    try:
        again = decode(encode(value))
    except RemoteError as error:
        raise AssertionError("what was accepted is refused in its own encoding") from error
    assert again == value, "what was accepted is another value after encoding and decoding"


def _read(name: str, source: random.Random, rounds: int, found: Found) -> None:
    corpus = corpus_of(name)
    for _ in range(rounds):
        _, is_accepted = try_stream(source, name, corpus)
        found.frames += 1
        found.accepted += is_accepted
        found.refused += not is_accepted


def run(work: list[Unit], *, jobs: int, progress: Callable[[Summary, int], None] = lambda _s, _n: None) -> Summary:
    """All units; `progress` is told after each how many are done."""
    summary = Summary()
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, found in enumerate(pool.imap_unordered(run_unit, work), 1):
            summary.add(found)
            summary.seconds = time.monotonic() - started
            progress(summary, done)
        pool.close()
        pool.join()
    return summary
