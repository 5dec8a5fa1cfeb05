"""Which firmware a terminal of which kind boots, and with what from its lists: the one place that knows (§1, R27)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.codes import TerminalKind
from protocol.parameters import Parameters
from protocol.ports import Log, Random
from terminal_sim.door_people import simulated_permissions
from terminal_sim.door_tally import DoorLayout
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.firmware import PosTerminal
from terminal_sim.flash import VirtualFlash
from terminal_sim.layout import FlashLayout
from terminal_sim.load_station import LoadOrder, LoadStation
from terminal_sim.meal_terminal import MealTerminal
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import DriftingRtc
from terminal_sim.selling_terminal import SellingTerminal

SELLING: Final[Mapping[int, type[SellingTerminal]]] = {
    TerminalKind.POS: SellingTerminal,
    TerminalKind.MEAL: MealTerminal,
    TerminalKind.LOAD_STATION: LoadStation,
}


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What a simulated terminal has until its front-end sends it something better."""

    parameters: Parameters | None = None
    orders: Sequence[LoadOrder] = ()


def boot_terminal(
    flash: VirtualFlash, secrets: TerminalSecrets, *, rtc: DriftingRtc, random: Random, log: Log, site: SiteFacts
) -> PosTerminal:
    """The firmware object of one power-on. Raises PowerCut. A kind without a firmware of its own sells."""
    if secrets.terminal_kind == TerminalKind.DOOR:
        return _door(flash, secrets, rtc=rtc, random=random, log=log)
    firmware = SELLING.get(secrets.terminal_kind, SellingTerminal)
    terminal = firmware(flash, secrets, rtc=rtc, random=random, log=log, parameters=site.parameters)
    if isinstance(terminal, LoadStation):
        terminal.give_orders(site.orders)
    return terminal


def layout_of(size_bytes: int, terminal_kind: int) -> FlashLayout:
    """Where a terminal of that kind keeps things on a chip of that size."""
    made = DoorLayout if terminal_kind == TerminalKind.DOOR else FlashLayout
    return made.of_kind(size_bytes, terminal_kind)


def sells(secrets: TerminalSecrets) -> bool:
    """Whether customers with something to pay come to terminals of this kind."""
    return secrets.terminal_kind != TerminalKind.DOOR


def _door(flash: VirtualFlash, secrets: TerminalSecrets, *, rtc: DriftingRtc, random: Random, log: Log) -> DoorTerminal:
    permissions = simulated_permissions(secrets.terminal)
    return DoorTerminal(flash, secrets, rtc=rtc, random=random, log=log, permissions=permissions, version=(1, 1))
