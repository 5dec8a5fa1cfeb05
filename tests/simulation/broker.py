"""A broker under virtual time, and the `Bus` port on it: it acknowledges, and then may lose, repeat, overtake, forget.

    broker = Broker(Host(world, "broker"))
    bus = VirtualBus(host, broker)               what that machine's processes are given
    broker.lost_permille = 20                    of the deliveries to a subscriber
    broker.crash() … broker.start()              with `forgets`, what was retained is gone too

Wills are published when a client's machine dies or stays unreachable, as a real broker's keep-alive finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.ports import BusHandler, BusOpening, BusSession
from tests.simulation.world import Host, World

KEEPALIVE_MS: Final = 15_000
CONNECT_MS_MAX: Final = 5_000
OVERTAKEN_MS: Final = (20, 400)


class _Session:
    """Both ends of one client's session."""

    def __init__(self, broker: Broker, host: Host, opening: BusOpening, handler: BusHandler) -> None:
        self.broker = broker
        self.host = host
        self.opening = opening
        self.handler = handler
        self.is_over = False
        self.up_at_ms = 0
        self.down_at_ms = 0
        self._unacknowledged = 0
        self._unreachable_since_ms: int | None = None
        broker.watch(host, self)

    # -- BusSession

    def publish(self, topic: str, payload: bytes, *, retain: bool, done: Callable[[], None]) -> None:
        if self.is_over:
            return
        self._unacknowledged += len(payload)
        self.broker.most_unacknowledged_bytes = max(self.broker.most_unacknowledged_bytes, self._unacknowledged)
        if not self.is_reachable():
            return

        def acknowledged() -> None:
            if not self.is_over:
                self._unacknowledged -= len(payload)
                done()

        def arrived() -> None:
            if self.is_over or self.broker.acknowledges_nothing:
                return
            self.broker.take(topic, payload, retain=retain)
            self.to_client(acknowledged)

        self.up_at_ms = max(self.up_at_ms, self._soon())
        self.world.at(self.up_at_ms, arrived, host=self.broker.host)

    def unacknowledged_bytes(self) -> int:
        return self._unacknowledged

    def close(self) -> None:
        if not self.is_over:
            self.up_at_ms = max(self.up_at_ms, self._soon())
            self.world.at(self.up_at_ms, lambda: self.end(None, with_will=False), host=self.broker.host)

    def abort(self) -> None:
        self.end(None, with_will=True)

    # -- inside

    @property
    def world(self) -> World:
        return self.host.world

    def is_reachable(self) -> bool:
        return self.world.reachable(self.host.name, self.broker.host.name)

    def _soon(self) -> int:
        return self.world.time_ms + self.world.delay_ms(self.host.name, self.broker.host.name)

    def to_client(self, what: Callable[[], None], extra_ms: int = 0) -> None:
        """Happens at the client, in order unless it is overtaken."""
        at_ms = max(self.down_at_ms, self._soon())
        if extra_ms == 0:
            self.down_at_ms = at_ms
        self.world.at(at_ms + extra_ms, lambda: None if self.is_over else what(), host=self.host)

    def look(self) -> None:
        """Keep-alive, of both sides at once."""
        if self.is_over:
            return
        if self.is_reachable():
            self._unreachable_since_ms = None
        else:
            since = self._unreachable_since_ms = self._unreachable_since_ms or self.world.time_ms
            if self.world.time_ms - since >= KEEPALIVE_MS:
                self.end(TimeoutError("keep-alive"), with_will=True)
                return
        self.world.after(KEEPALIVE_MS // 3, self.look)

    def end(self, error: Exception | None, *, with_will: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.broker.gone(self, with_will=with_will)
        self.world.after(0, lambda: self.handler.closed(error), host=self.host)


class Broker:
    """One broker of a world."""

    def __init__(self, host: Host, *, forgets: bool = True) -> None:
        self.host = host
        self.world = host.world
        self.forgets = forgets
        self.is_up = True
        self.acknowledges_nothing = False
        self.keeps_no_state = False
        self.lost_permille = 0
        self.twice_permille = 0
        self.overtaken_permille = 0
        self.most_unacknowledged_bytes = 0
        self.sessions: dict[_Session, None] = {}
        self._of_machine: dict[str, list[_Session]] = {}
        self.retained: dict[str, bytes] = {}
        self.seen: list[tuple[str, bytes]] = []
        """What was published, for tests that publish it again; the newest 2,000."""

    def crash(self) -> None:
        """`kill -9`: every session ends, no will is published."""
        self.is_up = False
        self.world.count_fault("broker_killed")
        self.host.crash()
        for session in list(self.sessions):
            session.end(ConnectionResetError("broker"), with_will=False)
        if self.forgets:
            self.retained.clear()

    def start(self) -> None:
        self.is_up = True

    def take(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Somebody published this."""
        self.seen = [*self.seen[-1_999:], (topic, payload)]
        if retain and not self.keeps_no_state:
            self.retained[topic] = payload
        for session in list(self.sessions):
            if any(_matches(wanted, topic) for wanted in session.opening.subscriptions):
                self._deliver(session, topic, payload)

    def _deliver(self, session: _Session, topic: str, payload: bytes) -> None:
        if not session.is_reachable() or self._draws(self.lost_permille, "message_lost"):
            return
        extra_ms = 0
        if self._draws(self.overtaken_permille, "message_overtaken"):
            extra_ms = self.world.rng.randint(*OVERTAKEN_MS)

        def arrive() -> None:
            session.handler.message(topic, payload, False)

        session.to_client(arrive, extra_ms)
        if self._draws(self.twice_permille, "message_twice"):
            session.to_client(arrive, self.world.rng.randint(*OVERTAKEN_MS))

    def _draws(self, permille: int, fault: str) -> bool:
        if not permille or self.world.rng.randrange(1_000) >= permille:
            return False
        self.world.count_fault(fault)
        return True

    def opened(self, session: _Session) -> None:
        self.sessions[session] = None
        session.to_client(session.handler.opened)
        for topic, payload in self.retained.items():
            if any(_matches(wanted, topic) for wanted in session.opening.subscriptions):
                session.to_client(lambda topic=topic, payload=payload: session.handler.message(topic, payload, True))  # type: ignore[misc]
        session.look()

    def watch(self, host: Host, session: _Session) -> None:
        """Sessions break with their machine's connections, and with the machine."""
        if host.name not in self._of_machine:
            self._of_machine[host.name] = []
            crash, reset_streams = host.crash, host.reset_streams

            def crashed() -> None:
                crash()
                self._break(host, is_dead=True)

            def reset() -> None:
                reset_streams()
                self._break(host, is_dead=False)

            host.crash, host.reset_streams = crashed, reset  # type: ignore[method-assign]
        self._of_machine[host.name].append(session)

    def _break(self, host: Host, *, is_dead: bool) -> None:
        sessions, self._of_machine[host.name] = self._of_machine[host.name], []
        for session in sessions:
            if is_dead and not session.is_over:
                session.is_over = True  # nobody is left to be told
                self.gone(session, with_will=True)
            else:
                session.end(ConnectionResetError(), with_will=True)

    def gone(self, session: _Session, *, with_will: bool) -> None:
        self.sessions.pop(session, None)
        if with_will and self.is_up:
            self.world.after(
                1, lambda: self.take(session.opening.will_topic, session.opening.will, retain=True), host=self.host
            )


class VirtualBus:
    """`Bus` of one machine."""

    def __init__(self, host: Host, broker: Broker) -> None:
        self._host = host
        self._broker = broker

    def connect(self, address: str, opening: BusOpening, handler: BusHandler) -> BusSession:
        assert address.startswith("mqtt://")
        world, broker = self._host.world, self._broker
        session = _Session(broker, self._host, opening, handler)
        if not session.is_reachable():
            world.after(CONNECT_MS_MAX, lambda: session.end(TimeoutError(address), with_will=False), host=self._host)
        elif not broker.is_up:
            world.after(1, lambda: session.end(ConnectionRefusedError(address), with_will=False), host=self._host)
        else:
            world.after(
                world.delay_ms(self._host.name, broker.host.name),
                lambda: None if session.is_over else broker.opened(session),
                host=broker.host,
            )
            # the broker may be killed before it answers
            world.after(CONNECT_MS_MAX, lambda: self._give_up(session), host=self._host)
        return session

    def _give_up(self, session: _Session) -> None:
        if session not in self._broker.sessions:
            session.end(TimeoutError("no answer of the broker"), with_will=False)


def _matches(wanted: str, topic: str) -> bool:
    ours, theirs = wanted.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(a in ("+", b) for a, b in zip(ours, theirs, strict=True))
