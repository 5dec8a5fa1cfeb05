"""The registry of enrolled terminals (R40): written by `onecard keys enrol`, read by front-end and ledger. Pure.

JSON, one object a line, so that a change of one terminal is a change of one line. First the head, then a terminal per
line; it holds no secrets:

    {"registry": "onecard", "schema": 1, "site": 42, "terminals": 1}
    {"terminal": 66051, "class": "terminal", "kind": "pos", "epoch": 2, "suite": "A", "key_version": 1,
     "enrolment_id": "0011223344556677", "merchant": 9001, "name": "canteen 2, till 4",
     "closed": [{"epoch": 1, "enrolment_id": "8899aabbccddeeff"}]}

(one line; folded here). `suite` is that of the link. A terminal, and each closed epoch, whose records are sealed with
SM4 has `"proof_suite": "sm4_cmac"` besides; where the field is missing it is `aes_cmac`. Both are fixed for an epoch.
A closed epoch keeps its enrolment id, without which the first seal of its chain could not be checked when its records
are read out late (R11). Kinds later than this program are written as numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from protocol.codes import TERMINAL_KIND_MAX, ProofSuite, Suite, TerminalClass, TerminalKind
from protocol.errors import DamagedData, Malformed, OutOfRange, TooLong

T = TypeVar("T")

SCHEMA: Final = 1
REGISTRY_BYTES_MAX: Final = 64 << 20
TERMINALS_MAX: Final = 100_000  # ten times the largest site; bounds what a wrong file can cost
CLOSED_EPOCHS_MAX: Final = 1024
NAME_CHARACTERS_MAX: Final = 128
ENROLMENT_ID_BYTES: Final = 8

U16_MAX: Final = 0xFFFF
U32_MAX: Final = 0xFFFF_FFFF
KEY_VERSION_MAX: Final = 255

_HEAD_FIELDS: Final = frozenset({"registry", "schema", "site", "terminals"})
_FIELDS: Final = (
    "terminal",
    "class",
    "kind",
    "epoch",
    "suite",
    "key_version",
    "enrolment_id",
    "merchant",
    "name",
    "closed",
)
_FIELD_SET: Final = frozenset(_FIELDS)
_PROOF_SUITE: Final = "proof_suite"  # written where it is not the default
_CLOSED_FIELDS: Final = frozenset({"epoch", "enrolment_id"})

_CLASSES: Final[Mapping[str, TerminalClass]] = {one.name.lower(): one for one in TerminalClass}
_KINDS: Final[Mapping[str, int]] = {one.name.lower(): one.value for one in TerminalKind}
_SUITES: Final[Mapping[str, Suite]] = {"A": Suite.A, "B": Suite.B}  # the others are reserved in version 1
_PROOF_SUITES: Final[Mapping[str, ProofSuite]] = {one.name.lower(): one for one in ProofSuite}
_KIND_NAMES: Final = {value: name for name, value in _KINDS.items()}


@dataclass(slots=True)
class ClosedEpoch:
    """An epoch that a re-enrolment ended (R11)."""

    epoch: int
    enrolment_id: bytes
    proof_suite: ProofSuite = ProofSuite.AES_CMAC


@dataclass(slots=True)
class EnrolledTerminal:
    """One terminal as enrolled; `merchant` 0: it takes no money."""

    terminal: int
    terminal_class: TerminalClass
    kind: int
    epoch: int
    suite: Suite
    key_version: int
    enrolment_id: bytes
    merchant: int = 0
    name: str = ""
    closed: tuple[ClosedEpoch, ...] = ()
    proof_suite: ProofSuite = ProofSuite.AES_CMAC

    def enrolment_id_of(self, epoch: int) -> bytes | None:
        """The enrolment id of the current or of a closed epoch; None for an epoch never enrolled."""
        if epoch == self.epoch:
            return self.enrolment_id
        return next((one.enrolment_id for one in self.closed if one.epoch == epoch), None)

    def re_enrolled(
        self,
        enrolment_id: bytes,
        *,
        key_version: int | None = None,
        suite: Suite | None = None,
        proof_suite: ProofSuite | None = None,
    ) -> EnrolledTerminal:
        """This terminal after its replacement or loss of memory: the next epoch, the present one closed (R1).

        Only here can its suites change; what is not given stays as it was.
        """
        return EnrolledTerminal(
            terminal=self.terminal,
            terminal_class=self.terminal_class,
            kind=self.kind,
            epoch=self.epoch + 1,
            suite=self.suite if suite is None else suite,
            key_version=self.key_version if key_version is None else key_version,
            enrolment_id=enrolment_id,
            merchant=self.merchant,
            name=self.name,
            closed=(*self.closed, ClosedEpoch(self.epoch, self.enrolment_id, self.proof_suite)),
            proof_suite=self.proof_suite if proof_suite is None else proof_suite,
        )


@dataclass(slots=True)
class Registry:
    """All enrolled terminals of a site."""

    site: int
    terminals: dict[int, EnrolledTerminal] = field(default_factory=dict)

    def get(self, terminal: int) -> EnrolledTerminal | None:
        return self.terminals.get(terminal)

    def enrolment_id(self, terminal: int, epoch: int) -> bytes | None:
        """The enrolment id that began this epoch's chain; None if it was never enrolled."""
        entry = self.terminals.get(terminal)
        return None if entry is None else entry.enrolment_id_of(epoch)

    def put(self, entry: EnrolledTerminal) -> None:
        """Add a terminal, or replace it by a later state of itself.

        Raises:
            OutOfRange: a field does not fit, the epoch would fall (only enrolment moves it, and only up, R1), or a
                suite would change within the epoch.
        """
        held = self.terminals.get(entry.terminal)
        if held is not None and entry.epoch < held.epoch:
            raise OutOfRange(f"terminal {entry.terminal}: epoch {entry.epoch} after {held.epoch}")
        if held is not None and entry.epoch == held.epoch and _suites(entry) != _suites(held):
            raise OutOfRange(f"terminal {entry.terminal}: its suites are fixed in epoch {held.epoch}; re-enrol it")
        try:
            _entry(_row(entry), "entry")  # what could not be read back is refused before it is written
        except Malformed as error:
            raise OutOfRange(str(error)) from None
        self.terminals[entry.terminal] = entry

    def __len__(self) -> int:
        return len(self.terminals)

    def __iter__(self) -> Iterator[EnrolledTerminal]:
        """In order of their numbers."""
        return (self.terminals[number] for number in sorted(self.terminals))

    def dump(self) -> bytes:
        """The file: terminals in order of their numbers, so that the same registry always gives the same bytes."""
        head = {"registry": "onecard", "schema": SCHEMA, "site": self.site, "terminals": len(self.terminals)}
        lines = [json.dumps(head), *(json.dumps(_row(entry), ensure_ascii=False) for entry in self)]
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> Registry:
        """Read a file.

        Raises:
            TooLong: more bytes or terminals than a site can have.
            Malformed: names the line and the field.
            DamagedData: not text, or fewer or more lines than its head counts.
        """
        if len(data) > REGISTRY_BYTES_MAX:
            raise TooLong("registry", got_bytes=len(data), max_bytes=REGISTRY_BYTES_MAX)
        try:
            lines = data.decode().splitlines()
        except UnicodeDecodeError as error:
            raise DamagedData(f"registry: not UTF-8 at byte {error.start}") from None
        site, count = _head(lines)
        if len(lines) - 1 != count:
            raise DamagedData(f"registry: {len(lines) - 1} terminals, its head counts {count}")
        registry = cls(site)
        terminals = registry.terminals
        for number, line in enumerate(lines[1:], 2):
            where = f"registry line {number}"
            entry = _entry(_json_object(line, where), where)
            if entry.terminal in terminals:
                raise Malformed(where, f"terminal {entry.terminal} is there twice")
            terminals[entry.terminal] = entry
        return registry


def _head(lines: list[str]) -> tuple[int, int]:
    """(site, count of terminals)."""
    where = "registry line 1"
    if not lines:
        raise DamagedData("registry: the file is empty")
    head = _json_object(lines[0], where)
    if head.get("registry") != "onecard" or head.keys() != _HEAD_FIELDS:
        raise Malformed(where, "is not the head of a registry")
    if head["schema"] != SCHEMA:
        raise Malformed(where, f"schema {head['schema']!r}; this program knows {SCHEMA}")
    return _number(head, "site", 1, U32_MAX, where), _number(head, "terminals", 0, TERMINALS_MAX, where)


def _entry(row: dict[str, Any], where: str) -> EnrolledTerminal:
    if row.keys() - {_PROOF_SUITE} != _FIELD_SET:
        missing, unknown = _FIELD_SET - row.keys(), row.keys() - _FIELD_SET - {_PROOF_SUITE}
        _fail(where, *(("is missing", missing) if missing else ("is not known", unknown)))
    name = row["name"]
    if not isinstance(name, str) or len(name) > NAME_CHARACTERS_MAX or not (name.isprintable() or not name):
        _fail(where, f"must be printable text of at most {NAME_CHARACTERS_MAX} characters", {"name"})
    epoch = _number(row, "epoch", 1, U16_MAX, where)
    return EnrolledTerminal(
        terminal=_number(row, "terminal", 1, U32_MAX, where),
        terminal_class=_choice(row, "class", _CLASSES, where),
        kind=_kind(row, where),
        epoch=epoch,
        suite=_choice(row, "suite", _SUITES, where),
        key_version=_number(row, "key_version", 1, KEY_VERSION_MAX, where),
        enrolment_id=_enrolment_id(row, where),
        merchant=_number(row, "merchant", 0, U32_MAX, where),
        name=name,
        closed=_closed(row["closed"], epoch, where) if row["closed"] != [] else (),
        proof_suite=_proof_suite(row, where),
    )


def _closed(listed: object, epoch: int, where: str) -> tuple[ClosedEpoch, ...]:
    """Closed epochs, ascending, all below the present one."""
    if not isinstance(listed, list) or len(listed) > CLOSED_EPOCHS_MAX:
        _fail(where, f"must be a list of at most {CLOSED_EPOCHS_MAX}", {"closed"})
    found: list[ClosedEpoch] = []
    for one in listed:
        if not isinstance(one, dict) or one.keys() - {_PROOF_SUITE} != _CLOSED_FIELDS:
            _fail(where, "must hold objects of epoch and enrolment_id", {"closed"})
        lowest = found[-1].epoch + 1 if found else 1
        number = _number(one, "epoch", lowest, epoch - 1, f"{where}, closed")
        enrolment_id = _enrolment_id(one, f"{where}, closed")
        found.append(ClosedEpoch(number, enrolment_id, _proof_suite(one, f"{where}, closed")))
    return tuple(found)


def _row(entry: EnrolledTerminal) -> dict[str, Any]:
    return {
        "terminal": entry.terminal,
        "class": entry.terminal_class.name.lower(),
        "kind": _KIND_NAMES.get(entry.kind, int(entry.kind)),
        "epoch": entry.epoch,
        "suite": entry.suite.name,
        "key_version": entry.key_version,
        "enrolment_id": entry.enrolment_id.hex(),
        "merchant": entry.merchant,
        "name": entry.name,
        "closed": [
            {"epoch": one.epoch, "enrolment_id": one.enrolment_id.hex(), **_proof_suite_field(one.proof_suite)}
            for one in entry.closed
        ],
        **_proof_suite_field(entry.proof_suite),
    }


def _proof_suite_field(proof_suite: ProofSuite) -> dict[str, str]:
    return {} if proof_suite == ProofSuite.AES_CMAC else {_PROOF_SUITE: proof_suite.name.lower()}


def _proof_suite(row: Mapping[str, Any], where: str) -> ProofSuite:
    return _choice(row, _PROOF_SUITE, _PROOF_SUITES, where) if _PROOF_SUITE in row else ProofSuite.AES_CMAC


def _suites(entry: EnrolledTerminal) -> tuple[Suite, ProofSuite]:
    return entry.suite, entry.proof_suite


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed(where, "is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed(where, "is not a JSON object")
    return value


def _number(row: Mapping[str, Any], name: str, low: int, high: int, where: str) -> int:
    value = row[name]
    if type(value) is not int or not low <= value <= high:  # a bool is an int to isinstance
        _fail(where, f"must be a number from {low} to {high}", {name})
    return int(value)


def _choice(row: Mapping[str, Any], name: str, choices: Mapping[str, T], where: str) -> T:
    value = row[name]
    if not isinstance(value, str) or value not in choices:
        _fail(where, f"must be one of {', '.join(choices)}", {name})
    return choices[value]


def _kind(row: Mapping[str, Any], where: str) -> int:
    value = row["kind"]
    if isinstance(value, str) and value in _KINDS:
        return _KINDS[value]
    if type(value) is not int or not 1 <= value <= TERMINAL_KIND_MAX:
        _fail(where, f"must be one of {', '.join(_KINDS)}, or a number up to {TERMINAL_KIND_MAX}", {"kind"})
    return int(value)


def _enrolment_id(row: Mapping[str, Any], where: str) -> bytes:
    value = row["enrolment_id"]
    found = b""
    if isinstance(value, str) and len(value) == 2 * ENROLMENT_ID_BYTES:
        with suppress(ValueError):
            found = bytes.fromhex(value)
    if len(found) != ENROLMENT_ID_BYTES:  # also where blanks stood between the digits
        _fail(where, f"must be {2 * ENROLMENT_ID_BYTES} hex digits", {"enrolment_id"})
    return found


def _fail(where: str, why: str, names: frozenset[str] | set[str]) -> NoReturn:
    raise Malformed(where, f"field {', '.join(sorted(names))} {why}")
