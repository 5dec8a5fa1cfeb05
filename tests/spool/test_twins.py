"""What two spools hold both: counted once for each copy beyond the first, and compared."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ledger_sync.spool.reader import SpoolReader
from ledger_sync.spool.twins import Twins, find_twins
from tests.spool.kit import Terminal, append_one, open_spool


def twins(*paths: Path) -> Twins:
    with ExitStack() as stack:
        return find_twins([stack.enter_context(SpoolReader.open(str(path))) for path in paths])


def keep(path: Path, terminal: Terminal, *frames: tuple[int, int]) -> Path:
    spool = open_spool(path)
    for first, last in frames:
        assert append_one(spool, terminal.frame(first, last, unacknowledged=first)).kind.value == "accepted"
    spool.close()
    return path


def test_spools_that_share_nothing_have_no_twins(tmp_path: Path) -> None:
    terminal = Terminal(1)
    one, two = keep(tmp_path / "1.db", terminal, (1, 8)), keep(tmp_path / "2.db", terminal, (9, 16))
    assert twins(one, two) == Twins()


def test_overlapping_frames_are_twins_record_by_record_with_their_money(tmp_path: Path) -> None:
    terminal = Terminal(1)
    one = keep(tmp_path / "1.db", terminal, (1, 8), (9, 12))
    two = keep(tmp_path / "2.db", terminal, (7, 11), (12, 16))
    found = twins(one, two)
    assert (found.records, found.differing) == (6, 0)
    money = [number for number in range(7, 13) if number != 10]  # the tenth is aborted
    cents = sum(100 + number for number in money)
    assert (found.count, found.amount_cents) == (5, cents)
    assert found.merchants == {501: [5, cents]}
    assert found.terminals == {1: [5, cents]}


def test_a_record_in_three_spools_is_counted_for_both_copies(tmp_path: Path) -> None:
    paths = [keep(tmp_path / f"{at}.db", Terminal(1), (1, 4)) for at in range(3)]
    assert twins(*paths).records == 8


def test_a_frame_that_two_other_spools_hold_in_part_is_counted_whole(tmp_path: Path) -> None:
    terminal = Terminal(1)
    one, two = keep(tmp_path / "1.db", terminal, (1, 3)), keep(tmp_path / "2.db", terminal, (4, 6))
    assert twins(one, two, keep(tmp_path / "3.db", terminal, (1, 8))).records == 6


def test_twins_across_a_gap_of_the_first_spool_are_found_in_every_piece(tmp_path: Path) -> None:
    one = keep(tmp_path / "1.db", Terminal(1), (1, 2), (5, 6))
    two = keep(tmp_path / "2.db", Terminal(1), (1, 8))
    assert twins(one, two).records == 4


def test_another_terminal_or_epoch_is_no_twin(tmp_path: Path) -> None:
    one, two = keep(tmp_path / "1.db", Terminal(1), (1, 4)), keep(tmp_path / "2.db", Terminal(1, 2), (1, 4))
    assert twins(one, two).records == 0


def test_one_identity_with_other_bytes_is_named(tmp_path: Path) -> None:
    terminal = Terminal(1)
    one = keep(tmp_path / "1.db", terminal, (1, 8))
    two = keep(tmp_path / "2.db", terminal.forked(4), (1, 8))
    found = twins(one, two)
    assert (found.records, found.differing) == (8, 1)
