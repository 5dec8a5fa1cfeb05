"""All tills, cards and faults of one run in one process, on the ports.

    taps (terminal_sim.load) ─▶ tills ─▶ FaultyNetwork ─▶ front-end
    faults (terminal_sim.faults) ─▶ network, flash, cards      Truth sees cards and customers, Figures sees uplinks

A fleet does what it is told and when: `run.py` decides about phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from protocol.cards.apdu import Identity
from protocol.codes import CardKind, TerminalKind
from protocol.parameters import Parameters
from protocol.ports import Clock, Log, Network, Random
from terminal_sim.card import CardField, Disturbance
from terminal_sim.card_kinds import Card, is_torn, kind_of
from terminal_sim.customers import Act, Customers, usual_parameters
from terminal_sim.door_walks import DoorWalks
from terminal_sim.draws import Draws
from terminal_sim.errors import PowerCut
from terminal_sim.faults import Chance, NetworkCut, PowerCuts
from terminal_sim.figures import Figures, SessionNote
from terminal_sim.firmware import PosTerminal
from terminal_sim.incidents import FullMemory
from terminal_sim.kinds import SiteFacts
from terminal_sim.load import PlannedTap
from terminal_sim.load_station import LoadOrder
from terminal_sim.outage import FaultyNetwork
from terminal_sim.outcome import CardReader, Outcome, TapResult
from terminal_sim.population import CardShelf, Chips, Seat
from terminal_sim.selling_terminal import SellingTerminal
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
        opening: Sequence[Card],
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
        self._aes_numbers = [each.number for each in opening if kind_of(each) is CardKind.AES]
        self.truth = truth
        self.chance = Chance(seed)
        self.network = FaultyNetwork(network, clock)
        self.unserved = 0
        """Planned taps for which no till had power."""
        self.faults_fired: dict[str, int] = {}
        self.torn_every = 0
        self.torn_by_kind: dict[str, int] = {}
        self.stolen: set[int] = set()
        """Numbers of cards whose owner no longer has them."""
        self._clock = clock
        self._random = random
        self.note = note
        self._chips = chips
        self._chips_used = len(seats)
        self.retired: list[tuple[Seat, int]] = []
        """Devices that were replaced, with the index of their chip."""
        self._filling: FullMemory | None = None
        self.is_over = False
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
            site=SiteFacts(parameters if parameters is not None else self._usual_parameters(seats), orders),
        )
        draws = Draws(seed, "tills")
        self.tills = [
            Till(index, seat, chips.chip(index), shared, draws=draws, went_dark=self._went_dark)
            for index, seat in enumerate(seats)
        ]

        self.sellers = [till for till in self.tills if till.sells]
        """Where taps go; they come first among the tills, so that a plan's index is a till's."""
        self._checkers = [till for till in self.sellers if till.takes_every_card] or self.sellers
        self.doors = [till for till in self.tills if not till.sells]

    def _usual_parameters(self, seats: Sequence[Seat]) -> Parameters | None:
        """For a fleet of several kinds; tills alone just sell."""
        kinds = {seat.secrets.terminal_kind for seat in seats}
        return usual_parameters(self.card_numbers[0]) if kinds - {TerminalKind.POS, TerminalKind.DOOR} else None

    # -- power

    def boot(self, done: Callable[[], None]) -> None:
        """Switch every till on, a few per turn of the loop; then `done`."""
        waiting = iter(self.tills)

        def some() -> None:
            for _ in range(BOOTS_PER_TURN):
                till = next(waiting, None)
                if till is None or self.is_over:
                    done()
                    return
                till.switch_on()
            self._clock.call_at(self._clock.monotonic_ms(), some)

        some()

    def shut_down(self) -> None:
        """Every till off, for good; what they hold is in their chips."""
        self.is_over = True
        for till in self.tills:
            till.switch_off()

    def _went_dark(self, till: Till) -> None:
        self.count_fault("power")
        self.note("till_dark", terminal=till.number)
        if not self.is_over:
            dark_ms = self.chance.dark_ms(self._dark_ms)
            self._clock.call_at(self._clock.monotonic_ms() + dark_ms, lambda: self._back(till))

    def _back(self, till: Till) -> None:
        if not self.is_over and not till.is_on:
            till.switch_on()

    def walks(self) -> DoorWalks:
        """People for the doors of this fleet."""
        return DoorWalks(
            self.doors,
            self.cards,
            card_numbers=self.card_numbers,
            stolen=self.stolen,
            seed=self.chance.seed,
            clock=self._clock,
            random=self._random,
        )

    # -- taps

    def tap(self, planned: PlannedTap) -> None:
        """One customer of the plan, now."""
        filling = self._filling
        till = self._till_with_power(planned.terminal if filling is None else filling.wants)
        if till is None:
            self.unserved += 1
            secrets = self.tills[planned.terminal].seat.secrets
            self.truth.tap_interrupted(Identity(secrets.terminal, secrets.epoch, 0))
            return
        numbers = self.card_numbers
        card = planned.card
        for _ in range(len(self.stolen)):
            if numbers[card] not in self.stolen:
                break
            card = (card + 1) % len(numbers)
        torn = self.torn_every and (self.truth.taps_done + 1) % self.torn_every == 0
        disturbance: Disturbance | None = None
        if torn:
            kind = kind_of(self.cards.load(numbers[card]))
            disturbance = self.chance.disturbance(kind)
            self.count_fault("torn")
            self.torn_by_kind[kind.name.lower()] = self.torn_by_kind.get(kind.name.lower(), 0) + 1
        assert isinstance(till.terminal, SellingTerminal)
        number = numbers[card] if till.takes_every_card else self._aes_card(card)
        visit = self.customers.visit(till.terminal, self.truth.taps_done, number, planned.amount_cents)
        result = self._tap(till, visit.card, visit.act, disturbance=disturbance)
        if result is not None and isinstance(till.terminal, SellingTerminal):
            self.customers.left(till.terminal, result)
        if filling is not None:
            filling.tapped(result)
            if filling.is_over:
                self._filling = None

    def _aes_card(self, index: int) -> int:
        """The customer's card, or that of the next one whose card has places for meals and loads."""
        return self._aes_numbers[index % len(self._aes_numbers)] if self._aes_numbers else self.card_numbers[index]

    def _tap(
        self,
        till: Till,
        card: int,
        act: Act,
        *,
        disturbance: Disturbance | None = None,
        unplanned: bool = False,
        is_check: bool = False,
    ) -> TapResult | None:
        """A card at a till with power. None if the till went dark under it."""
        assert till.terminal is not None
        terminal, secrets = till.terminal, till.seat.secrets
        sequence = terminal.memory.next if terminal.memory is not None else 0
        field = CardField(
            self.cards,
            card,
            self._random,
            disturbance=disturbance,
            on_write=self.truth.card_written,
            payee=lambda: terminal.charging,
        )
        try:
            result = till.serve(act, field)
        except PowerCut:
            if not is_check:
                identity = Identity(secrets.terminal, secrets.epoch, sequence)
                self.truth.tap_interrupted(identity, card=card, unplanned=unplanned)
            return None
        if not is_check or result.outcome is Outcome.CHECKED:
            self.truth.answered(secrets.terminal, secrets.epoch, result, unplanned=unplanned)
        return result

    # -- the card check at the end

    def torn_cards(self) -> list[int]:
        """Cards that an earlier tap left something on, or of which nobody knows whether it did."""
        return [card for card in self.cards.numbers() if card in self.truth.torn or is_torn(self.cards.load(card))]

    def check(self, card: int) -> TapResult | None:
        """Tap the card at a till drawn from the seed and sell nothing; None if no till had power for it."""
        till = self._till_with_power(self.chance.check_terminal(len(self.sellers)), self._checkers)
        return None if till is None else self._tap(till, card, _check, unplanned=True, is_check=True)

    def _operator_field(self, card: int) -> CardField:
        return CardField(self.cards, card, self._random, on_write=self.truth.card_written)

    def tap_stolen(self, card: int, amount_cents: int) -> tuple[Till, TapResult] | None:
        """The thief taps a card (its number) at a till drawn from the seed; None if that came to nothing."""
        till = self._till_with_power(self.chance.thief_terminal(len(self.sellers)))
        if till is None:
            return None
        result = self._tap(till, card, partial(_sale, amount_cents), unplanned=True)
        return None if result is None else (till, result)

    def _till_with_power(self, index: int, among: Sequence[Till] | None = None) -> Till | None:
        """That till, or the next one with power: the customer walks on."""
        tills = self.sellers if among is None else among
        for offset in range(len(tills)):
            till = tills[(index + offset) % len(tills)]
            if till.is_on:
                return till
        return None

    # -- incidents

    @property
    def has_spare_chip(self) -> bool:
        return self._chips_used < self._chips.count

    def install(self, till: Till, seat: Seat) -> None:
        """A new device for a terminal whose old one is off; needs a spare chip."""
        self.retired.append((till.seat, till.chip))
        till.install(seat, self._chips_used, self._chips.chip(self._chips_used))
        self._chips_used += 1
        till.switch_on()

    def fill_memory(self) -> None:
        """Begin the incident `full` at the till with the small memory."""
        till = self._till_with_power(self.chance.fillable(len(self.sellers)))
        if till is not None and self._filling is None:
            self._filling = FullMemory(till, self)

    def stop_filling(self) -> None:
        if self._filling is not None:
            self._filling.give_up()
            self._filling = None

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
        self.note("network_cut", kind="blackhole" if fault.swallow else "cut", seconds=fault.ms / 1000)
        self._clock.call_at(self._clock.monotonic_ms() + fault.ms, self._network_back)

    def _network_back(self) -> None:
        self._network_faults -= 1
        if self._network_faults == 0 and not self.is_over:
            self.network.restore()
            self.note("network_back", backlog=self.figures.backlog)

    def cut_power(self, fault: PowerCuts) -> None:
        """Some tills lose power in the middle of their next flash operations."""
        self._dark_ms = fault.ms
        victims = [self.tills[index] for index in self.chance.victims(fault.terminals, len(self.tills))]
        self.note("power_cut", terminals=[till.number for till in victims])
        for till in victims:
            till.cut_soon(self.chance.cut_steps(), self.chance.cut_bits())
        boots = {till.index: till.boots for till in victims}

        def the_idle_ones() -> None:
            for till in victims:
                if not self.is_over and till.boots == boots[till.index]:
                    till.pull_plug()

        self._clock.call_at(self._clock.monotonic_ms() + CUT_PATIENCE_MS, the_idle_ones)


def _check(terminal: PosTerminal, card: CardReader) -> TapResult:
    return terminal.check(card)


def _sale(amount_cents: int, terminal: PosTerminal, card: CardReader) -> TapResult:
    return terminal.tap(card, amount_cents)
