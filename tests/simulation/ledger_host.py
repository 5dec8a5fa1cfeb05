"""The ledger of a simulated site: service and SQLite file; it crashes, comes back, and can be put back to a backup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import apsw

from ledger_sync.ledger.core import Ledger, LedgerPaths
from ledger_sync.ledger.errors import LedgerFailure
from ledger_sync.ledger.service import Addresses, LedgerService
from protocol.ports import Log, Stream
from protocol.trade_time import fixed_offset
from tests.simulation.fragile import close_killed
from tests.simulation.frontend_host import LEDGER_LINK, ZONE_MINUTES
from tests.simulation.keys import UNPROVEN_LIMIT_CENTS, SiteKeys
from tests.simulation.world import Host

ADMIN: Final = "/run/onecard/ledger-admin.sock"
RESTART_MS: Final = 1_000
PATIENCE_MS: Final = 20_000  # of an operator: longer than any stall of a play
OPERATOR: Final = "Li Na"
Answer = dict[str, Any]


class LedgerHost:
    """The machine of finance; its directory outlives its processes."""

    def __init__(self, host: Host, directory: Path, keys: SiteKeys, log: Log) -> None:
        self.host = host
        self.directory = directory
        self.paths = LedgerPaths.in_directory(str(directory), vfs=None if host.disk is None else host.disk.name)
        self._keys = keys.ledger_keys()
        self._log = log
        self._zone = fixed_offset(ZONE_MINUTES)
        self._is_stopping = False
        self.service: LedgerService | None = None

    @property
    def is_up(self) -> bool:
        return self.service is not None and not self._is_stopping

    @property
    def is_stopped(self) -> bool:
        return self.service is None

    def create(self, *operations: tuple[str, dict[str, Any]]) -> None:
        """Make the file and do these verbs in place, as `onecard ledger init` does."""
        ledger = Ledger.create(
            self.paths,
            self._keys,
            files=self.host,
            utc_offset_ms=self._zone,
            now_ms=self.host.now_ms(),
            operator=OPERATOR,
            unproven_limit_cents=UNPROVEN_LIMIT_CENTS,
        )
        for verb, arguments in operations:
            ledger.operate(verb, arguments, operator=OPERATOR, now_ms=self.host.now_ms())
        ledger.close()

    def start(self) -> None:
        """As a process would; it listens when the ledger is open."""
        assert self.service is None
        self.service = LedgerService(
            self.open,
            Addresses(LEDGER_LINK, ADMIN),
            keys=self._keys,
            network=self.host,
            clock=self.host,
            executor=self.host,
            log=self._log,
            files=self.host,
            heads_path=self.paths.heads,
        )
        self.service.start(self._ready)

    def open(self) -> Ledger:
        """What the service calls at its start."""
        return Ledger.open(self.paths, self._keys, files=self.host, utc_offset_ms=self._zone)

    def _ready(self, error: BaseException | None) -> None:
        if isinstance(error, LedgerFailure):  # the disk again: whoever watches over the process starts it anew
            self._drop()
            self.host.call_at(self.host.monotonic_ms() + RESTART_MS, self._start_again)
        elif error is not None:
            raise error

    def _start_again(self) -> None:
        if self.service is None:
            self.start()

    def crash(self) -> None:
        """`kill -9`: what is committed stays, every promise not yet sent is forgotten."""
        self.host.crash()
        self._drop()

    def stop(self) -> None:
        """Begin an orderly stop; `is_stopped` tells when it is done."""
        assert self.service is not None
        self._is_stopping = True
        self.service.stop(self._drop)

    def close(self) -> None:
        """End of the run: leave no file open."""
        self._drop()
        if self.host.disk is not None:
            self.host.disk.close()

    def _drop(self) -> None:
        self._is_stopping = False
        service, self.service = self.service, None
        if service is not None and service._ledger is not None:
            ledger = service._ledger
            close_killed(ledger.connection)
            if ledger._lock is not None:
                ledger._lock.release()

    # -- operators

    def ask(self, request: Answer, answered: Callable[[Answer | None], None]) -> None:
        """One admin request over the admin socket; None: the connection ended without an answer."""
        client = _AdminClient({"operator": OPERATOR} | request, answered)
        self.host.connect(ADMIN, client)
        self.host.world.after(PATIENCE_MS, client.give_up)

    # -- backups

    def back_up(self, to: Path) -> None:
        """A consistent copy of the database beside the running service."""
        source = apsw.Connection(self.paths.database, flags=apsw.SQLITE_OPEN_READONLY)
        target = apsw.Connection(str(to))
        with target.backup("main", source, "main") as backup:
            backup.step()
        target.close()
        source.close()

    def put_back(self, backup: Path) -> None:
        """Only the database; the heads file beside it stays."""
        assert self.service is None
        for suffix in ("", "-wal", "-shm"):
            Path(self.paths.database + suffix).unlink(missing_ok=True)
        shutil.copy(backup, self.paths.database)

    def restore(self, backup: Path) -> Answer:
        """After a crash: put the copy back and declare a higher generation, as `onecard ledger restore` would (R17)."""
        self.put_back(backup)
        ledger = Ledger.open(self.paths, self._keys, files=self.host, utc_offset_ms=self._zone, is_restored=True)
        try:
            return ledger.operate("restore", {}, operator=OPERATOR, now_ms=self.host.now_ms())
        finally:
            ledger.close()


class _AdminClient:
    """One request, one answer, one connection."""

    def __init__(self, request: Answer, answered: Callable[[Answer | None], None]) -> None:
        self._request = request
        self._answered: Callable[[Answer | None], None] | None = answered
        self._stream: Stream | None = None
        self._data = b""

    def connected(self, stream: Stream) -> None:
        self._stream = stream
        stream.write(json.dumps(self._request).encode() + b"\n")

    def received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"\n"):
            try:
                self._tell(json.loads(self._data))
            except ValueError:  # a bit has flipped on the way: nobody knows whether it was done
                self._tell(None)
            assert self._stream is not None
            self._stream.close()

    def give_up(self) -> None:
        """Nobody has answered: the newline of the request may have been hit by a flipped bit."""
        if self._answered is not None and self._stream is not None:
            self._stream.abort()
        self._tell(None)

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self._tell(None)

    def _tell(self, answer: Answer | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)
