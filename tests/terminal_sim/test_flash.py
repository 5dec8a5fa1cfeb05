"""The chip: bits only fall, sectors only rise, and a cut tears where it was told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from terminal_sim.errors import FlashMisuse, PowerCut, SectorDead
from terminal_sim.flash import SECTOR_BYTES, CutAfter, FlashFile, VirtualFlash


def test_a_program_clears_bits_and_never_sets_one() -> None:
    flash = VirtualFlash(2 * SECTOR_BYTES)
    flash.program(10, b"\xf0\x0f")
    flash.program(10, b"\x3f\xff")
    assert flash.read(9, 4) == b"\xff\x30\x0f\xff"


def test_an_erase_makes_the_whole_sector_ff_and_gives_its_memory_back() -> None:
    flash = VirtualFlash(2 * SECTOR_BYTES)
    flash.program(SECTOR_BYTES + 5, b"\x00")
    flash.erase(1)
    assert flash.is_erased(1)
    assert flash.wear == {1: 1}
    assert len(flash.snapshot()) == 12


@pytest.mark.parametrize("steps", range(5))
def test_a_cut_inside_a_program_leaves_exactly_the_bytes_before_it(steps: int) -> None:
    flash = VirtualFlash(SECTOR_BYTES)
    flash.cut_plan = CutAfter(steps)
    if steps < 4:
        with pytest.raises(PowerCut):
            flash.program(0, b"\x00\x00\x00\x00")
        with pytest.raises(PowerCut):
            flash.read(0, 1)
    else:
        flash.program(0, b"\x00\x00\x00\x00")
    flash.power_on()
    assert flash.read(0, 4) == b"\x00" * steps + b"\xff" * (4 - steps)


def test_a_torn_byte_has_only_the_bits_that_were_reached() -> None:
    flash = VirtualFlash(SECTOR_BYTES)
    flash.cut_plan = CutAfter(1, bits_done=0x0F)
    with pytest.raises(PowerCut):
        flash.program(0, b"\x00\x00")
    flash.power_on()
    assert flash.read(0, 3) == b"\x00\xf0\xff"


def test_a_cut_inside_an_erase_leaves_a_mixture() -> None:
    flash = VirtualFlash(SECTOR_BYTES)
    flash.program(0, bytes(SECTOR_BYTES))
    flash.cut_plan = CutAfter(2, bits_done=0x80, erase_step_bytes=512)
    with pytest.raises(PowerCut):
        flash.erase(0)
    flash.power_on()
    assert flash.read(0, SECTOR_BYTES) == b"\xff" * 1024 + b"\x80" + bytes(SECTOR_BYTES - 1025)


def test_a_dead_sector_neither_reads_nor_writes() -> None:
    flash = VirtualFlash(2 * SECTOR_BYTES)
    flash.dead_sectors.add(1)
    for access in (lambda: flash.read(SECTOR_BYTES, 1), lambda: flash.erase(1)):
        with pytest.raises(SectorDead):
            access()
    assert flash.read(0, 1) == b"\xff"


@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (SECTOR_BYTES - 1, 2), (2 * SECTOR_BYTES, 1)])
def test_an_access_across_a_boundary_is_a_bug(offset: int, count: int) -> None:
    with pytest.raises(FlashMisuse):
        VirtualFlash(2 * SECTOR_BYTES).read(offset, count)


def test_a_snapshot_restores_the_same_bytes() -> None:
    flash = VirtualFlash(4 * SECTOR_BYTES)
    flash.program(100, b"abc")
    flash.program(3 * SECTOR_BYTES, b"\x00")
    image = flash.snapshot()
    flash.erase(0)
    flash.restore(image)
    assert flash.read(100, 3) == b"abc"
    assert flash.snapshot() == image


def test_a_fleet_file_is_sparse_and_finds_every_byte_again(tmp_path: Path) -> None:
    path = tmp_path / "fleet.flash"
    with FlashFile(path, chips=1000, chip_bytes=64 * SECTOR_BYTES) as file:
        flash = VirtualFlash(64 * SECTOR_BYTES, file.backing(7))
        flash.program(3 * SECTOR_BYTES + 1, b"kept")
        assert VirtualFlash(64 * SECTOR_BYTES, file.backing(8)).is_erased(3)
    assert path.stat().st_size == 1000 * 64 * SECTOR_BYTES
    assert path.stat().st_blocks * 512 < 64 * 1024
    with FlashFile(path, chips=1000, chip_bytes=64 * SECTOR_BYTES) as file:
        flash = VirtualFlash(64 * SECTOR_BYTES, file.backing(7))
        assert flash.read(3 * SECTOR_BYTES, 6) == b"\xffkept\xff"
        flash.erase(3)
        assert flash.is_erased(3)


def test_a_flash_file_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.flash"
    path.write_bytes(b"x")
    with pytest.raises(FlashMisuse):
        FlashFile(path, chips=1, chip_bytes=SECTOR_BYTES)
