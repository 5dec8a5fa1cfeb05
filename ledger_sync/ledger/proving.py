"""Whether a record bears the proof that its card owes, by the kind that the register says the card is of (R2, R4).

AES CPU card    TAC over everything; a number not in the register is taken for one, if its key proves it
PBOC purse      its own TAC of a purchase or load; counter and balance only sealed
memory card     none: see `unproven`
"""

from __future__ import annotations

from hmac import compare_digest

from ledger_sync.ledger.books import UNKNOWN, CardState
from ledger_sync.ledger.flows import signed
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps, Proof
from ledger_sync.ledger.rules import RULES_1
from protocol.cards.pboc_macs import (
    TAC_BYTES,
    as_proof,
    load_tac,
    pboc_moment,
    split_load_reference,
    terminal6,
    verify_pboc_tac,
)
from protocol.codes import CardKind, PostingResult, RecordType
from protocol.errors import OutOfRange
from protocol.proofs import verify_card_proof
from protocol.record_bodies import Completion, Transaction
from protocol.records import RecordHead


def owes_no_proof(card: CardState | None) -> bool:
    """A memory card of the register; a number that nobody issued owes the proof of an AES card."""
    return card is not None and card.kind == CardKind.MEMORY and card.status != UNKNOWN


def is_proved(
    keys: LedgerKeys, rules: int, card: CardState | None, head: RecordHead, body: Transaction | Completion
) -> bool:
    """Whether the card's proof holds."""
    kind: int = CardKind.AES
    if card is not None and card.uid is not None:
        if card.uid != body.uid:
            return False
        kind = card.kind
    if kind == CardKind.AES:
        key = keys.card_key(body.key_version, body.uid)
        return key is not None and verify_card_proof(key, head, body)
    return kind == CardKind.PBOC and rules > RULES_1 and _is_proved_by_pboc(keys, head, body)


def _is_proved_by_pboc(keys: LedgerKeys, head: RecordHead, body: Transaction | Completion) -> bool:
    """The TAC of a PBOC purse, made with the clock of the record's head; a completion carries that clock."""
    dtk = keys.pboc_keys.get((body.key_version, body.uid))
    if dtk is None:
        return False
    if isinstance(body, Completion):
        type_, clock_ms = body.original_type, body.reference
        terminal, epoch, sequence = body.original_terminal, body.original_epoch, body.original_sequence
        if type_ == RecordType.LOAD:
            _, clock_ms = split_load_reference(body.reference)
    else:
        type_, clock_ms = head.type, head.clock_ms
        terminal, epoch, sequence = head.terminal, head.epoch, head.sequence
    try:
        moment = pboc_moment(clock_ms)
        if type_ == RecordType.PURCHASE:
            return verify_pboc_tac(
                dtk, body.proof, amount_cents=body.amount_cents, terminal=terminal, epoch=epoch, sequence=sequence,
                moment=moment,
            )  # fmt: skip
        if type_ != RecordType.LOAD:
            return False  # the purse makes no other proof
        expected = load_tac(
            dtk, balance_after_cents=body.balance_after_cents, counter=body.counter - 1,
            amount_cents=body.amount_cents, terminal=terminal6(terminal, epoch), moment=moment,
        )  # fmt: skip
    except OutOfRange:
        return False
    return compare_digest(as_proof(expected), body.proof)


def proof_number(card: CardState, body: Transaction | Completion) -> int:
    """What tells one proof of a card from another under one identity, as `postings.counter` keeps it.

    The counter, where the proof covers it. A PBOC purse proves no counter: the four bytes of its TAC, or a terminal
    could bring one debit twice under two counters.
    """
    if card.kind == CardKind.PBOC and card.uid is not None:
        return int.from_bytes(body.proof[:TAC_BYTES], "big")
    return body.counter


def proof_of(identity: tuple[int, int, int], type_: int, body: Transaction | Completion) -> Proof:
    """What its neighbours by counter are compared with."""
    return Proof(body.counter, identity, signed(type_, body.amount_cents), body.balance_after_cents)


def claimed_reference(card: CardState | None, body: Completion) -> int:
    """What a refund, load or meal that a completion brings refers to: of a PBOC load the clock stands beside it."""
    is_purse = card is not None and card.kind == CardKind.PBOC and card.uid is not None
    if is_purse and body.original_type == RecordType.LOAD:
        return split_load_reference(body.reference)[0]
    return body.reference


def proof_exception(look_ups: LookUps, card: CardState, type_: int, new: Proof, trade_ms: int) -> PostingResult | None:
    """The gravest exception that a proof deserves by itself: counter reused, card state, balance (R19)."""
    taken, counter, balance = new.taken_cents, new.counter, new.balance_cents
    differs = card.mirror_cents < taken
    if card.kind == CardKind.PBOC and card.uid is not None:  # nothing proves its counter: a hint
        more_cents = balance + taken - (card.top_balance_cents or 0)
        if type_ == RecordType.PURCHASE and counter == card.top_counter + 1 and card.top_balance_cents is not None:
            # loads have a counter of their own: between two purchases the balance may have risen by what was ordered
            differs |= more_cents < 0 or (more_cents > 0 and not look_ups.was_topped_up(card.number))
    else:
        if counter == 1 and card.uid is not None:
            differs |= card.opening_cents - taken != balance
        for proof in look_ups.proofs_near(card.number, counter):
            if proof.counter == counter:
                if proof.identity != new.identity:
                    return PostingResult.POSTED_COUNTER_REUSED
            elif proof.counter < counter:
                differs |= proof.balance_cents - taken != balance
            else:
                differs |= balance - proof.taken_cents != proof.balance_cents
    if card.is_exception_at(trade_ms):
        return PostingResult.POSTED_CARD_STATE
    return PostingResult.POSTED_BALANCE if differs else None
