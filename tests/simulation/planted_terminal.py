"""Planted bugs of terminals and cards: each a patch in memory. A device that is wrong must be found out by the site."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protocol.cards.aes import AesCardCore
from protocol.codes import ListForm
from protocol.list_receiver import ListReceiver
from protocol.signed import NO_HEAD, NO_VERSION, SignedHead
from terminal_sim import connection
from terminal_sim.lists import DenyListMemory
from terminal_sim.memory import Memory
from terminal_sim.ring import EpochMarks, Ring
from terminal_sim.tap import Tap
from terminal_sim.transaction import TransactionTap


def debit_without_a_mark_in_flash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "mark_debit_sent", lambda _: None)


def forget_an_open_sale_at_boot(patch: pytest.MonkeyPatch) -> None:
    """The sequence of a sale that a power cut interrupted is given out again."""
    patch.setattr(Memory, "open_entry", property(lambda _: None))


def reset_a_counter_at_boot(patch: pytest.MonkeyPatch) -> None:
    """Running totals begin again with every boot."""
    find_tip = Memory._find_tip

    def finds(memory: Memory) -> None:
        find_tip(memory)
        memory.running_count = memory.running_sum_cents = 0

    patch.setattr(Memory, "_find_tip", finds)


def overwrite_what_is_not_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def everything(_: Ring, marks: EpochMarks) -> int:
        return max(0, len(marks.segments) - 1)

    patch.setattr(Ring, "_reclaimable", everything)
    patch.setattr(Ring, "room_records", lambda _: 1_000)


def clear_a_proof_without_a_record(patch: pytest.MonkeyPatch) -> None:
    """The next terminal confirms the proof that a torn tap has left, and tells nobody."""

    def completes(tap: Any, pending: Any) -> Any:
        tap._completed = pending.proof.identity
        return tap._dialogue.completion_written()

    patch.setattr(Tap, "_complete", completes)
    patch.setattr(TransactionTap, "_complete", completes)


def older_list_after_a_boot(patch: pytest.MonkeyPatch) -> None:
    def finds_the_older(memory: DenyListMemory) -> Any:
        found = [held for held in map(memory._read_slot, memory._slots) if held is not None]
        return min(found, key=lambda held: held.head[12:20], default=None)

    patch.setattr(DenyListMemory, "_find_held", finds_the_older)


def believe_every_list(patch: pytest.MonkeyPatch) -> None:
    """Nobody checks who has signed a list."""

    def believes(_: ListReceiver, offer: Any) -> SignedHead:
        return SignedHead.decode(offer.head)

    patch.setattr(ListReceiver, "_proved_head", believes)


def take_an_older_list(patch: pytest.MonkeyPatch) -> None:
    """Signed is signed: a terminal that is offered an old list goes back to it."""
    receive = ListReceiver.receive_offer

    def receives(receiver: ListReceiver, offer: Any) -> Any:
        held, receiver._held = receiver._held, NO_HEAD
        if offer.head == held or offer.form != ListForm.SNAPSHOT:
            receiver._held = held
        events = receive(receiver, offer)
        if receiver._held == NO_HEAD:
            receiver._held = held
        return events

    patch.setattr(ListReceiver, "receive_offer", receives)


def miss_the_last_entry_of_a_list(patch: pytest.MonkeyPatch) -> None:
    holds = DenyListMemory._holds

    def misses(memory: DenyListMemory, base: int, count: int, wanted: int) -> bool:
        return holds(memory, base, max(0, count - 1), wanted)

    patch.setattr(DenyListMemory, "_holds", misses)


def take_the_head_of_a_list_alone(patch: pytest.MonkeyPatch) -> None:
    """A new version comes into force with the content of the old one; no digest is compared."""
    content = ListReceiver._content

    def contents(receiver: ListReceiver, staging: Any, data: bytes) -> bytes | None:
        if receiver.held_version == NO_VERSION:
            return content(receiver, staging, data)
        return receiver._store.held_content()

    patch.setattr(ListReceiver, "_content", contents)


def wait_for_a_silent_front_end(patch: pytest.MonkeyPatch) -> None:
    """As it was: a terminal whose way up works and whose way down is lost waits for ever."""
    patch.setattr(connection, "SILENCE_MS_MAX", 10**9)


def take_a_cent_too_much(patch: pytest.MonkeyPatch) -> None:
    """A card that proves one amount and takes another, every seventh time."""
    command = AesCardCore.command

    def commands(core: AesCardCore, sent: bytes, random: bytes) -> Any:
        answer, image = command(core, sent, random)
        if image is not None and image.counter % 7 == 0 and image.last_proof is not None and image.proof_pending:
            image = replace(image, balance_cents=image.balance_cents - 1)
        return answer, image

    patch.setattr(AesCardCore, "command", commands)
