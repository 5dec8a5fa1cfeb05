"""Loads of PBOC purses and memory cards from a station's side: commands, tables, marks, hostile answers (R22)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest

from protocol.cards.apdu import CardOrder, Identity
from protocol.cards.events import Authenticated, CardSeen, Debited, Event, Finished, Recalled, Refused, Step
from protocol.cards.memory import MemoryCardCore
from protocol.cards.memory_layout import Application, KeyLetter, LoadMark
from protocol.cards.memory_load import MemoryLoadDialogue, load_serial
from protocol.cards.memory_sam import SoftwareMemorySam
from protocol.cards.pboc import PbocCardCore
from protocol.cards.pboc_load import TRANSITIONS, PbocLoadDialogue, State
from protocol.cards.pboc_macs import load_reference, split_load_reference
from protocol.cards.pboc_sam import PbocLoadSam
from protocol.cards.port import Choose, DebitTerms, LoadChoice
from protocol.codes import RecordType
from protocol.errors import StateMisuse
from tests.hostile import garbage
from tests.protocol.card_till import (
    CLOCK_MS,
    PBOC_MASTERS,
    SECTOR_MASTERS,
    START_CENTS,
    balance,
    memory_image,
    memory_sam,
    pboc_image,
    pboc_sam,
)
from tests.protocol.samples import CNY, EPOCH, TERMINAL

TERMS = DebitTerms(1, CNY, TERMINAL, EPOCH)
ORDER = CardOrder(700, CNY, Identity(TERMINAL, EPOCH, 41), RecordType.LOAD, 5)
LOAD_SAMS = {1: PbocLoadSam(PBOC_MASTERS["load"])}
RANDOM = bytes(range(16))


def pboc(choose: Choose) -> PbocLoadDialogue:
    return PbocLoadDialogue(pboc_sam(), LOAD_SAMS, TERMS, choose)


def memory(choose: Choose) -> MemoryLoadDialogue:
    load_sam = SoftwareMemorySam({1: {Application.PURSE: SECTOR_MASTERS[Application.PURSE].b}}, letter=KeyLetter.B)
    return MemoryLoadDialogue(memory_sam(), load_sam, TERMS, choose)


def wanted(told: list[int], choice: LoadChoice | None = None) -> Choose:
    """Chooses the order, and notes which serial the card told."""

    def choose(serial: int) -> LoadChoice | None:
        told.append(serial)
        return choice if choice is not None else LoadChoice(ORDER.amount_cents)

    return choose


def load(dialogue: Any, core: Any, order: CardOrder = ORDER) -> tuple[list[bytes], list[Event]]:
    """One load to its end: the commands sent, and the events told."""
    sent: list[bytes] = []
    events: list[Event] = []
    core.reset()
    step: Step = dialogue.start()
    while True:
        if step.command is not None:
            sent.append(step.command)
            step = dialogue.answered(core.command(step.command, RANDOM)[0])
            continue
        assert step.event is not None
        events.append(step.event)
        if isinstance(step.event, CardSeen):
            step = dialogue.authenticate(RANDOM)
        elif isinstance(step.event, Authenticated):
            step = dialogue.intent_written(order, clock_ms=CLOCK_MS)
        elif isinstance(step.event, Debited):
            step = dialogue.record_written()
        elif isinstance(step.event, Recalled):
            step = dialogue.completion_written()
        else:
            assert dialogue.ended
            return sent, events


MAKERS: tuple[tuple[Callable[[Choose], Any], Callable[[], Any]], ...] = (
    (pboc, lambda: PbocCardCore(pboc_image())),
    (memory, lambda: MemoryCardCore(memory_image())),
)
EVERY_KIND = pytest.mark.parametrize(("make", "core_of"), MAKERS, ids=["PBOC", "memory"])


def test_a_pboc_load_is_these_commands_and_is_recalled_by_these() -> None:
    core, told = PbocCardCore(pboc_image()), list[int]()
    sent, events = load(pboc(wanted(told)), core)
    heads = ["00a4040003", "0088000108", "00b09a0204", "805000020b", "0084000004", "04d69a020c", "805200000b"]
    assert [each[:5].hex() for each in sent] == heads
    assert sent[3][5:].hex() == "01" + "000002bc" + "00010203" + "0003"
    assert sent[5][5:13].hex() == "00000005" + "00000029"
    assert told == [0]
    debited = events[2]
    assert isinstance(debited, Debited)
    assert (debited.order, debited.balance_after_cents, debited.counter) == (ORDER, START_CENTS + 700, 8)
    assert isinstance(events[3], Finished)
    assert (core.image.load_serial, core.image.online_counter) == (5, 8)
    sent, events = load(pboc(wanted(told, LoadChoice(700, recalls=(7, 41)))), core)
    assert [each[:5].hex() for each in sent[3:]] == ["00b202c41f", "805a000202"]
    recalled = events[1]
    assert isinstance(recalled, Recalled)
    assert (recalled.amount_cents, recalled.balance_after_cents, recalled.counter) == (700, START_CENTS + 700, 8)
    assert recalled.proof == debited.proof
    assert told == [0, 5]


@pytest.mark.parametrize("recalls", [(7, 40), (6, 41), (8, 41)])
def test_a_load_that_is_not_the_one_in_doubt_is_not_taken_for_it(recalls: tuple[int, int]) -> None:
    """The TAC covers no sequence: without this one load would prove two orders."""
    core = PbocCardCore(pboc_image())
    load(pboc(wanted([])), core)
    _, events = load(pboc(wanted([], LoadChoice(700, recalls=recalls))), core)
    assert isinstance(events[-1], Refused)
    assert not any(isinstance(each, Recalled) for each in events)


def test_a_memory_card_is_loaded_under_key_b_and_remembers_two_serials() -> None:
    core = MemoryCardCore(memory_image())
    for serial, told_before in ((5, 0), (6, 5), (9, 6)):
        told: list[int] = []
        order = CardOrder(700, CNY, Identity(TERMINAL, EPOCH, serial), RecordType.LOAD, serial)
        sent, events = load(memory(wanted(told)), core, order)
        assert told == [told_before]
        assert isinstance(events[-1], Finished)
        opened = [each[2:4] for each in sent if each[1] == 0x88]
        assert opened[0] == b"\x00\x60"
        assert all(each[1:] == b"\x61" for each in opened[1:])
    marks = [LoadMark.decode(core.image.block(block)) for block in (10, 6)]
    assert {mark.serial for mark in marks if mark is not None} == {6, 9}


def test_load_mark_bytes_and_which_of_two_counts() -> None:
    stated = bytes.fromhex("00000005" + "00000066" + "00000000")
    encoded = stated + crc32(stated).to_bytes(4, "big")
    assert LoadMark(5, 0x66).encode() == encoded
    assert LoadMark.decode(encoded) == LoadMark(5, 0x66)
    for offset in range(16):
        torn = bytearray(encoded)
        torn[offset] ^= 1
        assert LoadMark.decode(bytes(torn)) is None
    newer, empty = LoadMark(6, 0x67).encode(), bytes(16)
    assert load_serial((empty, empty), 0x70) == (0, 6)
    assert load_serial((encoded, newer), 0x67) == (6, 10)
    assert load_serial((encoded, newer), 0x66) == (5, 6), "its transaction has not happened: it is the one to overwrite"
    assert load_serial((newer, encoded), 0x65) == (0, 6)


def test_reference_of_a_completion_holds_serial_and_clock() -> None:
    assert load_reference(5, 1_772_438_400_999) == 0x00000005_69A54380
    assert split_load_reference(0x00000005_69A54380) == (5, 1_772_438_400_000)


@EVERY_KIND
def test_nothing_is_loaded_where_the_station_wants_nothing(make: Any, core_of: Any) -> None:
    core = core_of()
    before = core.image
    _, events = load(make(lambda _: None), core)
    assert isinstance(events[-1], Refused)
    assert core.image == before


@EVERY_KIND
def test_nothing_a_card_answers_raises_or_counts_as_money(make: Any, core_of: Any) -> None:
    usual, _ = load(make(wanted([])), core_of())
    for index in range(len(usual)):
        for answer in [b"", b"\x90\x00", b"\x6a\x80", *(each + b"\x90\x00" for each in garbage(index, 30, 40))]:
            dialogue, core = make(wanted([])), core_of()
            told = _load_with(dialogue, core, index, answer)
            if isinstance(told, Debited):
                # Neither answer is proved to a station: a TAC only the ledger can check, "done" of a TRANSFER nobody.
                is_commit = usual[index][:2] in {b"\x80\x52", b"\xff\xd8"}
                assert is_commit or balance(core) == START_CENTS + ORDER.amount_cents, usual[index].hex()


def _load_with(dialogue: Any, core: Any, index: int, answer: bytes) -> Event:
    """A load in which the answer to one command is another; the event before the record, or the last."""
    core.reset()
    step, count = dialogue.start(), 0
    while True:
        if step.command is not None:
            real = core.command(step.command, RANDOM)[0]
            step = dialogue.answered(answer if count == index else real)
            count += 1
        elif isinstance(step.event, CardSeen):
            step = dialogue.authenticate(RANDOM)
        elif isinstance(step.event, Authenticated):
            step = dialogue.intent_written(ORDER, clock_ms=CLOCK_MS)
        else:
            event: Event = step.event
            return event


def test_a_verb_out_of_turn_is_misuse() -> None:
    dialogue = pboc(wanted([]))
    verbs: tuple[Callable[[], Step], ...] = (
        lambda: dialogue.authenticate(RANDOM),
        dialogue.completion_written,
        lambda: dialogue.intent_written(ORDER, clock_ms=CLOCK_MS),
        dialogue.record_written,
        lambda: dialogue.answered(b"\x90\x00"),
    )
    for verb in verbs:
        with pytest.raises(StateMisuse):
            verb()
    assert dialogue.state is State.IDLE
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_an_order_on_other_terms_than_the_choice_is_misuse() -> None:
    core, dialogue = PbocCardCore(pboc_image()), pboc(wanted([]))
    step = dialogue.start()
    while not isinstance(step.event, Authenticated):
        if step.command is not None:
            step = dialogue.answered(core.command(step.command, RANDOM)[0])
        else:
            step = dialogue.authenticate(RANDOM)
    with pytest.raises(StateMisuse):
        dialogue.intent_written(CardOrder(701, CNY, ORDER.identity, RecordType.LOAD, 5), clock_ms=CLOCK_MS)
