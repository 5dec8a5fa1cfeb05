"""What a card owes is decided by its kind in the register: memory cards nothing, PBOC purses their own TAC (R4)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.report import report
from protocol.cards.pboc_macs import as_proof, load_reference, load_tac, pboc_key, pboc_moment, pboc_tac, terminal6
from protocol.codes import CardKind, RecordType, RowKind
from protocol.record_bodies import Booking, Load, Purchase, Refund
from tests.ledger.canteen import (
    MERCHANT,
    NOW_MS,
    OPENING_CENTS,
    PBOC_TAC_MASTER,
    Canteen,
    Card,
    Till,
    assert_sound,
    facts_of,
)

MIRROR, UNPROVEN, MERCHANTS, IN_FLIGHT, WITHOUT_ORDER = 3, 6, 7, 4, 12
NO_PROOF = bytes(8)


class PbocPurse(Card):
    """A purse that proves by DES; its offline counter stands in the record and nowhere under the proof."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.dtk = pboc_key(PBOC_TAC_MASTER, self.uid)

    def purchase(self, till: Till, cents: int, *, clock_ms: int | None = None, **changes: Any) -> Purchase:
        """The body of the till's next purchase."""
        body = till.purchase_body(self, cents, card_kind=int(CardKind.PBOC))
        clock = NOW_MS + till.next if clock_ms is None else clock_ms
        body.proof = pboc_tac(
            self.dtk, amount_cents=cents, terminal=till.number, epoch=till.epoch, sequence=till.next,
            moment=pboc_moment(clock),
        )  # fmt: skip
        for name, value in changes.items():
            setattr(body, name, value)
        return body


@pytest.fixture
def till() -> Till:
    return Till(51)


@pytest.fixture
def memory() -> Card:
    return Card(3001)


@pytest.fixture
def purse() -> PbocPurse:
    return PbocPurse(4001)


@pytest.fixture
def canteen(tmp_path: Path, till: Till, memory: Card, purse: PbocPurse) -> Iterator[Canteen]:
    made = Canteen(tmp_path, tills=[till, Till(52, merchant=9002)], limit_cents=1_000)
    made.operate("card_issue", cards=[memory.registered(kind=2), purse.registered(kind=3)])
    yield made
    assert_sound(made)
    made.close()


def pay(till: Till, card: Card, cents: int, **changes: Any) -> bytes:
    return till.does(Purchase, card, cents, proof=NO_PROOF, card_kind=int(CardKind.MEMORY), **changes)


def over_limit(canteen: Canteen) -> tuple[int, int]:
    found = report(canteen.ledger.connection, now_ms=canteen.now_ms)["open_items"]["over_limit"]
    return found["items"], found["amount_cents"]


# -- memory cards


def test_unproven_purchases_post_until_the_sum_of_terminal_and_day_passes_the_limit(
    canteen: Canteen, till: Till, memory: Card
) -> None:
    records = [pay(till, memory, cents) for cents in (600, 400, 1, 300)]
    assert canteen.post(till.row(*records)) == [0x0A, 0x0A, 0x0B, 0x0B]
    assert (canteen.balance(MERCHANTS, MERCHANT), canteen.balance(UNPROVEN)) == (1_000, 301)
    assert canteen.balance(MIRROR, 3001) == OPENING_CENTS - 1_301
    assert over_limit(canteen) == (2, 301)
    other = Till(52, merchant=9002)
    assert canteen.post(other.row(pay(other, memory, 900))) == [0x0A]  # each terminal has a limit of its own


def test_each_day_has_its_own_limit(canteen: Canteen, till: Till, memory: Card) -> None:
    today, tomorrow = till.row(pay(till, memory, 900)), till.row(pay(till, memory, 900))
    tomorrow = tomorrow[:32] + (NOW_MS + 86_400_000).to_bytes(8, "big") + tomorrow[40:]
    assert canteen.post(today, tomorrow) == [0x0A, 0x0A]


def test_a_late_record_pushes_later_ones_over_the_limit(canteen: Canteen, till: Till, memory: Card) -> None:
    records = [pay(till, memory, cents) for cents in (600, 500, 300)]
    assert canteen.post(till.row(records[1]), till.row(records[2])) == [0x0A, 0x0A]
    assert canteen.post(till.row(records[0])) == [0x0A]
    assert (canteen.balance(MERCHANTS, MERCHANT), canteen.balance(UNPROVEN)) == (600, 800)
    assert over_limit(canteen) == (2, 800)
    canteen.reopen()
    assert canteen.post(till.row(pay(till, memory, 1))) == [0x0B]


@pytest.mark.parametrize(("outcome", "merchant", "mirror"), [("spent", 1_300, 1_300), ("not spent", 600, 600)])
def test_two_persons_decide_what_is_over_the_limit(
    canteen: Canteen, till: Till, memory: Card, outcome: str, merchant: int, mirror: int
) -> None:
    first, second = pay(till, memory, 600), pay(till, memory, 700)
    canteen.post(till.row(second))
    assert canteen.post(till.row(first)) == [0x0A]  # the other one has been moved to suspense, after its receipt
    (item,) = canteen.ledger.connection.execute("SELECT posting FROM suspense").fetchall()
    canteen.decide("suspense", int(str(item[0])), outcome)
    assert canteen.balance(MERCHANTS, MERCHANT) == merchant
    assert (canteen.balance(UNPROVEN), canteen.balance(MIRROR, 3001)) == (0, OPENING_CENTS - mirror)
    assert over_limit(canteen) == (0, 0)


def test_limit_0_sets_every_unproven_purchase_aside(tmp_path: Path, till: Till, memory: Card) -> None:
    canteen = Canteen(tmp_path, tills=[till], limit_cents=0)
    canteen.operate("card_issue", cards=[memory.registered(kind=2)])
    assert canteen.post(till.row(pay(till, memory, 1))) == [0x0B]
    assert_sound(canteen)
    canteen.close()


def test_counter_and_balance_of_a_memory_card_are_hints_that_make_exceptions(
    canteen: Canteen, till: Till, memory: Card
) -> None:
    records = [pay(till, memory, 10), pay(till, memory, 10, balance_after_cents=1), pay(till, memory, 10, counter=1)]
    assert canteen.post(till.row(*records)) == [0x0A, 0x03, 0x04]
    canteen.operate("lost", card=3001)
    late = till.row(pay(till, memory, 10))
    late = late[:32] + canteen.now_ms.to_bytes(8, "big") + late[40:]
    assert canteen.post(late) == [0x02]
    assert canteen.balance(MERCHANTS, MERCHANT) == 40


def test_a_grey_of_a_memory_card_waits_for_two_persons(canteen: Canteen, till: Till, memory: Card) -> None:
    assert canteen.post(till.row(till.grey(memory, 500), pay(till, memory, 100))) == [0x06, 0x0A]
    canteen.decide("suspense", 1, "spent")
    assert canteen.balance(MERCHANTS, MERCHANT) == 600


def test_a_memory_card_is_loaded_by_its_order_alone(canteen: Canteen, till: Till, memory: Card) -> None:
    canteen.operate("topup", card=3001, amount_cents=700)
    load = till.does(Load, memory, 700, reference=1, order=1, proof=NO_PROOF)
    assert canteen.post(till.row(load)) == [0x0A]
    assert (canteen.balance(IN_FLIGHT), canteen.balance(MIRROR, 3001)) == (0, OPENING_CENTS + 700)
    assert canteen.post(till.row(till.does(Load, memory, 700, reference=2, order=2, proof=NO_PROOF))) == [0x0D]
    assert canteen.balance(WITHOUT_ORDER) == -700


def test_what_a_closed_epoch_brings_late_is_set_aside_where_nothing_proves_it(
    canteen: Canteen, till: Till, memory: Card, purse: PbocPurse
) -> None:
    """The memory has been in other hands: a card's proof posts, the terminal's seal alone does not (R11)."""
    assert canteen.post(till.row(pay(till, memory, 100))) == [0x0A]
    canteen.operate("register", terminals=[till.registered(closed=True), Till(51, epoch=2).registered()])
    proved = till.seal_up(purse.purchase(till, 300), kind=RecordType.PURCHASE, cents=300)
    assert canteen.post(till.row(proved, pay(till, memory, 200))) == [0x00, 0x0B]
    assert (canteen.balance(MERCHANTS, MERCHANT), canteen.balance(UNPROVEN)) == (400, 200)
    newer = Till(51, epoch=2)
    assert canteen.post(newer.row(pay(newer, memory, 50))) == [0x0A]
    [(item,)] = canteen.ledger.connection.execute("SELECT posting FROM suspense").fetchall()
    canteen.decide("suspense", int(str(item)), "spent")
    assert (canteen.balance(MERCHANTS, MERCHANT), canteen.balance(UNPROVEN)) == (650, 0)


@pytest.mark.parametrize("kind", [Refund, Booking])
def test_what_a_memory_card_cannot_prove_is_quarantined(canteen: Canteen, till: Till, memory: Card, kind: Any) -> None:
    assert canteen.post(till.row(till.does(kind, memory, 5, reference=1, proof=NO_PROOF))) == [0x11]


# -- PBOC purses


def test_a_pboc_purse_proves_its_purchase_by_its_own_tac(canteen: Canteen, till: Till, purse: PbocPurse) -> None:
    rows = [till.seal_up(purse.purchase(till, cents), kind=RecordType.PURCHASE, cents=cents) for cents in (300, 20)]
    assert canteen.post(till.row(*rows)) == [0x00, 0x00]
    assert canteen.balance(MERCHANTS, MERCHANT) == 320
    assert canteen.balance(MIRROR, 4001) == purse.balance_cents


@pytest.mark.parametrize(
    "changes",
    [{"amount_cents": 301}, {"proof": bytes(8)}, {"key_version": 2}, {"uid": bytes(7)}, {"clock_ms": NOW_MS + 5_000}],
    ids=["amount", "no proof", "key version", "UID", "clock"],
)
def test_a_tac_of_something_else_is_quarantined(
    canteen: Canteen, till: Till, purse: PbocPurse, changes: dict[str, Any]
) -> None:
    body = purse.purchase(till, 300, **changes)
    assert canteen.post(till.row(till.seal_up(body, kind=RecordType.PURCHASE, cents=300))) == [0x11]


def test_a_pboc_debit_counts_once_whatever_counter_its_carriers_state(
    canteen: Canteen, till: Till, purse: PbocPurse
) -> None:
    """Counter and balance are not under the TAC: a carrier that states another counter brings no other debit."""
    other = Till(52, merchant=9002)
    body = purse.purchase(till, 300)
    fork = till.forge(1, body, kind=RecordType.PURCHASE, cents=300, boot=2)
    record = till.seal_up(body, kind=RecordType.PURCHASE, cents=300)
    body.counter += 7
    carried = facts_of(body) | {"terminal": 51, "epoch": 1, "sequence": 1, "reference": NOW_MS + 1}
    rows = [till.row(record), other.row(other.completion(carried)), till.row(fork, kind=RowKind.SUSPECT)]
    assert [canteen.post(row)[0] for row in rows] == [0x00, 0x09, 0x01]
    assert canteen.balance(MERCHANTS, MERCHANT) == 300


def test_a_pboc_grey_is_completed_with_the_clock_of_the_cards_log(
    canteen: Canteen, till: Till, purse: PbocPurse
) -> None:
    other = Till(52, merchant=9002)
    body = purse.purchase(till, 300)
    grey = till.grey(purse, 300, card_kind=int(CardKind.PBOC))
    assert canteen.post(till.row(grey)) == [0x06]
    facts = facts_of(body) | {"terminal": 51, "epoch": 1, "sequence": 1}
    wrong = other.completion(facts, reference=NOW_MS + 5_000)
    right = other.completion(facts, reference=(NOW_MS + 1) // 1000 * 1000)
    assert canteen.post(other.row(wrong, right)) == [0x11, 0x08]
    assert canteen.balance(MERCHANTS, MERCHANT) == 300


def test_a_balance_that_a_pboc_purse_cannot_have_is_an_exception(
    canteen: Canteen, till: Till, purse: PbocPurse
) -> None:
    first = till.seal_up(purse.purchase(till, 300), kind=RecordType.PURCHASE, cents=300)
    second = purse.purchase(till, 300, balance_after_cents=1)
    assert canteen.post(till.row(first, till.seal_up(second, kind=RecordType.PURCHASE, cents=300))) == [0x00, 0x03]


@pytest.mark.parametrize("is_true", [True, False])
def test_a_load_of_a_pboc_purse_is_proved_by_its_load_tac(
    canteen: Canteen, till: Till, purse: PbocPurse, is_true: bool
) -> None:
    canteen.operate("topup", card=4001, amount_cents=700)
    body = till.proved(Load, purse, 700, reference=1, order=1, card_kind=3, counter=9)
    body.proof = as_proof(load_tac(
        purse.dtk, balance_after_cents=body.balance_after_cents, counter=8 if is_true else 9, amount_cents=700,
        terminal=terminal6(51, 1), moment=pboc_moment(NOW_MS + 1),
    ))  # fmt: skip
    record = till.row(till.seal_up(body, kind=RecordType.LOAD, cents=-700))
    assert canteen.post(record) == ([0x00] if is_true else [0x11])
    assert canteen.balance(IN_FLIGHT) == (0 if is_true else 700)


def doubtful_load(purse: PbocPurse, station: Till) -> tuple[bytes, dict[str, Any]]:
    """A load of 7.00 that the purse has made and its station does not know of: the doubt, and what the card keeps."""
    clock_ms, sequence = NOW_MS + station.next, station.next
    doubt = station.doubt(purse, 700, RecordType.LOAD, 1, order=1)
    tac = load_tac(
        purse.dtk, balance_after_cents=OPENING_CENTS + 700, counter=8, amount_cents=700, terminal=terminal6(51, 1),
        moment=pboc_moment(clock_ms),
    )  # fmt: skip
    facts = {
        "terminal": 51, "epoch": 1, "sequence": sequence, "card": 4001, "uid": purse.uid, "key_version": 1,
        "amount_cents": 700, "balance_after_cents": OPENING_CENTS + 700, "counter": 9, "currency": 156, "card_kind": 3,
        "proof": as_proof(tac), "original_type": int(RecordType.LOAD), "reference": load_reference(1, clock_ms),
    }  # fmt: skip
    return doubt, facts


@pytest.mark.parametrize("doubt_first", [True, False])
def test_a_torn_load_of_a_pboc_purse_is_brought_home_by_its_own_proof(
    canteen: Canteen, till: Till, purse: PbocPurse, doubt_first: bool
) -> None:
    canteen.operate("topup", card=4001, amount_cents=700)
    doubt, facts = doubtful_load(purse, till)
    rows = [till.row(doubt), till.row(till.completion(facts))]
    results = [canteen.post(row)[0] for row in (rows if doubt_first else reversed(rows))]
    assert results == ([0x0F, 0x08] if doubt_first else [0x08, 0x01])
    assert (canteen.balance(IN_FLIGHT), canteen.balance(MIRROR, 4001)) == (0, OPENING_CENTS + 700)
    open_items = report(canteen.ledger.connection, now_ms=canteen.now_ms)["open_items"]
    assert (open_items["doubt"]["items"], open_items["load_in_flight"]["items"]) == (0, 0)


def test_a_completion_of_a_load_holds_only_with_the_clock_under_its_tac(
    canteen: Canteen, till: Till, purse: PbocPurse
) -> None:
    canteen.operate("topup", card=4001, amount_cents=700)
    doubt, facts = doubtful_load(purse, till)
    later = till.completion(facts, reference=load_reference(1, NOW_MS + 5_000))
    nothing = till.completion(facts, reference=load_reference(0, NOW_MS + 1))
    assert canteen.post(till.row(doubt, later, nothing)) == [0x0F, 0x11, 0x12]
    assert canteen.balance(IN_FLIGHT) == 700


def test_a_balance_that_has_risen_by_a_load_is_no_exception_and_one_that_has_risen_by_nothing_is(
    canteen: Canteen, till: Till, purse: PbocPurse
) -> None:
    def bought(cents: int) -> bytes:
        return till.seal_up(purse.purchase(till, cents), kind=RecordType.PURCHASE, cents=cents)

    first = bought(300)
    purse.balance_cents += 700  # nobody has ordered a load
    assert canteen.post(till.row(first, bought(20))) == [0x00, 0x03]
    canteen.operate("topup", card=4001, amount_cents=700)
    purse.balance_cents += 700
    assert canteen.post(till.row(bought(30))) == [0x00]
    purse.balance_cents -= 1
    assert canteen.post(till.row(bought(40))) == [0x03]


def test_a_pboc_purse_refunds_nothing_offline(canteen: Canteen, till: Till, purse: PbocPurse) -> None:
    assert canteen.post(till.row(till.does(Refund, purse, 5, reference=1))) == [0x11]


def test_without_a_master_for_pboc_purses_their_records_wait_in_quarantine(tmp_path: Path, till: Till) -> None:
    purse = PbocPurse(4001)
    canteen = Canteen(tmp_path, tills=[till])
    canteen.operate("card_issue", cards=[purse.registered(kind=3)])
    canteen.keys._pboc_tac_masters.clear()
    assert canteen.post(till.row(till.seal_up(purse.purchase(till, 5), kind=1, cents=5))) == [0x11]
    canteen.close()
