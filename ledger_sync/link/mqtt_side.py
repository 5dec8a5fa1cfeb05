"""What both sides of the link over MQTT have in common: one session on a broker, birth and will, bounds. Sans-IO.

    NONE ─open_session─▶ OPENING ─granted─▶ OPEN ─(broker lost, stuck)─▶ NONE

A session that has ended is told apart from the present one by its life: what it still says goes nowhere. The will of
an earlier life may come after the birth of this one; then the birth is said again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from ledger_sync.link.mqtt_conversation import Conversation, ConversationLost
from ledger_sync.link.mqtt_topics import LIFE_BYTES, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN, PREFIX, Presence, Topics
from protocol.ports import Bus, BusOpening, BusSession, Clock, Log, Random


class MqttSide(ABC):
    """Base of `MqttFrontend` and `MqttLedger`; `Carrier` of their conversations.

    Args:
        owner: front-end number, or `ledger`.
        unacknowledged_bytes_max: beyond it the broker is stuck and the session given up.
    """

    def __init__(
        self, bus: Bus, *, site: int, owner: int | str, subscriptions: tuple[str, ...], unacknowledged_bytes_max: int,
        clock: Clock, random: Random, log: Log,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._owner = owner
        self._subscriptions = subscriptions
        self._unacknowledged_bytes_max = unacknowledged_bytes_max
        self._session: BusSession | None = None
        self._life = 0
        self._birth = Presence(is_online=True, life=bytes(LIFE_BYTES), since_ms=0)
        self.topics = Topics(site)
        self.clock = clock
        self.random = random
        self.log = log
        self.is_open = False
        self.sessions = 0
        self.dropped: dict[str, int] = {}
        """Messages that nobody has looked into, by reason."""

    # -- what a side adds

    @abstractmethod
    def topic_to_peer(self, conversation: Conversation) -> str:
        """Where its messages go."""

    @abstractmethod
    def on_open(self) -> None:
        """The session is there and the birth said."""

    @abstractmethod
    def on_lost(self, error: Exception, *, was_open: bool) -> None:
        """The session is over."""

    @abstractmethod
    def on_message(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        """Something of another topic than this side's own state."""

    @abstractmethod
    def ended(self, conversation: Conversation) -> None:
        """It is over; forget it."""

    # -- Carrier

    def carry(self, conversation: Conversation, payload: bytes, done: Callable[[], None]) -> None:
        session = self._session
        if session is None or not self.is_open:
            return
        session.publish(self.topic_to_peer(conversation), payload, retain=False, done=done)
        if session.unacknowledged_bytes() > self._unacknowledged_bytes_max:
            self.log("link.broker_stuck", alarm=True, unacknowledged_bytes=session.unacknowledged_bytes())
            session.abort()
            self._lose(ConversationLost("the broker acknowledges nothing"))

    def later(self, callback: Callable[[], None]) -> None:
        self.clock.call_at(self.clock.monotonic_ms(), callback)

    # -- the session

    @property
    def has_session(self) -> bool:
        """There is one, open or opening."""
        return self._session is not None

    def open_session(self, address: str) -> None:
        self._life += 1
        life = self.random.random_bytes(LIFE_BYTES)
        self._birth = Presence(is_online=True, life=life, since_ms=self.clock.now_ms())
        state = self.topics.state(self._owner)
        opening = BusOpening(
            client_id=f"onecard-{self.topics.site}-{self._owner}-{life.hex()}",
            will_topic=state,
            will=self._birth.gone().encode(),
            subscriptions=(*self._subscriptions, state),
        )
        self._session = self._bus.connect(address, opening, _Session(self, self._life))

    def leave(self) -> None:
        """Say goodbye and end the session; idempotent."""
        if self._session is not None:
            if self.is_open:
                self._say(self._birth.gone())
            self.is_open = False
            self._session.close()

    def session_opened(self, life: int) -> None:
        if life != self._life:
            return
        self.is_open = True
        self.sessions += 1
        self.log("link.broker_open", session=self.sessions)
        self._say(self._birth)
        self.on_open()

    def session_closed(self, life: int, error: Exception | None) -> None:
        if life == self._life:
            self._lose(error or ConversationLost("the session on the broker has ended"))

    def session_message(self, life: int, topic: str, payload: bytes, *, is_retained: bool) -> None:
        if life != self._life or not self.is_open:
            return
        if topic != self.topics.state(self._owner):
            self.on_message(topic, payload, is_retained=is_retained)
            return
        said = Presence.decode(payload)
        if said is not None and not said.is_online and said.life != self._birth.life:
            self._say(self._birth)

    def _lose(self, error: Exception) -> None:
        self._life += 1
        was_open, self.is_open, self._session = self.is_open, False, None
        self.on_lost(error, was_open=was_open)

    def _say(self, presence: Presence) -> None:
        assert self._session is not None
        self._session.publish(self.topics.state(self._owner), presence.encode(), retain=True, done=_nothing)

    # -- for both

    def session_facts(self) -> dict[str, object]:
        """For `status`, as JSON values."""
        return {
            "broker": "open" if self.is_open else "opening" if self.has_session else "none",
            "broker_sessions": self.sessions,
            "unacknowledged_bytes": 0 if self._session is None else self._session.unacknowledged_bytes(),
            "dropped": dict(self.dropped),
        }

    def drop(self, why: str) -> None:
        self.dropped[why] = self.dropped.get(why, 0) + 1

    def prefix_of(self, payload: bytes) -> tuple[bytes, int] | None:
        """(conversation, counter) of a message of a length that may be; None: dropped."""
        if len(payload) > MESSAGE_BYTES_MAX:
            self.drop("oversized")
        elif len(payload) < PREFIX.size or PREFIX.size < len(payload) < MESSAGE_BYTES_MIN:
            self.drop("short")
        else:
            identity, counter = PREFIX.unpack_from(payload)
            return identity, counter
        return None

    def hand_over(self, conversation: Conversation, counter: int, payload: bytes) -> None:
        """Give a conversation one of its messages, counted if it came before."""
        before = conversation.duplicates
        conversation.arrive(counter, payload[PREFIX.size :])
        if conversation.duplicates > before:
            self.drop("duplicate")


def presence_facts(presence: Presence | None) -> Mapping[str, object]:
    """As JSON values."""
    if presence is None:
        return {"state": "unknown", "since_ms": None}
    return {"state": "online" if presence.is_online else "offline", "since_ms": presence.since_ms}


class _Session:
    """The `BusHandler` of one session."""

    __slots__ = ("_life", "_side")

    def __init__(self, side: MqttSide, life: int) -> None:
        self._side = side
        self._life = life

    def opened(self) -> None:
        self._side.session_opened(self._life)

    def message(self, topic: str, payload: bytes, is_retained: bool) -> None:  # noqa: FBT001 - as the port has it
        self._side.session_message(self._life, topic, payload, is_retained=is_retained)

    def closed(self, error: Exception | None) -> None:
        self._side.session_closed(self._life, error)


def _nothing() -> None:
    """A broker's acknowledgement means nothing (R16)."""
