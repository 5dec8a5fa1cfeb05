"""The verbs of two persons: propose, confirm, withdraw (R19, R20, R26; docs/ledger.md, "Two persons").

    propose   {"subject": "suspense", "item": 17, "outcome": "spent", "reason": "…"}
    confirm   {"subject": "suspense", "item": 17, "outcome": "spent"}       by somebody else
    withdraw  {"subject": "suspense", "item": 17}

`subject` is suspense, quarantine or load (then `item` is the order, and it was `executed` or `not executed`).

Only `confirm` moves money, by new entries. Each is an operation of its own, so the log holds both persons.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ledger_sync.ledger import orders
from ledger_sync.ledger.cards import number_of
from ledger_sync.ledger.checks import QUARANTINED, REASONS, Flaw, check_record
from ledger_sync.ledger.decisions import (
    EXECUTED,
    LOAD,
    OUTCOMES,
    QUARANTINE,
    RETRY,
    SPENT,
    SUSPENSE,
    DecisionState,
    effect_of,
    in_force,
    move,
)
from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.flows import book
from ledger_sync.ledger.judge import Judge, Record
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.quarantine import Place, release_quarantined
from protocol.codes import PostingResult, RecordType
from protocol.records import seal_of
from protocol.trade_time import booking_day, trade_day

if TYPE_CHECKING:
    from ledger_sync.ledger.work import Work

ITEM_MAX: Final = 2**63 - 1
REASON_CHARACTERS_MAX: Final = 200
NOBODY: Final = "unknown"
"""What the command line says where nobody is named: not a person."""

_SETTLED: Final[Mapping[str, str]] = {
    SUSPENSE: "SELECT resolved_position FROM suspense WHERE posting = ?",
    QUARANTINE: "SELECT resolved_position FROM quarantine WHERE item = ?",
    LOAD: "SELECT nullif(state, 'in_flight') FROM load_orders WHERE load_order = ?",
}
_PROOF_OF_SUSPENSE: Final = """
SELECT 1 FROM suspense s WHERE s.posting = ?1 AND (
    EXISTS (SELECT 1 FROM postings p WHERE (p.terminal, p.epoch, p.sequence, p.card)
            = (s.terminal, s.epoch, s.sequence, s.card) AND p.posting <> s.posting
            AND p.type IN (1, 3, 4, 32, 33, 34) AND p.result IN (0, 1, 2, 3, 4, 5, 10, 12, 13, 14))
    OR EXISTS (SELECT 1 FROM completions c WHERE (c.terminal, c.epoch, c.sequence, c.card)
               = (s.terminal, s.epoch, s.sequence, s.card) AND c.outcome <> 'nothing new')
    OR EXISTS (SELECT 1 FROM suspense o JOIN decisions d ON d.subject = 'suspense' AND d.item = o.posting
               WHERE d.state = 'confirmed' AND d.outcome = 'spent' AND o.posting <> s.posting
               AND (o.terminal, o.epoch, o.sequence, o.card) = (s.terminal, s.epoch, s.sequence, s.card)))
"""
"""Whether a debit (or what a doubt attempted) of that identity and card is booked already: by proof, or by another
decision (R20)."""
_IS_LOAD_DOUBT: Final = "SELECT 1 FROM suspense WHERE posting = ? AND kind = 'doubt' AND type = ?"


def propose(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The first person says what to do with an open item, and why."""
    subject, item, outcome = _what(work, arguments)
    reason = arguments.get("reason", "")
    if not isinstance(reason, str) or len(reason) > REASON_CHARACTERS_MAX or not reason.isprintable():
        raise VerbRefused(f"reason must be printable text of at most {REASON_CHARACTERS_MAX} characters")
    if outcome != RETRY and not reason.strip():
        raise VerbRefused("a decision needs its reason")
    _must_be_open(work, subject, item, outcome)
    found = in_force(work.books, subject, item)
    if found is not None:
        raise VerbRefused(f"{subject} item {item}: {found[1]} is proposed already, by {found[3]}")
    decision = work.books.next_id("decisions", "decision")
    work.connection.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
        (decision, subject, item, outcome, DecisionState.PROPOSED.value, reason, work.operation, work.operator,
         work.now_ms),
    )  # fmt: skip
    return {"subject": subject, "item": item, "outcome": outcome, "state": "proposed", "proposed_by": work.operator}


def confirm(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The second person states the same decision; it is carried out."""
    subject, item, outcome = _what(work, arguments)
    _must_be_open(work, subject, item, outcome)
    decision, proposed_by = _proposal(work, subject, item, outcome)
    if _same_person(proposed_by, work.operator):
        raise VerbRefused(f"{work.operator} proposed it: somebody else must confirm")
    move(work.books, decision, "proposed", DecisionState.CONFIRMED)
    _close(work, decision)
    told: dict[str, Any] = {"subject": subject, "item": item, "outcome": outcome, "state": "confirmed"}
    if subject == SUSPENSE:
        told["amount_cents"] = _book(work, item, outcome)
    elif subject == LOAD:
        order = orders.by_number(work.books, item)
        assert order is not None  # it was open a moment ago
        orders.end_by_hand(work.books, order, is_executed=outcome == EXECUTED, booking_day=work.day)
        told["amount_cents"] = order.amount_cents
    elif outcome == RETRY:
        told["result"] = _retry(work, item)
    return told | {"proposed_by": proposed_by, "confirmed_by": work.operator}


def withdraw(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Take a proposal back; anybody may, since nothing was booked."""
    subject, item = _item(work, arguments)
    decision, _ = _proposal(work, subject, item, None)
    move(work.books, decision, "proposed", DecisionState.WITHDRAWN)
    _close(work, decision)
    return {"subject": subject, "item": item, "state": "withdrawn"}


# -- what is asked


def _item(work: Work, arguments: Mapping[str, Any]) -> tuple[str, int]:
    subject = arguments.get("subject")
    if not isinstance(subject, str) or subject not in OUTCOMES:
        raise VerbRefused(f"subject must be one of {', '.join(OUTCOMES)}")
    if _same_person(work.operator, NOBODY):
        raise VerbRefused("a decision of two persons needs the operator's name")
    return subject, number_of(arguments, "item", 1, ITEM_MAX)


def _what(work: Work, arguments: Mapping[str, Any]) -> tuple[str, int, str]:
    subject, item = _item(work, arguments)
    outcome = arguments.get("outcome")
    if not isinstance(outcome, str) or outcome not in OUTCOMES[subject]:
        raise VerbRefused(f"outcome of a {subject} item must be one of {', '.join(OUTCOMES[subject])}")
    return subject, item, outcome


def _must_be_open(work: Work, subject: str, item: int, outcome: str) -> None:
    row = work.connection.execute(_SETTLED[subject], (item,)).fetchone()
    if row is None:
        raise VerbRefused(f"no {subject} item {item}")
    found = in_force(work.books, subject, item)
    if found is not None and found[2] == DecisionState.CONFIRMED:
        raise VerbRefused(f"{subject} item {item} was decided already: {found[1]}")
    if row[0] is not None:
        raise VerbRefused(f"{subject} item {item} has been settled by its record or proof")
    if outcome == SPENT and work.connection.execute(_IS_LOAD_DOUBT, (item, int(RecordType.LOAD))).fetchone():
        raise VerbRefused(f"{subject} item {item} is the doubt of a load: decide its order (`loads resolve`)")
    if outcome == SPENT and work.connection.execute(_PROOF_OF_SUSPENSE, (item,)).fetchone() is not None:
        raise VerbRefused(f"{subject} item {item}: a debit of its identity and card is booked already")
    if outcome == RETRY:
        _retryable(work, item)


def _proposal(work: Work, subject: str, item: int, outcome: str | None) -> tuple[int, str]:
    found = in_force(work.books, subject, item)
    if found is None or found[2] != DecisionState.PROPOSED:
        raise VerbRefused(f"nothing is proposed for {subject} item {item}")
    if outcome not in (None, found[1]):
        raise VerbRefused(f"{found[1]} is proposed for {subject} item {item}, not {outcome}")
    return found[0], found[3]


def _close(work: Work, decision: int) -> None:
    work.connection.execute(
        "UPDATE decisions SET closed_operation = ?, closed_by = ? WHERE decision = ?",
        (work.operation, work.operator, decision),
    )


def _same_person(one: str, other: str) -> bool:
    """Names are typed by hand: case, width and blanks make no second person."""
    return _name(one) == _name(other)


def _name(operator: str) -> str:
    return "".join(unicodedata.normalize("NFKC", operator).casefold().split())


# -- what is done


def _book(work: Work, item: int, outcome: str) -> int:
    """Suspense → where a proof would have taken it, or back to the card's mirror; cents of the item."""
    kind, number, cents, merchant, type_ = work.connection.execute(
        "SELECT kind, card, amount_cents, merchant, type FROM suspense WHERE posting = ?", (item,)
    ).fetchone()  # type: ignore[misc]
    card = work.books.card(number)
    assert card is not None  # it was met when the item was set aside
    book(work.books, effect_of(kind, type_, outcome, cents, merchant), card, work.day, None)
    return int(cents)


def _retryable(work: Work, item: int) -> None:
    first, last = work.connection.execute(
        "SELECT sequence, last_sequence FROM quarantine WHERE item = ?", (item,)
    ).fetchone()  # type: ignore[misc]
    if last < first:
        raise VerbRefused(f"quarantine item {item} is no record: a terminal says it again when it logs in")
    if last > first:
        raise VerbRefused(f"quarantine item {item} covers {last - first + 1} sequences that cannot be told apart")


def _retry(work: Work, item: int) -> int:
    found = judge_again(work, item)
    if isinstance(found, Flaw):
        raise VerbRefused(f"quarantine item {item}: {found.reason}")
    return int(found)


def judge_again(work: Work, item: int) -> PostingResult | Flaw:
    """Judge the kept bytes by what is known now; they keep their place in the evidence. A Flaw: nothing was booked."""
    terminal, epoch, sequence, trade_ms, raw, *place = work.connection.execute(
        "SELECT terminal, epoch, sequence, trade_ms, raw, position, row_id, record_index FROM quarantine"
        " WHERE item = ?",
        (item,),
    ).fetchone()  # type: ignore[misc]
    state = work.books.terminals.get((terminal, epoch))
    if state is None:
        result = PostingResult.QUARANTINED_UNKNOWN_TERMINAL
        return Flaw(result, REASONS[result])
    checked = check_record(raw, state, sequence, work.keys, work.currency, rules=work.rules)
    if isinstance(checked, Flaw):
        return checked
    look_ups = LookUps(work.books)
    look_ups.prefetch(state, sequence, sequence)
    day = trade_day(trade_ms, work.utc_offset_ms)
    booked_on = booking_day(day, work.first_open_day, work.day)
    record = Record(state, checked.head, seal_of(raw), Place(*place), trade_ms, day, booked_on)
    judge = Judge(
        work.books, look_ups, work.keys, now_ms=work.now_ms, rules=work.rules,
        unproven_limit_cents=work.unproven_limit_cents,
    )  # fmt: skip
    result = judge.judge(record, checked.body)
    work.books.write_postings()  # the next one asks the table
    if result in QUARANTINED:
        return Flaw(result, REASONS[result])
    state.highest = max(state.highest, sequence)
    release_quarantined(work.books, state, sequence, raw, work.position)
    return result
