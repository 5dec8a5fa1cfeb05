"""Topics, addresses and the words of presence of the link over MQTT (docs/link.md). Pure.

    onecard/<site>/<front-end>/up        link messages of that front-end       it alone may publish, the ledger reads
    onecard/<site>/<front-end>/down      link messages to it                   the ledger publishes, it alone reads
    onecard/<site>/<front-end>/state     birth, retained; its will: offline    it alone may publish
    onecard/<site>/ledger/state          the same of the ledger                the ledger publishes, everybody reads

A message on `up` and `down` is `conversation(8) ‖ counter u32 ‖ link message without its length`; with nothing after
the counter it says that the conversation has ended. The counter starts at 0 in each direction and has no holes: what
comes twice is dropped, and a hole ends the conversation, as a lost byte ends a TCP stream. Nothing here is a proof:
those stand inside the link message.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Final

from protocol.limits import LINK_MESSAGE_BYTES_MAX
from protocol.link_envelope import ENVELOPE_BYTES

SCHEMES: Final = ("mqtt://", "mqtts://")
CONVERSATION_BYTES: Final = 8
PREFIX: Final = struct.Struct("!8sI")
assert PREFIX.size == 12
COUNTER_MAX: Final = 0xFFFF_FFFF  # a conversation ends before its counter would come again
MESSAGE_BYTES_MAX: Final = PREFIX.size + LINK_MESSAGE_BYTES_MAX
MESSAGE_BYTES_MIN: Final = PREFIX.size + ENVELOPE_BYTES
STATE_BYTES_MAX: Final = 256
LIFE_BYTES: Final = 8
NUMBER_MAX: Final = 0xFFFF_FFFF


def is_bus_address(address: str) -> bool:
    """Whether a link's address names a broker."""
    return address.startswith(SCHEMES)


@dataclass(frozen=True, slots=True)
class Topics:
    """Of one site."""

    site: int

    def up(self, frontend: int | str) -> str:
        return f"onecard/{self.site}/{frontend}/up"

    def down(self, frontend: int | str) -> str:
        return f"onecard/{self.site}/{frontend}/down"

    def state(self, frontend: int | str) -> str:
        return f"onecard/{self.site}/{frontend}/state"

    @property
    def ledger_state(self) -> str:
        return self.state("ledger")

    def frontend_of(self, topic: str, kind: str) -> int | None:
        """Whose `up` or `state` that is; None: nobody's of this site."""
        parts = topic.split("/")
        if len(parts) != 4 or parts[0] != "onecard" or parts[1] != str(self.site) or parts[3] != kind:
            return None
        number = parts[2]
        if not (number.isascii() and number.isdecimal()) or number.startswith("0"):
            return None
        return int(number) if len(number) <= 10 and int(number) <= NUMBER_MAX else None


@dataclass(frozen=True, slots=True)
class Presence:
    """What a process says of itself, or its will says of it; anybody with the right to the topic may lie."""

    is_online: bool
    life: bytes
    """8 random bytes of one session, which tell a late will from the present owner's."""
    since_ms: int
    """When that session began (UTC)."""

    def encode(self) -> bytes:
        word = "online" if self.is_online else "offline"
        return json.dumps({"state": word, "life": self.life.hex(), "since_ms": self.since_ms}).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Presence | None:
        """None: it is not of that form."""
        if len(payload) > STATE_BYTES_MAX:
            return None
        try:
            fields = json.loads(payload)
            state, life, since_ms = fields["state"], bytes.fromhex(fields["life"]), fields["since_ms"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if state not in ("online", "offline") or len(life) != LIFE_BYTES or type(since_ms) is not int:
            return None
        return cls(state == "online", life, since_ms) if 0 <= since_ms < 1 << 63 else None

    def gone(self) -> Presence:
        """The same life, ended: the will."""
        return Presence(is_online=False, life=self.life, since_ms=self.since_ms)
