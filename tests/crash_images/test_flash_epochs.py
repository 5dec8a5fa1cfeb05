"""What no other test cuts in a terminal's flash: the first records of a new epoch, beside an old one that is owed."""

from __future__ import annotations

from contextlib import suppress

import pytest

from terminal_sim.errors import PowerCut
from terminal_sim.flash import CutAfter, VirtualFlash
from terminal_sim.ring import Ring
from tests.terminal_sim.test_ring import SECTORS, filled, record


@pytest.mark.parametrize("bits_done", [0x00, 0x55, 0xAA])
@pytest.mark.parametrize("held", [3, 34, 70])
def test_power_cut_at_every_byte_of_the_first_records_of_a_new_epoch_keeps_the_old_epoch_whole(
    held: int, bits_done: int
) -> None:
    base, full = filled(held)
    old = [full.read(1, each) for each in range(1, held + 1)]
    image, steps = base.snapshot(), 0
    while True:
        flash = VirtualFlash(base.size_bytes)
        flash.restore(image)
        ring = Ring(flash, SECTORS)
        flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done, erase_step_bytes=512)
        committed = 0
        with suppress(PowerCut):
            ring.enter_epoch(2)
            for sequence in (1, 2, 3):
                ring.append(record(sequence, epoch=2))
                committed = sequence
        flash.power_on()
        again = Ring(flash, SECTORS)
        again.enter_epoch(2)
        assert [again.read(1, each) for each in range(1, held + 1)] == old
        following = again.epochs[2].next
        assert committed < following <= committed + 2
        for sequence in range(1, following):
            assert again.read(2, sequence) == record(sequence, epoch=2)
        again.append(record(following, epoch=2))
        assert Ring(flash, SECTORS).read(2, following) == record(following, epoch=2)
        if not plan.fired:
            break
        steps += 1
    print(f"{steps} cuts")
    assert steps > 200
