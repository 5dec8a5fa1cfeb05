"""The front-end server: composition, start and stop. Everything it needs is an argument.

start: cached lists ─▶ control socket ─▶ forwarder ─▶ listener      (terminals come last: everything is ready for them)
stop:  listener ─▶ BYE `going down`, drain ─▶ spool flushed ─▶ forwarder ─▶ spool closed ─▶ control socket ─▶ done
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

from frontend_server.admission import Admission
from frontend_server.alarms import Alarms
from frontend_server.control import ControlServer
from frontend_server.distribution import Distribution
from frontend_server.entrance import Entrance
from frontend_server.exposition import CONTENT_TYPE
from frontend_server.fleet_views import FleetViews
from frontend_server.gate import Gate
from frontend_server.intake import IntakeQueue
from frontend_server.keys import FrontendKeys
from frontend_server.metrics import Metrics
from frontend_server.parts import Parts
from frontend_server.ports_used import Forwarder
from frontend_server.recollections import Recollections
from frontend_server.refusals import Refusals
from frontend_server.scrape import MetricsListener
from frontend_server.sessions import Sessions, TerminalStatus
from frontend_server.settings import FrontendSettings
from frontend_server.terminal import TerminalConnection
from frontend_server.timers import Deadline, TimerWheel
from frontend_server.views import Views
from ledger_sync.spool import Spool, SpoolWriter
from protocol.codes import ByeCode, ListForm
from protocol.list_transfer import ListVersion
from protocol.ports import Clock, Executor, Files, Listener, Log, Network, Random
from protocol.registry import Registry
from protocol.signed import Certificate, SignedHead, Version

T = TypeVar("T")

DRAIN_LOOK_MS: Final = 100
"""How often it is looked whether the sessions have gone."""


class ServerState(Enum):
    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    FLUSHING = "flushing"
    STOPPED = "stopped"


TRANSITIONS: Final = {
    ServerState.NEW: frozenset({ServerState.RUNNING, ServerState.FLUSHING}),
    ServerState.RUNNING: frozenset({ServerState.DRAINING}),
    ServerState.DRAINING: frozenset({ServerState.FLUSHING}),
    ServerState.FLUSHING: frozenset({ServerState.STOPPED}),
    ServerState.STOPPED: frozenset[ServerState](),
}


class FrontendServer:
    """One front-end. Call everything from the callbacks' thread.

    Args:
        registry: enrolled terminals; `replace_registry` later.
        executor: for list work; not the spool's.
        writer: of an open spool; the server closes it at stop.
        forwarder: attached, started and stopped by the server.
        alarms: given, so that whoever opens the spool can raise some already (`AlarmingLog`).
        stop_requested: called when the control socket says `stop`; whoever composes then calls `stop`.
    """

    def __init__(
        self,
        *,
        settings: FrontendSettings,
        keys: FrontendKeys,
        root_public: bytes,
        registry: Registry,
        clock: Clock,
        network: Network,
        random: Random,
        files: Files,
        executor: Executor,
        writer: SpoolWriter,
        forwarder: Forwarder,
        log: Log,
        alarms: Alarms | None = None,
        stop_requested: Callable[[], None] | None = None,
    ) -> None:
        settings.check()
        self._settings = settings
        self._network = network
        self._clock = clock
        self._writer = writer
        self._forwarder = forwarder
        self._log = log
        self._listener: Listener | None = None
        self._connections: dict[TerminalConnection, None] = {}
        """In the order in which they came: a set's order is not the seed's, and `stop` goes through all of them."""
        self._wheel = TimerWheel(clock)
        self._prune_deadline: Deadline | None = None
        self._stopped: list[Callable[[], None]] = []
        self.state = ServerState.NEW
        alarms = alarms if alarms is not None else Alarms()
        metrics = Metrics()
        self.parts = Parts(
            settings=settings,
            clock=clock,
            random=random,
            log=log,
            wheel=self._wheel,
            metrics=metrics,
            alarms=alarms,
            refusals=Refusals(),
            sessions=Sessions(take_overs_max=settings.take_overs_max, take_over_window_ms=settings.take_over_window_ms),
            gate=Gate(settings, metrics),
            entrance=Entrance(clock),
            admission=Admission(registry, keys),
            intake=IntakeQueue(settings=settings, writer=writer, alarms=alarms, metrics=metrics, clock=clock, log=log),
            distribution=self._distribution(root_public, files, executor, alarms, metrics),
            report=forwarder.report,
        )
        self._recollections = Recollections()
        self._views = Views(self.parts, forwarder, writer, self.address)
        self._control = self._control_server(stop_requested)
        self._scrapes = MetricsListener(
            network=network, wheel=self._wheel, content_type=CONTENT_TYPE, render=self._views.prometheus
        )

    def _distribution(
        self, root_public: bytes, files: Files, executor: Executor, alarms: Alarms, metrics: Metrics
    ) -> Distribution:
        return Distribution(
            site=self._settings.site,
            root_public=root_public,
            cache_dir=self._settings.cache_dir,
            clock=self._clock,
            files=files,
            executor=executor,
            alarms=alarms,
            metrics=metrics,
            log=self._log,
            push=self._push,
            request_list=self._forwarder.request_list,
            link_life=lambda: self._forwarder.life,
        )

    def _control_server(self, stop_requested: Callable[[], None] | None) -> ControlServer:
        fleet = FleetViews(self.parts, self._writer, self._recollections)
        verbs = {**self._views.verbs(), **fleet.verbs(), "stop": lambda _: self._stop_verb(stop_requested)}
        return ControlServer(settings=self._settings, network=self._network, wheel=self._wheel, verbs=verbs)

    # -- life

    def start(self) -> None:
        """Read the cached lists, bind, serve. Raises OSError when an address cannot be bound; call `stop` then."""
        self._go(ServerState.RUNNING)
        self._views.started()
        self.parts.distribution.load()
        if self._settings.control_address:
            self._control.start()
        if self._settings.metrics_address:
            self._scrapes.start(self._settings.metrics_address)
        self._forwarder.attach(self)
        self._forwarder.start()
        self._prune()
        self._listener = self._network.listen(self._settings.listen_address, self._accept)
        self._log("frontend.ready", **self.ready_facts())

    def address(self) -> str:
        """Where terminals connect; empty before `start` and after `stop`."""
        return self._listener.address() if self._listener is not None else ""

    def ready_facts(self) -> dict[str, object]:
        """For the ready line."""
        return {
            "frontend": self._settings.frontend,
            "site": self._settings.site,
            "address": self.address(),
            "control": self._settings.control_address,
            "metrics": self._scrapes.address(),
            "terminals": len(self.parts.admission.registry.terminals),
        }

    def replace_registry(self, registry: Registry) -> None:
        """Enrolments have changed: sessions of terminals struck out or enrolled anew end now, all others stay.

        They are told `rekey`: to log in again, which the registry then decides (R35).
        """
        stays = self.parts.admission.replace(registry)
        statuses = [live.status for live in self.parts.sessions if live.status is not None]
        ended = [one for one in statuses if not stays(one.terminal, one.epoch)]

        def end(status: TerminalStatus) -> None:
            if status.live is not None and not stays(status.terminal, status.epoch):  # or it has logged in anew
                self._log("terminal.not_enrolled", terminal=status.terminal, epoch=status.epoch)
                status.live.say_bye(ByeCode.REKEY)

        self._in_slices(ended, end)

    def stop(self, done: Callable[[], None]) -> None:
        """Stop in the order above, then call `done`; further calls only add their `done`."""
        self._stopped.append(done)
        if self.state is ServerState.STOPPED:
            self._call_stopped()
        if self.state is ServerState.NEW:
            self._go(ServerState.FLUSHING)
            self._writer.close(self._closed)
        if self.state is not ServerState.RUNNING:
            return
        self._go(ServerState.DRAINING)
        if self._prune_deadline is not None:
            self._prune_deadline.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.drain()
        # The newest frames may still be on their way to the disk: their ACKs go out before the BYE.
        give_up_ms = self._clock.monotonic_ms() + self._settings.drain_ms_max
        self._writer.flush(self._say_bye)
        self._wheel.after(DRAIN_LOOK_MS, lambda: self._look_drained(give_up_ms))

    def _say_bye(self) -> None:
        for connection in list(self._connections):
            connection.leave()

    def _look_drained(self, give_up_ms: int) -> None:
        if self._connections and self._clock.monotonic_ms() < give_up_ms:
            self._wheel.after(DRAIN_LOOK_MS, lambda: self._look_drained(give_up_ms))
            return
        for connection in list(self._connections):
            connection.cut()
        self._go(ServerState.FLUSHING)
        self.parts.distribution.close()
        self._writer.flush(lambda: self._forwarder.stop(lambda: self._writer.close(self._closed)))

    def _closed(self) -> None:
        self._go(ServerState.STOPPED)
        self._control.close()
        self._scrapes.close()
        self._wheel.close()
        self._log("frontend.stopped")
        self._call_stopped()

    def _call_stopped(self) -> None:
        waiting, self._stopped = self._stopped, []
        for done in waiting:
            done()

    def _go(self, state: ServerState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state

    # -- terminals

    def _accept(self) -> TerminalConnection:
        return _Counted(self.parts, self._connections)

    def _push(self, version: ListVersion) -> None:
        """Offer a new version to every live session."""
        self._in_slices(list(self.parts.sessions), lambda live: live.offer(version))

    def _in_slices(self, waiting: list[T], do: Callable[[T], None]) -> None:
        """Some now and the others soon, so that other work gets its turn."""

        def some() -> None:
            for _ in range(min(self._settings.push_slice, len(waiting))):
                do(waiting.pop())
            if waiting:
                self._clock.call_at(self._clock.monotonic_ms(), some)

        some()

    def _prune(self) -> None:
        days = self._settings.settled_days

        def pruned(count: int | None, error: BaseException | None) -> None:
            if count:
                self._log("spool.pruned", rows=count)
            elif error is not None:
                self._log("spool.prune_failed", error=str(error))
            if self.state is ServerState.RUNNING:
                # A bounded number goes at a time: while there is more, go on soon.
                delay_ms = 1_000 if count else self._settings.prune_every_ms
                self._prune_deadline = self._wheel.after(delay_ms, self._prune)

        now_ms = self._clock.now_ms()
        self._writer.run(lambda spool: spool.prune(now_ms, days), pruned)

    def _stop_verb(self, stop_requested: Callable[[], None] | None) -> dict[str, object]:
        self._log("frontend.stop_requested")
        callback = stop_requested if stop_requested is not None else lambda: self.stop(lambda: None)
        self._clock.call_at(self._clock.monotonic_ms(), callback)  # soon: the answer goes out first
        return {"stopping": True}

    # -- LedgerEvents

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        self.parts.distribution.on_list(head, certificate, form, base, data)

    def on_damaged_list(self, why: str) -> None:
        self.parts.distribution.on_damaged_list(why)

    def on_recollect(self, terminal: int, epoch: int, first: int, last: int) -> None:
        live = self.parts.sessions.live(terminal)
        now_ms = self._clock.now_ms()
        self._recollections.note(terminal, epoch, first, last, now_ms=now_ms, passed_on=live is not None)
        if live is not None:
            live.recollect(epoch, first, last)

    def on_settled(self, terminals: set[tuple[int, int]]) -> None:
        wanted: list[tuple[int, int, int]] = []
        for terminal, epoch in terminals:
            live = self.parts.sessions.live(terminal)
            first = live.settling(epoch) if live is not None else None
            if first is not None:
                wanted.append((terminal, epoch, first))
        if not wanted:
            return

        def look(spool: Spool) -> list[tuple[int, int, int]]:
            return [
                (terminal, epoch, spool.settled_watermark(terminal, epoch, first)) for terminal, epoch, first in wanted
            ]

        self._writer.run(look, self._tell_settled)

    def _tell_settled(self, found: list[tuple[int, int, int]] | None, error: BaseException | None) -> None:
        for terminal, epoch, settled in found or ():
            live = self.parts.sessions.live(terminal)
            if live is not None:
                live.settled(epoch, settled)


class _Counted(TerminalConnection):
    """A connection that the server knows of from its first byte to its last, so that `stop` reaches every one."""

    __slots__ = ("_all",)

    def __init__(self, parts: Parts, everyone: dict[TerminalConnection, None]) -> None:
        super().__init__(parts)
        self._all = everyone
        everyone[self] = None

    def closed(self, error: Exception | None) -> None:
        self._all.pop(self, None)
        super().closed(error)
