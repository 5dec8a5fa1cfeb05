"""The catalogue of signed list versions (R27, R28): issued in the transaction of what changes them, only rising.

Version = (generation of the ledger, counter that never falls). The content of the newest version is kept, of older
ones the deltas, so that a front-end some versions behind gets one composed delta and any other a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.ledger.errors import LedgerDamaged, VerbRefused
from ledger_sync.ledger.keys import LedgerKeys
from protocol.codes import ListForm, ListKind
from protocol.deny_list import DenyList, apply_delta, make_delta
from protocol.limits import LINK_MESSAGE_BYTES_MAX
from protocol.link_messages import ListMessage
from protocol.signed import NO_VERSION, Version, sign_head

LIST_HEAD_BYTES: Final = 272  # envelope and fixed part of LIST (docs/protocol.md §11.2)
DENY_ENTRIES_MAX: Final = (LINK_MESSAGE_BYTES_MAX - LIST_HEAD_BYTES - 8) // 4
"""A snapshot must fit one link message: 524,218 entries, below LIST_ENTRIES_MAX."""
DELTAS_COMPOSED_MAX: Final = 64  # versions that a front-end may be behind and still get a delta


@dataclass(slots=True)
class CurrentList:
    """The newest version of one kind."""

    version: Version
    head: bytes
    certificate: bytes
    content: bytes
    base: Version
    delta: bytes

    def snapshot(self) -> ListMessage:
        return ListMessage(ListForm.SNAPSHOT, 0, 0, self.head, self.certificate, self.content)

    def step(self) -> ListMessage:
        """From the version before; a snapshot where there is none or where it would be shorter."""
        if self.base == NO_VERSION or len(self.delta) >= len(self.content):
            return self.snapshot()
        return ListMessage(ListForm.DELTA, *self.base, self.head, self.certificate, self.delta)


def current(connection: apsw.Connection, keys: LedgerKeys, kind: int = ListKind.DENY) -> CurrentList | None:
    """Head, certificate, content and delta of the newest version, None if none was ever issued."""
    row = connection.execute(
        "SELECT generation, counter, head, content, base_generation, base_counter, delta FROM list_versions"
        " WHERE kind = ? ORDER BY version DESC LIMIT 1",
        (int(kind),),
    ).fetchone()
    if row is None:
        return None
    generation, counter, head, content, base_generation, base_counter, delta = row
    if content is None:
        raise LedgerDamaged(f"list {int(kind)}: its newest version has no content")
    base = (base_generation, base_counter)
    return CurrentList((generation, counter), head, keys.certificate_bytes, content, base, delta)


def since(connection: apsw.Connection, keys: LedgerKeys, kind: int, held: Version) -> ListMessage | None:
    """What brings a front-end from `held` to the newest version; None: it is there, or there is no such list."""
    newest = current(connection, keys, kind)
    if newest is None or newest.version == held:
        return None
    steps: list[tuple[Any, ...]] = connection.execute(
        "SELECT delta FROM list_versions WHERE kind = ? AND (generation, counter) > (?, ?)"
        " AND EXISTS (SELECT 1 FROM list_versions h WHERE h.kind = ? AND (h.generation, h.counter) = (?, ?))"
        " ORDER BY version DESC LIMIT ?",
        (int(kind), *held, int(kind), *held, DELTAS_COMPOSED_MAX + 1),
    ).fetchall()
    if not 0 < len(steps) <= DELTAS_COMPOSED_MAX:
        return newest.snapshot()
    old = now = DenyList.from_content(newest.content)
    for step in steps:
        old = apply_delta(old, _reversed(step[0]))
    delta = make_delta(old, now)
    if len(delta) >= len(newest.content):
        return newest.snapshot()
    return ListMessage(ListForm.DELTA, *held, newest.head, newest.certificate, delta)


def issue(
    connection: apsw.Connection,
    keys: LedgerKeys,
    *,
    generation: int,
    now_ms: int,
    added: Iterable[int] = (),
    removed: Iterable[int] = (),
    lots_added: Iterable[int] = (),
    lots_removed: Iterable[int] = (),
    is_new_start: bool = False,
) -> Version:
    """Sign the next version of the deny list within the caller's transaction; `is_new_start`: as a full snapshot.

    Raises:
        VerbRefused: the list would not fit a link message any more.
    """
    newest = current(connection, keys, ListKind.DENY)
    old = DenyList() if newest is None else DenyList.from_content(newest.content)
    new = old.with_changes(added, removed, lots_added=lots_added, lots_removed=lots_removed)
    if len(new) > DENY_ENTRIES_MAX:
        raise VerbRefused(f"the deny list would have {len(new)} entries, at most {DENY_ENTRIES_MAX} can be sent")
    counter = 1 if newest is None else newest.version[1] + 1
    base = NO_VERSION if newest is None or is_new_start else newest.version
    content = new.content()
    head = sign_head(
        keys.signer,
        key_id=keys.certificate.key_id,
        site=keys.site,
        list_kind=ListKind.DENY,
        generation=generation,
        counter=counter,
        issued_ms=now_ms,
        content=content,
    )
    kind = int(ListKind.DENY)
    connection.execute("UPDATE list_versions SET content = NULL WHERE kind = ?", (kind,))
    connection.execute(
        "INSERT INTO list_versions VALUES"
        " ((SELECT coalesce(max(version), 0) + 1 FROM list_versions), ?, ?, ?, ?, ?, ?, ?, ?)",
        (kind, generation, counter, head.encode(), *base, make_delta(old, new), content),
    )
    return generation, counter


def _reversed(delta: bytes) -> bytes:
    """The delta that undoes one: added and removed change places."""
    counts = [int.from_bytes(delta[at : at + 4], "big") for at in range(0, 16, 4)]
    parts, offset = [], 16
    for count in counts:
        parts.append(delta[offset : offset + 4 * count])
        offset += 4 * count
    swapped = (1, 0, 3, 2)
    numbers = b"".join(counts[each].to_bytes(4, "big") for each in swapped)
    return numbers + b"".join(parts[each] for each in swapped)
