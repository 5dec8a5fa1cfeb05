"""Terminals of both proof suites in one ledger; which one holds is the register's word, never the record's (R3, R4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_sync.ledger.admin import registrations
from ledger_sync.ledger.errors import VerbRefused
from protocol.codes import PostingResult, ProofSuite, RecordType, Suite, TerminalClass, TerminalKind
from protocol.keys import seal_key
from protocol.mac import MacKey
from protocol.records import RecordHead, encode_record
from protocol.registry import ClosedEpoch, EnrolledTerminal, Registry
from tests.ledger.canteen import ENROLMENT, SEAL_MASTER, Canteen, Card, Till

R = PostingResult


@pytest.fixture
def card() -> Card:
    return Card(7)


@pytest.fixture
def tills() -> tuple[Till, Till]:
    return Till(5), Till(6, proof_suite=ProofSuite.SM4_CMAC)


@pytest.fixture
def canteen(tmp_path: Path, card: Card, tills: tuple[Till, Till]) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[card], tills=tills)
    yield made
    made.close()


def test_one_card_pays_at_terminals_of_both_suites_and_all_is_posted(
    canteen: Canteen, card: Card, tills: tuple[Till, Till]
) -> None:
    rows = [till.row(till.purchase(card, 850), till.aborted(), till.purchase(card, 100)) for till in tills]
    assert canteen.post(*rows) == [R.POSTED, R.NOTED, R.POSTED] * 2
    rows = [row for till in tills for row in (till.baseline(), till.tombstone(4, 6))]
    assert canteen.post(*rows) == [R.NOTED] * 4
    grey = tills[1].grey(card, 300)
    assert canteen.post(tills[1].row(grey)) == [R.SUSPENSE_GREY]
    facts = card.debit(tills[1], 300, sequence=4)
    assert canteen.post(tills[0].row(tills[0].completion(facts))) == [R.COMPLETED]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("is_honest", [True, False])
def test_a_record_of_the_suite_that_its_terminal_is_not_enrolled_with_is_quarantined(
    canteen: Canteen, card: Card, tills: tuple[Till, Till], which: int, is_honest: bool
) -> None:
    """`is_honest`: the record's byte names the suite it is sealed with; else it names the enrolled one."""
    till, other = tills[which], tills[1 - which].proof_suite
    key = MacKey(seal_key(SEAL_MASTER, terminal=till.number, epoch=1, proof_suite=other), other)
    named = other if is_honest else till.proof_suite
    head = RecordHead(
        type=RecordType.PURCHASE, proof_suite=named, epoch=1, boot=1, terminal=till.number, sequence=1,
        uptime_ds=10, clock_ms=1, running_count=1, running_sum_cents=850,
    )  # fmt: skip
    record = encode_record(head, till.purchase_body(card, 850), till.seal, key)
    assert canteen.post(till.row(record)) == [R.QUARANTINED_SEAL]


def test_a_record_that_names_another_suite_than_the_registers_is_quarantined_although_its_seal_holds(
    canteen: Canteen, card: Card, tills: tuple[Till, Till]
) -> None:
    for till, other in zip(tills, (ProofSuite.SM4_CMAC, ProofSuite.AES_CMAC), strict=True):
        record = till.forge(1, till.purchase_body(card, 850), kind=RecordType.PURCHASE, cents=850, proof_suite=other)
        assert canteen.post(till.row(record)) == [R.QUARANTINED_SEAL]


def test_baseline_and_tombstone_of_the_other_suite_are_quarantined(canteen: Canteen, tills: tuple[Till, Till]) -> None:
    for till, other in zip(tills, (ProofSuite.SM4_CMAC, ProofSuite.AES_CMAC), strict=True):
        wrong = Till(till.number, proof_suite=other)
        assert canteen.post(wrong.baseline(), wrong.tombstone(1, 2)) == [R.QUARANTINED_SEAL] * 2


def test_the_proof_suite_of_an_epoch_cannot_be_changed_by_registering_it_again(
    canteen: Canteen, card: Card, tills: tuple[Till, Till]
) -> None:
    for till, other in zip(tills, (2, 1), strict=True):
        with pytest.raises(VerbRefused, match=f"terminal {till.number}: the proof suite of epoch 1 is fixed"):
            canteen.operate("register", terminals=[till.registered(proof_suite=other)])
        canteen.operate("register", terminals=[till.registered(merchant=9)])
        assert canteen.post(till.row(till.purchase(card, 100))) == [R.POSTED]
    with pytest.raises(VerbRefused):
        canteen.operate("register", terminals=[Till(8).registered(proof_suite=3)])


def test_a_replaced_terminal_changes_its_suite_and_the_old_epochs_late_records_still_post(
    canteen: Canteen, card: Card
) -> None:
    entry = EnrolledTerminal(
        5, TerminalClass.TERMINAL, TerminalKind.POS, 2, Suite.B, 1, ENROLMENT, 501,
        closed=(ClosedEpoch(1, ENROLMENT),), proof_suite=ProofSuite.SM4_CMAC,
    )  # fmt: skip
    registry = Registry(42)
    registry.put(entry)
    registered = registrations(Registry.parse(registry.dump()))
    assert [(one["epoch"], one["proof_suite"], one["closed"]) for one in registered] == [(1, 1, True), (2, 2, False)]
    canteen.operate("register", terminals=registered)
    old, new = Till(5), Till(5, epoch=2, proof_suite=ProofSuite.SM4_CMAC)
    assert canteen.post(new.row(new.purchase(card, 100)), old.row(old.purchase(card, 200))) == [R.POSTED] * 2
