"""The states of a dialogue with an AES card, and every move between them (docs/protocol.md §12).

The table, and nothing else: `dialogue` acts on it; `turns` lends its inputs to the dialogues of the other card kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final


class State(Enum):
    IDLE = "nothing sent"
    SELECTING = "SELECT sent"
    SEEN = "card known, not yet proved; the caller checks it"
    AUTHENTICATING = "AUTHENTICATE sent"
    READING_PENDING = "GET PROOF sent for a debit of an earlier dialogue"
    PENDING = "the caller writes the completion"
    CONFIRMING_PENDING = "CONFIRM sent for the earlier debit"
    CLEARED = "earlier debit settled; authenticate again"
    READING_MEALS = "READ MEALS sent"
    READY = "authenticated; the caller writes the intent"
    DEBITING = "DEBIT, or another transaction, sent"
    ASKING = "answer to DEBIT missing; GET PROOF sent"
    DEBITED = "the caller writes the record, the card is there"
    DEBITED_GONE = "the caller writes the record, the card has left"
    CONFIRMING = "CONFIRM sent"
    DONE = "record written"
    UNKNOWN = "the caller writes a grey or doubt record"
    REFUSED = "no debit; the caller writes `aborted` if it holds a sequence"
    GONE = "card left before any DEBIT; as REFUSED"


class Input(Enum):
    START = "start"
    AUTHENTICATE = "authenticate"
    ANSWER = "answered"
    COMPLETION_WRITTEN = "completion_written"
    INTENT_WRITTEN = "intent_written"
    RECORD_WRITTEN = "record_written"
    ABANDON = "abandon"
    CARD_GONE = "card_gone"


_BEFORE_DEBIT: Final = (
    State.IDLE,
    State.SELECTING,
    State.SEEN,
    State.AUTHENTICATING,
    State.READING_PENDING,
    State.PENDING,
    State.CONFIRMING_PENDING,
    State.CLEARED,
    State.READING_MEALS,
    State.READY,
)
ENDED: Final = frozenset({State.DONE, State.UNKNOWN, State.REFUSED, State.GONE})

TRANSITIONS: Final[Mapping[tuple[State, Input], frozenset[State]]] = MappingProxyType(
    {
        (State.IDLE, Input.START): frozenset({State.SELECTING}),
        (State.SELECTING, Input.ANSWER): frozenset({State.SEEN, State.REFUSED, State.GONE}),
        (State.SEEN, Input.AUTHENTICATE): frozenset({State.AUTHENTICATING, State.REFUSED}),
        (State.CLEARED, Input.AUTHENTICATE): frozenset({State.AUTHENTICATING}),
        (State.AUTHENTICATING, Input.ANSWER): frozenset(
            {State.READY, State.READING_MEALS, State.READING_PENDING, State.REFUSED, State.GONE}
        ),
        (State.READING_MEALS, Input.ANSWER): frozenset({State.READY, State.REFUSED, State.GONE}),
        (State.READING_PENDING, Input.ANSWER): frozenset({State.PENDING, State.REFUSED, State.GONE}),
        (State.PENDING, Input.COMPLETION_WRITTEN): frozenset({State.CONFIRMING_PENDING}),
        (State.CONFIRMING_PENDING, Input.ANSWER): frozenset({State.CLEARED, State.REFUSED, State.GONE}),
        (State.READY, Input.INTENT_WRITTEN): frozenset({State.DEBITING}),
        (State.DEBITING, Input.ANSWER): frozenset({State.DEBITED, State.REFUSED, State.ASKING}),
        (State.DEBITING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.ASKING, Input.ANSWER): frozenset({State.DEBITED, State.REFUSED, State.UNKNOWN}),
        (State.ASKING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.DEBITED, Input.RECORD_WRITTEN): frozenset({State.CONFIRMING}),
        (State.DEBITED, Input.CARD_GONE): frozenset({State.DEBITED_GONE}),
        (State.DEBITED_GONE, Input.RECORD_WRITTEN): frozenset({State.DONE}),
        (State.DEBITED_GONE, Input.CARD_GONE): frozenset({State.DEBITED_GONE}),
        (State.CONFIRMING, Input.ANSWER): frozenset({State.DONE}),
        (State.CONFIRMING, Input.CARD_GONE): frozenset({State.DONE}),
        **{(state, Input.CARD_GONE): frozenset({State.GONE}) for state in _BEFORE_DEBIT},
        **{(state, Input.ABANDON): frozenset({State.REFUSED}) for state in _BEFORE_DEBIT},
        **{(state, Input.CARD_GONE): frozenset({state}) for state in ENDED},
    }
)
"""(state, input) → possible next states; a pair that is missing is the caller's mistake, StateMisuse."""
