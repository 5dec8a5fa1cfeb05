"""Planted bugs of the ledger: each a patch in memory."""

from __future__ import annotations

from typing import Any, Final

import pytest

from ledger_sync.ledger import checks, claims, flows, judge, orders, posting, schema
from ledger_sync.ledger.books import CardState
from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.judge import Judge
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.service import LedgerService
from protocol.codes import CardKind, PostingResult
from protocol.link_messages import BatchMessage

GREY_MS_MAX: Final = 2_000
TIMERS: Final = ("timer", "second timer")


def forget_what_was_posted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LookUps, "prefetch", lambda *_: None)


def post_a_proof_twice(patch: pytest.MonkeyPatch) -> None:
    """A completion and its record, each moves the money: nobody looks whether the proof is known."""
    patch.setattr(judge, "_proofs_of", lambda _: [])
    link = Judge._link

    def books_again(taken: Judge, record: Any, body: Any, standing: Any, booked: Any, proof: Any = None) -> Any:
        if proof is None:
            return link(taken, record, body, standing, booked, proof)
        card = taken._books.card_or_unknown(body.card, 0)
        return taken._book(record, body, standing, card, proof, is_fork=False)

    patch.setattr(Judge, "_link", books_again)


def believe_every_card_proof(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judge, "is_proved", lambda *_: True)


def believe_the_record_which_kind_its_card_is(patch: pytest.MonkeyPatch) -> None:
    """R4: which proof a card owes is decided by the register, never by the record."""
    transaction = Judge._transaction

    def judges(taken: Judge, record: Any, body: Any, standing: Any) -> Any:
        card = taken._books.card(body.card)
        if card is not None and body.card_kind == CardKind.MEMORY:
            return taken._unproven.judge(record, body, standing, card)
        return transaction(taken, record, body, standing)

    patch.setattr(Judge, "_transaction", judges)


def believe_every_seal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "verify_record", lambda *_: True)
    patch.setattr(LedgerKeys, "seal_key", lambda *_: _Anything())


class _Anything:
    def verifies(self, *_: object) -> bool:
        return True


def forget_the_counter_of_a_resolved_grey(patch: pytest.MonkeyPatch) -> None:
    """As it was: the card's highest counter lived in memory alone until its mirror moved again."""
    see_proof = Judge._see_proof

    def sees(taken: Judge, card: CardState, *rest: Any) -> None:
        was_changed = card.number in taken._books.changed_cards
        see_proof(taken, card, *rest)
        if not was_changed:
            taken._books.changed_cards.pop(card.number, None)

    patch.setattr(Judge, "_see_proof", sees)


def refund_grey_by_timer(patch: pytest.MonkeyPatch) -> None:
    """R20: never by a timer."""
    post = Ledger.post

    def posts(ledger: Ledger, batch: BatchMessage, now_ms: int) -> Any:
        done = post(ledger, batch, now_ms)
        if ledger._anchor is None:  # the auditor's copy does again what was done, and has no timer
            return done
        overdue = ledger.connection.execute(
            "SELECT posting FROM suspense WHERE kind = 'grey' AND resolved_position IS NULL AND trade_ms < ?"
            " AND posting NOT IN (SELECT item FROM decisions WHERE subject = 'suspense')",
            (now_ms - GREY_MS_MAX,),
        ).fetchall()
        for (item,) in overdue:
            asked = {"subject": "suspense", "item": item, "outcome": "not spent"}
            for verb, who in zip(("propose", "confirm"), TIMERS, strict=True):
                more = {"reason": "too old"} if verb == "propose" else {}
                ledger.operate(verb, asked | more, operator=who, now_ms=now_ms)
        return done

    patch.setattr(Ledger, "post", posts)


def forget_a_committed_list(patch: pytest.MonkeyPatch) -> None:
    """As it was: committed, then the heads file failed, and nobody was sent the version."""
    patch.setattr(LedgerService, "_broadcast_newest", lambda _: None)


def ledger_never_synced(patch: pytest.MonkeyPatch) -> None:
    configure = schema._configure

    def configures(connection: Any, *, in_memory: bool) -> None:
        configure(connection, in_memory=in_memory)
        connection.execute("PRAGMA synchronous = OFF")

    patch.setattr(schema, "_configure", configures)


def ledger_not_synced_at_commit(patch: pytest.MonkeyPatch) -> None:
    configure = schema._configure

    def configures(connection: Any, *, in_memory: bool) -> None:
        configure(connection, in_memory=in_memory)
        connection.execute("PRAGMA synchronous = NORMAL")

    patch.setattr(schema, "_configure", configures)


def receipt_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Every ninth batch: the receipt goes out, the transaction is taken back."""
    transaction, count = Ledger._transaction, 0

    def runs(ledger: Ledger, work: Any) -> Any:
        nonlocal count
        count += 1
        if count % 9:
            return transaction(ledger, work)
        ledger.connection.execute("BEGIN IMMEDIATE")
        done, _ = work()
        ledger._roll_back()
        ledger._load()
        return done

    patch.setattr(Ledger, "_transaction", runs)


def allow_a_refund_of_nothing(patch: pytest.MonkeyPatch) -> None:
    """The merchant never pays a refund back: every one is an exception of the house."""
    patch.setattr(claims.Claims, "_purchases", lambda *_: ())


def leave_an_order_in_flight(patch: pytest.MonkeyPatch) -> None:
    """A load is booked from the order, and the order stands as if it had not been executed."""
    patch.setattr(orders, "execute", lambda *_: True)


def collect_a_meal_without_its_booking(patch: pytest.MonkeyPatch) -> None:
    """A collection pays the merchant, and the booking goes on waiting."""
    effect = flows.effect

    def takes(type_: int, cents: int, merchant: int, **rest: Any) -> Any:
        return effect(1 if type_ == 0x22 and rest.get("is_met") else type_, cents, merchant, **rest)

    patch.setattr(claims, "effect", takes)


def quarantine_blocks_what_follows(patch: pytest.MonkeyPatch) -> None:
    """R9: one bad record never blocks those behind it; here the identity that was quarantined once stays so."""
    check = checks.check_record

    def checked(raw: bytes, state: Any, sequence: int, *rest: Any, **more: Any) -> Any:
        if sequence <= state.quarantined_to:
            return checks._flaw(PostingResult.QUARANTINED_SEAL)
        return check(raw, state, sequence, *rest, **more)

    patch.setattr(posting, "check_record", checked)
