"""All tills, cards and faults of one run in one process, on the ports.

    taps (terminal_sim.load) ─▶ tills ─▶ FaultyNetwork ─▶ front-end
    faults (terminal_sim.faults) ─▶ network, flash, cards      Truth sees cards and customers, Figures sees uplinks

A fleet does what it is told and when: `run.py` decides about phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from protocol.cards.image import AesCardImage
from protocol.codes import TerminalKind
from protocol.parameters import Parameters
from protocol.ports import Clock, Log, Network, Random
from terminal_sim.card import CardField
from terminal_sim.customers import Customers, usual_parameters
from terminal_sim.draws import Draws
from terminal_sim.errors import PowerCut
from terminal_sim.faults import Chance, NetworkCut, PowerCuts
from terminal_sim.figures import Figures, SessionNote
from terminal_sim.load import PlannedTap
from terminal_sim.load_station import LoadOrder
from terminal_sim.outage import FaultyNetwork
from terminal_sim.outcome import TapResult
from terminal_sim.population import CardShelf, Chips, Seat
from terminal_sim.till import Surroundings, Till
from terminal_sim.truth import Truth

BOOTS_PER_TURN: Final = 8  # a boot reads the whole ring; the loop must breathe in between
CUT_PATIENCE_MS: Final = 1_000  # a till that writes nothing for so long loses its power between two operations
DARK_MS_USUAL: Final = 1_000

Note = Callable[..., None]
"""(event, **facts): something a person or the demo wants to know of."""


class Fleet:
    """Owns no files: `chips`, `cards` and `truth` are closed by whoever opened them."""

    def __init__(
        self,
        *,
        seats: Sequence[Seat],
        chips: Chips,
        cards: CardShelf,
        truth: Truth,
        opening: Sequence[AesCardImage],
        addresses: Sequence[str],
        seed: int,
        clock: Clock,
        network: Network,
        random: Random,
        log: Log,
        note: Note,
        on_session: SessionNote | None = None,
        parameters: Parameters | None = None,
        orders: Sequence[LoadOrder] = (),
    ) -> None:
        self.cards = cards
        self.card_numbers = [each.number for each in opening]
        self.truth = truth
        self.chance = Chance(seed)
        self.network = FaultyNetwork(network, clock)
        self.unserved = 0
        """Planned taps for which no till had power."""
        self.faults_fired: dict[str, int] = {}
        self.torn_every = 0
        self.stolen: set[int] = set()
        """Numbers of cards whose owner no longer has them."""
        self._clock = clock
        self._random = random
        self._note = note
        self._chips = chips
        self._is_over = False
        self._dark_ms = DARK_MS_USUAL
        self._network_faults = 0
        self.figures = Figures(clock, [seat.secrets.terminal for seat in seats], on_session=on_session)
        self.customers = Customers(seed, cards, self._operator_field)
        shared = Surroundings(
            addresses=addresses,
            clock=clock,
            network=self.network,
            random=random,
            log=log,
            figures=self.figures,
            parameters=parameters if parameters is not None else self._usual_parameters(seats),
            orders=orders,
        )
        draws = Draws(seed, "tills")
        self.tills = [
            Till(index, seat, chips.chip(index), shared, draws=draws, went_dark=self._went_dark)
            for index, seat in enumerate(seats)
        ]

    def _usual_parameters(self, seats: Sequence[Seat]) -> Parameters | None:
        """For a fleet of several kinds; tills alone just sell."""
        kinds = {seat.secrets.terminal_kind for seat in seats}
        return usual_parameters(self.card_numbers[0]) if kinds - {TerminalKind.POS} else None

    # -- power

    def boot(self, done: Callable[[], None]) -> None:
        """Switch every till on, a few per turn of the loop; then `done`."""
        waiting = iter(self.tills)

        def some() -> None:
            for _ in range(BOOTS_PER_TURN):
                till = next(waiting, None)
                if till is None or self._is_over:
                    done()
                    return
                till.switch_on()
            self._clock.call_at(self._clock.monotonic_ms(), some)

        some()

    def shut_down(self) -> None:
        """Every till off, for good; what they hold is in their chips."""
        self._is_over = True
        for till in self.tills:
            till.switch_off()

    def _went_dark(self, till: Till) -> None:
        self.count_fault("power")
        self._note("till_dark", terminal=till.number)
        if not self._is_over:
            dark_ms = self.chance.dark_ms(self._dark_ms)
            self._clock.call_at(self._clock.monotonic_ms() + dark_ms, lambda: self._back(till))

    def _back(self, till: Till) -> None:
        if not self._is_over and not till.is_on:
            till.switch_on()

    # -- taps

    def tap(self, planned: PlannedTap) -> None:
        """One customer of the plan, now."""
        till = self._till_with_power(planned.terminal)
        if till is None:
            self.unserved += 1
            secrets = self.tills[planned.terminal].seat.secrets
            self.truth.tap_interrupted(secrets.terminal, secrets.epoch)
            return
        numbers = self.card_numbers
        card = planned.card
        for _ in range(len(self.stolen)):
            if numbers[card] not in self.stolen:
                break
            card = (card + 1) % len(numbers)
        torn = self.torn_every and (self.truth.taps_done + 1) % self.torn_every == 0
        disturbance = self.chance.disturbance() if torn else None
        if torn:
            self.count_fault("torn")
        assert till.terminal is not None
        terminal, secrets = till.terminal, till.seat.secrets
        visit = self.customers.visit(terminal, self.truth.taps_done, numbers[card], planned.amount_cents)
        field = CardField(
            self.cards, visit.card, self._random, disturbance=disturbance, on_write=self.truth.card_written
        )
        try:
            result = till.serve(visit.act, field)
        except PowerCut:
            self.truth.tap_interrupted(secrets.terminal, secrets.epoch)
            return
        self.customers.left(terminal, result)
        self.truth.answered(secrets.terminal, secrets.epoch, result)

    def _operator_field(self, card: int) -> CardField:
        return CardField(self.cards, card, self._random, on_write=self.truth.card_written)

    def tap_stolen(self, card: int, amount_cents: int) -> tuple[Till, TapResult] | None:
        """The thief taps a card (its number) at a till drawn from the seed; None if that came to nothing."""
        till = self._till_with_power(self.chance.thief_terminal(len(self.tills)))
        if till is None:
            return None
        field = CardField(self.cards, card, self._random, on_write=self.truth.card_written)
        secrets = till.seat.secrets
        try:
            result = till.tap(field, amount_cents)
        except PowerCut:
            self.truth.tap_interrupted(secrets.terminal, secrets.epoch, by_thief=True)
            return None
        self.truth.answered(secrets.terminal, secrets.epoch, result, by_thief=True)
        return till, result

    def _till_with_power(self, index: int) -> Till | None:
        """That till, or the next one with power: the customer walks on."""
        for offset in range(len(self.tills)):
            till = self.tills[(index + offset) % len(self.tills)]
            if till.is_on:
                return till
        return None

    # -- faults

    def count_fault(self, kind: str) -> None:
        self.faults_fired[kind] = self.faults_fired.get(kind, 0) + 1

    def cut_network(self, fault: NetworkCut) -> None:
        """Cut or swallow, and restore after its time; of overlapping ones the last to end restores."""
        self._network_faults += 1
        self.count_fault("blackhole" if fault.swallow else "cut")
        if fault.swallow:
            self.network.swallow()
        else:
            self.network.cut()
        self._note("network_cut", kind="blackhole" if fault.swallow else "cut", seconds=fault.ms / 1000)
        self._clock.call_at(self._clock.monotonic_ms() + fault.ms, self._network_back)

    def _network_back(self) -> None:
        self._network_faults -= 1
        if self._network_faults == 0 and not self._is_over:
            self.network.restore()
            self._note("network_back", backlog=self.figures.backlog)

    def cut_power(self, fault: PowerCuts) -> None:
        """Some tills lose power in the middle of their next flash operations."""
        self._dark_ms = fault.ms
        victims = [self.tills[index] for index in self.chance.victims(fault.terminals, len(self.tills))]
        self._note("power_cut", terminals=[till.number for till in victims])
        for till in victims:
            till.cut_soon(self.chance.cut_steps(), self.chance.cut_bits())
        boots = {till.index: till.boots for till in victims}

        def the_idle_ones() -> None:
            for till in victims:
                if not self._is_over and till.boots == boots[till.index]:
                    till.pull_plug()

        self._clock.call_at(self._clock.monotonic_ms() + CUT_PATIENCE_MS, the_idle_ones)
