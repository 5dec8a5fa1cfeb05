"""The front-end's side of a list transfer (docs/protocol.md §10, R27). Pure.

One `ListVersion` (what the ledger issued) is shared by all sessions; one `ListSender` per session and list kind
compares it with what the terminal reports and closes the difference. What the terminal reports is the truth; nothing
is remembered from an earlier session.

Every offer and chunk is answered by one LIST_STATE. A new version that arrives while some are unanswered waits until
they are answered, so that no answer is taken for another's.

The kinds of one session share a window: whoever holds the senders sets `window` before each call, 0 for one that must
wait for a more urgent kind, and calls `resume` when that has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocol.codes import ListForm, ListKind, ListStatus, ReportKind
from protocol.errors import Malformed, OutOfRange, ProofError, StateMisuse
from protocol.limits import BODY_BYTES_MIN, LIST_CHUNKS_OUTSTANDING_MAX
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import NO_HEAD, NO_VERSION, Certificate, SignedHead, Version, verify_head

OFFER_BYTES: Final = 264  # before its data
CHUNK_BYTES: Final = 16  # before its data
OFFERS_MAX: Final = 6  # per version and session: delta, snapshot, and room for a terminal that restarts staging
REWINDS_MAX: Final = 8  # per transfer: a terminal that keeps forgetting what it staged
ALARMS_MAX: Final = 8  # per session: a terminal that invents a new head with every report


@dataclass(frozen=True, slots=True)
class ListVersion:
    """What a front-end serves: one signed version, and deltas from recent versions to it.

    `older_certificates` are those by which heads of earlier signing keys are still recognised. All signatures were
    verified by whoever made this.
    """

    head: SignedHead
    certificate: Certificate
    content: bytes
    deltas: Mapping[Version, bytes] = field(default_factory=dict)
    older_certificates: tuple[Certificate, ...] = ()
    kind: ListKind = field(init=False)
    head_bytes: bytes = field(init=False)
    certificate_bytes: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", ListKind(self.head.list_kind))
        object.__setattr__(self, "head_bytes", self.head.encode())
        object.__setattr__(self, "certificate_bytes", self.certificate.encode())


class AlarmKind(Enum):
    UNSIGNED_HEAD = "unsigned head"
    DIFFERING_HEAD = "same version, different digest"
    HIGHER_HEAD = "validly signed and higher than ours"
    REFUSED = "the terminal refuses the list"
    NOT_CONVERGING = "the terminal does not get there"


REPORT_KINDS: Final[Mapping[AlarmKind, ReportKind]] = {
    AlarmKind.UNSIGNED_HEAD: ReportKind.UNSIGNED_HEAD,
    AlarmKind.DIFFERING_HEAD: ReportKind.UNSIGNED_HEAD,
    AlarmKind.HIGHER_HEAD: ReportKind.HIGHER_HEAD,
}
"""What is also reported to the ledger (§11.2); the other alarms stay with the front-end's operator."""


@dataclass(slots=True)
class Alarm:
    """Something a person, and perhaps the ledger, must know; `status` and `head` are what the terminal reported."""

    kind: AlarmKind
    status: int
    head: bytes

    @property
    def report_kind(self) -> ReportKind | None:
        return REPORT_KINDS.get(self.kind)


SenderOutput = ListOffer | ListChunk | Alarm


class SenderState(Enum):
    UNKNOWN = "the terminal has not reported yet"
    CURRENT = "the terminal holds our head"
    OFFERED = "an offer is unanswered"
    SENDING = "the terminal stages"
    STOPPED = "no more of this version in this session"


TRANSITIONS: Final[Mapping[SenderState, frozenset[SenderState]]] = {
    SenderState.UNKNOWN: frozenset({SenderState.CURRENT, SenderState.OFFERED, SenderState.STOPPED}),
    SenderState.CURRENT: frozenset({SenderState.CURRENT, SenderState.OFFERED, SenderState.STOPPED}),
    SenderState.OFFERED: frozenset(
        {SenderState.CURRENT, SenderState.OFFERED, SenderState.SENDING, SenderState.STOPPED}
    ),
    SenderState.SENDING: frozenset({SenderState.CURRENT, SenderState.OFFERED, SenderState.STOPPED}),
    SenderState.STOPPED: frozenset({SenderState.CURRENT, SenderState.OFFERED, SenderState.STOPPED}),
}


class _Standing(Enum):
    """The reported head against ours."""

    OURS = "holds our content"
    NONE = "holds none"
    LOWER = "validly signed, lower"
    HIGHER = "validly signed, higher"
    DIFFERING = "our version, another digest"
    UNSIGNED = "proves nothing"


ALARM_OF_STANDING: Final[Mapping[_Standing, AlarmKind]] = {
    _Standing.UNSIGNED: AlarmKind.UNSIGNED_HEAD,
    _Standing.DIFFERING: AlarmKind.DIFFERING_HEAD,
    _Standing.HIGHER: AlarmKind.HIGHER_HEAD,
}


@dataclass(slots=True)
class _Transfer:
    form: ListForm
    data: bytes
    unanswered: int = 1  # the offer
    next_offset: int = 0
    rewinds: int = 0


class ListSender:
    """Brings one terminal to the current version of one list kind, within one session.

    Args:
        body_bytes_max: the session's body limit, which sizes offers and chunks.
    """

    __slots__ = (
        "_alarms",
        "_body_bytes_max",
        "_offers",
        "_pending",
        "_reported",
        "_standing",
        "_transfer",
        "_version",
        "state",
        "window",
    )

    def __init__(self, version: ListVersion, *, body_bytes_max: int) -> None:
        if body_bytes_max < BODY_BYTES_MIN:
            raise OutOfRange(f"a body limit of {body_bytes_max} bytes, at least {BODY_BYTES_MIN}")
        self._version = version
        self._body_bytes_max = body_bytes_max
        self._pending: ListVersion | None = None
        self._reported = b""
        self._standing = _Standing.NONE
        self._transfer: _Transfer | None = None
        self._offers = 0
        self._alarms = 0
        self.window = LIST_CHUNKS_OUTSTANDING_MAX
        """Chunks that may be unanswered from now on, the offer included."""
        self.state = SenderState.UNKNOWN

    @property
    def is_busy(self) -> bool:
        """A transfer is under way, or begins as soon as what is unanswered is answered."""
        return self._transfer is not None or self._pending is not None

    @property
    def unanswered(self) -> int:
        """Offers and chunks that the terminal has not answered yet."""
        return 0 if self._transfer is None else self._transfer.unanswered

    def resume(self) -> list[SenderOutput]:
        """The chunks that `window` allows now."""
        transfer = self._transfer
        if transfer is None or self._pending is not None or self.state is not SenderState.SENDING:
            return []
        return self._fill_window(transfer)

    def on_state(self, report: ListState) -> list[SenderOutput]:
        """What to send, and what to raise, after a LIST_STATE of this kind."""
        if report.kind != self._version.kind:
            raise StateMisuse("a LIST_STATE of another kind belongs to another sender")
        if self._transfer is not None:
            self._transfer.unanswered = max(0, self._transfer.unanswered - 1)
        outputs = self._look_at_head(report)
        if self._pending is not None:
            if self._transfer is not None and self._transfer.unanswered and self._standing is not _Standing.OURS:
                return outputs
            return outputs + self._switch()
        if self._standing is _Standing.OURS:
            self._end(SenderState.CURRENT)
        elif self._standing is _Standing.HIGHER:
            self._end(SenderState.STOPPED)
        elif self._transfer is not None:
            outputs += self._answered(report, self._transfer)
        elif self.state is not SenderState.STOPPED:
            outputs += self._offer(self._chosen_form(report), report)
        return outputs

    def on_version(self, version: ListVersion) -> list[SenderOutput]:
        """A newer version was issued; one that is not higher is ignored (R27)."""
        newest = self._pending or self._version
        if version.head.version <= newest.head.version:
            return []
        if self.state is SenderState.UNKNOWN:
            self._version = version
            return []
        self._pending = version
        if self._transfer is not None and self._transfer.unanswered:
            return []
        return self._switch()

    def _switch(self) -> list[SenderOutput]:
        assert self._pending is not None
        self._version, self._pending = self._pending, None
        self._transfer = None
        self._offers = 0
        self._standing = self._standing_of(self._reported)
        if self._standing is _Standing.HIGHER:
            self._end(SenderState.STOPPED)
            return []
        if self._standing is _Standing.OURS:
            self._end(SenderState.CURRENT)
            return []
        return self._offer(self._chosen_form(None), None)

    def _look_at_head(self, report: ListState) -> list[SenderOutput]:
        """Judge the reported head when it is not the one judged last (a signature check costs 0.1 ms)."""
        head = bytes(report.head)
        if head == self._reported:
            return []
        self._reported = head
        self._standing = self._standing_of(head)
        kind = ALARM_OF_STANDING.get(self._standing)
        return [] if kind is None else self._alarm(kind, report)

    def _standing_of(self, head_bytes: bytes) -> _Standing:
        ours = self._version.head
        if head_bytes == self._version.head_bytes:
            return _Standing.OURS
        if head_bytes == NO_HEAD:
            return _Standing.NONE
        try:
            head = SignedHead.decode(head_bytes)
            self._verify(head)
        except (Malformed, ProofError):
            return _Standing.UNSIGNED
        if head.version > ours.version:
            return _Standing.HIGHER
        if head.version < ours.version:
            return _Standing.LOWER
        # The same content signed again, by a later key perhaps, is no quarrel.
        return _Standing.OURS if head.digest == ours.digest else _Standing.DIFFERING

    def _verify(self, head: SignedHead) -> None:
        if head.list_kind != self._version.kind:
            raise ProofError("signed head: of another list kind")
        for certificate in (self._version.certificate, *self._version.older_certificates):
            if certificate.key_id == head.key_id:
                verify_head(head, certificate)
                return
        raise ProofError(f"signed head: key {head.key_id} is not known")

    def _chosen_form(self, report: ListState | None) -> ListForm:
        """A delta where there is one from what is held and it is the shorter way; else a snapshot."""
        delta = self._delta()
        if delta is None or len(delta) >= len(self._version.content):
            return ListForm.SNAPSHOT
        if report is not None and self._is_staging_ours(report) and report.staged_bytes > len(delta):
            return ListForm.SNAPSHOT  # more is staged than a delta has: it can only be a snapshot, so go on with it
        return ListForm.DELTA

    def _delta(self) -> bytes | None:
        if self._standing is not _Standing.LOWER:
            return None
        return self._version.deltas.get(SignedHead.decode(self._reported).version)

    def _is_staging_ours(self, report: ListState) -> bool:
        return (report.staged_generation, report.staged_counter) == self._version.head.version

    def _offer(self, form: ListForm, report: ListState | None) -> list[SenderOutput]:
        self._offers += 1
        if self._offers > OFFERS_MAX:
            return self._give_up(AlarmKind.NOT_CONVERGING, report)
        base, data = NO_VERSION, self._version.content
        delta = self._delta() if form is ListForm.DELTA else None
        if delta is None:
            form = ListForm.SNAPSHOT  # also where the terminal now reports another head than the delta was for
        else:
            base, data = SignedHead.decode(self._reported).version, delta
        # Where the terminal has part of it, the front-end waits to hear how much, and repeats none of it.
        is_resumed = report is not None and self._is_staging_ours(report) and report.staged_bytes > 0
        first_bytes = 0 if is_resumed else self._body_bytes_max - OFFER_BYTES
        self._transfer = _Transfer(form, data)
        self._go(SenderState.OFFERED)
        return [
            ListOffer(
                form=form,
                base_generation=base[0],
                base_counter=base[1],
                transfer_bytes=len(data),
                head=self._version.head_bytes,
                certificate=self._version.certificate_bytes,
                data=data[:first_bytes],
            )
        ]

    def _answered(self, report: ListState, transfer: _Transfer) -> list[SenderOutput]:
        """The answer to an offer or chunk, the head held being still another."""
        if report.status == ListStatus.STAGING and self._is_staging_ours(report):
            return self._continue(report, transfer)
        if report.status in (ListStatus.STAGING, ListStatus.HOLDS):  # it lost our transfer, or never took it up
            return [] if transfer.unanswered else self._offer(transfer.form, report)
        if report.status in (ListStatus.BASE_NOT_HELD, ListStatus.DIGEST_WRONG):
            return self._offer(ListForm.SNAPSHOT, report)
        return self._give_up(AlarmKind.REFUSED, report)

    def _continue(self, report: ListState, transfer: _Transfer) -> list[SenderOutput]:
        staged_bytes = report.staged_bytes
        if staged_bytes > len(transfer.data):
            return self._give_up(AlarmKind.NOT_CONVERGING, report)
        if self.state is SenderState.OFFERED:
            self._go(SenderState.SENDING)
            transfer.next_offset = staged_bytes
        elif transfer.unanswered == 0 and staged_bytes != transfer.next_offset:
            transfer.rewinds += 1
            if transfer.rewinds > REWINDS_MAX:
                return self._give_up(AlarmKind.NOT_CONVERGING, report)
            transfer.next_offset = staged_bytes
        return self._fill_window(transfer)

    def _fill_window(self, transfer: _Transfer) -> list[SenderOutput]:
        head = self._version.head
        data_bytes_max = self._body_bytes_max - CHUNK_BYTES
        chunks: list[SenderOutput] = []
        while transfer.unanswered < self.window and transfer.next_offset < len(transfer.data):
            offset = transfer.next_offset
            data = transfer.data[offset : offset + data_bytes_max]
            chunks.append(
                ListChunk(
                    kind=self._version.kind,
                    generation=head.generation,
                    counter=head.counter,
                    offset=offset,
                    data=data,
                )
            )
            transfer.next_offset += len(data)
            transfer.unanswered += 1
        return chunks

    def _alarm(self, kind: AlarmKind, report: ListState | None) -> list[SenderOutput]:
        self._alarms += 1
        if self._alarms > ALARMS_MAX:
            return []
        status = ListStatus.HOLDS if report is None else report.status
        return [Alarm(kind, status, self._reported)]

    def _give_up(self, kind: AlarmKind, report: ListState | None) -> list[SenderOutput]:
        self._end(SenderState.STOPPED)
        return self._alarm(kind, report)

    def _end(self, state: SenderState) -> None:
        self._transfer = None
        self._go(state)

    def _go(self, state: SenderState) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state
