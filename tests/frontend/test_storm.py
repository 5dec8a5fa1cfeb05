"""Many at one moment: the gate's appointments, and ten thousand terminals after a power failure (docs/overload.md)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from frontend_server.gate import Gate
from frontend_server.metrics import Metrics
from frontend_server.refusals import LOGGED_MAX, LOGGED_WINDOW_MS
from frontend_server.settings import FrontendSettings, SettingsError
from tests.frontend.site import Site

SEED: Final = 20_261_128


# -- the gate's appointments


def gate_of(**settings: Any) -> tuple[Gate, FrontendSettings]:
    made = FrontendSettings(
        frontend=1, site=1, listen_address="10.0.0.1:1", control_address="", cache_dir="", **settings
    )
    made.check()
    return Gate(made, Metrics()), made


def test_appointments_lie_in_a_row_from_the_least_to_the_most() -> None:
    gate, settings = gate_of(handshakes_max=10, log_ins_per_second=100)
    while gate.enter("10.0.0.9"):
        pass
    told = [gate.retry_after_s("10.0.0.9", 1_000) for _ in range(5_000)]
    assert told == sorted(told)
    assert told[0] == settings.busy_retry_after_s
    assert told[-1] == settings.busy_retry_after_s_max
    # A hundred are sent to each second, and who comes later than the last place is told the most.
    assert [told.count(second) for second in range(4, 30)] == [100] * 26
    # The row moves with the time.
    assert gate.retry_after_s("10.0.0.9", 1_000 + 28_000) == settings.busy_retry_after_s


def test_an_address_above_its_own_cap_moves_nobody_else_s_appointment() -> None:
    gate, settings = gate_of(handshakes_per_address_max=2)
    for _ in range(2):
        assert gate.enter("10.0.0.66")
    assert {gate.retry_after_s("10.0.0.66", 0) for _ in range(10_000)} == {settings.busy_retry_after_s}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("log_ins_per_second", 0), ("busy_retry_after_s", 0), ("busy_retry_after_s_max", 2)),
        *(("intake_frames_max", 3), ("intake_frames_max", 16_001)),
    ],
)
def test_a_setting_of_overload_that_cannot_work_is_refused(name: str, value: int) -> None:
    with pytest.raises(SettingsError, match=name):
        gate_of(**{name: value})


def test_a_storm_of_refusals_fills_no_log_and_every_one_is_counted(site: Site) -> None:
    stranger = site.terminal(4_711)
    for _ in range(LOGGED_MAX + 20):
        stranger.connect()
        site.run(60)
    assert site.server.parts.metrics.log_ins_refused == LOGGED_MAX + 20
    assert len(site.logged("terminal.refused")) == LOGGED_MAX
    site.run(LOGGED_WINDOW_MS)
    stranger.connect()
    site.run(60)
    lines = site.logged("terminal.refused")
    assert len(lines) == LOGGED_MAX + 1
    assert (lines[-1]["terminal"], lines[-1]["not_logged"]) == (4_711, 20)
    assert "not_logged" not in lines[0]


# -- ten thousand at once

TERMINALS: Final = 10_000
LOST_MS: Final = 500  # a connection that ended without a word: the first step of a terminal's back-off


class Storm:
    """Terminals that lost their power and come back at one moment, all from behind one router."""

    def __init__(self, site: Site, drawn: random.Random) -> None:
        self.site = site
        self.drawn = drawn
        self.online_ms: list[int] = []
        self.tries = [0] * TERMINALS
        self.terminals = [site.terminal(101 + index, host="one-router") for index in range(TERMINALS)]
        for index, terminal in enumerate(self.terminals):
            terminal.says_hello_after_log_in = False
            self.come(index)

    def come(self, index: int) -> None:
        self.tries[index] += 1
        self.terminals[index].connect()

    def look(self, waiting: list[int]) -> list[int]:
        """Who of them is not online yet; who was turned away comes back as a terminal does."""
        left: list[int] = []
        for index in waiting:
            terminal = self.terminals[index]
            if terminal.is_established:
                self.online_ms.append(self.site.world.time_ms)
                continue
            left.append(index)
            if terminal.is_closed:
                terminal.is_closed = False
                delay_ms = terminal.refused.retry_after_s * 1000 if terminal.refused is not None else LOST_MS
                delay_ms += self.drawn.randrange(delay_ms // 2)
                self.site.world.after(delay_ms, lambda index=index: self.come(index))  # type: ignore[misc]  # bound now
        return left


def test_ten_thousand_terminals_that_come_back_at_one_moment_are_all_let_in_and_none_waits_long(
    make_site: Callable[..., Site],
) -> None:
    print("seed", SEED)
    site = make_site(enrolled=TERMINALS)
    site.world.chunked = False
    metrics = site.server.parts.metrics
    storm = Storm(site, random.Random(SEED))
    waiting = list(range(TERMINALS))
    most_handshakes = 0
    while waiting and site.world.time_ms < 60_000:
        site.run(10)
        most_handshakes = max(most_handshakes, metrics.handshakes_now)
        waiting = storm.look(waiting)
    assert not waiting
    assert site.server.parts.sessions.online == TERMINALS
    assert 0 < most_handshakes <= site.settings.handshakes_max
    assert metrics.connections_refused_busy > TERMINALS // 2
    assert max(storm.tries) <= 4  # nobody is turned away again and again
    # 8,000 appointments at 800 a second from the third second on, and a random half of that.
    assert max(storm.online_ms) <= 1.5 * (3 + 8_000 / 800) * 1000 + 1_000
    in_a_second = [sum(second <= at_ms // 1000 < second + 1 for at_ms in storm.online_ms) for second in range(3, 40)]
    assert max(in_a_second) <= 2 * site.settings.log_ins_per_second
