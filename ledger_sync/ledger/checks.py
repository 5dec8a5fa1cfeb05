"""What one sealed record must be before it is judged: format, identity, seal, a type known here (R3, R5, R19).

The same checks when it arrives and when two persons have it tried again (`decide`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger_sync.ledger.books import TerminalState
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.rules import is_known
from protocol.codes import PostingResult
from protocol.errors import Malformed
from protocol.proofs import verify_record
from protocol.record_bodies import Body, Completion, Doubt, Grey, LoadNotExecuted, Transaction
from protocol.records import RecordHead, decode_body, read_head

QUARANTINED: Final = frozenset(range(PostingResult.QUARANTINED_SEAL, PostingResult.QUARANTINED_UNKNOWN_TERMINAL + 1))
REASONS: Final = {
    PostingResult.QUARANTINED_SEAL: "its seal does not hold",
    PostingResult.QUARANTINED_CARD_PROOF: "its card proof does not hold",
    PostingResult.QUARANTINED_FORMAT: "a completion that does not say what its original referred to",
    PostingResult.QUARANTINED_UNKNOWN_TYPE: "a type or body version not known here",
    PostingResult.QUARANTINED_UNKNOWN_TERMINAL: "no such terminal and epoch",
}


@dataclass(slots=True)
class Checked:
    """A record whose seal holds."""

    head: RecordHead
    body: Body


@dataclass(slots=True)
class Flaw:
    """Why a record cannot be judged."""

    result: PostingResult
    reason: str


def check_record(
    raw: bytes, state: TerminalState, sequence: int, keys: LedgerKeys, currency: int, *, rules: int
) -> Checked | Flaw:
    """One record's bytes against the identity under which they came; `rules`: those that the ledger goes by."""
    try:
        head = read_head(raw)
        if (head.terminal, head.epoch, head.sequence) != (state.terminal, state.epoch, sequence):
            raise Malformed("record", "another identity than its place says")
        key = keys.seal_key(state.terminal, state.epoch, state.suite)
        if head.proof_suite != state.suite or not verify_record(key, raw):
            return _flaw(PostingResult.QUARANTINED_SEAL)
        body = decode_body(raw)
        if not is_known(rules, body):
            return _flaw(PostingResult.QUARANTINED_UNKNOWN_TYPE)
        if isinstance(body, Transaction | Grey | Doubt | Completion | LoadNotExecuted):
            if not state.takes_money:
                raise Malformed("record", "a money type from a proxy")  # R41
            if not isinstance(body, LoadNotExecuted) and body.currency != currency:
                raise Malformed("record", f"currency {body.currency}, the ledger keeps {currency}")
    except Malformed as error:
        return Flaw(PostingResult.QUARANTINED_FORMAT, str(error))
    return Checked(head, body)


def _flaw(result: PostingResult) -> Flaw:
    return Flaw(result, REASONS[result])
