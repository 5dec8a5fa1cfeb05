"""The ring: commits, torn slots, watermarks, re-use of sectors, dead sectors. Records here: identity and filler."""

from __future__ import annotations

from contextlib import suppress

import pytest

from terminal_sim.errors import PowerCut, RecordGone, RingFull, SectorDead
from terminal_sim.flash import SECTOR_BYTES, CutAfter, VirtualFlash
from terminal_sim.ring import SLOTS_PER_SECTOR, Ring

SECTORS = range(1, 6)
SIZE = 6 * SECTOR_BYTES


def record(sequence: int, *, epoch: int = 1, length: int = 96) -> bytes:
    head = bytes((1, length, 1, 0)) + epoch.to_bytes(2, "big") + b"\x00\x01" + b"\x00\x00\x00\x07"
    return (head + sequence.to_bytes(4, "big")).ljust(length, bytes((sequence % 251,)))


def new_ring(flash: VirtualFlash) -> Ring:
    ring = Ring(flash, SECTORS)
    ring.enter_epoch(1)
    return ring


def filled(count: int, *, acknowledge_every: int = 0) -> tuple[VirtualFlash, Ring]:
    flash = VirtualFlash(SIZE)
    ring = new_ring(flash)
    for sequence in range(1, count + 1):
        ring.append(record(sequence, length=64 + 16 * (sequence % 4)))
        if acknowledge_every and sequence % acknowledge_every == 0:
            ring.mark_acknowledged(1, sequence)
    return flash, ring


def test_records_are_found_again_from_the_bytes_alone() -> None:
    flash, _ = filled(100)
    ring = new_ring(flash)
    marks = ring.epochs[1]
    assert (marks.oldest, marks.next, marks.acknowledged) == (1, 101, 0)
    for sequence in range(1, 101):
        assert ring.read(1, sequence) == record(sequence, length=64 + 16 * (sequence % 4))


def test_watermarks_are_found_again_and_never_fall() -> None:
    flash, ring = filled(50)
    assert ring.mark_acknowledged(1, 40) == 40
    assert ring.mark_acknowledged(1, 30) == 40
    assert ring.mark_settled(1, 45) == 40
    assert ring.mark_acknowledged(1, 4_000_000_000) == 50
    marks = new_ring(flash).epochs[1]
    assert (marks.acknowledged, marks.settled) == (50, 40)


def test_a_full_ring_refuses_and_an_acknowledged_sector_makes_room() -> None:
    count = len(SECTORS) * SLOTS_PER_SECTOR
    flash, ring = filled(count)
    assert ring.fill_percent == 100
    assert ring.room_records() == 0
    with pytest.raises(RingFull):
        ring.append(record(count + 1))
    ring.mark_acknowledged(1, SLOTS_PER_SECTOR + 1)
    assert ring.room_records() == SLOTS_PER_SECTOR
    ring.append(record(count + 1))
    with pytest.raises(RecordGone):
        ring.read(1, SLOTS_PER_SECTOR)
    assert ring.read(1, SLOTS_PER_SECTOR + 1) == record(SLOTS_PER_SECTOR + 1, length=64 + 16 * 3)
    assert new_ring(flash).epochs[1].oldest == SLOTS_PER_SECTOR + 1


def test_room_is_told_exactly() -> None:
    for acknowledged in range(0, 171, 17):
        _, ring = filled(160)
        ring.mark_acknowledged(1, acknowledged)
        room, sequence = ring.room_records(), 161
        for _ in range(room):
            ring.append(record(sequence))
            sequence += 1
        with pytest.raises(RingFull):
            ring.append(record(sequence))


def test_the_ring_goes_round_for_many_laps() -> None:
    laps = 20
    count = laps * len(SECTORS) * SLOTS_PER_SECTOR
    flash, ring = filled(count, acknowledge_every=13)
    assert max(flash.wear.values()) - min(flash.wear.values()) <= 1
    again = new_ring(flash)
    marks = again.epochs[1]
    assert (marks.next, marks.acknowledged) == (count + 1, count - count % 13)
    assert marks.oldest == ring.epochs[1].oldest
    assert again.read(1, count) == record(count, length=64 + 16 * (count % 4))


@pytest.mark.parametrize("bits_done", [0x00, 0x0F, 0xFE])
def test_an_append_cut_at_every_byte_keeps_all_committed_and_shows_nothing_torn(bits_done: int) -> None:
    steps = 0
    while True:
        flash, ring = filled(34 + 3)
        ring.mark_acknowledged(1, 20)
        flash.cut_plan = plan = CutAfter(steps, bits_done=bits_done)
        committed = 37
        with suppress(PowerCut):
            for sequence in (38, 39):
                ring.append(record(sequence))
                committed = sequence
        flash.power_on()
        again = new_ring(flash)
        marks = again.epochs[1]
        assert marks.acknowledged == 20
        assert marks.next - 1 in {committed, committed + 1}  # a commit whose last bits were all there counts
        for sequence in range(38, marks.next):
            assert again.read(1, sequence) == record(sequence)
        for sequence in range(marks.next, 45):  # the torn slot is skipped, not reused
            again.append(record(sequence))
        final = new_ring(flash)
        assert [final.read(1, each) for each in range(38, 45)] == [record(each) for each in range(38, 45)]
        if not plan.fired:
            return
        steps += 1


def test_opening_a_new_sector_cut_at_every_byte_never_sets_a_watermark_back() -> None:
    """The oldest sector is erased and headed for the next record; every boundary of the watermark is tried."""
    count = len(SECTORS) * SLOTS_PER_SECTOR
    for acknowledged in (34, 35, 36, 67, 68, 69, 135, 136, 137, 169, 170):
        base, ring = filled(count)
        ring.mark_acknowledged(1, acknowledged)
        image, steps = base.snapshot(), 0
        while True:
            flash = VirtualFlash(SIZE)
            flash.restore(image)
            ring = new_ring(flash)
            flash.cut_plan = plan = CutAfter(steps, erase_step_bytes=256, bits_done=0x55)
            full = False
            try:
                ring.append(record(count + 1))
            except PowerCut:
                pass
            except RingFull:
                full = True
            flash.power_on()
            marks = new_ring(flash).epochs[1]
            assert marks.acknowledged == acknowledged, (acknowledged, steps)
            assert full == (acknowledged <= 34)
            again = new_ring(flash)
            for sequence in range(acknowledged + 1, marks.next):
                again.read(1, sequence)
            if not full and marks.next == count + 1:
                again.append(record(count + 1))
                assert new_ring(flash).read(1, count + 1) == record(count + 1)
            if not plan.fired:
                break
            steps += 1


def test_an_acknowledgement_cut_at_every_bit_is_known_or_unknown_and_loses_nothing() -> None:
    for bits_done in range(256):
        flash, ring = filled(40)
        ring.mark_acknowledged(1, 10)
        flash.cut_plan = CutAfter(0, bits_done=bits_done)
        with pytest.raises(PowerCut):
            ring.mark_acknowledged(1, 39)
        flash.power_on()
        again = new_ring(flash)
        assert again.epochs[1].acknowledged == (39 if bits_done else 10)
        assert again.read(1, 39) == record(39, length=64 + 16 * 3)


def test_a_dead_sector_hides_its_records_and_stops_nothing() -> None:
    flash, _ = filled(100)
    flash.dead_sectors.add(2)  # sequences 35 … 68
    ring = new_ring(flash)
    assert ring.read(1, 34)
    with pytest.raises(SectorDead):
        ring.read(1, 35)
    assert ring.read(1, 69)
    ring.append(record(101))
    assert ring.epochs[1].oldest == 1


def test_the_first_sector_dead_at_boot_leaves_its_records_owed() -> None:
    flash, _ = filled(100)
    flash.dead_sectors.add(1)
    marks = new_ring(flash).epochs[1]
    assert (marks.oldest, marks.first_unacknowledged, marks.next) == (1, 1, 101)


def test_a_sector_that_dies_under_an_append_is_left_and_the_record_goes_elsewhere() -> None:
    flash, ring = filled(36)
    flash.dead_sectors.add(2)
    ring.append(record(37))
    assert ring.read(1, 37) == record(37)
    assert new_ring(flash).read(1, 37) == record(37)


def test_a_rotten_bit_is_a_lost_record_and_its_neighbours_keep_their_numbers() -> None:
    flash, _ = filled(60)
    flash.program(SECTOR_BYTES + 16 + 120 * 9 + 50, b"\x00")  # sequence 10
    ring = new_ring(flash)
    with pytest.raises(SectorDead):
        ring.read(1, 10)
    assert ring.read(1, 9) == record(9, length=64 + 16 * 1)
    assert ring.read(1, 11) == record(11, length=64 + 16 * 3)
    assert ring.epochs[1].next == 61


def test_an_older_epoch_is_kept_until_it_is_acknowledged() -> None:
    flash, ring = filled(70)
    ring.enter_epoch(2)
    for sequence in range(1, 61):
        ring.append(record(sequence, epoch=2))
    again = Ring(flash, SECTORS)
    again.enter_epoch(2)
    assert (again.epochs[1].next, again.epochs[2].next) == (71, 61)
    again.mark_acknowledged(2, 60)
    room = again.room_records()
    for sequence in range(61, 61 + room):
        again.append(record(sequence, epoch=2))
    assert [again.read(1, each)[12:16] for each in (1, 70)] == [b"\x00\x00\x00\x01", b"\x00\x00\x00\x46"]
    with pytest.raises(RingFull):
        again.append(record(61 + room, epoch=2))
    again.mark_acknowledged(1, 70)
    again.append(record(61 + room, epoch=2))
    assert sorted(Ring(flash, SECTORS).epochs) == [1, 2]
