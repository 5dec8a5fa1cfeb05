"""One place where cards are tapped: a chip, a clock, power, and the firmware that boots from the chip (收银台).

    off → on (boot from flash, uplink started) → off (power cut anywhere, or `switch_off`) → on …

It decides nothing: its owner taps, cuts and switches on again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.codes import EndReason, TerminalKind
from protocol.ports import Clock, Log, Network, Random
from terminal_sim.customers import Act
from terminal_sim.draws import Draws
from terminal_sim.errors import PowerCut
from terminal_sim.figures import Figures
from terminal_sim.firmware import PosTerminal
from terminal_sim.flash import CutAfter, VirtualFlash
from terminal_sim.kinds import SiteFacts, boot_terminal, sells
from terminal_sim.outcome import CardReader, TapResult
from terminal_sim.population import Seat
from terminal_sim.rtc import DriftingRtc
from terminal_sim.uplink import Uplink, UplinkState

DRIFT_PPM_MAX: Final = 50  # an uncompensated crystal
CLOCK_ERROR_MS_MAX: Final = 90_000


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What all tills of a fleet share."""

    addresses: Sequence[str]
    clock: Clock
    network: Network
    random: Random
    log: Log
    figures: Figures
    site: SiteFacts


class Till:
    """`went_dark` is told of every loss of power; the owner decides when it comes back."""

    __slots__ = (
        "_shared",
        "_went_dark",
        "boots",
        "chip",
        "flash",
        "index",
        "is_plugged_in",
        "is_retired",
        "rtc",
        "seat",
        "terminal",
        "uplink",
    )

    def __init__(
        self,
        index: int,
        seat: Seat,
        flash: VirtualFlash,
        shared: Surroundings,
        *,
        draws: Draws,
        went_dark: Callable[[Till], None],
    ) -> None:
        self.index = index
        self.chip = index
        """Index of its flash chip; that of a replaced device is another."""
        self.is_plugged_in = True
        self.is_retired = False
        """Out of service for good, and drained."""
        self.seat = seat
        self.flash = flash
        self.boots = 0
        self.terminal: PosTerminal | None = None
        self.uplink: Uplink | None = None
        self._shared = shared
        self._went_dark = went_dark
        has_battery = draws.below(4) != 0
        self.rtc = DriftingRtc(
            shared.clock,
            drift_ppm=draws.between(-DRIFT_PPM_MAX, DRIFT_PPM_MAX),
            offset_ms=draws.between(-CLOCK_ERROR_MS_MAX, CLOCK_ERROR_MS_MAX) if has_battery else None,
            has_battery=has_battery,
        )

    @property
    def number(self) -> int:
        return self.seat.secrets.terminal

    @property
    def sells(self) -> bool:
        """Whether customers come to it; a door has people of its own."""
        return sells(self.seat.secrets)

    @property
    def takes_every_card(self) -> bool:
        """A till does; meals and loads need the places of an AES card."""
        return self.seat.secrets.terminal_kind == TerminalKind.POS

    @property
    def is_on(self) -> bool:
        return self.terminal is not None

    @property
    def is_stuck(self) -> bool:
        """It will not get rid of its records by itself: forked, or its memory is lost."""
        return self.uplink is not None and self.uplink.state in {UplinkState.FORKED, UplinkState.STOPPED}

    def unacknowledged(self) -> int:
        """By its own memory; 0 while it is dark."""
        memory = self.terminal.memory if self.terminal is not None else None
        return memory.ring.unacknowledged if memory is not None else 0

    def switch_on(self) -> None:
        """Boot from the chip and connect."""
        assert self.terminal is None
        shared = self._shared
        self.flash.power_on()
        self.boots += 1
        terminal = boot_terminal(
            self.flash, self.seat.secrets, rtc=self.rtc, random=shared.random, log=shared.log, site=shared.site
        )
        self.terminal = terminal
        self._count_records()
        if self.is_plugged_in:
            self.plug()

    def plug(self) -> None:
        """The cable is in: connect, if there is power."""
        self.is_plugged_in = True
        terminal, shared = self.terminal, self._shared
        if terminal is None or self.uplink is not None:
            return
        self._count_records()  # none was observed while there was no uplink
        self.uplink = Uplink(
            terminal,
            addresses=self._addresses(),
            network=shared.network,
            clock=shared.clock,
            random=shared.random,
            log=shared.log,
            observer=shared.figures,
            on_power_cut=self._dark,
        )
        self.uplink.start()

    def _count_records(self) -> None:
        memory = self.terminal.memory if self.terminal is not None else None
        if memory is not None:
            rings = memory.ring.epochs.values()
            self._shared.figures.booted(
                self.number,
                created=sum(marks.next - 1 for marks in rings),
                acknowledged=sum(marks.acknowledged for marks in rings),
                next_sequence=memory.next,
            )

    def unplug(self) -> None:
        """The cable is pulled: the terminal lives on by itself."""
        self.is_plugged_in = False
        if self.uplink is not None:
            self.uplink.stop()
            self.uplink = None

    def retire(self, reason: EndReason) -> bool:
        """Seal the epoch's last record; False if that is not possible now."""
        assert self.terminal is not None
        try:
            return self.terminal.retire(reason)
        except PowerCut:
            self._dark()
            return False

    def install(self, seat: Seat, chip: int, flash: VirtualFlash) -> None:
        """Another device takes the place of this one, which is off."""
        assert self.terminal is None
        self.seat, self.chip, self.flash, self.is_retired = seat, chip, flash, False
        self._shared.figures.replaced(self.number)

    def _addresses(self) -> Sequence[str]:
        """All front-ends, this till's own first: tills share them out in turn."""
        known = self._shared.addresses
        first = self.index % len(known)
        return (*known[first:], *known[:first])

    def tap(self, card: CardReader, amount_cents: int) -> TapResult:
        """Raises PowerCut: the till has gone dark under the card."""
        return self.serve(lambda terminal, held: terminal.tap(held, amount_cents), card)

    def serve(self, act: Act, card: CardReader) -> TapResult:
        """Whatever a customer does with a card; raises PowerCut as `tap` does."""
        assert self.terminal is not None
        try:
            result: TapResult = act(self.terminal, card)
        except PowerCut:
            self._dark()
            raise
        return result

    def check(self, card: CardReader) -> TapResult:
        """As `tap`, with nothing for sale."""
        assert self.terminal is not None
        try:
            return self.terminal.check(card)
        except PowerCut:
            self._dark()
            raise

    def cut_soon(self, steps: int, bits: int) -> None:
        """The power goes inside the flash operation that is `steps` programmed bytes away."""
        self.flash.cut_plan = CutAfter(steps, bits_done=bits)

    def switch_off(self) -> None:
        """The power goes between two operations; nobody is told."""
        if self.uplink is not None:
            self.uplink.stop()
        self.uplink = self.terminal = None
        self.flash.power_off()

    def pull_plug(self) -> None:
        """As a cut, if it is still on."""
        if self.is_on:
            self._dark()

    def _dark(self) -> None:
        self.switch_off()
        self._went_dark(self)
