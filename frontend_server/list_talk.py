"""One terminal's lists within one session: what it reports, what it is offered (docs/protocol.md §10, R27)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from frontend_server.alarms import AlarmKind
from frontend_server.distribution import KINDS
from frontend_server.parts import Parts
from frontend_server.sessions import TerminalStatus
from protocol import list_transfer
from protocol.codes import ListKind
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
    """The transfers of one session, one a list kind."""

    __slots__ = ("_body_bytes_max", "_parts", "_reports", "_senders", "_status")

    def __init__(self, parts: Parts, status: TerminalStatus, body_bytes_max: int) -> None:
        self._parts = parts
        self._status = status
        self._body_bytes_max = body_bytes_max
        self._senders: tuple[tuple[int, ListSender], ...] = ()  # (kind, sender); one kind so far, so no dictionary
        self._reports: tuple[ListState, ...] = ()  # of kinds for which this front-end has no version yet

    def on_state(self, body: bytes) -> list[bytes]:
        """What to send after a LIST_STATE. Raises Malformed."""
        report = ListState.decode(body)
        if report.kind not in KINDS:
            return []  # reserved: nothing is distributed that it could be compared with
        if report.kind == ListKind.DENY:
            self._status.list_version = _version_of(report.head)
        sender = self._sender(report.kind)
        if sender is None:
            version = self._parts.distribution.held(report.kind)
            if version is None:
                self._reports = (*(one for one in self._reports if one.kind != report.kind), report)
                return []
            sender = self._new_sender(version)
        return self._told(sender, report)

    def on_version(self, version: ListVersion) -> list[bytes]:
        """What to send when a new version has come."""
        kind = version.head.list_kind
        sender = self._sender(kind)
        if sender is not None:
            return self._carry_out(sender.on_version(version))
        report = next((one for one in self._reports if one.kind == kind), None)
        if report is None:
            return []  # it will report, and is then compared with this version
        self._reports = tuple(one for one in self._reports if one is not report)
        return self._told(self._new_sender(version), report)

    def _sender(self, kind: int) -> ListSender | None:
        return next((sender for of_kind, sender in self._senders if of_kind == kind), None)

    def _new_sender(self, version: ListVersion) -> ListSender:
        sender = ListSender(version, body_bytes_max=self._body_bytes_max)
        self._senders = (*self._senders, (version.head.list_kind, sender))
        return sender

    def _told(self, sender: ListSender, report: ListState) -> list[bytes]:
        was_current = sender.state is SenderState.CURRENT
        messages = self._carry_out(sender.on_state(report))
        if sender.state is SenderState.CURRENT and not was_current:
            self._parts.metrics.lists_confirmed += 1
            for kind in (AlarmKind.UNSIGNED_HEAD, AlarmKind.LIST_NOT_TAKEN):
                self._parts.alarms.clear(kind, str(self._status.terminal))
        return messages

    def _carry_out(self, outputs: Iterable[SenderOutput]) -> list[bytes]:
        messages: list[bytes] = []
        for output in outputs:
            if isinstance(output, list_transfer.Alarm):
                version = _version_of(output.head)
                text = f"{output.kind.value}: reports list {version[0]}.{version[1]}, status {output.status:02x}"
                self._parts.alarm(_ALARMS[output.kind], str(self._status.terminal), text, output.report_kind)
                continue
            if isinstance(output, ListOffer):
                self._parts.metrics.lists_offered += 1
            messages.append(output.encode())
        return messages


def _version_of(head: bytes) -> Version:
    generation, counter = _VERSION.unpack_from(head, _VERSION_OFFSET)
    return generation, counter
