"""What a power cut may leave of a `Disk`: replay its journal up to a point, then draw from what is not synced there.

Not synced means: any part of it may have reached the disk, in any order. So an image applies any subset of a file's
writes and truncations since its last sync, in their order (a later write of the same bytes covers an earlier one
either way: leaving either out gives every mixture), and of each name any value it has had since the directory's last
sync, each name by itself. A write that is cut leaves a part of itself: whole sectors, a beginning or an end at any
byte, or its place filled with bytes that nobody wrote. Bytes outside what was being written are never harmed: SQLite
relies on that (`SQLITE_IOCAP_POWERSAFE_OVERWRITE`), and so do we.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from tests.crash_images.disk import SECTOR_BYTES, Operation

GARBAGE_BYTES_MIN: Final = 16  # no disk spoils single bytes of a sector; so short a stretch could pass for a forgery

Image = dict[str, bytes]
Pieces = list[tuple[int, bytes]]
"""(offset, bytes) that reach the disk."""


class Fate(Enum):
    """Of an operation on a file's bytes."""

    UNDER_WAY = "not synced yet"
    CERTAIN = "synced, behind one that is in doubt"
    DOUBTFUL = "a sync failed: a system may drop what it could not write, and call the next sync done"


@dataclass(slots=True)
class _File:
    synced: bytes = b""
    since: list[Operation] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)

    def note(self, done: Operation) -> None:
        self.since.append(done)
        self.fates.append(Fate.UNDER_WAY)

    def sync(self) -> None:
        if Fate.DOUBTFUL in self.fates:
            self.fates = [Fate.CERTAIN if fate is Fate.UNDER_WAY else fate for fate in self.fates]
            return
        self.synced = applied(self.synced, self.since)
        self.since, self.fates = [], []

    def doubt(self) -> None:
        self.fates = [Fate.DOUBTFUL if fate is Fate.UNDER_WAY else fate for fate in self.fates]


class Platter:
    """A disk at one point of its journal: what is safe, and what is on its way."""

    def __init__(self, start: Image | None = None) -> None:
        """`start`: what `Disk.of` began with."""
        self._files: dict[int, _File] = {}
        self._names: dict[str, list[int]] = {}
        """Every value of a name since the directory was synced, the synced one first; 0: there is none."""
        self._now: dict[str, int] = {}
        for inode, (name, data) in enumerate((start or {}).items(), 1):
            self._files[inode] = _File(data)
            self._names[name], self._now[name] = [inode], inode

    @property
    def is_settled(self) -> bool:
        """Whether a power cut here can leave one image only."""
        return all(len(values) == 1 for values in self._names.values()) and not any(
            self._files[inode].since for inode in self._now.values() if inode
        )

    def step(self, done: Operation) -> None:
        kind = done.kind
        if kind in {"write", "truncate"}:
            self._files[done.inode].note(done)
        elif kind == "sync":
            self._files[done.inode].sync()
        elif kind == "doubt":
            self._files[done.inode].doubt()
        elif kind == "create":
            self._files[done.inode] = _File()
            self._name(done.name, done.inode)
        elif kind == "delete":
            self._name(done.name, 0)
        elif kind == "rename":
            self._name(done.other, self._now[done.name])
            self._name(done.name, 0)
        elif kind == "names":
            self._names = {name: [values[-1]] for name, values in self._names.items()}

    def _name(self, name: str, inode: int) -> None:
        self._names.setdefault(name, [0]).append(inode)
        self._now[name] = inode

    def draw(self, rng: random.Random) -> tuple[str, Image]:
        """(manner, files) of one power cut here."""
        manner = rng.choice(MANNERS)
        choose = rng.choice if manner.all_names is None else (lambda values: values[-1 if manner.all_names else 0])
        image: Image = {}
        for name, values in self._names.items():
            inode = choose(values)
            if inode:
                file = self._files[inode]
                image[name] = manner.leaves(rng, file.synced, file.since, file.fates) if file.since else file.synced
        return manner.name, image


def applied(before: bytes, operations: list[Operation]) -> bytes:
    """All of them, whole and in order."""
    data = bytearray(before)
    for each in operations:
        _apply(data, each, None)
    return bytes(data)


def _apply(data: bytearray, done: Operation, pieces: Pieces | None) -> None:
    if done.kind == "truncate":
        if done.offset < len(data):
            del data[done.offset :]
        else:
            data.extend(bytes(done.offset - len(data)))
        return
    for offset, part in [(done.offset, done.data)] if pieces is None else pieces:
        if offset > len(data):
            data.extend(bytes(offset - len(data)))  # nothing was written between: zeros
        data[offset : offset + len(part)] = part


# -- how one write is torn --------------------------------------------------------------------------------------------


def by_sectors(rng: random.Random, done: Operation) -> Pieces:
    """Some of its sectors, as they lie on the disk."""
    pieces: Pieces = []
    at, end = done.offset, done.offset + len(done.data)
    share = rng.random()
    while at < end:
        stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if rng.random() < share:
            pieces.append((at, done.data[at - done.offset : stop - done.offset]))
        at = stop
    return pieces


def by_bytes(rng: random.Random, done: Operation) -> Pieces:
    """Its beginning up to any byte, or its end from any byte on."""
    cut = rng.randint(0, len(done.data))
    if rng.random() < 0.5:
        return [(done.offset, done.data[:cut])]
    return [(done.offset + cut, done.data[cut:])] if cut < len(done.data) else []


def by_garbage(rng: random.Random, done: Operation) -> Pieces:
    """A stretch of its place holds bytes that nobody wrote: zeros, or anything."""
    first = rng.randint(0, len(done.data))
    last = rng.randint(first, len(done.data))
    if last - first < GARBAGE_BYTES_MIN:
        last = first
    rubbish = bytes(last - first) if rng.random() < 0.5 else rng.randbytes(last - first)
    return [(done.offset, done.data[:first] + rubbish + done.data[last:])]


Tear = Callable[[random.Random, Operation], Pieces]


# -- which of them reach the disk -------------------------------------------------------------------------------------


def nothing(_rng: random.Random, count: int) -> list[bool]:
    return [False] * count


def everything(_rng: random.Random, count: int) -> list[bool]:
    return [True] * count


def beginning(rng: random.Random, count: int) -> list[bool]:
    kept = rng.randint(0, count)
    return [at < kept for at in range(count)]


def any_of(rng: random.Random, count: int) -> list[bool]:
    share = rng.choice((0.1, 0.5, 0.9))
    return [rng.random() < share for _ in range(count)]


def all_but_one(rng: random.Random, count: int) -> list[bool]:
    left_out = rng.randrange(count)
    return [at != left_out for at in range(count)]


def one_only(rng: random.Random, count: int) -> list[bool]:
    kept = rng.randrange(count)
    return [at == kept for at in range(count)]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a power cut treats one file: which operations arrive, and which of those are torn, how."""

    name: str
    which: Callable[[random.Random, int], list[bool]]
    tear: Tear | None = None
    all_names: bool | None = None
    """False: no name that is not synced; True: all; None: drawn for each."""

    def leaves(self, rng: random.Random, synced: bytes, since: list[Operation], fates: list[Fate]) -> bytes:
        data = bytearray(synced)
        open_ = [at for at, fate in enumerate(fates) if fate is not Fate.CERTAIN]
        arrive = set(range(len(since))).difference(open_)
        drawn = self.which(rng, len(open_)) if open_ else []
        arrive.update(at for at, does in zip(open_, drawn, strict=True) if does)
        last = max(arrive, default=-1)
        tear_all = rng.random() < 0.5  # or only the last that arrives, as when the head stops in it
        for at, (done, fate) in enumerate(zip(since, fates, strict=True)):
            if at in arrive:
                is_torn = done.kind == "write" and fate is Fate.UNDER_WAY and (tear_all or at == last)
                _apply(data, done, self.tear(rng, done) if is_torn and self.tear is not None else None)
        return bytes(data)


MANNERS: Final = (
    Manner("nothing", nothing, all_names=False),
    Manner("everything", everything, all_names=True),
    Manner("everything, names drawn", everything),
    Manner("beginning", beginning),
    Manner("beginning, sectors", beginning, by_sectors),
    Manner("beginning, bytes", beginning, by_bytes),
    Manner("beginning, garbage", beginning, by_garbage),
    Manner("any of", any_of),
    Manner("any of, sectors", any_of, by_sectors),
    Manner("any of, bytes", any_of, by_bytes),
    Manner("any of, garbage", any_of, by_garbage),
    Manner("everything, sectors", everything, by_sectors, all_names=True),
    Manner("everything, garbage", everything, by_garbage, all_names=True),
    Manner("all but one", all_but_one),
    Manner("one only", one_only),
)
