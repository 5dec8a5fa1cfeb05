"""What the AES card does to its purse and tokens, as one step from image to image (docs/protocol.md §12, R2, R21–R23).

Pure, and without keys but the one that proves: `aes` has checked length, key version, state and MAC before. Each rule
of the page stands here once. The order of checks: amount, currency, reference; the verb's own rule; the balance; the
counter. A refused transaction changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from protocol.cards.apdu import CardOrder, CardProof, StatusWord
from protocol.cards.image import AesCardImage, LastDebit
from protocol.cards.meals import NO_MEAL, TOKENS_MAX, Token
from protocol.cards.orders import VERBS
from protocol.codes import RecordType
from protocol.mac import MacKey
from protocol.proofs import tac
from protocol.record_bodies import MEAL_TYPES

COUNTER_MAX: Final = 0xFFFF_FFFF
BALANCE_MAX_CENTS: Final = 0x7FFF_FFFF


class Refusal(Exception):
    """The card's own no, with its status word; inside the card only, no error of the protocol."""

    def __init__(self, status: StatusWord) -> None:
        self.status = status


def execute(card: AesCardImage, order: CardOrder, tac_key: MacKey) -> AesCardImage:
    """The card after the order, its proof made and pending. Raises Refusal."""
    _check_terms(card, order)
    changed = _OWN_RULES[order.type](card, order)
    sign = VERBS[order.type].sign
    if sign < 0 and card.balance_cents < order.amount_cents:
        raise Refusal(StatusWord.BALANCE_TOO_LOW)
    balance = card.balance_cents + sign * order.amount_cents
    if balance > BALANCE_MAX_CENTS:
        raise Refusal(StatusWord.AMOUNT_OR_CURRENCY)
    if card.counter == COUNTER_MAX:
        raise Refusal(StatusWord.COUNTER_EXHAUSTED)
    counter, who = card.counter + 1, order.identity
    proof = tac(
        tac_key,
        type_=order.type,
        amount=order.amount_cents,
        currency=order.currency,
        card=card.number,
        terminal=who.terminal,
        epoch=who.epoch,
        sequence=who.sequence,
        counter=counter,
        balance_after=balance,
    )
    kept = CardProof(
        order.type, who, order.amount_cents, order.currency, counter, balance, proof, reference=order.reference
    )
    return replace(changed, balance_cents=balance, counter=counter, last_proof=kept, proof_pending=True)


def _check_terms(card: AesCardImage, order: CardOrder) -> None:
    is_meal = order.type in MEAL_TYPES
    if order.currency != card.currency or (order.amount_cents == 0 and not is_meal):
        raise Refusal(StatusWord.AMOUNT_OR_CURRENCY)
    if order.type != RecordType.PURCHASE and (order.reference == 0 or (order.meal != NO_MEAL and not is_meal)):
        raise Refusal(StatusWord.AMOUNT_OR_CURRENCY)


def _debit(card: AesCardImage, order: CardOrder) -> AesCardImage:
    return replace(card, last_debit=LastDebit(order.identity, order.amount_cents))


def _refund(card: AesCardImage, order: CardOrder) -> AesCardImage:
    """Only of the card's own last DEBIT, at most that much, once (R21)."""
    debit, who = card.last_debit, order.identity
    if debit is None or debit.refunded or order.amount_cents > debit.amount_cents:
        raise Refusal(StatusWord.NOT_REFUNDABLE)
    paid = debit.identity
    if (paid.terminal, paid.epoch, paid.sequence) != (who.terminal, who.epoch, order.reference):
        raise Refusal(StatusWord.NOT_REFUNDABLE)
    return replace(card, last_debit=replace(debit, refunded=True))


def _load(card: AesCardImage, order: CardOrder) -> AesCardImage:
    if order.reference <= card.load_serial:
        raise Refusal(StatusWord.SERIAL_USED)
    return replace(card, load_serial=order.reference)


def _book(card: AesCardImage, order: CardOrder) -> AesCardImage:
    if order.reference <= card.booking_serial:
        raise Refusal(StatusWord.SERIAL_USED)
    if len(card.tokens) >= TOKENS_MAX:
        raise Refusal(StatusWord.NO_ROOM)
    token = Token(order.reference, order.meal, order.amount_cents)
    return replace(card, booking_serial=order.reference, tokens=(*card.tokens, token))


def _clear(card: AesCardImage, order: CardOrder) -> AesCardImage:
    token = Token(order.reference, order.meal, order.amount_cents)
    if token not in card.tokens:
        raise Refusal(StatusWord.NO_SUCH_TOKEN)
    return replace(card, tokens=tuple(each for each in card.tokens if each != token))


_OWN_RULES: Final[Mapping[int, Callable[[AesCardImage, CardOrder], AesCardImage]]] = MappingProxyType(
    {
        RecordType.PURCHASE: _debit,
        RecordType.REFUND: _refund,
        RecordType.LOAD: _load,
        RecordType.BOOKING: _book,
        RecordType.CANCELLATION: _clear,
        RecordType.COLLECTION: _clear,
    }
)
assert _OWN_RULES.keys() == VERBS.keys()
