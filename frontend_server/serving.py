"""`onecard serve`, composed: spool, writer, forwarder and server on the ports of one process.

The port: a configured port 0 means "a free one", which is then kept in the data directory, so that terminals find the
server again after its restart. It is chosen below the range that the system gives to outgoing connections: there a
connection of anybody could take the port between two lives of the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from frontend_server.alarms import AlarmingLog, Alarms
from frontend_server.keys import FrontendKeys
from frontend_server.place import FrontendPlace, World, free_bytes_of
from frontend_server.published import PublishedFiles, file_state
from frontend_server.server import FrontendServer
from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.mqtt import MqttFrontend
from ledger_sync.link.mqtt_topics import is_bus_address
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool import Spool, SpoolWriter
from protocol.errors import ProtocolError
from protocol.mac import MacKey
from protocol.ports import Clock, Log, Network, Random, StreamHandler
from protocol.registry import Registry

PORT_FILE: Final = "port"
PORT_LOWEST: Final = 20_000
PORT_HIGHEST: Final = 32_767  # Linux gives outgoing connections 32768 to 60999
PORT_DRAWS_MAX: Final = 64
BIND_TRIES_MAX: Final = 20
BIND_AGAIN_MS: Final = 250  # a kept port may still be held by the last connections of a process that is dying
LOOK_MS: Final = 2_000  # enrolments and published lists are taken up without a restart

Ready = Callable[[str, Mapping[str, object]], None]


class Serving:
    """One life of the server process."""

    def __init__(
        self,
        place: FrontendPlace,
        keys: FrontendKeys,
        registry: Registry,
        *,
        ready: Ready,
        stopping: Callable[[], None],
    ) -> None:
        self._place = place
        self._keys = keys
        self._registry = registry
        self._ready = ready
        self._stopping = stopping
        self._server: FrontendServer | None = None
        self._broker: MqttFrontend | None = None
        self._is_stopping = False
        self._registry_state = file_state(place.registry)
        self._published: PublishedFiles | None = None
        self.failure = ""
        """Why it could not start, for stderr."""

    @classmethod
    def prepare(cls, place: FrontendPlace, *, ready: Ready, stopping: Callable[[], None]) -> Serving:
        """Read what must be right before anything starts.

        Raises:
            ProtocolError, SettingsError, WeakKey, OSError: settings, keys or registry cannot be used.
        """
        place.settings.check()
        keys = FrontendKeys.of(place.keystore(), site=place.settings.site, is_production=place.settings.is_production)
        return cls(place, keys, registry_of(place.registry, place.settings.site), ready=ready, stopping=stopping)

    def start(self, world: World) -> None:
        """Find the port, then open everything; for `Runtime.run`. Ends with `world.stop`."""
        world.on_signal(lambda: self._stop(world))
        self._bind(world, BIND_TRIES_MAX)

    # -- the port

    def _bind(self, world: World, tries_left: int) -> None:
        """Go on with a port that is free; a kept one that is taken is tried again for some seconds."""
        if self._is_stopping:
            world.stop()
            return
        configured = self._place.settings.listen_address
        kept = _kept_port(self._place.data_dir / PORT_FILE)
        try:
            address = chosen_address(configured, kept, world.network, world.random)
        except OSError as error:
            if tries_left and kept and _is_any_port(configured):
                later_ms = world.clock.monotonic_ms() + BIND_AGAIN_MS
                world.clock.call_at(later_ms, lambda: self._bind(world, tries_left - 1))
                return
            hint = f"; it was kept in {self._place.data_dir / PORT_FILE}" if kept and _is_any_port(configured) else ""
            self._give_up(world, f"cannot listen on {configured}, port {kept or 'as configured'}: {error}{hint}")
            return
        self._open(world, address)

    def _give_up(self, world: World, why: str) -> None:
        self.failure = why
        world.log("frontend.cannot_start", alarm=True, why=why)
        world.stop(1)

    # -- the server

    def _open(self, world: World, address: str) -> None:
        place, settings = self._place, replace(self._place.settings, listen_address=address)
        alarms = Alarms()
        log: Log = AlarmingLog(world.log, alarms, world.clock)
        spool = Spool.open(
            str(place.spool),
            frontend=settings.frontend,
            site=settings.site,
            utc_offset_ms=place.utc_offset_ms,
            clock=world.clock,
            random=world.random,
            files=world.files,
            log=log,
            free_bytes=lambda: free_bytes_of(place.data_dir),
        )
        writer = SpoolWriter(spool, executor=world.executor("spool"), clock=world.clock, log=log)
        broker = self._broker = self._broker_of(world, log)
        forwarder = Forwarder(
            ForwarderSettings(
                frontend=settings.frontend,
                site=settings.site,
                address=place.ledger_link,
                root_public_key=place.root_public,
            ),
            batch_key=MacKey(self._keys.batch_key),
            spool=writer,
            clock=world.clock,
            network=broker or world.network,
            random=world.random,
            log=log,
            wire_facts=broker.facts if broker is not None else None,
        )
        Path(settings.cache_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        executor = world.executor("lists")
        self._server = server = FrontendServer(
            settings=settings,
            keys=self._keys,
            root_public=place.root_public,
            registry=self._registry,
            clock=world.clock,
            network=world.network,
            random=world.random,
            files=world.files,
            executor=executor,
            writer=writer,
            forwarder=forwarder,
            log=log,
            alarms=alarms,
            stop_requested=lambda: self._stop(world),
        )
        try:
            server.start()
        except OSError as error:
            self.failure = f"cannot listen: {error}"
            self._is_stopping = True
            server.stop(lambda: world.stop(1))
            return
        _, _, port = server.address().rpartition(":")
        world.files.replace(str(place.data_dir / PORT_FILE), f"{port}\n".encode())
        self._ready("frontend", server.ready_facts())
        self._watch(server)
        self._look_at_files(world)

    def _broker_of(self, world: World, log: Log) -> MqttFrontend | None:
        """The way to the ledger where it goes over a broker; no library of brokers is loaded where it does not."""
        place = self._place
        if not is_bus_address(place.ledger_link):
            return None
        return MqttFrontend(
            world.bus(place.broker_access),
            site=place.settings.site,
            frontend=place.settings.frontend,
            clock=world.clock,
            random=world.random,
            log=log,
        )

    def _stop(self, world: World) -> None:
        """Stop in order; harmless when called again or before the server is there."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._stopping()
        if self._server is not None:
            self._server.stop(lambda: self._stopped(world))
        else:
            world.stop()

    def _stopped(self, world: World) -> None:
        if self._broker is not None:
            self._broker.close()
        world.stop()

    # -- enrolments, published lists

    def _watch(self, server: FrontendServer) -> None:
        distribution = server.parts.distribution
        self._published = PublishedFiles(
            self._place.published, take=distribution.on_published, refused=distribution.on_unreadable
        )

    def _look_at_files(self, world: World) -> None:
        """Take up what has changed, now and from now on."""
        if self._is_stopping or self._server is None or self._published is None:
            return
        self._look_at_registry(world, self._server)
        self._published.look()
        _later(world.clock, LOOK_MS, lambda: self._look_at_files(world))

    def _look_at_registry(self, world: World, server: FrontendServer) -> None:
        """Take up a registry file that has changed; one that cannot be read changes nothing."""
        now_state = file_state(self._place.registry)
        if now_state is not None and now_state != self._registry_state:
            self._registry_state = now_state
            try:
                registry = registry_of(self._place.registry, self._place.settings.site)
            except (OSError, ProtocolError) as error:
                world.log("registry.not_taken", alarm=True, error=str(error))
            else:
                server.replace_registry(registry)
                world.log("registry.taken", terminals=len(registry))


def registry_of(path: Path, site: int) -> Registry:
    """The registry file of that site. Raises OSError, or a ProtocolError in words."""
    registry = Registry.parse(path.read_bytes())
    if registry.site != site:
        raise ProtocolError(f"{path}: registry of site {registry.site}, this is site {site}")
    return registry


def chosen_address(configured: str, kept: int | None, network: Network, random: Random) -> str:
    """The configured address; with port 0 the kept port, or on a first start a free one that is kept from now on.

    Raises:
        OSError: it is taken or not ours to bind.
    """
    host, _, _ = configured.rpartition(":")
    if not _is_any_port(configured):
        return _tried(configured, network)
    if kept is not None:
        return _tried(f"{host}:{kept}", network)
    for _ in range(PORT_DRAWS_MAX):
        draw = int.from_bytes(random.random_bytes(4), "big") % (PORT_HIGHEST - PORT_LOWEST + 1)
        try:
            return _tried(f"{host}:{PORT_LOWEST + draw}", network)
        except OSError:
            continue
    return configured


def _tried(address: str, network: Network) -> str:
    network.listen(address, _nobody).close()
    return address


def _nobody() -> StreamHandler:
    raise AssertionError("the listener was closed before it could accept")


def _is_any_port(address: str) -> bool:
    return address.rpartition(":")[2] == "0"


def _kept_port(path: Path) -> int | None:
    """The port of the last life; None if there was none or the file says nothing usable."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() and 0 < int(text) <= 0xFFFF else None


def _later(clock: Clock, delay_ms: int, callback: Callable[[], None]) -> None:
    clock.call_at(clock.monotonic_ms() + delay_ms, callback)
