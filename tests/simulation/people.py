"""What people do at a site's terminals, drawn from the seed: buy, give back, load, book, cancel, collect; pass doors.

Their cards are pulled away, fall silent, or lose power with the terminal, at any command of a dialogue.
"""

from __future__ import annotations

import random
from typing import Final

from protocol.cards.memory_image import Remainder
from protocol.codes import CardKind, TerminalKind
from terminal_sim.card import CardField, Disturbance, Effect, Moment
from terminal_sim.card_kinds import kind_of
from terminal_sim.customers import Customers
from terminal_sim.door_people import DURESS_CODE, ENTRANCE, OFFICE, OFFICE_CODE, WAY_OUT
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.flash import CutAfter
from terminal_sim.selling_terminal import SellingTerminal
from tests.simulation.plan import Plan
from tests.simulation.site import Site
from tests.simulation.till import Till

COMMANDS_MAX: Final = {CardKind.AES: 8, CardKind.MEMORY: 24, CardKind.PBOC: 24}  # of a tap that first clears a proof
CUT_STEPS: Final = 700  # flash bytes and erase pieces that two taps program at most
AMOUNTS_CENTS: Final = (1, 350, 850, 1_250, 2_000)
MEMORY_BLOCK_BYTES: Final = 16


class People:
    """Everybody who walks up to a terminal."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site = site
        self.plan = plan
        self.rng = random.Random(f"{site.seed}:people")
        self.customers = Customers(site.seed, site.cards, self._operator_field)
        self.taps = 0
        self.outcomes: dict[str, int] = {}
        self._cards = list(site.cards.numbers())
        self._aes = [number for number in self._cards if kind_of(site.cards.load(number)) is CardKind.AES]

    def _operator_field(self, card: int) -> CardField:
        site = self.site
        return CardField(site.cards, card, site.tills[0].host, on_write=site.oracle.card_written)

    def arrive(self) -> None:
        """One person, at one terminal."""
        till = self.rng.choice(self.site.tills)
        self.taps += 1
        if till.is_stolen:
            return
        if till.is_on and self.rng.random() < self.plan.cut_in_flash:
            till.flash.cut_plan = CutAfter(self.rng.randrange(CUT_STEPS), bits_done=self.rng.randrange(256))
        if till.kind == TerminalKind.DOOR:
            self._at_door(till)
        else:
            self._at_till(till)

    def _note(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    # -- money

    def _at_till(self, till: Till) -> None:
        rng, site, terminal = self.rng, self.site, till.terminal
        takes_every_card = till.kind == TerminalKind.POS or rng.random() < 0.1
        card = rng.choice(self._cards if takes_every_card else self._aes)
        if not isinstance(terminal, SellingTerminal):
            self._note("no power")
            return
        till.take_orders()
        visit = self.customers.visit(terminal, self.taps, card, rng.choice(AMOUNTS_CENTS))
        disturbance = self._disturbance(visit.card) if rng.random() < self.plan.disturbed else None
        writes = site.oracle.executed
        before = len(writes)
        result = site.serve(till, visit.card, visit.act, disturbance)
        if result is None:
            self._note("no power")
            if len(writes) > before:
                site.world.count_fault("power_cut_after_debit")
            return
        self.customers.left(terminal, result)
        self._note(f"{result.outcome.value} {result.why.value}".strip())
        if disturbance is not None and result.outcome.value not in {"sold", "done"}:
            site.world.count_fault("card_torn")

    def _disturbance(self, card: int) -> Disturbance:
        rng, kind = self.rng, kind_of(self.site.cards.load(card))
        at, moment, effect = rng.randrange(COMMANDS_MAX[kind]), rng.choice(list(Moment)), rng.choice(list(Effect))
        if kind is not CardKind.MEMORY:
            return Disturbance(at, moment, effect)
        written = rng.randrange(MEMORY_BLOCK_BYTES + 1)
        return Disturbance(at, moment, effect, bytes_written=written, remainder=rng.choice(list(Remainder)))

    # -- doors

    def _at_door(self, till: Till) -> None:
        terminal = till.terminal
        if not isinstance(terminal, DoorTerminal):
            self._note("no power")
            return
        till.guarded(lambda: self._pass(terminal, till))

    def _pass(self, terminal: DoorTerminal, till: Till) -> None:
        rng = self.rng
        terminal.tick()
        act = rng.randrange(10)
        if act == 0:
            terminal.exit_pressed(ENTRANCE)
        elif act == 1:
            terminal.contact(ENTRANCE, is_open=rng.random() < 0.5)
        else:
            card = rng.choice(self._cards)
            door = rng.choice((ENTRANCE, WAY_OUT, OFFICE))
            code = rng.choice((OFFICE_CODE, DURESS_CODE, "0000")) if door == OFFICE else ""
            held = terminal.deny_list.memory.version
            access = terminal.present(door, CardField(self.site.cards, card, till.host), code)
            self.site.invariants.presented(till, card, held, is_granted=access.granted)
            self._note("door opened" if access.granted else "door shut")

    # -- afterwards

    def see_every_card(self) -> None:
        """Each card, lost ones too, meets a till once more, with nothing for sale, and tells all that it knows."""
        tills = [till for till in self.site.tills if till.kind == TerminalKind.POS and not till.is_stolen]
        for at, card in enumerate(self._cards):
            self.site.serve(tills[at % len(tills)], card, lambda terminal, field: terminal.check(field))
