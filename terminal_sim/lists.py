"""What a terminal holds of each list kind, and the messages about it (docs/protocol.md §10, R27, R28).

The deny list (黑名单) is searched where it lies, in flash; parameters and permissions are handed to the firmware whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from protocol.codes import ListKind, ListStatus
from protocol.deny_list import lot_of
from protocol.list_kinds import kinds_held_by
from protocol.list_receiver import ListReceiver
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import HEAD_BYTES, NO_VERSION, SignedHead
from terminal_sim.errors import SectorDead
from terminal_sim.flash import VirtualFlash
from terminal_sim.layout import FlashLayout
from terminal_sim.list_slots import HeldSlot, ListMemory

Check = Callable[[bytes], object]
"""Raises Malformed for a content that the firmware cannot use."""

_COUNTS: Final = struct.Struct("!II")
_ENTRY: Final = struct.Struct("!I")
_KIND_OFFSET: Final = 8  # in a signed head


class DenyListMemory(ListMemory):
    """The deny list in flash; a look-up keeps nothing in memory but the two counts."""

    __slots__ = ("_counted", "_counts")

    def __init__(self, flash: VirtualFlash, layout: FlashLayout) -> None:
        super().__init__(flash, layout.list_areas(ListKind.DENY), ListKind.DENY)
        self._counted: HeldSlot | None = None
        self._counts = (0, 0)

    def refuses(self, card: int) -> bool:
        """Whether the card or its issue lot is on the list in force. Raises SectorDead.

        Two binary searches: for 90,000 cards and 10,000 lots at most 17 + 14 reads of four bytes.
        """
        held = self._held
        if held is None:
            return False
        if held is not self._counted:
            cards, lots = _COUNTS.unpack(self._flash.read(held.content_offset, _COUNTS.size))
            self._counted, self._counts = held, (cards, lots)
        cards, lots = self._counts
        first = held.content_offset + _COUNTS.size
        return self._holds(first, cards, card) or self._holds(first + cards * _ENTRY.size, lots, lot_of(card))

    def _holds(self, base: int, count: int, wanted: int) -> bool:
        """Search `count` ascending entries that begin at `base`."""
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            (entry,) = _ENTRY.unpack(self._flash.read(base + middle * _ENTRY.size, _ENTRY.size))
            if entry == wanted:
                return True
            if entry < wanted:
                low = middle + 1
            else:
                high = middle
        return False


class HeldList:
    """Receiver and memory of one kind together: messages in, LIST_STATE out, the flash kept in step."""

    __slots__ = ("_check", "_receiver", "_root_public", "_site", "kind", "memory")

    def __init__(
        self, memory: ListMemory, kind: ListKind, *, site: int, root_public: bytes, check: Check | None = None
    ) -> None:
        self.memory = memory
        self.kind = kind
        self._site = site
        self._root_public = root_public
        self._check = check
        self._receiver = self._new_receiver()

    def state(self) -> ListState:
        """The report for log-in."""
        return self._receiver.state()

    def content(self) -> bytes | None:
        """The content in force; None: no version is held, or flash can no longer be read."""
        if self.memory.version == NO_VERSION:
            return None
        try:
            return self.memory.held_content()
        except SectorDead:
            self.memory.damaged = True
            return None

    def receive(self, message: ListOffer | ListChunk) -> list[ListState]:
        """Take part of a transfer; what is answered is in flash. Raises Malformed.

        A sector that dies under it leaves the version held in force and is answered by "no room".
        """
        try:
            if isinstance(message, ListOffer):
                events = self._receiver.receive_offer(message)
            else:
                events = self._receiver.receive_chunk(message)
            answers: list[ListState] = []
            for event in events:
                if isinstance(event, ListState):
                    answers.append(event)
                else:
                    self.memory.perform(event)
        except SectorDead:
            self.memory.damaged = True
            self._receiver = self._new_receiver()  # what it believes to be in flash is not there
            return [self._receiver.state(ListStatus.NO_ROOM)]
        return answers

    def _new_receiver(self) -> ListReceiver:
        return ListReceiver(
            site=self._site,
            root_public=self._root_public,
            room_bytes=self.memory.room_bytes,
            store=self.memory,
            held=self.memory.head,
            staged=self.memory.staged(),
            kind=self.kind,
            check=self._check,
        )


class DenyList(HeldList):
    """The deny list, found again from flash."""

    __slots__ = ()

    memory: DenyListMemory

    def __init__(self, flash: VirtualFlash, layout: FlashLayout, *, site: int, root_public: bytes) -> None:
        super().__init__(DenyListMemory(flash, layout), ListKind.DENY, site=site, root_public=root_public)

    @property
    def issued_ms(self) -> int:
        """When the version in force was issued; 0: none is held."""
        return 0 if self.memory.version == NO_VERSION else SignedHead.decode(self.memory.head).issued_ms


class TerminalLists:
    """Every list kind that a terminal of `terminal_kind` holds, found again from flash by the constructor.

    Args:
        checks: what the firmware can use of a document, by kind.
    """

    __slots__ = ("_held", "deny", "on_document")

    def __init__(
        self,
        flash: VirtualFlash,
        layout: FlashLayout,
        *,
        site: int,
        root_public: bytes,
        terminal_kind: int,
        checks: Mapping[ListKind, Check] | None = None,
    ) -> None:
        self.deny = DenyList(flash, layout, site=site, root_public=root_public)
        self.on_document: Callable[[ListKind, bytes], None] = lambda _kind, _content: None
        """Told of every document that comes into force after boot."""
        self._held: dict[ListKind, HeldList] = {ListKind.DENY: self.deny}
        for kind in kinds_held_by(terminal_kind):
            if kind not in self._held and layout.has_room_for(kind):
                memory = ListMemory(flash, layout.list_areas(kind), kind)
                check = checks.get(kind) if checks is not None else None
                self._held[kind] = HeldList(memory, kind, site=site, root_public=root_public, check=check)

    @property
    def damaged(self) -> bool:
        """A list that was in force can no longer be read, of whatever kind."""
        return any(held.memory.damaged for held in self._held.values())

    def held(self, kind: ListKind) -> HeldList | None:
        """That kind's memory; None: this terminal does not hold it."""
        return self._held.get(kind)

    def content(self, kind: ListKind) -> bytes | None:
        """The document in force of a kind, None if there is none."""
        held = self._held.get(kind)
        return None if held is None else held.content()

    def states(self) -> list[ListState]:
        """The reports for log-in, the most urgent kind first."""
        return [held.state() for held in self._held.values()]

    def receive(self, message: ListOffer | ListChunk) -> list[ListState]:
        """Take part of a transfer; one of a kind that is not held here is left out. Raises Malformed."""
        held = self._held.get(_kind_of(message))  # type: ignore[call-overload]  # an IntEnum is found by its number
        if held is None:
            return []
        before = held.memory.head
        answers: list[ListState] = held.receive(message)
        if held.kind != ListKind.DENY and held.memory.head != before:
            self.on_document(held.kind, held.memory.held_content())
        return answers


def _kind_of(message: ListOffer | ListChunk) -> int:
    if isinstance(message, ListChunk):
        return message.kind
    assert len(message.head) == HEAD_BYTES
    return message.head[_KIND_OFFSET]
