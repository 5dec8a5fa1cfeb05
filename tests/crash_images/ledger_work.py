"""A ledger's working day from a seed: batches, decisions, lists, operators, checkpoints, closing; and its judge.

As `spool_work`: each step is at most one transaction and one line of heads; `Trace.states[k]` is what stood in the
tables after k + 1 steps, receipts among them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import apsw

from ledger_sync.ledger.core import Ledger, LedgerPaths, failing_as
from ledger_sync.ledger.errors import LedgerError, VerbRefused
from ledger_sync.ledger.heads import read_heads
from ledger_sync.ledger.verify import verify
from protocol.codes import RecordType, RowKind
from protocol.link_messages import BatchMessage, Row, name_batch
from tests.crash_images.disk import DIRECTORY, Disk, DiskFiles, DiskVfs, Kill, no_hook
from tests.crash_images.images import Image
from tests.crash_images.judging import WORKED_ON_EVERY, Look
from tests.ledger.canteen import FRONTEND, NOW_MS, SPOOL, ZONE, Card, Till, ledger_keys

STEPS: Final = 40
WAL_PAGES_SMALL: Final = 60  # so that the ledger's own checkpoint comes every few batches
DATABASE: Final = "ledger.db"
HEADS: Final = "ledger.heads"


@dataclass(slots=True)
class LedgerTrace:
    disk: Disk
    states: list[bytes]
    first: BatchMessage | None = None
    receipt: bytes = b""
    """Of `first`: the same bytes for ever."""
    did: list[str] = field(default_factory=list)


def paths_on(vfs: DiskVfs) -> LedgerPaths:
    lock = str(Path(vfs.lock_path).with_suffix(".ledger"))  # flock needs a real file
    return LedgerPaths(DIRECTORY + DATABASE, DIRECTORY + HEADS, lock, vfs.vfs_name)


def open_on(vfs: DiskVfs) -> Ledger:
    """The product's own way to open a ledger, on the disk that the VFS serves."""
    return Ledger.open(paths_on(vfs), ledger_keys(), files=DiskFiles(vfs.disk), utc_offset_ms=ZONE)


def view(connection: apsw.Connection) -> bytes:
    """A digest of every row of every table."""
    digest = sha256()
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    for (table,) in tables:
        digest.update(repr((table, connection.execute(f"SELECT * FROM {table}").fetchall())).encode())
    return digest.digest()


class LedgerWork:
    """Draws and does the steps."""

    def __init__(self, vfs: DiskVfs, seed: int, *, synchronous: str = "FULL", is_killed: bool = True) -> None:
        self.vfs = vfs
        self.rng = random.Random(f"ledger {seed}")
        self.synchronous = synchronous
        self.steps = {step: weight for step, weight in _STEPS.items() if is_killed or step is not LedgerWork._killed}
        self.ledger: Ledger
        self.now_ms = NOW_MS
        self.next_row = 1
        self.cards = [Card(1001 + at) for at in range(4)]
        self.tills = [Till(51 + at, merchant=9001 + at) for at in range(3)]
        self.greys: list[dict[str, Any]] = []
        self.sent: list[BatchMessage] = []
        self.proposed: list[dict[str, Any]] = []

    def run(self, disk: Disk, steps: int = STEPS) -> LedgerTrace:
        self.vfs.disk = disk
        self.trace = trace = LedgerTrace(disk, [])
        self.ledger = Ledger.create(
            paths_on(self.vfs), ledger_keys(), files=DiskFiles(disk), utc_offset_ms=ZONE, now_ms=NOW_MS, operator="init"
        )
        self._set()
        self._note(trace, "create")
        self._operate("register", terminals=[till.registered() for till in self.tills])
        self._note(trace, "register")
        self._operate("card_issue", cards=[card.registered() for card in self.cards])
        self._note(trace, "card_issue")
        trace.first = self._batch([till.baseline() for till in self.tills])
        trace.receipt = self.ledger.post(trace.first, self.now_ms).receipt
        self._note(trace, "post")
        for _ in range(steps):
            step = self.rng.choices(list(self.steps), weights=list(self.steps.values()))[0]
            step(self)
            self._note(trace, step.__name__.strip("_"))
        self.ledger.close()
        return trace

    def _set(self) -> None:
        self.ledger.connection.wal_autocheckpoint(WAL_PAGES_SMALL)
        if self.synchronous != "FULL":
            self.ledger.connection.execute(f"PRAGMA synchronous = {self.synchronous}")

    def _note(self, trace: LedgerTrace, did: str) -> None:
        trace.disk.mark()
        with trace.disk.at_rest():
            trace.states.append(view(self.ledger.connection))
        trace.did.append(did)

    def _operate(self, verb: str, operator: str = "Li", **arguments: object) -> None:
        self.now_ms += 1000
        self.ledger.operate(verb, arguments, operator=operator, now_ms=self.now_ms)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _batch(self, rows: list[bytes]) -> BatchMessage:
        numbered: list[Row] = [(self.next_row + at, row) for at, row in enumerate(rows)]
        self.next_row += len(rows)
        batch = BatchMessage(name_batch(FRONTEND, SPOOL, numbered), numbered)
        self.sent.append(batch)
        return batch

    def _post(self) -> None:
        rows = [self._row() for _ in range(self.rng.randint(1, 5))]
        self.now_ms += 1000
        self.ledger.post(self._batch(rows), self.now_ms)

    def _post_again(self) -> None:
        self.ledger.post(self.rng.choice(self.sent), self.now_ms)

    def _lists(self) -> None:
        """Each issues a version of the deny list."""
        card = self.rng.choice(self.cards)
        for verb in ("lost", "release"):
            try:
                self._operate(verb, card=card.number)
            except VerbRefused:
                continue
            return

    def _topup(self) -> None:
        with contextlib.suppress(VerbRefused):  # a lost card takes none
            self._operate("topup", card=self.rng.choice(self.cards).number, amount_cents=self.rng.randint(1, 900))

    def _propose(self) -> None:
        execute = self.ledger.connection.execute
        with failing_as("not looked up"):
            items = [("quarantine", item) for (item,) in execute("SELECT item FROM quarantine ORDER BY item")]
            items += [("suspense", posting) for (posting,) in execute("SELECT posting FROM suspense ORDER BY posting")]
        self.rng.shuffle(items)
        for subject, item in items:
            outcome = "retry" if subject == "quarantine" else self.rng.choice(("spent", "not spent"))
            what = {"subject": subject, "item": item, "outcome": outcome}
            try:
                self._operate("propose", **what, reason="seen by the cook")
            except VerbRefused:
                continue
            self.proposed.append(what)
            return

    def _decide(self) -> None:
        if not self.proposed:
            return self._propose()
        what = self.proposed.pop(self.rng.randrange(len(self.proposed)))
        with contextlib.suppress(VerbRefused):  # a proof that came meanwhile has decided it
            if self.rng.random() < 0.3:
                self._operate("withdraw", subject=what["subject"], item=what["item"])
            else:
                self._operate("confirm", "Wang", **what)
        return None

    def _checkpoint(self) -> None:
        with failing_as("not written back"):
            self.ledger.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _reopen(self) -> None:
        self.ledger.close()
        self.ledger = open_on(self.vfs)
        self._set()

    def _killed(self) -> None:
        """The process is killed in a batch, before, in or after its commit, or in its line of heads."""
        disk = self.vfs.disk
        disk.hook = Kill(self.rng.randint(0, 60))
        with contextlib.suppress(LedgerError, apsw.Error):
            self._post()
        with contextlib.suppress(apsw.Error):
            self.ledger.connection.close(True)
        self.ledger.close()
        disk.hook = no_hook
        self.ledger = open_on(self.vfs)
        self._set()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _row(self) -> bytes:
        till, card = self.rng.choice(self.tills), self.rng.choice(self.cards)
        cents = self.rng.randint(1, 90)
        drawn = self.rng.random()
        if drawn < 0.45:
            return till.row(*[till.purchase(card, cents) for _ in range(self.rng.randint(1, 3))])
        if drawn < 0.55:
            return till.row(till.aborted(card.number))
        if drawn < 0.67:
            sequence = till.next
            record = till.grey(card, cents)
            self.greys.append(card.debit(till, cents, sequence=sequence))
            return till.row(record)
        if drawn < 0.77 and self.greys:
            return till.row(till.completion(self.greys.pop(0)))
        if drawn < 0.84:
            return till.row(till.purchase(card, cents, proof=bytes(8)))  # to suspense or quarantine
        if drawn < 0.88:
            return till.tombstone(till.next + 5, till.next + 6)
        if drawn < 0.92 and till.next > 2:
            forged = till.forge(till.next - 1, till.grey_body(card, 7), kind=RecordType.GREY, cents=7)
            return till.row(forged, kind=RowKind.SUSPECT)
        if till.records:
            return till.row(till.records[self.rng.choice(list(till.records))])  # once more: a duplicate
        return till.baseline()


_STEPS: Final[dict[Callable[[LedgerWork], None], int]] = {
    LedgerWork._post: 50, LedgerWork._post_again: 5, LedgerWork._lists: 8, LedgerWork._topup: 6,
    LedgerWork._propose: 8, LedgerWork._decide: 8, LedgerWork._checkpoint: 5, LedgerWork._reopen: 4,
    LedgerWork._killed: 6,
}  # fmt: skip


class LedgerJudge:
    """As `SpoolJudge`, of a ledger."""

    def __init__(self, vfs: DiskVfs, trace: LedgerTrace) -> None:
        self.vfs = vfs
        self.trace = trace
        self._views: dict[int, tuple[bytes, str]] = {}
        self.recovered = self.worked_on = 0

    def look(self, image: Image) -> Look:
        """Open it as the product does."""
        disk = self.vfs.disk = Disk.of(image)
        try:
            ledger = open_on(self.vfs)
        except LedgerError as error:
            # one that was never made is refused with a reason; nothing was acknowledged
            return Look(b"", wrong_once_acknowledged=f"does not open: {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever else opening raises is a finding
            return Look(b"", f"does not open: {type(error).__name__}: {error}")
        recovery, image = list(disk.journal), disk.image()
        try:
            key, (told, says) = self._recovered(ledger, disk)
        except Exception as error:  # noqa: BLE001 - a corrupt file may raise anything, and that is a finding
            return Look(b"", f"cannot be read: {type(error).__name__}: {error}")
        finally:
            ledger.close()
        if key and key not in self._views:
            self.recovered += 1
            if self.recovered % WORKED_ON_EVERY == 1:
                self.worked_on += 1
                says = says or self._goes_on(image)
            self._views[key] = told, says
        return Look(told, says, "", recovery)

    def _recovered(self, ledger: Ledger, disk: Disk) -> tuple[int, tuple[bytes, str]]:
        """(what names these bytes, (view, what is wrong with them by themselves)); asked once for the same bytes."""
        anchor = bytes(disk.files[HEADS])
        found = read_heads(anchor, None)
        if (found.last_position, found.last_operation) != (ledger.position, ledger.operation):
            says = f"the heads file ends at {found.last_position} and {found.last_operation},"
            return 0, (b"", f"{says} the ledger at {ledger.position} and {ledger.operation}")
        # torn pieces differ in every byte and count for nothing: whole lines and their number say what verify can say
        whole = [line for line in anchor.split(b"\n") if line.endswith(b"}") and line.startswith(b"{")]
        key = hash((bytes(disk.files[DATABASE]), *whole, found.torn))
        known = self._views.get(key)
        return key, known or (view(ledger.connection), self._unsound(ledger, anchor))

    def _unsound(self, ledger: Ledger, anchor: bytes) -> str:
        found = verify(ledger.connection, anchor, ledger.keys, utc_offset_ms=ZONE)
        return "" if found.is_sound else f"verify: {found.findings[0]}"

    def _goes_on(self, image: Image) -> str:
        """On a copy: an old batch gets its receipt, a new one is booked, a verb done; opened again it is sound."""
        self.vfs.disk = copy = Disk.of(image)
        ledger = open_on(self.vfs)
        try:
            position = ledger.position
            first = self.trace.first
            if (
                position
                and first is not None
                and self.trace.receipt
                and ledger.post(first, NOW_MS).receipt != self.trace.receipt
            ):
                return "another receipt for a batch that has one"
            ledger.post(LATE, NOW_MS + 86_400_000)
            cards = {"cards": [Card(4_000_000).registered()]}
            ledger.operate("card_issue", cards, operator="Li", now_ms=NOW_MS + 86_400_000)
            ledger.close()
            ledger = open_on(self.vfs)
            if ledger.position != position + 1:
                return "a batch posted after the cut is not there"
            return self._unsound(ledger, bytes(copy.files[HEADS]))
        except Exception as error:  # noqa: BLE001 - as above
            return f"cannot go on: {type(error).__name__}: {error}"
        finally:
            ledger.close()


def _late() -> BatchMessage:
    till = Till(99)
    rows: list[Row] = [(1_000_000, till.row(till.aborted()))]
    return BatchMessage(name_batch(FRONTEND, SPOOL, rows), rows)


LATE: Final = _late()
"""A batch that no working day holds; its terminal is unknown, so it goes to quarantine."""
