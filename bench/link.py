"""`python -m bench.link`: what each link carries, beside the other, in one run: records settled a second.

A spool is filled while no ledger runs; copies of that site are then drained, in turn over the local socket and over a
broker, by the real processes, with the real ledger posting. What the local socket carries is what the ledger can post;
the floor of the link over MQTT is 0.8 of it. Terminals are not there meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from onecard_demo_broker import DemoBroker, NoBroker, lead_over
from onecard_demo_cast import prepare
from onecard_demo_process import Child, DemoFailed, asking, run_onecard

FLOOR: Final = 0.8
TERMINALS: Final = 50
RATE: Final = 1_000  # taps a second while the spool is filled
POLL_SECONDS: Final = 0.01
DRAIN_SECONDS_MAX: Final = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.link", description=__doc__.splitlines()[0])
    parser.add_argument("--taps", type=int, default=20_000, help="records in the spool, at least (default 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each link, interleaved; medians count (default 3)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="onecard-link-") as scratch:
            found = measure(Path(scratch), taps=arguments.taps, rounds=arguments.rounds)
    except (DemoFailed, NoBroker) as error:
        print(f"bench.link: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for link in ("local", "mqtt"):
            rates = ", ".join(f"{rate:,.0f}" for rate in found["rates"][link])
            print(f"{link:6} {found['medians'][link]:10,.0f} records/s   ({rates})")
        print(f"mqtt / local {found['ratio']:.2f}, floor {FLOOR}; {found['records']:,} records over {found['broker']}")
    return 0


def measure(scratch: Path, *, taps: int, rounds: int) -> dict[str, Any]:
    """Records a second through each link, and the ratio of their medians; raises DemoFailed, NoBroker."""
    filled = scratch / "filled"
    records = fill(filled, taps)
    rates: dict[str, list[float]] = {"local": [], "mqtt": []}
    kind = ""
    for round_ in range(rounds):
        for link in ("local", "mqtt") if round_ % 2 == 0 else ("mqtt", "local"):
            site = scratch / f"{link}{round_}"
            shutil.copytree(filled, site, ignore=shutil.ignore_patterns("run"))
            broker = DemoBroker(site) if link == "mqtt" else None
            if broker is not None:
                kind = broker.kind
                lead_over(site, broker.address)
                broker.start()
            try:
                rates[link].append(records / drain(site))
            finally:
                if broker is not None:
                    broker.kill()
            shutil.rmtree(site)
            print(f"{link}: {rates[link][-1]:,.0f} records/s", file=sys.stderr)
    medians = {link: median(found) for link, found in rates.items()}
    ratio = medians["mqtt"] / medians["local"]
    return {
        "records": records, "broker": kind, "rates": rates, "medians": medians,
        "ratio": round(ratio, 3), "floor": FLOOR, "met": ratio >= FLOOR,
    }  # fmt: skip


def fill(site: Path, taps: int) -> int:
    """A site whose spool holds what its terminals have sold while no ledger ran; how many records."""
    prepare(site, terminals=TERMINALS, taps=taps, frontends=2)
    run_onecard(site, "ledger", "init")
    server = Child("front-end", ["serve", "--config", str(site)], site)
    try:
        address = str(server.ready()["address"])
        sim = Child(
            "simulator",
            [
                *("sim", "run", "--site", str(site), "--connect", address, "--json"),
                *("--taps", str(taps), "--rate", str(RATE), "--seed", "1", "--dump", str(site / "dump")),
            ],
            site,
        )
        while sim.process.poll() is None:
            sim.lines()
            time.sleep(POLL_SECONDS)
        sim.close()
    finally:
        server.stop()
    return int(json.loads(run_onecard(site, "spool", "totals", "--json"))["records"])


def drain(site: Path) -> float:
    """Seconds from the link's coming up to the last row settled."""
    ledger = Child("ledger", ["ledger", "serve", "--site", str(site)], site)
    server: Child | None = None
    try:
        ledger.ready()
        server = Child("front-end", ["serve", "--config", str(site)], site)
        server.ready()
        end = time.monotonic() + DRAIN_SECONDS_MAX
        with asking(site / "run" / "frontend.sock") as control:
            while time.monotonic() < end:
                told = control.ask({"verb": "status", "fresh": True})
                if told["spool"] is not None and told["spool"]["rows_unsettled"] == 0:
                    return max(time.time() - float(told["link"]["since_ms"]) / 1000, POLL_SECONDS)
                time.sleep(POLL_SECONDS)
        raise DemoFailed(f"{site.name} was not drained in {DRAIN_SECONDS_MAX:.0f} s")
    finally:
        if server is not None:
            server.stop()
        ledger.stop()


if __name__ == "__main__":
    sys.exit(main())
