"""A terminal, a front-end and somebody between them who keeps every write, can stop at any point and say anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from protocol.codes import Medium, Suite
from protocol.handshake import Hello
from protocol.keys import link_key
from protocol.session import FrontEndSession, TerminalSession
from tests.protocol.test_session import EPOCH, FRONTEND, IDENTITY, KEY_VERSION, MASTER, SITE, START_MS, TERMINAL

UP, DOWN = "up", "down"
WAYS: Final = ((Medium.TCP, Suite.A), (Medium.TCP, Suite.B), (Medium.LINE, Suite.A))
MESSAGES: Final = (
    (UP, b"\x01 one"),
    (DOWN, b"\x81 two"),
    (UP, b"\x02 three"),
    (DOWN, b"\x82 four"),
    (UP, b"\x03 five"),
)
"""What the two say once they are established; each is one step, as is each message of the handshake."""
STEPS: Final = 4 + len(MESSAGES)


def key_of(suite: Suite) -> bytes:
    return link_key(MASTER, terminal=TERMINAL, epoch=EPOCH, key_version=KEY_VERSION, suite=suite)


@dataclass
class Wire:
    """One session, taken step by step; `writes` are (direction, bytes) in the order in which they were made."""

    medium: Medium = Medium.TCP
    suite: Suite = Suite.A
    nonces: int = 1
    writes: list[tuple[str, bytes]] = field(default_factory=list)
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    """Messages that came out opened, with the direction they went."""

    def __post_init__(self) -> None:
        address = 17 if self.medium is Medium.LINE else 0
        limit = 960 if self.medium is Medium.LINE else 4096
        self.terminal = TerminalSession(
            replace(IDENTITY, suite=self.suite),
            key_of(self.suite),
            medium=self.medium,
            nonce=bytes((self.nonces,)) * 16,
            body_bytes_max=limit,
            now_ms=START_MS,
            address=address,
        )
        self.front_end = FrontEndSession(
            frontend=FRONTEND,
            site=SITE,
            medium=self.medium,
            body_bytes_max=limit,
            nonce=bytes((self.nonces + 100,)) * 16,
            find_key=self._enrolled,
            now_ms=START_MS,
            address=address,
        )

    def _enrolled(self, hello: Hello) -> bytes | None:
        return key_of(self.suite) if hello.suite == self.suite else None

    def run(self, steps: int) -> Wire:
        """From the beginning through `steps` steps; no more than one write a step."""
        for step in range(steps):
            if step >= 4:
                direction, message = MESSAGES[step - 4]
                (self.terminal if direction == UP else self.front_end).send(message)
            else:
                direction = UP if step % 2 == 0 else DOWN
            self._carry(direction)
        return self

    def _carry(self, direction: str) -> None:
        sender = self.terminal if direction == UP else self.front_end
        data = sender.take_output()
        assert data, f"nothing to carry {direction}"
        self.writes.append((direction, data))
        self.say(direction, data)

    def say(self, direction: str, data: bytes) -> list[Any]:
        """The attacker, or the wire itself, gives these bytes to the receiver of `direction`."""
        receiver = self.front_end if direction == UP else self.terminal
        events = receiver.receive(data, START_MS)
        self.taken += [(direction, event) for event in events if isinstance(event, bytes)]
        return events


def recordings(medium: Medium, suite: Suite) -> Iterator[tuple[str, str, bytes]]:
    """(whose, direction, bytes): every write of this very session's past self, and of one with other nonces."""
    for whose, nonces in (("this", 1), ("another", 2)):
        for direction, data in Wire(medium, suite, nonces).run(STEPS).writes:
            yield whose, direction, data
