"""The deny list in flash: staged, resumed, applied in one step, never going back (R27, R28)."""

from __future__ import annotations

from contextlib import suppress

import pytest

from protocol.codes import ListForm, ListKind, ListStatus
from protocol.deny_list import DenyList as Entries
from protocol.deny_list import make_delta
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import NO_HEAD, SoftwareSigner
from terminal_sim.errors import PowerCut
from terminal_sim.flash import CutAfter, VirtualFlash
from terminal_sim.lists import DenyList
from tests.terminal_sim.kit import ROOT_SEED, SITE, flash_layout, ledger_certificate, signed_list

LAYOUT = flash_layout(list_sectors=3)
ROOT = SoftwareSigner(ROOT_SEED).public_key
OLD = list(range(10, 500, 7))
NEW = [*OLD[5:], 100_000, 100_001]
OLD_HEAD, OLD_CONTENT = signed_list(1, OLD)
NEW_HEAD, NEW_CONTENT = signed_list(2, NEW)
CERTIFICATE = ledger_certificate().encode()


def boot(flash: VirtualFlash) -> DenyList:
    return DenyList(flash, LAYOUT, site=SITE, root_public=ROOT)


def snapshot_offer(head: bytes, content: bytes, data: bytes) -> ListOffer:
    return ListOffer(ListForm.SNAPSHOT, 0, 0, len(content), head, CERTIFICATE, data)


def send(terminal: DenyList, head: bytes, content: bytes, *, part_bytes: int = 100, counter: int) -> ListState:
    """As a front-end does: an offer, then chunks from where the terminal says it is."""
    [state] = terminal.receive(snapshot_offer(head, content, content[:part_bytes]))
    while state.status is ListStatus.STAGING:
        at = state.staged_bytes
        [state] = terminal.receive(ListChunk(1, 1, counter, at, content[at : at + part_bytes]))
    return state


def holding_old() -> VirtualFlash:
    flash = VirtualFlash(LAYOUT.size_bytes)
    assert send(boot(flash), OLD_HEAD, OLD_CONTENT, counter=1).status is ListStatus.HOLDS
    return flash


def test_a_list_is_in_force_at_once_and_after_a_boot() -> None:
    flash = VirtualFlash(LAYOUT.size_bytes)
    terminal = boot(flash)
    assert not terminal.memory.refuses(17)
    send(terminal, OLD_HEAD, OLD_CONTENT, counter=1)
    for each in (terminal, boot(flash)):
        assert [card for card in range(600) if each.memory.refuses(card)] == OLD
        assert each.state().head == OLD_HEAD


def test_a_delta_is_applied_to_the_list_held() -> None:
    flash = holding_old()
    terminal = boot(flash)
    delta = make_delta(Entries(OLD), Entries(NEW))
    [state] = terminal.receive(ListOffer(ListForm.DELTA, 1, 1, len(delta), NEW_HEAD, CERTIFICATE, delta))
    assert (state.status, state.head) == (ListStatus.HOLDS, NEW_HEAD)
    assert [boot(flash).memory.refuses(card) for card in (10, 45, 100_000)] == [False, True, True]


def test_an_older_or_equal_list_never_wins() -> None:
    flash = holding_old()
    send(boot(flash), NEW_HEAD, NEW_CONTENT, counter=2)
    terminal = boot(flash)
    [state] = terminal.receive(snapshot_offer(OLD_HEAD, OLD_CONTENT, OLD_CONTENT[:10]))
    assert (state.status, state.head) == (ListStatus.NOT_HIGHER, NEW_HEAD)
    assert boot(flash).state().head == NEW_HEAD


def test_an_unsigned_list_changes_nothing() -> None:
    terminal = boot(holding_old())
    forged = NEW_HEAD[:-1] + bytes((NEW_HEAD[-1] ^ 1,))
    [state] = terminal.receive(snapshot_offer(forged, NEW_CONTENT, NEW_CONTENT))
    assert (state.status, state.head) == (ListStatus.BAD_SIGNATURE, OLD_HEAD)


def test_a_list_too_long_for_the_memory_is_refused_before_anything_is_staged() -> None:
    head, content = signed_list(3, list(range(1, 5000)))
    terminal = boot(holding_old())
    [state] = terminal.receive(snapshot_offer(head, content, content[:10]))
    assert (state.status, state.head) == (ListStatus.NO_ROOM, OLD_HEAD)


def test_a_newer_version_replaces_a_half_staged_one() -> None:
    newest = [*OLD[20:], 200_000]
    head, content = signed_list(3, newest)
    flash = holding_old()
    terminal = boot(flash)
    terminal.receive(snapshot_offer(NEW_HEAD, NEW_CONTENT, NEW_CONTENT[:200]))
    assert send(terminal, head, content, counter=3).status is ListStatus.HOLDS
    assert boot(flash).memory.held_content() == content


def test_power_cut_at_every_byte_of_a_delta_leaves_the_old_list_or_the_new_one() -> None:
    image = holding_old().snapshot()
    delta = make_delta(Entries(OLD), Entries(NEW))
    offer = ListOffer(ListForm.DELTA, 1, 1, len(delta), NEW_HEAD, CERTIFICATE, delta)
    steps = 0
    while True:
        flash = VirtualFlash(LAYOUT.size_bytes)
        flash.restore(image)
        flash.cut_plan = plan = CutAfter(steps, bits_done=0x99, erase_step_bytes=512)
        with suppress(PowerCut):
            boot(flash).receive(offer)
        flash.power_on()
        terminal = boot(flash)
        assert terminal.memory.held_content() in {OLD_CONTENT, NEW_CONTENT}
        [*_, state] = terminal.receive(offer)
        assert (state.status, state.head) == (ListStatus.HOLDS, NEW_HEAD)
        assert boot(flash).memory.held_content() == NEW_CONTENT
        if not plan.fired:
            break
        steps += 1
    assert steps > 400


@pytest.mark.parametrize("first_version", [False, True])
def test_power_cut_at_every_byte_of_a_transfer_leaves_the_old_list_or_the_new_one(first_version: bool) -> None:
    base = VirtualFlash(LAYOUT.size_bytes) if first_version else holding_old()
    image = base.snapshot()
    held_before = NO_HEAD if first_version else OLD_HEAD
    steps, resumed, applied = 0, 0, 0
    while True:
        flash = VirtualFlash(LAYOUT.size_bytes)
        flash.restore(image)
        flash.cut_plan = plan = CutAfter(steps, bits_done=0x3C, erase_step_bytes=128)
        with suppress(PowerCut):
            send(boot(flash), NEW_HEAD, NEW_CONTENT, counter=2, part_bytes=64)
        flash.power_on()
        terminal = boot(flash)
        state = terminal.state()
        assert state.head in {held_before, NEW_HEAD}
        applied += state.head == NEW_HEAD
        cards = NEW if state.head == NEW_HEAD else ([] if first_version else OLD)
        assert [card for card in (10, 17, 45, 100_001) if terminal.memory.refuses(card)] == [
            card for card in (10, 17, 45, 100_001) if card in cards
        ]
        resumed += state.staged_bytes > 0
        final = send(terminal, NEW_HEAD, NEW_CONTENT, counter=2, part_bytes=64)
        assert (final.status, final.head) == (ListStatus.HOLDS, NEW_HEAD)
        assert boot(flash).memory.held_content() == NEW_CONTENT
        if not plan.fired:
            break
        steps += 1
    print(f"{steps} cuts, {resumed} resumed, {applied} applied")
    assert steps > 600
    assert resumed > 100
    assert applied > 0


def test_a_dead_slot_is_reported_and_replaced() -> None:
    flash = holding_old()
    send(boot(flash), NEW_HEAD, NEW_CONTENT, counter=2)
    flash.dead_sectors.add(LAYOUT.list_areas(ListKind.DENY)[1].start + 1)
    terminal = boot(flash)
    assert terminal.memory.damaged
    assert terminal.state().head == OLD_HEAD
