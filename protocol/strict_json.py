"""Canonical JSON and its strict reader: one text for one content, so that a digest over it means something. Pure.

    UTF-8, keys sorted, no blanks, integers only, no key twice; non-ASCII text unescaped

`Members` takes one object apart, value by value within bounds; `end` refuses by name what nobody asked for. A spelling
mistake in a limit is then an error, not a limit that never holds.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from protocol.errors import Malformed
from protocol.record_body import Buffer

DEPTH_MAX: Final = 16
"""Deeper than any content of ours; the reader below must not be the one to find out."""


def encode_canonical(value: Any) -> bytes:
    """The one encoding of a value made of dicts, lists, text, integers and booleans."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def decode_canonical(data: Buffer, *, what: str, bytes_max: int) -> Any:
    """The value whose one encoding `data` is. Raises Malformed, `what` being its subject."""
    if len(data) > bytes_max:
        raise Malformed(what, f"{len(data)} bytes; {bytes_max} is the most")
    data = bytes(data)
    if max(data.count(b"["), data.count(b"{")) > DEPTH_MAX and _depth(data) > DEPTH_MAX:
        raise Malformed(what, f"nested deeper than {DEPTH_MAX}")

    def no_number(text: str) -> NoReturn:
        raise Malformed(what, f"{text[:20]} is no integer")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Malformed(what, "a key occurs twice")
        return found

    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_float=no_number, parse_constant=no_number, object_pairs_hook=once)
        is_canonical = encode_canonical(value) == data
    except ValueError as error:  # not UTF-8, not JSON, a number of thousands of digits, half a surrogate
        raise Malformed(what, f"no JSON: {type(error).__name__}") from None
    if not is_canonical:
        raise Malformed(what, "not in canonical form: keys sorted, no blanks")
    return value


def _depth(data: bytes) -> int:
    """An upper bound: brackets inside texts count too."""
    depth = deepest = 0
    for byte in data:
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    return deepest


class Members:
    """One JSON object, taken apart by name. Raises Malformed for what is missing, out of bounds or of another type."""

    __slots__ = ("_rest", "_where")

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise Malformed(where, "no object")
        self._rest = dict(value)
        self._where = where

    def integer(self, name: str, low: int, high: int) -> int:
        """`low` ≤ value ≤ `high`."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Malformed(f"{self._where}.{name}", f"no integer from {low} to {high}")
        return value

    def text(self, name: str, chars_max: int) -> str:
        """1 to `chars_max` printable characters."""
        value = self.take(name)
        if not isinstance(value, str) or not 1 <= len(value) <= chars_max or not value.isprintable():
            raise Malformed(f"{self._where}.{name}", f"no text of 1 to {chars_max} printable characters")
        return value

    def array(self, name: str, items_max: int) -> list[Any]:
        """Up to `items_max` values of any type."""
        value = self.take(name)
        if not isinstance(value, list) or len(value) > items_max:
            raise Malformed(f"{self._where}.{name}", f"no list of up to {items_max}")
        return value

    def end(self) -> None:
        """Raises Malformed for a member that nobody took."""
        if self._rest:
            raise Malformed(self._where, f"unknown: {min(self._rest)[:40]!r}")

    def take(self, name: str) -> Any:
        """A member of any type."""
        if name not in self._rest:
            raise Malformed(self._where, f"{name} is missing")
        return self._rest.pop(name)
