"""Who a spool is: its id and birth, kept in the database and in a small file beside it (R15).

database   id file    start
missing    missing    a first start: new id
missing    there      alarm `spool.missing`: records may be lost; a new id, never a quiet "empty"
there      missing    the file is written again from the database
there      differs    alarm `spool.replaced`: an older or another database; the database's id goes on
there      equal      nothing to say
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.errors import ForeignSpool, SpoolDamaged
from protocol.ports import Clock, Files, Log, Random

SPOOL_ID_BYTES: Final = 16
ID_FILE_SUFFIX: Final = ".id"


@dataclass(frozen=True, slots=True)
class SpoolIdentity:
    spool_id: bytes
    birth_ms: int

    def to_file(self) -> bytes:
        return json.dumps({"spool_id": self.spool_id.hex(), "birth_ms": self.birth_ms}).encode() + b"\n"


def read_id_file(data: bytes | None) -> SpoolIdentity | None:
    """The identity that the file beside the database states; None if there is no file or it says nothing usable."""
    try:
        facts = json.loads(data or b"null")
        found = SpoolIdentity(bytes.fromhex(facts["spool_id"]), int(facts["birth_ms"]))
    except (ArithmeticError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if len(found.spool_id) == SPOOL_ID_BYTES else None


def establish(
    connection: apsw.Connection,
    path: str,
    *,
    frontend: int,
    site: int,
    clock: Clock,
    random: Random,
    files: Files,
    log: Log,
) -> SpoolIdentity:
    """The identity of an open spool, agreed between database and file; both are durable at return.

    Raises:
        ForeignSpool: the database belongs to another front-end or site.
        SpoolDamaged: the database has tables but no identity.
    """
    beside = files.read(path + ID_FILE_SUFFIX)
    found: Iterable[Any] = connection.execute("SELECT name, value FROM meta")
    meta: dict[str, Any] = dict(found)
    if not meta:
        if beside is not None:
            before = read_id_file(beside)
            log("spool.missing", alarm=True, path=path, lost_spool=before.spool_id.hex() if before else "unreadable")
        ours = SpoolIdentity(random.random_bytes(SPOOL_ID_BYTES), clock.now_ms())
        with connection:
            connection.executemany(
                "INSERT INTO meta (name, value) VALUES (?, ?)",
                [
                    ("spool_id", ours.spool_id),
                    ("birth_ms", ours.birth_ms),
                    ("frontend", frontend),
                    ("site", site),
                    ("known_generation", 0),
                    ("known_position", 0),
                    ("folded_to", 0),
                ],
            )
    else:
        if (meta.get("frontend"), meta.get("site")) != (frontend, site):
            raise ForeignSpool(f"spool of front-end {meta.get('frontend')} at site {meta.get('site')}")
        ours = _identity_of(meta)
        if beside is not None and read_id_file(beside) != ours:
            log("spool.replaced", alarm=True, path=path, spool=ours.spool_id.hex())
    if beside != ours.to_file():
        files.replace(path + ID_FILE_SUFFIX, ours.to_file())
    return ours


def _identity_of(meta: dict[str, object]) -> SpoolIdentity:
    spool_id, birth_ms = meta.get("spool_id"), meta.get("birth_ms")
    if not isinstance(spool_id, bytes) or len(spool_id) != SPOOL_ID_BYTES or not isinstance(birth_ms, int):
        raise SpoolDamaged("the spool's own id is missing from its meta table")
    return SpoolIdentity(spool_id, birth_ms)
