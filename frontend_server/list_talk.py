"""One terminal's lists within one session: what it reports, what it is offered (docs/protocol.md §10, R27).

The kinds share one window, and the most urgent goes first: while it is transferred, a less urgent kind begins nothing
and sends no more of what it has begun.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from frontend_server.alarms import AlarmKind
from frontend_server.parts import Parts
from frontend_server.sessions import TerminalStatus
from protocol import list_transfer
from protocol.codes import ListKind
from protocol.limits import LIST_CHUNKS_OUTSTANDING_MAX
from protocol.list_kinds import kinds_held_by
from protocol.list_transfer import ListSender, ListVersion, SenderOutput, SenderState
from protocol.messages import ListOffer, ListState
from protocol.signed import Version

_VERSION: Final = struct.Struct("!II")
_VERSION_OFFSET: Final = 12  # in a signed head

_ALARMS: Final = {
    list_transfer.AlarmKind.UNSIGNED_HEAD: AlarmKind.UNSIGNED_HEAD,
    list_transfer.AlarmKind.DIFFERING_HEAD: AlarmKind.UNSIGNED_HEAD,
    list_transfer.AlarmKind.HIGHER_HEAD: AlarmKind.HIGHER_HEAD,
    list_transfer.AlarmKind.REFUSED: AlarmKind.LIST_NOT_TAKEN,
    list_transfer.AlarmKind.NOT_CONVERGING: AlarmKind.LIST_NOT_TAKEN,
}


class ListTalk:
    """The transfers of one session, one a list kind that the terminal holds."""

    __slots__ = ("_body_bytes_max", "_kinds", "_parts", "_reports", "_senders", "_status")

    def __init__(self, parts: Parts, status: TerminalStatus, body_bytes_max: int, terminal_kind: int) -> None:
        self._parts = parts
        self._status = status
        self._body_bytes_max = body_bytes_max
        self._kinds = kinds_held_by(terminal_kind)  # the most urgent first
        self._senders: tuple[tuple[int, ListSender], ...] = ()  # (kind, sender); so few that a dictionary costs more
        self._reports: tuple[ListState, ...] = ()  # of kinds without a version here, or that wait for their turn

    @property
    def deny_list_current(self) -> bool:
        """The terminal has reported the newest deny list that the ledger has issued (R28)."""
        sender = self._sender(ListKind.DENY)
        is_current = sender is not None and sender.state is SenderState.CURRENT
        return is_current and self._parts.distribution.is_newest(ListKind.DENY)

    def on_state(self, body: bytes) -> list[bytes]:
        """What to send after a LIST_STATE. Raises Malformed."""
        report = ListState.decode(body)
        kind = report.kind
        if kind not in self._kinds:
            return []  # nothing is distributed to such a terminal that it could be compared with
        self._status.note_list(kind, _version_of(report.head))
        sender = self._sender(kind)
        if self._parts.distribution.held(kind) is None or (self._must_wait(kind) and not _is_busy(sender)):
            self._reports = (*(one for one in self._reports if one.kind != kind), report)
            return []
        return self._told(kind, report) + self._next_turn()

    def on_version(self, version: ListVersion) -> list[bytes]:
        """What to send when a new version has come."""
        kind = version.head.list_kind
        return self._next_turn() if kind in self._kinds else []

    def _begin(self, kind: int) -> list[bytes]:
        """It is a kind's turn: a report that has waited, then a newer version than its sender knows."""
        version = self._parts.distribution.held(kind)
        if version is None:
            return []
        messages: list[bytes] = []
        report = next((one for one in self._reports if one.kind == kind), None)
        if report is not None:
            self._reports = tuple(one for one in self._reports if one is not report)
            messages = self._told(kind, report)
        sender = self._sender(kind)
        if sender is not None:
            sender.window = self._window(kind)
            messages += self._carry_out(kind, sender.on_version(version))
        return messages

    def _next_turn(self) -> list[bytes]:
        """Go on with the most urgent kind that has something to do; those behind it wait."""
        messages: list[bytes] = []
        for kind in self._kinds:
            messages += self._begin(kind)
            sender = self._sender(kind)
            if sender is not None and sender.is_busy:
                messages += self._carry_out(kind, sender.resume())
                break
        return messages

    def _must_wait(self, kind: int) -> bool:
        """Whether a more urgent kind is being transferred."""
        return any(_is_busy(self._sender(each)) for each in self._kinds[: self._kinds.index(ListKind(kind))])

    def _window(self, kind: int) -> int:
        """Chunks that a kind may have unanswered: none while it must wait, else what the others have left."""
        if self._must_wait(kind):
            return 0
        others = sum(sender.unanswered for of_kind, sender in self._senders if of_kind != kind)
        return max(0, LIST_CHUNKS_OUTSTANDING_MAX - others)

    def _sender(self, kind: int) -> ListSender | None:
        for of_kind, sender in self._senders:
            if of_kind == kind:
                return sender
        return None

    def _told(self, kind: int, report: ListState) -> list[bytes]:
        sender = self._sender(kind)
        if sender is None:
            version = self._parts.distribution.held(kind)
            assert version is not None
            sender = ListSender(version, body_bytes_max=self._body_bytes_max)
            self._senders = (*self._senders, (kind, sender))
        sender.window = self._window(kind)
        was_current = sender.state is SenderState.CURRENT
        messages = self._carry_out(kind, sender.on_state(report))
        if sender.state is SenderState.CURRENT and not was_current:
            self._parts.metrics.lists_confirmed += 1
            if all(each.state is SenderState.CURRENT for _, each in self._senders):
                for alarm in (AlarmKind.UNSIGNED_HEAD, AlarmKind.LIST_NOT_TAKEN):
                    self._parts.alarms.clear(alarm, str(self._status.terminal))
        return messages

    def _carry_out(self, kind: int, outputs: Iterable[SenderOutput]) -> list[bytes]:
        messages: list[bytes] = []
        for output in outputs:
            if isinstance(output, list_transfer.Alarm):
                version = _version_of(output.head)
                name = "list" if kind == ListKind.DENY else ListKind(kind).name.lower()
                text = f"{output.kind.value}: reports {name} {version[0]}.{version[1]}, status {output.status:02x}"
                # The ledger issues no documents: what is wrong with them is for those who publish them.
                report = output.report_kind if kind == ListKind.DENY else None
                self._parts.alarm(_ALARMS[output.kind], str(self._status.terminal), text, report)
                continue
            if isinstance(output, ListOffer):
                self._parts.metrics.lists_offered += 1
            messages.append(output.encode())
        return messages


def _is_busy(sender: ListSender | None) -> bool:
    return sender is not None and sender.is_busy


def _version_of(head: bytes) -> Version:
    generation, counter = _VERSION.unpack_from(head, _VERSION_OFFSET)
    return generation, counter
