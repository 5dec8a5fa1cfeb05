"""One terminal of a simulated site: the product's firmware and uplink on virtual flash, with power that goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.codes import EndReason, ListKind, TerminalKind
from protocol.ports import Log
from protocol.signed import NO_VERSION, Version
from terminal_sim.card import CardField, CardStore, Disturbance
from terminal_sim.door_tally import TALLY_SECTORS, DoorLayout
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.errors import PowerCut
from terminal_sim.firmware import PosTerminal, TapResult
from terminal_sim.flash import SECTOR_BYTES, CutAfter, VirtualFlash
from terminal_sim.kinds import SELLING
from terminal_sim.layout import JOURNAL_SECTORS, LIST_AREAS, FlashLayout
from terminal_sim.load_station import LoadOrder, LoadStation
from terminal_sim.oracle import Oracle
from terminal_sim.outcome import CardReader
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import DriftingRtc
from terminal_sim.selling_terminal import SellingTerminal
from terminal_sim.uplink import Observer, Uplink
from tests.simulation.world import Host

LIST_SECTORS: Final = 2  # of each kind's areas
DOOR_DOCUMENT_SECTORS: Final = 5  # permissions of a site of fifty, with six door terminals
BOOTS_MAX: Final = 20  # cuts inside one boot after the other; then the power stays

Act = Callable[[SellingTerminal, CardReader], TapResult]
"""What a customer does at a terminal that moves money, with a card in its field."""


def flash_layout(ring_sectors: int, kind: int = TerminalKind.POS) -> FlashLayout:
    """A small chip: the ring wraps within a short run."""
    if kind != TerminalKind.DOOR:
        sectors = JOURNAL_SECTORS + 2 * LIST_AREAS * LIST_SECTORS + ring_sectors
        return FlashLayout(sectors * SECTOR_BYTES, LIST_SECTORS, LIST_SECTORS)
    lists = LIST_AREAS * (LIST_SECTORS + 2 * DOOR_DOCUMENT_SECTORS)
    sectors = JOURNAL_SECTORS + lists + ring_sectors + TALLY_SECTORS
    return DoorLayout(sectors * SECTOR_BYTES, LIST_SECTORS, DOOR_DOCUMENT_SECTORS, 2)


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
        self.layout = flash_layout(ring_sectors, secrets.terminal_kind)
        self.flash = VirtualFlash(self.layout.size_bytes)
        self.rtc = DriftingRtc(host, drift_ppm=drift_ppm)
        self.terminal: PosTerminal | None = None
        self.orders: Callable[[], list[LoadOrder]] = list
        """What the ledger has in flight for it, as a file that somebody brings to the station."""
        self.is_away = False
        """The device is out for good, and the next one not in yet."""
        self.is_stolen = False
        """Somebody else holds it, and what is enrolled in it."""
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
    def kind(self) -> int:
        return self.secrets.terminal_kind

    @property
    def parameters_version(self) -> Version:
        """What it holds; (0, 0) without power, too."""
        return self.version_of(ListKind.PARAMETERS)

    def version_of(self, kind: ListKind) -> Version:
        """As `parameters_version`, of any list."""
        held = None if self.terminal is None else self.terminal.lists.held(kind)
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
            terminal = self._firmware()
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

    def _firmware(self) -> PosTerminal:
        flash, secrets, rtc, layout = self.flash, self.secrets, self.rtc, self.layout
        if isinstance(layout, DoorLayout):
            return DoorTerminal(flash, secrets, rtc=rtc, random=self.host, log=self._log, layout=layout)
        firmware = SELLING.get(self.kind, SellingTerminal)
        terminal = firmware(flash, secrets, rtc=rtc, random=self.host, log=self._log, layout=layout)
        if isinstance(terminal, LoadStation):
            terminal.give_orders(self.orders())
        return terminal

    def take_orders(self) -> None:
        """Somebody has brought a newer file of load orders."""
        if isinstance(self.terminal, LoadStation):
            self.terminal.give_orders(self.orders())

    def retire(self) -> bool:
        """Seal the epoch's last record; False if that is not possible now."""
        if self.terminal is None:
            return False
        return self.guarded(lambda: self.terminal is not None and self.terminal.retire(EndReason.REPLACED)) is True

    def replace(self, secrets: TerminalSecrets) -> VirtualFlash:
        """Another device takes the place of this one, which is off; returns the old chip."""
        assert self.terminal is None
        old, self.flash, self.secrets = self.flash, VirtualFlash(self.layout.size_bytes), secrets
        self.is_away = False
        return old

    def guarded(self, work: Callable[[], object]) -> object:
        """Do what may touch the flash; None: the power went in it."""
        try:
            return work()
        except PowerCut:
            self.host.world.count_fault("cut_at_door" if self.kind == TerminalKind.DOOR else "cut_in_tap")
            self.power_cut()
            return None

    def power_cut(self, *, comes_back: bool = True) -> None:
        """The power goes between two operations, or has gone inside one; the flash bytes stay."""
        if self.terminal is None:
            return
        assert self.uplink is not None
        self.uplink.stop()
        self.terminal = self.uplink = None
        self.flash.power_off()
        self.host.crash()
        if comes_back:
            self.on_cut(self)

    def _torn(self) -> None:
        """The flash has torn inside a callback of the uplink; the stack above still belongs to it."""
        self.host.world.count_fault("cut_in_uplink")
        self.host.world.after(0, self.power_cut)

    def tap(self, card: int, amount_cents: int, disturbance: Disturbance | None = None) -> TapResult | None:
        """One sale; None: no power, or it went during the tap, and nobody was told anything."""
        return self.serve(card, lambda terminal, field: terminal.tap(field, amount_cents), disturbance)

    def field(self, card: int, disturbance: Disturbance | None = None) -> CardField:
        """A card at this terminal, watched by the oracle."""
        terminal = self.terminal
        assert terminal is not None
        return CardField(
            self._cards,
            card,
            self.host,
            disturbance=disturbance,
            on_write=self._oracle.card_written,
            payee=lambda: terminal.charging,
        )

    def serve(self, card: int, act: Act, disturbance: Disturbance | None = None) -> TapResult | None:
        """Whatever a customer does with a card; None as for `tap`."""
        terminal = self.terminal
        if not isinstance(terminal, SellingTerminal):
            return None
        field = self.field(card, disturbance)
        result = self.guarded(lambda: act(terminal, field))
        if not isinstance(result, TapResult):
            return None
        self._oracle.answered(self.number, self.secrets.epoch, result)
        self.host.world.trace("tap", self.number, card, result.outcome.value, result.why.value, result.sequence)
        return result
