"""The forwarder: keeps the link to the ledger up, and has batches sent and settled over it (R16, R17).

Runs in the `serve` process as a callback object on the ports. It never deletes and never decides that something has
arrived: a row leaves its hands only when `Spool.settle` has found the digest in its own file. A connection that
ends forgets what was outstanding; the same rows are claimed and sent again, and the ledger answers for what it has.

    IDLE ─start─▶ CONNECTING ─▶ GREETING ─WELCOME─▶ UP ─(close, timeout, fault)─▶ WAITING ─back-off─▶ CONNECTING
    any ─stop─▶ STOPPED
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, TypeVar

from ledger_sync.link.outbox import Outbox
from ledger_sync.link.requests import Answered, Requests
from ledger_sync.link.session import FrontEndLink, LinkState
from ledger_sync.link.settings import ForwarderSettings, LedgerEvents, SpoolAccess
from ledger_sync.spool.spool import Spool
from protocol.codes import ListKind, RefusalCode, ReportKind
from protocol.errors import RemoteError
from protocol.limits import REPORT_TEXT_BYTES_MAX
from protocol.link_messages import (
    Answer,
    BatchMessage,
    DownMessage,
    LinkHello,
    LinkWelcome,
    ListMessage,
    ListRequest,
    Ping,
    Pong,
    Receipt,
    RecollectRequest,
    Refusal,
    Report,
    Request,
)
from protocol.mac import MacKey
from protocol.ports import Clock, Log, Network, Random, Stream
from protocol.signed import Certificate, SignedHead, Version

T = TypeVar("T")

REPORTS_QUEUED_MAX: Final = 256  # what the operator must know while the ledger is away; the oldest goes first


class ForwarderState(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    GREETING = "greeting"
    UP = "up"
    WAITING = "waiting"
    STOPPED = "stopped"


class _Wire:
    """The `StreamHandler` of one connection: what an earlier one still has to say goes nowhere."""

    __slots__ = ("_forwarder", "_life")

    def __init__(self, forwarder: Forwarder, life: int) -> None:
        self._forwarder = forwarder
        self._life = life

    def _is_current(self) -> bool:
        return self._life == self._forwarder.life

    def connected(self, stream: Stream) -> None:
        if self._is_current():
            self._forwarder.wire_connected(stream)
        else:
            stream.abort()

    def received(self, data: bytes) -> None:
        if self._is_current():
            self._forwarder.wire_received(data)

    def drained(self) -> None:
        """Nothing waits on it: what may be outstanding is bounded by batches."""

    def closed(self, error: Exception | None) -> None:
        if self._is_current():
            self._forwarder.wire_closed(error)


class _Counted:
    """The forwarder's way to the spool, as the outbox sees it."""

    __slots__ = ("_forwarder",)

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def run(self, work: Callable[[Spool], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        self._forwarder.run_on_spool(work, done)


class Forwarder:
    """Owns one connection to the ledger at a time."""

    def __init__(
        self,
        settings: ForwarderSettings,
        *,
        batch_key: MacKey,
        spool: SpoolAccess,
        clock: Clock,
        network: Network,
        random: Random,
        log: Log,
        wire_facts: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        self._settings = settings
        self._wire_facts = wire_facts
        self._batch_key = batch_key
        self._spool = spool
        self._clock = clock
        self._network = network
        self._random = random
        self._log = log
        self._events: LedgerEvents | None = None
        self._state = ForwarderState.IDLE
        self.life = 0  # rises with every connection: late answers of an older one are recognised
        self._stream: Stream | None = None
        self._link: FrontEndLink | None = None
        self._spool_calls = 0
        self._outbox = Outbox(
            _Counted(self), clock=clock, log=log, send=self._send, settled=self._tell_settled, failed=self._lose
        )
        self._requests = Requests(clock=clock, random=random, send=self._send)
        self._reports: deque[Report] = deque(maxlen=REPORTS_QUEUED_MAX)
        self._back_off_ms = settings.back_off_ms_min
        self._heard_at_ms = 0
        self._stopped: Callable[[], None] | None = None
        self._since_ms = clock.now_ms()
        self._refusals = 0
        self._last_refusal: str | None = None
        self.connections = 0
        self.last_fault = ""

    # -- what the server calls ----------------------------------------------------------------------------------------

    def attach(self, events: LedgerEvents) -> None:
        """Called once, before `start`."""
        self._events = events

    def start(self) -> None:
        """Connect, and stay connected until `stop`."""
        self._connect()

    def stop(self, done: Callable[[], None]) -> None:
        """Let go of the link; `done` when nothing of ours runs on the spool any more. Idempotent."""
        previous, self._stopped = self._stopped, done
        self._state = ForwarderState.STOPPED
        self._hang_up()
        if previous is not None and previous is not done:
            previous()
        self._finish_stop()

    def request_list(self, kind: ListKind, version: Version) -> None:
        """Ask for a list; dropped while offline, since the ledger sends every current list after LINK_WELCOME."""
        self._send(ListRequest(kind, *version))

    def report(self, terminal: int, kind: ReportKind, text: str) -> None:
        """Tell the ledger's operator, now or when the link is up again."""
        short = text.encode()[:REPORT_TEXT_BYTES_MAX].decode(errors="ignore")
        self._reports.append(Report(terminal, kind, short))
        self._send_reports()

    def ask(self, kind: int, body: bytes, *, within_ms: int, answered: Answered) -> None:
        """A question that somebody waits for; `answered` follows once, with None where no answer came in time."""
        self._requests.ask(kind, body, within_ms=within_ms, answered=answered)

    def state(self) -> Mapping[str, object]:
        """Figures for `status`, as JSON values."""
        return {
            "state": self._state.value,
            "address": self._settings.address,
            "batches_outstanding": len(self._outbox),
            "batches_sent": self._outbox.batches_sent,
            "batches_settled": self._outbox.batches_settled,
            "receipts_ignored": self._outbox.receipts_ignored,
            "since_ms": self._since_ms,
            "refusals": self._refusals,
            "last_refusal": self._last_refusal,
            "connections": self.connections,
            "last_fault": self.last_fault,
            "requests": self._requests.asked,
            "requests_expired": self._requests.expired,
            "answers_dropped": self._requests.dropped,
            "broker": None if self._wire_facts is None else self._wire_facts(),
        }

    # -- the wire ------------------------------------------------------------------------------------------------------

    def wire_connected(self, stream: Stream) -> None:
        self._stream = stream
        self._state = ForwarderState.GREETING
        self.connections += 1
        life = self.life

        def facts(spool: Spool) -> tuple[bytes, int, int, tuple[int, int]]:
            return spool.identity.spool_id, spool.identity.birth_ms, spool.last_row(), spool.known_ledger()

        def greet(found: tuple[bytes, int, int, tuple[int, int]] | None, error: BaseException | None) -> None:
            if life != self.life:
                return
            if found is None:
                self._lose(f"the spool cannot be asked: {error}")
                return
            spool_id, birth_ms, last_row, (generation, position) = found
            hello = LinkHello(
                frontend=self._settings.frontend,
                spool_id=spool_id,
                spool_birth_ms=birth_ms,
                last_row=last_row,
                nonce=self._random.random_bytes(16),
                ledger_generation=generation,
                ledger_position=position,
            )
            self._link = FrontEndLink(
                hello,
                batch_key=self._batch_key,
                root_public_key=self._settings.root_public_key,
                site=self._settings.site,
            )
            self._flush()

        self.run_on_spool(facts, greet)
        self._after(self._settings.greeting_timeout_ms, self._check_greeting)

    def wire_received(self, data: bytes) -> None:
        link = self._link
        if link is None:
            return
        self._heard_at_ms = self._clock.monotonic_ms()
        life = self.life
        for message in link.receive(data, self._clock.now_ms()):
            self._dispatch(message)
            if life != self.life:
                return
        if link.state is LinkState.CLOSED:
            self._log("link.fault", alarm=True, error=str(link.failure))
            self._lose(str(link.failure))

    def wire_closed(self, error: Exception | None) -> None:
        self._stream = None
        self._lose(f"connection closed: {error}" if error else "connection closed")

    # -- messages of the ledger ---------------------------------------------------------------------------------------

    def _dispatch(self, message: DownMessage) -> None:
        match message:
            case Receipt():
                self._outbox.receipt(message)
            case LinkWelcome():
                self._take_welcome(message)
            case ListMessage():
                self._take_list(message)
            case RecollectRequest():
                if self._events is not None:
                    self._events.on_recollect(message.terminal, message.epoch, message.first, message.last)
            case Refusal():
                self._take_refusal(message)
            case Answer():
                self._requests.answer(message)
            case Pong():
                pass  # `received` has noted that the ledger lives

    def _take_welcome(self, welcome: LinkWelcome) -> None:
        life = self.life

        def reconcile(spool: Spool) -> bool:
            generation, _ = spool.known_ledger()
            if welcome.generation > generation:
                spool.unsettle_above(welcome.generation, welcome.position)
            return welcome.generation >= generation

        def reconciled(is_current: bool | None, error: BaseException | None) -> None:  # noqa: FBT001 - a result
            if life != self.life:
                return
            if error is not None:
                self._lose(f"the spool cannot be asked: {error}")
            elif not is_current:
                self._log("link.old_ledger", alarm=True, generation=welcome.generation)
                self._lose("the ledger is of an older generation than one that has already settled rows here")
            else:
                self._state = ForwarderState.UP
                self._since_ms = self._clock.now_ms()
                self._outbox.reset(is_open=True)
                self._back_off_ms = self._settings.back_off_ms_min
                self._log("link.up", generation=welcome.generation, position=welcome.position)
                self._send_reports()
                self._keep_alive()
                self._pump_regularly()

        self.run_on_spool(reconcile, reconciled)

    def _tell_settled(self, terminals: set[tuple[int, int]]) -> None:
        if self._events is not None:
            self._events.on_settled(terminals)

    def _take_list(self, message: ListMessage) -> None:
        try:
            head = SignedHead.decode(message.head)
            certificate = Certificate.decode(message.certificate)
        except RemoteError as error:
            self._log("link.bad_list", alarm=True, error=str(error))
            if self._events is not None:
                self._events.on_damaged_list(str(error))
            return
        if self._events is not None:
            base = (message.base_generation, message.base_counter)
            self._events.on_list(head, certificate, message.form, base, bytes(message.data))

    def _take_refusal(self, refusal: Refusal) -> None:
        self._refusals += 1
        self._last_refusal = refusal.code.name
        self._log("link.refused", alarm=refusal.code is not RefusalCode.TRY_LATER, code=refusal.code.name)
        if refusal.code is not RefusalCode.TRY_LATER:
            self._back_off_ms = self._settings.back_off_ms_max
        self._lose(f"the ledger refuses: {refusal.code.name}")

    # -- sending ------------------------------------------------------------------------------------------------------

    def _pump_regularly(self) -> None:
        if self._state is ForwarderState.UP:
            self._outbox.pump()
            self._after(self._settings.claim_interval_ms, self._pump_regularly)

    def _send_reports(self) -> None:
        while self._reports and self._state is ForwarderState.UP:
            self._send(self._reports.popleft())

    def _send(self, message: BatchMessage | ListRequest | Report | Ping | Request) -> bool:
        """Whether there was a connection to send it on; whether it arrives nobody knows."""
        if self._state is not ForwarderState.UP or self._link is None:
            return False
        self._link.send(message)
        self._flush()
        return True

    def _flush(self) -> None:
        if self._link is not None and self._stream is not None:
            self._stream.write(self._link.take_output())

    # -- time ---------------------------------------------------------------------------------------------------------

    def _keep_alive(self) -> None:
        if self._state is not ForwarderState.UP:
            return
        now_ms, settings = self._clock.monotonic_ms(), self._settings
        oldest_ms = self._outbox.oldest_ms()
        if oldest_ms is not None and now_ms - oldest_ms > settings.receipt_timeout_ms:
            self._lose("a batch was not answered in time")
        elif now_ms - self._heard_at_ms > 3 * settings.ping_interval_ms:
            self._lose("the ledger is silent")
        else:
            self._send(Ping(self._random.random_bytes(16)))
            self._after(settings.ping_interval_ms, self._keep_alive)

    def _check_greeting(self) -> None:
        if self._state is ForwarderState.GREETING:
            self._lose("no LINK_WELCOME in time")

    def _after(self, delay_ms: int, callback: Callable[[], None]) -> None:
        life = self.life

        def run() -> None:
            if life == self.life:
                callback()

        self._clock.call_at(self._clock.monotonic_ms() + delay_ms, run)

    # -- connecting, losing, stopping ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._state is ForwarderState.STOPPED:
            return
        self.life += 1
        self._state = ForwarderState.CONNECTING
        self._network.connect(self._settings.address, _Wire(self, self.life))

    def _lose(self, why: str) -> None:
        """Give the connection up and come back after a while, longer each time, never at the same moment as others."""
        if self._state in {ForwarderState.WAITING, ForwarderState.STOPPED}:
            return
        self.last_fault = why
        if self._state is ForwarderState.UP:
            self._since_ms = self._clock.now_ms()
        self._log("link.down", why=why)
        self._state = ForwarderState.WAITING
        self._hang_up()
        jitter = int.from_bytes(self._random.random_bytes(2), "big") * self._back_off_ms // 0x1_0000
        self._after(self._back_off_ms + jitter, self._connect)
        self._back_off_ms = min(2 * self._back_off_ms, self._settings.back_off_ms_max)

    def _hang_up(self) -> None:
        self.life += 1
        stream, self._stream = self._stream, None
        self._link = None
        self._outbox.reset(is_open=False)
        self._requests.forget()
        if stream is not None:
            stream.abort()

    def run_on_spool(self, work: Callable[[Spool], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """`SpoolAccess.run`, counted: `stop` waits for what is under way."""
        self._spool_calls += 1

        def finished(result: T | None, error: BaseException | None) -> None:
            self._spool_calls -= 1
            done(result, error)
            self._finish_stop()

        self._spool.run(work, finished)

    def _finish_stop(self) -> None:
        if self._state is ForwarderState.STOPPED and self._spool_calls == 0 and self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            stopped()
