"""The link through real brokers, with the shipped configuration: killed, frozen, cut; 0 lost, 0 twice, drained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.mqtt import MqttFrontend
from ledger_sync.link.mqtt_conversation import Conversation
from ledger_sync.link.mqtt_ledger import MqttLedger
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool.intake import RecordsIntake
from ledger_sync.spool.spool import Spool
from ledger_sync.spool.writer import SpoolWriter
from onecard_runtime import Runtime
from protocol.codes import ListForm
from protocol.limits import LINK_MESSAGE_BYTES_MAX
from protocol.link_messages import ListMessage
from protocol.ports import BusAccess
from protocol.rows import peek
from protocol.signed import issue_certificate
from tests.link.brokers import KINDS, RealBroker, missing, program_of
from tests.link.scripted_ledger import BATCH_KEY, FRONTEND, ROOT, SIGNER, SITE, YEAR_MS, ScriptedLedger
from tests.protocol.samples import EPOCH, TERMINAL, chain, purchase

ROWS = 300
LOOK_MS = 10
LIMIT_MS = 60_000  # a run takes some seconds; a loaded machine is no failure


def quiet(event: str, /, **facts: object) -> None:
    """A log that nobody reads."""


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealBroker]:
    kind: str = request.param
    if program_of(kind) is None:
        pytest.skip(missing(kind))
    made = RealBroker(kind, tmp_path / kind).start()
    yield made
    made.kill()


class Run:
    """Both sides of the link on one runtime, each with sessions of its own; `act` is called until `is_done`."""

    def __init__(self, directory: Path, broker: RealBroker, *, plain_asyncio: bool = False) -> None:
        self.broker = broker
        self.directory = directory
        self.runtime = Runtime(log=quiet, plain_asyncio=plain_asyncio)
        self.ledger = ScriptedLedger()
        self.timed_out = False
        self._acts: list[tuple[Callable[[], bool], Callable[[], None]]] = []

    def when(self, condition: Callable[[], bool], act: Callable[[], None]) -> None:
        """Do it once, when the condition has come true and all before it was done."""
        self._acts.append((condition, act))

    def run(self) -> None:
        """Until every act was done and the spool is drained."""
        self.runtime.run(self._start)
        self.spool.close()
        assert not self.timed_out, f"{len(self._acts)} acts left, {self.offered} rows offered"

    def _start(self, runtime: Runtime) -> None:
        now_ms = runtime.clock.now_ms()
        self.ledger.certificate = issue_certificate(
            ROOT,
            key_id=1,
            site=SITE,
            valid_from_ms=now_ms - YEAR_MS,
            valid_to_ms=now_ms + YEAR_MS,
            public_key=SIGNER.public_key,
        )
        self.spool = Spool.open(
            str(self.directory / "spool.db"),
            frontend=FRONTEND,
            site=SITE,
            utc_offset_ms=lambda _: 8 * 3_600_000,
            clock=runtime.clock,
            random=runtime.random,
            files=runtime.files,
            log=quiet,
        )
        payload = chain(*(purchase() for _ in range(ROWS)))
        for at in range(0, 96 * ROWS, 96):
            self.spool.append([RecordsIntake(TERMINAL, EPOCH, payload[at : at + 96], now_ms, 1)])
        writer = SpoolWriter(self.spool, executor=runtime.executor("spool"), clock=runtime.clock, log=quiet)
        side = {"site": SITE, "clock": runtime.clock, "random": runtime.random, "log": quiet}
        self.listening = MqttLedger(runtime.bus(BusAccess()), **side)  # type: ignore[arg-type]
        self.listener = self.listening.listen(self.broker.address, self.ledger.accept)
        self.network = MqttFrontend(runtime.bus(BusAccess()), frontend=FRONTEND, **side)  # type: ignore[arg-type]
        self.forwarder = Forwarder(
            ForwarderSettings(
                frontend=FRONTEND, site=SITE, address=self.broker.address, root_public_key=ROOT.public_key,
                back_off_ms_max=500,
            ),
            batch_key=BATCH_KEY, spool=writer, clock=runtime.clock, network=self.network, random=runtime.random,
            log=quiet,
        )  # fmt: skip
        self.forwarder.start()
        self._end_ms = runtime.clock.monotonic_ms() + LIMIT_MS
        self._look()

    @property
    def offered(self) -> int:
        return len({row for batch in self.ledger.batches for row, _ in batch.rows})

    def _look(self) -> None:
        clock = self.runtime.clock
        while self._acts and self._acts[0][0]():
            self._acts.pop(0)[1]()
        self.timed_out = clock.monotonic_ms() > self._end_ms
        is_drained = not self._acts and self.spool.facts().rows_unsettled == 0
        if is_drained or self.timed_out:
            self.forwarder.stop(lambda: None)
            self.network.close()
            self.listener.close()
            self.runtime.stop()
        else:
            clock.call_at(clock.monotonic_ms() + LOOK_MS, self._look)


@pytest.mark.parametrize("plain_asyncio", [False, True], ids=["uvloop", "asyncio"])
def test_rows_go_through_and_are_settled(tmp_path: Path, broker: RealBroker, plain_asyncio: bool) -> None:
    run = Run(tmp_path, broker, plain_asyncio=plain_asyncio)
    run.run()
    assert run.offered == ROWS
    assert run.listening.dropped == run.network.dropped == {}
    assert run.network.sessions == run.listening.sessions == 1


def test_a_broker_killed_mid_stream_and_restarted_loses_nothing(tmp_path: Path, broker: RealBroker) -> None:
    run = Run(tmp_path, broker)
    run.ledger.answers = False  # so that batches are out when it dies

    def kill() -> None:
        run.broker.kill()
        run.ledger.answers = True

    def restart() -> None:
        run.broker.start()

    run.when(lambda: run.offered > 0, kill)
    run.when(lambda: not run.network.is_open and not run.listening.is_open, restart)
    run.run()
    assert run.offered == ROWS
    assert run.network.sessions == run.listening.sessions == 2
    for batch in run.ledger.batches:
        assert [peek(row).first for _, row in batch.rows] == [row for row, _ in batch.rows]


def test_a_session_that_breaks_is_known_to_the_ledger_by_its_will(tmp_path: Path, broker: RealBroker) -> None:
    run = Run(tmp_path, broker)

    def cut() -> None:
        session = run.network._session
        assert session is not None
        session.abort()

    offline: list[bool] = []

    def present() -> object:
        return run.listening.facts()["present"]

    run.when(lambda: "online" in str(present()), cut)
    run.when(lambda: run.network.sessions == 2 and "online" in str(present()), lambda: offline.append(True))
    run.run()
    assert offline == [True]
    assert run.offered == ROWS


def test_a_front_end_waits_at_once_when_the_ledgers_session_breaks(tmp_path: Path, broker: RealBroker) -> None:
    run = Run(tmp_path, broker)

    def cut() -> None:
        session = run.listening._session
        assert session is not None
        session.abort()

    run.when(lambda: run.forwarder.state()["state"] == "up", cut)
    run.when(lambda: "offline" in run.forwarder.last_fault or "another life" in run.forwarder.last_fault, lambda: None)
    run.when(lambda: run.listening.sessions == 2, lambda: None)
    run.run()
    assert run.offered == ROWS


def test_the_longest_link_message_passes_through_the_broker(tmp_path: Path, broker: RealBroker) -> None:
    """A message that the broker refuses would end the session, and the same batch would be sent for ever."""
    run = Run(tmp_path, broker)
    sizes: list[int] = []

    def send() -> None:
        hand_over = run.network.hand_over

        def note(arrived: Conversation, counter: int, payload: bytes) -> None:
            sizes.append(len(payload))
            hand_over(arrived, counter, payload)

        run.network.hand_over = note  # type: ignore[assignment, method-assign]
        data = bytes(LINK_MESSAGE_BYTES_MAX - 4 - 264)
        run.ledger.send(ListMessage(ListForm.SNAPSHOT, 0, 0, bytes(128), bytes(120), data))

    run.when(lambda: run.forwarder.state()["state"] == "up" and run.offered == ROWS, send)
    run.when(lambda: LINK_MESSAGE_BYTES_MAX + 12 in sizes, lambda: None)
    run.run()
    assert run.network.sessions == 1
