"""Sessions over a noisy line: whatever the noise, each message once and in order; when it ends, everything arrives."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from protocol.aead import Opener
from protocol.errors import CounterError
from protocol.frame import Frame
from tests.simulation.invariants import Violation
from tests.simulation.line import Line

SEEDS: Final = range(300)
EXPECTED: Final = {
    "bit_noise", "drop", "forgery", "garbage", "late", "replay", "session_given_up", "twice",
}  # fmt: skip


def test_messages_of_three_hundred_noisy_lines_arrive_once_and_in_order() -> None:
    fired: Counter[str] = Counter()
    for seed in SEEDS:
        try:
            fired.update(Line(seed).run())
        except Violation as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    print(dict(sorted(fired.items())))
    assert {kind for kind in EXPECTED if not fired[kind]} == set()


def test_a_seed_run_twice_is_the_same_line() -> None:
    first, second = Line(11), Line(11)
    assert first.run() == second.run()
    assert first.now_ms == second.now_ms


def test_a_session_that_takes_any_counter_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    opens = Opener.open

    def takes(opener: Opener, frame: Frame) -> bytes:
        try:
            return opens(opener, frame)
        except CounterError:
            opener.counter = frame.counter
            return opens(opener, frame)

    monkeypatch.setattr(Opener, "open", takes)
    said = []
    for seed in SEEDS:
        try:
            Line(seed).run()
        except Violation as error:
            said.append(str(error))
    assert any("not what was sent" in each for each in said)
