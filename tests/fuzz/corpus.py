"""True bytes to start from: whatever the second implementation wrote into the vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

VECTORS: Final = Path(__file__).parents[1] / "vectors"
PIECE_BYTES_MIN: Final = 2
PIECE_BYTES_MAX: Final = 2_048  # longer ones slow every round and reach nothing that a shorter one does not


@cache
def pieces(*stems: str) -> tuple[bytes, ...]:
    """Every different hex string of these vector files, decoded, in the order of the files."""
    found: dict[bytes, None] = {}
    for stem in stems:
        for text in _texts(json.loads((VECTORS / f"{stem}.json").read_text(encoding="utf-8"))["cases"]):
            try:
                piece = bytes.fromhex(text)
            except ValueError:
                continue
            if PIECE_BYTES_MIN <= len(piece) <= PIECE_BYTES_MAX:
                found[piece] = None
    return tuple(found)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
