"""What the server needs of the way to the ledger, as a Protocol.

The forwarder lives in `ledger_sync.link`; the server hands itself over with `attach` (it is the forwarder's
`LedgerEvents`), and starts and stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ledger_sync.link.requests import Answered
from ledger_sync.link.settings import LedgerEvents
from protocol.codes import ListKind, ReportKind
from protocol.signed import Version


class Forwarder(Protocol):
    """The front-end's side of the link to the ledger."""

    @property
    def life(self) -> int:
        """Which link this is; another number as soon as it has ended."""

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

    def ask(self, kind: int, body: bytes, *, within_ms: int, answered: Answered) -> None:
        """A question that somebody waits for; `answered` follows once, with None where no answer came in time."""

    def state(self) -> Mapping[str, object]:
        """For `status`: at least `state`; values are JSON's."""
