"""What a tap comes to, and why a terminal needs people. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from protocol.cards.apdu import Identity
from protocol.cards.memory_purse import PurseState
from protocol.record_bodies import card_masked


class Outcome(Enum):
    SOLD = "sold"
    REFUSED = "refused"
    GREY = "grey"
    """Nobody at the till knows whether the card paid: the next tap of that card tells (R20)."""
    ABORTED = "aborted"
    """The card left before anything was taken from it."""
    CHECKED = "checked"
    """A card check: nothing was for sale, an earlier tap was brought home or repaired."""
    DONE = "done"
    """Refunded, loaded, booked, cancelled or collected, and proved by the card."""


class Why(Enum):
    """Why a tap did not sell."""

    NONE = ""
    DENY_LIST = "deny_list"
    EXPIRED = "expired"
    BALANCE = "balance"
    FOREIGN = "foreign"
    NOT_GENUINE = "not_genuine"
    CARD_REFUSED = "card_refused"
    CARD_REMOVED = "card_removed"
    MEMORY_FULL = "memory_full"
    NOT_READY = "not_ready"
    AMOUNT_LIMIT = "amount_limit"
    DAILY_LIMIT = "daily_limit"
    MEAL_LIMIT = "meal_limit"
    NOT_BOOKED = "not_booked"
    OUTSIDE_SERVING_TIME = "outside_serving_time"
    CUT_OFF_PASSED = "cut_off_passed"
    LIST_TOO_OLD = "list_too_old"
    OPERATOR = "operator"
    NO_ORDER = "no_order"
    NOT_REFUNDABLE = "not_refundable"


class Alarm(Enum):
    """Why a terminal needs people."""

    MEMORY_LOST = "memory_lost"
    FORKED = "forked"


@dataclass(frozen=True, slots=True, repr=False)
class TapResult:
    """What the customer was told; `sequence` 0: no record was made."""

    outcome: Outcome
    why: Why
    amount_cents: int
    card: int = 0
    sequence: int = 0
    balance_after_cents: int | None = None
    completed: Identity | None = None
    """The identity of an earlier torn tap that this one brought home."""
    found: PurseState | None = None
    """What a memory card's purse showed before this tap: a hint whether an earlier one had happened, no proof (R4)."""

    def __repr__(self) -> str:
        shown = f"{self.outcome.value} {self.why.value}".strip()
        return f"TapResult({shown}, {self.amount_cents} cents, {card_masked(self.card)}, sequence={self.sequence})"


class CardReader(Protocol):
    """The field: one card, as long as it lies there."""

    def exchange(self, command: bytes) -> bytes | None:
        """The answer; None when the card is there and silent. Raises CardGone."""
