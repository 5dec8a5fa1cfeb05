"""What can go wrong with a site, as verbs: crashes, power cuts, backups put back, cables pulled; and how each ends."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import apsw

from terminal_sim.flash import CutAfter
from tests.simulation.eyes import SpoolEye
from tests.simulation.frontend_host import FrontendHost
from tests.simulation.invariants import Invariants
from tests.simulation.ledger_eye import LedgerEye
from tests.simulation.ledger_host import LedgerHost
from tests.simulation.till import BOOTS_MAX, Till
from tests.simulation.world import Host, World

LEDGER_HOST: Final = "ledger"


class Breakage:
    """The half of a `Site` that breaks it; every fault that is done here is counted."""

    world: World
    rng: random.Random
    invariants: Invariants
    frontends: list[FrontendHost]
    frontend: FrontendHost
    ledger: LedgerHost
    _recoveries: list[apsw.Connection]

    def power_cut_frontend(self, one: FrontendHost) -> None:
        """The machine loses power, and its disk what was not synced; what was acknowledged is looked for again."""
        at = self.frontends.index(one)
        self.invariants.spool_eyes[at].close()
        one.crash()
        self._disk_back(one.host, one.spool_path)
        self.invariants.spool_eyes[at] = SpoolEye(one.spool_path)
        self.world.count_fault("power_cut:frontend")
        self.invariants.disk_lost_power()

    def power_cut_ledger(self) -> None:
        """As `power_cut_frontend`: every book and every receipt is looked at again."""
        assert self.invariants.ledger is not None
        self.invariants.ledger.close()
        self.ledger.crash()
        self._disk_back(self.ledger.host, self.ledger.paths.database)
        self.invariants.ledger = LedgerEye(self.ledger.paths.database)
        self.world.count_fault("power_cut:ledger")
        self.invariants.forget_books()
        self.invariants.disk_lost_power()
        self.invariants.ledger_worked()

    def _disk_back(self, host: Host, path: str) -> None:
        assert host.disk is not None
        for kind, count in zip(("unsynced_write_lost", "torn_write"), host.disk.power_back(), strict=True):
            for _ in range(count):
                self.world.count_fault(kind)
        recovery = apsw.Connection(path)  # an eye cannot recover a WAL: it may not write
        self._recoveries.append(recovery)
        recovery.execute("SELECT count(*) FROM sqlite_schema").fetchall()

    def crash_frontend(self) -> None:
        if self.frontend.server is not None:
            self.frontend.crash()

    def start_frontend(self) -> None:
        if self.frontend.server is None:
            self.frontend.start()

    def stop_frontend(self) -> None:
        """An orderly restart's first half."""
        if self.frontend.is_up:
            self.world.count_fault("orderly_stop")
            self.frontend.stop()

    def crash_ledger(self) -> None:
        if self.ledger.is_up:
            self.ledger.crash()

    def stop_ledger(self) -> None:
        """An orderly restart's first half."""
        if self.ledger.is_up:
            self.world.count_fault("orderly_ledger_stop")
            self.ledger.stop()

    def start_ledger(self) -> None:
        if not self.ledger.is_up:
            self.ledger.start()

    def restore_ledger(self, backup: Path) -> dict[str, Any]:
        """Yesterday's file under a higher generation; start the service afterwards."""
        eye = self.invariants.ledger
        if eye is not None:
            eye.close()
        told = self.ledger.restore(backup)
        self.world.count_fault("ledger_restored")
        self.invariants.ledger = LedgerEye(self.ledger.paths.database)
        self.invariants.forget_books()
        return told

    def power_cut(self, till: Till) -> None:
        till.power_cut()

    def reboot(self, till: Till, cuts: list[int] | None = None) -> None:
        """Power comes back; `cuts` are flash steps after which it goes again, one per attempt."""
        if till.is_on or till.is_away:
            return
        for steps in (cuts or [])[:BOOTS_MAX]:
            if till.boot(CutAfter(steps, bits_done=self.rng.randrange(256))):
                return
        if not till.is_on:
            till.boot()

    def cut_network(self, *hosts: str) -> None:
        """No byte to or from these hosts; what is under way in their streams is lost for ever."""
        self.world.count_fault("outage")
        self.world.cut_hosts.update(hosts)

    def part(self, one: str, other: str) -> None:
        """No byte between these two hosts; everybody else reaches both."""
        self.world.count_fault("partition")
        self.world.cut_pairs.add(frozenset((one, other)))

    def join(self, one: str, other: str) -> None:
        """Undo `part`."""
        self.world.cut_pairs.discard(frozenset((one, other)))

    def heal(self, *hosts: str) -> None:
        """Cables back; without arguments all of them, and every link fast again."""
        if hosts:
            self.world.cut_hosts.difference_update(hosts)
        else:
            self.world.cut_hosts.clear()
            self.world.cut_pairs.clear()
            self.world.slow_hosts.clear()
            self.world.stalled_until_ms.clear()
            self.world.corrupt_next.clear()
            self.world.repeat_next.clear()
