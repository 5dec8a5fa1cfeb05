"""The ledger's server: front-ends on the link address, operators on the admin socket (docs/protocol.md §11).

    service = LedgerService(open_ledger, addresses, keys=…, network=…, clock=…, executor=…, log=…, files=…, …)
    service.start(ready)        opens the ledger, listens, then ready(None), or ready(error)
    service.stop(done)          takes no more, finishes what was given to the executor, closes the ledger, then done()

All work on the ledger runs on the executor, in the order in which it came, so a front-end's receipts come in the
order of its batches, and a LIST goes out after the commit that issued it and before anything that came later. After
a LedgerFailure the ledger is closed and opened again before the next work; until that succeeds everyone is told to
try later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import apsw

from ledger_sync.ledger import catalogue
from ledger_sync.ledger.admin import Admin, refusal
from ledger_sync.ledger.core import Ledger, Posted
from ledger_sync.ledger.errors import BatchRefused, LedgerFailure
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.recollection import Recollector
from ledger_sync.ledger.wires import GREETING_MS_MAX, AdminWire, FrontEndWire, WireState, refusal_code
from protocol.codes import ListKind, RefusalCode, ReportKind
from protocol.errors import ProofError, RemoteError
from protocol.link_messages import (
    BatchMessage,
    LinkHello,
    LinkWelcome,
    ListMessage,
    ListRequest,
    Ping,
    Pong,
    RecollectRequest,
    Refusal,
    Report,
    decode_up,
    encode_down,
    verify_up,
)
from protocol.mac import MacKey
from protocol.ports import Clock, Executor, Files, Listener, Log, Network

T = TypeVar("T")

FRONTENDS_CONNECTED_MAX: Final = 64
ADMINS_CONNECTED_MAX: Final = 16
BROADCAST_AGAIN_MS: Final = 1_000  # while our own disk fails
REPORTS_KEPT_MAX: Final = 100  # what front-ends reported last; all are in the log


@dataclass(slots=True)
class Addresses:
    """`host:port` or absolute socket path each."""

    link: str
    admin: str


class LedgerService:
    """Callback shell; every method runs on the callbacks' thread, `_with_ledger` work on the executor's."""

    def __init__(
        self, open_ledger: Callable[[], Ledger], addresses: Addresses, *, keys: LedgerKeys, network: Network,
        clock: Clock, executor: Executor, log: Log, files: Files, heads_path: str,
    ) -> None:  # fmt: skip
        self._open_ledger = open_ledger
        self._addresses = addresses
        self._keys = keys
        self._network = network
        self._clock = clock
        self._executor = executor
        self._log = log
        self._files = files
        self._heads_path = heads_path
        self._ledger: Ledger | None = None
        self._listeners: list[Listener] = []
        self._wires: dict[FrontEndWire, None] = {}  # in the order in which they came, as `stop` ends them
        self._frontends: dict[int, FrontEndWire] = {}
        self._admins: dict[AdminWire, None] = {}
        self._reports: deque[dict[str, object]] = deque(maxlen=REPORTS_KEPT_MAX)
        self._is_stopping = False
        self._is_broadcasting = False
        self._recollector = Recollector(clock=clock, on_ledger=self._with_ledger, ask=self._ask_again_for, log=log)
        self.on_stop_verb: Callable[[], None] = lambda: None
        """Called when an operator says stop; the composer calls `stop` and ends the process."""

    # -- life

    def start(self, ready: Callable[[BaseException | None], None]) -> None:
        """Open the ledger on the executor, then listen; raises nothing, `ready` gets what went wrong."""

        def opened(_: None, error: BaseException | None) -> None:
            if error is None:
                try:
                    self._listeners.append(self._network.listen(self._addresses.link, lambda: FrontEndWire(self)))
                    self._listeners.append(self._network.listen(self._addresses.admin, lambda: AdminWire(self)))
                except OSError as refused:
                    error = refused
            ready(error)

        self._with_ledger(lambda _: None, opened)

    def link_address(self) -> str:
        """Where front-ends find it, once ready."""
        return self._listeners[0].address()

    def admin_address(self) -> str:
        """Where operators find it, once ready."""
        return self._listeners[1].address()

    def stop(self, done: Callable[[], None]) -> None:
        """Orderly end: all work given before is finished and answered."""
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()

        def close() -> None:
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None

        def closed(_: None, error: BaseException | None) -> None:
            if error is not None:
                self._log("ledger.not_closed", alarm=True, error=str(error))
            for wire in list(self._wires):
                wire.end()
            for admin in list(self._admins):
                admin.end()
            done()

        self._executor.submit(close, closed)

    def abandon(self) -> None:
        """Drop the ledger as a crash would, without a word to anyone; for worlds in which machines die."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    # -- LinkWork

    def batch_key(self, frontend: int) -> MacKey | None:
        return self._keys.batch_key(frontend)

    def encoded(self, refusal: Refusal) -> bytes:
        return encode_down(refusal, self._keys.signer)

    def opened(self, wire: FrontEndWire) -> bool:
        if self._is_stopping or len(self._wires) >= FRONTENDS_CONNECTED_MAX:
            return False
        self._wires[wire] = None

        def late() -> None:
            if wire.state is WireState.GREETING:
                wire.end()

        self._clock.call_at(self._clock.monotonic_ms() + GREETING_MS_MAX, late)
        return True

    def greeted(self, wire: FrontEndWire, hello: LinkHello) -> None:
        """Newest connection wins; WELCOME and the current lists follow when the ledger was asked."""
        older = self._frontends.get(wire.frontend)
        if older is not None and older is not wire:
            self._log("ledger.superseded", frontend=wire.frontend)
            older.refuse(RefusalCode.SUPERSEDED)
        self._frontends[wire.frontend] = wire
        now_ms = self._clock.now_ms()

        def work(ledger: Ledger) -> tuple[int, list[bytes]]:
            welcome = LinkWelcome(
                site=ledger.site,
                generation=ledger.generation,
                position=ledger.known_position(hello.ledger_generation),
                nonce=hello.nonce,
                utc_ms=now_ms,
                certificate=self._keys.certificate_bytes,
            )
            newest = catalogue.current(ledger.connection, self._keys)
            messages = [encode_down(welcome, self._keys.signer)]
            if newest is not None:
                messages.append(encode_down(newest.snapshot(), self._keys.signer))
            return ledger.booked_to(hello.frontend, hello.spool_id), messages

        def welcomed(found: tuple[int, list[bytes]] | None, error: BaseException | None) -> None:
            if found is None:
                self._refuse_later(wire, error)
                return
            booked_to, messages = found
            if hello.last_row < booked_to:
                self._went_back(wire.frontend, hello.last_row, booked_to)
            wire.up()
            for message in messages:
                wire.send(message)
            self._log("ledger.frontend_up", frontend=wire.frontend)
            self._recollector.wake()

        self._with_ledger(work, welcomed)

    def batch(self, wire: FrontEndWire, payload: bytes) -> None:
        """Post and answer with the receipt, which is sent after the commit and to the newest connection only."""
        key, now_ms = self._keys.batch_key(wire.frontend), self._clock.now_ms()

        def work(ledger: Ledger) -> Posted:
            assert key is not None
            verify_up(payload, key)
            message = decode_up(payload)
            assert isinstance(message, BatchMessage)
            if message.name.frontend != wire.frontend:
                raise ProofError("a batch of another front-end")
            return ledger.post(message, now_ms)

        def posted(done: Posted | None, error: BaseException | None) -> None:
            wire.batches_outstanding -= 1
            if done is not None:
                self._alarm_exceptions(done)
                wire.send(done.receipt)
            elif isinstance(error, RemoteError):
                self.faulty(wire, error)
                wire.refuse(refusal_code(error))
            elif isinstance(error, BatchRefused):
                self._log("ledger.batch_refused", alarm=True, frontend=wire.frontend, error=str(error))
                wire.refuse(error.code, error.first_row)
            else:
                self._refuse_later(wire, error)

        self._with_ledger(work, posted)

    def list_wanted(self, wire: FrontEndWire, request: ListRequest) -> None:
        held = (request.generation, request.counter)

        def work(ledger: Ledger) -> ListMessage | None:
            return catalogue.since(ledger.connection, self._keys, request.kind, held)

        def answered(message: ListMessage | None, error: BaseException | None) -> None:
            if error is not None:
                self._refuse_later(wire, error)
            elif message is not None:
                wire.send(encode_down(message, self._keys.signer))

        self._with_ledger(work, answered)

    def reported(self, wire: FrontEndWire, report: Report) -> None:
        kind = ReportKind(report.kind).name.lower()
        facts = {"frontend": wire.frontend, "terminal": report.terminal, "kind": kind, "text": report.text}
        self._reports.append({"at_ms": self._clock.now_ms(), **facts})
        self._log("ledger.frontend_reports", alarm=True, **facts)

    def _went_back(self, frontend: int, last_row: int, booked_to: int) -> None:
        """A spool ends before rows that were booked from it: a backup was put back. Nothing is refused (R16, R19)."""
        text = f"the spool ends at row {last_row}, row {booked_to} was booked: a backup of it was put back"
        facts = {"frontend": frontend, "terminal": 0, "kind": "spool_went_back", "text": text}
        self._reports.append({"at_ms": self._clock.now_ms(), **facts})
        self._log("ledger.spool_went_back", alarm=True, frontend=frontend, last_row=last_row, booked_to=booked_to)

    def pinged(self, wire: FrontEndWire, ping: Ping) -> None:
        wire.send(encode_down(Pong(ping.nonce), self._keys.signer))

    def faulty(self, wire: FrontEndWire, error: RemoteError) -> None:
        self._log("ledger.bad_link_message", alarm=True, frontend=wire.frontend, error=str(error))

    def gone(self, wire: FrontEndWire) -> None:
        self._wires.pop(wire, None)
        if self._frontends.get(wire.frontend) is wire:
            del self._frontends[wire.frontend]
            self._log("ledger.frontend_down", frontend=wire.frontend)

    # -- AdminWork

    def admin_opened(self, wire: AdminWire) -> bool:
        if self._is_stopping or len(self._admins) >= ADMINS_CONNECTED_MAX:
            return False
        self._admins[wire] = None
        return True

    def admin_gone(self, wire: AdminWire) -> None:
        self._admins.pop(wire, None)

    def requested(self, wire: AdminWire, request: object) -> None:
        """Run one request; a new list version goes to all front-ends before the operator is answered."""
        if isinstance(request, dict) and request.get("verb") == "stop":
            wire.answer({"ok": True})
            self.on_stop_verb()
            return
        now_ms = self._clock.now_ms()

        def work(ledger: Ledger) -> tuple[dict[str, Any], bytes | None]:
            admin = Admin(ledger, files=self._files, heads_path=self._heads_path)
            answer = admin.run(request, now_ms)
            if not (answer["ok"] and admin.issues_a_version(request)):
                return answer, None
            newest = catalogue.current(ledger.connection, self._keys, ListKind.DENY)
            assert newest is not None
            return answer, encode_down(newest.step(), self._keys.signer)

        def answered(done: tuple[dict[str, Any], bytes | None] | None, error: BaseException | None) -> None:
            if done is None:
                wire.answer(refusal("failed", str(error)))
                self._broadcast_newest()  # it may have been committed before it failed: a lost card must not wait
                return
            answer, message = done
            if message is not None:
                self._broadcast(message)
            if isinstance(request, dict) and request.get("verb") == "status":
                answer |= {"frontends": sorted(self._frontends), "reports": list(self._reports)}
            wire.answer(answer)

        self._with_ledger(work, answered)

    # -- inside

    def _broadcast(self, message: bytes) -> None:
        for wire in list(self._frontends.values()):
            if wire.state is WireState.UP:
                wire.send(message)

    def _ask_again_for(self, requests: list[RecollectRequest]) -> bool:
        """Through every front-end that is up: only the terminal's own passes it on (R9); whether there is any."""
        if self._is_stopping or not any(wire.state is WireState.UP for wire in self._frontends.values()):
            return False
        if requests:
            self._broadcast(b"".join(encode_down(request, self._keys.signer) for request in requests))
        return True

    def _broadcast_newest(self) -> None:
        """Send the newest list to everyone, as soon as the ledger works again; who holds it ignores it."""
        if self._is_broadcasting or self._is_stopping:
            return
        self._is_broadcasting = True

        def work(ledger: Ledger) -> bytes | None:
            newest = catalogue.current(ledger.connection, self._keys, ListKind.DENY)
            return None if newest is None else encode_down(newest.snapshot(), self._keys.signer)

        def found(message: bytes | None, error: BaseException | None) -> None:
            self._is_broadcasting = False
            if message is not None:
                self._broadcast(message)
            elif error is not None:
                self._clock.call_at(self._clock.monotonic_ms() + BROADCAST_AGAIN_MS, self._broadcast_newest)

        self._with_ledger(work, found)

    def _refuse_later(self, wire: FrontEndWire, error: BaseException | None) -> None:
        self._log("ledger.try_later", alarm=True, error=str(error))
        wire.refuse(RefusalCode.TRY_LATER)

    def _alarm_exceptions(self, posted: Posted) -> None:
        if posted.outcome is not None and posted.outcome.exceptions:
            by_result: dict[str, int] = {}
            for one in posted.outcome.exceptions:
                by_result[f"{one.result:02x}"] = by_result.get(f"{one.result:02x}", 0) + 1
            self._log("ledger.exceptions", alarm=True, position=posted.position, by_result=by_result)

    def _with_ledger(self, work: Callable[[Ledger], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        if self._is_stopping:
            done(None, LedgerFailure("the ledger is going down"))
        else:
            self._executor.submit(partial(self._run, work), done)

    def _run(self, work: Callable[[Ledger], T]) -> T:
        """On the executor: open the ledger if need be, and close it after a failure of our own."""
        if self._ledger is None:
            if self._is_stopping:  # what still comes in must not open again what `stop` has closed
                raise LedgerFailure("the ledger is stopping")
            self._ledger = self._open_ledger()
        try:
            return work(self._ledger)
        except (LedgerFailure, apsw.Error) as error:
            ledger, self._ledger = self._ledger, None
            ledger.close()
            raise error if isinstance(error, LedgerFailure) else LedgerFailure(str(error)) from error
