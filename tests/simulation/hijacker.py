"""Somebody who owns a front-end: its batch key, its link master, its spool, its sessions (R4, R16, R28).

He can keep things back; that is done to every front-end here by outages. What he does besides: he speaks to the ledger
in the front-end's name and brings it rows of his own making, and he offers its terminals a deny list of his own, from
which the cards that he wants are gone, or an old one on which they were not yet. The ledger must book nothing of it and
the terminals must apply nothing of it, and when the front-end is its owner's again, all must go on as before.
"""

from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from frontend_server.server import FrontendServer
from ledger_sync.link.session import FrontEndLink, LinkState
from protocol import rows
from protocol.codes import ListForm, ListKind, RowKind
from protocol.deny_list import DenyList
from protocol.errors import RemoteError
from protocol.link_messages import BatchMessage, LinkHello, Row, name_batch
from protocol.list_transfer import ListVersion
from protocol.messages import ListOffer
from protocol.ports import Stream
from protocol.records import read_head, walk
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.eyes import SpoolEye
from tests.simulation.frontend_host import LEDGER_LINK, FrontendHost
from tests.simulation.keys import SITE
from tests.simulation.site import Site
from tests.simulation.world import Host

ROWS_MAX: Final = 4
LOOK_MS: Final = 15
LOOKS_MAX: Final = 300
PATIENCE_MS: Final = 1_500


class Hijacker:
    """Owns one front-end."""

    def __init__(self, site: Site, frontend: FrontendHost) -> None:
        self.site = site
        self.frontend = frontend
        self.rng = random.Random(f"{site.seed}:hijacker")
        self.host = Host(site.world, "hijacker")
        server = frontend.server
        self._oldest = None if server is None else server.parts.distribution.held(ListKind.DENY)
        self._spool_id = self.rng.randbytes(16)

    def act(self) -> None:
        """One abuse."""
        self.rng.choice((self._bring_rows, self._serve_a_list))()

    # -- to the ledger

    def _bring_rows(self) -> None:
        made = self._altered_rows()
        if made:
            self.site.world.count_fault("attack:invented_batch")
            self.host.connect(LEDGER_LINK, _FalseFrontEnd(self, made))

    def settle_with(self, receipt: bytes, looks: int = LOOKS_MAX) -> None:
        """What the ledger has truly signed, for rows that he made up under the numbers of true ones.

        He waits for the moment at which the front-end waits for a receipt of its own rows.
        """
        forwarder, eye = self.frontend.forwarder, self._eye()
        links = [
            each
            for each in self.frontend.host.streams
            if each.other is not None and each.other.host.name == LEDGER_HOST
        ]
        is_up = forwarder is not None and forwarder.state()["state"] == "up"
        if is_up and links and eye.unsettled_rows():
            self.site.world.count_fault("attack:foreign_receipt")
            links[0].arrive(receipt)
        elif looks > 1:
            self.site.after(LOOK_MS, lambda: self.settle_with(receipt, looks - 1))

    def _eye(self) -> SpoolEye:
        return self.site.invariants.spools()[self.site.frontends.index(self.frontend)]

    def _altered_rows(self) -> list[bytes]:
        """True rows of the spool, each with something changed: amount, card, terminal, number, seal."""
        stored = self._eye().records_rows(ROWS_MAX)
        return [self._altered(data) for data in stored]

    def _altered(self, data: bytes) -> bytes:
        row = rows.decode(data)
        records = [bytes(each) for each in walk(row.payload)]
        at = self.rng.randrange(len(records))
        record = bytearray(records[at])
        where = self.rng.randrange(44, len(record))  # behind the head: body or seal; the frame's own numbers stay true
        record[where] ^= 1 << self.rng.randrange(8)
        records[at] = bytes(record)
        payload = b"".join(records)
        first, last = (read_head(each).sequence for each in (records[0], records[-1]))
        made = rows.PackedRow(
            RowKind.RECORDS, row.terminal, row.epoch, first, last, row.received_ms, payload, tuple(row.trade_ms)
        )
        return made.encode()

    def link(self) -> FrontEndLink:
        """In the front-end's name, with its key."""
        hello = LinkHello(
            frontend=self.frontend.number,
            spool_id=self._spool_id,
            spool_birth_ms=self.host.now_ms(),
            last_row=self._eye().last_row(),
            nonce=self.rng.randbytes(16),
            ledger_generation=0,
            ledger_position=0,
        )
        keys = self.site.keys
        return FrontEndLink(
            hello,
            batch_key=keys.batch_mac(self.frontend.number),
            root_public_key=keys.root.public_key,
            site=SITE,
        )

    def batch(self, made: list[bytes]) -> BatchMessage:
        """Named as any batch is, so that the ledger must look into it; numbered as the true rows that follow."""
        first = self._eye().last_row() + 1
        numbered: list[Row] = [(first + at, data) for at, data in enumerate(made)]
        return BatchMessage(name_batch(self.frontend.number, self._spool_id, numbered), numbered)

    # -- to the terminals

    def _serve_a_list(self) -> None:
        """A list that is higher than any, and on which nobody stands; its head is signed by nobody who may."""
        server = self.frontend.server
        if server is None:
            return
        distribution = server.parts.distribution
        held = distribution.held(ListKind.DENY)
        if held is None:
            return
        if self._oldest is not None and self.rng.random() < 0.5:
            self.site.world.count_fault("attack:old_list")
            self._offer(server, self._oldest)
            return
        self.site.world.count_fault("attack:forged_list")
        content = DenyList().content()
        head = replace(
            held.head,
            counter=held.head.counter + self.rng.choice((0, 1, 1_000)),
            content_bytes=len(content),
            digest=sha256(content).digest(),
            signature=self.rng.choice((held.head.signature, self.rng.randbytes(64))),
        )
        self._offer(server, ListVersion(head, held.certificate, content))

    def _offer(self, server: FrontendServer, version: ListVersion) -> None:
        """To every terminal that is logged in, in its own session, whatever it holds; found out a little later."""
        offer = ListOffer(
            form=ListForm.SNAPSHOT,
            base_generation=0,
            base_counter=0,
            transfer_bytes=len(version.content),
            head=version.head_bytes,
            certificate=version.certificate_bytes,
            data=version.content,
        ).encode()
        for live in server.parts.sessions:
            session: Any = live  # what sends to its terminal is nobody's to call but his
            session._send(offer)
            session._settle()
        self.site.after(PATIENCE_MS, lambda: self._caught(server))

    def _caught(self, server: FrontendServer) -> None:
        """Its owner finds him out: what ran there is killed, and what the disk holds is started again."""
        if self.frontend.server is server:
            self.frontend.crash()
            self.frontend.start()


class _FalseFrontEnd:
    """One conversation with the ledger."""

    def __init__(self, hijacker: Hijacker, made: list[bytes]) -> None:
        self._hijacker = hijacker
        self._made = made
        self._link: FrontEndLink | None = None
        self._stream: Stream | None = None

    def connected(self, stream: Stream) -> None:
        self._stream, self._link = stream, self._hijacker.link()
        stream.write(self._link.take_output())
        self._hijacker.site.after(PATIENCE_MS, stream.close)

    def received(self, data: bytes) -> None:
        link, stream = self._link, self._stream
        assert link is not None
        assert stream is not None
        try:
            link.receive(data, self._hijacker.host.now_ms())
        except RemoteError:
            return
        if link.state is LinkState.UP and not self._made:
            self._hijacker.settle_with(data)
        if link.state is LinkState.UP and self._made:
            link.send(self._hijacker.batch(self._made))
            self._made = []
        stream.write(link.take_output())

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        pass
