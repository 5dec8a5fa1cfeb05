"""A terminal reduced to what it has in flash, cards of every kind, and every way to cut a tap; nothing here asserts
but that the port keeps its own rules.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Final

from protocol.cards.aes import AesCardCore
from protocol.cards.apdu import DebitOrder, Identity
from protocol.cards.events import (
    Authenticated,
    CardSeen,
    Debited,
    Event,
    PendingCleared,
    PendingProof,
    Step,
    Unknown,
)
from protocol.cards.memory import MemoryCardCore
from protocol.cards.memory_dialogue import MemoryDialogue
from protocol.cards.memory_format import SectorMasters, formatted_image
from protocol.cards.memory_image import MemoryCardImage, Remainder, torn
from protocol.cards.memory_layout import Application, MemoryFacts
from protocol.cards.memory_purse import judge
from protocol.cards.memory_sam import SoftwareMemorySam
from protocol.cards.pboc import PbocCardCore, PbocCardImage, PbocCardKeys
from protocol.cards.pboc_dialogue import PbocDialogue
from protocol.cards.pboc_macs import pboc_key, pboc_moment
from protocol.cards.pboc_sam import PbocTerminalMasters, SoftwarePbocSam
from protocol.cards.port import AesPurse, CardDialogue, DebitTerms, Kinds
from protocol.codes import CardKind
from tests.protocol.samples import CARD, CNY, EPOCH, TERMINAL, UID, card_image, sam

START_CENTS: Final = 10_000
CLOCK_MS: Final = 1_772_438_400_000

PBOC_MASTERS: Final = {
    "internal": bytes.fromhex("0123456789abcdeffedcba9876543210"),
    "purchase": bytes.fromhex("11223344556677888877665544332211"),
    "maintenance": bytes.fromhex("a0a1a2a3a4a5a6a7b0b1b2b3b4b5b6b7"),
    "load": bytes.fromhex("c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d7"),
    "tac": bytes.fromhex("e0e1e2e3e4e5e6e7f0f1f2f3f4f5f6f7"),
}
SECTOR_MASTERS: Final = {
    application: SectorMasters(bytes([0x10 * application + 1] * 16), bytes([0x10 * application + 2] * 16))
    for application in Application
}
FACTS: Final = MemoryFacts(CARD, 1, CNY, 21915, 4)


def memory_image(balance_cents: int = START_CENTS, counter: int = 100) -> MemoryCardImage:
    return formatted_image(UID, FACTS, SECTOR_MASTERS, balance_cents=balance_cents, counter=counter)


def pboc_image(balance_cents: int = START_CENTS, counter: int = 100) -> PbocCardImage:
    return PbocCardImage(
        uid=UID,
        number=CARD,
        key_version=1,
        currency=CNY,
        keys=PbocCardKeys(**{name: pboc_key(master, UID) for name, master in PBOC_MASTERS.items()}),
        balance_cents=balance_cents,
        offline_counter=counter,
        online_counter=7,
        collected_counter=counter,
        valid_until_day=21915,
        group=4,
    )


def memory_sam() -> SoftwareMemorySam:
    return SoftwareMemorySam({1: {Application.PURSE: SECTOR_MASTERS[Application.PURSE].a}})


def pboc_sam() -> SoftwarePbocSam:
    named = {name: PBOC_MASTERS[name] for name in ("internal", "purchase", "maintenance")}
    return SoftwarePbocSam({1: PbocTerminalMasters(**named)})


KINDS: Final[Kinds] = {
    CardKind.AES: lambda terms: AesPurse(sam(), terms),
    CardKind.MEMORY: lambda terms: MemoryDialogue(memory_sam(), terms),
    CardKind.PBOC: lambda terms: PbocDialogue(pboc_sam(), terms),
}
CORES: Final[dict[CardKind, Callable[[], Any]]] = {
    CardKind.AES: lambda: AesCardCore(card_image(balance_cents=START_CENTS)),
    CardKind.MEMORY: lambda: MemoryCardCore(memory_image()),
    CardKind.PBOC: lambda: PbocCardCore(pboc_image()),
}


def balance(core: Any) -> int:
    """What the card itself would say: of a memory card, after the repair that any next tap makes."""
    if isinstance(core, MemoryCardCore):
        block = core.image.block
        return judge(block(4), block(5), (block(8), block(9))).balance_cents
    return int(core.image.balance_cents)


class Effect(Enum):
    PULLED = "the card is gone"
    SILENT = "the card is there, this answer is missing"
    POWER_CUT = "the terminal itself loses power, and the card with it"


@dataclass(frozen=True)
class Cut:
    """Where a tap is cut: before a command, after it, or (memory cards) after some bytes of its write."""

    command: int
    after: bool
    effect: Effect
    bytes_written: int | None = None
    remainder: Remainder = Remainder.OLD


class _PowerCut(Exception):
    pass


@dataclass
class Till:
    """Taps one card; `flash` is what a ledger would get."""

    core: Any
    terminal: int = TERMINAL
    flash: list[tuple[str, Identity, int, bytes, bytes]] = field(default_factory=list)
    """(record, identity, amount, proof, date and time under the proof)"""
    cut: Cut | None = None
    commands: int = 0
    wrote: list[int] = field(default_factory=list)
    """Indices of this tap's commands that changed the card."""
    sequences: count[int] = field(default_factory=lambda: count(1))
    random: random.Random = field(default_factory=lambda: random.Random(7))
    events: list[Event] = field(default_factory=list)

    def tap(self, amount_cents: int, cut: Cut | None = None) -> Event | None:
        """One card presented until the dialogue has ended; the last event, None after a power cut."""
        self.core.reset()
        self.cut, self.commands, self.wrote, self.events = cut, 0, [], []
        dialogue = CardDialogue(KINDS, DebitTerms(amount_cents, CNY, self.terminal, EPOCH))
        order: DebitOrder | None = None
        try:
            step = dialogue.start()
            while True:
                if step.command is not None:
                    step = self._exchange(dialogue, step.command)
                    continue
                if isinstance(step.event, Authenticated):
                    identity = Identity(self.terminal, EPOCH, next(self.sequences))
                    order = DebitOrder(amount_cents, CNY, identity)
                answer = self._take(dialogue, step.event, order)
                if answer is None:
                    break
                step = answer
        except _PowerCut:
            if order is not None and not self._has_record(order.identity):
                self._write("grey", order)  # at boot the journal knows no more than that a debit was allowed
            return None
        if order is not None and not self._has_record(order.identity):
            assert isinstance(step.event, Unknown) == dialogue.may_have_debited
            self._write("grey" if isinstance(step.event, Unknown) else "aborted", order)
        return self.events[-1]

    def _take(self, dialogue: CardDialogue, event: Event | None, order: DebitOrder | None) -> Step | None:
        assert event is not None
        self.events.append(event)
        if isinstance(event, CardSeen | PendingCleared):
            return dialogue.authenticate(self.random.randbytes(16))
        if isinstance(event, PendingProof):
            proof = event.proof
            self.flash.append(("completion", proof.identity, proof.amount_cents, proof.proof, event.moment))
            return dialogue.completion_written()
        if isinstance(event, Authenticated):
            assert order is not None
            if event.balance_cents < order.amount_cents:
                return dialogue.abandon()
            return dialogue.intent_written(order, clock_ms=CLOCK_MS)
        if isinstance(event, Debited):
            self._write("purchase", event.order, event.proof)
            return dialogue.record_written()
        assert dialogue.ended
        return None

    def _exchange(self, dialogue: CardDialogue, command: bytes) -> Step:
        index, cut = self.commands, self.cut
        self.commands += 1
        is_hit = cut is not None and cut.command == index
        assert cut is None or index <= cut.command or cut.effect is Effect.SILENT, "no command to a card that has left"
        if is_hit and cut is not None and not cut.after:
            return self._disturb(dialogue, cut)
        before = self.core.image
        answer, written = self.core.command(command, self.random.randbytes(16))
        if written is not None:
            self.wrote.append(index)
        if is_hit and cut is not None:
            if cut.bytes_written is not None and written is not None:
                self.core.image = torn(before, written, cut.bytes_written, remainder=cut.remainder)
            return self._disturb(dialogue, cut)
        return dialogue.answered(answer)

    def _disturb(self, dialogue: CardDialogue, cut: Cut) -> Step:
        if cut.effect is Effect.SILENT:
            return dialogue.answered(None)
        self.core.reset()
        if cut.effect is Effect.POWER_CUT:
            raise _PowerCut
        step = dialogue.card_gone()
        if step.event is None and not dialogue.ended:
            return dialogue.record_written()
        return step

    def _write(self, record: str, order: DebitOrder, proof: bytes = b"") -> None:
        self.flash.append((record, order.identity, order.amount_cents, proof, pboc_moment(CLOCK_MS)))

    def _has_record(self, identity: Identity) -> bool:
        return any(each[1] == identity and each[0] != "completion" for each in self.flash)

    def proved_cents(self) -> int:
        """What a ledger would book without anybody's decision: every identity once."""
        return sum({each[1]: each[2] for each in self.flash if each[0] in {"purchase", "completion"}}.values())

    def open_greys(self) -> list[int]:
        """Amounts that only a proof or two persons can decide."""
        proved = {each[1] for each in self.flash if each[0] in {"purchase", "completion"}}
        return [each[2] for each in self.flash if each[0] == "grey" and each[1] not in proved]
