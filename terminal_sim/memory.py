"""The chain of records in flash: identities, seals, running totals; ring and journal kept in step (R1, R3, R5, R20).

Order of writes for a sale, and for every other transaction of a card: journal entry (the sequence is used up) →
debit-sent mark → DEBIT → record in the ring → entry closed. `Memory` is rebuilt from flash by its constructor;
`recover` then gives an entry without a record the one it is owed: grey or doubt if the transaction may have happened,
aborted if it certainly has not.
"""

from __future__ import annotations

from protocol.codes import AbortReason, RecordType
from protocol.proofs import genesis_seal
from protocol.record_bodies import DOUBT_TYPES, Doubt
from protocol.records import (
    CREDIT_TYPES,
    MONEY_TYPES,
    Aborted,
    Body,
    Grey,
    RecordHead,
    counted_cents,
    encode_record,
    previous_seal,
    read_head,
    seal_of,
)
from terminal_sim.errors import MemoryLost, RecordGone, SectorDead
from terminal_sim.flash import VirtualFlash
from terminal_sim.journal import Entry, EntryKind, Found, Journal, plain_entry
from terminal_sim.layout import FlashLayout
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.ring import Ring


class Memory:
    """Records of the secrets' epoch are written; those of earlier epochs are only read.

    Raises MemoryLost when flash no longer proves what the next sequence is.
    """

    __slots__ = ("_genesis", "_journal", "_seal_key", "_secrets", "ring", "running_count", "running_sum_cents", "tip")

    def __init__(self, flash: VirtualFlash, layout: FlashLayout, secrets: TerminalSecrets) -> None:
        self._secrets = secrets
        self._seal_key = secrets.sealing()
        self._genesis = genesis_seal(self._seal_key, secrets.terminal, secrets.epoch, secrets.enrolment_id)
        self.ring = Ring(flash, layout.ring)
        self.ring.enter_epoch(secrets.epoch)
        self._journal = Journal(flash, layout.journal, epoch=secrets.epoch)
        self.tip = self._genesis
        """Seal of the last record; the next one's predecessor."""
        self.running_count = 0
        self.running_sum_cents = 0
        self._find_tip()

    @property
    def next(self) -> int:
        """The sequence that the next record will get."""
        return self.ring.epochs[self._secrets.epoch].next

    @property
    def open_entry(self) -> Entry | None:
        """A transaction whose sequence is used up and whose record is still owed."""
        last = self._journal.last
        is_owed = last is not None and last.record_type == 0 and last.entry.kind == EntryKind.INTENT
        return last.entry if last is not None and is_owed else None

    def begin_boot(self) -> int:
        """The number of this boot; call after `recover`. Raises MemoryLost at the end of the numbers."""
        at_least = 0
        if self.next > 1:
            try:
                at_least = read_head(self.ring.read(self._secrets.epoch, self.next - 1)).boot
            except (SectorDead, RecordGone):
                at_least = 0
        return self._journal.begin_boot(self._secrets.epoch, at_least=at_least)

    def recover(self) -> bytes | None:
        """Write the record that an interrupted sale is owed; None if none is. Raises RingFull: ask again later."""
        last = self._journal.last
        if last is None or self.open_entry is None:
            return None
        entry = last.entry
        if not last.debit_sent:
            return self.close_sale(Aborted(entry.attempted_type, AbortReason.POWER_LOST, entry.card))
        return self.close_sale(self.unknown_of(entry))

    def unknown_of(self, entry: Entry) -> Grey | Doubt:
        """The record of an entry whose outcome nobody knows: what was read before it, as hints (R20)."""
        if entry.attempted_type not in DOUBT_TYPES:
            return self.grey_of(entry)
        return Doubt(
            merchant=self._secrets.merchant,
            card=entry.card,
            uid=entry.uid,
            key_version=entry.key_version,
            amount_cents=entry.amount_cents,
            balance_before_cents=entry.balance_before_cents,
            counter_before=entry.counter_before,
            currency=entry.currency,
            card_kind=entry.card_kind,
            attempted_type=entry.attempted_type,
            reference=entry.reference,
            order=entry.order,
        )

    def grey_of(self, entry: Entry) -> Grey:
        """The grey record of an entry (灰记录): what was read before the debit, as hints."""
        return Grey(
            merchant=self._secrets.merchant,
            card=entry.card,
            uid=entry.uid,
            key_version=entry.key_version,
            amount_cents=entry.amount_cents,
            balance_before_cents=entry.balance_before_cents,
            counter_before=entry.counter_before,
            currency=entry.currency,
            card_kind=entry.card_kind,
            attempted_type=0 if entry.attempted_type == RecordType.PURCHASE else entry.attempted_type,
        )

    @property
    def has_ended(self) -> bool:
        """Whether the last record of the epoch is written: no other follows it (R11)."""
        last = self._journal.last
        if last is not None and last.entry.sequence == self.next - 1 and last.record_type:
            return last.record_type == RecordType.END_OF_EPOCH
        try:
            return self.next > 1 and self.ring.read(self._secrets.epoch, self.next - 1)[0] == RecordType.END_OF_EPOCH
        except (SectorDead, RecordGone):
            return False

    def open_sale(self, entry: Entry) -> None:
        """Intent: the entry's sequence is used up when this returns."""
        assert entry.sequence == self.next
        self._journal.open_entry(entry)

    def mark_debit_sent(self) -> None:
        """DEBIT is about to leave. Raises SectorDead: then it must not."""
        self._journal.mark_debit_sent()

    def close_sale(self, body: Body) -> bytes:
        """The record of the open entry: committed when this returns. Raises RingFull."""
        last = self._journal.last
        assert last is not None
        entry = last.entry
        return self._write(body, entry.sequence, entry.boot, entry.uptime_ds, entry.clock_ms)

    def write_plain(self, body: Body, *, boot: int, uptime_ds: int, clock_ms: int) -> bytes:
        """A record without a debit of its own; committed when this returns. Raises RingFull."""
        sequence = self.next
        self._journal.open_entry(
            plain_entry(
                self._secrets.epoch,
                sequence,
                boot,
                running_count=self.running_count,
                running_sum_cents=self.running_sum_cents,
                previous_seal=self.tip,
            )
        )
        return self._write(body, sequence, boot, uptime_ds, clock_ms)

    def seal_before(self, epoch: int, sequence: int) -> bytes | None:
        """Seal of the record before `sequence`; None if no readable record tells."""
        is_ours = epoch == self._secrets.epoch
        if is_ours and sequence == 1:
            return self._genesis
        if is_ours and sequence == self.next:
            return self.tip
        for each, read_seal in ((sequence, previous_seal), (sequence - 1, seal_of)):
            try:
                return read_seal(self.ring.read(epoch, each))
            except (SectorDead, RecordGone):
                continue
        return None

    # -- inside

    def _write(self, body: Body, sequence: int, boot: int, uptime_ds: int, clock_ms: int) -> bytes:
        kind = int(body.TYPE) if not hasattr(body, "type") else int(body.type)
        count, total = self.running_count, self.running_sum_cents
        cents = counted_cents(body)
        if cents:
            count += 1
            total += cents
        head = RecordHead(
            type=kind,
            proof_suite=self._secrets.proof_suite,
            epoch=self._secrets.epoch,
            boot=boot,
            terminal=self._secrets.terminal,
            sequence=sequence,
            uptime_ds=uptime_ds,
            clock_ms=clock_ms,
            running_count=count,
            running_sum_cents=total,
        )
        record = encode_record(head, body, self.tip, self._seal_key)
        self.ring.append(record)
        self.tip, self.running_count, self.running_sum_cents = seal_of(record), count, total
        self._journal.close_entry(kind, self.tip)
        return record

    def _find_tip(self) -> None:
        marks = self.ring.epochs[self._secrets.epoch]
        last = self._journal.last
        if last is not None and last.entry.sequence >= marks.next:
            self._tip_from_journal(last)
            return
        if marks.next == 1:
            return
        try:
            record = self.ring.read(self._secrets.epoch, marks.next - 1)
        except (SectorDead, RecordGone):
            raise MemoryLost("neither ring nor journal tells the seal of the last record") from None
        head = read_head(record)
        self.tip = seal_of(record)
        self.running_count, self.running_sum_cents = head.running_count, head.running_sum_cents
        if last is not None and last.entry.sequence == head.sequence and not last.record_type:
            self._journal.close_entry(head.type, self.tip)

    def _tip_from_journal(self, last: Found) -> None:
        """The newest sequence is not in the ring: its record is owed, was never made, or can no longer be read."""
        entry = last.entry
        marks = self.ring.epochs[self._secrets.epoch]
        self.running_count, self.running_sum_cents = entry.running_count, entry.running_sum_cents
        if not last.record_type:
            marks.next = entry.sequence
            self.tip = entry.previous_seal
            return
        marks.next = entry.sequence + 1
        self.tip = last.seal
        if last.record_type in MONEY_TYPES and entry.amount_cents:
            self.running_count += 1
            is_credit = last.record_type in CREDIT_TYPES
            self.running_sum_cents += -entry.amount_cents if is_credit else entry.amount_cents
