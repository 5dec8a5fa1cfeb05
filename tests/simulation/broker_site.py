"""A simulated site whose link goes over a broker: the machines' networks are led there for the link's address alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ledger_sync.link.mqtt import MqttFrontend
from ledger_sync.link.mqtt_ledger import MqttLedger
from protocol.ports import Listener, StreamHandler
from tests.simulation.broker import Broker, VirtualBus
from tests.simulation.frontend_host import LEDGER_LINK, FrontendHost
from tests.simulation.keys import SITE
from tests.simulation.site import Site
from tests.simulation.world import Host

ADDRESS: Final = "mqtt://broker:1883"
BROKER_HOST: Final = "broker"


def lead_over_broker(site: Site) -> Broker:
    """Call it before `site.start`."""
    broker = Broker(Host(site.world, BROKER_HOST))
    for one in site.frontends:
        _lead_frontend(site, broker, one)
    _lead_ledger(site, broker)
    return broker


def _lead_frontend(site: Site, broker: Broker, frontend: FrontendHost) -> None:
    host = frontend.host
    usual = host.connect
    sides: dict[int, MqttFrontend] = {}  # one for each life of the machine, as a process has one

    def connect(address: str, handler: StreamHandler) -> None:
        if address != LEDGER_LINK:
            usual(address, handler)
            return
        if host.life not in sides:
            bus = VirtualBus(host, broker)
            sides[host.life] = MqttFrontend(
                bus, site=SITE, frontend=frontend.number, clock=host, random=host, log=site._log
            )
        sides[host.life].connect(ADDRESS, handler)

    host.connect = connect  # type: ignore[method-assign]


def _lead_ledger(site: Site, broker: Broker) -> None:
    host = site.ledger.host
    usual = host.listen

    def listen(address: str, accept: Callable[[], StreamHandler]) -> Listener:
        if address != LEDGER_LINK:
            return usual(address, accept)
        side = MqttLedger(VirtualBus(host, broker), site=SITE, clock=host, random=host, log=site._log)
        return side.listen(ADDRESS, accept)

    host.listen = listen  # type: ignore[method-assign]
