"""A site with keys, terminals, cards and open books; made once, copied for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import copy_of, onecard_here

TERMINALS = 3
CARDS = 4
FIRST_CARD = 1_000_001


@pytest.fixture(scope="session")
def made_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "site"
    for arguments in (
        ("keys", "init", "--site-id", 42),
        ("keys", "enrol", "-n", TERMINALS, "--merchants", 2),
        ("keys", "cards", "-n", CARDS, "--opening", "50.00"),
        ("ledger", "init", "--operator", "tests"),
    ):
        done = onecard_here(*arguments, "--site", path)
        assert done.code == 0, done.err
    return path


@pytest.fixture
def site(made_site: Path, tmp_path: Path) -> Path:
    return copy_of(made_site, tmp_path / "s")
