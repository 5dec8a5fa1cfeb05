"""One POS terminal of a simulated site: the product's firmware and uplink on virtual flash, with power that goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.codes import ListKind
from protocol.ports import Log
from protocol.signed import NO_VERSION, Version
from terminal_sim.card import CardField, CardStore, Disturbance
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import PosTerminal, TapResult
from terminal_sim.flash import SECTOR_BYTES, CutAfter, VirtualFlash
from terminal_sim.layout import JOURNAL_SECTORS, LIST_AREAS, FlashLayout
from terminal_sim.oracle import Oracle
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import DriftingRtc
from terminal_sim.uplink import Observer, Uplink
from tests.simulation.world import Host

LIST_SECTORS: Final = 2  # of each kind's areas
BOOTS_MAX: Final = 20  # cuts inside one boot after the other; then the power stays


def flash_layout(ring_sectors: int) -> FlashLayout:
    """A small chip: the ring wraps within a short run."""
    sectors = JOURNAL_SECTORS + 2 * LIST_AREAS * LIST_SECTORS + ring_sectors
    return FlashLayout(sectors * SECTOR_BYTES, LIST_SECTORS, LIST_SECTORS)


class Till:
    """Flash, clock chip and secrets outlive the power; `terminal` and `uplink` do not."""

    def __init__(
        self,
        host: Host,
        secrets: TerminalSecrets,
        *,
        addresses: list[str],
        ring_sectors: int,
        drift_ppm: int,
        cards: CardStore,
        oracle: Oracle,
        observer: Observer,
        log: Log,
    ) -> None:
        self.host = host
        self.secrets = secrets
        self.layout = flash_layout(ring_sectors)
        self.flash = VirtualFlash(self.layout.size_bytes)
        self.rtc = DriftingRtc(host, drift_ppm=drift_ppm)
        self.terminal: PosTerminal | None = None
        self.uplink: Uplink | None = None
        self.on_boot: Callable[[Till], None] = lambda _: None
        self.on_cut: Callable[[Till], None] = lambda _: None
        self._addresses = addresses
        self._cards = cards
        self._oracle = oracle
        self._observer = observer
        self._log = log

    @property
    def number(self) -> int:
        return self.secrets.terminal

    @property
    def parameters_version(self) -> Version:
        """What it holds; (0, 0) without power, too."""
        held = None if self.terminal is None else self.terminal.lists.held(ListKind.PARAMETERS)
        return NO_VERSION if held is None else held.memory.version

    @property
    def is_on(self) -> bool:
        return self.terminal is not None

    @property
    def is_online(self) -> bool:
        return self.uplink is not None and self.uplink.online

    def boot(self, cut: CutAfter | None = None) -> bool:
        """Power comes; with `cut` it may go again inside the boot: False then."""
        assert self.terminal is None
        self.flash.power_on()
        self.flash.cut_plan = cut
        try:
            terminal = PosTerminal(
                self.flash, self.secrets, rtc=self.rtc, random=self.host, log=self._log, layout=self.layout
            )
        except PowerCut:
            self.host.world.count_fault("cut_in_boot")
            return False
        self.flash.cut_plan = None
        self.terminal = terminal
        self.uplink = Uplink(
            terminal,
            addresses=self._addresses,
            network=self.host,
            clock=self.host,
            random=self.host,
            log=self._log,
            observer=self._observer,
            on_power_cut=self._torn,
        )
        self.on_boot(self)
        self.uplink.start()
        return True

    def power_cut(self) -> None:
        """The power goes between two operations, or has gone inside one; the flash bytes stay."""
        if self.terminal is None:
            return
        assert self.uplink is not None
        self.uplink.stop()
        self.terminal = self.uplink = None
        self.flash.power_off()
        self.host.crash()
        self.on_cut(self)

    def _torn(self) -> None:
        """The flash has torn inside a callback of the uplink; the stack above still belongs to it."""
        self.host.world.count_fault("cut_in_uplink")
        self.host.world.after(0, self.power_cut)

    def tap(self, card: int, amount_cents: int, disturbance: Disturbance | None = None) -> TapResult | None:
        """One sale; None: no power, or it went during the tap, and nobody was told anything."""
        if self.terminal is None:
            return None
        terminal = self.terminal
        field = CardField(
            self._cards,
            card,
            self.host,
            disturbance=disturbance,
            on_write=self._oracle.card_written,
            payee=lambda: terminal.charging,
        )
        try:
            result = terminal.tap(field, amount_cents)
        except PowerCut:
            self.host.world.count_fault("cut_in_tap")
            self.power_cut()
            return None
        self._oracle.answered(self.number, self.secrets.epoch, result)
        self.host.world.trace("tap", self.number, card, result.outcome.value, result.why.value, result.sequence)
        return result
