"""True money for the ledger's rows: cards and terminals whose records bear both proofs, packed into batches.

Purchases happen in one order over the whole site and are uploaded in another: every terminal's frames in turn, as a
backlog is. So a card that paid at two terminals reaches the ledger now and then with its later counter first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from bench.site import CURRENCY, ENROLMENT_ID, EPOCH, FIRST_TERMINAL, FRONTEND, KEY_VERSION, MERCHANT, SITE
from ledger_sync.ledger.keys import LedgerKeys
from protocol.codes import CardKind, RecordType, RowKind, TerminalClass, TerminalKind
from protocol.keys import card_key, seal_key
from protocol.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX
from protocol.link_messages import BatchMessage, Row, name_batch
from protocol.mac import KEY_BYTES, MacKey
from protocol.proofs import genesis_seal, tac
from protocol.records import Purchase, RecordHead, encode_record, seal_of
from protocol.rows import PackedRow
from protocol.signed import SoftwareSigner, issue_certificate

OPENING_CENTS: Final = 10**9
CARDS_PER_OPERATION: Final = 5_000
TERMINALS_PER_OPERATION: Final = 1_000
MERCHANTS: Final = 40
SPOOL_ID: Final = bytes(range(16))
NOW_MS: Final = 1_790_000_000_000
SALE_EVERY_MS: Final = 3


@dataclass(slots=True)
class Card:
    """An AES card: its purse and counter move with every debit."""

    number: int
    uid: bytes
    key: MacKey
    balance_cents: int = OPENING_CENTS
    counter: int = 0


@dataclass(slots=True)
class Till:
    """A terminal: its chain of records, and those that are not uploaded yet."""

    number: int
    merchant: int
    key: MacKey
    last_seal: bytes
    sequence: int = 0
    sum_cents: int = 0
    waiting: list[bytes] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)


class Town:
    """Terminals, cards and the keys of their ledger; everything follows from `seed`."""

    def __init__(self, *, terminals: int, cards: int, seed: int) -> None:
        self._random = random.Random(seed)
        draw = self._random.randbytes
        seal_master, tac_master, root, signing = draw(KEY_BYTES), draw(KEY_BYTES), draw(32), draw(32)
        self.batch_key = draw(KEY_BYTES)
        self.root_seed = root
        signer = SoftwareSigner(signing)
        certificate = issue_certificate(
            root, key_id=1, site=SITE, valid_from_ms=0, valid_to_ms=1 << 48, public_key=signer.public_key
        )
        self.keys = LedgerKeys(
            seal_masters={1: seal_master},
            tac_masters={KEY_VERSION: tac_master},
            signer=signer,
            certificate=certificate,
            batch_keys={FRONTEND: self.batch_key},
        )
        self.cards = [self._card(number, tac_master) for number in range(1, cards + 1)]
        self.tills = [self._till(FIRST_TERMINAL + at, at, seal_master) for at in range(terminals)]
        self.now_ms = NOW_MS
        self._next_row = 1

    @staticmethod
    def _card(number: int, tac_master: bytes) -> Card:
        uid = b"\x04" + number.to_bytes(6, "big")
        return Card(number, uid, MacKey(card_key(tac_master, uid)))

    @staticmethod
    def _till(number: int, at: int, seal_master: bytes) -> Till:
        key = MacKey(seal_key(seal_master, terminal=number, epoch=EPOCH))
        return Till(number, MERCHANT + at % MERCHANTS, key, genesis_seal(key, number, EPOCH, ENROLMENT_ID))

    # -- what operators have registered

    def operations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(verb, arguments) that make the ledger know this town."""
        for start in range(0, len(self.tills), TERMINALS_PER_OPERATION):
            yield "register", {"terminals": [_enrolled(till) for till in self.tills[start:][:TERMINALS_PER_OPERATION]]}
        for start in range(0, len(self.cards), CARDS_PER_OPERATION):
            yield "card_issue", {"cards": [_issued(card) for card in self.cards[start:][:CARDS_PER_OPERATION]]}

    # -- sales

    def backlog(self, records: int, *, per_frame: int, in_order: bool = False) -> list[BatchMessage]:
        """So many more sales, uploaded in frames and cut into batches as the spool claims them.

        `in_order`: no card pays at a second terminal before its first has uploaded.
        """
        rounds = max(1, records // (len(self.tills) * per_frame))
        rows: list[Row] = []
        for _ in range(rounds):
            sales = [till for _ in range(per_frame) for till in self.tills]
            for till in sorted(sales, key=lambda each: each.number) if in_order else sales:
                self._sell(till)
            rows += [self._frame(till) for till in self.tills]
        return list(_cut(rows))

    def _sell(self, till: Till) -> None:
        card = self._random.choice(self.cards)
        cents = self._random.randrange(100, 3_000)
        self.now_ms += SALE_EVERY_MS
        card.counter += 1
        card.balance_cents -= cents
        till.sequence += 1
        till.sum_cents += cents
        proof = tac(
            card.key, type_=RecordType.PURCHASE, amount=cents, currency=CURRENCY, card=card.number,
            terminal=till.number, epoch=EPOCH, sequence=till.sequence, counter=card.counter,
            balance_after=card.balance_cents,
        )  # fmt: skip
        head = RecordHead(
            type=RecordType.PURCHASE, epoch=EPOCH, boot=1, terminal=till.number, sequence=till.sequence,
            uptime_ds=0, clock_ms=self.now_ms, running_count=till.sequence, running_sum_cents=till.sum_cents,
        )  # fmt: skip
        body = Purchase(
            till.merchant, card.number, card.uid, KEY_VERSION, cents, card.balance_cents, card.counter, CURRENCY,
            CardKind.AES, proof,
        )  # fmt: skip
        record = encode_record(head, body, till.last_seal, till.key)
        till.last_seal = seal_of(record)
        till.waiting.append(record)
        till.times_ms.append(self.now_ms)

    def _frame(self, till: Till) -> Row:
        first = till.sequence - len(till.waiting) + 1
        row = PackedRow(
            kind=RowKind.RECORDS, terminal=till.number, epoch=EPOCH, first=first, last=till.sequence,
            received_ms=self.now_ms, payload=b"".join(till.waiting), trade_ms=tuple(till.times_ms), anchor_known=True,
        )  # fmt: skip
        till.waiting.clear()
        till.times_ms.clear()
        row_id, self._next_row = self._next_row, self._next_row + 1
        return row_id, row.encode()


def _cut(rows: list[Row]) -> Iterator[BatchMessage]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == BATCH_ROWS_MAX or size + len(row[1]) > BATCH_BYTES_MAX):
            yield BatchMessage(name_batch(FRONTEND, SPOOL_ID, batch), batch)
            batch, size = [], 0
        batch.append(row)
        size += len(row[1])
    yield BatchMessage(name_batch(FRONTEND, SPOOL_ID, batch), batch)


def _enrolled(till: Till) -> dict[str, Any]:
    return {
        "terminal": till.number, "epoch": EPOCH, "class": int(TerminalClass.TERMINAL), "kind": int(TerminalKind.POS),
        "merchant": till.merchant, "enrolment_id": ENROLMENT_ID.hex(),
    }  # fmt: skip


def _issued(card: Card) -> dict[str, Any]:
    return {
        "number": card.number, "uid": card.uid.hex(), "kind": int(CardKind.AES), "key_version": KEY_VERSION,
        "group": 0, "opening_cents": OPENING_CENTS,
    }  # fmt: skip
