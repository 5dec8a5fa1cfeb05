"""The sound terminals of `bench.hostile`, a process: they sell at a steady rate and say how long they waited."""

from __future__ import annotations

import select
import sys
import time
from typing import Any, Final

from bench.children import BenchFailed, config_from_stdin, say
from bench.hostile_insider import Enrolled, Good, Insider

SAY_SECONDS: Final = 0.5
PAUSE_SECONDS_MAX: Final = 0.002
DRAIN_SECONDS_MAX: Final = 20.0


def main() -> None:
    config = config_from_stdin()
    try:
        sell(config)
    except (BenchFailed, OSError) as error:
        say(error=str(error))


def sell(config: dict[str, Any]) -> None:
    enrolled = [Enrolled(**one) for one in config["terminals"]]
    every_s = len(enrolled) / config["rate"]
    insiders = [Insider(config["address"], one) for one in enrolled]
    start_s = time.monotonic()
    goods = [Good(one, start_s + index * every_s / len(insiders), every_s) for index, one in enumerate(insiders)]
    say(ready=len(goods))
    waiting: list[float] = []
    said_s = start_s
    while not select.select([sys.stdin], [], [], 0)[0]:
        now_s = time.monotonic()
        for good in goods:
            waiting += good.turn(now_s)
        if now_s >= said_s + SAY_SECONDS:
            said_s = now_s
            say(waits_ms=[round(wait, 2) for wait in waiting])
            waiting = []
        select.select([good.insider.socket for good in goods], [], [], PAUSE_SECONDS_MAX)
    _drain(goods)


def _drain(goods: list[Good]) -> None:
    """Sell no more, and wait for what was sold."""
    end_s = time.monotonic() + DRAIN_SECONDS_MAX
    while any(good.outstanding for good in goods) and time.monotonic() < end_s:
        for good in goods:
            good.turn(float("-inf"))
        time.sleep(PAUSE_SECONDS_MAX)
    say(
        sold=sum(good.insider.sequence for good in goods),
        acknowledged=sum(good.insider.durable for good in goods),
        lost_sessions=sum(good.insider.closed for good in goods),
    )


if __name__ == "__main__":
    main()
