"""The ledger's server over virtual sockets: greetings, batches, lists, operators, failures of its own disk."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from ledger_sync.ledger.core import Ledger, LedgerPaths
from ledger_sync.ledger.service import Addresses, LedgerService
from ledger_sync.ledger.wires import GREETING_MS_MAX
from protocol.codes import LinkType, ListForm, ListKind, RefusalCode, ReportKind
from protocol.deny_list import DenyList, apply_delta
from protocol.link_messages import (
    BatchMessage,
    DownMessage,
    LinkDecoder,
    LinkHello,
    LinkWelcome,
    ListMessage,
    ListRequest,
    Ping,
    Pong,
    Receipt,
    Refusal,
    Report,
    Row,
    UpMessage,
    decode_down,
    encode_up,
    name_batch,
    verify_down,
)
from protocol.mac import MacKey
from protocol.ports import Stream
from protocol.signed import Certificate
from tests.ledger.canteen import BATCH_KEY, FRONTEND, NOW_MS, SITE, SPOOL, ZONE, Card, PlainFiles, Till, ledger_keys
from tests.simulation.world import Host, World

LINK, ADMIN = "/run/ledger-link.sock", "/run/ledger.sock"


class FrontEnd:
    """A peer that says what it is told to, and keeps what it hears."""

    def __init__(self, site: "Site", *, frontend: int = FRONTEND, key: bytes = BATCH_KEY) -> None:
        self.heard: list[DownMessage] = []
        self.times_ms: list[int] = []
        self.is_closed = False
        self._site = site
        self._key = MacKey(key)
        self._decoder = LinkDecoder()
        self._stream: Stream | None = None
        self.frontend = frontend
        site.frontend_host.connect(LINK, self)
        site.run()

    def connected(self, stream: Stream) -> None:
        self._stream = stream

    def received(self, data: bytes) -> None:
        self._decoder.receive_data(data)
        for payload in self._decoder.payloads():
            verify_down(payload, ledger_keys().signer.public_key)
            self.heard.append(decode_down(payload))
            self.times_ms.append(self._site.world.time_ms)

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True

    def say(self, *messages: UpMessage) -> "FrontEnd":
        self.say_bytes(b"".join(encode_up(message, self._key) for message in messages))
        return self

    def say_bytes(self, data: bytes) -> None:
        assert self._stream is not None
        self._stream.write(data)
        self._site.run()

    def hello(self, *, generation: int = 0, last_row: int = 0) -> "FrontEnd":
        return self.say(LinkHello(self.frontend, SPOOL, NOW_MS, last_row, bytes([self.frontend]) * 16, generation, 0))

    def batch(self, first: int, *rows: bytes) -> BatchMessage:
        numbered: list[Row] = list(enumerate(rows, first))
        return BatchMessage(name_batch(self.frontend, SPOOL, numbered), numbered)

    @property
    def last(self) -> DownMessage:
        return self.heard[-1]


class Operator:
    """One admin connection."""

    def __init__(self, site: "Site") -> None:
        self.buffer = b""
        self.is_closed = False
        self._site = site
        self._stream: Stream | None = None
        site.frontend_host.connect(ADMIN, self)
        site.run()

    def connected(self, stream: Stream) -> None:
        self._stream = stream

    def received(self, data: bytes) -> None:
        self.buffer += data

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True

    def send(self, data: bytes, *, run: bool = True) -> list[dict[str, Any]]:
        assert self._stream is not None
        self.buffer = b""
        self._stream.write(data)
        if run:
            self._site.run()
        return [json.loads(line) for line in self.buffer.splitlines()]

    def ask(self, verb: str, **arguments: object) -> dict[str, Any]:
        (answer,) = self.send(json.dumps({"verb": verb, "operator": "Li", **arguments}).encode() + b"\n")
        return answer


class Site:
    """A ledger server, a machine of front-ends, and a log."""

    def __init__(self, directory: Path, *, seed: int = 1) -> None:
        print(f"seed {seed}")
        self.world = World(seed)
        self.host, self.frontend_host = Host(self.world, "ledger"), Host(self.world, "frontend")
        self.paths = LedgerPaths.in_directory(str(directory))
        self.files = PlainFiles()
        self.cards, self.tills = [Card(1), Card(2)], [Till(5), Till(6)]
        ledger = Ledger.create(
            self.paths, ledger_keys(), files=self.files, utc_offset_ms=ZONE, now_ms=NOW_MS, operator="init"
        )
        ledger.operate("register", {"terminals": [one.registered() for one in self.tills]}, operator="Li", now_ms=1)
        ledger.operate("card_issue", {"cards": [one.registered() for one in self.cards]}, operator="Li", now_ms=1)
        ledger.close()
        self.log: list[str] = []
        self.opened: list[Ledger] = []
        self.service = self.start()

    def start(self) -> LedgerService:
        def open_ledger() -> Ledger:
            ledger = Ledger.open(self.paths, ledger_keys(), files=self.files, utc_offset_ms=ZONE)
            self.opened.append(ledger)
            return ledger

        service = LedgerService(
            open_ledger, Addresses(LINK, ADMIN), keys=ledger_keys(), network=self.host, clock=self.host,
            executor=self.host, log=lambda event, /, **facts: self.log.append(event), files=self.files,
            heads_path=self.paths.heads,
        )  # fmt: skip
        ready: list[BaseException | None] = []
        service.start(ready.append)
        self.run()
        assert ready == [None]
        return service

    def run(self, ms: int = 500) -> None:
        self.world.run_until(self.world.time_ms + ms)

    def stop(self) -> None:
        done: list[bool] = []
        self.service.stop(lambda: done.append(True))
        self.run()
        assert done == [True]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


def test_a_hello_is_answered_by_welcome_and_the_current_list(site: Site) -> None:
    welcome, listed = FrontEnd(site).hello().heard
    assert isinstance(welcome, LinkWelcome)
    assert (welcome.site, welcome.generation, welcome.position, welcome.nonce) == (SITE, 1, 0, b"\7" * 16)
    assert Certificate.decode(welcome.certificate) == ledger_keys().certificate
    assert isinstance(listed, ListMessage)
    assert (listed.form, bytes(listed.data)) == (ListForm.SNAPSHOT, DenyList().content())


@pytest.mark.parametrize(("frontend", "key"), [(99, BATCH_KEY), (FRONTEND, bytes(16)), (FRONTEND + 1, BATCH_KEY)])
def test_an_unknown_front_end_and_a_wrong_key_get_the_same_refusal(site: Site, frontend: int, key: bytes) -> None:
    peer = FrontEnd(site, frontend=frontend, key=key).hello()
    assert peer.heard == [Refusal(RefusalCode.UNKNOWN_FRONTEND, 0)]
    assert peer.is_closed


def test_batches_get_their_receipts_in_order_and_again_after_a_restart(site: Site) -> None:
    till, card = site.tills[0], site.cards[0]
    peer = FrontEnd(site).hello()
    batches = [peer.batch(1 + at, till.row(till.purchase(card, 10 + at))) for at in range(4)]
    peer.say(*batches)
    receipts = peer.heard[2:]
    assert [one.position for one in receipts if isinstance(one, Receipt)] == [1, 2, 3, 4]
    site.stop()
    site.service = site.start()
    again = FrontEnd(site).hello(generation=1).say(batches[2])
    assert isinstance(again.heard[0], LinkWelcome)
    assert again.heard[0].position == 4
    assert again.last == receipts[2]


def test_a_fifth_outstanding_batch_ends_the_connection(site: Site) -> None:
    till = site.tills[0]
    peer = FrontEnd(site).hello()
    peer.say(*[peer.batch(1 + at, till.row(till.aborted())) for at in range(5)])
    assert Refusal(RefusalCode.MALFORMED, 0) in peer.heard
    assert peer.is_closed


def test_a_batch_under_a_wrong_mac_or_name_settles_nothing(site: Site) -> None:
    till = site.tills[0]
    good = FrontEnd(site)
    batch = good.batch(1, till.row(till.aborted()))
    for data in (encode_up(batch, MacKey(bytes(16))), encode_up(batch, MacKey(BATCH_KEY))[:-20] + bytes(20)):
        peer = FrontEnd(site).hello()
        peer.say_bytes(data)
        assert peer.last == Refusal(RefusalCode.UNKNOWN_FRONTEND, 0)
    other = FrontEnd(site, frontend=FRONTEND + 1, key=BATCH_KEY[::-1]).hello()
    assert other.say(batch).last == Refusal(RefusalCode.UNKNOWN_FRONTEND, 0)
    assert site.opened[-1].position == 0


def test_a_spool_that_went_back_is_alarmed_at_its_hello_and_its_rows_are_booked_all_the_same(site: Site) -> None:
    """R16, R19: yesterday's copy of a spool numbers its rows again; nothing that it brings is refused for that."""
    till = site.tills[0]
    peer = FrontEnd(site).hello()
    peer.say(peer.batch(3, till.row(till.aborted())))
    assert FrontEnd(site).hello(last_row=3).last != Refusal(RefusalCode.MALFORMED, 0)
    assert "ledger.spool_went_back" not in site.log
    again = FrontEnd(site).hello(last_row=2)
    assert "ledger.spool_went_back" in site.log
    [report] = Operator(site).ask("status")["reports"]
    assert (report["kind"], report["frontend"]) == ("spool_went_back", FRONTEND)
    batch = again.batch(3, till.row(till.aborted()))
    receipt = again.say(batch).last
    assert isinstance(receipt, Receipt)
    assert (receipt.name, receipt.posted) == (batch.name, 1)


def test_the_newest_connection_of_a_front_end_wins(site: Site) -> None:
    old = FrontEnd(site).hello()
    new = FrontEnd(site).hello()
    assert old.last == Refusal(RefusalCode.SUPERSEDED, 0)
    assert old.is_closed
    assert new.say(Ping(b"p" * 16)).last == Pong(b"p" * 16)


def test_a_reported_card_reaches_every_front_end_at_once(site: Site) -> None:
    peers = [FrontEnd(site).hello(), FrontEnd(site, frontend=FRONTEND + 1, key=BATCH_KEY[::-1]).hello()]
    operator = Operator(site)
    started_ms = site.world.time_ms
    assert operator.ask("lost", card=2) == {"ok": True, "card": 2, "status": "lost", "list_version": [1, 2]}
    for peer in peers:
        message = peer.last
        assert isinstance(message, ListMessage)
        assert peer.times_ms[-1] - started_ms < 100
        made = (
            DenyList.from_content(message.data)
            if message.form is ListForm.SNAPSHOT
            else apply_delta(DenyList(), message.data)
        )
        assert made == DenyList([2])
    late = FrontEnd(site).hello()
    assert isinstance(late.last, ListMessage)
    assert DenyList.from_content(late.last.data) == DenyList([2])
    late.say(ListRequest(ListKind.DENY, 1, 2))
    assert len(late.heard) == 2  # it has it already


def test_operators_are_answered_in_order_and_told_why_not(site: Site) -> None:
    operator = Operator(site)
    lines = b'{"verb": "status"}\n\n{"verb": "lost", "card": 77, "operator": "Li"}\nnonsense\n{"verb": "init"}\n'
    status, refused, nonsense, unknown = operator.send(lines)
    assert (status["ok"], status["site"], status["list_version"], status["frontends"]) == (True, SITE, [1, 1], [])
    assert refused == {"ok": False, "error": "refused", "says": "card …0077 was never issued"}
    assert (nonsense["error"], unknown["error"]) == ("usage", "usage")
    assert operator.ask("card_show", card=1)["mirror_cents"] == 10_000
    assert operator.ask("balances")["conservation"]["opening_cents"] == 20_000
    assert operator.ask("report")["counts"]["cards"] == 2
    assert operator.ask("verify")["sound"] is True
    assert operator.ask("topup", card=1, amount_cents=100)["load_order"] == 1


def test_a_request_in_pieces_is_one_request_and_an_endless_one_ends(site: Site) -> None:
    operator = Operator(site)
    for byte in b'{"verb": "version"}':
        assert operator.send(bytes([byte]), run=False) == []
    (answer,) = operator.send(b"\n")
    assert answer["list_version"] == [1, 1]
    (answer,) = operator.send(b"x" * (5 << 20))
    assert answer["ok"] is False
    assert operator.is_closed


def test_reports_of_front_ends_are_alarms_and_shown_in_the_status(site: Site) -> None:
    FrontEnd(site).hello().say(Report(5, ReportKind.FORK, "two seals for 9"))
    assert "ledger.frontend_reports" in site.log
    (report,) = Operator(site).ask("status")["reports"]
    assert (report["terminal"], report["kind"], report["text"]) == (5, "fork", "two seals for 9")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\0",
        encode_up(Ping(bytes(16)), MacKey(BATCH_KEY)),
        encode_up(BatchMessage(name_batch(7, SPOOL, [(1, bytes(32))]), [(1, bytes(32))]), MacKey(BATCH_KEY)),
        b"\0\0\0\4\1" + bytes([LinkType.WELCOME]) + b"\0\0",
    ],
)
def test_whatever_comes_before_a_hello_ends_the_connection(site: Site, data: bytes) -> None:
    peer = FrontEnd(site)
    peer.say_bytes(data)
    assert peer.heard == [Refusal(RefusalCode.MALFORMED, 0)]
    assert peer.is_closed


def test_a_silent_connection_is_closed_after_its_deadline(site: Site) -> None:
    peer = FrontEnd(site)
    site.run(GREETING_MS_MAX - 1_000)
    assert not peer.is_closed
    site.run(1_000)
    assert peer.is_closed


def test_a_failing_disk_is_an_alarm_and_nothing_is_posted_until_it_works_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = site.tills[0]
    row = till.row(till.purchase(site.cards[0], 10))

    def fail(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    broken = site.opened[-1]
    monkeypatch.setattr(broken.books, "flush", lambda **_: fail())
    peer = FrontEnd(site).hello()
    assert peer.say(peer.batch(1, row)).last == Refusal(RefusalCode.TRY_LATER, 0)
    assert "ledger.try_later" in site.log
    again = FrontEnd(site).hello()
    receipt = again.say(again.batch(1, row)).last
    assert isinstance(receipt, Receipt)
    assert (receipt.position, receipt.posted) == (1, 1)
    assert site.opened[-1] is not broken


def test_a_receipt_lost_between_commit_and_heads_file_comes_after_the_next_opening(site: Site) -> None:
    row = site.tills[0].row(site.tills[0].purchase(site.cards[0], 10))
    append = site.files.append

    def fail(path: str, data: bytes) -> None:
        site.files.append = append  # type: ignore[method-assign]
        raise OSError("no space left on device")

    peer = FrontEnd(site).hello()
    site.files.append = fail  # type: ignore[method-assign]
    assert peer.say(peer.batch(1, row)).last == Refusal(RefusalCode.TRY_LATER, 0)
    again = FrontEnd(site).hello()
    receipt = again.say(again.batch(1, row)).last
    assert isinstance(receipt, Receipt)
    assert (receipt.position, receipt.posted, receipt.duplicates) == (1, 1, 0)
    assert Operator(site).ask("verify")["sound"] is True


def test_numbers_that_no_ledger_can_hold_are_refused_for_good(site: Site) -> None:
    row = bytearray(site.tills[0].row(site.tills[0].aborted()))
    row[32:40] = b"\xff" * 8  # trade time
    peer = FrontEnd(site).hello()
    assert peer.say(peer.batch(1, bytes(row))).last == Refusal(RefusalCode.MALFORMED, 1)
    assert site.opened[-1].position == 0


def test_stop_finishes_what_was_given_before(tmp_path: Path) -> None:
    site = Site(tmp_path)
    stopped: list[str] = []
    site.service.on_stop_verb = lambda: site.service.stop(lambda: stopped.append("done"))
    till, peer = site.tills[0], FrontEnd(site).hello()
    heard = len(peer.heard)
    peer._stream.write(encode_up(peer.batch(1, till.row(till.aborted())), MacKey(BATCH_KEY)))  # type: ignore[union-attr]
    site.run(13)  # it has arrived, nothing is posted yet
    assert Operator(site).ask("stop") == {"ok": True}
    assert stopped == ["done"]
    assert len(peer.heard) == heard + 1
    assert isinstance(peer.last, Receipt)
    assert peer.is_closed
    assert LINK not in site.world.listeners
