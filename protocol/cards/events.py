"""What a card dialogue tells the terminal's firmware (see `dialogue`), and why there may be no debit. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from protocol.cards.apdu import CardFacts, CardOrder, CardProof
from protocol.cards.meals import CardMeals
from protocol.codes import AbortReason


class Reason(Enum):
    """Why there was no debit."""

    NOT_OUR_CARD = "does not answer SELECT as our application does"
    KEY_VERSION = "key version not held by the SAM"
    NOT_GENUINE = "authentication failed"
    CARD_REFUSED = "the card refused the command"
    BALANCE_TOO_LOW = "balance too low"
    NO_ANSWER_KEPT = "flagged a proof pending, and has none"
    NOT_DEBITED = "silent at DEBIT; its last proof shows that none happened"
    ABANDONED = "the caller's decision"


_ABORT_REASONS: Final[Mapping[Reason, AbortReason]] = MappingProxyType(
    {
        Reason.NOT_OUR_CARD: AbortReason.CARD_NOT_GENUINE,
        Reason.KEY_VERSION: AbortReason.CARD_NOT_GENUINE,
        Reason.NOT_GENUINE: AbortReason.CARD_NOT_GENUINE,
        Reason.CARD_REFUSED: AbortReason.CARD_REFUSED,
        Reason.BALANCE_TOO_LOW: AbortReason.BALANCE_TOO_LOW,
        Reason.NO_ANSWER_KEPT: AbortReason.CARD_REFUSED,
        Reason.NOT_DEBITED: AbortReason.CARD_REMOVED,
        Reason.ABANDONED: AbortReason.OPERATOR,
    }
)


@dataclass(slots=True, frozen=True)
class CardSeen:
    """Next: `authenticate(challenge)`, or `abandon()`."""

    card: CardFacts


@dataclass(slots=True, frozen=True)
class PendingProof:
    """The card's last proof was never confirmed. Next: write it as a completion, then `completion_written()`."""

    card: CardFacts
    proof: CardProof
    moment: bytes = b""
    """Date and time under a PBOC card's TAC (7 bytes BCD); empty for kinds whose proof covers none."""


@dataclass(slots=True, frozen=True)
class PendingCleared:
    """The earlier debit is settled. Next: `authenticate(challenge)` with a new challenge."""


@dataclass(slots=True, frozen=True)
class Authenticated:
    """Proved by the card: its number, balance and counter. Next: write the intent, then `intent_written(order)`."""

    balance_cents: int
    counter: int
    meals: CardMeals | None = None
    """Where the dialogue reads them: the card's word, not proved."""


@dataclass(slots=True, frozen=True)
class Debited:
    """The card made the transaction. Next: write its record from these facts, then `record_written()`."""

    order: CardOrder
    balance_after_cents: int
    counter: int
    proof: bytes

    def __repr__(self) -> str:
        return f"Debited({self.order}, balance_after_cents={self.balance_after_cents}, counter={self.counter})"


@dataclass(slots=True, frozen=True)
class Finished:
    """The record is written; `confirmed` False: the next terminal will bring the proof as a completion too."""

    confirmed: bool


@dataclass(slots=True, frozen=True)
class Recalled:
    """A load of an earlier tap did happen. Next: write the completion from this, then `completion_written()`."""

    amount_cents: int
    balance_after_cents: int
    counter: int
    proof: bytes
    moment: bytes
    """Date and time under the card's proof."""


@dataclass(slots=True, frozen=True)
class Unknown:
    """Nobody here knows whether the card made it. Next: write a grey or doubt with what was read before (R20)."""

    order: CardOrder
    balance_before_cents: int
    counter_before: int


@dataclass(slots=True, frozen=True)
class Refused:
    """No debit. A sequence already allocated is used by an `aborted` record (R1)."""

    reason: Reason
    status: int | None = None
    """The card's status word, where it gave one."""

    @property
    def abort_reason(self) -> AbortReason:
        return _ABORT_REASONS[self.reason]


@dataclass(slots=True, frozen=True)
class CardGone:
    """The card left before any DEBIT; as Refused, reason card removed."""


Event = (
    CardSeen
    | PendingProof
    | PendingCleared
    | Authenticated
    | Debited
    | Recalled
    | Finished
    | Unknown
    | Refused
    | CardGone
)


@dataclass(slots=True, frozen=True)
class Step:
    """What to send to the card, and what to tell the caller; at most one of each."""

    command: bytes | None = None
    event: Event | None = None

    def __repr__(self) -> str:
        sent = None if self.command is None else f"{self.command[1]:02X}"
        return f"Step(ins={sent}, event={self.event})"
