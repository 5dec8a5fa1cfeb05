"""The shared memory of a WAL cannot be mapped: no VFS in Python can refuse that, so the system call does."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from ledger_sync.errors import SpoolFailure
from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.errors import LedgerFailure
from tests.ledger.canteen import ZONE, Canteen, Card, Till
from tests.spool.kit import Terminal, append_one, open_spool, spans

MAP_FAILED = ctypes.c_void_p(-1).value
_MMAP = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    use_errno=True,
)  # fmt: skip


class NoMapping:
    """`mmap` of SQLite's `unix` refuses while `is_refusing`; SQLite maps nothing but shared memory (mmap_size is 0)."""

    def __init__(self) -> None:
        self.is_refusing = False
        self.refused = 0
        self._vfs = apsw.VFS("only-to-reach-unix", "unix")
        true = self._vfs.xGetSystemCall("mmap")
        assert true
        self._address, self._true = true, _MMAP(true)
        self._ours = _MMAP(self._map)
        address = ctypes.cast(self._ours, ctypes.c_void_p).value
        assert address
        assert self._vfs.xSetSystemCall("mmap", address)

    def _map(self, *arguments: int) -> int | None:
        if self.is_refusing:
            self.refused += 1
            ctypes.set_errno(errno.ENOMEM)
            return MAP_FAILED
        return self._true(*arguments)  # type: ignore[no-any-return]

    def undo(self) -> None:
        self._vfs.xSetSystemCall("mmap", self._address)
        self._vfs.unregister()


@pytest.fixture
def mapping() -> Iterator[NoMapping]:
    made = NoMapping()
    yield made
    made.undo()


def test_a_spool_whose_shared_memory_cannot_be_mapped_is_refused_and_opens_later(
    tmp_path: Path, mapping: NoMapping
) -> None:
    spool, terminal = open_spool(tmp_path / "spool.db"), Terminal()
    append_one(spool, terminal.frame(1, 4))
    spool.close()
    mapping.is_refusing = True
    for _ in range(2):
        with pytest.raises(SpoolFailure, match="cannot open the spool"):
            open_spool(tmp_path / "spool.db")
    assert mapping.refused
    mapping.is_refusing = False
    spool = open_spool(tmp_path / "spool.db")
    assert spans(spool, terminal) == [(1, 4)]
    assert append_one(spool, terminal.frame(5, 8)).durable == 8
    spool.close()


def test_a_ledger_whose_shared_memory_cannot_be_mapped_is_refused_and_opens_later(
    tmp_path: Path, mapping: NoMapping
) -> None:
    till, card = Till(1), Card(1001)
    canteen = Canteen(tmp_path, cards=[card], tills=[till])
    canteen.post(till.row(till.purchase(card, 100)))
    canteen.ledger.close()
    mapping.is_refusing = True
    with pytest.raises(LedgerFailure, match="cannot open the ledger"):
        Ledger.open(canteen.paths, canteen.keys, files=canteen.files, utc_offset_ms=ZONE)
    assert mapping.refused
    mapping.is_refusing = False
    canteen.reopen()
    assert canteen.ledger.position == 1
    canteen.post(till.row(till.purchase(card, 50)))
    canteen.close()
