"""What the forwarder is told and what it asks of its neighbours: settings with their reasons, and two Protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ledger_sync.spool.spool import Spool
from protocol.codes import ListForm
from protocol.signed import Certificate, SignedHead, Version

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class ForwarderSettings:
    """Where the ledger is, who we are, and how patient we are."""

    frontend: int
    site: int
    address: str
    root_public_key: bytes
    claim_interval_ms: int = 50  # how long a committed row waits for company before it is sent
    greeting_timeout_ms: int = 10_000
    receipt_timeout_ms: int = 60_000  # a ledger that posts a megabyte on a slow disk answers within seconds
    ping_interval_ms: int = 10_000
    back_off_ms_min: int = 100
    back_off_ms_max: int = 10_000


class SpoolAccess(Protocol):
    """The one owner of the spool's connection; work of intake and forwarder runs there in turn."""

    def run(self, work: Callable[[Spool], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `work` on the spool's thread, then `done` among the callbacks."""


class LedgerEvents(Protocol):
    """What the server is told (all among the callbacks). The head of a list is not verified here."""

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        """A LIST came: a whole content, or a delta from `base`."""

    def on_damaged_list(self, why: str) -> None:
        """A LIST came whose head or certificate cannot be read: it is to be asked for again."""

    def on_recollect(self, terminal: int, epoch: int, first: int, last: int) -> None:
        """The ledger misses these records (R9)."""

    def on_settled(self, terminals: set[tuple[int, int]]) -> None:
        """Rows of these (terminal, epoch) were settled."""
