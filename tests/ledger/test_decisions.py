"""Two persons decide what nothing proves, and a proof that comes later wins (R19, R20, R26)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.decided import quarantine_items, suspense_items
from ledger_sync.ledger.errors import VerbRefused
from ledger_sync.ledger.report import report
from ledger_sync.ledger.verify import verify
from protocol.codes import RecordType, RowKind
from tests.ledger.canteen import MERCHANT, OPENING_CENTS, ZONE, Canteen, Card, Till

MIRROR, GREY, UNPROVEN, MERCHANTS = 3, 5, 6, 7
DECIDE = {"spent": (4_000, OPENING_CENTS - 4_000), "not spent": (0, OPENING_CENTS)}
"""outcome → (merchant, mirror) once a grey of 40 yuan is decided."""


@pytest.fixture
def card() -> Card:
    return Card(1001)


@pytest.fixture
def till() -> Till:
    return Till(51)


@pytest.fixture
def other() -> Till:
    return Till(52, merchant=9002)


@pytest.fixture
def canteen(tmp_path: Path, card: Card, till: Till, other: Till) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card], tills=[till, other])
    yield made
    # whatever a test did: debits equal credits, and operations and evidence alone make the same tables again
    made.assert_conserved()
    found = verify(
        made.ledger.connection, made.files.read(made.paths.heads), made.keys, utc_offset_ms=ZONE
    )  # fmt: skip
    assert found.is_sound, [str(one) for one in found.findings]
    assert report(made.ledger.connection, now_ms=made.now_ms)["double_posted"] == 0
    made.close()


def act(canteen: Canteen, verb: str, operator: str, **arguments: object) -> dict[str, Any]:
    canteen.now_ms += 1000
    return canteen.ledger.operate(verb, arguments, operator=operator, now_ms=canteen.now_ms)


def decide(canteen: Canteen, subject: str, item: int, outcome: str) -> dict[str, Any]:
    what: dict[str, Any] = {"subject": subject, "item": item, "outcome": outcome}
    act(canteen, "propose", "Li", **what, reason="seen by the cook")
    return act(canteen, "confirm", "Wang", **what)


def item_of(canteen: Canteen) -> int:
    return int(canteen.ledger.connection.execute("SELECT max(posting) FROM suspense").get)


def money(canteen: Canteen) -> tuple[int, int]:
    """(merchant, mirror)"""
    return canteen.balance(MERCHANTS, MERCHANT), canteen.balance(MIRROR, 1001)


def states(canteen: Canteen) -> list[tuple[Any, ...]]:
    return canteen.ledger.connection.execute("SELECT outcome, state FROM decisions ORDER BY decision").fetchall()


def open_greys(canteen: Canteen) -> int:
    return int(report(canteen.ledger.connection, now_ms=canteen.now_ms)["open_items"]["grey"]["items"])


@pytest.mark.parametrize("outcome", DECIDE)
def test_a_grey_is_decided_by_two_persons_and_both_stand_in_the_log(
    canteen: Canteen, card: Card, till: Till, outcome: str
) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    what: dict[str, Any] = {"subject": "suspense", "item": item_of(canteen), "outcome": outcome}
    act(canteen, "propose", "Li", **what, reason="seen by the cook")
    assert (canteen.balance(GREY), open_greys(canteen)) == (4_000, 1)  # one person moves nothing
    act(canteen, "confirm", "Wang", **what)
    assert money(canteen) == DECIDE[outcome]
    assert (canteen.balance(GREY), open_greys(canteen)) == (0, 0)
    log = canteen.ledger.connection.execute("SELECT operator, verb FROM operations ORDER BY operation DESC LIMIT 2")
    assert log.fetchall() == [("Wang", "confirm"), ("Li", "propose")]
    decided = report(canteen.ledger.connection, now_ms=canteen.now_ms)["decided"]
    assert decided[outcome.replace(" ", "_")]["grey_cents"] == 4_000


@pytest.mark.parametrize("is_restarted", [False, True], ids=["at once", "after a restart"])
@pytest.mark.parametrize("carrier", ["completion", "purchase"])
@pytest.mark.parametrize("outcome", DECIDE)
def test_a_proof_that_comes_after_a_decision_reverses_it_by_new_entries(
    canteen: Canteen, card: Card, till: Till, other: Till, outcome: str, carrier: str, is_restarted: bool
) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    before = canteen.ledger.connection.execute("SELECT * FROM entries ORDER BY entry").fetchall()
    if is_restarted:
        canteen.reopen()
    decide(canteen, "suspense", item_of(canteen), outcome)
    if is_restarted:
        canteen.reopen()
    proof = card.debit(till, 4_000, sequence=1)
    if carrier == "completion":
        assert canteen.post(other.row(other.completion(proof))) == [0x08]
    else:  # the same identity under another seal: a fork that proves itself
        till.next, card.counter, card.balance_cents = 1, 0, OPENING_CENTS
        body = till.purchase_body(card, 4_000)
        fork = till.forge(1, body, kind=RecordType.PURCHASE, cents=4_000)
        assert canteen.post(till.row(fork, kind=RowKind.SUSPECT)) == [0x05]
    assert money(canteen) == (4_000, OPENING_CENTS - 4_000)
    assert canteen.balance(GREY) == 0
    assert states(canteen) == [(outcome, "reversed")]
    after = canteen.ledger.connection.execute("SELECT * FROM entries ORDER BY entry").fetchall()
    assert after[: len(before)] == before
    back = canteen.ledger.connection.execute(
        "SELECT count(*) FROM entries WHERE position = 2 AND account >> 32 = ? AND amount_cents = 4000", (GREY,)
    ).get
    assert back == 1  # an entry of its own, not netted with what the proof takes out again


def test_a_proof_of_another_amount_still_reverses_what_was_decided(
    canteen: Canteen, card: Card, till: Till, other: Till
) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    decide(canteen, "suspense", item_of(canteen), "not spent")
    canteen.post(other.row(other.completion(card.debit(till, 4_500, sequence=1))))
    assert money(canteen) == (4_500, OPENING_CENTS - 4_500)


def test_decision_and_proof_meet_again_when_the_proof_is_sent_twice(
    canteen: Canteen, card: Card, till: Till, other: Till
) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    decide(canteen, "suspense", item_of(canteen), "spent")
    row = other.row(other.completion(card.debit(till, 4_000, sequence=1)))
    assert canteen.post(row, row) == [0x08, 0x01]
    with pytest.raises(VerbRefused, match="settled"):
        act(canteen, "propose", "Li", subject="suspense", item=item_of(canteen), outcome="spent", reason="again")
    assert money(canteen) == (4_000, OPENING_CENTS - 4_000)


def test_a_proposal_lapses_when_the_proof_comes_first(canteen: Canteen, card: Card, till: Till, other: Till) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    what: dict[str, Any] = {"subject": "suspense", "item": item_of(canteen), "outcome": "not spent"}
    act(canteen, "propose", "Li", **what, reason="x")
    canteen.post(other.row(other.completion(card.debit(till, 4_000, sequence=1))))
    assert states(canteen) == [("not spent", "lapsed")]
    with pytest.raises(VerbRefused, match="settled"):
        act(canteen, "confirm", "Wang", **what)
    assert money(canteen) == (4_000, OPENING_CENTS - 4_000)


def test_an_unproven_fork_that_was_decided_as_spent_is_not_spent_twice_by_its_proof(
    canteen: Canteen, card: Card, till: Till, other: Till
) -> None:
    fork = till.forge(1, till.grey_body(card, 700), kind=RecordType.GREY, cents=700)
    canteen.post(till.row(till.aborted()), till.row(fork, kind=RowKind.SUSPECT))
    decide(canteen, "suspense", item_of(canteen), "spent")
    assert money(canteen) == (700, OPENING_CENTS - 700)
    canteen.post(other.row(other.completion(card.debit(till, 700, sequence=1))))
    assert money(canteen) == (700, OPENING_CENTS - 700)
    assert canteen.balance(UNPROVEN) == 0


def test_one_identity_and_card_is_spent_once(canteen: Canteen, card: Card, till: Till) -> None:
    canteen.post(till.row(till.grey(card, 700)))
    first = item_of(canteen)
    fork = till.forge(1, till.grey_body(card, 701), kind=RecordType.GREY, cents=701)
    canteen.post(till.row(fork, kind=RowKind.SUSPECT))
    second = item_of(canteen)
    decide(canteen, "suspense", first, "spent")
    with pytest.raises(VerbRefused, match="booked already"):
        decide(canteen, "suspense", second, "spent")
    decide(canteen, "suspense", second, "not spent")
    assert money(canteen) == (700, OPENING_CENTS - 700)


def test_a_proof_takes_back_what_people_called_spent_of_a_fork_beside_it(
    canteen: Canteen, card: Card, till: Till, other: Till
) -> None:
    canteen.post(till.row(till.grey(card, 700)))
    fork = till.forge(1, till.grey_body(card, 701), kind=RecordType.GREY, cents=701)
    canteen.post(till.row(fork, kind=RowKind.SUSPECT))
    decide(canteen, "suspense", item_of(canteen), "spent")
    canteen.post(other.row(other.completion(card.debit(till, 700, sequence=1))))
    assert canteen.balance(MERCHANTS, MERCHANT) == 700
    assert (canteen.balance(GREY), canteen.balance(UNPROVEN)) == (0, 701)  # open again, and nobody's
    decide(canteen, "suspense", item_of(canteen), "not spent")
    assert money(canteen) == (700, OPENING_CENTS - 700)


@pytest.mark.parametrize(
    ("verb", "operator", "changes", "says"),
    [
        ("confirm", "Li", {}, "somebody else"),
        ("confirm", " lI", {}, "somebody else"),
        ("confirm", "\uff2c\uff49", {}, "somebody else"),
        ("confirm", "unknown", {}, "operator's name"),
        ("confirm", " ", {}, "operator must be"),
        ("confirm", "Wang", {"outcome": "not spent"}, "spent is proposed"),
        ("confirm", "Wang", {"outcome": "retry"}, "outcome of a suspense item"),
        ("confirm", "Wang", {"outcome": ["spent"]}, "outcome of a suspense item"),
        ("confirm", "Wang", {"subject": "quarantine", "outcome": "reject"}, "no quarantine item"),
        ("confirm", "Wang", {"subject": "cards"}, "subject must be"),
        ("confirm", "Wang", {"item": 99}, "no suspense item"),
        ("confirm", "Wang", {"item": True}, "item must be"),
        ("propose", "Wang", {"reason": "me too"}, "proposed already"),
        ("propose", "Wang", {"reason": " "}, "needs its reason"),
        ("propose", "Wang", {"reason": "x" * 201}, "reason must be"),
        ("propose", "unknown", {"reason": "x"}, "operator's name"),
    ],
)
def test_what_two_persons_may_not_do_changes_nothing(
    canteen: Canteen, card: Card, till: Till, verb: str, operator: str, changes: dict[str, object], says: str
) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    what: dict[str, Any] = {"subject": "suspense", "item": item_of(canteen), "outcome": "spent"}
    act(canteen, "propose", "Li", **what, reason="first")
    operations = canteen.ledger.operation
    with pytest.raises(VerbRefused, match=says):
        act(canteen, verb, operator, **(what | changes))
    assert (canteen.balance(GREY), canteen.ledger.operation) == (4_000, operations)
    assert states(canteen) == [("spent", "proposed")]


def test_nothing_is_confirmed_without_a_proposal_and_nothing_decided_twice(
    canteen: Canteen, card: Card, till: Till
) -> None:
    canteen.post(till.row(till.grey(card, 4_000)))
    what: dict[str, Any] = {"subject": "suspense", "item": item_of(canteen), "outcome": "spent"}
    with pytest.raises(VerbRefused, match="nothing is proposed"):
        act(canteen, "confirm", "Wang", **what)
    act(canteen, "propose", "Li", **what, reason="x")
    act(canteen, "withdraw", "Zhao", subject="suspense", item=what["item"])
    with pytest.raises(VerbRefused, match="nothing is proposed"):
        act(canteen, "confirm", "Wang", **what)
    decide(canteen, "suspense", what["item"], "spent")
    for verb in ("propose", "confirm", "withdraw"):
        with pytest.raises(VerbRefused, match=r"decided already|nothing is proposed"):
            act(canteen, verb, "Zhao", **what, reason="x")
    assert money(canteen) == DECIDE["spent"]


def test_a_quarantined_record_posts_when_tried_again_after_its_terminal_is_registered(
    canteen: Canteen, card: Card
) -> None:
    stranger = Till(99)
    canteen.post(stranger.row(stranger.purchase(card, 100), stranger.grey(card, 30)))
    with pytest.raises(VerbRefused, match="no such terminal"):
        decide(canteen, "quarantine", 1, "retry")
    canteen.operate("register", terminals=[stranger.registered()])
    canteen.reopen()
    act(canteen, "confirm", "Wang", subject="quarantine", item=1, outcome="retry")  # the proposal stood
    assert decide(canteen, "quarantine", 2, "retry")["result"] == 0x06
    assert (canteen.balance(MERCHANTS, MERCHANT), canteen.balance(GREY)) == (100, 30)
    assert quarantine_items(canteen.ledger.connection, now_ms=canteen.now_ms) == []
    decide(canteen, "suspense", item_of(canteen), "spent")
    assert canteen.post(stranger.row(*stranger.records.values())) == [0x01, 0x01]  # collected again: nothing new
    found = report(canteen.ledger.connection, now_ms=canteen.now_ms)
    assert {kind: one["items"] for kind, one in found["open_items"].items() if one["items"]} == {}


def test_a_completion_tried_again_reverses_what_was_decided_meanwhile(canteen: Canteen, card: Card, till: Till) -> None:
    stranger = Till(99)
    canteen.post(till.row(till.grey(card, 4_000)))
    canteen.post(stranger.row(stranger.completion(card.debit(till, 4_000, sequence=1))))
    decide(canteen, "suspense", item_of(canteen), "not spent")
    canteen.operate("register", terminals=[stranger.registered()])
    assert decide(canteen, "quarantine", 1, "retry")["result"] == 0x08
    assert money(canteen) == (4_000, OPENING_CENTS - 4_000)
    assert states(canteen) == [("not spent", "reversed"), ("retry", "confirmed")]


def test_what_still_does_not_prove_itself_cannot_be_tried_but_rejected(
    canteen: Canteen, card: Card, till: Till
) -> None:
    record = till.purchase(card, 100)
    forged = record[:-1] + bytes([record[-1] ^ 1])
    canteen.post(till.row(forged, till.purchase(card, 50)))
    with pytest.raises(VerbRefused, match="its seal does not hold"):
        decide(canteen, "quarantine", 1, "retry")
    act(canteen, "withdraw", "Li", subject="quarantine", item=1)
    decide(canteen, "quarantine", 1, "reject")
    found = report(canteen.ledger.connection, now_ms=canteen.now_ms)
    assert (found["open_items"]["quarantine"]["items"], found["open_items"]["gap"]["items"]) == (0, 0)
    rejected = found["decided"]["rejected"]
    assert (rejected["sequences"], rejected["amount_cents"]) == (1, 100)
    assert canteen.post(till.row(forged)) == [0x01]  # the same bytes do not open it again
    assert canteen.post(till.row(record)) == [0x00]  # the true record is no business of the forged one
    assert report(canteen.ledger.connection, now_ms=canteen.now_ms)["records"]["amount_cents"] == 150


def test_a_rejected_record_that_proves_itself_later_posts_and_reverses_the_rejection(
    canteen: Canteen, card: Card
) -> None:
    stranger = Till(99)
    row = stranger.row(stranger.purchase(card, 100))
    canteen.post(row)
    decide(canteen, "quarantine", 1, "reject")
    canteen.operate("register", terminals=[stranger.registered()])
    assert canteen.post(row) == [0x00]
    assert states(canteen) == [("reject", "reversed")]
    assert canteen.balance(MERCHANTS, MERCHANT) == 100


def test_what_is_no_single_record_is_not_tried_again(canteen: Canteen) -> None:
    stranger = Till(99)
    canteen.post(stranger.baseline())
    with pytest.raises(VerbRefused, match="no record"):
        decide(canteen, "quarantine", 1, "retry")
    decide(canteen, "quarantine", 1, "reject")
    assert quarantine_items(canteen.ledger.connection, now_ms=canteen.now_ms) == []


def test_lists_show_age_hint_and_decision_and_mask_the_card(
    canteen: Canteen, card: Card, till: Till, other: Till
) -> None:
    canteen.post(till.row(till.grey(card, 40)))
    canteen.post(other.row(other.purchase(card, 9)))  # bears the counter that the grey would have had
    (item,) = suspense_items(canteen.ledger.connection, now_ms=canteen.now_ms)
    assert (item["card"], item["amount_cents"], item["decision"]) == ("…1001", 40, None)
    assert "probably not spent" in item["hint"]
    decide(canteen, "suspense", item["item"], "not spent")
    assert suspense_items(canteen.ledger.connection, now_ms=canteen.now_ms) == []
    (item,) = suspense_items(canteen.ledger.connection, now_ms=canteen.now_ms, everything=True)
    assert (item["decision"]["proposed_by"], item["decision"]["closed_by"]) == ("Li", "Wang")
