"""The port behind which a terminal debits any kind of card (docs/cards.md, R4, R20). Pure.

What the firmware asks of a card is the same for every kind:

    start → CardSeen → authenticate → [PendingProof → completion_written → PendingCleared → authenticate]
          → Authenticated → (intent in flash) intent_written → Debited → (record in flash) record_written → Finished

with Unknown (write a grey record), Refused or CardGone where it ends early: the events of `events`, which say what
comes next. Kinds differ in their bytes and in what they prove. `CardDialogue` finds out which kind is in the field and
hands over to it; the kinds that a terminal serves are given to it, so that a terminal without PBOC cards needs no DES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from protocol.cards.apdu import SELECT_COMMAND, DebitOrder, StatusWord
from protocol.cards.dialogue import ENDED, DebitDialogue, State
from protocol.cards.events import CardGone, Reason, Refused, Step
from protocol.codes import CardKind
from protocol.errors import StateMisuse
from protocol.sam import Sam


@dataclass(slots=True, frozen=True)
class DebitTerms:
    """What is known of a debit before the card is: everything of its order but the sequence."""

    amount_cents: int
    currency: int
    terminal: int
    epoch: int

    def check(self, order: DebitOrder) -> None:
        """Raises StateMisuse for an order on other terms than those the card was shown."""
        identity = order.identity
        if DebitTerms(order.amount_cents, order.currency, identity.terminal, identity.epoch) != self:
            raise StateMisuse("the order is not for the terms of this dialogue")


@dataclass(slots=True, frozen=True)
class LoadChoice:
    """What a load station wants of a card, once that has told its highest load serial (R22)."""

    amount_cents: int
    recalls: tuple[int, int] | None = None
    """(online counter before it, sequence) of a load of an earlier tap whose end nobody here saw: its proof is asked
    for, and nothing is loaded."""


Choose = Callable[[int], LoadChoice | None]
"""The card's highest load serial → what to do; None: nothing, by the caller's decision."""


class PurseDialogue(Protocol):
    """One card of one kind, from its arrival until it leaves. Every verb raises StateMisuse out of turn.

    After a Step with a command the caller says `answered(bytes)`, `answered(None)` (the card is there, the answer is
    not) or `card_gone()`. A card's bytes raise nothing: they end in an event.
    """

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of this dialogue."""

    @property
    def may_have_debited(self) -> bool:
        """Whether a command that can move money has left; then the open intent is owed at least a grey record."""

    def start(self) -> Step:
        """A card is in the field."""

    def authenticate(self, challenge: bytes) -> Step:
        """The caller accepts the card; `challenge` is 16 random bytes, never used before."""

    def completion_written(self) -> Step:
        """The completion of the PendingProof is in flash, sealed."""

    def intent_written(self, order: DebitOrder, *, clock_ms: int) -> Step:
        """The intent for exactly this order is in flash; `clock_ms` is what the record's head will state."""

    def record_written(self) -> Step:
        """The purchase record of Debited is in flash, sealed."""

    def abandon(self) -> Step:
        """The caller gives up; possible until the intent is written."""

    def answered(self, answer: bytes | None) -> Step:
        """The card's answer to the last command."""

    def card_gone(self) -> Step:
        """The card left the field; harmless after the end. May bring Debited: a debit that stands although cut."""


Kinds = Mapping[CardKind, Callable[[DebitTerms], PurseDialogue]]
"""Which kinds a terminal serves, and how a dialogue with each is made."""

_AES_DEBIT_SENT: Final = frozenset({State.DEBITING, State.ASKING, State.DEBITED, State.DEBITED_GONE, State.UNKNOWN})


class AesPurse:
    """`DebitDialogue` behind the port: it needs neither terms nor time before the order."""

    __slots__ = ("_dialogue", "_terms")

    def __init__(self, sam: Sam, terms: DebitTerms) -> None:
        self._dialogue = DebitDialogue(sam)
        self._terms = terms

    @property
    def ended(self) -> bool:
        return self._dialogue.state in ENDED

    @property
    def may_have_debited(self) -> bool:
        return self._dialogue.state in _AES_DEBIT_SENT

    def start(self) -> Step:
        return self._dialogue.start()

    def authenticate(self, challenge: bytes) -> Step:
        return self._dialogue.authenticate(challenge)

    def completion_written(self) -> Step:
        return self._dialogue.completion_written()

    def intent_written(self, order: DebitOrder, *, clock_ms: int) -> Step:
        self._terms.check(order)
        return self._dialogue.intent_written(order)

    def record_written(self) -> Step:
        return self._dialogue.record_written()

    def abandon(self) -> Step:
        return self._dialogue.abandon()

    def answered(self, answer: bytes | None) -> Step:
        return self._dialogue.answered(answer)

    def card_gone(self) -> Step:
        return self._dialogue.card_gone()


class CardDialogue:
    """A card of any kind served here; itself a PurseDialogue, from the first SELECT on.

    A CPU card answers SELECT with its kind; for a memory card the reader module answers "unknown command".
    """

    __slots__ = ("_found", "_kinds", "_over", "_terms", "_waiting")

    def __init__(self, kinds: Kinds, terms: DebitTerms) -> None:
        self._kinds = kinds
        self._terms = terms
        self._found: PurseDialogue | None = None
        self._waiting = False
        self._over = False

    @property
    def ended(self) -> bool:
        return self._over if self._found is None else self._found.ended

    @property
    def inner(self) -> PurseDialogue | None:
        """The dialogue of the kind that was found, for what only that kind can tell; None until then."""
        return self._found

    @property
    def may_have_debited(self) -> bool:
        return self._found is not None and self._found.may_have_debited

    def start(self) -> Step:
        if self._waiting or self._over or self._found is not None:
            raise StateMisuse("start: this dialogue has begun")
        self._waiting = True
        return Step(SELECT_COMMAND)

    def authenticate(self, challenge: bytes) -> Step:
        return self._known().authenticate(challenge)

    def completion_written(self) -> Step:
        return self._known().completion_written()

    def intent_written(self, order: DebitOrder, *, clock_ms: int) -> Step:
        return self._known().intent_written(order, clock_ms=clock_ms)

    def record_written(self) -> Step:
        return self._known().record_written()

    def abandon(self) -> Step:
        if self._found is None and not self._over:
            return self._end(Refused(Reason.ABANDONED))
        return self._known().abandon()

    def answered(self, answer: bytes | None) -> Step:
        if self._found is not None:
            return self._found.answered(answer)
        if not self._waiting:
            raise StateMisuse("answered: nothing was asked")
        if answer is None:
            return self._end(CardGone())
        kind = CardKind.MEMORY if answer == _NO_CPU_CARD else answer[0] if answer else 0
        if kind not in self._kinds:
            return self._end(Refused(Reason.NOT_OUR_CARD))
        self._found = self._kinds[CardKind(kind)](self._terms)
        first = self._found.start()
        return self._found.answered(answer) if first.command == SELECT_COMMAND else first

    def card_gone(self) -> Step:
        if self._found is not None:
            return self._found.card_gone()
        return Step() if self._over else self._end(CardGone())

    def _known(self) -> PurseDialogue:
        if self._found is None:
            raise StateMisuse("no card is known yet")
        return self._found

    def _end(self, event: Refused | CardGone) -> Step:
        self._waiting, self._over = False, True
        return Step(event=event)


_NO_CPU_CARD: Final = StatusWord.UNKNOWN_COMMAND.to_bytes(2, "big")
