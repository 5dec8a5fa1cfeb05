"""What the generator can put a load on: each side of a comparison, made ready before the clock and run after it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag

from bench.children import BenchFailed
from bench.mqtt import Publisher, opened, subscribe_and_leave
from bench.pump import Line, Pump, Run
from bench.site import FIRST_TERMINAL, BenchSite
from bench.terminals import Terminal, connect, logged_in
from bench.window_pump import WindowLine, WindowPump
from protocol.frame import HEADER_BYTES
from protocol.limits import TAG_BYTES_TCP

ACK_BYTES: Final = 16
ACK_FRAME_BYTES: Final = HEADER_BYTES + ACK_BYTES + TAG_BYTES_TCP
RECORD_BYTES: Final = 96
WARM_UP_RECORDS: Final = 40  # a terminal
SPARE: Final = 1.3  # frames sealed over what the rate so far would take

_ACK_HEAD: Final = struct.Struct("!4xIH2x")  # the header's counter and body length
_ACK: Final = struct.Struct("!4xI4xB3x")  # durable, credit
_COUNTER_HIGH: Final = bytes(4)  # a session of the bench has far fewer than 2^32 frames


class Side(Protocol):
    """One side. Its rates are in frames."""

    def prepare(self, seconds: float) -> None:
        """What must be there before the clock starts."""

    def run(self, seconds: float) -> Run: ...

    def facts(self) -> dict[str, Any]:
        """What its server must agree with, when all is over."""

    def close(self) -> None: ...


class Intake:
    """The front-end with its terminals."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._records_per_frame: int = config["records_per_frame"]
        self.terminals = logged_in(BenchSite(**config["site"]), config["address"])
        self._at_least = 2 * config["outstanding"]
        self._per_second = 0.0
        self._lines: Sequence[Line | AckedLine]
        self._pump: Pump | WindowPump
        if config["outstanding"] == 1:
            self._lines = lines = [Line(each.socket, each.frames, each.replies) for each in self.terminals]
            self._pump = Pump(lines, config["pid"], ACK_FRAME_BYTES)
        else:
            window, records = config["outstanding"], self._records_per_frame
            self._lines = acked = [AckedLine(each, window, records) for each in self.terminals]
            self._pump = WindowPump(acked, config["pid"])

    def prepare(self, seconds: float) -> None:
        """Seal for a round of that length; the warm-up's number where no rate is known."""
        each_needs = self._per_second * seconds * SPARE / len(self.terminals)
        wanted = (
            int(each_needs) + self._at_least
            if self._per_second
            else max(WARM_UP_RECORDS // self._records_per_frame, self._at_least)
        )
        for terminal in self.terminals:
            terminal.seal(max(0, wanted - len(terminal.frames)), self._records_per_frame)

    def run(self, seconds: float) -> Run:
        run = self._pump.run(seconds)
        self._per_second = max(self._per_second, run.rate)
        for terminal, line in zip(self.terminals, self._lines, strict=True):
            terminal.sent = line.sent * self._records_per_frame
            terminal.check_replies()
            if isinstance(line, AckedLine):
                line.drop_sent()
        return run

    def facts(self) -> dict[str, Any]:
        return {"acknowledged": sum(terminal.acknowledged for terminal in self.terminals)}

    def close(self) -> None:
        self._pump.close()


class AckedLine(WindowLine):
    """A terminal that recovers: it reads in each last ACK how far it has come, and how much credit it has.

    Only the last ACK of a read is opened while the clock runs; after it `Terminal.check_replies` opens all.
    """

    __slots__ = ("_at", "_cipher", "_frames", "_records", "_replies", "_rest", "_salt", "_window_max")

    def __init__(self, terminal: Terminal, window: int, records_per_frame: int) -> None:
        super().__init__(terminal.socket, window)
        self._window_max = window
        self._records = records_per_frame
        self._frames = terminal.frames
        self._replies = terminal.replies
        self._cipher, self._salt = terminal.ack_cipher()
        self._rest = b""
        self._at = 0

    def take(self, data: bytes) -> None:
        self._replies.append(data)
        data = self._rest + data
        rest = len(data) % ACK_FRAME_BYTES
        self._rest = data[len(data) - rest :] if rest else b""
        last = data[len(data) - rest - ACK_FRAME_BYTES : len(data) - rest]
        if not last:
            if not data:
                raise BenchFailed("the server has closed a connection")
            return
        counter, body_bytes = _ACK_HEAD.unpack_from(last)
        if body_bytes != ACK_BYTES:
            raise BenchFailed(f"an answer of {body_bytes} bytes that is no plain ACK")
        nonce = self._salt + _COUNTER_HIGH + counter.to_bytes(4, "big")
        try:
            body = self._cipher.decrypt(nonce, last[HEADER_BYTES:], last[:HEADER_BYTES])
        except InvalidTag:
            raise BenchFailed("an ACK that does not verify") from None
        durable, credit = _ACK.unpack(body)
        self.answered = durable // self._records
        self.window = min(credit, self._window_max)

    def frames(self, count: int) -> bytes:
        found = self._frames[self._at : self._at + count]
        if len(found) < count:
            raise StopIteration
        self._at += count
        return b"".join(found)

    def drop_sent(self) -> None:
        del self._frames[: self._at]
        self._at = 0


class Echo:
    """A bare echo of the very frames that an intake gets."""

    def __init__(self, config: dict[str, Any], intake: Intake) -> None:
        intake.prepare(0)
        frames = [list(terminal.frames) for terminal in intake.terminals]
        lines = [Line(connect(config["address"], number), each, None) for number, each in enumerate(frames)]
        self._pump = Pump(lines, config["pid"], len(frames[0][0]))

    def prepare(self, seconds: float) -> None:
        """Frames are sent over and over."""

    def run(self, seconds: float) -> Run:
        return self._pump.run(seconds)

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._pump.close()


class Mqtt:
    """A broker with as many publishers as there are terminals, and a persistent subscriber that is away."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._address: str = config["address"]
        payload = bytes(RECORD_BYTES * config["records_per_frame"])
        numbers = range(FIRST_TERMINAL, FIRST_TERMINAL + config["terminals"])
        lines = [
            Publisher(
                opened(self._address, f"terminal-{number}", number, is_clean=True),
                number,
                payload,
                config["outstanding"],
            )
            for number in numbers
        ]
        self._pump = WindowPump(lines, config["pid"])

    def prepare(self, seconds: float) -> None:
        """A new session of the subscriber: what was queued for it is gone."""
        subscribe_and_leave(self._address)

    def run(self, seconds: float) -> Run:
        return self._pump.run(seconds)

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._pump.close()
