"""Benches for tills with parameters, meal terminals and load stations. No test lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from protocol.cards.apdu import Identity
from protocol.cards.image import AesCardImage
from protocol.cards.meals import MealPlace
from protocol.cards.orders import VERBS
from protocol.codes import RecordType
from protocol.parameters import Group, Limits, Meal, Menu, Parameters
from protocol.record_bodies import (
    PROVED_TYPES,
    Aborted,
    Completion,
    Doubt,
    Grey,
    LoadNotExecuted,
    Refusal,
)
from protocol.records import decode_body, read_head
from protocol.sam import SoftwareSam, TerminalMasters
from terminal_sim.card import CardField
from terminal_sim.load_station import LoadOrder, LoadStation
from terminal_sim.meal_terminal import MealTerminal
from terminal_sim.outcome import TapResult
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.selling_terminal import SellingTerminal
from tests.terminal_sim.kit import (
    AUTHENTICATE_MASTER,
    DEBIT_MASTER,
    FIRST_CARD,
    TERMINAL,
    Bench,
    BenchClock,
    check_chain,
    no_log,
    terminal_secrets,
)

OPERATOR: Final = 9_999
SOUP, LUNCH, DINNER = 3, 1, 2
DAY_MS: Final = 86_400_000
_START_MS: Final = BenchClock().now_ms()
TODAY: Final = (_START_MS + 480 * 60_000) // DAY_MS
MINUTE_NOW: Final = (_START_MS + 480 * 60_000) % DAY_MS // 60_000
"""Bench time is 21:33 local: dinner is being served, bookings are for tomorrow."""
SITE: Final = Parameters(
    limits=Limits(amount_max_cents=20_000, daily_max_cents=30_000, stale_max_cents=20_000),
    groups=(Group(group=2, daily_max_cents=30_000, discount_per_mille=100),),
    meals=(
        Meal(
            meal=LUNCH,
            name="lunch",
            card_max=2,
            booking_days_max=7,
            cut_off_min=540,
            serving_from_min=660,
            serving_to_min=810,
            walk_in_cents=1500,
            menus=(Menu(menu=1, name="A", price_cents=1200), Menu(menu=SOUP, name="soup", price_cents=0)),
        ),
        Meal(
            meal=DINNER,
            name="dinner",
            card_max=2,
            booking_days_max=7,
            cut_off_min=MINUTE_NOW + 30,
            serving_from_min=MINUTE_NOW - 30,
            serving_to_min=MINUTE_NOW + 90,
            walk_in_cents=1800,
            menus=(Menu(menu=1, name="A", price_cents=1600),),
        ),
    ),
    operator_cards=frozenset({OPERATOR}),
)
DINNER_NOW: Final = MealPlace(TODAY, DINNER, 1)
LUNCH_TOMORROW: Final = MealPlace(TODAY + 1, LUNCH, 1)
SOUP_TOMORROW: Final = MealPlace(TODAY + 1, LUNCH, SOUP)
ORDERS: Final = [
    LoadOrder(FIRST_CARD, 3, 71, 5_000, TERMINAL),
    LoadOrder(FIRST_CARD, 4, 72, 700, TERMINAL),
    LoadOrder(FIRST_CARD + 1, 1, 73, 900, TERMINAL),
    LoadOrder(FIRST_CARD, 2, 70, 100, TERMINAL + 1),
]


def full_secrets() -> TerminalSecrets:
    """Of a terminal whose SAM has every key that any terminal may have."""
    masters = TerminalMasters(AUTHENTICATE_MASTER, DEBIT_MASTER, bytes(16), bytes(16))  # as `card_image` has them
    return replace(terminal_secrets(), sam=SoftwareSam({1: masters}))


@dataclass
class KindBench(Bench):
    """A bench for one kind of terminal."""

    secrets: TerminalSecrets = field(default_factory=full_secrets)
    make: type[SellingTerminal] = SellingTerminal
    parameters: Parameters = SITE

    def boot(self, *, power_on: bool = True) -> SellingTerminal:
        if power_on:
            self.flash.power_on()
        terminal = self.make(
            self.flash,
            self.secrets,
            rtc=self.rtc,
            random=self.random,
            log=no_log,
            layout=self.layout,
            parameters=self.parameters,
        )
        if isinstance(terminal, LoadStation):
            terminal.give_orders(ORDERS)
        return terminal

    def aes(self, number: int) -> AesCardImage:
        """What the card holds."""
        image = self.cards.load(number)
        assert isinstance(image, AesCardImage)
        return image

    def told(self, result: TapResult) -> TapResult:
        """Tell the oracle what the customer was told."""
        self.oracle.answered(self.secrets.terminal, self.secrets.epoch, result)
        return result


@dataclass(frozen=True)
class Act:
    """One transaction to be interrupted: what prepares the card, what is done, and the type it makes."""

    name: str
    make: type[SellingTerminal]
    type: int
    prepare: Callable[[KindBench, SellingTerminal, int], None]
    run: Callable[[SellingTerminal, CardField], TapResult]

    def __str__(self) -> str:
        return self.name


def _meal(terminal: SellingTerminal) -> MealTerminal:
    assert isinstance(terminal, MealTerminal)
    return terminal


def _nothing(bench: KindBench, terminal: SellingTerminal, card: int) -> None:
    pass


def _buy(bench: KindBench, terminal: SellingTerminal, card: int) -> None:
    bench.told(terminal.tap(bench.field(card), 850))
    assert terminal.present_operator(bench.field(OPERATOR))


def _book(place: MealPlace) -> Callable[[KindBench, SellingTerminal, int], None]:
    def prepare(bench: KindBench, terminal: SellingTerminal, card: int) -> None:
        bench.told(_meal(terminal).book(bench.field(card), place))

    return prepare


ACTS: Final = (
    Act("sale", SellingTerminal, RecordType.PURCHASE, _nothing, lambda each, card: each.tap(card, 850)),
    Act("refund", SellingTerminal, RecordType.REFUND, _buy, lambda each, card: each.refund(card, 300)),
    Act("load", LoadStation, RecordType.LOAD, _nothing, lambda each, card: each.tap(card, 0)),
    Act(
        "booking", MealTerminal, RecordType.BOOKING, _nothing, lambda each, card: _meal(each).book(card, LUNCH_TOMORROW)
    ),
    Act(
        "free booking",
        MealTerminal,
        RecordType.BOOKING,
        _nothing,
        lambda each, card: _meal(each).book(card, SOUP_TOMORROW),
    ),
    Act(
        "cancellation",
        MealTerminal,
        RecordType.CANCELLATION,
        _book(LUNCH_TOMORROW),
        lambda each, card: _meal(each).cancel(card, LUNCH_TOMORROW),
    ),
    Act(
        "collection",
        MealTerminal,
        RecordType.COLLECTION,
        _book(DINNER_NOW),
        lambda each, card: _meal(each).collect(card),
    ),
    Act("walk-in", MealTerminal, RecordType.PURCHASE, _nothing, lambda each, card: _meal(each).walk_in(card)),
)


def settle(bench: Bench, terminal: SellingTerminal) -> int:
    """What a ledger would come to: a transaction happened if its record or a completion proves it, and only then."""
    proved: dict[Identity, tuple[int, int]] = {}
    unknown: set[Identity] = set()
    records = check_chain(terminal)
    for record in records:
        head, body = read_head(record), decode_body(record)
        identity = Identity(head.terminal, head.epoch, head.sequence)
        if isinstance(body, Completion):
            identity = Identity(body.original_terminal, body.original_epoch, body.original_sequence)
            proved[identity] = (body.original_type, body.amount_cents)
        elif isinstance(body, Grey | Doubt):
            unknown.add(identity)
        elif isinstance(body, Aborted | Refusal | LoadNotExecuted):
            assert identity not in bench.oracle.executed
        else:
            assert head.type in PROVED_TYPES
            assert identity not in proved
            proved[identity] = (head.type, int(getattr(body, "amount_cents", 0)))
    first = read_head(records[0]).sequence if records else 1
    executed = {
        identity: (each.type, each.amount_cents)
        for identity, each in bench.oracle.executed.items()
        if identity.sequence >= first  # acknowledged before it was overwritten
    }
    assert proved == executed
    assert unknown.isdisjoint(set(executed) - set(proved))
    assert bench.oracle.check_cards(bench.cards) == []
    return sum(VERBS[type_].sign * cents for type_, cents in proved.values())


def ready(act: Act, *, first: int = 1) -> tuple[KindBench, SellingTerminal, int]:
    """A bench, its terminal and a card, all prepared for the act, whose record gets a sequence ≥ `first`."""
    bench: KindBench = KindBench(make=act.make)
    card = bench.issue()
    bench.issue(OPERATOR)
    terminal = bench.boot()
    assert terminal.memory is not None
    while terminal.memory.next < first - (act.prepare is not _nothing):
        terminal.memory.ring.mark_acknowledged(1, max(0, terminal.memory.next - 4))
        bench.told(SellingTerminal.tap(terminal, bench.field(card), 1 << 30))  # a refusal each
    act.prepare(bench, terminal, card)
    return bench, terminal, card
