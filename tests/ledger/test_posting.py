"""Each result of docs/protocol.md §11.4, on small books whose every cent is known."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.codes import RecordType, RowKind
from protocol.link_messages import CHAIN_START, BatchMessage, chain_hash, name_batch, result_digest, verify_down
from protocol.records import Aborted, Unknown
from protocol.rows import PackedRow
from tests.ledger.canteen import DAY, MERCHANT, NOW_MS, SPOOL, Canteen, Card, Till

MIRROR, GREY, UNPROVEN, MERCHANTS = 3, 5, 6, 7


@pytest.fixture
def card() -> Card:
    return Card(1001)


@pytest.fixture
def till() -> Till:
    return Till(66051)


@pytest.fixture
def canteen(tmp_path: Path, card: Card, till: Till) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card, Card(1002)], tills=[till, Till(66052)])
    yield made
    made.close()


def rows_of(canteen: Canteen, query: str) -> list[tuple[Any, ...]]:
    return list(canteen.ledger.connection.execute(query))


def test_a_purchase_moves_cents_from_the_mirror_to_the_merchant(canteen: Canteen, card: Card, till: Till) -> None:
    assert canteen.balance(MIRROR, 1001) == 10_000
    assert canteen.post(till.row(till.purchase(card, 350))) == [0x00]
    assert canteen.balance(MIRROR, 1001) == 9_650 == card.balance_cents
    assert canteen.balance(MERCHANTS, MERCHANT) == 350
    assert rows_of(canteen, "SELECT terminal, epoch, sequence, card, counter, amount_cents, balance_cents, merchant,"
                            " trade_ms, trade_day, booking_day, position, row_id, record_index FROM postings") == [
        (66051, 1, 1, 1001, 1, 350, 9_650, MERCHANT, NOW_MS + 1, DAY, DAY, 1, 1, 0)
    ]  # fmt: skip


def test_the_same_record_again_is_a_duplicate_and_moves_nothing(canteen: Canteen, card: Card, till: Till) -> None:
    row = till.row(till.purchase(card, 350), till.purchase(card, 20))
    assert canteen.post(row, row) == [0, 0, 1, 1]
    assert canteen.post(row) == [1, 1]
    assert canteen.balance(MERCHANTS, MERCHANT) == 370


def test_the_same_batch_again_gets_the_same_receipt_byte_for_byte(canteen: Canteen, card: Card, till: Till) -> None:
    batch = canteen.batch(till.row(till.purchase(card, 350)))
    first = canteen.post_batch(batch)
    canteen.post(till.row(till.purchase(card, 10)))
    again = canteen.post_batch(batch)
    canteen.reopen()
    after_restart = canteen.post_batch(batch)
    assert first.receipt == again.receipt == after_restart.receipt
    assert (first.position, again.position, again.outcome) == (1, 1, None)
    assert canteen.ledger.position == 2


def test_a_batch_that_survived_a_restore_gets_a_receipt_of_the_generation_in_force(
    canteen: Canteen, card: Card, till: Till
) -> None:
    """R16, R17: a front-end that knows generation 2 ignores receipts of 1, and would send such a batch for ever."""
    batch = canteen.batch(till.row(till.purchase(card, 350), till.purchase(card, 1, proof=bytes(8))))
    before = canteen.receipt(canteen.post_batch(batch))
    canteen.operate("restore")
    posted = canteen.post_batch(batch)
    verify_down(posted.receipt[4:], canteen.keys.signer.public_key)
    assert canteen.receipt(posted) == replace(before, generation=2)
    assert canteen.post_batch(batch).receipt == posted.receipt
    assert canteen.balance(MERCHANTS, MERCHANT) == 350


def test_the_same_row_numbers_with_another_content_are_another_batch(canteen: Canteen, card: Card, till: Till) -> None:
    """R16: a batch is named by content. A spool that was put back from a backup numbers its rows again."""
    first = canteen.batch(till.row(till.purchase(card, 350)))
    canteen.post_batch(first)
    rows = [(1, till.row(till.purchase(card, 351)))]
    other = BatchMessage(name_batch(7, SPOOL, rows), list(rows))
    receipt = canteen.receipt(canteen.post_batch(other))
    assert (receipt.name, receipt.posted, canteen.ledger.position) == (other.name, 1, 2)
    assert canteen.receipt(canteen.post_batch(first)).position == 1
    assert canteen.balance(MERCHANTS, MERCHANT) == 701


def test_a_receipt_is_signed_chained_and_counts_as_the_page_says(canteen: Canteen, card: Card, till: Till) -> None:
    good, grey, done = till.purchase(card, 350), till.grey(card, 70), till.aborted()
    batch = canteen.batch(till.row(good, grey, done), till.row(good), till.baseline())
    posted = canteen.post_batch(batch)
    receipt = canteen.receipt(posted)
    verify_down(posted.receipt[4:], canteen.keys.signer.public_key)
    assert receipt.name == batch.name
    assert (receipt.posted, receipt.duplicates, receipt.quarantined, receipt.posted_cents) == (4, 1, 0, 350)
    assert [(one.terminal, one.epoch, one.result, one.sequence, one.row_offset) for one in receipt.exceptions] == [
        (66051, 1, 0x06, 2, 0)
    ]
    results = result_digest(bytes([0x00, 0x06, 0x20, 0x01, 0x20]))
    assert receipt.chain_hash == chain_hash(CHAIN_START, batch.name, results)
    second = canteen.receipt(canteen.post_batch(canteen.batch(till.row(till.aborted()))))
    assert (second.position, second.generation) == (2, 1)
    assert second.chain_hash == chain_hash(receipt.chain_hash, second.name, result_digest(b"\x20"))


def test_a_card_never_issued_posts_with_exception_02_and_gets_a_mirror(canteen: Canteen, till: Till) -> None:
    stranger = Card(5555)
    assert canteen.post(till.row(till.purchase(stranger, 100), till.purchase(stranger, 50))) == [2, 2]
    assert canteen.balance(MIRROR, 5555) == -150
    assert canteen.operate("card_issue", cards=[stranger.registered()]) == {"issued": 1, "already_issued": 0}
    assert canteen.balance(MIRROR, 5555) == 9_850
    assert canteen.post(till.row(till.purchase(stranger, 1))) == [0]


def test_a_lost_card_posts_with_exception_02_from_the_report_on(canteen: Canteen, card: Card, till: Till) -> None:
    before = till.purchase(card, 100)
    canteen.operate("lost", card=1001)
    late = till.purchase(card, 100, merchant=MERCHANT)
    result = canteen.post(
        PackedRow(
            RowKind.RECORDS, till.number, 1, 1, 2, NOW_MS + 99_999, before + late, [NOW_MS + 1, canteen.now_ms]
        ).encode()
    )
    assert result == [0x00, 0x02]
    assert canteen.balance(MERCHANTS, MERCHANT) == 200


def test_a_balance_that_does_not_follow_posts_with_exception_03(canteen: Canteen, card: Card, till: Till) -> None:
    card.balance_cents += 500  # money that no load has put there
    assert canteen.post(till.row(till.purchase(card, 100))) == [0x03]
    assert canteen.post(till.row(till.purchase(card, 100))) == [0x00]


def test_a_mirror_below_zero_posts_with_exception_03(canteen: Canteen, card: Card, till: Till) -> None:
    card.balance_cents = 50_000
    assert canteen.post(till.row(till.purchase(card, 10_001))) == [0x03]
    assert canteen.balance(MIRROR, 1001) == -1


def test_a_counter_used_twice_posts_with_exception_04(canteen: Canteen, card: Card, till: Till) -> None:
    clone = Card(1001)
    one, two = till.purchase(card, 100), till.purchase(clone, 30)
    assert canteen.post(till.row(one, two)) == [0x00, 0x04]
    assert canteen.balance(MERCHANTS, MERCHANT) == 130


def test_a_fork_with_another_cards_proof_posts_with_exception_05(canteen: Canteen, card: Card, till: Till) -> None:
    other = Card(1002)
    fork = till.forge(1, till.purchase_body(other, 70), kind=RecordType.PURCHASE, cents=70)
    assert canteen.post(till.row(till.purchase(card, 100)), till.row(fork, kind=RowKind.SUSPECT)) == [0, 5]
    assert canteen.balance(MERCHANTS, MERCHANT) == 170
    assert canteen.post(till.row(fork, kind=RowKind.SUSPECT)) == [1]


def test_a_fork_with_the_same_card_and_counter_is_a_duplicate_and_reported(
    canteen: Canteen, card: Card, till: Till
) -> None:
    body = till.purchase_body(card, 100)
    fork = till.forge(1, body, kind=RecordType.PURCHASE, cents=100, boot=2)
    true = till.seal_up(body, kind=RecordType.PURCHASE, cents=100)
    assert canteen.post(till.row(true), till.row(fork, kind=RowKind.SUSPECT)) == [0x00, 0x01]
    assert canteen.balance(MERCHANTS, MERCHANT) == 100
    assert rows_of(canteen, "SELECT sequence, result, amount_cents FROM forks") == [(1, 1, 100)]


def test_a_grey_waits_in_suspense_until_its_completion(canteen: Canteen, card: Card, till: Till) -> None:
    grey = till.grey(card, 120)
    proof = card.debit(till, 120, sequence=1)
    assert canteen.post(till.row(grey)) == [0x06]
    assert (canteen.balance(GREY), canteen.balance(MIRROR, 1001)) == (120, 9_880)
    other = Till(66052)
    completion = other.completion(proof)
    assert canteen.post(other.row(completion)) == [0x08]
    assert (canteen.balance(GREY), canteen.balance(MERCHANTS, MERCHANT)) == (0, 120)
    assert canteen.post(other.row(completion), other.row(other.completion(proof))) == [0x01, 0x09]
    assert canteen.balance(MERCHANTS, MERCHANT) == 120


@pytest.mark.parametrize("late", ["grey", "purchase"])
def test_a_completion_that_comes_first_posts_and_the_record_is_linked(
    canteen: Canteen, card: Card, till: Till, late: str
) -> None:
    other = Till(66052)
    proof = card.debit(till, 120)
    assert canteen.post(other.row(other.completion(proof))) == [0x08]
    assert canteen.balance(MERCHANTS, MERCHANT) == 120
    facts = {name: value for name, value in proof.items() if name not in ("terminal", "epoch", "sequence")}
    if late == "grey":
        record = till.grey(card, 120)
    else:
        body = till.purchase_body(Card(1), 1)
        for name, value in facts.items():
            setattr(body, name, value)
        record = till.seal_up(body, kind=RecordType.PURCHASE, cents=120)
    assert canteen.post(till.row(record)) == [0x01]
    assert canteen.post(till.row(record)) == [0x01]
    assert (canteen.balance(MERCHANTS, MERCHANT), canteen.balance(GREY)) == (120, 0)
    assert rows_of(canteen, "SELECT record IS NOT NULL FROM completions") == [(1,)]


def test_a_grey_that_forks_goes_to_suspense_unproven(canteen: Canteen, card: Card, till: Till) -> None:
    fork = till.forge(1, till.grey_body(Card(1002), 40), kind=RecordType.GREY, cents=40)
    assert canteen.post(till.row(till.purchase(card, 100)), till.row(fork, kind=RowKind.SUSPECT)) == [0x00, 0x07]
    assert (canteen.balance(UNPROVEN), canteen.balance(MIRROR, 1002)) == (40, 9_960)


def test_an_aborted_record_is_noted_and_its_fork_is_suspect(canteen: Canteen, till: Till) -> None:
    fork = till.forge(1, Aborted(1, 2), kind=RecordType.ABORTED)
    assert canteen.post(till.row(till.aborted()), till.row(fork)) == [0x20, 0x07]


def test_a_broken_seal_is_quarantined_and_blocks_nobody(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.purchase(card, 100) for _ in range(3)]
    records[1] = records[1][:-1] + bytes([records[1][-1] ^ 1])
    row = till.row(*records)
    assert canteen.post(row) == [0x00, 0x10, 0x00]
    assert canteen.balance(MERCHANTS, MERCHANT) == 200
    assert rows_of(canteen, "SELECT sequence, last_sequence, type, result, raw FROM quarantine") == [
        (2, 2, 1, 0x10, records[1])
    ]
    assert canteen.post(row) == [1, 1, 1]
    assert canteen.post(till.row(till.records[2])) == [0x00]
    assert rows_of(canteen, "SELECT resolved_position FROM quarantine") == [(None,)]  # those bytes stay unproved


def test_a_wrong_card_proof_is_quarantined(canteen: Canteen, card: Card, till: Till) -> None:
    wrong = [
        till.purchase(card, 100, proof=bytes(8)),
        till.purchase(card, 100, key_version=9),
        till.purchase(card, 100, uid=Card(1002).uid),
        till.purchase(Card(1003), 100, merchant=1, currency=156, card_kind=3, proof=bytes(7) + b"x"),
    ]
    assert canteen.post(till.row(*wrong)) == [0x11] * 4
    assert canteen.balance(MERCHANTS, MERCHANT) == 0


def test_a_uid_that_the_register_does_not_know_is_no_proof(canteen: Canteen, till: Till) -> None:
    impostor = Card(1002)
    impostor.uid = Card(7777).uid
    impostor.key = Card(7777).key  # a genuine card of the site that says it is another
    assert canteen.post(till.row(till.purchase(impostor, 5))) == [0x11]


def test_what_breaks_the_format_is_quarantined(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.purchase(card, 5), till.purchase(card, 5, currency=840), till.aborted()]
    assert canteen.post(till.row(*records)) == [0x00, 0x12, 0x20]
    foreign = Till(66052).purchase(Card(1002), 5)
    row = PackedRow(RowKind.RECORDS, 66051, 1, 4, 4, NOW_MS, foreign, [NOW_MS]).encode()
    assert canteen.post(row) == [0x12]


def test_a_frame_that_cannot_be_followed_is_quarantined_from_there_on(canteen: Canteen, card: Card, till: Till) -> None:
    records = [till.purchase(card, 5) for _ in range(4)]
    torn = bytearray(b"".join(records))
    torn[96 + 1] = 7  # the length of the second record
    row = PackedRow(RowKind.RECORDS, 66051, 1, 1, 4, NOW_MS, bytes(torn), [NOW_MS] * 4).encode()
    assert canteen.post(row) == [0x00, 0x12, 0x12, 0x12]
    assert rows_of(canteen, "SELECT sequence, last_sequence, length(raw) FROM quarantine") == [(2, 4, 288)]
    assert canteen.post(till.row(*records)) == [0x01, 0x00, 0x00, 0x00]


@pytest.mark.parametrize("junk", [1, 64, 96])
def test_bytes_behind_the_last_record_harm_nobody(canteen: Canteen, card: Card, till: Till, junk: int) -> None:
    for sequence, record, result in ((1, till.purchase(card, 5), 0x00), (2, till.aborted(), 0x20)):
        row = PackedRow(RowKind.RECORDS, 66051, 1, sequence, sequence, NOW_MS, record + bytes(junk), [NOW_MS]).encode()
        assert canteen.post(row, row) == [result, 0x01]


def test_a_packed_row_that_contradicts_itself_is_quarantined_whole(canteen: Canteen, till: Till) -> None:
    row = bytearray(till.row(till.aborted()))
    row[26] = 1  # reserved
    assert canteen.post(bytes(row)) == [0x12]


def test_an_unknown_type_is_quarantined_under_its_number(canteen: Canteen, till: Till) -> None:
    record = till.seal_up(Unknown(0x90, 0, bytes(8)), kind=0x90)
    assert canteen.post(till.row(record, till.aborted())) == [0x13, 0x20]
    assert canteen.post(till.row(record)) == [0x01]
    assert rows_of(canteen, "SELECT terminal, epoch, sequence, type, result FROM quarantine") == [
        (66051, 1, 1, 0x90, 0x13)
    ]


def test_an_unknown_terminal_is_quarantined_and_posts_once_it_is_registered(canteen: Canteen, card: Card) -> None:
    stranger = Till(99)
    row = stranger.row(stranger.purchase(card, 100), stranger.aborted())
    assert canteen.post(row, stranger.baseline()) == [0x14] * 3
    canteen.operate("register", terminals=[stranger.registered()])
    assert canteen.post(row) == [0x00, 0x20]
    claims = rows_of(canteen, "SELECT sequence, last_sequence, type, resolved_position FROM quarantine ORDER BY item")
    assert claims == [
        (1, 1, 1, 2), (2, 2, 0x60, 2), (1, 0, None, None)  # a baseline is no record and claims no sequence
    ]  # fmt: skip


def test_an_epoch_that_was_never_enrolled_is_unknown(canteen: Canteen, card: Card) -> None:
    replaced = Till(66051, epoch=2)
    assert canteen.post(replaced.row(replaced.purchase(card, 5))) == [0x14]


def test_money_from_a_proxy_is_refused(canteen: Canteen, card: Card) -> None:
    proxy = Till(500)
    canteen.operate("register", terminals=[proxy.registered(**{"class": 2})])
    assert canteen.post(proxy.row(proxy.purchase(card, 5), proxy.aborted())) == [0x12, 0x20]


def test_a_memory_card_owes_the_seal_only_because_the_register_says_so(canteen: Canteen, till: Till) -> None:
    plain = Card(3000)
    canteen.operate("card_issue", cards=[plain.registered(kind=2)])
    assert canteen.post(till.row(till.purchase(plain, 5, proof=bytes(8), card_kind=1))) == [0x0A]
    assert rows_of(canteen, "SELECT counter FROM postings") == [(None,)]
    assert canteen.post(till.row(till.purchase(Card(1001), 5, proof=bytes(8), card_kind=2))) == [0x11]


def test_baselines_and_tombstones_are_noted_when_their_seals_hold(canteen: Canteen, card: Card, till: Till) -> None:
    till.purchase(card, 1)
    assert canteen.post(till.baseline(), till.tombstone(1, 1)) == [0x20, 0x20]
    assert rows_of(canteen, "SELECT oldest, first_unacknowledged, next FROM baselines") == [(1, 1, 2)]
    assert rows_of(canteen, "SELECT first, last, reason FROM tombstones") == [(1, 1, 1)]
    forged = bytearray(till.baseline())
    forged[-1] ^= 1
    assert canteen.post(bytes(forged)) == [0x10]


def test_a_trade_day_before_the_first_open_day_is_booked_on_it(tmp_path: Path, card: Card, till: Till) -> None:
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    old = till.purchase(card, 5)
    row = PackedRow(RowKind.RECORDS, 66051, 1, 1, 1, NOW_MS, old, [NOW_MS - 9 * 86_400_000]).encode()
    canteen.post(row)
    assert rows_of(canteen, "SELECT trade_day, booking_day FROM postings") == [(DAY - 9, DAY)]
    assert {day for (day,) in rows_of(canteen, "SELECT booking_day FROM entries")} == {DAY}
    canteen.close()
