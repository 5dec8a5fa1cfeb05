"""What taps of every kind write beside their transactions: refusals, and proofs brought home (docs/protocol.md §7.2).

A refusal has a sequence of its own and tells which deny list was used (R28). `aborted` is for a sequence that a
transaction had allocated already.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from protocol.cards.apdu import CardFacts, CardProof, StatusWord
from protocol.codes import AbortReason, RecordType, RefusalReason
from protocol.record_bodies import MEAL_TYPES, PROVED_TYPES, Completion, Refusal
from terminal_sim.outcome import Why

if TYPE_CHECKING:
    from terminal_sim.firmware import PosTerminal

WHY_OF: Final[Mapping[RefusalReason, Why]] = MappingProxyType(
    {
        RefusalReason.DENY_LIST: Why.DENY_LIST,
        RefusalReason.EXPIRED: Why.EXPIRED,
        RefusalReason.BALANCE_TOO_LOW: Why.BALANCE,
        RefusalReason.NOT_GENUINE: Why.NOT_GENUINE,
        RefusalReason.CARD_REFUSED: Why.CARD_REFUSED,
        RefusalReason.AMOUNT_LIMIT: Why.AMOUNT_LIMIT,
        RefusalReason.DAILY_LIMIT: Why.DAILY_LIMIT,
        RefusalReason.MEAL_LIMIT: Why.MEAL_LIMIT,
        RefusalReason.NOT_BOOKED: Why.NOT_BOOKED,
        RefusalReason.OUTSIDE_SERVING_TIME: Why.OUTSIDE_SERVING_TIME,
        RefusalReason.CUT_OFF_PASSED: Why.CUT_OFF_PASSED,
        RefusalReason.LIST_TOO_OLD: Why.LIST_TOO_OLD,
        RefusalReason.OPERATOR: Why.OPERATOR,
        RefusalReason.NO_ORDER: Why.NO_ORDER,
        RefusalReason.NOT_REFUNDABLE: Why.NOT_REFUNDABLE,
    }
)
REASON_OF: Final[Mapping[Why, RefusalReason]] = MappingProxyType({why: reason for reason, why in WHY_OF.items()})
"""Whys without an entry leave no refusal: a foreign card is nobody's, a card that was pulled away refused nothing."""
assert set(WHY_OF) == set(RefusalReason)

_REASON_OF_STATUS: Final = {
    StatusWord.BALANCE_TOO_LOW: RefusalReason.BALANCE_TOO_LOW,
    StatusWord.NO_SUCH_TOKEN: RefusalReason.NOT_BOOKED,
    StatusWord.NOT_REFUNDABLE: RefusalReason.NOT_REFUNDABLE,
    StatusWord.SERIAL_USED: RefusalReason.NO_ORDER,
    StatusWord.NO_ROOM: RefusalReason.MEAL_LIMIT,
}
ABORT_REASON_OF: Final = {
    RefusalReason.DENY_LIST: AbortReason.DENY_LIST,
    RefusalReason.BALANCE_TOO_LOW: AbortReason.BALANCE_TOO_LOW,
    RefusalReason.NOT_GENUINE: AbortReason.CARD_NOT_GENUINE,
    RefusalReason.OPERATOR: AbortReason.OPERATOR,
}
"""For a sequence that was allocated; every other reason is `card refused`."""


def reason_of_status(status: int | None, attempted_type: int = RecordType.PURCHASE) -> RefusalReason:
    """What the card's own no means to a customer; a till that only sells hears of nothing but the balance."""
    if status == StatusWord.BALANCE_TOO_LOW:
        return RefusalReason.BALANCE_TOO_LOW
    if status is None or attempted_type == RecordType.PURCHASE or status not in _REASON_OF_STATUS:
        return RefusalReason.CARD_REFUSED
    return _REASON_OF_STATUS[StatusWord(status)]


def refusal_record(
    terminal: PosTerminal, reason: RefusalReason, *, attempted_type: int, card: int = 0, amount_cents: int = 0
) -> Refusal | None:
    """The refusal to write for a card turned away before a sequence was allocated; None once memory is nearly full.

    Refusals are knowledge, not money: they must not fill the memory that sales need (R12).
    """
    if terminal.memory_warning:
        return None
    generation, counter = terminal.deny_list.memory.version
    return Refusal(
        card=card,
        attempted_type=attempted_type,
        reason=reason,
        list_generation=generation,
        list_counter=counter,
        amount_cents=amount_cents,
    )


def completion_of(card: CardFacts, proof: CardProof, *, reference: int | None = None) -> Completion | None:
    """The completion that brings a card's last proof home; None for one that no card of ours can have made.

    `reference`: of a PBOC purse the clock under its TAC; else what the card keeps beside the proof.
    """
    who = proof.identity
    is_possible = proof.type in PROVED_TYPES and who.terminal and who.epoch and who.sequence
    if not is_possible or (proof.amount_cents == 0 and proof.type not in MEAL_TYPES):
        return None
    return Completion(
        original_terminal=who.terminal,
        original_sequence=who.sequence,
        original_epoch=who.epoch,
        original_type=proof.type,
        key_version=card.key_version,
        card=card.number,
        uid=card.uid,
        card_kind=card.kind,
        amount_cents=proof.amount_cents,
        balance_after_cents=proof.balance_after_cents,
        counter=proof.counter,
        currency=proof.currency,
        proof=proof.proof,
        reference=proof.reference if reference is None else reference,
    )
