"""One front-end under virtual time, with a real spool in a file, and whatever terminals a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from frontend_server.alarms import Alarms
from frontend_server.keys import FrontendKeys
from frontend_server.server import FrontendServer
from frontend_server.settings import FrontendSettings
from ledger_sync.link.requests import Answered
from ledger_sync.link.settings import LedgerEvents
from ledger_sync.spool import Spool, SpoolWriter
from protocol.codes import ListForm, ListKind, ReportKind, Suite, TerminalClass, TerminalKind
from protocol.deny_list import DenyList, make_delta
from protocol.documents import canonical
from protocol.handshake import TerminalIdentity
from protocol.list_kinds import kinds_held_by
from protocol.ports import Stream
from protocol.registry import EnrolledTerminal, Registry
from protocol.signed import (
    Certificate,
    CertificateUse,
    SignedHead,
    SoftwareSigner,
    Version,
    issue_certificate,
    sign_head,
)
from protocol.trade_time import fixed_offset
from tests.frontend.scripted_terminal import HeldList, ScriptedTerminal, purchase_chain
from tests.simulation.world import EPOCH_MS, Host, World

T = TypeVar("T")
SITE: Final = 9
FRONTEND: Final = 7
ADDRESS: Final = "10.0.0.1:4700"
CONTROL: Final = "/run/onecard/frontend.sock"
LINK_MASTER: Final = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
BATCH_KEY: Final = bytes.fromhex("b0a7c4c0ffee0ddba5eba11decade001")
ROOT_SEED: Final = bytes(range(32))
SIGNING_SEED: Final = bytes(range(32, 64))
LISTS_SEED: Final = bytes(range(64, 96))
ROOT_PUBLIC: Final = SoftwareSigner(ROOT_SEED).public_key
ENROLMENT_ID: Final = bytes.fromhex("0011223344556677")


class FakeForwarder:
    """Writes down what it was asked."""

    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.events: LedgerEvents | None = None
        self.requests: list[tuple[ListKind, Version]] = []
        self.reports: list[tuple[int, ReportKind, str]] = []
        self.asked: list[tuple[int, bytes, Answered]] = []
        self.life = 1

    def attach(self, events: LedgerEvents) -> None:
        self.events = events

    def start(self) -> None:
        self.order.append("forwarder started")

    def stop(self, done: Callable[[], None]) -> None:
        self.order.append("forwarder stopped")
        done()

    def request_list(self, kind: ListKind, version: Version) -> None:
        self.requests.append((kind, version))

    def report(self, terminal: int, kind: ReportKind, text: str) -> None:
        self.reports.append((terminal, kind, text))

    def ask(self, kind: int, body: bytes, *, within_ms: int, answered: Answered) -> None:
        self.asked.append((kind, body, answered))

    def state(self) -> Mapping[str, object]:
        return {"state": "offline"}


class HeldExecutor:
    """The spool's executor, which a test can hold: what was submitted waits until `release`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.is_held = False
        self.waiting: list[Callable[[], None]] = []
        self.fails: BaseException | None = None

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        def failing() -> T:
            assert self.fails is not None
            raise self.fails

        def go() -> None:
            self.host.submit(work if self.fails is None else failing, done)

        if self.is_held:
            self.waiting.append(go)
        else:
            go()

    def release(self) -> None:
        self.is_held = False
        waiting, self.waiting = self.waiting, []
        for go in waiting:
            go()

    def close(self) -> None:
        pass


class Site:
    """World, front-end and terminals of one test; `close` leaves nothing open."""

    def __init__(
        self, directory: Path, *, seed: int = 1, enrolled: int = 8, starts: bool = True, **settings: Any
    ) -> None:
        self.world = World(seed)
        self.directory = directory
        self.order: list[str] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.registry = Registry(SITE)
        for terminal in range(101, 101 + enrolled):
            self.registry.put(
                EnrolledTerminal(terminal, TerminalClass.TERMINAL, TerminalKind.POS, 1, Suite.A, 1, ENROLMENT_ID)
            )
        self.settings = FrontendSettings(
            frontend=FRONTEND,
            site=SITE,
            listen_address=ADDRESS,
            control_address=CONTROL,
            cache_dir=str(directory),
            **settings,
        )
        self.lives = 0
        self.boot(starts=starts)

    def boot(self, *, starts: bool = True) -> None:
        """Open the spool and start a server, as a process would."""
        self.lives += 1
        self.host = Host(self.world, f"frontend{self.lives}")
        self.executor = HeldExecutor(self.host)
        self.forwarder = FakeForwarder(self.order)
        self.alarms = Alarms()
        self.spool = self._open_spool()
        self.writer = SpoolWriter(self.spool, executor=self.executor, clock=self.host, log=self.log)
        self.server = FrontendServer(
            settings=self.settings,
            keys=FrontendKeys({1: LINK_MASTER}, BATCH_KEY),
            root_public=ROOT_PUBLIC,
            registry=self.registry,
            clock=self.host,
            network=self.host,
            random=self.host,
            files=self.host,
            executor=self.host,
            writer=self.writer,
            forwarder=self.forwarder,
            log=self.log,
            alarms=self.alarms,
        )
        if starts:
            self.server.start()

    def _open_spool(self) -> Spool:
        return Spool.open(
            str(self.directory / "spool.db"),
            frontend=FRONTEND,
            site=SITE,
            utc_offset_ms=fixed_offset(480),
            clock=self.host,
            random=self.host,
            files=self.host,
            log=self.log,
        )

    def power_cut(self) -> None:
        """The machine goes; the spool's file stays as it is on disk."""
        self.host.crash()
        self.spool.close()

    def close(self) -> None:
        self.spool.close()

    def spool_reopened(self) -> Spool:
        """The spool's file as the next process finds it; closed with the site."""
        self.spool.close()
        self.spool = self._open_spool()
        return self.spool

    def log(self, event: str, /, **facts: object) -> None:
        self.events.append((event, facts))

    def logged(self, event: str) -> list[dict[str, object]]:
        return [facts for name, facts in self.events if name == event]

    # -- time

    def run(self, ms: int = 200) -> None:
        self.world.run_until(self.world.time_ms + ms)

    # -- terminals

    def terminal(
        self, terminal: int = 101, *, records: int = 0, host: str = "", documents: bool = False, **changes: Any
    ) -> ScriptedTerminal:
        """A terminal as enrolled, except for `changes` of its identity; it reports `documents` if it shall."""
        fields = {
            "site": SITE,
            "terminal": terminal,
            "epoch": 1,
            "key_version": 1,
            "terminal_kind": TerminalKind.POS,
            **changes,
        }
        link_master = fields.pop("link_master", LINK_MASTER)
        identity = TerminalIdentity(**fields)
        made = ScriptedTerminal(
            Host(self.world, host or f"terminal{terminal}"),
            ADDRESS,
            identity,
            link_master,
            ENROLMENT_ID,
            root_public=ROOT_PUBLIC,
        )
        for kind in kinds_held_by(identity.terminal_kind)[1:] if documents else ():
            made.documents[kind] = HeldList(kind, site=SITE, root_public=ROOT_PUBLIC)
        made.records = purchase_chain(terminal, identity.epoch, ENROLMENT_ID, records)
        return made

    def logged_in(self, terminal: int = 101, *, records: int = 0, **changes: Any) -> ScriptedTerminal:
        made = self.terminal(terminal, records=records, **changes)
        made.connect()
        self.run()
        assert made.is_established
        assert len(made.acks()) == 1
        return made

    # -- lists

    def certificate(self, *, site: int = SITE, root: bytes = ROOT_SEED) -> Certificate:
        return issue_certificate(
            root,
            key_id=1,
            site=site,
            valid_from_ms=EPOCH_MS - 1,
            valid_to_ms=EPOCH_MS + 10**10,
            public_key=SoftwareSigner(SIGNING_SEED).public_key,
        )

    def head(self, counter: int, content: bytes, *, generation: int = 1, seed: bytes = SIGNING_SEED) -> SignedHead:
        return sign_head(
            seed,
            key_id=1,
            site=SITE,
            list_kind=ListKind.DENY,
            generation=generation,
            counter=counter,
            issued_ms=EPOCH_MS,
            content=content,
        )

    def issue(self, counter: int, cards: DenyList, *, base: tuple[int, DenyList] | None = None) -> SignedHead:
        """The ledger sends version (1, counter), as a snapshot or as a delta from (counter, list)."""
        head = self.head(counter, cards.content())
        assert self.forwarder.events is not None
        if base is None:
            self.forwarder.events.on_list(head, self.certificate(), ListForm.SNAPSHOT, (0, 0), cards.content())
        else:
            delta = make_delta(base[1], cards)
            self.forwarder.events.on_list(head, self.certificate(), ListForm.DELTA, (1, base[0]), delta)
        return head

    def published(self, kind: ListKind, counter: int, document: dict[str, Any], **changes: Any) -> bytes:
        """A file as `onecard keys publish` writes it, but for `changes`."""
        facts: dict[str, Any] = {
            "seed": LISTS_SEED,
            "root": ROOT_SEED,
            "site": SITE,
            "use": CertificateUse.OFFLINE,
            "generation": 1,
        }
        facts |= {"content": canonical(document), "valid_to_ms": EPOCH_MS + 10**10} | changes
        certificate = issue_certificate(
            facts["root"],
            key_id=1,
            site=facts["site"],
            valid_from_ms=EPOCH_MS - 1,
            valid_to_ms=facts["valid_to_ms"],
            public_key=SoftwareSigner(LISTS_SEED).public_key,
            use=facts["use"],
        )
        head = sign_head(
            facts["seed"],
            key_id=1,
            site=facts["site"],
            list_kind=kind,
            generation=facts["generation"],
            counter=counter,
            issued_ms=EPOCH_MS,
            content=facts["content"],
        )
        return head.encode() + certificate.encode() + bytes(facts["content"])

    def publish(self, kind: ListKind, counter: int, document: dict[str, Any], **changes: Any) -> None:
        """A file of parameters or permissions has changed."""
        self.server.parts.distribution.on_published(kind, self.published(kind, counter, document, **changes))

    # -- control

    def ask(self, **request: Any) -> dict[str, Any]:
        client = ControlClient(self.host)
        client.ask(json.dumps(request).encode() + b"\n")
        self.run()
        answer = client.answers()[0]
        assert isinstance(answer, dict)
        return answer


class ControlClient:
    """A StreamHandler that asks and keeps the answers."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.data = b""
        self.is_closed = False
        self.stream: Stream | None = None
        self._waiting = b""

    def ask(self, line: bytes) -> None:
        if self.stream is None:
            self._waiting += line
            self.host.connect(CONTROL, self)
        else:
            self.stream.write(line)

    def answers(self) -> list[Any]:
        return [json.loads(line) for line in self.data.splitlines()]

    def connected(self, stream: Stream) -> None:
        self.stream = stream
        stream.write(self._waiting)

    def received(self, data: bytes) -> None:
        self.data += data

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True
