"""`onecard ledger serve`, composed: the ledger's service on the ports of one process, until a signal or a stop verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ledger_sync.cli_work import LedgerPlace
from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.service import Addresses, LedgerService
from ledger_sync.ledger.upkeep import bring_up_to_date
from ledger_sync.link.mqtt_ledger import MqttLedger
from ledger_sync.link.mqtt_topics import is_bus_address
from ledger_sync.link.routing import RoutedNetwork
from protocol.ports import Bus, BusAccess, Clock, Executor, Files, Log, Network, Random

Ready = Callable[[str, Mapping[str, object]], None]


class World(Protocol):
    """The real ports of one process."""

    @property
    def clock(self) -> Clock: ...
    @property
    def network(self) -> Network: ...
    @property
    def files(self) -> Files: ...
    @property
    def log(self) -> Log: ...
    @property
    def random(self) -> Random: ...
    def executor(self, name: str) -> Executor: ...
    def bus(self, access: BusAccess) -> Bus: ...
    def on_signal(self, callback: Callable[[], None]) -> None: ...
    def stop(self, exit_code: int = 0) -> None: ...


class LedgerServing:
    """One life of the ledger's process."""

    def __init__(self, place: LedgerPlace, keys: LedgerKeys, *, ready: Ready, stopping: Callable[[], None]) -> None:
        self._place = place
        self._keys = keys
        self._ready = ready
        self._stopping = stopping
        self._is_stopping = False
        self._broker: MqttLedger | None = None
        self.failure: BaseException | None = None
        """Why it could not start: LedgerBusy, LedgerDamaged, OSError of a socket, …"""

    def start(self, world: World) -> None:
        """Open the ledger and its sockets; for `Runtime.run`. Ends with `world.stop`."""
        place, paths = self._place, self._place.paths()

        def open_ledger() -> Ledger:
            ledger = Ledger.open(paths, self._keys, files=world.files, utc_offset_ms=place.utc_offset_ms)
            try:
                limit = place.unproven_limit_cents
                told = bring_up_to_date(ledger, unproven_limit_cents=limit, now_ms=world.clock.now_ms())
            except BaseException:
                ledger.close()
                raise
            if any(told.values()):
                world.log("ledger.retried_unknown", **told)
            return ledger

        broker = self._broker = self._broker_of(world)
        service = LedgerService(
            open_ledger,
            Addresses(link=place.link_socket, admin=place.admin_socket),
            keys=self._keys,
            network=world.network if broker is None else RoutedNetwork(world.network, broker),
            clock=world.clock,
            executor=world.executor("ledger"),
            log=world.log,
            files=world.files,
            heads_path=paths.heads,
            broker_facts=broker.facts if broker is not None else None,
        )

        def stop(exit_code: int = 0) -> None:
            if self._is_stopping:
                return
            self._is_stopping = True
            self._stopping()
            service.stop(lambda: self._stopped(world, exit_code))

        def ready(error: BaseException | None) -> None:
            if error is not None:
                self.failure = error
                world.log("ledger.cannot_start", alarm=True, error=str(error))
                stop(1)
                return
            facts = {"site": place.site, "address": service.link_address(), "control": service.admin_address()}
            world.log("ledger.ready", **facts)
            self._ready("ledger", facts)

        service.on_stop_verb = stop
        world.on_signal(stop)
        service.start(ready)

    def _broker_of(self, world: World) -> MqttLedger | None:
        """Where front-ends are heard through a broker; no library of brokers is loaded where they are not."""
        place = self._place
        if not is_bus_address(place.link_socket):
            return None
        bus = world.bus(place.broker_access)
        return MqttLedger(bus, site=place.site, clock=world.clock, random=world.random, log=world.log)

    def _stopped(self, world: World, exit_code: int) -> None:
        if self._broker is not None:
            self._broker.close()
        world.log("ledger.stopped")
        world.stop(exit_code)
