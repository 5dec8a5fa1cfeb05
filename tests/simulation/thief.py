"""A stolen terminal: its keys, its memory, its session. It invents what it likes; what it touches is cards it has seen.

It seals records as well as ever. What it cannot make is a card's proof: debits, refunds, loads and completions of cards
that are not in its field, in whatever kind it states them. What needs no proof it can say: a grey, which moves money to
suspense until the card itself tells.
"""

from __future__ import annotations

import random
from typing import Final

from protocol.codes import CardKind, RecordType
from protocol.record_bodies import Completion, Grey, Load, Purchase, Refund
from protocol.records import decode_body
from terminal_sim.card_kinds import counter_of, kind_of
from terminal_sim.errors import PowerCut, RecordGone, RingFull, SectorDead
from terminal_sim.selling_terminal import SellingTerminal
from tests.simulation.keys import CURRENCY
from tests.simulation.site import Site
from tests.simulation.till import Till

AMOUNT_CENTS: Final = 9_999
SEARCHED_MAX: Final = 50


class Thief:
    """Takes one till, and never gives it back."""

    def __init__(self, site: Site, till: Till) -> None:
        self.site = site
        self.till = till
        self.rng = random.Random(f"{site.seed}:thief")
        self._cards = [number for number in site.cards.numbers() if self._owes_a_proof(number)]
        till.is_stolen = True
        site.world.count_fault("stolen_terminal")

    def _owes_a_proof(self, number: int) -> bool:
        return kind_of(self.site.cards.load(number)) is not CardKind.MEMORY

    def act(self) -> None:
        """One invention."""
        terminal = self.till.terminal
        if not isinstance(terminal, SellingTerminal) or terminal.memory is None or terminal.memory_full:
            return
        invent = self.rng.choice(
            (self._purchase, self._purchase, self._refund, self._load, self._completion, self._grey)
        )
        body = self._again(terminal) if self.rng.random() < 0.2 else invent()
        if body is None:
            return
        self.site.world.count_fault("attack:invented_record")
        try:
            terminal.write_plain(body)
        except PowerCut:
            self.till.power_cut()
        except RingFull:
            return

    def _of_a_card(self) -> dict[str, object]:
        image = self.site.cards.load(self.rng.choice(self._cards))
        kind = kind_of(image)
        stated = CardKind.MEMORY if self.rng.random() < 0.3 else kind  # a kind that owes nothing
        return {
            "card": image.number,
            "uid": image.uid,
            "key_version": image.key_version,
            "amount_cents": AMOUNT_CENTS,
            "balance_after_cents": image.balance_cents - AMOUNT_CENTS,
            "counter": counter_of(image) + 1,
            "currency": CURRENCY,
            "card_kind": stated,
            "proof": self.rng.randbytes(8),
        }

    def _purchase(self) -> Purchase:
        return Purchase(merchant=self.till.secrets.merchant, **self._of_a_card())  # type: ignore[arg-type]

    def _refund(self) -> Refund:
        fields = self._rest(Refund)
        return Refund(**fields)  # type: ignore[arg-type]

    def _load(self) -> Load:
        return Load(**self._rest(Load))  # type: ignore[arg-type]

    def _completion(self) -> Completion:
        """Another terminal's debit, as if the card had told it here."""
        other = self.rng.choice(self.site.tills)
        original = {
            "original_terminal": other.number,
            "original_epoch": other.secrets.epoch,
            "original_sequence": self.rng.randint(1, 20),
            "original_type": int(RecordType.PURCHASE),
        }
        return Completion(**(self._rest(Completion) | original))  # type: ignore[arg-type]

    def _grey(self) -> Grey:
        facts = self._of_a_card()
        image = self.site.cards.load(int(str(facts["card"])))
        before = {"balance_before_cents": image.balance_cents, "counter_before": counter_of(image)}
        names = ("card", "uid", "key_version", "amount_cents", "currency")
        stated = {name: facts[name] for name in names} | before | {"card_kind": kind_of(image)}
        return Grey(merchant=self.till.secrets.merchant, **stated)  # type: ignore[arg-type]

    def _rest(self, kind: type) -> dict[str, object]:
        """The facts of a card, and what else a body of that kind states."""
        facts = self._of_a_card() | {"merchant": self.till.secrets.merchant}
        names = kind.__match_args__  # type: ignore[attr-defined]
        return {name: facts.get(name, self.rng.randint(1, 20)) for name in names}

    def _again(self, terminal: SellingTerminal) -> Purchase | None:
        """A sale that was really made here, once more under another number: its proof names the first."""
        memory, epoch = terminal.memory, self.till.secrets.epoch
        assert memory is not None
        for sequence in range(memory.next - 1, max(0, memory.next - SEARCHED_MAX), -1):
            try:
                body = decode_body(memory.ring.read(epoch, sequence))
            except (RecordGone, SectorDead):
                return None
            if isinstance(body, Purchase) and self._owes_a_proof(body.card):
                return body
        return None
