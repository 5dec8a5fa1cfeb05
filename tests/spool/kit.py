"""Terminals with real chains of records, ports that stand still, and receipts: what the spool's tests share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from ledger_sync.errors import SpoolError
from ledger_sync.spool import Batch, Outcome, RecordsIntake, Spool, TombstoneIntake
from protocol.codes import AbortReason, CardKind, ProofSuite, RecordType, TombstoneReason
from protocol.link_messages import Receipt
from protocol.mac import MacKey
from protocol.messages import Baseline, BaselineEntry, Tombstone
from protocol.records import Aborted, Grey, Purchase, RecordHead, encode_record, previous_seal, seal_of
from protocol.trade_time import UtcOffset, fixed_offset

T = TypeVar("T")
NOW_MS: Final = 1_790_000_000_000
DAY_MS: Final = 86_400_000
CHINA: Final = fixed_offset(480)
FRONTEND: Final = 7
SITE: Final = 9


@dataclass
class StillClock:
    """`Clock` that moves only when told; timers fire in `advance`."""

    utc_ms: int = NOW_MS
    mono_ms: int = 0
    timers: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def now_ms(self) -> int:
        return self.utc_ms

    def monotonic_ms(self) -> int:
        return self.mono_ms

    def call_at(self, monotonic_ms: int, callback: Callable[[], None]) -> StillTimer:
        entry = (monotonic_ms, callback)
        self.timers.append(entry)
        return StillTimer(self, entry)

    def advance(self, delta_ms: int) -> None:
        self.utc_ms += delta_ms
        self.mono_ms += delta_ms
        due = [entry for entry in self.timers if entry[0] <= self.mono_ms]
        self.timers = [entry for entry in self.timers if entry[0] > self.mono_ms]
        for _, callback in due:
            callback()


@dataclass
class StillTimer:
    clock: StillClock
    entry: tuple[int, Callable[[], None]]

    def cancel(self) -> None:
        if self.entry in self.clock.timers:
            self.clock.timers.remove(self.entry)


class SeededRandom:
    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)


class PlainFiles:
    def read(self, path: str) -> bytes | None:
        return Path(path).read_bytes() if Path(path).exists() else None

    def replace(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with Path(path).open("ab") as file:
            file.write(data)


@dataclass
class ListLog:
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __call__(self, event: str, /, **facts: object) -> None:
        self.events.append((event, facts))

    def alarms(self) -> list[str]:
        return [event for event, facts in self.events if facts.get("alarm")]


@dataclass
class HeldExecutor:
    """`Executor` that works only when told, so that a test decides what queues up meanwhile."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        def run() -> None:
            try:
                result = work()
            except SpoolError as error:
                done(None, error)
            else:
                done(result, None)

        self.waiting.append(run)

    def step(self) -> None:
        self.waiting.pop(0)()

    def run_all(self) -> None:
        while self.waiting:
            self.step()

    def close(self) -> None:
        self.run_all()


def open_spool(path: Path, *, seed: int = 1, offset: UtcOffset = CHINA, **changed: Any) -> Spool:
    ports: dict[str, Any] = {
        "clock": StillClock(),
        "random": SeededRandom(seed),
        "files": PlainFiles(),
        "log": ListLog(),
        **changed,
    }
    return Spool.open(str(path), frontend=FRONTEND, site=SITE, utc_offset_ms=offset, **ports)


def prune_after(spool: Spool, days: int) -> int:
    """Prune as if the spool had run until so many days after NOW_MS."""
    clock = spool._clock
    assert isinstance(clock, StillClock)
    clock.advance(max(0, NOW_MS + days * DAY_MS - clock.utc_ms))
    return spool.prune(clock.utc_ms)


class Terminal:
    """One (terminal, epoch) with a sealed chain; record i costs 100 + i cents, each 10th is aborted, each 13th grey."""

    def __init__(self, terminal: int = 1001, epoch: int = 1, *, boot: int = 1, merchant: int = 501) -> None:
        self.terminal = terminal
        self.epoch = epoch
        self.boot = boot
        self.merchant = merchant
        self.key = MacKey(terminal.to_bytes(8, "big") + epoch.to_bytes(8, "big"))
        self.genesis = self.key.mac8(b"\xff\x01", terminal.to_bytes(4, "big"))
        self.records: dict[int, bytes] = {}
        self.running = [0, 0]
        self.clock_ms = NOW_MS - 10 * DAY_MS
        self.kinds: Callable[[int], int] = lambda i: (
            RecordType.ABORTED if i % 10 == 0 else RecordType.GREY if i % 13 == 0 else RecordType.PURCHASE
        )

    def body(self, sequence: int) -> Purchase | Grey | Aborted:
        kind = self.kinds(sequence)
        if kind == RecordType.ABORTED:
            return Aborted(attempted_type=RecordType.PURCHASE, reason=AbortReason.DENY_LIST, card=123456)
        card = {
            "merchant": self.merchant,
            "card": 123456,
            "uid": bytes(7),
            "key_version": 1,
            "amount_cents": 100 + sequence,
            "currency": 156,
            "card_kind": CardKind.AES,
        }
        if kind == RecordType.GREY:
            return Grey(**card, balance_before_cents=5000, counter_before=sequence)  # type: ignore[arg-type]
        return Purchase(**card, balance_after_cents=5000, counter=sequence, proof=bytes(8))  # type: ignore[arg-type]

    def sell(self, count: int) -> None:
        """Make `count` more records."""
        for sequence in range(len(self.records) + 1, len(self.records) + count + 1):
            body = self.body(sequence)
            amount = getattr(body, "amount_cents", 0)
            self.running = [self.running[0] + bool(amount), self.running[1] + amount]
            head = RecordHead(
                type=body.TYPE,
                proof_suite=ProofSuite.AES_CMAC,
                epoch=self.epoch,
                boot=self.boot,
                terminal=self.terminal,
                sequence=sequence,
                uptime_ds=sequence * 10,
                clock_ms=self.clock_ms + sequence * 1000 if self.clock_ms else 0,
                running_count=self.running[0],
                running_sum_cents=self.running[1],
            )
            self.records[sequence] = encode_record(head, body, self.seal(sequence - 1), self.key)

    def seal(self, sequence: int) -> bytes:
        return self.genesis if sequence == 0 else seal_of(self.records[sequence])

    def forked(self, after: int) -> Terminal:
        """The same terminal, selling something else from `after` + 1 on (its memory was set back)."""
        twin = Terminal(self.terminal, self.epoch, boot=self.boot + 1, merchant=self.merchant + 1)
        twin.records = {sequence: record for sequence, record in self.records.items() if sequence <= after}
        twin.sell(len(self.records) - after)
        assert previous_seal(twin.records[after + 1]) == self.seal(after)
        return twin

    def frame(self, first: int, last: int, *, unacknowledged: int = 1, received_ms: int = NOW_MS) -> RecordsIntake:
        while len(self.records) < last:
            self.sell(1)
        payload = b"".join(self.records[sequence] for sequence in range(first, last + 1))
        return RecordsIntake(self.terminal, self.epoch, payload, received_ms, unacknowledged)

    def tombstone(self, first: int, last: int, *, unacknowledged: int = 1) -> TombstoneIntake:
        message = Tombstone(TombstoneReason.UNREADABLE, self.epoch, self.terminal, first, last)
        message.seal = self.key.mac8(b"\xff\x03", message.encode()[:16])
        return TombstoneIntake(self.terminal, self.epoch, message.encode(), NOW_MS, unacknowledged)

    def baseline(self, first_unacknowledged: int, following: int, *, uptime_ds: int = 0) -> Baseline:
        entry = BaselineEntry(self.epoch, 1, first_unacknowledged, following, self.seal(first_unacknowledged - 1))
        return Baseline(self.boot, self.terminal, uptime_ds, 0, [entry], bytes(8))

    def cents(self, first: int, last: int) -> int:
        return sum(getattr(self.body(sequence), "amount_cents", 0) for sequence in range(first, last + 1))


def receipt_for(batch: Batch, *, generation: int = 1, position: int = 1) -> Receipt:
    return Receipt(
        name=batch.name,
        generation=generation,
        position=position,
        chain_hash=bytes(32),
        posted=0,
        duplicates=0,
        quarantined=0,
        posted_cents=0,
    )


def append_one(spool: Spool, intake: Any) -> Outcome:
    (outcome,) = spool.append([intake])
    return outcome


def spans(spool: Spool, terminal: Terminal) -> list[tuple[int, int]]:
    return [(held.first, held.last) for held in spool.held(terminal.terminal, terminal.epoch)]


def stored_sequences(spool: Spool, kind: int = 1) -> list[tuple[int, int]]:
    """(first, last) of every row of a kind, in order of intake."""
    batch, found = spool.claim(), []
    while batch is not None:
        found += [
            (int.from_bytes(data[8:12], "big"), int.from_bytes(data[12:16], "big"))
            for _, data in batch.rows
            if data[0] == kind
        ]
        batch = spool.claim(batch.name.last_row)
    return found
