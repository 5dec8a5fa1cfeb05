"""The journal alone: allocation, torn entries, rotation, dead sectors."""

from __future__ import annotations

from contextlib import suppress

import pytest

from terminal_sim.errors import MemoryLost, PowerCut
from terminal_sim.flash import SECTOR_BYTES, CutAfter, VirtualFlash
from terminal_sim.journal import BOOT_MAX, ENTRIES_PER_SECTOR, Journal, plain_entry

SECTORS = range(4)
SEAL = b"12345678"


def open_journal(flash: VirtualFlash, epoch: int = 1) -> Journal:
    return Journal(flash, SECTORS, epoch=epoch)


def write(journal: Journal, sequence: int, *, epoch: int = 1) -> None:
    journal.open_entry(
        plain_entry(epoch, sequence, journal.boot, running_count=sequence, running_sum_cents=-1, previous_seal=SEAL)
    )
    journal.close_entry(0x60, sequence.to_bytes(8, "big"))


def test_the_last_entry_is_found_again_after_any_number_of_rotations() -> None:
    flash = VirtualFlash(4 * SECTOR_BYTES)
    journal = open_journal(flash)
    journal.begin_boot(1)
    for sequence in range(1, 10 * ENTRIES_PER_SECTOR):
        write(journal, sequence)
        if sequence % 7 == 0:
            journal = open_journal(flash)
        last = journal.last
        assert last is not None
        assert (last.entry.sequence, last.seal, last.record_type) == (sequence, sequence.to_bytes(8, "big"), 0x60)
    assert open_journal(flash).boot == 1
    assert max(flash.wear.values()) - min(flash.wear.values()) <= 1


@pytest.mark.parametrize("before", [0, 5, ENTRIES_PER_SECTOR - 1, 4 * ENTRIES_PER_SECTOR - 1])
def test_a_cut_at_every_byte_leaves_the_entry_before_or_the_new_one(before: int) -> None:
    base = VirtualFlash(4 * SECTOR_BYTES)
    journal = open_journal(base)
    journal.begin_boot(1)
    for sequence in range(1, before + 1):
        write(journal, sequence)
    image, steps = base.snapshot(), 0
    while True:
        flash = VirtualFlash(4 * SECTOR_BYTES)
        flash.restore(image)
        journal = open_journal(flash)
        flash.cut_plan = plan = CutAfter(steps, bits_done=0x11, erase_step_bytes=256)
        with suppress(PowerCut):
            write(journal, before + 1)
        flash.power_on()
        again = open_journal(flash)
        assert again.boot == 1
        sequence = again.last.entry.sequence if again.last is not None else 0
        assert sequence in {before, before + 1}
        if again.last is not None and sequence == before:
            assert again.last.record_type == 0x60
        write(again, before + 2)
        found = open_journal(flash).last
        assert found is not None
        assert found.entry.sequence == before + 2
        if not plan.fired:
            return
        steps += 1


def test_a_dead_sector_is_passed_over_and_four_are_the_end() -> None:
    flash = VirtualFlash(4 * SECTOR_BYTES)
    journal = open_journal(flash)
    journal.begin_boot(1)
    flash.dead_sectors.add(2)
    for sequence in range(1, 5 * ENTRIES_PER_SECTOR):
        write(journal, sequence)
    last = open_journal(flash).last
    assert last is not None
    assert last.entry.sequence == 5 * ENTRIES_PER_SECTOR - 1
    flash.dead_sectors.update(SECTORS)
    with pytest.raises(MemoryLost):
        open_journal(flash).begin_boot(1)


def test_another_epoch_starts_its_own_count_of_boots() -> None:
    flash = VirtualFlash(4 * SECTOR_BYTES)
    for boot in range(1, 6):
        assert open_journal(flash).begin_boot(1) == boot
    assert open_journal(flash, 2).begin_boot(2) == 1
    assert open_journal(flash, 2).begin_boot(2) == 2


def test_boot_numbers_end_before_they_repeat() -> None:
    flash = VirtualFlash(4 * SECTOR_BYTES)
    assert open_journal(flash).begin_boot(1, at_least=BOOT_MAX - 1) == BOOT_MAX
    with pytest.raises(MemoryLost):
        open_journal(flash).begin_boot(1)
