"""The harness can fail: every planted bug is caught, and said in the right words; without it the same play passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.planted import PLANTS, SELLING_MS, Plant
from tests.simulation.runner import run_seed


@pytest.mark.parametrize("planted", PLANTS, ids=lambda planted: planted.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(planted: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.plant(monkeypatch)
    with pytest.raises(AssertionError) as caught:
        planted.play(tmp_path)
    print(f"{planted.name}: {caught.value}")
    assert planted.says in str(caught.value)


def test_the_same_seed_without_a_bug_passes() -> None:
    run_seed(1, selling_ms=SELLING_MS)
