"""Gaps to ask for: found as the report names them, asked for when they have stood, ever more rarely, never too many."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ledger_sync.ledger import recollection
from ledger_sync.ledger.gaps import missing_ranges
from ledger_sync.ledger.recollection import (
    ASK_AGAIN_MS,
    ASK_AGAIN_MS_MAX,
    GAP_AGE_MS,
    REQUESTS_PER_EPOCH_MAX,
    REQUESTS_PER_LOOK_MAX,
    FollowedGaps,
    Gap,
    GapFinder,
)
from protocol.codes import PostingResult
from protocol.link_messages import RecollectRequest
from tests.ledger.canteen import Canteen, Card, Till


@pytest.fixture
def canteen(tmp_path: Path) -> Iterator[Canteen]:
    made = Canteen(tmp_path, cards=[Card(1)], tills=[Till(5), Till(6), Till(7)])
    yield made
    made.close()


def all_gaps(finder: GapFinder, canteen: Canteen) -> list[Gap]:
    found: list[Gap] = []
    after: int | None = 0
    while after is not None:
        gaps, after = finder.look(canteen.ledger, after)
        found += gaps
    return found


@pytest.mark.parametrize("epochs_per_slice", [1, 2, 256])
def test_the_finder_finds_what_the_report_names_as_gaps_and_goes_on_from_what_is_complete(
    canteen: Canteen, epochs_per_slice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recollection, "EPOCHS_PER_SLICE_MAX", epochs_per_slice)
    finder, card = GapFinder(), Card(1)
    tills = {number: Till(number) for number in (5, 6, 7)}
    records = {number: [till.purchase(card, 10) for _ in range(12)] for number, till in tills.items()}
    five, six = tills[5], tills[6]
    bad = bytearray(records[5][7])
    bad[-1] ^= 1  # its seal: quarantined under 8
    steps = [
        five.row(*records[5][1:3]),  # 1 missing
        five.row(*records[5][5:7]),  # 4, 5
        five.row(bytes(bad)),
        five.row(records[5][9]),  # 9; 8 is in quarantine
        five.tombstone(4, 4),
        six.row(*records[6]),
        tills[7].baseline(),
        five.row(records[5][0]),
        five.baseline(),
        tills[7].tombstone(1, 12),
        five.row(records[5][4]),
        five.row(*records[5][8:]),
    ]
    for step in steps:
        canteen.post(step)
        assert sorted(all_gaps(finder, canteen)) == sorted(missing_ranges(canteen.ledger.connection))
    assert all_gaps(finder, canteen) == []


def test_a_record_of_a_terminal_not_yet_registered_waits_in_quarantine_and_posts_when_it_comes_again(
    canteen: Canteen,
) -> None:
    late = Till(9)
    row = late.row(late.purchase(Card(1), 10))
    assert canteen.post(row) == [PostingResult.QUARANTINED_UNKNOWN_TERMINAL]
    canteen.operate("register", terminals=[late.registered()])
    assert all_gaps(GapFinder(), canteen) == []  # named as quarantine; its spool would not send it again
    assert canteen.post(row) == [PostingResult.POSTED]


def test_a_gap_is_asked_for_when_it_has_stood_and_then_after_waits_that_double() -> None:
    followed, now_ms, times_ms = FollowedGaps(), 5_000, []
    while now_ms < 5_000 + 5 * ASK_AGAIN_MS_MAX:
        if followed.looked([(5, 1, 3, 4)], now_ms):
            times_ms.append(now_ms)
        now_ms += 10_000
    waits = [after - before for before, after in pairwise(times_ms)]
    assert times_ms[0] == 5_000 + GAP_AGE_MS
    assert waits[:6] == [ASK_AGAIN_MS * 2**at for at in range(6)]
    assert set(waits[6:]) == {ASK_AGAIN_MS_MAX}


def test_a_gap_that_changes_is_a_new_one_and_one_that_is_filled_is_forgotten() -> None:
    followed = FollowedGaps()
    followed.looked([(5, 1, 3, 9)], 0)
    assert followed.looked([(5, 1, 5, 9)], GAP_AGE_MS) == []  # something is coming in
    assert followed.looked([(5, 1, 5, 9)], 2 * GAP_AGE_MS) == [RecollectRequest(5, 1, 5, 9)]
    followed.looked([], 2 * GAP_AGE_MS)
    assert len(followed) == 0


def test_requests_of_a_look_are_bounded_in_all_and_of_one_epoch_and_every_gap_has_its_turn() -> None:
    followed = FollowedGaps()
    gaps = [(terminal, 1, first, first) for terminal in range(1, 21) for first in range(1, 41, 2)]
    followed.looked(gaps, 0)
    now_ms, asked, looks = GAP_AGE_MS, set[Gap](), 0
    while len(asked) < len(gaps):
        requests = followed.looked(gaps, now_ms)
        assert 0 < len(requests) <= REQUESTS_PER_LOOK_MAX
        of_terminal = [one.terminal for one in requests]
        assert max(map(of_terminal.count, of_terminal)) <= REQUESTS_PER_EPOCH_MAX
        asked |= {(one.terminal, one.epoch, one.first, one.last) for one in requests}
        now_ms += 1_000
        looks += 1
        assert looks < 20


def test_after_an_absence_of_all_front_ends_gaps_are_given_time_again() -> None:
    followed = FollowedGaps()
    followed.looked([(5, 1, 3, 4)], 0)
    followed.let_settle(GAP_AGE_MS)
    assert followed.looked([(5, 1, 3, 4)], GAP_AGE_MS) == []
    assert len(followed.looked([(5, 1, 3, 4)], 2 * GAP_AGE_MS)) == 1
