"""`python -m tests.kills.simulator SITE --connect A --die-at …`: `onecard sim run --resume` that kills itself.

A simulator's memory is files, not ports: so this composes the run as the command line does, and wraps chips and cards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from terminal_sim.play import Asked, Circumstances, Play
from tests.kills.entry import TrapHost, parsed
from tests.kills.memory import TrappedMemory

CONNECT_MS_MAX = 8_000
DRAIN_MS_MAX = 60_000


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connect", required=True)
    parser.add_argument("--terminals", type=int, required=True)
    parser.add_argument("--taps", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--faults", default="")
    parser.add_argument("--dump", type=Path, required=True)


def main() -> int:
    asked, found = parsed("simulator", _more)
    trap = asked.trap
    host = TrapHost(trap, lambda runtime: runtime)
    with host.locked(found.dump):
        play = Play.prepare(
            host.simulator(asked.site),
            Asked(terminals=found.terminals, taps=found.taps, rate=found.rate, seed=found.seed, faults=found.faults),
            Circumstances(
                addresses=(found.connect,),
                dump=found.dump,
                resume=True,
                connect_ms=CONNECT_MS_MAX,
                drain_ms=DRAIN_MS_MAX,
            ),
        )
        if trap is not None:
            memory = TrappedMemory(trap, play.chips, play.cards)
            play.chips, play.cards = memory.chips, memory.cards
        with play:
            return host.run(lambda world: play.start(world, host.emit), name="sim")


if __name__ == "__main__":
    sys.exit(main())
