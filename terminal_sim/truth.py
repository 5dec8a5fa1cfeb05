"""What cards did and customers were told, kept in a file beside the oracle, so that a killed simulator still knows.

`truth.bin`, append-only, entries of 36 bytes; a torn last entry is cut off when the file is opened again:

    0 kind u8 · 1 outcome u8 · 2 why u8 · 3 unplanned u8 · 4 terminal u32 · 8 epoch u16 · 10 type u8 · 11 reserved ·
    12 sequence u32 · 16 card u32 · 20 amount u32 · 24 merchant u32 · 28 reserved u32 · 32 crc32 u32

Unplanned: a thief's tap, or a card check. FOUND has the card's counter in the place of the amount. The write that a
kill can lose is the one after the card's own: the card's last debit brings it back.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final
from zlib import crc32

from protocol.cards.apdu import Identity
from terminal_sim.card import CardStore
from terminal_sim.card_kinds import Card, Debit, last_made, remembered, transactions_of
from terminal_sim.firmware import Outcome, TapResult, Why
from terminal_sim.oracle import Executed, Oracle

TRUTH_FILE: Final = "truth.bin"
ENTRY: Final = struct.Struct("!BBBBIHBxIIII4x")
_CHECK: Final = struct.Struct("!I")
ENTRY_BYTES: Final = ENTRY.size + _CHECK.size
assert ENTRY_BYTES == 36
READ_ENTRIES: Final = 4096

_OUTCOMES: Final = tuple(Outcome)
_WHYS: Final = tuple(Why)
_OUTCOME_INDEX: Final = {each: index for index, each in enumerate(_OUTCOMES)}
_WHY_INDEX: Final = {each: index for index, each in enumerate(_WHYS)}


class Kind(IntEnum):
    EXECUTED = 1
    """A card has debited itself."""
    ANSWERED = 2
    """A customer was told."""
    INTERRUPTED = 3
    """The till went dark under the tap; nobody was told anything."""
    FOUND = 4
    """The first look at a memory card's purse after a tap that nobody knew the end of."""


class Truth:
    """The oracle, and its file if there is one. `taps_done` counts planned taps, those of earlier lives included.

    It also knows which cards were torn (闪卡) and not seen since, and what a torn memory card showed when it was.
    """

    def __init__(self, oracle: Oracle, path: Path | None) -> None:
        self.oracle = oracle
        self.taps_done = 0
        self.interrupted = 0
        self.torn: dict[int, Identity] = {}
        """Card → the record of the tap whose end nobody saw."""
        self.found: dict[Identity, int] = {}
        """Such a record → the counter that the memory card showed at its next tap: a hint, no proof (R4)."""
        self._descriptor = -1
        if path is not None:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._replay()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # -- as it happens

    def card_written(self, before: Card, after: Card) -> None:
        """For `CardField.on_write`."""
        self.oracle.card_written(before, after)
        paid = last_made(before, after)
        if transactions_of(after) != transactions_of(before) and paid is not None:
            merchant = self.oracle.merchant_of.get(paid.identity.terminal, 0)
            self._executed(paid, after.number, merchant)

    def answered(self, terminal: int, epoch: int, result: TapResult, *, unplanned: bool = False) -> None:
        """What the customer was told."""
        torn = self.torn.get(result.card)
        if torn is not None and result.found is not None:
            self.found[torn] = result.found.counter
            self._append(Kind.FOUND, torn, card=result.card, amount=result.found.counter, unplanned=True)
        self.oracle.answered(terminal, epoch, result)
        self.taps_done += not unplanned
        self._note_torn(Identity(terminal, epoch, result.sequence), result)
        self._append(
            Kind.ANSWERED,
            Identity(terminal, epoch, result.sequence),
            outcome=_OUTCOME_INDEX[result.outcome],
            why=_WHY_INDEX[result.why],
            card=result.card,
            amount=result.amount_cents,
            unplanned=unplanned,
        )

    def tap_interrupted(self, identity: Identity, *, card: int = 0, unplanned: bool = False) -> None:
        """The power went in the middle of a tap, or (card 0) there was none; `identity` the record would have had."""
        self.interrupted += 1
        self.taps_done += not unplanned
        if card:
            self.torn[card] = identity
        self._append(Kind.INTERRUPTED, identity, card=card, unplanned=unplanned)

    def _note_torn(self, identity: Identity, result: TapResult) -> None:
        if result.outcome is Outcome.GREY:
            self.torn[result.card] = identity
        elif result.outcome in {Outcome.SOLD, Outcome.DONE, Outcome.CHECKED}:
            self.torn.pop(result.card, None)

    def reconcile(self, cards: CardStore) -> None:
        """After a kill: a debit that a card remembers and the file does not."""
        for number in cards.numbers():
            for paid in remembered(cards.load(number)):
                if paid.identity in self.oracle.executed:
                    continue
                merchant = self.oracle.merchant_of.get(paid.identity.terminal)
                if merchant is None:
                    continue  # of another run; the card came with it
                self.oracle.executed[paid.identity] = Executed(number, paid.amount_cents, merchant, paid.type)
                self._executed(paid, number, merchant)

    # -- the file

    def _executed(self, paid: Debit, card: int, merchant: int) -> None:
        self._append(
            Kind.EXECUTED, paid.identity, type_=paid.type, card=card, amount=paid.amount_cents, merchant=merchant
        )

    def _append(
        self,
        kind: Kind,
        identity: Identity,
        *,
        outcome: int = 0,
        why: int = 0,
        type_: int = 0,
        card: int = 0,
        amount: int = 0,
        merchant: int = 0,
        unplanned: bool = False,
    ) -> None:
        if self._descriptor < 0:
            return
        packed = ENTRY.pack(
            *(kind, outcome, why, unplanned, identity.terminal, identity.epoch, type_, identity.sequence),
            *(card, amount, merchant),
        )
        os.write(self._descriptor, packed + _CHECK.pack(crc32(packed)))

    def _replay(self) -> None:
        whole = 0
        while True:
            data = os.pread(self._descriptor, READ_ENTRIES * ENTRY_BYTES, whole)
            entries = len(data) // ENTRY_BYTES
            for index in range(entries):
                packed = data[index * ENTRY_BYTES : (index + 1) * ENTRY_BYTES]
                if crc32(packed[: ENTRY.size]) != _CHECK.unpack_from(packed, ENTRY.size)[0]:
                    entries = index
                    break
                self._restore(packed)
            whole += entries * ENTRY_BYTES
            if entries < READ_ENTRIES:
                break
        os.ftruncate(self._descriptor, whole)
        os.lseek(self._descriptor, whole, os.SEEK_SET)

    def _restore(self, packed: bytes) -> None:
        (
            kind, outcome, why, unplanned, terminal, epoch, type_, sequence, card, amount, merchant,
        ) = ENTRY.unpack_from(packed)  # fmt: skip
        identity = Identity(terminal, epoch, sequence)
        if kind == Kind.EXECUTED:
            self.oracle.executed[identity] = Executed(card, amount, merchant, type_)
            return
        self.taps_done += not unplanned
        if kind == Kind.FOUND:
            self.found[identity] = amount
            return
        if kind == Kind.INTERRUPTED:
            self.interrupted += 1
            if card:
                self.torn[card] = identity
            return
        result = TapResult(_OUTCOMES[outcome], _WHYS[why], amount, card=card, sequence=sequence)
        self._note_torn(identity, result)
        self.oracle.answered(terminal, epoch, result)
