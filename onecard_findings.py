"""What a check of `onecard doctor` says: a finding, how bad it is, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"
    DAMAGED = "damaged"


@dataclass(slots=True)
class Finding:
    """One thing that was looked at; `mend` is empty when it is as it must be."""

    check: str
    level: Level
    says: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        return {"check": self.check, "level": self.level.value, "says": self.says, "mend": self.mend}


Findings = Iterator[Finding]
