"""`onecard doctor --link`: a badly set broker is told by trying it, and one set as `deploy/` has it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onecard_bus import client_of, connected
from protocol.ports import BusAccess, BusOpening
from tests.cli.commands import onecard_here, onecard_process, serving, wait_until
from tests.link.brokers import KINDS, RealBroker, missing, program_of

SITE = 42  # of tests/cli/conftest.py


def lead_over(site: Path, address: str) -> None:
    path = site / "site.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('"run/ledger-link.sock"', f'"{address}"'), "utf-8")


def findings(site: Path) -> list[tuple[str, str]]:
    done = onecard_process("doctor", "--link", "--json", "--site", site)
    assert done.err == ""
    return [(one["level"], one["says"]) for one in done.json["findings"] if one["check"] in ("broker", "link")]


def level_of(found: list[tuple[str, str]], words: str) -> str:
    matching = [level for level, says in found if words in says]
    assert len(matching) == 1, (words, found)
    return matching[0]


@pytest.fixture(params=KINDS)
def good(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealBroker]:
    """With the shipped configuration, less TLS and users."""
    if program_of(request.param) is None:
        pytest.skip(missing(request.param))
    made = RealBroker(request.param, tmp_path / "broker").start()
    yield made
    made.kill()


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[RealBroker]:
    """Mosquitto as it comes: a thousand messages a client, and no more; one with a small limit besides."""
    if program_of("mosquitto") is None:
        pytest.skip(missing("mosquitto"))
    made = RealBroker("mosquitto", tmp_path / "broker")
    text = made.configuration.read_text()
    for line in ("max_queued_messages 0", "max_queued_bytes 0", "max_inflight_messages 200"):
        assert line in text
        text = text.replace(line, "")
    text = text.replace("message_size_limit 2097664", "message_size_limit 1000000")
    made.configuration.write_text(text + "retain_available false\n")
    made.start()
    yield made
    made.kill()


def test_a_broker_set_as_shipped_is_found_good(site: Path, good: RealBroker) -> None:
    lead_over(site, good.address)
    found = findings(site)
    for words in ("lets front-end 1 in", "all arrived", "is there for a later", "bytes) passes", "comes back in"):
        assert level_of(found, words) == "ok"
    assert level_of(found, "they can disturb each other") == "warning"  # nobody has a user here
    assert level_of(found, "the front-end does not run") == "warning"


def test_a_broker_that_drops_or_refuses_is_found_bad_with_how_to_mend_it(site: Path, bad: RealBroker) -> None:
    lead_over(site, bad.address)
    done = onecard_process("doctor", "--link", "--json", "--site", site)
    assert done.code == 1
    told = {one["says"]: one for one in done.json["findings"] if one["check"] == "broker"}
    (drops,) = (one for says, one in told.items() if "it drops what a slow reader" in says)
    assert drops["level"] == "bad"
    assert "max_queued_messages 0" in drops["mend"]
    (longest,) = (one for says, one in told.items() if "does not pass" in says)
    assert longest["level"] == "bad"
    assert "message_size_limit" in longest["mend"]
    (retained,) = (one for says, one in told.items() if "retain" in says)
    assert retained["level"] in ("warning", "bad")


def test_a_broker_that_is_not_there_is_one_finding(site: Path) -> None:
    lead_over(site, "mqtt://127.0.0.1:1")
    found = findings(site)
    assert [level for level, says in found if "reach" in says] == ["bad"]
    assert len(found) == 3


def test_the_way_to_the_ledger_and_back_is_measured_through_the_running_front_end(site: Path, good: RealBroker) -> None:
    lead_over(site, good.address)
    with serving("ledger", "serve", "--site", site) as books, serving("serve", "--config", site) as server:
        wait_until(lambda: link_of(site)["state"] == "up")
        assert level_of(findings(site), "a question to the ledger is answered") in ("ok", "warning")
        told = onecard_here("ledger", "links", "--json", "--site", site).json
        assert [(one["frontend"], one["state"]) for one in told["links"]] == [(1, "up")]
        assert told["broker"]["present"]["1"]["state"] == "online"
        assert told["requests"] == {"answered": 1, "expired": 0}
        assert link_of(site)["broker"]["ledger"]["state"] == "online"
        assert server.stop() == 0
        wait_until(lambda: present_of(site)["1"]["state"] == "offline")
        assert '"online"' in asyncio.run(retained(good, f"onecard/{SITE}/ledger/state"))
        assert books.stop() == 0
        assert '"offline"' in asyncio.run(retained(good, f"onecard/{SITE}/ledger/state"))


async def retained(broker: RealBroker, topic: str) -> str:
    """What a newcomer is told first."""
    async with connected(client_of(broker.address, BusAccess(), BusOpening("newcomer", "", b"", ()))) as client:
        await client.subscribe(topic, 1)
        async with asyncio.timeout(20):
            message = await anext(aiter(client.messages))
    assert message.retain
    assert isinstance(message.payload, bytes)
    return message.payload.decode()


def link_of(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = onecard_here("status", "--json", "--site", site).json["link"]
    return found


def present_of(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = onecard_here("ledger", "links", "--json", "--site", site).json["broker"]["present"]
    return found


def test_a_site_file_with_a_password_in_the_address_is_refused_in_words(site: Path) -> None:
    lead_over(site, "mqtt://1:secret@127.0.0.1:1883")
    done = onecard_here("ledger", "links", "--site", site)
    assert done.code == 2
    assert "broker_password" in done.err
