"""From what a reader saw to the facts of a decision, and from a decision to its record (docs/protocol.md §7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.codes import AccessIdentity
from protocol.door import Decision, Facts
from protocol.record_bodies import AccessDenied, AccessGranted, card_masked
from protocol.signed import Version
from terminal_sim.door_reader import Proof, Seen
from terminal_sim.errors import SectorDead
from terminal_sim.rtc import NEVER_SET

if TYPE_CHECKING:
    from terminal_sim.door_terminal import DoorTerminal


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """What one card at one reader came to; `decision` None: there was nothing to decide."""

    decision: Decision | None
    card: int = 0
    sequence: int = 0
    """Of its record; 0: none was made, or it is among those lost."""

    @property
    def granted(self) -> bool:
        return self.decision is not None and self.decision.granted

    def __repr__(self) -> str:
        reason = self.decision.reason.name if self.decision is not None else "NOTHING"
        return f"Access(granted={self.granted}, {reason}, {card_masked(self.card)}, sequence={self.sequence})"


def facts_of(terminal: DoorTerminal, seen: Seen, code: str) -> Facts:
    """What the evaluator is told: the number that the card has proved, and its claims of group and last day."""
    card = seen.card
    if seen.proof is not Proof.PROVED or card is None:
        return Facts(is_genuine=seen.proof is not Proof.FAILED, code=code)
    deny_list = terminal.deny_list.memory
    try:
        is_denied = deny_list.refuses(card.number)
    except SectorDead:
        is_denied = False  # as at a till: the damage is reported, and nobody can be looked up until it is mended
        deny_list.damaged = True
    utc_ms = terminal.rtc.now_ms()
    permissions = terminal.permissions
    return Facts(
        card=card.number,
        group=card.group,
        valid_until_day=card.valid_until_day,
        is_denied=is_denied,
        code=code,
        now=None if utc_ms == NEVER_SET or permissions is None else permissions.local_time(utc_ms),
    )


def access_body(
    door: int, seen: Seen, facts: Facts, decision: Decision, version: Version
) -> AccessGranted | AccessDenied:
    """The record. A number that no card has proved stands in `number`, never in `card`."""
    is_proved = facts.card != 0
    generation, counter = version
    kind = AccessGranted if decision.granted else AccessDenied
    return kind(
        card=facts.card,
        door=door,
        reason=decision.reason,
        identity=AccessIdentity.CARD_PROVED if is_proved else AccessIdentity.NUMBER_ONLY,
        flags=decision.flags,
        list_generation=generation,
        list_counter=counter,
        number=0 if is_proved or seen.card is None else seen.card.number,
    )
