"""Every operation on the disk fails, once and from then on: refused, alarmed, reopened; nothing promised is missing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.crash_images.disk import DiskVfs
from tests.crash_images.failing import KINDS, Failing, FailingLedger, FailingSpool, Fault, SpoolOfTwoProcesses, shake

PLACES_MAX: Final = 20  # of one kind: all where there are no more, else spread evenly and by the seed


@pytest.fixture
def vfs(tmp_path: Path) -> Iterator[DiskVfs]:
    made = DiskVfs("crash-failing", tmp_path / "lock")
    yield made
    made.unregister()


def places(total: int, rng: random.Random) -> list[int]:
    """Which of so many operations fail."""
    if total <= PLACES_MAX:
        return list(range(1, total + 1))
    return sorted(
        {rng.randint(at * total // PLACES_MAX + 1, (at + 1) * total // PLACES_MAX) for at in range(PLACES_MAX)}
    )


@pytest.mark.parametrize("subject", [SpoolOfTwoProcesses, FailingLedger], ids=["spool", "ledger"])
def test_a_wal_that_is_believed_as_it_reads_after_a_failed_sync_is_found(
    subject: type[Failing], vfs: DiskVfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ledger.core", "spool.schema"):
        monkeypatch.setattr(f"ledger_sync.{module}.make_sure_of_wal", lambda *_, **__: None)
    failing, rng = subject(vfs), random.Random(1)
    found = (
        shake(failing, Fault("sync", at, True), lambda platter: platter.draw(rng))[0]
        for at in range(1, failing.counts["sync"] + 1)
    )
    says = next(filter(None, found), "")
    print(says)
    assert says.startswith("cut at operation")


@pytest.mark.parametrize("is_persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "subject", [FailingSpool, SpoolOfTwoProcesses, FailingLedger], ids=["spool", "spool, new process", "ledger"]
)
def test_whatever_fails_is_refused_and_nothing_promised_is_missing(
    subject: type[Failing], kind: str, is_persistent: bool, vfs: DiskVfs, pytestconfig: pytest.Config
) -> None:
    seed = int(pytestconfig.option.hypothesis_seed)
    rng = random.Random(seed)
    failing = subject(vfs)
    total = failing.counts[kind]
    if not total:
        pytest.skip(f"none of {kind} on such a day")
    told = 0
    for at in places(total, rng):
        fault = Fault(kind, at, is_persistent)
        says, was_told = shake(failing, fault, lambda platter: platter.draw(rng))
        assert not says, f"{kind} {at} of {total}: {says}; replay: --hypothesis-seed={seed}"
        assert fault.fired
        told += was_told
    print(f"{kind}: {told} of {len(places(total, rng))} told, {total} on a day")
    assert told or kind in {"access", "delete"}
