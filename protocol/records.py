"""Records (流水): head, bodies, places of the seals (docs/protocol.md §7, R5). Pure; `proofs` verifies.

    record = head(40) ‖ body ‖ predecessor's seal(8) ‖ seal(8)        64–112 bytes, a multiple of 16

A head is readable for any type. `walk` takes a payload of concatenated records apart; `summarise` does what
the intake of a frame needs with no Python code per record where all its records have one length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final, cast

from protocol.codes import RECORD_TYPES_FORBIDDEN, ProofSuite, RecordType
from protocol.errors import Malformed, OutOfRange
from protocol.limits import RECORD_BYTES_MAX, RECORD_BYTES_MIN, RECORD_BYTES_STEP
from protocol.mac import SEAL_BYTES, MacKey
from protocol.record_bodies import BODIES, Aborted, Body, Buffer, Completion, Grey, Purchase, Unknown, card_masked

__all__ = [
    "SINGLE",
    "Aborted",
    "Body",
    "Buffer",
    "Completion",
    "Grey",
    "Purchase",
    "RecordHead",
    "Single",
    "Summary",
    "Unknown",
    "card_masked",
    "counted_cents",
    "decode_body",
    "encode_record",
    "iter_money",
    "merchant_of",
    "previous_seal",
    "read_head",
    "seal_of",
    "single_cents",
    "summarise",
    "walk",
]

HEAD: Final = struct.Struct("!BBBBHHIIIQIq")
assert HEAD.size == 40
_IDENTITY: Final = struct.Struct("!BB2xH2xII")  # type, length, epoch, terminal, sequence
LENGTH_OFFSET: Final = 1
BODY_VERSION_OFFSET: Final = 3
EPOCH_OFFSET: Final = 4
BOOT_OFFSET: Final = 6
TERMINAL_OFFSET: Final = 8
SEQUENCE_OFFSET: Final = 12
UPTIME_OFFSET: Final = 16
CLOCK_OFFSET: Final = 20
BODY_OFFSET: Final = 40
AMOUNT_OFFSET: Final = 56  # of every type in MONEY_TYPES
PREVIOUS_SEAL_OFFSET_FROM_END: Final = 16
SEAL_OFFSET_FROM_END: Final = 8
RECORD_BYTES_WITHOUT_BODY: Final = BODY_OFFSET + PREVIOUS_SEAL_OFFSET_FROM_END
BODY_VERSION: Final = 0
DEBIT_TYPES: Final = frozenset({RecordType.PURCHASE, RecordType.GREY, RecordType.BOOKING})
CREDIT_TYPES: Final = frozenset({RecordType.REFUND, RecordType.LOAD, RecordType.CANCELLATION})
MONEY_TYPES: Final = DEBIT_TYPES | CREDIT_TYPES
"""The types whose amount counts in totals and in the running sum: what cards paid, less what they were given."""


@dataclass(slots=True, kw_only=True)
class RecordHead:
    """The 40 bytes that every reader understands; `length` is set by `encode_record`."""

    type: int
    length: int = 0
    proof_suite: int = ProofSuite.AES_CMAC
    body_version: int = BODY_VERSION
    epoch: int
    boot: int
    terminal: int
    sequence: int
    uptime_ds: int
    clock_ms: int
    running_count: int
    running_sum_cents: int


def read_head(buffer: Buffer, offset: int = 0) -> RecordHead:
    """The head at `offset`. Raises Malformed when it names no possible record, or the record is cut short."""
    _checked_length(buffer, offset)
    values = HEAD.unpack_from(buffer, offset)
    kind, length, suite, version, epoch, boot, terminal, sequence, uptime, clock, count, total = values
    return RecordHead(
        type=kind,
        length=length,
        proof_suite=suite,
        body_version=version,
        epoch=epoch,
        boot=boot,
        terminal=terminal,
        sequence=sequence,
        uptime_ds=uptime,
        clock_ms=clock,
        running_count=count,
        running_sum_cents=total,
    )


def _checked_length(buffer: Buffer, offset: int) -> int:
    if len(buffer) - offset < RECORD_BYTES_MIN:
        raise Malformed("record", "cut short", offset=offset)
    kind, length, epoch, terminal, sequence = _IDENTITY.unpack_from(buffer, offset)
    if kind in RECORD_TYPES_FORBIDDEN:
        raise Malformed("record", f"type {kind:02X} is never a record", offset=offset)
    if not RECORD_BYTES_MIN <= length <= RECORD_BYTES_MAX or length % RECORD_BYTES_STEP:
        raise Malformed("record", f"length {length}", offset=offset + LENGTH_OFFSET)
    if length > len(buffer) - offset:
        raise Malformed("record", "cut short", offset=offset)
    if not (epoch and terminal and sequence):
        raise Malformed("record", "terminal, epoch or sequence is 0", offset=offset)
    return int(length)


def encode_record(head: RecordHead, body: Body, previous_seal: bytes, seal_key: MacKey) -> bytes:
    """The whole record: sets `head.length`, appends the predecessor's seal and the seal (§7.3).

    Raises OutOfRange when a value does not fit, or head and body disagree about the type.
    """
    kind = body.type if isinstance(body, Unknown) else body.TYPE
    version = body.body_version if isinstance(body, Unknown) else BODY_VERSION
    if (head.type, head.body_version) != (kind, version) or kind in RECORD_TYPES_FORBIDDEN:
        raise OutOfRange(
            f"head of type {head.type:02X} version {head.body_version}, body of type {kind:02X} version {version}"
        )
    content = body.encode()
    head.length = RECORD_BYTES_WITHOUT_BODY + len(content)
    if not RECORD_BYTES_MIN <= head.length <= RECORD_BYTES_MAX or head.length % RECORD_BYTES_STEP:
        raise OutOfRange(f"a body of {len(content)} bytes makes no record")
    if len(previous_seal) != SEAL_BYTES:
        raise OutOfRange(f"a seal has {SEAL_BYTES} bytes, not {len(previous_seal)}")
    try:
        unsealed = HEAD.pack(*_head_values(head)) + content + previous_seal
    except struct.error as error:
        raise OutOfRange(f"record head: {error}") from None
    return unsealed + seal_key.mac8(unsealed)


def decode_body(record: Buffer) -> Body:
    """The body of one whole record; Unknown for types and body versions not known here. Raises Malformed."""
    head = read_head(record)
    if head.length != len(record):
        raise Malformed("record", f"{len(record)} bytes, its head says {head.length}", offset=LENGTH_OFFSET)
    body = memoryview(record)[BODY_OFFSET:-PREVIOUS_SEAL_OFFSET_FROM_END]
    known = BODIES.get(head.type) if head.body_version == BODY_VERSION else None
    if known is None:
        return Unknown(type=head.type, body_version=head.body_version, body=bytes(body))
    return cast(Body, known.decode(body))


def counted_cents(body: Body) -> int:
    """What a record adds to the running sum: debits positive, credits negative, 0: it does not count either."""
    kind = body.type if isinstance(body, Unknown) else body.TYPE
    if kind not in MONEY_TYPES or isinstance(body, Unknown):
        return 0
    cents: int = getattr(body, "amount_cents", 0)
    return -cents if kind in CREDIT_TYPES else cents


def merchant_of(body: Body) -> int:
    """The merchant that a record names; 0: none, as in a load."""
    merchant: int = getattr(body, "merchant", 0)
    return merchant


def walk(payload: Buffer) -> Iterator[memoryview]:
    """Every record of a payload, in order, uncopied. Raises Malformed, with the offset, at a wrong one."""
    view = memoryview(payload)
    offset = 0
    while offset < len(view):
        length = _checked_length(view, offset)
        yield view[offset : offset + length]
        offset += length


def previous_seal(record: Buffer) -> bytes:
    """The predecessor's seal inside a whole record."""
    return bytes(record[-PREVIOUS_SEAL_OFFSET_FROM_END:-SEAL_OFFSET_FROM_END])


def seal_of(record: Buffer) -> bytes:
    """The seal of a whole record."""
    return bytes(record[-SEAL_OFFSET_FROM_END:])


_head_values: Final = attrgetter(*(each.name for each in fields(RecordHead)))


@dataclass(slots=True, kw_only=True)
class Summary:
    """What intake needs of one frame: consecutive records of one terminal and epoch, column by column."""

    terminal: int
    epoch: int
    first: int
    last: int
    types: bytes
    boots: Sequence[int]
    uptimes_ds: Sequence[int]
    clocks_ms: Sequence[int]
    amounts_cents: Sequence[int]
    """What the card paid; negative: what it was given; 0 where the type moves no money."""
    money_count: int
    sum_cents: int

    @property
    def count(self) -> int:
        return len(self.types)

    def totals_by_day(self, days: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Trade day → (count, cents) of what counts money (R15), given the trade day of every record."""
        if days.count(days[0]) == len(days):
            return {days[0]: (self.money_count, self.sum_cents)} if self.money_count else {}
        totals: dict[int, tuple[int, int]] = {}
        for day, cents in zip(days, self.amounts_cents, strict=True):
            if cents:  # a record that counts has at least one cent
                count, total = totals.get(day, (0, 0))
                totals[day] = (count + 1, total + cents)
        return totals


# Per record length: epoch ‖ boot ‖ terminal as one number, sequence, uptime, clock, amount (noise where there is none).
_COLUMNS: Final = {
    length: struct.Struct(f"!4xQIIQ28xI{length - AMOUNT_OFFSET - 4}x")
    for length in range(RECORD_BYTES_MIN, RECORD_BYTES_MAX + 1, RECORD_BYTES_STEP)
}
_EPOCH_SHIFT: Final = 48
_BOOT_SHIFT: Final = 32
_ALL_BUT_BOOT: Final = 0xFFFF_0000_FFFF_FFFF
_IS_MONEY: Final = {
    length: bytes(
        each in MONEY_TYPES and RECORD_BYTES_WITHOUT_BODY + BODIES[each].LAYOUT.size == length for each in range(256)
    )
    for length in _COLUMNS
}
"""Per record length: which types of that length count money. A type at another length than its own counts none."""
_ARE_CREDITS: Final = bytes(CREDIT_TYPES)


def summarise(payload: Buffer) -> Summary:
    """One frame's columns and totals; 0.3 µs a record where all have one length, as purchases have.

    Raises Malformed unless the payload is at least one record, all of one terminal and epoch, with
    consecutive sequences. A money record of amount 0 is not counted; the ledger quarantines it.
    """
    data = bytes(payload)
    length = _checked_length(data, 0)
    if len(data) == length:
        return _summary_of_one(data)
    count, rest = divmod(len(data), length)
    lengths = data[LENGTH_OFFSET::length]
    if rest == 0 and lengths.count(length) == count:
        types = data[::length]
        versions = data[BODY_VERSION_OFFSET::length]
        columns = _COLUMNS[length].iter_unpack(data)
        money = types.translate(_IS_MONEY[length])
    else:
        records = list(walk(data))
        types = bytes(record[0] for record in records)
        versions = bytes(record[BODY_VERSION_OFFSET] for record in records)
        columns = iter([_COLUMNS[RECORD_BYTES_MIN].unpack_from(record) for record in records])
        money = bytes(_IS_MONEY[len(record)][record[0]] for record in records)
    origins, sequences, uptimes, clocks, amounts = zip(*columns, strict=True)
    if sequences != tuple(range(sequences[0], sequences[0] + len(types))):
        raise Malformed("records", "sequences are not consecutive")
    if b"\x00" in types or b"\xff" in types:
        raise Malformed("records", "a type that is never a record")
    boots, origin = _boots(origins), origins[0]
    amounts = _counted(amounts, money, versions)
    if types.translate(None, _ARE_CREDITS) != types:
        amounts = tuple(-cents if kind in CREDIT_TYPES else cents for cents, kind in zip(amounts, types, strict=True))
    return Summary(
        terminal=origin & 0xFFFF_FFFF,
        epoch=origin >> _EPOCH_SHIFT,
        first=sequences[0],
        last=sequences[-1],
        types=types,
        boots=boots,
        uptimes_ds=uptimes,
        clocks_ms=clocks,
        amounts_cents=amounts,
        money_count=len(amounts) - amounts.count(0),
        sum_cents=sum(amounts),
    )


def _summary_of_one(record: bytes) -> Summary:
    """The same for one record alone, as a live sale is; its head has been checked."""
    single: Single = SINGLE.unpack_from(record)
    _, _, _, epoch, boot, terminal, sequence, uptime_ds, clock_ms, _ = single
    cents = single_cents(single)
    return Summary(
        terminal=terminal,
        epoch=epoch,
        first=sequence,
        last=sequence,
        types=record[:1],
        boots=(boot,),
        uptimes_ds=(uptime_ds,),
        clocks_ms=(clock_ms,),
        amounts_cents=(cents,),
        money_count=1 if cents else 0,
        sum_cents=cents,
    )


Single = tuple[int, int, int, int, int, int, int, int, int, int]
"""One record's type, length, body version, epoch, boot, terminal, sequence, uptime, clock, and its amount field."""
SINGLE: Final = struct.Struct("!BBxBHHIIIQ28xI")
assert SINGLE.size == AMOUNT_OFFSET + 4 <= RECORD_BYTES_MIN
_SIGNS: Final = {
    length: tuple((-1 if kind in CREDIT_TYPES else 1) if is_money else 0 for kind, is_money in enumerate(table))
    for length, table in _IS_MONEY.items()
}


def single_cents(single: Single) -> int:
    """What `Summary.amounts_cents` says of such a record."""
    if single[2] != BODY_VERSION:
        return 0
    return _SIGNS[single[1]][single[0]] * single[9]


def iter_money(payload: Buffer) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(sequence, type, amount, boot, uptime_ds, clock_ms) per record of a frame; amount 0 if none counts."""
    found = summarise(payload)
    return zip(
        range(found.first, found.last + 1),
        found.types,
        found.amounts_cents,
        found.boots,
        found.uptimes_ds,
        found.clocks_ms,
        strict=True,
    )


def _boots(origins: tuple[int, ...]) -> tuple[int, ...]:
    """The boot of each record. Raises Malformed for more than one terminal or epoch."""
    first = origins[0]
    if origins.count(first) == len(origins):
        return (first >> _BOOT_SHIFT & 0xFFFF,) * len(origins)
    if any((origin ^ first) & _ALL_BUT_BOOT for origin in origins):
        raise Malformed("records", "more than one terminal or epoch in a frame")
    return tuple(origin >> _BOOT_SHIFT & 0xFFFF for origin in origins)


def _counted(amounts: tuple[int, ...], money: bytes, versions: bytes) -> tuple[int, ...]:
    """The amounts with 0 in the place of what is no amount: other types, other body versions."""
    if money.count(1) == versions.count(BODY_VERSION) == len(amounts):
        return amounts
    columns = zip(amounts, money, versions, strict=True)
    return tuple(cents if pays and version == BODY_VERSION else 0 for cents, pays, version in columns)
