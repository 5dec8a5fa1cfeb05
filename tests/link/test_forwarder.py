"""The forwarder: rows leave the spool only for a receipt that is signed, named and digested right (R16, R17)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool.intake import RecordsIntake
from ledger_sync.spool.spool import Spool
from ledger_sync.spool.writer import SpoolWriter
from protocol.codes import ListForm, ListKind, RefusalCode, ReportKind
from protocol.limits import BATCHES_OUTSTANDING_MAX
from protocol.link_messages import LinkHello, ListMessage, ListRequest, RecollectRequest, Refusal, Report
from protocol.signed import Certificate, SignedHead, Version, issue_certificate, sign_head
from tests.link.scripted_ledger import (
    BATCH_KEY,
    CERTIFICATE,
    FRONTEND,
    ROOT,
    SIGNER,
    SITE,
    STRANGER,
    YEAR_MS,
    ScriptedLedger,
)
from tests.protocol.samples import EPOCH, TERMINAL, chain, purchase
from tests.simulation.world import EPOCH_MS, Host, World

LEDGER = "/run/ledger-link.sock"


def quiet(event: str, /, **facts: object) -> None:
    """A log that nobody reads."""


class Told:
    """What the server would be told."""

    def __init__(self) -> None:
        self.settled: list[set[tuple[int, int]]] = []
        self.lists: list[tuple[Version, ListForm, bytes]] = []
        self.damaged: list[str] = []
        self.recollect: list[tuple[int, int, int, int]] = []

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        self.lists.append((head.version, form, data))

    def on_damaged_list(self, why: str) -> None:
        self.damaged.append(why)

    def on_recollect(self, terminal: int, epoch: int, first: int, last: int) -> None:
        self.recollect.append((terminal, epoch, first, last))

    def on_settled(self, terminals: set[tuple[int, int]]) -> None:
        self.settled.append(terminals)


class Site:
    """A spool with its writer and forwarder on one host, a scripted ledger on another."""

    def __init__(self, directory: Path) -> None:
        self.world = World(seed=1)
        self.host = Host(self.world, "frontend")
        self.ledger_host = Host(self.world, "ledger")
        self.ledger = ScriptedLedger()
        self.listener = self.ledger_host.listen(LEDGER, self.ledger.accept)
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
        self.forwarder = Forwarder(
            ForwarderSettings(frontend=FRONTEND, site=SITE, address=LEDGER, root_public_key=ROOT.public_key),
            batch_key=BATCH_KEY,
            spool=self.writer,
            clock=self.host,
            network=self.host,
            random=self.host,
            log=quiet,
        )
        self.forwarder.attach(self.told)

    def append(self, count: int, first: int = 1) -> None:
        """One row per record."""
        payload = chain(*(purchase() for _ in range(first + count - 1)))
        for sequence in range(first, first + count):
            record = payload[96 * (sequence - 1) : 96 * sequence]
            self.spool.append([RecordsIntake(TERMINAL, EPOCH, record, self.host.now_ms(), 1)])

    def run(self, milliseconds: int) -> None:
        self.world.run_until(self.world.time_ms + milliseconds)

    @property
    def unsettled(self) -> int:
        return self.spool.facts().rows_unsettled


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.spool.close()


def test_rows_are_sent_and_settled_by_their_receipt_alone(site: Site) -> None:
    site.append(3)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(5_000)
    assert [row for row, _ in site.ledger.batches[0].rows] == [1, 2, 3]
    assert site.unsettled == 3
    site.ledger.send(site.ledger.receipt_for(site.ledger.batches[0].name))
    site.run(100)
    assert site.unsettled == 0
    assert site.told.settled == [{(TERMINAL, EPOCH)}]
    assert site.spool.settled_watermark(TERMINAL, EPOCH, 1) == 3


def test_rows_that_come_later_follow_without_being_asked_for(site: Site) -> None:
    site.forwarder.start()
    site.run(500)
    site.append(2)
    site.run(500)
    site.append(1, first=3)
    site.run(500)
    assert [batch.name.last_row for batch in site.ledger.batches] == [2, 3]
    assert site.unsettled == 0


@pytest.mark.parametrize("fault", ["digest", "spool id", "front-end", "other rows", "rows that do not exist"], ids=str)
def test_a_receipt_of_something_else_settles_nothing_and_is_counted(site: Site, fault: str) -> None:
    site.append(3)
    changes = {
        "digest": {"digest": bytes(32)},
        "spool id": {"spool_id": bytes(16)},
        "front-end": {"frontend": FRONTEND + 1},
        "other rows": {"last_row": 2},
        "rows that do not exist": {"first_row": 4, "last_row": 9},
    }
    site.ledger.change_receipt = lambda receipt: replace(receipt, name=replace(receipt.name, **changes[fault]))  # type: ignore[arg-type]  # mixed by design
    site.forwarder.start()
    site.run(5_000)
    assert site.unsettled == 3
    assert site.forwarder.state()["receipts_ignored"] == 1


def test_a_receipt_signed_by_somebody_else_ends_the_connection_and_settles_nothing(site: Site) -> None:
    site.append(1)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(500)
    site.ledger.send(site.ledger.receipt_for(site.ledger.batches[0].name), signer=STRANGER)
    site.run(60)
    assert site.unsettled == 1
    assert "signature" in str(site.forwarder.state()["last_fault"])


@pytest.mark.parametrize("fault", ["another root", "another site", "expired"])
def test_no_row_goes_to_a_ledger_whose_certificate_is_not_the_sites(site: Site, fault: str) -> None:
    site.append(1)
    root, number, end = ROOT, SITE, EPOCH_MS + YEAR_MS
    if fault == "another root":
        root = STRANGER
    elif fault == "another site":
        number = SITE + 1
    else:
        end = EPOCH_MS - 1
    site.ledger.certificate = issue_certificate(
        root, key_id=1, site=number, valid_from_ms=EPOCH_MS - YEAR_MS, valid_to_ms=end, public_key=SIGNER.public_key
    )
    site.forwarder.start()
    site.run(5_000)
    assert site.ledger.batches == []
    assert site.forwarder.connections > 1


def test_a_lost_connection_sends_the_same_rows_again_and_a_late_receipt_of_the_first_time_counts(site: Site) -> None:
    site.append(2)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(300)
    first = site.ledger.batches[0]
    stream = site.ledger.connections[0].stream
    assert stream is not None
    stream.abort()
    site.run(1_000)
    assert [batch.name for batch in site.ledger.batches] == [first.name, first.name]
    site.ledger.send(site.ledger.receipt_for(first.name))
    site.run(100)
    assert site.unsettled == 0


def test_a_silent_ledger_is_given_up_and_asked_again(site: Site) -> None:
    site.append(1)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(90_000)
    assert len(site.ledger.connections) >= 2
    site.ledger.answers = True
    site.run(60_000)
    assert site.unsettled == 0


def test_while_the_ledger_is_away_rows_wait_and_connections_back_off(site: Site) -> None:
    site.append(2)
    site.listener.close()
    site.forwarder.start()
    site.run(120_000)
    assert site.unsettled == 2
    site.ledger_host.listen(LEDGER, site.ledger.accept)
    site.run(30_000)
    assert site.unsettled == 0
    assert len(site.ledger.connections) == 1


def test_never_more_than_four_batches_are_outstanding(site: Site) -> None:
    site.ledger.answers = False
    site.forwarder.start()
    site.run(300)
    for sequence in range(1, BATCHES_OUTSTANDING_MAX + 4):
        site.append(1, first=sequence)
        site.run(300)
    assert len(site.ledger.batches) == BATCHES_OUTSTANDING_MAX
    for batch in list(site.ledger.batches):
        site.ledger.send(site.ledger.receipt_for(batch.name))
    site.ledger.answers = True
    site.run(1_000)
    assert site.unsettled == 0


def test_a_restored_ledger_gets_everything_above_its_position_again(site: Site) -> None:
    site.forwarder.start()
    site.run(300)
    for sequence in (1, 2, 3):
        site.append(1, first=sequence)
        site.run(300)
    assert site.unsettled == 0
    site.ledger.generation, site.ledger.position = 2, 1  # yesterday's file, with its first batch alone
    site.ledger.batches.clear()
    stream = site.ledger.connections[-1].stream
    assert stream is not None
    stream.abort()
    site.run(2_000)
    assert [row for batch in site.ledger.batches for row, _ in batch.rows] == [2, 3]
    assert site.unsettled == 0
    hello = site.ledger.received[-2]
    assert not isinstance(hello, LinkHello)


def test_a_ledger_of_an_older_generation_is_refused(site: Site) -> None:
    site.ledger.generation = 5
    site.forwarder.start()
    site.run(300)
    site.append(1)
    site.run(300)
    site.ledger.generation = 4
    stream = site.ledger.connections[-1].stream
    assert stream is not None
    stream.abort()
    site.append(1, first=2)
    site.run(5_000)
    assert site.unsettled == 1
    assert "older generation" in str(site.forwarder.state()["last_fault"])


def test_lists_and_recollections_are_passed_on_and_requests_go_up(site: Site) -> None:
    site.forwarder.start()
    site.run(300)
    content = bytes(8)
    head = sign_head(
        SIGNER, key_id=1, site=SITE, list_kind=ListKind.DENY, generation=1, counter=9, issued_ms=1, content=content
    )
    site.ledger.send(ListMessage(ListForm.SNAPSHOT, 0, 0, head.encode(), CERTIFICATE.encode(), content))
    site.ledger.send(RecollectRequest(TERMINAL, EPOCH, 5, 6))
    site.forwarder.request_list(ListKind.DENY, (1, 8))
    site.run(100)
    assert site.told.lists == [((1, 9), ListForm.SNAPSHOT, content)]
    assert site.told.recollect == [(TERMINAL, EPOCH, 5, 6)]
    assert site.ledger.received[-1] == ListRequest(ListKind.DENY, 1, 8)


def test_a_list_whose_head_cannot_be_read_is_told_and_the_link_stays_up(site: Site) -> None:
    site.forwarder.start()
    site.run(300)
    head = bytearray(
        sign_head(
            SIGNER, key_id=1, site=SITE, list_kind=ListKind.DENY, generation=1, counter=9, issued_ms=1, content=b""
        ).encode()
    )
    head[9] ^= 0x40  # reserved
    site.ledger.send(ListMessage(ListForm.SNAPSHOT, 0, 0, bytes(head), CERTIFICATE.encode(), b""))
    site.run(100)
    assert site.told.lists == []
    assert site.told.damaged == ["signed head: reserved bytes are not zero at offset 9"]
    assert site.forwarder.state()["state"] == "up"


def test_reports_wait_for_the_ledger_and_the_oldest_go_first_when_there_are_too_many(site: Site) -> None:
    for number in range(300):
        site.forwarder.report(TERMINAL, ReportKind.FORK, f"fork {number}")
    site.forwarder.start()
    site.run(500)
    texts = [message.text for message in site.ledger.received if isinstance(message, Report)]
    assert texts == [f"fork {number}" for number in range(44, 300)]


def test_a_refused_front_end_stays_away_longer(site: Site) -> None:
    site.ledger.greets = False
    site.forwarder.start()
    site.run(100)
    site.ledger.send(Refusal(RefusalCode.SUPERSEDED, 0))
    site.run(8_000)
    shown = site.forwarder.state()
    assert (shown["refusals"], shown["last_refusal"]) == (1, "SUPERSEDED")
    assert str(shown["last_fault"]).endswith("SUPERSEDED")  # as `onecard spool stuck` looks for its remedy
    assert len(site.ledger.connections) == 1
    site.run(15_000)
    assert len(site.ledger.connections) == 2


def test_stop_waits_for_what_runs_on_the_spool_and_sends_nothing_more(site: Site) -> None:
    site.append(1)
    site.ledger.answers = False
    site.forwarder.start()
    site.run(300)
    told: list[str] = []
    site.forwarder.stop(lambda: told.append("stopped"))
    site.run(1_000)
    assert told == ["stopped"]
    site.append(1, first=2)
    site.run(60_000)
    assert len(site.ledger.batches) == 1
    assert site.unsettled == 2


def test_bytes_that_are_no_link_message_end_the_connection_only(site: Site) -> None:
    site.append(1)
    site.ledger.greets = False
    site.forwarder.start()
    site.run(100)
    stream = site.ledger.connections[0].stream
    assert stream is not None
    stream.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    site.ledger.greets = True
    site.run(2_000)
    assert site.unsettled == 0
