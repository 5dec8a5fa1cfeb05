"""What operators do while everything goes wrong: lists, load orders, documents, days, devices, decisions.

They work over the ledger's admin socket and try again when nobody answers, as people do; whether a request was done is
read from the ledger's file, never believed from an answer that was lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from protocol.codes import CardKind, ListKind, TerminalKind
from protocol.trade_time import MS_PER_DAY, MS_PER_MINUTE
from terminal_sim.card_kinds import kind_of
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.frontend_host import ZONE_MINUTES
from tests.simulation.site import Site
from tests.simulation.till import Till

AGAIN_MS: Final = 700
LOOK_MS: Final = 200
LOAD_CENTS: Final = (500, 2_000, 5_000)
SPOILT_SHARE: Final = 0.12
PERSONS: Final = ("Li Na", "Wang Wei")


class Operators:
    """One office."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.rng = random.Random(f"{site.seed}:operators")
        self._lost: list[int] = []
        self._cancelled: set[int] = set()
        self._replacing: set[int] = set()
        self._to_decide: list[tuple[str, int, str]] = []
        self._cards = list(site.cards.numbers())

    @property
    def is_replacing(self) -> bool:
        """Whether some device is still on its way out or in."""
        return bool(self._replacing)

    # -- cards

    def change_list(self) -> None:
        """A card is reported lost, found again, or given up."""
        rng, site = self.rng, self.site
        site.world.count_fault("list_change")
        self._spoil()
        if self._lost and rng.random() < 0.5:
            card = self._lost.pop(rng.randrange(len(self._lost)))
            if rng.random() < 0.2:
                self._cancelled.add(card)
                site.world.count_fault("cancel")
                site.ask({"verb": "cancel", "card": card})
            else:
                site.release(card)
            return
        card = rng.choice(self._cards)
        if card not in self._lost and card not in self._cancelled:
            self._lost.append(card)
            site.report_lost(card)

    def _spoil(self) -> None:
        """Now and then the very operation is hit: a file of the ledger, or the message that tells of it."""
        luck = self.rng.random()
        if luck < SPOILT_SHARE:
            self.site.ledger.host.file_failures += 1
        elif luck < 2 * SPOILT_SHARE:
            self.site.world.corrupt_next[LEDGER_HOST] = self.rng.randrange(3)

    def top_up(self) -> None:
        """Cash over the counter, for one station and one card that can take it."""
        rng, site = self.rng, self.site
        stations = [till.number for till in site.tills if till.kind == TerminalKind.LOAD_STATION]
        cards = [card for card in self._cards if kind_of(site.cards.load(card)) is CardKind.AES]
        if not stations or not cards:
            return
        site.world.count_fault("topup")
        request = {"verb": "topup", "card": rng.choice(cards), "amount_cents": rng.choice(LOAD_CENTS)}
        site.ask(request | {"station": rng.choice(stations)})

    # -- documents and days

    def publish(self) -> None:
        kinds = [ListKind.PARAMETERS, *([ListKind.PERMISSIONS] if self.site.doors else [])]
        self.site.world.count_fault("publish")
        self.site.publish(self.rng.choice(kinds))

    def close_day(self) -> None:
        """Yesterday, once; asked again it is refused."""
        self.site.world.count_fault("close_day")
        today = (self.site.ledger.host.now_ms() + ZONE_MINUTES * MS_PER_MINUTE) // MS_PER_DAY
        self.site.ask({"verb": "close_day", "day": today - 1})

    # -- devices

    def replace(self) -> None:
        """A device seals its last record, drains and goes; the next one is enrolled, known to the ledger, and boots."""
        waiting = [till for till in self.site.tills if till.number not in self._replacing and till.is_on]
        waiting = [till for till in waiting if not till.is_stolen]
        if waiting:
            till = self.rng.choice(waiting)
            self._replacing.add(till.number)
            self._retire(till)

    def _again(self, what: Callable[[Till], None], till: Till, delay_ms: int = LOOK_MS) -> None:
        self.site.after(delay_ms, lambda: what(till))

    def _retire(self, till: Till) -> None:
        terminal = till.terminal
        if terminal is not None and till.retire() and terminal.memory is not None:
            self._drain(till)
        else:
            self._again(self._retire, till)

    def _drain(self, till: Till) -> None:
        terminal = till.terminal
        if terminal is None or terminal.memory is None or terminal.memory.ring.unacknowledged:
            self._again(self._drain, till)
            return
        if not terminal.is_retired:  # the power went before the record was whole
            self._again(self._retire, till)
            return
        till.power_cut(comes_back=False)
        till.is_away = True
        self.site.enrol_again(till)
        self._register(till)

    def _register(self, till: Till) -> None:
        """The ledger takes over the registry before the new device says a word."""

        def told(answer: dict[str, Any] | None) -> None:
            if answer is not None and answer.get("ok"):
                self._replacing.discard(till.number)
                self.site.install(till)
            else:
                self._again(self._register, till, AGAIN_MS)

        if not self.site.register(till, told):
            self._again(self._register, till, AGAIN_MS)

    # -- afterwards

    def decide(self) -> int:
        """Two persons settle what no proof ever will, by the card in their hands (R20); returns how many they take up.

        What was never paid is not spent; what is quarantined was made by a thief or a hijacker, and is rejected.
        """
        ledger, oracle = self.site.invariants.ledger, self.site.oracle
        assert ledger is not None
        for item, identity, _, _, _ in ledger.open_suspense("grey", "doubt", "over_limit", "unproven"):
            outcome = "spent" if identity in oracle.executed else "not spent"
            self._to_decide.append(("suspense", item, outcome))
        for order, card, serial, _ in ledger.loads_in_flight():
            if not self._is_loaded(card, serial):
                self._to_decide.append(("load", order, "not executed"))
        self._to_decide += [("quarantine", item, "reject") for item, _ in ledger.quarantined()]
        count = len(self._to_decide)
        self._decide_next()
        return count

    @property
    def is_deciding(self) -> bool:
        return bool(self._to_decide)

    def _is_loaded(self, card: int, serial: int) -> bool:
        image: Any = self.site.cards.load(card)
        return bool(image.load_serial >= serial)

    def _decide_next(self) -> None:
        """One proposes, and when that is answered another confirms; then the next."""
        if not self._to_decide:
            return
        subject, item, outcome = self._to_decide[0]
        asked = {"subject": subject, "item": item, "outcome": outcome}

        def confirmed(_: dict[str, Any] | None) -> None:
            self._to_decide.pop(0)
            self._decide_next()

        def proposed(_: dict[str, Any] | None) -> None:
            self.site.ask(asked | {"verb": "confirm", "operator": PERSONS[1]}, confirmed)

        self.site.ask(asked | {"verb": "propose", "operator": PERSONS[0], "reason": "the card was looked at"}, proposed)
