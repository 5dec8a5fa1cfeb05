"""`python -m tests.crash_images --images 100000 --seed 7`: cut the power so often; 1 if a cut lost something."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.crash_images.running import Tally, days_of, live_all

IMAGES_USUAL = 100_000
SEED_BITS = 20
PROGRESS_EVERY_S = 5.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash_images", description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES_USUAL, help="how many to draw; different ones are opened")
    parser.add_argument("--seed", type=int, help="draws the days and the cuts; printed when it is not given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(SEED_BITS)
    print(f"seed {seed}; replay: make images IMAGES={arguments.images} SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="onecard-images-") as directory:
        sums, elapsed_s = cut(arguments.images, seed, arguments.workers, Path(directory))
    tell(sums, elapsed_s, arguments.workers)
    return 1 if any(sum_.wrong for sum_ in sums.values()) else 0


def cut(images: int, seed: int, workers: int, directory: Path) -> tuple[dict[str, Tally], float]:
    """All days; findings are told as they come."""
    sums = {"spool": Tally(), "ledger": Tally()}
    told_s = elapsed_s = 0.0
    days = list(days_of(seed, images))
    for day, tally, now_s in live_all(days, directory, workers):
        elapsed_s = now_s
        sums[day.subject].add(tally)
        for finding in tally.findings:
            print(f"WRONG {finding}", flush=True)
        if now_s - told_s >= PROGRESS_EVERY_S:
            told_s = now_s
            drawn = sum(each.drawn for each in sums.values())
            print(f"{drawn:,} of {images:,} images, {drawn / now_s:,.0f}/s", flush=True)
    return sums, elapsed_s


def tell(sums: dict[str, Tally], elapsed_s: float, workers: int) -> None:
    for subject, sum_ in sums.items():
        print(
            f"{subject}: {sum_.days} days, {sum_.steps:,} steps, power cut at each of {sum_.operations:,} operations;"
            f" {sum_.drawn:,} images drawn, {sum_.opened:,} different ones opened ({sum_.cut_again:,} cut again while"
            f" being opened),"
            f" {sum_.recovered:,} different files after that, all verified, {sum_.worked_on:,} worked on;"
            f" {sum_.wrong:,} wrong"
        )
        print("  " + ", ".join(f"{name} {count:,}" for name, count in sum_.manners.most_common()))
    drawn, opened = sum(each.drawn for each in sums.values()), sum(each.opened for each in sums.values())
    per_s = 1 / max(elapsed_s, 0.001)
    print(
        f"{drawn:,} images, {opened:,} different, in {elapsed_s:.0f} s: {drawn * per_s:,.0f}/s, {opened * per_s:,.0f}/s"
        f" different, over {workers} processes",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
