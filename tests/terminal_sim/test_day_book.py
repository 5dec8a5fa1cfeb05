"""The day book: what a card spent and ate here today, from records alone; refusals and completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.cards.apdu import CardFacts, CardProof, Identity
from protocol.cards.meals import MealPlace
from protocol.codes import RecordType, RefusalReason
from protocol.record_bodies import PROVED_TYPES, Completion
from terminal_sim import day_book
from terminal_sim.day_book import DayBook
from terminal_sim.meal_terminal import MealTerminal
from terminal_sim.outcome import TapResult
from terminal_sim.refusing import REASON_OF, WHY_OF, completion_of, reason_of_status, refusal_record
from terminal_sim.selling_terminal import SellingTerminal
from tests.terminal_sim.kinds_kit import DAY_MS, DINNER, DINNER_NOW, LUNCH_TOMORROW, OPERATOR, SITE, KindBench
from tests.terminal_sim.kit import FIRST_CARD, flash_layout

FACTS = CardFacts(1, 1, bytes(7), FIRST_CARD, 156, True, 0, 4)
PROOF = CardProof(RecordType.LOAD, Identity(4001, 1, 9), 500, 156, 3, 1_500, bytes(8), reference=7)


def book_of(terminal: SellingTerminal) -> DayBook:
    """Read anew from flash."""
    assert terminal.memory is not None
    return DayBook.read(
        terminal.memory.ring, 1, terminal.parameters, now_ms=terminal.rtc.now_ms(), sells_meals=terminal.SELLS_MEALS
    )


def test_sales_and_bookings_count_and_what_was_given_back_does_not() -> None:
    bench = KindBench(make=MealTerminal)
    card = bench.issue()
    bench.issue(OPERATOR)
    terminal = bench.boot()
    assert isinstance(terminal, MealTerminal)
    steps: list[tuple[Callable[[], TapResult], int]] = [
        (lambda: terminal.book(bench.field(card), LUNCH_TOMORROW), 1_200),
        (lambda: terminal.book(bench.field(card), DINNER_NOW), 2_800),
        (lambda: terminal.cancel(bench.field(card), LUNCH_TOMORROW), 1_600),
        (lambda: terminal.collect(bench.field(card)), 1_600),
        (lambda: terminal.walk_in(bench.field(card)), 3_400),
    ]
    for step, spent in steps:
        step()
        for book in (terminal.day_book(), book_of(terminal)):
            assert book.spent_cents(bench.rtc.now_ms(), card) == spent
    assert book_of(terminal).portions(bench.rtc.now_ms(), card, DINNER) == 2
    assert book_of(terminal).spent_cents(bench.rtc.now_ms(), card + 1) == 0
    assert book_of(terminal).spent_cents(bench.rtc.now_ms() + DAY_MS, card) == 0


def test_the_book_is_read_back_to_the_days_beginning_and_no_further_than_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = KindBench(layout=flash_layout(ring_sectors=6))
    card = bench.issue()
    terminal = bench.boot()
    bench.tap(terminal, card, 7)
    bench.clock.time_ms += DAY_MS
    for _ in range(50):
        bench.tap(terminal, card, 100)
    assert book_of(terminal).spent_cents(bench.rtc.now_ms(), card) == 5_000
    bench.flash.dead_sectors.add(bench.layout.ring.start)
    assert book_of(bench.boot()).spent_cents(bench.rtc.now_ms(), card) == 1_700, "what cannot be read is not counted"
    monkeypatch.setattr(day_book, "RECORDS_READ_MAX", 10)
    assert book_of(terminal).spent_cents(bench.rtc.now_ms(), card) == 1_000


def test_the_book_forgets_the_card_that_came_first_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_book, "CARDS_MAX", 2)
    bench = KindBench()
    cards = [bench.issue(FIRST_CARD + number) for number in range(3)]
    terminal = bench.boot()
    for card in cards:
        bench.tap(terminal, card, 10)
    assert [terminal.day_book().spent_cents(bench.rtc.now_ms(), card) for card in cards] == [0, 10, 10]


def test_without_a_clock_there_is_no_day() -> None:
    bench = KindBench()
    bench.rtc = type(bench.rtc)(bench.clock)
    card = bench.issue()
    terminal = bench.boot()
    bench.tap(terminal, card, 10)
    assert book_of(terminal).spent_cents(0, card) == terminal.day_book().spent_cents(0, card) == 0


def test_every_reason_has_words_and_every_such_word_its_reason() -> None:
    assert {REASON_OF[WHY_OF[reason]] for reason in RefusalReason} == set(RefusalReason)


@pytest.mark.parametrize(
    ("status", "type_", "reason"),
    [
        (0x9401, RecordType.PURCHASE, RefusalReason.BALANCE_TOO_LOW),
        (0x9407, RecordType.PURCHASE, RefusalReason.CARD_REFUSED),
        (0x9407, RecordType.REFUND, RefusalReason.NOT_REFUNDABLE),
        (0x9408, RecordType.LOAD, RefusalReason.NO_ORDER),
        (0x6A83, RecordType.COLLECTION, RefusalReason.NOT_BOOKED),
        (0x6A84, RecordType.BOOKING, RefusalReason.MEAL_LIMIT),
        (0x6985, RecordType.LOAD, RefusalReason.CARD_REFUSED),
        (None, RecordType.LOAD, RefusalReason.CARD_REFUSED),
    ],
)
def test_the_cards_status_word_means_this_to_a_customer(status: int | None, type_: int, reason: RefusalReason) -> None:
    assert reason_of_status(status, type_) is reason


def test_refusals_stop_before_they_fill_the_memory() -> None:
    bench = KindBench(layout=flash_layout(ring_sectors=3))
    card = bench.issue()
    terminal = bench.boot()
    while (body := refusal_record(terminal, RefusalReason.NO_ORDER, attempted_type=4, card=card)) is not None:
        terminal.write_plain(body)
    assert terminal.memory_warning
    assert not terminal.memory_full


def test_a_completion_says_what_the_card_keeps_of_any_type() -> None:
    for type_ in PROVED_TYPES:
        found = completion_of(FACTS, replace(PROOF, type=type_))
        assert isinstance(found, Completion)
        assert (found.original_type, found.reference, found.card) == (type_, 7, FIRST_CARD)
        assert Completion.decode(found.encode()) == found
    assert getattr(completion_of(FACTS, PROOF, reference=99), "reference", None) == 99


@pytest.mark.parametrize(
    "proof",
    [
        replace(PROOF, type=RecordType.GREY),
        replace(PROOF, type=0),
        replace(PROOF, amount_cents=0),
        replace(PROOF, identity=Identity(0, 1, 9)),
        replace(PROOF, identity=Identity(4001, 0, 9)),
        replace(PROOF, identity=Identity(4001, 1, 0)),
    ],
    ids=str,
)
def test_a_proof_that_no_card_of_ours_can_have_made_is_not_completed(proof: CardProof) -> None:
    assert completion_of(FACTS, proof) is None


def test_a_meal_of_another_day_is_no_portion_of_today() -> None:
    bench = KindBench(make=MealTerminal, parameters=SITE)
    card = bench.issue()
    terminal = bench.boot()
    assert isinstance(terminal, MealTerminal)
    for day in (1, 2):
        place = MealPlace(LUNCH_TOMORROW.day + day, LUNCH_TOMORROW.meal, 1)
        assert bench.told(terminal.book(bench.field(card), place)).sequence == day
    assert book_of(terminal).portions(bench.rtc.now_ms(), card, LUNCH_TOMORROW.meal) == 0
