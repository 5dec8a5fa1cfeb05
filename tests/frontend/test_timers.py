"""The timer wheel: one call of the clock for all deadlines."""

from __future__ import annotations

import random

import pytest

from frontend_server.keys import FrontendKeys, WeakKey, is_weak
from frontend_server.settings import FrontendSettings, SettingsError
from frontend_server.timers import TICK_MS, TimerWheel
from protocol.errors import DamagedData
from protocol.keystore import Keystore
from tests.simulation.world import Host, World


def wheel_of(seed: int = 1) -> tuple[World, TimerWheel]:
    world = World(seed)
    return world, TimerWheel(Host(world, "wheel"))


def test_a_deadline_runs_at_its_moment_or_up_to_a_tick_later() -> None:
    seed = 20
    print(f"seed={seed}")
    source = random.Random(seed)
    world, wheel = wheel_of(seed)
    late: list[int] = []
    for _ in range(500):
        due = world.time_ms + (delay := source.randint(0, 20_000))
        wheel.after(delay, lambda due=due: late.append(world.time_ms - due))  # type: ignore[misc]  # bound now
        world.run_until(world.time_ms + source.randint(0, 50))
    world.run_until(world.time_ms + 30_000)
    assert len(late) == 500
    assert min(late) >= 0
    assert max(late) <= TICK_MS
    assert len(wheel) == 0
    assert not world.step()


def test_a_deadline_that_is_moved_runs_at_the_last_moment_only() -> None:
    world, wheel = wheel_of()
    ran: list[int] = []
    deadline = wheel.after(1_000, lambda: ran.append(world.time_ms))
    for at in range(100, 3_000, 100):
        world.run_until(at)
        deadline.due_ms = at + 1_000
    world.run_until(10_000)
    assert ran == [3_900]
    sooner = wheel.after(5_000, lambda: ran.append(world.time_ms))
    wheel.sooner(sooner, world.time_ms + 500)
    world.run_until(20_000)
    assert ran == [3_900, 10_500]


def test_a_cancelled_deadline_and_a_closed_wheel_run_nothing() -> None:
    world, wheel = wheel_of()
    ran: list[int] = []
    wheel.after(500, lambda: ran.append(1)).cancel()
    wheel.after(900, lambda: ran.append(2))
    world.run_until(600)
    wheel.close()
    world.run_until(2_000)
    assert ran == []
    assert not world.step()


def test_a_deadline_may_ask_for_others_while_it_runs() -> None:
    world, wheel = wheel_of()
    ran: list[int] = []

    def again() -> None:
        ran.append(world.time_ms)
        if len(ran) < 5:
            wheel.after(100, again)

    wheel.after(0, again)
    world.run_until(5_000)
    assert ran == [0, 100, 200, 300, 400]


@pytest.mark.parametrize(
    "key", [bytes(16), b"\xff" * 16, bytes(range(16)), bytes(range(0x40, 0x50)), bytes(reversed(range(16)))]
)
def test_a_key_that_anybody_would_try_is_weak_and_refused_in_production(key: bytes) -> None:
    assert is_weak(key)
    good = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    assert not is_weak(good)
    for names in ({"link_master.1": key, "batch_key": good}, {"link_master.1": good, "batch_key": key}):
        keystore = Keystore("frontend", 9, names)
        with pytest.raises(WeakKey) as raised:
            FrontendKeys.of(keystore, site=9)
        assert key.hex() not in str(raised.value)
        FrontendKeys.of(keystore, site=9, is_production=False)


def test_a_keystore_of_another_kind_or_site_or_without_keys_is_refused() -> None:
    good = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    for keystore in (
        Keystore("ledger", 9, {"link_master.1": good, "batch_key": good}),
        Keystore("frontend", 8, {"link_master.1": good, "batch_key": good}),
        Keystore("frontend", 9, {"batch_key": good}),
        Keystore("frontend", 9, {"link_master.1": good}),
        Keystore("frontend", 9, {"link_master.1": good[:8], "batch_key": good}),
    ):
        with pytest.raises(DamagedData):
            FrontendKeys.of(keystore, site=9)


def test_keys_never_show() -> None:
    good = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    keys = FrontendKeys({1: good, 3: good}, good)
    assert repr(keys) == "FrontendKeys(link master versions [1, 3])"
    assert keys.link_master(2) != good
    assert len(keys.link_master(2)) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"frontend": 0},
        {"site": 0},
        {"credit_usual": 17},
        {"connections_max": 0},
        {"idle_ms": 10},
        {"control_address": "x"},
    ],
)
def test_settings_that_can_not_work_are_named(change: dict[str, object]) -> None:
    usual: dict[str, object] = {
        "frontend": 1,
        "site": 1,
        "listen_address": "127.0.0.1:0",
        "control_address": "",
        "cache_dir": "/x",
    }
    FrontendSettings(**usual).check()  # type: ignore[arg-type]  # values of a table
    with pytest.raises(SettingsError, match=next(iter(change)).split("_", maxsplit=1)[0]):
        FrontendSettings(**{**usual, **change}).check()  # type: ignore[arg-type]  # values of a table
