"""Search the seeds for every planted bug, afresh, and say which caught it: `python -m tests.simulation.sabotage`.

    --write    into recorded.json, and the table of docs/reliability.md between its two marks

Exit code 1 if one is not caught: that is a hole in the harness.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from tests.simulation.many import cores
from tests.simulation.planted import PLANTS, SEEDS_MAX, Caught, search

RECORDED: Final = Path(__file__).with_name("recorded.json")
PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
MARKS: Final = ("<!-- planted: begin -->\n", "<!-- planted: end -->")


def recorded() -> dict[str, Any]:
    """Name → seed (None: a scene), seeds it took, and what was said."""
    if not RECORDED.exists():
        return {}
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def table(caught: dict[str, Any]) -> str:
    """As the page shows it."""
    lines = ["| planted bug | caught by | seeds it took | what spoke |", "|---|---|---|---|"]
    for planted in PLANTS:
        one = caught[planted.name]
        where = f"seed {one['seed']}" if planted.play is None else f"`{planted.play.__name__}`"
        lines.append(f"| {planted.name} | {where} | {one['tried'] if planted.play is None else '–'} | {one['said']} |")
    return "\n".join(lines) + "\n"


def _search(name: str) -> Caught | None:
    return search(next(one for one in PLANTS if one.name == name))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.sabotage", description=__doc__)
    parser.add_argument("names", nargs="*", help="of planted bugs; all of them if none is named")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes")
    parser.add_argument("--write", action="store_true", help="record what was found")
    arguments = parser.parse_args(argv)
    names = arguments.names or [one.name for one in PLANTS]
    found: dict[str, Any] = {}
    missed = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        began = time.monotonic()
        for name, caught in zip(names, pool.map(_search, names), strict=True):
            if caught is None:
                missed.append(name)
                print(f"NOT CAUGHT in {SEEDS_MAX} seeds: {name}", flush=True)
                continue
            found[name] = asdict(caught)
            by = "its scene" if caught.seed is None else f"seed {caught.seed}"
            print(f"{name}: {by}: {caught.said}", flush=True)
    print(f"{len(names) - len(missed)} of {len(names)} caught, {time.monotonic() - began:.0f} s")
    if arguments.write:
        known = {name: one for name, one in recorded().items() if name not in missed} | found
        in_order = {one.name: known[one.name] for one in PLANTS if one.name in known}
        RECORDED.write_text(json.dumps(in_order, indent=1) + "\n", encoding="utf-8")
        if len(in_order) == len(PLANTS):
            text = PAGE.read_text(encoding="utf-8")
            before, _, rest = text.partition(MARKS[0])
            PAGE.write_text(
                before + MARKS[0] + table(in_order) + MARKS[1] + rest.partition(MARKS[1])[2], encoding="utf-8"
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
