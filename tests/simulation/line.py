"""A noisy two-wire line under virtual time: one master polls terminals; bits flip, frames vanish, come twice or late.

The sessions are the product's; master and terminals here are a few lines of shell, as a bus needs them: the master
speaks, one terminal answers, an answer that does not come is asked for again byte for byte (R34), and after `TRIES_MAX`
the session is given up and begun anew. Both sides number their messages. Per session each side must get exactly what
the other has sent, in its order, each message once, and nothing else. When the noise ends, all must arrive.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from protocol.codes import Medium, Suite
from protocol.errors import UnexpectedMessage
from protocol.frame import close_frame
from protocol.handshake import Hello, TerminalIdentity, suite_is_spoken
from protocol.session import Established, FrontEndSession, TerminalSession
from protocol.session_base import SessionBase
from tests.simulation.invariants import Violation

SITE: Final = 42
FRONTEND: Final = 7
BODY_BYTES_MAX: Final = 960
CRC_BYTES: Final = 4
BYE_BYTES: Final = 2  # every message of the applications here is longer
TRIES_MAX: Final = 6
SLOT_MS: Final = 20
GARBAGE_BYTES_MAX: Final = 40
MESSAGES: Final = 12  # each way, per terminal
EXCHANGES_MAX: Final = 4_000
QUIET: Final = (0.0,) * 6


@dataclass(slots=True)
class Noise:
    """Per frame: the share that is hit, by kind."""

    flip: float
    drop: float
    twice: float
    late: float
    garbage: float
    forged: float

    @classmethod
    def drawn(cls, rng: random.Random) -> Noise:
        return cls(*(rng.choice((0.0, 0.05, 0.25)) for _ in range(6)))


@dataclass(slots=True)
class Side:
    """One end of one session, and what its application has sent and got; `to_send` outlives sessions."""

    session: SessionBase
    sent: list[bytes] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Seat:
    """One terminal on the bus."""

    address: int
    key: bytes
    identity: TerminalIdentity
    master: Side | None = None
    terminal: Side | None = None
    up_done: int = 0
    down_done: int = 0
    sessions: int = 0


class Line:
    """One bus and its seed."""

    def __init__(self, seed: int, terminals: int = 3) -> None:
        self.rng = random.Random(f"{seed}:line")
        self.noise = Noise.drawn(self.rng)
        self.fired: Counter[str] = Counter()
        self.now_ms = 0
        self._late: list[bytes] = []
        self._heard: list[bytes] = []
        """Frames of this bus, which an attacker says again."""
        suites = [suite for suite in (Suite.A, Suite.B) if suite_is_spoken(suite, Medium.LINE)]
        self.seats = [
            Seat(
                address,
                self.rng.randbytes(16),
                TerminalIdentity(
                    site=SITE, terminal=1_000 + address, epoch=1, key_version=1, terminal_kind=1,
                    suite=suites[address % len(suites)],
                ),
            )
            for address in range(1, terminals + 1)
        ]  # fmt: skip

    def run(self) -> Counter[str]:
        """Noise for a while, then quiet; raises Violation."""
        noisy = self.rng.randint(20, 120)
        for exchange in range(EXCHANGES_MAX):
            if exchange == noisy:
                self.noise = Noise(*QUIET)
            for seat in self.seats:
                self._exchange(seat)
            if exchange > noisy and all(self._is_done(seat) for seat in self.seats):
                return self.fired
        raise Violation(f"not drained after {EXCHANGES_MAX} polls: {[(s.up_done, s.down_done) for s in self.seats]}")

    @staticmethod
    def _is_done(seat: Seat) -> bool:
        return seat.up_done >= MESSAGES and seat.down_done >= MESSAGES

    # -- master and terminal

    def _exchange(self, seat: Seat) -> None:
        """One poll, asked again until it is answered or the session is given up."""
        if seat.master is None or seat.terminal is None or seat.master.session.closed or seat.terminal.session.closed:
            self._begin(seat)
        master, terminal = seat.master, seat.terminal
        assert master is not None
        assert terminal is not None
        if master.session.established and seat.down_done < MESSAGES:
            self._send(master, b"down", seat.down_done)
        elif master.session.established:
            self._send(master, b"poll", len(master.sent))
        for _ in range(TRIES_MAX):
            before = len(master.got)
            was_established = master.session.established
            self._carry(master, terminal, seat, is_down=True)
            if terminal.session.established and len(terminal.got) > len(terminal.sent):
                name = b"up" if seat.up_done < MESSAGES else b"none"
                self._send(terminal, name, seat.up_done)
            self._carry(terminal, master, seat, is_down=False)
            self._judge(seat)
            if len(master.got) > before or (master.session.established and not was_established):
                return
            if master.session.closed or terminal.session.closed:
                return
            master.session.repeat()
        self.fired["session_given_up"] += 1
        seat.master = seat.terminal = None

    def _begin(self, seat: Seat) -> None:
        seat.sessions += 1
        rng = self.rng

        def find_key(hello: Hello) -> bytes | None:
            return seat.key if hello.terminal == seat.identity.terminal else None

        seat.master = Side(
            FrontEndSession(
                frontend=FRONTEND, site=SITE, medium=Medium.LINE, body_bytes_max=BODY_BYTES_MAX,
                nonce=rng.randbytes(16), find_key=find_key, now_ms=self.now_ms, address=seat.address,
            )
        )  # fmt: skip
        seat.terminal = Side(
            TerminalSession(
                seat.identity, seat.key, medium=Medium.LINE, nonce=rng.randbytes(16), body_bytes_max=BODY_BYTES_MAX,
                now_ms=self.now_ms, address=seat.address,
            )
        )  # fmt: skip

    @staticmethod
    def _send(side: Side, name: bytes, number: int) -> None:
        message = name + number.to_bytes(4, "big")
        side.sent.append(message)
        side.session.send(message)

    # -- the wire

    def _carry(self, speaker: Side, listener: Side, seat: Seat, *, is_down: bool) -> None:
        """Everything that the speaker has to say, through the noise, to everybody on the bus."""
        data = speaker.session.take_output()
        self.now_ms += SLOT_MS
        for frame in self._hit(data):
            for event in listener.session.receive(frame, self.now_ms):
                self._take(event, listener, seat, is_down=is_down)
        for event in listener.session.line_silent(self.now_ms):
            self._take(event, listener, seat, is_down=is_down)

    def _take(self, event: object, listener: Side, seat: Seat, *, is_down: bool) -> None:
        if isinstance(event, Established) or not isinstance(event, bytes):
            return
        if len(event) == BYE_BYTES:  # a handshake frame that was heard twice ends a session: safe, and begun anew
            self.fired["bye"] += 1
            listener.session.fail(UnexpectedMessage("BYE"))
            return
        listener.got.append(event)
        number = int.from_bytes(event[-4:], "big")
        if is_down and event.startswith(b"down") and number == seat.down_done:
            seat.down_done += 1
        elif not is_down and event.startswith(b"up") and number == seat.up_done:
            seat.up_done += 1

    def _hit(self, data: bytes) -> list[bytes]:
        """What is heard of `data`."""
        rng, noise, heard = self.rng, self.noise, []
        heard += self._late
        self._late = []
        if rng.random() < noise.garbage:
            self.fired["garbage"] += 1
            heard.append(rng.randbytes(rng.randint(1, GARBAGE_BYTES_MAX)))
        if self._heard and rng.random() < noise.forged:
            heard.append(self._forged(rng.choice(self._heard)))
        if data:
            self._heard = [*self._heard[-20:], data]
            if rng.random() < noise.drop:
                self.fired["drop"] += 1
                return heard
            if rng.random() < noise.late:
                self.fired["late"] += 1
                self._late.append(data)
                return heard
            if rng.random() < noise.flip:
                self.fired["bit_noise"] += 1
                at = rng.randrange(len(data))
                data = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
            heard.append(data)
            if rng.random() < noise.twice:
                self.fired["twice"] += 1
                heard.append(data)
        return heard

    def _forged(self, frame: bytes) -> bytes:
        """An old frame as it was, or changed under a CRC that is right again."""
        if self.rng.random() < 0.5 or len(frame) <= 12 + CRC_BYTES:
            self.fired["replay"] += 1
            return frame
        self.fired["forgery"] += 1
        at = self.rng.randrange(12, len(frame) - CRC_BYTES)
        changed = bytearray(frame[:-CRC_BYTES])
        changed[at] ^= 1 << self.rng.randrange(8)
        return close_frame(bytes(changed[:12]), bytes(changed[12:]), medium=Medium.LINE)

    # -- what must hold

    @staticmethod
    def _judge(seat: Seat) -> None:
        assert seat.master is not None
        assert seat.terminal is not None
        for speaker, listener, way in ((seat.master, seat.terminal, "down"), (seat.terminal, seat.master, "up")):
            if listener.got != speaker.sent[: len(listener.got)]:
                raise Violation(f"line, {way}: what was taken is not what was sent, in its order")
