"""The link over a broker: what it loses, repeats, overtakes, forges or forgets costs time and nothing else (R16)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.mqtt import UNACKNOWLEDGED_BYTES_MAX, MqttFrontend
from ledger_sync.link.mqtt_ledger import CONVERSATIONS_PER_FRONTEND_MAX, MqttLedger
from ledger_sync.link.mqtt_topics import MESSAGE_BYTES_MAX, PREFIX, Presence, Topics
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool.intake import RecordsIntake
from ledger_sync.spool.spool import Spool
from ledger_sync.spool.writer import SpoolWriter
from protocol.codes import ListForm, ListKind
from protocol.limits import BATCH_BYTES_MAX, BATCHES_OUTSTANDING_MAX
from protocol.link_messages import LinkHello, ListMessage, encode_down, encode_up
from protocol.signed import Certificate, SignedHead, Version, sign_head
from tests.link.scripted_ledger import BATCH_KEY, CERTIFICATE, FRONTEND, ROOT, SIGNER, SITE, STRANGER, ScriptedLedger
from tests.protocol.samples import EPOCH, TERMINAL, chain, purchase
from tests.simulation.broker import Broker, VirtualBus
from tests.simulation.world import EPOCH_MS, Host, World

ADDRESS = "mqtt://broker:1883"
TOPICS = Topics(SITE)
UP, DOWN = TOPICS.up(FRONTEND), TOPICS.down(FRONTEND)
STATE, LEDGER_STATE = TOPICS.state(FRONTEND), TOPICS.ledger_state


def quiet(event: str, /, **facts: object) -> None:
    """A log that nobody reads."""


class Told:
    def __init__(self) -> None:
        self.lists: list[Version] = []

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        self.lists.append(head.version)

    def on_damaged_list(self, why: str) -> None:
        raise AssertionError(why)

    def on_recollect(self, terminal: int, epoch: int, first: int, last: int) -> None: ...

    def on_settled(self, terminals: set[tuple[int, int]]) -> None: ...


class Site:
    """A front-end, a broker and a scripted ledger, each on a machine of its own."""

    def __init__(self, directory: Path) -> None:
        self.world = World(seed=1)
        self.host = Host(self.world, "frontend")
        self.ledger_host = Host(self.world, "ledger")
        self.broker = Broker(Host(self.world, "broker"))
        self.ledger = ScriptedLedger()
        self.spool = Spool.open(
            str(directory / "spool.db"),
            frontend=FRONTEND,
            site=SITE,
            utc_offset_ms=lambda _: 8 * 3_600_000,
            clock=self.host,
            random=self.host,
            files=self.host,
            log=quiet,
        )
        self.writer = SpoolWriter(self.spool, executor=self.host, clock=self.host, log=quiet)
        self.told = Told()
        self.network = self.frontend_network()
        self.forwarder = self.make_forwarder(self.network)
        self.listening = self.start_ledger()

    def frontend_network(self) -> MqttFrontend:
        bus = VirtualBus(self.host, self.broker)
        return MqttFrontend(bus, site=SITE, frontend=FRONTEND, clock=self.host, random=self.host, log=quiet)

    def make_forwarder(self, network: MqttFrontend) -> Forwarder:
        forwarder = Forwarder(
            ForwarderSettings(frontend=FRONTEND, site=SITE, address=ADDRESS, root_public_key=ROOT.public_key),
            batch_key=BATCH_KEY,
            spool=self.writer,
            clock=self.host,
            network=network,
            random=self.host,
            log=quiet,
        )
        forwarder.attach(self.told)
        return forwarder

    def start_ledger(self) -> MqttLedger:
        bus = VirtualBus(self.ledger_host, self.broker)
        side = MqttLedger(bus, site=SITE, clock=self.ledger_host, random=self.ledger_host, log=quiet)
        self.listener = side.listen(ADDRESS, self.ledger.accept)
        return side

    def append(self, count: int, first: int = 1) -> None:
        payload = chain(*(purchase() for _ in range(first + count - 1)))
        for sequence in range(first, first + count):
            record = payload[96 * (sequence - 1) : 96 * sequence]
            self.spool.append([RecordsIntake(TERMINAL, EPOCH, record, self.host.now_ms(), 1)])

    def run(self, milliseconds: int) -> None:
        self.world.run_until(self.world.time_ms + milliseconds)

    @property
    def unsettled(self) -> int:
        return self.spool.facts().rows_unsettled

    @property
    def state(self) -> str:
        return str(self.forwarder.state()["state"])

    def sent_up(self) -> list[bytes]:
        return [payload for topic, payload in self.broker.seen if topic == UP]

    def sent_down(self) -> list[bytes]:
        return [payload for topic, payload in self.broker.seen if topic == DOWN]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.spool.close()


def test_rows_go_up_and_are_settled_by_their_receipt_alone(site: Site) -> None:
    site.append(3)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(5_000)
    assert [row for row, _ in site.ledger.batches[0].rows] == [1, 2, 3]
    assert site.unsettled == 3  # though the broker has acknowledged every message
    site.ledger.send(site.ledger.receipt_for(site.ledger.batches[0].name))
    site.run(1_000)
    assert site.unsettled == 0


def test_a_message_on_the_broker_is_conversation_counter_and_the_link_message_without_its_length(site: Site) -> None:
    site.forwarder.start()
    site.run(1_000)
    hello, *_ = site.sent_up()
    welcome, *_ = site.sent_down()
    assert hello[8:12] == bytes(4)
    assert welcome[:12] == hello[:12]
    assert hello[12:20] == bytes.fromhex("01010000") + FRONTEND.to_bytes(4, "big")
    assert welcome[12:16] == bytes.fromhex("01810000")


def test_what_is_published_is_bounded_by_the_batches_that_may_be_out(site: Site) -> None:
    site.append(40)
    site.ledger.answers = False
    site.forwarder.start()
    for first in range(41, 400, 10):
        site.append(10, first)
        site.run(200)
    assert len(site.ledger.batches) == BATCHES_OUTSTANDING_MAX
    assert site.broker.most_unacknowledged_bytes < BATCHES_OUTSTANDING_MAX * BATCH_BYTES_MAX


def test_an_hour_without_the_broker_leaves_everything_in_the_spool_and_nothing_in_memory(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.broker.crash()
    for minute in range(60):
        site.append(5, 1 + 5 * minute)
        site.run(60_000)
        assert len(site.forwarder._outbox) == 0
        assert site.network.session_facts()["unacknowledged_bytes"] == 0
        assert site.network._conversation is None
    assert site.unsettled == 300
    assert site.forwarder.connections == 1
    site.broker.start()
    site.run(40_000)
    assert site.unsettled == 0


def test_a_broker_that_acknowledges_nothing_is_given_up_before_memory_grows(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.broker.acknowledges_nothing = True
    conversation = site.network._conversation
    assert conversation is not None
    message = (1 << 20).to_bytes(4, "big") + bytes(1 << 20)
    written = 0
    while site.network.is_open and written < 100:
        conversation.write(message)
        written += 1
    assert written == 1 + UNACKNOWLEDGED_BYTES_MAX // (PREFIX.size + (1 << 20))
    site.run(100)
    assert site.state == "waiting"


@pytest.mark.parametrize("seed", range(4))
def test_a_broker_that_loses_repeats_and_overtakes_costs_time_only(site: Site, seed: int) -> None:
    print(f"seed {seed}")
    site.world.rng.seed(seed)
    site.broker.lost_permille = 40
    site.broker.twice_permille = 80
    site.broker.overtaken_permille = 40
    site.forwarder.start()
    for first in range(1, 400, 4):
        site.append(4, first)
        site.run(500)
    assert {"message_lost", "message_twice", "message_overtaken"} <= site.world.faults_fired.keys()
    site.broker.lost_permille = site.broker.twice_permille = site.broker.overtaken_permille = 0
    site.run(60_000)
    assert site.unsettled == 0
    offered = [row for batch in site.ledger.batches for row, _ in batch.rows]
    assert set(offered) == set(range(1, 401))


def test_a_lost_list_is_noticed_at_the_next_message_and_sent_again(site: Site) -> None:
    head = sign_head(
        SIGNER, key_id=1, site=SITE, list_kind=ListKind.DENY, generation=1, counter=4, issued_ms=1, content=b""
    )
    message = ListMessage(ListForm.SNAPSHOT, 0, 0, head.encode(), CERTIFICATE.encode(), b"")
    site.forwarder.start()
    site.run(2_000)
    conversations = len(site.ledger.connections)
    site.broker.lost_permille = 1_000
    site.ledger.send(message)
    site.run(100)
    site.broker.lost_permille = 0
    assert site.told.lists == []
    site.append(1)
    site.run(3_000)  # its receipt shows the hole
    assert len(site.ledger.connections) == conversations + 1
    assert site.unsettled == 0


def test_a_greeting_that_comes_again_ends_nothing(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    hello = site.sent_up()[0]
    site.broker.take(UP, hello)
    site.run(1_000)
    assert site.listening.dropped == {"duplicate": 1}
    assert site.state == "up"
    assert len(site.ledger.connections) == 1


def test_a_conversation_of_an_earlier_life_is_not_begun_again(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    old = site.sent_up()
    site.host.reset_streams()
    site.run(5_000)
    assert len(site.ledger.connections) == 2
    for message in old:
        site.broker.take(UP, message)
    site.run(1_000)
    assert site.listening.dropped == {"ended conversation": len(old)}
    assert len(site.ledger.connections) == 2
    assert site.state == "up"


def test_a_greeting_of_one_front_end_on_the_topic_of_another_is_dropped(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.broker.take(TOPICS.up(8), site.sent_up()[0])
    site.run(100)
    assert site.listening.dropped == {"greeting of another front-end": 1}
    assert len(site.ledger.connections) == 1


def test_what_belongs_to_no_conversation_is_dropped_before_anything_decodes_it(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    for topic in (UP, DOWN):
        site.broker.take(topic, b"x" * 11)
        site.broker.take(topic, b"x" * 13)
        site.broker.take(topic, bytes(MESSAGE_BYTES_MAX + 1))
        site.broker.take(topic, b"stranger" + bytes(4) + b"\1\2\0\0 and so on")
    site.broker.take("onecard/43/7/up", b"another site")
    site.run(100)
    assert site.listening.dropped == {"short": 2, "oversized": 1, "no greeting": 1}
    assert site.network.dropped == {"short": 2, "oversized": 1, "another conversation": 1}
    assert site.state == "up"


def test_a_forged_receipt_in_the_right_conversation_settles_nothing_and_the_rows_go_again(site: Site) -> None:
    site.append(2)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(2_000)
    conversation = site.network._conversation
    assert conversation is not None
    forged = encode_down(site.ledger.receipt_for(site.ledger.batches[0].name), STRANGER)
    site.broker.take(DOWN, PREFIX.pack(conversation.identity, conversation._expected) + forged[4:])
    site.run(50)
    assert site.unsettled == 2
    assert site.state == "waiting"
    site.ledger.answers = True
    site.run(10_000)
    assert site.unsettled == 0


def test_a_receipt_of_another_digest_or_front_end_settles_nothing(site: Site) -> None:
    site.append(2)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(2_000)
    receipt = site.ledger.receipt_for(site.ledger.batches[0].name)
    site.ledger.send(replace(receipt, name=replace(receipt.name, digest=bytes(32))))
    site.ledger.send(replace(receipt, name=replace(receipt.name, frontend=8)))
    site.run(1_000)
    assert site.unsettled == 2
    assert site.forwarder.state()["receipts_ignored"] == 2
    site.ledger.send(receipt)
    site.run(1_000)
    assert site.unsettled == 0


def test_a_receipt_that_comes_late_and_by_another_conversation_is_dropped(site: Site) -> None:
    site.append(2)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(2_000)
    conversation = site.network._conversation
    assert conversation is not None
    late = encode_down(site.ledger.receipt_for(site.ledger.batches[0].name), SIGNER)
    message = PREFIX.pack(conversation.identity, conversation._expected) + late[4:]
    site.host.reset_streams()
    site.run(5_000)
    assert site.state == "up"
    site.broker.take(DOWN, message)
    site.run(1_000)
    assert site.network.dropped == {"another conversation": 1}
    assert site.unsettled == 2


def test_front_ends_wait_as_soon_as_the_will_of_the_ledger_says_offline(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.ledger_host.crash()
    site.run(100)
    assert site.state == "waiting"
    assert site.network.facts()["ledger"] == {"state": "offline", "since_ms": EPOCH_MS}
    site.run(20_000)
    connections = site.forwarder.connections
    site.run(20_000)
    assert site.forwarder.connections == connections == 1  # no greeting is wasted on nobody
    site.start_ledger()
    site.run(25_000)
    assert site.state == "up"


def test_a_ledger_that_was_restarted_unnoticed_is_greeted_anew(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.broker.lost_permille = 1_000  # its will
    site.ledger_host.crash()
    site.run(100)
    site.broker.lost_permille = 0
    assert site.state == "up"
    site.start_ledger()
    site.run(2_000)
    assert site.state == "up"
    assert site.forwarder.connections == 2


def test_the_will_of_an_earlier_life_does_not_speak_for_the_present_one(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    old_ledger, old_frontend = (Presence(False, b"earlier!", 1).encode() for _ in range(2))
    site.broker.take(LEDGER_STATE, old_ledger, retain=True)
    site.broker.take(STATE, old_frontend, retain=True)
    site.run(100)
    assert site.state == "up"
    for topic in (STATE, LEDGER_STATE):
        said = Presence.decode(site.broker.retained[topic])
        assert said is not None
        assert said.is_online  # the owner has said it again


def test_the_ledger_knows_who_is_there_and_since_when(site: Site) -> None:
    site.run(5_000)
    site.forwarder.start()
    site.run(1_000)
    born_ms = EPOCH_MS + 5_000
    assert site.listening.facts()["present"] == {"7": {"state": "online", "since_ms": born_ms}}
    site.host.crash()
    site.run(1_000)
    assert site.listening.facts()["present"] == {"7": {"state": "offline", "since_ms": born_ms}}
    assert site.listening.facts()["conversations"] == 0


def test_of_two_processes_with_one_number_the_newer_talks_and_a_will_of_the_older_changes_nothing(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    older = site.network._conversation
    other = Host(site.world, "other")
    network = MqttFrontend(
        VirtualBus(other, site.broker), site=SITE, frontend=FRONTEND, clock=other, random=other, log=quiet
    )
    site.make_forwarder(network).start()
    site.run(2_000)
    assert len(site.ledger.connections) == 2
    assert older is not None
    assert network._conversation is not None
    assert network._conversation.identity != older.identity
    site.host.crash()
    site.run(1_000)
    assert site.listening.facts()["present"]["7"]["state"] == "online"  # type: ignore[index]


def test_conversations_of_one_front_end_are_bounded_and_the_oldest_goes(site: Site) -> None:
    site.run(1_000)
    for index in range(10):
        hello = LinkHello(FRONTEND, bytes(16), 1, 0, bytes(16), 0, 0)
        site.broker.take(UP, PREFIX.pack(bytes([index] * 8), 0) + encode_up(hello, BATCH_KEY)[4:])
        site.run(50)
    assert site.listening.facts()["conversations"] == CONVERSATIONS_PER_FRONTEND_MAX
    assert [one.stream is None for one in site.ledger.connections] == [True] * 6 + [False] * 4


def test_a_broker_that_keeps_no_state_is_tried_all_the_same(site: Site) -> None:
    site.broker.keeps_no_state = True
    site.run(1_000)
    site.append(1)
    site.forwarder.start()
    site.run(3_000)
    assert site.unsettled == 0


def test_a_front_end_cut_from_the_broker_comes_back_and_drains(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.world.cut_hosts.add("frontend")
    site.append(5)
    site.run(60_000)
    assert site.state == "waiting"
    assert site.listening.facts()["conversations"] == 0
    site.world.cut_hosts.clear()
    site.run(30_000)
    assert site.unsettled == 0


def test_a_broker_killed_while_batches_are_out_loses_nothing(site: Site) -> None:
    site.forwarder.start()
    for round_ in range(10):
        site.append(20, 1 + 20 * round_)
        site.run(55 + 7 * round_)
        site.broker.crash()
        site.run(1_000)
        site.broker.start()
        site.run(500)
    site.run(30_000)
    assert site.unsettled == 0
    assert {row for batch in site.ledger.batches for row, _ in batch.rows} == set(range(1, 201))


def test_an_orderly_stop_says_goodbye_without_a_will(site: Site) -> None:
    site.forwarder.start()
    site.run(2_000)
    site.forwarder.stop(lambda: None)
    site.network.close()
    site.listener.close()
    site.run(1_000)
    for topic in (STATE, LEDGER_STATE):
        said = Presence.decode(site.broker.retained[topic])
        assert said is not None
        assert not said.is_online
    assert site.broker.sessions == {}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"online",
        b"[]",
        b'{"state": "online"}',
        b'{"state": "asleep", "life": "0011223344556677", "since_ms": 1}',
        b'{"state": "online", "life": "0011", "since_ms": 1}',
        b'{"state": "online", "life": "0011223344556677", "since_ms": true}',
        b'{"state": "online", "life": "0011223344556677", "since_ms": -1}',
        b'{"state": "online", "life": 5, "since_ms": 1}',
        b"[" * 200,
        b"\xff" * 20,
        b" " * 300,
    ],
)
def test_a_state_that_is_none_is_not_believed(payload: bytes) -> None:
    assert Presence.decode(payload) is None


def test_a_state_reads_as_it_was_written() -> None:
    written = b'{"state": "online", "life": "6561726c69657221", "since_ms": 1790000000000}'
    assert Presence.decode(written) == Presence(True, b"earlier!", 1_790_000_000_000)
    assert Presence(True, b"earlier!", 1_790_000_000_000).encode() == written


@pytest.mark.parametrize(
    ("topic", "number"),
    [
        ("onecard/42/7/up", 7),
        ("onecard/42/4294967295/up", 4_294_967_295),
        ("onecard/42/4294967296/up", None),
        ("onecard/42/07/up", None),
        ("onecard/42/ledger/up", None),
        ("onecard/42/٧/up", None),
        ("onecard/43/7/up", None),
        ("onecard/42/7/down", None),
        ("onecard/42/7/up/more", None),
    ],
)
def test_a_topic_names_one_front_end_of_this_site_or_nobody(topic: str, number: int | None) -> None:
    assert TOPICS.frontend_of(topic, "up") == number
