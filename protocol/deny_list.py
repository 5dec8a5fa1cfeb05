"""The deny list (黑名单): cards and issue lots that are refused, and the deltas between its versions. Pure.

Content (docs/protocol.md §10, R28), all u32 big-endian:

    count of cards ‖ count of lots ‖ cards, strictly ascending ‖ lots, strictly ascending

An issue lot (批次) is the 1,024 card numbers with the same number >> 10, so that a terminal knows a card's lot from its
number alone. A lot above 4,194,303 matches no card.

Delta: cards added, cards removed, lots added, lots removed (four counts), then the four arrays. It is never
trusted for itself: whoever applies it compares the result with the digest in the signed head.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from hashlib import sha256
from itertools import islice
from operator import lt
from typing import Final

from protocol.errors import Malformed, OutOfRange
from protocol.limits import LIST_ENTRIES_MAX

U32_MAX: Final = 0xFFFF_FFFF
ENTRY_BYTES: Final = 4
LOT_BITS: Final = 10  # 1,024 cards: what is personalised and lost in one box
LOT_MAX: Final = U32_MAX >> LOT_BITS
_CONTENT_COUNTS: Final = struct.Struct("!II")
_DELTA_COUNTS: Final = struct.Struct("!IIII")
CONTENT_BYTES_MAX: Final = _CONTENT_COUNTS.size + ENTRY_BYTES * LIST_ENTRIES_MAX
DELTA_BYTES_MAX: Final = _DELTA_COUNTS.size + ENTRY_BYTES * 2 * LIST_ENTRIES_MAX  # replaces everything

_SWAP: Final = array("I", [1]).tobytes()[0] == 1  # a little-endian machine
assert array("I").itemsize == ENTRY_BYTES


def lot_of(card: int) -> int:
    """The issue lot that a card number belongs to."""
    return card >> LOT_BITS


def cards_of_lot(lot: int) -> range:
    """The card numbers of an issue lot."""
    return range(lot << LOT_BITS, (lot + 1) << LOT_BITS)


class DenyList:
    """One version's entries; immutable. A look-up is a binary search: 10,000 cards are 14 steps."""

    __slots__ = ("_cards", "_lots")

    def __init__(self, cards: Iterable[int] = (), lots: Iterable[int] = ()) -> None:
        """Entries in any order, repetitions allowed.

        Raises:
            OutOfRange: a number that is no u32, card number 0, or more than LIST_ENTRIES_MAX entries.
        """
        self._cards = _sorted_array(cards, "card")
        self._lots = _sorted_array(lots, "lot")
        if self._cards and self._cards[0] == 0:
            raise OutOfRange("deny list: card number 0 is never valid")
        if len(self) > LIST_ENTRIES_MAX:
            raise OutOfRange(f"deny list: {len(self)} entries, at most {LIST_ENTRIES_MAX}")

    @classmethod
    def _of_arrays(cls, cards: array[int], lots: array[int], what: str) -> DenyList:
        """Take over arrays that came from outside; they are checked here."""
        if len(cards) + len(lots) > LIST_ENTRIES_MAX:
            raise Malformed(what, f"{len(cards) + len(lots)} entries, at most {LIST_ENTRIES_MAX}")
        _check_ascending(cards, what, "cards")
        _check_ascending(lots, what, "lots")
        if cards and cards[0] == 0:
            raise Malformed(what, "card number 0")
        made = cls.__new__(cls)
        made._cards = cards  # noqa: SLF001 - a constructor
        made._lots = lots  # noqa: SLF001 - a constructor
        return made

    @property
    def cards(self) -> memoryview[int]:
        """Read-only, ascending."""
        return memoryview(self._cards).toreadonly()

    @property
    def lots(self) -> memoryview[int]:
        """Read-only, ascending."""
        return memoryview(self._lots).toreadonly()

    def __len__(self) -> int:
        return len(self._cards) + len(self._lots)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DenyList):
            return NotImplemented
        return self._cards == other._cards and self._lots == other._lots

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        return f"DenyList({len(self._cards)} cards, {len(self._lots)} lots)"

    def refuses(self, card: int) -> bool:
        """Whether the card stands on the list, by its own number or by its lot."""
        return _holds(self._cards, card) or _holds(self._lots, lot_of(card))

    def contains(self, card: int) -> bool:
        return _holds(self._cards, card)

    def contains_lot(self, lot: int) -> bool:
        return _holds(self._lots, lot)

    def content(self) -> bytes:
        """The full content, which a signed head names and a snapshot transfers."""
        counts = _CONTENT_COUNTS.pack(len(self._cards), len(self._lots))
        return b"".join((counts, _to_wire(self._cards), _to_wire(self._lots)))

    def digest(self) -> bytes:
        """SHA-256 of the content."""
        return sha256(self.content()).digest()

    @classmethod
    def from_content(cls, data: bytes | bytearray | memoryview) -> DenyList:
        """Read a full content.

        Raises:
            Malformed: counts and length disagree, too many entries, or entries not strictly ascending.
        """
        cards, lots = _arrays(_CONTENT_COUNTS, data, "deny list", LIST_ENTRIES_MAX)
        return cls._of_arrays(cards, lots, "deny list")

    def with_changes(
        self,
        added: Iterable[int] = (),
        removed: Iterable[int] = (),
        *,
        lots_added: Iterable[int] = (),
        lots_removed: Iterable[int] = (),
    ) -> DenyList:
        """The next version: without `removed`, with `added`; what is so already stays so."""
        return DenyList(
            (set(self._cards) - set(removed)) | set(added),
            (set(self._lots) - set(lots_removed)) | set(lots_added),
        )


def make_delta(old: DenyList, new: DenyList) -> bytes:
    """The shortest delta that turns `old` into `new`; the same two lists always give the same bytes."""
    arrays = []
    for before, after in ((old.cards, new.cards), (old.lots, new.lots)):
        held, wanted = set(before), set(after)
        arrays += [array("I", sorted(wanted - held)), array("I", sorted(held - wanted))]
    return b"".join((_DELTA_COUNTS.pack(*map(len, arrays)), *map(_to_wire, arrays)))


def apply_delta(old: DenyList, delta: bytes | bytearray | memoryview) -> DenyList:
    """`old` changed as `delta` says.

    Raises:
        Malformed: counts and length disagree, an array is not strictly ascending, an added entry is there
            already, a removed one is not, or the result has too many entries.
    """
    cards_added, cards_removed, lots_added, lots_removed = _arrays(
        _DELTA_COUNTS, delta, "deny list delta", 2 * LIST_ENTRIES_MAX
    )
    cards = _spliced(old.cards, cards_added, cards_removed, "cards")
    lots = _spliced(old.lots, lots_added, lots_removed, "lots")
    return DenyList._of_arrays(cards, lots, "deny list delta")  # noqa: SLF001 - same module


def _spliced(base: memoryview[int], added: array[int], removed: array[int], what: str) -> array[int]:
    """Copies the runs between the changes whole: the cost is one copy and a search per change."""
    _check_ascending(added, "deny list delta", f"{what} added")
    _check_ascending(removed, "deny list delta", f"{what} removed")
    changes = sorted([(entry, True) for entry in added] + [(entry, False) for entry in removed])
    result = array("I")
    start = 0
    last_entry = -1
    for entry, is_added in changes:
        at = bisect_left(base, entry, start)
        is_present = at < len(base) and base[at] == entry
        if is_present == is_added or entry == last_entry:
            raise Malformed("deny list delta", f"{what}: adds what is there or removes what is not")
        result.frombytes(base[start:at].cast("B"))
        if is_added:
            result.append(entry)
        start = at + (not is_added)
        last_entry = entry
    result.frombytes(base[start:].cast("B"))
    return result


def _arrays(
    counts_layout: struct.Struct, data: bytes | bytearray | memoryview, what: str, entries_max: int
) -> list[array[int]]:
    """Counts, then as many arrays; nothing is copied before counts and length agree."""
    if len(data) < counts_layout.size:
        raise Malformed(what, f"{len(data)} bytes, shorter than its counts")
    counts = counts_layout.unpack_from(data)
    if sum(counts) > entries_max:
        raise Malformed(what, f"{sum(counts)} entries, at most {entries_max}", offset=0)
    if len(data) != counts_layout.size + ENTRY_BYTES * sum(counts):
        raise Malformed(what, f"{len(data)} bytes, its counts say otherwise", offset=0)
    view = memoryview(data)
    arrays = []
    offset = counts_layout.size
    for count in counts:
        end = offset + ENTRY_BYTES * count
        entries = array("I")
        entries.frombytes(view[offset:end])
        if _SWAP:
            entries.byteswap()
        arrays.append(entries)
        offset = end
    return arrays


def _to_wire(entries: array[int]) -> bytes:
    if _SWAP:
        entries = entries[:]
        entries.byteswap()
    return entries.tobytes()


def _sorted_array(entries: Iterable[int], what: str) -> array[int]:
    ascending = sorted(set(entries))
    if ascending and not (ascending[0] >= 0 and ascending[-1] <= U32_MAX):
        raise OutOfRange(f"deny list: a {what} is not a u32")
    return array("I", ascending)


def _check_ascending(entries: array[int], what: str, which: str) -> None:
    if not all(map(lt, entries, islice(entries, 1, None))):
        raise Malformed(what, f"{which} are not strictly ascending")


def _holds(entries: array[int], entry: int) -> bool:
    at = bisect_left(entries, entry)
    return at < len(entries) and entries[at] == entry
