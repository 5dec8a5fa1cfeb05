"""What operators do to the ledger: each verb one transaction, one row in `operations`, replayable (R26).

Arguments are canonical JSON and hold everything the effect depends on, so `verify` can do them again. A verb is a
function of (Work, arguments) that changes the books and returns what the operator is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from ledger_sync.ledger import catalogue, upkeep
from ledger_sync.ledger.books import ACTIVE, LOST
from ledger_sync.ledger.cards import ALLOWED, U32_MAX, issue_cards, number_of, registered_card, set_status
from ledger_sync.ledger.decide import confirm, propose, withdraw
from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.loading import topup
from ledger_sync.ledger.rules import RULES, RULES_1
from ledger_sync.ledger.work import Work
from protocol.codes import ProofSuite, TerminalClass
from protocol.deny_list import LOT_MAX, DenyList, cards_of_lot

OPERATOR_CHARACTERS_MAX: Final = 64
TERMINALS_PER_OPERATION_MAX: Final = 5_000
DEFAULT_CURRENCY: Final = 156  # CNY
LOT_VERBS: Final = frozenset({"lost", "release"})


Verb = Callable[[Work, Mapping[str, Any]], dict[str, Any]]


def operator_name(value: object) -> str:
    """Who did it: printable, not blank. Raises VerbRefused."""
    if not isinstance(value, str) or not value.strip() or len(value) > OPERATOR_CHARACTERS_MAX:
        raise VerbRefused(f"operator must be a name of at most {OPERATOR_CHARACTERS_MAX} characters")
    if not value.isprintable():
        raise VerbRefused("operator must be printable")
    return value


def _init(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The first operation of a ledger: site, currency, first open day, and an empty deny list."""
    if work.operation != 1:
        raise VerbRefused("a ledger is made once")
    site = number_of(arguments, "site", 1, U32_MAX)
    if site != work.keys.site:
        raise VerbRefused(f"the keys are of site {work.keys.site}, not {site}")
    currency = number_of(arguments, "currency", 1, 999, default=DEFAULT_CURRENCY)
    first_open_day = number_of(arguments, "first_open_day", 0, U32_MAX, default=0)
    generation = number_of(arguments, "generation", 1, U32_MAX, default=1)
    rules = number_of(arguments, "rules", RULES_1, RULES, default=RULES_1)  # the first ledgers did not say
    limit = number_of(arguments, "unproven_limit_cents", 0, upkeep.LIMIT_CENTS_MAX, default=0)
    facts = (site, generation, currency, first_open_day, rules, limit)
    work.connection.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?)", facts)
    work.connection.execute("INSERT INTO generations VALUES (?, 0, ?)", (generation, work.now_ms))
    replace(work, generation=generation).issue()
    return {"site": site, "generation": generation}


def _register(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Take over terminals of the registry: add epochs, close those that ended, follow a change of merchant (R40).

    The proof suite is fixed for an epoch: records already sealed could not be checked under another (R3).
    """
    terminals = arguments.get("terminals")
    if not isinstance(terminals, list) or not 0 < len(terminals) <= TERMINALS_PER_OPERATION_MAX:
        raise VerbRefused(f"terminals must be a list of 1 to {TERMINALS_PER_OPERATION_MAX}")
    added = 0
    for one in terminals:
        terminal, epoch = number_of(one, "terminal", 1, U32_MAX), number_of(one, "epoch", 1, 0xFFFF)
        proof_suite = number_of(one, "proof_suite", 1, 2, default=int(ProofSuite.AES_CMAC))
        facts = (
            number_of(one, "class", 1, 255, default=int(TerminalClass.TERMINAL)),
            number_of(one, "kind", 1, 0x7F, default=1),
            number_of(one, "merchant", 0, U32_MAX, default=0),
            bytes.fromhex(one["enrolment_id"]),
            work.now_ms if one.get("closed") else None,
        )
        held = work.books.terminals.get((terminal, epoch))
        if held is not None:
            if held.suite != proof_suite:
                raise VerbRefused(f"terminal {terminal}: the proof suite of epoch {epoch} is fixed; enrol it again")
            work.connection.execute(
                "UPDATE terminals SET class = ?, kind = ?, merchant = ?, enrolment = ?,"
                " closed_ms = coalesce(closed_ms, ?) WHERE terminal = ? AND epoch = ?",
                (*facts, terminal, epoch),
            )
            continue
        work.connection.execute(
            "INSERT INTO terminals (id, terminal, epoch, class, kind, merchant, enrolment, closed_ms, proof_suite,"
            " quarantined_to) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, coalesce(max(last_sequence), 0)"
            " FROM quarantine WHERE terminal = ? AND epoch = ?",
            (work.books.next_id("terminals", "id"), terminal, epoch, *facts, proof_suite, terminal, epoch),
        )
        added += 1
    work.books.load_terminals()
    return {"added": added, "updated": len(terminals) - added}


def _card_issue(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    cards = arguments.get("cards")
    if not isinstance(cards, list) or not all(isinstance(one, dict) for one in cards):
        raise VerbRefused("cards must be a list of objects")
    return dict(issue_cards(work.books, cards, now_ms=work.now_ms, day=work.day))


def _change_status(verb: str) -> Verb:
    before, after = ALLOWED[verb]

    def change(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if "lot" in arguments:
            return _change_lot(work, verb, arguments)
        card = registered_card(work.books, number_of(arguments, "card", 1, U32_MAX))
        if card.status not in before:
            raise VerbRefused(f"card …{card.number % 10_000:04d} is {card.status}")
        was_denied = card.status == LOST
        set_status(work.books, card, after, work.now_ms)
        is_denied = after != ACTIVE
        if was_denied != is_denied:
            version = work.issue(added=[card.number] if is_denied else (), removed=() if is_denied else [card.number])
        else:
            newest = catalogue.current(work.connection, work.keys)
            assert newest is not None
            version = newest.version
        return {"card": card.number, "status": after, "list_version": list(version)}

    return change


def _change_lot(work: Work, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Put an issue lot (批次) on the deny list, or take it off.

    The register of its cards stays as it is: what they have paid posts as ever, and a card reported lost by itself
    stays lost when its lot is released.
    """
    if "card" in arguments or verb not in LOT_VERBS:
        raise VerbRefused("a lot is reported lost or released, by itself")
    lot = number_of(arguments, "lot", 0, LOT_MAX)
    newest = catalogue.current(work.connection, work.keys)
    is_denied = newest is not None and DenyList.from_content(newest.content).contains_lot(lot)
    if is_denied == (verb == "lost"):
        raise VerbRefused(f"lot {lot} is {'already' if is_denied else 'not'} on the deny list")
    version = work.issue(lots_removed=[lot]) if is_denied else work.issue(lots_added=[lot])
    cards = cards_of_lot(lot)
    return {
        "lot": lot,
        "first_card": cards[0],
        "last_card": cards[-1],
        "status": ACTIVE if is_denied else LOST,
        "list_version": list(version),
    }


def _restore(work: Work, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """After a backup was put back: a higher generation, so that front-ends send again what came after (R17)."""
    generation = number_of(arguments, "generation", work.generation + 1, U32_MAX, default=work.generation + 1)
    work.connection.execute("UPDATE meta SET generation = ?", (generation,))
    work.connection.execute("INSERT INTO generations VALUES (?, ?, ?)", (generation, work.position, work.now_ms))
    version = replace(work, generation=generation).issue(is_new_start=True)
    return {"generation": generation, "position": work.position, "list_version": list(version)}


VERBS: Final[Mapping[str, Verb]] = {
    "init": _init,
    "register": _register,
    "card_issue": _card_issue,
    "lost": _change_status("lost"),
    "release": _change_status("release"),
    "cancel": _change_status("cancel"),
    "topup": topup,
    "restore": _restore,
    "close_day": upkeep.close_day,
    "upgrade": upkeep.upgrade,
    "retry_unknown": upkeep.retry_unknown,
    "unproven_limit": upkeep.unproven_limit,
    "propose": propose,
    "confirm": confirm,
    "withdraw": withdraw,
}
ISSUES_A_VERSION: Final = frozenset({"lost", "release", "cancel", "restore"})
"""After these the newest LIST goes to every connected front-end."""
