"""One card and one dialogue, from the first command to the answer to the customer: what every tap has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.cards.events import Event, Step
from terminal_sim.errors import CardGone
from terminal_sim.outcome import CardReader, TapResult


class Answering(Protocol):
    """A dialogue of `protocol.cards`: it says what to send and what has happened."""

    def start(self) -> Step: ...
    def answered(self, answer: bytes | None) -> Step: ...
    def card_gone(self) -> Step: ...


def converse(dialogue: Answering, card: CardReader, take: Callable[[Event], Step | TapResult]) -> TapResult:
    """Carry commands to the card and answers back; `take` turns each event into the next step, or ends the tap."""
    step = dialogue.start()
    while True:
        if step.command is not None:
            try:
                answer = card.exchange(step.command)
            except CardGone:
                step = dialogue.card_gone()
            else:
                step = dialogue.answered(answer)
            continue
        assert step.event is not None
        outcome = take(step.event)
        if isinstance(outcome, TapResult):
            return outcome
        step = outcome
