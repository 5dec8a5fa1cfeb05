"""`python -m bench.storm`: the power comes back, and ten thousand terminals log in at one moment, over real sockets.

    onecard serve   the product's own process, on the first core
    this process    the terminals: connect, handshake, BASELINE, first ACK; who is told BUSY comes back when he was
                    told, and a random half of that later; who is cut off, as a terminal does (docs/frontends.md)

Printed: when the first, half, 99 of 100 and all were online (first ACK), how often the most unlucky one was turned
away, the server's memory, and this process's own share of its core: above 80 % the times are its own, not the server's.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import json
import os
import random
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.children import BenchFailed, cores, pin, scratch_directory
from bench.hostile import Server
from bench.hostile_insider import EPOCH, NO_ENROLMENT_ID, READ_BYTES, SEAL_KEY, Enrolled
from onecard_runtime import split_address
from protocol.codes import Medium, RefuseCode
from protocol.handshake import NONCE_BYTES, TerminalIdentity
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.messages import Ack, Baseline, BaselineEntry, Heartbeat, decode_down
from protocol.proofs import genesis_seal, seal_baseline
from protocol.session import Established, Refused, TerminalSession

SEED: Final = 20_261_128
SECONDS_MAX: Final = 120.0
BACK_OFF_S: Final = 0.5  # and twice as long each time, as a terminal's
BACK_OFF_S_MAX: Final = 30.0
GENERATOR_CPU_MAX: Final = 0.8


class Terminal:
    """One terminal's way back; non-blocking."""

    __slots__ = ("enrolled", "failures", "online_s", "session", "socket", "tries", "turned_away")

    def __init__(self, enrolled: Enrolled) -> None:
        self.enrolled = enrolled
        self.socket: socket.socket | None = None
        self.session: TerminalSession | None = None
        self.online_s: float | None = None
        self.tries = self.failures = self.turned_away = 0

    def connect(self, address: tuple[str, int]) -> int:
        """Begin a connection; its descriptor."""
        self.tries += 1
        self.socket = made = socket.socket()
        made.setblocking(False)
        found = made.connect_ex(address)
        if found not in (0, errno.EINPROGRESS):
            raise OSError(found, os.strerror(found))
        self.session = None
        return made.fileno()

    def greet(self) -> None:
        """The connection stands: HELLO."""
        assert self.socket is not None
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        one = self.enrolled
        identity = TerminalIdentity(
            site=one.site, terminal=one.terminal, epoch=EPOCH, key_version=1, terminal_kind=one.kind
        )
        self.session = TerminalSession(
            identity,
            bytes.fromhex(one.link_key),
            medium=Medium.TCP,
            nonce=os.urandom(NONCE_BYTES),
            body_bytes_max=BODY_BYTES_MAX_TCP,
            now_ms=0,
        )
        self.socket.send(self.session.take_output())

    def read(self) -> Refused | Ack | None:
        """What has come; raises OSError when the line is gone."""
        assert self.socket is not None
        assert self.session is not None
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError
        word: Refused | Ack | None = None
        for event in self.session.receive(data, 0):
            if isinstance(event, Established):
                self._log_in()
            elif isinstance(event, Refused):
                word = event
            elif isinstance(message := decode_down(event), Ack):
                word = message
        output = self.session.take_output()
        if output:
            self.socket.send(output)
        return word

    def _log_in(self) -> None:
        assert self.session is not None
        number = self.enrolled.terminal
        entry = BaselineEntry(EPOCH, 1, 1, 1, genesis_seal(SEAL_KEY, number, EPOCH, NO_ENROLMENT_ID))
        baseline = Baseline(1, number, 600, 0, [entry])
        baseline.seal = seal_baseline(SEAL_KEY, baseline.sealed_part())
        self.session.send(baseline.encode())
        self.session.send(Heartbeat(EPOCH, 1, 600, 0, 1, 1).encode())

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@dataclass(slots=True)
class Found:
    terminals: int
    online: int
    first_s: float
    half_s: float
    p99_s: float
    all_s: float
    busy: int
    most_turned_away: int
    most_tries: int
    rss_before_kib: int
    rss_after_kib: int
    generator_cpu: float


class Storm:
    """All terminals on one epoll."""

    def __init__(self, address: str, enrolled: Sequence[Enrolled], drawn: random.Random) -> None:
        self._address = split_address(address)
        self._drawn = drawn
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Terminal] = {}
        self._due: list[tuple[float, int, Terminal]] = []
        self.terminals = [Terminal(one) for one in enrolled]
        self.online = 0
        self._started_s = 0.0

    def run(self) -> None:
        self._started_s = time.monotonic()
        for order, terminal in enumerate(self.terminals):
            heapq.heappush(self._due, (self._started_s, order, terminal))
        while self.online < len(self.terminals) and time.monotonic() < self._started_s + SECONDS_MAX:
            now_s = time.monotonic()
            for _ in range(200):  # then look at what has come: nobody's ACK waits for everybody's SYN
                if not self._due or self._due[0][0] > now_s:
                    break
                self._connect(heapq.heappop(self._due)[2])
            patience_s = 0.0 if self._due and self._due[0][0] <= now_s else 0.01
            for descriptor, _ in self._poll.poll(patience_s):
                self._turn(self._by_descriptor[descriptor])

    def _connect(self, terminal: Terminal) -> None:
        try:
            descriptor = terminal.connect(self._address)
        except OSError:
            self._lost(terminal)
            return
        self._by_descriptor[descriptor] = terminal
        self._poll.register(descriptor, select.EPOLLOUT)

    def _turn(self, terminal: Terminal) -> None:
        assert terminal.socket is not None
        try:
            if terminal.session is None:
                terminal.greet()
                self._poll.modify(terminal.socket.fileno(), select.EPOLLIN)
                return
            word = terminal.read()
        except BlockingIOError:
            return
        except OSError:
            self._lost(terminal)
            return
        if isinstance(word, Ack) and terminal.online_s is None:
            terminal.online_s = time.monotonic() - self._started_s
            self.online += 1
        elif isinstance(word, Refused):
            if word.code is not RefuseCode.BUSY:
                raise BenchFailed(f"terminal {terminal.enrolled.terminal} is refused: {word.code.name}")
            terminal.turned_away += 1
            self._later(terminal, float(word.retry_after_s))

    def _lost(self, terminal: Terminal) -> None:
        if terminal.online_s is not None:
            raise BenchFailed(f"terminal {terminal.enrolled.terminal} was online and has lost its connection")
        back_off_s = min(BACK_OFF_S * 2**terminal.failures, BACK_OFF_S_MAX)
        terminal.failures += 1
        self._later(terminal, back_off_s)

    def _later(self, terminal: Terminal, delay_s: float) -> None:
        if terminal.socket is not None:
            self._by_descriptor.pop(terminal.socket.fileno(), None)
        terminal.close()  # which takes it off the poll as well
        due_s = time.monotonic() + delay_s * (1 + self._drawn.random() / 2)
        heapq.heappush(self._due, (due_s, terminal.enrolled.terminal, terminal))

    def close(self) -> None:
        for terminal in self.terminals:
            terminal.close()
        self._poll.close()


def measure(directory: Path, terminals: int) -> Found:
    server = Server(directory, cores()[0], enrolled=terminals)
    storm = Storm(server.address, Enrolled.all_of(server.site), random.Random(SEED))
    try:
        pin(cores()[1])
        before_kib = server.rss_kib()
        cpu_s, wall_s = time.process_time(), time.monotonic()
        storm.run()
        cpu = (time.process_time() - cpu_s) / (time.monotonic() - wall_s)
        online = sorted(one.online_s for one in storm.terminals if one.online_s is not None)
        if not online:
            raise BenchFailed("nobody came online")
        return Found(
            terminals=terminals,
            online=len(online),
            first_s=round(online[0], 2),
            half_s=round(online[len(online) // 2], 2),
            p99_s=round(online[int(0.99 * len(online))], 2),
            all_s=round(online[-1], 2),
            busy=sum(one.turned_away for one in storm.terminals),
            most_turned_away=max(one.turned_away for one in storm.terminals),
            most_tries=max(one.tries for one in storm.terminals),
            rss_before_kib=before_kib,
            rss_after_kib=server.rss_kib(),
            generator_cpu=round(cpu, 2),
        )
    finally:
        storm.close()
        server.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--terminals", type=int, default=10_000, help="how many come back (default 10000)")
    parser.add_argument("--json", metavar="FILE", help="write what was found there")
    parser.add_argument("--work-dir", metavar="DIR", help="on a real disk; emptied again")
    arguments = parser.parse_args(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with scratch_directory(arguments.work_dir) as directory:
            found = measure(directory, arguments.terminals)
    except (BenchFailed, OSError) as error:
        print(f"bench.storm: {error}", file=sys.stderr)
        return 1
    _show(asdict(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    return 0 if found.online == found.terminals else 1


def _show(facts: dict[str, Any]) -> None:
    table = Table("", "", title="a reconnect storm", show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    console = Console()
    console.print(table)
    if facts["generator_cpu"] > GENERATOR_CPU_MAX:
        console.print("generator-bound: the terminals took more than 80 % of their core, so the times are theirs")


if __name__ == "__main__":
    sys.exit(main())
