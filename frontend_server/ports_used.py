"""What the server needs of its neighbours, as Protocols: the way to the ledger, and whoever listens to it.

The forwarder lives in `ledger_sync.link`; the server hands itself over with `attach` and starts and stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from protocol.codes import ListForm, ListKind, ReportKind
from protocol.signed import Certificate, SignedHead, Version


class LedgerEvents(Protocol):
    """What the forwarder tells the server, among the callbacks of the loop, after its own checks of frame and proof.

    The head of a LIST is *not* verified by the forwarder: the server verifies it against the root key and its site.
    """

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        """A LIST came: `data` is the whole content (snapshot) or a delta from `base`."""

    def on_recollect(self, terminal: int, epoch: int, first: int, last: int) -> None:
        """The ledger misses `first`…`last` of a terminal (R9)."""

    def on_settled(self, terminals: set[tuple[int, int]]) -> None:
        """Receipts settled rows of these (terminal, epoch); what `settled` is now, the spool knows."""


class Forwarder(Protocol):
    """The front-end's side of the link to the ledger."""

    def attach(self, events: LedgerEvents) -> None:
        """Called once, before `start`."""

    def start(self) -> None:
        """Connect, and stay connected."""

    def stop(self, done: Callable[[], None]) -> None:
        """Let go of the link; `done` when it touches the spool no more. Idempotent."""

    def request_list(self, kind: ListKind, version: Version) -> None:
        """Send LIST_REQUEST with what is held ((0, 0): none, asks for a snapshot); dropped while offline, since the
        ledger sends every current list after LINK_WELCOME anyway.
        """

    def report(self, terminal: int, kind: ReportKind, text: str) -> None:
        """Send REPORT, now or when the link is up again; bounded, the oldest is dropped first."""

    def state(self) -> Mapping[str, object]:
        """For `status`: at least `state`; values are JSON's."""
