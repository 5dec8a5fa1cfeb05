"""The near end of the chain: a front-end's spool, its writer and its forwarder on the real runtime, without terminals.

Told line by line: {"records", "per_frame"}. Before the clock so many more sales are made, sealed and appended to the
spool, as the intake appends them. Then a forwarder starts, as after an outage of the ledger; the clock ends when every
row of the spool is settled by its receipt.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.children import config_from_stdin, cpu_seconds, say
from bench.intake_server import log
from bench.money import BOOT, Town
from bench.site import EPOCH, FRONTEND, SITE
from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool import AnchorIntake, RecordsIntake, Spool, SpoolWriter
from ledger_sync.spool.writer import GROUP_INTAKES_MAX
from onecard_runtime import Runtime, limit_process
from protocol.codes import ListForm
from protocol.mac import MacKey
from protocol.signed import Certificate, SignedHead, SoftwareSigner, Version
from protocol.trade_time import fixed_offset

CHINA_MINUTES: Final = 480
DRAIN_SECONDS_MAX: Final = 60


class Settled:
    """The forwarder's `LedgerEvents`: nobody is connected, so receipts are all that matters."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        """The empty deny list of a new ledger."""

    def on_damaged_list(self, why: str) -> None:
        raise AssertionError(why)

    def on_recollect(self, terminal: int, epoch: int, first: int, last: int) -> None:
        raise AssertionError(f"the ledger misses {first} to {last} of terminal {terminal}")

    def on_settled(self, terminals: set[tuple[int, int]]) -> None:
        self._changed()


class ChainFrontend:
    """One spool for all rounds; a forwarder for each."""

    def __init__(self, runtime: Runtime, config: dict[str, Any]) -> None:
        self._runtime = runtime
        self._ledger_pid: int = config["ledger_pid"]
        self._link: str = config["link"]
        self._town = Town(**config["town"])
        directory = Path(config["directory"])

        def free_bytes() -> tuple[int, int]:
            usage = shutil.disk_usage(directory)
            return usage.free, usage.total

        self._spool = Spool.open(
            str(directory / "spool.db"), frontend=FRONTEND, site=SITE, utc_offset_ms=fixed_offset(CHINA_MINUTES),
            clock=runtime.clock, random=runtime.random, files=runtime.files, log=log, free_bytes=free_bytes,
        )  # fmt: skip
        self._spool.append([AnchorIntake(till.number, EPOCH, BOOT, self._town.booted_ms) for till in self._town.tills])
        self._writer = SpoolWriter(self._spool, executor=runtime.executor("spool"), clock=runtime.clock, log=log)

    def start(self) -> None:
        self._runtime.loop.add_reader(sys.stdin.fileno(), self._told)
        say(ready=True)

    def _told(self) -> None:
        line = sys.stdin.readline()
        if line:
            request = json.loads(line)
            Drain(self, request["records"], request["per_frame"]).prepare()
            return
        self._runtime.loop.remove_reader(sys.stdin.fileno())
        self._writer.close(self._runtime.stop)

    # -- what a drain needs

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    @property
    def writer(self) -> SpoolWriter:
        return self._writer

    @property
    def ledger_pid(self) -> int:
        return self._ledger_pid

    def fill(self, spool: Spool, records: int, per_frame: int) -> int:
        """On the spool's thread; the number of records appended."""
        intakes = (
            RecordsIntake(frame.terminal, EPOCH, frame.payload, frame.received_ms, first_unacknowledged=1)
            for frame in self._town.uploads(records, per_frame=per_frame)
        )
        count = 0
        while group := list(islice(intakes, GROUP_INTAKES_MAX)):
            spool.append(group)
            count += per_frame * len(group)
        return count

    def forwarder(self) -> Forwarder:
        settings = ForwarderSettings(
            frontend=FRONTEND,
            site=SITE,
            address=self._link,
            root_public_key=SoftwareSigner(self._town.root_seed).public_key,
        )
        runtime = self._runtime
        return Forwarder(
            settings, batch_key=MacKey(self._town.batch_key), spool=self._writer, clock=runtime.clock,
            network=runtime.network, random=runtime.random, log=log,
        )  # fmt: skip


class Drain:
    """One backlog, from the first connection to the last receipt."""

    def __init__(self, frontend: ChainFrontend, records: int, per_frame: int) -> None:
        self._frontend = frontend
        self._records, self._per_frame = records, per_frame
        self._forwarder = frontend.forwarder()
        self._forwarder.attach(Settled(self._look))
        self._is_over = False
        self._began = 0.0
        self._cpu: list[float] = []

    def prepare(self) -> None:
        self._frontend.writer.run(
            lambda spool: self._frontend.fill(spool, self._records, self._per_frame), self._filled
        )

    def _filled(self, records: int | None, error: BaseException | None) -> None:
        if records is None:
            say(error=f"the spool cannot be filled: {error!r}")
            return
        self._records = records
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # cards and terminals are no part of a front-end
        clock = self._frontend.runtime.clock
        clock.call_at(clock.monotonic_ms() + 1000 * DRAIN_SECONDS_MAX, self._late)
        self._cpu = self._cpu_seconds()
        self._began = time.perf_counter()
        self._forwarder.start()

    def _cpu_seconds(self) -> list[float]:
        return [time.process_time(), cpu_seconds(self._frontend.ledger_pid)]

    def _look(self) -> None:
        self._frontend.writer.run(lambda spool: spool.facts().rows_unsettled, self._looked)

    def _looked(self, unsettled: int | None, error: BaseException | None) -> None:
        if unsettled is None:
            say(error=f"the spool cannot be asked: {error!r}")
        elif unsettled == 0 and not self._is_over:
            self._is_over = True
            took = time.perf_counter() - self._began
            ours, ledgers = (
                1e6 * (after - before) / self._records
                for before, after in zip(self._cpu, self._cpu_seconds(), strict=True)
            )
            found = {
                "per_second": self._records / took,
                "frontend_us": ours,
                "ledger_us": ledgers,
                "ledger_cpu": ledgers * self._records / 1e6 / took,
                "batches": float(str(self._forwarder.state()["batches_settled"])),
            }
            self._forwarder.stop(lambda: say(**found))

    def _late(self) -> None:
        if not self._is_over:
            self._is_over = True
            say(error=f"not drained within {DRAIN_SECONDS_MAX} s: {self._forwarder.state()['last_fault']}")


def main() -> None:
    config = config_from_stdin()
    limit_process()
    runtime = Runtime(log=log)
    sys.exit(runtime.run(lambda started: ChainFrontend(started, config).start()))


if __name__ == "__main__":
    main()
