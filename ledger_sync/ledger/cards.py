"""Cards in stage 1: issued in bulk, reported lost (挂失), released (解挂), cancelled (作废), shown.

Every verb runs inside the transaction of its operation (`operations`); a change of the deny list is a signed version
in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger_sync.ledger.accounts import OPENING
from ledger_sync.ledger.books import ACTIVE, CANCELLED, LOST, UNKNOWN, Books, CardState
from ledger_sync.ledger.errors import VerbRefused
from protocol.codes import CardKind
from protocol.keys import CARD_UID_BYTES

CARDS_PER_OPERATION_MAX: Final = 5_000  # one operation's arguments stay around a megabyte
OPENING_CENTS_MAX: Final = 10**9
U32_MAX: Final = 0xFFFF_FFFF
_KINDS: Final = {int(kind) for kind in CardKind}


def number_of(arguments: Mapping[str, Any], name: str, low: int, high: int, *, default: int | None = None) -> int:
    """An integer argument within its limits. Raises VerbRefused."""
    value = arguments.get(name, default)
    if type(value) is not int or not low <= value <= high:  # a bool is an int to isinstance
        raise VerbRefused(f"{name} must be a number from {low} to {high}")
    return value


def issue_cards(books: Books, cards: Sequence[Mapping[str, Any]], *, now_ms: int, day: int) -> dict[str, int]:
    """Register cards {number, uid (hex), kind, key_version, group, opening_cents}; openings go to their mirrors.

    A card that is registered already with the same UID is left as it is, so that an import can be repeated.
    """
    if not 0 < len(cards) <= CARDS_PER_OPERATION_MAX:
        raise VerbRefused(f"an import of {len(cards)} cards, 1 to {CARDS_PER_OPERATION_MAX} at a time")
    issued = 0
    for card in cards:
        number = number_of(card, "number", 1, U32_MAX)
        opening = number_of(card, "opening_cents", 0, OPENING_CENTS_MAX, default=0)
        uid = _uid_of(card)
        known = books.card(number)
        if known is not None and known.uid is not None:
            if known.uid != uid:
                raise VerbRefused(f"card …{number % 10_000:04d} is issued with another UID")
            continue
        _register(books, card, number, uid, opening, now_ms)
        state = books.card(number)
        assert state is not None
        if opening:
            books.debit_mirror(state, -opening, day, None)
            books.credit(OPENING, -opening, day)
        issued += 1
    return {"issued": issued, "already_issued": len(cards) - issued}


def _register(books: Books, card: Mapping[str, Any], number: int, uid: bytes, opening: int, now_ms: int) -> None:
    kind = number_of(card, "kind", 1, 255, default=int(CardKind.AES))
    if kind not in _KINDS:
        raise VerbRefused(f"card kind {kind} is not known")
    facts = (
        now_ms,
        uid,
        kind,
        number_of(card, "key_version", 1, 255, default=1),
        number_of(card, "group", 0, 255, default=0),
        opening,
        number,
    )
    # a number met before its issue keeps its mirror, and the proofs seen stay the measure of its counter
    books.connection.execute(
        "INSERT INTO cards (number, status, status_ms, opening_cents, mirror_cents, top_counter)"
        " VALUES (?, 'unknown', 0, 0, 0, 0) ON CONFLICT (number) DO NOTHING",
        (number,),
    )
    books.connection.execute(
        "UPDATE cards SET status = 'active', status_ms = ?1, uid = ?2, kind = ?3, key_version = ?4, card_group = ?5,"
        " opening_cents = ?6, top_balance_cents = CASE WHEN top_counter = 0 THEN ?6 ELSE top_balance_cents END"
        " WHERE number = ?7",
        facts,
    )
    books.cards.pop(number, None)


def _uid_of(card: Mapping[str, Any]) -> bytes:
    try:
        uid = bytes.fromhex(card["uid"])
    except (KeyError, TypeError, ValueError):
        uid = b""
    if len(uid) != CARD_UID_BYTES:
        raise VerbRefused(f"uid must be {2 * CARD_UID_BYTES} hex digits")
    return uid


def registered_card(books: Books, number: int) -> CardState:
    """The card's state. Raises VerbRefused for a number that was never issued."""
    card = books.card(number)
    if card is None or card.status == UNKNOWN:
        raise VerbRefused(f"card …{number % 10_000:04d} was never issued")
    return card


def set_status(books: Books, card: CardState, status: str, now_ms: int) -> None:
    """Change the register; the deny list is the caller's."""
    books.connection.execute(
        "UPDATE cards SET status = ?, status_ms = ? WHERE number = ?", (status, now_ms, card.number)
    )
    card.status, card.status_ms = status, now_ms


ALLOWED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "lost": ((ACTIVE,), LOST),
    "release": ((LOST,), ACTIVE),
    "cancel": ((ACTIVE, LOST), CANCELLED),
}
"""verb → (states it may be used in, state after it)."""


def show_card(books: Books, number: int) -> dict[str, Any]:
    """What the register and the mirror say of one card."""
    card = registered_card(books, number)
    key_version, group = books.connection.execute(
        "SELECT key_version, card_group FROM cards WHERE number = ?", (number,)
    ).fetchone()  # type: ignore[misc]
    return {
        "card": number,
        "status": card.status,
        "status_since_ms": card.status_ms,
        "kind": card.kind,
        "key_version": key_version,
        "group": group,
        "opening_cents": card.opening_cents,
        "mirror_cents": card.mirror_cents,
        "last_counter": card.top_counter,
        "last_balance_cents": card.top_balance_cents,
    }
