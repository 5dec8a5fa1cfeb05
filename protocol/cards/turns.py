"""A dialogue's state and its table: what the dialogues of the several card kinds have in common. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from protocol.cards.dialogue import Input
from protocol.cards.events import Event, Step
from protocol.errors import StateMisuse

StateT = TypeVar("StateT", bound=Enum)


class Turns(Generic[StateT]):
    """The present state; checks every input and every move against the table."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Mapping[tuple[StateT, Input], frozenset[StateT]], first: StateT) -> None:
        self._table = table
        self.state = first

    def take(self, given: Input) -> None:
        """Raises StateMisuse for an input whose turn has not come."""
        if (self.state, given) not in self._table:
            raise StateMisuse(f"{given.value} while {self.state.name}: {self.state.value}")

    def go(self, given: Input, state: StateT, command: bytes | None = None, *, event: Event | None = None) -> Step:
        assert state in self._table[self.state, given], (self.state, given, state)
        self.state = state
        return Step(command, event)
