"""Building stones of the descriptions: integers, hex fields, reserved bytes, flags (conventions of the page's head).

Byte fields are hex strings on the Python side, so that a parsed value is already what stands in the JSON vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from construct import (
    Adapter,
    Bytes,
    Check,
    Const,
    ConstructError,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32sb,
    Int32ub,
    Int64sb,
    Int64ub,
    Rebuild,
    len_,
    this,
)

if TYPE_CHECKING:
    from construct import Construct

    type_of_description = Construct[Any, Any]

Fields = dict[str, Any]

u8: Final[Any] = Int8ub
u16: Final[Any] = Int16ub
u32: Final[Any] = Int32ub
u64: Final[Any] = Int64ub
i32: Final[Any] = Int32sb
i64: Final[Any] = Int64sb


class OracleError(Exception):
    """The bytes or values break a rule of the page; `code` is the page's word for it."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class _Hex(Adapter):  # type: ignore[type-arg]  # generic only in the stubs
    """Bytes on the wire, lower-case hex text in Python."""

    def _decode(self, obj: Any, context: Any, path: Any) -> str:
        return bytes(obj).hex()

    def _encode(self, obj: Any, context: Any, path: Any) -> bytes:
        return bytes.fromhex(obj)


class _Flags(Adapter):  # type: ignore[type-arg]  # generic only in the stubs
    """A flag byte whose other bits are reserved."""

    def __init__(self, defined: int) -> None:
        super().__init__(Int8ub)
        self._defined = defined

    def _refuse_reserved(self, value: int) -> int:
        if value & ~self._defined:
            raise OracleError("malformed", f"reserved flag bits in {value:#04x}")
        return value

    def _decode(self, obj: Any, context: Any, path: Any) -> int:
        return self._refuse_reserved(obj)

    def _encode(self, obj: Any, context: Any, path: Any) -> int:
        return self._refuse_reserved(obj)


def hexed(size: int) -> Any:
    return _Hex(Bytes(size))


def hexed_by(size: Callable[[Any], int]) -> Any:
    """Hex of a size that other fields state."""
    return _Hex(Bytes(size))


hexed_rest: Final[Any] = _Hex(GreedyBytes)


def flags(*bits: int) -> Any:
    return _Flags(sum(1 << bit for bit in bits))


def reserved(size: int) -> Any:
    """Sent as zero and refused when not zero; it has no name, so it appears in no mapping."""
    return Const(bytes(size))


def count_of(name: str, kind: Any = Int8ub) -> Any:
    """The number of elements of a later array."""
    return Rebuild(kind, len_(this[name]))


def rule(holds: Callable[[Any], bool]) -> Any:
    """A condition between fields, checked when building and when parsing."""
    return Check(holds)


def plain(value: Any) -> Any:
    """Containers of construct as dicts and lists, without its private entries."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if not str(key).startswith("_")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def build(description: type_of_description, given: Mapping[str, Any]) -> bytes:
    try:
        return bytes(description.build(dict(given)))
    except (ConstructError, KeyError, ValueError, TypeError) as error:
        raise OracleError("malformed", str(error)) from error


def parse(description: type_of_description, data: bytes) -> Fields:
    """The fields of exactly `data`: a byte too many is as malformed as one too few."""
    try:
        value = plain(description.parse(data))
    except ConstructError as error:
        raise OracleError("malformed", str(error)) from error
    result: Fields = value
    if build(description, result) != data:
        raise OracleError("malformed", "left-over bytes")
    return result
