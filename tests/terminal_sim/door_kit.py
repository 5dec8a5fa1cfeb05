"""A door terminal on a bench: what its strike does, what its memory holds, who stands before it. No test lives here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from protocol.door_lock import Actuation
from protocol.permissions import Permissions
from protocol.records import decode_body
from terminal_sim.card import CardField, Disturbance, MemoryCards
from terminal_sim.door_access import Access
from terminal_sim.door_tally import TALLY_SECTORS, DoorLayout
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.flash import SECTOR_BYTES, VirtualFlash
from terminal_sim.layout import JOURNAL_SECTORS, LIST_AREAS
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import DriftingRtc
from tests.protocol.door_kit import STAFF, site
from tests.terminal_sim.kit import BenchClock, BenchRandom, card_image, check_chain, no_log, terminal_secrets

VERSION: Final = (3, 7)


def door_layout(*, ring_sectors: int = 4) -> DoorLayout:
    documents = 2  # parameters and permissions, of two sectors each here
    lists = LIST_AREAS * (2 + documents * 2)
    size_bytes = (JOURNAL_SECTORS + lists + ring_sectors + TALLY_SECTORS) * SECTOR_BYTES
    return DoorLayout(size_bytes, list_sectors=2, document_sectors=2, documents=documents)


@dataclass
class DoorBench:
    """One door terminal that can lose power at any byte; its clock shows Monday noon in Shanghai."""

    layout: DoorLayout = field(default_factory=door_layout)
    secrets: TerminalSecrets = field(default_factory=terminal_secrets)
    permissions: Permissions | None = field(default_factory=site)
    seed: int = 1
    has_clock: bool = True

    def __post_init__(self) -> None:
        self.flash = VirtualFlash(self.layout.size_bytes)
        self.random = BenchRandom(self.seed)
        self.clock = BenchClock()
        self.noon = self.clock.now_ms()
        self.rtc = DriftingRtc(self.clock, offset_ms=self.offset_ms if self.has_clock else None, has_battery=True)
        self.cards = MemoryCards()
        self.written = 0
        """Times that a card was written."""
        self.acted: list[tuple[int, Actuation]] = []
        self.open_contacts: set[int] = set()

    @property
    def offset_ms(self) -> int:
        return 1_773_633_600_000 - self.clock.now_ms()  # 2026-03-16T04:00Z, as `tests.protocol.door_kit.NOON`

    def issue(self, number: int = 1000, *, group: int = STAFF, valid_until_day: int = 0) -> int:
        self.cards.save(replace(card_image(number), group=group, valid_until_day=valid_until_day))
        return number

    def boot(self, *, power_on: bool = True) -> DoorTerminal:
        if power_on:
            self.flash.power_on()
        return DoorTerminal(
            self.flash,
            self.secrets,
            rtc=self.rtc,
            random=self.random,
            log=no_log,
            layout=self.layout,
            permissions=self.permissions,
            version=VERSION,
            on_actuation=lambda lock, each: self.acted.append((lock, each)),
            contact_open=self.open_contacts.__contains__,
        )

    def field(self, card: int, disturbance: Disturbance | None = None) -> CardField:
        def wrote(*_: object) -> None:
            self.written += 1

        return CardField(self.cards, card, self.random, disturbance=disturbance, on_write=wrote)

    def present(
        self,
        terminal: DoorTerminal,
        card: int,
        *,
        door: int = 1,
        code: str = "",
        disturbance: Disturbance | None = None,
    ) -> Access:
        return terminal.present(door, self.field(card, disturbance), code)

    def strikes(self) -> int:
        """How often a strike was released."""
        return sum(each is Actuation.STRIKE_ON for _, each in self.acted)


def bodies(terminal: DoorTerminal) -> list[object]:
    """What the memory holds, its chain checked."""
    return [decode_body(record) for record in check_chain(terminal)]


def fill(terminal: DoorTerminal, *, leave: int = 0) -> None:
    """Make the memory full of unacknowledged records, but for so many."""
    memory = terminal.memory
    assert memory is not None
    while memory.ring.room_records() > leave:
        terminal.tamper(is_open=True)


def acknowledge_all(terminal: DoorTerminal) -> None:
    memory = terminal.memory
    assert memory is not None
    memory.ring.mark_acknowledged(terminal.secrets.epoch, memory.next - 1)
