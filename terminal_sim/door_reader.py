"""What a door asks of a card: who are you, and prove it. No debit, nothing written on the card (docs/doors.md).

SELECT and AUTHENTICATE of `protocol.cards.dialogue`, then the dialogue is abandoned. A card that still holds the proof
of a torn debit is let be: tills bring that home (R20), a door settles no money.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from protocol.cards.apdu import CardFacts
from protocol.cards.dialogue import (
    Authenticated,
    CardGone,
    CardSeen,
    DebitDialogue,
    PendingProof,
    Reason,
    Refused,
    Step,
)
from protocol.codes import CardKind
from protocol.sam import Sam
from terminal_sim import errors
from terminal_sim.outcome import CardReader


class Proof(Enum):
    PROVED = "the card has proved its number"
    FAILED = "it answers as a card of ours, and has proved nothing"
    FOREIGN = "no card of ours"
    GONE = "it left before it had proved anything"


@dataclass(frozen=True, slots=True)
class Seen:
    proof: Proof
    card: CardFacts | None = None


def read_card(card: CardReader, sam: Sam, challenge: Callable[[], bytes]) -> Seen:
    """The whole dialogue. Raises PowerCut."""
    dialogue = DebitDialogue(sam)
    facts: CardFacts | None = None
    step = dialogue.start()
    while True:
        if step.command is not None:
            step = _exchange(dialogue, card, step.command)
            continue
        event = step.event
        if isinstance(event, CardSeen):
            facts = event.card
            step = dialogue.authenticate(challenge()) if facts.kind == CardKind.AES else dialogue.abandon()
        elif isinstance(event, Authenticated | PendingProof):
            dialogue.abandon()
            return Seen(Proof.PROVED, facts)
        elif isinstance(event, CardGone):
            return Seen(Proof.GONE, facts)
        else:
            foreign = {Reason.NOT_OUR_CARD, Reason.ABANDONED, Reason.KEY_VERSION}
            is_foreign = isinstance(event, Refused) and event.reason in foreign
            return Seen(Proof.FOREIGN if is_foreign else Proof.FAILED, facts)


def _exchange(dialogue: DebitDialogue, card: CardReader, command: bytes) -> Step:
    try:
        answer = card.exchange(command)
    except errors.CardGone:
        return dialogue.card_gone()
    return dialogue.answered(answer)
