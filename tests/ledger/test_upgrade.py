"""A ledger of an older program: its file is migrated, its past stays provable, what it did not know posts (R5, R26)."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from ledger_sync.ledger.core import Ledger, LedgerPaths
from ledger_sync.ledger.decided import quarantine_items
from ledger_sync.ledger.errors import ForeignLedger
from ledger_sync.ledger.report import report
from ledger_sync.ledger.schema import open_reader, open_writer, schema_of
from ledger_sync.ledger.upkeep import SERVER, bring_up_to_date
from ledger_sync.ledger.verify import Verification, verify
from protocol.codes import RecordType
from protocol.record_bodies import Booking, Purchase, Refusal, Unknown
from tests.ledger.canteen import NOW_MS, ZONE, Canteen, Card, PlainFiles, Till, ledger_keys

OLD = Path(__file__).parent / "data"
"""A ledger of schema 2 and posting rules 1, written by the program of that time with the keys of `canteen`.

Its fourth batch came from a terminal of a later day: a booking (0x20) of card 1002, a refusal (0x06), a type that
nobody knows (0x99), and the booking's proof once more under another sequence.
"""
LATER_MS = NOW_MS + 3_600_000


@pytest.fixture
def paths(tmp_path: Path) -> LedgerPaths:
    paths = LedgerPaths.in_directory(str(tmp_path))
    Path(paths.database).write_bytes(gzip.decompress((OLD / "ledger_v2.db.gz").read_bytes()))
    Path(paths.heads).write_bytes((OLD / "ledger_v2.heads").read_bytes())
    return paths


@pytest.fixture
def ledger(paths: LedgerPaths) -> Iterator[Ledger]:
    made = Ledger.open(paths, ledger_keys(), files=PlainFiles(), utc_offset_ms=ZONE)
    yield made
    made.close()


def audited(ledger: Ledger, paths: LedgerPaths) -> Verification:
    return verify(ledger.connection, PlainFiles().read(paths.heads), ledger.keys, utc_offset_ms=ZONE)


def test_an_older_ledger_is_named_to_a_reader_and_migrated_by_a_writer(paths: LedgerPaths) -> None:
    with pytest.raises(ForeignLedger, match="schema version 2, this program knows 4"):
        open_reader(paths.database)
    fresh, migrated = open_writer(":memory:", create=True), open_writer(paths.database)
    try:
        assert schema_of(migrated) == schema_of(fresh)
        assert migrated.execute("SELECT count(*) FROM postings").get > 0
    finally:
        fresh.close()
        migrated.close()


def test_the_first_schema_of_all_is_migrated_too(paths: LedgerPaths) -> None:
    old = apsw.Connection(paths.database)
    old.execute("DROP TABLE decisions; PRAGMA user_version = 1")
    old.close()
    fresh, migrated = open_writer(":memory:", create=True), open_writer(paths.database)
    try:
        assert schema_of(migrated) == schema_of(fresh)
    finally:
        fresh.close()
        migrated.close()


def test_a_migration_that_is_killed_leaves_the_old_ledger(paths: LedgerPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger_sync.ledger.migrate.CLAIMS", "CREATE TABLE claims (a) STRICT;")
    with pytest.raises(Exception, match=r"unknown datatype|missing datatype"):
        open_writer(paths.database)
    left = apsw.Connection(paths.database)
    assert (left.pragma("user_version"), left.execute("SELECT count(*) FROM meta").get) == (2, 1)
    left.close()


def test_the_past_of_a_migrated_ledger_is_proved_by_the_rules_of_its_time(ledger: Ledger, paths: LedgerPaths) -> None:
    found = audited(ledger, paths)
    assert found.is_sound, [str(one) for one in found.findings]
    assert ledger.rules == 1


def test_served_for_the_first_time_it_posts_what_nobody_knew_and_says_so_in_the_log(
    ledger: Ledger, paths: LedgerPaths
) -> None:
    before = report(ledger.connection, now_ms=LATER_MS)
    assert before["open_items"]["quarantine"]["sequences"] == 5
    told = bring_up_to_date(ledger, unproven_limit_cents=20_000, now_ms=LATER_MS)
    assert told == {"posted": 2, "kept": 1}
    assert (ledger.rules, ledger.unproven_limit_cents) == (2, 20_000)
    after = report(ledger.connection, now_ms=LATER_MS)
    assert after["conservation"]["booked_meals_cents"] == 1_200
    assert after["conservation"]["mirror_cents"] == before["conservation"]["mirror_cents"] - 1_200
    assert after["events"]["by_type"] == {"refusal": {"balance_too_low": 1}}
    left = quarantine_items(ledger.connection, now_ms=LATER_MS)
    assert [(one["sequence"], one["type"], one["result"]) for one in left] == [
        (1, 1, 0x11),
        (6, 0x99, 0x13),
        (7, 0x20, 0x11),
    ]
    log = ledger.connection.execute("SELECT operator, verb, arguments FROM operations WHERE operation > 11").fetchall()
    assert [(operator, verb) for operator, verb, _ in log] == [
        (SERVER, "upgrade"), (SERVER, "unproven_limit"), (SERVER, "retry_unknown"),
    ]  # fmt: skip
    found = audited(ledger, paths)
    assert found.is_sound, [str(one) for one in found.findings]
    assert bring_up_to_date(ledger, unproven_limit_cents=20_000, now_ms=LATER_MS) == {"posted": 0, "kept": 0}
    assert ledger.operation == 14  # a second start has nothing to do, and writes nothing


def test_a_type_that_the_decoder_lacks_is_quarantined_and_two_persons_retry_it_when_it_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, till = Card(1), Till(5)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    with monkeypatch.context() as older:
        older.delitem(_bodies(), RecordType.BOOKING)
        assert canteen.post(till.row(till.does(Booking, card, 1_200, reference=1), till.purchase(card, 5))) == [0x13, 0]
        (item,) = quarantine_items(canteen.ledger.connection, now_ms=NOW_MS)
        assert (item["type"], item["sequence"], item["amount_cents"]) == (0x20, 1, None)
    canteen.decide("quarantine", item["item"], "retry")
    assert canteen.balance(10) == 1_200
    assert report(canteen.ledger.connection, now_ms=NOW_MS)["open_items"]["quarantine"]["items"] == 0
    canteen.close()


def test_a_rejected_unknown_record_is_left_alone_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, till = Card(1), Till(5)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    with monkeypatch.context() as older:
        older.delitem(_bodies(), RecordType.REFUSAL)
        canteen.post(till.row(till.event(Refusal(1, 1, 3, 0, 0, 5))))
        canteen.post(till.row(till.event(Refusal(1, 1, 3, 0, 0, 5))))
    canteen.decide("quarantine", 1, "reject")
    told = bring_up_to_date(canteen.ledger, unproven_limit_cents=20_000, now_ms=canteen.now_ms)
    assert told == {"posted": 1, "kept": 0}
    canteen.close()


def test_many_unknown_records_are_retried_in_operations_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_sync.ledger.upkeep.ITEMS_PER_OPERATION_MAX", 3)
    card, till = Card(1), Till(5)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    with monkeypatch.context() as older:
        older.delitem(_bodies(), RecordType.REFUSAL)
        for _ in range(7):
            canteen.post(
                till.row(till.event(Refusal(1, 1, 3, 0, 0, 5)), till.seal_up(Unknown(0x99, 0, bytes(8)), kind=0x99))
            )
    operations = canteen.ledger.operation
    told = bring_up_to_date(canteen.ledger, unproven_limit_cents=20_000, now_ms=canteen.now_ms)
    assert (told, canteen.ledger.operation - operations) == ({"posted": 7, "kept": 0}, 3)
    canteen.close()


def test_a_new_limit_counts_from_then_on_and_verify_does_the_same_again(tmp_path: Path) -> None:
    memory, till = Card(3), Till(5)
    canteen = Canteen(tmp_path, tills=[till], limit_cents=1_000)
    canteen.operate("card_issue", cards=[memory.registered(kind=2)])
    first = till.row(till.does(Purchase, memory, 900, proof=bytes(8)))
    assert canteen.post(first) == [0x0A]
    bring_up_to_date(canteen.ledger, unproven_limit_cents=5_000, now_ms=canteen.now_ms)
    assert canteen.post(till.row(till.does(Purchase, memory, 900, proof=bytes(8)))) == [0x0A]
    found = audited(canteen.ledger, canteen.paths)
    assert found.is_sound, [str(one) for one in found.findings]
    canteen.close()


def _bodies() -> dict[int, object]:
    from protocol.record_bodies import BODIES

    return BODIES  # type: ignore[return-value]
