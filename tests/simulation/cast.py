"""Who plays on a site: terminals of every kind and both suites, cards of every kind.

A directed scene has tills and AES cards alone; a seed draws a mixed cast, in which every terminal number and card
number has its kind by its place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from protocol.codes import CardKind, ProofSuite, Suite, TerminalKind
from protocol.parameters import Meal, Menu, Parameters
from protocol.permissions import Permissions
from terminal_sim.door_people import simulated_permissions

ALL_DAY: Final = 1
MENUS: Final = ((1, "A 套餐", 1200), (2, "B 套餐", 900), (3, "soup", 0))
FILL_MENUS: Final = 8  # of meals that are booked and not served: they make the document a few chunks long


@dataclass(frozen=True, slots=True)
class Role:
    """One terminal."""

    kind: TerminalKind = TerminalKind.POS
    suite: Suite = Suite.A
    proof_suite: ProofSuite = ProofSuite.AES_CMAC


@dataclass(frozen=True, slots=True)
class Cast:
    """Terminals and cards in the order of their numbers."""

    terminals: tuple[Role, ...]
    cards: tuple[CardKind, ...]

    @classmethod
    def tills(cls, terminals: int, cards: int) -> Cast:
        """Tills of suite A and AES cards."""
        return cls((Role(),) * terminals, (CardKind.AES,) * cards)

    @classmethod
    def drawn(cls, rng: random.Random, terminals: int, cards: int) -> Cast:
        """Of 8 terminals a meal terminal, a load station and a door; of 10 cards 8 AES, 1 memory card, 1 PBOC purse."""
        few = max(1, terminals // 8)
        kinds = [TerminalKind.MEAL] * few + [TerminalKind.LOAD_STATION] * few + [TerminalKind.DOOR] * few
        kinds += [TerminalKind.POS] * (terminals - len(kinds))
        rng.shuffle(kinds)
        share_b = rng.choice((0.0, 0.2, 0.5))
        roles = tuple(_in_suite(kind, is_b=rng.random() < share_b) for kind in kinds)
        some = max(1, cards // 10)
        card_kinds = [CardKind.MEMORY] * some + [CardKind.PBOC] * some + [CardKind.AES] * (cards - 2 * some)
        rng.shuffle(card_kinds)
        return cls(roles, tuple(card_kinds))

    @property
    def is_plain(self) -> bool:
        """Tills and AES cards alone: nobody needs parameters."""
        return set(self.terminals) == {Role()} and set(self.cards) == {CardKind.AES}


def _in_suite(kind: TerminalKind, *, is_b: bool) -> Role:
    return Role(kind, Suite.B, ProofSuite.SM4_CMAC) if is_b else Role(kind)


def parameters(counter: int, operator_card: int) -> Parameters:
    """Version `counter`: nothing is limited, one meal is served all day; long enough for a few chunks."""
    served = Meal(
        meal=ALL_DAY,
        name="all day",
        card_max=3,
        booking_days_max=7,
        cut_off_min=1440,
        serving_from_min=0,
        serving_to_min=1440,
        walk_in_cents=1500,
        menus=tuple(Menu(menu=number, name=name, price_cents=cents) for number, name, cents in MENUS),
    )
    fill = tuple(
        Menu(menu=menu, name=f"version {counter}", price_cents=100 + menu) for menu in range(1, FILL_MENUS + 1)
    )
    others = tuple(
        replace(served, meal=meal, name=f"of version {counter}", serving_to_min=1, menus=fill) for meal in range(2, 5)
    )
    return Parameters(meals=(served, *others), operator_cards=frozenset({operator_card}))


def permissions(terminals: list[int]) -> Permissions:
    """The same three doors at each of these door terminals, ascending."""
    documents = [simulated_permissions(each) for each in terminals]
    first = documents[0]
    doors = [door for each in documents for door in each.doors]
    return Permissions(doors=doors, groups=first.groups, profiles=first.profiles, offsets=first.offsets)
