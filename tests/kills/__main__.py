"""`python -m tests.kills --kills 100 --seed 7`: kill a site's processes, print what was hit; 1 if totals differ."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.kills.schedule import KILLS_USUAL, KINDS
from tests.kills.site import Killing, RunFailed, Site
from tests.kills.verdict import judge

SEED_BITS = 32


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS_USUAL, help="how many")
    parser.add_argument("--seed", type=int, help="draws who dies when; printed when it is not given")
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(SEED_BITS)
    print(f"seed {seed}; replay: make kills KILLS={arguments.kills} SEED={seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="onecard-kills-"))
    findings = kill_and_judge(directory, seed=seed, kills=arguments.kills)
    for finding in findings:
        print(f"WRONG {finding}")
    if findings:
        print(f"everything is kept in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


def kill_and_judge(directory: Path, *, seed: int, kills: int) -> list[str]:
    """One run, told on stdout; what is wrong afterwards."""
    try:
        with Site(directory, seed=seed, kills=kills, tell=lambda line: print(line, flush=True)) as site:
            killing = site.run()
    except RunFailed as error:
        return [str(error)]
    verdict = judge(directory, site.dump)
    findings = verdict.findings + _not_hit(killing, kills)
    print(f"{len(killing.kills)} kills in {killing.seconds:.0f} s")
    for (role, moment), count in sorted(killing.counts().items(), key=lambda one: KINDS.index(one[0])):
        print(f"  {count:4d}  {role.value}, {moment.value}")
    print(verdict, flush=True)
    return findings


def _not_hit(killing: Killing, kills: int) -> list[str]:
    """A run that claims a class must have hit it."""
    counts = killing.counts()
    missing = [
        f"no kill of {role.value}, {moment.value}"
        for role, moment in dict.fromkeys(KINDS[:kills])
        if not counts.get((role, moment))
    ]
    if len(killing.kills) != kills:
        missing.append(f"{len(killing.kills)} kills instead of {kills}")
    return missing


if __name__ == "__main__":
    sys.exit(main())
