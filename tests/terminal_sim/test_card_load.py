"""Loads of memory cards and PBOC purses at a real load station: once, whatever tears them (R20–R22)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest

from protocol.cards.apdu import Identity
from protocol.cards.memory_image import Remainder
from protocol.cards.memory_layout import Application, KeyLetter
from protocol.cards.memory_sam import SoftwareMemorySam
from protocol.cards.pboc_image import PbocCardImage
from protocol.cards.pboc_sam import PbocLoadSam
from protocol.codes import CardKind, EndReason, RecordType, RefusalReason
from protocol.list_receiver import Apply
from protocol.parameters import Parameters
from protocol.record_bodies import Aborted, Body, Completion, Doubt, Load, Refusal
from protocol.records import decode_body, read_head
from terminal_sim.card import CardField, Disturbance, Effect, Moment
from terminal_sim.card_kinds import decode_card, encode_card
from terminal_sim.errors import PowerCut
from terminal_sim.flash import VirtualFlash
from terminal_sim.load_station import LoadOrder, LoadStation
from terminal_sim.outcome import Outcome, TapResult, Why
from terminal_sim.provisioning import TerminalSecrets
from tests.terminal_sim.kinds_kit import KindBench, full_secrets
from tests.terminal_sim.kit import (
    FIRST_CARD,
    OPENING_CENTS,
    PBOC_MASTERS,
    SECTOR_MASTERS,
    TERMINAL,
    check_chain,
    signed_list,
)

OTHER_KINDS = pytest.mark.parametrize("kind", [CardKind.MEMORY, CardKind.PBOC], ids=lambda kind: kind.name)
ORDERS = [LoadOrder(FIRST_CARD, serial, 70 + serial, 100 * serial, TERMINAL) for serial in (3, 4)]
FIRST, SECOND = (order.amount_cents for order in ORDERS)


def station_secrets(secrets: TerminalSecrets) -> TerminalSecrets:
    purse = {1: {Application.PURSE: SECTOR_MASTERS[Application.PURSE].b}}
    return replace(
        secrets,
        memory_load_sam=SoftwareMemorySam(purse, letter=KeyLetter.B),
        pboc_load_sams={1: PbocLoadSam(PBOC_MASTERS["load"])},
    )


class StationBench(KindBench):
    def station(self, orders: list[LoadOrder] | None = None) -> LoadStation:
        booted = self.boot()
        assert isinstance(booted, LoadStation)
        booted.give_orders(ORDERS if orders is None else orders)
        self.terminal = booted
        return booted

    def load(self, station: LoadStation, card: int, disturbance: Disturbance | None = None) -> TapResult:
        return self.told(station.tap(self.field(card, disturbance), 0))


def ready(kind: CardKind) -> tuple[StationBench, LoadStation, int]:
    bench = StationBench(make=LoadStation, secrets=station_secrets(full_secrets()), parameters=Parameters())
    card = bench.issue(kind=kind)
    return bench, bench.station(), card


def bodies(station: LoadStation) -> list[Body]:
    return [decode_body(record) for record in check_chain(station)]


@OTHER_KINDS
def test_each_order_is_executed_once_in_the_order_of_its_serial(kind: CardKind) -> None:
    bench, station, card = ready(kind)
    results = [bench.load(station, card) for _ in range(3)]
    assert [each.outcome for each in results] == [Outcome.DONE, Outcome.DONE, Outcome.REFUSED]
    assert results[2].why is Why.NO_ORDER
    assert bench.cards.load(card).balance_cents == OPENING_CENTS + FIRST + SECOND
    first, second, refusal = bodies(station)
    assert isinstance(first, Load)
    assert isinstance(second, Load)
    assert isinstance(refusal, Refusal)
    assert [(each.amount_cents, each.reference, each.order, each.card_kind) for each in (first, second)] == [
        (FIRST, 3, 73, kind),
        (SECOND, 4, 74, kind),
    ]
    assert (first.proof == bytes(8)) is (kind is CardKind.MEMORY)
    assert bench.oracle.check_cards(bench.cards) == []
    assert decode_card(encode_card(bench.cards.load(card))) == bench.cards.load(card)


@OTHER_KINDS
def test_the_card_itself_remembers_what_a_replaced_station_has_executed(kind: CardKind) -> None:
    """Another device, an empty memory, and yesterday's order file: the serials on the card stop it (R22)."""
    bench, station, card = ready(kind)
    for _ in ORDERS:
        assert bench.load(station, card).outcome is Outcome.DONE
    bench.flash = VirtualFlash(bench.layout.size_bytes)
    bench.re_enrol(2)
    bench.secrets = station_secrets(replace(bench.secrets, sam=full_secrets().sam))
    successor = bench.station()
    assert bench.load(successor, card).why is Why.NO_ORDER
    newer = [*ORDERS, LoadOrder(FIRST_CARD, 5, 75, 11, TERMINAL)]
    successor.give_orders(newer)
    assert bench.load(successor, card).outcome is Outcome.DONE
    assert bench.cards.load(card).balance_cents == OPENING_CENTS + FIRST + SECOND + 11


@OTHER_KINDS
def test_a_station_without_the_load_keys_of_a_kind_loads_none_of_its_cards(kind: CardKind) -> None:
    bench, _, card = ready(kind)
    bench.secrets = full_secrets()
    station = bench.station()
    assert bench.load(station, card).why is Why.FOREIGN
    assert bodies(station) == []


@OTHER_KINDS
def test_a_lost_card_is_not_loaded_and_leaves_its_refusal(kind: CardKind) -> None:
    bench, station, card = ready(kind)
    station.deny_list.memory.perform(Apply(*signed_list(1, [card])))
    assert bench.load(station, card).why is Why.DENY_LIST
    [refusal] = bodies(station)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.attempted_type) == (RefusalReason.DENY_LIST, RecordType.LOAD)


@OTHER_KINDS
def test_a_retired_station_loads_nothing(kind: CardKind) -> None:
    bench, station, card = ready(kind)
    assert station.retire(EndReason.REPLACED)
    assert bench.load(station, card).why is Why.NOT_READY
    assert not station.refuse_order(ORDERS[0].order)
    assert [type(each).__name__ for each in bodies(station)] == ["EndOfEpoch"]


def commands_of_a_load(kind: CardKind) -> CardField:
    bench, station, card = ready(kind)
    field = bench.field(card)
    assert bench.told(station.tap(field, 0)).outcome is Outcome.DONE
    return field


def points(kind: CardKind) -> Iterator[Disturbance]:
    """Before and after every command of a load; of a memory card's writes, torn at every third byte too."""
    usual = commands_of_a_load(kind)
    for index, moment, effect in product(range(usual.commands), Moment, Effect):
        yield Disturbance(index, moment, effect)
    if kind is CardKind.MEMORY:
        gone = (Effect.PULLED, Effect.POWER_CUT)
        for index, size, effect, remainder in product(usual.wrote, range(0, 17, 3), gone, Remainder):
            yield Disturbance(index, Moment.AFTER_WRITE, effect, size, remainder)


@OTHER_KINDS
def test_a_load_torn_anywhere_is_never_made_twice_and_every_one_is_accounted_for(kind: CardKind) -> None:
    doubts = completions = 0
    for disturbance in points(kind):
        bench, station, card = ready(kind)
        with suppress(PowerCut):
            bench.load(station, card, disturbance)
        if disturbance.effect is Effect.POWER_CUT:
            station = bench.station()
        for _ in range(4):
            bench.load(station, card)
        assert bench.oracle.faults == [], disturbance
        assert bench.oracle.check_cards(bench.cards) == [], disturbance
        doubted, proved = settled(bench, station, disturbance)
        gained = bench.cards.load(card).balance_cents - OPENING_CENTS
        if kind is CardKind.PBOC:
            assert gained == FIRST + SECOND, disturbance
            assert proved == set(bench.oracle.executed), disturbance
        else:  # a memory card's doubt, executed or not, is not asked for again: two persons decide its order
            executed = {one for one in doubted if one in bench.oracle.executed}
            assert gained == FIRST + SECOND - (FIRST if doubted - executed else 0), disturbance
            assert proved | executed == set(bench.oracle.executed), disturbance
        doubts += len(doubted)
        completions += any(isinstance(each, Completion) for each in bodies(station))
    assert doubts >= 4
    assert (completions > 0) is (kind is CardKind.PBOC)


def settled(bench: StationBench, station: LoadStation, disturbance: Disturbance) -> tuple[set[Identity], set[Identity]]:
    """(identities in doubt, identities proved by their record or a completion), as flash has them."""
    doubted, proved = set(), set()
    for record in check_chain(station):
        head, body = read_head(record), decode_body(record)
        identity = Identity(head.terminal, head.epoch, head.sequence)
        if isinstance(body, Doubt):
            assert (body.attempted_type, body.reference, body.order) == (RecordType.LOAD, 3, 73)
            doubted.add(identity)
        elif isinstance(body, Load):
            proved.add(identity)
        elif isinstance(body, Completion):
            proved.add(Identity(body.original_terminal, body.original_epoch, body.original_sequence))
        else:
            assert isinstance(body, Aborted | Refusal)
            assert identity not in bench.oracle.executed, disturbance
    return doubted, proved


def test_a_doubt_whose_proof_the_card_no_longer_keeps_holds_up_no_later_order() -> None:
    bench, station, card = ready(CardKind.PBOC)
    field = commands_of_a_load(CardKind.PBOC)
    torn = bench.load(station, card, Disturbance(field.wrote[-1], Moment.AFTER_WRITE))
    assert torn.outcome is Outcome.GREY
    held = bench.cards.load(card)
    assert isinstance(held, PbocCardImage)
    assert held.last_load is not None
    other = replace(held.last_load.entry, terminal=bytes((0, 0, 0, 9, 0, 1)))  # loaded elsewhere since
    bench.cards.save(replace(held, last_load=replace(held.last_load, entry=other)))
    assert bench.load(station, card).why is Why.CARD_REFUSED
    assert bench.load(station, card).outcome is Outcome.DONE
    assert bench.cards.load(card).balance_cents == OPENING_CENTS + FIRST + SECOND


def test_a_purchase_whose_proof_waits_is_brought_home_before_the_load() -> None:
    bench, station, card = ready(CardKind.PBOC)
    till = bench.field(card, Disturbance(3, Moment.AFTER_WRITE))
    assert bench.told(super(LoadStation, station).tap(till, 850)).outcome is Outcome.GREY
    result = bench.load(station, card)
    assert (result.outcome, result.completed) == (Outcome.DONE, Identity(TERMINAL, 1, 1))
    assert [type(each).__name__ for each in bodies(station)] == ["Grey", "Completion", "Load"]
