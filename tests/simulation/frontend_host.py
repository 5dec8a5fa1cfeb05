"""The front-end of a simulated site: server, spool on a real file, forwarder; it crashes and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from frontend_server.alarms import Alarms
from frontend_server.list_cache import decode_cache
from frontend_server.server import FrontendServer, ServerState
from frontend_server.settings import FrontendSettings
from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool import Spool, SpoolWriter
from protocol.codes import ListKind
from protocol.ports import Log
from protocol.signed import NO_VERSION, Version
from protocol.trade_time import fixed_offset
from tests.simulation.fragile import close_killed
from tests.simulation.keys import FRONTEND, SITE, SiteKeys
from tests.simulation.world import Host

ADDRESS: Final = "10.0.0.1:4700"
LEDGER_LINK: Final = "/run/onecard/ledger.sock"
ZONE_MINUTES: Final = 480


class FrontendHost:
    """One machine in the back room; its directory outlives its processes."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        keys: SiteKeys,
        log: Log,
        *,
        number: int = FRONTEND,
        address: str = ADDRESS,
    ) -> None:
        self.host = host
        self.number = number
        self.address = address
        self.directory = directory
        self.spool_path = str(directory / "spool.db")
        self._keys = keys
        self._log = log
        self.published: dict[ListKind, int] = {}
        """Counter of the version in the file of each kind of document; none: nobody has published any."""
        self.free_percent = 100
        """Of the volume that the spool is on."""
        self.spool: Spool | None = None
        self.writer: SpoolWriter | None = None
        self.forwarder: Forwarder | None = None
        self.server: FrontendServer | None = None

    @property
    def is_up(self) -> bool:
        return self.server is not None and self.server.state is ServerState.RUNNING

    def start(self) -> None:
        """As a process would: open the spool, compose, listen."""
        assert self.server is None
        host, log, keys = self.host, self._log, self._keys
        self.spool = Spool.open(
            self.spool_path,
            frontend=self.number,
            site=SITE,
            utc_offset_ms=fixed_offset(ZONE_MINUTES),
            clock=host,
            random=host,
            files=host,
            log=log,
            free_bytes=lambda: (self.free_percent, 100),
            vfs=None if host.disk is None else host.disk.name,
        )
        self.writer = SpoolWriter(self.spool, executor=host, clock=host, log=log)
        self.forwarder = Forwarder(
            ForwarderSettings(
                frontend=self.number, site=SITE, address=LEDGER_LINK, root_public_key=keys.root.public_key
            ),
            batch_key=keys.batch_mac(self.number),
            spool=self.writer,
            clock=host,
            network=host,
            random=host,
            log=log,
        )
        self.server = FrontendServer(
            settings=FrontendSettings(
                frontend=self.number,
                site=SITE,
                listen_address=self.address,
                control_address="",
                cache_dir=str(self.directory),
            ),
            keys=keys.frontend_keys(self.number),
            root_public=keys.root.public_key,
            registry=keys.registry,
            clock=host,
            network=host,
            random=host,
            files=host,
            executor=host,
            writer=self.writer,
            forwarder=self.forwarder,
            log=log,
            alarms=Alarms(),
        )
        self.server.start()
        self._look_at_published()

    def publish(self, kind: ListKind) -> None:
        """People put the next version of a document beside the server, whether it runs or not."""
        self.published[kind] = self.published.get(kind, 0) + 1
        self._look_at_published()

    def publish_parameters(self) -> None:
        self.publish(ListKind.PARAMETERS)

    def _look_at_published(self) -> None:
        for kind, counter in self.published.items():
            if self.server is not None:
                self.server.parts.distribution.on_published(kind, self._keys.published(kind, counter))

    def wanted_version(self, kind: ListKind) -> Version:
        """What every terminal is to be brought to."""
        counter = self.published.get(kind, 0)
        return (1, counter) if counter else NO_VERSION

    @property
    def parameters_version(self) -> Version:
        return self.wanted_version(ListKind.PARAMETERS)

    def free_disk(self) -> None:
        """Somebody has deleted something."""
        self.free_percent = 100

    def list_on_disk(self) -> Version:
        """The deny list that a restart would begin with."""
        data = self.host.read(str(self.directory / "list-deny.cache"))
        if data is None:
            return NO_VERSION
        root = self._keys.root.public_key
        return decode_cache(data, kind=ListKind.DENY, root_public=root, site=SITE).head.version

    def crash(self) -> None:
        """`kill -9`: what is committed stays in the file, everything else is gone."""
        self.host.crash()
        self._drop()

    def stop(self) -> None:
        """Begin an orderly stop; `is_stopped` tells when it is done."""
        if self.server is not None:
            self.server.stop(self._drop)

    @property
    def is_stopped(self) -> bool:
        return self.server is None

    def close(self) -> None:
        """End of the run: leave no file open."""
        self._drop()
        if self.host.disk is not None:
            self.host.disk.close()

    def _drop(self) -> None:
        spool = self.spool
        self.spool = self.writer = self.forwarder = self.server = None
        if spool is not None and spool._handles is not None:
            close_killed(spool._handles.connection)
