"""Re-collection (补采, R9) on a whole site: a spool is lost with records no ledger has and terminals still hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.recollection import ASK_AGAIN_MS_MAX, GAP_AGE_MS, LOOK_MS
from ledger_sync.ledger.report import report
from ledger_sync.ledger.wires import FrontEndWire
from protocol.codes import LinkType
from protocol.link_messages import LinkDecoder, RecollectRequest, decode_down
from tests.simulation.eyes import SpoolEye
from tests.simulation.plays import CENTS, sell, started
from tests.simulation.runner import drain
from tests.simulation.site import Site

ASKED_WITHIN_MS = GAP_AGE_MS + 2 * LOOK_MS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with started(tmp_path) as made:
        yield made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RecollectRequest]:
    """Every request for re-collection that the ledger sends."""
    requests: list[RecollectRequest] = []
    send = FrontEndWire.send

    def sends(wire: FrontEndWire, message: bytes) -> None:
        if message[5] == LinkType.RECOLLECT_REQUEST:
            decoder = LinkDecoder()
            decoder.receive_data(message)
            for payload in decoder.payloads():
                request = decode_down(payload)
                assert isinstance(request, RecollectRequest)
                requests.append(request)
        send(wire, message)

    monkeypatch.setattr(FrontEndWire, "send", sends)
    return requests


def told(site: Site) -> dict[str, Any]:
    ledger = site.invariants.ledger
    assert ledger is not None
    return report(ledger.connection, now_ms=site.ledger.host.now_ms())


def lose_spool(site: Site) -> None:
    """The front-end's volume is replaced by an empty one; only the id file tells that there was a spool."""
    site.crash_frontend()
    site.invariants.spool_eyes[0].close()
    for suffix in ("", "-wal", "-shm"):
        Path(site.frontend.spool_path + suffix).unlink(missing_ok=True)
    site.start_frontend()
    site.invariants.spool_eyes[0] = SpoolEye(site.frontend.spool_path)


def sell_and_lose(site: Site) -> int:
    """Sales that terminals know to be acknowledged, and that died with the spool before the ledger was back."""
    sold = sell(site, 20)
    drain(site)
    site.crash_ledger()
    sold += sell(site, 40)
    lose_spool(site)
    site.start_ledger()
    site.run(5_000)
    assert site.logged["spool.missing"] == 1
    return sold


def test_a_gap_left_by_a_lost_spool_is_filled_from_the_terminals_by_itself(
    site: Site, asked: list[RecollectRequest]
) -> None:
    sold = sell_and_lose(site)
    before = told(site)
    assert (before["records"]["count"], before["open_items"]["gap"]["sequences"]) == (20, 40)
    site.run(GAP_AGE_MS - 10_000)
    assert asked == []  # what is under way comes by itself
    site.run(ASKED_WITHIN_MS)
    drain(site)
    after = told(site)
    assert sorted(one.terminal for one in asked) == sorted(till.number for till in site.tills)
    assert after["open_items"]["gap"]["items"] == 0
    assert (after["records"]["count"], after["records"]["amount_cents"]) == (sold, sold * CENTS)
    assert (after["double_posted"], after["counts"]["duplicates"]) == (0, 0)
    assert after["conservation"]["difference_cents"] == 0
    count = len(asked)
    sell(site, 8)
    site.run(10 * ASKED_WITHIN_MS)
    assert len(asked) == count


def test_a_gap_of_a_terminal_that_is_away_stays_named_and_is_asked_for_ever_more_rarely(
    site: Site, asked: list[RecollectRequest]
) -> None:
    sold = sell_and_lose(site)
    away = site.tills[0]
    site.power_cut(away)
    site.run(ASKED_WITHIN_MS)
    (item,) = told(site)["open_items"]["gap"]["listed"]
    assert (item["terminal"], item["first"], item["last"]) == (away.number, 6, 15)
    site.run(2 * ASK_AGAIN_MS_MAX)
    requests = [one for one in asked if one.terminal == away.number]
    assert 5 <= len(requests) <= 9
    assert requests == [RecollectRequest(away.number, 1, 6, 15)] * len(requests)
    assert told(site)["open_items"]["gap"]["sequences"] == 10
    site.reboot(away)
    site.run(ASK_AGAIN_MS_MAX + ASKED_WITHIN_MS)
    drain(site)
    found = told(site)
    assert found["open_items"]["gap"]["items"] == 0
    assert (found["records"]["count"], found["double_posted"], found["counts"]["duplicates"]) == (sold, 0, 0)
