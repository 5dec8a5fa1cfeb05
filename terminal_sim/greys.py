"""Which greys (灰记录) a run leaves, what they are waiting for, and the truth of each (R20).

Flash says which records are grey; only cards, and the oracle that watched them, know whether the debit happened. A
ledger never learns that from here: two persons who must decide do, as they would from the card in their hands.

    completion       the card's proof was brought home by a later tap
    pending_proof    it is still on the card: the next tap anywhere brings it
    load_station     a PBOC purse has taken a load: its station's next tap with it brings the proof home
    later_proof      an AES card's next proof bears the same counter, so this debit did not happen
    two_persons      nothing will ever prove it: no proof of its own (memory card), or none that bears its counter
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from protocol.cards.apdu import Identity
from protocol.codes import CardKind, RecordType
from terminal_sim.card import CardStore
from terminal_sim.card_kinds import Card, counter_of, is_torn, kind_of, last_debit
from terminal_sim.truth import Truth

WAITING: Final = frozenset({"pending_proof", "load_station", "two_persons"})


def judged(greys: list[dict[str, Any]], truth: Truth, cards: CardStore, *, now_ms: int) -> list[dict[str, Any]]:
    """The greys of all flash chips with truth and hint; `greys` have terminal and epoch beside what the dump says."""
    return [_judged(grey, truth, cards.load(grey["card"]), now_ms) for grey in greys]


def _judged(grey: dict[str, Any], truth: Truth, card: Card, now_ms: int) -> dict[str, Any]:
    identity = Identity(grey["terminal"], grey["epoch"], grey["sequence"])
    executed = identity in truth.oracle.executed
    found = truth.found.get(identity)
    return {
        **grey,
        "card_kind": kind_of(card).name.lower(),
        "age_s": (now_ms - grey["clock_ms"]) // 1000 if grey["clock_ms"] else None,
        "executed": executed,
        "decided_by": _decided_by(grey, identity, card, executed=executed),
        "purse_says_spent": None if found is None else found > grey["counter_before"],
    }


def _decided_by(grey: dict[str, Any], identity: Identity, card: Card, *, executed: bool) -> str:
    kind = kind_of(card)
    if kind is CardKind.MEMORY:
        return "two_persons"
    if executed and kind is CardKind.PBOC and grey["attempted_type"] == RecordType.LOAD:
        return "completion" if grey["completed_here"] else "load_station"
    if executed:
        paid = last_debit(card)
        is_here = paid is not None and paid.identity == identity and is_torn(card)
        return "pending_proof" if is_here else "completion"
    proved = counter_of(card) - is_torn(card)
    return "later_proof" if kind is CardKind.AES and proved > grey["counter_before"] else "two_persons"


def left_on_cards(truth: Truth, cards: CardStore) -> Iterator[dict[str, Any]]:
    """Cards that a next tap would find something on: a proof, or a purse to repair."""
    for number in cards.numbers():
        card = cards.load(number)
        paid = last_debit(card)
        if not is_torn(card):
            continue
        yield {
            "card": number,
            "card_kind": kind_of(card).name.lower(),
            "left": "purse to repair" if kind_of(card) is CardKind.MEMORY else "proof to collect",
            "of": None if paid is None else [paid.identity.terminal, paid.identity.epoch, paid.identity.sequence],
            "known": paid is not None and paid.identity in truth.oracle.sold,
        }
