"""A control panel's side of the line: whose turn it is, how long an answer is waited for, and what came of it.

One exchange at a time. Readers take turns; every other turn goes first to a reader for which a command waits. A reader
that does not answer is repeated to in the next round, so a neighbour waits for one silence at most; readers without a
session are probed rarely, and all of them together at most every DEAD_SPACING_MS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.errors import OutOfRange, StateMisuse
from protocol.osdp.commands import Command, KeySet, SetCommunication
from protocol.osdp.limits import (
    BAUDS,
    BROADCAST,
    CHARACTER_GAP_MS,
    COMMANDS_MAX,
    DEAD_SPACING_MS,
    READERS_MAX,
    REPLY_MS_MAX,
)
from protocol.osdp.packet import MARK, Packet, PacketDecoder
from protocol.osdp.panel_events import PanelEvent, Queued, ReaderConfig
from protocol.osdp.reader_link import ReaderLink

BITS_PER_BYTE: Final = 10  # 8N1
GAP_BYTES: Final = 2
"""Idle time before a packet, in characters; from 57600 baud on the mark byte and the software itself take longer."""


class ControlPanel:
    """The master of one line; `receive`, `take_output`, `next_deadline_ms` and `tick` are all that the line needs.

    Before output is sent, the line is set to `line_baud`. Events come out of `receive` and `tick`.
    """

    def __init__(self, random_bytes: Callable[[int], bytes], *, baud: int = 9600) -> None:
        self.line_baud = baud
        self.foreign_packets = 0
        """Packets that were no reply of the reader that was asked: echoes of our own, and others' replies."""
        self._random_bytes = random_bytes
        self._decoder = PacketDecoder()
        self._output: list[bytes] = []
        self._links: dict[str, ReaderLink] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._ticket = 0
        self._asked: ReaderLink | None = None
        self._asked_until_ms = 0
        self._asked_latest_ms = 0
        self._byte_ms = 0
        self._quiet_until_ms = 0
        self._probe_from_ms = 0

    # -- readers and what is wanted of them ------------------------------------------------------------------

    def add(self, config: ReaderConfig, now_ms: int) -> None:
        """Take a reader onto the bus, while it runs.

        Raises:
            OutOfRange: its name or address is taken, or the speed is none of the standard's.
        """
        taken = config.name in self._links or any(
            link.config.address == config.address for link in self._links.values()
        )
        if taken or config.baud not in BAUDS or len(self._links) >= READERS_MAX:
            raise OutOfRange(f"reader {config.name} at {config.address}, {config.baud} baud")
        self._links[config.name] = ReaderLink(config, self._random_bytes, now_ms)
        self._turns[config.name] = 0

    def remove(self, name: str, now_ms: int) -> list[PanelEvent]:
        """Forget a reader; what was queued for it fails."""
        events = self.disable(name, now_ms)
        del self._links[name], self._turns[name]
        return events

    def disable(self, name: str, now_ms: int) -> list[PanelEvent]:
        """Leave a reader alone until `enable`."""
        events: list[PanelEvent] = []
        link = self._links[name]
        link.disable(now_ms, events)
        if self._asked is link:
            self._asked = None
        return events

    def enable(self, name: str, now_ms: int) -> None:
        self._links[name].enable(now_ms)

    def link(self, name: str) -> ReaderLink:
        """State and counters of a reader, to look at."""
        return self._links[name]

    def submit(self, name: str, command: Command, *, expires_ms: int | None = None) -> int:
        """Queue a command; its ticket comes back in CommandDone or CommandFailed. An expired one is never sent.

        Raises:
            OutOfRange: its values fit no packet, its address is taken or its speed unknown.
            StateMisuse: too many wait, or a key, which goes by `rotate_key`.
        """
        link = self._links[name]
        command.encode()
        if isinstance(command, KeySet) or len(link.queue) >= COMMANDS_MAX:
            raise StateMisuse(f"{command.CODE.name} for {name}, {len(link.queue)} commands wait")
        if isinstance(command, SetCommunication):
            others = {other.config.address for other in self._links.values() if other is not link}
            if command.address in others or command.baud not in BAUDS:
                raise OutOfRange(f"address {command.address} and {command.baud} baud for {name}")
        self._ticket += 1
        link.queue.append(Queued(self._ticket, command, expires_ms))
        return self._ticket

    def send_file(self, name: str, file_type: int, data: bytes, now_ms: int) -> int:
        """Send a file beside everything else; its ticket comes back in FileProgress, CommandDone or CommandFailed.

        Raises:
            StateMisuse: another one is on its way.
            OutOfRange: empty, or too long.
        """
        link = self._links[name]
        if link.file is not None:
            raise StateMisuse(f"a file is on its way to {name}")
        self._ticket += 1
        link.send_file(self._ticket, file_type, data, now_ms)
        return self._ticket

    def cancel_file(self, name: str) -> None:
        """Say ABORT in place of the next fragment."""
        self._links[name].cancel_file()

    def rotate_key(self, name: str, next_key: bytes) -> None:
        """Give a reader its next key, which the caller has stored; KeyProved tells that the old one is not needed.

        Raises:
            OutOfRange: not 16 bytes.
            StateMisuse: the reader is spoken to in clear.
        """
        config = self._links[name].config
        if config.in_clear:
            raise StateMisuse(f"{name} is spoken to in clear")
        if len(next_key) != 16:
            raise OutOfRange(f"a key of {len(next_key)} bytes")
        self._links[name].set_next_key(next_key)

    def confirm(self, name: str, number: int, now_ms: int) -> None:
        """The event of that number is durable (R41): its reader may be spoken to again. Others change nothing."""
        link = self._links.get(name)
        if link is not None and link.unconfirmed is not None and link.unconfirmed.number == number:
            link.confirm(now_ms)

    # -- the line --------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ms: int) -> list[PanelEvent]:
        """What the line brought."""
        events: list[PanelEvent] = []
        self._byte_ms = now_ms
        for packet in self._decoder.feed(data):
            self._take(packet, now_ms, events)
        if self._decoder.unfinished and self._asked is not None:
            self._asked_until_ms = min(max(self._asked_until_ms, now_ms + CHARACTER_GAP_MS), self._asked_latest_ms)
        self._advance(now_ms, events)
        return events

    def tick(self, now_ms: int) -> list[PanelEvent]:
        """Let time pass."""
        events: list[PanelEvent] = []
        if self._decoder.unfinished and now_ms - self._byte_ms >= CHARACTER_GAP_MS:
            for packet in self._decoder.line_silent():
                self._take(packet, now_ms, events)
        self._advance(now_ms, events)
        return events

    def take_output(self) -> bytes:
        """The bytes to send now, at `line_baud`; each is given out once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def next_deadline_ms(self) -> int | None:
        """When `tick` has something to do; None while no reader wants anything."""
        if self._asked is not None:
            return self._asked_until_ms
        wants = [self._may_ms(link) for link in self._links.values()]
        soonest = min((want for want in wants if want is not None), default=None)
        return None if soonest is None else max(soonest, self._quiet_until_ms)

    def transmit_ms(self, count: int) -> int:
        """How long `count` bytes take on the line, rounded up."""
        return -(-count * BITS_PER_BYTE * 1000 // self.line_baud)

    def _take(self, packet: Packet, now_ms: int, events: list[PanelEvent]) -> None:
        link = self._asked
        if link is None or not packet.reply or packet.address not in {link.config.address, BROADCAST}:
            self.foreign_packets += 1
            self._note_late(packet)
            return
        if link.take(packet, now_ms, events):
            self._asked = None
            self._quiet_until_ms = now_ms + GAP_BYTES * BITS_PER_BYTE * 1000 // self.line_baud

    def _note_late(self, packet: Packet) -> None:
        """A reader that was given up on answers after all: wait longer for it from now on."""
        for other in self._links.values():
            if packet.reply and other.config.address == packet.address and other.silent_last:
                other.reply_ms = min(2 * other.reply_ms, REPLY_MS_MAX)

    def _advance(self, now_ms: int, events: list[PanelEvent]) -> None:
        if self._asked is not None:
            if now_ms < self._asked_until_ms:
                return
            link, self._asked = self._asked, None
            self._decoder.line_silent()
            link.silence(now_ms, events)
            if not link.live and any(other.live for other in self._links.values()):
                self._probe_from_ms = now_ms + DEAD_SPACING_MS
        while self._asked is None and now_ms >= self._quiet_until_ms:
            chosen = self._choose(now_ms)
            if chosen is None:
                return
            self._ask(chosen, now_ms, events)

    def _may_ms(self, link: ReaderLink) -> int | None:
        wants_ms = link.wants_ms
        return wants_ms if wants_ms is None or link.live else max(wants_ms, self._probe_from_ms)

    def _choose(self, now_ms: int) -> ReaderLink | None:
        ready = []
        for link in self._links.values():
            may_ms = self._may_ms(link)
            if may_ms is not None and may_ms <= now_ms:
                ready.append(link)
        if not ready:
            return None
        urgent = [link for link in ready if link.urgent] if self._turn % 2 else []
        return min(urgent or ready, key=lambda link: self._turns[link.config.name])

    def _ask(self, link: ReaderLink, now_ms: int, events: list[PanelEvent]) -> None:
        self._turn += 1
        self._turns[link.config.name] = self._turn
        wire = link.next_wire(now_ms, events)
        if not wire:
            return
        self.line_baud = link.config.baud
        shared = any(other.live for other in self._links.values() if other is not link)
        sent_ms = now_ms + self.transmit_ms(len(wire) + 1)
        self._asked = link
        self._asked_until_ms = sent_ms + (link.reply_ms if shared else REPLY_MS_MAX)
        self._asked_latest_ms = sent_ms + REPLY_MS_MAX + self.transmit_ms(1440)
        self._output.append(MARK + wire)
