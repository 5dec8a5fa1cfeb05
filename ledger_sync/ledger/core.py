"""The ledger itself: one database, one writer; `post` for batches, `operate` for everything people do.

    ledger = Ledger.create(paths, keys, files=…, utc_offset_ms=…, now_ms=…, operator="…")      # once
    ledger = Ledger.open(paths, keys, files=…, utc_offset_ms=…)
    ledger.post(batch, now_ms).receipt                  # after COMMIT and after the heads file is synced
    ledger.operate("lost", {"card": 7}, operator="Li", now_ms=…)
    ledger.close()

Every transaction ends with debits equal to credits, or it does not commit (R18). After LedgerFailure nothing may be
done but `close` and open again: what is in memory no longer counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, TypeVar

import apsw

from ledger_sync.ledger import heads
from ledger_sync.ledger.anchor import Anchor
from ledger_sync.ledger.books import Books
from ledger_sync.ledger.errors import (
    BatchRefused,
    LedgerDamaged,
    LedgerFailure,
    VerbRefused,
)
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.ledger.lock import WriterLock
from ledger_sync.ledger.operations import VERBS, operator_name
from ledger_sync.ledger.posting import BatchPoster, Outcome, collector_paused
from ledger_sync.ledger.rules import RULES, UNPROVEN_LIMIT_CENTS
from ledger_sync.ledger.schema import open_writer
from ledger_sync.ledger.work import Work
from ledger_sync.wal import make_sure_of_wal
from protocol.errors import OutOfRange
from protocol.limits import RECEIPT_EXCEPTIONS_MAX
from protocol.link_envelope import LENGTH_BYTES
from protocol.link_messages import (
    CHAIN_START,
    BatchMessage,
    BatchName,
    Receipt,
    chain_hash,
    decode_down,
    encode_down,
    result_digest,
)
from protocol.ports import Files
from protocol.trade_time import UtcOffset, trade_day

T = TypeVar("T")

UNLISTED_MAX: Final = 0xFFFF  # u16 in the receipt (docs/protocol.md §11.4)


@dataclass(slots=True)
class LedgerPaths:
    """Database, heads file and lock; `vfs` names the SQLite VFS, None the default."""

    database: str
    heads: str
    lock: str
    vfs: str | None = None

    @classmethod
    def in_directory(cls, directory: str, *, vfs: str | None = None) -> LedgerPaths:
        """The usual names."""
        base = directory.rstrip("/")
        return cls(f"{base}/ledger.db", f"{base}/ledger.heads", f"{base}/ledger.lock", vfs)


@dataclass(slots=True)
class Posted:
    """A batch that is booked; `receipt` is the whole signed message, the same bytes for ever."""

    receipt: bytes
    position: int
    outcome: Outcome | None
    """None: the batch had been posted before."""


class Ledger:
    """One open ledger. Not thread-safe: its owner calls it from one thread at a time."""

    def __init__(
        self, connection: apsw.Connection, keys: LedgerKeys, *, utc_offset_ms: UtcOffset, anchor: Anchor | None,
        lock: WriterLock | None, keeps_evidence: bool = True,
    ) -> None:  # fmt: skip
        """Use `create` or `open`; `verify` builds one in memory, without files, lock and evidence."""
        self.connection = connection
        self.keys = keys
        self.utc_offset_ms = utc_offset_ms
        self.books = Books(connection)
        self._anchor = anchor
        self._lock = lock
        self._keeps_evidence = keeps_evidence
        self.site = self.generation = self.currency = self.first_open_day = 0
        self.rules, self.unproven_limit_cents = RULES, 0
        self.position = self.operation = 0
        self._chain = CHAIN_START
        self._operations_hash = heads.OPERATIONS_START
        self._load()

    # -- opening and closing

    @classmethod
    def create(
        cls,
        paths: LedgerPaths,
        keys: LedgerKeys,
        *,
        files: Files,
        utc_offset_ms: UtcOffset,
        now_ms: int,
        operator: str,
        currency: int = 156,
        first_open_day: int | None = None,
        unproven_limit_cents: int = UNPROVEN_LIMIT_CENTS,
    ) -> Ledger:
        """A new ledger with an empty deny list; the first open day is today unless stated.

        `unproven_limit_cents`: per terminal and trade day, for cards that make no proof (R4); 0: all to suspense.

        Raises:
            LedgerError: the file exists, is locked, or cannot be written.
        """
        if Anchor(files, paths.heads, keys.signer).read() is not None:
            raise LedgerDamaged("there is a heads file already: a ledger was here before")
        day = trade_day(now_ms, utc_offset_ms) if first_open_day is None else first_open_day
        arguments = {"site": keys.site, "currency": currency, "first_open_day": day, "generation": 1}
        arguments |= {"rules": RULES, "unproven_limit_cents": unproven_limit_cents}
        lock = WriterLock(paths.lock)
        anchor = Anchor(files, paths.heads, keys.signer)
        try:
            connection = open_writer(paths.database, vfs=paths.vfs, create=True)
            ledger = cls(connection, keys, utc_offset_ms=utc_offset_ms, anchor=anchor, lock=lock)
        except BaseException:
            lock.release()
            raise
        try:
            ledger.operate("init", arguments, operator=operator, now_ms=now_ms)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(
        cls,
        paths: LedgerPaths,
        keys: LedgerKeys,
        *,
        files: Files,
        utc_offset_ms: UtcOffset,
        is_restored: bool = False,
    ) -> Ledger:
        """An existing ledger; mends a heads file that a crash left one line short.

        `is_restored`: a backup was put back, so the heads file may be ahead; the caller runs `restore` next.

        Raises:
            LedgerBusy: another process has it.
            LedgerDamaged: the heads file is ahead of the database: it was truncated, or an old copy was put back.
            ForeignLedger, LedgerFailure, UnsafeSqlite: the file will not do.
        """
        lock = WriterLock(paths.lock)
        anchor = Anchor(files, paths.heads, keys.signer)
        try:
            with failing_as("cannot open the ledger"):
                make_sure_of_wal(paths.database, files, vfs=paths.vfs)
            connection = open_writer(paths.database, vfs=paths.vfs)
        except BaseException:
            lock.release()
            raise
        try:
            with failing_as("cannot open the ledger"):
                ledger = cls(connection, keys, utc_offset_ms=utc_offset_ms, anchor=anchor, lock=lock)
            if ledger.site != keys.site:
                raise LedgerDamaged(f"the ledger is of site {ledger.site}, the keys of site {keys.site}")
            with failing_as("cannot mend the heads file"):
                anchor.mend(connection, ledger.position, ledger.operation, is_restored=is_restored)
        except BaseException:
            connection.close(True)  # noqa: FBT003 - given up whatever it says
            lock.release()
            raise
        return ledger

    def close(self) -> None:
        """Close database and lock; idempotent."""
        try:
            self.connection.close(True)  # noqa: FBT003 - force: what it still says is no reason to keep the lock
        finally:
            if self._lock is not None:
                self._lock.release()

    def _load(self) -> None:
        """Where the file stands."""
        execute = self.connection.execute
        meta = execute(
            "SELECT site, generation, currency, first_open_day, rules, unproven_limit_cents FROM meta"
        ).fetchone()
        if meta is not None:
            self.site, self.generation, self.currency, self.first_open_day, self.rules, self.unproven_limit_cents = meta
        last = execute("SELECT position, chain FROM batches ORDER BY position DESC LIMIT 1").fetchone()
        self.position, self._chain = last if last is not None else (0, CHAIN_START)
        last = execute("SELECT operation, hash FROM operations ORDER BY operation DESC LIMIT 1").fetchone()
        self.operation, self._operations_hash = last if last is not None else (0, heads.OPERATIONS_START)

    def known_position(self, generation: int) -> int:
        """For LINK_WELCOME: up to where a front-end that knows this generation may keep what it has settled (R17).

        That is the present position, or the lowest at which a later generation began: what such a front-end settled
        above it was lost with the ledger of its generation.
        """
        (lowest,) = self.connection.execute(
            "SELECT min(position) FROM generations WHERE generation > ?", (generation,)
        ).fetchone() or (None,)
        return self.position if lowest is None else int(lowest)

    # -- posting

    def booked_to(self, frontend: int, spool_id: bytes) -> int:
        """The last row of that spool that was booked; 0: none. A spool whose own last row is lower has gone back."""
        found = self.connection.execute(
            "SELECT last_row FROM batches WHERE frontend = ? AND spool = ?"
            " ORDER BY first_row DESC, last_row DESC LIMIT 1",
            (frontend, spool_id),
        ).get
        return int(found or 0)

    def post(self, batch: BatchMessage, now_ms: int) -> Posted:
        """Book a batch whose MAC and digest the caller has verified; returns after COMMIT and heads file.

        The same name gets the receipt it got before; after a restore (R17) the same under the generation in force,
        since a front-end that knows of the restore ignores receipts of an earlier one.

        Row numbers that were booked before with another content are a batch of their own: a spool that was put back
        from a backup numbers its rows again (`went_back`). What its records are decides what is booked.

        Raises:
            BatchRefused: numbers that no ledger can hold; nothing was changed.
            LedgerFailure: the disk refused; nothing counts until the ledger is opened again.
        """
        name = batch.name
        with failing_as("not looked up"):
            known = self.connection.execute(
                "SELECT receipt, position, generation FROM batches WHERE frontend = ? AND spool = ?"
                " AND first_row = ? AND last_row = ? AND digest = ?",
                (name.frontend, name.spool_id, name.first_row, name.last_row, name.digest),
            ).fetchone()
        if known is not None:
            receipt, position, generation = known
            return Posted(receipt if generation == self.generation else self._renewed(receipt), position, None)
        try:
            with collector_paused():
                return self._transaction(lambda: self._post(batch, now_ms))
        except (OverflowError, OutOfRange, ValueError) as error:
            # times beyond the year 9999, sums or offsets beyond their fields: no front-end of ours makes them
            says = f"rows {name.first_row}–{name.last_row} hold what no ledger can: {type(error).__name__}"
            raise BatchRefused(says, first_row=name.first_row) from error

    def _post(self, batch: BatchMessage, now_ms: int) -> tuple[Posted, bytes]:
        name, position = batch.name, self.position + 1
        poster = BatchPoster(
            self.books,
            self.keys,
            position=position,
            first_row=name.first_row,
            now_ms=now_ms,
            currency=self.currency,
            first_open_day=self.first_open_day,
            utc_offset_ms=self.utc_offset_ms,
            rules=self.rules,
            unproven_limit_cents=self.unproven_limit_cents,
        )
        outcome = poster.post(batch.rows)
        chain = chain_hash(self._chain, name, result_digest(bytes(outcome.results)))
        receipt = self._receipt(name, position, chain, outcome)
        self.connection.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (position, self.generation, now_ms, name.frontend, name.spool_id, name.first_row, name.last_row,
             name.digest, bytes(outcome.results), chain, outcome.posted, outcome.duplicates, outcome.quarantined,
             outcome.sum_cents, receipt),
        )  # fmt: skip
        if self._keeps_evidence:
            first = self.books.next_id("evidence", "evidence")
            self.books.next_ids["evidence"] = first + len(batch.rows)
            self.connection.executemany(
                "INSERT INTO evidence VALUES (?, ?, ?, ?, ?)",
                [
                    (first + at, position, row_id, row_digest(row_id, row), row)
                    for at, (row_id, row) in enumerate(batch.rows)
                ],
            )
        self.books.flush(position=position)
        line = heads.batch_line(
            self.keys.signer,
            position=position,
            generation=self.generation,
            posted_ms=now_ms,
            name=name.encode(),
            chain=chain,
        )
        return Posted(receipt, position, outcome), line

    def _receipt(self, name: BatchName, position: int, chain: bytes, outcome: Outcome) -> bytes:
        listed = outcome.exceptions[:RECEIPT_EXCEPTIONS_MAX]
        receipt = Receipt(
            name=name,
            generation=self.generation,
            position=position,
            chain_hash=chain,
            posted=outcome.posted,
            duplicates=outcome.duplicates,
            quarantined=outcome.quarantined,
            posted_cents=outcome.sum_cents,
            exceptions=listed,
            exceptions_unlisted=min(len(outcome.exceptions) - len(listed), UNLISTED_MAX),
        )
        return encode_down(receipt, self.keys.signer)

    def _renewed(self, receipt: bytes) -> bytes:
        """A receipt of an earlier generation, for a batch that survived the restore."""
        told = decode_down(receipt[LENGTH_BYTES:])
        assert isinstance(told, Receipt)
        return encode_down(replace(told, generation=self.generation), self.keys.signer)

    # -- operations

    def operate(self, verb: str, arguments: Mapping[str, Any], *, operator: str, now_ms: int) -> dict[str, Any]:
        """Do one verb of `operations.VERBS` and log it; returns after COMMIT and heads file.

        Raises:
            VerbRefused: the books do not allow it; nothing was changed.
            LedgerFailure: as `post`.
        """
        if verb not in VERBS:
            raise VerbRefused(f"no verb {verb!r}")
        operator = operator_name(operator)
        return self._transaction(lambda: self._operate(verb, arguments, operator, now_ms))

    def _operate(
        self, verb: str, arguments: Mapping[str, Any], operator: str, now_ms: int
    ) -> tuple[dict[str, Any], bytes]:
        operation = self.operation + 1
        day = max(trade_day(now_ms, self.utc_offset_ms), self.first_open_day)
        work = Work(
            self.connection, self.books, self.keys, operation, self.position, self.generation, now_ms, operator,
            self.currency, self.first_open_day, self.utc_offset_ms, day, self.rules, self.unproven_limit_cents,
            is_replay=not self._keeps_evidence,
        )  # fmt: skip
        text = heads.canonical(dict(arguments)).decode()
        told = VERBS[verb](work, arguments)
        facts = {
            "operation": operation, "after_position": self.position, "at_ms": now_ms, "operator": operator,
            "verb": verb, "arguments": text,
        }  # fmt: skip
        hash_ = heads.operation_hash(self._operations_hash, **facts)  # type: ignore[arg-type]
        self.connection.execute(
            "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?)",
            (operation, self.position, now_ms, operator, verb, text, hash_),
        )
        self.books.flush(operation=operation)
        return told, heads.operation_line(self.keys.signer, hash_=hash_, **facts)  # type: ignore[arg-type]

    # -- transactions and heads

    def _transaction(self, work: Callable[[], tuple[T, bytes]]) -> T:
        """Run `work` in one transaction, commit, append its head; whatever fails leaves no trace."""
        with failing_as("not booked"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                done, line = work()
                self.connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        with failing_as("booked, but not read back"):
            self._load()
        if self._anchor is not None:
            self._anchor.append(line)
        return done

    def _roll_back(self) -> None:
        with failing_as("not rolled back"):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self.books.forget()


@contextmanager
def failing_as(says: str) -> Iterator[None]:
    """What the disk refuses is a LedgerFailure, whatever was being done."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        raise LedgerFailure(f"{says}: {type(error).__name__}: {error}") from error


def row_digest(row_id: int, packed: bytes | memoryview) -> bytes:
    """Names the row that was touched where the digest of a batch only names the batch."""
    digest = sha256(row_id.to_bytes(8, "big"))
    digest.update(packed)
    return digest.digest()
