"""Record bodies of what a card has just proved, for every type that a card proves (docs/protocol.md §7.2)."""

from __future__ import annotations

from typing import Any, cast

from protocol.cards.apdu import CardFacts
from protocol.cards.dialogue import Debited
from protocol.codes import RecordType
from protocol.record_bodies import BODIES, MEAL_TYPES, Transaction


def proved_body(
    made: Debited, card: CardFacts, *, merchant: int, operator_card: int = 0, order: int = 0
) -> Transaction:
    """The body whose proof `made` brings; `operator_card` of a refund, `order` of a load."""
    asked = made.order
    fields: dict[str, Any] = {
        "card": card.number,
        "uid": card.uid,
        "key_version": card.key_version,
        "amount_cents": asked.amount_cents,
        "balance_after_cents": made.balance_after_cents,
        "counter": made.counter,
        "currency": asked.currency,
        "card_kind": card.kind,
        "proof": made.proof,
    }
    if asked.type != RecordType.PURCHASE:
        fields["reference"] = asked.reference
    if asked.type == RecordType.LOAD:
        fields["order"] = order
    else:
        fields["merchant"] = merchant
    if asked.type == RecordType.REFUND:
        fields["operator_card"] = operator_card
    if asked.type in MEAL_TYPES:
        fields |= {"meal_day": asked.meal.day, "meal": asked.meal.meal, "menu": asked.meal.menu}
    return cast(Transaction, BODIES[asked.type](**fields))
