"""The log: levels, shape, bounds, and that canaries of every kind of secret never come out of it."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from onecard_log import FACTS_MAX, LINES_PER_EVENT_AND_SECOND_MAX, TEXT_CHARACTERS_MAX, JsonLog, redacted_text

KEY = bytes.fromhex("c0ffee00112233445566778899aabbcc")
SECRET = "correct horse battery staple"
CARD = 4_123_456_789
UID = bytes.fromhex("04a1b2c3d4e5f6")
CANARIES = (KEY.hex(), KEY.hex().upper(), repr(KEY)[2:-1], SECRET, str(CARD), UID.hex(), str(list(KEY))[1:20])


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    "facts",
    [
        {"link_key": KEY},
        {"key": KEY.hex()},
        {"payload": KEY},
        {"payload": bytearray(KEY)},
        {"payload": memoryview(KEY)},
        {"text": f"key {KEY.hex()} is wrong"},
        {"text": f"got {KEY!r}"},
        {"error": repr(ValueError(KEY))},
        {"error": ValueError(KEY)},
        {"why": f"0x{KEY.hex().upper()}"},
        {"unlock": SECRET},
        {"unlock_secret": [SECRET]},
        {"password": SECRET},
        {"operator_pin": SECRET},
        {"card": CARD},
        {"card_number": str(CARD)},
        {"cards": [CARD, CARD + 1]},
        {"text": f"card {CARD} was refused"},
        {"text": f"card number={CARD}"},
        {"uid": UID.hex()},
        {"uid": UID},
        {"text": f"uid {UID.hex()}"},
        {"nested": {"seal": KEY.hex(), "card": CARD, "plain": [{"tag": KEY}]}},
        {"many": [KEY, {"key": KEY.hex()}]},
    ],
    ids=lambda facts: str(facts) if "memory at" not in str(facts) else "memoryview",
)
def test_a_canary_never_comes_out(facts: dict[str, object]) -> None:
    stream = io.StringIO()
    JsonLog(stream)("test.event", **facts)
    text = stream.getvalue()
    assert len(lines_of(stream)) == 1
    for canary in CANARIES:
        assert canary not in text


def test_a_canary_in_an_event_or_in_the_process_facts_never_comes_out() -> None:
    stream = io.StringIO()
    JsonLog(stream, facts={"token": SECRET, "process": "x"})(f"card {CARD} key {KEY.hex()}")
    assert not any(canary in stream.getvalue() for canary in CANARIES)


def test_what_people_need_stays_readable() -> None:
    stream = io.StringIO()
    log = JsonLog(stream, facts={"process": "frontend"})
    log("terminal.online", terminal=1001, epoch=1, address="127.0.0.1:40000", key_version=1, card=CARD)
    log("spool.missing", alarm=True, lost_spool=KEY.hex())
    first, second = lines_of(stream)
    assert list(first)[:3] == ["at", "level", "event"]
    assert first["at"].endswith("Z")
    assert {name: first[name] for name in first if name != "at"} == {
        "level": "info",
        "event": "terminal.online",
        "process": "frontend",
        "terminal": 1001,
        "epoch": 1,
        "address": "127.0.0.1:40000",
        "key_version": 1,
        "card": "…6789",
    }
    assert (second["level"], second["alarm"], second["lost_spool"]) == ("warning", True, KEY.hex())


def test_levels_follow_the_alarm() -> None:
    stream = io.StringIO()
    log = JsonLog(stream)
    log("a", alarm=False)
    log("b", alarm=True)
    log("alarm", kind="fork")
    log("callback_failed", error="x")
    found = lines_of(stream)
    assert [one["level"] for one in found] == ["info", "warning", "warning", "error"]
    assert "alarm" not in found[0]


def test_a_fact_cannot_take_the_place_of_time_level_or_event() -> None:
    stream = io.StringIO()
    facts: dict[str, object] = {"level": "x", "at": "y"}
    JsonLog(stream)("a", **facts)
    (line,) = lines_of(stream)
    assert (line["level"], line["level_"], line["at_"]) == ("info", "x", "y")


def test_lines_are_bounded_in_facts_and_length() -> None:
    stream = io.StringIO()
    facts: dict[str, object] = {f"fact{number}": "x" * 100_000 for number in range(1000)}
    JsonLog(stream)("a" * 100_000, **facts)
    (line,) = lines_of(stream)
    assert len(line) == FACTS_MAX + 3
    assert len(stream.getvalue()) < (FACTS_MAX + 2) * (TEXT_CHARACTERS_MAX + 40)
    assert len(redacted_text("y" * 10**6)) == TEXT_CHARACTERS_MAX


def test_a_flood_of_one_event_is_cut_and_told_and_hides_no_other() -> None:
    stream, now = io.StringIO(), [0.0]
    log = JsonLog(stream, monotonic=lambda: now[0])
    for _ in range(1000):
        log("terminal.refused")
    log("other")
    now[0] = 1.0
    log("terminal.refused")
    found = lines_of(stream)
    assert sum(one["event"] == "terminal.refused" for one in found) == LINES_PER_EVENT_AND_SECOND_MAX + 1
    assert any(one["event"] == "other" for one in found)
    (told,) = [one for one in found if one["event"] == "log.left_out"]
    assert (told["of"], told["lines"]) == ("terminal.refused", 1000 - LINES_PER_EVENT_AND_SECOND_MAX)


def test_a_log_file_is_put_aside_when_it_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "frontend.log"
    log = JsonLog(path, file_bytes_max=2_000)
    for number in range(60):
        log(f"event.{number}")
    log.close()
    assert sorted(one.name for one in path.parent.iterdir()) == ["frontend.log", "frontend.log.1"]
    assert all(one.stat().st_size <= 2_000 for one in path.parent.iterdir())
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "event.59"


def test_a_log_that_cannot_be_written_stops_nobody_and_says_so_later() -> None:
    class Full(io.StringIO):
        is_full = True

        def write(self, text: str) -> int:
            if self.is_full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    log = JsonLog(stream)
    log("a")
    log("b")
    stream.is_full = False
    log("c")
    (line,) = lines_of(stream)
    assert (line["event"], line["lines_lost"]) == ("c", 2)


def test_lines_of_two_threads_are_never_mixed() -> None:
    stream = io.StringIO()
    log = JsonLog(stream, monotonic=lambda: 0.0)

    def work(name: str) -> None:
        for number in range(90):
            log(f"{name}.event", number=number, text="x" * 200)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines_of(stream)) == 4 * 90
