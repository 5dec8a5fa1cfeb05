"""An independent oracle of the money: it watches cards and tills, never records, ledgers or totals (R18).

What a card's memory did is the truth about purses; what a till told a customer is what must be true of it:

    sold     the card was debited by exactly that amount for exactly that identity
    done     the card has made that refund, load, booking, cancellation or collection
    refused, aborted     nothing was taken for that tap
    grey     either; a CPU card's next dialogue, anywhere, must bring the truth home; a memory card's cannot
    checked  nothing was for sale

Keep it ignorant: it must not import anything that makes records or books.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.cards.apdu import Identity
from protocol.codes import RecordType
from protocol.record_bodies import card_masked
from terminal_sim.card import CardStore
from terminal_sim.card_kinds import Card, last_made, transactions_of
from terminal_sim.firmware import Outcome, TapResult


@dataclass(frozen=True, slots=True)
class Executed:
    """A transaction that a card has really made."""

    card: int
    amount_cents: int
    merchant: int
    type: int = RecordType.PURCHASE

    @property
    def taken_cents(self) -> int:
        """From the purse; negative: what the purse gained."""
        return _TAKEN[RecordType(self.type)] * self.amount_cents


_TAKEN: Final = {
    RecordType.PURCHASE: 1,
    RecordType.BOOKING: 1,
    RecordType.REFUND: -1,
    RecordType.LOAD: -1,
    RecordType.CANCELLATION: -1,
    RecordType.COLLECTION: 0,
}


@dataclass(slots=True)
class Oracle:
    """Give `card_written` to every CardField, and every TapResult to `answered`."""

    merchant_of: Mapping[int, int]
    """Terminal → merchant."""
    opening_cents: dict[int, int] = field(default_factory=dict)
    """Card → purse at the start, and credits executed since."""
    executed: dict[Identity, Executed] = field(default_factory=dict)
    sold: dict[Identity, int] = field(default_factory=dict)
    done: dict[Identity, int] = field(default_factory=dict)
    """As `sold`, of the transactions that are no sale."""
    grey: dict[Identity, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """Reason → taps."""
    faults: list[str] = field(default_factory=list)
    """What cannot be; empty in a sound system."""

    def issued(self, image: Card) -> None:
        """A card with its opening balance."""
        self.opening_cents[image.number] = image.balance_cents

    def card_written(self, before: Card, after: Card) -> None:
        """A card has stored a new image; a transaction is one whose counter rose."""
        risen = transactions_of(after) - transactions_of(before)
        if risen == 0:
            if after.balance_cents != before.balance_cents:
                self.faults.append(f"card {card_masked(after.number)}: balance moved without its counter")
            return
        paid = last_made(before, after)
        taken_cents = before.balance_cents - after.balance_cents
        made = None
        if paid is not None and paid.type in _TAKEN:
            merchant = self.merchant_of.get(paid.identity.terminal, 0)
            made = Executed(after.number, paid.amount_cents, merchant, paid.type)
        if paid is None or made is None or made.taken_cents != taken_cents or risen != 1:
            self.faults.append(f"card {card_masked(after.number)}: a debit without its proof")
            return
        if paid.identity in self.executed:
            self.faults.append(f"{paid.identity} was debited twice")
        self.executed[paid.identity] = made

    def answered(self, terminal: int, epoch: int, result: TapResult) -> None:
        """What the customer was told."""
        identity = Identity(terminal, epoch, result.sequence)
        executed = self.executed.get(identity) if result.sequence else None
        if result.outcome in {Outcome.SOLD, Outcome.DONE}:
            if executed is None or (executed.card, executed.amount_cents) != (result.card, result.amount_cents):
                self.faults.append(f"{identity} was sold, and the card has not paid that")
            told = self.sold if result.outcome is Outcome.SOLD else self.done
            if identity in told:
                self.faults.append(f"{identity} was sold twice")
            told[identity] = result.amount_cents
        elif result.outcome is Outcome.GREY:
            self.grey[identity] = result.amount_cents
        elif result.outcome is not Outcome.CHECKED:
            self.refused[result.why.value] = self.refused.get(result.why.value, 0) + 1
            if executed is not None:
                self.faults.append(f"{identity} was refused, and the card has paid")

    # -- figures

    def executed_cents(self) -> int:
        """What the purses paid, less what they were given."""
        return sum(each.taken_cents for each in self.executed.values())

    def executed_by_merchant(self) -> dict[int, int]:
        totals: dict[int, int] = {}
        for each in self.executed.values():
            merchant = 0 if each.type == RecordType.LOAD else each.merchant
            totals[merchant] = totals.get(merchant, 0) + each.taken_cents
        return totals

    def purses_cents(self, cards: CardStore) -> int:
        """Sum of what the cards really hold."""
        return sum(cards.load(number).balance_cents for number in cards.numbers())

    def check_cards(self, cards: CardStore) -> list[str]:
        """Every card holds its opening balance less what it has executed; with `faults`, all that is wrong."""
        spent: dict[int, int] = {}
        for each in self.executed.values():
            spent[each.card] = spent.get(each.card, 0) + each.taken_cents
        wrong = [
            f"card {card_masked(number)} does not hold opening balance less debits"
            for number, opening in sorted(self.opening_cents.items())
            if cards.load(number).balance_cents != opening - spent.get(number, 0)
        ]
        return self.faults + wrong

    def expected_mirrors_cents(
        self,
        cards: CardStore,
        *,
        posted: Iterable[Identity],
        grey_posted: Mapping[Identity, int],
        credits_not_posted_cents: int = 0,
    ) -> int:
        """What the ledger's card mirrors must sum to, by R18's oracle formula turned round.

        purses = mirrors + credits not posted − debits executed and not posted + grey posted that did not happen

        Args:
            cards: the true purses.
            posted: identities that the ledger has taken from a mirror, greys in suspense included.
            grey_posted: of those, the greys still unresolved, with their amounts.
            credits_not_posted_cents: executed at load stations and not posted.
        """
        posted_set = set(posted)
        not_posted = sum(each.taken_cents for identity, each in self.executed.items() if identity not in posted_set)
        not_happened = sum(cents for identity, cents in grey_posted.items() if identity not in self.executed)
        return self.purses_cents(cards) - credits_not_posted_cents + not_posted - not_happened
