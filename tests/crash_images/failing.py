"""Operations that fail, once or from some moment on, and what a spool and a ledger must do then."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import apsw

KINDS: Final = (
    "open", "create", "access", "size", "read", "write", "truncate", "sync", "rename", "delete", "lock",
)  # fmt: skip
ERRORS: Final[dict[str, type[apsw.Error]]] = {"open": apsw.CantOpenError, "create": apsw.CantOpenError}


@dataclass(slots=True)
class Fault:
    """A `Hook` that fails the k-th operation of a kind, or all of that kind from it on; counts every kind."""

    kind: str = ""
    at: int = 0
    is_persistent: bool = False
    seen: Counter[str] = field(default_factory=Counter)
    fired: int = 0

    def __call__(self, kind: str, name: str) -> None:
        self.seen[kind] += 1
        if kind != self.kind:
            return
        count = self.seen[kind]
        if count == self.at or (self.is_persistent and count > self.at):
            self.fired += 1
            raise ERRORS.get(kind, apsw.IOError)(f"planted: {kind} of {name}")
