"""`onecard doctor --link`: tries the way to the ledger, and where it goes over a broker, tries that broker.

What a broker's documentation promises and what this one does are two things: it is asked to carry a burst to somebody
who reads late, the longest message, small messages one after the other, and to keep what was retained; and whether it
lets this front-end read or write what is another's. All of it on the front-end's own topic `…/doctor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from onecard_findings import Finding, Findings, Level
from onecard_host import CliError

if TYPE_CHECKING:
    import aiomqtt

    from onecard_host import Host
    from onecard_site import SiteFile
    from protocol.ports import BusAccess

CHECK: Final = "broker"
BURST: Final = 2_000  # twice what a Mosquitto as it is shipped keeps for one client
BURST_BYTES: Final = 64
PAIRS: Final = 30
SILENCE_SECONDS: Final = 1.5  # a broker that has said nothing for so long says nothing more
RECEIVE_SECONDS_MAX: Final = 6.0
NAGLE_MS: Final = 20.0  # a delayed acknowledgement of Linux takes 40 ms; nothing else on a link so short does
SLOW_MS: Final = 250.0
LOOPBACK: Final = ("127.", "localhost", "[::1]", "::1")


def check_link(host: Host, site: SiteFile) -> Findings:
    """Findings on the link of one front-end."""
    address = site.link(site.frontend.ledger_link)
    if address.startswith(("mqtt://", "mqtts://")):
        access = site.broker_access(site.frontend)
        yield from _secrecy(address, access)
        yield from asyncio.run(Trial(address, access, site.site.id, site.frontend.id).run())
    yield _echo(host, site)


def _echo(host: Host, site: SiteFile) -> Finding:
    """Through the running front-end: nobody else has its keys, and a second one of its number would take its place."""
    try:
        told = host.ask(site.socket(site.frontend.control_socket), {"verb": "echo"})
    except CliError:
        mend = "start the front-end (`onecard serve`) and call this again"
        return Finding("link", Level.WARNING, "the front-end does not run: the way to the ledger was not tried", mend)
    if told.get("status") == "done":
        level = Level.WARNING if told["ms"] > SLOW_MS else Level.OK
        mend = "the ledger is busy, or the network slow; `onecard ledger links` and the broker's log say more"
        says = f"a question to the ledger is answered in {told['ms']} ms"
        return Finding("link", level, says, "" if level is Level.OK else mend)
    why = "the ledger does not answer" if told.get("status") is None else f"the ledger says {told['status']}"
    mend = "see that the ledger runs, and what `onecard status` says of the link; records wait in the spool meanwhile"
    return Finding("link", Level.BAD, why, mend)


def _secrecy(address: str, access: BusAccess) -> Findings:
    from onecard_bus import broker_of

    host, _, is_tls = broker_of(address)
    if is_tls or host.startswith(LOOPBACK):
        yield Finding(CHECK, Level.OK, f"{address}: {'TLS' if is_tls else 'this machine'}")
    else:
        yield Finding(
            CHECK,
            Level.WARNING,
            f"{address} goes over the network in clear" + (", with the password in it" if access.password_path else ""),
            "give the broker a certificate and use mqtts:// with broker_ca; records carry seals, but not secrecy",
        )


class Trial:
    """One broker, tried as one front-end."""

    def __init__(self, address: str, access: BusAccess, site: int, frontend: int) -> None:
        self._address = address
        self._access = access
        self._site = site
        self._frontend = frontend
        self._mark = os.urandom(4)
        self._topic = f"onecard/{site}/{frontend}/doctor"

    async def run(self) -> list[Finding]:
        """Every finding; a broker that ends the trial is one too."""
        import aiomqtt

        from onecard_bus import BusError

        found: list[Finding] = []
        for trial in (self._reach, self._burst, self._retained, self._longest, self._round_trips, self._others):
            try:
                found.append(await trial())
            except (aiomqtt.MqttError, OSError, ValueError, BusError) as error:
                name = trial.__name__.strip("_").replace("_", " ")
                mend = "see the broker's log; deploy/ has configurations that are known to do"
                found.append(Finding(CHECK, Level.BAD, f"{name}: {error}", mend))
                if trial == self._reach:
                    break
        return found

    # -- trials

    async def _reach(self) -> Finding:
        async with self._client("reach"):
            return Finding(CHECK, Level.OK, f"{self._address} lets front-end {self._frontend} in")

    async def _burst(self) -> Finding:
        """A session that is away while many messages come, and reads them late."""
        async with self._client("late", is_persistent=True) as late:
            await late.subscribe(self._topic, 1)
        async with self._client("burst") as sender:
            for start in range(0, BURST, 100):
                await asyncio.gather(*(self._send(sender, b"burst", number) for number in range(start, start + 100)))
        async with self._client("late", is_persistent=True) as late:
            got = await self._numbers(late, b"burst", BURST)
            await late.unsubscribe(self._topic)
        async with self._client("late"):  # a clean session of that name: what was kept for it is gone
            pass
        if len(got) == BURST:
            return Finding(CHECK, Level.OK, f"a burst of {BURST} messages to a session that reads late: all arrived")
        mend = "Mosquitto: max_queued_messages 0, max_queued_bytes 0, max_inflight_messages 200; see deploy/"
        says = f"it acknowledged {BURST} messages and delivered {len(got)}: it drops what a slow reader has not taken"
        return Finding(CHECK, Level.BAD, says, mend)

    async def _retained(self) -> Finding:
        async with self._client("keep") as sender:
            await sender.publish(self._topic, b"kept" + self._mark, 1, True)
        got = False
        async with self._client("kept") as reader:
            await reader.subscribe(self._topic, 1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_SECONDS):
                    async for message in reader.messages:
                        if message.payload == b"kept" + self._mark and message.retain:
                            got = True
                            break
            await reader.publish(self._topic, b"", 1, True)
        if got:
            return Finding(CHECK, Level.OK, "what is retained is there for a later connection")
        mend = "allow retained messages: without them nobody who connects later learns that the ledger is there"
        return Finding(CHECK, Level.WARNING, "it keeps no retained message between two connections", mend)

    async def _longest(self) -> Finding:
        from ledger_sync.link.mqtt_topics import MESSAGE_BYTES_MAX

        payload = b"long" + self._mark + bytes(MESSAGE_BYTES_MAX - 8)
        size = 0
        try:
            async with self._client("long") as client:
                await client.subscribe(self._topic, 1)
                await client.publish(self._topic, payload, 1)
                async with asyncio.timeout(RECEIVE_SECONDS_MAX):
                    async for message in client.messages:
                        if isinstance(message.payload, bytes) and message.payload[:8] == payload[:8]:
                            size = len(message.payload)
                            break
        except (TimeoutError, self._mqtt_error()):
            size = 0
        if size == len(payload):
            return Finding(CHECK, Level.OK, f"the longest link message ({size} bytes) passes")
        mend = f"Mosquitto: message_size_limit {MESSAGE_BYTES_MAX} or 0; NATS: max_payload {MESSAGE_BYTES_MAX}"
        return Finding(CHECK, Level.BAD, f"a link message of {len(payload)} bytes does not pass", mend)

    async def _round_trips(self) -> Finding:
        """Small messages alone, and in pairs: with Nagle's algorithm the second of a pair waits."""
        alone: list[float] = []
        paired: list[float] = []
        async with self._client("trip") as client:
            await client.subscribe(self._topic, 1)
            for number in range(PAIRS):
                alone.append(await self._trip(client, 2 * number, 1))
                paired.append(await self._trip(client, 1_000 + 2 * number, 2))
        one_ms, two_ms = median(alone), median(paired)
        says = f"a small message comes back in {one_ms:.1f} ms, the second of two in {two_ms:.1f} ms"
        if two_ms - one_ms > NAGLE_MS or one_ms > 2 * NAGLE_MS:
            mend = "Mosquitto: set_tcp_nodelay true; if it is set, the network itself is slow"
            return Finding(CHECK, Level.WARNING, f"{says}: it holds small messages back (Nagle)", mend)
        return Finding(CHECK, Level.OK, says)

    async def _others(self) -> Finding:
        """Whether this front-end may hear or speak as another."""
        other = self._frontend + 1 if self._frontend < 0xFFFF_FFFF else 1
        may: set[str] = set()
        with contextlib.suppress(self._mqtt_error()):  # a broker may answer by ending the session: that is a no
            async with self._client("others") as client:
                for topic in ("+/up", "+/down", "+/state", f"{other}/doctor"):
                    await client.subscribe(f"onecard/{self._site}/{topic}", 1)
                await client.publish(f"onecard/{self._site}/{other}/doctor", b"other" + self._mark, 1)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SILENCE_SECONDS):
                        async for message in client.messages:
                            parts = str(message.topic).split("/")
                            if parts[2] not in (str(self._frontend), "ledger"):
                                may.add("publish and read" if parts[3] == "doctor" else f"read …/{parts[3]}")
        if not may:
            return Finding(CHECK, Level.OK, "it shows this front-end nothing of another's")
        mend = "give each front-end a user or certificate of its own, and the broker the access rules of deploy/"
        says = f"this front-end may {', '.join(sorted(may))} of other front-ends: they can disturb each other"
        return Finding(CHECK, Level.WARNING, says, mend)

    # -- inside

    def _client(
        self, what: str, *, is_persistent: bool = False
    ) -> contextlib.AbstractAsyncContextManager[aiomqtt.Client]:
        from onecard_bus import client_of, connected
        from protocol.ports import BusOpening

        opening = BusOpening(f"onecard-{self._site}-{self._frontend}-doctor-{what}", "", b"", ())
        incoming_max = 2 * BURST
        return connected(
            client_of(self._address, self._access, opening, is_persistent=is_persistent, incoming_max=incoming_max)
        )

    @staticmethod
    def _mqtt_error() -> type[Exception]:
        import aiomqtt

        return aiomqtt.MqttError

    async def _send(self, client: aiomqtt.Client, word: bytes, number: int) -> None:
        payload = word + self._mark + number.to_bytes(4, "big")
        await client.publish(self._topic, payload.ljust(BURST_BYTES, b"\0"), 1)

    def _number(self, word: bytes, payload: Any) -> int | None:
        head = word + self._mark
        if not isinstance(payload, bytes) or payload[: len(head)] != head:
            return None
        return int.from_bytes(payload[len(head) : len(head) + 4], "big")

    async def _numbers(self, client: aiomqtt.Client, word: bytes, count: int) -> set[int]:
        """Which of them come, until all have or nothing more does."""
        got: set[int] = set()
        messages = aiter(client.messages)
        with contextlib.suppress(TimeoutError):
            while len(got) < count:
                async with asyncio.timeout(SILENCE_SECONDS):
                    number = self._number(word, (await anext(messages)).payload)
                if number is not None:
                    got.add(number)
        return got

    async def _trip(self, client: aiomqtt.Client, first: int, count: int) -> float:
        """Milliseconds until the last of `count` messages is back."""
        started = time.perf_counter()
        sending = [asyncio.create_task(self._send(client, b"trip", first + one)) for one in range(count)]
        try:
            async with asyncio.timeout(RECEIVE_SECONDS_MAX):
                async for message in client.messages:
                    if self._number(b"trip", message.payload) == first + count - 1:
                        return (time.perf_counter() - started) * 1000
        finally:
            await asyncio.gather(*sending)
        raise OSError("a small message did not come back")
