"""Strict reading of canonical JSON, field by field: what parameters and permissions are made of (R27). Pure.

UTF-8, keys sorted, no blanks, no repeated keys, whole numbers only, no null. What is read is written again and
compared, so that nothing has to be believed about the spelling. Every complaint names what is wrong and where:
`permissions: doors[3].unlock_ms is 0; 100 to 600000`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NoReturn, TypeVar

from protocol.documents import spelt
from protocol.errors import Malformed, TooLong

E = TypeVar("E", bound=Enum)
T = TypeVar("T")

SHOWN_CHARACTERS_MAX: Final = 40  # of a stranger's text in an error


dump = spelt


def load(what: str, content: bytes, *, bytes_max: int) -> Object:
    """The object that `content` is, for strict reading. Raises TooLong, Malformed."""
    if len(content) > bytes_max:
        raise TooLong(what, got_bytes=len(content), max_bytes=bytes_max)
    try:
        value = json.loads(content.decode("utf-8"), parse_float=_no_number, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Malformed(what, "not UTF-8", offset=error.start) from None
    except json.JSONDecodeError as error:
        raise Malformed(what, f"not JSON: {error.msg}", offset=len(error.doc[: error.pos].encode())) from None
    except (ValueError, RecursionError):
        raise Malformed(what, "numbers are whole and short, and nothing is nested deeply") from None
    try:
        spelt = dump(value)
    except (ValueError, RecursionError):  # half of a surrogate pair, or a number of thousands of digits
        raise Malformed(what, "holds text or a number that has no canonical spelling") from None
    if spelt != content:
        offset = next((at for at, (a, b) in enumerate(zip(spelt, content, strict=False)) if a != b), len(spelt))
        raise Malformed(what, "not canonical: keys sorted and once each, no blanks, plain text", offset=offset)
    return Object(what, "", value)


def _no_number(text: str) -> NoReturn:
    raise ValueError(text[:SHOWN_CHARACTERS_MAX])


class Object:
    """One JSON object, read field by field; `done` complains of what nobody asked for."""

    __slots__ = ("_fields", "_left", "_path", "_what")

    def __init__(self, what: str, path: str, value: object) -> None:
        self._what = what
        self._path = path
        if not isinstance(value, dict):
            raise Malformed(what, f"{path or 'the whole'} is no object")
        self._fields: dict[str, Any] = value
        self._left = set(value)

    def done(self) -> None:
        """Raises Malformed for a field that was not read."""
        if self._left:
            self.wrong(f"has an unknown field {min(self._left)[:SHOWN_CHARACTERS_MAX]!r}")

    def wrong(self, why: str) -> NoReturn:
        """Complain of this object as a whole."""
        raise Malformed(self._what, f"{self._path or 'the document'} {why}")

    def integer(self, name: str, least: int, most: int) -> int:
        return whole(self._what, self._at(name), self._take(name), least, most)

    def text(self, name: str, *, characters_max: int) -> str:
        value = self._take(name)
        if not isinstance(value, str) or len(value) > characters_max or not value.isprintable():
            raise Malformed(self._what, f"{self._at(name)} is no plain text of at most {characters_max} characters")
        return value

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            raise Malformed(self._what, f"{self._at(name)} is neither true nor false")
        return value

    def choice(self, name: str, kind: type[E]) -> E:
        value = self._take(name)
        for each in kind:
            if type(value) is str and each.value == value:
                return each
        raise Malformed(self._what, f"{self._at(name)} is none of {', '.join(str(each.value) for each in kind)}")

    def items(self, name: str, read: Callable[[str, str, object], T], *, least: int = 0, most: int) -> tuple[T, ...]:
        """A list, each item read by `read(what, path, value)`."""
        value = self._take(name)
        at = self._at(name)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise Malformed(self._what, f"{at} is no list of {least} to {most} items")
        return tuple(read(self._what, f"{at}[{index}]", each) for index, each in enumerate(value))

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _take(self, name: str) -> object:
        if name not in self._fields:
            self.wrong(f"has no field {name!r}")
        self._left.discard(name)
        return self._fields[name]


def whole(what: str, path: str, value: object, least: int, most: int) -> int:
    """A whole number within its bounds; true and false are none."""
    if type(value) is not int or not least <= value <= most:
        shown = str(value)[:SHOWN_CHARACTERS_MAX] if type(value) is int else "no whole number"
        raise Malformed(what, f"{path} is {shown}; {least} to {most}")
    return value


def numbers(what: str, path: str, value: object, *bounds: tuple[int, int]) -> tuple[int, ...]:
    """A list of exactly as many whole numbers as there are bounds."""
    if not isinstance(value, list) or len(value) != len(bounds):
        raise Malformed(what, f"{path} is no list of {len(bounds)} numbers")
    return tuple(whole(what, f"{path}[{index}]", each, *bounds[index]) for index, each in enumerate(value))


def ascending(what: str, path: str, values: Sequence[Any]) -> None:
    """Raises Malformed unless every item is above the one before: sorted, none twice."""
    for index in range(1, len(values)):
        if not values[index - 1] < values[index]:
            raise Malformed(what, f"{path}[{index}] is not above the one before")
