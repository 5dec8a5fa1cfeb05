"""Canonical JSON: the content of the lists that people write, parameters and permissions (docs/protocol.md §10). Pure.

One document has one form, so that two who publish the same get the same digest: UTF-8, keys sorted, no blanks, one
object at the top, and integers only, since what counts money has no fractions. What the keys mean is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from protocol.errors import Malformed, OutOfRange
from protocol.limits import DOCUMENT_BYTES_MAX

_WHAT: Final = "document"
INTEGER_MAX: Final = (1 << 63) - 1
"""Beyond it readers of other languages differ."""


def canonical(document: Mapping[str, object]) -> bytes:
    """The one form of a document.

    Raises:
        OutOfRange: what canonical JSON cannot say (a fraction, a key that is no text), or more than DOCUMENT_BYTES_MAX.
    """
    _check_value(document)
    try:
        content = spelt(document)
    except ValueError:  # half a surrogate pair
        raise OutOfRange("document: text that UTF-8 cannot hold") from None
    if len(content) > DOCUMENT_BYTES_MAX:
        raise OutOfRange(f"document: {len(content)} bytes, at most {DOCUMENT_BYTES_MAX}")
    return content


def read_canonical(content: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The document of a content.

    Raises:
        Malformed: too long, no JSON object, or not in its one form.
    """
    if len(content) > DOCUMENT_BYTES_MAX:
        raise Malformed(_WHAT, f"{len(content)} bytes, at most {DOCUMENT_BYTES_MAX}")
    document = read_any(bytes(content))
    try:
        is_canonical = spelt(document) == bytes(content)
    except (ValueError, RecursionError):
        is_canonical = False
    if not is_canonical:
        raise Malformed(_WHAT, "not in canonical form")
    return document


def read_any(text: bytes) -> dict[str, Any]:
    """A document as a person wrote it: blanks and any order of keys, but nothing that canonical JSON cannot say.

    Raises:
        Malformed: no JSON object, a key twice, a fraction, or an integer beyond 64 bits.
    """
    try:
        document = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_no_fraction,
            parse_constant=_no_fraction,
            parse_int=_integer,
        )
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed(_WHAT, "no JSON") from None
    if not isinstance(document, dict):
        raise Malformed(_WHAT, "no JSON object")
    return document


def spelt(document: object) -> bytes:
    """Its one spelling, unchecked. Raises ValueError for text that UTF-8 cannot hold."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def _check_value(value: object) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise OutOfRange("document: a key that is no text")
            _check_value(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_value(inner)
    elif not (value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) <= INTEGER_MAX)):
        raise OutOfRange(f"document: {type(value).__name__} cannot stand in it, or a number is too large")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed(_WHAT, "a key stands twice in one object")
    return made


def _no_fraction(text: str) -> NoReturn:
    raise Malformed(_WHAT, "a number with a fraction or an exponent")


def _integer(text: str) -> int:
    if len(text) > len(str(-INTEGER_MAX)) or abs(int(text)) > INTEGER_MAX:
        raise Malformed(_WHAT, "an integer beyond 64 bits")
    return int(text)
