"""The front-end's side of the link over MQTT: a `Network` whose connections are conversations over a broker. Sans-IO.

The session outlives conversations, so that birth and will say whether this process is there. Who retries is the
forwarder, by its back-off: here every attempt is made once. What the broker says of the ledger is believed only for
timing: offline ends the conversation at once instead of by a time-out, online with another life means a ledger that
has forgotten it. Nothing that comes over a broker is believed otherwise; see `session` for what is proved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ledger_sync.link.mqtt_conversation import Conversation, ConversationLost
from ledger_sync.link.mqtt_side import MqttSide, presence_facts
from ledger_sync.link.mqtt_topics import CONVERSATION_BYTES, Presence, Topics
from protocol.ports import Bus, Clock, Listener, Log, Random, StreamHandler

STATE_WAIT_MS: Final = 1_000  # for the retained state of the ledger, after which it is tried without
UNACKNOWLEDGED_BYTES_MAX: Final = 8 << 20  # four batches of a megabyte, and as much again for what a retry repeats


class MqttFrontend(MqttSide):
    """`Network` of one front-end; at most one conversation at a time."""

    def __init__(self, bus: Bus, *, site: int, frontend: int, clock: Clock, random: Random, log: Log) -> None:
        topics = Topics(site)
        super().__init__(
            bus,
            site=site,
            owner=frontend,
            subscriptions=(topics.down(frontend), topics.ledger_state),
            unacknowledged_bytes_max=UNACKNOWLEDGED_BYTES_MAX,
            clock=clock,
            random=random,
            log=log,
        )
        self._frontend = frontend
        self._ledger: Presence | None = None
        self._waiting: StreamHandler | None = None
        self._conversation: Conversation | None = None
        self._ledger_life = b""
        """Of the ledger that the conversation began with; empty while unknown."""
        self._is_closed = False

    def facts(self) -> Mapping[str, object]:
        """For `status`, as JSON values."""
        return {**self.session_facts(), "ledger": presence_facts(self._ledger)}

    # -- Network

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        raise OSError(f"a front-end does not listen on {address}")

    def connect(self, address: str, handler: StreamHandler) -> None:
        if self._is_closed or self._waiting is not None:
            self._refuse(handler, ConnectionRefusedError("one attempt at a time"))
            return
        if self._conversation is not None:
            self._conversation.end(None)
        self._waiting = handler
        if not self.has_session:
            self.open_session(address)
        elif self.is_open:
            self._begin_or_refuse()

    def close(self) -> None:
        """Say goodbye: the process ends in order. Idempotent."""
        self._is_closed = True
        if self._conversation is not None:
            self._conversation.end(None)
        self.leave()

    # -- MqttSide

    def topic_to_peer(self, conversation: Conversation) -> str:
        return self.topics.up(self._frontend)

    def ended(self, conversation: Conversation) -> None:
        if self._conversation is conversation:
            self._conversation = None

    def on_open(self) -> None:
        self._ledger = None
        if self._waiting is not None:
            self._begin_or_refuse()

    def on_lost(self, error: Exception, *, was_open: bool) -> None:
        if was_open:
            self.log("link.broker_lost", error=str(error))
        self._ledger = None
        if self._conversation is not None:
            self._conversation.end(error, tell_peer=False)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._refuse(waiting, error)

    def on_message(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        if topic == self.topics.ledger_state:
            self._take_ledger(Presence.decode(payload))
        elif topic != self.topics.down(self._frontend):
            self.drop("foreign topic")
        elif is_retained:
            self.drop("retained")
        else:
            self._take(payload)

    # -- what comes

    def _take(self, payload: bytes) -> None:
        prefix = self.prefix_of(payload)
        if prefix is None:
            return
        identity, counter = prefix
        if self._conversation is None or identity != self._conversation.identity:
            self.drop("another conversation")
        else:
            self.hand_over(self._conversation, counter, payload)

    def _take_ledger(self, said: Presence | None) -> None:
        if said is None:
            self.drop("state")
            return
        known = self._ledger
        if known is not None and known.is_online and not said.is_online and said.life != known.life:
            return  # the will of an earlier life of the ledger
        self._ledger = said
        conversation = self._conversation
        if conversation is not None:
            if not said.is_online:
                conversation.end(ConversationLost("the ledger is offline"))
            elif self._ledger_life not in (b"", said.life):
                conversation.end(ConversationLost("the ledger has begun another life"))
            else:
                self._ledger_life = said.life
        elif self._waiting is not None:
            self._begin_or_refuse()

    # -- conversations

    def _begin_or_refuse(self) -> None:
        if self._ledger is None:
            self._begin_unheard()
        elif self._ledger.is_online:
            self._begin()
        else:
            waiting, self._waiting = self._waiting, None
            assert waiting is not None
            self._refuse(waiting, ConnectionRefusedError("the ledger is offline"))

    def _begin_unheard(self) -> None:
        """The broker keeps no state of the ledger, or has not yet sent it: try all the same after a while."""
        waiting = self._waiting

        def unheard() -> None:
            if waiting is not None and self._waiting is waiting and self.is_open and self._ledger is None:
                self._begin()

        self.clock.call_at(self.clock.monotonic_ms() + STATE_WAIT_MS, unheard)

    def _begin(self) -> None:
        handler, self._waiting = self._waiting, None
        assert handler is not None
        self._ledger_life = self._ledger.life if self._ledger is not None else b""
        identity = self.random.random_bytes(CONVERSATION_BYTES)
        made = Conversation(self, identity, handler, frontend=self._frontend, peer="broker")
        self._conversation = made
        made.begin()

    def _refuse(self, handler: StreamHandler, error: Exception) -> None:
        self.later(lambda: handler.closed(error))
