"""The configurations of `deploy/` in their real brokers, with TLS, users and access rules as they are shipped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from onecard_bus import BusError, RealBus, client_of, connected
from protocol.ports import BusAccess, BusOpening
from tests.link.brokers import DEPLOY, RealBroker, missing, program_of
from tests.link.certificates import make_certificates
from tests.source_tree import ROOT

SECONDS_MAX = 20.0  # for what comes within milliseconds
ANSWER_SECONDS_MAX = 2.0  # a broker that does not want somebody may just not answer
SILENCE_SECONDS = 0.5  # of what must not come: a rule is tested by a message that does come afterwards


class Deployed:
    """A broker with the shipped configuration as it is, less paths and port."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.certificates = directory / "certificates"
        make_certificates(self.certificates, "1", "2", "ledger", "stranger")
        self.broker = RealBroker(kind, directory / "broker", is_plain=False, certificates=self.certificates)
        self.address = f"mqtts://localhost:{self.broker.port}"

    def access(self, name: str) -> BusAccess:
        own, ca = self.certificates / name, str(self.certificates / "ca.pem")
        if self.kind == "mosquitto":
            return BusAccess("", "", ca, f"{own}.pem", f"{own}.key")
        password = self.certificates / f"{name}.password"
        password.write_text(f"CHANGE-ME-{name}\n")
        return BusAccess(name, str(password), ca, f"{own}.pem", f"{own}.key")

    def client(
        self, name: str, role: str, access: BusAccess | None = None
    ) -> contextlib.AbstractAsyncContextManager[aiomqtt.Client]:
        opening = BusOpening(f"test-{name}-{role}", "", b"", ())
        client = client_of(self.address, access or self.access(name), opening)
        client.timeout = ANSWER_SECONDS_MAX
        return connected(client)


@pytest.fixture(params=["mosquitto", "nats"])
def deployed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployed]:
    if program_of(request.param) is None:
        pytest.skip(missing(request.param))
    made = Deployed(request.param, tmp_path)
    made.broker.start()
    yield made
    made.broker.kill()


async def _heard(deployed: Deployed, listener: str, wanted: str, speaker: str, topic: str) -> bool:
    """Whether what `speaker` publishes on `topic` reaches `listener`, who asks for `wanted`."""
    with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
        async with deployed.client(listener, "reader") as reader:
            await reader.subscribe(wanted, 1)
            with contextlib.suppress(aiomqtt.MqttError):
                async with deployed.client(speaker, "writer") as writer:
                    await writer.publish(topic, b"said", 1)
            async with asyncio.timeout(SILENCE_SECONDS):
                async for message in reader.messages:
                    if message.payload == b"said":
                        return True
    return False


@pytest.mark.parametrize(
    ("speaker", "topic", "listener", "wanted", "may"),
    [
        ("1", "onecard/1/1/up", "ledger", "onecard/1/+/up", True),
        ("1", "onecard/1/1/state", "ledger", "onecard/1/+/state", True),
        ("ledger", "onecard/1/1/down", "1", "onecard/1/1/down", True),
        ("ledger", "onecard/1/ledger/state", "2", "onecard/1/ledger/state", True),
        ("1", "onecard/1/1/doctor", "1", "onecard/1/1/doctor", True),
        ("1", "onecard/1/2/up", "ledger", "onecard/1/+/up", False),
        ("1", "onecard/1/2/state", "ledger", "onecard/1/+/state", False),
        ("1", "onecard/1/ledger/state", "2", "onecard/1/ledger/state", False),
        ("1", "onecard/1/2/down", "2", "onecard/1/2/down", False),
        ("2", "onecard/1/2/up", "1", "onecard/1/2/up", False),
        ("ledger", "onecard/1/2/down", "1", "onecard/1/+/down", False),
    ],
)
def test_each_may_publish_and_read_only_its_own(
    deployed: Deployed, speaker: str, topic: str, listener: str, wanted: str, may: bool
) -> None:
    assert asyncio.run(_heard(deployed, listener, wanted, speaker, topic)) is may


def test_nobody_comes_in_without_a_certificate_of_this_site(deployed: Deployed) -> None:
    async def enter(access: BusAccess) -> None:
        async with deployed.client("1", "guest", access):
            pass

    good = deployed.access("1")
    asyncio.run(enter(good))
    with pytest.raises((aiomqtt.MqttError, OSError)):
        asyncio.run(enter(BusAccess(good.user, good.password_path, good.ca_path)))


# paho leaves the socket of a failed handshake to the collector, which closes it.
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed .*ssl.SSLSocket:ResourceWarning")
def test_a_front_end_does_not_speak_with_a_broker_that_its_authority_has_not_signed(
    deployed: Deployed, tmp_path: Path
) -> None:
    make_certificates(tmp_path / "other", "1")
    told: list[Exception | None] = []
    ended = asyncio.Event()

    class Handler:
        def opened(self) -> None:
            raise AssertionError("a stranger was believed")

        def message(self, topic: str, payload: bytes, is_retained: bool) -> None: ...

        def closed(self, error: Exception | None) -> None:
            told.append(error)
            ended.set()

    async def attempt() -> None:
        good = deployed.access("1")
        wrong = BusAccess(
            good.user, good.password_path, str(tmp_path / "other" / "ca.pem"), good.certificate_path, good.key_path
        )
        failed: list[BaseException] = []
        bus = RealBus(wrong, failed=failed.append)
        bus.connect(deployed.address, BusOpening("test-1", "will", b"", ("onecard/1/1/down",)), Handler())
        async with asyncio.timeout(SECONDS_MAX):
            await ended.wait()
        await bus.close()
        assert failed == []

    asyncio.run(attempt())
    assert isinstance(told[0], BusError)
    assert "certificate verify failed" in str(told[0])


def test_the_compose_file_names_files_that_are_there() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for name in ("mosquitto.conf", "nats.conf"):
        assert f"./{name}:" in text
        assert (DEPLOY / name).exists()
    assert "deploy/mosquitto.acl" in text
    assert (ROOT / "docs" / "link.md").exists()
