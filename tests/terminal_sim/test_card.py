"""Cards in their stores and in the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.cards.apdu import SELECT_COMMAND
from terminal_sim.card import CELL_BYTES, CardField, Disturbance, Effect, FileCards, MemoryCards, Moment
from terminal_sim.errors import CardGone, FlashMisuse, PowerCut
from tests.terminal_sim.kit import BenchRandom, card_image


def test_cards_in_a_file_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "cards"
    with FileCards(path, cards_max=3) as cards:
        for number in (5, 3):
            cards.save(card_image(number))
        cards.save(card_image(5, balance_cents=7))
    with FileCards(path, cards_max=3) as cards:
        assert list(cards.numbers()) == [3, 5]
        assert cards.load(5) == card_image(5, balance_cents=7)
        cards.save(card_image(9))
        with pytest.raises(FlashMisuse):
            cards.save(card_image(10))


def test_a_card_write_torn_at_any_byte_leaves_the_card_before_or_after(tmp_path: Path) -> None:
    path = tmp_path / "cards"
    with FileCards(path, cards_max=1) as cards:
        cards.save(card_image(5, balance_cents=1))
        before = path.read_bytes()
        cards.save(card_image(5, balance_cents=2))
        after = path.read_bytes()
    for torn in range(2 * CELL_BYTES + 1):
        path.write_bytes(after[:torn] + before[torn:])
        with FileCards(path, cards_max=1) as cards:
            assert cards.load(5).balance_cents in {1, 2}


def test_a_pulled_card_stays_away_and_a_silent_one_stays() -> None:
    cards = MemoryCards()
    cards.save(card_image(5))
    pulled = CardField(cards, 5, BenchRandom(1), disturbance=Disturbance(0, Moment.AFTER_WRITE))
    for _ in range(2):
        with pytest.raises(CardGone):
            pulled.exchange(SELECT_COMMAND)
    silent = CardField(cards, 5, BenchRandom(1), disturbance=Disturbance(0, Moment.BEFORE, Effect.SILENT))
    assert silent.exchange(SELECT_COMMAND) is None
    answer = silent.exchange(SELECT_COMMAND)
    assert answer is not None
    assert answer[-2:] == b"\x90\x00"
    cut = CardField(cards, 5, BenchRandom(1), disturbance=Disturbance(0, Moment.BEFORE, Effect.POWER_CUT))
    with pytest.raises(PowerCut):
        cut.exchange(SELECT_COMMAND)
