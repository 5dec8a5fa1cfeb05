"""Records of one terminal, made fast: chained and sealed as `protocol.records` makes them, from one template.

A recovery takes hundreds of thousands of records a second; made field by field they would take longer to make than to
measure. So the first record comes from `encode_record`, and the others are it with the fields that change: sequence,
running count and sum, balance, the card's counter, both seals. tests/test_bench.py compares them byte for byte.
"""

from __future__ import annotations

import struct
from typing import Final

from bench.site import CURRENCY, ENROLMENT_ID, EPOCH, MERCHANT
from protocol.codes import CardKind, RecordType
from protocol.mac import SEAL_BYTES, MacKey
from protocol.proofs import genesis_seal
from protocol.records import Purchase, RecordHead, encode_record

BOOT: Final = 1
UPTIME_AT_LOG_IN_DS: Final = 600
AMOUNT_CENTS: Final = 850
BALANCE_CENTS: Final = 2_000_000_000
CARD: Final = 123_456
UID: Final = bytes.fromhex("04782e21801d80")
NO_PROOF: Final = bytes(SEAL_BYTES)

_CHANGING: Final = struct.Struct("!12sI12sIq20siI12s")
"""A purchase without its seals: head to terminal · sequence · uptime, clock · running count, running sum · merchant to
amount · balance · card's counter · the rest."""


def purchase(terminal: int, sequence: int, clock_ms: int) -> tuple[RecordHead, Purchase]:
    """The `sequence`-th sale of a terminal of the bench."""
    head = RecordHead(
        type=RecordType.PURCHASE,
        epoch=EPOCH,
        boot=BOOT,
        terminal=terminal,
        sequence=sequence,
        uptime_ds=UPTIME_AT_LOG_IN_DS,
        clock_ms=clock_ms,
        running_count=sequence,
        running_sum_cents=sequence * AMOUNT_CENTS,
    )
    balance_cents = BALANCE_CENTS - sequence * AMOUNT_CENTS
    card_facts = (AMOUNT_CENTS, balance_cents, sequence, CURRENCY, CardKind.AES, NO_PROOF)
    return head, Purchase(MERCHANT, CARD, UID, 1, *card_facts)


class Chain:
    """A terminal's records in order; the first is that of sequence 1."""

    def __init__(self, terminal: int, key: MacKey, clock_ms: int) -> None:
        self._key = key
        self.last_seal = genesis_seal(key, terminal, EPOCH, ENROLMENT_ID)
        self.made = 0
        template = encode_record(*purchase(terminal, 1, clock_ms), self.last_seal, key)
        self.record_bytes = len(template)
        parts = _CHANGING.unpack(template[: -2 * SEAL_BYTES])
        self._start, _, self._times, _, _, self._card, _, _, self._end = parts

    def next(self, count: int) -> list[bytes]:
        """The next records of this chain."""
        pack, mac8, seal = _CHANGING.pack, self._key.mac8, self.last_seal
        start, times, card, end = self._start, self._times, self._card, self._end
        records = []
        for number in range(self.made + 1, self.made + count + 1):
            spent_cents = number * AMOUNT_CENTS
            unsealed = (
                pack(start, number, times, number, spent_cents, card, BALANCE_CENTS - spent_cents, number, end) + seal
            )
            seal = mac8(unsealed)
            records.append(unsealed + seal)
        self.last_seal = seal
        self.made += count
        return records
