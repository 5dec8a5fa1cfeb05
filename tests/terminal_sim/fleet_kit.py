"""A site of a few terminals and cards, a front-end for them, and one run under virtual time. No test lives here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from protocol.cards.memory_layout import Application
from protocol.codes import CardKind, ListForm, Medium, Suite, TerminalClass, TerminalKind
from protocol.deny_list import DenyList
from protocol.handshake import Hello
from protocol.keys import link_key, seal_key
from protocol.keystore import Keystore
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.messages import Ack, Baseline, Heartbeat, ListOffer, Time, Upload, decode_up
from protocol.ports import Clock, Network, Random, Stream
from protocol.records import read_head, walk
from protocol.registry import EnrolledTerminal, Registry
from protocol.session import Established, FrontEndSession
from protocol.signed import SoftwareSigner
from terminal_sim.card_kinds import MemoryCard
from terminal_sim.play import Asked, Circumstances, Play
from terminal_sim.population import MEMORY_IMAGES_FILE, PBOC_IMAGES_FILE, SimPlace
from tests.simulation.world import Host, World
from tests.terminal_sim.kit import (
    AUTHENTICATE_MASTER,
    DEBIT_MASTER,
    LINK_MASTER,
    PBOC_MASTERS,
    ROOT_SEED,
    SEAL_MASTER,
    SECTOR_MASTERS,
    SITE,
    card_of,
    ledger_certificate,
    no_log,
    signed_list,
)

ADDRESS: Final = "10.0.0.1:4700"
FIRST: Final = 4001
MERCHANTS: Final = 3
FIRST_CARD: Final = 1000
RUN_MS_MAX: Final = 600_000
EPOCH_STEP: Final = 1_000_000


def make_place(
    directory: Path,
    *,
    terminals: int = 4,
    cards: int = 40,
    memory: int = 0,
    pboc: int = 0,
    balance_cents: int = 1_000_000,
) -> SimPlace:
    """Registry, card images and key files, as `onecard keys` would make them; AES cards first."""
    registry = Registry(SITE)
    keys: dict[str, bytes] = {}
    for number in range(FIRST, FIRST + terminals):
        entry = EnrolledTerminal(
            number, TerminalClass.TERMINAL, TerminalKind.POS, 1, Suite.A, 1, bytes(8), 101 + number % MERCHANTS
        )
        registry.put(entry)
        keys[f"link.{number}.1"] = link_key(LINK_MASTER, terminal=number, epoch=1, key_version=1)
        keys[f"seal.{number}.1"] = seal_key(SEAL_MASTER, terminal=number, epoch=1)
    stores = {
        "terminals": Keystore("terminals", SITE, keys, {"root_public": SoftwareSigner(ROOT_SEED).public_key.hex()}),
        "sam": Keystore(
            "sam",
            SITE,
            {
                "card_authenticate_master.1": AUTHENTICATE_MASTER,
                "card_debit_master.1": DEBIT_MASTER,
                "memory_purse_a_master.1": SECTOR_MASTERS[Application.PURSE].a,
                **{f"pboc_{name}_master.1": PBOC_MASTERS[name] for name in ("internal", "purchase", "maintenance")},
            },
            {},
        ),
    }
    directory.mkdir(exist_ok=True)
    (directory / "registry.json").write_bytes(registry.dump())
    shares = {CardKind.AES: cards - memory - pboc, CardKind.MEMORY: memory, CardKind.PBOC: pboc}
    names = {CardKind.AES: "images.bin", CardKind.MEMORY: MEMORY_IMAGES_FILE, CardKind.PBOC: PBOC_IMAGES_FILE}
    number = FIRST_CARD
    for kind, share in shares.items():
        made = [card_of(kind, each, balance_cents=balance_cents) for each in range(number, number + share)]
        number += share
        if made:
            images = [card.image if isinstance(card, MemoryCard) else card for card in made]
            (directory / names[kind]).write_bytes(b"".join(image.encode() for image in images))
    return SimPlace(registry=directory / "registry.json", card_images=directory / "images.bin", keystore=stores.get)  # type: ignore[arg-type]  # both names are there


@dataclass
class FleetFrontEnd:
    """Keeps every record of every terminal, acknowledges at once, hands out one deny list."""

    host: Host
    stored: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """Terminal → sequence → record."""
    offered_twice: int = 0
    acknowledges: bool = True
    denied: list[int] = field(default_factory=list)
    sessions: dict[int, _Connection] = field(default_factory=dict)

    def listen(self) -> None:
        self.host.listen(ADDRESS, lambda: _Connection(self))

    def deny(self, *cards: int) -> None:
        self.denied = sorted(cards)
        for session in list(self.sessions.values()):
            session.offer_list()

    def records(self) -> int:
        return sum(len(held) for held in self.stored.values())


class _Connection:
    def __init__(self, frontend: FleetFrontEnd) -> None:
        self.frontend = frontend
        self.terminal = 0
        """Its key in `stored`: an epoch apart for the next device under the same number."""
        self.epoch = 1
        self.floor = 0
        host = frontend.host
        self.stream: Stream | None = None
        self.session = FrontEndSession(
            frontend=1,
            site=SITE,
            medium=Medium.TCP,
            body_bytes_max=BODY_BYTES_MAX_TCP,
            nonce=host.random_bytes(16),
            find_key=self.find_key,
            now_ms=host.monotonic_ms(),
        )

    def find_key(self, hello: Hello) -> bytes:
        self.terminal = hello.terminal + (hello.epoch - 1) * EPOCH_STEP
        self.epoch = hello.epoch
        return link_key(LINK_MASTER, terminal=hello.terminal, epoch=hello.epoch, key_version=1)

    def connected(self, stream: Stream) -> None:
        self.stream = stream

    def received(self, data: bytes) -> None:
        for event in self.session.receive(data, self.frontend.host.monotonic_ms()):
            if isinstance(event, Established):
                self.frontend.sessions[self.terminal] = self
                self.offer_list()
            elif isinstance(event, bytes):
                self.take(decode_up(event))
        self.flush()

    def take(self, message: object) -> None:
        held = self.frontend.stored.setdefault(self.terminal, {})
        if isinstance(message, Baseline):
            self.floor = message.entries[-1].first_unacknowledged - 1
            self.acknowledge(held)
        elif isinstance(message, Upload):
            for record in map(bytes, walk(message.records)):
                sequence = read_head(record).sequence
                assert held.get(sequence, record) == record, "the same identity with other bytes"
                self.frontend.offered_twice += sequence in held
                held[sequence] = record
            self.acknowledge(held)
        elif isinstance(message, Heartbeat):
            self.send(Time(message.boot, message.uptime_ds, self.frontend.host.now_ms()).encode())

    def acknowledge(self, held: dict[int, bytes]) -> None:
        if self.frontend.acknowledges:
            while self.floor + 1 in held:
                self.floor += 1
            self.send(Ack(self.epoch, self.floor, 0, 4).encode())

    def offer_list(self) -> None:
        if self.frontend.denied:
            head, content = signed_list(len(self.frontend.denied), self.frontend.denied)
            assert DenyList(self.frontend.denied).content() == content
            offer = ListOffer(ListForm.SNAPSHOT, 0, 0, len(content), head, ledger_certificate().encode(), content)
            self.send(offer.encode())

    def send(self, message: bytes) -> None:
        if self.session.established:
            self.session.send(message)
            self.flush()

    def flush(self) -> None:
        output = self.session.take_output()
        if output and self.stream is not None:
            self.stream.write(output)
        if self.session.closed and self.stream is not None:
            self.stream.close()

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        if self.frontend.sessions.get(self.terminal) is self:
            del self.frontend.sessions[self.terminal]


class Ports:
    """What `Play.start` takes; the exit code of the run is kept."""

    def __init__(self, host: Host) -> None:
        self.clock: Clock = host
        self.network: Network = host
        self.random: Random = host
        self.log = no_log
        self.signal: Callable[[], None] | None = None
        self.exit_code: int | None = None

    def on_signal(self, callback: Callable[[], None]) -> None:
        self.signal = callback

    def stop(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


class Canteen:
    """One run against one front-end under virtual time."""

    def __init__(self, directory: Path, *, seed: int = 1, has_frontend: bool = True, **place: int) -> None:
        self.world = World(seed)
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.place = make_place(directory / "site", **place)
        self.frontend = FleetFrontEnd(Host(self.world, "frontend"))
        if has_frontend:
            self.frontend.listen()
        self.events: list[dict[str, Any]] = []
        self.lives = 0
        self.plays: list[Play] = []

    def close(self) -> None:
        """A test that has failed in the middle leaves runs open."""
        for play in self.plays:
            play.close()

    @property
    def dump(self) -> Path:
        return self.directory / "dump"

    def begin(self, asked: Asked, **given: Any) -> tuple[Play, Ports]:
        self.lives += 1
        self.host = Host(self.world, f"sim{self.lives}")
        ports = Ports(self.host)
        given.setdefault("dump", self.dump)
        play = Play.prepare(self.place, asked, Circumstances(addresses=(ADDRESS,), **given))
        self.plays.append(play)
        play.start(ports, self.events.append)
        return play, ports

    def finish(self, play: Play, ports: Ports) -> int:
        with play:
            assert self.world.run_while(lambda: ports.exit_code is None, limit_ms=RUN_MS_MAX)
        assert ports.exit_code is not None
        return ports.exit_code

    def play(self, asked: Asked, **given: Any) -> int:
        """A whole run; returns its exit code."""
        return self.finish(*self.begin(asked, **given))

    def kill(self, play: Play, after_ms: int) -> None:
        """End the simulator as SIGKILL would: what was written stays, nothing is told to anybody."""
        self.world.run_until(self.world.time_ms + after_ms)
        self.host.crash()
        play.close()

    def read(self, name: str) -> Any:
        return json.loads((self.dump / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.dump / name).read_text(encoding="utf-8").splitlines()]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


def enrol_anew(place: SimPlace, terminal: int) -> None:
    """As `onecard keys replace` does: the next epoch, with keys of its own."""
    registry = Registry.parse(place.registry.read_bytes())
    entry = registry.terminals[terminal].re_enrolled(bytes(range(8)))
    registry.put(entry)
    keys, epoch = place.keystore("terminals").keys, entry.epoch
    keys[f"link.{terminal}.{epoch}"] = link_key(LINK_MASTER, terminal=terminal, epoch=epoch, key_version=1)
    keys[f"seal.{terminal}.{epoch}"] = seal_key(SEAL_MASTER, terminal=terminal, epoch=epoch)
    place.registry.write_bytes(registry.dump())


def asked(**changes: Any) -> Asked:
    return Asked(**({"terminals": 4, "taps": 200, "rate": 40.0, "seed": 5} | changes))
