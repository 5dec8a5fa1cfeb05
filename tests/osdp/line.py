"""A line in virtual time: one panel, any readers, paced at the baud rate; faults from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.osdp.panel import ControlPanel
from protocol.osdp.panel_events import PanelEvent, ReaderEvent
from protocol.osdp.replies import CardRead
from terminal_sim.osdp_reader import OsdpReader

PIECE_BYTES: Final = 16


@dataclass(slots=True)
class Faults:
    """Chances per message on the line; `arm` chooses which ones may be hit."""

    drop: float = 0.0
    double: float = 0.0
    flip: float = 0.0
    delay: float = 0.0
    cut_after: int | None = None
    """So many messages pass, then none."""
    only_replies: bool = False


@dataclass
class Line:
    """`run` until a time or a condition. Events land in `events`; those of readers are confirmed at once or by hand."""

    panel: ControlPanel
    readers: list[OsdpReader]
    seed: int = 1
    faults: Faults = field(default_factory=Faults)
    confirms: bool = True
    now_ms: int = 0
    turnaround_ms: int = 1
    echo: bool = False

    def __post_init__(self) -> None:
        print(f"line: seed={self.seed}")
        self.random = random.Random(self.seed)
        self.events: list[PanelEvent] = []
        self.wire: list[tuple[str, bytes]] = []
        self.passed = 0
        self._fraction_us = 0
        self._due: list[tuple[int, int, bytes, bool]] = []
        self._order = 0
        self.tamper: Callable[[str, bytes], bytes] | None = None

    def cards(self, *, unsure: bool = True) -> list[tuple[str, str]]:
        """Every card read that came out, as (reader, bits); `unsure` with those that may be told again."""
        found = []
        for event in self.events:
            if isinstance(event, ReaderEvent) and isinstance(event.reply, CardRead):
                bits = "".join(format(byte, "08b") for byte in event.reply.card)
                if unsure or not event.perhaps_repeated:
                    found.append((event.reader, bits[: event.reply.bits]))
        return found

    def of(self, kind: type[PanelEvent]) -> list[PanelEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def run(self, duration_ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Whether `until` came true in time."""
        end_ms = self.now_ms + duration_ms
        self._take(self.panel.tick(self.now_ms))
        while self.now_ms < end_ms:
            if until():
                return True
            self.now_ms = min(self._next_ms(), end_ms)
            for due in sorted(one for one in self._due if one[0] <= self.now_ms):
                self._due.remove(due)
                self._deliver(due[2], due[3])
            for reader in self.readers:
                reader.line.tick(self.now_ms)
            self._take(self.panel.tick(self.now_ms))
        return until()

    def _next_ms(self) -> int:
        moments = [due[0] for due in self._due]
        moments += [at for at in (self.panel.next_deadline_ms(),) if at is not None]
        moments += [at for reader in self.readers if (at := reader.line.next_deadline_ms()) is not None]
        return max(min(moments, default=self.now_ms + 1000), self.now_ms)

    def _deliver(self, data: bytes, to_readers: bool) -> None:
        if not to_readers:
            self._take(self.panel.receive(data, self.now_ms))
            return
        for reader in self.readers:
            if reader.line.setup.baud == self.panel.line_baud:
                reader.line.receive(data, self.now_ms)
                answer = reader.line.take_output()
                if answer:
                    self._send("reply", answer, self.turnaround_ms)

    def _take(self, events: list[PanelEvent]) -> None:
        self.events += events
        for event in events:
            if self.confirms and isinstance(event, ReaderEvent):
                self.panel.confirm(event.reader, event.number, self.now_ms)
        if self.confirms and events:
            more = self.panel.tick(self.now_ms)
            if more:
                self._take(more)
        output = self.panel.take_output()
        if output:
            if self.echo:
                self._order += 1
                self._due.append((self.now_ms, self._order, output, False))
            self._send("command", output, 0)

    def _send(self, direction: str, data: bytes, after_ms: int) -> None:
        self.wire.append((direction, data))
        self.passed += 1
        faults = self.faults
        if self.tamper is not None:
            data = self.tamper(direction, data)
        if not data or (faults.cut_after is not None and self.passed > faults.cut_after):
            return
        late_ms = 0
        if direction == "reply" or not faults.only_replies:
            if self.random.random() < faults.drop:
                return
            if self.random.random() < faults.flip:
                bent = bytearray(data)
                bent[self.random.randrange(len(bent))] ^= 1 << self.random.randrange(8)
                data = bytes(bent)
            if self.random.random() < faults.delay:
                late_ms = self.random.randint(10, 300)
            if self.random.random() < faults.double:
                self._put(data, after_ms + late_ms + 1, direction)
        self._put(data, after_ms + late_ms, direction)

    def _put(self, data: bytes, after_ms: int, direction: str) -> None:
        """In pieces, as a serial port gives them; the fractions of a millisecond add up."""
        at_ms = self.now_ms + after_ms
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            self._fraction_us += len(piece) * 10_000_000 // self.panel.line_baud
            at_ms += self._fraction_us // 1000
            self._fraction_us %= 1000
            self._order += 1
            self._due.append((at_ms, self._order, piece, direction == "command"))
