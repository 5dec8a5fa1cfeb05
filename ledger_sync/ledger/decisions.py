"""Decisions by hand on what is set aside or quarantined: their states, and how the real thing ends them (R20).

One person proposes, another confirms. At most one decision of an item is in force (proposed or confirmed). A card
proof that comes later wins: a proposal lapses, and what was confirmed is reversed by entries of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from ledger_sync.ledger.accounts import SUSPENSE_GREY, SUSPENSE_UNPROVEN
from ledger_sync.ledger.books import Books
from ledger_sync.ledger.errors import LedgerDamaged
from ledger_sync.ledger.flows import Effect, effect, take_back


class DecisionState(StrEnum):
    PROPOSED = "proposed"
    WITHDRAWN = "withdrawn"
    CONFIRMED = "confirmed"
    LAPSED = "lapsed"
    """The proof, or the record itself, came while it was only proposed."""
    REVERSED = "reversed"
    """The proof, or the record itself, came after it had been confirmed."""


TRANSITIONS: Final[Mapping[DecisionState, frozenset[DecisionState]]] = {
    DecisionState.PROPOSED: frozenset({DecisionState.CONFIRMED, DecisionState.WITHDRAWN, DecisionState.LAPSED}),
    DecisionState.CONFIRMED: frozenset({DecisionState.REVERSED}),
    DecisionState.WITHDRAWN: frozenset(),
    DecisionState.LAPSED: frozenset(),
    DecisionState.REVERSED: frozenset(),
}

SPENT: Final = "spent"
NOT_SPENT: Final = "not spent"
RETRY: Final = "retry"
REJECT: Final = "reject"
SUSPENSE: Final = "suspense"
QUARANTINE: Final = "quarantine"
EXECUTED: Final = "executed"
NOT_EXECUTED: Final = "not executed"
LOAD: Final = "load"
OUTCOMES: Final[Mapping[str, tuple[str, ...]]] = {
    SUSPENSE: (SPENT, NOT_SPENT),
    QUARANTINE: (RETRY, REJECT),
    LOAD: (EXECUTED, NOT_EXECUTED),
}
"""What may be decided of which kind of item."""

_OTHERS_SPENT: Final = """
SELECT o.posting FROM suspense s JOIN suspense o
ON (o.terminal, o.epoch, o.sequence, o.card) = (s.terminal, s.epoch, s.sequence, s.card) AND o.posting <> s.posting
JOIN decisions d ON d.subject = 'suspense' AND d.item = o.posting
WHERE s.posting = ? AND d.state = 'confirmed' AND d.outcome = 'spent' ORDER BY o.posting
"""


def move(books: Books, decision: int, before: str, after: DecisionState, ended_by: int | None = None) -> None:
    """The only place that changes a decision's state. Raises LedgerDamaged for a step that TRANSITIONS lacks."""
    if after not in TRANSITIONS[DecisionState(before)]:
        raise LedgerDamaged(f"decision {decision} cannot go from {before} to {after}")
    books.connection.execute(
        "UPDATE decisions SET state = ?, ended_by = ? WHERE decision = ?", (after.value, ended_by, decision)
    )


def in_force(books: Books, subject: str, item: int) -> tuple[int, str, str, str] | None:
    """(decision, outcome, state, who proposed it) of what is proposed or confirmed for an item."""
    row: tuple[Any, ...] | None = books.connection.execute(
        "SELECT decision, outcome, state, proposed_by FROM decisions"
        " WHERE subject = ? AND item = ? AND state IN ('proposed', 'confirmed')",
        (subject, item),
    ).fetchone()
    return row


def end_by_proof(books: Books, item: int, posting: int, booking_day: int) -> None:
    """The card proof of a suspense item has come: back to suspense with what was decided; the caller books on.

    Another item of that identity and card which people called spent (a fork) goes back too, and is open again: the
    proof is the one debit there was.
    """
    _end_by_proof(books, item, posting, booking_day)
    others: list[tuple[int]] = books.connection.execute(_OTHERS_SPENT, (item,)).fetchall()  # type: ignore[assignment]
    for (other,) in others:
        _end_by_proof(books, other, posting, booking_day)


def _end_by_proof(books: Books, item: int, posting: int, booking_day: int) -> None:
    found = in_force(books, SUSPENSE, item)
    if found is None:
        return
    decision, outcome, state, _ = found
    if state == DecisionState.PROPOSED:
        move(books, decision, state, DecisionState.LAPSED, posting)
        return
    kind, number, cents, merchant, type_ = books.connection.execute(
        "SELECT kind, card, amount_cents, merchant, type FROM suspense WHERE posting = ?", (item,)
    ).fetchone()  # type: ignore[misc]
    card = books.card(number)
    assert card is not None  # it was met when the item was set aside
    take_back(books, effect_of(kind, type_, outcome, cents, merchant), card, booking_day)
    move(books, decision, state, DecisionState.REVERSED, posting)


def end_by_posting(books: Books, item: int) -> None:
    """The quarantined record has been posted: a proposal lapses, a rejection is reversed, a retry stands."""
    found = in_force(books, QUARANTINE, item)
    if found is None:
        return
    decision, outcome, state, _ = found
    if state == DecisionState.PROPOSED:
        move(books, decision, state, DecisionState.LAPSED)
    elif outcome == REJECT:
        move(books, decision, state, DecisionState.REVERSED)


def effect_of(kind: str, type_: int, outcome: str, cents: int, merchant: int) -> Effect:
    """What a decision on a suspense item moves; a doubt has nothing set aside, so "not spent" moves nothing (R20)."""
    if kind == "doubt":
        return effect(type_, cents, merchant) if outcome == SPENT else Effect(0, ())
    aside = (SUSPENSE_GREY if kind == "grey" else SUSPENSE_UNPROVEN, -cents)
    if outcome == NOT_SPENT:
        return Effect(cents, (aside,))
    return Effect(0, (aside, *effect(type_, cents, merchant).others))
