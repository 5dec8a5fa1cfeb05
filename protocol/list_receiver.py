"""The terminal's side of a list transfer (docs/protocol.md §10, R27, R28). Pure; knows nothing of flash.

Memory stays with the firmware. What it must write comes out as events, to be carried out in the order given; what
the receiver needs to read it asks of a `ListStore`. So a receiver holds a few hundred bytes, however long the list,
and a power cut between any two events leaves a state from which the transfer goes on:

    StageBegin(header)         erase the staging area, then write the header
    StageAppend(offset, data)  write behind the header
    Apply(head, content)       make this the held list in one step (the old one until then, the new one after)
    StageClear()               the staging area is empty
    ListState                  send this message

Staging header, 144 bytes: form u8, reserved(3), base generation u32, base counter u32, transfer bytes u32, head(128).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from protocol.codes import ListForm, ListKind, ListStatus
from protocol.deny_list import DenyList, apply_delta
from protocol.errors import Malformed, ProofError
from protocol.list_kinds import certificate_use, check_content
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import (
    NO_HEAD,
    NO_VERSION,
    Certificate,
    SignedHead,
    Version,
    verify_certificate,
    verify_head,
)

_STAGING: Final = struct.Struct("!B3sIII128s")
STAGING_HEADER_BYTES: Final = 144
assert _STAGING.size == STAGING_HEADER_BYTES


class ListStore(Protocol):
    """What the receiver reads back from the firmware's memory."""

    def held_content(self) -> bytes:
        """The content of the held list; asked only while a head is held."""

    def staged_data(self) -> bytes:
        """Everything written behind the staging header so far."""


@dataclass(slots=True)
class StageBegin:
    header: bytes


@dataclass(slots=True)
class StageAppend:
    offset: int
    data: bytes


@dataclass(slots=True)
class StageClear:
    pass


@dataclass(slots=True)
class Apply:
    head: bytes
    content: bytes


ListEvent = StageBegin | StageAppend | StageClear | Apply | ListState


@dataclass(slots=True)
class Staged:
    """What the staging area held at boot: the header as written, and how many bytes behind it are whole."""

    header: bytes
    data_bytes: int


@dataclass(slots=True)
class _Staging:
    form: int
    base: Version
    transfer_bytes: int
    head: SignedHead
    header: bytes
    data_bytes: int = 0
    is_offered: bool = True
    """Whether an offer of this boot has proved the head; flash alone proves nothing."""


class ListReceiver:
    """Takes one kind of list; one per terminal and kind, for as long as the terminal is up.

    Args:
        held: the signed head held (128 bytes), as `Apply` gave it; `NO_HEAD` when none.
        room_bytes: the longest content, and the longest transfer, that the terminal's memory takes.
        staged: what the staging area held at boot.
        check: raises Malformed for a content that the firmware cannot use; without it the form alone is checked.
    """

    __slots__ = ("_check", "_held", "_kind", "_room_bytes", "_root_public", "_site", "_staging", "_store")

    def __init__(
        self,
        *,
        site: int,
        root_public: bytes,
        room_bytes: int,
        store: ListStore,
        held: bytes = NO_HEAD,
        staged: Staged | None = None,
        kind: ListKind = ListKind.DENY,
        check: Callable[[bytes], object] | None = None,
    ) -> None:
        self._site = site
        self._root_public = root_public
        self._room_bytes = room_bytes
        self._store = store
        self._kind = kind
        self._check = check
        self._held = held
        self._staging = self._resumed(staged) if staged is not None else None

    @property
    def held_head(self) -> bytes:
        return self._held

    @property
    def held_version(self) -> Version:
        """`NO_VERSION` when none is held."""
        return NO_VERSION if self._held == NO_HEAD else SignedHead.decode(self._held).version

    def state(self, status: ListStatus | None = None) -> ListState:
        """The report for log-in, and the answer `status` to what was just received."""
        staging = self._staging
        if status is None:
            status = ListStatus.HOLDS if staging is None else ListStatus.STAGING
        generation, counter = NO_VERSION if staging is None else staging.head.version
        return ListState(
            kind=self._kind,
            status=status,
            staged_generation=generation,
            staged_counter=counter,
            staged_bytes=0 if staging is None else staging.data_bytes,
            head=self._held,
        )

    def receive_offer(self, offer: ListOffer) -> list[ListEvent]:
        """Check an offer in the order of §10, then stage its data.

        Raises:
            Malformed: more data than the transfer it announces, or an unknown form.
        """
        if offer.form not in (ListForm.SNAPSHOT, ListForm.DELTA):
            raise Malformed("LIST_OFFER", f"form {offer.form}", offset=1)
        if len(offer.data) > offer.transfer_bytes:
            raise Malformed("LIST_OFFER", "more data than the transfer has", offset=264)
        try:
            head = self._proved_head(offer)
        except (ProofError, Malformed):
            return [self.state(ListStatus.BAD_SIGNATURE)]
        if offer.head == self._held:
            return [self.state(ListStatus.HOLDS)]
        held_version = self.held_version
        if head.version <= held_version:
            return [self.state(ListStatus.NOT_HIGHER)]
        base = (offer.base_generation, offer.base_counter)
        is_delta = offer.form == ListForm.DELTA
        if is_delta and (self._kind != ListKind.DENY or base != held_version or held_version == NO_VERSION):
            return [self.state(ListStatus.BASE_NOT_HELD)]
        if max(head.content_bytes, offer.transfer_bytes) > self._room_bytes:
            return [self.state(ListStatus.NO_ROOM)]
        header = _STAGING.pack(offer.form, b"", *base, offer.transfer_bytes, offer.head)
        if self._continues(header, offer.data):
            return self._take(bytes(offer.data[self._staging_or_fail().data_bytes :]))
        self._staging = _Staging(offer.form, base, offer.transfer_bytes, head, header)
        return [StageBegin(header), *self._take(bytes(offer.data))]

    def receive_chunk(self, chunk: ListChunk) -> list[ListEvent]:
        """Stage the next part; a chunk of another version or out of place is answered, and otherwise ignored.

        Raises:
            Malformed: it reaches beyond the end of the transfer.
        """
        staging = self._staging
        is_expected = (
            staging is not None
            and staging.is_offered
            and chunk.kind == self._kind
            and (chunk.generation, chunk.counter) == staging.head.version
            and chunk.offset == staging.data_bytes
        )
        if staging is None or not is_expected:
            return [self.state(ListStatus.STAGING)]
        if chunk.offset + len(chunk.data) > staging.transfer_bytes:
            raise Malformed("LIST_CHUNK", "reaches beyond the transfer", offset=12)
        return self._take(bytes(chunk.data))

    def _proved_head(self, offer: ListOffer) -> SignedHead:
        certificate = Certificate.decode(offer.certificate)
        # A terminal's clock may never have been set, so a certificate's end is the front-end's and ledger's to check.
        verify_certificate(certificate, self._root_public, self._site, None, use=certificate_use(self._kind))
        head = SignedHead.decode(offer.head)
        verify_head(head, certificate)
        if head.list_kind != self._kind:
            raise ProofError("signed head: of another list kind")
        return head

    def _continues(self, header: bytes, data: bytes | memoryview) -> bool:
        """Whether an offer is for the very transfer being staged, its data agreeing with what is staged."""
        staging = self._staging
        if staging is None or staging.header != header:
            return False
        common = min(len(data), staging.data_bytes)
        if common and self._store.staged_data()[:common] != data[:common]:
            return False
        staging.is_offered = True
        return True

    def _staging_or_fail(self) -> _Staging:
        assert self._staging is not None
        return self._staging

    def _take(self, data: bytes) -> list[ListEvent]:
        """Append to the staging area; when the transfer is complete, check and apply it."""
        staging = self._staging_or_fail()
        events: list[ListEvent] = []
        stored_bytes = staging.data_bytes
        if data:
            events.append(StageAppend(stored_bytes, data))
            staging.data_bytes += len(data)
        if staging.data_bytes < staging.transfer_bytes:
            return [*events, self.state(ListStatus.STAGING)]
        # The events above are not carried out yet: only what was there before may be asked for.
        stored = self._store.staged_data()[:stored_bytes] if stored_bytes else b""
        content = self._content(staging, stored + data)
        self._staging = None
        if content is None:
            return [*events, StageClear(), self.state(ListStatus.DIGEST_WRONG)]
        self._held = staging.head.encode()
        return [*events, Apply(self._held, content), StageClear(), self.state(ListStatus.HOLDS)]

    def _content(self, staging: _Staging, data: bytes) -> bytes | None:
        """The new content, proved by the head; None if it is not what the head names."""
        try:
            if staging.form == ListForm.DELTA:
                content = apply_delta(DenyList.from_content(self._store.held_content()), data).content()
            else:
                content = data
                check_content(self._kind, content)  # a signed list that cannot be read must not replace one that can
            if self._check is not None:
                self._check(content)
        except Malformed:
            return None
        return content if staging.head.names(content) else None

    def _resumed(self, staged: Staged) -> _Staging | None:
        """The staging of an earlier boot; None (start again) if it is damaged or serves no purpose any more."""
        if len(staged.header) != STAGING_HEADER_BYTES:
            return None
        form, _, generation, counter, transfer_bytes, head_bytes = _STAGING.unpack(staged.header)
        try:
            head = SignedHead.decode(head_bytes)
        except Malformed:
            return None
        if head.version <= self.held_version or not 0 <= staged.data_bytes <= transfer_bytes:
            return None
        base = (generation, counter)
        return _Staging(form, base, transfer_bytes, head, staged.header, staged.data_bytes, is_offered=False)
