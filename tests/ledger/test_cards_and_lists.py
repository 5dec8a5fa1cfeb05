"""Cards, load orders, and deny-list versions that only rise (R22, R27, R28)."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_sync.ledger import catalogue
from ledger_sync.ledger.catalogue import CurrentList
from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.errors import LedgerBusy, LedgerDamaged, VerbRefused
from ledger_sync.ledger.verify import verify
from protocol.codes import ListForm, ListKind
from protocol.deny_list import DenyList, apply_delta
from protocol.link_messages import ListMessage
from protocol.signed import Certificate, SignedHead, issue_certificate, verify_head
from tests.ledger.canteen import NOW_MS, ROOT_SEED, ZONE, Canteen, Card, PlainFiles, Till, ledger_keys


@pytest.fixture
def canteen(tmp_path: Path) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[Card(1), Card(2), Card(3)])
    yield made
    made.close()


def newest(canteen: Canteen) -> CurrentList:
    found = catalogue.current(canteen.ledger.connection, canteen.keys)
    assert found is not None
    head, certificate = SignedHead.decode(found.head), Certificate.decode(found.certificate)
    verify_head(head, certificate)
    assert head.names(found.content)
    assert head.version == found.version
    return found


def cards_denied(canteen: Canteen) -> list[int]:
    return list(DenyList.from_content(newest(canteen).content).cards)


def test_a_new_ledger_has_an_empty_signed_list(canteen: Canteen) -> None:
    assert newest(canteen).version == (1, 1)
    assert cards_denied(canteen) == []


def test_lost_adds_release_removes_and_each_is_a_higher_version(canteen: Canteen) -> None:
    assert canteen.operate("lost", card=2) == {"card": 2, "status": "lost", "list_version": [1, 2]}
    assert cards_denied(canteen) == [2]
    assert canteen.operate("lost", card=1)["list_version"] == [1, 3]
    assert canteen.operate("release", card=2) == {"card": 2, "status": "active", "list_version": [1, 4]}
    assert cards_denied(canteen) == [1]
    step = newest(canteen)
    assert apply_delta(DenyList([1, 2]), step.delta) == DenyList([1])
    assert step.base == (1, 3)


def test_a_cancelled_card_stays_denied_for_ever(canteen: Canteen) -> None:
    canteen.operate("lost", card=1)
    assert canteen.operate("cancel", card=1)["list_version"] == [1, 2]  # it is on the list already
    assert canteen.operate("cancel", card=2)["list_version"] == [1, 3]
    assert cards_denied(canteen) == [1, 2]
    with pytest.raises(VerbRefused, match="is cancelled"):
        canteen.operate("release", card=1)


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("lost", {"card": 9}, "never issued"),
        ("lost", {"card": True}, "must be a number"),
        ("lost", {}, "must be a number"),
        ("release", {"card": 1}, "is active"),
        ("topup", {"card": 1, "amount_cents": 0}, "amount_cents"),
        ("card_issue", {"cards": []}, "0 cards"),
        ("card_issue", {"cards": [{"number": 4, "uid": "00"}]}, "hex digits"),
        ("card_issue", {"cards": [{"number": 1, "uid": "04" * 7}]}, "another UID"),
        ("init", {"site": 42}, "made once"),
        ("nonsense", {}, "no verb"),
    ],
)
def test_what_the_books_do_not_allow_changes_nothing(
    canteen: Canteen, verb: str, arguments: dict[str, object], says: str
) -> None:
    before = canteen.ledger.connection.execute("SELECT count(*), max(operation) FROM operations").fetchone()
    with pytest.raises(VerbRefused, match=says):
        canteen.operate(verb, **arguments)
    assert canteen.ledger.connection.execute("SELECT count(*), max(operation) FROM operations").fetchone() == before
    canteen.assert_conserved()


@pytest.mark.parametrize("operator", ["", "  ", "x" * 65, "a\nb", None, 7])
def test_nothing_is_done_by_nobody(canteen: Canteen, operator: object) -> None:
    with pytest.raises(VerbRefused, match="operator"):
        canteen.ledger.operate("lost", {"card": 1}, operator=operator, now_ms=1)  # type: ignore[arg-type]


def test_a_refused_message_never_holds_a_whole_card_number(tmp_path: Path) -> None:
    canteen = Canteen(tmp_path, cards=[Card(123_456_789)])
    canteen.operate("lost", card=123_456_789)
    with pytest.raises(VerbRefused) as refused:
        canteen.operate("lost", card=123_456_789)
    assert str(refused.value) == "card …6789 is lost"
    canteen.close()


@settings(max_examples=25)
@given(st.data())
def test_versions_only_rise_whatever_happens_and_across_restarts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("versions")
    canteen = Canteen(directory, cards=[Card(1), Card(2), Card(3)])
    try:  # a draw may end the example
        highest = newest(canteen).version
        denied: set[int] = set()
        for _ in range(data.draw(st.integers(1, 10))):
            verb = data.draw(st.sampled_from(["lost", "release", "cancel", "reopen", "restore"]))
            card = data.draw(st.integers(1, 3))
            if verb == "reopen":
                canteen.reopen()
            elif verb == "restore":
                canteen.operate("restore")
                assert newest(canteen).version > highest
            else:
                try:
                    canteen.operate(verb, card=card)
                except VerbRefused:
                    pass
                else:
                    denied = denied - {card} if verb == "release" else denied | {card}
            assert newest(canteen).version >= highest
            assert set(cards_denied(canteen)) == denied
            highest = newest(canteen).version
    finally:
        canteen.close()
        shutil.rmtree(directory)


def test_a_front_end_some_versions_behind_gets_one_delta(tmp_path: Path) -> None:
    canteen = Canteen(tmp_path, cards=[Card(1 + number) for number in range(40)])
    for card in range(1, 31):
        canteen.operate("lost", card=card)
    held = newest(canteen)
    canteen.operate("release", card=5)
    canteen.operate("lost", card=31)
    canteen.operate("lost", card=5)
    canteen.operate("release", card=6)

    def since(version: tuple[int, int], kind: int = ListKind.DENY) -> ListMessage | None:
        return catalogue.since(canteen.ledger.connection, canteen.keys, kind, version)

    message = since(held.version)
    assert message is not None
    assert (message.form, message.base_generation, message.base_counter) == (ListForm.DELTA, *held.version)
    made = apply_delta(DenyList.from_content(held.content), message.data)
    assert made.content() == newest(canteen).content
    assert since(newest(canteen).version) is None
    assert since((1, 1), ListKind.FIRMWARE) is None
    for stranger in ((0, 0), (9, 9), (1, 1000)):
        whole = since(stranger)
        assert whole is not None
        assert (whole.form, bytes(whole.data)) == (ListForm.SNAPSHOT, newest(canteen).content)
    canteen.close()


def test_a_top_up_stays_in_flight(canteen: Canteen) -> None:
    assert canteen.operate("topup", card=1, amount_cents=5_000)["serial"] == 1
    assert canteen.operate("topup", card=1, amount_cents=100)["serial"] == 2
    assert (canteen.balance(1), canteen.balance(4)) == (-5_100, 5_100)
    canteen.assert_conserved()
    canteen.operate("lost", card=1)
    with pytest.raises(VerbRefused, match="is lost"):
        canteen.operate("topup", card=1, amount_cents=1)


def test_an_import_of_cards_can_be_repeated(canteen: Canteen) -> None:
    cards = [Card(number).registered() for number in (1, 2, 7)]
    assert canteen.operate("card_issue", cards=cards) == {"issued": 1, "already_issued": 2}
    assert (canteen.balance(2), canteen.balance(3, 7)) == (-40_000, 10_000)


def test_only_one_process_works_on_a_ledger(canteen: Canteen) -> None:
    with pytest.raises(LedgerBusy):
        Ledger.open(canteen.paths, canteen.keys, files=canteen.files, utc_offset_ms=ZONE)


def test_a_restored_backup_is_refused_until_the_generation_rises(tmp_path: Path) -> None:
    card, till = Card(1), Till(5)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    canteen.post(till.row(till.purchase(card, 10)))
    canteen.ledger.close()
    backup = Path(canteen.paths.database).read_bytes()
    canteen.reopen()
    lost = till.row(till.purchase(card, 20))
    canteen.post(lost)
    assert canteen.ledger.known_position(1) == 2
    canteen.ledger.close()
    Path(canteen.paths.database).write_bytes(backup)
    with pytest.raises(LedgerDamaged, match="a backup was put back"):
        canteen.reopen()
    canteen.ledger = Ledger.open(canteen.paths, canteen.keys, files=canteen.files, utc_offset_ms=ZONE, is_restored=True)
    assert canteen.operate("restore")["generation"] == 2
    assert canteen.post(till.row(till.purchase(card, 1)), lost) == [0, 0]
    assert canteen.ledger.position == 2
    # a front-end of generation 1 must send again all above 1, one that knows 2 nothing
    assert (canteen.ledger.known_position(1), canteen.ledger.known_position(2)) == (1, 2)
    canteen.reopen()
    canteen.close()


def test_a_restore_that_a_crash_cut_off_from_its_line_is_finished_by_the_next(tmp_path: Path) -> None:
    """The commit stands and its line is missing: the heads file still tells the story that the restore ended."""
    card, till = Card(1), Till(5)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    canteen.post(till.row(till.purchase(card, 10)))
    canteen.ledger.close()
    backup = Path(canteen.paths.database).read_bytes()
    canteen.reopen()
    canteen.operate("lost", card=1)
    canteen.post(till.row(till.purchase(card, 20)))
    canteen.ledger.close()
    heads = Path(canteen.paths.heads).read_bytes()
    Path(canteen.paths.database).write_bytes(backup)
    keys, files = canteen.keys, canteen.files
    canteen.ledger = Ledger.open(canteen.paths, keys, files=files, utc_offset_ms=ZONE, is_restored=True)
    canteen.operate("restore")
    canteen.post(till.row(till.records[2]))
    canteen.ledger.close()
    Path(canteen.paths.heads).write_bytes(heads)  # as a crash leaves it, here with as many lines as the database wants
    with pytest.raises(LedgerDamaged, match="restore again"):
        canteen.reopen()
    canteen.ledger = Ledger.open(canteen.paths, keys, files=files, utc_offset_ms=ZONE, is_restored=True)
    assert canteen.operate("restore")["generation"] == 3
    found = verify(canteen.ledger.connection, files.read(canteen.paths.heads), keys, utc_offset_ms=ZONE)
    assert found.findings == []
    canteen.reopen()
    canteen.close()


@pytest.mark.parametrize(
    ("now_ms", "says"), [(2 * NOW_MS + 1, "certificate 3 has expired"), (-1, "certificate 3 is not valid yet")]
)
def test_no_version_is_issued_while_the_ledgers_certificate_is_not_valid(
    canteen: Canteen, now_ms: int, says: str
) -> None:
    ledger, before = canteen.ledger, canteen.operate("lost", card=2)["list_version"]
    for verb, arguments in (("lost", {"card": 1}), ("release", {"card": 2}), ("restore", {})):
        with pytest.raises(VerbRefused, match=says):
            ledger.operate(verb, arguments, operator="Li", now_ms=now_ms)
    assert (list(newest(canteen).version), cards_denied(canteen)) == (before, [2])
    canteen.ledger.operate("topup", {"card": 1, "amount_cents": 5}, operator="Li", now_ms=abs(now_ms))  # no version
    canteen.now_ms = NOW_MS + 60_000
    assert canteen.operate("lost", card=1)["list_version"] == [1, 3]


def test_versions_of_an_earlier_certificate_are_verified_as_they_were_issued(canteen: Canteen) -> None:
    """A certificate renewed since: `verify` does what was done, when it was done."""
    canteen.operate("lost", card=2)
    keys, old = ledger_keys(), ledger_keys().certificate
    later = issue_certificate(
        ROOT_SEED, key_id=3, site=old.site, valid_from_ms=2 * NOW_MS, valid_to_ms=3 * NOW_MS, public_key=old.public_key
    )
    keys.certificate, keys.certificate_bytes = later, later.encode()
    heads = canteen.files.read(canteen.paths.heads)
    assert verify(canteen.ledger.connection, heads, keys, utc_offset_ms=ZONE).findings == []


def test_a_lot_is_lost_and_released_by_signed_versions_and_cards_lost_by_themselves_stay(canteen: Canteen) -> None:
    assert canteen.operate("lost", lot=977) == {
        "lot": 977,
        "first_card": 1_000_448,
        "last_card": 1_001_471,
        "status": "lost",
        "list_version": [1, 2],
    }
    canteen.operate("lost", card=2)
    denied = DenyList.from_content(newest(canteen).content)
    assert (list(denied.cards), list(denied.lots)) == ([2], [977])
    assert canteen.operate("release", lot=977)["list_version"] == [1, 4]
    step = newest(canteen)
    assert apply_delta(denied, step.delta) == DenyList([2])
    heads = PlainFiles().read(canteen.paths.heads)
    assert verify(canteen.ledger.connection, heads, canteen.keys, utc_offset_ms=ZONE).is_sound


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("lost", {"lot": 977}, "already on"),
        ("release", {"lot": 978}, "not on"),
        ("lost", {"lot": 4_194_304}, "must be a number"),
        ("lost", {"lot": 5, "card": 1}, "by itself"),
        ("cancel", {"lot": 977}, "by itself"),
    ],
)
def test_a_lot_that_cannot_be_changed_so_is_refused(
    canteen: Canteen, verb: str, arguments: dict[str, int], says: str
) -> None:
    canteen.operate("lost", lot=977)
    before = newest(canteen).version
    with pytest.raises(VerbRefused, match=says):
        canteen.operate(verb, **arguments)
    assert newest(canteen).version == before
