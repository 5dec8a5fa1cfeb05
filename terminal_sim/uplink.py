"""The terminal's way to a front-end: one connection after the other, as long as it has power (docs/protocol.md §4, §8).

idle → connecting → handshake → logging in (BASELINE sent, no ACK yet) → uploading
any → waiting (back-off with jitter) → connecting;   BYE forked → forked, until re-enrolment;   stop → stopped
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.ports import Clock, Log, Network, Random, Timer
from terminal_sim.connection import Connection
from terminal_sim.firmware import Alarm, PosTerminal

BACK_OFF_MS_MIN: Final = 500
BACK_OFF_MS_MAX: Final = 30_000
BACK_OFF_DOUBLINGS_MAX: Final = 10


class UplinkState(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    LOGGING_IN = "logging in"
    UPLOADING = "uploading"
    WAITING = "waiting"
    FORKED = "forked"
    STOPPED = "stopped"


class Observer(Protocol):
    """Moments of records and sessions, in true monotonic milliseconds; for figures, never for behaviour."""

    def written(self, terminal: int, epoch: int, sequence: int, at_ms: int) -> None:
        """A record was committed to flash."""

    def sent(self, terminal: int, epoch: int, first: int, last: int, at_ms: int, *, live: bool) -> None:
        """Records were offered, perhaps not for the first time; `live`: all made less than 2 s ago."""

    def acknowledged(self, terminal: int, epoch: int, first: int, last: int, at_ms: int) -> None:
        """Records became acknowledged in the terminal's flash."""

    def online(self, terminal: int, at_ms: int, *, is_online: bool) -> None:
        """A session was established, or ended."""

    def list_applied(self, terminal: int, version: tuple[int, int], at_ms: int) -> None:
        """A new deny list is in force."""


@dataclass(slots=True)
class Counters:
    """What an operator would ask; since power-on."""

    connections: int = 0
    sessions: int = 0
    refused: int = 0
    frames_sent: int = 0
    records_sent: int = 0
    tombstones_sent: int = 0
    acks: int = 0
    taken_over: int = 0


class Uplink:
    """One per booted terminal; `start` once, `stop` when the power goes. A `StreamHandler` per connection is inside."""

    def __init__(
        self,
        terminal: PosTerminal,
        *,
        addresses: Sequence[str],
        network: Network,
        clock: Clock,
        random: Random,
        log: Log,
        observer: Observer | None = None,
        on_power_cut: Callable[[], None] | None = None,
        body_bytes_max: int = BODY_BYTES_MAX_TCP,
    ) -> None:
        """`addresses` are of front-ends, its own first; the terminal stays with one until it loses it, or is sent away,
        and then goes on to the next. Where it was acknowledged decides nothing: every log-in asks (R7).

        `on_power_cut` is told when the flash tears inside a callback.
        """
        assert addresses
        self.terminal = terminal
        self.state = UplinkState.IDLE
        self.counters = Counters()
        self._addresses = tuple(addresses)
        self._network = network
        self._clock = clock
        self._random = random
        self._log = log
        self._observer = observer
        self._on_power_cut = on_power_cut
        self._body_bytes_max = body_bytes_max
        self._failures = 0
        self._at = 0
        """Which address is used now."""
        self._timer: Timer | None = None
        self._connection: Connection | None = None
        self._is_online = False

    def start(self) -> None:
        """Connect soon; new records are offered from now on."""
        assert self.state is UplinkState.IDLE
        self.terminal.on_record = self._on_record
        if self.terminal.memory is None:
            self.state = UplinkState.STOPPED  # it has nothing to say that its seal key may vouch for
            return
        self._connect()

    def stop(self) -> None:
        """The power goes, or the simulation ends: no word to anybody. Idempotent."""
        self.state = UplinkState.STOPPED
        self.terminal.on_record = None
        self._cancel_timer()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self.note_online(is_online=False)

    @property
    def online(self) -> bool:
        """Whether a session is established."""
        return self.state in {UplinkState.LOGGING_IN, UplinkState.UPLOADING}

    # -- connecting

    def _connect(self) -> None:
        self._timer = None
        self.state = UplinkState.CONNECTING
        self.counters.connections += 1
        self._connection = Connection(self)
        self._network.connect(self._addresses[self._at], self._connection)

    def wait(self, delay_ms: int) -> None:
        """Connect again after `delay_ms` and a random half of it."""
        if self.state in {UplinkState.STOPPED, UplinkState.FORKED}:
            return
        self.state = UplinkState.WAITING
        self._cancel_timer()
        jitter = int.from_bytes(self._random.random_bytes(2), "big") * delay_ms // (2 * 65_536)
        self._timer = self._clock.call_at(self._clock.monotonic_ms() + delay_ms + jitter, self._connect)

    def back_off_ms(self) -> int:
        """Doubles with every failure in a row at all addresses."""
        rounds = self._failures // len(self._addresses)
        self._failures += 1
        return int(min(BACK_OFF_MS_MIN << min(rounds, BACK_OFF_DOUBLINGS_MAX), BACK_OFF_MS_MAX))

    def move_on(self) -> None:
        """Use the next address from now on."""
        self._at = (self._at + 1) % len(self._addresses)

    def in_handshake(self) -> None:
        self.state = UplinkState.HANDSHAKE

    def in_log_in(self) -> None:
        """The session is established; BASELINE is on its way."""
        self.state = UplinkState.LOGGING_IN
        self.counters.sessions += 1
        self.note_online(is_online=True)

    def in_upload(self) -> None:
        """The front-end acknowledges: the next failure is the first again."""
        self.state = UplinkState.UPLOADING
        self._failures = 0

    def forked(self) -> None:
        self.state = UplinkState.FORKED
        self.terminal.raise_alarm(Alarm.FORKED)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_record(self, record: bytes) -> None:
        memory = self.terminal.memory
        if memory is not None and self._observer is not None:
            secrets = self.terminal.secrets
            at_ms = self._clock.monotonic_ms()
            self._observer.written(secrets.terminal, secrets.epoch, memory.next - 1, at_ms)
        if self._connection is not None:
            self._connection.pump()

    # -- for the connection

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def random(self) -> Random:
        return self._random

    @property
    def body_bytes_max(self) -> int:
        return self._body_bytes_max

    @property
    def observer(self) -> Observer | None:
        return self._observer

    def note_online(self, *, is_online: bool) -> None:
        if is_online != self._is_online:
            self._is_online = is_online
            if self._observer is not None:
                at_ms = self._clock.monotonic_ms()
                self._observer.online(self.terminal.secrets.terminal, at_ms, is_online=is_online)

    def log(self, event: str, **facts: object) -> None:
        self._log(event, terminal=self.terminal.secrets.terminal, **facts)

    def ended(self, connection: Connection, delay_ms: int | None, *, stay: bool = False) -> None:
        """A connection is over; `delay_ms` None: back off. `stay`: the same front-end will take it again."""
        if connection is not self._connection:
            return
        self._connection = None
        self.note_online(is_online=False)
        if not stay:
            self.move_on()
        self.wait(self.back_off_ms() if delay_ms is None else delay_ms)

    def power_cut(self) -> None:
        self.stop()
        if self._on_power_cut is not None:
            self._on_power_cut()
