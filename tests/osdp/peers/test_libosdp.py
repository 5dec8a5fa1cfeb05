"""libosdp, which nobody here wrote, at either end: its readers under our panel, its panel over our reader."""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from protocol.osdp import commands
from protocol.osdp.commands import LedRecord, LedState, OutputRecord
from protocol.osdp.panel import ControlPanel
from protocol.osdp.panel_events import (
    CommandDone,
    CommandFailed,
    CommunicationSet,
    KeyProved,
    PanelEvent,
    ReaderConfig,
    ReaderEvent,
    ReaderOnline,
)
from protocol.osdp.replies import CardRead
from terminal_sim.osdp_reader import OsdpReader
from tests.osdp.peers.child import Peer, now_ms, peer
from tests.osdp.peers.environment import peer_python

BAUD = 115200
PEER_REPLY_MS = 150  # its readers are run by Python, beside other tests
READERS = 8
FILE = random.Random(3).randbytes(65_536)


class Panel:
    """Our panel with its events; what readers tell is confirmed at once."""

    def __init__(self, far: Peer) -> None:
        self.core = ControlPanel(secrets.token_bytes, baud=BAUD)
        self.far = far
        self.events: list[PanelEvent] = []

    def add(self, address: int, *, key: bytes | None, **more: Any) -> None:
        config = ReaderConfig(f"r{address}", address, BAUD, base_key=key, reply_ms_max=PEER_REPLY_MS, **more)
        self.core.add(config, now_ms())

    def of(self, kind: type[PanelEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def run(self, until: Callable[[], bool], seconds: float = 30) -> bool:
        return self.far.run(self.core, self._receive, self._tick, until, seconds)

    def _receive(self, data: bytes, at_ms: int) -> None:
        self._take(self.core.receive(data, at_ms))

    def _tick(self, at_ms: int) -> None:
        self._take(self.core.tick(at_ms))

    def _take(self, events: list[PanelEvent]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, ReaderEvent):
                self.core.confirm(event.reader, event.number, now_ms())

    def cards(self) -> list[tuple[str, str]]:
        reads = [event for event in self.of(ReaderEvent) if isinstance(event.reply, CardRead)]
        return [(event.reader, event.reply.card.hex()) for event in reads]


def key_of(address: int) -> bytes:
    return hashlib.sha256(bytes((address,))).digest()[:16]


@contextmanager
def their_readers(*, secure: bool, install: bool = False, count: int = READERS) -> Iterator[Panel]:
    keys = [key_of(address).hex() if secure and not install else "" for address in range(count)]
    wanted = {
        "readers": [{"address": at, "key": key, "install": install} for at, key in enumerate(keys)],
        "file_bytes": len(FILE),
    }
    with peer(peer_python("libosdp"), "libosdp_readers.py", wanted) as far:
        yield Panel(far)


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "in clear"])
def test_eight_of_their_readers_and_a_mute_one_work_under_our_panel(secure: bool) -> None:
    with their_readers(secure=secure) as panel:
        for address in range(READERS + 1):
            panel.add(address, key=key_of(address) if secure else None, in_clear=not secure)
        assert panel.run(lambda: len(panel.of(ReaderOnline)) == READERS)
        assert all(event.secure is secure for event in panel.of(ReaderOnline))
        expected = [(f"r{number % READERS}", f"{0xA000_0000 + number:08x}") for number in range(3 * READERS)]
        for reader, card in expected:
            panel.far.say(f"{reader[1:]} {card}")
        assert panel.run(lambda: len(panel.cards()) == len(expected))
        assert sorted(panel.cards()) == sorted(expected)
        sent = [
            commands.Output((OutputRecord(0, 5, 30),)),
            commands.Led((LedRecord(0, 0, permanent=LedState(1, 1, 0, 2, 0)),)),
            commands.Buzzer(0, 2, 1, 1, 1),
            commands.Text(0, 1, 0, 1, 1, b"WELCOME"),
        ]
        tickets = {panel.core.submit(f"r{address}", command) for address in range(READERS) for command in sent}
        assert panel.run(lambda: len(panel.of(CommandDone)) + len(panel.of(CommandFailed)) == len(tickets))
        assert {event.ticket for event in panel.of(CommandDone)} == tickets
        assert len(panel.far.facts("command")) == len(tickets)
        refused = panel.core.submit("r0", commands.ReaderStatusRequest())
        done = panel.core.submit("r0", commands.Buzzer(0, 2, 1, 1, 1))
        assert panel.run(lambda: any(event.ticket == done for event in panel.of(CommandDone)))
        assert refused in {event.ticket for event in (*panel.of(CommandFailed), *panel.of(CommandDone))}
        assert len(panel.of(ReaderOnline)) == READERS, "nobody's session was lost"


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "in clear"])
def test_a_file_of_64_kib_and_new_settings_reach_their_reader(secure: bool) -> None:
    with their_readers(secure=secure, count=2) as panel:
        for address in range(2):
            panel.add(address, key=key_of(address) if secure else None, in_clear=not secure)
        assert panel.run(lambda: len(panel.of(ReaderOnline)) == 2)
        ticket = panel.core.send_file("r0", 13, FILE, now_ms())
        assert panel.run(lambda: bool(panel.of(CommandDone) or panel.of(CommandFailed)))
        assert [event.ticket for event in panel.of(CommandDone)] == [ticket]
        assert panel.run(lambda: bool(panel.far.facts("digest")))
        assert panel.far.facts("digest") == [hashlib.sha256(FILE).hexdigest()]
        panel.core.submit("r1", commands.SetCommunication(9, BAUD))
        assert panel.run(lambda: bool(panel.of(CommunicationSet)))
        assert panel.of(CommunicationSet) == [CommunicationSet("r1", 9, BAUD, rolled_back=False)]


def test_their_reader_gets_its_first_key_from_our_panel() -> None:
    with their_readers(secure=True, install=True, count=1) as panel:
        panel.add(0, key=None, next_key=key_of(77), install_until_ms=now_ms() + 60_000)
        assert panel.run(lambda: bool(panel.of(KeyProved)))
        assert [event.by_default_key for event in panel.of(ReaderOnline)] == [True, False]
        panel.far.say("0 0badcafe")
        assert panel.run(lambda: panel.cards() == [("r0", "0badcafe")])


def drive(far: Peer, reader: OsdpReader, until: Callable[[], bool], seconds: float = 30) -> bool:
    return far.run(reader.line, reader.line.receive, reader.line.tick, until, seconds)


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "in clear"])
def test_their_panel_works_over_our_reader(secure: bool) -> None:
    key = key_of(5) if secure else None
    reader = OsdpReader(5, secrets.token_bytes, base_key=key)
    wanted = {"address": 5, "key": key.hex() if key else "", "secure": secure}
    with peer(peer_python("libosdp"), "libosdp_panel.py", wanted) as far:
        assert drive(far, reader, lambda: {"online": True, "secure": secure} in far.told)
        for number in range(10):
            reader.tap(format(0xC0FFEE00 + number, "032b"))
        reader.press("42")
        assert drive(far, reader, lambda: len(far.facts("event")) >= 11)
        cards = [event["data"] for event in far.facts("event") if "length" in event]
        assert cards == [f"{0xC0FFEE00 + number:08x}" for number in range(10)]
        far.say('{"command": "Output", "output_no": 1, "control_code": 2, "timer_count": 0}')
        text = {"command": "Text", "reader": 0, "control_code": 1, "temp_time": 0, "offset_row": 1, "offset_col": 1}
        far.say(json.dumps({**text, "data": "HELLO"}))
        assert drive(far, reader, lambda: reader.text == b"HELLO")
        assert reader.outputs[1] == 1
        far.say('{"command": "FileTransfer", "id": 13, "flags": 0, "file": "' + FILE.hex() + '"}')
        assert drive(far, reader, lambda: 13 in reader.files)
        assert reader.files[13] == FILE
        far.say('{"command": "Comset", "address": 6, "baud_rate": 115200}')
        assert drive(far, reader, lambda: reader.line.setup.address == 6)
        mark = len(far.facts("event"))
        assert drive(far, reader, lambda: reader.line.online)
        reader.tap("1" * 26)
        assert drive(far, reader, lambda: len(far.facts("event")) > mark)


def test_their_panel_gives_our_reader_its_first_key() -> None:
    """It tries the default key after its own has failed, and sends its own by itself."""
    reader = OsdpReader(5, secrets.token_bytes, install_until_ms=now_ms() + 60_000)
    wanted = {"address": 5, "key": key_of(6).hex(), "secure": False}
    with peer(peer_python("libosdp"), "libosdp_panel.py", wanted) as far:
        assert drive(far, reader, lambda: reader.stored_key == key_of(6))
        reader.tap("1" * 26)
        assert drive(far, reader, lambda: reader.line.secure and bool(far.facts("event")))
        far.say(json.dumps({"command": "Keyset", "type": 1, "key": key_of(8).hex()}))
        assert drive(far, reader, lambda: reader.stored_key == key_of(8))
        reader.tap("0" * 25 + "1")
        assert drive(far, reader, lambda: reader.line.secure and len(far.facts("event")) == 2)
