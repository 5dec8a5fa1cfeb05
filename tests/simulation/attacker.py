"""Somebody on the network: hears every byte, says it again elsewhere and later, splices, reflects, and makes things up.

He has no key. What he hears of terminals, front-ends and ledger is kept as tapes, one a direction of a connection, each
a list of writes. Nothing that he says may be taken for anybody else's word; he may end connections, as whoever owns a
cable can.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from protocol.codes import LinkType, Medium
from protocol.handshake import TerminalIdentity
from protocol.ports import Stream
from protocol.session import TerminalSession
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.frontend_host import LEDGER_LINK
from tests.simulation.ledger_host import ADMIN
from tests.simulation.site import Site
from tests.simulation.streams import VirtualStream
from tests.simulation.world import Host

TAPES_KEPT: Final = 48
TAPE_BYTES_MAX: Final = 16 * 1024
TYPE_AT: Final = 5  # of a link message, behind its length and version
PATIENCE_MS: Final = 2_500
BODY_BYTES_MAX: Final = 4_096


@dataclass(slots=True)
class Tape:
    """What one side of a connection has written, and between whom."""

    speaker: str
    listener: str
    writes: list[bytes] = field(default_factory=list)
    size_bytes: int = 0


class Attacker:
    """Make one and let it `strike` from time to time."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.rng = random.Random(f"{site.seed}:attacker")
        self.host = Host(site.world, "attacker")
        self.tapes: deque[Tape] = deque(maxlen=TAPES_KEPT)
        self._of_stream: dict[VirtualStream, Tape] = {}
        self._frontends = {one.host.name: one.address for one in site.frontends}
        site.world.wiretap = self._hear

    def stop(self) -> None:
        """Listens no more."""
        self.site.world.wiretap = None
        self._of_stream.clear()

    def _hear(self, stream: VirtualStream, data: bytes) -> None:
        other = stream.other
        if other is None or self.host in (stream.host, other.host) or ADMIN in (stream.peer(), other.peer()):
            return
        tape = self._of_stream.get(stream)
        if tape is None:
            if len(self._of_stream) > 4 * TAPES_KEPT:
                self._of_stream.clear()
            tape = self._of_stream[stream] = Tape(stream.host.name, other.host.name)
            self.tapes.append(tape)
        if tape.size_bytes < TAPE_BYTES_MAX:
            tape.writes.append(data)
            tape.size_bytes += len(data)

    # -- what he does

    def strike(self) -> None:
        """One attack, drawn."""
        attacks = (self._replay, self._splice, self._reflect, self._forge, self._stall, self._steal_receipt)
        self.rng.choice(attacks)()

    def _tape(self, *, to: str | None = None, of: str | None = None) -> Tape | None:
        found = [
            each
            for each in self.tapes
            if each.writes and (to is None or each.listener == to) and (of is None or each.speaker == of)
        ]
        return self.rng.choice(found) if found else None

    def _replay(self) -> None:
        """A whole conversation's one side, to whom it was said or to another front-end."""
        tape = self._tape(to=self.rng.choice([*self._frontends, LEDGER_HOST]))
        if tape is not None:
            self._say("replay", self._address(tape.listener), tape.writes)

    def _address(self, host: str) -> str:
        return LEDGER_LINK if host == LEDGER_HOST else self.rng.choice(list(self._frontends.values()))

    def _splice(self) -> None:
        """A message of one conversation in the middle of another, or a second time in its own."""
        live = [each for one in self.site.frontends for each in one.host.streams]
        if not live:
            return
        target = self.rng.choice(live)
        tape = self._tape(to=target.host.name)
        if tape is not None:
            self.site.world.count_fault("attack:splice")
            target.arrive(self.rng.choice(tape.writes))

    def _reflect(self) -> None:
        """What a front-end or the ledger said, back to itself; what a terminal said, back to it."""
        live = [each for till in self.site.tills for each in till.host.streams]
        live += [each for one in self.site.frontends for each in one.host.streams]
        if not live:
            return
        target = self.rng.choice(live)
        tape = self._tape(of=target.host.name)
        if tape is not None:
            self.site.world.count_fault("attack:reflect")
            target.arrive(self.rng.choice(tape.writes))

    def _steal_receipt(self) -> None:
        """What the ledger said to one front-end, or some time ago, into a link that is up."""
        links = [
            each
            for one in self.site.frontends
            for each in one.host.streams
            if each.other is not None and each.other.host.name == LEDGER_HOST
        ]
        said = self.lists_heard() if self.rng.random() < 0.5 else []
        tape = self._tape(of=LEDGER_HOST)
        if links and tape is not None:
            self.site.world.count_fault("attack:receipt")
            self.rng.choice(links).arrive(self.rng.choice(said or tape.writes))

    def lists_heard(self) -> list[bytes]:
        """Every LIST that the ledger has said, oldest first."""
        writes = [data for each in self.tapes if each.speaker == LEDGER_HOST for data in each.writes]
        return [data for data in writes if len(data) > TYPE_AT and data[TYPE_AT] == LinkType.LIST]

    def _forge(self) -> None:
        """A terminal that he does not have: its true identity, a key of his own; or noise."""
        if self.rng.random() < 0.3:
            self._say("noise", self._address(""), [self.rng.randbytes(self.rng.randint(1, 300))])
            return
        till = self.rng.choice(self.site.tills)
        self.site.world.count_fault("attack:forge")
        self.host.connect(self._address(""), _Impostor(self, till.secrets.identity()))

    def _stall(self) -> None:
        """Half a message, and then nothing for as long as one lets him."""
        tape = self._tape(to=self.rng.choice(list(self._frontends)))
        if tape is not None:
            first = tape.writes[0]
            self._say("stall", self._address(tape.listener), [first[: self.rng.randrange(len(first))]])

    def _say(self, kind: str, address: str, writes: list[bytes]) -> None:
        self.site.world.count_fault(f"attack:{kind}")
        self.host.connect(address, _Liar(self, writes))


class _Liar:
    """Says what it was given and hears nothing."""

    def __init__(self, attacker: Attacker, writes: list[bytes]) -> None:
        self._attacker = attacker
        self._writes = writes

    def connected(self, stream: Stream) -> None:
        for data in self._writes:
            stream.write(data)
        self._attacker.site.after(PATIENCE_MS, stream.close)

    def received(self, data: bytes) -> None:
        pass

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        pass


class _Impostor:
    """Goes through the whole handshake with a wrong key."""

    def __init__(self, attacker: Attacker, identity: TerminalIdentity) -> None:
        self._attacker = attacker
        self._identity = identity
        self._session: TerminalSession | None = None
        self._stream: Stream | None = None

    def connected(self, stream: Stream) -> None:
        rng, host = self._attacker.rng, self._attacker.host
        self._stream = stream
        self._session = TerminalSession(
            self._identity,
            rng.randbytes(16),
            medium=Medium.TCP,
            nonce=rng.randbytes(16),
            body_bytes_max=BODY_BYTES_MAX,
            now_ms=host.monotonic_ms(),
        )
        stream.write(self._session.take_output())
        self._attacker.site.after(PATIENCE_MS, stream.close)

    def received(self, data: bytes) -> None:
        assert self._session is not None
        assert self._stream is not None
        self._session.receive(data, self._attacker.host.monotonic_ms())
        if self._session.established:
            raise AssertionError("a front-end has accepted a terminal without its key")
        self._stream.write(self._session.take_output())

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        pass
