"""What goes wrong inside a simulated terminal, in one tree.

SimError
├── PowerCut        the injected cut: everything in RAM is gone, the flash keeps what it had
├── FlashMisuse     the firmware asked the flash for something no chip does; a bug
├── SectorDead      a sector that can no longer be read
├── RingFull        every record in the ring is unacknowledged (R12)
├── RecordGone      a sequence that was overwritten, or never issued
├── CardGone        the card has left the field
└── MemoryLost      the flash no longer says what the next sequence is: re-enrolment (R1)
"""

from __future__ import annotations


class SimError(Exception):
    """Base of everything that this package raises on purpose."""


class PowerCut(SimError):
    """The power went; the object that was running must be thrown away and booted again from its flash."""


class FlashMisuse(SimError):
    """An access outside the chip, or across a sector boundary."""


class SectorDead(SimError):
    """The sector neither reads nor writes any more."""

    def __init__(self, sector: int) -> None:
        super().__init__(f"sector {sector} is dead")
        self.sector = sector


class RingFull(SimError):
    """No sector may be overwritten: all hold unacknowledged records (R12)."""


class RecordGone(SimError):
    """The ring does not hold that sequence."""

    def __init__(self, epoch: int, sequence: int) -> None:
        super().__init__(f"record {epoch}/{sequence} is not held")
        self.epoch = epoch
        self.sequence = sequence


class CardGone(SimError):
    """The card was pulled out of the field; it may or may not have executed the last command."""


class MemoryLost(SimError):
    """Journal and ring together no longer prove what the next sequence is."""
