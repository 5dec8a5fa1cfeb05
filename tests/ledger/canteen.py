"""A small canteen for the ledger's tests: keys, cards and terminals that make true records, and a ledger to post into.

Everything is made from fixed bytes, so every run has the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ledger_sync.ledger.core import Ledger, LedgerPaths, Posted
from ledger_sync.ledger.flows import signed
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.report import report
from ledger_sync.ledger.verify import verify
from protocol.codes import ProofSuite, RecordType, RowKind, TombstoneReason
from protocol.keys import card_key, seal_key
from protocol.link_messages import BatchMessage, Receipt, Row, decode_down, name_batch
from protocol.mac import MacKey
from protocol.messages import Baseline, BaselineEntry, Tombstone
from protocol.proofs import genesis_seal, tac
from protocol.record_bodies import Aborted, Body, Completion, Doubt, Grey, LoadNotExecuted, Purchase
from protocol.records import RecordHead, counted_cents, encode_record, seal_of
from protocol.rows import PackedRow
from protocol.signed import SoftwareSigner, issue_certificate
from protocol.trade_time import fixed_offset

SITE: Final = 42
FRONTEND: Final = 7
SPOOL: Final = bytes(range(16))
MERCHANT: Final = 9001
NOW_MS: Final = 1_790_000_000_000  # 2026-09-21T14:13:20Z
DAY: Final = (NOW_MS + 8 * 3_600_000) // 86_400_000
SEAL_MASTER: Final = bytes.fromhex("00112233445566778899aabbccddeeff")
TAC_MASTER: Final = bytes.fromhex("0f0e0d0c0b0a09080706050403020100")
PBOC_TAC_MASTER: Final = bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90")
BATCH_KEY: Final = bytes.fromhex("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf")
ROOT_SEED: Final = bytes([1]) * 32
SIGNING_SEED: Final = bytes([2]) * 32
ENROLMENT: Final = bytes.fromhex("e0e1e2e3e4e5e6e7")
OPENING_CENTS: Final = 10_000
ZONE: Final = fixed_offset(480)


def ledger_keys(seed: bytes = SIGNING_SEED) -> LedgerKeys:
    signer = SoftwareSigner(seed)
    certificate = issue_certificate(
        ROOT_SEED, key_id=3, site=SITE, valid_from_ms=0, valid_to_ms=2 * NOW_MS, public_key=signer.public_key
    )
    return LedgerKeys(
        seal_masters={1: SEAL_MASTER},
        tac_masters={1: TAC_MASTER},
        pboc_tac_masters={1: PBOC_TAC_MASTER},
        signer=signer,
        certificate=certificate,
        batch_keys={FRONTEND: BATCH_KEY, FRONTEND + 1: BATCH_KEY[::-1]},
    )


class PlainFiles:
    """The Files port without syncing."""

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with Path(path).open("ab") as file:
            file.write(data)


class Card:
    """An AES card: its purse and counter move with every debit."""

    def __init__(self, number: int, *, balance_cents: int = OPENING_CENTS) -> None:
        self.number = number
        self.uid = b"\x04" + number.to_bytes(6, "big")
        self.balance_cents = balance_cents
        self.counter = 0
        self.key = MacKey(card_key(TAC_MASTER, self.uid))

    def debit(
        self, terminal: Till, amount_cents: int, sequence: int | None = None, *, type_: int = RecordType.PURCHASE
    ) -> dict[str, Any]:
        """Do what the type says in the dialogue of that sequence (the terminal's next): the facts of its record."""
        self.counter += 1
        self.balance_cents -= signed(type_, amount_cents)
        identity = {"terminal": terminal.number, "epoch": terminal.epoch, "sequence": sequence or terminal.next}
        proof = tac(
            self.key, type_=type_, amount=amount_cents, currency=156, card=self.number, **identity,
            counter=self.counter, balance_after=self.balance_cents,
        )  # fmt: skip
        return {
            "card": self.number, "uid": self.uid, "key_version": 1, "amount_cents": amount_cents,
            "balance_after_cents": self.balance_cents, "counter": self.counter, "currency": 156, "card_kind": 1,
            "proof": proof, **identity,
        }  # fmt: skip

    def registered(self, **more: object) -> dict[str, Any]:
        return {
            "number": self.number, "uid": self.uid.hex(), "kind": 1, "key_version": 1, "group": 0,
            "opening_cents": OPENING_CENTS, **more,
        }  # fmt: skip


class Till:
    """A terminal's chain of records; `records` are all it ever made, by sequence."""

    def __init__(
        self, number: int, *, epoch: int = 1, merchant: int = MERCHANT, proof_suite: int = ProofSuite.AES_CMAC
    ) -> None:
        self.number, self.epoch, self.merchant, self.proof_suite = number, epoch, merchant, proof_suite
        key = seal_key(SEAL_MASTER, terminal=number, epoch=epoch, proof_suite=proof_suite)
        self.key = MacKey(key, proof_suite)
        self.next = 1
        self.seal = genesis_seal(self.key, number, epoch, ENROLMENT)
        self.count = self.sum_cents = 0
        self.records: dict[int, bytes] = {}

    def seal_up(self, body: Body, *, kind: int, cents: int = 0, **head: int) -> bytes:
        """The next record of the chain."""
        record = self.forge(self.next, body, kind=kind, cents=cents, **head)
        if cents:
            self.count += 1
            self.sum_cents += cents
        self.records[self.next] = record
        self.next += 1
        self.seal = seal_of(record)
        return record

    def forge(self, sequence: int, body: Body, *, kind: int, cents: int = 0, **head: int) -> bytes:
        """A well-sealed record of that sequence that does not become part of the chain."""
        facts = {
            "type": kind, "proof_suite": self.proof_suite, "epoch": self.epoch, "boot": 1,
            "terminal": self.number, "sequence": sequence,
            "uptime_ds": 10 * sequence, "clock_ms": NOW_MS + sequence,
            "running_count": self.count + bool(cents), "running_sum_cents": self.sum_cents + cents,
        }  # fmt: skip
        return encode_record(RecordHead(**(facts | head)), body, self.seal, self.key)

    def purchase_body(self, card: Card, cents: int, **changes: Any) -> Purchase:
        facts = card.debit(self, cents)
        for name in ("terminal", "epoch", "sequence"):
            del facts[name]
        return Purchase(**({"merchant": self.merchant} | facts | changes))

    def purchase(self, card: Card, cents: int, **changes: Any) -> bytes:
        body = self.purchase_body(card, cents, **changes)
        return self.seal_up(body, kind=RecordType.PURCHASE, cents=body.amount_cents)

    def proved(self, kind: Any, card: Card, cents: int, **more: Any) -> Any:
        """The body of a refund, load, booking, cancellation or collection of that card; `more` names the rest."""
        facts = card.debit(self, cents, type_=kind.TYPE)
        for name in ("terminal", "epoch", "sequence"):
            del facts[name]
        rest = {name: 0 for name in kind.__match_args__ if name not in facts}
        if "merchant" in rest:
            rest["merchant"] = self.merchant
        return kind(**(rest | facts | more))

    def does(self, kind: Any, card: Card, cents: int, **more: Any) -> bytes:
        """The same as the next record of the chain."""
        body = self.proved(kind, card, cents, **more)
        return self.seal_up(body, kind=body.TYPE, cents=counted_cents(body))

    def doubt(self, card: Card, cents: int, type_: int, reference: int, order: int = 0) -> bytes:
        facts: dict[str, Any] = {
            "merchant": self.merchant, "card": card.number, "uid": card.uid, "key_version": 1, "amount_cents": cents,
            "balance_before_cents": card.balance_cents, "counter_before": card.counter, "currency": 156,
            "card_kind": 1, "attempted_type": type_, "reference": reference, "order": order,
        }  # fmt: skip
        return self.seal_up(Doubt(**facts), kind=RecordType.DOUBT)

    def not_executed(self, card: Card, cents: int, serial: int, order: int) -> bytes:
        body = LoadNotExecuted(card.number, cents, serial, order, 13)
        return self.seal_up(body, kind=RecordType.LOAD_NOT_EXECUTED)

    def event(self, body: Body) -> bytes:
        """A record that moves no money."""
        return self.seal_up(body, kind=body.TYPE)  # type: ignore[union-attr]

    def grey_body(self, card: Card, cents: int, **changes: Any) -> Grey:
        facts: dict[str, Any] = {
            "merchant": self.merchant, "card": card.number, "uid": card.uid, "key_version": 1, "amount_cents": cents,
            "balance_before_cents": card.balance_cents, "counter_before": card.counter, "currency": 156,
            "card_kind": 1,
        }  # fmt: skip
        return Grey(**(facts | changes))

    def grey(self, card: Card, cents: int, **changes: Any) -> bytes:
        return self.seal_up(self.grey_body(card, cents, **changes), kind=RecordType.GREY, cents=cents)

    def aborted(self, card: int = 0) -> bytes:
        return self.seal_up(Aborted(1, 1, card), kind=RecordType.ABORTED)

    def completion(self, facts: dict[str, Any], **changes: Any) -> bytes:
        """Carry in a card's last proof, as `Card.debit` returned it."""
        facts = dict(facts)
        origin = {f"original_{name}": facts.pop(name) for name in ("terminal", "epoch", "sequence")}
        body = Completion(**(origin | {"original_type": 1} | facts | changes))
        return self.seal_up(body, kind=RecordType.COMPLETION)

    def row(self, *records: bytes, kind: int = RowKind.RECORDS, received_ms: int = NOW_MS + 60_000) -> bytes:
        """A packed row of consecutive records; trade times are the terminal's clock."""
        first = int.from_bytes(records[0][12:16], "big")
        times = [int.from_bytes(record[20:28], "big") for record in records]
        return PackedRow(
            kind, self.number, self.epoch, first, first + len(records) - 1, received_ms, b"".join(records), times
        ).encode()

    def baseline(self, *, first: int = 1, received_ms: int = NOW_MS) -> bytes:
        entry = BaselineEntry(self.epoch, first, first, self.next, bytes(8))
        message = Baseline(1, self.number, 5, NOW_MS, [entry])
        message.seal = self.key.mac8(message.seal_input())
        return PackedRow(
            RowKind.BASELINE, self.number, self.epoch, first, self.next, received_ms, message.encode()
        ).encode()

    def tombstone(self, first: int, last: int, *, received_ms: int = NOW_MS) -> bytes:
        message = Tombstone(TombstoneReason.UNREADABLE, self.epoch, self.number, first, last)
        message.seal = self.key.mac8(message.seal_input())
        return PackedRow(
            RowKind.TOMBSTONE, self.number, self.epoch, first, last, received_ms, message.encode()
        ).encode()

    def registered(self, **more: object) -> dict[str, Any]:
        return {
            "terminal": self.number, "epoch": self.epoch, "class": 1, "kind": 1, "merchant": self.merchant,
            "proof_suite": int(self.proof_suite), "enrolment_id": ENROLMENT.hex(), "closed": False, **more,
        }  # fmt: skip


class Canteen:
    """A ledger with registered tills and cards; `post` makes batches of rows as a front-end would."""

    def __init__(
        self, directory: Path, *, cards: Sequence[Card] = (), tills: Sequence[Till] = (), limit_cents: int = 20_000
    ) -> None:
        self.paths = LedgerPaths.in_directory(str(directory))
        self.files = PlainFiles()
        self.keys = ledger_keys()
        self.now_ms = NOW_MS
        self.next_row = 1
        self.ledger = Ledger.create(
            self.paths, self.keys, files=self.files, utc_offset_ms=ZONE, now_ms=NOW_MS, operator="init",
            unproven_limit_cents=limit_cents,
        )  # fmt: skip
        if tills:
            self.operate("register", terminals=[till.registered() for till in tills])
        if cards:
            self.operate("card_issue", cards=[card.registered() for card in cards])

    def operate(self, verb: str, **arguments: object) -> dict[str, Any]:
        self.now_ms += 1000
        return self.ledger.operate(verb, arguments, operator="Li", now_ms=self.now_ms)

    def batch(self, *rows: bytes, frontend: int = FRONTEND) -> BatchMessage:
        numbered: list[Row] = [(self.next_row + at, row) for at, row in enumerate(rows)]
        self.next_row += len(rows)
        return BatchMessage(name_batch(frontend, SPOOL, numbered), numbered)

    def post(self, *rows: bytes) -> list[int]:
        """Post rows as one batch; the result bytes."""
        outcome = self.post_batch(self.batch(*rows)).outcome
        assert outcome is not None
        return list(outcome.results)

    def post_batch(self, batch: BatchMessage) -> Posted:
        self.now_ms += 1000
        posted = self.ledger.post(batch, self.now_ms)
        self.assert_conserved()
        return posted

    def receipt(self, posted: Posted) -> Receipt:
        receipt = decode_down(posted.receipt[4:])
        assert isinstance(receipt, Receipt)
        return receipt

    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.paths, self.keys, files=self.files, utc_offset_ms=ZONE)

    def balances(self) -> dict[int, int]:
        """Account → cents, mirrors included, zero balances left out."""
        found = dict(self.ledger.connection.execute("SELECT account, balance_cents FROM accounts"))
        found |= {3 << 32 | n: c for n, c in self.ledger.connection.execute("SELECT number, mirror_cents FROM cards")}
        return {int(account): int(cents) for account, cents in found.items() if cents}

    def balance(self, kind: int, subject: int = 0) -> int:
        return self.balances().get(kind << 32 | subject, 0)

    def assert_conserved(self) -> None:
        """Debits equal credits: over all entries, and accounts and mirrors are what their entries say (R18)."""
        execute = self.ledger.connection.execute
        assert execute("SELECT coalesce(sum(amount_cents), 0) FROM entries").get == 0
        by_entries = dict(
            execute("SELECT account, sum(amount_cents) FROM entries GROUP BY 1 HAVING sum(amount_cents) <> 0")
        )
        balances = self.balances()
        mirrors = balances.pop(3 << 32, 0)
        assert balances == by_entries
        assert mirrors == sum(cents for account, cents in balances.items() if account >> 32 == 3)

    def decide(self, subject: str, item: int, outcome: str) -> None:
        """Li proposes, Wang confirms."""
        what = {"subject": subject, "item": item, "outcome": outcome}
        self.operate("propose", **what, reason="seen by the cook")
        self.ledger.operate("confirm", what, operator="Wang", now_ms=self.now_ms)
        self.assert_conserved()

    def close(self) -> None:
        self.ledger.close()


def assert_sound(canteen: Canteen) -> None:
    """Whatever a test did: debits equal credits, and operations and evidence alone make the same tables again."""
    canteen.assert_conserved()
    found = verify(canteen.ledger.connection, canteen.files.read(canteen.paths.heads), canteen.keys, utc_offset_ms=ZONE)
    assert found.is_sound, [str(one) for one in found.findings]
    assert report(canteen.ledger.connection, now_ms=canteen.now_ms)["double_posted"] == 0


def facts_of(body: Any) -> dict[str, Any]:
    """What a completion repeats of the record whose proof it carries."""
    names = "card uid key_version amount_cents balance_after_cents counter currency card_kind proof"
    return {name: getattr(body, name) for name in names.split()}
