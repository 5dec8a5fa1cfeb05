"""What hostile and broken clients do to a front-end, one class each: `push` does its worst for a moment.

silent          thousands of connections that say nothing
half_frames     the beginning of a HELLO, and then nothing; of a sealed frame, by one that is logged in
one_byte        a byte at a time, the last one never
handshakes      HELLO, a wrong proof, and again, without end
garbage         bytes that are no frame, and again
flood           an enrolled terminal, broken: sales and heartbeats as fast as the line takes them
chatter         the same with reports of lists, each of which is looked at
never_reading   an enrolled terminal that asks and asks and takes no answer
"""

from __future__ import annotations

import os
import random
import resource
import socket
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from bench.children import BenchFailed, config_from_stdin, say
from bench.hostile_insider import Enrolled, Insider
from onecard_runtime import split_address
from protocol.codes import FrameKind, Medium, TerminalKind
from protocol.frame import encode_frame
from protocol.handshake import TerminalIdentity
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.session import TerminalSession

CONNECT_SECONDS_MAX: Final = 5.0
OPENED_AT_ONCE: Final = 200
SILENT: Final = 5_000
FEW: Final = 200
INSIDERS: Final = 4
FLOOD_FRAMES: Final = 200
UNSENT_BYTES_MAX: Final = 65_536
SMALL_BUFFER_BYTES: Final = 4_096
NICENESS: Final = 10  # the sound terminals measure on the same core, and are not to wait for their attackers


class Attack(Protocol):
    @property
    def reconnects(self) -> int:
        """Connections opened beyond the first of each."""

    def push(self) -> None:
        """Do the worst for a moment; never blocks for long."""

    def close(self) -> None:
        """Let go of every connection."""


class _Crowd:
    """Connections of strangers; who is cut off comes back."""

    def __init__(self, address: str, count: int, drawn: random.Random) -> None:
        self._address = split_address(address)
        self._count = count
        self.drawn = drawn
        self.reconnects = -count
        self.hello = hello_of(1)
        self.clients: list[socket.socket] = []

    def opened(self, client: socket.socket) -> None:
        """A new connection; it has said nothing yet."""

    def pushed(self, client: socket.socket) -> None:
        """Go on with one that is open."""

    def push(self) -> None:
        for _ in range(min(OPENED_AT_ONCE, self._count - len(self.clients))):
            try:
                made = socket.create_connection(self._address, CONNECT_SECONDS_MAX)
            except OSError:
                break
            made.setblocking(False)
            self.reconnects += 1
            self.clients.append(made)
            self._try(made, self.opened)
        open_ones: list[socket.socket] = []
        for client in self.clients:
            if self._try(client, self.pushed) and not self._is_closed(client):
                open_ones.append(client)
            else:
                client.close()
        self.clients = open_ones

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.clients = []

    @staticmethod
    def _try(client: socket.socket, step: Callable[[socket.socket], None]) -> bool:
        try:
            step(client)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    @staticmethod
    def _is_closed(client: socket.socket) -> bool:
        try:
            while client.recv(65_536):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


class Silent(_Crowd):
    """Opened, and nothing more."""


class HalfFrames(_Crowd):
    def opened(self, client: socket.socket) -> None:
        client.send(self.hello[: self.drawn.randrange(1, len(self.hello))])


class OneByte(_Crowd):
    def __init__(self, address: str, count: int, drawn: random.Random) -> None:
        super().__init__(address, count, drawn)
        self._at: dict[socket.socket, int] = {}

    def pushed(self, client: socket.socket) -> None:
        at = self._at.get(client, 0)
        if at < len(self.hello) - 1:
            self._at[client] = at + client.send(self.hello[at : at + 1])

    def push(self) -> None:
        super().push()
        self._at = {client: self._at.get(client, 0) for client in self.clients}


class Handshakes(_Crowd):
    def pushed(self, client: socket.socket) -> None:
        client.send(self.hello + encode_frame(FrameKind.PROVE, bytes(16), medium=Medium.TCP, down=False))


class Garbage(_Crowd):
    def pushed(self, client: socket.socket) -> None:
        client.send(self.drawn.randbytes(16_384))


class _Insiders:
    """Enrolled terminals that log in rightly, and again when they are cut off."""

    receive_buffer_bytes = 0

    def __init__(self, address: str, enrolled: list[Enrolled]) -> None:
        self._address = address
        self._enrolled = enrolled
        self.insiders: list[Insider | None] = [None] * len(enrolled)
        self.reconnects = -len(enrolled)

    def pushed(self, insider: Insider) -> None:
        raise NotImplementedError

    def push(self) -> None:
        for index, insider in enumerate(self.insiders):
            if insider is None or insider.closed:
                try:
                    if insider is not None:
                        insider.socket.close()
                    self.reconnects += 1
                    insider = Insider(  # noqa: PLW2901 - the new one in the old one's place
                        self._address, self._enrolled[index], receive_buffer_bytes=self.receive_buffer_bytes
                    )
                except (BenchFailed, OSError):
                    self.insiders[index] = None
                    continue
                self.insiders[index] = insider
            self.pushed(insider)

    def close(self) -> None:
        for insider in self.insiders:
            if insider is not None:
                insider.socket.close()


class Flood(_Insiders):
    def pushed(self, insider: Insider) -> None:
        insider.read()
        if insider.unsent_bytes < UNSENT_BYTES_MAX:
            sales = b"".join(insider.seal(insider.sale()) for _ in range(FLOOD_FRAMES // 2))
            insider.send(sales + insider.seal(insider.heartbeat(), FLOOD_FRAMES // 2))
        else:
            insider.send(b"")


class Chatter(_Insiders):
    def pushed(self, insider: Insider) -> None:
        insider.read()
        is_full = insider.unsent_bytes >= UNSENT_BYTES_MAX
        insider.send(b"" if is_full else insider.seal(insider.list_state(), FLOOD_FRAMES))


class NeverReading(_Insiders):
    receive_buffer_bytes = SMALL_BUFFER_BYTES

    def pushed(self, insider: Insider) -> None:
        is_full = insider.unsent_bytes >= UNSENT_BYTES_MAX
        insider.send(b"" if is_full else insider.seal(insider.heartbeat(), FLOOD_FRAMES))


class HalfSealed(_Insiders):
    """The beginning of a sealed frame, whose rest never comes."""

    def pushed(self, insider: Insider) -> None:
        if insider.sequence == 0:
            insider.send(insider.seal(insider.sale())[:20])


class Several:
    """Two attacks at once."""

    def __init__(self, *attacks: Attack) -> None:
        self._attacks = attacks

    @property
    def reconnects(self) -> int:
        return sum(each.reconnects for each in self._attacks)

    def push(self) -> None:
        for each in self._attacks:
            each.push()

    def close(self) -> None:
        for each in self._attacks:
            each.close()


def hello_of(terminal: int) -> bytes:
    """The HELLO of a terminal that nobody has enrolled."""
    identity = TerminalIdentity(site=42, terminal=terminal, epoch=1, key_version=1, terminal_kind=TerminalKind.POS)
    return TerminalSession(
        identity, bytes(16), medium=Medium.TCP, nonce=bytes(16), body_bytes_max=BODY_BYTES_MAX_TCP, now_ms=0
    ).take_output()


Make = Callable[[str, list[Enrolled], random.Random], Attack]
ATTACKS: Final[dict[str, Make]] = {
    "silent": lambda address, _, drawn: Silent(address, SILENT, drawn),
    "half_frames": lambda address, enrolled, drawn: Several(
        HalfFrames(address, FEW, drawn), HalfSealed(address, enrolled)
    ),
    "one_byte": lambda address, _, drawn: OneByte(address, FEW, drawn),
    "handshakes": lambda address, _, drawn: Handshakes(address, FEW, drawn),
    "garbage": lambda address, _, drawn: Garbage(address, FEW, drawn),
    "flood": lambda address, enrolled, _: Flood(address, enrolled),
    "chatter": lambda address, enrolled, _: Chatter(address, enrolled),
    "never_reading": lambda address, enrolled, _: NeverReading(address, enrolled),
}


def main() -> None:
    """One attack as a process, until its time is over."""
    config: dict[str, Any] = config_from_stdin()
    os.nice(NICENESS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    enrolled = [Enrolled(**one) for one in config["terminals"]]
    attack = ATTACKS[config["attack"]](config["address"], enrolled, random.Random(config["seed"]))
    say(ready=True)
    end_s = time.monotonic() + config["seconds"]
    pushes = 0
    while time.monotonic() < end_s:
        attack.push()
        pushes += 1
        time.sleep(0.001)
    attack.close()
    say(pushes=pushes, reconnects=max(0, attack.reconnects))


if __name__ == "__main__":
    main()
