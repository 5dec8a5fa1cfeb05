"""Loads the vectors that the second implementation made from docs/protocol.md alone (tests/vectors/*.json)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Vector:
    """One case; `str()` of it is its name, so it names the test that uses it."""

    name: str
    given: dict[str, Any]
    data: bytes
    expected: dict[str, Any]
    error: str | None

    def __str__(self) -> str:
        return self.name

    def bytes_of(self, name: str) -> bytes:
        """A hex value among `given`, else among `expected`."""
        return bytes.fromhex(self.given.get(name) or self.expected[name])


def vectors(stem: str) -> list[Vector]:
    """Every case of one file, in order."""
    content = json.loads((DIRECTORY / f"{stem}.json").read_text(encoding="utf-8"))
    return [
        Vector(
            case["name"],
            case["given"],
            bytes.fromhex(case["bytes"]),
            case.get("expected", {}),
            case.get("error"),
        )
        for case in content["cases"]
    ]


def good(stem: str, beginning: str = "") -> list[Vector]:
    """The cases that decode, and whose name begins so."""
    return [v for v in vectors(stem) if v.error is None and v.name.startswith(beginning)]


def refused(stem: str) -> list[Vector]:
    """The cases that must be refused."""
    return [v for v in vectors(stem) if v.error is not None]
