"""The ledger's side of the link over MQTT: a `Network` whose listener hears front-ends through a broker. Sans-IO.

One session, which comes back by itself after a back-off with jitter; many conversations on it.

A conversation begins with message 0 of an identity not heard before, and that must be a LINK_HELLO of the front-end
whose topic it came on: so nobody's old greeting, sent again by a broker or by another front-end, ends what runs now.
Everything else that belongs to no conversation is dropped before anything decodes it. Conversations are bounded for
each front-end and in all; the oldest goes first. Whoever they are is proved later, by the MAC of the LINK_HELLO.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Final

from ledger_sync.link.mqtt_conversation import Conversation, ConversationLost
from ledger_sync.link.mqtt_side import MqttSide, presence_facts
from ledger_sync.link.mqtt_topics import PREFIX, Presence, Topics
from protocol.codes import LinkType
from protocol.link_envelope import ENVELOPE_BYTES
from protocol.ports import Bus, Clock, Listener, Log, Random, StreamHandler

CONVERSATIONS_MAX: Final = 128  # twice what the service takes: an old one may linger while its successor greets
CONVERSATIONS_PER_FRONTEND_MAX: Final = 4  # one, and what a flapping front-end or two of one number leave behind
FRONTENDS_KNOWN_MAX: Final = 256  # whose presence and past conversations are remembered
IDENTITIES_REMEMBERED_MAX: Final = 64  # of each front-end: an older greeting cannot be told from a new one
CONVERSATION_IDLE_MS_MAX: Final = 90_000  # nine pings of a forwarder
IDLE_CHECK_MS: Final = 30_000
UNACKNOWLEDGED_BYTES_MAX: Final = 64 << 20  # lists for all front-ends at once; beyond it the broker is stuck
BACK_OFF_MS_MIN: Final = 100
BACK_OFF_MS_MAX: Final = 10_000
LEDGER: Final = "ledger"
FRONTEND_OFFSET: Final = PREFIX.size + ENVELOPE_BYTES  # LINK_HELLO begins with the front-end's number
TYPE_OFFSET: Final = PREFIX.size + 1


class _Listener:
    def __init__(self, side: MqttLedger, address: str) -> None:
        self._side = side
        self._address = address

    def address(self) -> str:
        return self._address

    def close(self) -> None:
        self._side.stop_listening()


class MqttLedger(MqttSide):
    """`Network` with one listener."""

    def __init__(self, bus: Bus, *, site: int, clock: Clock, random: Random, log: Log) -> None:
        topics = Topics(site)
        super().__init__(
            bus,
            site=site,
            owner=LEDGER,
            subscriptions=(topics.up("+"), topics.state("+")),
            unacknowledged_bytes_max=UNACKNOWLEDGED_BYTES_MAX,
            clock=clock,
            random=random,
            log=log,
        )
        self._address = ""
        self._accept: Callable[[], StreamHandler] | None = None
        self._is_closing = False
        self._back_off_ms = BACK_OFF_MS_MIN
        self._conversations: OrderedDict[tuple[int, bytes], Conversation] = OrderedDict()
        self._identities: OrderedDict[int, deque[bytes]] = OrderedDict()
        self._presences: OrderedDict[int, Presence] = OrderedDict()

    def facts(self) -> Mapping[str, object]:
        """For `status`, as JSON values: the broker, and who says he is there, since when."""
        present = {str(number): presence_facts(one) for number, one in sorted(self._presences.items())}
        return {**self.session_facts(), "conversations": len(self._conversations), "present": present}

    # -- Network

    def connect(self, address: str, handler: StreamHandler) -> None:
        self.later(lambda: handler.closed(ConnectionRefusedError(f"the ledger does not connect to {address}")))

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        if self._accept is not None:
            raise OSError(f"already listening through {self._address}")
        self._address, self._accept = address, accept
        self.open_session(address)
        self._check_idle()
        return _Listener(self, address)

    def stop_listening(self) -> None:
        """Take no more conversations; when those open have ended, say goodbye. Idempotent."""
        if not self._is_closing:
            self._is_closing = True
            self._leave_if_done()

    def close(self) -> None:
        """Say goodbye now: the process ends in order. Idempotent."""
        self._is_closing = True
        for conversation in list(self._conversations.values()):
            conversation.end(None)
        self.leave()

    def _leave_if_done(self) -> None:
        if self._is_closing and not self._conversations:
            self.leave()

    # -- MqttSide

    def topic_to_peer(self, conversation: Conversation) -> str:
        return self.topics.down(conversation.frontend)

    def ended(self, conversation: Conversation) -> None:
        self._conversations.pop((conversation.frontend, conversation.identity), None)
        self.later(self._leave_if_done)

    def on_open(self) -> None:
        self._back_off_ms = BACK_OFF_MS_MIN

    def on_lost(self, error: Exception, *, was_open: bool) -> None:
        """Come back after a while, longer each time, never at the same moment as others."""
        for conversation in list(self._conversations.values()):
            conversation.end(error, tell_peer=False)
        self._presences.clear()
        if self._is_closing:
            return
        self.log("link.broker_lost" if was_open else "link.no_broker", alarm=True, error=str(error))
        jitter_ms = int.from_bytes(self.random.random_bytes(2), "big") * self._back_off_ms // 0x1_0000
        self.clock.call_at(self.clock.monotonic_ms() + self._back_off_ms + jitter_ms, self._try_again)
        self._back_off_ms = min(2 * self._back_off_ms, BACK_OFF_MS_MAX)

    def _try_again(self) -> None:
        if not self._is_closing and not self.has_session:
            self.open_session(self._address)

    def on_message(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        sender = self.topics.frontend_of(topic, "up")
        if sender is None:
            present = self.topics.frontend_of(topic, "state")
            if present is None:
                self.drop("foreign topic")
            else:
                self._take_presence(present, Presence.decode(payload))
        elif is_retained:
            self.drop("retained")
        else:
            self._take(sender, payload)

    # -- what comes

    def _take(self, sender: int, payload: bytes) -> None:
        prefix = self.prefix_of(payload)
        if prefix is None:
            return
        identity, counter = prefix
        conversation = self._conversations.get((sender, identity)) or self._begin(sender, identity, counter, payload)
        if conversation is not None:
            conversation.heard_at_ms = self.clock.monotonic_ms()
            self.hand_over(conversation, counter, payload)

    def _begin(self, sender: int, identity: bytes, counter: int, payload: bytes) -> Conversation | None:
        heard = self._identities.get(sender)
        if self._is_closing or self._accept is None:
            self.drop("closing")
        elif heard is not None and identity in heard:
            self.drop("ended conversation")
        elif counter != 0 or len(payload) == PREFIX.size or payload[TYPE_OFFSET] != LinkType.HELLO:
            self.drop("no greeting")
        elif payload[FRONTEND_OFFSET : FRONTEND_OFFSET + 4] != sender.to_bytes(4, "big"):
            self.drop("greeting of another front-end")
        else:
            self._remember(sender, identity)
            self._make_room(sender)
            made = Conversation(self, identity, self._accept(), frontend=sender, peer=f"front-end {sender}, broker")
            self._conversations[sender, identity] = made
            made.begin()
            return made
        return None

    def _remember(self, sender: int, identity: bytes) -> None:
        heard = self._identities.pop(sender, None) or deque(maxlen=IDENTITIES_REMEMBERED_MAX)
        heard.append(identity)
        self._identities[sender] = heard
        if len(self._identities) > FRONTENDS_KNOWN_MAX:
            self._identities.popitem(last=False)

    def _make_room(self, sender: int) -> None:
        ours = [one for (frontend, _), one in self._conversations.items() if frontend == sender]
        if len(ours) >= CONVERSATIONS_PER_FRONTEND_MAX:
            ours[0].end(ConversationLost("too many conversations of one front-end"))
        elif len(self._conversations) >= CONVERSATIONS_MAX:
            next(iter(self._conversations.values())).end(ConversationLost("too many conversations"))

    def _take_presence(self, frontend: int, said: Presence | None) -> None:
        if said is None:
            self.drop("state")
            return
        known = self._presences.get(frontend)
        if known is not None and known.is_online and not said.is_online:
            if said.life != known.life:
                return  # the will of an earlier life
            for conversation in list(self._conversations.values()):
                if conversation.frontend == frontend:
                    conversation.end(ConversationLost("the front-end is offline"), tell_peer=False)
        self._presences[frontend] = said
        self._presences.move_to_end(frontend)
        if len(self._presences) > FRONTENDS_KNOWN_MAX:
            self._presences.popitem(last=False)

    def _check_idle(self) -> None:
        if self._is_closing:
            return
        now_ms = self.clock.monotonic_ms()
        for conversation in list(self._conversations.values()):
            if now_ms - conversation.heard_at_ms > CONVERSATION_IDLE_MS_MAX:
                conversation.end(ConversationLost("the front-end is silent"))
        self.clock.call_at(now_ms + IDLE_CHECK_MS, self._check_idle)
